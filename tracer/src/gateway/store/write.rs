//! What one transaction writes.

use bytes::Bytes;
use rusqlite::{OptionalExtension as _, params};

use super::{
    Packed, Store, StoreError, Tried,
    restore::{number_of, signed, unsigned},
};
use crate::{
    gateway::{
        fleet::{Entry, Node, NodeId, Stream},
        liveness::Reach,
        parse::View,
    },
    record::State,
};

/// The end of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tail {
    /// Number of the next record.
    pub next: u64,
    /// When the newest was received, milliseconds since 1970; never goes back.
    pub received: u64,
    /// The table of containers has followed all before this number.
    pub applied: u64,
    /// Of all lines, as they are stored.
    pub bytes: u64,
}

/// A batch for the log.
#[derive(Debug)]
pub struct LogRow<'a> {
    pub node: NodeId,
    /// 0: these are the gateway's own.
    pub epoch: u32,
    pub count: u64,
    pub lines: &'a Packed,
}

/// A row of the table of containers.
#[derive(Debug, Clone)]
pub struct Put {
    pub row: i64,
    pub node: NodeId,
    /// `None`: it is gone, and nobody told how.
    pub entry: Option<Entry>,
    pub line: Bytes,
    pub received: u64,
}

impl Put {
    /// Its container is no more.
    #[must_use]
    pub const fn gone(row: i64, node: NodeId, received: u64) -> Self {
        Self {
            row,
            node,
            entry: None,
            line: Bytes::new(),
            received,
        }
    }
}

/// Rows that one step of retention takes away, so that no transaction is long.
const STEP: i64 = 256;

impl Store {
    /// The end of the log.
    #[must_use]
    pub const fn tail(&self) -> Tail {
        self.tail
    }

    pub fn begin(&mut self) -> Result<(), StoreError> {
        self.connection
            .execute_batch("BEGIN IMMEDIATE")
            .tried("begin a transaction")
    }

