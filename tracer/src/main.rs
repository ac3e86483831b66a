//! Parses, runs one command, prints its failure once, with its causes.

#![forbid(unsafe_code)]

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser as _;
use tracer::{
    cli::{Cli, Command},
    commands::{self, Failure},
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = start_log(&cli.log) {
        return end(&Failure::Usage(error));
    }
    let done = match cli.command {
        Command::Run(args) => commands::run::run(*args),
        Command::Identify(args) => commands::identify::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Replay(args) => commands::replay::run(args),
        Command::Events(args) => commands::events::run(args),
        Command::Ps(args) => commands::ps::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        #[cfg(feature = "gateway")]
        Command::Gateway(args) => commands::gateway::run(*args),
        Command::Schema => commands::schema::run(),
        Command::Unload(args) => commands::unload::run(&args),
        Command::Completions(args) => commands::texts::completions(&args),
        Command::Man(args) => commands::texts::man(&args),
        Command::Unit => commands::texts::unit(),
        Command::LoadPrograms => commands::unload::load_programs(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => end(&failure),
    }
}

/// Logs go to standard error only: standard output is the stream.
fn start_log(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| anyhow::anyhow!("log filter '{filter}' is wrong: {error}"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

#[expect(
    clippy::print_stderr,
    reason = "the one place that tells the user what failed"
)]
fn end(failure: &Failure) -> ExitCode {
    eprintln!("tracer: {:#}", failure.error());
    ExitCode::from(failure.code())
}
