//! Tables, and what the database is told about itself.

use rusqlite::Connection;

use super::{StoreError, Tried};
use crate::wal;

/// Of the tables; a store of another version is refused.
pub const VERSION: i64 = 3;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS run (id TEXT PRIMARY KEY, first INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS node (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, reach TEXT, since INTEGER NOT NULL,
    first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL, report TEXT NOT NULL,
    heard_s INTEGER);
CREATE TABLE IF NOT EXISTS stream (
    id INTEGER PRIMARY KEY, node INTEGER NOT NULL, uuid TEXT NOT NULL, epoch INTEGER NOT NULL,
    committed INTEGER NOT NULL, as_of INTEGER NOT NULL, missing INTEGER NOT NULL, told INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS log (
    first INTEGER PRIMARY KEY, count INTEGER NOT NULL, received INTEGER NOT NULL,
    node INTEGER NOT NULL, epoch INTEGER NOT NULL, lines BLOB NOT NULL,
    plain INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS container (
    id INTEGER PRIMARY KEY, node INTEGER NOT NULL, instance TEXT NOT NULL, cid TEXT NOT NULL,
    name TEXT, runtime TEXT, image TEXT, namespace TEXT, pod TEXT, state INTEGER NOT NULL,
    epoch INTEGER NOT NULL, version INTEGER NOT NULL, seq INTEGER NOT NULL,
    updated INTEGER NOT NULL, line BLOB NOT NULL, at INTEGER);
CREATE TABLE IF NOT EXISTS mark (
    clock_s INTEGER PRIMARY KEY, boot_s INTEGER NOT NULL, boot_id TEXT NOT NULL,
    first INTEGER NOT NULL, received INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS container_cid ON container (cid);
CREATE INDEX IF NOT EXISTS container_name ON container (name) WHERE name IS NOT NULL;
CREATE INDEX IF NOT EXISTS container_node ON container (node);
CREATE INDEX IF NOT EXISTS container_removed ON container (updated) WHERE state = 4;
CREATE INDEX IF NOT EXISTS stream_node ON stream (node);
";

/// From version 2: where the records of removed containers are, and how long ago a node was heard.
const SINCE_2: &str = "
ALTER TABLE container ADD COLUMN at INTEGER;
ALTER TABLE node ADD COLUMN heard_s INTEGER;
";

/// Memory of the writer's page cache, KiB.
const CACHE_KIB: i64 = 32 << 10;

/// Makes the database ready; `checkpoints` is another connection to it.
pub fn prepare(connection: &mut Connection, checkpoints: Connection) -> Result<(), StoreError> {
    let what = "set up the database";
    wal::prepare(connection, checkpoints).tried(what)?;
    connection
        .pragma_update(None, "cache_size", -CACHE_KIB)
        .tried(what)?;
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .tried("read the version")?;
    match found {
        0 | VERSION => {}
        2 => connection
            .execute_batch(SINCE_2)
            .tried("renew the tables")?,
        _ => {
            let known = VERSION;
            return Err(StoreError::Version { found, known });
        }
    }
    connection.execute_batch(TABLES).tried("make the tables")?;
    connection
        .pragma_update(None, "user_version", VERSION)
        .tried(what)
}
