//! What the daemon may still do once the programs are attached, and that what it is for still works.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::net::UnixDatagram,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tracer_tests::{
    Context, Record, Result, Tracer,
    command::program,
    created, emptied, ensure, exited, live,
    raw::{RawContainer, Shape, random_id},
    removed,
    runtimes::{Runc, Spec},
    started,
    tracer::binary,
    wait::{DEADLINE, wait_until},
};

/// By bit in `linux/capability.h`: `DAC_READ_SEARCH`, `SYS_PTRACE`, `BPF`.
const KEPT: u64 = 1 << 2 | 1 << 19 | 1 << 39;

/// The fields of `/proc/PID/task/TID/status` that tell what a thread may do.
fn threads(pid: u32) -> Result<Vec<BTreeMap<String, String>>> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let fields = status.lines().filter_map(|line| line.split_once(":\t"));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        all.push(fields.collect());
    }
    Ok(all)
}

fn set(thread: &BTreeMap<String, String>, name: &str) -> Result<u64> {
    let hex = thread.get(name).with_context(|| format!("no {name}"))?;
    Ok(u64::from_str_radix(hex, 16)?)
}

fn one_life(tracer: &mut Tracer) -> Result<()> {
    let container = RawContainer::docker()?;
    container
        .spawn(Shape::Joined, &["/bin/true"])?
        .finish(DEADLINE)?
        .ended(0)?;
    let id = container.id().to_owned();
    container.remove()?;
    let life = [
        created(),
        started("/bin/true"),
        exited(0),
        emptied(),
        removed(),
    ];
    tracer.expect_life(&id, &life)
}

#[test]
fn every_thread_has_only_what_is_needed() -> Result<()> {
    let _live = live!("cc");
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (socket, file, state) = (at("socket"), at("file"), at("state"));
    let arguments = ["--socket", &socket, "--file", &file, "--state-dir", &state];
    let mut tracer = Tracer::start(&arguments)?;
    one_life(&mut tracer)?;
    let threads = threads(tracer.pid())?;
    ensure!(threads.len() > 1, "there are more threads than this");
    for thread in &threads {
        let name = thread.get("Name").cloned().unwrap_or_default();
        for kind in ["CapEff", "CapPrm", "CapBnd"] {
            let capabilities = set(thread, kind)?;
            ensure!(
                capabilities & !KEPT == 0,
                "{name}: {kind} is {capabilities:x}"
            );
        }
        ensure!(set(thread, "CapEff")? == KEPT, "{name}: too few are left");
        ensure!(set(thread, "CapInh")? == 0 && set(thread, "CapAmb")? == 0);
        let is = |field: &str, value: &str| thread.get(field).map(String::as_str) == Some(value);
        ensure!(is("NoNewPrivs", "1"), "{name}: NoNewPrivs");
        ensure!(is("Seccomp", "2"), "{name}: Seccomp");
    }
    // The file is opened again after it was moved.
    fs::rename(&file, at("moved"))?;
    tracer.signal(Signal::HUP)?;
    wait_until(DEADLINE, "the file to be there again", || {
        Ok(fs::metadata(&file).is_ok().then_some(()))
    })?;
    one_life(&mut tracer)?;
    tracer.stop()?;
    ensure!(!fs::exists(&socket)?, "the socket outlived the daemon");
    Ok(())
}

#[test]
fn less_is_given_up_where_that_is_asked_for() -> Result<()> {
    let _live = live!("cc");
    for (sandbox, seccomp, all) in [("capabilities", "0", false), ("none", "0", true)] {
        let mut tracer = Tracer::start(&["--sandbox", sandbox, "--socket", "none"])?;
        one_life(&mut tracer)?;
        for thread in threads(tracer.pid())? {
            ensure!(thread.get("Seccomp").map(String::as_str) == Some(seccomp));
            ensure!((set(&thread, "CapEff")? & !KEPT != 0) == all, "{sandbox}");
        }
        tracer.stop()?;
    }
    Ok(())
}

