//! Opening what others wrote. Directories are named by configuration or by command lines and may be
//! reached through links, as their owners reach them; files are opened below such a directory
//! without any link, must be regular and small enough, and where it matters must belong to whom
//! they are attributed.
//!
//! Nothing here waits for a FIFO, a lease or a terminal. A network or FUSE file system that does not
//! answer can still hold the caller, as it can hold every process that looks at it.

use std::{
    ffi::OsString,
    fs::File,
    io::Read as _,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::{Component, Path},
};

use rustix::{
    fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2},
    io::Errno,
};

/// Why a file is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it does not exist")]
    Missing,
    #[error("a link or '..' is on its path")]
    Link,
    #[error("it is not a regular file")]
    NotRegular,
    #[error("it has more than {0} bytes")]
    TooLarge(usize),
    #[error("it belongs to user {0}")]
    Owner(u32),
    #[error("cannot read it: {0}")]
    Io(Errno),
    #[error("it is not the JSON that was expected")]
    Syntax,
}

/// A file as read.
#[derive(Debug)]
pub(super) struct Content {
    pub bytes: Vec<u8>,
    /// Who owns it.
    pub uid: u32,
}

/// A directory, held open.
#[derive(Debug)]
pub(super) struct Tree(OwnedFd);

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
/// Below a directory: nothing but names.
const BELOW: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);
/// To a directory: links are followed as if the tree were the whole file system.
const WITHIN: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

impl Tree {
    /// Opens the root of a file system, which configuration or `/proc/PID/root` names.
    pub(super) fn open(path: &Path) -> Result<Self, Refusal> {
        openat(CWD, path, DIRECTORY, Mode::empty())
            .map(Self)
            .map_err(refusal)
    }

    /// Opens a directory of this file system by its absolute path.
    pub(super) fn dir(&self, path: &Path) -> Result<Self, Refusal> {
        // Where openat2 is missing no link is followed; this one is on every host.
        let path = match path.strip_prefix("/var/run") {
            Ok(rest) => Path::new("/run").join(rest),
            Err(_) => path.to_owned(),
        };
        self.resolve(&path, DIRECTORY, WITHIN).map(Self)
    }

    /// Reads a file below this directory, of at most `max` bytes; `owner` is whose it must be.
    pub(super) fn read(
        &self,
        below: &Path,
        max: usize,
        owner: Option<u32>,
    ) -> Result<Content, Refusal> {
        let file = self.resolve(below, FILE, BELOW)?;
        content(file, max, owner)
    }

    /// The names in a directory below this one, at most `max`.
    pub(super) fn names(&self, below: &Path, max: usize) -> Vec<OsString> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(dir) = self
            .resolve(below, flags, BELOW)
            .and_then(|fd| Dir::new(fd).map_err(refusal))
        else {
            return Vec::new();
        };
        dir.filter_map(Result::ok)
            .map(|entry| entry.file_name().to_bytes().to_vec())
            .filter(|name| !matches!(name.as_slice(), b"." | b".."))
            .take(max)
            .map(OsString::from_vec)
            .collect()
    }

    /// The owner of the directory, and whether others may write to it.
    pub(super) fn owner(&self) -> Option<(u32, bool)> {
        let stat = fstat(&self.0).ok()?;
        Some((stat.st_uid, stat.st_mode & 0o022 != 0))
    }

    fn resolve(&self, path: &Path, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Refusal> {
        // EAGAIN: something was renamed meanwhile, and `..` in a link made that matter.
        const TRIES: usize = 4;
        let mut last = Errno::AGAIN;
        for _ in 0..TRIES {
            match openat2(&self.0, path, flags, Mode::empty(), how) {
                Err(Errno::AGAIN) => last = Errno::AGAIN,
                // Seccomp filters older than the call answer EPERM.
                Err(Errno::NOSYS | Errno::PERM) => return walk(self.0.as_fd(), path, flags),
                done => return done.map_err(refusal),
            }
        }
        Err(refusal(last))
    }
}

/// Opens name by name, following nothing.
fn walk(from: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Refusal> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(Refusal::Link),
        }
    }
    let last = names.pop().unwrap_or_else(|| ".".as_ref());
    let mut at: Option<OwnedFd> = None;
    for name in names {
        let parent = at.as_ref().map_or(from, AsFd::as_fd);
        let next = openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        at = Some(next.map_err(refusal)?);
    }
    let parent = at.as_ref().map_or(from, AsFd::as_fd);
    openat(parent, last, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(refusal)
}

fn content(file: OwnedFd, max: usize, owner: Option<u32>) -> Result<Content, Refusal> {
    let stat = fstat(&file).map_err(refusal)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refusal::NotRegular);
    }
    if owner.is_some_and(|owner| owner != stat.st_uid) {
        return Err(Refusal::Owner(stat.st_uid));
    }
    let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
    if size > max {
        return Err(Refusal::TooLarge(max));
    }
    let mut bytes = Vec::with_capacity(size.saturating_add(1));
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    File::from(file)
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| Refusal::Io(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    if bytes.len() > max {
        return Err(Refusal::TooLarge(max));
    }
    Ok(Content {
        bytes,
        uid: stat.st_uid,
    })
}

fn refusal(errno: Errno) -> Refusal {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::SRCH | Errno::STALE => Refusal::Missing,
        Errno::LOOP | Errno::XDEV => Refusal::Link,
        // A socket, or a device that nobody serves.
        Errno::NXIO | Errno::NODEV => Refusal::NotRegular,
        other => Refusal::Io(other),
    }
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
