//! What `cargo xtask bench` needs of tracer's own code: no part of the product.
//!
//! * `floor`: the least that can stand between the kernel and a reader of a pipe; what tracer's
//!   latency is compared with.
//! * `recording`: a recording of any length, from a seed.
//! * `programs`: what the kernel counted of each loaded program.
//! * `fleet`: simulated agents, the load of a gateway.
//! * `disk`: what a store on this disk can reach at best.

#![forbid(unsafe_code)]

mod disk;
mod fleet;
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
    /// Measure what can be made durable here
    Disk(disk::Disk),
    /// Be many nodes to a gateway
    Fleet(fleet::Fleet),
    /// Write a recording
    Recording {
        file: PathBuf,
        #[command(flatten)]
        shape: recording::Shape,
    },
}

fn main() -> anyhow::Result<()> {
    match Part::parse() {
        Part::Disk(disk) => disk::run(&disk),
        Part::Fleet(fleet) => fleet::run(&fleet),
        Part::Floor => floor::run(),
        Part::Programs => programs::run(),
        Part::Recording { file, shape } => recording::run(&file, &shape),
    }
}
