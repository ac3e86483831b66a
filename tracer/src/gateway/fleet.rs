//! What the gateway knows of all nodes. Pure: no clock, no I/O; the writer carries out what comes out.
//!
//! ```text
//!  hello ─▶ claim ─────────▶ Welcome | Refused
//!  records ─▶ duplicates left out, holes told ─▶ log, table of containers
//!  heartbeat ─▶ hash compared once the table is as of its `seq` ─▶ SnapshotWanted
//!  snapshot ─▶ table replaced as of its `seq`
//!  silence, goodbye ─▶ liveness ─▶ own records
//! ```
//!
//! # What orders states
//!
//! A node's streams have *epochs*: 1 for the first that it spoke, one more whenever it speaks another
//! than before. Clocks have no part in it. A state is replaced only by one whose (epoch, version, seq)
//! is not smaller. A snapshot says what is true as of its `seq`: records up to there are logged, and
//! change no container any more.
//!
//! # Invariants
//!
//! * `committed` of a stream only rises, by what was taken or by a hole that is told. A hole is what
//!   the node says it has no more, not what did not come yet.
//! * `hash` of a node is the sum of its entries' hashes, always.

mod node;
mod table;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

pub use self::{
    node::{Beat, ClockReport, LossReport, MAX_STREAMS, Node, Part, Position, Report, Session},
    table::{Entry, Stream},
};
use super::{
    liveness::{Change, Liveness},
    parse::Head,
};

/// Bounds of what nodes may take up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub nodes: usize,
    pub containers_per_node: usize,
}

/// The store's number of a node.
pub type NodeId = u32;

/// One row of the table of containers that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChange {
    /// Gets the record with this index of the batch.
    Put {
        row: i64,
        index: usize,
        entry: Entry,
    },
    /// Its container is no more; nobody told how it ended.
    Gone { row: i64 },
}

/// What the gateway itself has to tell about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    Reach {
        change: Change,
        reason: Option<String>,
    },
    /// Records that will never come.
    Hole {
        stream: Arc<str>,
        from: u64,
        to: u64,
        why: &'static str,
    },
    /// The table differed from the node's and was replaced.
    Repaired { changed: u64, removed: u64 },
}

/// What a call leads to.
#[derive(Debug, Default)]
pub struct Out {
    pub rows: Vec<RowChange>,
    pub own: Vec<Own>,
    /// Ask this node for a snapshot.
    pub snapshot: bool,
    /// Containers beyond the bound, not taken into the table.
    pub beyond: u64,
}

/// What became of a batch of records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Those before this index are held already.
    pub duplicates: usize,
    /// Indices of lines that are no records.
    pub malformed: Vec<usize>,
}

/// Records as a node sent them.
#[derive(Debug)]
pub struct Sent<'a> {
    /// What the node sent before them.
    pub after: u64,
    pub first: u64,
    /// `None` where a line is no record.
    pub heads: &'a [Option<Head>],
}

/// The records came before those that were sent before them: a hole would be invented, and what
/// fills it be taken for known.
#[derive(Debug, PartialEq, Eq)]
pub struct Overtaken;

/// Why a node is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    NameTaken,
    /// As many nodes as there may be.
    Full,
}

/// What a node says of itself first.
#[derive(Debug, Clone)]
pub struct Greeting {
    pub node: Arc<str>,
    pub stream: Arc<str>,
    pub process: String,
    pub boot_id: String,
    pub host_id: String,
    pub version: String,
}

/// All nodes.
#[derive(Debug)]
pub struct Fleet {
    nodes: BTreeMap<NodeId, Node>,
    names: BTreeMap<Arc<str>, NodeId>,
    next_node: NodeId,
    next_stream: i64,
    next_row: i64,
    limits: Limits,
}

