//! What an entry passes through: journal, recorder, engine, outlets; and what follows from it in the
//! kernel's tables.
//!
//! Lines go first: what an entry asks to be done (a cgroup to be forgotten, a freezer to be watched,
//! files to be looked for) takes system calls and wakes other threads, so it waits in [`Todo`]s until
//! the lines of the drain have left, or until [`MAX_TODO`] of them wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::BufWriter,
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context as _;
use tokio::io::unix::AsyncFd;
use tracer_common::CgroupKey;

use super::outlets::Outlets;
use crate::{
    clock::Reading,
    decode::{Mkdir, RawEvent, What, decode},
    engine::{Effect, Engine, Entry},
    enrich::Source,
    kernel::{freezers::Freezers, tables::Tables},
    lifecycle::{Action, Metadata},
    metadata::Question,
    metrics::Count,
    reconcile,
    record::{Clock, Kind, Node},
    recording::{Header, Recorder},
    state::Journal,
    time::{BootNs, Timestamp, boot_now},
};

/// What an entry passes through, apart from the ring so that a record can be borrowed from it.
pub(super) struct Core {
    pub(super) engine: Engine,
    pub(super) tables: Tables,
    pub(super) freezers: Option<AsyncFd<Freezers>>,
    pub(super) journal: Option<Journal>,
    pub(super) recorder: Option<Recorder<BufWriter<File>>>,
    pub(super) outlets: Outlets,
    pub(super) losses: Losses,
    /// Where each hierarchy is mounted.
    pub(super) mounts: BTreeMap<u32, PathBuf>,
    /// Drains in a row that found nothing.
    pub(super) quiet_drains: u32,
    pub(super) questions: std::sync::mpsc::SyncSender<Question>,
    /// Questions that found no place in the queue.
    pub(super) unasked: u64,
    /// What is to be done once the lines have left, in order.
    pub(super) todo: Vec<Todo>,
    /// What the ring told while a scan went on.
    pub(super) meanwhile: Option<Meanwhile>,
}

/// Something to be done once the lines have left.
pub(super) enum Todo {
    Act(Action),
    /// Nobody has to be asked about the container with this root any more.
    Gone(CgroupKey),
}

/// Beyond this the kernel side is not kept waiting for the end of a drain.
const MAX_TODO: usize = 256;

/// Cgroups that records were about while a scan went on.
#[derive(Debug, Default)]
pub(super) struct Meanwhile {
    pub(super) touched: BTreeSet<CgroupKey>,
    /// Those of them whose mkdir was among the records: all that there is to know is known.
    pub(super) born: BTreeSet<CgroupKey>,
}

impl Meanwhile {
    pub(super) fn note(&mut self, what: &What<'_>) {
        let cgroup = what.cgroup();
        self.touched.insert(cgroup);
        if matches!(what, What::Mkdir(_)) {
            self.born.insert(cgroup);
        }
    }
}

/// What is known to be lost.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Low half of each CPU's count, as the last record or reading said.
    pub(super) by_cpu: BTreeMap<u32, u32>,
    /// By name, what the stream has told of the programs that run.
    pub(super) told: BTreeMap<String, u64>,
    pub(super) last_record: BootNs,
    pub(super) repair: bool,
}

impl Losses {
    fn note(&mut self, entry: &Entry<'_>) {
        match entry {
            Entry::Raw(bytes) => {
                if let Ok(raw) = decode(bytes) {
                    self.by_cpu.insert(raw.cpu, raw.drops);
                    self.last_record = BootNs(raw.time_ns);
                }
            }
            Entry::Node(Kind::NodeGap, node) if node.sink.is_none() => {
                for (name, count) in &node.lost {
                    *self.told.entry(name.clone()).or_default() += count;
                }
            }
            _ => {}
        }
    }
}

/// Why an entry is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It happened.
    Live,
    /// The journal of a process before this one tells it: what it asked of the kernel, of files
    /// and of threads was asked then, or is asked by [`Engine::resume`].
    Again,
}

