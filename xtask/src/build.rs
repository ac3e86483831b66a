//! `cargo xtask build`: the eBPF object, then the one binary with the object inside.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{command, dist, ebpf, packages::Policy, say, workspace};

/// Build the eBPF programs and the one self-contained binary
///
/// Leaves target/<profile>/tracer, with the eBPF object inside it: copy that file to where it shall
/// run. Finds the eBPF tool chain (a compiler with core's source, and bpf-linker); what is missing
/// is installed with apt, or named with the command that installs it, after saying what and why.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `release` is optimised as a whole; `dist` is the one to ship, shaped by what the other does
    /// at work on this machine (needs root, and half an hour); `fast` builds quickly
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
    Dist,
    Release,
    Fast,
}

impl Profile {
    /// The directory below `target`; cargo's profile too, but for `dist`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dist => "dist",
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
    match profile {
        Profile::Dist => dist::build(what)?,
        Profile::Release | Profile::Fast => command::run(&mut cargo(profile, what))
            .context("could not build tracer: see the compiler's message above")?,
    }
    Ok(profile.binary())
}

/// Builds the half that is not eBPF.
pub fn cargo(profile: Profile, what: &What) -> Command {
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
    cargo
}
