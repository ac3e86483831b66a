//! From events to the sinks.
//!
//! An event is rendered once per format and handed on in batches. JSON lines serve the file, the
//! socket, upstreams, and standard output if that shows JSON; any other format is rendered beside
//! them. Upstreams and the socket take everything, standard output and the file what the filter lets
//! pass.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tracer_common::loss;

use crate::{
    filter::Filter,
    format::Format,
    lifecycle::Event,
    metrics::{Count, Metrics},
    record::{Clock, Node, Record},
    render::Renderer,
    sink::{
        Batch,
        file::FileSink,
        room::LeftOut,
        socket::SocketSink,
        stdout::{Reader, StdoutSink},
    },
    time::BootNs,
};

/// Bytes or records that are handed to the sinks together at most.
const BATCH_BYTES: usize = 64 << 10;
const BATCH_RECORDS: usize = 256;

/// Likewise while a journal is replayed: little enough for half of the smallest queue. The last line
/// may go beyond it: room is made for twice as much.
const PACE_BYTES: usize = 8 << 10;

/// How long a replay waits for its slowest sink.
pub(super) struct Patience {
    left: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let left = Duration::from_secs(2);
        Self { left }
    }
}

pub(super) struct Outlets {
    pub(super) filter: Filter,
    pub(super) format: Format,
    pub(super) stdout: Option<StdoutSink>,
    pub(super) file: Option<FileSink>,
    pub(super) socket: Option<SocketSink>,
    #[cfg(feature = "upstream")]
    pub(super) uplink: Option<crate::upstream::Uplink>,
    pub(super) metrics: Arc<Metrics>,
    /// Of standard output.
    pub(super) reader: Reader,
    /// One entry per record.
    pub(super) json: Batch,
    /// Likewise, for standard output, where it does not show JSON.
    pub(super) shown: Batch,
    /// Likewise, for those who ask about more than the line.
    pub(super) records: Vec<Record>,
    pub(super) failed: Option<anyhow::Error>,
}

impl Outlets {
    /// Takes an event; its record leaves with the next [`Outlets::push`] at the latest.
    pub(super) fn add(&mut self, renderer: &Renderer, event: &Event<'_>, now: BootNs) {
        let passes = self.filter.wants(event);
        self.metrics.add(Count::EngineOut, 1);
        if !passes {
            self.metrics.add(Count::FilterDropped, 1);
        } else if self.stdout.is_some() {
            self.metrics.add(Count::StdoutIn, 1);
        }
        let (seq, bulk) = (event.seq, event.kind.is_bulk());
        let shows_json = self.shows_json();
        if self.stdout.is_some() && !shows_json {
            let format = &mut self.format;
            self.shown.add(seq, passes, bulk, |lines| {
                if passes {
                    format.event(renderer, event, now, lines);
                }
            });
        }
        let takes_all = self.takes_all();
        let wanted =
            takes_all || passes && (self.file.is_some() || self.stdout.is_some() && shows_json);
        self.json.add(seq, passes, bulk, |lines| {
            if wanted {
                renderer.line(event, now, lines);
            }
        });
        if takes_all {
            self.records.push(renderer.record(event, now));
        }
        if self.is_full() {
            self.push();
        }
    }

    fn shows_json(&self) -> bool {
        matches!(self.format, Format::Json)
    }

    /// Whether somebody takes records that the filter does not let pass.
    fn takes_all(&self) -> bool {
        #[cfg(feature = "upstream")]
        let has_uplink = self.uplink.is_some();
        #[cfg(not(feature = "upstream"))]
        let has_uplink = false;
        self.socket.is_some() || has_uplink
    }

    fn is_full(&self) -> bool {
        self.json.len() + self.shown.len() >= BATCH_BYTES || self.records.len() >= BATCH_RECORDS
    }

    /// Hands what was added to the sinks, standard output first.
    pub(super) fn push(&mut self) {
        let shown = if self.shows_json() {
            &self.json
        } else {
            &self.shown
        };
        if let Some(stdout) = &mut self.stdout {
            match stdout.push(shown) {
                Ok(reader) => self.reader = reader,
                Err(error) => self.failed = Some(error.into()),
            }
        }
        if self.json.is_empty() {
            return;
        }
        if let Some(file) = &mut self.file {
            file.push(&self.json);
        }
        for (record, line) in self.records.drain(..).zip(self.json.lines()) {
            #[cfg(feature = "upstream")]
            if let Some(uplink) = &self.uplink {
                uplink.push(&record, line.bytes);
            }
            if let Some(socket) = &mut self.socket {
                socket.add(record, line.bytes);
            }
        }
        self.json.clear();
        self.shown.clear();
    }

