//! Against what runtimes tell of the same containers themselves.
//!
//! The comparison is made by the tests' harness, which has daemons of its own; this judges it.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{
    Bench, Results,
    line::Line,
    stats::{median, micros, percentile, ratio},
};
use crate::{build::Profile, command, test::runtimes, workspace};

/// How much sooner than Docker.
const SOONER: u64 = 50;

/// What the harness says of one runtime and event.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Compared {
    Told {
        peer: String,
        event: String,
        tracer_ns: Vec<u64>,
        peer_ns: Vec<u64>,
        /// Empty where the floor was not measured.
        floor_ns: Vec<u64>,
    },
    Failed {
        peer: String,
        error: String,
    },
}

pub fn measure(bench: &Bench, results: &mut Results) -> Result<()> {
    if let Err(error) = runtimes::ensure_of(
        &["dockerd", "podman", "containerd", "runc", "busybox"],
        bench.policy,
    ) {
        let why = format!("{error:#}");
        results
            .lines
            .push(Line::skipped("latency against runtimes", why));
        return Ok(());
    }
    let harness = build()?;
    let mut compare = Command::new(harness);
    compare
        .arg(bench.scaled(30, 5).to_string())
        .arg(&bench.parts)
        .env("TRACER_BIN", &bench.tracer);
    let text = command::probe(&mut compare).context("the comparison with runtimes failed")?;
    let compared: Vec<Compared> = serde_json::from_str(&text)?;
    let docker = compared.iter().filter_map(|one| match one {
        Compared::Told { peer, peer_ns, .. } if peer == "docker" => Some(peer_ns),
        _ => None,
    });
    let docker: Vec<u64> = docker.flatten().copied().collect();
    if !docker.is_empty() {
        results
            .picture
            .latency
            .push(("docker events".to_owned(), docker));
    }
    results.lines.extend(compared.into_iter().map(line));
    Ok(())
}

fn line(compared: Compared) -> Line {
    let (peer, event, mut ours, mut theirs, mut least) = match compared {
        Compared::Told {
            peer,
            event,
            tracer_ns,
            peer_ns,
            floor_ns,
        } => (peer, event, tracer_ns, peer_ns, floor_ns),
        Compared::Failed { peer, error } => {
            return Line::skipped(format!("latency against `{peer} events`"), error);
        }
    };
    let (own, other) = (median(&mut ours), median(&mut theirs));
    let sooner = ratio(other, own);
    let p99 = (percentile(&mut ours, 990), percentile(&mut theirs, 990));
    let line = Line::told(
        format!("latency against `{peer} events`, {event}"),
        format!(
            "{} (p99 {}) = {sooner:.0}x sooner",
            micros(own),
            micros(p99.0)
        ),
    )
    .with_peer(format!(
        "{} (p99 {}, {} containers){}",
        micros(other),
        micros(p99.1),
        theirs.len(),
        if least.is_empty() {
            String::new()
        } else {
            let floor = median(&mut least);
            let times = ratio(other, floor);
            format!("; the floor {} = {times:.0}x sooner", micros(floor))
        }
    ));
    if peer == "docker" {
        // As a time as well, to be held against the floor's: a wake-up alone may take longer.
        let bar = format!(">= {SOONER}x sooner: {}", micros(other / SOONER));
        line.with_bar(bar, own != 0 && own <= other / SOONER)
    } else {
        line
    }
}

/// The harness, quick to build.
fn build() -> Result<std::path::PathBuf> {
    let mut cargo = command::cargo();
    cargo.current_dir(workspace::root()).args([
        "build",
        "--package",
        "tracer-tests",
        "--bin",
        "bench-peers",
        "--profile",
        Profile::Fast.name(),
    ]);
    command::run(&mut cargo).context("could not build the comparison with runtimes")?;
    Ok(workspace::target()
        .join(Profile::Fast.name())
        .join("bench-peers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_that_are_late_or_missing() {
        let text = r#"[{"peer":"docker","event":"die","tracer_ns":[1000,2000,3000],"peer_ns":[100000,200000,300000],"floor_ns":[500,1000,1500]},
            {"peer":"podman","error":"no podman"}]"#;
        let compared: Vec<Compared> = serde_json::from_str(text).expect("JSON");
        let lines: Vec<Line> = compared.into_iter().map(line).collect();
        assert!(lines[0].measured.ends_with("100x sooner"), "{:?}", lines[0]);
        assert!(lines[0].peer.ends_with("the floor 1.0 µs = 200x sooner"));
        assert_eq!(lines[0].verdict, super::super::line::Verdict::Pass);
        assert_eq!(lines[1].verdict, super::super::line::Verdict::Skipped);
    }
}
