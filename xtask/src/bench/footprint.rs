//! Memory against the number of containers, idleness, the binary's size, the time to start.

use std::fs;

use anyhow::{Context as _, Result};
use rustix::time::ClockId;

use super::{
    Bench, Results,
    line::Line,
    load::{Container, Containers, Sleeper, wait_until},
    stats::{median, megabytes, ratio},
    subject::{Subject, cpu_ns, mapped, now, status, wake_ups},
};

/// Containers, and the bar on memory in KiB where there is one.
const SIZES: [(usize, Option<u64>); 4] = [
    (1, None),
    (100, Some(8_000_000 / 1024)),
    (1_000, None),
    (5_000, Some(16_000_000 / 1024)),
];

/// Lives of other containers, for what they make tracer touch.
const LIVES: usize = 20;

pub fn measure(bench: &Bench, results: &mut Results) -> Result<()> {
    let size = fs::metadata(&bench.tracer)?.len();
    results
        .lines
        .push(Line::told("binary", megabytes(size / 1024)));
    let mut containers = Containers::new()?;
    let mut made: Vec<(Sleeper, Container)> = Vec::new();
    for (count, bar) in SIZES {
        if bench.quick && count > 1_000 {
            let why = "not with --quick";
            results
                .lines
                .push(Line::skipped(format!("memory, {count} containers"), why));
            continue;
        }
        while made.len() < count {
            let container = containers.make()?;
            made.push((container.sleeper()?, container));
        }
        memory(bench, &mut containers, count, bar, results)?;
        if count == 100 {
            idle(bench, results)?;
        }
        if count == 1_000 {
            start(bench, results)?;
        }
    }
    Ok(())
}

fn memory(
    bench: &Bench,
    containers: &mut Containers,
    count: usize,
    bar: Option<u64>,
    results: &mut Results,
) -> Result<()> {
    let subject = Subject::tracer(bench, &[])?;
    // Files of containers are looked for after `node.synced`, again after half a second at last.
    wait_until(now(ClockId::Boottime) + 1_500_000_000)?;
    let rss = status(subject.pid(), "VmRSS")?;
    let [anonymous, file, shared] =
        ["RssAnon", "RssFile", "RssShmem"].map(|kind| status(subject.pid(), kind));
    // The ring lies twice in the address space, one behind the other, and counts twice.
    let ring = mapped(subject.pid(), "bpf-map", "Rss")?;
    // The kernel maps what lies around what is read or run. What tracer works with it has touched
    // again after this.
    fs::write(format!("/proc/{}/clear_refs", subject.pid()), "1").context("cannot clear")?;
    for _ in 0..LIVES {
        containers.make()?.live()?;
    }
    let touched = mapped(subject.pid(), "/", "Referenced")?;
    subject.stop()?;
    let mut kinds = format!(
        "{} anonymous, {} files (of it the ring {}; of binary and libraries {LIVES} lives touch {}), {} shared",
        megabytes(anonymous?),
        megabytes(file?),
        megabytes(ring),
        megabytes(touched),
        megabytes(shared?)
    );
    if bar.is_some() {
        kinds += "; the minimal reader's files, a quick build: ";
        kinds += &megabytes(floor_files(bench)?);
    }
    let line = Line::told(format!("memory, {count} containers"), megabytes(rss)).with_peer(kinds);
    results.lines.push(match bar {
        Some(bar) => line.with_bar(format!("<= {}", megabytes(bar)), rss <= bar),
        None => line,
    });
    Ok(())
}

/// What of its memory the minimal reader of the same ring shares with the page cache, KiB. Not the
/// rest: it reads the kernel's types in its own process, which leaves it more.
fn floor_files(bench: &Bench) -> Result<u64> {
    let subject = Subject::floor(bench)?;
    let files = status(subject.pid(), "RssFile")?;
    subject.stop()?;
    Ok(files)
}

/// On a host where something happens in containers, wake-ups are those of its events.
fn idle(bench: &Bench, results: &mut Results) -> Result<()> {
    let seconds = bench.scaled(60, 10);
    let subject = Subject::tracer(bench, &[])?;
    wait_until(now(ClockId::Boottime) + 2_000_000_000)?;
    let (cpu, woken) = (cpu_ns(subject.pid())?, wake_ups(subject.pid())?);
    wait_until(now(ClockId::Boottime) + seconds * 1_000_000_000)?;
    let cpu = cpu_ns(subject.pid())?.saturating_sub(cpu);
    let woken = wake_ups(subject.pid())?.saturating_sub(woken);
    let said = subject.stop()?.len();
    results.lines.push(
        Line::told(
            format!("idle for {seconds} s, 100 containers"),
            format!("{woken} wake-ups, {:.1} ms of CPU", ratio(cpu, 1_000_000)),
        )
        .with_peer(format!("{said} reads of output"))
        .with_bar(
            "no wake-up but events and polls (30 s)",
            woken <= 2 + seconds / 10,
        ),
    );
    Ok(())
}

fn start(bench: &Bench, results: &mut Results) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..bench.scaled(11, 3) {
        let subject = Subject::tracer(bench, &[])?;
        times.push(u64::try_from(subject.ready_after.as_millis())?);
        subject.stop()?;
    }
    let (middle, best) = (median(&mut times), times.first().copied().unwrap_or(0));
    results.lines.push(
        Line::told(
            "start to node.synced, 1,000 containers",
            format!("{middle} ms"),
        )
        .with_peer(format!("best {best} ms"))
        .with_bar("<= 300 ms", middle <= 300),
    );
    Ok(())
}
