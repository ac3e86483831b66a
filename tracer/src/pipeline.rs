//! The running daemon: the only place that waits.
//!
//! ```text
//!  ring ────┐                        ┌─▶ tables (what the kernel shall watch)
//!  freezers ┤                        ├─▶ freezers (what inotify shall watch)
//!  signals ─┼─▶ Wake ─▶ Entry ─▶ Engine ─▶ filter ─▶ format ─▶ stdout
//!  stdout ──┤              │
//!  timers ──┘              └─▶ recorder
//! ```
//!
//! One task on one thread: an event goes from the ring to the reader's pipe without a hand-over. The
//! ring is drained as a whole per wake-up, each record applied on its own, and the lines of a drain
//! are written together.
//!
//! # Start
//!
//! Programs are attached first, then the host is scanned while the ring collects, then the scan is
//! applied, then what the ring collected: `node.synced`. Cgroups whose mkdir is in the ring are not
//! taken from the scan, so nothing is discovered that was seen being created.
//!
//! # Loss
//!
//! Each record carries what its CPU had lost by then; a step means a gap in front of it, told by
//! `node.gap` before it. After the drain the counters are read once more, for a loss that no record
//! followed. The table is then repaired by another scan, which ends with `node.resynced`.

mod core;
mod wait;

use std::{fs::File, io::BufWriter, os::fd::OwnedFd, sync::Arc, time::Duration};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::Instant,
};
use tracer_common::CgroupKey;

use self::{
    core::{Core, Losses},
    wait::{arm, ask_on_a_thread, clock_set_timer, poll_for, ready, socket_ready, until},
};
use crate::{
    clock::{Reading, Watch},
    decode::{What, decode},
    engine::{Engine, Entry},
    enrich::{Source, Sources},
    filter::Filter,
    format::Format,
    kernel::{
        freezers::{self, Freezers},
        hierarchies::Hierarchies,
        load::Kernel,
    },
    lifecycle::Metadata,
    metadata::Answer,
    metrics::Metrics,
    reconcile,
    record::{Kind, Node, Origin},
    recording::Recorder,
    sink::{
        socket::{Bound, SocketSink},
        stdout::{Reader, StdoutSink},
    },
    time::{boot_now, wall_offset},
};

/// What the pipeline is made of.
pub struct Parts {
    pub engine: Engine,
    pub kernel: Kernel,
    pub hierarchies: Hierarchies,
    pub filter: Filter,
    pub format: Format,
    pub sink: StdoutSink,
    /// For members of a group, with so many bytes of history.
    pub socket: Option<(Bound, usize)>,
    pub recorder: Option<Recorder<BufWriter<File>>>,
    #[cfg(feature = "upstream")]
    pub uplink: Option<crate::upstream::Uplink>,
    pub metrics: Arc<Metrics>,
    /// Bulk records may wait in the ring without a wake-up.
    pub processes: bool,
    /// What `node.started` says.
    pub started: Box<Node>,
    /// Where runtimes keep their files.
    pub sources: Sources,
}

/// Why the daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGTERM or SIGINT.
    Signal,
    /// Nobody reads any more.
    ReaderGone,
}

/// What woke the loop.
enum Wake {
    Ring,
    Freezers,
    Metadata(CgroupKey, Metadata),
    Explained(u64, Vec<Source>),
    Stdout,
    Socket,
    HangUp,
    ClockSet,
    Clock(Reading),
    Timer,
    Terminate,
}

/// How long bulk records wait for company before the ring is drained anyway.
const BULK_DRAIN: Duration = Duration::from_millis(5);

/// Scans per repair: each covers what the ring told during the one before.
const MAX_SCANS: u32 = 3;

/// The loop's state.
struct Live {
    core: Core,
    ring: AsyncFd<RingBuf<MapData>>,
    hierarchies: Hierarchies,
    clock_set: AsyncFd<OwnedFd>,
    clock: Watch,
    /// Standard output once more, to learn that its reader is gone while nothing is written.
    hang_up: Option<AsyncFd<OwnedFd>>,
    processes: bool,
    started: Option<Box<Node>>,
    answers: mpsc::Receiver<Answer>,
    _programs: Ebpf,
}

/// Runs until a signal or until the reader is gone.
///
/// # Errors
///
/// Whatever ends the daemon before that.
pub async fn run(parts: Parts) -> anyhow::Result<End> {
    let mut live = Live::new(parts)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    live.start()?;
    let end = loop {
        if live.core.reader == Reader::Gone {
            break End::ReaderGone;
        }
        match live.wait(&mut terminate, &mut interrupt).await? {
            Wake::Ring | Wake::Timer => live.drain()?,
            Wake::Freezers => live.core.read_freezers()?,
            Wake::Metadata(root, metadata) => live.core.learn(root, metadata)?,
            Wake::Explained(reader, files) => live.core.explained(reader, &files),
            Wake::Stdout => live.core.flush()?,
            Wake::Socket => live.core.serve_socket(),
            Wake::ClockSet => live.clock_was_set()?,
            Wake::Clock(reading) => live.core.tell_clock(reading)?,
            Wake::HangUp => break End::ReaderGone,
            Wake::Terminate => break End::Signal,
        }
    };
    live.stop(end)?;
    Ok(end)
}

