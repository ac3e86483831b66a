//! The spool's files: who may use them, and what becomes of damaged ones.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{
    SpoolError,
    rows::Bounds,
    store::{self, Owner, Store},
};

/// One tracer per spool.
pub(super) fn lock(directory: &Path) -> Result<File, SpoolError> {
    let failed = |source| SpoolError::Directory {
        path: directory.to_owned(),
        source,
    };
    fs::create_dir_all(directory).map_err(failed)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join("lock"))
        .map_err(failed)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SpoolError::InUse {
            path: directory.to_owned(),
        }),
        Err(error) => Err(failed(error.into())),
    }
}

/// Opens the store; a damaged one is set aside.
pub(super) fn open_store(
    path: &Path,
    owner: &Owner<'_>,
    bounds: Bounds,
) -> rusqlite::Result<Store> {
    let open = || Store::new(store::connect(path)?, owner, bounds);
    let opened = match open() {
        Err(error) if is_full(&error) && give_up_reserve(path) => {
            tracing::warn!(%error, "the spool's disk is full: its reserve is used");
            open()
        }
        opened => opened,
    };
    match opened {
        Err(error) if is_damaged(&error) => {
            tracing::error!(%error, path = %path.display(), "the spool is damaged: set aside, a new one is begun");
            set_aside(path);
            open()
        }
        opened => {
            if opened.is_ok() {
                keep_reserve(path);
            }
            opened
        }
    }
}

/// What opening a spool takes on a disk that is full by then (its log and its index), and some
/// records, bytes.
const RESERVE: usize = 1 << 20;

fn reserve(path: &Path) -> PathBuf {
    path.with_file_name("reserve")
}

/// Room for the next start, in case that the disk is full then: without it tracer could not begin.
pub(super) fn keep_reserve(path: &Path) {
    let reserve = reserve(path);
    if fs::metadata(&reserve).is_ok_and(|kept| kept.len() == RESERVE as u64) {
        return;
    }
    // Written, not only sized: a file system may promise room that it has not.
    if let Err(error) = fs::write(&reserve, vec![0; RESERVE]) {
        tracing::debug!(%error, "no room for the spool's reserve");
        give_up_reserve(path);
    }
}

/// True where there was one.
fn give_up_reserve(path: &Path) -> bool {
    fs::remove_file(reserve(path)).is_ok()
}

fn is_full(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, DiskFull, SystemIoFailure};
    let code = error.sqlite_error_code();
    matches!(code, Some(DiskFull | SystemIoFailure | CannotOpen))
}

fn is_damaged(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error {
        rusqlite::Error::SqliteFailure(error, _) => {
            matches!(error.code, DatabaseCorrupt | NotADatabase)
        }
        // Not our schema.
        rusqlite::Error::InvalidQuery | rusqlite::Error::SqlInputError { .. } => true,
        _ => false,
    }
}

/// One damaged spool is kept, for whoever wants to look into it.
fn set_aside(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut from = path.as_os_str().to_owned();
        from.push(suffix);
        let mut to = path.as_os_str().to_owned();
        to.push(".damaged");
        to.push(suffix);
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%error, "a damaged spool cannot be set aside");
            }
            _ => {}
        }
    }
}
