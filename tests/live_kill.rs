//! `kill -9` at random moments, while containers live and die: the stream is whole all the same.
//!
//! The test makes the containers, so it knows the truth: which there were, and with which code each
//! ended. `TRACER_KILLS` and `TRACER_KILLS_UNPINNED` set how often is killed, `TRACER_SEED` when.

use std::collections::BTreeMap;
use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tracer_tests::mortal::{Mortal, PinDir};
use tracer_tests::raw::{RawContainer, Shape};
use tracer_tests::wait::DEADLINE;
use tracer_tests::{Context, Record, Result, anyhow, ensure, live};

/// A container that was, and its exit code.
type Truth = BTreeMap<String, u64>;

/// Marsaglia's xorshift: when to kill is chance, but the same chance for the same seed.
struct Chance(u64);

impl Chance {
    fn new() -> Result<Self> {
        match env::var("TRACER_SEED") {
            Ok(seed) => Ok(Self(seed.parse().context("TRACER_SEED")?)),
            Err(_) => Ok(Self(u64::from(std::process::id()) * 0x9e37_79b9 + 1)),
        }
    }

    fn up_to(&mut self, end: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let permille = u32::try_from(self.0 % 1000).unwrap_or(0);
        end * permille / 1000
    }
}

fn count(name: &str, default: usize) -> Result<usize> {
    match env::var(name) {
        Ok(value) => value.parse().with_context(|| name.to_owned()),
        Err(_) => Ok(default),
    }
}

/// Containers one after the other until told to stop, each with an exit code of its own.
fn churn(stop: &AtomicBool) -> Result<Truth> {
    let mut truth = Truth::new();
    let mut code = 0;
    while !stop.load(Ordering::Relaxed) {
        code = (code + 1) % 120;
        let container = RawContainer::docker()?;
        let mut init = container.spawn(Shape::Joined, &["stay", &code.to_string()])?;
        init.close_stdin();
        init.finish(DEADLINE)?;
        truth.insert(container.id().to_owned(), code);
        container.remove()?;
    }
    Ok(truth)
}

/// Kills tracer so often at random moments while containers come and go; ends in order.
fn kill_often(tracer: &mut Mortal, kills: usize, longest: Duration) -> Result<Truth> {
    let mut chance = Chance::new()?;
    let seed = chance.0;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let churning = scope.spawn(|| churn(&stop));
        let killed = (0..kills).try_for_each(|_| {
            tracer.start()?;
            tracer.listen(chance.up_to(longest))?;
            tracer.kill()
        });
        let last = killed.and_then(|()| tracer.start_synced());
        stop.store(true, Ordering::Relaxed);
        let truth = churning.join().map_err(|_panic| anyhow!("churn died"))?;
        last.with_context(|| format!("TRACER_SEED={seed}"))?;
        // Behind all that happened.
        let marker = RawContainer::docker()?;
        let id = marker.id().to_owned();
        marker.remove()?;
        tracer.expect("the marker's end", |record| {
            record.is("container.removed") && record.container() == Some(&id)
        })?;
        tracer.stop()?;
        truth
    })
}

fn lives(records: &[Record]) -> BTreeMap<&str, Vec<&Record>> {
    let mut lives: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        if let Some(container) = record.container()
            && !record.is("container.enriched")
        {
            lives.entry(container).or_default().push(record);
        }
    }
    lives
}

fn kinds<'a>(life: &[&'a Record]) -> Vec<&'a str> {
    life.iter().map(|record| record.kind()).collect()
}

const WHOLE: [&str; 5] = [
    "container.created",
    "container.started",
    "container.exited",
    "container.emptied",
    "container.removed",
];

