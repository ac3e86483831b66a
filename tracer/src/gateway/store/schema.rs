//! Tables, and what the database is told about itself.

use rusqlite::Connection;

use super::{StoreError, Tried};

/// Of the tables; an older gateway refuses a newer store.
pub const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS run (id TEXT PRIMARY KEY, first INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS node (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, reach TEXT, since INTEGER NOT NULL,
    first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL, report TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS stream (
    id INTEGER PRIMARY KEY, node INTEGER NOT NULL, uuid TEXT NOT NULL, epoch INTEGER NOT NULL,
    committed INTEGER NOT NULL, as_of INTEGER NOT NULL, missing INTEGER NOT NULL, told INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS log (
    first INTEGER PRIMARY KEY, count INTEGER NOT NULL, received INTEGER NOT NULL,
    node INTEGER NOT NULL, epoch INTEGER NOT NULL, lines BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS container (
    id INTEGER PRIMARY KEY, node INTEGER NOT NULL, instance TEXT NOT NULL, cid TEXT NOT NULL,
    name TEXT, runtime TEXT, image TEXT, namespace TEXT, pod TEXT, state INTEGER NOT NULL,
    epoch INTEGER NOT NULL, version INTEGER NOT NULL, seq INTEGER NOT NULL,
    updated INTEGER NOT NULL, line BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS mark (
    clock_s INTEGER PRIMARY KEY, boot_s INTEGER NOT NULL, boot_id TEXT NOT NULL,
    first INTEGER NOT NULL, received INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS container_cid ON container (cid);
CREATE INDEX IF NOT EXISTS container_name ON container (name) WHERE name IS NOT NULL;
CREATE INDEX IF NOT EXISTS container_node ON container (node);
CREATE INDEX IF NOT EXISTS stream_node ON stream (node);
";

/// Pages of the write-ahead log between two checkpoints.
const CHECKPOINT_PAGES: i64 = 8192;

/// Memory of the writer's page cache, KiB.
const CACHE_KIB: i64 = 32 << 10;

/// Makes the database ready.
pub fn prepare(connection: &Connection) -> Result<(), StoreError> {
    let pragma = |name: &str, value: &dyn rusqlite::ToSql| {
        connection
            .pragma_update_and_check(None, name, value, |_| Ok(()))
            .or_else(|error| match error {
                // Some give no row back.
                rusqlite::Error::QueryReturnedNoRows => Ok(()),
                other => Err(other),
            })
            .tried("set up the database")
    };
    pragma("locking_mode", &"NORMAL")?;
    pragma("journal_mode", &"WAL")?;
    pragma("synchronous", &"FULL")?;
    pragma("wal_autocheckpoint", &CHECKPOINT_PAGES)?;
    pragma("cache_size", &-CACHE_KIB)?;
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .tried("read the version")?;
    if found > VERSION {
        return Err(StoreError::Version {
            found,
            known: VERSION,
        });
    }
    connection.execute_batch(TABLES).tried("make the tables")?;
    pragma("user_version", &VERSION)
}
