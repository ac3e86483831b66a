//! From the store to the fleet, at the start and after a failed transaction.

use std::{path::Path, sync::Arc};

use rusqlite::params;
use xxhash_rust::xxh3::xxh3_128;

use super::{Age, Seen, Store, StoreError, Tail, Tried, open, pack::unpack, schema};
use crate::{
    gateway::{
        fleet::{Entry, Fleet, Limits, NodeId, Out, Report, RowChange, Stream},
        liveness::{Liveness, Reach},
        parse::Head,
    },
    record::State,
    uplink::state_hash,
};

/// What came out of the store.
#[derive(Debug)]
pub struct Restored {
    pub fleet: Fleet,
    /// Rows of the table that had not followed the log yet.
    pub rows: Vec<super::Put>,
    pub seen: Vec<(NodeId, Seen)>,
}

impl Store {
    /// Opens the store, or makes it; this run is named `run`, the host's boot `boot_id`.
    pub fn open(path: &Path, run: &str, boot_id: &str) -> Result<Self, StoreError> {
        let mut connection = open(path, false)?;
        schema::prepare(&mut connection, open(path, false)?)?;
        let tail = tail(&connection)?;
        connection
            .execute(
                "INSERT OR REPLACE INTO run (id, first) VALUES (?1, ?2)",
                params![run, signed(tail.next)],
            )
            .tried("note the start")?;
        let age = Age::read(&connection, boot_id)?;
        Ok(Self {
            connection,
            tail,
            age,
        })
    }

    /// Reads everything again.
    pub fn restore(&mut self, limits: Limits, now: u64) -> Result<Restored, StoreError> {
        self.tail = tail(&self.connection)?;
        self.age = self.age.again(&self.connection)?;
        let mut fleet = Fleet::new(limits);
        let seen = self.nodes(&mut fleet, now)?;
        self.streams(&mut fleet)?;
        self.containers(&mut fleet)?;
        let rows = self.replay(&mut fleet)?;
        Ok(Restored { fleet, rows, seen })
    }

    fn nodes(&self, fleet: &mut Fleet, now: u64) -> Result<Vec<(NodeId, Seen)>, StoreError> {
        let what = "read the nodes";
        let mut seen = Vec::new();
        let mut statement = self
            .connection
            .prepare(
                "SELECT id, name, reach, report, since, first_seen, last_seen, heard_s FROM node",
            )
            .tried(what)?;
        let mut rows = statement.query([]).tried(what)?;
        while let Some(row) = rows.next().tried(what)? {
            let id: NodeId = row.get(0).tried(what)?;
            let name: String = row.get(1).tried(what)?;
            let reach: Option<String> = row.get(2).tried(what)?;
            let report: String = row.get(3).tried(what)?;
            let reach = reach.and_then(|reach| match reach.as_str() {
                "online" => Some(Reach::Online),
                "unreachable" => Some(Reach::Unreachable),
                "offline" => Some(Reach::Offline),
                _ => None,
            });
            let report: Report = serde_json::from_str(&report).unwrap_or_default();
            fleet.restore_node(id, name.into(), Liveness::restored(reach, now), report);
            let number = |index: usize| row.get::<_, i64>(index).map(unsigned).tried(what);
            // A store of a version before does not say.
            let heard_s: Option<i64> = row.get(7).tried(what)?;
            let times = Seen {
                since_ms: number(4)?,
                first_ms: number(5)?,
                last_ms: number(6)?,
                heard_s: heard_s.map_or(self.age_s(), unsigned),
            };
            seen.push((id, times));
        }
        Ok(seen)
    }

    fn streams(&self, fleet: &mut Fleet) -> Result<(), StoreError> {
        let what = "read the streams";
        let mut statement = self
            .connection
            .prepare("SELECT id, node, uuid, epoch, committed, as_of, missing, told FROM stream")
            .tried(what)?;
        let mut rows = statement.query([]).tried(what)?;
        while let Some(row) = rows.next().tried(what)? {
            let number = |index: usize| row.get::<_, i64>(index).map(unsigned).tried(what);
            let uuid: String = row.get(2).tried(what)?;
            let stream = Stream {
                id: row.get(0).tried(what)?,
                uuid: Arc::from(uuid),
                epoch: row.get(3).tried(what)?,
                committed: number(4)?,
                as_of: number(5)?,
                missing: number(6)?,
                told: number(7)?,
            };
            fleet.restore_stream(row.get(1).tried(what)?, stream);
        }
        Ok(())
    }

