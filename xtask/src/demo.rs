//! `cargo xtask demo`: a gateway, an agent, and containers that live and die, until Ctrl-C.
//!
//! ```text
//!  containers (docker, else podman, else runc) ─▶ kernel ─▶ tracer run ─▶ tracer gateway ─▶ the page
//! ```
//!
//! Everything is in one temporary directory and listens on the loopback. Children are in process
//! groups of their own: a Ctrl-C is this program's alone, which then ends them in order and removes
//! what it made.

mod containers;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::containers::Engine;
use crate::{
    build::{self, Profile, What},
    command, mounts,
    privilege::Privilege,
    say, workspace,
};

/// A gateway, an agent and a few containers on this machine, and the page that shows them
///
/// Ctrl-C ends it and removes what it made. Containers come from docker where its daemon answers,
/// else from podman, else from runc. Nothing is pulled: the image is this machine's busybox.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the page is; another port where this one is taken
    #[arg(long, default_value_t = 7443, value_name = "PORT")]
    port: u16,
    /// End by itself after so many seconds
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Run what was built already, as root
    #[arg(long, hide = true)]
    built: bool,
    #[command(flatten)]
    what: What,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    if !args.built {
        build::build(Profile::Fast, &args.what)?;
        crate::test::runtimes::ensure_of(&["busybox", "runc"], args.what.policy)?;
    }
    if let prefix @ [_, ..] = Privilege::find()?.prefix()? {
        return as_root(args, prefix);
    }
    mounts::ensure()?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot wait for Ctrl-C")?;
    }
    let dir = workspace::target().join(format!("demo-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let shown = show(args, &dir, &stop);
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    say::note("all of it is gone again");
    shown.map(|()| ExitCode::SUCCESS)
}

/// The same program once more, behind sudo.
fn as_root(args: &Args, prefix: &[&str]) -> Result<ExitCode> {
    let (sudo, flags) = prefix.split_first().context("no sudo")?;
    let program = std::env::current_exe().context("where is xtask?")?;
    let mut command = Command::new(sudo);
    command
        .args(flags)
        .arg("--")
        .arg(program)
        .args(["demo", "--built", &format!("--port={}", args.port)])
        .args(args.seconds.map(|seconds| format!("--seconds={seconds}")));
    Err(command.exec()).with_context(|| format!("cannot start {}", command::describe(&command)))
}

fn show(args: &Args, dir: &Path, stop: &AtomicBool) -> Result<()> {
    let engine = Engine::find(dir)?;
    let address = free(args.port)?;
    let gateway = Part::start(
        "gateway",
        tracer()
            .args(["gateway", "--listen", &address.to_string(), "--store"])
            .arg(dir.join("store"))
            .stdout(Stdio::null()),
        dir,
    )?;
    let listens = || Ok(TcpStream::connect(address).is_ok());
    if !until(stop, "the gateway to listen", listens)? {
        return Ok(());
    }
    let agent = Part::start(
        "agent",
        tracer()
            .args(["run", "--format=pretty", "--upstream"])
            .arg(format!("http://{address}"))
            .arg("--state-dir")
            .arg(dir.join("state"))
            .args(["--socket", "none"]),
        dir,
    )?;
    // What lives before tracer looks is only discovered.
    if !until(stop, "the agent to be let in", || is_let_in(address))? {
        return Ok(());
    }
    say::note(format_args!("containers come from {}", engine.name()));
    say::note(format_args!(
        "the page: http://{address}/    Ctrl-C ends it"
    ));
    let end = args
        .seconds
        .map(|s| Instant::now() + Duration::from_secs(s));
    let lived = engine.live(|| {
        let over = end.is_some_and(|end| Instant::now() >= end);
        stop.load(Relaxed) || over
    });
    say::note("ending");
    engine.remove();
    // Its last words reach the gateway.
    agent.end()?;
    gateway.end()?;
    lived
}

fn tracer() -> Command {
    let mut tracer = Command::new(Profile::Fast.binary());
    // Set by cargo for xtask, with the compiler's libraries.
    tracer.env_remove("LD_LIBRARY_PATH").stdin(Stdio::null());
    tracer
}

/// Whether the gateway has records of the node that this host is.
fn is_let_in(address: SocketAddr) -> Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /v1/nodes HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.contains("\"connected\":true"))
}

/// This port of the loopback, or any.
fn free(port: u16) -> Result<SocketAddr> {
    let wanted = SocketAddr::from(([127, 0, 0, 1], port));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(wanted).or_else(|_taken| TcpListener::bind(any));
    Ok(listener.context("no port")?.local_addr()?)
}

/// Waits; false where Ctrl-C comes first.
fn until(stop: &AtomicBool, what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<bool> {
    let end = Instant::now() + Duration::from_secs(20);
    while !is()? {
        if stop.load(Relaxed) {
            return Ok(false);
        }
        if Instant::now() > end {
            bail!("waited for {what}");
        }
        pause(Duration::from_millis(20));
    }
    Ok(true)
}

fn pause(time: Duration) {
    let time = rustix::thread::Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(0),
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    // A signal ends it early, which is as well.
    drop(rustix::thread::nanosleep(&time));
}

/// A program of ours; killed when dropped.
struct Part {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Part {
    fn start(name: &'static str, command: &mut Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let child = command
            .stderr(fs::File::create(&log)?)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command::describe(command)))?;
        Ok(Self { name, child, log })
    }

    /// Ends it in order; it should not have ended before.
    fn end(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            bail!("the {} ended with {status}:\n{log}", self.name);
        }
        self.signal(Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.context("no process")?, signal)?)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.signal(Signal::KILL));
            drop(self.child.wait());
        }
    }
}
