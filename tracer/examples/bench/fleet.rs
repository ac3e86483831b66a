//! Simulated agents over real sockets: the load of `cargo xtask bench gateway`.
//!
//! None of it is the gateway's code, nor that of the real agent: the client is made from
//! `uplink.proto`, records are text that is put together here ([`story`]).
//!
//! ```text
//!  standard input                     standard output
//!  a line    ──▶  what happened so far, one JSON object
//!  its end   ──▶  ends, without a goodbye: as if the network had gone
//! ```

mod story;

use std::{
    io::{self, BufRead as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, interval_at, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tracer::uplink::{
    FromGateway, FromNode, Heartbeat, Hello, Records, from_gateway::Kind as Heard,
    from_node::Kind as Said, uplink_client::UplinkClient,
};

use self::story::Story;

/// Simulated nodes.
#[derive(Debug, Args)]
pub struct Fleet {
    /// The gateway's.
    url: String,
    #[arg(long, default_value_t = 1)]
    nodes: u64,
    /// Per node.
    #[arg(long, default_value_t = 50)]
    containers: usize,
    /// Send as fast as records are acknowledged.
    #[arg(long)]
    flood: bool,
    /// Without it: so many records with each heartbeat.
    #[arg(long, default_value_t = 0)]
    churn: usize,
}

/// Connections that are being opened at a time: a gateway lets only so many strangers stand around.
const OPENING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Records per message of a flood.
const MESSAGE: usize = 80;

/// What happened so far, of all nodes.
#[derive(Debug, Default)]
struct Counts {
    connected: AtomicU64,
    sent: AtomicU64,
    bytes: AtomicU64,
    acked: AtomicU64,
    heartbeats: AtomicU64,
    snapshots_wanted: AtomicU64,
    lost: AtomicU64,
}

impl Counts {
    fn json(&self) -> String {
        let counts = serde_json::json!({
            "connected": self.connected.load(Relaxed),
            "sent": self.sent.load(Relaxed),
            "bytes": self.bytes.load(Relaxed),
            "acked": self.acked.load(Relaxed),
            "heartbeats": self.heartbeats.load(Relaxed),
            "snapshots_wanted": self.snapshots_wanted.load(Relaxed),
            "lost": self.lost.load(Relaxed),
        });
        format!("{counts}\n")
    }
}

/// Runs until standard input ends.
pub fn run(fleet: &Fleet) -> Result<()> {
    let counts = Arc::new(Counts::default());
    let (stop, stopped) = watch::channel(());
    let told = Arc::clone(&counts);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let said = line.and_then(|_| io::stdout().write_all(told.json().as_bytes()));
            if said.and_then(|()| io::stdout().flush()).is_err() {
                break;
            }
        }
        drop(stop);
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(all(fleet, &counts, stopped))
}

async fn all(fleet: &Fleet, counts: &Arc<Counts>, mut stopped: watch::Receiver<()>) -> Result<()> {
    let endpoint = Endpoint::from_shared(fleet.url.clone())
        .context("no URL")?
        .tcp_nodelay(true);
    let opening = Arc::new(Semaphore::new(OPENING));
    for number in 0..fleet.nodes {
        let node = Node {
            story: Story::new(number, fleet.containers),
            flood: fleet.flood,
            churn: fleet.churn,
            acked: 0,
            window: 0,
            counts: Arc::clone(counts),
        };
        let (endpoint, opening) = (endpoint.clone(), Arc::clone(&opening));
        let counts = Arc::clone(counts);
        tokio::spawn(async move {
            if let Err(error) = node.live(endpoint, &opening).await {
                tracing::warn!("node {number}: {error:#}");
            }
            counts.lost.fetch_add(1, Relaxed);
        });
    }
    // It is dropped at the end of standard input.
    while stopped.changed().await.is_ok() {}
    Ok(())
}

struct Node {
    story: Story,
    flood: bool,
    churn: usize,
    acked: u64,
    window: u64,
    counts: Arc<Counts>,
}

fn message(kind: Said) -> FromNode {
    FromNode { kind: Some(kind) }
}

impl Node {
    async fn live(mut self, endpoint: Endpoint, opening: &Semaphore) -> Result<()> {
        let place = opening.acquire().await?;
        let (to, said) = mpsc::channel(4);
        to.send(message(Said::Hello(self.hello()))).await?;
        let opened = async {
            let mut client = UplinkClient::new(endpoint.connect().await?);
            let mut from = client
                .session(ReceiverStream::new(said))
                .await?
                .into_inner();
            let heard = from.message().await?.and_then(|heard| heard.kind);
            anyhow::Ok((from, heard))
        };
        let (mut from, heard) = timeout(PATIENCE, opened).await??;
        let Some(Heard::Welcome(welcome)) = heard else {
            bail!("not let in: {heard:?}");
        };
        self.window = u64::from(welcome.max_in_flight_records);
        let prologue = self.story.prologue();
        self.records(1, prologue, &to).await?;
        self.counts.connected.fetch_add(1, Relaxed);
        drop(place);
        // Spread over the time between two of them.
        let phase = HEARTBEAT.mul_f64(f64::from(fastrand(self.story.seq(), &self.story.name)));
        let mut heartbeat = interval_at(Instant::now() + phase, HEARTBEAT);
        loop {
            let room = self.flood && self.story.seq() - self.acked + MESSAGE as u64 <= self.window;
            tokio::select! {
                heard = from.message() => match heard? {
                    Some(heard) => self.hear(heard)?,
                    None => bail!("the gateway ended the session"),
                },
                permit = to.reserve(), if room => {
                    drop(permit?);
                    self.tell(MESSAGE, &to).await?;
                }
                _ = heartbeat.tick() => {
                    self.tell(self.churn, &to).await?;
                    to.send(message(Said::Heartbeat(self.heartbeat()))).await?;
                    self.counts.heartbeats.fetch_add(1, Relaxed);
                }
            }
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            version: 1,
            node: self.story.name.clone(),
            stream: self.story.stream.clone(),
            process: self.story.name.clone(),
            tracer_version: "simulated".to_owned(),
            ..Hello::default()
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        let (containers, state_hash) = self.story.table();
        Heartbeat {
            seq: self.story.seq(),
            containers,
            state_hash,
            ..Heartbeat::default()
        }
    }

    async fn tell(&mut self, count: usize, to: &mpsc::Sender<FromNode>) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let first = self.story.seq() + 1;
        let lines = (0..count).map(|_| self.story.next()).collect();
        self.records(first, lines, to).await
    }

    async fn records(
        &self,
        first_seq: u64,
        records: Vec<bytes::Bytes>,
        to: &mpsc::Sender<FromNode>,
    ) -> Result<()> {
        let bytes: usize = records.iter().map(bytes::Bytes::len).sum();
        self.counts.sent.fetch_add(records.len() as u64, Relaxed);
        self.counts.bytes.fetch_add(bytes as u64, Relaxed);
        to.send(message(Said::Records(Records {
            first_seq,
            records,
            after_seq: first_seq - 1,
        })))
        .await?;
        Ok(())
    }

    fn hear(&mut self, heard: FromGateway) -> Result<()> {
        match heard.kind {
            Some(Heard::Ack(ack)) => {
                self.counts
                    .acked
                    .fetch_add(ack.seq.saturating_sub(self.acked), Relaxed);
                self.acked = self.acked.max(ack.seq);
            }
            // The hash was right: nobody should want one.
            Some(Heard::SnapshotWanted(_)) => {
                self.counts.snapshots_wanted.fetch_add(1, Relaxed);
            }
            Some(Heard::Refused(refused)) => bail!("refused: {}", refused.detail),
            Some(Heard::Welcome(_) | Heard::Query(_)) | None => {}
        }
        Ok(())
    }
}

/// Between 0 and 1, from a text.
fn fastrand(seed: u64, text: &str) -> f32 {
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(text.as_bytes(), seed);
    f32::from(u16::try_from(hash & 0xffff).unwrap_or(0)) / 65_536.0
}
