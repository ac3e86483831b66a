//! The gateway: what it takes in, what many nodes cost, how soon a reader knows.
//!
//! ```text
//!  simulated nodes ──▶ gateway (one core where that is the bar) ──▶ questions, subscriber
//!  kernel ─▶ tracer ──▶ gateway ──▶ subscriber
//! ```
//!
//! Beside it the floors of the same disk and the same loopback: whatever is durable waits for the
//! disk, whatever is told crosses a socket.

mod http;
mod parties;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::time::ClockId;
use serde::Deserialize;
use serde_json::Value;

use self::{
    http::{Client, Subscriber},
    parties::{Cores, Counts, Fleet, Served, store, until},
};
use super::{
    Bench, Results,
    latency::{load, of_tracer},
    line::Line,
    load::{Containers, wait_until},
    stats::{megabytes, micros, percentile, ratio},
    subject::{Subject, cpu_ns, now, status},
};
use crate::command;

/// Containers of a simulated node.
const CONTAINERS: u64 = 50;
const MILLIS: u64 = 1_000_000;

pub fn measure(bench: &Bench, results: &mut Results) -> Result<()> {
    let ingested = ingest(bench)?;
    floors(bench, &ingested, results)?;
    results.lines.push(ingested.line());
    many(bench, results)?;
    events(bench, results)
}

/// What a flood gave.
struct Ingested {
    records: u64,
    bytes: u64,
    took: Duration,
    commits: u64,
    cpu_ns: u64,
}

impl Ingested {
    fn per_s(&self) -> u64 {
        let ms = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        self.records * 1000 / ms.max(1)
    }

    fn line(&self) -> Line {
        let per_s = self.per_s();
        Line::told(
            "gateway: records made durable",
            format!("{per_s}/s, of {} bytes", self.bytes / self.records.max(1)),
        )
        .with_peer(format!(
            "{} per second of the gateway's CPU, {} per commit",
            self.records * 1_000_000_000 / self.cpu_ns.max(1),
            self.records / self.commits.max(1)
        ))
        .with_bar(">= 100000/s", per_s >= 100_000)
    }
}

/// As many records as 32 nodes can send; counted are those that were acknowledged.
fn ingest(bench: &Bench) -> Result<Ingested> {
    let gateway = Served::start(bench, &store(bench, "ingest"), Cores::All)?;
    let mut client = gateway.client()?;
    let mut fleet = Fleet::start(bench, &gateway, Cores::All, &["--nodes", "32", "--flood"])?;
    until("32 nodes are let in", Duration::from_mins(1), || {
        Ok(fleet.counts()?.connected == 32)
    })?;
    wait_until(now(ClockId::Boottime) + 2_000 * MILLIS)?;
    let commits = "tracer_gateway_commit_seconds_count";
    let seen = |fleet: &mut Fleet, client: &mut Client| {
        let counts = fleet.counts()?;
        anyhow::Ok((
            counts,
            Instant::now(),
            client.metric(commits)?,
            cpu_ns(gateway.pid())?,
        ))
    };
    let before = seen(&mut fleet, &mut client)?;
    wait_until(now(ClockId::Boottime) + bench.scaled(20_000, 5_000) * MILLIS)?;
    let after = seen(&mut fleet, &mut client)?;
    is_whole(&after.0, 32)?;
    Ok(Ingested {
        records: after.0.acked - before.0.acked,
        bytes: (after.0.bytes / after.0.sent.max(1)) * (after.0.acked - before.0.acked),
        took: after.1.duration_since(before.1),
        commits: after.2 - before.2,
        cpu_ns: after.3.saturating_sub(before.3),
    })
}

/// Nobody was sent away, and no table differed.
fn is_whole(counts: &Counts, nodes: u64) -> Result<()> {
    ensure!(
        counts.connected == nodes && counts.lost == 0 && counts.snapshots_wanted == 0,
        "the load was disturbed: {counts:?}"
    );
    Ok(())
}

#[derive(Deserialize)]
struct Disk {
    fdatasync_p50_ns: u64,
    fdatasync_p99_ns: u64,
    fdatasyncs: u64,
    sqlite_records_per_s: u64,
}

