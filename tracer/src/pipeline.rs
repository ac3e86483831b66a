//! The running daemon: the only place that waits.
//!
//! ```text
//!  ring ────┐                        ┌─▶ tables (what the kernel shall watch)
//!  freezers ┤                        ├─▶ freezers (what inotify shall watch)
//!  signals ─┼─▶ Wake ─▶ Entry ─▶ Engine ─▶ outlets ─▶ stdout · file · socket · upstreams
//!  sinks ───┤              │
//!  timers ──┤              ├─▶ journal (before anything follows)
//!  scans ───┘              └─▶ recorder
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
//! With a state directory the journal of the process before is replayed first ([`crate::state`]).
//! If the programs that it names are still attached, the ring has what happened since, and nothing
//! more is to be done. If not, `node.gap` tells the span, and the table is compared with the host.
//!
//! # Loss
//!
//! Each record carries what its CPU had lost by then; a step means a gap in front of it, told by
//! `node.gap` before it. After the drain the counters are read once more, for a loss that no record
//! followed. The table is then repaired by another scan ([`repair`]), which ends with
//! `node.resynced`.

#[cfg(feature = "upstream")]
mod anew;
mod asking;
mod begin;
mod core;
mod doing;
mod losses;
mod outlets;
mod repair;
mod service;
mod wait;

use std::{collections::BTreeMap, fs::File, os::fd::OwnedFd, sync::Arc, time::Duration};

use anyhow::Context as _;
use aya::programs::links::FdLink;
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::Instant,
};
use tracer_common::CgroupKey;

pub use self::begin::{Before, Resumed};
use self::{
    core::Core,
    losses::Losses,
    outlets::Outlets,
    wait::{arm, clock_set_timer, file_has_room, ready, socket_ready, until},
};
use crate::{
    clock::{Reading, Watch},
    config::Runtimes,
    engine::{Engine, Entry},
    enrich::{Source, Sources},
    filter::Filter,
    format::Format,
    kernel::{freezers, hierarchies::Hierarchies, load::Kernel, ring::Ring},
    lifecycle::{Metadata, Snapshot},
    metadata::Answer,
    metrics::Metrics,
    poll::poll_for,
    record::{Kind, Node},
    resident,
    sink::{
        file::FileSink,
        socket::Bound,
        stdout::{Reader, StdoutSink},
    },
    state::State,
    time::{boot_now, wall_offset},
};
#[cfg(feature = "upstream")]
use crate::{time::Timestamp, upstream::LostPlace};

/// What the pipeline is made of.
pub struct Parts {
    pub engine: Engine,
    pub kernel: Kernel,
    pub hierarchies: Hierarchies,
    pub filter: Filter,
    pub format: Format,
    pub stdout: Option<StdoutSink>,
    pub file: Option<FileSink>,
    /// For members of a group, with so many bytes of history.
    pub socket: Option<(Bound, usize)>,
    #[cfg(feature = "upstream")]
    pub uplink: Option<crate::upstream::Uplink>,
    /// Where to record everything, for `tracer replay`.
    pub record: Option<File>,
    /// Kept for the next process.
    pub state: Option<State>,
    /// What a process before this one left in it.
    pub before: Before,
    /// Id of the programs that are attached.
    pub programs: Arc<str>,
    pub metrics: Arc<Metrics>,
    /// Bulk records may wait in the ring without a wake-up.
    pub processes: bool,
    /// What `node.started` says.
    pub started: Box<Node>,
    /// Where runtimes keep their files.
    pub sources: Sources,
    /// Where they keep them besides, and where they listen.
    pub runtimes: Runtimes,
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
    /// The metadata thread has room for a question that waits.
    Taken,
    Stdout,
    File,
    Socket,
    Scanned(Snapshot),
    Reload,
    Alive,
    #[cfg(feature = "upstream")]
    LostPlace(LostPlace),
    HangUp,
    ClockSet,
    Clock(Reading),
    Timer,
    Terminate,
}

/// How long bulk records wait for company before the ring is drained anyway.
const BULK_DRAIN: Duration = Duration::from_millis(5);

/// The loop's state.
struct Live {
    core: Core,
    ring: AsyncFd<Ring>,
    hierarchies: Hierarchies,
    clock_set: AsyncFd<OwnedFd>,
    clock: Watch,
    /// Standard output once more, to learn that its reader is gone while nothing is written.
    hang_up: Option<AsyncFd<OwnedFd>>,
    processes: bool,
    answers: mpsc::Receiver<Answer>,
    scans: repair::Scans,
    service: service::Service,
    /// Keep the programs attached.
    _links: Vec<FdLink>,
    /// Nobody else may use it.
    state: Option<State>,
    /// What `node.started` says.
    #[cfg(feature = "upstream")]
    started: Box<Node>,
    /// When the process before told its last record, where its stream goes on in this one.
    #[cfg(feature = "upstream")]
    left_at: Option<Timestamp>,
}

/// The signals that the loop answers to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let on = |kind, name| signal(kind).with_context(|| format!("cannot handle {name}"));
        Ok(Self {
            terminate: on(SignalKind::terminate(), "SIGTERM")?,
            interrupt: on(SignalKind::interrupt(), "SIGINT")?,
            hangup: on(SignalKind::hangup(), "SIGHUP")?,
        })
    }
}

