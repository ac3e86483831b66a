//! What an entry passes through: recorder, engine, filter, format, sinks; and what follows from it
//! in the kernel's tables.

use std::{collections::BTreeMap, fs::File, io::BufWriter, ops::Range, sync::Arc};

use anyhow::Context as _;
use tokio::io::unix::AsyncFd;
use tracer_common::CgroupKey;

use crate::{
    clock::Reading,
    decode::{RawEvent, decode},
    engine::{Effect, Engine, Entry},
    enrich::Source,
    filter::Filter,
    format::Format,
    kernel::{freezers::Freezers, tables::Tables},
    lifecycle::{Action, Metadata},
    metadata::Question,
    metrics::{Count, Metrics},
    reconcile,
    record::{Clock, Kind, Node, Record},
    recording::Recorder,
    sink::{
        socket::SocketSink,
        stdout::{Reader, StdoutSink},
    },
    time::{BootNs, boot_now},
};

/// What an entry passes through, apart from the ring so that a record can be borrowed from it.
pub(super) struct Core {
    pub(super) engine: Engine,
    pub(super) tables: Tables,
    pub(super) freezers: Option<AsyncFd<Freezers>>,
    pub(super) filter: Filter,
    pub(super) format: Format,
    pub(super) sink: StdoutSink,
    pub(super) recorder: Option<Recorder<BufWriter<File>>>,
    pub(super) losses: Losses,
    pub(super) lines: Vec<u8>,
    pub(super) records: u64,
    pub(super) reader: Reader,
    /// Drains in a row that found nothing.
    pub(super) quiet_drains: u32,
    pub(super) socket: Option<SocketSink>,
    #[cfg(feature = "upstream")]
    pub(super) uplink: Option<crate::upstream::Uplink>,
    pub(super) metrics: Arc<Metrics>,
    /// Records for the socket and upstreams, with the place of their lines in `lines`, if they have
    /// any.
    pub(super) fed: Vec<(Record, Range<usize>)>,
    pub(super) questions: std::sync::mpsc::SyncSender<Question>,
    /// Questions that found no place in the queue.
    pub(super) unasked: u64,
}

/// What is known to be lost.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Low half of each CPU's count, as the last record or reading said.
    pub(super) by_cpu: BTreeMap<u32, u32>,
    pub(super) told: BTreeMap<&'static str, u64>,
    pub(super) last_record: BootNs,
    pub(super) repair: bool,
}

impl Core {
    /// Takes up one record of the ring.
    pub(super) fn record(&mut self, record: &[u8]) -> anyhow::Result<()> {
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
        self.metrics.add(Count::RingIn, 1);
        self.entry(&Entry::Raw(record))
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
        let lost: BTreeMap<String, u64> = losses
            .iter()
            .map(|(name, count)| {
                let told = self.losses.told.get(name).copied().unwrap_or(0);
                (*name, count.saturating_sub(told))
            })
            .filter(|(_, count)| *count != 0)
            .map(|(name, count)| (name.to_owned(), count))
            .collect();
        #[cfg(feature = "upstream")]
        if let Some(uplink) = &self.uplink {
            uplink.set_ring_losses(losses.values().sum());
        }
        self.losses.told = losses;
        self.metrics.add(Count::RingLost, lost.values().sum());
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

    /// `node.clock`: how far the wall clock can be trusted, where that changed.
    pub(super) fn tell_clock(&mut self, reading: Reading) -> anyhow::Result<()> {
        #[cfg(feature = "upstream")]
        if let Some(uplink) = &self.uplink {
            uplink.set_clock(crate::uplink::Clock {
                synchronized: reading.synchronized,
                max_error_us: reading.max_error_us,
                source: reading.source.as_str().to_owned(),
            });
        }
        let node = Node {
            clock: Some(Clock {
                synchronized: reading.synchronized,
                max_error_us: reading.max_error_us,
                source: reading.source.as_str().to_owned(),
            }),
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

    /// One entry through recorder and engine; its lines wait for [`Core::flush`].
    pub(super) fn entry(&mut self, entry: &Entry<'_>) -> anyhow::Result<()> {
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
            #[cfg(feature = "upstream")]
            uplink,
            metrics,
            fed,
            questions,
            unasked,
            ..
        } = self;
        let mut feeding = Feeding {
            socket: socket.as_mut(),
            #[cfg(feature = "upstream")]
            uplink: uplink.as_ref(),
        };
        let mut failed = Ok(());
        let step = engine.step(now, entry, |renderer, effect| match effect {
            Effect::Event(event) => {
                let record = renderer.record(&event, now);
                let start = lines.len();
                metrics.add(Count::EngineOut, 1);
                if filter.matches(&record) {
                    *records += format.write(&record, lines);
                } else {
                    metrics.add(Count::FilterDropped, 1);
                }
                if feeding.is_wanted() {
                    fed.push((record, start..lines.len()));
                    if fed.len() >= MAX_FED {
                        feeding.feed(fed, format, lines);
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
            metrics.add(Count::RingUndecoded, 1);
            tracing::warn!(%error, "record of the kernel side not understood");
        }
        failed
    }

    /// A turn of the socket's readers.
    pub(super) fn serve_socket(&mut self) {
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

    pub(super) fn explained(&mut self, reader: u64, files: &[Source]) {
        if let Some(socket) = &mut self.socket {
            socket.explained(reader, files);
        }
    }

    /// Standard output has had these records: now the socket.
    pub(super) fn feed_socket(&mut self) {
        let mut feeding = Feeding {
            socket: self.socket.as_mut(),
            #[cfg(feature = "upstream")]
            uplink: self.uplink.as_ref(),
        };
        feeding.feed(&mut self.fed, &self.format, &self.lines);
    }

    /// Hands the lines to the sink, and says what the sink lost once it takes lines again.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
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
                self.metrics.add(Count::StdoutIn, self.records);
                self.feed_socket();
                self.lines.clear();
                self.records = 0;
                self.reader = pushed.context("cannot write to standard output")?;
            }
            let Some(lost) = self.sink.take_lost() else {
                #[cfg(feature = "upstream")]
                if let Some(told) = self
                    .uplink
                    .as_ref()
                    .and_then(crate::upstream::Uplink::take_told)
                {
                    self.node(Kind::NodeGap, Box::new(told))?;
                    continue;
                }
                return Ok(());
            };
            self.metrics.add(Count::StdoutDropped, lost);
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

/// Who has records after standard output.
struct Feeding<'a> {
    socket: Option<&'a mut SocketSink>,
    #[cfg(feature = "upstream")]
    uplink: Option<&'a crate::upstream::Uplink>,
}

impl Feeding<'_> {
    fn is_wanted(&self) -> bool {
        #[cfg(feature = "upstream")]
        let has_uplink = self.uplink.is_some();
        #[cfg(not(feature = "upstream"))]
        let has_uplink = false;
        self.socket.is_some() || has_uplink
    }

    /// Hands records on, with the lines that standard output has where these are JSON.
    fn feed(&mut self, fed: &mut Vec<(Record, Range<usize>)>, format: &Format, lines: &[u8]) {
        let is_json = matches!(format, Format::Json);
        for (record, range) in fed.drain(..) {
            let line = lines.get(range).filter(|_| is_json).unwrap_or_default();
            #[cfg(feature = "upstream")]
            if let Some(uplink) = self.uplink {
                uplink.push_with(&record, line);
            }
            if let Some(socket) = &mut self.socket {
                socket.add(record, line);
            }
        }
    }
}

/// Name of the counter whose losses need no repair.
const BULK: &str = "process";

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
