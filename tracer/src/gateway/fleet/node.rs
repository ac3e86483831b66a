//! One node: who speaks for it, what it told, whether the table is what it says.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Denied, Greeting, Out, Overtaken, Own, RowChange, Sent, Taken,
    table::{Entry, Stream, Table},
};
use crate::{
    gateway::{
        liveness::Liveness,
        parse::{Head, Subject, Told},
    },
    record::State,
};

/// Streams that are remembered per node, so that their records are not taken twice.
pub const MAX_STREAMS: usize = 64;

/// A snapshot is asked for at most so often.
const ASK_AGAIN_MS: u64 = 30_000;

/// Who speaks for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub id: u64,
    /// The agent's process.
    pub process: String,
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Report {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host_id: String,
    /// Of tracer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockReport>,
    #[serde(default)]
    pub losses: LossReport,
    /// The node's wall clock minus the gateway's when its last heartbeat came, milliseconds; the
    /// way between them is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ahead_ms: Option<i64>,
}

/// A node's clock, as it says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ClockReport {
    pub synchronized: bool,
    pub max_error_us: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// A node's losses, as it says.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct LossReport {
    /// Records lost between kernel and tracer.
    pub ring: u64,
    /// Records that left the spool without an ack.
    pub spool: u64,
}

impl Report {
    pub(super) fn greet(&mut self, greeting: Greeting) {
        self.boot_id = greeting.boot_id;
        self.host_id = greeting.host_id;
        self.version = greeting.version;
    }
}

/// A heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    pub seq: u64,
    pub containers: u64,
    pub hash: u64,
    pub clock: Option<ClockReport>,
    pub losses: LossReport,
    pub clock_ahead_ms: Option<i64>,
}

/// A part of a snapshot.
#[derive(Debug)]
pub struct Part<'a> {
    pub seq: u64,
    pub heads: &'a [Option<Head>],
    pub last: bool,
}

/// What the table shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Check {
    seq: u64,
    containers: u64,
    hash: u64,
}

/// A snapshot that is coming in.
#[derive(Debug)]
struct Incoming {
    seq: u64,
    seen: BTreeSet<u128>,
    changed: u64,
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub stream: Arc<str>,
    pub epoch: u32,
    pub committed: u64,
    pub missing: u64,
    /// Of these so many were not told by the node.
    pub unexplained: u64,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    pub name: Arc<str>,
    pub session: Option<Session>,
    pub report: Report,
    pub(super) liveness: Liveness,
    pub(super) table: Table,
    streams: Vec<Stream>,
    check: Option<Check>,
    asked: Option<u64>,
    incoming: Option<Incoming>,
}

