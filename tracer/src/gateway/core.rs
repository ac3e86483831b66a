//! The writer: one thread that owns the fleet and the store.
//!
//! ```text
//!  sessions ─▶ bounded queue ─▶ fleet ─▶ one transaction ─▶ COMMIT ─▶ hub ─▶ readers
//!               (bytes, too)      all that waits shares it      │
//!                                                               └─▶ sync ─▶ acks · answers
//! ```
//!
//! There is no timer between records and their commit: what came during the last transaction is the
//! next one. Readers know of a record when it is committed: a kill takes nothing of it away. A node is
//! promised something when it is on the disk, which another thread sees to ([`sync`]); so records
//! go on to their readers while the disk turns.
//!
//! A transaction that fails (a full disk) takes everything back: memory is read from the store again,
//! sessions are ended, and nodes send from what is durable.

mod batch;
mod sync;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use self::sync::{Answer, Promised};
pub use self::{
    batch::{Batch, Permit},
    sync::Syncer,
};
use super::{
    fleet::{Beat, Fleet, Greeting, Limits, Node, NodeId, Out, Own, Part, RowChange, Sent},
    hub::{Hub, NodeView, StreamView},
    liveness::Reach,
    metrics::Metrics,
    outbox::Outbox,
    store::{LogRow, Packed, Piece, Put, Seen, Store, StoreError},
};
use crate::{
    gateway::parse::Head,
    time::{Timestamp, boot_now, wall_offset},
    uplink::{Refused, refused::Why},
};

/// From sessions to the writer.
#[derive(Debug)]
pub enum Input {
    Hello {
        greeting: Greeting,
        session: u64,
        outbox: Outbox,
        /// The node's number, and the newest record that is durable; after the commit.
        answer: Answer,
    },
    Records {
        node: NodeId,
        session: u64,
        batch: Batch,
    },
    Heartbeat {
        node: NodeId,
        session: u64,
        beat: Beat,
    },
    Snapshot {
        node: NodeId,
        session: u64,
        seq: u64,
        batch: Batch,
        last: bool,
    },
    Heard {
        node: NodeId,
        session: u64,
    },
    Goodbye {
        node: NodeId,
        session: u64,
        reason: String,
    },
    Closed {
        node: NodeId,
        session: u64,
    },
    /// Everything is committed, and the writer ends.
    Stop,
}

/// How the writer works.
#[derive(Debug, Clone)]
pub struct Settings {
    pub limits: Limits,
    /// Records older than this are taken away.
    pub keep: Duration,
    /// The log is kept below this size, bytes.
    pub keep_bytes: u64,
}

/// Inputs that share a transaction, at most.
const MAX_INPUTS: usize = 1024;
/// Bytes of records that share a transaction, at most.
const MAX_BYTES: usize = 8 << 20;
/// Up to so many changed containers are written with the records that changed them; more wait for
/// [`FOLLOW`], so that one that changes often is written once.
const WRITE_AT_ONCE: usize = 512;
/// The table follows the log within this time.
const FOLLOW: Duration = Duration::from_secs(1);
/// Changed containers that may wait.
const MAX_WAITING: usize = 50_000;
/// Between two looks at the clock where nothing comes.
const TICK: Duration = Duration::from_millis(500);
/// Between two looks at who is silent.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two steps of retention where there is nothing to take away.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);
/// Between two writings of when nodes were seen last.
const SEEN_EVERY: Duration = Duration::from_mins(1);
/// After a failed transaction.
const RETRY: Duration = Duration::from_secs(1);

/// An open session.
#[derive(Debug)]
struct Open {
    id: u64,
    outbox: Outbox,
}

/// The writer.
pub struct Core {
    settings: Settings,
    store: Store,
    fleet: Fleet,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    open: BTreeMap<NodeId, Open>,
    times: BTreeMap<NodeId, Seen>,
    syncer: Syncer,
    waiting: BTreeMap<i64, Put>,
    followed: Instant,
    looked: Instant,
    /// `None`: not since the start.
    expired: Option<Instant>,
    seen: Instant,
    started: Instant,
    turn: Turn,
}

