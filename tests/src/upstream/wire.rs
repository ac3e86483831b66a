//! A node's side of the protocol by hand: what a test says, and nothing of its own accord.

use std::{future::poll_fn, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http_body_util::StreamBody;
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Request, Status, Streaming,
    body::Body,
    client::GrpcService as _,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tracer::uplink::{
    FromGateway, FromNode, Hello, Records, VERSION, Welcome, from_gateway::Kind as Heard,
    from_node::Kind as Said, refused::Why, uplink_client::UplinkClient,
};

use crate::wait::DEADLINE;

/// An open call.
#[derive(Debug)]
pub struct Wire {
    to: mpsc::Sender<FromNode>,
    from: Streaming<FromGateway>,
}

/// Connects in plain text.
pub async fn plain(address: std::net::SocketAddr) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    endpoint.connect().await.context("connect")
}

/// Connects by TLS with the authority in `trust`, as the node whose certificate is given.
pub async fn tls(address: std::net::SocketAddr, ca: &Path, node: Option<&Path>) -> Result<Channel> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(std::fs::read(ca)?))
        .domain_name("localhost");
    if let Some(node) = node {
        let certificate = std::fs::read(node.with_extension("crt"))?;
        let key = std::fs::read(node.with_extension("key"))?;
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
    endpoint.connect().await.context("connect")
}

/// A record about a container, as a node writes it.
#[must_use]
pub fn line(stream: &str, seq: u64, container: &str, state: &str) -> Bytes {
    let record = json!({
        "id": format!("{stream}/{seq}"), "seq": seq, "time": "2026-11-21T21:02:48.197953294Z",
        "type": format!("container.{}", if state == "running" { "started" } else { state }),
        "origin": "kernel", "host": {"name": "h", "boot_id": "b"},
        "container": {"id": format!("{container}0123456789abcdef"), "instance": format!("b:1:{container}"),
            "state": state, "version": seq, "parents": []},
    });
    record.to_string().into_bytes().into()
}

impl Wire {
    /// Makes the call; nothing was said yet.
    pub async fn open(channel: Channel, token: Option<&str>) -> Result<Self, Status> {
        let (to, said) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(said));
        if let Some(token) = token {
            let value = format!("Bearer {token}");
            let value = value
                .parse()
                .map_err(|_invalid| Status::internal("a token"))?;
            request.metadata_mut().insert("authorization", value);
        }
        let from = UplinkClient::new(channel).session(request).await?;
        Ok(Self {
            to,
            from: from.into_inner(),
        })
    }

    /// As [`Wire::open`], and is let in.
    pub async fn greet(
        channel: Channel,
        token: Option<&str>,
        node: &str,
        stream: &str,
    ) -> Result<(Self, Welcome)> {
        let mut wire = Self::open(channel, token).await?;
        wire.say(hello(node, stream, node)).await?;
        match wire.hear().await? {
            Heard::Welcome(welcome) => Ok((wire, welcome)),
            other => bail!("{other:?} is no Welcome"),
        }
    }

    pub async fn say(&self, kind: Said) -> Result<()> {
        let message = FromNode { kind: Some(kind) };
        let said = timeout(DEADLINE, self.to.send(message)).await;
        said.context("the gateway takes nothing")?
            .context("the call has ended")
    }

    /// What the gateway says next.
    pub async fn hear(&mut self) -> Result<Heard> {
        let heard = timeout(DEADLINE, self.from.message()).await;
        let heard = heard.context("the gateway says nothing")??;
        heard
            .and_then(|heard| heard.kind)
            .context("the gateway ended the call")
    }

    /// Why it was refused; whatever comes before is passed over.
    pub async fn refused(&mut self) -> Result<(Why, String)> {
        loop {
            if let Heard::Refused(refused) = self.hear().await? {
                return Ok((refused.why(), refused.detail));
            }
        }
    }

    /// Says records, the first with this number.
    pub async fn records(&self, first_seq: u64, records: Vec<Bytes>) -> Result<()> {
        let after_seq = first_seq.saturating_sub(1);
        let records = Records {
            first_seq,
            records,
            after_seq,
        };
        self.say(Said::Records(records)).await
    }

    /// Waits until everything up to this number is durable.
    pub async fn acked(&mut self, seq: u64) -> Result<()> {
        loop {
            match self.hear().await? {
                Heard::Ack(ack) if ack.seq >= seq => return Ok(()),
                Heard::Ack(_) | Heard::SnapshotWanted(_) => {}
                other => bail!("{other:?} is no ack"),
            }
        }
    }

    /// One record, until it is durable; says how long that took.
    pub async fn deliver(&mut self, seq: u64, line: Bytes) -> Result<Duration> {
        let begun = Instant::now();
        self.records(seq, vec![line]).await?;
        self.acked(seq).await?;
        Ok(begun.elapsed())
    }
}

/// The first message.
#[must_use]
pub fn hello(node: &str, stream: &str, process: &str) -> Said {
    Said::Hello(Hello {
        version: VERSION,
        node: node.to_owned(),
        stream: stream.to_owned(),
        boot_id: "b".to_owned(),
        tracer_version: "test".to_owned(),
        process: process.to_owned(),
        ..Hello::default()
    })
}

/// A call whose bytes are the test's: what comes into `bytes` goes out as it is.
pub async fn raw(
    mut channel: Channel,
    token: &str,
    bytes: mpsc::Receiver<Bytes>,
) -> Result<http::Response<Body>> {
    let frames =
        ReceiverStream::new(bytes).map(|bytes| Ok::<_, Status>(http_body::Frame::data(bytes)));
    let request = http::Request::post("http://gateway/tracer.uplink.v1.Uplink/Session")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"))
        .body(Body::new(StreamBody::new(frames)))?;
    poll_fn(|context| channel.poll_ready(context)).await?;
    channel.call(request).await.map_err(|error| anyhow!(error))
}

/// A message as it is on the wire.
pub fn framed(kind: Said) -> Result<Bytes> {
    use prost::Message as _;
    let message = FromNode { kind: Some(kind) }.encode_to_vec();
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
    bytes.extend_from_slice(&message);
    Ok(bytes.into())
}

/// Whether an error of a whole call is a refusal for lack of a right.
pub fn is_unauthenticated(error: &Status) -> Result<()> {
    ensure!(error.code() == tonic::Code::Unauthenticated, "{error:?}");
    Ok(())
}
