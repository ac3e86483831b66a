//! `tracer replay FILE`: a recording through the code that runs live.

use std::{
    fs::File,
    io::{self, BufReader},
};

use anyhow::Context as _;

use super::{Failure, format};
use crate::{cli::ReplayArgs, config, lifecycle::Output, recording::Player};

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
    let (mut player, header) = Player::new(BufReader::with_capacity(BUFFER_BYTES, file))
        .with_context(|| format!("cannot replay {name}"))?;
    let mut engine = header.into_engine();
    let mut out = io::stdout().lock();
    let mut lines = Vec::with_capacity(2 * BATCH_BYTES);
    loop {
        let (now, entry) = match player.entry() {
            Ok(Some(next)) => next,
            Ok(None) => break,
            Err(error) => {
                // What came before the damage is good.
                write(&mut out, &lines)?;
                return Err(anyhow::Error::new(error)
                    .context(format!("cannot replay {name}"))
                    .into());
            }
        };
        let stepped = engine.step(now, &entry, |renderer, output| {
            if let Output::Event(event) = output
                && filter.wants(event)
            {
                format.event(renderer, event, now, &mut lines);
            }
        });
        if let Err(error) = stepped {
            tracing::warn!(%error, "record of the kernel side not understood");
        }
        if lines.len() >= BATCH_BYTES {
            if !write(&mut out, &lines)? {
                return Ok(());
            }
            lines.clear();
        }
    }
    write(&mut out, &lines)?;
    Ok(())
}

/// What is read at once. It shares the processor's second cache with the lines and the table.
const BUFFER_BYTES: usize = 32 << 10;

/// Lines that are written together.
const BATCH_BYTES: usize = 32 << 10;

/// False when the reader went away.
fn write(out: &mut impl io::Write, lines: &[u8]) -> Result<bool, Failure> {
    match out.write_all(lines).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Failed(
            anyhow::Error::new(error).context("cannot write to standard output"),
        )),
    }
}
