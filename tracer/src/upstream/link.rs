//! What an upstream has of the node: the spool to read from and to ack to, and what heartbeats say.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::{sync::watch, time::Instant};

use super::spool::{Place, Published, Reader, Shared, Stream};
use crate::{
    metrics::Metrics,
    time::{boot_now, wall_offset},
    uplink::{Clock, Heartbeat, Losses},
};

/// Who the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Under which the gateway knows it.
    pub node: String,
    pub boot_id: String,
    pub host_id: Option<String>,
    /// Random, of this process.
    pub process: String,
}

/// What the pipeline says of the node from time to time.
#[derive(Debug, Default)]
pub struct Status {
    clock: Mutex<Option<Clock>>,
    ring_losses: AtomicU64,
    lost_place: watch::Sender<Option<LostPlace>>,
}

/// A receiver has more of a stream than was ever made here: this state is an old copy, or lacks
/// something. What is numbered on from here would be taken for what the receiver has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostPlace {
    /// Number of the stream in the spool.
    pub stream: i64,
    /// Newest record that the receiver has.
    pub theirs: u64,
    /// Newest that was made here.
    pub ours: u64,
}

impl Status {
    /// The clock changed.
    pub fn set_clock(&self, clock: Clock) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock);
    }

    /// Records lost between kernel and tracer since the stream began.
    pub fn set_ring_losses(&self, records: u64) {
        self.ring_losses.store(records, Ordering::Relaxed);
    }

    /// A receiver has more of a stream than was ever made here.
    pub fn lose_place(&self, lost: LostPlace) {
        self.lost_place.send_replace(Some(lost));
    }

    /// See [`Status::lose_place`]; the newest of them, and a way to wait for one.
    #[must_use]
    pub fn lost_places(&self) -> watch::Receiver<Option<LostPlace>> {
        self.lost_place.subscribe()
    }
}

/// One upstream's link to the node.
#[derive(Debug)]
pub struct Link {
    /// By which the spool knows the upstream.
    pub upstream: usize,
    pub identity: Arc<Identity>,
    pub reader: Reader,
    pub spool: Arc<Shared>,
    pub published: watch::Receiver<Published>,
    pub status: Arc<Status>,
    /// Set when tracer ends: until when to deliver what there is.
    pub stop: watch::Receiver<Option<Instant>>,
    /// Up to where the upstream has acked.
    pub cursor: Place,
    /// Newest record that the pipeline knew when it began.
    pub known: Place,
    pub metrics: Arc<Metrics>,
    /// The session that is or was last did what it is for.
    pub proved: bool,
}

impl Link {
    /// Number of the current stream in the spool.
    #[must_use]
    pub fn current(&self) -> i64 {
        self.published.borrow().newest.stream()
    }

    /// Newest record of a stream that was ever made here, stored or not; `None` where the stream is
    /// over.
    #[must_use]
    pub fn newest(&self, stream: i64) -> Option<u64> {
        let pushed = *self.spool.pushed().borrow();
        (pushed.stream() == stream).then(|| pushed.max(self.known).seq())
    }

    /// Whether the stream was begun by a process before this one: only then can there be records of it
    /// that are not known here.
    #[must_use]
    pub fn is_resumed(&self, stream: i64) -> bool {
        self.known.stream() == stream && self.known.seq() > 0
    }

    /// Waits until the spool has another stream than this for the current one.
    pub async fn another_stream(&self, than: i64) {
        let is_another = |published: &Published| published.newest.stream() != than;
        // Without the other end tracer ends.
        drop(self.published.clone().wait_for(is_another).await);
    }

    /// The stream to deliver next: that of the oldest record that the upstream lacks, or the current
    /// one.
    ///
    /// # Errors
    ///
    /// Those of the spool.
    pub fn next_stream(&self) -> rusqlite::Result<Stream> {
        let current = self.current();
        let first = self.reader.first_after(self.cursor)?;
        let id = first.map_or(current, Place::stream);
        let stream = self.reader.stream(id)?;
        match stream {
            Some(stream) => Ok(stream),
            // Delivered to all and forgotten between the two questions.
            None => self
                .reader
                .stream(current)?
                .ok_or(rusqlite::Error::QueryReturnedNoRows),
        }
    }

    /// The upstream has all up to here.
    pub fn acked(&mut self, place: Place) {
        if place > self.cursor {
            self.cursor = place;
            self.spool.acked(self.upstream, place);
        }
    }

    /// What a heartbeat about this stream says.
    #[must_use]
    pub fn heartbeat(&self, stream: &Stream) -> Heartbeat {
        let published = *self.published.borrow();
        let (seq, sum) = if stream.id == published.newest.stream() {
            (published.newest.seq(), published.sum)
        } else {
            (stream.last_seq, stream.sum)
        };
        let clock = self.status.clock.lock();
        Heartbeat {
            seq,
            containers: sum.containers,
            state_hash: sum.hash,
            clock: clock.unwrap_or_else(PoisonError::into_inner).clone(),
            losses: Some(Losses {
                ring: self.status.ring_losses.load(Ordering::Relaxed),
                spool: published.lost,
            }),
            wall_ms: wall_offset().at(boot_now()).0 / 1_000_000,
        }
    }

    /// Until when to deliver what there is, where tracer ends.
    #[must_use]
    pub fn stops(&self) -> Option<Instant> {
        *self.stop.borrow()
    }

    /// Waits until tracer ends.
    pub async fn stopped(&self) {
        // Without the other end tracer has ended already.
        drop(self.stop.clone().wait_for(Option::is_some).await);
    }
}
