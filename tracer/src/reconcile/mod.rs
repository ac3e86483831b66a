//! What is on the host now: cgroupfs and `/proc`, read into a [`Snapshot`].
//!
//! The walk goes parents before children, the preferred hierarchy first. What vanishes while it is
//! read is gone, which is no failure; any other error makes the snapshot incomplete, and an
//! incomplete one removes nothing from the table.
//!
//! A cgroup of another hierarchy with the path of one that was found in the preferred one is its twin
//! and tells nothing more: it is not read, and no longer watched.
//!
//! Before a cgroup's processes are read its tasks are watched, so that one that ends or executes in
//! between is seen either here or in the ring.

mod proc;
mod resolve;

use std::{
    collections::HashSet,
    fs::{self, Metadata},
    io::{self, ErrorKind},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tracer_common::CgroupKey;

pub use self::resolve::resolve;

use crate::{
    identity::{Identity, identify},
    kernel::hierarchies::{Hierarchies, Hierarchy},
    lifecycle::{Found, FoundProcess, Snapshot, level_of},
};

/// What the walk does to the kernel's tables on its way.
pub trait Watch {
    /// Watch the tasks of this cgroup, which lies so deep in its hierarchy.
    fn track(&mut self, cgroup: CgroupKey, level: u32);
    /// Not any more: it was gone before its tasks were watched, or is a twin.
    fn forget(&mut self, cgroup: CgroupKey);
    /// Follow this process to its end; `landed` if it has executed what it is there for.
    fn follow(&mut self, pid: u32, cgroup: CgroupKey, landed: bool);
}

/// A runtime fills the cgroup that it made within this time.
const FRESH: Duration = Duration::from_secs(2);

/// Deepest cgroup that is walked.
const MAX_DEPTH: usize = 64;

/// Reads the host.
pub fn scan(hierarchies: &Hierarchies, watch: &mut dyn Watch) -> Snapshot {
    let mut walk = Walk {
        hierarchies,
        watch,
        snapshot: Snapshot {
            complete: true,
            ..Snapshot::default()
        },
        preferred: HashSet::new(),
        processes: proc::Reader::default(),
    };
    for hierarchy in &hierarchies.all {
        walk.directory(hierarchy, &hierarchy.mount, &mut Vec::new(), false);
    }
    walk.snapshot
}

struct Walk<'a> {
    hierarchies: &'a Hierarchies,
    watch: &'a mut dyn Watch,
    snapshot: Snapshot,
    /// Paths of what was found in the preferred hierarchy.
    preferred: HashSet<Arc<[u8]>>,
    processes: proc::Reader,
}

