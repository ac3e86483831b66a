//! What `cargo xtask bench` needs of tracer's own code: no part of the product.
//!
//! * `floor`: the least that can stand between the kernel and a reader of a pipe; what tracer's
//!   latency is compared with.
//! * `recording`: a recording of any length, from a seed.
//! * `lines`: what the lines of a recording cost by themselves.
//! * `programs`: what the kernel counted of each loaded program.
//! * `fleet`: simulated agents, the load of a gateway.
//! * `touch`: what memory alone makes of an event's cost among many containers.
//! * `disk`: what a store on this disk can reach at best.

#![forbid(unsafe_code)]

mod disk;
mod fleet;
mod floor;
mod lines;
mod programs;
mod recording;
mod touch;

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
    /// Write the lines of a recording and do nothing else
    Lines(lines::Lines),
    /// Visit blocks of memory by chance
    Touch(touch::Touch),
}

fn main() -> anyhow::Result<()> {
    match Part::parse() {
        Part::Disk(disk) => disk::run(&disk),
        Part::Fleet(fleet) => fleet::run(&fleet),
        Part::Floor => floor::run(),
        Part::Programs => programs::run(),
        Part::Recording { file, shape } => recording::run(&file, &shape),
        Part::Lines(lines) => lines::run(&lines),
        Part::Touch(touch) => touch::run(&touch),
    }
}
