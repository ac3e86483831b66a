//! Standard output: never waits for its reader.
//!
//! Writing straight from the drain is the shortest way to the reader, so it is tried first; what the
//! pipe does not take waits in a queue of `capacity` bytes. What finds no room there ([`super::room`])
//! is told once there is some, in the stream by a `node.gap` with `sink: stdout`. Until then the mark
//! stays before the first of what is missing, and a kill lets more come again.
//!
//! A pipe is written in whole lines of at most `PIPE_BUF` bytes together, which the kernel takes as a
//! whole or not at all (pipe(7)): whenever tracer is killed, its reader has whole lines. Only a
//! single longer line may be torn. With a state directory, the number of the last record written is
//! kept in a mark.
//!
//! The open file may be shared with other processes (a terminal, a pipe inherited by several), and
//! `O_NONBLOCK` belongs to the open file, not to the descriptor: so a pipe or terminal is opened
//! anew through `/proc/self/fd`, a socket is written with `MSG_DONTWAIT`, and a regular file, which
//! does not block on a reader, is written as it is.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use super::{
    Batch,
    room::{LeftOut, Room},
};
use crate::state::Mark;
use bytes::{Buf as _, BytesMut};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, fstat, open},
    io::Errno,
    net::{SendFlags, send},
};

/// How to write without waiting.
#[derive(Debug)]
enum Target {
    /// An own open file with `O_NONBLOCK`.
    NonBlocking(OwnedFd),
    Socket(OwnedFd),
    /// Does not block on a reader.
    File(File),
}

/// Standard output with its queue.
#[derive(Debug)]
pub struct StdoutSink {
    target: Target,
    /// Most that is written at once.
    chunk: usize,
    queue: BytesMut,
    /// Records in the queue: number, and bytes that are not written yet.
    queued: VecDeque<(u64, usize)>,
    room: Room,
    /// Number of the newest record that came.
    taken: u64,
    mark: Mark,
}

/// What became of the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    There,
    /// It closed the pipe: a good end.
    Gone,
}

impl StdoutSink {
    /// Takes over standard output.
    ///
    /// # Errors
    ///
    /// Those of duplicating and inspecting the descriptor.
    pub fn new(capacity: usize, mark: Mark) -> io::Result<Self> {
        Self::over(io::stdout().as_fd(), capacity, mark)
    }

    /// A sink on a descriptor of any kind.
    ///
    /// # Errors
    ///
    /// Those of duplicating and inspecting it.
    pub fn over(fd: BorrowedFd<'_>, capacity: usize, mark: Mark) -> io::Result<Self> {
        let own = fd.try_clone_to_owned()?;
        let kind = FileType::from_raw_mode(fstat(&own)?.st_mode);
        let target = match kind {
            FileType::Socket => Target::Socket(own),
            FileType::Fifo | FileType::CharacterDevice => match reopen(&own) {
                Ok(again) => Target::NonBlocking(again),
                Err(error) => {
                    tracing::debug!(%error, "standard output cannot be opened anew: it may block");
                    Target::File(own.into())
                }
            },
            _ => Target::File(own.into()),
        };
        Ok(Self {
            target,
            chunk: match kind {
                FileType::Fifo => PIPE_BUF,
                _ => usize::MAX,
            },
            queue: BytesMut::new(),
            queued: VecDeque::new(),
            room: Room::new(capacity),
            taken: 0,
            mark,
        })
    }

