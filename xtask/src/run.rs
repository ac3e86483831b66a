//! `cargo xtask run`: build, mount what is missing, become `tracer run`.

use std::{convert::Infallible, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    build::{self, Profile, What},
    command, mounts,
    privilege::Privilege,
    say, workspace,
};

/// Build, mount what is missing, and run `tracer run` as root
///
/// Standard input, output and error, signals and the exit code are tracer's own: `cargo xtask run |
/// jq .type` works. A second start takes seconds and needs no network. Missing tracefs and bpffs
/// are mounted; cgroup mounts are never touched.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Build and run the release profile (default: `fast`, which builds quickly)
    #[arg(long)]
    release: bool,
    #[command(flatten)]
    what: What,
    /// What `tracer run` gets, after `--`; `-- --help` shows its flags
    #[arg(last = true, value_name = "ARGS")]
    tracer: Vec<std::ffi::OsString>,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let profile = if args.release {
        Profile::Release
    } else {
        Profile::Fast
    };
    let binary = build::build(profile, &args.what)?;
    mounts::ensure()?;
    let mut tracer = Privilege::find()?
        .command(&binary)
        .context("tracer loads eBPF programs")?;
    tracer
        .arg("run")
        .args(&args.tracer)
        // Set by cargo for xtask, with the compiler's libraries.
        .env_remove("LD_LIBRARY_PATH");
    say::note(format_args!(
        "starting {} run; ctrl-c ends it",
        workspace::shown(&binary)
    ));
    // From here on there is no xtask: nothing stands between tracer and its caller.
    let error: Result<Infallible, _> = Err(tracer.exec());
    match error.with_context(|| format!("cannot start {}", command::describe(&tracer)))? {}
}