impl Fleet {
    /// Knows nobody.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            nodes: BTreeMap::new(),
            names: BTreeMap::new(),
            next_node: 1,
            next_stream: 1,
            next_row: 1,
            limits,
        }
    }

    /// A node as the store has it.
    pub fn restore_node(&mut self, id: NodeId, name: Arc<str>, liveness: Liveness, report: Report) {
        let mut node = Node::new(Arc::clone(&name), liveness);
        node.report = report;
        self.names.insert(name, id);
        self.nodes.insert(id, node);
        self.next_node = self.next_node.max(id.saturating_add(1));
    }

    /// A stream as the store has it; that with the highest epoch is the current one.
    pub fn restore_stream(&mut self, id: NodeId, stream: Stream) {
        self.next_stream = self.next_stream.max(stream.id + 1);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.restore_stream(stream);
        }
    }

    /// A container as the store has it.
    pub fn restore_entry(&mut self, id: NodeId, key: u128, entry: Entry) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.table.insert(key, entry);
        }
    }

    /// The highest number of a row that the store ever gave.
    pub fn restore_last_row(&mut self, row: i64) {
        self.next_row = self.next_row.max(row + 1);
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    /// One node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// Lets a node in, or not; gives its number, and the session that makes way.
    ///
    /// # Errors
    ///
    /// [`Denied`].
    pub fn hello(
        &mut self,
        now: u64,
        greeting: Greeting,
        session: u64,
        out: &mut Out,
    ) -> Result<(NodeId, Option<u64>), Denied> {
        let id = match self.names.get(&greeting.node) {
            Some(id) => *id,
            None if self.nodes.len() >= self.limits.nodes => return Err(Denied::Full),
            None => self.add(&greeting.node),
        };
        let next_stream = &mut self.next_stream;
        let node = self.nodes.get_mut(&id).ok_or(Denied::Full)?;
        let old = node.claim(&greeting.process, session)?;
        node.speak(&greeting.stream, || {
            *next_stream += 1;
            *next_stream - 1
        });
        node.report.greet(greeting);
        node.hear(now, out);
        Ok((id, old))
    }

    fn add(&mut self, name: &Arc<str>) -> NodeId {
        let id = self.next_node;
        self.next_node = self.next_node.saturating_add(1);
        self.names.insert(Arc::clone(name), id);
        let node = Node::new(Arc::clone(name), Liveness::new());
        self.nodes.insert(id, node);
        id
    }

    /// Whether this session speaks for its node; whoever lost the name is not listened to.
    #[must_use]
    pub fn holds(&self, id: NodeId, session: u64) -> bool {
        let node = self.nodes.get(&id);
        node.is_some_and(|node| node.session.as_ref().is_some_and(|s| s.id == session))
    }

    /// Takes records.
    ///
    /// # Errors
    ///
    /// [`Overtaken`]: nothing was taken.
    pub fn records(
        &mut self,
        now: u64,
        id: NodeId,
        sent: &Sent<'_>,
        out: &mut Out,
    ) -> Result<Taken, Overtaken> {
        let limit = self.limits.containers_per_node;
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(Taken::default());
        };
        node.hear(now, out);
        node.records(now, sent, limit, &mut self.next_row, out)
    }

    /// Applies records of the log once more, at the start: those that the table had not got yet.
    pub fn replay(&mut self, id: NodeId, epoch: u32, heads: &[Option<Head>], out: &mut Out) {
        let limit = self.limits.containers_per_node;
        if let Some(node) = self.nodes.get_mut(&id) {
            for (index, head) in heads.iter().enumerate() {
                if let Some(head) = head {
                    node.apply(epoch, index, head, limit, &mut self.next_row, out);
                }
            }
        }
    }

    /// Takes a heartbeat.
    pub fn heartbeat(&mut self, now: u64, id: NodeId, report: Beat, out: &mut Out) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.hear(now, out);
            node.heartbeat(now, report, out);
        }
    }

    /// Takes a part of a snapshot.
    pub fn snapshot(&mut self, now: u64, id: NodeId, part: &Part<'_>, out: &mut Out) {
        let limit = self.limits.containers_per_node;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.hear(now, out);
            node.snapshot(part, limit, &mut self.next_row, out);
        }
    }

    /// Something came that says nothing but that the node is there.
    pub fn hear(&mut self, now: u64, id: NodeId, out: &mut Out) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.hear(now, out);
        }
    }

    /// An orderly end.
    pub fn goodbye(&mut self, id: NodeId, reason: &str, out: &mut Out) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.session = None;
            let reason = (!reason.is_empty()).then(|| reason.to_owned());
            if let Some(change) = node.liveness.goodbye() {
                out.own.push(Own::Reach { change, reason });
            }
        }
    }

    /// The connection is gone; whether the node is, time tells.
    pub fn closed(&mut self, id: NodeId, session: u64) {
        if self.holds(id, session)
            && let Some(node) = self.nodes.get_mut(&id)
        {
            node.session = None;
        }
    }

    /// Knows a node no more; gives its name.
    pub fn forget(&mut self, id: NodeId) -> Option<Arc<str>> {
        let node = self.nodes.remove(&id)?;
        self.names.remove(&node.name);
        Some(node.name)
    }

    /// Time went on; gives the nodes that became unreachable, with the session to end.
    pub fn tick(&mut self, now: u64) -> Vec<(NodeId, Own, Option<u64>)> {
        let mut silent = Vec::new();
        for (id, node) in &mut self.nodes {
            if let Some(change) = node.liveness.tick(now) {
                let session = node.session.take().map(|session| session.id);
                let own = Own::Reach {
                    change,
                    reason: None,
                };
                silent.push((*id, own, session));
            }
        }
        silent
    }
}
