//! The state directory: what a stream needs to go on in the next process.
//!
//! ```text
//! STATE/lock           one tracer per directory
//! STATE/journal        a recording whose head is the table; every entry since then
//! STATE/journal.behind one that could not be written on: what came after it is not in it
//! STATE/marks/stdout   number of the last record that a sink has written
//! STATE/marks/file
//! STATE/pins.json      what is pinned in bpffs, and how it was loaded
//! ```
//!
//! # The order of things
//!
//! An entry is in the journal before any line that follows from it leaves, and before its place in
//! the ring is given back to the kernel. So whatever was told can be told again by replaying the
//! journal, with the same numbers; and what was not taken up is still in the ring. At most one
//! record can be in both: the newest in the journal and the oldest in the ring are compared.
//!
//! After a kill the journal is replayed: the table is what it was, and each sink takes what is behind
//! its own mark. When the journal has grown, and every sink has what is in it, it is replaced by a
//! new one that begins with the table as it is then.
//!
//! The journal also names the programs that its records come from, before the first of them. Pinned
//! programs that it does not name were attached by a process that was killed before it could say
//! so: the ring has what happened since they were attached, and not what happened before. So they
//! are of use, but the time before them is told as a gap.
//!
//! A mark never passes a record that its sink left out and has not told: were tracer killed then, the
//! journal would bring the record after all.
//!
//! # What is forced to disk
//!
//! Nothing but at an orderly end: what a process wrote outlives the process, but not the machine. So
//! after a power failure the journal may lack records that were told, and there is no way to go on
//! with their stream. To use their numbers again would give two records one id. To leave numbers out
//! for them (a block reserved on disk beforehand) would make a hole, which readers take for a loss
//! that nobody tells. To force each record to disk before it leaves would cost milliseconds of
//! each, for the sake of the one power failure after which all containers are gone anyway. So
//! another boot without an orderly end before it begins a new stream, whose first words are a
//! `node.gap` that names the stream before and the time since when something may be missing. After an
//! orderly end the stream goes on over a reboot.
//!
//! # A disk that refuses
//!
//! No event waits for a disk that is full: the stream goes on without the journal, which is renamed
//! and begun again as soon as the disk takes it. A kill in between ends the stream, as a power failure
//! would. A disk that stalls holds the stream up, because the entry comes first; the ring collects
//! meanwhile, and tells what it could not hold.

mod journal;
mod left;
mod mark;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

pub use self::{
    journal::Journal,
    left::{Broken, Found, Last, Left, find},
    mark::Mark,
};
use crate::kernel::load::{Facts, Options};

/// A state directory that no other process uses.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    _lock: File,
}

/// What is pinned, and whether it still fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// Of this set of programs, as the journal names it.
    pub id: Arc<str>,
    pub abi: u16,
    /// Of the tracer whose programs they are.
    pub version: String,
    pub boot_id: String,
    pub directory: PathBuf,
    pub options: Options,
    /// The host's hierarchies at that time, by id.
    pub hierarchies: Vec<u32>,
    pub facts: Facts,
}

impl State {
    /// Opens or makes the directory, for this process alone.
    ///
    /// # Errors
    ///
    /// Where it cannot be made or is in use.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path.join("marks"))
            .with_context(|| format!("cannot make the state directory {shown}"))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot use the state directory {shown}"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .with_context(|| format!("cannot use the state directory {shown}"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another tracer uses the state directory {shown}");
        }
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far a sink is in a stream; kept nowhere where the disk does not take it.
    #[must_use]
    pub fn mark(&self, sink: &str, stream: &str) -> Mark {
        let path = self.path.join("marks").join(sink);
        Mark::open(&path, stream).unwrap_or_else(|error| {
            tracing::error!(path = %path.display(), %error, "how far a sink is cannot be kept");
            Mark::none()
        })
    }

    /// Begins a new stream: no sink has had anything of it.
    ///
    /// # Errors
    ///
    /// Those of removing files.
    pub fn forget_marks(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(self.path.join("marks")).context("cannot read the marks")? {
            fs::remove_file(entry?.path()).context("cannot remove a mark")?;
        }
        Ok(())
    }

    /// What was pinned last; nothing where that cannot be read.
    #[must_use]
    pub fn pinned(&self) -> Option<Pinned> {
        let text = fs::read(self.path.join(PINS)).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!(%error, "{PINS} cannot be read"))
            .ok()
    }

    /// Notes what is pinned now.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn set_pinned(&self, pinned: Option<&Pinned>) -> anyhow::Result<()> {
        let path = self.path.join(PINS);
        let done = match pinned {
            Some(pinned) => replace(
                &path,
                &serde_json::to_vec(pinned).context("cannot write pins")?,
            ),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
        };
        done.with_context(|| format!("cannot write {}", path.display()))
    }
}

const PINS: &str = "pins.json";

/// A file has its old content or its new one, never half of it.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests;
