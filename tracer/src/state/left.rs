//! What a process before this one left: a stream that goes on, or one that was broken off.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufReader, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use tracer_common::ABI_VERSION;

use super::journal::{BEHIND, Journal, NAME, UNREADABLE};
use crate::{
    decode::decode,
    engine::{Engine, Entry},
    record::Kind,
    recording::{Header, Player, Recorder, RecordingError},
    time::{BootNs, Timestamp, WallOffset},
};

/// What there is in a state directory.
#[derive(Debug)]
pub enum Found {
    Nothing,
    GoesOn(Box<Left>, Box<Engine>),
    Broken(Broken),
}

/// A stream whose numbers cannot be gone on with: nobody knows which of them were told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// As the new stream tells it.
    pub reason: String,
    /// Nothing is missing before this time.
    pub since: Option<Timestamp>,
}

/// A journal to go on with.
#[derive(Debug)]
pub struct Left {
    state: PathBuf,
    player: Player<BufReader<File>>,
    /// Where its entries begin, and where the last whole one ends.
    begin: u64,
    good: u64,
    last: Last,
    /// Number of the first record that follows from its entries.
    pub next_seq: u64,
    /// Losses that were told before them.
    pub told: BTreeMap<String, u64>,
    /// When the newest record before them was made.
    pub last_record: BootNs,
    /// Programs that made the records before them.
    pub programs: Option<Arc<str>>,
    /// Its head is of a tracer that makes other records.
    pub other_abi: bool,
}

/// How a journal ends, as its last entries tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Last {
    /// The newest record of the kernel side.
    pub raw: Option<Box<[u8]>>,
    /// It ended in order: nothing was told after that.
    pub stopped: bool,
    /// The table did not equal the host: the first scan, or a repair, was not complete.
    pub unfinished: bool,
    /// What makes the records of the kernel side.
    pub programs: Option<Arc<str>>,
}

/// The entries of a journal, read to their end.
struct Survey {
    last: Last,
    /// Where the last whole entry ends.
    good: u64,
    /// Something else than an entry follows.
    damaged: bool,
    /// There are records of the kernel side.
    has_raw: bool,
    newest: BootNs,
    offset: WallOffset,
}

/// Looks into `state`. `boot_id` is that of the host as it runs now.
///
/// # Errors
///
/// Those of reading.
pub fn find(state: &Path, boot_id: &str) -> anyhow::Result<Found> {
    let Some((path, file)) = open(state)? else {
        return Ok(Found::Nothing);
    };
    let read = || format!("cannot read {}", path.display());
    let input = BufReader::with_capacity(1 << 16, file);
    let (mut player, header) = match Player::of_any_abi(input) {
        Ok(opened) => opened,
        Err(RecordingError::Io(error)) => return Err(error).with_context(read),
        Err(error) => {
            keep(&path)?;
            return Ok(Found::Broken(Broken {
                reason: format!(
                    "the stream before was broken off: its journal cannot be read: {error}"
                ),
                since: None,
            }));
        }
    };
    let begin = player.position();
    let survey = Survey::of(&mut player, &header).with_context(read)?;
    let is_behind = path.ends_with(BEHIND);
    let other_abi = header.abi != ABI_VERSION;
    let why = if is_behind {
        "its journal could not be written"
    } else if survey.damaged {
        keep(&path)?;
        "its journal is damaged"
    } else if other_abi && survey.has_raw {
        "its journal has records that this tracer cannot read"
    } else if header.host.boot_id != boot_id && !survey.last.stopped {
        "the machine went down without an end of tracer"
    } else {
        let left = Left {
            state: state.to_owned(),
            player,
            begin,
            good: survey.good,
            last: survey.last,
            next_seq: header.next_seq,
            told: header.told.clone(),
            last_record: header.last_record,
            programs: header.programs.clone(),
            other_abi,
        };
        return Ok(Found::GoesOn(
            Box::new(left),
            Box::new(header.into_engine()),
        ));
    };
    Ok(Found::Broken(Broken {
        reason: format!("stream {} was broken off: {why}", header.stream),
        since: Some(survey.offset.at(survey.newest)),
    }))
}

