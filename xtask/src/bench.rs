//! `cargo xtask bench`: the numbers that tracer promises, measured.
//!
//! ```text
//!  rows: latency · host · storm · pipeline · footprint · growth · gateway
//!    │       │ each measures what it can here, and gives lines
//!    ▼       ▼
//!  Line { what, bar, measured, peer, verdict } ──▶ table (stdout) · JSON · picture (SVG)
//! ```
//!
//! Machines differ and are noisy: what is compared is measured in turns within one run, medians and
//! high percentiles are told, and bars are ratios where they can be. A row that cannot be measured
//! here is skipped by name; a bar that is not met is `SHORT`, and the exit code is 0 all the same:
//! this measures, it does not judge a build.
//!
//! Load comes from cgroups and processes made directly, in the shape of Docker's: no runtime is
//! needed but for the comparison with their own events ([`peers`]).

mod footprint;
mod gateway;
mod growth;
mod host;
mod latency;
mod line;
mod load;
mod peers;
mod picture;
mod pipeline;
mod stats;
mod storm;
mod subject;
pub mod work;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use self::{line::Line, picture::Picture};
use crate::{
    build::{self, Profile, What},
    command, mounts,
    packages::Policy,
    say, workspace,
};

/// Measure what tracer costs and how soon it tells
///
/// Needs root. Prints one table on stdout. Best on an idle machine: whatever else runs is measured
/// as well.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to measure; everything if not given
    rows: Vec<Row>,
    /// Fewer rounds, shorter recordings: minutes instead of a quarter of an hour
    #[arg(long)]
    quick: bool,
    /// Write the table as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw latencies and throughput
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Profile of the binary that is measured
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    #[command(flatten)]
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Row {
    /// Kernel time stamp to the bytes in another process, beside the floor, and beside the events
    /// that runtimes tell themselves
    Latency,
    /// What programs cost per run, and spawns with and without tracer
    Host,
    /// Spawns at full speed: what comes out, what is dropped
    Storm,
    /// Replay of a recording to JSON
    Pipeline,
    /// Memory, wake-ups, size, start
    Footprint,
    /// Cost and memory against the number of containers and the depth of cgroups
    Growth,
    /// What the gateway takes in, what many nodes cost it, how soon its readers know
    Gateway,
}

/// What every row gets.
struct Bench {
    /// The binary that is measured.
    tracer: PathBuf,
    /// The example that holds the floor and the generator.
    parts: PathBuf,
    quick: bool,
    /// Whether runtimes to compare with may be installed.
    policy: Policy,
    /// For recordings and sockets; removed at the end.
    dir: PathBuf,
}

impl Bench {
    /// Gives `use_it` a bench with a directory that is there as long.
    fn with<T>(
        tracer: &Path,
        quick: bool,
        policy: Policy,
        use_it: impl FnOnce(&Self) -> T,
    ) -> Result<T> {
        let parts = build_parts()?;
        mounts::ensure()?;
        let dir = workspace::target().join(format!("bench-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let bench = Self {
            tracer: tracer.to_owned(),
            parts,
            quick,
            policy,
            dir,
        };
        let used = use_it(&bench);
        // Recordings are large.
        let removed = fs::remove_dir_all(&bench.dir);
        removed.with_context(|| format!("cannot remove {}", bench.dir.display()))?;
        Ok(used)
    }

    /// A number that `--quick` makes smaller.
    fn scaled<T>(&self, whole: T, quick: T) -> T {
        if self.quick { quick } else { whole }
    }
}

/// What the rows gave.
#[derive(Default)]
struct Results {
    lines: Vec<Line>,
    picture: Picture,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let tracer = build::build(args.profile, &args.what)?;
    let policy = args.what.policy;
    let results = Bench::with(&tracer, args.quick, policy, |bench| {
        measure(bench, &args.rows)
    })?;
    line::print(&results.lines);
    if let Some(file) = &args.json {
        let json = serde_json::to_string_pretty(&results.lines)?;
        fs::write(file, json + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &args.svg {
        fs::write(file, results.picture.svg())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The rows that are asked for; one that fails is a line of its own and does not end the others.
fn measure(bench: &Bench, rows: &[Row]) -> Results {
    let mut results = Results::default();
    for row in Row::value_variants() {
        if !rows.is_empty() && !rows.contains(row) {
            continue;
        }
        let name = row
            .to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned());
        say::note(format_args!("measuring {name}"));
        let measured = match row {
            Row::Latency => latency::measure(bench, &mut results)
                .and_then(|()| peers::measure(bench, &mut results)),
            Row::Host => host::measure(bench, &mut results),
            Row::Storm => storm::measure(bench, &mut results),
            Row::Pipeline => pipeline::measure(bench, &mut results),
            Row::Footprint => footprint::measure(bench, &mut results),
            Row::Growth => growth::measure(bench, &mut results),
            Row::Gateway => gateway::measure(bench, &mut results),
        };
        if let Err(error) = measured {
            say::note(format_args!("{name}: {error:#}"));
            results.lines.push(Line::failed(&name, &error));
        }
    }
    results
}

/// The floor and the generator: not measured themselves, so the quick profile does.
fn build_parts() -> Result<PathBuf> {
    let mut cargo = command::cargo();
    cargo.current_dir(workspace::root()).args([
        "build",
        "--package",
        "tracer",
        "--example",
        "bench",
        "--profile",
        Profile::Fast.name(),
    ]);
    command::run(&mut cargo).context("could not build the floor and the generator")?;
    Ok(workspace::target()
        .join(Profile::Fast.name())
        .join("examples/bench"))
}
