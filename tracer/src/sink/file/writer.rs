//! The thread that writes: a batch as a whole, or again later.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{Piece, Shared};
use crate::{state::Mark, time::Timestamp};

/// How long a full disk is left alone.
const AGAIN: Duration = Duration::from_secs(1);

/// The end of a file that is searched for its last line: no record is longer.
const TAIL: u64 = 1 << 20;

/// What the thread has.
pub(super) struct Writer {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) mark: Mark,
    pub(super) shared: Arc<Shared>,
    /// The log has said that the file cannot be written.
    pub(super) told: bool,
}

/// Says that the thread is gone, however it went.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

enum Next {
    Write(Piece),
    Reopen,
    End,
}

impl Writer {
    pub(super) fn run(mut self) {
        let _end = End(Arc::clone(&self.shared));
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
                Next::End => return self.sync(),
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
        // That some are missing is known before anything is behind them.
        if piece.beyond.is_some() && self.mark.beyond().is_none() {
            self.mark.store_with_holes(piece.last, Some(piece.last));
        }
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
        match &piece.begins {
            Some(stream) => self.mark.begin_stream(stream),
            None => self.mark.store_with_holes(piece.last, piece.beyond),
        }
        let mut queue = self.shared.lock();
        queue.bytes = queue.bytes.saturating_sub(piece.bytes.len());
        queue.written = piece.last;
        self.shared.changed.notify_all();
        if queue.awaited.is_some_and(|room| queue.bytes < room) {
            queue.awaited = None;
            self.shared.has_room.notify_one();
        }
        true
    }

    /// An orderly end: what is in the file outlives the machine.
    fn sync(&self) {
        match self.file.sync_all() {
            // Pipes and the like.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "may not be on disk");
            }
            Ok(()) => {}
        }
        self.mark.sync();
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
            queue = self.shared.wait(queue, timeout);
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

/// What the last whole line of a file says.
#[derive(Debug, Default)]
pub(super) struct LastLine(Vec<u8>);

impl LastLine {
    /// Its number, if it is of `stream`.
    pub(super) fn seq(&self, stream: &str) -> Option<u64> {
        #[derive(Deserialize)]
        struct Numbered<'a> {
            id: &'a str,
            seq: u64,
        }
        let record: Numbered<'_> = serde_json::from_slice(&self.0).ok()?;
        let (of, _) = record.id.split_once('/')?;
        (of == stream).then_some(record.seq)
    }

    /// When its event was.
    pub(super) fn time(&self) -> Option<Timestamp> {
        #[derive(Deserialize)]
        struct Timed {
            time: Timestamp,
        }
        let record: Timed = serde_json::from_slice(&self.0).ok()?;
        Some(record.time)
    }
}

/// Opens the file behind its last whole line; says what is in that.
pub(super) fn open(path: &Path) -> io::Result<(File, LastLine)> {
    let mut file = append(path)?;
    let len = file.metadata()?.len();
    if !file.metadata()?.is_file() || len == 0 {
        return Ok((file, LastLine::default()));
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
    Ok((file, LastLine(last.unwrap_or_default().to_vec())))
}
