//! `tracer run --upstream` and `tracer gateway`, both as they are shipped, with real containers.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tracer_tests::command::run_ok;
use tracer_tests::mortal::{Mortal, PinDir};
use tracer_tests::raw::{RawContainer, Shape};
use tracer_tests::runtimes::{Runc, Spec};
use tracer_tests::tracer::{binary, latency};
use tracer_tests::upstream::{
    chance::Chance,
    gateway::Gateway,
    http,
    node::Journal,
    proxy::{Proxy, Weather},
    verdict::{self, Missing},
};
use tracer_tests::wait::{DEADLINE, wait_until};
use tracer_tests::{Context, Result, Tracer, anyhow, ensure, live};

const NODE: &str = "edge-7";
const KILLS: u64 = 8;

/// Containers one after the other until told to stop, every fourth by runc; how many there were.
fn churn(stop: &AtomicBool) -> Result<u32> {
    let runc = Runc::new()?;
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        made += 1;
        if made % 4 == 0 {
            let container = runc.container(&Spec::new(&["/bin/sleep", "1000"]))?;
            container.create()?;
            container.act("start")?;
            container.kill("KILL")?;
            wait_until(DEADLINE, "runc to let go", || {
                Ok(container.act("delete").ok().map(drop))
            })?;
        } else {
            raw_life()?;
        }
    }
    Ok(made)
}

fn raw_life() -> Result<()> {
    let container = RawContainer::docker()?;
    let mut init = container.spawn(Shape::Joined, &["stay", "3"])?;
    init.close_stdin();
    init.finish(DEADLINE)?;
    container.remove()
}

/// Kills the gateway and the node in turn, at moments of chance, and both at once.
fn kill_in_turn(tracer: &mut Mortal, gateway: &mut Gateway) -> Result<()> {
    let mut chance = Chance::new(u64::from(std::process::id()));
    for kill in 0..KILLS {
        tracer.listen(Duration::from_millis(100 + chance.below(500)))?;
        let (node, other) = (kill % 3 != 0, kill % 3 != 1);
        if other {
            gateway.kill()?;
        }
        if node {
            tracer.kill()?;
            tracer.start()?;
        }
        tracer.listen(Duration::from_millis(chance.below(400)))?;
        gateway.start()?;
    }
    Ok(())
}

#[test]
fn after_kills_of_both_the_gateway_has_what_the_node_has() -> Result<()> {
    let _live = live!("runc");
    let pins = PinDir::new()?;
    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(binary(), directory.path().join("store"), None)?;
    gateway.start()?;
    let url = format!("http://{}", gateway.address());
    let ring = ["--ring-bytes", "4194304"];
    let upstream = ["--upstream", &url, "--node", NODE];
    let mut tracer = Mortal::new(&[&[&*pins.flag()], &ring[..], &upstream].concat())?;
    let stays = RawContainer::docker()?;
    let mut init = stays.spawn(Shape::Joined, &["stay", "0"])?;
    tracer.start_synced()?;

    let stop = AtomicBool::new(false);
    let made = thread::scope(|scope| {
        let churning = scope.spawn(|| churn(&stop));
        let killed = kill_in_turn(&mut tracer, &mut gateway);
        stop.store(true, Ordering::Relaxed);
        let made = churning.join().map_err(|_panic| anyhow!("churn died"))?;
        killed?;
        made
    })?;
    // Behind all that happened.
    let marker = RawContainer::docker()?;
    let id = marker.id().to_owned();
    marker.remove()?;
    tracer.expect("the marker's end", |record| {
        record.is("container.removed") && record.container() == Some(&id)
    })?;
    agree(&tracer, &gateway, stays.id())?;
    init.close_stdin();
    init.finish(DEADLINE)?;
    tracer.stop()?;

    // Every record of the file, checked against the schema and the rules of a stream.
    let records = tracer.records()?;
    ensure!(!records.iter().any(|record| record.is("node.gap")), "a gap");
    let held = gateway.log()?;
    ensure!(
        held.reach.first().is_some_and(|told| told == "node.online")
            && held.reach.last().is_some_and(|told| told == "node.offline"),
        "{:?}",
        held.reach
    );
    let repeated = tracer.repeated_in_pipe()?;
    println!(
        "{KILLS} kills, {made} containers, {} records: all at the gateway, once; {repeated} repeated in the pipe; told of the node: {:?}",
        records.len(),
        held.reach
    );
    Ok(())
}

