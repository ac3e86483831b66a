//! gRPC over a unix socket, one call at a time. Messages are written by hand: the few fields that
//! are read, with the numbers that the runtimes' `.proto` files give them. Everything else is
//! skipped.

use std::{io, path::Path};

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint as Transport, Uri},
};
use tonic_prost::ProstCodec;

use super::{Endpoint, MAX_ANSWER, peer::Failed};

/// Header that says in which of containerd's namespaces a call is meant.
const NAMESPACE: &str = "containerd-namespace";

/// A connection.
pub(super) struct Connection(Grpc<Channel>);

/// What became of a call.
pub(super) enum Reply<T> {
    Good(T),
    /// There is no such thing.
    NotFound,
    /// The server does not know the call.
    Unimplemented,
}

impl Connection {
    pub(super) async fn new(endpoint: &Endpoint) -> Result<Self, Failed> {
        let endpoint = endpoint.clone();
        // The name counts for nothing: the connector knows where to go.
        let transport = Transport::from_static("http://runtime.invalid");
        let connector = tower::service_fn(move |_: Uri| {
            let endpoint = endpoint.clone();
            async move { connect(&endpoint).await.map(TokioIo::new) }
        });
        let channel = transport
            .connect_with_connector(connector)
            .await
            .map_err(|error| Failed::Broken(whole(&error)))?;
        let grpc = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
        Ok(Self(grpc))
    }

    /// Makes one call. containerd's are meant in a namespace.
    pub(super) async fn call<Q, A>(
        &mut self,
        path: &'static str,
        namespace: Option<&str>,
        question: Q,
    ) -> Result<Reply<A>, Failed>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut request = Request::new(question);
        if let Some(namespace) = namespace {
            let value: MetadataValue<Ascii> = namespace
                .parse()
                .map_err(|error| Failed::Refused(format!("namespace: {error}")))?;
            request.metadata_mut().insert(NAMESPACE, value);
        }
        self.0
            .ready()
            .await
            .map_err(|error| Failed::Broken(whole(&error)))?;
        let codec = ProstCodec::<Q, A>::default();
        match self
            .0
            .unary(request, PathAndQuery::from_static(path), codec)
            .await
        {
            Ok(answer) => Ok(Reply::Good(answer.into_inner())),
            Err(status) => judge(&status),
        }
    }
}

fn judge<T>(status: &Status) -> Result<Reply<T>, Failed> {
    match status.code() {
        Code::NotFound => Ok(Reply::NotFound),
        Code::Unimplemented => Ok(Reply::Unimplemented),
        // `Unknown` and `Internal` are also what a connection that ends meanwhile looks like.
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted
        | Code::Unknown
        | Code::Internal => Err(Failed::Broken(said(status))),
        _ => Err(Failed::Refused(said(status))),
    }
}

/// Its words are a stranger's: cut to what a log line bears.
fn said(status: &Status) -> String {
    const MAX: usize = 200;
    let words: String = status.message().chars().take(MAX).collect();
    format!("{:?}: {}", status.code(), words.escape_debug())
}

/// An error with its causes.
pub(super) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Connects, if who listens may speak for these containers.
pub(super) async fn connect(endpoint: &Endpoint) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(&endpoint.path).await?;
    let listener = stream.peer_cred()?.uid();
    if listener != 0 && Some(listener) != endpoint.user {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("user {listener} listens on {}", shown(&endpoint.path)),
        ));
    }
    Ok(stream)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
