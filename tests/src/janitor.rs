//! A temporary directory, and where wanted a daemon in it, that are gone when the test process is.
//!
//! A shell holds the read end of a pipe whose write end only this process has. However this
//! process ends (return, panic, SIGKILL) the pipe closes; the shell then runs the cleanup commands,
//! stops the daemon by its process id, unmounts what is left below the directory and removes it.
//! A daemon that ends before is started again, as a host's supervisor does it.
//! `TRACER_KEEP=1` leaves the directory and its logs in place.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::command::Process;

/// Long enough for a daemon to stop its containers with grace.
const STOP_DEADLINE: Duration = Duration::from_secs(45);

/// `$1` directory, `$2` log, `$3` cleanup, then the daemon's command line.
const SCRIPT: &str = r#"
dir=$1 log=$2 cleanup=$3
shift 3
pid=
keep() {
    while [ ! -e "$dir/stop" ]; do
        "$@" </dev/null >>"$log" 2>&1 &
        echo $! >"$dir/daemon.pid.new" && mv "$dir/daemon.pid.new" "$dir/daemon.pid"
        wait $!
        sleep 0.1
        while [ -e "$dir/hold" ] && [ ! -e "$dir/stop" ]; do sleep 0.05; done
    done
}
if [ $# -gt 0 ]; then
    keep "$@" </dev/null &
    pid=$!
fi
read -r _ || :
rm -f "$dir/hold"
sh -c "$cleanup" </dev/null >>"$log" 2>&1
if [ -n "$pid" ]; then
    : >"$dir/stop"
    daemon=$(cat "$dir/daemon.pid" 2>/dev/null)
    [ -n "$daemon" ] && kill -TERM "$daemon" 2>/dev/null
    tries=0
    while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 300 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -KILL "$pid" 2>/dev/null
    [ -n "$daemon" ] && kill -KILL "$daemon" 2>/dev/null
fi
while read -r _ _ _ _ mount _; do
    case $mount in
        "$dir"/*) umount -l "$mount" 2>/dev/null ;;
    esac
done </proc/self/mountinfo
[ -n "$TRACER_KEEP" ] || rm -rf "$dir"
"#;

/// See the module's description.
#[derive(Debug)]
pub struct Janitor {
    dir: PathBuf,
    stdin: Option<ChildStdin>,
    shell: Process,
}

impl Janitor {
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Kills the daemon with SIGKILL; it is started again when the guard is dropped.
    pub fn kill_daemon(&self) -> Result<Down> {
        let hold = self.dir.join("hold");
        fs::write(&hold, "").with_context(|| format!("write {}", hold.display()))?;
        let file = self.dir.join("daemon.pid");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("no process id in {}", file.display()))?;
        kill_process(pid, Signal::KILL).context("kill the daemon")?;
        Ok(Down { hold })
    }

    /// What the daemon and the cleanup said last.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.dir.join("log"), 30)
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.stdin = None;
        drop(self.shell.wait(STOP_DEADLINE));
    }
}

/// A daemon that was killed; it comes back when this is dropped.
#[derive(Debug)]
pub struct Down {
    hold: PathBuf,
}

impl Drop for Down {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.hold));
    }
}

/// A directory that nobody looks after yet.
#[derive(Debug)]
pub struct Prepared {
    dir: TempDir,
    cleanup: String,
}

impl Prepared {
    /// A directory for one runtime; `name` becomes part of its name.
    pub fn new(name: &str) -> Result<Self> {
        // Short: a unix socket's path may have 107 bytes.
        let dir = tempfile::Builder::new()
            .prefix(&format!("tt-{name}-"))
            .tempdir()
            .context("create a temporary directory")?;
        Ok(Self {
            dir,
            cleanup: "true".to_owned(),
        })
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A shell command to run before the daemon is stopped.
    #[must_use]
    pub fn cleanup(mut self, command: impl Into<String>) -> Self {
        self.cleanup = command.into();
        self
    }

    /// Hands the directory to the janitor.
    pub fn start(self) -> Result<Janitor> {
        self.start_daemon(&[])
    }

    /// Hands the directory to the janitor and starts `daemon` below it.
    pub fn start_daemon(self, daemon: &[String]) -> Result<Janitor> {
        let dir = self.dir.keep();
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT, "janitor"])
            .arg(&dir)
            .arg(dir.join("log"))
            .arg(&self.cleanup)
            .args(daemon)
            // Its own group: an interrupt from the keyboard ends the tests, then the pipe closes.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the janitor shell")?;
        let stdin = child.stdin.take();
        Ok(Janitor {
            dir,
            stdin,
            shell: Process::new(child, "janitor")?,
        })
    }
}

/// The last lines of a text file; empty where it cannot be read.
#[must_use]
pub fn tail(file: &Path, lines: usize) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all.get(from..).unwrap_or_default().join("\n")
}

/// Runs a closure when it goes out of scope: cleanup of one container.
pub struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> OnDrop<F> {
    pub fn new(action: F) -> Self {
        Self(action)
    }
}

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl<F: FnMut()> std::fmt::Debug for OnDrop<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnDrop")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::{DEADLINE, wait_until};

    #[test]
    fn the_daemon_and_the_directory_go_with_the_janitor() {
        let janitor = Prepared::new("unit")
            .unwrap()
            .cleanup("echo cleaned")
            .start_daemon(&["sh".into(), "-c".into(), "echo $$; exec sleep 1000".into()])
            .unwrap();
        let log = janitor.dir().join("log");
        let pid = wait_until(DEADLINE, "the daemon's process id", || {
            Ok(Some(tail(&log, 1)).filter(|text| !text.is_empty()))
        })
        .unwrap();
        let dir = janitor.dir().to_owned();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        drop(janitor);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!dir.exists());
    }
}
