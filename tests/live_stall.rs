//! A reader that stalls costs the others nothing: standard output for some seconds under load
//! (`TRACER_STALL` of them, 2 where it does not say), a client of the socket.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tracer_tests::{
    Context, Record, Result, Tracer, ensure, live,
    raw::RawContainer,
    tracer::binary,
    wait::{DEADLINE, wait_until},
};

/// What may wait for standard output, bytes.
const QUEUE: u64 = 65_536;
/// What memory may grow by beyond the queues, KiB: batches on their way, the allocator's slack.
const SLACK_KIB: u64 = 4 << 10;

fn stall() -> Result<Duration> {
    match std::env::var("TRACER_STALL") {
        Ok(seconds) => Ok(Duration::from_secs(seconds.parse()?)),
        Err(_) => Ok(Duration::from_secs(2)),
    }
}

/// Containers that come and go until the time is over, at least some hundred; their ids.
fn load(time: Duration) -> Result<Vec<String>> {
    const LEAST: usize = 300;
    let begin = Instant::now();
    let mut ids = Vec::new();
    while ids.len() < LEAST || begin.elapsed() < time {
        let container = RawContainer::docker()?;
        ids.push(container.id().to_owned());
        container.remove()?;
    }
    Ok(ids)
}

fn rss_anon(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse().ok()).context("no RssAnon")
}

/// What a sink's lines say: numbers of the stream's records, and how many it was told to lack.
#[derive(Debug, Default)]
struct Seen {
    seqs: Vec<u64>,
    left_out: u64,
    removed: Vec<String>,
}

impl Seen {
    /// `sink` is whose losses are counted.
    fn of<'a>(lines: impl IntoIterator<Item = &'a str>, sink: &str) -> Result<Self> {
        let mut seen = Self::default();
        for line in lines {
            let record = Record::parse(line)?;
            let gap = record.is("node.gap");
            ensure!(
                !gap || record.text("node.sink") == Some(sink),
                "a loss that is not this sink's: {line}"
            );
            if gap {
                seen.left_out += record.number("node.lost.record").unwrap_or(0);
            }
            if let (Some(last), Some(seq), "stdout") = (seen.seqs.last(), record.seq(), sink) {
                ensure!(
                    gap || seq == last + 1,
                    "a loss that is not told ahead: {line}"
                );
            }
            // The socket's own gap is no record of the stream: it has the number of the last lost.
            if !(gap && sink == "socket") {
                seen.seqs.extend(record.seq());
            }
            if record.is("container.removed") {
                seen.removed.extend(record.container().map(str::to_owned));
            }
        }
        Ok(seen)
    }

    /// Numbers between the first and the last that are not there.
    fn missing(&self) -> u64 {
        let (Some(first), Some(last)) = (self.seqs.first(), self.seqs.last()) else {
            return 0;
        };
        let span = last - first + 1;
        span - u64::try_from(self.seqs.len()).unwrap_or(span)
    }
}

/// Every removal is in the file.
fn all_in(file: &Path, ids: &[String]) -> Result<bool> {
    let text = fs::read_to_string(file)?;
    let removed: std::collections::BTreeSet<&str> = text
        .lines()
        .filter(|line| line.contains("container.removed"))
        .filter_map(|line| line.split_once("\"container\":{\"id\":\""))
        .filter_map(|(_, rest)| rest.split('"').next())
        .collect();
    Ok(ids.iter().all(|id| removed.contains(id.as_str())))
}

