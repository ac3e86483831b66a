//! What the lines of a recording cost where nothing else is done: each record, made beforehand,
//! written by `serde_json`.

use std::{
    fs::File,
    hint::black_box,
    io::{BufReader, Write as _},
    path::PathBuf,
    time::Instant,
};

use anyhow::Result;
use clap::Args;
use tracer::{engine::write_line, lifecycle::Output, recording::Player};

/// Records are made from the beginning of a recording.
#[derive(Debug, Args)]
pub struct Lines {
    file: PathBuf,
    /// Records that are made
    #[arg(long, default_value_t = 20_000)]
    records: usize,
    /// How often they are written
    #[arg(long, default_value_t = 50)]
    times: usize,
}

/// Prints picoseconds per line and their mean length in bytes.
pub fn run(lines: &Lines) -> Result<()> {
    let (mut player, header) = Player::new(BufReader::new(File::open(&lines.file)?))?;
    let mut engine = header.into_engine();
    let mut records = Vec::new();
    while records.len() < lines.records
        && let Some((now, entry)) = player.entry()?
    {
        engine.step(now, &entry, |renderer, output| {
            if let Output::Event(event) = output {
                records.push(renderer.record(event, now));
            }
        })?;
    }
    let (mut buffer, mut bytes) = (Vec::new(), 0);
    let begin = Instant::now();
    for _ in 0..lines.times {
        for chunk in records.chunks(64) {
            buffer.clear();
            for record in chunk {
                write_line(record, &mut buffer)?;
            }
            bytes += black_box(&buffer).len();
        }
    }
    let took = begin.elapsed().as_nanos();
    let written = (records.len() * lines.times).max(1);
    let found = serde_json::json!({
        "ps_per_line": took * 1_000 / u128::try_from(written)?,
        "bytes": bytes / written,
    });
    writeln!(std::io::stdout(), "{found}")?;
    Ok(())
}
