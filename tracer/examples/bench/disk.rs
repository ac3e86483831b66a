//! The floors that a store on this disk stands on: how often a little can be made durable, and how
//! fast much can, by `SQLite` with nothing around it.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use rusqlite::Connection;

/// The disk below a directory.
#[derive(Debug, Args)]
pub struct Disk {
    directory: PathBuf,
    /// Of one record.
    #[arg(long, default_value_t = 800)]
    record_bytes: usize,
    /// That share a row.
    #[arg(long, default_value_t = 80)]
    row_records: usize,
    /// That share a transaction.
    #[arg(long, default_value_t = 8000)]
    commit_records: usize,
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

/// Measures, and prints one JSON object.
pub fn run(disk: &Disk) -> Result<()> {
    let mut syncs = disk.fdatasync().context("cannot write")?;
    syncs.sort_unstable();
    let at = |per_mille: usize| syncs.get((syncs.len().max(1) - 1) * per_mille / 1000);
    let sqlite = disk.sqlite().context("SQLite cannot write")?;
    let found = serde_json::json!({
        "fdatasync_p50_ns": at(500),
        "fdatasync_p99_ns": at(990),
        "fdatasyncs": syncs.len(),
        "sqlite_records_per_s": sqlite,
    });
    writeln!(std::io::stdout(), "{found}")?;
    Ok(())
}

impl Disk {
    /// Nanoseconds of each append of 4 KiB.
    fn fdatasync(&self) -> Result<Vec<u64>> {
        let path = self.directory.join("floor");
        let mut file = File::create(&path)?;
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let mut took = Vec::new();
        while Instant::now() < end {
            let begin = Instant::now();
            file.write_all(&[b'x'; 4096])?;
            file.sync_data()?;
            took.push(u64::try_from(begin.elapsed().as_nanos())?);
        }
        fs::remove_file(&path)?;
        Ok(took)
    }

    /// Records per second: rows of the same size, as many per transaction, nothing else.
    fn sqlite(&self) -> Result<u64> {
        let path = self.directory.join("floor.db");
        let mut db = Connection::open(&path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.execute_batch("CREATE TABLE log (first INTEGER PRIMARY KEY, lines BLOB NOT NULL)")?;
        let row = vec![b'x'; self.record_bytes * self.row_records];
        let begin = Instant::now();
        let mut records: u64 = 0;
        while begin.elapsed() < Duration::from_secs(self.seconds) {
            let transaction = db.transaction()?;
            for _ in 0..self.commit_records.div_ceil(self.row_records.max(1)) {
                transaction
                    .prepare_cached("INSERT INTO log (lines) VALUES (?1)")?
                    .execute([&row])?;
                records += self.row_records as u64;
            }
            transaction.commit()?;
        }
        let per_s = records * 1000 / u64::try_from(begin.elapsed().as_millis())?.max(1);
        drop(db);
        for name in ["floor.db", "floor.db-wal", "floor.db-shm"] {
            // The last connection takes the log and its index away.
            drop(fs::remove_file(self.directory.join(name)));
        }
        Ok(per_s)
    }
}