/// What tracer says of a container of before that has a session of before, when both are killed,
/// without some capabilities of root's.
fn session_of_before(without: &str) -> Result<Vec<String>> {
    let runc = Runc::new()?;
    let id = random_id()?;
    let spec = Spec::new(&["/bin/sleep", "1000"]).cgroup(&format!("/docker/{id}"));
    let container = runc.container(&spec)?;
    let running = container.run_spawn()?;
    wait_until(DEADLINE, "the container to run", || {
        Ok(container.pid().ok().filter(|pid| *pid != 0))
    })?;
    let ready = runc.rootfs().join(&id);
    let script = format!("echo >/{id}; exec sleep 1000");
    let session = container.exec_spawn(&["/bin/sh", "-c", &script])?;
    wait_until(DEADLINE, "the session to run", || {
        Ok(ready.exists().then_some(()))
    })?;
    let mut tracer = program("setpriv");
    tracer.arg(format!("--bounding-set={without}"));
    tracer.arg(binary());
    tracer.args(["run", "--format", "json", "--socket", "none"]);
    let mut tracer = tracer
        .args(["--container", &id])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let lines = BufReader::new(tracer.stdout.take().context("stdout")?).lines();
    let mut told = Vec::new();
    let follow = || -> Result<()> {
        for line in lines {
            let record = Record::parse(&line?)?;
            if record.is("node.synced") {
                container.kill("KILL")?;
            }
            told.push(record.kind().to_owned());
            if record.is("container.emptied") {
                break;
            }
        }
        Ok(())
    };
    let followed = follow();
    let pid = Pid::from_raw(i32::try_from(tracer.id())?).context("a pid")?;
    kill_process(pid, Signal::TERM)?;
    tracer.wait()?;
    session.finish(DEADLINE)?;
    running.finish(DEADLINE)?;
    followed.map(|()| told)
}

/// `CAP_SYS_PTRACE`: the namespaces of processes that may do more than tracer tell who came into a
/// container from outside.
#[test]
fn without_ptrace_a_session_of_before_would_not_be_known() -> Result<()> {
    let _live = live!("runc", "setpriv");
    let ended = |told: &[String]| told.iter().any(|kind| kind == "container.exec_exited");
    let told = session_of_before("+all")?;
    ensure!(ended(&told), "{told:?}");
    let told = session_of_before("-sys_ptrace")?;
    ensure!(!ended(&told), "it is not needed any more: {told:?}");
    Ok(())
}

/// Ready when the table is complete, alive as often as asked for, stopping before it stops.
#[test]
fn the_service_manager_is_told() -> Result<()> {
    let _live = live!();
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(DEADLINE))?;
    let mut child = Command::new(binary())
        .args(["run", "--format", "json", "--socket", "none"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdout = child.stdout.take().context("stdout")?;
    let heard = || -> Result<String> {
        let mut datagram = [0; 256];
        let len = manager.recv(&mut datagram)?;
        Ok(String::from_utf8_lossy(&datagram[..len]).trim().to_owned())
    };
    let followed = (|| {
        let first = heard()?;
        ensure!(first == "READY=1", "{first}");
        let begin = std::time::Instant::now();
        for _ in 0..5 {
            let alive = heard()?;
            ensure!(alive == "WATCHDOG=1", "{alive}");
        }
        let took = begin.elapsed();
        ensure!(
            took >= Duration::from_millis(300),
            "five times in {took:?}: too often"
        );
        Ok(())
    })();
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("a pid")?;
    kill_process(pid, Signal::TERM)?;
    let mut text = String::new();
    stdout.read_to_string(&mut text)?;
    let code = child.wait()?;
    followed?;
    ensure!(code.success(), "{code}");
    ensure!(text.contains("node.synced") && text.contains("node.stopped"));
    loop {
        match heard()?.as_str() {
            "WATCHDOG=1" => {}
            last => {
                ensure!(last == "STOPPING=1", "{last}");
                return Ok(());
            }
        }
    }
}
