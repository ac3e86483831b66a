//! What one transaction writes.

use bytes::Bytes;
use rusqlite::params;

use super::{
    Packed, Store, StoreError, Tried,
    restore::{number_of, signed},
};
use crate::{
    gateway::{
        fleet::{Entry, MAX_STREAMS, Node, NodeId, Stream},
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

    /// Forgets the streams of a node that were spoken so long ago that nobody remembers them.
    pub fn forget_streams(&self, node: NodeId) -> Result<(), StoreError> {
        self.connection
            .prepare_cached(
                "DELETE FROM stream WHERE node = ?1 AND id NOT IN
                 (SELECT id FROM stream WHERE node = ?1 ORDER BY epoch DESC LIMIT ?2)",
            )
            .tried("forget streams")?
            .execute(params![node, MAX_STREAMS])
            .tried("forget streams")?;
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
}
