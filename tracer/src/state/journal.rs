//! The journal: a recording that is written ahead, and where it left off.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufReader, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{
    engine::{Engine, Entry},
    lifecycle::Machine,
    record::Kind,
    recording::{Header, Player, Recorder, RecordingError},
    time::BootNs,
};

/// A journal that has grown by so many bytes is replaced once every sink has what is in it.
const ENOUGH: u64 = 16 << 20;

/// Beyond this it is replaced whatever sinks have: a sink that never catches up must not fill the
/// disk.
const TOO_MUCH: u64 = 4 * ENOUGH;

/// Written by one process, one entry at a time.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    recorder: Recorder<File>,
}

/// What a process before this one left.
#[derive(Debug)]
pub struct Left {
    path: PathBuf,
    player: Player<BufReader<File>>,
    last: Last,
    /// Number of the first record that follows from its entries.
    pub next_seq: u64,
    /// Losses that were told before them.
    pub told: BTreeMap<String, u64>,
    /// When the newest record before them was made.
    pub last_record: BootNs,
}

/// How it ended, as its last entries tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Last {
    /// The newest record of the kernel side.
    pub raw: Option<Box<[u8]>>,
    /// It ended in order.
    pub stopped: bool,
    /// The table did not equal the host: the first scan, or a repair, was not complete.
    pub unfinished: bool,
}

impl Journal {
    /// Begins a new journal in `state`, in the place of any other.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn begin(state: &Path, header: &Header<&Machine>) -> anyhow::Result<Self> {
        Self::replace(&state.join("journal"), header)
    }

    fn replace(path: &Path, header: &Header<&Machine>) -> anyhow::Result<Self> {
        let new = path.with_extension("new");
        // It holds command lines.
        let recorder = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|file| Recorder::new(file, header))
            .with_context(|| format!("cannot write {}", new.display()))?;
        fs::rename(&new, path).with_context(|| format!("cannot replace {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            recorder,
        })
    }

    /// Adds an entry: from here on it counts as taken up.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn write(&mut self, now: BootNs, entry: &Entry<'_>) -> anyhow::Result<()> {
        self.recorder
            .write(now, entry)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Whether to begin a new one, when the slowest sink has record `written` and the newest is
    /// `newest`.
    #[must_use]
    pub const fn has_grown(&self, written: u64, newest: u64) -> bool {
        let bytes = self.recorder.bytes();
        bytes > TOO_MUCH || bytes > ENOUGH && written >= newest
    }

    /// Begins a new one with the table as it is.
    ///
    /// # Errors
    ///
    /// Those of writing; the old one goes on then.
    pub fn begin_again(&mut self, header: &Header<&Machine>) -> anyhow::Result<()> {
        *self = Self::replace(&self.path, header)?;
        Ok(())
    }

    /// Forces it to disk: an orderly end.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn sync(&self) -> anyhow::Result<()> {
        let file = self.recorder.get_ref();
        file.sync_all()
            .and_then(|()| match self.path.parent() {
                Some(directory) => File::open(directory)?.sync_all(),
                None => Ok(()),
            })
            .with_context(|| format!("cannot force {} to disk", self.path.display()))
    }
}

impl Left {
    /// What is in `state`, and the engine that its entries are for; `None` where nothing is, or
    /// nothing that this tracer can go on with. That is kept aside then.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn find(state: &Path) -> anyhow::Result<Option<(Self, Engine)>> {
        let path = state.join("journal");
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.with_context(|| format!("cannot read {}", path.display()))?,
        };
        match Player::new(BufReader::with_capacity(1 << 16, file)) {
            Ok((player, header)) => {
                let left = Self {
                    path,
                    player,
                    last: Last {
                        raw: None,
                        stopped: header.stopped,
                        unfinished: header.unfinished,
                    },
                    next_seq: header.next_seq,
                    told: header.told.clone(),
                    last_record: header.last_record,
                };
                Ok(Some((left, header.into_engine())))
            }
            Err(RecordingError::Io(error)) => {
                Err(error).with_context(|| format!("cannot read {}", path.display()))
            }
            Err(error) => {
                let aside = path.with_extension("unreadable");
                tracing::error!(%error, kept = %aside.display(), "the journal cannot be gone on with: a new stream begins");
                fs::rename(&path, &aside)
                    .with_context(|| format!("cannot move {}", path.display()))?;
                Ok(None)
            }
        }
    }

    /// Whether nothing was told after an orderly end.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn ended_in_order(&self) -> anyhow::Result<bool> {
        let len = fs::metadata(&self.path)
            .with_context(|| format!("cannot read {}", self.path.display()))?
            .len();
        Ok(self.last.stopped && len == self.player.position())
    }

    /// Gives every entry to `apply`, in order, and goes on with the journal behind the last whole
    /// one.
    ///
    /// # Errors
    ///
    /// Those of reading and of `apply`.
    pub fn replay(
        mut self,
        mut apply: impl FnMut(BootNs, &Entry<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Journal, Last)> {
        let mut last = self.last;
        let begin = self.player.position();
        let mut good = begin;
        loop {
            match self.player.entry() {
                Ok(Some((now, entry))) => {
                    last.note(&entry);
                    apply(now, &entry)?;
                }
                // Truncated: its writer was killed, and what follows from the entry has not left.
                Ok(None) | Err(RecordingError::Truncated(_)) => break,
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot read {}", self.path.display()));
                }
            }
            good = self.player.position();
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .with_context(|| format!("cannot go on with {}", self.path.display()))?;
        file.set_len(good)
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .with_context(|| format!("cannot go on with {}", self.path.display()))?;
        let journal = Journal {
            path: self.path,
            recorder: Recorder::after(file, good - begin),
        };
        Ok((journal, last))
    }
}

impl Last {
    fn note(&mut self, entry: &Entry<'_>) {
        match entry {
            Entry::Raw(bytes) => self.raw = Some((*bytes).into()),
            Entry::Node(kind, node) => match kind {
                Kind::NodeStopped => self.stopped = true,
                Kind::NodeStarted => self.stopped = false,
                Kind::NodeSynced | Kind::NodeResynced => self.unfinished = false,
                Kind::NodeGap => self.unfinished |= node.needs_repair(),
                _ => {}
            },
            _ => {}
        }
    }
}