    /// While a journal is replayed, which is faster than any sink: hands on what was added, and waits
    /// until there is room for more. A sink that does not take anything is waited for once.
    pub(super) fn pace(&mut self, patience: &mut Patience) {
        if self.json.len() + self.shown.len() < PACE_BYTES {
            return;
        }
        self.push();
        let until = Instant::now() + patience.left;
        let mut has_room = true;
        if let Some(stdout) = &mut self.stdout {
            match stdout.make_room(until, 2 * PACE_BYTES) {
                Ok(room) => has_room &= room,
                Err(error) => self.failed = Some(error.into()),
            }
        }
        if let Some(file) = &self.file {
            has_room &= file.make_room(until, 2 * PACE_BYTES);
        }
        if !has_room {
            patience.left = Duration::ZERO;
        }
    }

    /// The first failure of standard output since this was last asked.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self.failed.take() {
            Some(error) => Err(error).context("cannot write to standard output"),
            None => Ok(()),
        }
    }

    /// What a sink left out, once it takes lines again.
    pub(super) fn take_lost(&mut self) -> Option<Node> {
        let left_out = |sink: &str, LeftOut { bulk, others }| Node {
            lost: [(loss::name(loss::BULK), bulk), ("record", others)]
                .into_iter()
                .filter(|(_, lost)| *lost != 0)
                .map(|(name, lost)| (name.to_owned(), lost))
                .collect(),
            sink: Some(sink.to_owned()),
            ..Node::default()
        };
        if let Some(lost) = self.stdout.as_mut().and_then(StdoutSink::take_lost) {
            self.metrics
                .add(Count::StdoutDropped, lost.bulk + lost.others);
            return Some(left_out("stdout", lost));
        }
        if let Some(lost) = self.file.as_mut().and_then(FileSink::take_lost) {
            return Some(left_out("file", lost));
        }
        #[cfg(feature = "upstream")]
        if let Some(uplink) = &self.uplink {
            return uplink.take_told();
        }
        None
    }

    /// Number of the newest record that every durable sink has written; `newest` where there is
    /// none.
    pub(super) fn written(&self, newest: u64) -> u64 {
        let stdout = self.stdout.as_ref().map_or(newest, StdoutSink::seq);
        let file = self.file.as_ref().map_or(newest, FileSink::seq);
        #[cfg(feature = "upstream")]
        let spool = self
            .uplink
            .as_ref()
            .map_or(newest, crate::upstream::Uplink::last_seq);
        #[cfg(not(feature = "upstream"))]
        let spool = newest;
        stdout.min(file).min(spool)
    }

    #[cfg_attr(
        not(feature = "upstream"),
        expect(clippy::unused_self, reason = "there is nobody to tell")
    )]
    pub(super) fn set_ring_losses(&self, records: u64) {
        #[cfg(feature = "upstream")]
        if let Some(uplink) = &self.uplink {
            uplink.set_ring_losses(records);
        }
        #[cfg(not(feature = "upstream"))]
        let _: u64 = records;
    }

    #[cfg_attr(
        not(feature = "upstream"),
        expect(clippy::unused_self, reason = "there is nobody to tell")
    )]
    pub(super) fn set_clock(&self, clock: &Clock) {
        #[cfg(feature = "upstream")]
        if let Some(uplink) = &self.uplink {
            uplink.set_clock(crate::uplink::Clock {
                synchronized: clock.synchronized,
                max_error_us: clock.max_error_us,
                source: clock.source.clone(),
            });
        }
        #[cfg(not(feature = "upstream"))]
        let _: &Clock = clock;
    }

    /// Another stream begins; what was added is pushed.
    #[cfg(feature = "upstream")]
    pub(super) fn begin_stream(&mut self, stream: &str) {
        if let Some(stdout) = &mut self.stdout {
            stdout.begin_stream(stream);
        }
        if let Some(file) = &mut self.file {
            file.begin_stream(stream);
        }
        if let Some(socket) = &mut self.socket {
            socket.begin_stream();
        }
        if let Some(uplink) = &self.uplink {
            uplink.begin_stream(stream);
        }
    }

    /// What a process before this one wrote, and what of it each sink did not get: `first` is the
    /// number of the oldest record that can still be told.
    pub(super) fn begin_at(&mut self, first: u64) {
        if let Some(stdout) = &mut self.stdout {
            stdout.begin_at(first);
        }
        if let Some(file) = &mut self.file {
            file.begin_at(first);
        }
    }
}