#[test]
fn with_pinned_programs_a_kill_loses_nothing_and_tells_nothing_twice() -> Result<()> {
    let _live = live!();
    let kills = count("TRACER_KILLS", 100)?;
    let pins = PinDir::new()?;
    let mut tracer = Mortal::new(&[&pins.flag(), "--ring-bytes", "4194304"])?;
    // The programs are there from here on.
    tracer.start_synced()?;
    let begun = tracer.heard();
    ensure!(begun > 0, "nothing was said");
    tracer.kill()?;
    let truth = kill_often(&mut tracer, kills, Duration::from_millis(150))?;

    let records = tracer.records()?;
    ensure!(
        !records.iter().any(|record| record.is("node.gap")),
        "a gap was told: {:?}",
        records.iter().find(|record| record.is("node.gap"))
    );
    let lives = lives(&records);
    for (id, code) in &truth {
        let life = lives
            .get(id.as_str())
            .with_context(|| format!("{id} was never told"))?;
        ensure!(kinds(life) == WHOLE, "{id}: {:?}", kinds(life));
        let told = life[2].number("process.exit.code");
        ensure!(told == Some(*code), "{id} ended with {code}, told {told:?}");
        for record in life {
            ensure!(record.text("origin") == Some("kernel"), "{record:?}");
        }
    }
    let starts = records
        .iter()
        .filter(|record| record.is("node.started"))
        .count();
    let repeated = tracer.repeated_in_pipe()?;
    println!(
        "{kills} kills ({starts} starts told), {} containers, {} records: none missing, none twice in the file, {repeated} repeated byte for byte in the pipe",
        truth.len(),
        records.len()
    );
    Ok(())
}

#[test]
fn without_pins_each_gap_is_told_and_nothing_is_invented() -> Result<()> {
    let _live = live!();
    let kills = count("TRACER_KILLS_UNPINNED", 20)?;
    let mut tracer = Mortal::new(&[])?;
    // It is there throughout: what it is must be known after each gap, and told once.
    let stays = RawContainer::docker()?;
    let mut init = stays.spawn(Shape::Joined, &["stay", "42"])?;
    let truth = kill_often(&mut tracer, kills, Duration::from_millis(1200))?;
    let stays_id = stays.id().to_owned();
    tracer.start_synced()?;
    init.close_stdin();
    init.finish(DEADLINE)?;
    stays.remove()?;
    tracer.expect("the end of the one that stayed", |record| {
        record.is("container.removed") && record.container() == Some(&stays_id)
    })?;
    tracer.stop()?;

    let records = tracer.records()?;
    let lives = lives(&records);
    let (mut whole, mut partly) = (0, 0);
    for (id, life) in &lives {
        let Some(code) = truth.get(*id) else {
            continue;
        };
        let told = kinds(life);
        ensure!(told.last() == Some(&"container.removed"), "{id}: {told:?}");
        let exited = life.iter().find(|record| record.is("container.exited"));
        if let Some(told) = exited.and_then(|record| record.number("process.exit.code")) {
            ensure!(told == *code, "{id} ended with {code}, told {told}");
        }
        if told == WHOLE {
            whole += 1;
        } else {
            partly += 1;
        }
    }
    let stayed = kinds(&lives[stays_id.as_str()]);
    ensure!(
        stayed
            == [
                "container.discovered",
                "container.exited",
                "container.emptied",
                "container.removed"
            ],
        "{stayed:?}"
    );
    let count = |kind: &str| records.iter().filter(|record| record.is(kind)).count();
    let (starts, gaps) = (count("node.started"), count("node.gap"));
    ensure!(
        gaps > 0 && gaps < starts + 1,
        "{gaps} gaps, {starts} starts"
    );
    for (gap, after) in records.iter().zip(&records[1..]) {
        if gap.is("node.gap") {
            ensure!(gap.text("node.reason").is_some(), "{gap:?}");
            ensure!(
                gap.text("node.since") <= gap.text("node.until"),
                "{gap:?} before {after:?}"
            );
        }
    }
    let repeated = tracer.repeated_in_pipe()?;
    println!(
        "{kills} kills: {} containers, {whole} told whole, {partly} with what could be known, {} lived in a gap; {gaps} gaps told, {repeated} records repeated byte for byte in the pipe",
        truth.len(),
        truth.len() - whole - partly
    );
    Ok(())
}