/// Waits until log and table of the gateway are those of the node.
fn agree(tracer: &Mortal, gateway: &Gateway, stays: &str) -> Result<()> {
    let mut last = String::new();
    let agreed = wait_until(DEADLINE, "node and gateway to agree", || {
        match compare(tracer, gateway, stays) {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                last = format!("{error:#}");
                Ok(None)
            }
        }
    });
    agreed.with_context(|| format!("{last}\n{}\n{}", tracer.log(), gateway.said()))
}

fn compare(tracer: &Mortal, gateway: &Gateway, stays: &str) -> Result<()> {
    let first = std::fs::read_to_string(tracer.file())?;
    let first = tracer_tests::Record::parse(first.lines().next().context("a record")?)?;
    let stream = first.text("id").and_then(|id| id.split('/').next());
    let truth = Journal::read(stream.context("a stream")?.to_owned(), &tracer.file())?;
    let held = gateway.held(NODE)?;
    let missing = verdict::stream(&held, &truth)?;
    ensure!(missing == Missing(0), "{missing:?}");
    ensure!(held.records.len() == 1, "{} streams", held.records.len());
    verdict::table(&held, &truth)?;
    ensure!(
        tells_of(&truth, stays) && !truth.table.is_empty(),
        "nothing lives"
    );
    Ok(())
}

fn tells_of(truth: &Journal, container: &str) -> bool {
    truth.records.iter().any(|record| {
        let of = record.pointer("/container/id").and_then(|id| id.as_str());
        of == Some(container)
    })
}

#[test]
fn a_node_whose_state_is_an_old_copy_begins_a_new_stream() -> Result<()> {
    let _live = live!();
    an_old_copy(1, &[])
}

/// Both have more than the copy; the ring has what came after the copy's last process and not what
/// that of the others read.
#[test]
fn an_old_copy_under_pinned_programs_is_told_to_both_upstreams() -> Result<()> {
    let _live = live!();
    let pins = PinDir::new()?;
    an_old_copy(2, &[&pins.flag()])
}

/// The state directory comes back from a copy that is older than what so many gateways have: the
/// numbers that it goes on with were used before.
fn an_old_copy(upstreams: usize, flags: &[&str]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut gateways = Vec::new();
    for index in 0..upstreams {
        let store = directory.path().join(format!("store-{index}"));
        let mut gateway = Gateway::new(binary(), store, None)?;
        gateway.start()?;
        gateways.push(gateway);
    }
    let upstreams: Vec<String> = gateways
        .iter()
        .map(|gateway| format!("--upstream=http://{}", gateway.address()))
        .collect();
    // Free again at once, and nobody else is given it that soon.
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let metrics = free.to_string();
    let mut arguments = vec!["--node", NODE, "--metrics", &metrics];
    arguments.extend(upstreams.iter().map(String::as_str));
    arguments.extend(flags);
    let mut tracer = Mortal::new(&arguments)?;
    let stays = RawContainer::docker()?;
    let mut init = stays.spawn(Shape::Joined, &["stay", "0"])?;
    tracer.start_synced()?;
    raw_life()?;
    tracer.stop()?;
    let copy = directory.path().join("copy");
    let copied =
        |from: &Path, to: &Path| run_ok(Command::new("cp").arg("-a").args([from, to])).map(drop);
    copied(&tracer.state(), &copy)?;
    // What the copy knows nothing of.
    tracer.start_synced()?;
    for _ in 0..5 {
        raw_life()?;
    }
    tracer.stop()?;
    let first = stream_of(&tracer, 0)?;
    let before = Journal::read(first, &tracer.file())?;
    std::fs::remove_dir_all(tracer.state())?;
    copied(&copy, &tracer.state())?;

    let heard = tracer.heard();
    tracer.start()?;
    let gap = tracer.expect_after(heard, "a gap", |record| {
        let reason = record.text("node.reason");
        record.is("node.gap") && reason.is_some_and(|reason| reason.contains("old copy"))
    })?;
    let reason = gap.text("node.reason").unwrap_or_default();
    ensure!(reason.contains(&before.stream), "{reason}");
    ensure!(gap.text("node.since").is_some(), "since when?");
    let after = tracer.heard();
    raw_life()?;
    let marker = RawContainer::docker()?;
    let id = marker.id().to_owned();
    marker.remove()?;
    tracer.expect_after(after, "the marker's end", |record| {
        record.is("container.removed") && record.container() == Some(&id)
    })?;
    let log = std::fs::read_to_string(tracer.dir().join("stderr"))?;
    ensure!(
        log.contains("it is an old copy, and a new stream begins"),
        "{log}"
    );
    let (_, counted) = http::ask(http::connect(free)?, "/metrics", None)?;
    let counted = String::from_utf8(counted)?;
    ensure!(
        counted.contains("tracer_upstream_lost_places_total 1\n"),
        "{counted}"
    );
    tracer.stop()?;
    let next = Journal::read(stream_of(&tracer, 1)?, &tracer.file())?;
    ensure!(next.stream != before.stream);
    // The file's streams are whole; each gateway has both, each record once.
    ensure!(tracer.streams()?.len() == 2);
    for gateway in &gateways {
        has_both(gateway, &before, &next).with_context(|| tracer.log())?;
    }
    ensure!(tells_of(&next, stays.id()), "what lives is not told again");
    // The new stream goes on in the next process.
    tracer.start_synced()?;
    tracer.stop()?;
    ensure!(tracer.streams()?.len() == 2, "{}", tracer.log());
    init.close_stdin();
    init.finish(DEADLINE)?;
    stays.remove()
}