fn floors(bench: &Bench, ingested: &Ingested, results: &mut Results) -> Result<()> {
    let size = ingested.bytes / ingested.records.max(1);
    let seconds = bench.scaled(5, 2);
    let mut command = Command::new(&bench.parts);
    command.arg("disk").arg(&bench.dir).args([
        format!("--record-bytes={size}"),
        format!(
            "--commit-records={}",
            ingested.records / ingested.commits.max(1)
        ),
        format!("--seconds={seconds}"),
    ]);
    let text = command::probe(&mut command).context("the disk cannot be measured")?;
    let disk: Disk = serde_json::from_str(&text)?;
    results.lines.push(
        Line::told(
            "floor: fdatasync of 4 KiB",
            format!(
                "p50 {}, p99 {}",
                micros(disk.fdatasync_p50_ns),
                micros(disk.fdatasync_p99_ns)
            ),
        )
        .with_peer(format!("{}/s", disk.fdatasyncs / seconds)),
    );
    results.lines.push(
        Line::told(
            "floor: SQLite alone, the same bytes and commits, synchronous=FULL",
            format!("{}/s", disk.sqlite_records_per_s),
        )
        .with_peer(format!(
            "the gateway: {:.2}x",
            ratio(ingested.per_s(), disk.sqlite_records_per_s)
        )),
    );
    let mut trips = loopback(bench.scaled(20_000, 5_000))?;
    results.lines.push(Line::told(
        "floor: round trip over loopback",
        format!(
            "p50 {}, p99 {}",
            micros(percentile(&mut trips, 500)),
            micros(percentile(&mut trips, 990))
        ),
    ));
    Ok(())
}

/// Nanoseconds of each: one byte there, one back.
fn loopback(trips: usize) -> Result<Vec<u64>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    near.set_nodelay(true)?;
    let (mut far, _) = listener.accept()?;
    far.set_nodelay(true)?;
    let echo = std::thread::spawn(move || {
        let mut byte = [0];
        while far.read_exact(&mut byte).is_ok() && far.write_all(&byte).is_ok() {}
    });
    let mut took = Vec::with_capacity(trips);
    for _ in 0..trips {
        let begin = Instant::now();
        near.write_all(b"x")?;
        near.read_exact(&mut [0])?;
        took.push(u64::try_from(begin.elapsed().as_nanos())?);
    }
    drop(near);
    echo.join().map_err(|_panic| anyhow::anyhow!("no echo"))?;
    Ok(took)
}

/// Many nodes on one core: memory, questions, heartbeats; then a restart with all of it.
fn many(bench: &Bench, results: &mut Results) -> Result<()> {
    let nodes = bench.scaled(10_000, 2_000);
    let store = store(bench, "many");
    let gateway = Served::start(bench, &store, Cores::First)?;
    let count = nodes.to_string();
    let begin = Instant::now();
    let mut fleet = Fleet::start(bench, &gateway, Cores::Others, &["--nodes", &count])?;
    until("all nodes are let in", Duration::from_mins(3), || {
        let counts = fleet.counts()?;
        Ok(counts.connected == nodes && counts.acked == counts.sent)
    })?;
    let settled = begin.elapsed();
    let mut client = gateway.client()?;
    // The table follows the log within a second or so.
    let last = format!("/v1/containers/{}", id(nodes - 1, CONTAINERS - 1));
    until("the table is whole", Duration::from_mins(1), || {
        Ok(client.get(&last)?.0 == 200)
    })?;
    let served = "tracer_gateway_heartbeats_total";
    let beats = (client.metric(served)?, fleet.counts()?.heartbeats);
    let mut took = ask(&mut client, nodes, bench.scaled(30, 12))?;
    let sent = fleet.counts()?.heartbeats;
    until("heartbeats are served", Duration::from_secs(5), || {
        Ok(client.metric(served)? - beats.0 >= sent - beats.1)
    })?;
    let counts = fleet.counts()?;
    is_whole(&counts, nodes)?;
    let online = pages(&mut client, "state=online")?.0;
    let held = nodes * CONTAINERS;
    let what = format!("gateway on one core, {nodes} nodes x {CONTAINERS} containers");
    let rss = status(gateway.pid(), "VmRSS")?;
    let peak = status(gateway.pid(), "VmHWM")?;
    results.lines.push(
        Line::told(format!("{what}: memory"), megabytes(rss))
            .with_peer(format!(
                "peak {}; all let in after {:.1} s",
                megabytes(peak),
                settled.as_secs_f64()
            ))
            .with_bar("<= 1 GB", peak <= 1_000_000_000 / 1024),
    );
    let (p50, p99) = (percentile(&mut took, 500), percentile(&mut took, 990));
    results.lines.push(
        Line::told(format!("{what}: one container asked for, p99"), micros(p99))
            .with_peer(format!("p50 {} ({} questions)", micros(p50), took.len()))
            .with_bar("<= 5 ms", p99 <= 5 * MILLIS),
    );
    results.lines.push(
        Line::told(
            format!("{what}: heartbeats served"),
            format!("all {}", sent - beats.1),
        )
        .with_peer(format!("{online} of {nodes} nodes online"))
        .with_bar("all", online == nodes),
    );
    drop(fleet);
    gateway.kill()?;
    restart(bench, &store, held, results)
}

