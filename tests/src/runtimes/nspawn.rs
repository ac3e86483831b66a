//! systemd-nspawn as its own unit starts it (`systemd-nspawn@NAME.service`): in the cgroup of that
//! unit, which systemd makes and removes, and these tests where systemd is not process 1.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::cgroup::{self, Kind};
use crate::command::{self, Running};
use crate::image;
use crate::janitor::{Janitor, Prepared};
use crate::raw::random_id;

/// Joins cgroups, the arguments before `--`, then becomes what follows.
const JOIN: &str = "\
while [ \"$1\" != -- ]; do echo $$ >\"$1/cgroup.procs\" || exit 125; shift; done
shift
exec \"$@\"";

/// One machine that is not started.
#[derive(Debug)]
pub struct Machine {
    janitor: Janitor,
    name: String,
    dirs: Vec<PathBuf>,
}

impl Machine {
    pub fn new() -> Result<Self> {
        let prepared = Prepared::new("nspawn")?;
        let rootfs = prepared.dir().join("rootfs");
        image::rootfs(&rootfs)?;
        // Without it nspawn takes the directory for no system.
        fs::create_dir(rootfs.join("usr")).context("create usr")?;
        let name: String = random_id()?.chars().take(8).collect();
        Ok(Self {
            janitor: prepared.start()?,
            name: format!("live-{name}"),
            dirs: Vec::new(),
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the unit's cgroup, where systemd would, and starts nspawn in it; the arguments are
    /// process 1 of the machine.
    pub fn start(&mut self, arguments: &[&str]) -> Result<Running> {
        let path = format!("/machine.slice/systemd-nspawn@{}.service", self.name);
        for hierarchy in cgroup::hierarchies()? {
            let systemds = hierarchy.kind == Kind::Unified || hierarchy.has("name=systemd");
            if systemds {
                self.dirs.push(cgroup::create(&hierarchy, &path)?);
            }
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", JOIN, "join"])
            .args(&self.dirs)
            .args(["--", "systemd-nspawn", "--quiet", "--keep-unit"])
            .args(["--register=no", "--private-network", "--link-journal=no"])
            .arg(format!("--machine={}", self.name))
            .arg("--directory")
            .arg(self.janitor.dir().join("rootfs"))
            .arg("--")
            .args(arguments)
            .stdin(Stdio::null());
        command::spawn(&mut command)
    }

    /// Removes the unit's cgroup, as systemd does when the unit ends.
    pub fn remove(&mut self) -> Result<()> {
        for dir in std::mem::take(&mut self.dirs) {
            for child in ["payload", "supervisor"] {
                cgroup::remove(&dir.join(child))?;
            }
            cgroup::remove(&dir)?;
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.remove());
    }
}
