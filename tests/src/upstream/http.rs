//! As much of HTTP/1.1 as asking a gateway needs.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// For each read.
const PATIENCE: Duration = Duration::from_secs(10);

/// The body of a good answer, as JSON.
pub fn get(address: SocketAddr, path: &str) -> Result<Value> {
    let (status, body) = ask(connect(address)?, path, None)?;
    ensure!(status == 200, "{path}: {status}");
    serde_json::from_slice(&body).with_context(|| format!("JSON from {path}"))
}

/// A connection whose reads have an end.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Status and body of an answer over whatever connection.
pub fn ask(
    mut stream: impl Read + Write,
    path: &str,
    token: Option<&str>,
) -> Result<(u16, Vec<u8>)> {
    request(&mut stream, path, token)?;
    let mut answer = Answer::read(BufReader::new(stream))?;
    let body = match answer.length {
        Some(length) => {
            let mut body = vec![0; length];
            answer.reader.read_exact(&mut body)?;
            body
        }
        None => answer.chunks()?,
    };
    Ok((answer.status, body))
}

/// Asks, and reads nothing.
pub fn request(stream: &mut impl Write, path: &str, token: Option<&str>) -> Result<()> {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let token = token.unwrap_or_default();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{token}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("ask")
}

/// An answer whose head was read.
struct Answer<S> {
    reader: BufReader<S>,
    status: u16,
    length: Option<usize>,
}

impl<S: Read> Answer<S> {
    fn read(mut reader: BufReader<S>) -> Result<Self> {
        let status = line(&mut reader)?;
        let status = status.split(' ').nth(1).context("a status")?.parse()?;
        let mut length = None;
        loop {
            let header = line(&mut reader)?.to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = Some(value.trim().parse()?);
            }
        }
        Ok(Self {
            reader,
            status,
            length,
        })
    }

    /// A chunked body, whole.
    fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(line(&mut self.reader)?.trim(), 16)?;
            let start = body.len();
            body.resize(start + size, 0);
            self.reader
                .read_exact(body.get_mut(start..).unwrap_or_default())?;
            line(&mut self.reader)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    let read = reader.read_line(&mut line)?;
    ensure!(read != 0, "the answer ended early");
    Ok(line.trim_end().to_owned())
}