    /// Makes everything since [`Store::begin`] durable.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        let what = "commit";
        let mut statement = self
            .connection
            .prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")
            .tried(what)?;
        for (key, value) in [
            ("next", self.tail.next),
            ("applied", self.tail.applied),
            ("log_bytes", self.tail.bytes),
        ] {
            statement.execute(params![key, signed(value)]).tried(what)?;
        }
        drop(statement);
        self.connection.execute_batch("COMMIT").tried(what)
    }

    /// Takes everything since [`Store::begin`] back; the caller reads the store again.
    pub fn rollback(&mut self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::debug!(%error, "nothing to roll back");
        }
    }

    /// Writes a batch; gives the number of its first record.
    pub fn append(&mut self, now_ms: u64, row: &LogRow<'_>) -> Result<u64, StoreError> {
        let first = self.tail.next;
        self.tail.received = self.tail.received.max(now_ms);
        self.connection
            .prepare_cached(
                "INSERT INTO log (first, count, received, node, epoch, lines, plain)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )
            .tried("write the log")?
            .execute(params![
                signed(first),
                signed(row.count),
                signed(self.tail.received),
                row.node,
                row.epoch,
                &row.lines.bytes[..],
                row.lines.plain
            ])
            .tried("write the log")?;
        self.tail.next += row.count;
        self.tail.bytes += row.lines.bytes.len() as u64;
        Ok(first)
    }

    /// Writes rows of the table; the table then follows the log up to its end.
    pub fn table<'a>(&mut self, puts: impl Iterator<Item = &'a Put>) -> Result<(), StoreError> {
        for put in puts {
            self.put(put)?;
        }
        self.tail.applied = self.tail.next;
        Ok(())
    }

    fn put(&self, put: &Put) -> Result<(), StoreError> {
        let what = "write the table of containers";
        let Some(entry) = put.entry else {
            self.connection
                .prepare_cached("UPDATE container SET state = ?2, updated = ?3 WHERE id = ?1")
                .tried(what)?
                .execute(params![
                    put.row,
                    number_of(State::Removed),
                    signed(put.received)
                ])
                .tried(what)?;
            return Ok(());
        };
        let Some(columns) = View::parse(&put.line).and_then(|view| view.columns()) else {
            return Ok(());
        };
        // Columns with an index are left alone where they are the same already.
        let changed = self
            .connection
            .prepare_cached(
                "UPDATE container SET runtime = ?3, image = ?4, namespace = ?5, pod = ?6, state = ?7,
                 epoch = ?8, version = ?9, seq = ?10, updated = ?11, line = ?12
                 WHERE id = ?1 AND name IS ?2",
            )
            .tried(what)?
            .execute(params![
                put.row,
                columns.name,
                columns.runtime,
                columns.image,
                columns.namespace,
                columns.pod,
                number_of(entry.state),
                entry.epoch,
                signed(entry.version),
                signed(entry.seq),
                signed(put.received),
                &put.line[..],
            ])
            .tried(what)?;
        if changed > 0 {
            return Ok(());
        }
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO container (id, node, instance, cid, name, runtime, image,
                 namespace, pod, state, epoch, version, seq, updated, line)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            )
            .tried(what)?
            .execute(params![
                put.row,
                put.node,
                columns.instance,
                columns.id,
                columns.name,
                columns.runtime,
                columns.image,
                columns.namespace,
                columns.pod,
                number_of(entry.state),
                entry.epoch,
                signed(entry.version),
                signed(entry.seq),
                signed(put.received),
                &put.line[..],
            ])
            .tried(what)?;
        Ok(())
    }

    pub fn stream(&self, node: NodeId, stream: &Stream) -> Result<(), StoreError> {
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO stream (id, node, uuid, epoch, committed, as_of, missing, told)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )
            .tried("write a stream")?
            .execute(params![
                stream.id,
                node,
                &*stream.uuid,
                stream.epoch,
                signed(stream.committed),
                signed(stream.as_of),
                signed(stream.missing),
                signed(stream.told)
            ])
            .tried("write a stream")?;
        Ok(())
    }

    /// `times`: state changed, first seen, last seen, milliseconds since 1970.
    pub fn node(&self, id: NodeId, node: &Node, times: [u64; 3]) -> Result<(), StoreError> {
        let report = serde_json::to_string(&node.report).unwrap_or_default();
        let [since, first, last] = times.map(signed);
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO node (id, name, reach, since, first_seen, last_seen, report)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )
            .tried("write a node")?
            .execute(params![
                id,
                &*node.name,
                node.liveness().reach().map(Reach::as_str),
                since,
                first,
                last,
                report
            ])
            .tried("write a node")?;
        Ok(())
    }

    /// Takes a step's worth of what is older than `oldest_ms` or beyond `max_bytes` away; says
    /// whether there may be more.
    pub fn expire(&mut self, oldest_ms: u64, max_bytes: u64) -> Result<bool, StoreError> {
        let what = "take old records away";
        let over = self.tail.bytes > max_bytes;
        let oldest = if over { i64::MAX } else { signed(oldest_ms) };
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT first, length(lines) FROM log WHERE first < ?1 AND received < ?2 ORDER BY first LIMIT ?3",
            )
            .tried(what)?;
        // What the table has not followed yet stays.
        let applied = signed(self.tail.applied);
        let rows = statement
            .query_map(params![applied, oldest, STEP], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })
            .tried(what)?;
        let mut end = None;
        let mut freed = 0;
        for row in rows {
            let (first, len) = row.tried(what)?;
            if over && self.tail.bytes.saturating_sub(freed) <= max_bytes {
                break;
            }
            freed += unsigned(len);
            end = Some(first);
        }
        drop(statement);
        if let Some(end) = end {
            self.connection
                .execute("DELETE FROM log WHERE first <= ?1", [end])
                .tried(what)?;
            self.tail.bytes = self.tail.bytes.saturating_sub(freed);
        }
        let removed = self
            .connection
            .prepare_cached(
                "DELETE FROM container WHERE id IN
                 (SELECT id FROM container WHERE state = ?1 AND updated < ?2 LIMIT ?3)",
            )
            .tried(what)?
            .execute(params![number_of(State::Removed), signed(oldest_ms), STEP])
            .tried(what)?;
        Ok(end.is_some() || removed > 0)
    }

    /// The oldest number that the log has.
    pub fn oldest(&self) -> Result<Option<u64>, StoreError> {
        self.connection
            .query_row("SELECT first FROM log ORDER BY first LIMIT 1", [], |row| {
                row.get::<_, i64>(0)
            })
            .optional()
            .map(|first| first.map(unsigned))
            .tried("read the log")
    }
}
