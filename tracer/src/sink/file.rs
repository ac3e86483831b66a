//! A file that records are appended to, as JSON lines.
//!
//! ```text
//!  loop ── push ─▶ queue (bounded in bytes) ─▶ thread ─▶ file
//!    ◀── lost, written ─────────────────────────┘
//! ```
//!
//! A disk may be slow, stall or be full; so the writing has a thread of its own, and nothing else
//! waits for it. A batch is written as a whole or taken back; while the disk is full it is tried
//! again every second, and what the queue cannot hold meanwhile is left out (the newest first),
//! counted, and told by a `node.gap` with `sink: file`.
//!
//! The file itself says what it holds: on opening, a torn last line (the machine's fault, or a kill
//! in the middle of a write) is cut off, and the number in the last whole line is where this sink
//! goes on. A mark beside it says so for a file that was rotated away, and for records that the
//! filter keeps out of it.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::Batch;
use crate::state::Mark;

/// How long a full disk is left alone.
const AGAIN: Duration = Duration::from_secs(1);

/// The end of a file that is searched for its last line: no record is longer.
const TAIL: u64 = 1 << 20;

/// Lines on their way to the disk.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    last: u64,
}

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// Number of the newest record that is in the file.
    written: u64,
    reopen: bool,
    /// The thread shall end when the queue is empty, or at this moment.
    stop: Option<Instant>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// The file, seen from the loop.
#[derive(Debug)]
pub struct FileSink {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    capacity: usize,
    /// Number of the newest record that was taken.
    taken: u64,
    lost: u64,
    /// A record was left out and that is not told yet.
    losing: bool,
}

impl FileSink {
    /// Opens `path`, or makes it, and starts its thread. `stream` is the one that goes on.
    ///
    /// # Errors
    ///
    /// Those of opening and reading the file.
    pub fn open(path: &Path, stream: &str, capacity: usize, mark: Mark) -> io::Result<Self> {
        let (file, last) = open(path, stream)?;
        let taken = last.unwrap_or(0).max(mark.seq());
        let shared = Arc::new(Shared::default());
        shared.lock().written = taken;
        let writer = Writer {
            path: path.to_owned(),
            file,
            mark,
            shared: Arc::clone(&shared),
            told: false,
        };
        let thread = std::thread::Builder::new().name("file".to_owned());
        Ok(Self {
            shared,
            writer: Some(thread.spawn(move || writer.run())?),
            capacity,
            taken,
            lost: 0,
            losing: false,
        })
    }

    /// Takes the lines of records that it has not had yet.
    pub fn push(&mut self, batch: &Batch) {
        let mut queue = self.shared.lock();
        let mut piece = Piece {
            bytes: Vec::new(),
            last: 0,
        };
        let had = self.taken;
        for line in batch.lines().filter(|line| line.seq > had) {
            self.taken = line.seq;
            if !line.passes {
                continue;
            }
            // After a loss nothing goes out before it is told.
            let full = queue.bytes + piece.bytes.len() + line.bytes.len() > self.capacity;
            if full || self.losing {
                self.losing = true;
                self.lost += 1;
                continue;
            }
            piece.bytes.extend_from_slice(line.bytes);
        }
        piece.last = self.taken;
        if piece.last > had {
            queue.bytes += piece.bytes.len();
            queue.pieces.push_back(piece);
            self.shared.changed.notify_one();
        }
    }

