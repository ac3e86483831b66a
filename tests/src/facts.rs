//! What is known of containers, and when: at their start, or later.
//!
//! `TRACER_ENRICHED=200` measures with so many containers of each runtime; the figures are on
//! standard error.

use std::io::Write as _;

use anyhow::{Result, ensure};

use crate::command::Running;
use crate::record::Record;
use crate::tracer::{Tracer, latency};
use crate::wait::DEADLINE;

/// Containers that start at the same time.
const AT_ONCE: usize = 8;

/// How many containers of a runtime such a test starts.
#[must_use]
pub fn count() -> usize {
    let given = std::env::var("TRACER_ENRICHED").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// Starts these containers, some at once: of each the facts must be known then.
pub fn start_in_full(
    runtime: &str,
    ids: &[String],
    facts: &[&str],
    start: impl Fn(&str) -> Result<Running>,
) -> Result<()> {
    let mut tracer = Tracer::start(&[])?;
    all(ids, |id| start(id))?;
    share(&mut tracer, runtime, ids, facts)?;
    told(&tracer.stop()?, runtime)
}

/// What must be known of each container when it starts.
pub fn share(tracer: &mut Tracer, runtime: &str, ids: &[String], facts: &[&str]) -> Result<()> {
    let mut whole = 0;
    let mut lacking = Vec::new();
    for id in ids {
        let start = tracer.expect_of(id, "container.started", 1)?;
        let missing: Vec<&str> = facts
            .iter()
            .filter(|fact| start.at(fact).is_none())
            .copied()
            .collect();
        if start.text("enrichment") == Some("full") && missing.is_empty() {
            whole += 1;
        } else {
            lacking.push(format!("{id}: {missing:?} {start:?}"));
        }
    }
    let created = ids.iter().filter(|id| {
        let life = tracer.life(id);
        let first = life.first();
        first.is_some_and(|record| record.text("enrichment") == Some("full"))
    });
    let line = format!(
        "{runtime}: {whole} of {} started in full, {} created in full\n",
        ids.len(),
        created.count()
    );
    std::io::stderr().write_all(line.as_bytes())?;
    ensure!(
        whole == ids.len(),
        tracer.failure(&format!("{line}{}", lacking.join("\n")))
    );
    Ok(())
}

/// Runs what is to be started, some at once.
pub fn all<T>(items: &[T], start: impl Fn(&T) -> Result<Running>) -> Result<()> {
    for some in items.chunks(AT_ONCE) {
        let running: Vec<Running> = some.iter().map(&start).collect::<Result<_>>()?;
        for one in running {
            one.finish(DEADLINE * 2)?.ended(0)?;
        }
    }
    Ok(())
}

/// Shows how long the records waited.
pub fn told(records: &[Record], runtime: &str) -> Result<()> {
    let told = latency(records)?;
    let line = format!(
        "{runtime}: emit latency median {} us, p99 {} us\n",
        told.median_ns / 1000,
        told.p99_ns / 1000
    );
    std::io::stderr().write_all(line.as_bytes())?;
    Ok(())
}

/// Waits until a record of this container has the fact.
pub fn known_later(tracer: &mut Tracer, id: &str, fact: &str) -> Result<Record> {
    tracer
        .expect(&format!("{fact} of {id}"), |record| {
            record.container() == Some(id) && record.at(fact).is_some()
        })
        .map_err(|error| {
            let life: Vec<_> = tracer.life(id).into_iter().cloned().collect();
            error.context(format!("{life:?}"))
        })
}
