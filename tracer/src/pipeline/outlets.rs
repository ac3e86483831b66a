//! From records to the sinks.
//!
//! Records are rendered once per format and handed on in batches. JSON lines serve the file, the
//! socket, and standard output if that shows JSON; any other format is rendered beside them.

use anyhow::Context as _;

use crate::{
    filter::Filter,
    format::{Format, json},
    record::Record,
    sink::{
        Batch,
        file::FileSink,
        socket::SocketSink,
        stdout::{Reader, StdoutSink},
    },
};

/// Bytes or records that are handed to the sinks together at most.
const BATCH_BYTES: usize = 64 << 10;
const BATCH_RECORDS: usize = 256;

pub(super) struct Outlets {
    pub(super) filter: Filter,
    pub(super) format: Format,
    pub(super) stdout: Option<StdoutSink>,
    pub(super) file: Option<FileSink>,
    pub(super) socket: Option<SocketSink>,
    pub(super) reader: Reader,
    /// One entry per record.
    pub(super) json: Batch,
    /// Likewise, for standard output, where it does not show JSON.
    pub(super) shown: Batch,
    /// Likewise, for the socket.
    pub(super) records: Vec<Record>,
    pub(super) failed: Option<anyhow::Error>,
}

/// Which sink left out how many records.
pub(super) type Lost = (&'static str, u64);

impl Outlets {
    /// Takes a record; it leaves with the next [`Outlets::push`] at the latest.
    pub(super) fn add(&mut self, record: Record) {
        let passes = self.filter.matches(&record);
        let seq = record.seq;
        if self.stdout.is_some() && !self.shows_json() {
            let format = &mut self.format;
            self.shown.add(seq, passes, |lines| {
                if passes {
                    format.write(&record, lines);
                }
            });
        }
        let wanted = self.socket.is_some()
            || passes && (self.file.is_some() || self.stdout.is_some() && self.shows_json());
        self.json.add(seq, passes, |lines| {
            if wanted {
                json(&record, lines);
            }
        });
        if self.socket.is_some() {
            self.records.push(record);
        }
        if self.is_full() {
            self.push();
        }
    }

    fn shows_json(&self) -> bool {
        matches!(self.format, Format::Json)
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
        if let Some(socket) = &mut self.socket {
            for (record, line) in self.records.drain(..).zip(self.json.lines()) {
                socket.add(record, line.bytes);
            }
        }
        self.json.clear();
        self.shown.clear();
    }

    /// The first failure of standard output since this was last asked.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self.failed.take() {
            Some(error) => Err(error).context("cannot write to standard output"),
            None => Ok(()),
        }
    }

    /// What a sink left out, once it takes lines again.
    pub(super) fn take_lost(&mut self) -> Option<Lost> {
        let stdout = self.stdout.as_mut().and_then(StdoutSink::take_lost);
        stdout.map(|lost| ("stdout", lost)).or_else(|| {
            let file = self.file.as_mut().and_then(FileSink::take_lost);
            file.map(|lost| ("file", lost))
        })
    }

    /// Number of the newest record that every sink with a mark has written; `newest` where there is
    /// none.
    pub(super) fn written(&self, newest: u64) -> u64 {
        let stdout = self.stdout.as_ref().map_or(newest, StdoutSink::seq);
        let file = self.file.as_ref().map_or(newest, FileSink::seq);
        stdout.min(file)
    }
}
