//! `tracer events`: the stream of a running daemon.

use std::io::{self, BufWriter, Write as _};

use anyhow::{Context as _, anyhow};

use super::{
    Failure,
    ask::{Answer, Piece},
    format,
};
use crate::{
    cli::EventsArgs,
    config,
    format::Format,
    record::Record,
    sink::socket::{
        Choice,
        protocol::{Request, Since, VERSION, Verb},
    },
    time::{boot_now, wall_offset},
};

/// Follows until the daemon ends or nobody reads any more.
///
/// # Errors
///
/// [`Failure`]; where no daemon listens it says how to get one.
pub fn run(args: EventsArgs) -> Result<(), Failure> {
    let filter = config::filter(args.filter).map_err(Failure::Usage)?;
    if let Some(since) = &args.since
        && Since::parse(since, wall_offset().at(boot_now())).is_none()
    {
        return Err(Failure::Usage(anyhow!(
            "--since '{}' is no duration (10m), time (2026-11-21T21:02:48Z) or record number",
            since.escape_debug()
        )));
    }
    let choice = Choice::new(args.socket);
    let Some(path) = choice.path() else {
        return Err(Failure::Usage(anyhow!("events needs a socket: not 'none'")));
    };
    let request = Request {
        version: VERSION,
        verb: Verb::Events,
        since: args.since,
        filter,
        follow: Some(!args.no_follow),
        id: None,
    };
    let Some(answer) = Answer::to(&request, path)? else {
        return Err(Failure::Host(anyhow!(
            "no daemon listens on {}: start one with `tracer run`, or name its socket with --socket",
            path.display()
        )));
    };
    match copy(answer, format(args.format)) {
        Err(Failure::Failed(error)) if is_closed_pipe(&error) => Ok(()),
        done => done,
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn copy(mut answer: Answer, mut format: Format) -> Result<(), Failure> {
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let mut text = Vec::new();
    loop {
        if !answer.has_more() {
            out.flush().context("cannot write to standard output")?;
        }
        let line = match answer.next() {
            Ok(Piece::Line(line)) => line,
            end => {
                out.flush().context("cannot write to standard output")?;
                return end.map(|_| ());
            }
        };
        text.clear();
        if matches!(format, Format::Json) {
            text.extend_from_slice(line);
            text.push(b'\n');
        } else {
            let record: Record =
                serde_json::from_slice(line).context("a record is not understood")?;
            format.write(&record, &mut text);
        }
        out.write_all(&text)
            .context("cannot write to standard output")?;
    }
}
