//! What an entry passes through: journal, recorder, engine, outlets; and what follows from it in the
//! kernel's tables.
//!
//! Lines go first: what an entry asks to be done (a cgroup to be forgotten, a freezer to be watched,
//! files to be looked for) takes system calls and wakes other threads, so it waits in a list until
//! the lines of the drain have left, or until there are many.

use std::{collections::BTreeMap, fs::File, io::BufWriter, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use tracer_common::CgroupKey;

use super::{
    doing::{Doing, Pending},
    losses::{Losses, Meanwhile},
    outlets::Outlets,
};
use crate::{
    clock::Reading,
    decode::{Mkdir, RawEvent, What, decode},
    engine::{Engine, Entry},
    enrich::Source,
    lifecycle::{Metadata, Output},
    metrics::Count,
    reconcile,
    record::{Clock, Kind, Node},
    recording::{Header, Recorder},
    state::{Journal, Last},
    time::{BootNs, Timestamp, boot_now},
};

/// What an entry passes through, apart from the ring so that a record can be borrowed from it.
pub(super) struct Core {
    pub(super) engine: Engine,
    pub(super) journal: Option<Journal>,
    pub(super) recorder: Option<Recorder<BufWriter<File>>>,
    pub(super) outlets: Outlets,
    pub(super) losses: Losses,
    /// Where each hierarchy is mounted.
    pub(super) mounts: BTreeMap<u32, PathBuf>,
    /// Drains in a row that found nothing.
    pub(super) quiet_drains: u32,
    pub(super) doing: Doing,
    /// What the ring told while a scan went on.
    pub(super) meanwhile: Option<Meanwhile>,
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
        for (cpu, total) in (0..).zip(self.totals()?) {
            lost |= self.losses.by_cpu.insert(cpu, total).unwrap_or(0) != total;
        }
        if lost {
            self.tell_loss(boot_now())?;
        }
        Ok(())
    }

    /// What each CPU has lost, as the heads of records say it: the low half.
    fn totals(&self) -> anyhow::Result<Vec<u32>> {
        let low = |total: u64| u32::try_from(total & u64::from(u32::MAX)).unwrap_or(0);
        let totals = self.doing.tables.lost(tracer_common::loss::TOTAL)?;
        Ok(totals.into_iter().map(low).collect())
    }

    /// `node.gap`: how many of what, and between when.
    pub(super) fn tell_loss(&mut self, until: BootNs) -> anyhow::Result<()> {
        let losses = self.doing.tables.losses()?;
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
        let until = if self.losses.are_behind(&self.totals()?) {
            boot_now()
        } else {
            until
        };
        let since = self.engine.renderer.offset.at(self.losses.last_record);
        self.gap(Some(since), until, lost, None)
    }

    /// Tells a gap; the table is repaired after it where it has to be.
    pub(super) fn gap(
        &mut self,
        since: Option<Timestamp>,
        until: BootNs,
        lost: BTreeMap<String, u64>,
        reason: Option<&str>,
    ) -> anyhow::Result<()> {
        let until = self.engine.renderer.offset.at(until);
        let node = Node {
            lost,
            // The clock may have been set back, by a boot without a battery.
            since: since.map(|since| since.min(until)),
            until: Some(until),
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
        let Some(freezers) = &mut self.doing.freezers else {
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
        if matches!(entry, Entry::Programs(_)) {
            self.losses.note(entry);
        }
        if let Some(journal) = &mut self.journal {
            journal.write(now, entry);
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
        let Self {
            engine,
            doing,
            outlets,
            ..
        } = self;
        let mut done = Ok(());
        let step = engine.step(now, entry, |renderer, output| {
            match output {
                Output::Event(event) => {
                    outlets.add(renderer, event, now);
                    if mode == Mode::Live
                        && event.kind == Kind::Removed
                        && let Some(gone) = event.container
                    {
                        doing.add(Pending::Gone(gone.identity.cgroup));
                    }
                }
                Output::Act(action) if mode == Mode::Live => doing.add(Pending::Act(action)),
                Output::Act(_) => {}
            }
            if doing.is_full() && done.is_ok() {
                outlets.push();
                done = doing.act();
            }
        });
        if let Err(error) = step {
            outlets.metrics.add(Count::RingUndecoded, 1);
            tracing::warn!(%error, "record of the kernel side not understood");
        }
        done
    }

    /// Goes on with a table that a process before this one left, under this host as it is now.
    pub(super) fn resume(&mut self, on: super::Resumed) -> anyhow::Result<()> {
        let Self { engine, doing, .. } = self;
        let mut done = Ok(());
        engine.resume(on.host, on.identity, on.offset, |_, output| {
            if let Output::Act(action) = output {
                doing.add(Pending::Act(action));
            }
            if doing.is_full() && done.is_ok() {
                done = doing.act();
            }
        });
        let done = done.and_then(|()| self.act());
        if let Some(freezers) = &mut self.doing.freezers {
            freezers.get_mut().read_all_again();
        }
        done
    }

    /// Does what waits to be done, and asks what waits to be asked.
    pub(super) fn act(&mut self) -> anyhow::Result<()> {
        self.doing.act()?;
        let machine = &self.engine.machine;
        self.doing.asking.catch_up(|root| machine.question(root));
        Ok(())
    }

    /// A turn of the socket's readers.
    pub(super) fn serve_socket(&mut self) {
        let Self {
            outlets,
            engine,
            doing,
            ..
        } = self;
        if let Some(socket) = &mut outlets.socket {
            socket.turn(engine, |reader, ask| doing.asking.explain(reader, ask));
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

    /// Begins a new journal where the old one has grown, unless the table is in doubt; and where there
    /// is none.
    pub(super) fn renew_journal(&mut self) {
        let now = boot_now();
        let newest = self.engine.machine.next_seq() - 1;
        let in_doubt = self.is_in_doubt();
        let Some(journal) = &mut self.journal else {
            return;
        };
        let has_grown = || journal.has_grown(now, self.outlets.written(newest), newest);
        if journal.is_missing(now) || !in_doubt && has_grown() {
            let mut head = head(&self.engine, &self.losses);
            head.unfinished = in_doubt;
            journal.begin_again(now, &head);
        }
    }

    fn is_in_doubt(&self) -> bool {
        self.losses.repair || self.meanwhile.is_some()
    }

    /// Begins a new journal because the head of the old one does not hold any more.
    pub(super) fn begin_journal_again(&mut self, last: &Last) {
        let Some(journal) = &mut self.journal else {
            return;
        };
        let mut head = head(&self.engine, &self.losses);
        head.unfinished = last.unfinished;
        head.newest.clone_from(&last.raw);
        if !journal.begin_again(boot_now(), &head) {
            journal.set_aside();
        }
    }

    /// The end: the journal is on disk, and the table alone where that is enough.
    pub(super) fn close_journal(&mut self) {
        let in_doubt = self.is_in_doubt();
        let Some(journal) = &mut self.journal else {
            return;
        };
        let mut head = head(&self.engine, &self.losses);
        head.unfinished = in_doubt;
        head.stopped = true;
        let newest = self.engine.machine.next_seq() - 1;
        // Where a sink lacks records the old one stays: it has them, and says the same at more length.
        if self.outlets.written(newest) >= newest || journal.is_missing(boot_now()) {
            journal.begin_again(boot_now(), &head);
        }
        if let Err(error) = journal.sync() {
            tracing::error!(
                error = format!("{error:#}"),
                "after a power failure a new stream begins"
            );
        }
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
    head.programs.clone_from(&losses.programs);
    head
}