/// The journal, or the one that was left behind where there is no newer one.
fn open(state: &Path) -> anyhow::Result<Option<(PathBuf, File)>> {
    for name in [NAME, BEHIND] {
        let path = state.join(name);
        match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            file => {
                let file = file.with_context(|| format!("cannot read {}", path.display()))?;
                return Ok(Some((path, file)));
            }
        }
    }
    Ok(None)
}

/// For whoever wants to know.
fn keep(path: &Path) -> anyhow::Result<()> {
    let aside = path.with_file_name(UNREADABLE);
    tracing::error!(kept = %aside.display(), "the journal cannot be read as a whole");
    fs::rename(path, &aside).with_context(|| format!("cannot move {}", path.display()))
}

impl Survey {
    fn of(player: &mut Player<BufReader<File>>, header: &Header) -> Result<Self, RecordingError> {
        let mut survey = Self {
            last: Last {
                raw: header.newest.clone(),
                stopped: header.stopped,
                unfinished: header.unfinished,
                programs: header.programs.clone(),
            },
            good: player.position(),
            damaged: false,
            has_raw: false,
            newest: header.last_record,
            offset: WallOffset(header.offset),
        };
        loop {
            match player.entry() {
                Ok(Some((_, entry))) => survey.note(&entry),
                // Truncated: its writer was killed, and what follows from the entry has not left.
                Ok(None) | Err(RecordingError::Truncated(_)) => return Ok(survey),
                Err(RecordingError::Io(error)) => return Err(error.into()),
                Err(_) => {
                    survey.damaged = true;
                    return Ok(survey);
                }
            }
            survey.good = player.position();
        }
    }

    fn note(&mut self, entry: &Entry<'_>) {
        self.last.note(entry);
        match entry {
            Entry::Raw(bytes) => {
                self.has_raw = true;
                if let Ok(raw) = decode(bytes) {
                    self.newest = BootNs(raw.time_ns);
                }
            }
            Entry::Offset(offset) => self.offset = *offset,
            _ => {}
        }
    }
}

impl Left {
    /// How it ends.
    #[must_use]
    pub const fn last(&self) -> &Last {
        &self.last
    }

    /// Adds an entry behind the last, to be replayed like the others.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn add(&mut self, now: BootNs, entry: &Entry<'_>) -> std::io::Result<()> {
        let file = self.for_writing()?;
        let mut recorder = Recorder::after(file, 0);
        recorder.write(now, entry)?;
        self.good += recorder.bytes();
        Ok(())
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
        let read = || format!("cannot read the journal in {}", self.state.display());
        self.player.go_to(self.begin).with_context(read)?;
        while self.player.position() < self.good {
            match self.player.entry().with_context(read)? {
                Some((now, entry)) => apply(now, &entry)?,
                None => break,
            }
        }
        let file = self.for_writing().with_context(|| {
            format!("cannot go on with the journal in {}", self.state.display())
        })?;
        let journal = Journal::after(&self.state, file, self.good - self.begin);
        Ok((journal, self.last))
    }

    /// The journal without the half of an entry that may end it.
    fn for_writing(&self) -> std::io::Result<File> {
        let mut file = OpenOptions::new().write(true).open(self.state.join(NAME))?;
        file.set_len(self.good)?;
        file.seek(SeekFrom::End(0))?;
        Ok(file)
    }
}

impl Last {
    fn note(&mut self, entry: &Entry<'_>) {
        self.stopped = match entry {
            Entry::Node(kind, _) => *kind == Kind::NodeStopped,
            Entry::Tick | Entry::Offset(_) => self.stopped,
            _ => false,
        };
        match entry {
            Entry::Raw(bytes) => self.raw = Some((*bytes).into()),
            Entry::Programs(id) => {
                *self = Self {
                    programs: Some(Arc::clone(id)),
                    unfinished: true,
                    ..Self::default()
                }
            }
            Entry::Node(kind, node) => match kind {
                Kind::NodeSynced | Kind::NodeResynced => self.unfinished = false,
                Kind::NodeGap => self.unfinished |= node.needs_repair(),
                _ => {}
            },
            _ => {}
        }
    }
}