impl Live {
    fn new(parts: Parts) -> anyhow::Result<Self> {
        let freezers = match parts.hierarchies.freezer() {
            Some(hierarchy) => {
                let freezers = Freezers::new(hierarchy.clone()).context("cannot use inotify")?;
                Some(poll_for(freezers, Interest::READABLE)?)
            }
            None => None,
        };
        let hang_up = match parts.sink.hangs_up() {
            Some(fd) => Some(poll_for(fd.try_clone_to_owned()?, Interest::ERROR)?),
            None => None,
        };
        let (questions, answers) = ask_on_a_thread(parts.sources)?;
        let socket = match parts.socket {
            Some((bound, history_bytes)) => {
                Some(SocketSink::new(bound, history_bytes).context("cannot serve the socket")?)
            }
            None => None,
        };
        let clock_set = clock_set_timer().context("cannot watch the clock")?;
        let Kernel {
            tables,
            ring,
            programs,
            #[cfg(feature = "log")]
            log,
            ..
        } = parts.kernel;
        #[cfg(feature = "log")]
        wait::follow_log(poll_for(log, Interest::READABLE)?);
        Ok(Self {
            core: Core {
                engine: parts.engine,
                tables,
                freezers,
                filter: parts.filter,
                format: parts.format,
                sink: parts.sink,
                recorder: parts.recorder,
                losses: Losses::default(),
                lines: Vec::new(),
                records: 0,
                reader: Reader::There,
                quiet_drains: 0,
                socket,
                #[cfg(feature = "upstream")]
                uplink: parts.uplink,
                metrics: parts.metrics,
                fed: Vec::new(),
                questions,
                unasked: 0,
            },
            answers,
            ring: poll_for(ring, Interest::READABLE)?,
            _programs: programs,
            hierarchies: parts.hierarchies,
            clock_set: poll_for(clock_set, Interest::READABLE)?,
            clock: Watch::start().context("cannot watch the clock")?,
            hang_up,
            processes: parts.processes,
            started: Some(parts.started),
        })
    }

    /// Tells what is attached, and what is there.
    fn start(&mut self) -> anyhow::Result<()> {
        let now = boot_now();
        self.core.losses.last_record = now;
        if let Some(started) = self.started.take() {
            self.core.node(Kind::NodeStarted, started)?;
        }
        self.sync(Origin::Snapshot)?;
        self.core.node(Kind::NodeSynced, Box::default())?;
        self.core.flush()
    }

    /// Waits for the next thing to do.
    async fn wait(
        &mut self,
        terminate: &mut Signal,
        interrupt: &mut Signal,
    ) -> anyhow::Result<Wake> {
        let timer = self.timer()?;
        let stdout = match self.core.sink.waits_on() {
            Some(fd) => Some(poll_for(fd.try_clone_to_owned()?, Interest::WRITABLE)?),
            None => None,
        };
        let wake = tokio::select! {
            biased;
            // First, so that no storm keeps tracer from ending.
            _ = terminate.recv() => Wake::Terminate,
            _ = interrupt.recv() => Wake::Terminate,
            ready = self.ring.readable() => { ready?.clear_ready(); Wake::Ring }
            ready = ready(self.core.freezers.as_ref(), Interest::READABLE) => { ready?; Wake::Freezers }
            Some(answer) = self.answers.recv() => match answer {
                Answer::Enriched(root, metadata) => Wake::Metadata(root, metadata),
                Answer::Explained(reader, files) => Wake::Explained(reader, files),
            },
            ready = ready(stdout.as_ref(), Interest::WRITABLE) => { ready?; Wake::Stdout }
            () = socket_ready(self.core.socket.as_mut()) => Wake::Socket,
            ready = ready(self.hang_up.as_ref(), Interest::ERROR) => { ready?; Wake::HangUp }
            ready = self.clock_set.readable() => { ready?.clear_ready(); Wake::ClockSet }
            reading = self.clock.changed() => Wake::Clock(reading),
            () = until(timer) => Wake::Timer,
        };
        Ok(wake)
    }

