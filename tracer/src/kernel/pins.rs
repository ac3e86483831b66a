//! What is pinned in bpffs: programs and maps that outlive a process.
//!
//! ```text
//! /sys/fs/bpf/tracer-load-<pid>/   between a loading process and its daemon
//! /sys/fs/bpf/tracer/              with `--pin`: for the next daemon
//!   EVENTS TRACKED …                 the maps
//!   link_cgroup_mkdir …              what keeps the programs attached
//!   owner -> <state directory>       whose they are
//! ```
//!
//! A pinned link keeps its program attached when no process is left: the ring goes on collecting.
//! A daemon takes over only what its own state directory knows of, so that two daemons never read
//! one ring.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::statfs;

use super::load::LoadError;

/// Where bpffs is mounted by convention.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Where pins are kept if nothing else is said.
pub const DEFAULT: &str = "/sys/fs/bpf/tracer";

/// `BPF_FS_MAGIC` of `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

const OWNER: &str = "owner";
const LOADING: &str = "tracer-load-";

/// Whether this directory is in a bpffs.
#[must_use]
pub fn is_bpffs(directory: &Path) -> bool {
    statfs(directory).is_ok_and(|found| {
        u64::try_from(found.f_type).is_ok_and(|kind| kind == u64::from(BPF_FS_MAGIC))
    })
}

/// A directory of pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    path: PathBuf,
}

impl Pins {
    /// A fresh directory for what this process is about to have loaded. Those of processes that
    /// were killed over it are removed.
    ///
    /// # Errors
    ///
    /// [`LoadError::Pins`] where there is no bpffs, or none that may be written.
    pub fn for_loading() -> Result<Self, LoadError> {
        sweep(Path::new(BPFFS));
        let own = format!("{LOADING}{}", std::process::id());
        let path = Path::new(BPFFS).join(own);
        let pins = Self { path };
        pins.remove()
            .map_err(|error| pins.failed("removing the old", &error))?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&pins.path)
            .map_err(|error| pins.failed("making the directory", &error))?;
        Ok(pins)
    }

    /// A directory that may or may not be there.
    #[must_use]
    pub const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.path.is_dir()
    }

    /// The state directory whose daemon pinned them.
    #[must_use]
    pub fn owner(&self) -> Option<PathBuf> {
        fs::read_link(self.path.join(OWNER)).ok()
    }

    /// Gives them their lasting place and owner.
    ///
    /// # Errors
    ///
    /// [`LoadError::Pins`].
    pub fn settle(self, path: &Path, owner: &Path) -> Result<Self, LoadError> {
        symlink(owner, self.path.join(OWNER))
            .map_err(|error| self.failed("naming the owner of", &error))?;
        fs::rename(&self.path, path).map_err(|error| self.failed("moving", &error))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Removes them; what no process holds is detached by that. Says how many there were.
    ///
    /// # Errors
    ///
    /// Those of removing; none where there is nothing.
    pub fn remove(&self) -> io::Result<usize> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?,
        };
        let mut removed = 0;
        for entry in entries {
            let entry = entry?;
            fs::remove_file(entry.path())?;
            removed += usize::from(entry.file_name() != OWNER);
        }
        fs::remove_dir(&self.path)?;
        Ok(removed)
    }

    fn failed(&self, operation: &'static str, why: &io::Error) -> LoadError {
        LoadError::Pins {
            operation,
            path: self.path.display().to_string(),
            why: why.to_string(),
        }
    }
}

/// Removes what killed processes left between loading and taking over.
fn sweep(bpffs: &Path) {
    let Ok(entries) = fs::read_dir(bpffs) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(LOADING));
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if Path::new(&format!("/proc/{pid}")).exists() {
            continue;
        }
        match Pins::at(entry.path()).remove() {
            Ok(pins) => tracing::info!(pid, pins, "removed what a killed process had left loaded"),
            Err(error) => tracing::warn!(pid, %error, "a killed process left programs loaded"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_have_an_owner_and_go_as_a_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().join("load");
        fs::create_dir(&at).expect("a directory");
        fs::write(at.join("EVENTS"), "").expect("a file");
        let lasting = dir.path().join("lasting");
        let pins = Pins::at(at)
            .settle(&lasting, Path::new("/state"))
            .expect("settled");
        assert_eq!(pins.path(), lasting);
        assert_eq!(pins.owner().as_deref(), Some(Path::new("/state")));
        assert!(pins.exist() && !is_bpffs(pins.path()));
        assert_eq!(pins.remove().expect("removed"), 1);
        assert_eq!(pins.remove().expect("nothing there"), 0);
    }

    #[test]
    fn only_what_the_dead_left_is_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = dir.path().join(format!("{LOADING}{}", std::process::id()));
        // Above any pid that the kernel gives.
        let dead = dir.path().join(format!("{LOADING}{}", u32::MAX));
        let other = dir.path().join("cilium");
        for path in [&own, &dead, &other] {
            fs::create_dir(path).expect("a directory");
        }
        sweep(dir.path());
        assert!(own.exists() && other.exists() && !dead.exists());
    }
}
