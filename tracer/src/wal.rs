//! A database whose commits do not wait for the disk.
//!
//! ```text
//!  commit ─▶ the log, in the page cache ── readers see it; a kill loses nothing
//!              │
//!              ├─▶ Log::sync, another thread: a power failure loses nothing before this
//!              └─▶ Checkpoints, another thread: the log's pages go to the database
//! ```
//!
//! `SQLite` itself offers both in one (`synchronous=FULL`: a commit forces the log to the disk; every
//! so many pages a commit also writes the database): whoever commits then waits milliseconds each
//! time, and tens of them now and then. Here the writer goes on, and who must know that something is
//! durable asks [`Log::sync`]. The order of writes is that of `synchronous=NORMAL`, which keeps the
//! database whole whenever the power goes.
//!
//! A log is begun anew only when all of it is in the database and nothing is added meanwhile; so the
//! writer does the last step of a checkpoint itself, every [`LIMIT`] pages, right after the other
//! thread has left it no more than [`SHORT`].

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use rusqlite::Connection;

/// Pages that are added between two checkpoints of the other thread. A page that changes often goes
/// to the database once for all of them.
const STEP: i32 = 4 * 1024;
/// Pages from which on the log is to begin anew; from twice as many on however long that takes.
const LIMIT: i32 = 16 * 1024;
/// Pages that the writer may take to the database itself: it stands still meanwhile.
const SHORT: i32 = 2 * 1024;

/// The log's file.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    /// That of an open database.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened.
    pub fn of(database: &Path) -> io::Result<Self> {
        // SQLite's locks are on the database and on `-shm`: closing this gives none of them up.
        let file = File::open(log_path(database))?;
        // So that the name itself is there after a power failure.
        if let Some(directory) = database.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(Self(file))
    }

    /// Everything that was committed before this call is on the disk after it.
    ///
    /// # Errors
    ///
    /// After one of these nobody knows what is on the disk: whoever promised anything must not go on
    /// with what is in memory.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn log_path(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}

/// Makes a connection the writer of this kind; the returned thread's work ends with it.
///
/// # Errors
///
/// Those of the database, and of starting a thread.
pub fn prepare(writer: &mut Connection, checkpoints: Connection) -> rusqlite::Result<()> {
    writer.pragma_update(None, "journal_mode", "WAL")?;
    // A connection that has not used the log yet does not know of it: its checkpoints do nothing.
    checkpoints.pragma_update(None, "journal_mode", "WAL")?;
    writer.pragma_update(None, "synchronous", "NORMAL")?;
    let (nudge, nudged) = sync_channel(1);
    let moved = Arc::new(AtomicI32::new(0));
    let done = Arc::clone(&moved);
    let thread = thread::Builder::new()
        .name("checkpoint".to_owned())
        .spawn(move || work(&checkpoints, &nudged, &done));
    if let Err(error) = thread {
        tracing::warn!(%error, "no thread for checkpoints: commits will wait for them");
        return Ok(());
    }
    let mut policy = Policy {
        nudge,
        moved,
        last: 0,
    };
    // It takes the place of SQLite's own checkpoint every 1000 pages.
    writer.wal_hook(Some(move |log: &mut rusqlite::hooks::Wal, pages| {
        policy.added(log, pages);
        Ok(())
    }))
}

/// When is what to be done.
struct Policy {
    nudge: SyncSender<()>,
    /// Pages of the log that the other thread has in the database; 0 where it has not finished since
    /// that was last of use.
    moved: Arc<AtomicI32>,
    /// Pages when it was nudged last.
    last: i32,
}

impl Policy {
    fn added(&mut self, log: &mut rusqlite::hooks::Wal, pages: i32) {
        if pages < self.last {
            // It began anew.
            self.last = 0;
        }
        let moved = self.moved.load(Ordering::Acquire);
        let is_short = pages - moved <= SHORT || pages >= 2 * LIMIT;
        if pages >= LIMIT && moved > 0 && is_short {
            self.moved.store(0, Ordering::Release);
            // Where somebody reads or the other thread works, it is tried again after that.
            if let Err(error) = log.checkpoint() {
                tracing::debug!(%error, "the log goes on");
            }
        }
        let step = if pages >= LIMIT { SHORT / 2 } else { STEP };
        if pages - self.last >= step && self.nudge.try_send(()).is_ok() {
            self.last = pages;
        }
    }
}

fn work(connection: &Connection, nudged: &Receiver<()>, done: &AtomicI32) {
    while nudged.recv().is_ok() {
        match connection.wal_checkpoint_v2(None::<&str>, rusqlite::wal::CheckpointMode::PASSIVE) {
            Ok((_, moved)) => done.store(moved, Ordering::Release),
            // The pages stay in the log.
            Err(error) => tracing::debug!(%error, "a checkpoint failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The writer of a database with a table of blobs.
    fn writer(path: &Path) -> Connection {
        let mut writer = Connection::open(path).expect("a database");
        let other = Connection::open(path).expect("a database");
        prepare(&mut writer, other).expect("prepared");
        writer
            .execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, b BLOB)")
            .expect("a table");
        writer
    }

    /// It did nothing once, and nobody noticed: the writer did it all, and stood still meanwhile.
    #[test]
    fn the_other_thread_takes_pages_to_the_database() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.db");
        let writer = writer(&path);
        let size = || path.metadata().map_or(0, |meta| meta.len());
        let before = size();
        // More than a step, less than makes the writer do anything.
        let pages = u64::try_from(STEP).expect("a number") * 2;
        let row = vec![b'x'; 4 << 20];
        for _ in 0..pages / 1024 {
            let done = writer.execute("INSERT INTO t (b) VALUES (?1)", [&row]);
            done.expect("written");
        }
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while size() < before + (8 << 20) {
            assert!(std::time::Instant::now() < end, "{} bytes", size());
            thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn the_log_does_not_grow_for_ever_and_commits_can_be_forced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.db");
        let writer = writer(&path);
        let log = Log::of(&path).expect("a log");
        let page = vec![b'x'; 256 << 10];
        let mut largest = 0;
        for id in 0..2_000 {
            writer
                .execute(
                    "INSERT OR REPLACE INTO t (id, b) VALUES (?1, ?2)",
                    (id % 50, &page),
                )
                .expect("written");
            largest = largest.max(log_path(&path).metadata().map_or(0, |meta| meta.len()));
        }
        log.sync().expect("on the disk");
        // 500 MB were written.
        assert!(largest < 200 << 20, "{largest}");
        let count: i64 = writer
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .expect("counted");
        assert_eq!(count, 50);
    }
}
