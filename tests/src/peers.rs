//! When others tell the same: `docker events`, `podman events` and `ctr events` beside tracer, for
//! the same containers.
//!
//! ```text
//!  kernel ── stamp ──▶ tracer ──────────────────────────▶ pipe ─▶ read(2), wall clock
//!     └──▶ runtime ──▶ its daemon ──▶ its `events` ─────▶ pipe ─▶ read(2), wall clock
//! ```
//!
//! Both are measured from the same moment, the kernel's time stamp in tracer's record, to the end of
//! the `read(2)` that completes the line, in one process by one clock. A container is made by its
//! runtime, runs a short sleep and ends; the next one follows when everybody has told of it.
//!
//! Then, in tracer's place, the floor of the benchmark: a minimal reader of the same ring, for as many
//! containers of Docker. What it takes nobody can take less of.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tracer::decode::{What, decode};
use tracer::time::{BootNs, boot_now};
use tracer_common::{Head, flags};

use crate::command::{Leash, Process};
use crate::runtimes::{Containerd, Docker, Podman};
use crate::tracer::binary;

/// How long everybody has to tell of one life.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lines that wait at most.
const LINES_HELD: usize = 65_536;

/// What containers run: long enough that its start is told before its end.
const WORKLOAD: [&str; 2] = ["/bin/sleep", "0.2"];

/// The ends of a life that every runtime tells.
const EVENTS: [&str; 2] = ["start", "die"];

/// Compares with each runtime over so many lives; gives, for each and each event, the nanoseconds that
/// tracer and the runtime took, and for Docker those that the floor took.
pub fn compare(lives: usize, floor: &Path) -> Result<Value> {
    let compared = [
        compare_with("docker", lives, docker, Some(floor)),
        compare_with("podman", lives, podman, None),
        compare_with("ctr", lives, ctr, None),
    ];
    Ok(compared.into_iter().flatten().collect())
}