    /// When to wake without being woken: for an init that never executes anything, for a freezer on
    /// its way, and for bulk records, which do not wake the reader one by one. When no bulk record
    /// came for a while the reader asks to be woken by the next and sleeps without a timer.
    fn timer(&mut self) -> anyhow::Result<Option<Instant>> {
        let mut timer = self.core.engine.machine.deadline().map(|deadline| {
            Instant::now() + Duration::from_nanos(deadline.since(boot_now()).saturating_add(1))
        });
        let mut at_latest = |after: Duration| {
            let then = Instant::now() + after;
            timer = Some(timer.map_or(then, |timer| timer.min(then)));
        };
        let freezers = self.core.freezers.as_ref();
        if freezers.is_some_and(|freezers| freezers.get_ref().has_to_read_again()) {
            at_latest(freezers::AGAIN);
        }
        if self.processes {
            if self.core.quiet_drains < QUIET_DRAINS {
                at_latest(BULK_DRAIN);
            } else {
                self.core.tables.announce_idle()?;
                // Records that came before the announcement do not wake anyone.
                self.drain()?;
                if self.core.quiet_drains < QUIET_DRAINS {
                    at_latest(BULK_DRAIN);
                }
            }
        }
        Ok(timer)
    }

    /// Takes everything out of the ring, then whatever else is due.
    fn drain(&mut self) -> anyhow::Result<()> {
        let ring = self.ring.get_mut();
        let mut taken = 0_u64;
        while let Some(record) = ring.next() {
            taken += 1;
            self.core.record(&record)?;
            if self.core.lines.len() >= BATCH_BYTES {
                self.core.flush()?;
            }
        }
        self.core.quiet_drains = match taken {
            0 => self.core.quiet_drains.saturating_add(1),
            _ => 0,
        };
        let deadline = self.core.engine.machine.deadline();
        if deadline.is_some_and(|deadline| deadline <= boot_now()) {
            self.core.entry(&Entry::Tick)?;
        }
        self.core.read_freezers()?;
        self.core.flush()?;
        self.core.read_losses()?;
        if std::mem::take(&mut self.core.losses.repair) {
            self.repair()?;
        }
        self.core.flush()
    }

    /// After a loss: the table is compared with the host until the ring had nothing newer to say
    /// about what was compared.
    fn repair(&mut self) -> anyhow::Result<()> {
        for _ in 0..MAX_SCANS {
            if !self.sync(Origin::Reconcile)? {
                break;
            }
        }
        self.core.node(Kind::NodeResynced, Box::default())
    }

    /// Scans the host, then applies the scan, then what the ring collected meanwhile. True if that
    /// was about containers that the table already had.
    fn sync(&mut self, origin: Origin) -> anyhow::Result<bool> {
        let mut snapshot = reconcile::scan(&self.hierarchies, &mut self.core.tables);
        let mut collected: Vec<Box<[u8]>> = Vec::new();
        let ring = self.ring.get_mut();
        while let Some(record) = ring.next() {
            let Ok(raw) = decode(&record) else { continue };
            let cgroup = raw.what.cgroup();
            snapshot.touched.insert(cgroup);
            if matches!(raw.what, What::Mkdir(_)) {
                snapshot.born.insert(cgroup);
            }
            collected.push((*record).into());
        }
        let known = |root: &CgroupKey| self.core.engine.machine.holds(*root);
        let overtaken = snapshot.touched.iter().any(known);
        self.core
            .entry(&Entry::Snapshot(Arc::new(snapshot), origin))?;
        for record in collected {
            self.core.record(&record)?;
        }
        Ok(overtaken)
    }

    /// The wall clock was set: times of later records use the new offset.
    fn clock_was_set(&mut self) -> anyhow::Result<()> {
        // Reading clears the cancellation, setting arms it again.
        let mut expirations = [0; 8];
        if let Err(error) = rustix::io::read(self.clock_set.get_ref(), &mut expirations) {
            tracing::debug!(%error, "the wall clock was set");
        }
        arm(self.clock_set.get_ref())?;
        self.clock.look();
        self.core.entry(&Entry::Offset(wall_offset()))
    }

    fn stop(&mut self, end: End) -> anyhow::Result<()> {
        self.drain()?;
        let node = Node {
            reason: Some(
                match end {
                    End::Signal => "signal",
                    End::ReaderGone => "reader gone",
                }
                .to_owned(),
            ),
            ..Node::default()
        };
        self.core.node(Kind::NodeStopped, Box::new(node))?;
        self.core.flush()?;
        self.core.sink.finish(LAST_WORDS)?;
        if let Some(socket) = &mut self.core.socket {
            socket.finish(LAST_WORDS_SOCKET);
        }
        #[cfg(feature = "upstream")]
        if let Some(uplink) = self.core.uplink.take() {
            uplink.stop(LAST_WORDS_UPSTREAM);
        }
        if let Some(recorder) = &mut self.core.recorder {
            recorder.flush().context("cannot write the recording")?;
        }
        Ok(())
    }
}

/// Lines that are written together at most.
const BATCH_BYTES: usize = 64 << 10;

/// Empty drains after which the reader sleeps until a bulk record wakes it.
const QUIET_DRAINS: u32 = 4;

/// How long the reader has at the end to take what is queued.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Likewise all readers of the socket together.
const LAST_WORDS_SOCKET: Duration = Duration::from_millis(500);

/// Likewise all upstreams together; what they do not take stays in the spool.
#[cfg(feature = "upstream")]
const LAST_WORDS_UPSTREAM: Duration = Duration::from_secs(3);
