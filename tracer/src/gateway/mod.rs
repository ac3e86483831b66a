//! The gateway: the live view of all nodes.
//!
//! ```text
//!  nodes ──gRPC──▶ listen ─▶ session ─▶ core (fleet + store) ─▶ hub ─▶ api ──HTTP──▶ readers, the page
//!                  trust                 one writer thread       │       ▲
//!                                          SQLite ◀──────────────┴───────┘ read-only connections
//! ```
//!
//! # Promises
//!
//! * An ack means durable; readers see a record a moment before. A duplicate changes nothing and is acked. A container's version never goes
//!   back. A hole in a stream is told.
//! * A node is unreachable after three missed heartbeats, and that is told once, as is its return.
//!   After its own start the gateway says nothing about nodes until they had time to report.
//! * Every queue is bounded: messages and bytes on the way to the writer (senders wait), the newest
//!   records (readers that fall behind read the store), questions per node (one more is refused),
//!   connections, strangers, sessions, readers.
//! * One bad peer hurts nobody else: it has its own task, its own window, a share of the connections
//!   and readers' places that leaves enough for others, and no lock that others wait for.

pub mod api;
pub mod core;
mod cut;
pub mod fleet;
pub mod hub;
pub mod init;
pub mod listen;
pub mod live;
pub mod liveness;
pub mod metrics;
pub mod outbox;
pub mod parse;
pub mod rate;
pub mod reload;
pub mod session;
pub mod shares;
pub mod store;
pub mod trust;

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use anyhow::Context as _;
use axum::{Router, body::Body, http::Request};
use tokio::sync::{Semaphore, mpsc, watch};
use tower::ServiceExt as _;

use self::{
    api::Face,
    core::{Core, Input, Settings, Syncer},
    cut::Cut,
    fleet::Limits,
    hub::Hub,
    listen::{Address, Door, Doors},
    live::{Queries, Replies},
    metrics::Metrics,
    reload::Trust,
    session::{MAX_MESSAGE, QUEUE_MESSAGES, Service},
    shares::Shares,
    store::{Readers, Store},
};
use crate::{
    uplink::uplink_server::{SERVICE_NAME, UplinkServer},
    wal::Log,
};

/// What the gateway needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: Address,
    /// For readers; `None`: the same.
    pub http: Option<Address>,
    pub store: PathBuf,
    pub trust: Option<PathBuf>,
    pub insecure: bool,
    pub keep: Duration,
    pub keep_bytes: u64,
    pub max_nodes: usize,
    pub max_containers: usize,
    pub max_connections: usize,
    /// Records per second and node.
    pub max_rate: u64,
}

/// A gateway that runs.
pub struct Gateway {
    /// Where it listens: for nodes, for readers.
    pub addresses: Vec<Address>,
    stop: watch::Sender<bool>,
    service: Service,
    inputs: mpsc::Sender<Input>,
    writer: thread::JoinHandle<()>,
    doors: Vec<tokio::task::JoinHandle<()>>,
}

/// Name of the database in the store's directory.
const DATABASE: &str = "gateway.db";