    /// Number of the newest record that is in the file.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.shared.lock().written
    }

    /// Records left out since this was last asked, once there is room to say so.
    pub fn take_lost(&mut self) -> Option<u64> {
        if self.lost == 0 {
            return None;
        }
        let room = self.shared.lock().bytes < self.capacity / 2;
        if !room {
            return None;
        }
        self.losing = false;
        Some(std::mem::take(&mut self.lost))
    }

    /// A new process begins, which can tell nothing older than record `first` again. What is
    /// missing before it was in the queue of the process that ended.
    pub fn begin_at(&mut self, first: u64) {
        let missing = first.saturating_sub(self.taken + 1);
        if self.taken != 0 && missing != 0 {
            self.lost += missing;
            self.taken = first - 1;
        }
    }

    /// Opens the file's name again: it was rotated away.
    pub fn reopen(&self) {
        self.shared.lock().reopen = true;
        self.shared.changed.notify_one();
    }

    /// Gives the disk until `patience` to take what is queued.
    pub fn finish(&mut self, patience: Duration) {
        self.shared.lock().stop = Some(Instant::now() + patience);
        self.shared.changed.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the thread that writes the file died");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Writer {
    path: PathBuf,
    file: File,
    mark: Mark,
    shared: Arc<Shared>,
    /// The log has said that the file cannot be written.
    told: bool,
}