impl Node {
    pub(super) fn new(name: Arc<str>, liveness: Liveness) -> Self {
        Self {
            name,
            session: None,
            report: Report::default(),
            liveness,
            table: Table::default(),
            streams: Vec::new(),
            check: None,
            asked: None,
            incoming: None,
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn liveness(&self) -> Liveness {
        self.liveness
    }

    /// Its containers.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// The stream that it speaks, or spoke last.
    #[must_use]
    pub fn stream(&self) -> Option<&Stream> {
        self.streams.last()
    }

    /// How far it is.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        let stream = self.streams.last()?;
        let missing = self.streams.iter().map(|stream| stream.missing).sum();
        let unexplained = self.streams.iter();
        Some(Position {
            stream: Arc::clone(&stream.uuid),
            epoch: stream.epoch,
            committed: stream.committed,
            missing,
            unexplained: unexplained.map(|s| s.missing.saturating_sub(s.told)).sum(),
        })
    }

    pub(super) fn restore_stream(&mut self, stream: Stream) {
        self.streams.push(stream);
        self.streams.sort_by_key(|stream| stream.epoch);
    }

    /// Takes the name for a session.
    pub(super) fn claim(&mut self, process: &str, session: u64) -> Result<Option<u64>, Denied> {
        if let Some(holder) = &self.session
            && (holder.process != process || process.is_empty())
        {
            return Err(Denied::NameTaken);
        }
        let old = self.session.replace(Session {
            id: session,
            process: process.to_owned(),
        });
        Ok(old.map(|old| old.id))
    }

    /// Makes this stream the current one.
    pub(super) fn speak(&mut self, uuid: &Arc<str>, new_id: impl FnOnce() -> i64) {
        self.incoming = None;
        self.check = None;
        // What the next heartbeat finds is of this session.
        self.asked = None;
        let epoch = self.streams.last().map_or(0, |stream| stream.epoch);
        match self.streams.iter().position(|stream| stream.uuid == *uuid) {
            Some(index) if index + 1 == self.streams.len() => {}
            Some(index) => {
                let mut stream = self.streams.remove(index);
                stream.epoch = epoch.saturating_add(1);
                self.streams.push(stream);
            }
            None => {
                if self.streams.len() >= MAX_STREAMS {
                    self.streams.remove(0);
                }
                self.streams.push(Stream {
                    id: new_id(),
                    uuid: Arc::clone(uuid),
                    epoch: epoch.saturating_add(1),
                    committed: 0,
                    as_of: 0,
                    missing: 0,
                    told: 0,
                });
            }
        }
    }

    pub(super) fn hear(&mut self, now: u64, out: &mut Out) {
        if let Some(change) = self.liveness.heard(now) {
            out.own.push(Own::Reach {
                change,
                reason: None,
            });
        }
    }

    pub(super) fn records(
        &mut self,
        now: u64,
        sent: &Sent<'_>,
        limit: usize,
        next_row: &mut i64,
        out: &mut Out,
    ) -> Result<Taken, Overtaken> {
        let mut taken = Taken::default();
        let committed = self.streams.last().map_or(0, |stream| stream.committed);
        if sent.after > committed {
            return Err(Overtaken);
        }
        for (index, head) in sent.heads.iter().enumerate() {
            let seq = sent.first.saturating_add(index as u64);
            let Some(stream) = self.streams.last_mut() else {
                return Ok(taken);
            };
            if seq <= stream.committed {
                taken.duplicates = index + 1;
                continue;
            }
            if seq > stream.committed + 1 {
                let (from, to) = (stream.committed + 1, seq - 1);
                missing(stream, from, to, "not sent", out);
            }
            stream.committed = seq;
            let epoch = stream.epoch;
            match head {
                Some(head) if head.seq == seq => {
                    self.apply(epoch, index, head, limit, next_row, out);
                    self.told(&head.kind);
                }
                _ => {
                    missing(stream, seq, seq, "not a record", out);
                    taken.malformed.push(index);
                }
            }
            self.compare(now, out);
        }
        Ok(taken)
    }

    fn told(&mut self, kind: &Told) {
        if let (Told::SpoolGap(count), Some(stream)) = (kind, self.streams.last_mut()) {
            stream.told = stream.told.saturating_add(*count);
        }
    }

    /// Lets one record change the table.
    pub(super) fn apply(
        &mut self,
        epoch: u32,
        index: usize,
        head: &Head,
        limit: usize,
        next_row: &mut i64,
        out: &mut Out,
    ) {
        let current = self.streams.last();
        if current.is_some_and(|stream| stream.epoch == epoch && head.seq <= stream.as_of) {
            return;
        }
        let whole = current.is_none_or(|stream| stream.missing == 0);
        if let Some(subject) = &head.subject {
            self.put(epoch, index, head.seq, subject, limit, next_row, out);
        }
        // What an earlier stream told and this one did not find is gone; where records are missing,
        // that is for the hash to find.
        if head.kind == Told::Synced && whole {
            let gone = self.table.retain(|_, entry| entry.epoch >= epoch);
            let gone = gone.into_iter().map(|row| RowChange::Gone { row });
            out.rows.extend(gone);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one place, called from two")]
    fn put(
        &mut self,
        epoch: u32,
        index: usize,
        seq: u64,
        subject: &Subject,
        limit: usize,
        next_row: &mut i64,
        out: &mut Out,
    ) -> bool {
        let old = self.table.get(subject.key).copied();
        let mut entry = Entry {
            row: 0,
            epoch,
            version: subject.version,
            seq,
            hash: subject.hash,
            state: subject.state,
        };
        match old {
            Some(old) if entry.order() < old.order() => return false,
            Some(old) => entry.row = old.row,
            None if self.table.len() >= limit => {
                out.beyond += 1;
                return false;
            }
            None => {
                entry.row = *next_row;
                *next_row += 1;
            }
        }
        if subject.state == State::Removed {
            self.table.remove(subject.key);
        } else {
            self.table.insert(subject.key, entry);
        }
        let row = entry.row;
        out.rows.push(RowChange::Put { row, index, entry });
        old.is_none_or(|old| old.order() != entry.order())
    }

    pub(super) fn heartbeat(&mut self, now: u64, beat: Beat, out: &mut Out) {
        self.report.clock = beat.clock;
        self.report.losses = beat.losses;
        self.report.clock_ahead_ms = beat.clock_ahead_ms;
        self.check = Some(Check {
            seq: beat.seq,
            containers: beat.containers,
            hash: beat.hash,
        });
        self.compare(now, out);
    }

    /// Once the table is as of what a heartbeat was as of: are they the same?
    fn compare(&mut self, now: u64, out: &mut Out) {
        let (Some(check), Some(stream)) = (self.check, self.streams.last()) else {
            return;
        };
        let position = stream.position();
        if check.seq > position {
            return;
        }
        self.check = None;
        let same = self.table.hash() == check.hash && self.table.len() as u64 == check.containers;
        let again = self
            .asked
            .is_none_or(|asked| now.saturating_sub(asked) >= ASK_AGAIN_MS);
        if check.seq == position && !same && again {
            self.asked = Some(now);
            out.snapshot = true;
        }
    }

    pub(super) fn snapshot(
        &mut self,
        part: &Part<'_>,
        limit: usize,
        next_row: &mut i64,
        out: &mut Out,
    ) {
        let Some(stream) = self.streams.last() else {
            return;
        };
        let epoch = stream.epoch;
        // One that the records have overtaken says nothing new.
        if part.seq < stream.position() {
            self.incoming = None;
            return;
        }
        let mut incoming = self
            .incoming
            .take()
            .filter(|incoming| incoming.seq == part.seq)
            .unwrap_or(Incoming {
                seq: part.seq,
                seen: BTreeSet::new(),
                changed: 0,
            });
        for (index, head) in part.heads.iter().enumerate() {
            let Some((head, subject)) = head.as_ref().and_then(|h| Some((h, h.subject?))) else {
                continue;
            };
            if incoming.seen.len() >= limit || head.seq > part.seq {
                continue;
            }
            incoming.seen.insert(subject.key);
            let changed = self.put(epoch, index, head.seq, &subject, limit, next_row, out);
            incoming.changed += u64::from(changed);
        }
        if part.last {
            self.replace(&incoming, out);
        } else {
            self.incoming = Some(incoming);
        }
    }

    fn replace(&mut self, incoming: &Incoming, out: &mut Out) {
        let gone = self.table.retain(|key, _| incoming.seen.contains(&key));
        out.own.push(Own::Repaired {
            changed: incoming.changed,
            removed: gone.len() as u64,
        });
        let gone = gone.into_iter().map(|row| RowChange::Gone { row });
        out.rows.extend(gone);
        if let Some(stream) = self.streams.last_mut() {
            stream.as_of = incoming.seq;
        }
    }
}

fn missing(stream: &mut Stream, from: u64, to: u64, why: &'static str, out: &mut Out) {
    stream.missing = stream.missing.saturating_add(to - from + 1);
    if let Some(Own::Hole {
        stream: before,
        to: end,
        why: same,
        ..
    }) = out.own.last_mut()
        && *before == stream.uuid
        && *end + 1 == from
        && *same == why
    {
        *end = to;
        return;
    }
    out.own.push(Own::Hole {
        stream: Arc::clone(&stream.uuid),
        from,
        to,
        why,
    });
}
