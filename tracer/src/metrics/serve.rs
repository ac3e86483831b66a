//! `GET /metrics`, on this host alone: a port of the loopback, or a unix socket.

use std::{
    convert::Infallible,
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Bytes, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::Metrics;

/// Connections at a time.
const CONNECTIONS: usize = 16;
/// For a whole connection: one question, one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a connection could not be taken (too many open files).
const PAUSE: Duration = Duration::from_secs(1);

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Loopback(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// `IP:PORT` of this host's loopback, or `unix:/PATH`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            ensure!(
                path.starts_with('/'),
                "metrics address '{text}' has no absolute path"
            );
            return Ok(Self::Unix(path.into()));
        }
        let address: SocketAddr = text.parse().with_context(|| {
            format!("metrics address '{text}' is neither IP:PORT nor unix:/PATH")
        })?;
        ensure!(
            address.ip().is_loopback(),
            "metrics are served on this host alone: '{text}' is not an address of its loopback"
        );
        Ok(Self::Loopback(address))
    }
}

enum Listener {
    Loopback(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// Serves on a thread of its own, for as long as the process lives.
///
/// # Errors
///
/// Where the address cannot be had.
pub fn serve(metrics: Arc<Metrics>, address: &Address) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the metrics' event loop")?;
    let listener = {
        let _inside = runtime.enter();
        bind(address).with_context(|| format!("cannot serve metrics on {address:?}"))?
    };
    std::thread::Builder::new()
        .name("metrics".to_owned())
        .spawn(move || runtime.block_on(accept(listener, metrics)))
        .context("cannot start the metrics' thread")?;
    Ok(())
}

fn bind(address: &Address) -> io::Result<Listener> {
    match address {
        Address::Loopback(address) => {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener).map(Listener::Loopback)
        }
        Address::Unix(path) => {
            // Of a tracer that was killed; a living one is not disturbed.
            if std::os::unix::net::UnixStream::connect(path).is_err()
                && let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let listener = UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            tokio::net::UnixListener::from_std(listener).map(Listener::Unix)
        }
    }
}

async fn accept(listener: Listener, metrics: Arc<Metrics>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let metrics = Arc::clone(&metrics);
        let accepted = match &listener {
            Listener::Loopback(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(answer(stream, metrics, place));
            }),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(answer(stream, metrics, place));
            }),
        };
        if let Err(error) = accepted {
            tracing::warn!(%error, "a reader of the metrics was not let in");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn answer<S>(stream: S, metrics: Arc<Metrics>, _place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<_>| {
        let answer = respond(&request, &metrics);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(PATIENCE, connection).await {
        Ok(Err(error)) => tracing::debug!(%error, "a reader of the metrics"),
        Ok(Ok(())) => {}
        Err(_elapsed) => tracing::debug!("a reader of the metrics takes too long"),
    }
}

fn respond<B>(request: &Request<B>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let is_ours = request.uri().path() == "/metrics";
    let (status, text) = match *request.method() {
        Method::GET if is_ours => (StatusCode::OK, metrics.text()),
        _ if is_ours => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let format = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
    let headers = response.headers_mut();
    headers.insert(hyper::header::CONTENT_TYPE, format);
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::{super::Count, *};

    #[test]
    fn metrics_stay_on_the_host() {
        assert!(Address::parse("127.0.0.1:9100").is_ok());
        assert!(Address::parse("[::1]:9100").is_ok());
        assert!(Address::parse("unix:/run/m.sock").is_ok());
        for wrong in ["0.0.0.0:9100", "9100", "unix:m.sock", "10.0.0.1:1"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_scrape_gets_what_was_counted() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("m.sock");
        let metrics = Arc::new(Metrics::default());
        metrics.add(Count::RingIn, 3);
        serve(metrics, &Address::Unix(path.clone())).expect("served");
        let ask = |request: &str| {
            let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("a stream");
            stream.write_all(request.as_bytes()).expect("a question");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            answer
        };
        let answer = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("tracer_records_in_total{stage=\"ring\"} 3"));
        assert!(ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
    }
}
