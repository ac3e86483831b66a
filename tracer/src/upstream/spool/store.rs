//! The spool on disk: one `SQLite` file, one writer.
//!
//! A commit takes a whole batch: records, what they changed in the table of containers, what was
//! lost, and acks. It is on disk when [`Store::commit`] returns (WAL, `synchronous=FULL`), or nothing
//! of it is.
//!
//! # Invariants
//!
//! * Records are given up from the oldest on, and only where bytes or age ask for it; each that some
//!   upstream has not acked is counted in the same commit.
//! * The table of a stream is as of the stream's last number, also where records were given up.
//! * A record that all upstreams have acked is deleted; so is a finished stream with its table.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, named_params, params};

use super::{
    super::table::Sum,
    place::Place,
    queue::Batch,
    rows::{self, Bounds, State, Table},
};
use crate::time::{AgeClock, boot_s};

/// What a spool belongs to.
#[derive(Debug, Clone)]
pub struct Owner<'a> {
    /// UUID of the stream.
    pub stream: &'a str,
    pub boot_id: &'a str,
    /// Names of the upstreams; by their place in this list they are spoken of later.
    pub upstreams: &'a [String],
}

/// The writer's side.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    bounds: Bounds,
    stream: i64,
    boot_id: String,
    clock: AgeClock,
    upstreams: Vec<String>,
    state: State,
    /// There are streams before this one.
    has_old_streams: bool,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Committed {
    /// Records that went in.
    pub stored: u64,
    /// Records that all upstreams have.
    pub acked: u64,
    /// Records given up although somebody lacked them.
    pub evicted: u64,
}

const SCHEMA: &str = include_str!("schema.sql");
/// Of the schema.
const FORMAT: i64 = 1;
/// Page cache, KiB.
const CACHE_KIB: i64 = 512;
/// The write-ahead log shrinks to this after a checkpoint, bytes.
const WAL_BYTES: i64 = 4 << 20;
/// How long another process's lock is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Pages that are given back to the file system per commit.
const VACUUM_PAGES: i64 = 1024;

/// Opens the file, with its schema.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(PATIENCE)?;
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)?;
    db.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
    match db.query_row("PRAGMA user_version", [], |row| row.get(0))? {
        0 => {
            let create = db.unchecked_transaction()?;
            create.execute_batch(SCHEMA)?;
            create.pragma_update(None, "user_version", FORMAT)?;
            create.commit()?;
        }
        FORMAT => {}
        // Of a later tracer: to be set aside, as a damaged one is.
        _ => return Err(rusqlite::Error::InvalidQuery),
    }
    Ok(db)
}

