//! `cargo xtask build`: the eBPF object, then the one binary with the object inside.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{command, ebpf, packages::Policy, say, workspace};

/// Build the eBPF programs and the one self-contained binary
///
/// Leaves target/<profile>/tracer, with the eBPF object inside it: copy that file to where it shall
/// run. Finds the eBPF tool chain (a compiler with core's source, and bpf-linker); what is missing
/// is installed with apt, or named with the command that installs it, after saying what and why.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `release` is optimised as a whole, `fast` builds quickly and runs nearly as fast
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    #[command(flatten)]
    what: What,
}

/// What every verb that builds has in common.
#[derive(Debug, Clone, clap::Args)]
pub struct What {
    /// Features of the `tracer` crate; `log` also goes to the eBPF programs
    #[arg(long, value_delimiter = ',', value_name = "FEATURE")]
    pub features: Vec<String>,
    #[command(flatten)]
    pub policy: Policy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    Release,
    Fast,
}

impl Profile {
    /// Cargo's profile and the directory below `target`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Fast => "fast",
        }
    }

    pub fn binary(self) -> PathBuf {
        workspace::target().join(self.name()).join("tracer")
    }
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let binary = build(args.profile, &args.what)?;
    say::note(format_args!("built {}", workspace::shown(&binary)));
    Ok(ExitCode::SUCCESS)
}

/// Builds both halves; gives the binary's path.
pub fn build(profile: Profile, what: &What) -> Result<PathBuf> {
    ebpf::build(&what.features, what.policy)?;
    let mut cargo = command::cargo();
    cargo.current_dir(workspace::root()).args([
        "build",
        "--package",
        "tracer",
        "--profile",
        profile.name(),
    ]);
    if !what.features.is_empty() {
        cargo.arg("--features").arg(what.features.join(","));
    }
    command::run(&mut cargo).context("could not build tracer: see the compiler's message above")?;
    Ok(profile.binary())
}
