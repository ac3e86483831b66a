//! The durable spool: what the pipeline pushed and some upstream has not acked yet.
//!
//! ```text
//!                         ┌──▶ the newest (memory, bounded) ────────────────────────────┐
//!  pipeline ── push ──────┴─▶ queue (memory, bounded) ──▶ writer thread ──▶ store ──▶ readers
//!     ▲                   │ full: the oldest            │ full: the oldest  (one per sender)
//!     └──── take_told ◀───┴──────── counted ────────────┘
//! ```
//!
//! * [`Spool::push`] never waits: it takes a lock that is held for the length of a push or a swap.
//! * A commit takes all that came during the commit before it: one `fsync` per drained batch on a
//!   quiet host, as many records per `fsync` as needed on a busy one, and no timer in between.
//! * Acks wait up to [`ACK_DELAY`] for records to go with; what a crash loses of them the receiver
//!   says again.
//! * Where the store fails (a full disk), its batch goes back into the queue and is tried again after
//!   [`RETRY`]; the queue's bound holds meanwhile.
//! * Losses are told once by a `node.gap` with `sink: spool`, after the store works again. What
//!   was told is stored with the `node.gap` itself, so that a crash in between neither hides nor
//!   repeats it.
//! * A stream that came before and is not delivered is delivered first, as the stream that it is,
//!   with its own table.

mod files;
mod place;
mod queue;
mod read;
mod recent;
mod rows;
mod shared;
mod store;
#[cfg(test)]
pub(super) mod tests;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Instant,
};

use bytes::Bytes;

use self::queue::{Pending, Work};
pub use self::{
    place::Place,
    read::{Found, Reader, Run, Stream},
    rows::Bounds,
    shared::{ACK_DELAY, Counts, Published, RETRY, Shared},
    store::Owner,
};
use super::table::Change;
use crate::{
    metrics::{Count, Metrics},
    record::{Kind, Node, Record},
};

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("cannot use the spool directory {path}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("another tracer uses the spool in {path}")]
    InUse { path: PathBuf },
    #[error("cannot open the spool {path}")]
    Database {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("cannot start the spool's thread")]
    Thread(#[source] io::Error),
}

/// The pipeline's side of a spool, and its writer thread.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    path: PathBuf,
    cursors: Vec<Place>,
    writer: Option<JoinHandle<()>>,
    /// Held while the spool is in use.
    _lock: File,
}

impl Spool {
    /// Opens the spool in a directory, and starts its thread. A file that is damaged is set aside.
    ///
    /// # Errors
    ///
    /// [`SpoolError`].
    pub fn open(
        directory: &Path,
        owner: &Owner<'_>,
        bounds: Bounds,
        queue_bytes: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SpoolError> {
        let lock = files::lock(directory)?;
        let path = directory.join("spool.db");
        let store =
            files::open_store(&path, owner, bounds).map_err(|source| SpoolError::Database {
                path: path.clone(),
                source,
            })?;
        let shared = Arc::new(Shared::new(&store, queue_bytes, metrics));
        let cursors = (0..owner.upstreams.len()).map(|upstream| store.cursor(upstream));
        let cursors = cursors.collect();
        let for_writer = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || for_writer.write(store))
            .map_err(SpoolError::Thread)?;
        Ok(Self {
            shared,
            path,
            cursors,
            writer: Some(writer),
            _lock: lock,
        })
    }

