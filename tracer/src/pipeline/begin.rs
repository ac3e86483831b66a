//! The beginning: of a stream, or of a process in which one goes on.

use std::io::BufWriter;

use anyhow::Context as _;
use tokio::io::Interest;

use super::{
    BTreeMap, Core, Live, Losses, Outlets, Parts, ask_on_a_thread, clock_set_timer, core::head,
    poll_for,
};
use crate::{
    clock::Watch,
    engine::Entry,
    kernel::{freezers::Freezers, load::Kernel},
    lifecycle,
    record::{Host, Kind, Origin},
    recording::{Header, Recorder},
    sink::{socket::SocketSink, stdout::Reader},
    state::{Journal, Last, Left},
    time::{Timestamp, WallOffset, boot_now},
};

/// What a process before this one left.
pub struct Before {
    pub left: Left,
    /// The host as it is now.
    pub now: Resumed,
    /// The programs of that process are the ones that are attached: the ring has what happened
    /// since.
    pub pinned: bool,
}

/// The host under which a table goes on.
pub struct Resumed {
    pub host: lifecycle::Host,
    pub identity: Host,
    pub offset: WallOffset,
}

/// How the process before ended, for the one that goes on.
struct Ended {
    last: Last,
    pinned: bool,
    /// Nothing is missing before this time.
    since: Timestamp,
}

impl Live {
    /// Makes the loop, takes up what was left, tells what is there.
    pub(super) fn begin(mut parts: Parts) -> anyhow::Result<Self> {
        let before = parts.before.take();
        let record = parts.record.take();
        let started = std::mem::take(&mut parts.started);
        let mut live = Self::new(parts)?;
        let ended = match before {
            Some(before) => Some(live.go_on(before)?),
            None => None,
        };
        let core = &mut live.core;
        if ended.is_none()
            && let Some(state) = &live.state
        {
            let mut head = head(&core.engine, &core.losses);
            head.unfinished = true;
            core.journal = Some(Journal::begin(state.path(), &head)?);
        }
        if let Some(file) = record {
            let recorder = Recorder::new(BufWriter::new(file), &Header::of(&core.engine));
            core.recorder = Some(recorder.context("cannot write the recording")?);
        }
        core.node(Kind::NodeStarted, started)?;
        match ended {
            None => {
                core.losses.last_record = boot_now();
                live.sync(Origin::Snapshot)?;
            }
            Some(ended) => live.catch_up(ended)?,
        }
        live.core.node(Kind::NodeSynced, Box::default())?;
        live.core.flush()?;
        Ok(live)
    }

    fn new(parts: Parts) -> anyhow::Result<Self> {
        let freezers = match parts.hierarchies.freezer() {
            Some(hierarchy) => {
                let freezers = Freezers::new(hierarchy.clone()).context("cannot use inotify")?;
                Some(poll_for(freezers, Interest::READABLE)?)
            }
            None => None,
        };
        let stdout = parts.stdout.as_ref();
        let hang_up = match stdout.and_then(crate::sink::stdout::StdoutSink::hangs_up) {
            Some(fd) => match poll_for(fd.try_clone_to_owned()?, Interest::ERROR) {
                // /dev/null and its like have no reader that could go.
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
                polled => Some(polled.context("cannot watch standard output")?),
            },
            None => None,
        };
        let (questions, answers) = ask_on_a_thread(parts.sources, &parts.runtimes)?;
        let socket = match parts.socket {
            Some((bound, history_bytes)) => {
                Some(SocketSink::new(bound, history_bytes).context("cannot serve the socket")?)
            }
            None => None,
        };
        let mounts = parts.hierarchies.all.iter();
        let clock_set = clock_set_timer().context("cannot watch the clock")?;
        let Kernel {
            tables,
            ring,
            links,
            #[cfg(feature = "log")]
            log,
            ..
        } = parts.kernel;
        #[cfg(feature = "log")]
        if let Some(log) = log {
            super::wait::follow_log(poll_for(log, Interest::READABLE)?);
        }
        Ok(Self {
            core: Core {
                engine: parts.engine,
                tables,
                freezers,
                journal: None,
                recorder: None,
                outlets: Outlets {
                    filter: parts.filter,
                    format: parts.format,
                    stdout: parts.stdout,
                    file: parts.file,
                    socket,
                    #[cfg(feature = "upstream")]
                    uplink: parts.uplink,
                    metrics: parts.metrics,
                    reader: Reader::There,
                    json: crate::sink::Batch::default(),
                    shown: crate::sink::Batch::default(),
                    records: Vec::new(),
                    failed: None,
                },
                losses: Losses::default(),
                mounts: mounts
                    .map(|hierarchy| (hierarchy.id, hierarchy.mount.clone()))
                    .collect(),
                quiet_drains: 0,
                questions,
                unasked: 0,
                todo: Vec::new(),
                meanwhile: None,
            },
            answers,
            ring: poll_for(ring, Interest::READABLE)?,
            _links: links,
            state: parts.state,
            hierarchies: parts.hierarchies,
            clock_set: poll_for(clock_set, Interest::READABLE)?,
            clock: Watch::start().context("cannot watch the clock")?,
            hang_up,
            processes: parts.processes,
            scans: super::repair::Scans::default(),
            service: super::service::Service::new(),
        })
    }

    /// Replays the journal of the process before: sinks take what they have not got.
    fn go_on(&mut self, before: Before) -> anyhow::Result<Ended> {
        let Before { left, now, pinned } = before;
        let core = &mut self.core;
        core.losses.told.clone_from(&left.told);
        core.losses.last_record = left.last_record;
        core.outlets.begin_at(left.next_seq);
        let (journal, last) = left.replay(|now, entry| core.again(now, entry))?;
        core.outlets.push();
        core.outlets.check()?;
        core.journal = Some(journal);
        let since = core.engine.renderer.offset.at(core.losses.last_record);
        let offset = now.offset;
        let same_host =
            *core.engine.machine.host() == now.host && *core.engine.renderer.host == now.identity;
        core.resume(now)?;
        if same_host {
            // The journal has to say it to the process after this one.
            core.entry(&Entry::Offset(offset))?;
        } else {
            core.begin_journal_again(last.unfinished)?;
        }
        if !pinned {
            // These programs have lost nothing yet.
            core.losses.told.clear();
            core.losses.by_cpu.clear();
        }
        Ok(Ended {
            last,
            pinned,
            since,
        })
    }

    /// From what the table was to what the host is.
    fn catch_up(&mut self, ended: Ended) -> anyhow::Result<()> {
        let Ended {
            last,
            pinned,
            since,
        } = ended;
        if pinned {
            if let Some(newest) = last.raw
                && let Some(record) = self.ring.get_mut().next()
                && *record != *newest
            {
                self.core.record(&record)?;
            }
            self.drain()?;
            if !last.unfinished {
                return Ok(());
            }
        }
        let reason = if pinned {
            "the process before was killed during a scan"
        } else {
            "nothing was traced between two processes"
        };
        let now = boot_now();
        self.core.losses.last_record = now;
        self.core.gap(since, now, BTreeMap::new(), Some(reason))?;
        self.core.losses.repair = false;
        self.core.meanwhile = None;
        self.sync(Origin::Reconcile)?;
        self.resynced()
    }
}
