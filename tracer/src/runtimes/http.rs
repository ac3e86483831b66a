//! Docker's and Podman's HTTP over a unix socket: one container's description at a time.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{SendRequest, handshake},
    header::HOST,
};
use hyper_util::rt::TokioIo;

use super::{
    Endpoint, Kind, MAX_ANSWER, Question,
    grpc::{connect, whole},
    peer::Failed,
};
use crate::enrich::api::{self, Told};

/// Longest id that is put into a request.
const MAX_ID: usize = 256;

/// A connection; its other half ends with it.
pub(super) struct Http {
    kind: Kind,
    sender: SendRequest<Empty<Bytes>>,
}

impl Http {
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<Self, Failed> {
        let stream = connect(endpoint).await.map_err(broken)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
        drop(tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a runtime's connection ended");
            }
        }));
        Ok(Self {
            kind: endpoint.kind,
            sender,
        })
    }

    pub(super) async fn ask(&mut self, question: &Question) -> Result<Option<Told>, Failed> {
        let id = &*question.id;
        // Anything else would have to be escaped, and no id of theirs needs that.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(plain) {
            return Ok(None);
        }
        let path = match self.kind {
            Kind::Podman => format!("/v4.0.0/libpod/containers/{id}/json"),
            Kind::Docker | Kind::Containerd | Kind::Cri => format!("/containers/{id}/json"),
        };
        let request = Request::get(path)
            .header(HOST, "runtime")
            .body(Empty::new())
            .map_err(|error| Failed::Refused(error.to_string()))?;
        self.sender.ready().await.map_err(broken)?;
        let answer = self.sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| Failed::Broken(whole(&*error)))?
            .to_bytes();
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(Failed::Refused(format!("status {status}"))),
        }
        let told = match self.kind {
            Kind::Podman => api::podman(&body, id),
            Kind::Docker | Kind::Containerd | Kind::Cri => api::docker(&body, id),
        };
        told.map_err(|error| Failed::Refused(error.to_string()))
    }
}

fn broken(error: impl std::error::Error) -> Failed {
    Failed::Broken(whole(&error))
}
