//! The floor of an event's cost among many containers: what it takes to find the one and copy what is
//! kept of it, when all of them together are more than the processor's caches hold.

use std::{hint::black_box, io::Write as _, time::Instant};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::recording::Dice;

/// One block of memory for each container.
#[derive(Debug, Args)]
pub struct Touch {
    #[arg(long)]
    containers: usize,
    /// Of each block: what every line about a container has in common.
    #[arg(long, default_value_t = 600)]
    bytes: usize,
    /// Cache lines that are read on the way to it, one after the other: the tables in which a
    /// container is found.
    #[arg(long, default_value_t = 4)]
    steps: usize,
    #[arg(long, default_value_t = 2_000_000)]
    events: u32,
}

/// Prints nanoseconds per event.
pub fn run(touch: &Touch) -> Result<()> {
    let mut dice = Dice(2026);
    let blocks: Vec<Box<[u8]>> = (0..touch.containers)
        .map(|_| vec![b'x'; touch.bytes].into())
        .collect();
    // Each table leads from a container's place in it to that in the next: no two loads can overlap.
    let tables: Vec<Vec<CacheLine>> = (0..touch.steps)
        .map(|_| shuffled(touch.containers, &mut dice))
        .collect();
    let mut line = Vec::with_capacity(touch.bytes);
    let begin = Instant::now();
    for _ in 0..touch.events {
        let mut place = usize::try_from(dice.roll() % (touch.containers.max(1) as u64))?;
        for table in &tables {
            place = table.get(place).context("a place")?.next;
        }
        line.clear();
        line.extend_from_slice(blocks.get(place).context("a block")?);
        black_box(&line);
    }
    let per_event = begin.elapsed().as_nanos() / u128::from(touch.events.max(1));
    writeln!(std::io::stdout(), "{per_event}")?;
    Ok(())
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct CacheLine {
    next: usize,
}

/// A permutation.
fn shuffled(len: usize, dice: &mut Dice) -> Vec<CacheLine> {
    let mut lines: Vec<CacheLine> = (0..len).map(|next| CacheLine { next }).collect();
    for place in (1..len).rev() {
        let other = usize::try_from(dice.roll() % (place as u64 + 1)).unwrap_or(0);
        lines.swap(place, other);
    }
    lines
}
