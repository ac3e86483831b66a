//! As much of HTTP/1.1 as asking a gateway needs.

use std::{
    io::{BufRead, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// For each read.
const PATIENCE: Duration = Duration::from_secs(10);

/// The body of a good answer, as JSON.
pub fn get(address: SocketAddr, path: &str) -> Result<Value> {
    let mut stream = open(address, path)?;
    let body = match stream.length {
        Some(length) => {
            let mut body = vec![0; length];
            stream.reader.read_exact(&mut body)?;
            body
        }
        None => stream.chunks()?,
    };
    serde_json::from_slice(&body).with_context(|| format!("JSON from {path}"))
}

/// An answer whose head was read.
struct Answer {
    reader: BufReader<TcpStream>,
    length: Option<usize>,
}

fn open(address: SocketAddr, path: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let status = line(&mut reader)?;
    ensure!(status.contains(" 200 "), "{path}: {status}");
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
    Ok(Answer { reader, length })
}

impl Answer {
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
