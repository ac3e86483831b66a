//! Containers made directly: cgroups with Docker's names, and processes in them (`unshare` of
//! util-linux gives an init its mount namespace).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    thread::{Timespec, clock_nanosleep_absolute},
    time::ClockId,
};

use super::subject::now;

/// Where containers of this run are made: `docker` in the hierarchy that they are told by.
pub struct Containers {
    parent: PathBuf,
    next: u64,
}

/// A shell moves into the cgroup `$0`.
const JOIN: &str = "echo $$ > \"$0/cgroup.procs\"";

/// One container's cgroup, removed on drop.
pub struct Container {
    pub dir: PathBuf,
}

impl Containers {
    pub fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("is /proc mounted?")?;
        let parent = hierarchy(&mounts)
            .context("no cgroup hierarchy is mounted with its root")?
            .join("docker");
        match fs::create_dir(&parent) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error)
                    .with_context(|| format!("cannot create the cgroup {}", parent.display()));
            }
            Ok(()) | Err(_) => {}
        }
        Ok(Self { parent, next: 0 })
    }

    /// What the ids of this run begin with.
    pub fn prefix() -> String {
        format!("bec4{:08x}", std::process::id())
    }

    pub fn make(&mut self) -> Result<Container> {
        self.cgroup("")
    }

    /// The same, but by its name it is a unit of systemd and no container.
    pub fn make_other(&mut self) -> Result<Container> {
        self.cgroup(".mount")
    }

    fn cgroup(&mut self, suffix: &str) -> Result<Container> {
        self.next += 1;
        let id = format!("{}{:052x}{suffix}", Self::prefix(), self.next);
        let dir = self.parent.join(&id);
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Container { dir })
    }

    pub fn many(&mut self, count: usize) -> Result<Vec<Container>> {
        (0..count).map(|_| self.make()).collect()
    }
}

impl Container {
    /// A shell that waits for standard input to end, then becomes this container's init and runs
    /// `script` (without single quotes).
    pub fn shell(&self, script: &str) -> Result<Child> {
        // A mount namespace of its own is what makes it the container's init.
        let script = format!("{JOIN}; read -r go; exec unshare -m /bin/sh -c '{script}'");
        shell(&script, Some(&self.dir))
    }

    /// A process in this container that does nothing for as long as it is let.
    pub fn sleeper(&self) -> Result<Sleeper> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &format!("{JOIN} && exec unshare -m sleep 3600")])
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Ok(Sleeper(command.spawn().context("cannot start a shell")?))
    }

    /// Freezes it and lets it go on, where its hierarchy can (v2).
    pub fn pause(&self) -> Result<()> {
        let file = self.dir.join("cgroup.freeze");
        if file.exists() {
            fs::write(&file, "1").context("cannot freeze")?;
            fs::write(&file, "0").context("cannot thaw")?;
        }
        Ok(())
    }

    /// It is paused, filled, emptied and removed.
    pub fn live(&self) -> Result<()> {
        self.pause()?;
        finish(self.shell("true")?)?;
        self.remove()
    }

    pub fn remove(&self) -> Result<()> {
        let end = now(ClockId::Boottime) + 5_000_000_000;
        loop {
            match fs::remove_dir(&self.dir) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                // What is left of its last process goes on its own.
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    if now(ClockId::Boottime) > end {
                        bail!("{} does not become empty", self.dir.display());
                    }
                    wait_until(now(ClockId::Boottime) + 1_000_000)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Killed when dropped.
pub struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.remove());
    }
}

/// A shell; `$0` is `dir`.
pub fn shell(script: &str, dir: Option<&Path>) -> Result<Child> {
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if let Some(dir) = dir {
        command.arg(dir);
    }
    command.spawn().context("cannot start a shell")
}

/// Lets a shell go on, and waits for its end.
pub fn finish(mut shell: Child) -> Result<()> {
    drop(shell.stdin.take());
    let status = shell.wait()?;
    if !status.success() {
        bail!("a shell of the load ended with {status}");
    }
    Ok(())
}

/// Sleeps until a moment of `CLOCK_BOOTTIME`, nanoseconds.
pub fn wait_until(boot_ns: u64) -> Result<()> {
    let then = Timespec {
        tv_sec: i64::try_from(boot_ns / 1_000_000_000)?,
        tv_nsec: i64::try_from(boot_ns % 1_000_000_000)?,
    };
    loop {
        match clock_nanosleep_absolute(ClockId::Boottime, &then) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The unified hierarchy, or the v1 hierarchy that tracer prefers.
fn hierarchy(mountinfo: &str) -> Option<PathBuf> {
    let find = |kind: &str, option: &str| {
        mountinfo.lines().find_map(|line| {
            let (mount, source) = line.split_once(" - ")?;
            let mut mount = mount.split(' ').skip(3);
            let whole = mount.next()? == "/";
            let point = mount.next()?;
            let mut source = source.split(' ');
            let fits = source.next()? == kind
                && source
                    .nth(1)?
                    .split(',')
                    .any(|o| option.is_empty() || o == option);
            (whole && fits).then(|| PathBuf::from(point))
        })
    };
    find("cgroup2", "").or_else(|| find("cgroup", "pids"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_preferred() {
        let v1 = "32 31 0:29 / /cg/pids rw - cgroup cgroup rw,pids\n";
        let v2 = "41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(hierarchy(v1), Some(PathBuf::from("/cg/pids")));
        assert_eq!(
            hierarchy(&format!("{v1}{v2}")),
            Some(PathBuf::from("/cg/unified"))
        );
        assert_eq!(hierarchy(""), None);
    }
}
