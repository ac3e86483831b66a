//! A socket that nobody listens on: seen when it is made, not asked for again and again.
//!
//! A daemon that starts makes its socket anew, so its directory is watched; where that is missing
//! too, the nearest one above it that is there.

use std::{
    ffi::{OsStr, OsString},
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

use crate::poll::poll_for;

/// What may bring a path nearer: its next part is made, or what was watched is gone.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Between two readings of what happens there, where nothing of it brought the socket nearer.
const PACE: Duration = Duration::from_millis(100);

/// A watch for one socket.
pub(super) struct Absent {
    inotify: AsyncFd<OwnedFd>,
    socket: PathBuf,
    /// What is watched, and its watch.
    watched: PathBuf,
    watch: i32,
    /// Name of what is missing there.
    awaited: OsString,
}

impl Absent {
    /// Begins to watch; `None` if the socket was made meanwhile. One that is there, but that nobody
    /// listens on, counts as missing if `stale`.
    ///
    /// # Errors
    ///
    /// Those of inotify: no instance or no watch is left.
    pub(super) fn new(socket: &Path, stale: bool) -> io::Result<Option<Self>> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut absent = Self {
            inotify: poll_for(inotify, Interest::READABLE)?,
            socket: socket.to_owned(),
            watched: PathBuf::new(),
            watch: -1,
            awaited: OsString::new(),
        };
        Ok((!absent.approach(stale)?).then_some(absent))
    }

    /// Waits until the socket is made.
    pub(super) async fn made(mut self) -> io::Result<()> {
        while !self.changed().await? {
            // Whoever may write to the directory could keep this thread busy.
            sleep_until(Instant::now() + PACE).await;
        }
        Ok(())
    }

    /// Waits for something to happen where the socket is missing; whether it is there now.
    async fn changed(&mut self) -> io::Result<bool> {
        self.inotify.readable().await?.clear_ready();
        let mut nearer = false;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(self.inotify.get_ref(), &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event
                .file_name()
                .map(|name| OsStr::from_bytes(name.to_bytes()));
            // Without a name it is the directory itself.
            let is_meant = event.wd() == self.watch && name.is_none_or(|name| name == self.awaited);
            // Some were lost: nobody knows which.
            nearer |= is_meant || event.events().contains(ReadFlags::QUEUE_OVERFLOW);
        }
        if !nearer {
            return Ok(false);
        }
        let is_last = self.socket.parent() == Some(&self.watched);
        Ok(is_last && self.socket.exists() || self.approach(false)?)
    }

    /// Watches the nearest directory that is there. True if the socket is, unless `stale`.
    fn approach(&mut self, stale: bool) -> io::Result<bool> {
        loop {
            let mut below = self.socket.as_path();
            let directory = loop {
                let Some(above) = below.parent() else {
                    return Err(io::ErrorKind::NotFound.into());
                };
                if above.is_dir() {
                    break above;
                }
                below = above;
            };
            let watch = match inotify::add_watch(self.inotify.get_ref(), directory, CHANGES) {
                Ok(watch) => watch,
                // Gone since it was looked at.
                Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let before = std::mem::replace(&mut self.watch, watch);
            if before != watch
                && let Err(error) = inotify::remove_watch(self.inotify.get_ref(), before)
            {
                // Gone with its directory; or there was none yet.
                tracing::trace!(%error, "watch was gone");
            }
            self.watched = directory.to_owned();
            self.awaited = below.file_name().unwrap_or_default().to_owned();
            // What was made before the watch makes no event.
            let is_there = below.exists();
            if below == self.socket {
                return Ok(is_there && !stale);
            }
            if !is_there {
                return Ok(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// Runs `then` once a watch on the socket is set, and waits for it.
    async fn seen(socket: &Path, stale: bool, then: impl FnOnce()) -> bool {
        let absent = Absent::new(socket, stale)
            .expect("a watch")
            .expect("absent");
        then();
        timeout(SOON, absent.made())
            .await
            .is_ok_and(|made| made.is_ok())
    }

    #[tokio::test]
    async fn a_socket_is_seen_when_it_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("a.sock");
        let other = dir.path().join("other");
        let make = || {
            fs::write(other, "").expect("a file");
            fs::write(&socket, "").expect("a file");
        };
        assert!(seen(&socket, false, make).await);
        assert!(Absent::new(&socket, false).expect("a watch").is_none());
    }

    #[tokio::test]
    async fn directories_may_be_missing_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let above = dir.path().join("run/runtime");
        let socket = above.join("a.sock");
        let make = || {
            fs::create_dir_all(&above).expect("directories");
            fs::write(&socket, "").expect("a file");
        };
        assert!(seen(&socket, false, make).await);
    }

    #[tokio::test]
    async fn a_directory_that_goes_and_comes_back_is_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let above = dir.path().join("runtime");
        let socket = above.join("a.sock");
        fs::create_dir(&above).expect("a directory");
        let absent = Absent::new(&socket, false).expect("a watch");
        let mut absent = absent.expect("absent");
        fs::remove_dir(&above).expect("empty");
        while absent.watched != dir.path() {
            assert!(!absent.changed().await.expect("an event"));
        }
        fs::create_dir(&above).expect("a directory");
        while absent.watched != above {
            assert!(!absent.changed().await.expect("an event"));
        }
        // Not watched any more: what happens there wakes nobody.
        fs::write(dir.path().join("other"), "").expect("a file");
        fs::write(&socket, "").expect("a file");
        let made = timeout(SOON, absent.made()).await.expect("in time");
        assert!(made.is_ok());
    }

    #[tokio::test]
    async fn what_others_make_there_is_not_the_socket() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("a.sock");
        let absent = Absent::new(&socket, false).expect("a watch");
        let mut absent = absent.expect("absent");
        fs::write(dir.path().join("other"), "").expect("a file");
        assert!(!absent.changed().await.expect("an event"));
        fs::write(&socket, "").expect("a file");
        assert!(absent.changed().await.expect("an event"));
    }

    #[tokio::test]
    async fn a_socket_of_a_daemon_before_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("a.sock");
        fs::write(&socket, "").expect("a file");
        let again = || {
            fs::remove_file(&socket).expect("there");
            fs::write(&socket, "").expect("a file");
        };
        assert!(seen(&socket, true, again).await);
    }
}
