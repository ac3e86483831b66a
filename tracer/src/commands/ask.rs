//! A question to the daemon, and its answer line by line.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use anyhow::{Context as _, anyhow};

use super::Failure;
use crate::sink::socket::protocol::{Last, Request};

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Answer {
    lines: BufReader<UnixStream>,
    line: Vec<u8>,
    name: String,
}

/// One piece of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Line(&'a [u8]),
    /// It is whole.
    End,
}

impl Answer {
    /// Asks the daemon that listens at `path`; `None` where none does.
    pub(super) fn to(request: &Request, path: &Path) -> Result<Option<Self>, Failure> {
        let name = path.display().to_string();
        let mut stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                io::ErrorKind::PermissionDenied => {
                    return Err(Failure::Host(anyhow!(
                        "no access to {name}: run this as root or as a member of the socket's group (`tracer run --socket-group`)"
                    )));
                }
                _ => {
                    let error = anyhow::Error::new(error).context(format!("cannot use {name}"));
                    return Err(Failure::Failed(error));
                }
            },
        };
        let mut line = serde_json::to_vec(request).context("cannot write the request")?;
        line.push(b'\n');
        match stream.write_all(&line) {
            // A daemon that refused has said why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(Failure::Failed(
                    anyhow::Error::new(error).context(format!("cannot ask {name}")),
                ));
            }
            _ => {}
        }
        Ok(Some(Self {
            lines: BufReader::with_capacity(64 << 10, stream),
            line: Vec::new(),
            name,
        }))
    }

    /// Whether the next line is here already.
    pub(super) fn has_more(&self) -> bool {
        self.lines.buffer().contains(&b'\n')
    }

    /// The next line, without its end.
    pub(super) fn next(&mut self) -> Result<Piece<'_>, Failure> {
        self.line.clear();
        self.lines
            .read_until(b'\n', &mut self.line)
            .with_context(|| format!("cannot read from {}", self.name))?;
        if self.line.pop() != Some(b'\n') {
            return Err(Failure::Failed(anyhow!(
                "the daemon at {} is gone, in the middle of its answer",
                self.name
            )));
        }
        // Records and containers have neither of these keys in front.
        if self.line.starts_with(b"{\"end\"") || self.line.starts_with(b"{\"error\"") {
            let last: Last = serde_json::from_slice(&self.line)
                .with_context(|| format!("what {} answers is not understood", self.name))?;
            return match last {
                Last::End(_) => Ok(Piece::End),
                Last::Error(why) => Err(Failure::Failed(anyhow!("{why}"))),
            };
        }
        Ok(Piece::Line(&self.line))
    }
}