/// What one transaction leads to once it is durable.
#[derive(Default)]
struct Turn {
    begun: bool,
    pieces: Vec<Piece>,
    /// By node: the session that sent, and the newest number.
    acks: BTreeMap<NodeId, (u64, u64)>,
    snapshots: BTreeSet<NodeId>,
    touched: BTreeSet<NodeId>,
    /// Their rows changed, or their streams'.
    dirty: BTreeSet<NodeId>,
    welcomes: Vec<(NodeId, Answer)>,
    /// Names of nodes that are no more.
    forgotten: Vec<Arc<str>>,
    permits: Vec<Permit>,
    bytes: usize,
    flush: bool,
}

/// Milliseconds since 1970.
#[must_use]
pub fn wall_ms() -> u64 {
    wall_offset().at(boot_now()).0 / 1_000_000
}

impl Core {
    /// Reads the store.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn new(
        mut store: Store,
        settings: Settings,
        hub: Arc<Hub>,
        metrics: Arc<Metrics>,
        syncer: Syncer,
    ) -> Result<Self, StoreError> {
        let started = Instant::now();
        let restored = store.restore(settings.limits, 0)?;
        let mut core = Self {
            settings,
            store,
            fleet: restored.fleet,
            hub,
            metrics,
            open: BTreeMap::new(),
            times: restored.seen.into_iter().collect(),
            syncer,
            waiting: restored
                .rows
                .into_iter()
                .map(|put| (put.row, put))
                .collect(),
            followed: started,
            looked: started,
            expired: None,
            seen: started,
            started,
            turn: Turn::default(),
        };
        core.publish_all();
        Ok(core)
    }

    fn publish_all(&mut self) {
        let ids: Vec<NodeId> = self.fleet.nodes().map(|(id, _)| id).collect();
        let views = ids.iter().filter_map(|id| self.view(*id)).collect();
        self.hub.put_nodes(views);
        self.hub.reset(self.store.tail().next);
        self.hub.set_ready(true);
    }

    /// Works until [`Input::Stop`], or until every sender is gone.
    pub fn run(mut self, mut inputs: mpsc::Receiver<Input>, runtime: &tokio::runtime::Handle) {
        loop {
            let first = runtime.block_on(async { tokio::time::timeout(TICK, inputs.recv()).await });
            let mut going_on = !matches!(first, Ok(None | Some(Input::Stop)));
            let mut result = match first {
                Ok(Some(input)) => self.take(input),
                _ => Ok(()),
            };
            let mut count = 1;
            while going_on && result.is_ok() && count < MAX_INPUTS && self.turn.bytes < MAX_BYTES {
                match inputs.try_recv() {
                    Ok(Input::Stop) => going_on = false,
                    Ok(input) => result = self.take(input),
                    Err(_) => break,
                }
                count += 1;
            }
            let result = result
                .and_then(|()| self.tick())
                .and_then(|()| self.finish(!going_on));
            match result {
                Err(StoreError::Disk) => going_on = false,
                Err(error) => self.recover(&error, runtime),
                Ok(()) => {}
            }
            if !going_on {
                return self.syncer.end();
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        if !self.turn.begun {
            self.store.begin()?;
            self.turn.begun = true;
        }
        Ok(())
    }

    fn take(&mut self, input: Input) -> Result<(), StoreError> {
        let (node, session) = match &input {
            Input::Records { node, session, .. }
            | Input::Heartbeat { node, session, .. }
            | Input::Snapshot { node, session, .. }
            | Input::Heard { node, session }
            | Input::Goodbye { node, session, .. }
            | Input::Closed { node, session } => (*node, *session),
            Input::Hello { .. } | Input::Stop => (0, 0),
        };
        if node != 0 {
            if !self.fleet.holds(node, session) {
                return Ok(());
            }
            self.saw(node);
        }
        let mut out = Out::default();
        let now = self.now();
        match input {
            Input::Stop => {}
            Input::Hello {
                greeting,
                session,
                outbox,
                answer,
            } => {
                return self.hello(greeting, session, outbox, answer);
            }
            Input::Records { batch, .. } => return self.records(node, session, batch),
            Input::Snapshot {
                seq, batch, last, ..
            } => return self.snapshot(node, seq, batch, last),
            Input::Heartbeat { beat, .. } => {
                self.metrics.heartbeats.inc();
                self.fleet.heartbeat(now, node, beat, &mut out);
            }
            Input::Heard { .. } => self.fleet.hear(now, node, &mut out),
            Input::Goodbye { reason, .. } => {
                self.fleet.goodbye(node, &reason, &mut out);
                self.close(node);
            }
            Input::Closed { .. } => {
                self.fleet.closed(node, session);
                self.close(node);
            }
        }
        self.carry_out(node, out, None)
    }

    fn saw(&mut self, node: NodeId) {
        let heard_s = self.store.age_s();
        let seen = Self::seen_of(&mut self.times, node, heard_s);
        seen.last_ms = wall_ms();
        seen.heard_s = heard_s;
        self.turn.touched.insert(node);
    }

    /// When it was what; new nodes are new now.
    fn seen_of(times: &mut BTreeMap<NodeId, Seen>, node: NodeId, heard_s: u64) -> &mut Seen {
        times.entry(node).or_insert_with(|| {
            let now = wall_ms();
            Seen {
                since_ms: now,
                first_ms: now,
                last_ms: now,
                heard_s,
            }
        })
    }

    fn close(&mut self, node: NodeId) {
        if let Some(open) = self.open.remove(&node) {
            open.outbox.close();
        }
    }

    fn hello(
        &mut self,
        greeting: Greeting,
        session: u64,
        outbox: Outbox,
        answer: Answer,
    ) -> Result<(), StoreError> {
        let mut out = Out::default();
        let (node, old) = match self.fleet.hello(self.now(), greeting, session, &mut out) {
            Ok(found) => found,
            Err(denied) => {
                // Whoever asked may be gone.
                drop(answer.send(Err(denied)));
                return Ok(());
            }
        };
        if old.is_some() {
            self.close(node);
        }
        self.begin()?;
        self.open.insert(
            node,
            Open {
                id: session,
                outbox,
            },
        );
        self.store.forget_streams(node)?;
        self.saw(node);
        self.turn.dirty.insert(node);
        self.turn.welcomes.push((node, answer));
        self.carry_out(node, out, None)
    }

    fn records(&mut self, node: NodeId, session: u64, mut batch: Batch) -> Result<(), StoreError> {
        self.begin()?;
        let mut out = Out::default();
        let now = self.now();
        let sent = Sent {
            after: batch.after_seq,
            first: batch.first_seq,
            heads: &batch.heads,
        };
        let Ok(taken) = self.fleet.records(now, node, &sent, &mut out) else {
            self.metrics.dropped("overtaken", batch.heads.len() as u64);
            self.send_back(node, session);
            return self.carry_out(node, out, None);
        };
        self.metrics.dropped("duplicate", taken.duplicates as u64);
        self.metrics
            .dropped("malformed", taken.malformed.len() as u64);
        let accepted = batch.accepted(&taken);
        let epoch = self
            .fleet
            .node(node)
            .and_then(|n| n.stream())
            .map_or(0, |s| s.epoch);
        if !accepted.is_empty() {
            let count = accepted.len() as u64;
            let lines = batch.lines(&accepted);
            let packed = batch.packed(&lines);
            let first = self.append(node, epoch, count, lines, &packed)?;
            self.metrics.stored.inc_by(count);
            batch.logged(first, accepted);
        }
        self.turn.bytes += batch.bytes();
        if let Some(stream) = self.fleet.node(node).and_then(|n| n.stream()) {
            self.turn.acks.insert(node, (session, stream.committed));
        }
        self.turn.dirty.insert(node);
        self.turn.permits.push(std::mem::take(&mut batch.permit));
        self.carry_out(node, out, Some(&batch))
    }

    /// Ends a session whose records came out of order: the node comes again and sends from what is
    /// durable.
    fn send_back(&mut self, node: NodeId, session: u64) {
        self.metrics.refused("overtaken");
        if let Some(open) = self.open.remove(&node) {
            open.outbox.refuse(Refused {
                why: Why::Busy.into(),
                detail: "records overtook each other".to_owned(),
            });
        }
        self.fleet.closed(node, session);
    }

    fn append(
        &mut self,
        node: NodeId,
        epoch: u32,
        count: u64,
        lines: bytes::Bytes,
        packed: &Packed,
    ) -> Result<u64, StoreError> {
        self.begin()?;
        let row = LogRow {
            node,
            epoch,
            count,
            lines: packed,
        };
        let first = self.store.append(wall_ms(), &row)?;
        let name = self.fleet.node(node).map(|node| node.name.to_string());
        self.turn.pieces.push(Piece {
            first,
            count,
            received: self.store.tail().received,
            node: name.unwrap_or_default(),
            lines,
        });
        Ok(first)
    }

    fn snapshot(
        &mut self,
        node: NodeId,
        seq: u64,
        mut batch: Batch,
        last: bool,
    ) -> Result<(), StoreError> {
        self.begin()?;
        let mut out = Out::default();
        let part = Part {
            seq,
            heads: &batch.heads,
            last,
        };
        let now = self.now();
        self.fleet.snapshot(now, node, &part, &mut out);
        self.metrics.snapshots.inc();
        self.turn.permits.push(std::mem::take(&mut batch.permit));
        self.turn.dirty.insert(node);
        // It is in no log: what it changed is written with it.
        self.turn.flush = true;
        self.carry_out(node, out, Some(&batch))
    }

    /// Does what the fleet wants done; `batch` is what its indices are of.
    fn carry_out(
        &mut self,
        node: NodeId,
        out: Out,
        batch: Option<&Batch>,
    ) -> Result<(), StoreError> {
        let received = self.store.tail().received.max(wall_ms());
        for change in out.rows {
            let put = match change {
                RowChange::Gone { row } => Put::gone(row, node, received),
                RowChange::Put { row, index, entry } => Put {
                    row,
                    node,
                    entry: Some(entry),
                    // A copy: a slice would keep the whole message.
                    line: bytes::Bytes::copy_from_slice(batch.map_or(&[], |b| b.line(index))),
                    at: batch.and_then(|batch| batch.number(index)),
                    received,
                },
            };
            // A row that is new and gone before it was written: its last record still tells of it.
            if put.entry.is_none()
                && let Some(known) = self.waiting.get_mut(&put.row)
                && let Some(entry) = known.entry.as_mut()
            {
                entry.state = crate::record::State::Removed;
                continue;
            }
            self.waiting.insert(put.row, put);
        }
        self.metrics.dropped("containers", out.beyond);
        if out.snapshot {
            self.turn.snapshots.insert(node);
        }
        for own in out.own {
            self.tell(node, &own)?;
        }
        Ok(())
    }

    fn tell(&mut self, node: NodeId, own: &Own) -> Result<(), StoreError> {
        if let Own::Reach { change, .. } = own {
            let heard_s = self.store.age_s();
            Self::seen_of(&mut self.times, node, heard_s).since_ms = wall_ms();
            tracing::info!(node = %self.name(node), state = change.is.as_str(), "node");
        }
        if let Own::Hole { from, to, .. } = own {
            self.metrics.missing.inc_by(to - from + 1);
        }
        let number = self.store.tail().next;
        let line = told::line(&self.hub.run, number, &self.name(node), own);
        self.turn.dirty.insert(node);
        self.turn.touched.insert(node);
        let line = bytes::Bytes::from(line);
        let packed = Packed::of(&line);
        self.append(node, 0, 1, line, &packed).map(|_first| ())
    }

    fn name(&self, node: NodeId) -> Arc<str> {
        let node = self.fleet.node(node);
        node.map_or_else(|| Arc::from(""), |node| Arc::clone(&node.name))
    }

    fn tick(&mut self) -> Result<(), StoreError> {
        // It goes through all nodes.
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            for (node, own, session) in self.fleet.tick(self.now()) {
                if session.is_some() {
                    self.close(node);
                }
                self.tell(node, &own)?;
            }
        }
        let keep = self.settings.keep;
        if self.store.is_mark_due(keep) {
            self.begin()?;
            self.store.mark()?;
        }
        // What is kept for seconds is not kept for half a minute more.
        let every = EXPIRE_EVERY.min(keep).max(FOLLOW);
        let due = self.expired.is_none_or(|last| last.elapsed() >= every);
        if due {
            self.begin()?;
            if !self.store.expire(keep, self.settings.keep_bytes)? {
                self.expired = Some(Instant::now());
                self.forget_nodes()?;
            }
        }
        if self.seen.elapsed() >= SEEN_EVERY {
            self.seen = Instant::now();
            self.turn.dirty.extend(self.times.keys());
        }
        Ok(())
    }

    /// Forgets nodes that were not heard for as long as records are kept, once the record that told
    /// of their end has gone as well.
    fn forget_nodes(&mut self) -> Result<(), StoreError> {
        let keep = self.settings.keep.as_secs();
        let Some(dead_s) = self.store.age_s().checked_sub(keep) else {
            return Ok(());
        };
        let oldest = self.store.oldest_received()?;
        let is_dead = |(id, node): (NodeId, &Node)| {
            let seen = self.times.get(&id)?;
            let is_gone = node.session.is_none() && node.liveness().reach() != Some(Reach::Online);
            let is_untold = oldest.is_none_or(|oldest| oldest > seen.since_ms);
            (is_gone && seen.heard_s < dead_s && is_untold).then_some(id)
        };
        let dead: Vec<NodeId> = self.fleet.nodes().filter_map(is_dead).collect();
        for id in dead {
            self.store.forget(id)?;
            self.times.remove(&id);
            self.turn.touched.remove(&id);
            self.turn.dirty.remove(&id);
            self.waiting.retain(|_, put| put.node != id);
            if let Some(name) = self.fleet.forget(id) {
                tracing::info!(
                    node = &*name,
                    "not heard for as long as records are kept: forgotten"
                );
                self.turn.forgotten.push(name);
            }
        }
        Ok(())
    }

    /// Makes the turn durable and lets everybody know.
    fn finish(&mut self, last: bool) -> Result<(), StoreError> {
        let few = self.waiting.len() <= WRITE_AT_ONCE;
        let due = self.followed.elapsed() >= FOLLOW || self.waiting.len() >= MAX_WAITING;
        let flush = few || due || self.turn.flush || last;
        if !self.turn.dirty.is_empty() || (flush && !self.waiting.is_empty()) {
            self.begin()?;
        }
        if self.turn.begun {
            let clock = Instant::now();
            for id in &self.turn.dirty {
                if let Some(node) = self.fleet.node(*id) {
                    let seen = self.times.get(id).copied().unwrap_or_default();
                    self.store.node(*id, node, seen)?;
                    if let Some(stream) = node.stream() {
                        self.store.stream(*id, stream)?;
                    }
                }
            }
            if flush {
                self.store.table(self.waiting.values())?;
                self.waiting.clear();
                self.followed = Instant::now();
            }
            self.store.commit()?;
            self.metrics.commits.observe(clock.elapsed().as_secs_f64());
        }
        self.hub.set_ready(true);
        self.publish()
    }

    /// Tells readers, and hands over what is promised to nodes.
    fn publish(&mut self) -> Result<(), StoreError> {
        let turn = std::mem::take(&mut self.turn);
        let views = turn
            .touched
            .iter()
            .filter_map(|id| self.view(*id))
            .collect();
        self.hub.put_nodes(views);
        self.hub.forget_nodes(&turn.forgotten);
        self.hub.publish(turn.pieces, self.store.tail().next);
        // What is in the log takes no memory here: the disk may take its time. How much a node may
        // have under way without an ack is bounded by its window.
        drop(turn.permits);
        self.metrics
            .log_bytes
            .set(i64::try_from(self.store.tail().bytes).unwrap_or(i64::MAX));
        for node in turn.snapshots {
            self.metrics.snapshots_wanted.inc();
            if let Some(open) = self.open.get(&node) {
                open.outbox.want_snapshot();
            }
        }
        let acks = turn.acks.into_iter().filter_map(|(node, (session, seq))| {
            let open = self.open.get(&node)?;
            // One that took its place in the meantime learns it from its Welcome.
            (open.id == session).then(|| (open.outbox.clone(), seq))
        });
        let welcomes = turn.welcomes.into_iter().map(|(node, answer)| {
            let stream = self.fleet.node(node).and_then(|node| node.stream());
            (answer, node, stream.map_or(0, |stream| stream.committed))
        });
        let promised = Promised {
            acks: acks.collect(),
            welcomes: welcomes.collect(),
        };
        self.syncer.promise(promised)
    }

    fn view(&self, id: NodeId) -> Option<NodeView> {
        let node = self.fleet.node(id)?;
        let seen = self.times.get(&id).copied().unwrap_or_default();
        let at = |ms: u64| Timestamp(ms.saturating_mul(1_000_000));
        let running = node.table().entries();
        Some(NodeView {
            name: Arc::clone(&node.name),
            state: node.liveness().reach(),
            since: at(seen.since_ms),
            first_seen: at(seen.first_ms),
            last_seen: at(seen.last_ms),
            connected: node.session.is_some(),
            containers: node.table().len() as u64,
            running: running
                .filter(|entry| entry.state == crate::record::State::Running)
                .count() as u64,
            stream: node.position().map(|position| StreamView {
                id: position.stream,
                epoch: position.epoch,
                seq: position.committed,
                missing: position.missing,
                unexplained: position.unexplained,
            }),
            report: node.report.clone(),
            outbox: self.open.get(&id).map(|open| open.outbox.clone()),
        })
    }

    /// Nothing in memory is trusted any more.
    fn recover(&mut self, error: &StoreError, runtime: &tokio::runtime::Handle) {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::error!(%error, cause, "a transaction failed: reading the store again");
        self.metrics.failed_commits.inc();
        self.hub.set_ready(false);
        self.turn = Turn::default();
        for (_, open) in std::mem::take(&mut self.open) {
            tracing::debug!(session = open.id, "ended");
            open.outbox.close();
        }
        loop {
            self.store.rollback();
            // Made inside: a timer needs the runtime that it is for.
            runtime.block_on(async { tokio::time::sleep(RETRY).await });
            match self.store.restore(self.settings.limits, self.now()) {
                Ok(restored) => {
                    self.fleet = restored.fleet;
                    self.times = restored.seen.into_iter().collect();
                    self.waiting = restored
                        .rows
                        .into_iter()
                        .map(|put| (put.row, put))
                        .collect();
                    break;
                }
                Err(error) => tracing::error!(%error, "the store cannot be read"),
            }
        }
        self.publish_all();
    }
}

/// Reads the heads of lines.
#[must_use]
pub fn heads(lines: &[bytes::Bytes]) -> Vec<Option<Head>> {
    lines.iter().map(|line| Head::parse(line)).collect()
}
