//! `tracer replay FILE`: a recording through the code that runs live.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write as _},
};

use anyhow::Context as _;

use super::{Failure, format};
use crate::{cli::ReplayArgs, config, engine::Effect, recording::Player};

/// Replays to standard output.
///
/// # Errors
///
/// Those of the recording and of standard output; a reader that went away is a good end.
pub fn run(args: ReplayArgs) -> Result<(), Failure> {
    let filter = config::filter(args.filter).map_err(Failure::Usage)?;
    let mut format = format(args.format);
    let name = args.file.display().to_string();
    let file = File::open(&args.file).with_context(|| format!("cannot open {name}"))?;
    let (mut player, header) = Player::new(BufReader::with_capacity(1 << 20, file))
        .with_context(|| format!("cannot replay {name}"))?;
    let mut engine = header.into_engine();
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut line = Vec::with_capacity(4096);
    loop {
        let next = player
            .entry()
            .with_context(|| format!("cannot replay {name}"));
        let next = match next {
            Ok(Some(next)) => next,
            Ok(None) => break,
            Err(error) => {
                // What came before the damage is good.
                drop(out.flush());
                return Err(error.into());
            }
        };
        let (now, entry) = next;
        let stepped = engine.step(now, &entry, |renderer, effect| {
            if let Effect::Event(event) = effect
                && filter.wants(&event)
            {
                format.event(renderer, &event, now, &mut line);
            }
        });
        if let Err(error) = stepped {
            tracing::warn!(%error, "record of the kernel side not understood");
        }
        if !write(&mut out, &line)? {
            return Ok(());
        }
        line.clear();
    }
    write_result(out.flush())?;
    Ok(())
}

fn write(out: &mut impl io::Write, line: &[u8]) -> Result<bool, Failure> {
    write_result(out.write_all(line))
}

/// False when the reader went away.
fn write_result(result: io::Result<()>) -> Result<bool, Failure> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Failed(
            anyhow::Error::new(error).context("cannot write to standard output"),
        )),
    }
}
