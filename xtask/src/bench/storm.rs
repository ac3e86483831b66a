//! Spawns at full speed with `--processes`: what comes out, what was dropped, and that no lifecycle
//! record is missing.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    Bench, Results,
    host::spawning,
    line::Line,
    load::{Containers, finish, shell},
    subject::{Chunk, Subject},
};

/// Containers at once.
const MANY: usize = 200;

pub fn measure(bench: &Bench, results: &mut Results) -> Result<()> {
    let spawns = bench.scaled(20_000, 2_000);
    for (name, count, inside, outside) in [
        ("inside one container", 1, spawns, 0),
        ("outside", 0, 0, spawns),
        ("inside 200 containers at once", MANY, spawns / 100, 0),
    ] {
        let mut containers = Containers::new()?;
        let subject = Subject::tracer(bench, &["--processes"])?;
        let made = containers.many(count)?;
        let shells = made
            .iter()
            .map(|container| container.shell(&spawning(inside)));
        let mut shells = shells.collect::<Result<Vec<_>>>()?;
        // All begin before any is waited for.
        for shell in &mut shells {
            drop(shell.stdin.take());
        }
        finish(shell(&spawning(outside), None)?)?;
        for shell in shells {
            finish(shell)?;
        }
        for container in &made {
            container.remove()?;
        }
        let told = Told::of(&subject.stop()?)?;
        // Each spawn executes once and ends once; the shells themselves come on top.
        let expected = 2 * inside * u64::try_from(count)?;
        let lives = u64::try_from(count)?;
        let whole = LIFE.iter().all(|kind| told.of_type(kind) == lives)
            && told.lost.keys().all(|kind| kind == "process");
        results.lines.push(
            Line::told(
                format!("storm {name}"),
                format!(
                    "{} of {} lifecycle records, {} process records",
                    LIFE.iter().map(|kind| told.of_type(kind)).sum::<u64>(),
                    lives * LIFE.len() as u64,
                    told.of_type("process.exec") + told.of_type("process.exited"),
                ),
            )
            .with_peer(format!(
                "{expected} process records made, dropped: {}",
                told.drops()
            ))
            .with_bar("no lifecycle record lost", whole),
        );
    }
    Ok(())
}

/// What every container goes through here.
const LIFE: [&str; 5] = [
    "container.created",
    "container.started",
    "container.exited",
    "container.emptied",
    "container.removed",
];

/// What came out of this run's containers.
#[derive(Default)]
struct Told {
    types: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
}

impl Told {
    fn of(chunks: &[Chunk]) -> Result<Self> {
        let mut told = Self::default();
        let bytes: Vec<u8> = chunks
            .iter()
            .flat_map(|chunk| &chunk.bytes)
            .copied()
            .collect();
        let own = Containers::prefix();
        for line in bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let record: Value = serde_json::from_slice(line).context("a line that is no JSON")?;
            let id = record.pointer("/container/id").and_then(Value::as_str);
            let kind = record
                .get("type")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if id.is_some_and(|id| id.starts_with(&own)) {
                *told.types.entry(kind.to_owned()).or_default() += 1;
            }
            let lost = record.pointer("/node/lost").and_then(Value::as_object);
            for (kind, count) in lost.into_iter().flatten() {
                *told.lost.entry(kind.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        Ok(told)
    }

    fn of_type(&self, kind: &str) -> u64 {
        self.types.get(kind).copied().unwrap_or(0)
    }

    fn drops(&self) -> String {
        if self.lost.is_empty() {
            return "none".to_owned();
        }
        let drops = self
            .lost
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"));
        drops.collect::<Vec<_>>().join(", ")
    }
}
