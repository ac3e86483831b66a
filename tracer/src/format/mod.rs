//! From an [`Event`] or a [`Record`] to the lines that a reader asked for. Pure, but for what a format remembers.
//!
//! JSON and `CloudEvents` hold all of a record, one line each. The others are views: [`Pretty`] for
//! eyes, [`Docker`] for scripts that were written for `docker events`.

pub mod cloudevents;
pub mod docker;

use serde::Serialize;

use crate::{
    format::docker::Docker, lifecycle::Event, pretty::Pretty, record::Record, render::Renderer,
    time::BootNs,
};

/// How the lines look.
#[derive(Debug)]
pub enum Format {
    Json,
    Pretty(Pretty),
    CloudEvents,
    Docker(Docker),
}

impl Format {
    /// Appends what is to be shown of `event` as it leaves at `now`; says how many lines that is.
    pub fn event(
        &mut self,
        renderer: &Renderer,
        event: &Event<'_>,
        now: BootNs,
        lines: &mut Vec<u8>,
    ) -> u64 {
        if matches!(self, Self::Json) {
            renderer.line(event, now, lines);
            return 1;
        }
        self.write(&renderer.record(event, now), lines)
    }

    /// Appends what is to be shown of `record`; says how many lines that is.
    pub fn write(&mut self, record: &Record, lines: &mut Vec<u8>) -> u64 {
        match self {
            Self::Json => write_json(record, record, lines),
            Self::Pretty(pretty) => {
                pretty.write(record, lines);
                1
            }
            Self::CloudEvents => write_json(&cloudevents::Event::of(record), record, lines),
            Self::Docker(docker) => docker
                .messages(record)
                .iter()
                .map(|message| write_json(message, record, lines))
                .sum(),
        }
    }
}

/// Appends a record as one line of JSON, or nothing at all.
pub fn json(record: &Record, lines: &mut Vec<u8>) {
    write_json(record, record, lines);
}

/// One line of JSON, or none at all.
fn write_json(line: &impl Serialize, record: &Record, lines: &mut Vec<u8>) -> u64 {
    let start = lines.len();
    match serde_json::to_writer(&mut *lines, line) {
        Ok(()) => {
            lines.push(b'\n');
            1
        }
        Err(error) => {
            lines.truncate(start);
            tracing::error!(%error, seq = record.seq, "record cannot be written");
            0
        }
    }
}

#[cfg(test)]
mod tests;
