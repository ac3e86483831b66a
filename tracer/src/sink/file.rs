//! A file that records are appended to, as JSON lines.
//!
//! ```text
//!  loop ── push ─▶ queue (bounded in bytes) ─▶ thread ─▶ file
//!    ◀── lost, written ─────────────────────────┘
//! ```
//!
//! A disk may be slow, stall or be full; so the writing has a thread of its own, and nothing else
//! waits for it. A batch is written as a whole or taken back; while the disk is full it is tried
//! again every second. What the queue has no room for meanwhile ([`super::room`]) is told by a
//! `node.gap` with `sink: file`: as soon as there is room again, also if nothing else happens then.
//!
//! The file itself says what it holds: on opening, a torn last line (the machine's fault, or a kill
//! in the middle of a write) is cut off, and the number in the last whole line is where this sink
//! goes on. A mark beside it says so for a file that was rotated away, and for records that the
//! filter keeps out of it. It also says from where on processes are missing, before anything is
//! written behind them: should tracer be killed before that is told, they come again from the
//! journal, are counted, and told.

mod writer;

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use self::writer::{Writer, open};
use super::{
    Batch, Line,
    room::{LeftOut, Room},
};
use crate::{state::Mark, time::Timestamp};

/// Lines on their way to the disk.
#[derive(Debug, Default)]
struct Piece {
    bytes: Vec<u8>,
    /// Nothing up to this number will be missing when these are written, but what is told.
    last: u64,
    /// Number of the newest of them, where processes are missing before it.
    beyond: Option<u64>,
    /// Another stream begins here.
    begins: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// Number of the newest record that is in the file.
    written: u64,
    reopen: bool,
    /// Somebody waits until there are fewer bytes than so many.
    awaited: Option<usize>,
    /// The thread shall end when the queue is empty, or at this moment.
    stop: Option<Instant>,
    /// The thread has ended.
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    has_room: Notify,
}

/// The file, seen from the loop.
#[derive(Debug)]
pub struct FileSink {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    room: Room,
    /// When the newest event was that the file had on opening, of whatever stream.
    had: Option<Timestamp>,
    /// Number of the newest record that was taken.
    taken: u64,
    /// Of the newest that was taken before any that was left out and is not told yet.
    kept: u64,
    /// Of these a tracer before this one wrote none of processes, and did not tell it; as far as they
    /// have not come again.
    lacks_processes: Range<u64>,
    /// That is not told yet.
    has_holes: bool,
}