impl Gateway {
    /// Reads the store, opens the doors.
    ///
    /// # Errors
    ///
    /// What cannot be opened, and what would let strangers in.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        let trust = trust(config)?;
        let metrics = Arc::new(Metrics::new());
        let (stop, stopped) = watch::channel(false);
        let (trusted, trust) = watch::channel(Arc::new(trust));
        if let Some(directory) = &config.trust {
            tokio::spawn(reload::watch(directory.clone(), trusted));
        }
        let run = uuid::Uuid::now_v7().simple().to_string();
        let run = run
            .get(run.len() - api::RUN_LEN..)
            .unwrap_or_default()
            .to_owned();
        let hub = Arc::new(Hub::new(run));
        let (inputs, writer) = writer(config, &hub, &metrics)?;
        let replies = Arc::new(Replies::default());
        let service = Service::new(
            inputs.clone(),
            Arc::clone(&metrics),
            Arc::clone(&replies),
            config.max_rate,
        );
        let face = Face {
            queries: Arc::new(Queries::new(
                Arc::clone(&hub),
                replies,
                Arc::clone(&metrics),
            )),
            hub,
            readers: Arc::new(Readers::new(&config.store.join(DATABASE))),
            metrics: Arc::clone(&metrics),
            subscribers: Arc::new(Semaphore::new(api::SUBSCRIBERS)),
            shares: Shares::new(api::SUBSCRIBERS_EACH),
            stop: stopped.clone(),
        };
        let doors = Arc::new(Doors::new(trust, metrics, stopped, config.max_connections));
        let nodes = nodes(service.clone());
        let face = api::router(face);
        let apps = match &config.http {
            None => vec![(&config.listen, nodes.merge(face))],
            Some(http) => vec![(&config.listen, nodes), (http, face)],
        };
        let (mut addresses, mut open) = (Vec::new(), Vec::new());
        for (address, app) in apps {
            let door = Door::open(address).await?;
            addresses.push(door.address.clone());
            open.push(tokio::spawn(door.serve(Arc::clone(&doors), app)));
        }
        Ok(Self {
            addresses,
            stop,
            service,
            inputs,
            writer,
            doors: open,
        })
    }

    /// Ends in order: doors, sessions, what is queued, the store.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.service.close();
        for door in self.doors {
            // It ends by itself; a panic in it has been told.
            drop(door.await);
        }
        // Without a writer there is nothing to end.
        drop(self.inputs.send(Input::Stop).await);
        let writer = self.writer;
        drop(tokio::task::spawn_blocking(move || writer.join()).await);
    }

    /// The writer has ended though nobody asked: nothing can be made durable any more.
    pub async fn failed(&self) {
        self.inputs.closed().await;
    }
}

fn trust(config: &Config) -> anyhow::Result<Trust> {
    let doors = [Some(&config.listen), config.http.as_ref()];
    let local = doors.into_iter().flatten().all(Address::is_local);
    let trust = match &config.trust {
        Some(directory) => Trust::read(directory)?,
        None => Trust::open(!config.insecure),
    };
    anyhow::ensure!(
        trust.tls.is_some() || local || config.insecure,
        "without TLS the gateway listens on loopback and unix sockets only: make certificates with `tracer gateway init DIR` and give --trust DIR, or say --insecure"
    );
    Ok(trust)
}

fn writer(
    config: &Config,
    hub: &Arc<Hub>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<(mpsc::Sender<Input>, thread::JoinHandle<()>)> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.store)
        .with_context(|| format!("cannot make the store {}", config.store.display()))?;
    let boot_id = crate::host::identity()?.boot_id;
    let store = Store::open(&config.store.join(DATABASE), &hub.run, &boot_id)
        .with_context(|| format!("cannot open the store {}", config.store.display()))?;
    let settings = Settings {
        limits: Limits {
            nodes: config.max_nodes,
            containers_per_node: config.max_containers,
        },
        keep: config.keep,
        keep_bytes: config.keep_bytes,
    };
    let log = Log::of(&config.store.join(DATABASE)).context("cannot open the store's log")?;
    let syncer = Syncer::start(log, Arc::clone(metrics)).context("cannot start a thread")?;
    let core = Core::new(
        store,
        settings,
        Arc::clone(hub),
        Arc::clone(metrics),
        syncer,
    )
    .with_context(|| format!("cannot read the store {}", config.store.display()))?;
    let (inputs, queue) = mpsc::channel(QUEUE_MESSAGES);
    let runtime = tokio::runtime::Handle::current();
    let writer = thread::Builder::new()
        .name("writer".to_owned())
        .spawn(move || core.run(queue, &runtime))
        .context("cannot start the writer")?;
    Ok((inputs, writer))
}

fn nodes(service: Service) -> Router {
    let size = usize::try_from(MAX_MESSAGE)
        .unwrap_or(usize::MAX)
        .saturating_add(64 << 10);
    let server = UplinkServer::new(service)
        .max_decoding_message_size(size)
        .map_request(|request: Request<Body>| request.map(|body| Body::new(Cut::new(body))));
    // Without tonic's own fallback, which would stand against that of the face.
    let path = format!("/{SERVICE_NAME}/{{*call}}");
    Router::new().route_service(&path, server)
}