    /// The descriptor to wait on until it is writable, where something is queued and waiting helps.
    #[must_use]
    pub fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        match &self.target {
            Target::NonBlocking(fd) | Target::Socket(fd) if !self.queue.is_empty() => {
                Some(fd.as_fd())
            }
            _ => None,
        }
    }

    /// A descriptor that reports an error as soon as the reader is gone, where there is one.
    #[must_use]
    pub fn hangs_up(&self) -> Option<BorrowedFd<'_>> {
        match &self.target {
            Target::NonBlocking(fd) | Target::Socket(fd) => Some(fd.as_fd()),
            Target::File(_) => None,
        }
    }

    /// Takes the lines of records that it has not had yet.
    ///
    /// # Errors
    ///
    /// Those of writing, but for a reader that went away.
    pub fn push(&mut self, batch: &Batch) -> io::Result<Reader> {
        let had = self.mark.seq();
        let waits = !self.queue.is_empty();
        for line in batch.lines().filter(|line| line.passes && line.seq > had) {
            let fits = if waits {
                self.room.admits(&line, self.queue.len())
            } else {
                self.room.is_open(&line)
            };
            if !fits {
                continue;
            }
            self.queue.extend_from_slice(line.bytes);
            self.queued.push_back((line.seq, line.bytes.len()));
        }
        self.taken = batch.lines().last().map_or(self.taken, |line| line.seq);
        self.flush()
    }

    /// Writes what is queued, as far as it goes.
    ///
    /// # Errors
    ///
    /// Those of writing, but for a reader that went away.
    pub fn flush(&mut self) -> io::Result<Reader> {
        while !self.queued.is_empty() {
            let len = self.chunk();
            let chunk = self.queue.get(..len).unwrap_or_default();
            match self.write_some(chunk) {
                Ok(written) => {
                    self.written(written);
                    if written < len {
                        break;
                    }
                }
                Err(error) => return ended(error),
            }
        }
        // Past what was left out only when that is told: after a kill it would be told by nobody.
        let is_whole = self.queued.is_empty() && !self.room.is_losing();
        if is_whole && self.taken > self.mark.seq() {
            self.mark.store(self.taken);
        }
        if self.queue.is_empty() && self.queue.capacity() > SPARE_BYTES {
            self.queue = BytesMut::new();
        }
        Ok(Reader::There)
    }

    /// Bytes to write next: as many records as fit, and one at least.
    fn chunk(&self) -> usize {
        let mut records = self.queued.iter().map(|(_, left)| *left);
        let mut len = records.next().unwrap_or(0);
        for more in records {
            match len.checked_add(more) {
                Some(sum) if sum <= self.chunk => len = sum,
                _ => break,
            }
        }
        len
    }

    /// Takes so many bytes out of the queue; what is written as a whole is marked.
    fn written(&mut self, len: usize) {
        self.queue.advance(len);
        let mut rest = len;
        let mut whole = None;
        while let Some((seq, left)) = self.queued.front_mut() {
            if *left > rest {
                *left -= rest;
                break;
            }
            rest -= *left;
            whole = Some(*seq);
            self.queued.pop_front();
        }
        if let Some(seq) = whole {
            self.mark
                .store(self.room.first_lost.map_or(seq, |lost| seq.min(lost - 1)));
        }
    }

    /// A new process begins, which can tell nothing older than record `first` again. What is
    /// missing before it was in the queue of the process that ended.
    pub fn begin_at(&mut self, first: u64) {
        self.room.lost.others += self.mark.skip_to(first);
    }

    /// Another stream begins: numbers of the one before mean nothing any more. What is queued of it
    /// is written as before.
    pub fn begin_stream(&mut self, stream: &str) {
        self.mark.begin_stream(stream);
        self.taken = 0;
        self.room.first_lost = None;
        for (seq, _) in &mut self.queued {
            *seq = 0;
        }
    }

    /// Number of the newest record that is written.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.mark.seq()
    }

    /// Gives the reader until `patience` to take what is queued.
    ///
    /// # Errors
    ///
    /// Those of writing, but for a reader that went away.
    pub fn finish(&mut self, patience: Duration) -> io::Result<()> {
        self.drain(Instant::now() + patience, 0)?;
        self.mark.sync();
        Ok(())
    }

    /// Gives the reader until `until` to take so much of what is queued that there is room for `bytes`
    /// of whatever kind; whether it did.
    ///
    /// # Errors
    ///
    /// Those of writing, but for a reader that went away.
    pub fn make_room(&mut self, until: Instant, bytes: usize) -> io::Result<bool> {
        let rest = self.room.half().saturating_sub(bytes);
        self.drain(until, rest)?;
        Ok(self.queue.len() <= rest)
    }

    fn drain(&mut self, until: Instant, rest: usize) -> io::Result<()> {
        while self.flush()? == Reader::There && self.queue.len() > rest {
            let left = until.saturating_duration_since(Instant::now());
            let Some(fd) = self.waits_on().filter(|_| !left.is_zero()) else {
                break;
            };
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Records left out since this was last asked, once there is room to say so.
    pub fn take_lost(&mut self) -> Option<LeftOut> {
        let may = self.room.has_lost() && self.queue.len() < self.room.enough();
        may.then(|| self.room.tell())
    }

    /// Writes as much as is taken without waiting; 0 if nothing is.
    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let written = match &self.target {
                Target::NonBlocking(fd) => rustix::io::write(fd, rest),
                Target::Socket(fd) => send(fd, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
                Target::File(file) => {
                    let mut file: &File = file;
                    file.write_all(rest)?;
                    Ok(rest.len())
                }
            };
            match written {
                Ok(len) => done += len,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }
}

/// `PIPE_BUF` of `include/uapi/linux/limits.h`.
const PIPE_BUF: usize = 4096;

/// An empty queue gives its memory back beyond this.
const SPARE_BYTES: usize = 64 << 10;

fn ended(error: io::Error) -> io::Result<Reader> {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(Reader::Gone),
        _ => Err(error),
    }
}

fn reopen(fd: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn line(number: u64) -> Vec<u8> {
        format!("{number:0>1023}\n").into_bytes()
    }

    fn batch(numbers: impl IntoIterator<Item = u64>) -> Batch {
        let mut batch = Batch::default();
        for number in numbers {
            batch.add(number, true, false, |bytes| {
                bytes.extend_from_slice(&line(number));
            });
        }
        batch
    }

    /// Lines of which every tenth tells of a container, the others of processes inside.
    fn mixed(numbers: impl IntoIterator<Item = u64>) -> Batch {
        let mut batch = Batch::default();
        for number in numbers {
            let bulk = number % 10 != 0;
            batch.add(number, true, bulk, |bytes| {
                bytes.extend_from_slice(&line(number));
            });
        }
        batch
    }

    fn others(others: u64) -> LeftOut {
        LeftOut { bulk: 0, others }
    }

    fn over(writer: &io::PipeWriter, capacity: usize) -> StdoutSink {
        StdoutSink::over(writer.as_fd(), capacity, Mark::none()).expect("a sink")
    }

    #[test]
    fn a_stalled_reader_costs_whole_newest_lines_and_is_told() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut sink = over(&writer, 64 << 10);
        drop(writer);
        let mut pushed = 0;
        while sink.room.lost.others == 0 {
            pushed += 1;
            assert_eq!(sink.push(&batch([pushed])).expect("push"), Reader::There);
            assert!(pushed < 10_000, "nothing was ever left out");
        }
        assert!(sink.queue.len() <= 64 << 10);
        assert_eq!(sink.take_lost(), None, "no room to say so yet");
        let mut taken = Vec::new();
        let mut chunk = [0; 4096];
        while sink.waits_on().is_some() {
            let len = reader.read(&mut chunk).expect("read");
            taken.extend_from_slice(&chunk[..len]);
            assert_eq!(sink.flush().expect("flush"), Reader::There);
        }
        assert_eq!(sink.take_lost(), Some(others(1)));
        assert_eq!(sink.seq(), pushed - 1);
        drop(sink);
        reader.read_to_end(&mut taken).expect("read");
        let expected: Vec<u8> = (1..pushed).flat_map(line).collect();
        assert!(taken == expected, "lines were torn or reordered");
    }

    #[test]
    fn the_mark_follows_what_the_reader_can_read() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut sink = over(&writer, 1 << 20);
        drop(writer);
        // The pipe takes 64 KiB, in whole lines.
        sink.push(&batch(1..=100)).expect("push");
        assert_eq!(sink.seq(), 64);
        // What was pushed before is not pushed again.
        sink.push(&batch(60..=64)).expect("push");
        let mut taken = vec![0; 64 << 10];
        reader.read_exact(&mut taken).expect("read");
        sink.flush().expect("flush");
        assert_eq!(sink.seq(), 100);
        drop(sink);
        reader.read_to_end(&mut taken).expect("read");
        assert!(taken == (1..=100).flat_map(line).collect::<Vec<u8>>());
    }

    #[test]
    fn the_mark_stays_before_a_loss_until_it_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let mark = || Mark::open(&dir.path().join("mark"), "s").expect("a mark");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut sink = StdoutSink::over(writer.as_fd(), 8 << 10, mark()).expect("a sink");
        drop(writer);
        // 64 in the pipe, 8 in the queue, the others nowhere.
        for seq in 1..=80 {
            sink.push(&batch([seq])).expect("push");
        }
        assert_eq!((sink.room.lost, mark().seq()), (others(8), 64));
        let mut taken = vec![0; 64 << 10];
        reader.read_exact(&mut taken).expect("read");
        sink.flush().expect("flush");
        sink.push(&batch([81])).expect("push");
        assert_eq!(
            mark().seq(),
            72,
            "a kill now would leave a loss that nobody tells"
        );
        assert_eq!(sink.take_lost(), Some(others(9)));
        sink.push(&batch([82])).expect("push");
        assert_eq!(mark().seq(), 82);
    }

    #[test]
    fn a_flood_of_processes_leaves_room_for_containers() {
        let dir = tempfile::tempdir().expect("a directory");
        let mark = || Mark::open(&dir.path().join("mark"), "s").expect("a mark");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut sink = StdoutSink::over(writer.as_fd(), 32 << 10, mark()).expect("a sink");
        drop(writer);
        // 64 in the pipe, 16 in the queue; of the next 100 the ten that tell of containers.
        for seq in 1..=180 {
            sink.push(&mixed([seq])).expect("push");
        }
        let lost = LeftOut {
            bulk: 90,
            others: 0,
        };
        assert_eq!((sink.room.lost, sink.queued.len()), (lost, 26));
        let mut taken = vec![0; 90 << 10];
        reader.read_exact(&mut taken[..64 << 10]).expect("read");
        sink.flush().expect("flush");
        assert_eq!(
            mark().seq(),
            80,
            "a kill now would leave a loss that nobody tells"
        );
        reader.read_exact(&mut taken[64 << 10..]).expect("read");
        let told = (90..=180).step_by(10);
        let expected: Vec<u8> = (1..=80).chain(told).flat_map(line).collect();
        assert!(taken == expected, "not those of containers");
        assert_eq!(sink.take_lost(), Some(lost));
        sink.push(&mixed([181])).expect("push");
        assert_eq!(mark().seq(), 181);
    }

    #[test]
    fn room_is_made_for_processes_too() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut sink = over(&writer, 32 << 10);
        drop(writer);
        // 64 in the pipe, 16 in the queue: as many as there may be of processes.
        sink.push(&mixed(1..=64)).expect("push");
        sink.push(&mixed(65..=80)).expect("push");
        assert!(!sink.make_room(Instant::now(), 8 << 10).expect("a pipe"));
        let mut taken = vec![0; 64 << 10];
        reader.read_exact(&mut taken).expect("read");
        assert!(sink.make_room(Instant::now(), 8 << 10).expect("a pipe"));
        sink.push(&mixed(81..=88)).expect("push");
        assert_eq!(sink.room.lost, LeftOut::default());
    }

    #[test]
    fn a_closed_pipe_is_a_good_end() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut sink = over(&writer, 1024);
        drop(reader);
        assert_eq!(sink.push(&batch([1])).expect("push"), Reader::Gone);
    }

    #[test]
    fn the_open_file_of_others_stays_blocking() {
        let (_reader, writer) = io::pipe().expect("a pipe");
        let before = rustix::fs::fcntl_getfl(&writer).expect("flags");
        let _sink = over(&writer, 1024);
        assert_eq!(rustix::fs::fcntl_getfl(&writer).expect("flags"), before);
    }
}
