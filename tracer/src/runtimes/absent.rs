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
};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::{Interest, unix::AsyncFd};

use crate::poll::poll_for;

/// What may bring a path nearer: its next part is made, or what was watched is gone.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

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
        loop {
            self.inotify.readable().await?.clear_ready();
            let mut moved = false;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = Reader::new(self.inotify.get_ref(), &mut buffer);
            while let Ok(event) = reader.next() {
                let name = event
                    .file_name()
                    .map(|name| OsStr::from_bytes(name.to_bytes()));
                // Without a name it is the directory itself, or events were lost.
                moved |= event.wd() == self.watch && name.is_none_or(|name| name == self.awaited);
            }
            let is_last = self.socket.parent() == Some(&self.watched);
            if moved && (is_last && self.socket.exists() || self.approach(false)?) {
                return Ok(());
            }
        }
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
            self.watch = watch;
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
    use std::{fs, time::Duration};

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
        let absent = Absent::new(&socket, false)
            .expect("a watch")
            .expect("absent");
        fs::remove_dir(&above).expect("empty");
        let made = tokio::spawn(absent.made());
        tokio::time::sleep(Duration::from_millis(20)).await;
        fs::create_dir(&above).expect("a directory");
        tokio::time::sleep(Duration::from_millis(20)).await;
        fs::write(&socket, "").expect("a file");
        let made = timeout(SOON, made)
            .await
            .expect("in time")
            .expect("no panic");
        assert!(made.is_ok());
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
