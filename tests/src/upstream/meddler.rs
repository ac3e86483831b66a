//! A receiver in between that passes messages on as a network of many ways would: records come
//! twice, late, or once more when they are long forgotten.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Endpoint, Server},
};
use tracer::uplink::{
    FromGateway, FromNode,
    from_node::Kind,
    uplink_client::UplinkClient,
    uplink_server::{Uplink, UplinkServer},
};

use super::chance::Chance;

/// A message that is held back goes on after so long, where none comes to overtake it.
const HELD: Duration = Duration::from_millis(50);
/// Old messages that may come again.
const OLD: usize = 8;

/// The receiver; its sessions end with it.
#[derive(Debug)]
pub struct Meddler {
    address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    meddles: AtomicBool,
    /// Messages that did not go as they came.
    meddled: AtomicU64,
    chance: Mutex<Chance>,
}

impl Meddler {
    /// Listens on a free port of this host; passes everything on as it comes.
    pub fn start(target: SocketAddr, seed: u64) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("start the meddler's event loop")?;
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .context("bind the meddler")?;
        let address = listener.local_addr().context("the meddler's address")?;
        let shared = Arc::new(Shared {
            target,
            meddles: AtomicBool::new(false),
            meddled: AtomicU64::new(0),
            chance: Mutex::new(Chance::new(seed)),
        });
        let service = UplinkServer::new(Between(Arc::clone(&shared)));
        runtime.spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Ok(Self {
            address,
            shared,
            _runtime: runtime,
        })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn meddle(&self, meddles: bool) {
        self.shared.meddles.store(meddles, Ordering::Relaxed);
    }

    /// Messages that did not go as they came.
    #[must_use]
    pub fn meddled(&self) -> u64 {
        self.shared.meddled.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Between(Arc<Shared>);

#[tonic::async_trait]
impl Uplink for Between {
    type SessionStream = Streaming<FromGateway>;

    async fn session(
        &self,
        request: Request<Streaming<FromNode>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let away = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        let target = Endpoint::from_shared(format!("http://{}", self.0.target)).map_err(away)?;
        let channel = target.connect().await.map_err(away)?;
        let (to, said) = mpsc::channel(4);
        tokio::spawn(pass(request.into_inner(), to, Arc::clone(&self.0)));
        let answer = UplinkClient::new(channel)
            .session(ReceiverStream::new(said))
            .await?;
        Ok(Response::new(answer.into_inner()))
    }
}

/// What becomes of a message.
enum Way {
    Straight,
    Twice,
    /// After the next one.
    Late,
    /// And an old one after it.
    WithAnOldOne,
}

impl Shared {
    fn way(&self, message: &FromNode) -> Way {
        let records = matches!(message.kind, Some(Kind::Records(_)));
        if !records || !self.meddles.load(Ordering::Relaxed) {
            return Way::Straight;
        }
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let way = match chance.below(12) {
            0 => Way::Late,
            1 | 2 => Way::Twice,
            3 | 4 => Way::WithAnOldOne,
            _ => return Way::Straight,
        };
        self.meddled.fetch_add(1, Ordering::Relaxed);
        way
    }

    fn below(&self, bound: usize) -> usize {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = u64::try_from(bound.max(1)).unwrap_or(1);
        usize::try_from(chance.below(bound)).unwrap_or(0)
    }
}

/// Ends with either side; what is held back then is lost, as on any way that ends.
async fn pass(mut from: Streaming<FromNode>, to: mpsc::Sender<FromNode>, shared: Arc<Shared>) {
    let mut held: Option<FromNode> = None;
    let mut old: Vec<FromNode> = Vec::new();
    loop {
        let mut out = Vec::new();
        match timeout(HELD, from.message()).await {
            Err(_nothing) => {}
            Ok(Ok(Some(message))) => {
                match shared.way(&message) {
                    Way::Twice => out.extend([message.clone(), message.clone()]),
                    Way::Late if held.is_none() => {
                        held = Some(message);
                        continue;
                    }
                    Way::Straight | Way::Late => out.push(message.clone()),
                    Way::WithAnOldOne => {
                        out.push(message.clone());
                        out.extend(old.get(shared.below(old.len())).cloned());
                    }
                }
                if matches!(message.kind, Some(Kind::Records(_))) {
                    old.push(message);
                    let beyond = old.len().saturating_sub(OLD);
                    old.drain(..beyond);
                }
            }
            Ok(_) => return,
        }
        out.extend(held.take());
        for message in out {
            if to.send(message).await.is_err() {
                return;
            }
        }
    }
}
