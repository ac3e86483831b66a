//! The spool's files: who may use them, and what becomes of damaged ones.

use std::{
    fs::{self, File},
    io,
    path::Path,
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
    match open() {
        Err(error) if is_damaged(&error) => {
            tracing::error!(%error, path = %path.display(), "the spool is damaged: set aside, a new one is begun");
            set_aside(path);
            open()
        }
        opened => opened,
    }
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
