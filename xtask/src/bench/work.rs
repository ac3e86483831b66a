//! All that tracer is for, a little of each: what a build is shaped by ([`crate::dist`]).

use std::{path::Path, process::Command};

use anyhow::Result;

use super::{
    Bench, Results, gateway, growth,
    host::spawning,
    latency,
    load::{Containers, finish},
    pipeline, storm,
    subject::Subject,
};
use crate::packages::Policy;

/// Container lives that the outlets tell, and processes in one container.
const LIVES: u64 = 200;
const SPAWNS: u64 = 300;

/// What a daemon does on every host. Needs root.
pub fn daemon(tracer: &Path, policy: Policy) -> Result<()> {
    Bench::with(tracer, true, policy, |bench| {
        let results = &mut Results::default();
        latency::measure(bench, results)?;
        storm::measure(bench, results)?;
        outlets(bench)
    })?
}

/// What else the same binary does: replays, and gateways with what they are sent.
pub fn others(tracer: &Path, policy: Policy) -> Result<()> {
    Bench::with(tracer, true, policy, |bench| {
        let results = &mut Results::default();
        pipeline::measure(bench, results)?;
        growth::times(bench, results)?;
        gateway::measure(bench, results)
    })?
}

/// A file, a state directory, a recording, a socket and its reader.
fn outlets(bench: &Bench) -> Result<()> {
    let at = |name: &str| bench.dir.join(name).display().to_string();
    let socket = at("socket");
    let subject = Subject::run(
        bench,
        &[
            "--processes",
            &format!("--socket={socket}"),
            &format!("--file={}", at("records")),
            &format!("--state-dir={}", at("state")),
            &format!("--record={}", at("outlets.rec")),
        ],
    )?;
    let mut events = Command::new(&bench.tracer);
    events.args(["events", "--since=1h", "--socket", &socket]);
    let reader = Subject::start(events, "\n")?;
    let mut containers = Containers::new()?;
    latency::load(&mut containers, 500, LIVES)?;
    let container = containers.make()?;
    finish(container.shell(&spawning(SPAWNS))?)?;
    drop(container);
    reader.stop()?;
    subject.stop()?;
    Ok(())
}
