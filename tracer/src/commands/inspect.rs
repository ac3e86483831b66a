//! `tracer inspect ID`: all that is known of one container, and where each fact is from.

use anyhow::{Context as _, anyhow};

use super::{
    Failure,
    ask::{Answer, Piece},
    print, survey,
};
use crate::{
    cli::InspectArgs,
    filter::Filter,
    sink::socket::{
        Choice,
        protocol::{Request, VERSION, Verb},
    },
    status::Status,
};

/// Asks the daemon, or looks for itself where none listens.
///
/// # Errors
///
/// [`Failure`]; a container that there is not, or more than one.
pub fn run(args: InspectArgs) -> Result<(), Failure> {
    let choice = Choice::new(args.socket);
    let request = Request {
        version: VERSION,
        verb: Verb::Inspect,
        since: None,
        filter: Filter::default(),
        follow: None,
        id: Some(args.id.clone()),
    };
    let answer = choice.path().map(|path| Answer::to(&request, path));
    let status = match answer.transpose()?.flatten() {
        Some(answer) => told(answer)?,
        None => looked_up(&args.id)?,
    };
    let text = serde_json::to_string_pretty(&status).context("cannot write the answer")?;
    print(&(text + "\n"))
}

fn told(mut answer: Answer) -> Result<Status, Failure> {
    match answer.next()? {
        Piece::Line(line) => {
            Ok(serde_json::from_slice(line).context("the daemon's answer is not understood")?)
        }
        Piece::End => Err(Failure::Failed(anyhow!("the daemon's answer is empty"))),
    }
}

fn looked_up(id: &str) -> Result<Status, Failure> {
    let engine = survey::survey()?;
    let (mut status, ask) =
        Status::find(&engine, id).map_err(|why| Failure::Failed(anyhow!(why)))?;
    let files = ask.as_ref().map(survey::files).unwrap_or_default();
    status.explain("cgroupfs and /proc", &files);
    Ok(status)
}
