//! How far a sink is.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Number of the newest record up to which a sink lacks nothing that was not told; without a state
/// directory only in memory.
///
/// ```text
///  0  number, little-endian
///  8  where the sink lacks some records behind that, number of the newest that it has, plus 1; or 0
/// 16  the stream that they are of; a file without is of any
/// ```
#[derive(Debug)]
pub struct Mark {
    file: Option<File>,
    seq: u64,
    beyond: Option<u64>,
    /// The log has said that the file cannot be written.
    told: bool,
}

/// The number that comes first, 0 where there is none, and what follows it.
fn number(bytes: &[u8]) -> (u64, &[u8]) {
    match bytes.split_first_chunk() {
        Some((number, rest)) => (u64::from_le_bytes(*number), rest),
        None => (0, &[]),
    }
}

/// A stream's name is far shorter.
const MAX_BYTES: u64 = 1 << 10;

impl Mark {
    /// One that is kept nowhere.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            file: None,
            seq: 0,
            beyond: None,
            told: false,
        }
    }

    /// Reads the mark at `path`, 0 where there is none of this stream yet.
    ///
    /// # Errors
    ///
    /// Those of opening, reading and writing.
    pub fn open(path: &Path, stream: &str) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut bytes = Vec::new();
        (&file).take(MAX_BYTES).read_to_end(&mut bytes)?;
        let (seq, rest) = number(&bytes);
        let (after, of) = number(rest);
        let is_of_another = !of.is_empty() && of != stream.as_bytes();
        let (seq, beyond) = if is_of_another {
            (0, None)
        } else {
            (seq, after.checked_sub(1))
        };
        let mut mark = Self {
            file: Some(file),
            seq,
            beyond,
            told: false,
        };
        if of != stream.as_bytes() {
            mark.write(stream)?;
        }
        Ok(mark)
    }

    /// Another stream begins, of which the sink has nothing yet.
    pub fn begin_stream(&mut self, stream: &str) {
        (self.seq, self.beyond) = (0, None);
        if let Err(error) = self.write(stream) {
            tracing::warn!(%error, "how far a sink is cannot be kept");
            // Whoever reads it must not take it for one of this stream.
            self.file = None;
        }
    }

    fn write(&mut self, stream: &str) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let bytes = [&self.numbers()[..], stream.as_bytes()].concat();
        file.write_all_at(&bytes, 0)?;
        file.set_len(bytes.len() as u64)
    }

    fn numbers(&self) -> [u8; 16] {
        let after = self.beyond.map_or(0, |beyond| beyond.saturating_add(1));
        (u128::from(self.seq) | u128::from(after) << 64).to_le_bytes()
    }

    /// The number.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Number of the newest record that the sink has, where it lacks some of those before.
    #[must_use]
    pub const fn beyond(&self) -> Option<u64> {
        self.beyond
    }

    /// Goes on with record `first`; says how many before it are missing. A sink that had nothing yet
    /// begins there, and misses nothing.
    pub const fn skip_to(&mut self, first: u64) -> u64 {
        let missing = first.saturating_sub(self.seq + 1);
        if self.seq == 0 || missing == 0 {
            return 0;
        }
        self.seq = first - 1;
        missing
    }

    /// Everything up to `seq` is written, or was told to be missing. A disk that does not take it
    /// costs no record: after a kill some come again.
    pub fn store(&mut self, seq: u64) {
        self.store_with_holes(seq, None);
    }

    /// Likewise; behind that the sink has records up to `beyond`, and lacks some of them.
    pub fn store_with_holes(&mut self, seq: u64, beyond: Option<u64>) {
        (self.seq, self.beyond) = (seq, beyond);
        let Some(file) = &self.file else {
            return;
        };
        match file.write_all_at(&self.numbers(), 0) {
            Ok(()) => self.told = false,
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(%error, "how far a sink is cannot be kept");
                }
            }
        }
    }

    /// Forces it to disk: an orderly end.
    pub fn sync(&self) {
        if let Some(file) = &self.file
            && let Err(error) = file.sync_all()
        {
            tracing::warn!(%error, "how far a sink is may not be on disk");
        }
    }
}
