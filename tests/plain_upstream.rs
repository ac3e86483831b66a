//! Nodes and a gateway under faults: real processes, a plan per seed.
//!
//! The gateway is the simplest one that keeps the protocol's promises (`reference-gateway`);
//! `TRACER_GATEWAY=shipped` takes `tracer gateway` instead.
//!
//! `TRACER_SEED=n` carries out one plan again, `TRACER_SEEDS=n` so many (default 10, one per theme),
//! `TRACER_FIRST_SEED=n` where to begin.

use std::{collections::BTreeMap, env, path::PathBuf};

use tracer_tests::{
    Context, Result, need, this_test,
    tracer::binary,
    upstream::{
        plan::{Plan, Theme},
        run::{Outcome, Programs, run},
    },
};

fn programs() -> Programs {
    Programs {
        gateway: match env::var_os("TRACER_GATEWAY") {
            Some(_) => binary(),
            None => PathBuf::from(env!("CARGO_BIN_EXE_reference-gateway")),
        },
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

#[test]
fn gateway_and_node_agree_after_every_fault() -> Result<()> {
    let seeds = if let Some(seed) = number("TRACER_SEED")? {
        seed..seed + 1
    } else {
        let first = number("TRACER_FIRST_SEED")?.unwrap_or(0);
        first..first + number("TRACER_SEEDS")?.unwrap_or(Theme::ALL.len() as u64)
    };
    let may_mount = rustix::process::geteuid().is_root();
    let mut by_theme: BTreeMap<Theme, (u64, u64, u64)> = BTreeMap::new();
    let mut faults: BTreeMap<String, u64> = BTreeMap::new();
    let mut failed = Vec::new();
    for seed in seeds {
        if Plan::of(seed).theme.mounts() && !may_mount {
            need::skip(this_test!(), "filling a disk needs root")?;
            continue;
        }
        match carry_out(seed) {
            Ok(outcome) => {
                let sum = by_theme.entry(outcome.theme).or_default();
                sum.0 += 1;
                sum.1 += outcome.records;
                sum.2 += outcome.missing;
                for (fault, count) in outcome.faults {
                    *faults.entry(fault).or_default() += count;
                }
                println!(
                    "seed {seed} {:?}: {} records, {} missing and told",
                    outcome.theme, outcome.records, outcome.missing
                );
            }
            Err(error) => {
                println!("seed {seed} FAILED: {error:#}");
                failed.push(seed);
            }
        }
    }
    for (theme, (runs, records, missing)) in by_theme {
        println!("{theme:?}: {runs} runs, {records} records, {missing} missing and told");
    }
    println!("faults: {faults:?}");
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
    Ok(())
}
