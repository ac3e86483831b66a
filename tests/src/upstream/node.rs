//! A synthetic node as a process, and what its journal says.

use std::{
    collections::BTreeMap,
    fs,
    fs::File,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::clock::FalseClock;
use crate::command::Keep;

/// How a node is.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// The program.
    pub program: PathBuf,
    pub url: String,
    pub name: String,
    pub seed: u64,
    /// So many, then nothing new happens.
    pub records: u64,
    /// Per second.
    pub rate: u64,
    pub spool_bytes: u64,
    pub clock: Option<FalseClock>,
}

/// A node with its directory; it may be killed and started again.
#[derive(Debug)]
pub struct Node {
    settings: NodeSettings,
    directory: PathBuf,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stdin: Option<ChildStdin>,
    process: Keep,
}

impl Node {
    /// Not started yet.
    #[must_use]
    pub fn new(settings: NodeSettings, directory: PathBuf) -> Self {
        Self {
            settings,
            directory,
            running: None,
        }
    }

    /// Starts it, where it does not run.
    pub fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        fs::create_dir_all(&self.directory).context("create the node's directory")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.with_extension("log"))
            .context("open the node's log")?;
        let settings = &self.settings;
        let mut command = Command::new(&settings.program);
        if let Some(clock) = &settings.clock {
            clock.wind(&mut command);
        }
        let mut child = command
            .arg(&self.directory)
            .args([&settings.url, &settings.name])
            .args(
                [
                    settings.seed,
                    settings.records,
                    settings.rate,
                    settings.spool_bytes,
                ]
                .map(|number| number.to_string()),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", settings.program.display()))?;
        let stdin = child.stdin.take();
        let process = Keep::new(child, "synthetic-node")?;
        self.running = Some(Running { stdin, process });
        Ok(())
    }

    /// As a power switch does it, but for the page cache.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            running.process.kill()?;
        }
        Ok(())
    }

    /// Orderly end.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            running.stdin = None;
            let status = running.process.wait()?;
            ensure!(status.success(), "the node ended with {status}");
        }
        Ok(())
    }

    /// As after a reboot: the next start begins a new stream, the spool stays.
    pub fn forget_stream(&mut self) -> Result<()> {
        self.stop()?;
        let journal = self.directory.join("journal");
        let stream = fs::read_to_string(self.directory.join("stream"))?;
        fs::rename(&journal, self.directory.join(format!("journal.{stream}")))?;
        fs::remove_file(self.directory.join("stream"))?;
        Ok(())
    }

    /// Records of the stream that goes on.
    pub fn made(&self) -> Result<u64> {
        // Between two streams there is none.
        let journal = fs::read(self.directory.join("journal")).unwrap_or_default();
        let lines = journal.split_inclusive(|byte| *byte == b'\n');
        let whole = lines.filter(|line| line.ends_with(b"\n")).count();
        Ok(u64::try_from(whole)?)
    }

    /// Records of the streams before it.
    pub fn earlier(&self) -> Result<u64> {
        let streams = self.truth().unwrap_or_default();
        let earlier = streams.len().saturating_sub(1);
        Ok(streams.iter().take(earlier).map(Journal::last_seq).sum())
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All streams that it had, oldest first; the last is the one that goes on.
    pub fn truth(&self) -> Result<Vec<Journal>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(stream) = name.strip_prefix("journal.") {
                // Time-ordered UUIDs.
                files.push((stream.to_owned(), path.clone()));
            }
        }
        files.sort();
        let stream = fs::read_to_string(self.directory.join("stream"))?;
        files.push((stream, self.directory.join("journal")));
        files
            .into_iter()
            .map(|(stream, path)| Journal::read(stream, &path))
            .collect()
    }
}

/// What a node knows of a stream.
#[derive(Debug)]
pub struct Journal {
    pub stream: String,
    /// By number, from 1 on.
    pub records: Vec<Value>,
    /// Instance to version and state of all that is not removed.
    pub table: BTreeMap<String, (u64, String)>,
    /// Records that `node.gap` says the spool gave up.
    pub told: u64,
}

impl Journal {
    /// Reads one from a file of records, which may have other streams as well.
    pub fn read(stream: String, path: &Path) -> Result<Self> {
        let lines = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut journal = Self {
            stream,
            records: Vec::new(),
            table: BTreeMap::new(),
            told: 0,
        };
        for line in lines.split_inclusive('\n') {
            if !line.ends_with('\n') {
                break;
            }
            let record: Value = serde_json::from_str(line)?;
            let of = text(&record, "/id").rsplit_once('/');
            if of.is_none_or(|(of, _)| of != journal.stream) {
                continue;
            }
            let seq = number(&record, "/seq").context("a number")?;
            ensure!(
                seq == u64::try_from(journal.records.len())? + 1,
                "the journal itself has a hole before {seq}"
            );
            if text(&record, "/node/sink") == "spool" {
                journal.told += number(&record, "/node/lost/record").unwrap_or(0);
            }
            if number(&record, "/container/version") == Some(seq) {
                let instance = text(&record, "/container/instance");
                let state = text(&record, "/container/state");
                if state == "removed" {
                    journal.table.remove(instance);
                } else {
                    let row = (seq, state.to_owned());
                    journal.table.insert(instance.to_owned(), row);
                }
            }
            journal.records.push(record);
        }
        Ok(journal)
    }

    /// Number of the newest record.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        u64::try_from(self.records.len()).unwrap_or(u64::MAX)
    }
}

/// The text at a JSON pointer; empty where there is none.
#[must_use]
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default()
}

/// The number at a JSON pointer.
#[must_use]
pub fn number(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer).and_then(Value::as_u64)
}
