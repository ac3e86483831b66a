//! Containers without a runtime: fast, and in shapes that no runtime on this machine makes.
//!
//! The directories have Docker's names, so that their path tells what they are. A small C program
//! puts the processes in, because `CLONE_NEWPID` and `CLONE_INTO_CGROUP` need `unsafe` in Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use crate::cgroup::{self, Kind};
use crate::command::{self, Running};
use crate::janitor::{Janitor, Prepared};
use crate::wait::{DEADLINE, wait_until};

const RAW_INIT: &str = include_str!("raw_init.c");

/// How init gets into its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Like runc: a process joins all of them, its clone stays.
    Joined,
    /// Like crun on cgroup v2: cloned into the unified one, nothing moves.
    Into,
}

/// The cgroups of one container in every hierarchy; removed on drop.
#[derive(Debug)]
pub struct RawContainer {
    id: String,
    path: String,
    dirs: Vec<PathBuf>,
}

impl RawContainer {
    /// `/docker/<id>` in every hierarchy, in runc's order.
    pub fn docker() -> Result<Self> {
        Self::below("/docker", |_| true)
    }

    /// `/libpod_parent/libpod-<id>` in every hierarchy: its files are in a list of all containers.
    pub fn podman() -> Result<Self> {
        let id = random_id()?;
        Self::make(format!("/libpod_parent/libpod-{id}"), id, |_| true)
    }

    /// Where a user's Podman makes its containers, under systemd.
    pub fn rootless_podman(uid: u32) -> Result<Self> {
        let id = random_id()?;
        let slice = format!("/user.slice/user-{uid}.slice");
        let path = format!("{slice}/user@{uid}.service/user.slice/libpod-{id}.scope");
        Self::make(path, id, |_| true)
    }

    /// `/docker/<id>` in the hierarchies that `wanted` picks.
    pub fn docker_in(wanted: impl Fn(&Kind) -> bool) -> Result<Self> {
        Self::below("/docker", wanted)
    }

    /// `<outer>/docker/<id>`: what a Docker daemon inside `outer` would make.
    pub fn inside(outer: &Self) -> Result<Self> {
        Self::below(&format!("{}/docker", outer.path), |_| true)
    }

    fn below(parent: &str, wanted: impl Fn(&Kind) -> bool) -> Result<Self> {
        let id = random_id()?;
        Self::make(format!("{parent}/{id}"), id, wanted)
    }

    fn make(path: String, id: String, wanted: impl Fn(&Kind) -> bool) -> Result<Self> {
        let mut container = Self {
            id,
            path,
            dirs: Vec::new(),
        };
        for hierarchy in cgroup::hierarchies()? {
            if wanted(&hierarchy.kind) {
                container
                    .dirs
                    .push(cgroup::create(&hierarchy, &container.path)?);
            }
        }
        Ok(container)
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Starts init; `action` is a command line with an absolute program, or `stay CODE`. Standard
    /// input is a pipe: init that stays does so until [`Running::close_stdin`].
    pub fn spawn(&self, shape: Shape, action: &[&str]) -> Result<Running> {
        let mode = match shape {
            Shape::Joined => "joined",
            Shape::Into => "into",
        };
        command::spawn(
            Command::new(raw_init()?)
                .arg(mode)
                .args(&self.dirs)
                .arg("--")
                .args(action)
                .stdin(Stdio::piped()),
        )
    }

    /// Waits until init is in, and whoever brought it in has left.
    pub fn wait_for_init(&self) -> Result<()> {
        let last = self.dirs.last().context("a container without a cgroup")?;
        let procs = last.join("cgroup.procs");
        wait_until(DEADLINE, "init in its cgroup", || {
            let pids = fs::read_to_string(&procs).context("read cgroup.procs")?;
            let firsts = pids.lines().map(|pid| {
                // Gone by now: the one that brought init in.
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let mut lines = status.lines();
                lines.any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
            });
            let firsts: Vec<bool> = firsts.collect();
            Ok((firsts == [true]).then_some(()))
        })
    }

    /// Removes the cgroups; they must be empty or about to be.
    pub fn remove(mut self) -> Result<()> {
        self.clear()
    }

    fn clear(&mut self) -> Result<()> {
        let inner = format!("{}/docker", self.path);
        for dir in std::mem::take(&mut self.dirs) {
            // Left by a container inside this one.
            if dir.join("docker").is_dir() {
                cgroup::remove(&dir.join("docker")).with_context(|| format!("remove {inner}"))?;
            }
            cgroup::remove(&dir)?;
            // What was made for a user who is nobody; a directory that others use stays.
            let above = dir.ancestors().skip(1);
            for parent in above.take_while(|dir| dir.to_string_lossy().contains("/user-")) {
                drop(fs::remove_dir(parent));
            }
        }
        Ok(())
    }
}

impl Drop for RawContainer {
    fn drop(&mut self) {
        drop(self.clear());
    }
}

/// 64 hexadecimal digits, as runtimes choose their ids.
pub fn random_id() -> Result<String> {
    let mut id = String::new();
    while id.len() < 64 {
        id += &random_uuid()?.replace('-', "");
    }
    Ok(id)
}

/// A UUID from the kernel.
pub fn random_uuid() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").context("read a random UUID")?;
    Ok(text.trim().to_owned())
}

/// The C program, compiled once per test process.
fn raw_init() -> Result<&'static Path> {
    static PROGRAM: OnceLock<Result<(Janitor, PathBuf), String>> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let janitor = Prepared::new("raw")
                .and_then(Prepared::start)
                .map_err(|error| format!("{error:#}"))?;
            let program = compile(RAW_INIT, janitor.dir(), "raw_init")
                .map_err(|error| format!("{error:#}"))?;
            Ok((janitor, program))
        })
        .as_ref()
        .map(|(_, program)| program.as_path())
        .map_err(|error| anyhow::Error::msg(error.clone()))
}

/// Compiles a C program, linked statically so that it runs in a container as well.
pub fn compile(source: &str, dir: &Path, name: &str) -> Result<PathBuf> {
    let file = dir.join(name).with_extension("c");
    fs::write(&file, source).with_context(|| format!("write {}", file.display()))?;
    let program = dir.join(name);
    command::run_ok(
        Command::new("cc")
            .args(["-std=gnu11", "-O1", "-Wall", "-Werror", "-static", "-o"])
            .arg(&program)
            .arg(&file)
            .stdin(Stdio::null()),
    )
    .context("compile a C program (Debian: gcc and libc6-dev)")?;
    ensure!(program.is_file(), "the compiler left no {name}");
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_look_like_a_runtimes() {
        let (one, two) = (random_id().unwrap(), random_id().unwrap());
        assert_eq!(one.len(), 64);
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(one, two);
    }
}
