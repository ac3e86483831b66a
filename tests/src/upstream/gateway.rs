//! A gateway as a process, and what it holds.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use serde_json::Value;

use super::{
    clock::FalseClock,
    http,
    node::{number, text},
    run,
    verdict::Held,
};
use crate::{
    command::Keep,
    wait::{DEADLINE, wait_until},
};

/// A gateway with its store; it may be killed and started again.
#[derive(Debug)]
pub struct Gateway {
    program: PathBuf,
    store: PathBuf,
    address: SocketAddr,
    clock: Option<FalseClock>,
    arguments: Vec<String>,
    running: Option<Keep>,
}

impl Gateway {
    /// Not started yet; it will have a port of its own.
    pub fn new(program: PathBuf, store: PathBuf, clock: Option<FalseClock>) -> Result<Self> {
        fs::create_dir_all(&store).context("create the store's directory")?;
        // Free again at once, and nobody else is given it that soon.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Ok(Self {
            program,
            store,
            address,
            clock,
            arguments: Vec::new(),
            running: None,
        })
    }

    /// With these flags from the next start on.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it, where it does not run, and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.store.with_extension("log"))
            .context("open the gateway's log")?;
        let mut command = Command::new(&self.program);
        if let Some(clock) = &self.clock {
            clock.wind(&mut command);
        }
        let child = command
            .args(["gateway", "--listen", &self.address.to_string()])
            .arg("--store")
            .arg(&self.store)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        self.running = Some(Keep::new(child, "gateway")?);
        wait_until(DEADLINE, "the gateway", || {
            Ok(std::net::TcpStream::connect(self.address).ok())
        })
        .map(drop)
    }

    /// As a power switch does it, but for the page cache.
    pub fn kill(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), Keep::kill)
    }

    /// An orderly end.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            let status = running.terminate()?;
            ensure!(status.success(), "the gateway ended with {status}");
        }
        Ok(())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running
            .as_ref()
            .context("no gateway runs")?
            .signal(signal)
    }

    /// Memory that it has now, bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let pid = self.running.as_ref().context("no gateway runs")?.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.context("VmRSS")?.parse::<u64>()? << 10)
    }

    /// What it logged.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(self.store.with_extension("log")).unwrap_or_default()
    }

    /// Copies the store of a gateway that does not run.
    pub fn save(&self, to: &Path) -> Result<()> {
        if to.exists() {
            fs::remove_dir_all(to)?;
        }
        run::copy(&self.store, to)
    }

    /// Goes back to such a copy.
    pub fn restore(&self, from: &Path) -> Result<()> {
        fs::remove_dir_all(&self.store)?;
        run::copy(from, &self.store)
    }

    /// All that it has of a node: the log as it is on disk, the table as it is told.
    pub fn held(&self, node: &str) -> Result<Held> {
        let mut held = self.log()?;
        self.table(node, &mut held.table)?;
        Ok(held)
    }

    fn database(&self) -> Result<Connection> {
        let database = self.store.join("gateway.db");
        let db = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        db.busy_timeout(DEADLINE)?;
        Ok(db)
    }

    /// Bytes of its log, compressed as it is on disk.
    pub fn log_bytes(&self) -> Result<u64> {
        let sum = "SELECT coalesce(sum(length(lines)), 0) FROM log";
        Ok(self.database()?.query_row(sum, [], |row| row.get(0))?)
    }

    /// Its log as it is on disk.
    pub fn log(&self) -> Result<Held> {
        let mut held = Held::default();
        let db = self.database()?;
        let mut pieces = db.prepare("SELECT lines, plain FROM log ORDER BY first")?;
        let mut pieces = pieces.query([])?;
        while let Some(piece) = pieces.next()? {
            let stored = piece.get_ref(0)?.as_blob().context("lines")?;
            let lines = match piece.get::<_, usize>(1)? {
                0 => stored.to_vec(),
                plain => lz4_flex::block::decompress(stored, plain)?,
            };
            for line in lines.split(|byte| *byte == b'\n') {
                if !line.is_empty() {
                    let record: Value = serde_json::from_slice(line)?;
                    take(&mut held, record)?;
                }
            }
        }
        Ok(held)
    }

    /// What it tells of a node.
    pub fn node(&self, node: &str) -> Result<Value> {
        http::get(self.address, &format!("/v1/nodes/{node}"))
    }

    /// Names of the nodes that it knows, a page of them.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let page = http::get(self.address, "/v1/nodes")?;
        let nodes = page.pointer("/nodes").and_then(Value::as_array);
        let name = |node: &Value| text(node, "/name").to_owned();
        Ok(nodes.context("nodes")?.iter().map(name).collect())
    }

    fn table(&self, node: &str, table: &mut BTreeMap<String, (u64, String)>) -> Result<()> {
        let mut cursor = String::new();
        loop {
            let page = http::get(
                self.address,
                &format!("/v1/containers?node={node}&limit=500{cursor}"),
            )?;
            let found = page.pointer("/containers").and_then(Value::as_array);
            for container in found.context("containers")? {
                let record = container.pointer("/record").unwrap_or(container);
                let version = number(record, "/container/version").context("a version")?;
                let instance = text(record, "/container/instance").to_owned();
                let state = text(record, "/container/state").to_owned();
                table.insert(instance, (version, state));
            }
            match page.pointer("/next") {
                Some(Value::String(next)) => cursor = format!("&cursor={next}"),
                _ => return Ok(()),
            }
        }
    }
}

/// A record of a node goes to its stream, one of the gateway's own says what is missing.
fn take(held: &mut Held, record: Value) -> Result<()> {
    if text(&record, "/origin") != "gateway" {
        return held.add(record);
    }
    match text(&record, "/type") {
        "node.gap" => {
            let from = number(&record, "/node/from_seq").context("from")?;
            let to = number(&record, "/node/to_seq").context("to")?;
            let stream = text(&record, "/node/stream").to_owned();
            let told = held.told.entry(stream).or_default();
            held.told_twice += (from..=to).filter(|seq| !told.insert(*seq)).count();
        }
        kind @ ("node.online" | "node.unreachable" | "node.offline") => {
            held.reach.push(kind.to_owned());
        }
        _ => {}
    }
    Ok(())
}
