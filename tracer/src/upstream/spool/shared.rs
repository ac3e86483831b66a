//! What the pipeline, the writer's thread and the senders have in common, and the writer's loop.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::watch;

use crate::metrics::{Count, Metrics};

use super::{
    super::table::Sum,
    place::Place,
    queue::{Batch, Queue, Work},
    recent::Recent,
    store::{Committed, Store},
};

/// How long acks wait for records to be stored with.
pub const ACK_DELAY: Duration = Duration::from_secs(1);

/// How long a store that failed is left alone.
pub const RETRY: Duration = Duration::from_secs(1);

/// What is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Of the newest record, kept or not.
    pub newest: Place,
    /// The table's, as of it.
    pub sum: Sum,
    /// Records given up, ever.
    pub lost: u64,
}

/// What became of the records so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Records pushed.
    pub pushed: u64,
    /// Pushed again after a restart: in the spool already.
    pub repeated: u64,
    /// Lost before the store, because the queue was full.
    pub dropped: u64,
    pub stored: u64,
    /// Delivered to all upstreams.
    pub acked: u64,
    /// Lost from the store, by its bounds.
    pub evicted: u64,
    /// Commits that failed.
    pub failed: u64,
}

/// What the pipeline, the writer and the senders have in common.
#[derive(Debug)]
pub struct Shared {
    inner: Mutex<Inner>,
    pub(super) wake: Condvar,
    pub(super) published: watch::Sender<Published>,
    /// Of the newest record that was pushed; of the current stream, also where the store has not
    /// begun that yet.
    pub(super) pushed: watch::Sender<Place>,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) queue: Queue,
    pub(super) recent: Recent,
    pub(super) counts: Counts,
    /// Records given up, ever.
    pub(super) lost: u64,
    pub(super) told: u64,
    /// Handed out by [`Spool::take_told`], not pushed yet.
    pub(super) telling: u64,
    /// The last commit failed.
    pub(super) fails: bool,
    pub(super) stops: bool,
    pub(super) ended: bool,
}

impl Shared {
    /// As the store is when it was opened.
    pub(super) fn new(store: &Store, queue_bytes: usize, metrics: Arc<Metrics>) -> Self {
        let (lost, told) = store.losses();
        let (published, _) = watch::channel(Published {
            newest: Place::new(store.stream(), store.last_seq()),
            sum: store.sum(),
            lost,
        });
        Self {
            inner: Mutex::new(Inner {
                queue: Queue::new(queue_bytes, store.last_seq()),
                recent: Recent::default(),
                counts: Counts::default(),
                lost,
                told,
                telling: 0,
                fails: false,
                stops: false,
                ended: false,
            }),
            wake: Condvar::new(),
            published,
            pushed: watch::Sender::new(Place::new(store.stream(), store.last_seq())),
            metrics,
        }
    }

    /// What is committed, and a way to wait for more.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// Place of the newest record that was pushed, and a way to wait for more.
    #[must_use]
    pub fn pushed(&self) -> watch::Receiver<Place> {
        self.pushed.subscribe()
    }

    /// The newest records, where they begin right after this one.
    #[must_use]
    pub fn recent(&self, after: Place, records: usize, bytes: usize) -> Vec<Bytes> {
        let inner = self.lock();
        if self.pushed.borrow().stream() != after.stream() {
            return Vec::new();
        }
        inner.recent.after(after.seq(), records, bytes)
    }

    /// An upstream has all up to a place.
    pub fn acked(&self, upstream: usize, place: Place) {
        let mut inner = self.lock();
        let idle = inner.queue.work() == Work::None;
        inner.queue.acked(upstream, place);
        drop(inner);
        if idle {
            self.wake.notify_all();
        }
    }

    /// The lock is held for the length of a push or a swap.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for whatever changes next, for so long at most.
    pub(super) fn wait<'a>(
        &self,
        inner: MutexGuard<'a, Inner>,
        patience: Option<Duration>,
    ) -> MutexGuard<'a, Inner> {
        match patience {
            None => self
                .wake
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = self.wake.wait_timeout(inner, patience);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// The writer's thread.
    pub(super) fn write(&self, mut store: Store) {
        while let Some(batch) = self.next_batch() {
            match store.commit(&batch) {
                Ok(done) => self.committed(&store, done),
                Err(error) => {
                    if !self.failed(batch, &error) {
                        break;
                    }
                }
            }
        }
        self.lock().ended = true;
        self.wake.notify_all();
    }

    /// Waits for work; `None` when there is none and none will come.
    fn next_batch(&self) -> Option<Batch> {
        let mut inner = self.lock();
        let mut acks_since = None;
        loop {
            match inner.queue.work() {
                Work::Records => return Some(inner.queue.take()),
                Work::Acks if inner.stops => return Some(inner.queue.take()),
                Work::Acks => {
                    let since: Instant = *acks_since.get_or_insert_with(Instant::now);
                    let left = ACK_DELAY.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        return Some(inner.queue.take());
                    }
                    inner = self.wait(inner, Some(left));
                }
                Work::None if inner.stops => return None,
                Work::None => inner = self.wait(inner, None),
            }
        }
    }

    fn committed(&self, store: &Store, done: Committed) {
        let mut inner = self.lock();
        if std::mem::take(&mut inner.fails) {
            tracing::info!("the spool takes records again");
        }
        inner.counts.stored += done.stored;
        inner.counts.acked += done.acked;
        inner.counts.evicted += done.evicted;
        inner.lost += done.evicted;
        let lost = inner.lost;
        drop(inner);
        self.metrics.add(Count::SpoolOut, done.acked);
        self.metrics.add(Count::SpoolBounds, done.evicted);
        if done.evicted != 0 {
            tracing::error!(
                records = done.evicted,
                "the spool is full or too old: its oldest records are given up"
            );
        }
        self.published.send_replace(Published {
            newest: Place::new(store.stream(), store.last_seq()),
            sum: store.sum(),
            lost,
        });
        // For those that wait until all is stored.
        self.wake.notify_all();
    }

    /// Keeps the batch for another try; false where there will be none.
    fn failed(&self, batch: Batch, error: &rusqlite::Error) -> bool {
        let mut inner = self.lock();
        inner.counts.failed += 1;
        let dropped = inner.queue.put_back(batch);
        inner.dropped(dropped);
        self.metrics.add(Count::SpoolFailures, 1);
        self.metrics.add(Count::SpoolQueueFull, dropped);
        if !std::mem::replace(&mut inner.fails, true) {
            tracing::error!(%error, "the spool cannot be written: records wait in memory");
        }
        let again = Instant::now() + RETRY;
        while !inner.stops {
            let left = again.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            inner = self.wait(inner, Some(left));
        }
        tracing::error!(%error, "records are lost: the spool could not be written before the end");
        false
    }
}

impl Inner {
    /// Records found no room.
    pub(super) fn dropped(&mut self, records: u64) {
        self.counts.dropped += records;
        self.lost += records;
    }
}
