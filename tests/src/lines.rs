//! A running `tracer run` in a format that is not the record's own: plain lines.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use rustix::process::Signal;

use crate::command::{Leash, Process, shell_code};
use crate::janitor::tail;
use crate::raw::RawContainer;
use crate::tracer::binary;
use crate::wait::{DEADLINE, wait_until};

/// Lines that wait for the test at most.
const LINES_HELD: usize = 65_536;

/// See the module's description.
#[derive(Debug)]
pub struct Lines {
    // Dropped in this order: killed and waited for, then let go.
    process: Process,
    _leash: Leash,
    told: Receiver<String>,
    all: Vec<String>,
    dir: tempfile::TempDir,
}

impl Lines {
    /// Starts `tracer run ARGUMENTS` and waits until it tells what happens now.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir().context("create a directory for tracer's log")?;
        let stderr = File::create(dir.path().join("stderr")).context("create tracer's log")?;
        let mut child = Command::new(binary())
            .arg("run")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .context("start tracer")?;
        let stdout = child.stdout.take().context("tracer's standard output")?;
        let process = Process::new(child, "tracer")?;
        let leash = Leash::new(&process)?;
        let (sender, told) = sync_channel(LINES_HELD);
        thread::Builder::new()
            .name("tracer-lines".to_owned())
            .spawn(move || {
                let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
                lines.try_for_each(|line| sender.send(line))
            })
            .context("start a reading thread")?;
        let mut started = Self {
            process,
            _leash: leash,
            told,
            all: Vec::new(),
            dir,
        };
        // Some formats are silent about tracer itself: it is asked by containers that come and go.
        let told = wait_until(DEADLINE, "tracer to tell of a container", || {
            let marker = RawContainer::docker()?;
            marker.remove()?;
            started.all.extend(started.told.try_iter());
            Ok(started
                .all
                .iter()
                .any(|line| line.contains("\"destroy\"") || line.contains("container.removed"))
                .then_some(()))
        });
        match told {
            Ok(()) => Ok(started),
            Err(error) => Err(started.failure(&format!("{error:#}"))),
        }
    }

    /// Reads on until `done`; all lines so far.
    pub fn wait_for(&mut self, what: &str, done: impl Fn(&[String]) -> bool) -> Result<&[String]> {
        let end = Instant::now() + DEADLINE;
        while !done(&self.all) {
            let left = end.saturating_duration_since(Instant::now());
            match self.told.recv_timeout(left) {
                Ok(line) => self.all.push(line),
                Err(_) => return Err(self.failure(&format!("{what} did not come"))),
            }
        }
        Ok(&self.all)
    }

    /// SIGTERM, which must end it well; all lines.
    pub fn stop(mut self) -> Result<Vec<String>> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(DEADLINE)?;
        if shell_code(status) != 0 {
            return Err(self.failure(&format!("tracer ended with {status}")));
        }
        self.all.extend(self.told.iter());
        Ok(std::mem::take(&mut self.all))
    }

    fn failure(&self, what: &str) -> anyhow::Error {
        const SHOWN: usize = 40;
        let from = self.all.len().saturating_sub(SHOWN);
        let last: Vec<&str> = self.all.iter().skip(from).map(String::as_str).collect();
        anyhow!(
            "{what}\nlast of {} lines:\n{}\ntracer's standard error:\n{}",
            self.all.len(),
            last.join("\n"),
            tail(&self.dir.path().join("stderr"), 20)
        )
    }
}