impl Core {
    /// Takes up one record of the ring.
    pub(super) fn record(&mut self, record: &[u8]) -> anyhow::Result<()> {
        if let Ok(RawEvent {
            cpu,
            drops,
            time_ns,
            what,
        }) = decode(record)
        {
            let known = self.losses.by_cpu.insert(cpu, drops).unwrap_or(0);
            if known != drops {
                self.tell_loss(BootNs(time_ns))?;
            }
            self.losses.last_record = BootNs(time_ns);
            if let Some(meanwhile) = &mut self.meanwhile {
                meanwhile.note(&what);
            }
            if let What::Mkdir(mkdir) = &what {
                self.complete_path(mkdir)?;
            }
        }
        self.outlets.metrics.add(Count::RingIn, 1);
        self.entry(&Entry::Raw(record))
    }

    /// Finds out what the kernel cut off a path.
    fn complete_path(&mut self, mkdir: &Mkdir<'_>) -> anyhow::Result<()> {
        let Some(parent) = self.engine.machine.lacks_parent(mkdir) else {
            return Ok(());
        };
        let mount = self.mounts.get(&parent.hierarchy);
        match mount.and_then(|mount| reconcile::resolve(mount, mkdir.path, parent.id)) {
            Some(path) => self.entry(&Entry::Path {
                cgroup: parent,
                path: path.into(),
            }),
            None => Ok(()),
        }
    }

    /// Looks for losses that no record followed.
    pub(super) fn read_losses(&mut self) -> anyhow::Result<()> {
        let mut lost = false;
        for (cpu, total) in (0..).zip(self.tables.lost(tracer_common::loss::TOTAL)?) {
            // The record's head carries the low half.
            let low = u32::try_from(total & u64::from(u32::MAX)).unwrap_or(0);
            lost |= self.losses.by_cpu.insert(cpu, low).unwrap_or(0) != low;
        }
        if lost {
            self.tell_loss(boot_now())?;
        }
        Ok(())
    }

    /// `node.gap`: how many of what, and between when.
    pub(super) fn tell_loss(&mut self, until: BootNs) -> anyhow::Result<()> {
        let losses = self.tables.losses()?;
        self.outlets.set_ring_losses(losses.values().sum());
        let lost: BTreeMap<String, u64> = losses
            .iter()
            .map(|(name, count)| {
                let told = self.losses.told.get(*name).copied().unwrap_or(0);
                ((*name).to_owned(), count.saturating_sub(told))
            })
            .filter(|(_, count)| *count != 0)
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        let metrics = &self.outlets.metrics;
        metrics.add(Count::RingLost, lost.values().sum());
        let since = self.engine.renderer.offset.at(self.losses.last_record);
        self.gap(since, until, lost, None)
    }

    /// Tells a gap; the table is repaired after it where it has to be.
    pub(super) fn gap(
        &mut self,
        since: Timestamp,
        until: BootNs,
        lost: BTreeMap<String, u64>,
        reason: Option<&str>,
    ) -> anyhow::Result<()> {
        let node = Node {
            lost,
            since: Some(since),
            until: Some(self.engine.renderer.offset.at(until)),
            reason: reason.map(str::to_owned),
            ..Node::default()
        };
        self.losses.repair |= node.needs_repair();
        let entry = Entry::Node(Kind::NodeGap, Box::new(node));
        self.losses.note(&entry);
        self.entry(&entry)
    }

    /// `node.clock`: how far the wall clock can be trusted, where that changed.
    pub(super) fn tell_clock(&mut self, reading: Reading) -> anyhow::Result<()> {
        let clock = Clock {
            synchronized: reading.synchronized,
            max_error_us: reading.max_error_us,
            source: reading.source.as_str().to_owned(),
        };
        self.outlets.set_clock(&clock);
        let node = Node {
            clock: Some(clock),
            ..Node::default()
        };
        self.node(Kind::NodeClock, Box::new(node))?;
        self.flush()
    }

