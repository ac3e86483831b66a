//! The recent records, for those who ask later and for those who read slowly.
//!
//! One ring for all readers, bounded in bytes; each reader has only a position in it. What a reader
//! has not taken when the ring needs the room is lost to that reader, and to no other.

use std::{
    collections::{BTreeMap, VecDeque},
    mem::size_of,
    sync::Arc,
};

use super::protocol::Since;
use crate::{
    engine::write_line,
    record::{Kind, Node, Origin, Record},
    time::Timestamp,
};

/// A record with its line.
#[derive(Debug)]
pub struct Kept {
    pub record: Record,
    pub line: Box<[u8]>,
    /// Its place among all that were ever kept.
    place: u64,
}

/// The ring.
#[derive(Debug)]
pub struct History {
    kept: VecDeque<Kept>,
    bytes: usize,
    capacity: usize,
    next_place: u64,
    /// Time and number of the newest record that had to go.
    gone: Option<(Timestamp, u64)>,
}

/// What comes next for a reader.
#[derive(Debug)]
pub enum Next<'a> {
    Kept(&'a Kept),
    /// So many records had to go before the reader took them.
    Lost(u64),
    Nothing,
}

impl History {
    /// An empty ring of so many bytes.
    #[must_use]
    pub const fn new(capacity: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            bytes: 0,
            capacity,
            next_place: 0,
            gone: None,
        }
    }

    /// Keeps a record; its line is made here where there is none yet.
    pub fn add(&mut self, record: Record, line: &[u8]) {
        let line: Box<[u8]> = if line.is_empty() {
            let mut line = Vec::new();
            if let Err(error) = write_line(&record, &mut line) {
                tracing::error!(%error, seq = record.seq, "record cannot be written");
                return;
            }
            line.into()
        } else {
            line.into()
        };
        self.bytes += cost(&line);
        self.kept.push_back(Kept {
            record,
            line,
            place: self.next_place,
        });
        self.next_place += 1;
        while self.bytes > self.capacity
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= cost(&oldest.line);
            self.gone = Some((oldest.record.time, oldest.record.seq));
        }
    }

    /// Lets all records go.
    pub fn clear(&mut self) {
        if let Some(newest) = self.kept.back() {
            self.gone = Some((newest.record.time, newest.record.seq));
        }
        self.kept.clear();
        self.bytes = 0;
    }

    /// Where the next record will be.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.next_place
    }

    /// Where the oldest record is.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.kept.front().map_or(self.next_place, |kept| kept.place)
    }

    /// What a reader that stands at `place` gets next.
    #[must_use]
    pub fn next(&self, place: u64) -> Next<'_> {
        let start = self.start();
        if place < start {
            return Next::Lost(start - place);
        }
        let index = usize::try_from(place - start).unwrap_or(usize::MAX);
        self.kept.get(index).map_or(Next::Nothing, Next::Kept)
    }

    /// Where to begin for `since`, and the line that says what is not there any more, or never was.
    #[must_use]
    pub fn find(&self, since: Since) -> (u64, Option<Vec<u8>>) {
        let Some(oldest) = self.kept.front() else {
            return (self.next_place, None);
        };
        let begins = self.kept.iter().find(|kept| match since {
            Since::Seq(seq) => kept.record.seq >= seq,
            Since::Time(time) => kept.record.time >= time,
        });
        let place = begins.map_or(self.next_place, |kept| kept.place);
        let gap = match since {
            Since::Seq(seq) if seq < oldest.record.seq && seq != 0 => {
                Some((Some(oldest.record.seq - seq), None))
            }
            Since::Time(time) if time < oldest.record.time => Some((None, Some(time))),
            // All that there is was asked for.
            Since::Seq(0) if self.gone.is_some() => Some((Some(oldest.place), None)),
            _ => None,
        };
        let line = gap.and_then(|(lost, since)| self.gap(lost, since));
        (place, line)
    }

    /// A `node.gap` in place of what comes before the oldest record.
    #[must_use]
    pub fn gap(&self, lost: Option<u64>, since: Option<Timestamp>) -> Option<Vec<u8>> {
        let oldest = &self.kept.front()?.record;
        let (stream, _) = oldest.id.split_once('/')?;
        let seq = self
            .gone
            .map_or(oldest.seq.saturating_sub(1), |(_, seq)| seq);
        let until = self.gone.map_or(oldest.time, |(time, _)| time);
        let node = Node {
            lost: lost
                .map(|lost| BTreeMap::from([("record".to_owned(), lost)]))
                .unwrap_or_default(),
            since,
            until: Some(until),
            sink: Some("socket".to_owned()),
            ..Node::default()
        };
        let record = Record {
            // Not a record of the stream: this reader's alone, in the place of what it misses.
            id: format!("{stream}/{seq}/gap"),
            seq,
            time: until,
            kind: Kind::NodeGap,
            origin: Origin::Kernel,
            host: Arc::clone(&oldest.host),
            container: None,
            k8s: None,
            cgroup: None,
            process: None,
            exec: None,
            oom: None,
            oom_killed: None,
            duration_ns: None,
            enrichment: None,
            node: Some(Box::new(node)),
            emit_latency_ns: None,
        };
        let mut line = Vec::new();
        write_line(&record, &mut line).ok()?;
        Some(line)
    }
}

