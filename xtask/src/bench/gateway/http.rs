//! As much of HTTP/1 as asking a gateway needs.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::time::ClockId;
use serde_json::Value;

use crate::bench::subject::{Chunk, now};

const PATIENCE: Duration = Duration::from_secs(20);

/// One connection, kept for the next question.
pub struct Client(BufReader<TcpStream>);

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        Ok(Self(BufReader::new(connect(address)?)))
    }

    /// Status and body.
    pub fn get(&mut self, path: &str) -> Result<(u16, String)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let head = self.line()?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("no status in {head:?}"))?;
        let mut length = 0;
        loop {
            let header = self.line()?;
            if header.is_empty() {
                break;
            }
            let header = header.to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            ensure!(
                !header.starts_with("transfer-encoding:"),
                "{path} has no length"
            );
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, String::from_utf8(body)?))
    }

    /// The body of a good answer.
    pub fn json(&mut self, path: &str) -> Result<Value> {
        match self.get(path)? {
            (200, body) => Ok(serde_json::from_str(&body)?),
            (status, body) => bail!("{path}: {status} {body}"),
        }
    }

    /// A value of `/metrics`.
    pub fn metric(&mut self, name: &str) -> Result<u64> {
        let (_, text) = self.get("/metrics")?;
        let value = text.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(' ')?;
            value.trim().parse().ok()
        });
        value.with_context(|| format!("/metrics has no {name}"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.0.read_line(&mut line)? != 0, "the answer ended early");
        Ok(line.trim_end().to_owned())
    }
}

/// A reader of the event stream.
pub struct Subscriber {
    stream: TcpStream,
    reader: JoinHandle<Vec<Chunk>>,
}

impl Subscriber {
    /// From now on. HTTP/1.0, so that the stream comes as it is.
    pub fn follow(address: SocketAddr) -> Result<Self> {
        let mut stream = connect(address)?;
        stream.set_read_timeout(None)?;
        stream.write_all(b"GET /v1/events HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut reading = stream.try_clone()?;
        let mut buffer = vec![0; 64 << 10];
        // The head says that the place in the stream is taken.
        let len = reading.read(&mut buffer)?;
        let head = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default()).into_owned();
        ensure!(head.contains(" 200 "), "no event stream: {head}");
        let reader = std::thread::spawn(move || {
            let mut chunks = Vec::new();
            while let Ok(len @ 1..) = reading.read(&mut buffer) {
                chunks.push(Chunk {
                    boot_ns: now(ClockId::Boottime),
                    wall_ns: now(ClockId::Realtime),
                    bytes: buffer.get(..len).unwrap_or_default().to_vec(),
                });
            }
            chunks
        });
        Ok(Self { stream, reader })
    }

    /// What came, and when.
    pub fn stop(self) -> Result<Vec<Chunk>> {
        self.stream.shutdown(Shutdown::Both)?;
        let chunks = self.reader.join();
        chunks.map_err(|_panic| anyhow::anyhow!("the reading thread died"))
    }
}