    pub(super) fn read_freezers(&mut self) -> anyhow::Result<()> {
        let Some(freezers) = &mut self.freezers else {
            return Ok(());
        };
        let mut changes = Vec::new();
        freezers
            .get_mut()
            .read(|root, frozen| changes.push((root, frozen)));
        for (root, frozen) in changes {
            if let Some(meanwhile) = &mut self.meanwhile {
                meanwhile.touched.insert(root);
            }
            self.entry(&Entry::Freezer { root, frozen })?;
        }
        self.flush()
    }

    /// Takes up what files say of a container.
    pub(super) fn learn(&mut self, root: CgroupKey, metadata: Metadata) -> anyhow::Result<()> {
        self.entry(&Entry::Metadata {
            root,
            metadata: Arc::new(metadata),
        })?;
        self.flush()
    }

    pub(super) fn node(&mut self, kind: Kind, node: Box<Node>) -> anyhow::Result<()> {
        self.entry(&Entry::Node(kind, node))
    }

    /// One entry, first into the journal: from then on it counts as taken up. Its lines wait for
    /// [`Core::flush`].
    pub(super) fn entry(&mut self, entry: &Entry<'_>) -> anyhow::Result<()> {
        let now = boot_now();
        if let Some(journal) = &mut self.journal {
            journal.write(now, entry)?;
        }
        if let Some(recorder) = &mut self.recorder {
            recorder
                .write(now, entry)
                .context("cannot write the recording")?;
        }
        self.apply(now, entry, Mode::Live)
    }

    /// An entry of a process before this one.
    pub(super) fn again(&mut self, now: BootNs, entry: &Entry<'_>) -> anyhow::Result<()> {
        self.losses.note(entry);
        self.apply(now, entry, Mode::Again)
    }

    fn apply(&mut self, now: BootNs, entry: &Entry<'_>, mode: Mode) -> anyhow::Result<()> {
        let Self { todo, outlets, .. } = self;
        let step = self
            .engine
            .step(now, entry, |renderer, effect| match effect {
                Effect::Event(event) => {
                    outlets.add(renderer, &event, now);
                    if mode == Mode::Live && event.kind == Kind::Removed {
                        let gone = event.container.as_ref();
                        todo.extend(gone.map(|gone| Todo::Gone(gone.identity.cgroup)));
                    }
                }
                Effect::Act(action) if mode == Mode::Live => todo.push(Todo::Act(action)),
                Effect::Act(_) => {}
            });
        if let Err(error) = step {
            self.outlets.metrics.add(Count::RingUndecoded, 1);
            tracing::warn!(%error, "record of the kernel side not understood");
        }
        if self.todo.len() < MAX_TODO {
            return Ok(());
        }
        self.act()
    }

    /// Goes on with a table that a process before this one left, under this host as it is now.
    pub(super) fn resume(&mut self, on: super::Resumed) -> anyhow::Result<()> {
        let todo = &mut self.todo;
        self.engine
            .resume(on.host, on.identity, on.offset, |_, effect| {
                if let Effect::Act(action) = effect {
                    todo.push(Todo::Act(action));
                }
            });
        let done = self.act();
        if let Some(freezers) = &mut self.freezers {
            freezers.get_mut().read_all_again();
        }
        done
    }

    /// Does what waits to be done.
    fn act(&mut self) -> anyhow::Result<()> {
        for todo in std::mem::take(&mut self.todo) {
            match todo {
                Todo::Act(action) => self.act_on(action)?,
                Todo::Gone(root) => {
                    if let Err(error) = self.questions.try_send(Question::Gone(root)) {
                        tracing::debug!(%error, "not told that a container is gone");
                    }
                }
            }
        }
        Ok(())
    }

