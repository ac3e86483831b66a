//! A running `tracer`, its stream read line by line and checked as it comes.

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::check::{Checker, Schema};
use crate::command::{Leash, Process, shell_code};
use crate::janitor::tail;
use crate::life::{self, Step};
use crate::raw::RawContainer;
use crate::record::Record;
use crate::wait::DEADLINE;

/// Lines that wait for the test at most; then tracer's pipe fills, as with any slow reader.
const LINES_HELD: usize = 65_536;

/// Where the binary under test is: `TRACER_BIN`, else what the workspace's `fast` profile leaves.
#[must_use]
pub fn binary() -> PathBuf {
    env::var_os("TRACER_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fast/tracer"),
        PathBuf::from,
    )
}

/// How it is known that nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settle {
    /// A container made for this purpose has been removed: what came before it is in the stream.
    Marker,
    /// The program under test is canned; what it says is there at once.
    Canned,
}

/// A running `tracer run --format json`.
#[derive(Debug)]
pub struct Tracer {
    // Dropped in this order: killed and waited for, then let go.
    process: Process,
    _leash: Leash,
    lines: Receiver<std::io::Result<String>>,
    records: Vec<Record>,
    /// Positions in `records` by container id.
    by_container: BTreeMap<String, Vec<usize>>,
    /// Containers whose life was compared, and how many records it had.
    settled: BTreeMap<String, usize>,
    checker: Checker,
    settle: Settle,
    dir: tempfile::TempDir,
}

