//! The journal: a recording that is written ahead.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{
    engine::Entry,
    lifecycle::Machine,
    recording::{Header, Recorder},
    time::BootNs,
};

/// A journal that has grown by so many bytes is replaced once every sink has what is in it.
const ENOUGH: u64 = 16 << 20;

/// Beyond this it is replaced whatever sinks have: a sink that never catches up must not fill the
/// disk.
const TOO_MUCH: u64 = 4 * ENOUGH;

/// How long a disk that refused is left alone.
const AGAIN_NS: u64 = 1_000_000_000;

pub(super) const NAME: &str = "journal";
/// A journal that could not be written any more: what came after it is not in it.
pub(super) const BEHIND: &str = "journal.behind";
/// What nobody could read.
pub(super) const UNREADABLE: &str = "journal.unreadable";

/// Written by one process, one entry at a time. Where the disk refuses, the stream goes on without
/// it, and it begins again as soon as the disk takes it.
#[derive(Debug)]
pub struct Journal {
    state: PathBuf,
    recorder: Option<Recorder<File>>,
    /// Not to be tried before.
    again: BootNs,
}

impl Journal {
    /// Begins a new journal in `state`, in the place of any other.
    #[must_use]
    pub fn begin(state: &Path, now: BootNs, header: &Header<&Machine>) -> Self {
        let mut journal = Self {
            state: state.to_owned(),
            recorder: None,
            again: BootNs(0),
        };
        journal.begin_again(now, header);
        journal
    }

    /// Goes on with the one in `state`, behind its last whole entry.
    pub(super) fn after(state: &Path, file: File, bytes: u64) -> Self {
        Self {
            state: state.to_owned(),
            recorder: Some(Recorder::after(file, bytes)),
            again: BootNs(0),
        }
    }

    /// Adds an entry: from here on it counts as taken up.
    pub fn write(&mut self, now: BootNs, entry: &Entry<'_>) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        if let Err(error) = recorder.write(now, entry) {
            tracing::error!(%error, "the journal cannot be written: should tracer be killed now, a new stream begins");
            self.set_aside();
            self.again = BootNs(now.0.saturating_add(AGAIN_NS));
        }
    }

    /// Whether to begin a new one, when the slowest sink has record `written` and the newest is
    /// `newest`.
    #[must_use]
    pub fn has_grown(&self, now: BootNs, written: u64, newest: u64) -> bool {
        let bytes = self.recorder.as_ref().map_or(0, Recorder::bytes);
        now >= self.again && (bytes > TOO_MUCH || bytes > ENOUGH && written >= newest)
    }

    /// Whether there is none and the disk may be tried again.
    #[must_use]
    pub fn is_missing(&self, now: BootNs) -> bool {
        self.recorder.is_none() && now >= self.again
    }

    /// Begins a new one with the table as it is; where that fails the old one goes on. Says whether
    /// it succeeded.
    pub fn begin_again(&mut self, now: BootNs, header: &Header<&Machine>) -> bool {
        match replace(&self.state, header) {
            Ok(recorder) => {
                if self.recorder.is_none() && self.again != BootNs(0) {
                    tracing::warn!("the journal can be written again");
                }
                self.recorder = Some(recorder);
                self.again = BootNs(0);
                true
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "no new journal");
                self.again = BootNs(now.0.saturating_add(AGAIN_NS));
                false
            }
        }
    }

    /// Nothing must go on with what is in it.
    pub fn set_aside(&mut self) {
        let Some(recorder) = self.recorder.take() else {
            return;
        };
        let moved = fs::rename(self.state.join(NAME), self.state.join(BEHIND));
        // Neither of these takes room on the disk.
        if let Err(error) = moved.or_else(|_| recorder.get_ref().set_len(0)) {
            tracing::error!(%error, "the journal stays, and numbers after it may be used again");
        }
    }

    /// Forces it to disk: an orderly end.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn sync(&self) -> anyhow::Result<()> {
        let Some(recorder) = &self.recorder else {
            return Ok(());
        };
        recorder
            .get_ref()
            .sync_all()
            .and_then(|()| File::open(&self.state)?.sync_all())
            .with_context(|| format!("cannot force {} to disk", self.state.display()))
    }
}

fn replace(state: &Path, header: &Header<&Machine>) -> anyhow::Result<Recorder<File>> {
    let (path, new) = (state.join(NAME), state.join("journal.new"));
    // It holds command lines.
    let recorder = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|file| Recorder::new(file, header))
        .and_then(|recorder| fs::rename(&new, &path).map(|()| recorder))
        .with_context(|| format!("cannot write {}", new.display()))
        .inspect_err(|_| {
            // Half of it takes room that others need. It may not be there at all.
            drop(fs::remove_file(&new));
        })?;
    // It told of a loss that is over.
    drop(fs::remove_file(state.join(BEHIND)));
    Ok(recorder)
}
