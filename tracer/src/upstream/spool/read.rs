//! A sender's view of the spool: a connection of its own that never waits for the writer.

use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, params};

use super::{super::table::Sum, place::Place, rows, store};

/// Reads what is committed.
#[derive(Debug)]
pub struct Reader {
    db: Connection,
}

/// A stream as the spool has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Number in this spool.
    pub id: i64,
    pub uuid: String,
    /// Newest record, kept or not.
    pub last_seq: u64,
    /// Oldest and newest that are kept; 0 where none is.
    pub kept: (u64, u64),
    /// Of its table, as of `last_seq`.
    pub sum: Sum,
}

/// Consecutive records of one stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Run {
    pub first: Place,
    pub lines: Vec<Bytes>,
}

/// Containers of one stream: the newest record about each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// As of this record.
    pub seq: u64,
    pub lines: Vec<Bytes>,
}

/// Page cache, KiB.
const CACHE_KIB: i64 = 256;

/// A prefix of an id that says whom it means has at least so many characters.
const MIN_PREFIX: usize = 4;

impl Reader {
    /// Opens the file that the writer has opened.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.busy_timeout(store::PATIENCE)?;
        db.pragma_update(None, "query_only", true)?;
        db.pragma_update(None, "cache_size", -CACHE_KIB)?;
        Ok(Self { db })
    }

    /// The stream of the first record after a place; `None` where there is no such record.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub fn first_after(&self, place: Place) -> rusqlite::Result<Option<Place>> {
        self.db
            .prepare_cached("SELECT place FROM record WHERE place > ? ORDER BY place LIMIT 1")?
            .query_row([place.raw()], |row| Ok(Place::from_raw(row.get(0)?)))
            .optional()
    }

    /// Records after a place, without a hole: at most so many and so many bytes, but at least one.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub fn run(&self, after: Place, records: usize, bytes: usize) -> rusqlite::Result<Run> {
        let mut select = self.db.prepare_cached(
            "SELECT place, line FROM record WHERE place > ? ORDER BY place LIMIT ?",
        )?;
        let limit = i64::try_from(records).unwrap_or(i64::MAX);
        let mut rows = select.query(params![after.raw(), limit])?;
        let mut run = Run::default();
        let mut left = bytes;
        while let Some(row) = rows.next()? {
            let place = Place::from_raw(row.get(0)?);
            let line = row.get_ref(1)?.as_blob()?;
            let expected = run.first.raw() + i64::try_from(run.lines.len()).unwrap_or(i64::MAX);
            if run.lines.is_empty() {
                run.first = place;
            } else if place.raw() != expected || line.len() > left {
                break;
            }
            left = left.saturating_sub(line.len());
            run.lines.push(Bytes::copy_from_slice(line));
        }
        Ok(run)
    }

    /// What there is of a stream; `None` where it was delivered and forgotten.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub fn stream(&self, id: i64) -> rusqlite::Result<Option<Stream>> {
        let read = self.db.unchecked_transaction()?;
        let found = read
            .prepare_cached("SELECT uuid, last_seq FROM stream WHERE id = ?")?
            .query_row([id], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?))
            })
            .optional()?;
        let Some((uuid, last_seq)) = found else {
            return Ok(None);
        };
        let (first, last): (Option<i64>, Option<i64>) = read
            .prepare_cached(
                "SELECT (SELECT min(place) FROM record WHERE place >= ?1 AND place < ?2), \
                 (SELECT max(place) FROM record WHERE place >= ?1 AND place < ?2)",
            )?
            .query_row(
                [Place::new(id, 0).raw(), Place::new(id + 1, 0).raw()],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
        let seq = |place: Option<i64>| place.map_or(0, |place| Place::from_raw(place).seq());
        Ok(Some(Stream {
            id,
            uuid,
            last_seq,
            kept: (seq(first), seq(last)),
            sum: rows::sum(&read, id)?,
        }))
    }

    /// All containers of a stream; `None` where it was delivered and forgotten.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub fn containers(&self, stream: i64) -> rusqlite::Result<Option<Found>> {
        self.select(
            stream,
            "SELECT line FROM container WHERE stream = ?1 AND ?2 = '' ORDER BY rowid",
            "",
        )
    }

    /// Containers with this id, a prefix of it of at least four characters, this name or instance.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub fn find(&self, stream: i64, what: &str) -> rusqlite::Result<Option<Found>> {
        let exact = "SELECT line FROM container \
                     WHERE stream = ?1 AND (id = ?2 OR name = ?2 OR instance = ?2) ORDER BY rowid";
        let prefix = "SELECT line FROM container \
                      WHERE stream = ?1 AND substr(id, 1, length(?2)) = ?2 ORDER BY rowid";
        let found = self.select(stream, exact, what)?;
        let nothing = found.as_ref().is_some_and(|found| found.lines.is_empty());
        if nothing && what.len() >= MIN_PREFIX {
            return self.select(stream, prefix, what);
        }
        Ok(found)
    }

    /// As of one moment: number and table belong together.
    fn select(&self, stream: i64, sql: &str, what: &str) -> rusqlite::Result<Option<Found>> {
        let read = self.db.unchecked_transaction()?;
        let seq = read
            .prepare_cached("SELECT last_seq FROM stream WHERE id = ?")?
            .query_row([stream], |row| row.get(0))
            .optional()?;
        let Some(seq) = seq else { return Ok(None) };
        let line = |row: &Row<'_>| Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?));
        let lines = read
            .prepare_cached(sql)?
            .query_map(params![stream, what], line)?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Some(Found { seq, lines }))
    }
}