/// A runtime that tells events.
struct Peer {
    events: Command,
    /// Runs one container to its end; gives its id.
    live: Box<dyn Fn() -> Result<String>>,
    /// Id and event of one line.
    read: fn(&str) -> Option<(String, &'static str)>,
}

fn docker() -> Result<Peer> {
    let docker = Docker::shared()?;
    let mut events = docker.command();
    events.args(["events", "--format", "{{json .}}"]);
    Ok(Peer {
        events,
        live: Box::new(|| {
            let container = docker.create(&[], &WORKLOAD)?;
            container.run()?.ended(0)?;
            Ok(container.id().to_owned())
        }),
        read: |line| json_event(line, "id", "status"),
    })
}

fn podman() -> Result<Peer> {
    let podman = Podman::shared()?;
    let mut events = podman.command();
    events.args(["events", "--stream", "--format", "json"]);
    Ok(Peer {
        events,
        live: Box::new(|| {
            let container = podman.create(&[], &WORKLOAD)?;
            container.run()?.ended(0)?;
            Ok(container.id().to_owned())
        }),
        read: |line| json_event(line, "ID", "Status"),
    })
}

fn ctr() -> Result<Peer> {
    let containerd = Containerd::shared()?;
    let mut events = containerd.command("default");
    events.arg("events");
    Ok(Peer {
        events,
        live: Box::new(|| {
            let container = containerd.name_container("default")?;
            let id = container.id().to_owned();
            let run = ["run", "--rm", "--null-io", crate::image::NAME, &id];
            containerd.ok("default", &[&run[..], &WORKLOAD].concat())?;
            Ok(id)
        }),
        read: ctr_event,
    })
}

fn json_event(line: &str, id: &str, status: &str) -> Option<(String, &'static str)> {
    let event: Value = serde_json::from_str(line).ok()?;
    let id = event.get(id)?.as_str()?.to_owned();
    match event.get(status)?.as_str()? {
        "start" => Some((id, "start")),
        "die" | "died" => Some((id, "die")),
        _ => None,
    }
}

/// `2026-11-27 23:00:00.1 +0000 UTC default /tasks/start {"container_id":"…","pid":1}`
fn ctr_event(line: &str) -> Option<(String, &'static str)> {
    let (_, rest) = line.split_once(" /tasks/")?;
    let (topic, event) = rest.split_once(' ')?;
    let event: Value = serde_json::from_str(event).ok()?;
    let id = event.get("container_id")?.as_str()?.to_owned();
    match topic {
        "start" => Some((id, "start")),
        "exit" => Some((id, "die")),
        _ => None,
    }
}

/// Id, event, kernel's stamp in nanoseconds of the wall clock.
fn tracer_event(line: &str) -> Option<(String, &'static str, u64)> {
    let record: Value = serde_json::from_str(line).ok()?;
    let event = match record.get("type")?.as_str()? {
        "container.started" => "start",
        "container.exited" => "die",
        _ => return None,
    };
    let id = record.pointer("/container/id")?.as_str()?.to_owned();
    let time = record.get("time")?.as_str()?;
    let number = |from: usize, to: usize| time.get(from..to)?.parse::<u64>().ok();
    let of_day = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    Some((id, event, of_day * SECOND_NS + number(20, 29)?))
}

const SECOND_NS: u64 = 1_000_000_000;
const DAY_NS: u64 = 86_400 * SECOND_NS;

/// From a time of day to a moment less than half a day later; 0 for one that is not later: containerd
/// tells a start when it has let the process go, which executes its program a moment after.
const fn since(of_day: u64, wall_ns: u64) -> u64 {
    let passed = (wall_ns % DAY_NS + DAY_NS - of_day) % DAY_NS;
    if passed > DAY_NS / 2 { 0 } else { passed }
}

/// One runtime, as a value for each event; a runtime that is not there is one that says why.
fn compare_with(
    name: &str,
    lives: usize,
    peer: fn() -> Result<Peer>,
    floor: Option<&Path>,
) -> Vec<Value> {
    match peer().and_then(|peer| compare_lives(name, lives, peer, floor)) {
        Ok(compared) => compared,
        Err(error) => vec![json!({"peer": name, "error": format!("{error:#}")})],
    }
}

fn compare_lives(
    name: &str,
    lives: usize,
    mut peer: Peer,
    floor: Option<&Path>,
) -> Result<Vec<Value>> {
    let mut tracer = Command::new(binary());
    tracer.args(["run", "--format", "json", "--socket", "none"]);
    let mut ours = Stream::start(&mut tracer, "tracer")?;
    ours.until("node.synced", |line| line.contains("\"node.synced\""))?;
    let mut theirs = Stream::start(&mut peer.events, name)?;
    let mut told: BTreeMap<&str, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
    // The first is not counted: `events` may not listen yet, caches are cold.
    for life in 0..=lives {
        let id = (peer.live)()?;
        for event in EVENTS {
            let (stamp, read_ns) = ours.next(event, |line| {
                let (told_id, told, stamp) = tracer_event(line)?;
                (told == event && told_id == id).then_some(stamp)
            })?;
            let tracer_ns = since(stamp, read_ns);
            let peer_read = theirs.next(event, |line| {
                let (told_id, told) = (peer.read)(line)?;
                (told == event && told_id == id).then_some(())
            });
            let ((), peer_ns) = match peer_read {
                Err(_) if life == 0 => continue,
                told => told?,
            };
            if life != 0 {
                let (ours, theirs) = told.entry(event).or_default();
                ours.push(tracer_ns);
                theirs.push(since(stamp, peer_ns));
            }
        }
    }
    drop((ours, theirs));
    let mut least = match floor {
        Some(floor) => live_beside(floor, name, lives, &mut peer)?,
        None => BTreeMap::new(),
    };
    let values = told.into_iter().map(|(event, (ours, theirs))| {
        let floor = least.remove(event).unwrap_or_default();
        json!({"peer": name, "event": event, "tracer_ns": ours, "peer_ns": theirs, "floor_ns": floor})
    });
    Ok(values.collect())
}

/// The floor, for containers of a runtime whose own events somebody follows as well.
fn live_beside(
    floor: &Path,
    name: &str,
    lives: usize,
    peer: &mut Peer,
) -> Result<BTreeMap<&'static str, Vec<u64>>> {
    let mut command = Command::new(floor);
    let mut reader = command
        .arg("floor")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start the floor")?;
    let mut stdout = reader.stdout.take().context("its standard output")?;
    let reader = Process::new(reader, "the floor")?;
    let leash = Leash::new(&reader)?;
    // An empty line says that the programs are attached.
    stdout
        .read_exact(&mut [0])
        .context("the floor is not ready")?;
    let records = thread::spawn(move || latencies(stdout));
    let _theirs = Stream::start(&mut peer.events, name)?;
    for _ in 0..=lives {
        (peer.live)()?;
    }
    // Killed: what it forwarded is in the pipe.
    drop(leash);
    drop(reader);
    let Ok(mut told) = records.join() else {
        bail!("the floor was not read to its end");
    };
    for (event, all) in &mut told {
        ensure!(
            all.len() == lives + 1,
            "the floor told {event} {} times",
            all.len()
        );
        // As above, the first is not counted.
        all.remove(0);
    }
    Ok(told)
}

