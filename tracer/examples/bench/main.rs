//! What `cargo xtask bench` needs of tracer's own code: no part of the product.
//!
//! * `floor`: the least that can stand between the kernel and a reader of a pipe; what tracer's
//!   latency is compared with.
//! * `recording`: a recording of any length, from a seed.
//! * `programs`: what the kernel counted of each loaded program.

#![forbid(unsafe_code)]

mod floor;
mod programs;
mod recording;

use std::path::PathBuf;

use clap::Parser;

/// Parts of the benchmark that are built on tracer's library.
#[derive(Debug, Parser)]
enum Part {
    /// Load the same programs, forward raw records to standard output
    Floor,
    /// Print the run counts of all loaded tracing programs, as JSON
    Programs,
    /// Write a recording
    Recording {
        file: PathBuf,
        #[command(flatten)]
        shape: recording::Shape,
    },
}

fn main() -> anyhow::Result<()> {
    match Part::parse() {
        Part::Floor => floor::run(),
        Part::Programs => programs::run(),
        Part::Recording { file, shape } => recording::run(&file, &shape),
    }
}
