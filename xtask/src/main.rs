//! The repository's own commands: `cargo xtask build`, `run`, `demo`, `test`, `fuzz`, `bench` and `kernels`.
//!
//! Each verb is a file of its name. They share the rest:
//!
//! ```text
//!  build ◀── run ──▶ mounts ──▶ privilege
//!    │                  ▲             ▲
//!    ▼                  │             │
//!  ebpf ◀──────────── test ──▶ packages (the system's package manager)
//!    │                                ▲
//!    ▼                                │
//!  setup ──▶ probe (this machine) ──▶ toolchain (the pure choice)  ·  linker (built where none fits)
//!
//!  bench ──▶ build, mounts (what tracer costs, and how soon it tells)
//!  build ──▶ dist ──▶ bench (the binary to ship is shaped by its work)
//!  demo ───▶ build, mounts (all of it at work on this machine)
//!
//!  test ──▶ vm (QEMU) ──▶ kernels (Debian's, fetched once; their BTF)
//!    └────▶ fuzz (cargo-fuzz, sanitizers)
//! ```
//!
//! Invariants: nothing is installed before it was said what and why; a second run that finds all in
//! place touches neither the network nor the package manager; what a verb says goes to stderr, so
//! that stdout belongs to the program it runs.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod command;
mod demo;
mod dist;
mod ebpf;
mod fuzz;
mod kernels;
mod linker;
mod mounts;
mod packages;
mod privilege;
mod probe;
mod run;
mod say;
mod setup;
mod test;
mod toolchain;
mod vm;
mod workspace;

/// Build, run and test tracer on a machine that has Rust and nothing else prepared.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// One variant per verb, one file per variant.
#[derive(Debug, Subcommand)]
enum Verb {
    Bench(bench::Args),
    Build(build::Args),
    Demo(demo::Args),
    Fuzz(fuzz::Args),
    Kernels(kernels::Args),
    Run(run::Args),
    Test(test::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Bench(args) => bench::main(&args),
        Verb::Build(args) => build::main(&args),
        Verb::Demo(args) => demo::main(&args),
        Verb::Fuzz(args) => fuzz::main(&args),
        Verb::Kernels(args) => kernels::main(&args),
        Verb::Run(args) => run::main(&args),
        Verb::Test(args) => test::main(&args),
    };
    result.unwrap_or_else(|error| {
        say::note(format_args!("error: {error:#}"));
        ExitCode::FAILURE
    })
}