/// Nanoseconds from the kernel's time stamp to the `read(2)` that completes a record, of those that make
/// a start or an end.
fn latencies(mut stdout: ChildStdout) -> BTreeMap<&'static str, Vec<u64>> {
    let mut told: BTreeMap<_, Vec<u64>> = EVENTS.map(|event| (event, Vec::new())).into();
    let mut rest: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = stdout.read(&mut buffer) {
        let now = boot_now();
        rest.extend_from_slice(buffer.get(..len).unwrap_or_default());
        while let Some(record) = length_of(&rest).and_then(|len| rest.get(..len)) {
            if let Ok(event) = decode(record) {
                let name = match event.what {
                    What::Exec(exec) if is_of_init(exec.flags) => "start",
                    What::Exit { flags, .. } if is_of_init(flags) => "die",
                    _ => "",
                };
                if let Some(all) = told.get_mut(name) {
                    all.push(now.since(BootNs(event.time_ns)));
                }
            }
            let len = record.len();
            rest.drain(..len);
        }
    }
    told
}

/// Of the process that a runtime brought into a container; there are no exec sessions here.
const fn is_of_init(bits: u32) -> bool {
    bits & (flags::TRACKED | flags::LANDED) == flags::TRACKED | flags::LANDED
}

/// Bytes of the record that begins here, as its head says.
fn length_of(bytes: &[u8]) -> Option<usize> {
    let bytes = bytes
        .get(std::mem::offset_of!(Head, len)..)?
        .first_chunk()?;
    let len = usize::try_from(u32::from_ne_bytes(*bytes)).ok()?;
    Some(len.max(size_of::<Head>()))
}

/// A program whose lines are read with the time of their coming.
struct Stream {
    // Dropped in this order: killed and waited for, then let go.
    process: Process,
    _leash: Leash,
    lines: Receiver<(String, u64)>,
    name: String,
}

impl Stream {
    fn start(command: &mut Command, name: &str) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let stdout = child.stdout.take().context("its standard output")?;
        let process = Process::new(child, name)?;
        let leash = Leash::new(&process)?;
        let (sender, lines) = sync_channel(LINES_HELD);
        thread::Builder::new()
            .name(format!("{name}-lines"))
            .spawn(move || forward(stdout, &sender))
            .context("start a reading thread")?;
        Ok(Self {
            process,
            _leash: leash,
            lines,
            name: name.to_owned(),
        })
    }

    /// Reads on to a line that is one.
    fn until(&mut self, what: &str, is: impl Fn(&str) -> bool) -> Result<()> {
        self.next(what, |line| is(line).then_some(())).map(drop)
    }

    /// Reads on to a line of which `read` makes something; with the time of its coming.
    fn next<T>(&mut self, what: &str, read: impl Fn(&str) -> Option<T>) -> Result<(T, u64)> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok((line, read_ns)) = self.lines.recv_timeout(left) else {
                bail!(
                    "{} (pid {}) did not tell {what}",
                    self.name,
                    self.process.pid()
                );
            };
            if let Some(read) = read(&line) {
                return Ok((read, read_ns));
            }
        }
    }
}

fn forward(mut stdout: ChildStdout, sender: &SyncSender<(String, u64)>) {
    let mut rest = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = stdout.read(&mut buffer) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(0));
        rest.extend_from_slice(buffer.get(..len).unwrap_or_default());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned();
            rest.drain(..=end);
            // Nobody reads any more: the comparison is over.
            if sender.send((line, now)).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_all_are_read() {
        let docker = r#"{"status":"die","id":"4531","Type":"container","timeNano":1}"#;
        assert_eq!(
            json_event(docker, "id", "status"),
            Some(("4531".to_owned(), "die"))
        );
        let podman = r#"{"ID":"4531","Status":"died","Type":"container"}"#;
        assert_eq!(
            json_event(podman, "ID", "Status"),
            Some(("4531".to_owned(), "die"))
        );
        let ctr =
            r#"2026-11-27 23:00:00.1 +0000 UTC default /tasks/start {"container_id":"x","pid":1}"#;
        assert_eq!(ctr_event(ctr), Some(("x".to_owned(), "start")));
        let ours = r#"{"time":"2026-11-21T00:00:01.000000005Z","type":"container.exited","container":{"id":"x"}}"#;
        assert_eq!(
            tracer_event(ours),
            Some(("x".to_owned(), "die", 1_000_000_005))
        );
        assert_eq!(since(DAY_NS - 5, 3 * DAY_NS + 5), 10);
        assert_eq!(since(10, 3 * DAY_NS + 5), 0);
    }
}
