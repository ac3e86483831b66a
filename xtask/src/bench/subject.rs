//! The programs under test: a tracer, or the floor, with a pipe that this process reads.

use std::{
    fs,
    io::Read as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};

use super::Bench;
use crate::command;

/// What came out of the pipe in one `read(2)`, and when.
pub struct Chunk {
    /// `CLOCK_BOOTTIME` after the read, nanoseconds.
    pub boot_ns: u64,
    /// `CLOCK_REALTIME`, likewise.
    pub wall_ns: u64,
    pub bytes: Vec<u8>,
}

/// A running program, read by a thread of this process. Stopped when dropped.
pub struct Subject {
    child: Child,
    reader: Option<JoinHandle<Vec<Chunk>>>,
    /// From the start of the process to its readiness.
    pub ready_after: Duration,
}

pub fn now(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

impl Subject {
    /// `tracer run` without a socket, after `node.synced`; what it says from then on is kept.
    pub fn tracer(bench: &Bench, flags: &[&str]) -> Result<Self> {
        Self::run(bench, &[&["--socket=none"], flags].concat())
    }

    /// `tracer run`, likewise.
    pub fn run(bench: &Bench, flags: &[&str]) -> Result<Self> {
        let mut command = Command::new(&bench.tracer);
        command.args(["run", "--format", "json"]).args(flags);
        Self::start(command, "\"type\":\"node.synced\"")
    }

    pub fn floor(bench: &Bench) -> Result<Self> {
        let mut command = Command::new(&bench.parts);
        command.arg("floor");
        Self::start(command, "\n")
    }

    /// Waits until the command has written `ready`.
    pub fn start(mut command: Command, ready: &str) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let begin = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command::describe(&command)))?;
        let mut stdout = child.stdout.take().context("no pipe")?;
        let mut seen = Vec::new();
        let mut buffer = vec![0; 256 << 10];
        // What was searched is not searched again: it would count for the one that is measured.
        let mut searched = 0_usize;
        loop {
            let rest = seen.get(searched..).unwrap_or_default();
            if String::from_utf8_lossy(rest).contains(ready) {
                break;
            }
            searched = seen.len().saturating_sub(ready.len());
            let len = stdout.read(&mut buffer)?;
            if len == 0 {
                bail!(
                    "{} ended with {}",
                    command::describe(&command),
                    child.wait()?
                );
            }
            seen.extend_from_slice(buffer.get(..len).unwrap_or_default());
        }
        let ready_after = begin.elapsed();
        let reader = std::thread::spawn(move || {
            let mut chunks = Vec::new();
            while let Ok(len @ 1..) = stdout.read(&mut buffer) {
                chunks.push(Chunk {
                    boot_ns: now(ClockId::Boottime),
                    wall_ns: now(ClockId::Realtime),
                    bytes: buffer.get(..len).unwrap_or_default().to_vec(),
                });
            }
            chunks
        });
        Ok(Self {
            child,
            reader: Some(reader),
            ready_after,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it in order and gives what it said.
    pub fn stop(mut self) -> Result<Vec<Chunk>> {
        self.end(Signal::TERM)?;
        let reader = self.reader.take().context("stopped before")?;
        reader
            .join()
            .map_err(|_panic| anyhow::anyhow!("the reading thread died"))
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
            && self.child.try_wait()?.is_none()
        {
            kill_process(pid, signal)?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Nothing is left to tell: an error came first.
        drop(self.end(Signal::KILL));
    }
}

/// A value of `/proc/PID/status`, KiB or a count.
pub fn status(pid: u32, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let value = text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?.strip_prefix(':')?;
        rest.split_whitespace().next()?.parse().ok()
    });
    value.with_context(|| format!("{path} has no {name}"))
}

/// KiB that smaps calls so, of the mappings whose name contains `name`: `Rss` is in memory,
/// `Referenced` was touched.
pub fn mapped(pid: u32, name: &str, field: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(sum(&text, name, field))
}

/// Sums a field over the mappings of an smaps file, whose heads are `from-to perms …`.
fn sum(smaps: &str, name: &str, field: &str) -> u64 {
    let mut inside = false;
    let mut sum = 0;
    for line in smaps.lines() {
        match line.split_once(' ') {
            Some((range, _)) if range.contains('-') => inside = line.contains(name),
            Some((what, rest)) if inside && what.strip_suffix(':') == Some(field) => {
                let kib = rest.split_whitespace().next();
                sum += kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
            }
            _ => {}
        }
    }
    sum
}

/// Nanoseconds on a CPU, all threads that still live.
pub fn cpu_ns(pid: u32) -> Result<u64> {
    sum_of_threads(pid, |task| {
        let text = fs::read_to_string(task.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    })
}

/// How often its threads were taken up after they had waited.
pub fn wake_ups(pid: u32) -> Result<u64> {
    sum_of_threads(pid, |task| {
        let text = fs::read_to_string(task.join("status")).ok()?;
        text.lines().find_map(|line| {
            let rest = line.strip_prefix("voluntary_ctxt_switches:")?;
            rest.trim().parse().ok()
        })
    })
}

fn sum_of_threads(pid: u32, value: impl Fn(&Path) -> Option<u64>) -> Result<u64> {
    let dir = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&dir).with_context(|| format!("cannot read {dir}"))?;
    let tasks = tasks.filter_map(|task| Some(task.ok()?.path()));
    Ok(tasks.filter_map(|task| value(&task)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_some_mappings() {
        let smaps = "7f00-7f10 rw-s 00000000 00:0e 5 anon_inode:bpf-map\nSize: 8 kB\nRss:   4 kB\n\
            7f10-7f20 r--s 00001000 00:0e 5 anon_inode:bpf-map\nRss:  2052 kB\n\
            7f20-7f30 r-xp 00000000 08:01 7 /usr/bin/tracer\nRss:  100 kB\n";
        assert_eq!(sum(smaps, "bpf-map", "Rss"), 2056);
        assert_eq!(sum(smaps, "/", "Rss"), 100);
        assert_eq!(sum(smaps, "bpf-map", "Size"), 8);
    }
}