    fn containers(&mut self, fleet: &mut Fleet) -> Result<(), StoreError> {
        let what = "read the containers";
        let last: Option<i64> = self
            .connection
            .query_row("SELECT max(id) FROM container", [], |row| row.get(0))
            .tried(what)?;
        self.tail.last_row = last.unwrap_or(0);
        fleet.restore_last_row(self.tail.last_row);
        let mut statement = self
            .connection
            .prepare("SELECT id, node, instance, state, epoch, version, seq FROM container WHERE state <> ?1")
            .tried(what)?;
        let mut rows = statement.query([number_of(State::Removed)]).tried(what)?;
        while let Some(row) = rows.next().tried(what)? {
            let instance = row.get_ref(2).tried(what)?.as_str().unwrap_or_default();
            let version = unsigned(row.get(5).tried(what)?);
            let entry = Entry {
                row: row.get(0).tried(what)?,
                epoch: row.get(4).tried(what)?,
                version,
                seq: unsigned(row.get(6).tried(what)?),
                hash: state_hash(instance, version),
                state: state_of(row.get(3).tried(what)?),
            };
            fleet.restore_entry(
                row.get(1).tried(what)?,
                xxh3_128(instance.as_bytes()),
                entry,
            );
        }
        Ok(())
    }

    /// Applies what the table has not followed yet.
    fn replay(&mut self, fleet: &mut Fleet) -> Result<Vec<super::Put>, StoreError> {
        let what = "read the log";
        let mut puts = Vec::new();
        let mut statement = self
            .connection
            .prepare("SELECT node, epoch, received, lines, plain, first FROM log WHERE first >= ?1 AND epoch > 0 ORDER BY first")
            .tried(what)?;
        let mut rows = statement.query([signed(self.tail.applied)]).tried(what)?;
        while let Some(row) = rows.next().tried(what)? {
            let node: NodeId = row.get(0).tried(what)?;
            let received = unsigned(row.get(2).tried(what)?);
            let first = unsigned(row.get(5).tried(what)?);
            let blob = unpack(row.get(3).tried(what)?, row.get(4).tried(what)?)?;
            let lines: Vec<&[u8]> = blob.split_inclusive(|byte| *byte == b'\n').collect();
            let lines: Vec<&[u8]> = lines
                .iter()
                .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
                .collect();
            let heads: Vec<_> = lines.iter().map(|line| Head::parse(line)).collect();
            let mut out = Out::default();
            fleet.replay(node, row.get(1).tried(what)?, &heads, &mut out);
            for change in out.rows {
                puts.push(match change {
                    RowChange::Put { row, index, entry } => super::Put {
                        row,
                        node,
                        entry: Some(entry),
                        line: lines
                            .get(index)
                            .map_or_else(bytes::Bytes::new, |line| blob.slice_ref(line)),
                        at: Some(first + index as u64),
                        received,
                    },
                    RowChange::Gone { row } => super::Put::gone(row, node, received),
                });
            }
        }
        Ok(puts)
    }
}

fn tail(connection: &rusqlite::Connection) -> Result<Tail, StoreError> {
    let what = "read the end of the log";
    let meta = |key: &str| -> Result<Option<u64>, StoreError> {
        let found = connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| {
            row.get::<_, i64>(0)
        });
        match found {
            Ok(value) => Ok(Some(unsigned(value))),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
            Err(error) => Err(error).tried(what),
        }
    };
    let newest = connection.query_row(
        "SELECT first + count, received FROM log ORDER BY first DESC LIMIT 1",
        [],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
    );
    let (end, received) = match newest {
        Ok((end, received)) => (unsigned(end), unsigned(received)),
        Err(rusqlite::Error::QueryReturnedNoRows) => (1, 0),
        Err(error) => return Err(error).tried(what),
    };
    Ok(Tail {
        // Retention may have emptied the log.
        next: end.max(meta("next")?.unwrap_or(1)),
        received,
        applied: meta("applied")?.unwrap_or(1),
        bytes: meta("log_bytes")?.unwrap_or(0),
        // Until the containers are read.
        last_row: i64::MAX,
    })
}

/// The database's integers are signed; the numbers here stay below 2^63.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

const STATES: [State; 5] = [
    State::Created,
    State::Running,
    State::Paused,
    State::Exited,
    State::Removed,
];

/// As in the column `state`.
pub(super) fn number_of(state: State) -> i64 {
    let found = STATES.iter().position(|other| *other == state);
    found
        .and_then(|index| i64::try_from(index).ok())
        .unwrap_or(0)
}

/// From the column `state`.
pub(super) fn state_of(number: i64) -> State {
    let index = usize::try_from(number).unwrap_or(usize::MAX);
    STATES.get(index).copied().unwrap_or(State::Removed)
}
