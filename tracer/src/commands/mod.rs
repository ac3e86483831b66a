//! One file per verb. A command returns what ended it; `main` turns that into the exit status.

mod ask;
mod attach;
pub mod doctor;
pub mod events;
#[cfg(feature = "gateway")]
pub mod gateway;
pub mod identify;
pub mod inspect;
pub mod ps;
pub mod replay;
pub mod run;
pub mod schema;
mod survey;
pub mod texts;
pub mod unload;

use std::io::{self, IsTerminal as _, Write as _};

use crate::{
    cli::{FormatArg, PlainFormat},
    format::{Format, docker::Docker},
    pretty::Pretty,
};

/// Why a command failed, by exit status.
#[derive(Debug)]
pub enum Failure {
    /// 1: something went wrong.
    Failed(anyhow::Error),
    /// 2: the command line or the configuration is wrong.
    Usage(anyhow::Error),
    /// 3: the host lacks something; the message says what and how to get it.
    Host(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl Failure {
    /// The exit status.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Host(_) => 3,
        }
    }

    /// What to tell.
    #[must_use]
    pub const fn error(&self) -> &anyhow::Error {
        match self {
            Self::Failed(error) | Self::Usage(error) | Self::Host(error) => error,
        }
    }
}

/// The format that was asked for, or fits standard output.
fn format(asked: FormatArg) -> Format {
    let terminal = io::stdout().is_terminal();
    match asked {
        FormatArg::Json => Format::Json,
        FormatArg::CloudEvents => Format::CloudEvents,
        FormatArg::Docker => Format::Docker(Docker::default()),
        FormatArg::Auto if !terminal => Format::Json,
        FormatArg::Auto | FormatArg::Pretty => Format::Pretty(Pretty {
            colour: terminal && std::env::var_os("NO_COLOR").is_none(),
        }),
    }
}

fn wants_json(asked: PlainFormat) -> bool {
    match asked {
        PlainFormat::Json => true,
        PlainFormat::Text => false,
        PlainFormat::Auto => !io::stdout().is_terminal(),
    }
}

/// Prints an answer; a reader that went away is a good end.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(error.into()))
        }
        _ => Ok(()),
    }
}
