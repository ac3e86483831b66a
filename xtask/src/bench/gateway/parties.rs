//! The processes: a gateway with its store, and the simulated nodes.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::ClockId,
};
use serde::Deserialize;

use super::http::Client;
use crate::{
    bench::{Bench, load::wait_until, subject::now},
    command,
};

/// Where a process may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    All,
    /// The first that this process may use.
    First,
    /// The others; all of a machine that has one.
    Others,
}

impl Cores {
    fn set(self, all: CpuSet) -> CpuSet {
        let usable: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|cpu| all.is_set(*cpu))
            .collect();
        let chosen = match self {
            Self::First => usable.get(..1).unwrap_or_default(),
            Self::Others if usable.len() > 1 => usable.get(1..).unwrap_or_default(),
            Self::All | Self::Others => &usable[..],
        };
        let mut set = CpuSet::new();
        for cpu in chosen {
            set.set(*cpu);
        }
        set
    }

    /// A child inherits its parent's cores at the moment of its birth.
    fn spawn(self, command: &mut Command) -> Result<Child> {
        let all = sched_getaffinity(None)?;
        sched_setaffinity(None, &self.set(all))?;
        let child = command.spawn();
        sched_setaffinity(None, &all)?;
        child.with_context(|| format!("cannot start {}", command::describe(command)))
    }
}

fn end(child: &mut Child, signal: Signal) -> Result<()> {
    if child.try_wait()?.is_none()
        && let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
    {
        kill_process(pid, signal)?;
        child.wait()?;
    }
    Ok(())
}

/// Waits until something is so, looking every 2 ms.
pub fn until(what: &str, patience: Duration, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + patience;
    while !is()? {
        ensure!(Instant::now() < end, "{what}: not in {patience:?}");
        wait_until(now(ClockId::Boottime) + 2_000_000)?;
    }
    Ok(())
}

/// A gateway; killed when dropped.
pub struct Served {
    child: Child,
    pub address: SocketAddr,
    /// From the start of the process to its readiness.
    pub ready_after: Duration,
}

impl Served {
    /// Starts it over a store, and waits until it is ready.
    pub fn start(bench: &Bench, store: &Path, cores: Cores) -> Result<Self> {
        fs::create_dir_all(store)?;
        let log = File::create(store.with_extension("log"))?;
        // Free again at once, and nobody else is given it that soon.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(&bench.tracer);
        command
            .args(["gateway", "--listen", &address.to_string(), "--store"])
            .arg(store)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let begin = Instant::now();
        let mut child = cores.spawn(&mut command)?;
        let ready = until("the gateway is ready", Duration::from_mins(2), || {
            if let Some(status) = child.try_wait()? {
                bail!("the gateway ended with {status}");
            }
            let answer = Client::connect(address).and_then(|mut client| client.get("/readyz"));
            Ok(matches!(answer, Ok((200, _))))
        });
        let served = Self {
            child,
            address,
            ready_after: begin.elapsed(),
        };
        ready.map(|()| served)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn client(&self) -> Result<Client> {
        Client::connect(self.address)
    }

    pub fn kill(mut self) -> Result<()> {
        end(&mut self.child, Signal::KILL)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Nothing is left to tell: an error came first.
        drop(end(&mut self.child, Signal::KILL));
    }
}

/// Simulated nodes; killed when dropped.
pub struct Fleet {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What happened to all of them so far.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Counts {
    pub connected: u64,
    pub sent: u64,
    pub bytes: u64,
    pub acked: u64,
    pub heartbeats: u64,
    pub snapshots_wanted: u64,
    pub lost: u64,
}

impl Fleet {
    pub fn start(bench: &Bench, gateway: &Served, cores: Cores, flags: &[&str]) -> Result<Self> {
        let mut command = Command::new(&bench.parts);
        command
            .args(["fleet", &format!("http://{}", gateway.address)])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = cores.spawn(&mut command)?;
        let (ask, answers) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            child,
            ask: ask.context("no pipe")?,
            answers: BufReader::new(answers.context("no pipe")?),
        })
    }

    pub fn counts(&mut self) -> Result<Counts> {
        self.ask.write_all(b"\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).context("the simulated nodes say nothing")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        drop(end(&mut self.child, Signal::KILL));
    }
}

/// A directory of the bench's for a store.
pub fn store(bench: &Bench, name: &str) -> PathBuf {
    bench.dir.join(name)
}
