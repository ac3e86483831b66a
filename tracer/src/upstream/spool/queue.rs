//! What the pipeline pushed and the store has not taken yet. Never waits for the store.
//!
//! Bounded in bytes; when full the oldest records go first and are counted. What they said of the
//! table of containers is kept, one entry per container, so that the table stays right.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::{super::table::Change, place::Place};

/// A record on its way into the store.
#[derive(Debug, Clone)]
pub struct Pending {
    pub seq: u64,
    pub line: Bytes,
    pub change: Option<Change>,
    /// A `node.gap` that tells of so many records lost here.
    pub tells: u64,
}

/// What there is to do for the store.
#[derive(Debug, Default)]
pub struct Batch {
    /// Number and UUID of the stream that all of this is about, where it begins with this batch.
    pub begins: Option<(i64, String)>,
    pub records: VecDeque<Pending>,
    /// Changes whose records found no room, by instance; older than all in `records`.
    pub orphans: BTreeMap<Arc<str>, (Change, Bytes)>,
    /// Records that found no room.
    pub dropped: u64,
    /// What those of them told, if they were `node.gap`s.
    pub tells: u64,
    /// Newest number pushed, dropped or not.
    pub last_seq: u64,
    /// By upstream.
    pub acks: BTreeMap<usize, Place>,
}

impl Batch {
    /// Nothing but acks, if anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.records.is_empty() && self.dropped == 0 && self.begins.is_none()
    }

    /// Gives up the oldest record, but not what it changed.
    fn drop_oldest(&mut self) -> Option<Pending> {
        let oldest = self.records.pop_front()?;
        self.dropped += 1;
        self.tells += oldest.tells;
        if let Some(change) = &oldest.change {
            self.keep(change.clone(), oldest.line.clone());
        }
        Some(oldest)
    }

    /// Keeps a change without its record. A container that came and went without the store knowing
    /// leaves nothing, so that this is bounded by the containers that live at a time.
    fn keep(&mut self, mut change: Change, line: Bytes) {
        let instance = Arc::clone(&change.instance);
        if let Some((older, _)) = self.orphans.get(&instance) {
            change.born |= older.born;
        }
        if change.born && change.row.is_none() {
            self.orphans.remove(&instance);
        } else {
            self.orphans.insert(instance, (change, line));
        }
    }
}

/// The queue itself.
#[derive(Debug)]
pub struct Queue {
    batch: Batch,
    bytes: usize,
    capacity: usize,
}

/// What a record takes beside its line, bytes.
pub const OVERHEAD: usize = 128;

impl Queue {
    /// An empty one for so many bytes, for records after `last_seq`.
    #[must_use]
    pub fn new(capacity: usize, last_seq: u64) -> Self {
        Self {
            batch: Batch {
                last_seq,
                ..Batch::default()
            },
            bytes: 0,
            capacity,
        }
    }

    /// Number of the newest record that was pushed.
    #[must_use]
    pub const fn last_seq(&self) -> u64 {
        self.batch.last_seq
    }

    /// Takes a record, at the cost of the oldest; says how many those were.
    pub fn push(&mut self, pending: Pending) -> u64 {
        self.batch.last_seq = pending.seq;
        self.bytes += pending.line.len() + OVERHEAD;
        self.batch.records.push_back(pending);
        self.shrink()
    }

    /// Another stream begins. What the store has not taken of the one before is given up: says how
    /// many records those are.
    pub fn begin_stream(&mut self, id: i64, uuid: String) -> u64 {
        let before = self.take();
        let given_up = u64::try_from(before.records.len()).unwrap_or(u64::MAX);
        self.batch = Batch {
            begins: Some((id, uuid)),
            dropped: before.dropped.saturating_add(given_up),
            tells: before.tells
                + before
                    .records
                    .iter()
                    .map(|record| record.tells)
                    .sum::<u64>(),
            acks: before.acks,
            ..Batch::default()
        };
        given_up
    }

    /// An upstream has all up to here.
    pub fn acked(&mut self, upstream: usize, place: Place) {
        let known = self.batch.acks.entry(upstream).or_default();
        *known = place.max(*known);
    }

    /// Takes everything out.
    pub fn take(&mut self) -> Batch {
        self.bytes = 0;
        let last_seq = self.batch.last_seq;
        std::mem::replace(
            &mut self.batch,
            Batch {
                last_seq,
                ..Batch::default()
            },
        )
    }

