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
    // As a whole or not at all: tables of half a version would be refused by every later start.
    let renewal = connection.transaction().tried(what)?;
    let found: i64 = renewal
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .tried("read the version")?;
    match found {
        0 | VERSION => {}
        2 => renewal.execute_batch(SINCE_2).tried("renew the tables")?,
        _ => {
            let known = VERSION;
            return Err(StoreError::Version { found, known });
        }
    }
    renewal.execute_batch(TABLES).tried("make the tables")?;
    renewal
        .pragma_update(None, "user_version", VERSION)
        .tried(what)?;
    renewal.commit().tried(what)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What version 2 had and this has not.
    const ADDED: [(&str, &str); 2] = [
        (", at INTEGER", "container"),
        (",\n    heard_s INTEGER", "node"),
    ];

    fn connect(path: &Path) -> Connection {
        Connection::open(path).expect("a database")
    }

    /// A store as version 2 left it, with a node and a container.
    fn version_2(path: &Path) {
        let mut tables = TABLES.replace(
            "CREATE INDEX IF NOT EXISTS container_removed ON container (updated) WHERE state = 4;\n",
            "",
        );
        for (column, table) in ADDED {
            assert!(tables.contains(column), "{table}");
            tables = tables.replace(column, "");
        }
        let connection = connect(path);
        connection.execute_batch(&tables).expect("tables");
        connection
            .execute_batch(
                "INSERT INTO node VALUES (1, 'n', 'online', 1, 1, 1, '{}');
                 INSERT INTO container VALUES
                 (1, 1, 'i', 'c', NULL, NULL, NULL, NULL, NULL, 1, 1, 1, 1, 1, x'7b7d');
                 PRAGMA user_version = 2;",
            )
            .expect("rows");
    }

    fn number(connection: &Connection, sql: &str) -> i64 {
        let row = connection.query_row(sql, [], |row| row.get(0));
        row.expect("a number")
    }

    #[test]
    fn a_store_of_the_version_before_is_taken_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.db");
        version_2(&path);
        // A second start finds it renewed.
        for _ in 0..2 {
            let mut connection = connect(&path);
            prepare(&mut connection, connect(&path)).expect("prepared");
            assert_eq!(number(&connection, "PRAGMA user_version"), VERSION);
            let kept = "SELECT count(*) FROM container JOIN node ON node.id = node
                        WHERE at IS NULL AND heard_s IS NULL";
            assert_eq!(number(&connection, kept), 1);
        }
    }

    #[test]
    fn a_renewal_that_fails_leaves_the_store_as_it_was() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.db");
        version_2(&path);
        // The second of its changes will fail.
        connect(&path)
            .execute_batch("ALTER TABLE node ADD COLUMN heard_s INTEGER")
            .expect("changed");
        prepare(&mut connect(&path), connect(&path)).expect_err("a column twice");
        let connection = connect(&path);
        assert_eq!(number(&connection, "PRAGMA user_version"), 2);
        let added = "SELECT count(*) FROM pragma_table_info('container') WHERE name = 'at'";
        assert_eq!(number(&connection, added), 0);
    }

    #[test]
    fn a_store_of_another_version_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.db");
        let other = connect(&path);
        let version = VERSION + 1;
        other
            .pragma_update(None, "user_version", version)
            .expect("set");
        let refused = prepare(&mut connect(&path), connect(&path));
        assert!(matches!(
            refused,
            Err(StoreError::Version { found, .. }) if found == version
        ));
    }
}
