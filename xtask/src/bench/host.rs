//! What tracing costs those who are traced.
//!
//! Per run: the kernel's own statistics (`kernel.bpf_stats_enabled`), of the programs on processes over
//! spawns, outside every container (the filtered path) and inside one with `--processes` (the emitted
//! path); of those on cgroups over lives of cgroups that are none and of containers. Every mkdir is
//! emitted, and a cgroup that is none is let go of a moment after it: what is frozen by then is emitted
//! too. Other than of spawns, a record of a container's life wakes tracer where it is idle.
//! In all: fork, exec, exit and wait of many processes, in turns without and with tracer. Others'
//! work on the machine slows processes down and never speeds them up, for a moment or for minutes and
//! by far more than what is measured. So each turn is measured in slices, long enough that whatever
//! tracer does is in each of them; of the two turns of a pair, which are a second apart, the quickest
//! slices are compared, and the median of many pairs is told. Without tracer in either turn it came
//! to 100 % with a standard error of half a percent for 61 pairs on a noisy machine, where whole turns
//! came with one of one and a half.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{
    Bench, Results,
    line::Line,
    load::{Container, Containers, finish, shell},
    stats::{median, micros, percentile, ratio},
    subject::Subject,
};
use crate::command;

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

pub fn measure(bench: &Bench, results: &mut Results) -> Result<()> {
    let before = fs::read_to_string(STATISTICS).context("the kernel keeps no run statistics")?;
    fs::write(STATISTICS, "1").context("cannot switch run statistics on")?;
    let measured = per_run(bench, results);
    fs::write(STATISTICS, before.trim()).context("cannot switch run statistics back")?;
    measured?;
    spawn_rates(bench, results)
}

/// Runs and nanoseconds of one program.
#[derive(Debug, Clone, Deserialize)]
struct Program {
    id: u32,
    name: Option<String>,
    runs: Option<u64>,
    ns: Option<u64>,
}

fn programs(bench: &Bench) -> Result<BTreeMap<u32, Program>> {
    let mut command = Command::new(&bench.parts);
    command.arg("programs");
    let text = command::probe(&mut command).context("cannot list the loaded programs")?;
    let programs: Vec<Program> = serde_json::from_str(&text)?;
    Ok(programs
        .into_iter()
        .map(|program| (program.id, program))
        .collect())
}

fn per_run(bench: &Bench, results: &mut Results) -> Result<()> {
    let (spawns, lives) = (bench.scaled(5_000, 1_000), bench.scaled(1_000, 200));
    let others = programs(bench)?;
    let mut containers = Containers::new()?;
    let subject = Subject::tracer(bench, &["--processes"])?;
    let start = programs(bench)?;
    finish(shell(&spawning(spawns), None)?)?;
    let spawned = programs(bench)?;
    for _ in 0..lives {
        containers.make_other()?.live()?;
    }
    let outside = [start, spawned, programs(bench)?];
    let container = containers.make()?;
    let start = programs(bench)?;
    finish(container.shell(&spawning(spawns))?)?;
    let spawned = programs(bench)?;
    for _ in 0..lives {
        containers.make()?.live()?;
    }
    let inside = [start, spawned, programs(bench)?];
    drop(container);
    subject.stop()?;
    let [start, ..] = &outside;
    for (id, program) in start.iter().filter(|(id, _)| !others.contains_key(id)) {
        let name = program.name.as_deref().unwrap_or("?");
        let what = format!("program {name}, per run");
        let (quiet, told) = (cost(*id, &outside), cost(*id, &inside));
        results.lines.push(if quiet.is_some() || told.is_some() {
            let show = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), |ns| format!("{ns} ns"));
            Line::told(what, format!("{} filtered", show(quiet)))
                .with_peer(format!("{} emitted", show(told)))
        } else {
            // An OOM kill, a renamed v1 cgroup.
            Line::skipped(what, "nothing here makes it run often")
        });
    }
    Ok(())
}

/// Of the first of these stretches in which it ran often.
fn cost(id: u32, moments: &[BTreeMap<u32, Program>]) -> Option<u64> {
    let mut stretches = moments.windows(2);
    stretches.find_map(|stretch| match stretch {
        [before, after] => per(before.get(&id)?, after.get(&id)?),
        _ => None,
    })
}