    /// Number of the newest record that was pushed, or found in the store.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.shared.lock().queue.last_seq()
    }

    /// Takes a record with its line (without the newline); one that the spool has is ignored.
    pub fn push(&self, record: &Record, line: Bytes) {
        let tells = tells(record);
        let mut inner = self.shared.lock();
        if record.seq <= inner.queue.last_seq() {
            inner.counts.repeated += 1;
            self.shared.metrics.add(Count::SpoolIn, 1);
            self.shared.metrics.add(Count::SpoolRepeated, 1);
            return;
        }
        let idle = inner.queue.work() != Work::Records;
        inner.recent.push(record.seq, line.clone());
        let dropped = inner.queue.push(Pending {
            seq: record.seq,
            line,
            change: Change::of(record),
            tells,
        });
        inner.counts.pushed += 1;
        inner.told += tells;
        inner.telling = inner.telling.saturating_sub(tells);
        inner.dropped(dropped);
        drop(inner);
        self.shared.metrics.add(Count::SpoolIn, 1);
        self.shared.metrics.add(Count::SpoolQueueFull, dropped);
        if idle {
            self.shared.wake.notify_all();
        }
        let pushed = &self.shared.pushed;
        pushed.send_modify(|newest| *newest = Place::new(newest.stream(), record.seq));
    }

    /// Number of the stream that is pushed.
    #[must_use]
    pub fn current(&self) -> i64 {
        self.shared.pushed.borrow().stream()
    }

    /// Goes on with another stream, whose first record is number 1. Records of the one before that
    /// the store has are delivered as before; those that wait in memory are given up, and told.
    pub fn begin_stream(&self, uuid: &str) {
        let mut inner = self.shared.lock();
        let begin = Place::new(self.shared.pushed.borrow().stream() + 1, 0);
        let given_up = inner.queue.begin_stream(begin.stream(), uuid.to_owned());
        inner.recent.clear();
        inner.dropped(given_up);
        // Under the lock: whoever asks for the newest records learns of both or of neither.
        self.shared.pushed.send_replace(begin);
        drop(inner);
        self.shared.metrics.add(Count::SpoolQueueFull, given_up);
        self.shared.wake.notify_all();
    }

    /// Losses to be told, by a `node.gap` that is then pushed like any record.
    #[must_use]
    pub fn take_told(&self) -> Option<Node> {
        let mut inner = self.shared.lock();
        let untold = inner
            .lost
            .saturating_sub(inner.told.saturating_add(inner.telling));
        if untold == 0 || inner.fails || !inner.queue.has_room() {
            return None;
        }
        inner.telling += untold;
        Some(Node {
            lost: BTreeMap::from([(LOST_KIND.to_owned(), untold)]),
            sink: Some(SINK.to_owned()),
            ..Node::default()
        })
    }

    /// What became of the records so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// What senders need to know of the writer.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Up to where an upstream had acked when the spool was opened.
    #[must_use]
    pub fn cursor(&self, upstream: usize) -> Place {
        self.cursors.get(upstream).copied().unwrap_or_default()
    }

    /// A connection for a sender.
    ///
    /// # Errors
    ///
    /// [`SpoolError::Database`].
    pub fn reader(&self) -> Result<Reader, SpoolError> {
        Reader::open(&self.path).map_err(|source| SpoolError::Database {
            path: self.path.clone(),
            source,
        })
    }

    /// Has the writer store what it has, and end; false where that took too long.
    pub fn stop(&mut self, deadline: Instant) -> bool {
        let mut inner = self.shared.lock();
        inner.stops = true;
        self.shared.wake.notify_all();
        while !inner.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            inner = self.shared.wait(inner, Some(left));
        }
        drop(inner);
        match self.writer.take() {
            Some(writer) => {
                let ended = writer.join().is_ok();
                files::keep_reserve(&self.path);
                ended
            }
            None => true,
        }
    }

    /// Waits until all that was pushed is stored; false where that took too long.
    #[must_use]
    pub fn settle(&self, deadline: Instant) -> bool {
        let mut published = self.shared.published.subscribe();
        let mut inner = self.shared.lock();
        loop {
            let newest = published.borrow_and_update().newest;
            let left = deadline.saturating_duration_since(Instant::now());
            if newest >= *self.shared.pushed.borrow() {
                return true;
            }
            if left.is_zero() || inner.ended {
                return false;
            }
            inner = self.shared.wait(inner, Some(left));
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.stop(Instant::now() + RETRY);
    }
}

/// Name of what is lost here, in `node.lost`.
const LOST_KIND: &str = "record";
/// In `node.sink`.
const SINK: &str = "spool";

/// How many losses a record tells of.
fn tells(record: &Record) -> u64 {
    match &record.node {
        Some(node) if record.kind == Kind::NodeGap && node.sink.as_deref() == Some(SINK) => {
            node.lost.values().sum()
        }
        _ => 0,
    }
}