/// Asks for single containers, all over the fleet, 200 times per second.
fn ask(client: &mut Client, nodes: u64, seconds: u64) -> Result<Vec<u64>> {
    let mut took = Vec::new();
    let mut then = now(ClockId::Boottime);
    for step in 0..seconds * 200 {
        then += 5 * MILLIS;
        wait_until(then)?;
        // All over: a prime step through all containers.
        let at = step * 7_919 * 613 % (nodes * CONTAINERS);
        let (node, slot) = (at / CONTAINERS, at % CONTAINERS);
        let id = id(node, slot);
        let begin = Instant::now();
        let (status, body) = client.get(&format!("/v1/containers/{id}"))?;
        took.push(u64::try_from(begin.elapsed().as_nanos())?);
        ensure!(status == 200 && body.contains(&id), "{status} {body}");
    }
    Ok(took)
}

/// As the simulated nodes name them.
fn id(node: u64, slot: u64) -> String {
    format!("{node:08x}{slot:08x}{:048x}", node * 1000 + slot)
}

/// Nodes that fit, and the containers on them.
fn pages(client: &mut Client, filter: &str) -> Result<(u64, u64)> {
    let (mut count, mut containers) = (0, 0);
    let mut after = String::new();
    loop {
        let page = client.json(&format!("/v1/nodes?limit=1000&{filter}{after}"))?;
        let nodes = page.get("nodes").and_then(Value::as_array);
        for node in nodes.context("no nodes")? {
            count += 1;
            let of_node = node.get("containers").and_then(Value::as_u64);
            containers += of_node.unwrap_or(0);
        }
        match page.get("next").and_then(Value::as_str) {
            Some(next) => after = format!("&cursor={next}"),
            None => return Ok((count, containers)),
        }
    }
}

fn restart(bench: &Bench, store: &Path, held: u64, results: &mut Results) -> Result<()> {
    let begin = Instant::now();
    let mut bytes = 0;
    for entry in std::fs::read_dir(store)? {
        bytes += std::fs::read(entry?.path())?.len() as u64;
    }
    let read = begin.elapsed();
    let gateway = Served::start(bench, store, Cores::First)?;
    let found = pages(&mut gateway.client()?, "")?.1;
    ensure!(found == held, "{found} of {held} containers are there");
    let after = gateway.ready_after;
    results.lines.push(
        Line::told(
            format!("gateway on one core: killed and started with {held} containers, ready"),
            format!("{:.2} s", after.as_secs_f64()),
        )
        .with_peer(format!(
            "reading its files ({}): {:.2} s",
            megabytes(bytes / 1024),
            read.as_secs_f64()
        ))
        .with_bar("<= 5 s", after <= Duration::from_secs(5)),
    );
    gateway.kill()
}

/// The rate that the bars are for, kernel events per second.
const JUDGED: u64 = 500;

/// From the kernel's time stamp to the bytes at a reader of the gateway's event stream.
fn events(bench: &Bench, results: &mut Results) -> Result<()> {
    for rate in [20, JUDGED] {
        let lives = match rate {
            JUDGED => bench.scaled(5_000, 1_000),
            _ => bench.scaled(200, 60),
        };
        let name = format!("events-{rate}");
        let gateway = Served::start(bench, &store(bench, &name), Cores::All)?;
        let (url, state) = (
            format!("http://{}", gateway.address),
            store(bench, &format!("{name}-state")),
        );
        let state = state.to_str().context("the path is no text")?;
        let tracer = Subject::tracer(bench, &["--upstream", &url, "--state-dir", state])?;
        let mut client = gateway.client()?;
        until("tracer is let in", Duration::from_secs(20), || {
            let nodes = client.json("/v1/nodes")?;
            let seq = nodes.pointer("/nodes/0/stream/seq").and_then(Value::as_u64);
            Ok(seq.is_some_and(|seq| seq > 1))
        })?;
        let subscriber = Subscriber::follow(gateway.address)?;
        let mut containers = Containers::new()?;
        load(&mut containers, rate, lives)?;
        wait_until(now(ClockId::Boottime) + 300 * MILLIS)?;
        let mut took = of_tracer(&subscriber.stop()?);
        tracer.stop()?;
        // Each life tells at least that it was created and that it was removed.
        let least = usize::try_from(2 * lives)?;
        ensure!(took.len() >= least, "{} of {least} events came", took.len());
        let samples = took.len();
        for (name, per_mille, bar) in [("p50", 500, 2), ("p99", 990, 10)] {
            let ns = percentile(&mut took, per_mille);
            let line = Line::told(
                format!("kernel event to the gateway's reader at {rate}/s, {name}"),
                micros(ns),
            )
            .with_peer(format!("{samples} samples"));
            results.lines.push(if rate == JUDGED {
                line.with_bar(format!("<= {bar} ms"), ns <= bar * MILLIS)
            } else {
                line
            });
        }
    }
    Ok(())
}
