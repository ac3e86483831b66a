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

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter},
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tracer_common::CgroupKey;

use crate::{
    decode::{RawEvent, What, decode},
    engine::{Effect, Engine, Entry},
    enrich::{Source, Sources},
    filter::Filter,
    format::Format,
    kernel::{
        freezers::{self, Freezers},
        hierarchies::Hierarchies,
        load::{Kernel, Tables},
    },
    lifecycle::{Action, Metadata},
    metadata::{self, Answer, Question},
    reconcile,
    record::{Kind, Node, Origin, Record},
    recording::Recorder,
    sink::{
        socket::{Bound, SocketSink},
        stdout::{Reader, StdoutSink},
    },
    time::{BootNs, boot_now, wall_offset},
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
    /// Standard output once more, to learn that its reader is gone while nothing is written.
    hang_up: Option<AsyncFd<OwnedFd>>,
    processes: bool,
    started: Option<Box<Node>>,
    answers: mpsc::Receiver<Answer>,
    _programs: Ebpf,
}

/// What an entry passes through, apart from the ring so that a record can be borrowed from it.
struct Core {
    engine: Engine,
    tables: Tables,
    freezers: Option<AsyncFd<Freezers>>,
    filter: Filter,
    format: Format,
    sink: StdoutSink,
    recorder: Option<Recorder<BufWriter<File>>>,
    losses: Losses,
    lines: Vec<u8>,
    records: u64,
    reader: Reader,
    /// Drains in a row that found nothing.
    quiet_drains: u32,
    socket: Option<SocketSink>,
    /// Records for the socket, with the place of their lines in `lines`, if they have any.
    fed: Vec<(Record, Range<usize>)>,
    questions: std::sync::mpsc::SyncSender<Question>,
    /// Questions that found no place in the queue.
    unasked: u64,
}

/// What is known to be lost.
#[derive(Debug, Default)]
struct Losses {
    /// Low half of each CPU's count, as the last record or reading said.
    by_cpu: BTreeMap<u32, u32>,
    told: BTreeMap<&'static str, u64>,
    last_record: BootNs,
    repair: bool,
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
        follow_log(poll_for(log, Interest::READABLE)?);
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
                fed: Vec::new(),
                questions,
                unasked: 0,
            },
            answers,
            ring: poll_for(ring, Interest::READABLE)?,
            _programs: programs,
            hierarchies: parts.hierarchies,
            clock_set: poll_for(clock_set, Interest::READABLE)?,
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
            () = until(timer) => Wake::Timer,
            _ = terminate.recv() => Wake::Terminate,
            _ = interrupt.recv() => Wake::Terminate,
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
        if let Some(recorder) = &mut self.core.recorder {
            recorder.flush().context("cannot write the recording")?;
        }
        Ok(())
    }
}

impl Core {
    /// Takes up one record of the ring.
    fn record(&mut self, record: &[u8]) -> anyhow::Result<()> {
        if let Ok(RawEvent {
            cpu,
            drops,
            time_ns,
            ..
        }) = decode(record)
        {
            let known = self.losses.by_cpu.insert(cpu, drops).unwrap_or(0);
            if known != drops {
                self.tell_loss(BootNs(time_ns))?;
            }
            self.losses.last_record = BootNs(time_ns);
        }
        self.entry(&Entry::Raw(record))
    }