/// What a kept record takes: its line, about as much again for its texts, and its fields.
const fn cost(line: &[u8]) -> usize {
    2 * line.len() + size_of::<Kept>()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::record::Host;

    pub(in super::super) fn record(seq: u64) -> Record {
        let host = Host {
            name: "h".to_owned(),
            id: None,
            boot_id: "b".to_owned(),
        };
        let value = serde_json::json!({
            "id": format!("s/{seq}"), "seq": seq, "time": Timestamp(seq * 1_000).to_string(),
            "type": "node.synced", "origin": "kernel", "host": host,
        });
        serde_json::from_value(value).expect("a record")
    }

    fn filled(capacity: usize, records: u64) -> History {
        let mut history = History::new(capacity);
        for seq in 1..=records {
            history.add(record(seq), b"");
        }
        history
    }

    #[test]
    fn memory_is_bounded_and_what_went_is_counted() {
        let history = filled(64 << 10, 10_000);
        assert!(history.bytes <= 64 << 10);
        let Next::Lost(lost) = history.next(0) else {
            panic!("nothing was lost");
        };
        assert_eq!(
            lost + u64::try_from(history.kept.len()).expect("few"),
            10_000
        );
        let Next::Kept(kept) = history.next(lost) else {
            panic!("nothing is kept");
        };
        assert_eq!(kept.record.seq, lost + 1);
        assert!(matches!(history.next(10_000), Next::Nothing));
    }

    #[test]
    fn what_is_kept_is_found_by_number_and_time() {
        let history = filled(1 << 20, 20);
        assert_eq!(history.find(Since::Seq(5)), (4, None));
        assert_eq!(history.find(Since::Seq(0)), (0, None));
        assert_eq!(history.find(Since::Seq(21)), (20, None));
        assert_eq!(history.find(Since::Time(Timestamp(7_500))), (7, None));
    }

    #[test]
    fn what_is_older_than_the_history_is_told() {
        let history = filled(64 << 10, 1_000);
        let start = history.start();
        for since in [Since::Seq(3), Since::Seq(0), Since::Time(Timestamp(3_000))] {
            let (place, gap) = history.find(since);
            assert_eq!(place, start);
            let gap: Record = serde_json::from_slice(&gap.expect("a gap")).expect("a record");
            let node = gap.node.expect("the node's part");
            assert_eq!(node.sink.as_deref(), Some("socket"));
            let lost = match since {
                Since::Seq(seq) => Some(start - seq.saturating_sub(1)),
                Since::Time(_) => None,
            };
            assert_eq!(node.lost.get("record").copied(), lost, "{since:?}");
        }
    }
}
