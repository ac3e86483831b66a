//! Doors: where connections come in, and how long a stranger may stand there.
//!
//! A connection is a *stranger* until a request on it has shown that it may do something. There are
//! at most [`STRANGERS`] of them, and never more than half of all places; one more sends the oldest away, and each is sent away after
//! [`GREETING`]. So whoever drips bytes, or only connects, takes no place from those who are known;
//! and whoever is known has a share of the places, not all of them.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt, fs, io,
    net::{SocketAddr, ToSocketAddrs as _},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, header},
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustix::net::sockopt::set_tcp_user_timeout;
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tower::Service as _;

use super::{
    metrics::Metrics,
    reload::{Credentials, Trust},
    shares::{Share, Shares},
    trust::{Peer, fingerprint},
};

/// Connections that have not shown yet what they may do.
const STRANGERS: usize = 512;
/// How long one may stay unknown.
const GREETING: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a request's head may take to come, and a connection of HTTP/1 may be idle.
const HEAD: Duration = Duration::from_secs(30);
/// Between two pings on a connection of HTTP/2; an unanswered one ends it.
const PING: Duration = Duration::from_secs(20);
/// How long a peer may leave what is sent to it unread.
const UNREAD: Duration = Duration::from_secs(20);
/// Connections of one token or certificate.
const CONNECTIONS_EACH: usize = 64;
/// Streams of one HTTP/2 connection.
const STREAMS: u32 = 16;
/// Bytes that one stream may have under way.
const WINDOW: u32 = 256 << 10;

/// Where to listen: `HOST:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let found = text.to_socket_addrs().ok().and_then(|mut all| all.next());
        let found = found.map(Self::Tcp);
        found.ok_or_else(|| format!("'{text}' is neither HOST:PORT nor unix:PATH"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Nobody but this host can come in.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self
            && let Err(error) = fs::remove_file(path)
        {
            tracing::debug!(%error, "the socket was gone already");
        }
    }
}

/// What all doors share.
#[derive(Debug)]
pub struct Doors {
    pub trust: watch::Receiver<Arc<Trust>>,
    pub metrics: Arc<Metrics>,
    pub stop: watch::Receiver<bool>,
    places: Arc<Semaphore>,
    shares: Arc<Shares>,
    /// Fewer than there are places.
    strangers_at_most: usize,
    strangers: Mutex<VecDeque<Arc<Stranger>>>,
}

#[derive(Debug, Default)]
struct Stranger {
    known: AtomicBool,
    /// Of the places of whoever it turned out to be.
    share: Mutex<Option<Share>>,
    /// What it is known by.
    credentials: Mutex<Credentials>,
    sent_away: Notify,
}

impl Stranger {
    fn credentials(&self) -> MutexGuard<'_, Credentials> {
        self.credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Doors {
    #[must_use]
    pub fn new(
        trust: watch::Receiver<Arc<Trust>>,
        metrics: Arc<Metrics>,
        stop: watch::Receiver<bool>,
        connections: usize,
    ) -> Self {
        Self {
            trust,
            metrics,
            stop,
            places: Arc::new(Semaphore::new(connections)),
            shares: Shares::new(CONNECTIONS_EACH),
            strangers_at_most: STRANGERS.min(connections / 2).max(1),
            strangers: Mutex::default(),
        }
    }

    fn stranger(&self) -> Arc<Stranger> {
        let stranger = Arc::new(Stranger::default());
        let mut strangers = self
            .strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        strangers.retain(|one| Arc::strong_count(one) > 1 && !one.known.load(Ordering::Relaxed));
        while strangers.len() >= self.strangers_at_most
            && let Some(oldest) = strangers.pop_front()
        {
            oldest.sent_away.notify_one();
        }
        strangers.push_back(Arc::clone(&stranger));
        stranger
    }

    /// It has shown what it may do; false where it has as many connections already as it may have.
    fn know(&self, stranger: &Stranger, peer: &Peer) -> bool {
        if stranger.known.load(Ordering::Relaxed) {
            return true;
        }
        if let Some(who) = peer.who() {
            let mut share = stranger
                .share
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if share.is_none() {
                *share = self.shares.take(who);
            }
            if share.is_none() {
                return false;
            }
        }
        stranger.known.store(true, Ordering::Relaxed);
        true
    }
}

/// Of the one connection, not of this host.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
    let kind = error.kind();
    matches!(
        kind,
        ConnectionAborted | ConnectionReset | InvalidInput | NotConnected
    )
}