/// Runs below which an average says nothing.
const FEW: u64 = 100;

fn per(before: &Program, after: &Program) -> Option<u64> {
    let runs = after.runs?.saturating_sub(before.runs?);
    let ns = after.ns?.saturating_sub(before.ns?);
    (runs >= FEW).then(|| ns / runs)
}

/// A script that forks, executes and waits for so many processes.
pub fn spawning(count: u64) -> String {
    format!("i=0; while [ $i -lt {count} ]; do /bin/true; i=$((i+1)); done")
}

/// Slices of a turn, and processes in each: some 20 ms, in which `--processes` takes records out of the
/// ring a few times.
const SLICES: usize = 12;
const SPAWNS: u64 = 25;

fn spawn_rates(bench: &Bench, results: &mut Results) -> Result<()> {
    let rounds = bench.scaled(121, 15);
    let mut containers = Containers::new()?;
    // Warms caches, is not counted.
    turn(None)?;
    for (flags, name, bar) in [
        (&[][..], "default mode", 0.99),
        (&["--processes"][..], "--processes", 0.97),
    ] {
        for inside in [false, true] {
            let (mut shares, mut untraced) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                let mut run = |traced: bool| {
                    let subject = traced.then(|| Subject::tracer(bench, flags)).transpose()?;
                    let container = inside.then(|| containers.make()).transpose()?;
                    let took = turn(container.as_ref())?;
                    drop(container);
                    subject.map(Subject::stop).transpose().map(|_| took)
                };
                // Either goes first as often as the other.
                let first = run(round % 2 == 0)?;
                let second = run(round % 2 != 0)?;
                let (with, without) = if round % 2 == 0 {
                    (first, second)
                } else {
                    (second, first)
                };
                shares.push(without * WHOLE / with.max(1));
                untraced.push(without);
            }
            let mut pairs = |place| ratio(percentile(&mut shares, place), WHOLE);
            let (quarter, share, three) = (pairs(250), pairs(500), pairs(750));
            let place = if inside {
                "inside a container"
            } else {
                "outside"
            };
            results.lines.push(
                Line::told(
                    format!("spawn rate {place}, {name}"),
                    format!("{:.1} % of the rate without", share * 100.0),
                )
                .with_peer(format!(
                    "{} without; {rounds} pairs, quartiles {:.1} % and {:.1} %",
                    micros(median(&mut untraced) / SPAWNS),
                    quarter * 100.0,
                    three * 100.0
                ))
                .with_bar(format!(">= {:.0} %", bar * 100.0), share >= bar),
            );
        }
    }
    Ok(())
}

/// A share of one.
const WHOLE: u64 = 100_000;

/// Nanoseconds of the quickest slice.
fn turn(container: Option<&Container>) -> Result<u64> {
    let script = format!("while read -r go; do {}; echo; done", spawning(SPAWNS));
    let shell = match container {
        Some(container) => container.shell(&script)?,
        None => shell(&format!("read -r go; {script}"), None)?,
    };
    let mut spawner = Spawner::new(shell)?;
    // Begins.
    spawner.to.write_all(b"\n")?;
    let mut quickest = u64::MAX;
    for _ in 0..SLICES {
        quickest = quickest.min(spawner.time()?);
    }
    finish(spawner.end())?;
    Ok(quickest)
}

/// A shell that spawns processes whenever it is told to.
struct Spawner {
    shell: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Spawner {
    fn new(mut shell: Child) -> Result<Self> {
        Ok(Self {
            to: shell.stdin.take().context("no pipe")?,
            from: BufReader::new(shell.stdout.take().context("no pipe")?),
            shell,
        })
    }

    /// Nanoseconds for [`SPAWNS`].
    fn time(&mut self) -> Result<u64> {
        let begin = Instant::now();
        self.to.write_all(b"\n")?;
        ensure!(
            self.from.read_line(&mut String::new())? != 0,
            "a shell of the load ended"
        );
        Ok(u64::try_from(begin.elapsed().as_nanos())?)
    }

    fn end(self) -> Child {
        self.shell
    }
}
