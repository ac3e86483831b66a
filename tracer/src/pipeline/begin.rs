//! The beginning: of a stream, or of a process in which one goes on.

use std::{io::BufWriter, sync::Arc};

use anyhow::Context as _;
use tokio::io::Interest;

use super::{
    BTreeMap, Core, Live, Losses, Outlets, Parts, asking::Asking, clock_set_timer, core::head,
    doing::Doing, outlets::Patience,
};
use crate::{
    clock::Watch,
    decode::trim,
    engine::Entry,
    kernel::{freezers::Freezers, load::Kernel},
    lifecycle,
    poll::poll_for,
    record::{Host, Kind, Origin},
    recording::{Header, Recorder},
    sink::{file::FileSink, socket::SocketSink, stdout::Reader},
    state::{Broken, Journal, Left},
    time::{Timestamp, WallOffset, boot_now},
};

/// What a process before this one left.
pub enum Before {
    Nothing,
    /// A stream that goes on, and the host as it is now.
    GoesOn(Box<Left>, Resumed),
    /// One that does not.
    Broken(Broken),
}

/// The host under which a table goes on.
pub struct Resumed {
    pub host: lifecycle::Host,
    pub identity: Host,
    pub offset: WallOffset,
}

/// How the process before ended, for this one.
enum Ended {
    /// The ring has what happened since then. This record may be in it once more.
    Pinned(Option<Box<[u8]>>),
    /// From that time on something may be missing.
    Gap {
        since: Option<Timestamp>,
        reason: String,
        /// As for [`Ended::Pinned`].
        newest: Option<Box<[u8]>>,
    },
}

impl Live {
    /// Makes the loop, takes up what was left, tells what is there.
    pub(super) fn begin(mut parts: Parts) -> anyhow::Result<Self> {
        let before = std::mem::replace(&mut parts.before, Before::Nothing);
        let programs = Arc::clone(&parts.programs);
        let record = parts.record.take();
        let started = std::mem::take(&mut parts.started);
        let mut live = Self::new(parts)?;
        let ended = match before {
            Before::GoesOn(left, now) => Some(live.go_on(*left, now, programs)?),
            Before::Broken(Broken { reason, since }) => {
                live.begin_journal(programs);
                let file = live.core.outlets.file.as_ref();
                let had = file.and_then(FileSink::had);
                Some(Ended::Gap {
                    since: since.into_iter().chain(had).min(),
                    reason,
                    newest: None,
                })
            }
            Before::Nothing => {
                live.core.losses.last_record = boot_now();
                live.begin_journal(programs);
                None
            }
        };
        let core = &mut live.core;
        if let Some(file) = record {
            let recorder = Recorder::new(BufWriter::new(file), &Header::of(&core.engine));
            core.recorder = Some(recorder.context("cannot write the recording")?);
        }
        #[cfg(feature = "upstream")]
        live.started.clone_from(&started);
        core.node(Kind::NodeStarted, started)?;
        match ended {
            None => live.sync(Origin::Snapshot, None)?,
            Some(ended) => live.catch_up(ended)?,
        }
        live.core.node(Kind::NodeSynced, Box::default())?;
        live.core.flush()?;
        Ok(live)
    }

    /// Of a new stream.
    fn begin_journal(&mut self, programs: Arc<str>) {
        let core = &mut self.core;
        core.losses.programs = Some(programs);
        if let Some(state) = &self.state {
            let mut head = head(&core.engine, &core.losses);
            head.unfinished = true;
            core.journal = Some(Journal::begin(state.path(), boot_now(), &head));
        }
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
        let (asking, answers) = Asking::start(parts.sources, &parts.runtimes)?;
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
                doing: Doing::new(tables, freezers, asking),
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
            #[cfg(feature = "upstream")]
            started: Box::default(),
            #[cfg(feature = "upstream")]
            left_at: None,
        })
    }

    /// Replays the journal of the process before: sinks take what they have not got.
    fn go_on(&mut self, mut left: Left, now: Resumed, programs: Arc<str>) -> anyhow::Result<Ended> {
        let core = &mut self.core;
        core.losses.told.clone_from(&left.told);
        core.losses.last_record = left.last_record;
        core.losses.programs.clone_from(&left.programs);
        core.outlets.begin_at(left.next_seq);
        // In the journal before anything leaves: what follows moves the sinks' places past it.
        let mut untold = Vec::new();
        while let Some(node) = core.outlets.take_lost() {
            let entry = Entry::Node(Kind::NodeGap, Box::new(node));
            if let Err(error) = left.add(boot_now(), &entry) {
                tracing::error!(%error, "a loss is not in the journal");
                untold.push(entry);
            }
        }
        let other_abi = left.other_abi;
        let mut patience = Patience::default();
        let (journal, mut last) = left.replay(|now, entry| {
            core.again(now, entry)?;
            core.outlets.pace(&mut patience);
            Ok(())
        })?;
        core.outlets.push();
        core.outlets.check()?;
        core.journal = Some(journal);
        for entry in &untold {
            core.entry(entry)?;
        }
        let since = core.engine.renderer.offset.at(core.losses.last_record);
        #[cfg(feature = "upstream")]
        {
            self.left_at = Some(since);
        }
        let offset = now.offset;
        let same_host =
            *core.engine.machine.host() == now.host && *core.engine.renderer.host == now.identity;
        core.resume(now)?;
        if same_host && !other_abi {
            // The journal has to say it to the process after this one.
            core.entry(&Entry::Offset(offset))?;
        } else {
            core.begin_journal_again(&last);
        }
        let continuous = last.programs.as_ref() == Some(&programs);
        if !continuous {
            last.raw = None;
            core.entry(&Entry::Programs(programs))?;
        }
        if continuous && !last.unfinished {
            return Ok(Ended::Pinned(last.raw));
        }
        let reason = if continuous {
            "the process before was killed during a scan"
        } else {
            "nothing was traced between two processes"
        };
        Ok(Ended::Gap {
            since: Some(since),
            reason: reason.to_owned(),
            newest: last.raw,
        })
    }

    /// From what the table was to what the host is.
    fn catch_up(&mut self, ended: Ended) -> anyhow::Result<()> {
        match ended {
            Ended::Pinned(newest) => {
                if let Some(newest) = newest
                    && let Some(record) = self.ring.get_mut().next()?
                    && trim(&record) != trim(&newest)
                {
                    self.core.record(&record)?;
                }
                self.drain()
            }
            Ended::Gap {
                since,
                reason,
                newest,
            } => {
                let now = boot_now();
                // The journal is unfinished: were it lost by a kill, a gap would tell so.
                let next = match newest {
                    Some(newest) => self
                        .ring
                        .get_mut()
                        .next()?
                        .filter(|record| trim(record) != trim(&newest))
                        .map(|record| Box::from(&*record)),
                    None => None,
                };
                self.core.losses.last_record = now;
                self.core.gap(since, now, BTreeMap::new(), Some(&reason))?;
                self.core.losses.repair = false;
                self.core.meanwhile = None;
                self.sync(Origin::Reconcile, next)?;
                self.resynced()
            }
        }
    }
}