    /// Puts back what the store could not take; says how many records that costs.
    pub fn put_back(&mut self, mut batch: Batch) -> u64 {
        let newer = std::mem::take(&mut self.batch);
        let before = batch.dropped;
        if newer.begins.is_some() {
            // It was of the stream before.
            let given_up = u64::try_from(batch.records.len()).unwrap_or(u64::MAX);
            batch.tells += batch.records.iter().map(|record| record.tells).sum::<u64>();
            batch.dropped += given_up;
            batch.records.clear();
            batch.orphans.clear();
            batch.begins = newer.begins;
        } else if newer.dropped != 0 {
            // Older than what is gone already.
            while batch.drop_oldest().is_some() {}
        }
        let also = batch.dropped - before;
        for (change, line) in newer.orphans.into_values() {
            batch.keep(change, line);
        }
        batch.records.extend(newer.records);
        batch.dropped += newer.dropped;
        batch.tells += newer.tells;
        batch.last_seq = newer.last_seq;
        for (upstream, place) in newer.acks {
            let known = batch.acks.entry(upstream).or_default();
            *known = place.max(*known);
        }
        self.batch = batch;
        self.bytes = self.batch.records.iter().map(weight).sum();
        also + self.shrink()
    }

    /// Work for the store, and whether some of it is urgent.
    #[must_use]
    pub fn work(&self) -> Work {
        if !self.batch.is_idle() {
            Work::Records
        } else if self.batch.acks.is_empty() {
            Work::None
        } else {
            Work::Acks
        }
    }

    /// Whether a report of a loss would find room.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.bytes < self.capacity / 2
    }

    fn shrink(&mut self) -> u64 {
        let mut dropped = 0;
        while self.bytes > self.capacity {
            let Some(oldest) = self.batch.drop_oldest() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(weight(&oldest));
            dropped += 1;
        }
        dropped
    }
}

/// What waits for the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    None,
    /// They may wait for records to go with.
    Acks,
    Records,
}

fn weight(pending: &Pending) -> usize {
    pending.line.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::{super::super::table::Row, *};

    fn pending(seq: u64, instance: &str) -> Pending {
        Pending {
            seq,
            line: Bytes::from(vec![b'x'; 1000 - OVERHEAD]),
            change: Some(Change {
                instance: instance.into(),
                version: seq,
                born: false,
                row: None,
            }),
            tells: 0,
        }
    }

    #[test]
    fn the_oldest_go_first_but_not_what_they_changed() {
        let mut queue = Queue::new(3_000, 0);
        let dropped: Vec<u64> = (1..=5)
            .map(|seq| queue.push(pending(seq, if seq == 2 { "b" } else { "a" })))
            .collect();
        assert_eq!(dropped, [0, 0, 0, 1, 1]);
        let batch = queue.take();
        assert_eq!((batch.dropped, batch.last_seq), (2, 5));
        let kept: Vec<u64> = batch.records.iter().map(|record| record.seq).collect();
        assert_eq!(kept, [3, 4, 5]);
        assert_eq!(batch.orphans.len(), 2);
        assert_eq!(queue.last_seq(), 5);
        assert_eq!(queue.work(), Work::None);
    }

    #[test]
    fn lives_that_the_store_never_saw_leave_nothing() {
        let mut queue = Queue::new(2_000, 0);
        for life in 0..1000 {
            let mut birth = pending(life * 2 + 1, &format!("c{life}"));
            if let Some(change) = &mut birth.change {
                change.born = true;
                change.row = Some(Row {
                    id: "x".into(),
                    name: None,
                });
            }
            queue.push(birth);
            queue.push(pending(life * 2 + 2, &format!("c{life}")));
        }
        let batch = queue.take();
        assert_eq!((batch.dropped, batch.orphans.len()), (1998, 0));
    }

    #[test]
    fn what_is_put_back_goes_before_what_came_since() {
        let mut queue = Queue::new(3_000, 0);
        queue.push(pending(1, "a"));
        queue.push(pending(2, "a"));
        queue.acked(0, Place::new(1, 9));
        let batch = queue.take();
        queue.push(pending(3, "a"));
        queue.push(pending(4, "a"));
        queue.acked(0, Place::new(1, 7));
        assert_eq!(queue.put_back(batch), 1);
        let batch = queue.take();
        let kept: Vec<u64> = batch.records.iter().map(|record| record.seq).collect();
        assert_eq!((kept, batch.dropped, batch.last_seq), (vec![2, 3, 4], 1, 4));
        assert_eq!(batch.acks.get(&0), Some(&Place::new(1, 9)));
    }

    #[test]
    fn a_new_stream_takes_nothing_of_the_one_before() {
        let mut queue = Queue::new(3_000, 0);
        queue.push(pending(1, "a"));
        let failed = queue.take();
        queue.push(pending(2, "a"));
        assert_eq!(queue.begin_stream(2, "t".to_owned()), 1);
        assert_eq!((queue.last_seq(), queue.work()), (0, Work::Records));
        queue.push(pending(1, "b"));
        // What failed meanwhile was of the stream before.
        assert_eq!(queue.put_back(failed), 1);
        let batch = queue.take();
        let kept: Vec<u64> = batch.records.iter().map(|record| record.seq).collect();
        assert_eq!(batch.begins, Some((2, "t".to_owned())));
        assert_eq!(kept, [1]);
        assert_eq!((batch.dropped, batch.last_seq), (2, 1));
        assert!(batch.orphans.is_empty());
    }
}
