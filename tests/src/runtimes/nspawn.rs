//! systemd-nspawn in the cgroup of a unit: of the scope that machined makes for it, which also
//! registers it (`TRACER_CGROUP_DRIVER=systemd`), or as its own service starts it
//! (`systemd-nspawn@NAME.service`), where systemd is not process 1 and these tests make the cgroup in
//! its place.

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

    /// Path of the unit's cgroup below the root of each hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> String {
        if cgroup::is_systemds() {
            let escaped = self.name.replace('-', r"\x2d");
            format!("/machine.slice/machine-{escaped}.scope")
        } else {
            format!("/machine.slice/systemd-nspawn@{}.service", self.name)
        }
    }

    /// Starts nspawn; the arguments are process 1 of the machine.
    pub fn start(&mut self, arguments: &[&str]) -> Result<Running> {
        let mut command = if cgroup::is_systemds() {
            let mut command = Command::new("systemd-nspawn");
            // It finds no systemd in the machine, and would make a v1 hierarchy for an old one.
            command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
            command
        } else {
            let mut command = self.join()?;
            command.args(["systemd-nspawn", "--keep-unit", "--register=no"]);
            command
        };
        command
            .args(["--quiet", "--private-network", "--link-journal=no"])
            .arg(format!("--machine={}", self.name))
            .arg("--directory")
            .arg(self.janitor.dir().join("rootfs"))
            .arg("--")
            .args(arguments)
            .stdin(Stdio::null());
        command::spawn(&mut command)
    }

    /// Makes the unit's cgroup where systemd would, and runs what follows in it.
    fn join(&mut self) -> Result<Command> {
        let path = self.cgroup();
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
            .arg("--");
        Ok(command)
    }

    /// Removes the unit's cgroup, as systemd does when the unit ends, if that was not systemd's.
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
