//! Nodes and a gateway under faults: real processes, a plan per seed.
//!
//! The gateway is `tracer gateway` as it is shipped; the node's spool, senders, heartbeats and
//! snapshots are those of `tracer run`, fed with invented container lives.
//!
//! `TRACER_SEED=n` carries out one plan again, `TRACER_SEEDS=n` so many (default: one per theme),
//! `TRACER_FIRST_SEED=n` where to begin.

use std::{
    collections::BTreeMap,
    env,
    ops::Range,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
};

use tracer_tests::{
    Context, Result, need, this_test,
    tracer::binary,
    upstream::{
        plan::{Plan, Theme},
        run::{Outcome, Programs, run},
    },
};

/// Runs at a time: most of each is waiting.
const AT_A_TIME: usize = 4;

fn programs() -> Programs {
    Programs {
        gateway: binary(),
        node: PathBuf::from(env!("CARGO_BIN_EXE_synthetic-node")),
    }
}

fn carry_out(seed: u64) -> Result<Outcome> {
    let directory = tempfile::tempdir()?;
    let plan = Plan::of(seed);
    let told = format!("TRACER_SEED={seed} {:?} {:?}", plan.theme, plan.steps);
    run(plan, programs(), directory.path()).with_context(|| {
        // For whoever looks into it.
        format!("{told}, all of it kept in {}", directory.keep().display())
    })
}

fn number(name: &str) -> Result<Option<u64>> {
    env::var(name)
        .ok()
        .map(|text| text.parse().with_context(|| format!("{name}={text}")))
        .transpose()
}

fn seeds() -> Result<Range<u64>> {
    if let Some(seed) = number("TRACER_SEED")? {
        return Ok(seed..seed + 1);
    }
    let first = number("TRACER_FIRST_SEED")?.unwrap_or(0);
    Ok(first..first + number("TRACER_SEEDS")?.unwrap_or(Theme::ALL.len() as u64))
}

/// What came of all runs.
#[derive(Default)]
struct Sum {
    /// Runs, records, records missing and told.
    by_theme: BTreeMap<Theme, (u64, u64, u64)>,
    faults: BTreeMap<String, u64>,
    failed: Vec<u64>,
}

impl Sum {
    #[expect(clippy::print_stdout, reason = "for whoever reads the test's output")]
    fn add(&mut self, seed: u64, outcome: Result<Outcome>) {
        match outcome {
            Ok(outcome) => {
                let Outcome {
                    theme,
                    records,
                    missing,
                    took,
                    ..
                } = outcome;
                println!(
                    "seed {seed} {theme:?}: {records} records, {missing} missing and told, {took:.1?}"
                );
                let sum = self.by_theme.entry(theme).or_default();
                sum.0 += 1;
                sum.1 += records;
                sum.2 += missing;
                for (fault, count) in outcome.faults {
                    *self.faults.entry(fault).or_default() += count;
                }
            }
            Err(error) => {
                println!("seed {seed} FAILED: {error:#}");
                self.failed.push(seed);
            }
        }
    }
}

#[test]
fn gateway_and_node_agree_after_every_fault() -> Result<()> {
    let may_mount = rustix::process::geteuid().is_root();
    let mut seeds: Vec<u64> = seeds()?.collect();
    seeds.retain(|seed| may_mount || !Plan::of(*seed).theme.mounts());
    if !may_mount {
        need::skip(this_test!(), "filling a disk needs root")?;
    }
    seeds.reverse();
    let (seeds, sum) = (Mutex::new(seeds), Mutex::new(Sum::default()));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                let next = || seeds.lock().unwrap_or_else(PoisonError::into_inner).pop();
                while let Some(seed) = next() {
                    let outcome = carry_out(seed);
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.add(seed, outcome);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (theme, (runs, records, missing)) in sum.by_theme {
        println!("{theme:?}: {runs} runs, {records} records, {missing} missing and told");
    }
    println!("faults: {:?}", sum.faults);
    assert!(sum.failed.is_empty(), "failed seeds: {:?}", sum.failed);
    Ok(())
}
