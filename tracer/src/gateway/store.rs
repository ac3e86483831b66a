//! What the gateway keeps: `SQLite`, one writer.
//!
//! ```text
//!  log        one row per batch of a node: its lines, compressed, and who sent them
//!  container  one row per container: its newest record, and columns to search by
//!  node, stream, run, mark, meta
//! ```
//!
//! The log is the truth: a batch is acked when its row is on the disk. The table of containers follows
//! within a second; `meta.applied` says up to which number it has followed, and the rest is applied
//! once more at the next start. So a storm writes each line once, in sequence, and each container's
//! row once per second.
//!
//! Numbers of the log rise over all restarts. A *run* is one life of the gateway; a cursor is
//! `<run>-<number>`, so that a cursor from before a restored backup is known to be foreign.
//!
//! # Invariants
//!
//! * A batch, its stream's `committed` and the records of the gateway itself are in one transaction.
//! * A commit is durable when the log was forced to the disk after it ([`crate::wal`]); nothing is
//!   promised before.
//! * After a failed transaction nothing in memory is trusted: all is read again ([`Store::restore`]).

mod age;
mod pack;
mod read;
mod restore;
mod schema;
#[cfg(test)]
mod tests;
mod write;

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

use self::age::Age;
pub use self::{
    pack::Packed,
    read::{ContainerRow, Found, Item, Piece, Readers, Search},
    restore::Restored,
    write::{LogRow, Put, Seen, Tail},
};

/// Where it failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {what} in the gateway's store")]
    Sql {
        what: &'static str,
        #[source]
        error: rusqlite::Error,
    },
    #[error("the store is of version {found}, this tracer knows version {known}")]
    Version { found: i64, known: i64 },
    #[error("another gateway uses the store")]
    Taken,
    #[error("the gateway's store cannot be forced to the disk")]
    Disk,
    #[error(transparent)]
    Damaged(#[from] pack::Damaged),
}

/// Names what was tried.
pub(super) trait Tried<T> {
    fn tried(self, what: &'static str) -> Result<T, StoreError>;
}

impl<T> Tried<T> for rusqlite::Result<T> {
    fn tried(self, what: &'static str) -> Result<T, StoreError> {
        self.map_err(|error| StoreError::Sql { what, error })
    }
}

/// The one writer.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    tail: Tail,
    age: Age,
}

/// How long a reader or the writer waits for the other's lock.
const PATIENCE: Duration = Duration::from_secs(5);

fn open(path: &Path, read_only: bool) -> Result<Connection, StoreError> {
    let mode = if read_only {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    } else {
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
    };
    let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).tried("open the database")?;
    connection
        .busy_timeout(PATIENCE)
        .tried("set up the database")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}