impl Store {
    /// Takes over an open file for its owner.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub fn new(mut db: Connection, owner: &Owner<'_>, bounds: Bounds) -> rusqlite::Result<Self> {
        let begin = db.transaction()?;
        let stream = rows::adopt(&begin, owner.stream)?;
        let cursors = rows::cursors(&begin, owner.upstreams)?;
        let state = begin.query_row("SELECT bytes, lost, told FROM spool", [], |row| {
            Ok(State {
                bytes: row.get(0)?,
                lost: row.get(1)?,
                told: row.get(2)?,
                ..State::default()
            })
        })?;
        let state = State {
            last_seq: begin.query_row(
                "SELECT last_seq FROM stream WHERE id = ?",
                [stream],
                |row| row.get(0),
            )?,
            sum: rows::sum(&begin, stream)?,
            cursors,
            ..state
        };
        let clock = rows::clock(&begin, owner.boot_id)?;
        begin.commit()?;
        let mut store = Self {
            db,
            bounds,
            stream,
            boot_id: owner.boot_id.to_owned(),
            clock,
            upstreams: owner.upstreams.to_vec(),
            state,
            has_old_streams: true,
        };
        // Deletes what a removed upstream was the last to need.
        store.commit(&Batch {
            last_seq: store.state.last_seq,
            ..Batch::default()
        })?;
        Ok(store)
    }

    /// Number of the stream in this spool.
    #[must_use]
    pub const fn stream(&self) -> i64 {
        self.stream
    }

    /// Number of the newest record, kept or not.
    #[must_use]
    pub const fn last_seq(&self) -> u64 {
        self.state.last_seq
    }

    /// The table's sum, as of the newest record.
    #[must_use]
    pub const fn sum(&self) -> Sum {
        self.state.sum
    }

    /// Records given up, ever, and how many of them a `node.gap` told.
    #[must_use]
    pub const fn losses(&self) -> (u64, u64) {
        (self.state.lost, self.state.told)
    }

    /// Up to where an upstream has acked.
    #[must_use]
    pub fn cursor(&self, upstream: usize) -> Place {
        self.state
            .cursors
            .get(upstream)
            .copied()
            .unwrap_or_default()
    }

    /// Makes a batch durable.
    ///
    /// # Errors
    ///
    /// Those of the database; then nothing of the batch is in it.
    pub fn commit(&mut self, batch: &Batch) -> rusqlite::Result<Committed> {
        let now_s = self.clock.now_s();
        let mut state = self.state.clone();
        let mut done = Committed::default();
        let commit = self.db.transaction()?;
        let mut stream = self.stream;
        if let Some((id, uuid)) = &batch.begins {
            stream = rows::begin(&commit, *id, uuid)?;
            state.last_seq = 0;
            state.sum = Sum::default();
        }
        let table = Table {
            db: &commit,
            stream,
        };
        for (change, line) in batch.orphans.values() {
            table.apply(change, line, &mut state.sum)?;
        }
        {
            let mut insert = commit.prepare_cached(
                "INSERT OR IGNORE INTO record (place, at_s, line) VALUES (?, ?, ?)",
            )?;
            for record in &batch.records {
                let place = Place::new(stream, record.seq);
                insert.execute(params![place.raw(), now_s, record.line.as_ref()])?;
                state.bytes += rows::weight(record.line.len());
                state.told += record.tells;
                done.stored += 1;
                if let Some(change) = &record.change {
                    table.apply(change, &record.line, &mut state.sum)?;
                }
            }
        }
        state.last_seq = state.last_seq.max(batch.last_seq);
        state.lost += batch.dropped;
        state.told += batch.tells;
        rows::acknowledge(&commit, &self.upstreams, batch, &mut state)?;
        done.acked = rows::delete_acked(&commit, &mut state)?;
        done.evicted = rows::evict(&commit, self.bounds, now_s, &mut state)?;
        let has_old_streams = (self.has_old_streams || stream != self.stream)
            && rows::purge_streams(&commit, stream)?;
        commit
            .prepare_cached("UPDATE stream SET last_seq = ? WHERE id = ?")?
            .execute(params![state.last_seq, stream])?;
        commit
            .prepare_cached(
                "UPDATE spool SET bytes = :bytes, lost = :lost, told = :told, \
                 clock_s = :clock_s, boot_s = :boot_s, boot_id = :boot_id",
            )?
            .execute(named_params! {
                ":bytes": state.bytes,
                ":lost": state.lost,
                ":told": state.told,
                ":clock_s": now_s,
                ":boot_s": boot_s(),
                ":boot_id": self.boot_id,
            })?;
        commit.commit()?;
        self.state = state;
        self.stream = stream;
        self.has_old_streams = has_old_streams;
        if done.acked + done.evicted != 0 {
            self.shrink();
        }
        Ok(done)
    }

    /// Gives free pages back. Not needed for anything but the disk's sake: failing is not told.
    fn shrink(&self) {
        let free: rusqlite::Result<i64> = self
            .db
            .query_row("PRAGMA freelist_count", [], |row| row.get(0));
        if free.is_ok_and(|free| free > VACUUM_PAGES) {
            let shrunk = self
                .db
                .execute_batch(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"));
            if let Err(error) = shrunk {
                tracing::debug!(%error, "free pages of the spool were not given back");
            }
        }
    }
}