    /// Looks for losses that no record followed.
    fn read_losses(&mut self) -> anyhow::Result<()> {
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
    fn tell_loss(&mut self, until: BootNs) -> anyhow::Result<()> {
        let losses = self.tables.losses()?;
        let lost: BTreeMap<String, u64> = losses
            .iter()
            .map(|(name, count)| {
                let told = self.losses.told.get(name).copied().unwrap_or(0);
                (*name, count.saturating_sub(told))
            })
            .filter(|(_, count)| *count != 0)
            .map(|(name, count)| (name.to_owned(), count))
            .collect();
        self.losses.told = losses;
        if lost.is_empty() {
            return Ok(());
        }
        // Bulk records change no state.
        self.losses.repair |= lost.keys().any(|name| name != BULK);
        let offset = self.engine.renderer.offset;
        let node = Node {
            lost,
            since: Some(offset.at(self.losses.last_record)),
            until: Some(offset.at(until)),
            ..Node::default()
        };
        self.node(Kind::NodeGap, Box::new(node))
    }

    fn read_freezers(&mut self) -> anyhow::Result<()> {
        let Some(freezers) = &mut self.freezers else {
            return Ok(());
        };
        let mut changes = Vec::new();
        freezers
            .get_mut()
            .read(|root, frozen| changes.push((root, frozen)));
        for (root, frozen) in changes {
            self.entry(&Entry::Freezer { root, frozen })?;
        }
        self.flush()
    }

    /// Takes up what files say of a container.
    fn learn(&mut self, root: CgroupKey, metadata: Metadata) -> anyhow::Result<()> {
        self.entry(&Entry::Metadata {
            root,
            metadata: Arc::new(metadata),
        })?;
        self.flush()
    }

    fn node(&mut self, kind: Kind, node: Box<Node>) -> anyhow::Result<()> {
        self.entry(&Entry::Node(kind, node))
    }

    /// One entry through recorder and engine; its lines wait for [`Core::flush`].
    fn entry(&mut self, entry: &Entry<'_>) -> anyhow::Result<()> {
        let now = boot_now();
        if let Some(recorder) = &mut self.recorder {
            recorder
                .write(now, entry)
                .context("cannot write the recording")?;
        }
        let Self {
            engine,
            tables,
            freezers,
            filter,
            format,
            lines,
            records,
            socket,
            fed,
            questions,
            unasked,
            ..
        } = self;
        let mut failed = Ok(());
        let step = engine.step(now, entry, |renderer, effect| match effect {
            Effect::Event(event) => {
                let record = renderer.record(&event, now);
                let start = lines.len();
                if filter.matches(&record) {
                    *records += format.write(&record, lines);
                }
                if let Some(socket) = socket {
                    fed.push((record, start..lines.len()));
                    if fed.len() >= MAX_FED {
                        feed(socket, fed, format, lines);
                    }
                }
            }
            Effect::Act(Action::Enrich(ask)) => {
                if questions.try_send(Question::Enrich(*ask)).is_err() {
                    *unasked += 1;
                    tracing::warn!(
                        unasked,
                        "metadata not looked for: too many containers at once"
                    );
                }
            }
            Effect::Act(action) => {
                let done = act(&action, tables, freezers.as_mut());
                failed = std::mem::replace(&mut failed, Ok(())).and(done);
            }
        });
        if let Err(error) = step {
            tracing::warn!(%error, "record of the kernel side not understood");
        }
        failed
    }

    /// A turn of the socket's readers.
    fn serve_socket(&mut self) {
        let Self {
            socket: Some(socket),
            engine,
            questions,
            ..
        } = self
        else {
            return;
        };
        socket.turn(engine, |reader, ask| {
            questions.try_send(Question::Explain(reader, ask)).is_ok()
        });
    }

    fn explained(&mut self, reader: u64, files: &[Source]) {
        if let Some(socket) = &mut self.socket {
            socket.explained(reader, files);
        }
    }

    /// Standard output has had these records: now the socket.
    fn feed_socket(&mut self) {
        if let Some(socket) = &mut self.socket {
            feed(socket, &mut self.fed, &self.format, &self.lines);
        }
    }

    /// Hands the lines to the sink, and says what the sink lost once it takes lines again.
    fn flush(&mut self) -> anyhow::Result<()> {
        if self.lines.is_empty() {
            self.feed_socket();
            self.reader = self
                .sink
                .flush()
                .context("cannot write to standard output")?;
        }
        loop {
            if !self.lines.is_empty() {
                let pushed = self.sink.push(&self.lines, self.records);
                self.feed_socket();
                self.lines.clear();
                self.records = 0;
                self.reader = pushed.context("cannot write to standard output")?;
            }
            let Some(lost) = self.sink.take_lost() else {
                return Ok(());
            };
            tracing::error!(
                lost,
                "standard output was not read in time: records left out"
            );
            let node = Node {
                lost: BTreeMap::from([("record".to_owned(), lost)]),
                sink: Some("stdout".to_owned()),
                ..Node::default()
            };
            self.node(Kind::NodeGap, Box::new(node))?;
        }
    }
}

/// Records that wait for standard output before the socket has them.
const MAX_FED: usize = 256;

/// Hands records to the socket, with the lines that standard output has where these are JSON.
fn feed(
    socket: &mut SocketSink,
    fed: &mut Vec<(Record, Range<usize>)>,
    format: &Format,
    lines: &[u8],
) {
    let is_json = matches!(format, Format::Json);
    for (record, range) in fed.drain(..) {
        let line = lines.get(range).filter(|_| is_json);
        socket.add(record, line.unwrap_or_default());
    }
}

/// Name of the counter whose losses need no repair.
const BULK: &str = "process";

/// Lines that are written together at most.
const BATCH_BYTES: usize = 64 << 10;

/// Empty drains after which the reader sleeps until a bulk record wakes it.
const QUIET_DRAINS: u32 = 4;

/// How long the reader has at the end to take what is queued.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Likewise all readers of the socket together.
const LAST_WORDS_SOCKET: Duration = Duration::from_millis(500);

fn act(
    action: &Action,
    tables: &mut Tables,
    freezers: Option<&mut AsyncFd<Freezers>>,
) -> anyhow::Result<()> {
    match (action, freezers) {
        (Action::Forget(cgroup), _) => tables.forget(*cgroup)?,
        (Action::WatchFreezer { root, path }, Some(freezers)) => {
            freezers.get_mut().watch(*root, path);
        }
        (Action::UnwatchFreezer { root }, Some(freezers)) => freezers.get_mut().unwatch(*root),
        (Action::WatchFreezer { .. } | Action::UnwatchFreezer { .. }, None)
        | (Action::Enrich(_), _) => {}
    }
    Ok(())
}

impl reconcile::Watch for Tables {
    fn track(&mut self, cgroup: CgroupKey) {
        if let Err(error) = Self::track(self, cgroup) {
            tracing::error!(%error, id = cgroup.id, "cgroup cannot be watched");
        }
    }

