//! Replay: raw records to JSON in `/dev/null`, on one core; and where the time goes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{
    Bench, Results,
    line::Line,
    stats::{median, ratio},
};
use crate::command;

const BAR: f64 = 1.5;

pub fn measure(bench: &Bench, results: &mut Results) -> Result<()> {
    let records = bench.scaled(10_000_000, 1_000_000);
    for (name, processes) in [("lifecycle", 0), ("--processes", 20)] {
        let file = recording(bench, records, &["--processes", &processes.to_string()])?;
        let mut rates = Vec::new();
        for _ in 0..bench.scaled(5, 3) {
            let begin = Instant::now();
            let cpu = children_ns()?;
            command::run(&mut replay(bench, &file))?;
            let wall = u64::try_from(begin.elapsed().as_nanos())?;
            // On a busy machine the wall clock counts others' work.
            rates.push((wall, children_ns()?.saturating_sub(cpu)));
        }
        let mut walls: Vec<u64> = rates.iter().map(|(wall, _)| *wall).collect();
        let mut cpus: Vec<u64> = rates.iter().map(|(_, cpu)| *cpu).collect();
        let million = |ns: u64| ratio(records * 1_000, ns);
        let (wall, cpu) = (million(median(&mut walls)), million(median(&mut cpus)));
        let best = million(walls.first().copied().unwrap_or(0));
        results.lines.push(
            Line::told(
                format!("replay of {records} records, {name}"),
                format!("{wall:.2} million/s (best {best:.2})"),
            )
            .with_peer(format!(
                "{cpu:.2} million per second of CPU; {}",
                lines_alone(bench, &file)?
            ))
            .with_bar(format!(">= {BAR} million/s"), wall >= BAR),
        );
        if processes != 0 {
            results.lines.push(profile(bench, &file));
        }
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(())
}

/// The same lines without anything before them, by a well-kept library.
fn lines_alone(bench: &Bench, file: &Path) -> Result<String> {
    #[derive(Deserialize)]
    struct Found {
        ps_per_line: u64,
        bytes: u64,
    }
    let mut command = Command::new(&bench.parts);
    command.arg("lines").arg(file);
    let said = command::probe(&mut command).context("cannot write lines alone")?;
    let Found { ps_per_line, bytes } = serde_json::from_str(&said)?;
    let million = ratio(1_000_000, ps_per_line);
    Ok(format!(
        "serde_json alone writes these lines, {bytes} bytes each, at {million:.2} million/s"
    ))
}

/// A recording in the bench's directory.
pub fn recording(bench: &Bench, records: u64, flags: &[&str]) -> Result<PathBuf> {
    let file = bench.dir.join("bench.rec");
    let mut command = Command::new(&bench.parts);
    command
        .arg("recording")
        .arg(&file)
        .args(["--records", &records.to_string()])
        .args(flags);
    command::run(&mut command).context("cannot make a recording")?;
    Ok(file)
}

fn replay(bench: &Bench, file: &Path) -> Command {
    // `command::run` gives stdout to stderr.
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "exec \"$0\" replay --format json \"$1\" > /dev/null"])
        .arg(&bench.tracer)
        .arg(file);
    command
}

/// CPU time of all children so far, nanoseconds (in clock ticks of 10 ms).
fn children_ns() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
    let (_, fields) = text.rsplit_once(')').context("no process name")?;
    // Fields 16 and 17 of proc(5), counted from the state, which is field 3.
    let ticks = fields.split_whitespace().skip(13).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks * 10_000_000)
}

/// Functions shown.
const SHOWN: usize = 8;

/// The functions that take most time, where perf is there to tell.
fn profile(bench: &Bench, file: &Path) -> Line {
    let what = "replay, where the time goes";
    let Some(perf) = command::find("perf") else {
        return Line::skipped(what, "perf is not installed");
    };
    let data = bench.dir.join("perf.data");
    let mut record = Command::new(&perf);
    record
        .args(["record", "--quiet", "-e", "cpu-clock", "-F", "1000", "-o"])
        .arg(&data)
        .arg("--")
        .arg(&bench.tracer)
        .args(["replay", "--format", "json"])
        .arg(file)
        .stdout(Stdio::null());
    if command::probe(&mut record).is_none() {
        return Line::skipped(what, "perf cannot record here");
    }
    let mut report = Command::new(&perf);
    report
        .args([
            "report",
            "--stdio",
            "--no-children",
            "-F",
            "overhead,symbol",
            "-i",
        ])
        .arg(&data);
    let text = command::probe(&mut report).unwrap_or_default();
    let functions: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .take(SHOWN)
        .filter_map(|line| {
            let (share, symbol) = line.trim().split_once('%')?;
            let name = symbol
                .trim()
                .trim_start_matches("[.] ")
                .trim_start_matches("[k] ");
            Some(format!("{share}% {}", shorten(name)))
        })
        .collect();
    Line::told(what, functions.join("; "))
}

/// The last parts of a path, without what is in angle brackets.
fn shorten(name: &str) -> String {
    let mut depth = 0_u32;
    let plain: String = name
        .chars()
        .filter(|c| {
            let inside = depth > 0 || *c == '<';
            match c {
                '<' => depth += 1,
                '>' => depth = depth.saturating_sub(1),
                _ => {}
            }
            !inside
        })
        .collect();
    let parts: Vec<&str> = plain.split("::").filter(|part| !part.is_empty()).collect();
    let last = parts
        .get(parts.len().saturating_sub(2)..)
        .unwrap_or_default();
    last.join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened() {
        assert_eq!(shorten("tracer::render::line::is_plain"), "line::is_plain");
        assert_eq!(shorten("alloc::vec::Vec<T,A>::reserve"), "Vec::reserve");
        assert_eq!(
            shorten("alloc::btree::search::<impl a::B<C,D>>::search_tree"),
            "search::search_tree"
        );
        assert_eq!(shorten("malloc"), "malloc");
    }

    #[test]
    fn childrens_time_can_be_read() {
        assert!(children_ns().is_ok());
    }
}