impl Tracer {
    /// Starts the binary under test with `arguments` after `run --format json`, and waits until it
    /// has told all that was there before.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        static SCHEMA: OnceLock<Result<Schema, String>> = OnceLock::new();
        let schema = SCHEMA
            .get_or_init(|| Schema::of(&binary()).map_err(|error| format!("{error:#}")))
            .clone()
            .map_err(anyhow::Error::msg)?;
        let mut tracer = Self::launch(&binary(), arguments, schema, Settle::Marker)?;
        let first = tracer.expect("node.started", |record| record.is("node.started"))?;
        ensure!(
            first.seq() == tracer.records.first().and_then(Record::seq),
            tracer.failure("node.started is not the first record")
        );
        attached(&first).map_err(|error| tracer.failure(&format!("{error:#}")))?;
        tracer.expect("node.synced", |record| record.is("node.synced"))?;
        Ok(tracer)
    }

    fn launch(program: &Path, arguments: &[&str], schema: Schema, settle: Settle) -> Result<Self> {
        let dir = tempfile::tempdir().context("create a directory for tracer's log")?;
        let stderr = File::create(dir.path().join("stderr")).context("create tracer's log")?;
        let mut child = Command::new(program)
            .args(["run", "--format", "json"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let stdout = child.stdout.take().context("tracer's standard output")?;
        let (sender, lines) = sync_channel(LINES_HELD);
        let process = Process::new(child, "tracer")?;
        let leash = Leash::new(&process)?;
        thread::Builder::new()
            .name("tracer-stdout".to_owned())
            .spawn(move || forward(BufReader::new(stdout), &sender))
            .context("start a reading thread")?;
        Ok(Self {
            process,
            _leash: leash,
            lines,
            records: Vec::new(),
            by_container: BTreeMap::new(),
            settled: BTreeMap::new(),
            checker: Checker::new(schema),
            settle,
            dir,
        })
    }

    /// All records so far.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// All records of one container so far, in order.
    #[must_use]
    pub fn life(&self, container: &str) -> Vec<&Record> {
        self.by_container
            .get(container)
            .into_iter()
            .flatten()
            .filter_map(|position| self.records.get(*position))
            .collect()
    }

    /// The first record that fits, of those seen already or still to come.
    pub fn expect(&mut self, what: &str, fits: impl FnMut(&Record) -> bool) -> Result<Record> {
        self.expect_after(0, what, fits)
    }

    /// [`Self::expect`] among the records from position `from` on.
    pub fn expect_after(
        &mut self,
        from: usize,
        what: &str,
        mut fits: impl FnMut(&Record) -> bool,
    ) -> Result<Record> {
        let end = Instant::now() + DEADLINE;
        let mut next = from;
        loop {
            while let Some(record) = self.records.get(next) {
                if fits(record) {
                    return Ok(record.clone());
                }
                next += 1;
            }
            if !self.pump(end)? {
                return Err(self.failure(&format!("{what} did not come")));
            }
        }
    }

    /// Waits for the `nth` (from 1) record of this type of one container.
    pub fn expect_of(&mut self, container: &str, kind: &str, nth: usize) -> Result<Record> {
        let mut seen = 0;
        self.expect(&format!("{kind} of {container}"), |record| {
            let fits = record.is(kind) && record.container() == Some(container);
            seen += usize::from(fits);
            fits && seen == nth
        })
        .map_err(|error| self.with_life(container, &error))
    }

    /// Reads on until `done`, at most for `deadline`; tells whether it got there.
    pub fn collect_until(
        &mut self,
        deadline: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<bool> {
        let end = Instant::now() + deadline;
        loop {
            if done(self) {
                return Ok(true);
            }
            if !self.pump(end)? {
                return Ok(false);
            }
        }
    }

    /// Asserts that these, in this order and nothing else, are the records of one container.
    pub fn expect_life(&mut self, container: &str, steps: &[Step]) -> Result<()> {
        self.expect_lives(&[(container, steps)])
    }

    /// [`Self::expect_life`] of several containers, with one wait for all.
    pub fn expect_lives(&mut self, lives: &[(&str, &[Step])]) -> Result<()> {
        let mut open = 0;
        let came = self.collect_until(DEADLINE, |tracer| {
            while let Some((container, steps)) = lives.get(open) {
                if !tracer.has_come(container, steps) {
                    return false;
                }
                open += 1;
            }
            true
        })?;
        // What is missing after the deadline fails below, marker or not.
        if came {
            self.settle()?;
        }
        for (container, steps) in lives {
            let told = self.compared(container);
            life::compare(&told, steps).map_err(|error| self.with_life(container, &error))?;
            self.settled.insert((*container).to_owned(), told.len());
        }
        Ok(())
    }

    /// Asserts that the stream says nothing about `container`.
    pub fn expect_nothing_of(&mut self, container: &str) -> Result<()> {
        self.expect_life(container, &[])
    }

    /// Waits until everything that has happened so far is in the stream: the stream is in kernel
    /// order, so a container that begins now and has ended in the stream is behind all of it.
    pub fn settle(&mut self) -> Result<()> {
        if self.settle == Settle::Canned {
            return Ok(());
        }
        let from = self.records.len();
        let marker = RawContainer::docker()?;
        let id = marker.id().to_owned();
        marker.remove()?;
        self.expect_after(from, "the end of the marker container", |record| {
            record.is("container.removed") && record.container() == Some(&id)
        })?;
        Ok(())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends a signal to tracer; `STOP` and `CONT` make a daemon that does not get to run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// SIGTERM; then the rest of the stream must end with `node.stopped`, without a loss and
    /// without another word about any container that was compared, and the exit code must be 0.
    pub fn stop(self) -> Result<Vec<Record>> {
        self.end(false)
    }

    /// As [`Tracer::stop`], where records were lost on purpose.
    pub fn stop_after_loss(self) -> Result<Vec<Record>> {
        self.end(true)
    }

    fn end(mut self, may_lose: bool) -> Result<Vec<Record>> {
        self.process.signal(Signal::TERM)?;
        let end = Instant::now() + DEADLINE;
        while self.pump(end)? {}
        let status = self
            .process
            .wait(DEADLINE)
            .map_err(|error| self.failure(&format!("{error:#}")))?;
        ensure!(
            shell_code(status) == 0,
            self.failure(&format!("tracer ended with {status}"))
        );
        ensure!(
            self.records
                .last()
                .is_some_and(|record| record.is("node.stopped")),
            self.failure("the last record is not node.stopped")
        );
        ensure!(
            may_lose || !self.records.iter().any(|record| record.is("node.gap")),
            self.failure("records were lost")
        );
        for (container, count) in &self.settled {
            ensure!(
                self.compared(container).len() == *count,
                self.with_life(container, &anyhow!("more was told after the comparison"))
            );
        }
        Ok(std::mem::take(&mut self.records))
    }

    /// An error with the last records and tracer's own log.
    #[must_use]
    pub fn failure(&self, what: &str) -> anyhow::Error {
        const SHOWN: usize = 40;
        let from = self.records.len().saturating_sub(SHOWN);
        let last: Vec<&Record> = self.records.iter().skip(from).collect();
        anyhow!(
            "{what}\nlast {} of {} records:\n{}{}",
            last.len(),
            self.records.len(),
            life::table(&last),
            self.log()
        )
    }

    fn with_life(&self, container: &str, error: &anyhow::Error) -> anyhow::Error {
        anyhow!(
            "{error:#}\nall that was told of {container}:\n{}{}",
            life::table(&self.life(container)),
            self.log()
        )
    }

    fn log(&self) -> String {
        let said = tail(&self.dir.path().join("stderr"), 20);
        format!("tracer's standard error:\n{said}")
    }

    fn compared(&self, container: &str) -> Vec<&Record> {
        let mut told = self.life(container);
        told.retain(|record| life::counts(record));
        told
    }

    fn has_come(&self, container: &str, steps: &[Step]) -> bool {
        let told = self.life(container);
        match life::ends(steps) {
            0 => told.iter().filter(|record| life::counts(record)).count() >= steps.len(),
            ends => {
                told.iter()
                    .filter(|record| record.is("container.removed"))
                    .count()
                    >= ends
            }
        }
    }

    /// Takes the next line; `false` where none came until `end`, or where the stream has ended.
    fn pump(&mut self, end: Instant) -> Result<bool> {
        let left = end.saturating_duration_since(Instant::now());
        let line = match self.lines.recv_timeout(left) {
            Ok(line) => line.context("read tracer's standard output")?,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(false),
        };
        let record = Record::parse(&line)?;
        let verdict = self.checker.check_record(&record);
        if let Some(container) = record.container() {
            self.by_container
                .entry(container.to_owned())
                .or_default()
                .push(self.records.len());
        }
        self.records.push(record);
        match verdict {
            Ok(()) => Ok(true),
            Err(error) => Err(self.failure(&format!("{error:#}\nin: {line}"))),
        }
    }
}

/// Every required program is attached, and each that is not says why.
fn attached(started: &Record) -> Result<()> {
    let programs = started
        .at("node.programs")
        .and_then(Value::as_array)
        .context("node.started lists no programs")?;
    for program in programs {
        let flag = |name: &str| program.get(name).and_then(Value::as_bool).unwrap_or(false);
        if !flag("attached") {
            ensure!(
                program.get("error").is_some(),
                "{program} is not attached and does not say why"
            );
            ensure!(!flag("required"), "{program} is required and not attached");
        }
    }
    Ok(())
}

fn forward(stdout: impl BufRead, sender: &SyncSender<std::io::Result<String>>) {
    for line in stdout.lines() {
        // Nobody reads any more: the test is over.
        if sender.send(line).is_err() {
            return;
        }
    }
}

/// `emit_latency_ns` of the records that the kernel caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    pub records: usize,
    pub median_ns: u64,
    pub p99_ns: u64,
}

/// Sums up what a stream said about its own latency.
pub fn latency(records: &[Record]) -> Result<Latency> {
    let mut all: Vec<u64> = records
        .iter()
        .filter(|record| record.text("origin") == Some("kernel"))
        .filter_map(|record| record.number("emit_latency_ns"))
        .collect();
    all.sort_unstable();
    let nth = |percent: usize| {
        all.get(all.len().saturating_sub(1) * percent / 100)
            .copied()
    };
    match (nth(50), nth(99)) {
        (Some(median_ns), Some(p99_ns)) => Ok(Latency {
            records: all.len(),
            median_ns,
            p99_ns,
        }),
        _ => bail!("no record carries emit_latency_ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{created, emptied, exited, removed, started};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A script in tracer's place: says `lines`, then waits for SIGTERM and says `last`.
    fn canned(lines: &[String], last: &[String], code: u8) -> (tempfile::TempDir, Tracer) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("lines"), lines.concat()).unwrap();
        fs::write(dir.path().join("last"), last.concat()).unwrap();
        let script = dir.path().join("tracer");
        fs::write(
            &script,
            format!(
                "#!/bin/sh\ncd {}\ntrap 'cat last; kill $!; exit {code}' TERM\n\
                 echo complaint >&2\ncat lines\nsleep 1000 & wait $!\n",
                dir.path().display()
            ),
        )
        .unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let schema = Schema::parse("{}").unwrap();
        let tracer = Tracer::launch(&script, &[], schema, Settle::Canned).unwrap();
        (dir, tracer)
    }

    fn line(seq: u64, kind: &str, more: &str) -> String {
        format!(
            "{{\"id\":\"s/{seq}\",\"seq\":{seq},\"type\":\"{kind}\",\"origin\":\"kernel\",\
             \"time\":\"2026-11-21T21:02:48.197953294Z\",\"emit_latency_ns\":{}{more}}}\n",
            seq * 100
        )
    }

    fn of_container(seq: u64, event: &str, state: &str, more: &str) -> String {
        line(
            seq,
            &format!("container.{event}"),
            &format!(
                ",\"container\":{{\"id\":\"c\",\"instance\":\"b:2:7\",\"version\":{seq},\"state\":\"{state}\"}}{more}"
            ),
        )
    }

    fn whole_life() -> Vec<String> {
        vec![
            line(1, "node.started", ""),
            of_container(2, "created", "created", ""),
            of_container(
                3,
                "started",
                "running",
                r#","process":{"pid":9,"vpid":1,"executable":{"name":"true","path":"/bin/true"}}"#,
            ),
            of_container(
                4,
                "exited",
                "exited",
                r#","oom_killed":false,"duration_ns":"5","process":{"exit":{"code":0,"status":0,"core_dumped":false}}"#,
            ),
            of_container(5, "emptied", "exited", ""),
            of_container(6, "removed", "removed", ""),
        ]
    }

    fn expected() -> [Step; 5] {
        [
            created(),
            started("/bin/true"),
            exited(0),
            emptied(),
            removed(),
        ]
    }

    #[test]
    fn a_whole_life_and_an_orderly_end_pass() {
        let (_dir, mut tracer) = canned(&whole_life(), &[line(7, "node.stopped", "")], 0);
        tracer.expect_life("c", &expected()).unwrap();
        let records = tracer.stop().unwrap();
        assert_eq!(records.len(), 7);
        assert_eq!(
            latency(&records).unwrap(),
            Latency {
                records: 7,
                median_ns: 400,
                p99_ns: 600
            }
        );
    }

    #[test]
    fn a_record_too_many_fails_with_the_table_and_the_log() {
        let mut lines = whole_life();
        lines.insert(5, of_container(6, "emptied", "exited", ""));
        lines[6] = of_container(7, "removed", "removed", "");
        let (_dir, mut tracer) = canned(&lines, &[], 0);
        let said = tracer
            .expect_life("c", &expected())
            .unwrap_err()
            .to_string();
        for part in [
            "expected container.removed, got container.emptied",
            "all that was told of c",
            "/bin/true",
            "complaint",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn a_broken_rule_fails_whatever_the_test_waits_for() {
        let mut lines = whole_life();
        lines.remove(2);
        let (_dir, mut tracer) = canned(&lines, &[], 0);
        let said = tracer.expect("x", |_| false).unwrap_err().to_string();
        assert!(said.contains("a hole"), "{said}");
    }

    #[test]
    fn a_word_after_the_comparison_fails() {
        let last = [
            line(6, "node.clock", ""),
            of_container(7, "removed", "removed", ""),
            line(8, "node.stopped", ""),
        ];
        let (_dir, mut tracer) = canned(&whole_life()[..5], &last, 0);
        tracer.expect_life("c", &expected()[..4]).unwrap();
        let said = tracer.stop().unwrap_err().to_string();
        assert!(said.contains("after the comparison"), "{said}");
    }

    #[test]
    fn a_disorderly_end_fails() {
        for (last, code, part) in [
            (vec![], 0, "not node.stopped"),
            (vec![line(7, "node.stopped", "")], 3, "exit status: 3"),
            (
                vec![line(7, "node.gap", ""), line(8, "node.stopped", "")],
                0,
                "records were lost",
            ),
        ] {
            let (_dir, mut tracer) = canned(&whole_life(), &last, code);
            tracer
                .expect("life", |record| record.is("container.removed"))
                .unwrap();
            let said = tracer.stop().unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn a_program_that_is_not_attached_must_be_optional_and_say_why() {
        for (program, fine) in [
            (r#"{"name":"a","attached":true,"required":true}"#, true),
            (
                r#"{"name":"a","attached":false,"required":true,"error":"x"}"#,
                false,
            ),
            (
                r#"{"name":"a","attached":false,"required":false,"error":"x"}"#,
                true,
            ),
            (r#"{"name":"a","attached":false,"required":false}"#, false),
        ] {
            let record =
                Record::parse(&format!(r#"{{"node":{{"programs":[{program}]}}}}"#)).unwrap();
            assert_eq!(attached(&record).is_ok(), fine, "{program}");
        }
    }
}