#[test]
fn standard_output_that_is_not_read_costs_the_others_nothing() -> Result<()> {
    let _live = live!();
    let directory = tempfile::tempdir()?;
    let (file, socket) = (
        directory.path().join("file"),
        directory.path().join("socket"),
    );
    let mut child = Command::new(binary())
        .args(["run", "--format", "json", "--history-bytes", "262144"])
        .args(["--queue-bytes", &QUEUE.to_string()])
        .arg("--file")
        .arg(&file)
        .arg("--socket")
        .arg(&socket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = child.id();
    let mut stdout = BufReader::new(child.stdout.take().context("stdout")?);
    let stalled = (|| {
        let mut lines = Vec::new();
        while !lines
            .last()
            .is_some_and(|line: &String| line.contains("node.synced"))
        {
            let mut line = String::new();
            ensure!(stdout.read_line(&mut line)? > 0, "tracer ended");
            lines.push(line);
        }
        // Once around, so that every buffer has been used.
        load(Duration::ZERO)?;
        let before = rss_anon(pid)?;
        let begin = Instant::now();
        let ids = load(stall()?)?;
        let (count, took) = (ids.len(), begin.elapsed());
        wait_until(DEADLINE, "the file to have all of it", || {
            Ok(all_in(&file, &ids)?.then_some(()))
        })?;
        let after = rss_anon(pid)?;
        ensure!(
            after <= before + SLACK_KIB,
            "memory grew from {before} to {after} KiB"
        );
        Ok((
            lines,
            ids,
            format!("{count} lives in {took:.1?}; RssAnon {before} -> {after} KiB"),
        ))
    })();
    let end = Pid::from_raw(i32::try_from(pid)?).context("a pid")?;
    let (mut lines, ids, figures) = match stalled {
        Ok(stalled) => stalled,
        Err(error) => {
            kill_process(end, Signal::KILL)?;
            child.wait()?;
            return Err(error);
        }
    };
    // It is read again. Behind the word about the loss everything comes.
    loop {
        let mut line = String::new();
        ensure!(stdout.read_line(&mut line)? > 0, "tracer ended");
        let told = line.contains("node.gap");
        lines.push(line);
        if told {
            break;
        }
    }
    let reader =
        std::thread::spawn(move || -> std::io::Result<Vec<String>> { stdout.lines().collect() });
    let last = RawContainer::docker()?;
    let last_id = last.id().to_owned();
    last.remove()?;
    wait_until(DEADLINE, "the last life to be in the file", || {
        Ok(all_in(&file, std::slice::from_ref(&last_id))?.then_some(()))
    })?;
    kill_process(end, Signal::TERM)?;
    let rest = reader.join().ok().context("the reading thread")??;
    let code = child.wait()?;
    ensure!(code.success(), "{code}");
    lines.extend(rest);
    let told = Seen::of(lines.iter().map(|line| line.trim_end()), "stdout")?;
    ensure!(told.left_out > 0, "nothing was lost: the stall was none");
    ensure!(
        told.missing() == told.left_out,
        "{} records are missing, {} were told",
        told.missing(),
        told.left_out
    );
    ensure!(
        told.removed.contains(&last_id),
        "what came after the stall is missing"
    );
    let kept = fs::read_to_string(&file)?;
    let kept = Seen::of(kept.lines(), "stdout")?;
    ensure!(kept.missing() == 0, "the file lacks {}", kept.missing());
    println!(
        "{figures}; {} left out and told, all {} in the file",
        told.left_out,
        ids.len()
    );
    Ok(())
}

#[test]
fn a_client_of_the_socket_that_stalls_costs_the_others_nothing() -> Result<()> {
    let _live = live!();
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (file, socket) = (at("file"), at("socket"));
    let arguments = [
        "--socket",
        &socket,
        "--file",
        &file,
        "--history-bytes",
        "262144",
    ];
    let mut tracer = Tracer::start(&arguments)?;
    let mut stream = UnixStream::connect(&socket)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    writeln!(stream, r#"{{"version":1,"verb":"events","since":"0"}}"#)?;
    let mut client = BufReader::new(stream);
    let mut lines = vec![String::new()];
    client.read_line(lines.last_mut().context("a line")?)?;

    load(Duration::ZERO)?;
    tracer.settle()?;
    let before = rss_anon(tracer.pid())?;
    let ids = load(stall()?)?;
    tracer.settle()?;
    let after = rss_anon(tracer.pid())?;
    ensure!(
        after <= before + SLACK_KIB,
        "memory grew from {before} to {after} KiB"
    );
    // The client wakes up; the stream goes on to its end.
    let reader =
        std::thread::spawn(move || -> std::io::Result<Vec<String>> { client.lines().collect() });
    let told = tracer.stop()?;
    let of_all = |id: &String| {
        told.iter()
            .any(|record| record.is("container.removed") && record.container() == Some(id))
    };
    ensure!(
        ids.iter().rev().take(50).all(of_all),
        "standard output lacks a life"
    );
    ensure!(all_in(Path::new(&file), &ids)?, "the file lacks a life");
    lines.extend(reader.join().ok().context("the reading thread")??);
    let (records, last): (Vec<&str>, Vec<&str>) = lines
        .iter()
        .map(|line| line.trim_end())
        .partition(|line| line.contains("\"type\":"));
    ensure!(last == [r#"{"end":"stopped"}"#], "{last:?}");
    let seen = Seen::of(records, "socket")?;
    ensure!(seen.left_out > 0, "nothing was lost: the stall was none");
    ensure!(
        seen.missing() == seen.left_out,
        "{} records are missing, {} were told",
        seen.missing(),
        seen.left_out
    );
    println!(
        "{} lives; {} records left out and told; RssAnon {before} -> {after} KiB",
        ids.len(),
        seen.left_out
    );
    Ok(())
}
