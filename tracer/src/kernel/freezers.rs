//! The v1 freezer has no tracepoint: its state files are watched with inotify.
//!
//! Measured: a runtime's write to `freezer.state` fires `IN_MODIFY` at once and the state reads
//! `FROZEN` or `THAWED`. A busy container may read `FREEZING` for a while; it is then read again
//! after [`AGAIN`].

use std::{
    collections::BTreeMap,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::inotify::{self, CreateFlags, Reader, WatchFlags},
    io::Errno,
};
use tracer_common::CgroupKey;

use super::hierarchies::Hierarchy;
use crate::reconcile::{freezer_file, read_freezer};

/// How soon a freezer that is on its way is read again.
pub const AGAIN: Duration = Duration::from_millis(5);

/// Watches on the freezers of containers.
#[derive(Debug)]
pub struct Freezers {
    hierarchy: Hierarchy,
    inotify: OwnedFd,
    by_watch: BTreeMap<i32, (CgroupKey, Arc<[u8]>)>,
    by_root: BTreeMap<CgroupKey, i32>,
    /// Still freezing when last read.
    on_their_way: BTreeMap<CgroupKey, Arc<[u8]>>,
    /// The limit on watches was told.
    told_full: bool,
}

impl AsFd for Freezers {
    /// Readable when a watched freezer changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl AsRawFd for Freezers {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }
}

impl Freezers {
    /// No watches yet.
    ///
    /// # Errors
    ///
    /// Those of `inotify_init1`.
    pub fn new(hierarchy: Hierarchy) -> io::Result<Self> {
        Ok(Self {
            hierarchy,
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            by_watch: BTreeMap::new(),
            by_root: BTreeMap::new(),
            on_their_way: BTreeMap::new(),
            told_full: false,
        })
    }

    /// Watches a container's freezer. It may not be there: the runtime makes it before or after the
    /// container's root, and asks for the watch again when it comes.
    pub fn watch(&mut self, root: CgroupKey, path: &Arc<[u8]>) {
        let file = freezer_file(&self.hierarchy, path);
        match inotify::add_watch(&self.inotify, &file, WatchFlags::MODIFY) {
            Ok(watch) => {
                self.by_watch.insert(watch, (root, Arc::clone(path)));
                self.by_root.insert(root, watch);
                // It may have changed before the watch.
                self.on_their_way.insert(root, Arc::clone(path));
            }
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(error) => {
                if !std::mem::replace(&mut self.told_full, true) {
                    tracing::warn!(%error, "a freezer cannot be watched: container.paused and container.resumed will be missing; raise fs.inotify.max_user_watches");
                }
            }
        }
    }

    /// Forgets a container; the kernel took the watch back with the file.
    pub fn unwatch(&mut self, root: CgroupKey) {
        self.on_their_way.remove(&root);
        if let Some(watch) = self.by_root.remove(&root) {
            self.by_watch.remove(&watch);
            // The cgroup is gone, so this usually finds the watch gone too.
            if let Err(error) = inotify::remove_watch(&self.inotify, watch) {
                tracing::trace!(%error, "watch was gone");
            }
        }
    }

    /// Has every freezer read again: what happened before the watches is not known.
    pub fn read_all_again(&mut self) {
        for (root, path) in self.by_watch.values() {
            self.on_their_way.insert(*root, Arc::clone(path));
        }
    }

    /// Whether a freezer has to be read again soon.
    #[must_use]
    pub fn has_to_read_again(&self) -> bool {
        !self.on_their_way.is_empty()
    }

    /// Reads the freezers that changed, and those that were on their way.
    pub fn read(&mut self, mut tell: impl FnMut(CgroupKey, bool)) {
        let mut changed = std::mem::take(&mut self.on_their_way);
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            if let Some((root, path)) = self.by_watch.get(&event.wd()) {
                changed.insert(*root, Arc::clone(path));
            }
        }
        for (root, path) in changed {
            match read_freezer(&self.hierarchy, &path) {
                Ok(Some(frozen)) => tell(root, frozen),
                Ok(None) => {
                    self.on_their_way.insert(root, path);
                }
                // Gone with its container.
                Err(_) => {}
            }
        }
    }
}