/// A gateway has every record of both streams, and the second one's gap once.
fn has_both(gateway: &Gateway, before: &Journal, next: &Journal) -> Result<()> {
    let mut last = String::new();
    let agreed = wait_until(DEADLINE, "node and gateway to agree", || {
        let held = gateway.held(NODE)?;
        let compared = verdict::stream(&held, before)
            .and_then(|missing| Ok((missing, verdict::stream(&held, next)?)))
            .and_then(|missing| verdict::table(&held, next).map(|()| missing));
        match compared {
            Ok(missing) => Ok(Some(missing)),
            Err(error) => {
                last = format!("{error:#}");
                Ok(None)
            }
        }
    });
    let missing = agreed.with_context(|| format!("{last}\n{}", gateway.said()))?;
    ensure!(missing == (Missing(0), Missing(0)), "{missing:?}");
    let is_told = |record: &serde_json::Value| {
        let reason = record
            .pointer("/node/reason")
            .and_then(|reason| reason.as_str());
        reason.is_some_and(|reason| reason.contains("old copy"))
    };
    let held = gateway.log()?;
    let told = held.records.get(&next.stream).into_iter().flatten();
    ensure!(told.filter(|(_, record)| is_told(record)).count() == 1);
    Ok(())
}

/// Name of the stream with this place in the file.
fn stream_of(tracer: &Mortal, place: usize) -> Result<String> {
    let streams = tracer.streams()?;
    let record = streams.get(place).and_then(|records| records.first());
    let id = record.and_then(|record| record.text("id"));
    let stream = id.and_then(|id| id.split('/').next());
    Ok(stream.context("a stream")?.to_owned())
}

/// The same events, at the same time, by a tracer without an upstream and by one with three: one that
/// takes everything, one that is dead, and one that takes a connection and nothing more.
#[test]
fn a_dead_and_a_stalled_upstream_delay_nothing() -> Result<()> {
    let _live = live!();
    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(binary(), directory.path().join("store"), None)?;
    gateway.start()?;
    let good = format!("http://{}", gateway.address());
    let stalls = Proxy::start(gateway.address())?;
    stalls.set(Weather::Stalls);
    let stalled = format!("http://{}", stalls.address());
    // Nobody listens there.
    let dead = "http://127.0.0.1:9";
    let spool = directory.path().join("spool").display().to_string();
    let mut plain = Tracer::start(&["--socket", "none"])?;
    let mut sends = Tracer::start(&[
        "--socket",
        "none",
        "--spool-dir",
        &spool,
        "--node",
        NODE,
        "--upstream",
        dead,
        "--upstream",
        &stalled,
        "--upstream",
        &good,
    ])?;
    for _ in 0..150 {
        raw_life()?;
    }
    plain.settle()?;
    sends.settle()?;
    let without = latency(&plain.stop()?)?;
    let records = sends.stop()?;
    let with = latency(&records)?;
    println!("latency without upstreams {without:?}, with three {with:?}");
    ensure!(
        with.median_ns < 2 * without.median_ns + 1_000_000,
        "{with:?} instead of {without:?}"
    );
    ensure!(
        with.p99_ns < 2 * without.p99_ns + 20_000_000,
        "{with:?} instead of {without:?}"
    );
    // The one that works has them all.
    let held = gateway.log()?;
    let at_gateway: usize = held
        .records
        .values()
        .map(std::collections::BTreeMap::len)
        .sum();
    ensure!(
        at_gateway == records.len(),
        "{at_gateway} of {} records",
        records.len()
    );
    Ok(())
}