/// A door that is open.
pub struct Door {
    listener: Listener,
    /// As it came to be: a port 0 has become a number.
    pub address: Address,
}

impl Door {
    /// Binds; a stale socket file is replaced.
    pub async fn open(address: &Address) -> anyhow::Result<Self> {
        let what = || format!("cannot listen on {address}");
        match address {
            Address::Tcp(tcp) => {
                let listener = TcpListener::bind(tcp).await.with_context(what)?;
                let address = Address::Tcp(listener.local_addr().with_context(what)?);
                Ok(Self {
                    listener: Listener::Tcp(listener),
                    address,
                })
            }
            Address::Unix(path) => {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    anyhow::bail!("cannot listen on {address}: another process does");
                }
                if let Err(error) = fs::remove_file(path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    return Err(error).with_context(what);
                }
                let listener = UnixListener::bind(path).with_context(what)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o660)).with_context(what)?;
                Ok(Self {
                    listener: Listener::Unix(listener, path.clone()),
                    address: address.clone(),
                })
            }
        }
    }

    /// Lets connections in until the gateway stops.
    pub async fn serve(self, doors: Arc<Doors>, app: Router) {
        let mut stop = doors.stop.clone();
        loop {
            let Ok(place) = Arc::clone(&doors.places).acquire_owned().await else {
                return;
            };
            let came = tokio::select! {
                came = self.accept(&doors, &app, place) => came,
                () = stopped(&mut stop) => return,
            };
            match came {
                Err(error) if is_of_the_peer(&error) => {
                    tracing::debug!(%error, "a connection was gone before it was accepted");
                }
                Err(error) => {
                    // Out of descriptors, most likely: those that are open go on.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(()) => {}
            }
        }
    }

    async fn accept(
        &self,
        doors: &Arc<Doors>,
        app: &Router,
        place: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        let (doors, app) = (Arc::clone(doors), app.clone());
        match &self.listener {
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let visit = Visit {
                    doors,
                    app,
                    local: true,
                    certificate: None,
                };
                tokio::spawn(async move {
                    visit.plain(stream).await;
                    drop(place);
                });
            }
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let patience = u32::try_from(UNREAD.as_millis()).unwrap_or(u32::MAX);
                set_tcp_user_timeout(&stream, patience)?;
                let visit = Visit {
                    doors,
                    app,
                    local: false,
                    certificate: None,
                };
                tokio::spawn(async move {
                    let tls = visit.doors.trust.borrow().tls.clone();
                    match tls {
                        Some(tls) => visit.handshake(TlsAcceptor::from(tls), stream).await,
                        None => visit.plain(stream).await,
                    }
                    drop(place);
                });
            }
        }
        Ok(())
    }
}

/// One connection.
struct Visit {
    doors: Arc<Doors>,
    app: Router,
    /// Over a unix socket: whoever may open it is trusted.
    local: bool,
    certificate: Option<CertificateDer<'static>>,
}

