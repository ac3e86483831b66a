//! A tracer that is killed and started again, with one state directory.
//!
//! It writes to a file and to a pipe that outlives it, as a service manager's would. Both are read
//! at the end, as a consumer would read them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeWriter, Write as _, pipe};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::check::{Checker, Schema};
use crate::command::{Keep, shell_code};
use crate::janitor::tail;
use crate::record::Record;
use crate::tracer::binary;
use crate::wait::DEADLINE;

/// Lines that wait in the test at most.
const LINES_HELD: usize = 1 << 20;

/// The state of the tracers to come, and what they said so far.
#[derive(Debug)]
pub struct Mortal {
    process: Option<Keep>,
    pipe: PipeWriter,
    lines: Receiver<String>,
    said: Vec<String>,
    arguments: Vec<String>,
    dir: tempfile::TempDir,
}

impl Mortal {
    /// Nothing runs yet. `arguments` come after `run` and what this harness gives.
    pub fn new(arguments: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir().context("create a state directory")?;
        let (reader, pipe) = pipe().context("create a pipe")?;
        let (sender, lines) = sync_channel(LINES_HELD);
        thread::Builder::new()
            .name("tracers-stdout".to_owned())
            .spawn(move || {
                for line in BufReader::new(reader).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            })
            .context("start a reading thread")?;
        Ok(Self {
            process: None,
            pipe,
            lines,
            said: Vec::new(),
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            dir,
        })
    }