enum Next {
    Write(Piece),
    Reopen,
    End,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.next() {
                Next::Write(piece) => {
                    if !self.write_until_done(&piece) {
                        return;
                    }
                }
                Next::Reopen => match append(&self.path) {
                    Ok(file) => self.file = file,
                    Err(error) => {
                        tracing::error!(path = %self.path.display(), %error, "cannot reopen: the old file is written on");
                    }
                },
                Next::End => return,
            }
        }
    }

    fn next(&self) -> Next {
        let mut queue = self.shared.lock();
        loop {
            if std::mem::take(&mut queue.reopen) {
                return Next::Reopen;
            }
            if let Some(piece) = queue.pieces.pop_front() {
                return Next::Write(piece);
            }
            if queue.stop.is_some() {
                return Next::End;
            }
            queue = self
                .shared
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// False where the end came first.
    fn write_until_done(&mut self, piece: &Piece) -> bool {
        loop {
            match self.write(&piece.bytes) {
                Ok(()) => break,
                Err(error) => {
                    if !std::mem::replace(&mut self.told, true) {
                        tracing::error!(path = %self.path.display(), %error, "cannot write: tried again every second");
                    }
                    if !self.pause() {
                        return false;
                    }
                }
            }
        }
        if std::mem::take(&mut self.told) {
            tracing::warn!(path = %self.path.display(), "can be written again");
        }
        if let Err(error) = self.mark.store(piece.last) {
            tracing::warn!(%error, "mark of the file not kept");
        }
        let mut queue = self.shared.lock();
        queue.bytes = queue.bytes.saturating_sub(piece.bytes.len());
        queue.written = piece.last;
        true
    }

    /// The whole of it or nothing.
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        let mut file = &self.file;
        file.write_all(bytes).inspect_err(|_| {
            // Lines of the next try would follow half a line.
            if let Err(error) = self.file.set_len(before) {
                tracing::error!(path = %self.path.display(), %error, "half a line stays in the file");
            }
        })
    }

    /// Waits; false when the end has come.
    fn pause(&mut self) -> bool {
        let until = Instant::now() + AGAIN;
        let mut queue = self.shared.lock();
        loop {
            let now = Instant::now();
            if queue.stop.is_some_and(|stop| stop <= now) {
                return false;
            }
            if std::mem::take(&mut queue.reopen) {
                drop(queue);
                if let Ok(file) = append(&self.path) {
                    self.file = file;
                }
                return true;
            }
            let wake = queue.stop.map_or(until, |stop| stop.min(until));
            if now >= until {
                return true;
            }
            let timeout = wake.saturating_duration_since(now);
            queue = match self.shared.changed.wait_timeout(queue, timeout) {
                Ok((queue, _)) => queue,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .read(true)
        .open(path)
}

/// Opens the file behind its last whole line; says the number in that line if it is of `stream`.
fn open(path: &Path, stream: &str) -> io::Result<(File, Option<u64>)> {
    let mut file = append(path)?;
    let len = file.metadata()?.len();
    if !file.metadata()?.is_file() || len == 0 {
        return Ok((file, None));
    }
    let from = len.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    io::Read::take(&mut file, TAIL).read_to_end(&mut tail)?;
    let whole = tail
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    if whole < tail.len() {
        let good = from + u64::try_from(whole).unwrap_or(0);
        tracing::warn!(path = %path.display(), bytes = len - good, "the end of a line was cut off");
        file.set_len(good)?;
    }
    let lines = tail.get(..whole).unwrap_or_default();
    let last = lines.split(|byte| *byte == b'\n').rev().nth(1);
    Ok((file, last.and_then(|line| number(line, stream))))
}

fn number(line: &[u8], stream: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Numbered<'a> {
        id: &'a str,
        seq: u64,
    }
    let record: Numbered<'_> = serde_json::from_slice(line).ok()?;
    let of = record.id.split_once('/')?.0;
    (of == stream).then_some(record.seq)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(seq: u64) -> String {
        format!("{{\"id\":\"s/{seq}\",\"seq\":{seq}}}\n")
    }

    fn batch(numbers: impl IntoIterator<Item = u64>) -> Batch {
        let mut batch = Batch::default();
        for seq in numbers {
            batch.add(seq, seq % 10 != 0, |bytes| {
                bytes.extend_from_slice(line(seq).as_bytes());
            });
        }
        batch
    }

    fn text(numbers: impl IntoIterator<Item = u64>) -> String {
        let passing = numbers.into_iter().filter(|seq| seq % 10 != 0);
        passing.map(line).collect()
    }

    fn sink(path: &Path) -> FileSink {
        FileSink::open(path, "s", 1 << 20, Mark::none()).expect("a sink")
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn the_file_says_where_it_goes_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events");
        let mut first = sink(&path);
        first.push(&batch(1..=25));
        first.finish(PATIENCE);
        assert_eq!(first.seq(), 25);
        // Killed in the middle of a line.
        let mut torn = fs::read(&path).expect("the file");
        torn.extend_from_slice(b"{\"id\":\"s/26\",\"se");
        fs::write(&path, torn).expect("torn");

        let mut second = sink(&path);
        assert_eq!(second.seq(), 25);
        second.push(&batch(20..=30));
        second.finish(PATIENCE);
        assert_eq!(fs::read_to_string(&path).expect("text"), text(1..=30));
    }

    #[test]
    fn another_streams_file_is_appended_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events");
        fs::write(&path, "{\"id\":\"other/99\",\"seq\":99}\nno json\n").expect("a file");
        let mut sink = sink(&path);
        assert_eq!(sink.seq(), 0);
        sink.push(&batch(1..=2));
        sink.finish(PATIENCE);
        let told = fs::read_to_string(&path).expect("text");
        assert!(told.ends_with(&text(1..=2)) && told.starts_with("{\"id\":\"other"));
    }

    #[test]
    fn a_rotated_file_is_followed_by_a_new_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, old) = (dir.path().join("events"), dir.path().join("events.1"));
        let mut sink = sink(&path);
        sink.push(&batch(1..=3));
        while sink.seq() != 3 {
            std::thread::yield_now();
        }
        fs::rename(&path, &old).expect("rotated");
        sink.reopen();
        sink.push(&batch(4..=5));
        sink.finish(PATIENCE);
        assert_eq!(fs::read_to_string(&old).expect("text"), text(1..=3));
        assert_eq!(fs::read_to_string(&path).expect("text"), text(4..=5));
    }

    #[test]
    fn a_file_that_takes_nothing_costs_the_newest_and_ends_in_time() {
        // Every write fails with ENOSPC.
        let mut sink =
            FileSink::open(Path::new("/dev/full"), "s", 100, Mark::none()).expect("a sink");
        sink.push(&batch(1..=9));
        assert!(sink.lost > 0 && sink.take_lost().is_none());
        sink.finish(Duration::from_millis(10));
        assert_eq!(sink.seq(), 0);
    }
}