/// Runs until a signal or until the reader is gone.
///
/// # Errors
///
/// Whatever ends the daemon before that.
pub async fn run(parts: Parts) -> anyhow::Result<End> {
    let mut signals = Signals::new()?;
    let mut live = Live::begin(parts)?;
    service::ready();
    if let Err(error) = resident::shed() {
        tracing::debug!(%error, "what the start needed stays in memory");
    }
    let end = loop {
        if live.core.outlets.reader == Reader::Gone {
            break End::ReaderGone;
        }
        match live.wait(&mut signals).await? {
            Wake::Ring | Wake::Timer => live.drain()?,
            Wake::Freezers => live.core.read_freezers()?,
            Wake::Metadata(root, metadata) => live.core.learn(root, metadata)?,
            Wake::Explained(reader, files) => live.core.explained(reader, &files),
            Wake::Taken => live.core.act()?,
            Wake::Stdout | Wake::File => live.core.flush()?,
            Wake::Socket => live.core.serve_socket(),
            Wake::Scanned(snapshot) => live.scanned(snapshot)?,
            Wake::ClockSet => live.clock_was_set()?,
            Wake::Clock(reading) => live.core.tell_clock(reading)?,
            Wake::Reload => live.reload(),
            Wake::Alive => service::alive(),
            #[cfg(feature = "upstream")]
            Wake::LostPlace(lost) => live.begin_anew(lost).await?,
            Wake::HangUp => break End::ReaderGone,
            Wake::Terminate => break End::Signal,
        }
    };
    service::stopping();
    live.stop(end)?;
    Ok(end)
}

impl Live {
    /// Waits for the next thing to do.
    async fn wait(&mut self, signals: &mut Signals) -> anyhow::Result<Wake> {
        let timer = self.timer()?;
        let waits_on = self.core.outlets.stdout.as_ref();
        let stdout = match waits_on.and_then(StdoutSink::waits_on) {
            Some(fd) => Some(poll_for(fd.try_clone_to_owned()?, Interest::WRITABLE)?),
            None => None,
        };
        #[cfg(feature = "upstream")]
        let lost_place = anew::lost_place(self.core.outlets.uplink.as_mut());
        #[cfg(not(feature = "upstream"))]
        let lost_place = std::future::pending::<Wake>();
        let wake = tokio::select! {
            biased;
            // First, so that no storm keeps tracer from ending.
            _ = signals.terminate.recv() => Wake::Terminate,
            _ = signals.interrupt.recv() => Wake::Terminate,
            ready = self.ring.readable() => { ready?.clear_ready(); Wake::Ring }
            ready = ready(self.core.doing.freezers.as_ref(), Interest::READABLE) => { ready?; Wake::Freezers }
            Some(answer) = self.answers.recv() => match answer {
                Answer::Enriched(root, metadata) => Wake::Metadata(root, metadata),
                Answer::Explained(reader, files) => Wake::Explained(reader, files),
                Answer::Taken => Wake::Taken,
            },
            Some(snapshot) = self.scans.done.recv() => Wake::Scanned(snapshot),
            ready = ready(stdout.as_ref(), Interest::WRITABLE) => { ready?; Wake::Stdout }
            () = file_has_room(self.core.outlets.file.as_ref()) => Wake::File,
            () = socket_ready(self.core.outlets.socket.as_mut()) => Wake::Socket,
            ready = ready(self.hang_up.as_ref(), Interest::ERROR) => { ready?; Wake::HangUp }
            ready = self.clock_set.readable() => { ready?.clear_ready(); Wake::ClockSet }
            reading = self.clock.changed() => Wake::Clock(reading),
            _ = signals.hangup.recv() => Wake::Reload,
            () = self.service.due() => Wake::Alive,
            wake = lost_place => wake,
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
        let freezers = self.core.doing.freezers.as_ref();
        if freezers.is_some_and(|freezers| freezers.get_ref().has_to_read_again()) {
            at_latest(freezers::AGAIN);
        }
        if self.processes {
            if self.core.quiet_drains < QUIET_DRAINS {
                at_latest(BULK_DRAIN);
            } else {
                self.core.doing.tables.announce_idle()?;
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
        // A record's place in the ring is given back when it is dropped: after it is in the journal.
        while let Some(record) = ring.next()? {
            taken += 1;
            self.core.record(&record)?;
        }
        self.core.quiet_drains = match taken {
            0 => self.core.quiet_drains.saturating_add(1),
            _ => 0,
        };
        let deadline = self.core.engine.machine.deadline();
        if deadline.is_some_and(|deadline| deadline <= boot_now()) {
            self.core.entry(&Entry::Tick)?;
        }
        self.core.flush()?;
        self.core.read_freezers()?;
        self.core.read_losses()?;
        self.repair_if_needed()?;
        self.core.flush()?;
        self.core.renew_journal();
        Ok(())
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

    /// SIGHUP: what can be opened again is.
    fn reload(&self) {
        if let Some(file) = &self.core.outlets.file {
            file.reopen();
        }
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
        let outlets = &mut self.core.outlets;
        if let Some(stdout) = &mut outlets.stdout {
            stdout.finish(LAST_WORDS)?;
        }
        if let Some(file) = &mut outlets.file {
            file.finish(LAST_WORDS);
        }
        if let Some(socket) = &mut outlets.socket {
            socket.finish(LAST_WORDS_SOCKET);
        }
        #[cfg(feature = "upstream")]
        if let Some(uplink) = outlets.uplink.take() {
            uplink.stop(LAST_WORDS_UPSTREAM);
        }
        self.core.close_journal();
        if let Some(recorder) = &mut self.core.recorder {
            recorder.flush().context("cannot write the recording")?;
        }
        Ok(())
    }
}

/// Empty drains after which the reader sleeps until a bulk record wakes it.
const QUIET_DRAINS: u32 = 4;

/// How long the reader has at the end to take what is queued.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Likewise all readers of the socket together.
const LAST_WORDS_SOCKET: Duration = Duration::from_millis(500);

/// Likewise all upstreams together; what they do not take stays in the spool.
#[cfg(feature = "upstream")]
const LAST_WORDS_UPSTREAM: Duration = Duration::from_secs(3);