    /// Where this harness keeps everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The state directory, which the first start makes.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The file that records are appended to: what `--file` among the arguments says, or one beside
    /// the state directory.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        let mut words = self.arguments.iter();
        words.find(|word| *word == "--file");
        words
            .next()
            .map_or_else(|| self.dir.path().join("events"), PathBuf::from)
    }

    /// Other arguments from the next start on.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&word| word.to_owned()).collect();
    }

    /// Starts a tracer; it may not have said anything yet.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.dir.path().join("stderr"))
            .context("create tracer's log")?;
        let mut command = Command::new(binary());
        command
            .args(["run", "--format", "json", "--socket", "none"])
            .arg("--state-dir")
            .arg(self.state())
            .args(&self.arguments);
        if !self.arguments.iter().any(|word| word == "--file") {
            command.arg("--file").arg(self.file());
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(self.pipe.try_clone().context("share a pipe")?)
            .stderr(log)
            .spawn()
            .context("start tracer")?;
        self.process = Some(Keep::new(child, "tracer")?);
        Ok(())
    }

    /// Starts a tracer and waits until it is in step with the host.
    pub fn start_synced(&mut self) -> Result<()> {
        self.hear_the_dead()?;
        let from = self.said.len();
        self.start()?;
        self.expect_after(from, "node.synced", |record| record.is("node.synced"))
            .map(drop)
    }

    /// Takes what the ones before left in the pipe: up to a line of this harness behind it.
    fn hear_the_dead(&mut self) -> Result<()> {
        const END: &str = "nobody runs";
        ensure!(self.process.is_none(), "a tracer runs");
        writeln!(self.pipe, "{END}").context("write into the pipe")?;
        let end = Instant::now() + DEADLINE;
        while self.said.last().is_none_or(|line| line != END) {
            ensure!(self.hear(end)?, "the pipe is stuck");
        }
        self.said.pop();
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("no tracer runs")?.kill()
    }

    /// An orderly end.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process.take().context("no tracer runs")?.terminate()?;
        self.ended_well(status)
    }

    /// A signal to the one that runs.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        self.process
            .as_ref()
            .context("no tracer runs")?
            .signal(signal)
    }

    /// Process id of the one that runs.
    pub fn pid(&self) -> Result<i32> {
        Ok(self.process.as_ref().context("no tracer runs")?.pid())
    }

    fn ended_well(&self, status: ExitStatus) -> Result<()> {
        ensure!(
            shell_code(status) == 0,
            "tracer ended with {status}\n{}",
            self.log()
        );
        Ok(())
    }

    /// Listens to the pipe for so long.
    pub fn listen(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while self.hear(end)? {}
        Ok(())
    }

    /// The first record that fits in the pipe.
    pub fn expect(&mut self, what: &str, fits: impl Fn(&Record) -> bool) -> Result<Record> {
        self.expect_after(0, what, fits)
    }

    /// Lines in the pipe so far.
    #[must_use]
    pub const fn heard(&self) -> usize {
        self.said.len()
    }

    /// [`Self::expect`] among the lines from `from` on.
    pub fn expect_after(
        &mut self,
        from: usize,
        what: &str,
        fits: impl Fn(&Record) -> bool,
    ) -> Result<Record> {
        let end = Instant::now() + DEADLINE;
        let mut next = from;
        loop {
            while let Some(line) = self.said.get(next) {
                let record = Record::parse(line)?;
                if fits(&record) {
                    return Ok(record);
                }
                next += 1;
            }
            if !self.hear(end)? {
                bail!("{what} did not come\n{}", self.log());
            }
        }
    }

    fn hear(&mut self, end: Instant) -> Result<bool> {
        let left = end.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                self.said.push(line);
                Ok(true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => bail!("the pipe was closed"),
        }
    }

    /// Every record of the file, checked against the schema and the rules of a stream: numbers
    /// without hole or repetition among them.
    pub fn records(&self) -> Result<Vec<Record>> {
        let mut streams = self.streams()?;
        ensure!(
            streams.len() == 1,
            "{} streams\n{}",
            streams.len(),
            self.log()
        );
        Ok(streams.remove(0))
    }

    /// Likewise, where streams follow each other: each from its first number on.
    pub fn streams(&self) -> Result<Vec<Vec<Record>>> {
        let schema = Schema::of(&binary())?;
        let text = fs::read_to_string(self.file()).context("read the file of records")?;
        ensure!(text.ends_with('\n'), "the file ends in half a line");
        let mut streams: Vec<(Checker, Vec<Record>)> = Vec::new();
        for line in text.lines() {
            let record = Record::parse(line)?;
            if record.seq() == Some(1) {
                streams.push((Checker::new(schema.clone()), Vec::new()));
            }
            let (checker, records) = streams.last_mut().context("a stream without a begin")?;
            checker
                .check_record(&record)
                .with_context(|| format!("{}\nin: {line}", self.log()))?;
            records.push(record);
        }
        Ok(streams.into_iter().map(|(_, records)| records).collect())
    }

    /// Compares the pipe with the file: no record is missing, and what came again came byte for
    /// byte. Says how many did.
    pub fn repeated_in_pipe(&mut self) -> Result<usize> {
        self.listen(Duration::from_millis(200))?;
        let text = fs::read_to_string(self.file()).context("read the file of records")?;
        let mut repeated = 0;
        let mut seen = std::collections::BTreeMap::new();
        for line in &self.said {
            let record = Record::parse(line)?;
            let seq = record.seq().context("no seq")?;
            match seen.insert(seq, line) {
                None => {}
                Some(before) if before == line => repeated += 1,
                Some(before) => bail!("record {seq} came twice and differs:\n{before}\n{line}"),
            }
        }
        for line in text.lines() {
            let seq = Record::parse(line)?.seq().context("no seq")?;
            ensure!(
                seen.get(&seq).is_some_and(|said| *said == line),
                "record {seq} is not in the pipe as it is in the file: {line}"
            );
        }
        Ok(repeated)
    }

    /// The end of what the tracers logged.
    #[must_use]
    pub fn log(&self) -> String {
        let said = tail(&self.dir.path().join("stderr"), 20);
        format!("tracer's standard error:\n{said}")
    }
}

/// A bpffs directory that no other test uses; unloaded at the end.
#[derive(Debug)]
pub struct PinDir(PathBuf);

impl PinDir {
    /// A name of its own.
    pub fn new() -> Result<Self> {
        let name = crate::raw::random_uuid()?;
        Ok(Self(Path::new("/sys/fs/bpf").join(format!("test-{name}"))))
    }

    /// As a flag.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--pin={}", self.0.display())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `tracer unload`.
    pub fn unload(&self) -> Result<String> {
        let mut command = Command::new(binary());
        command.arg("unload").arg("--pin").arg(&self.0);
        Ok(crate::command::run_ok(&mut command)?.stdout)
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        drop(self.unload());
    }
}
