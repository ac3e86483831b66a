//! How far a sink is.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Number of the newest record up to which a sink lacks nothing that was not told, in a file of eight
/// bytes (little-endian); without a state directory only in memory.
#[derive(Debug)]
pub struct Mark {
    file: Option<File>,
    seq: u64,
    /// The log has said that the file cannot be written.
    told: bool,
}

impl Mark {
    /// One that is kept nowhere.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            file: None,
            seq: 0,
            told: false,
        }
    }

    /// Reads the mark at `path`, 0 where there is none yet.
    ///
    /// # Errors
    ///
    /// Those of opening and reading.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut bytes = [0; 8];
        let seq = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        Ok(Self {
            file: Some(file),
            seq,
            told: false,
        })
    }

    /// The number.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
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
        self.seq = seq;
        let Some(file) = &self.file else {
            return;
        };
        match file.write_all_at(&seq.to_le_bytes(), 0) {
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