impl FileSink {
    /// Opens `path`, or makes it, and starts its thread. `stream` is the one that goes on.
    ///
    /// # Errors
    ///
    /// Those of opening and reading the file.
    pub fn open(path: &Path, stream: &str, capacity: usize, mark: Mark) -> io::Result<Self> {
        let (file, last) = open(path)?;
        let beyond = mark.beyond();
        let newest = last.seq(stream).unwrap_or(0).max(mark.seq());
        let taken = newest.max(beyond.unwrap_or(0));
        let kept = if beyond.is_some() { mark.seq() } else { taken };
        let shared = Arc::new(Shared::default());
        shared.lock().written = kept;
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
            room: Room::new(capacity),
            had: last.time(),
            taken,
            kept,
            lacks_processes: kept + 1..taken + 1,
            has_holes: kept < taken,
        })
    }

    /// When the newest event was that the file had on opening. Where the stream of that could not
    /// go on, the file lacks what came after it.
    #[must_use]
    pub const fn had(&self) -> Option<Timestamp> {
        self.had
    }

    /// Takes the lines of records that it has not had yet.
    pub fn push(&mut self, batch: &Batch) {
        let (had, kept) = (self.taken, self.kept);
        if !self.lacks_processes.is_empty() {
            batch.lines().for_each(|line| self.comes_again(&line));
        }
        let mut queue = self.shared.lock();
        let mut piece = Piece::default();
        for line in batch.lines().filter(|line| line.seq > had) {
            self.taken = line.seq;
            let waiting = queue.bytes + piece.bytes.len();
            if line.passes && self.room.admits(&line, waiting) {
                piece.bytes.extend_from_slice(line.bytes);
                piece.beyond = Some(line.seq);
            }
            if !self.room.is_losing() && !self.has_holes {
                self.kept = line.seq;
            }
        }
        piece.last = self.kept;
        if piece.last > kept || !piece.bytes.is_empty() {
            piece.beyond = piece.beyond.filter(|newest| *newest > piece.last);
            queue.bytes += piece.bytes.len();
            queue.pieces.push_back(piece);
            self.shared.changed.notify_all();
        }
    }

    /// A line of the journal, which may be one that the process before left out.
    fn comes_again(&mut self, line: &Line<'_>) {
        let Range { start, end } = self.lacks_processes;
        if start >= end || line.seq < start {
            return;
        }
        if line.seq < end && line.passes && line.bulk {
            self.room.lose(line);
        }
        self.lacks_processes.start = line.seq + 1;
        // It may have lacked none after all.
        self.has_holes = !self.lacks_processes.is_empty() || self.room.has_lost();
    }

    /// Number of the newest record up to which the file lacks nothing that is not told.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.shared.lock().written
    }

    /// Records left out since this was last asked, once there is room to say so.
    pub fn take_lost(&mut self) -> Option<LeftOut> {
        if !self.room.has_lost() || !self.lacks_processes.is_empty() {
            return None;
        }
        let mut queue = self.shared.lock();
        if queue.bytes >= self.room.enough() {
            queue.awaited = Some(self.room.enough());
            return None;
        }
        drop(queue);
        self.has_holes = false;
        Some(self.room.tell())
    }

    /// Gives the disk until `until` to take so much of what is queued that there is room for `bytes`
    /// of whatever kind; whether it did.
    #[must_use]
    pub fn make_room(&self, until: Instant, bytes: usize) -> bool {
        let rest = self.room.half().saturating_sub(bytes);
        let mut queue = self.shared.lock();
        while queue.bytes > rest {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = self.shared.wait(queue, left);
        }
        true
    }

    /// Waits until there is room to say what was left out, where [`FileSink::take_lost`] found none.
    pub async fn has_room(&self) {
        self.shared.has_room.notified().await;
    }

    /// A new process begins, which can tell nothing older than record `first` again. What is
    /// missing before it was in the queue of the process that ended.
    pub fn begin_at(&mut self, first: u64) {
        let Range { start, end } = self.lacks_processes;
        let gone = first.min(end);
        if start < gone {
            // Nobody knows any more which of these were processes.
            self.room.lost.bulk += gone - start;
            self.lacks_processes.start = gone;
        }
        let missing = first.saturating_sub(self.taken + 1);
        if self.taken != 0 && missing != 0 {
            self.room.lost.others += missing;
            self.taken = first - 1;
            self.kept = self.taken;
        }
    }

    /// Another stream begins: numbers of the one before mean nothing any more. What is queued of it
    /// is written as before.
    pub fn begin_stream(&mut self, stream: &str) {
        (self.taken, self.kept) = (0, 0);
        self.lacks_processes = 0..0;
        self.has_holes = false;
        let mut queue = self.shared.lock();
        queue.pieces.push_back(Piece {
            begins: Some(stream.into()),
            ..Piece::default()
        });
        self.shared.changed.notify_all();
    }

    /// Opens the file's name again: it was rotated away.
    pub fn reopen(&self) {
        self.shared.lock().reopen = true;
        self.shared.changed.notify_all();
    }

    /// Gives the disk until `patience` to take what is queued. What it does not take the next process
    /// writes, if there is a journal.
    pub fn finish(&mut self, patience: Duration) {
        let Some(writer) = self.writer.take() else {
            return;
        };
        let stop = Instant::now() + patience;
        let mut queue = self.shared.lock();
        queue.stop = Some(stop);
        self.shared.changed.notify_all();
        while !queue.ended {
            let left = stop.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // In a write that does not return, for which nobody can wait.
                tracing::error!(bytes = queue.bytes, "the file's disk does not answer");
                return;
            }
            queue = self.shared.wait(queue, left);
        }
        drop(queue);
        if writer.join().is_err() {
            tracing::error!("the thread that writes the file died");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>, time: Duration) -> MutexGuard<'a, Queue> {
        match self.changed.wait_timeout(queue, time) {
            Ok((queue, _)) => queue,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::Read as _,
    };

    use super::*;

    fn line(seq: u64) -> String {
        format!("{{\"id\":\"s/{seq}\",\"seq\":{seq}}}\n")
    }

    fn batch(numbers: impl IntoIterator<Item = u64>) -> Batch {
        let mut batch = Batch::default();
        for seq in numbers {
            batch.add(seq, seq % 10 != 0, false, |bytes| {
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
    fn the_file_says_until_when_it_has_records() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events");
        let time = Timestamp(1_795_296_168_197_953_294);
        let line = |time: &str| format!("{{\"id\":\"s/7\",\"seq\":7,\"time\":\"{time}\"}}\n");
        assert_eq!(sink(&path).had(), None);
        // Of whatever stream; and a time that cannot be read costs no number.
        for (time, had) in [(time.to_string(), Some(time)), ("now".to_owned(), None)] {
            fs::write(&path, line(&time) + "{\"id\":\"s/").expect("a torn file");
            let sink = sink(&path);
            assert_eq!((sink.had(), sink.seq()), (had, 7));
        }
    }

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
        assert!(sink.room.has_lost() && sink.take_lost().is_none());
        sink.finish(Duration::from_millis(10));
        assert_eq!(sink.seq(), 0);
    }

    #[test]
    fn a_loss_is_told_when_there_is_room_and_the_mark_waits_for_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            &path,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        )
        .expect("a pipe");
        let mark = || Mark::open(&dir.path().join("mark"), "s").expect("a mark");
        let long = "x".repeat(100 << 10);
        let mut sink = FileSink::open(&path, "s", long.len() + 300, mark()).expect("a sink");
        let mut batch = Batch::default();
        // More than a pipe takes: its writer waits, as on a disk that stalls.
        batch.add(1, true, false, |bytes| {
            bytes.extend_from_slice(long.as_bytes());
        });
        sink.push(&batch);
        sink.push(&self::batch(2..=19));
        sink.push(&self::batch(20..=21));
        assert!(sink.room.has_lost() && sink.kept < 19, "{sink:?}");
        let (lost, kept) = (sink.room.lost, sink.kept);
        assert_eq!(sink.take_lost(), None, "no room to say so yet");

        let mut reader = File::open(&path).expect("the other end");
        let drain = std::thread::spawn(move || {
            let mut text = vec![0; 100 << 10];
            reader.read_exact(&mut text).map(|()| reader)
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a loop");
        runtime.block_on(sink.has_room());
        drain.join().expect("a thread").expect("read");
        while sink.seq() < kept {
            std::thread::yield_now();
        }
        assert_eq!(
            mark().seq(),
            kept,
            "a kill now would leave a loss that nobody tells"
        );
        assert_eq!(sink.take_lost(), Some(lost));
        sink.push(&self::batch([22]));
        sink.finish(PATIENCE);
        assert_eq!(mark().seq(), 22);
    }

    /// A pipe, whose writer waits as on a disk that stalls; half of the queue is ten lines.
    struct Stalled {
        dir: tempfile::TempDir,
        sink: FileSink,
    }

    /// More than a pipe takes.
    const LONG: usize = 100 << 10;

    impl Stalled {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("fifo"), mode).expect("a pipe");
            let (path, mark) = (dir.path().join("fifo"), Self::mark_in(&dir));
            let mut sink = FileSink::open(&path, "s", 20 * LINE, mark).expect("a sink");
            let mut first = Batch::default();
            first.add(1, true, false, |bytes| bytes.resize(LONG, b'x'));
            // Longer than the queue.
            sink.room = Room::new(2 * LONG);
            sink.push(&first);
            while !sink.shared.lock().pieces.is_empty() {
                std::thread::yield_now();
            }
            sink.shared.lock().bytes = 0;
            sink.room = Room::new(20 * LINE);
            Self { dir, sink }
        }

        fn mark_in(dir: &tempfile::TempDir) -> Mark {
            Mark::open(&dir.path().join("mark"), "s").expect("a mark")
        }

        /// What the disk takes once it goes on, without the first.
        fn go_on(&self) -> JoinHandle<Vec<u8>> {
            let mut reader = File::open(self.dir.path().join("fifo")).expect("the other end");
            std::thread::spawn(move || {
                let mut text = Vec::new();
                reader.read_to_end(&mut text).expect("read");
                text.split_off(LONG)
            })
        }
    }

    const LINE: usize = 1 << 10;

    fn long_line(seq: u64) -> String {
        let line = format!("{{\"id\":\"s/{seq}\",\"seq\":{seq}}}");
        format!("{line:<1023}\n")
    }

    /// Lines of which every tenth tells of a container, the others of processes inside.
    fn mixed(numbers: impl IntoIterator<Item = u64>) -> Batch {
        let mut batch = Batch::default();
        for seq in numbers {
            batch.add(seq, true, seq % 10 != 0, |bytes| {
                bytes.extend_from_slice(long_line(seq).as_bytes());
            });
        }
        batch
    }

    fn processes(bulk: u64) -> LeftOut {
        LeftOut { bulk, others: 0 }
    }

    #[test]
    fn a_flood_of_processes_leaves_room_for_containers() {
        let Stalled { dir, mut sink } = Stalled::new();
        // 2 to 11 fill their half; then every tenth of 100.
        for seq in 2..=110 {
            sink.push(&mixed([seq]));
        }
        let (lost, kept) = (sink.room.lost, sink.kept);
        assert_eq!((lost, kept), (processes(89), 11));
        let stalled = Stalled { dir, sink };
        let taken = stalled.go_on();
        let Stalled { dir, mut sink } = stalled;
        let deadline = Instant::now() + PATIENCE;
        let marked = |seq, beyond| {
            let mark = Stalled::mark_in(&dir);
            (mark.seq(), mark.beyond()) == (seq, beyond)
        };
        while !marked(11, Some(110)) {
            assert!(Instant::now() < deadline, "{sink:?}");
            std::thread::yield_now();
        }
        assert_eq!(sink.take_lost(), Some(processes(89)));
        sink.push(&mixed([111]));
        sink.finish(PATIENCE);
        drop(sink);
        let told = (2..=11).chain((20..=110).step_by(10)).chain([111]);
        let expected: String = told.map(long_line).collect();
        assert!(taken.join().expect("a thread") == expected.into_bytes());
        assert!(marked(111, None), "told");
    }

    #[test]
    fn processes_that_were_left_out_are_told_after_a_kill() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events");
        let mark = || Stalled::mark_in(&dir);
        // As the one before leaves it: up to 15 all of them, behind that those of containers.
        let before: String = (1..=15).chain([20, 30]).map(long_line).collect();
        for (beyond, first, lost) in [
            // The mark of 30 did not get to the disk's file: the last line says so.
            (20, 1, 13),
            (30, 1, 13),
            // The journal has no more than these: what is before them may all be of processes.
            (30, 18, 2 + 11),
            (30, 40, 15),
        ] {
            fs::write(&path, &before).expect("a file");
            mark().store_with_holes(15, Some(beyond));
            let mut sink = FileSink::open(&path, "s", 1 << 20, mark()).expect("a sink");
            assert_eq!(sink.seq(), 15, "the journal has to keep what comes then");
            sink.begin_at(first);
            if first < 31 {
                assert_eq!(sink.take_lost(), None, "not all of it is known");
            }
            for seq in first..=39 {
                sink.push(&mixed([seq]));
            }
            let others = u64::from(first == 40) * 9;
            assert_eq!(
                sink.seq(),
                15,
                "a kill now would leave a loss that nobody tells"
            );
            assert_eq!(sink.take_lost(), Some(LeftOut { bulk: lost, others }));
            sink.push(&mixed([40, 41]));
            sink.finish(PATIENCE);
            let whole = fs::read_to_string(&path).expect("text");
            let after = (first.max(31)..=41).map(long_line);
            assert!(whole == before.clone() + &after.collect::<String>());
            assert_eq!((mark().seq(), mark().beyond()), (41, None));
        }
    }

    #[test]
    fn a_loss_from_the_first_record_on_is_told_after_a_kill() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events");
        let mark = || Stalled::mark_in(&dir);
        fs::write(&path, [10, 20].map(long_line).concat()).expect("a file");
        // Killed behind the write, before the mark.
        mark().store_with_holes(0, Some(0));
        let mut sink = FileSink::open(&path, "s", 1 << 20, mark()).expect("a sink");
        sink.push(&mixed(1..=21));
        assert_eq!(sink.take_lost(), Some(processes(18)));
        sink.finish(PATIENCE);
        let whole = fs::read_to_string(&path).expect("text");
        assert!(whole == [10, 20, 21].map(long_line).concat());
    }

    #[test]
    fn a_kill_before_anything_was_written_behind_a_loss_loses_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events");
        let mark = || Stalled::mark_in(&dir);
        fs::write(&path, (1..=15).map(long_line).collect::<String>()).expect("a file");
        mark().store_with_holes(15, Some(15));
        let mut sink = FileSink::open(&path, "s", 1 << 20, mark()).expect("a sink");
        sink.begin_at(1);
        sink.push(&mixed(1..=20));
        assert_eq!(sink.take_lost(), None);
        sink.finish(PATIENCE);
        let whole = fs::read_to_string(&path).expect("text");
        assert!(whole == (1..=20).map(long_line).collect::<String>());
        assert_eq!((mark().seq(), mark().beyond()), (20, None));
    }

    #[test]
    fn a_disk_that_does_not_answer_does_not_keep_tracer_from_ending() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            &path,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        )
        .expect("a pipe");
        let mut sink = sink(&path);
        let mut batch = Batch::default();
        batch.add(1, true, false, |bytes| bytes.resize(100 << 10, b'x'));
        sink.push(&batch);
        sink.finish(Duration::from_millis(50));
        assert_eq!(sink.seq(), 0);
    }
}