impl Visit {
    async fn handshake(mut self, acceptor: TlsAcceptor, stream: tokio::net::TcpStream) {
        let stranger = self.doors.stranger();
        let shaken = tokio::select! {
            shaken = timeout(HANDSHAKE, acceptor.accept(stream)) => shaken,
            () = stranger.sent_away.notified() => {
                return self.doors.metrics.connection_dropped("crowd");
            }
        };
        match shaken {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
                self.certificate = certificates.first().map(|own| own.clone().into_owned());
                let chain = certificates.iter().map(|one| one.clone().into_owned());
                stranger.credentials().certificates = chain.collect();
                self.http(stream, stranger).await;
            }
            Ok(Err(_)) => self.doors.metrics.connection_dropped("handshake"),
            Err(_late) => self.doors.metrics.connection_dropped("handshake_timeout"),
        }
    }

    async fn plain(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let stranger = self.doors.stranger();
        self.http(stream, stranger).await;
    }

    async fn http(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        stranger: Arc<Stranger>,
    ) {
        let metrics = Arc::clone(&self.doors.metrics);
        let mut stop = self.doors.stop.clone();
        let mut trust = self.doors.trust.clone();
        metrics.connections.inc();
        let known = Arc::clone(&stranger);
        let visit = Arc::new(self);
        let service = hyper::service::service_fn(move |request| {
            Arc::clone(&visit).call(request, Arc::clone(&known))
        });
        let builder = builder();
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut late = Box::pin(tokio::time::sleep(GREETING));
        let mut watched = true;
        loop {
            tokio::select! {
                done = connection.as_mut() => {
                    if let Err(error) = done {
                        tracing::debug!(%error, "a connection ended");
                    }
                    break;
                }
                () = &mut late, if watched => {
                    watched = false;
                    if !stranger.known.load(Ordering::Relaxed) {
                        metrics.connection_dropped("silent");
                        break;
                    }
                }
                () = stranger.sent_away.notified() => {
                    if !stranger.known.load(Ordering::Relaxed) {
                        metrics.connection_dropped("crowd");
                        break;
                    }
                }
                Ok(()) = trust.changed() => {
                    let counts = stranger.credentials().count(&trust.borrow_and_update());
                    if !counts {
                        tracing::info!("a connection is ended: its token or certificate counts no more");
                        metrics.connection_dropped("revoked");
                        break;
                    }
                }
                () = stopped(&mut stop) => {
                    connection.as_mut().graceful_shutdown();
                    // What is under way has a moment to end.
                    drop(timeout(Duration::from_secs(2), connection).await);
                    break;
                }
            }
        }
        metrics.connections.dec();
    }

    async fn call(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        stranger: Arc<Stranger>,
    ) -> Result<Response<Body>, Infallible> {
        let trust = Arc::clone(&self.doors.trust.borrow());
        let token = request.headers().get(header::AUTHORIZATION);
        let token = token.and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer "));
        let tokens = trust.tokens.as_ref();
        let open = self.local || tokens.is_none() && trust.tls.is_none();
        let print = token.map(|token| fingerprint(token.trim()));
        let right = print.and_then(|print| Some((print, tokens?.right_of(&print)?)));
        let peer = Peer {
            open,
            right: right.map(|(_, right)| right.clone()),
            certificate: self.certificate.clone(),
        };
        if let Some((print, right)) = right {
            let mut credentials = stranger.credentials();
            credentials
                .tokens
                .entry(print)
                .or_insert_with(|| right.clone());
        }
        if open && !self.local && trust.host_is_checked && !host_is_local(&request) {
            let mut refused =
                Response::new(Body::from("this gateway answers to local names only\n"));
            *refused.status_mut() = StatusCode::FORBIDDEN;
            return Ok(refused);
        }
        if (peer.may_read() || peer.may_report_at_all()) && !self.doors.know(&stranger, &peer) {
            self.doors.metrics.connection_dropped("share");
            let mut refused = Response::new(Body::from("too many connections of one peer\n"));
            *refused.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            return Ok(refused);
        }
        request.extensions_mut().insert(peer);
        let mut app = self.app.clone();
        app.call(request).await
    }
}

/// The gateway stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Without a gateway there is no door either.
    drop(stop.wait_for(|stop| *stop).await);
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(64 << 10)
        .max_header_list_size(16 << 10);
    builder
}

/// A page of another site that made its name point here must not read what this host may.
fn host_is_local(request: &Request<Incoming>) -> bool {
    let header = request.headers().get(header::HOST);
    let named = header.and_then(|host| host.to_str().ok());
    let Some(authority) = named.or_else(|| {
        request
            .uri()
            .authority()
            .map(axum::http::uri::Authority::as_str)
    }) else {
        return true;
    };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_port_or_a_socket() {
        let unix: Address = "unix:/run/x.sock".parse().expect("a path");
        assert!(unix.is_local() && unix.to_string() == "unix:/run/x.sock");
        let local: Address = "127.0.0.1:7443".parse().expect("an address");
        let all: Address = "0.0.0.0:7443".parse().expect("an address");
        assert!(local.is_local() && !all.is_local());
        assert!("nonsense".parse::<Address>().is_err());
    }
}