    fn act_on(&mut self, action: Action) -> anyhow::Result<()> {
        let freezers = self.freezers.as_mut().map(AsyncFd::get_mut);
        match (action, freezers) {
            (Action::Forget(cgroup), _) => self.tables.forget(cgroup)?,
            (Action::Enrich(ask), _) => {
                if self.questions.try_send(Question::Enrich(*ask)).is_err() {
                    self.unasked += 1;
                    tracing::warn!(
                        unasked = self.unasked,
                        "metadata not looked for: too many containers at once"
                    );
                }
            }
            (Action::WatchFreezer { root, path }, Some(freezers)) => freezers.watch(root, &path),
            (Action::UnwatchFreezer { root }, Some(freezers)) => freezers.unwatch(root),
            (Action::WatchFreezer { .. } | Action::UnwatchFreezer { .. }, None) => {}
        }
        Ok(())
    }

    /// A turn of the socket's readers.
    pub(super) fn serve_socket(&mut self) {
        let Self {
            outlets,
            engine,
            questions,
            ..
        } = self;
        if let Some(socket) = &mut outlets.socket {
            socket.turn(engine, |reader, ask| {
                questions.try_send(Question::Explain(reader, ask)).is_ok()
            });
        }
    }

    pub(super) fn explained(&mut self, reader: u64, files: &[Source]) {
        if let Some(socket) = &mut self.outlets.socket {
            socket.explained(reader, files);
        }
    }

    /// Hands the lines to the sinks, does what is to be done after that, and says what a sink lost
    /// once it takes lines again.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        loop {
            self.outlets.push();
            self.act()?;
            self.outlets.check()?;
            let Some(node) = self.outlets.take_lost() else {
                return Ok(());
            };
            tracing::error!(sink = ?node.sink, lost = ?node.lost, "not taken in time: records left out");
            self.node(Kind::NodeGap, Box::new(node))?;
        }
    }

    /// Begins a new journal where the old one has grown, unless the table is in doubt.
    pub(super) fn renew_journal(&mut self) -> anyhow::Result<()> {
        let newest = self.engine.machine.next_seq() - 1;
        let written = self.outlets.written(newest);
        let in_doubt = self.losses.repair || self.meanwhile.is_some();
        if let Some(journal) = &mut self.journal
            && !in_doubt
            && journal.has_grown(written, newest)
        {
            journal.begin_again(&head(&self.engine, &self.losses))?;
        }
        Ok(())
    }

    /// Begins a new journal because the head of the old one does not hold any more.
    pub(super) fn begin_journal_again(&mut self, unfinished: bool) -> anyhow::Result<()> {
        let Some(journal) = &mut self.journal else {
            return Ok(());
        };
        let mut head = head(&self.engine, &self.losses);
        head.unfinished = unfinished;
        journal.begin_again(&head)
    }

    /// The end: the journal is the table alone, on disk.
    pub(super) fn close_journal(&mut self) -> anyhow::Result<()> {
        let unfinished = self.losses.repair || self.meanwhile.is_some();
        let Some(journal) = &mut self.journal else {
            return Ok(());
        };
        let mut head = head(&self.engine, &self.losses);
        head.unfinished = unfinished;
        head.stopped = true;
        journal.begin_again(&head)?;
        journal.sync()
    }
}

/// The head of a journal that begins here.
pub(super) fn head<'a>(
    engine: &'a Engine,
    losses: &Losses,
) -> Header<&'a crate::lifecycle::Machine> {
    let mut head = Header::of(engine);
    head.told.clone_from(&losses.told);
    head.last_record = losses.last_record;
    head
}

impl reconcile::Watch for Tables {
    fn track(&mut self, cgroup: CgroupKey) {
        if let Err(error) = Self::track(self, cgroup) {
            tracing::error!(%error, id = cgroup.id, "cgroup cannot be watched");
        }
    }

    fn forget(&mut self, cgroup: CgroupKey) {
        if let Err(error) = Self::forget(self, cgroup) {
            tracing::error!(%error, id = cgroup.id, "cgroup cannot be let go");
        }
    }

    fn follow(&mut self, pid: u32, cgroup: CgroupKey, landed: bool) {
        if let Err(error) = Self::follow(self, pid, cgroup, landed) {
            tracing::error!(%error, pid, "process cannot be followed");
        }
    }
}