    fn follow(&mut self, pid: u32, cgroup: CgroupKey, landed: bool) {
        if let Err(error) = Self::follow(self, pid, cgroup, landed) {
            tracing::error!(%error, pid, "process cannot be followed");
        }
    }
}

/// Development only: lines that the programs log.
#[cfg(feature = "log")]
fn follow_log(mut log: AsyncFd<aya_log::EbpfLogger<&'static dyn log::Log>>) {
    tokio::spawn(async move {
        while let Ok(mut ready) = log.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
}

/// Questions about containers that may wait to be asked.
const MAX_QUESTIONS: usize = 4096;

/// Questions one way, answers the other.
type Asking = (
    std::sync::mpsc::SyncSender<Question>,
    mpsc::Receiver<Answer>,
);

/// Starts the thread that reads what runtimes wrote. It ends when either queue has no other end.
fn ask_on_a_thread(sources: Sources) -> anyhow::Result<Asking> {
    let (questions, asked) = std::sync::mpsc::sync_channel(MAX_QUESTIONS);
    let (answered, answers) = mpsc::channel(MAX_QUESTIONS);
    std::thread::Builder::new()
        .name("metadata".to_owned())
        .spawn(move || {
            metadata::serve(&asked, sources, |answer| {
                answered.blocking_send(answer).is_ok()
            });
        })
        .context("cannot start a thread")?;
    Ok((questions, answers))
}

/// Registers a descriptor with the event loop.
#[expect(
    deprecated,
    reason = "the replacement is an unsafe function; what it asks for, a descriptor that stays open and the same, holds for each type used here: it owns it"
)]
fn poll_for<T: AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, interest)
}

/// A timer that never expires but is cancelled whenever the wall clock is set.
fn clock_set_timer() -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
    arm(&timer)?;
    Ok(timer)
}

fn arm(timer: &OwnedFd) -> io::Result<()> {
    let never = Timespec {
        tv_sec: i64::from(i32::MAX) * 4,
        tv_nsec: 0,
    };
    let once = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: never,
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &once)?;
    Ok(())
}

/// Waits until a descriptor is ready; for ever where there is none.
async fn ready<T: AsRawFd>(fd: Option<&AsyncFd<T>>, interest: Interest) -> io::Result<()> {
    match fd {
        Some(fd) => {
            fd.ready(interest).await?.clear_ready();
            Ok(())
        }
        None => std::future::pending().await,
    }
}

async fn socket_ready(socket: Option<&mut SocketSink>) {
    match socket {
        Some(socket) => socket.ready().await,
        None => std::future::pending().await,
    }
}

async fn until(timer: Option<Instant>) {
    match timer {
        Some(timer) => sleep_until(timer).await,
        None => std::future::pending().await,
    }
}
