//! What one transaction writes.

use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, params};

use super::{
    Packed, Store, StoreError, Tried,
    restore::{number_of, signed},
};
use crate::{
    gateway::{
        fleet::{Entry, MAX_STREAMS, Node, NodeId, Stream},
        liveness::Reach,
        parse::Columns,
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
    /// Highest number of a row of the table of containers.
    pub last_row: i64,
}

/// When a node was what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its state changed, milliseconds since 1970.
    pub since_ms: u64,
    /// It was heard first, likewise.
    pub first_ms: u64,
    /// It was heard last, likewise.
    pub last_ms: u64,
    /// It was heard last, by the store's own clock ([`Store::age_s`]).
    pub heard_s: u64,
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
    /// The line's number in the log, where it is there.
    pub at: Option<u64>,
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
            at: None,
            received,
        }
    }

    /// Line and number for the table. Of those that are removed the log has the line, and nobody asks
    /// often: without it they take a fifth of the room.
    fn kept(&self, state: State) -> (&[u8], Option<i64>) {
        match self.at {
            Some(at) if state == State::Removed => (&[], Some(signed(at))),
            _ => (&self.line, None),
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

    /// Writes rows of the table, in the order of their numbers; the table then follows the log up to
    /// its end.
    pub fn table<'a>(&mut self, puts: impl Iterator<Item = &'a Put>) -> Result<(), StoreError> {
        let mut last_row = self.tail.last_row;
        {
            let mut rows = Rows::new(&self.connection)?;
            for put in puts {
                rows.put(put, put.row > last_row)?;
                last_row = last_row.max(put.row);
            }
        }
        self.tail.last_row = last_row;
        self.tail.applied = self.tail.next;
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

    /// A node, with when it was seen.
    pub fn node(&self, id: NodeId, node: &Node, seen: Seen) -> Result<(), StoreError> {
        let report = serde_json::to_string(&node.report).unwrap_or_default();
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO node (id, name, reach, since, first_seen, last_seen, report, heard_s)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )
            .tried("write a node")?
            .execute(params![
                id,
                &*node.name,
                node.liveness().reach().map(Reach::as_str),
                signed(seen.since_ms),
                signed(seen.first_ms),
                signed(seen.last_ms),
                report,
                signed(seen.heard_s)
            ])
            .tried("write a node")?;
        Ok(())
    }

    /// Takes a node away, with all that it had.
    pub fn forget(&self, id: NodeId) -> Result<(), StoreError> {
        for sql in [
            "DELETE FROM container WHERE node = ?1",
            "DELETE FROM stream WHERE node = ?1",
            "DELETE FROM node WHERE id = ?1",
        ] {
            self.connection
                .prepare_cached(sql)
                .tried("forget a node")?
                .execute([id])
                .tried("forget a node")?;
        }
        Ok(())
    }
}

/// What writes the table of containers.
struct Rows<'a> {
    insert: CachedStatement<'a>,
    update: CachedStatement<'a>,
    replace: CachedStatement<'a>,
    remove: CachedStatement<'a>,
}

/// In what is tried.
const ROWS: &str = "write the table of containers";

const VALUES: &str =
    "INTO container (id, node, instance, cid, name, runtime, image, namespace, pod,
     state, epoch, version, seq, updated, line, at)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";

/// Columns with an index are left alone where they are the same already.
const UPDATE: &str = "UPDATE container SET runtime = ?6, image = ?7, namespace = ?8, pod = ?9,
     state = ?10, epoch = ?11, version = ?12, seq = ?13, updated = ?14, line = ?15, at = ?16
     WHERE id = ?1 AND node = ?2 AND instance = ?3 AND cid = ?4 AND name IS ?5";

impl<'a> Rows<'a> {
    fn new(connection: &'a Connection) -> Result<Self, StoreError> {
        let prepare = |sql: &str| connection.prepare_cached(sql).tried(ROWS);
        Ok(Self {
            insert: prepare(&format!("INSERT {VALUES}"))?,
            update: prepare(UPDATE)?,
            replace: prepare(&format!("INSERT OR REPLACE {VALUES}"))?,
            remove: prepare("UPDATE container SET state = ?2, updated = ?3 WHERE id = ?1")?,
        })
    }

    /// `is_new`: no row has this number yet, nor had one. That is how most come in a storm, and to
    /// replace nothing takes half of the time that to replace takes.
    fn put(&mut self, put: &Put, is_new: bool) -> Result<(), StoreError> {
        let Some(entry) = put.entry else {
            let removed = number_of(State::Removed);
            self.remove
                .execute(params![put.row, removed, signed(put.received)])
                .tried(ROWS)?;
            return Ok(());
        };
        let Some(columns) = Columns::parse(&put.line) else {
            return Ok(());
        };
        let (line, at) = put.kept(entry.state);
        let values = params![
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
            line,
            at,
        ];
        if is_new {
            self.insert.execute(values).tried(ROWS)?;
        } else if self.update.execute(values).tried(ROWS)? == 0 {
            self.replace.execute(values).tried(ROWS)?;
        }
        Ok(())
    }
}
