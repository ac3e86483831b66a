//! The mounted cgroup hierarchies.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::wait::{DEADLINE, wait_until};

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount: PathBuf,
    pub kind: Kind,
}

/// What a hierarchy is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// v1, with the controllers or the name of its mount options.
    V1(Vec<String>),
    Unified,
}

impl Hierarchy {
    /// Whether it is the v1 hierarchy of a controller.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        match &self.kind {
            Kind::V1(names) => names.iter().any(|name| name == controller),
            Kind::Unified => false,
        }
    }

    /// Directory of a cgroup, `path` as the kernel names it.
    #[must_use]
    pub fn dir(&self, path: &str) -> PathBuf {
        self.mount.join(path.trim_start_matches('/'))
    }
}

/// Whether cgroup v2 is all there is.
pub fn is_unified() -> Result<bool> {
    let found = hierarchies()?;
    Ok(found.iter().all(|one| one.kind == Kind::Unified))
}

/// Whether runtimes are to let systemd make the cgroups: `TRACER_CGROUP_DRIVER=systemd`.
#[must_use]
pub fn is_systemds() -> bool {
    env::var_os("TRACER_CGROUP_DRIVER").is_some_and(|driver| driver == "systemd")
}

/// All hierarchies in the order in which runc fills them: cpuset first, the unified one last.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    Ok(parse(&mounts))
}

fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut left = left.split(' ');
        // Only whole hierarchies: root field "/".
        if left.nth(3) != Some("/") {
            continue;
        }
        let Some(mount) = left.next().map(PathBuf::from) else {
            continue;
        };
        let mut right = right.split(' ');
        let kind = match right.next() {
            Some("cgroup2") => Kind::Unified,
            Some("cgroup") => Kind::V1(
                right
                    .nth(1)
                    .unwrap_or_default()
                    .split(',')
                    .filter(|option| !matches!(*option, "rw" | "ro" | "xattr"))
                    .map(str::to_owned)
                    .collect(),
            ),
            _ => continue,
        };
        if !found.iter().any(|known| known.kind == kind) {
            found.push(Hierarchy { mount, kind });
        }
    }
    found.sort_by_key(|hierarchy| (hierarchy.kind == Kind::Unified, !hierarchy.has("cpuset")));
    found
}

/// Creates `path` and its missing parents, ready to take processes.
pub fn create(hierarchy: &Hierarchy, path: &str) -> Result<PathBuf> {
    let mut dir = hierarchy.mount.clone();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        dir.push(segment);
        match fs::create_dir(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("create cgroup {}", dir.display()));
            }
        }
        if hierarchy.has("cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                inherit(&dir, file)?;
            }
        }
    }
    Ok(dir)
}

/// A v1 cpuset takes no process before it has processors and memory nodes.
fn inherit(dir: &Path, file: &str) -> Result<()> {
    let own = dir.join(file);
    let set = fs::read_to_string(&own).with_context(|| format!("read {}", own.display()))?;
    if !set.trim().is_empty() {
        return Ok(());
    }
    let parent = dir
        .parent()
        .map(|parent| parent.join(file))
        .context("parent of a cgroup")?;
    let value =
        fs::read_to_string(&parent).with_context(|| format!("read {}", parent.display()))?;
    fs::write(&own, value.trim()).with_context(|| format!("write {}", own.display()))
}

/// Removes an empty cgroup; waits while the kernel still holds the last process's remains.
pub fn remove(dir: &Path) -> Result<()> {
    wait_until(
        DEADLINE,
        &format!("{} to be empty", dir.display()),
        || match fs::remove_dir(dir) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(())),
            Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(None),
            Err(error) => Err(error).with_context(|| format!("remove cgroup {}", dir.display())),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_come_in_the_order_of_runc() {
        let mountinfo = "\
30 24 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/cpuset rw shared:9 - cgroup cgroup rw,cpuset
35 30 0:30 / /mnt/again rw - cgroup cgroup rw,cpuset
36 30 0:31 /inner /mnt/part rw - cgroup cgroup rw,memory
";
        let mounts: Vec<String> = parse(mountinfo)
            .iter()
            .map(|hierarchy| hierarchy.mount.display().to_string())
            .collect();
        assert_eq!(
            mounts,
            [
                "/sys/fs/cgroup/cpuset",
                "/sys/fs/cgroup/systemd",
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/unified"
            ]
        );
    }
}