impl Walk<'_> {
    /// Reads what lies in `directory`, whose path below the root of the hierarchy is `path`.
    /// `inside` is true below the root of a container.
    fn directory(
        &mut self,
        hierarchy: &Hierarchy,
        directory: &Path,
        path: &mut Vec<u8>,
        inside: bool,
    ) {
        let names = match subdirectories(directory) {
            Ok(names) => names,
            Err(error) => return self.failed(directory, &error),
        };
        for child in names {
            let Some(name) = child.file_name() else {
                continue;
            };
            let len = path.len();
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
            self.cgroup(hierarchy, &child, path, inside);
            path.truncate(len);
        }
    }

    fn cgroup(
        &mut self,
        hierarchy: &Hierarchy,
        directory: &Path,
        path: &mut Vec<u8>,
        inside: bool,
    ) {
        if path.split(|byte| *byte == b'/').count() > MAX_DEPTH {
            return self.failed(directory, &io::Error::other("nested too deep"));
        }
        let metadata = match fs::metadata(directory) {
            Ok(metadata) => metadata,
            Err(error) => return self.failed(directory, &error),
        };
        if self.preferred.contains(&**path) && Some(hierarchy.id) != self.hierarchies.preferred() {
            let twin = CgroupKey::new(hierarchy.id, metadata.ino());
            self.watch.forget(twin);
            return self.inside(hierarchy, directory, &metadata, path, true);
        }
        let container = inside
            || match identify(path) {
                Identity::Container(_) => true,
                Identity::Unknown => holds_bare(directory),
                Identity::Excluded { .. } | Identity::NotContainer { .. } => false,
            };
        if container {
            match self.read(hierarchy, directory, &metadata, path) {
                Ok(found) => {
                    if Some(hierarchy.id) == self.hierarchies.preferred() {
                        self.preferred.insert(Arc::clone(&found.path));
                    }
                    self.snapshot.found.push(found);
                }
                Err(error) => return self.failed(directory, &error),
            }
        }
        self.inside(hierarchy, directory, &metadata, path, container);
    }

    /// Most cgroups have none inside, which their count of links tells: cgroupfs (kernfs) counts two
    /// and one for each. One that is made after that was counted is in the ring.
    fn inside(
        &mut self,
        hierarchy: &Hierarchy,
        directory: &Path,
        metadata: &Metadata,
        path: &mut Vec<u8>,
        container: bool,
    ) {
        if metadata.nlink() != 2 {
            self.directory(hierarchy, directory, path, container);
        }
    }

    fn read(
        &mut self,
        hierarchy: &Hierarchy,
        directory: &Path,
        metadata: &Metadata,
        path: &[u8],
    ) -> io::Result<Found> {
        let cgroup = CgroupKey::new(hierarchy.id, metadata.ino());
        let age = metadata.modified()?.elapsed().unwrap_or_default();
        self.watch.track(cgroup, level_of(path));
        // Nothing will tell of its end, if that was before.
        let pids = pids(directory).inspect_err(|_| self.watch.forget(cgroup))?;
        let mut processes = Vec::with_capacity(pids.len());
        for pid in pids {
            match self.processes.process(pid) {
                Ok(process) => {
                    let landed = !process.is_waiting();
                    let entered = process.vpid == 1 || process.entered;
                    if entered {
                        self.watch.follow(pid, cgroup, landed);
                    }
                    processes.push(process.into());
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => self.failed(directory, &error),
            }
        }
        let (populated, frozen) = self.events(hierarchy, directory, path);
        Ok(Found {
            cgroup,
            path: path.into(),
            frozen,
            fresh: age < FRESH,
            populated: populated.unwrap_or(!processes.is_empty()),
            processes,
        })
    }

    /// `cgroup.events` on v2, the freezer on v1.
    fn events(&self, hierarchy: &Hierarchy, directory: &Path, path: &[u8]) -> (Option<bool>, bool) {
        let mut populated = None;
        let mut frozen = false;
        if hierarchy.id == 0 {
            let events = proc::read(&directory.join("cgroup.events")).unwrap_or_default();
            for line in events.split(|byte| *byte == b'\n') {
                match line {
                    b"populated 0" => populated = Some(false),
                    b"populated 1" => populated = Some(true),
                    b"frozen 1" => frozen = true,
                    _ => {}
                }
            }
        }
        if let Some(freezer) = self.hierarchies.freezer() {
            frozen |= read_freezer(freezer, path).unwrap_or(None).unwrap_or(false);
        }
        (populated, frozen)
    }

    fn failed(&mut self, directory: &Path, error: &io::Error) {
        if !is_gone(error) {
            tracing::warn!(directory = %directory.display(), %error, "cgroup cannot be read");
            self.snapshot.complete = false;
        }
    }
}

/// A cgroup whose path says nothing holds a container if the first process of a pid namespace is in
/// it and no process of the host's own: a shell's cgroup may hold such a namespace too, beside the
/// shell.
fn holds_bare(directory: &Path) -> bool {
    let mut found = false;
    let mut reader = proc::Reader::default();
    for pid in pids(directory).unwrap_or_default() {
        let Ok(process) = reader.process(pid) else {
            continue;
        };
        if process.pid_ns_level == 0 {
            return false;
        }
        found |= process.vpid == 1;
    }
    found
}

/// State of a container's v1 freezer: `None` while it is still freezing.
///
/// # Errors
///
/// Those of reading `freezer.state`.
pub fn read_freezer(freezer: &Hierarchy, path: &[u8]) -> io::Result<Option<bool>> {
    let state = proc::read(&freezer_file(freezer, path))?;
    Ok(match state.trim_ascii() {
        b"FROZEN" => Some(true),
        b"THAWED" => Some(false),
        _ => None,
    })
}

/// `freezer.state` of the cgroup with this path.
#[must_use]
pub fn freezer_file(freezer: &Hierarchy, path: &[u8]) -> PathBuf {
    let mut file = freezer.mount.as_os_str().as_bytes().to_vec();
    file.extend_from_slice(path);
    file.extend_from_slice(b"/freezer.state");
    PathBuf::from(std::ffi::OsStr::from_bytes(&file))
}

fn is_gone(error: &io::Error) -> bool {
    // A cgroup that is being removed answers ENODEV, a process that is gone ESRCH.
    matches!(error.kind(), ErrorKind::NotFound)
        || matches!(
            rustix::io::Errno::from_io_error(error),
            Some(rustix::io::Errno::NODEV | rustix::io::Errno::SRCH)
        )
}

fn subdirectories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.path());
        }
    }
    names.sort();
    Ok(names)
}

fn pids(directory: &Path) -> io::Result<Vec<u32>> {
    let text = match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => text,
        // A threaded cgroup has no processes of its own.
        Err(error)
            if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::OPNOTSUPP) =>
        {
            String::new()
        }
        Err(error) => return Err(error),
    };
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

impl From<proc::Seen> for FoundProcess {
    fn from(seen: proc::Seen) -> Self {
        Self {
            pid: seen.pid,
            vpid: seen.vpid,
            parent_pid: seen.parent_pid,
            pid_ns_level: seen.pid_ns_level,
            start_ns: seen.start_ns,
            comm: seen.comm,
        }
    }
}
