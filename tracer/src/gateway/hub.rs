//! What the writer publishes after each commit: the nodes as they are, and the newest records.
//!
//! Readers of the stream have no queues of their own: each has a place, the newest records are in one
//! ring that is bounded in bytes, and whoever falls behind it reads the store.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use super::{
    fleet::{LossReport, Report},
    liveness::Reach,
    outbox::Outbox,
    store::Piece,
};
use crate::time::Timestamp;

/// Bytes of the newest records that are kept in memory.
const RING_BYTES: usize = 16 << 20;

/// A node, for readers.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct NodeView {
    pub name: Arc<str>,
    pub state: Option<Reach>,
    /// Since when it is in that state.
    pub since: Timestamp,
    pub first_seen: Timestamp,
    /// When anything was heard of it last.
    pub last_seen: Timestamp,
    /// Whether a session is open.
    pub connected: bool,
    /// Containers that are not removed.
    pub containers: u64,
    /// Of these, running.
    pub running: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamView>,
    #[serde(flatten)]
    pub report: Report,
    #[serde(skip)]
    pub outbox: Option<Outbox>,
}

/// How far the gateway is in a node's stream.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct StreamView {
    pub id: Arc<str>,
    /// How many streams the node has had.
    pub epoch: u32,
    /// Newest record that is durable here.
    pub seq: u64,
    /// Records that never came, of all streams.
    pub missing: u64,
    /// Of these, those that the node did not tell.
    pub unexplained: u64,
}

impl NodeView {
    /// All records that are known to be lost on the way here.
    #[must_use]
    pub fn losses(&self) -> LossReport {
        self.report.losses
    }
}

#[derive(Debug, Default)]
struct Ring {
    pieces: VecDeque<Arc<Piece>>,
    bytes: usize,
}

/// What a reader of the stream gets.
#[derive(Debug)]
pub enum Next {
    Pieces(Vec<Arc<Piece>>),
    /// Older than what is in memory: ask the store.
    Behind,
}

/// Shared by the writer and all readers.
#[derive(Debug)]
pub struct Hub {
    /// Of this life of the gateway.
    pub run: String,
    nodes: RwLock<BTreeMap<Arc<str>, Arc<NodeView>>>,
    ring: Mutex<Ring>,
    /// Number of the next record; all before it are durable.
    end: watch::Sender<u64>,
    ready: watch::Sender<bool>,
}

/// Pieces given to a reader at a time.
const AT_A_TIME: usize = 64;

impl Hub {
    #[must_use]
    pub fn new(run: String) -> Self {
        Self {
            run,
            nodes: RwLock::new(BTreeMap::new()),
            ring: Mutex::new(Ring::default()),
            end: watch::Sender::new(0),
            ready: watch::Sender::new(false),
        }
    }

    /// Whether commits succeed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.send_replace(ready);
    }

    /// Waits until the store is read.
    pub async fn until_ready(&self) {
        let mut ready = self.ready.subscribe();
        if ready.wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// One node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Arc<NodeView>> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(name).map(Arc::clone)
    }

    /// Up to `limit` nodes whose name comes after `after`, in order.
    #[must_use]
    pub fn nodes(
        &self,
        after: Option<&str>,
        limit: usize,
        wanted: impl Fn(&NodeView) -> bool,
    ) -> Vec<Arc<NodeView>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let range = (after.map_or(Unbounded, Excluded), Unbounded);
        let nodes = nodes.range::<str, _>(range).map(|(_, node)| node);
        nodes
            .filter(|node| wanted(node))
            .take(limit)
            .map(Arc::clone)
            .collect()
    }

    pub(super) fn put_nodes(&self, views: Vec<NodeView>) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        for view in views {
            nodes.insert(Arc::clone(&view.name), Arc::new(view));
        }
    }

    pub(super) fn forget_nodes(&self, names: &[Arc<str>]) {
        if names.is_empty() {
            return;
        }
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            nodes.remove(name);
        }
    }

    pub(super) fn publish(&self, pieces: Vec<Piece>, end: u64) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in pieces {
            ring.bytes += piece.lines.len();
            ring.pieces.push_back(Arc::new(piece));
        }
        while ring.bytes > RING_BYTES
            && let Some(old) = ring.pieces.pop_front()
        {
            ring.bytes -= old.lines.len();
        }
        drop(ring);
        self.end.send_if_modified(|old| {
            let news = *old != end;
            *old = end;
            news
        });
    }

    /// Forgets what is in memory: the store was read again.
    pub(super) fn reset(&self, end: u64) {
        *self.ring.lock().unwrap_or_else(PoisonError::into_inner) = Ring::default();
        self.end.send_replace(end);
    }

    /// Learns of commits.
    #[must_use]
    pub fn ends(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// What there is in memory from number `from` on.
    #[must_use]
    pub fn from(&self, from: u64) -> Next {
        if from >= *self.end.borrow() {
            return Next::Pieces(Vec::new());
        }
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let at = ring
            .pieces
            .partition_point(|piece| piece.first + piece.count <= from);
        match ring.pieces.front() {
            Some(front) if front.first <= from => {
                let pieces = ring.pieces.iter().skip(at).take(AT_A_TIME);
                Next::Pieces(pieces.map(Arc::clone).collect())
            }
            _ => Next::Behind,
        }
    }
}
