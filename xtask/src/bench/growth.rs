//! Cost per event and memory against the number of containers and the depth of cgroups.
//!
//! From recordings, so that nothing but tracer is measured: CPU time of a replay per record, and the
//! memory it had at most. Beside it stands what memory alone costs: among many containers whatever is
//! kept of one is in no cache of the processor.
//!
//! Which of the two grows, the work or the waiting for memory, is told by cachegrind, which counts the
//! instructions of an event and the lines of cache that are not in the processor's second cache (it is
//! given that cache's size as the last level of all).

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{
    Bench, Results,
    line::Line,
    pipeline::recording,
    stats::{median, megabytes, ratio},
    subject::{cpu_ns, status},
};
use crate::command;

/// How much more an event may cost among the most containers than among the fewest.
const FLAT: f64 = 1.5;

/// Containers.
const FEWEST: u64 = 10;
const MOST: u64 = 10_000;

pub fn measure(bench: &Bench, results: &mut Results) -> Result<()> {
    times(bench, results)?;
    work(bench, results)
}

pub fn times(bench: &Bench, results: &mut Results) -> Result<()> {
    let records = bench.scaled(2_000_000, 400_000);
    for (name, flag, values) in [
        (
            "containers",
            "--containers",
            &[FEWEST, 100, 1_000, MOST][..],
        ),
        ("cgroups inside each", "--depth", &[0, 4, 16][..]),
    ] {
        let mut first = 0;
        for value in values {
            let flags = [flag, &value.to_string(), "--processes", "5"];
            let (per_event, memory) = replay(bench, records, &flags)?;
            if first == 0 {
                first = per_event;
            }
            let times = ratio(per_event, first);
            if flag == "--containers" {
                let rate = ratio(1_000, per_event);
                results.picture.throughput.push((*value, rate));
            }
            let line = Line::told(
                format!("{value} {name}"),
                format!("{per_event} ns per event = {times:.2}x"),
            )
            .with_peer(if flag == "--containers" {
                let floor = touch(bench, *value)?;
                format!("at most {}; memory alone {floor} ns", megabytes(memory))
            } else {
                format!("at most {}", megabytes(memory))
            });
            results.lines.push(if values.last() == Some(value) {
                line.with_bar(format!("flat: <= {FLAT}x the first"), times <= FLAT)
            } else {
                line
            });
        }
    }
    Ok(())
}

/// Instructions and misses of events, among few containers and among many.
fn work(bench: &Bench, results: &mut Results) -> Result<()> {
    let what = |containers| format!("{containers} containers, work of an event");
    let mut skip = |why| {
        results.lines.push(Line::skipped(what(MOST), why));
        Ok(())
    };
    let Some(valgrind) = command::find("valgrind") else {
        return skip("valgrind is not installed");
    };
    let Some(cache) = second_cache() else {
        return skip("the kernel does not tell of a second cache");
    };
    let records = bench.scaled(400_000, 100_000);
    let mut first = 0;
    for containers in [FEWEST, MOST] {
        let flags = ["--containers", &containers.to_string(), "--processes", "5"];
        let file = recording(bench, records, &flags)?;
        let log = bench.dir.join("cachegrind.log");
        let mut command = Command::new(&valgrind);
        command
            .args(["--tool=cachegrind", "--cache-sim=yes"])
            .args([
                format!("--LL={cache}"),
                format!("--log-file={}", log.display()),
            ])
            .arg("--cachegrind-out-file=/dev/null")
            .arg(&bench.tracer)
            .args(["replay", "--format", "json"])
            .arg(&file)
            .stdout(Stdio::null());
        command::probe(&mut command).context("cachegrind cannot run tracer")?;
        let said = fs::read_to_string(&log).context("cachegrind wrote nothing")?;
        let count = |name| counted(&said, name).with_context(|| format!("cachegrind: no {name}"));
        let (instructions, misses) = (count("I refs:")?, count("LLd misses:")?);
        if containers == FEWEST {
            first = instructions;
        }
        let times = ratio(instructions, first);
        let line = Line::told(
            what(containers),
            format!("{} instructions = {times:.2}x", instructions / records),
        )
        .with_peer(format!(
            "{:.1} lines from beyond the second cache ({cache})",
            ratio(misses, records)
        ));
        results.lines.push(if containers == MOST {
            line.with_bar(format!("flat: <= {FLAT}x the first"), times <= FLAT)
        } else {
            line
        });
    }
    Ok(())
}

/// The processor's second cache as cachegrind takes it: bytes, ways, bytes of a line.
fn second_cache() -> Option<String> {
    let told = |name| fs::read_to_string(format!("{SECOND_CACHE}/{name}")).ok();
    let size: u64 = told("size")?.trim().strip_suffix('K')?.parse().ok()?;
    let (ways, line) = (told("ways_of_associativity")?, told("coherency_line_size")?);
    Some(format!("{},{},{}", size << 10, ways.trim(), line.trim()))
}

const SECOND_CACHE: &str = "/sys/devices/system/cpu/cpu0/cache/index2";

/// The first number behind a name in what cachegrind says, which sets names apart with any number of
/// spaces and thousands with commas.
fn counted(said: &str, name: &str) -> Option<u64> {
    said.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let text = words.join(" ");
        let (_, behind) = text.split_once(name)?;
        let number = behind.split_whitespace().next()?.replace(',', "");
        number.parse().ok()
    })
}

/// What it costs to find one of so many blocks of memory and copy it, in nanoseconds.
fn touch(bench: &Bench, containers: u64) -> Result<u64> {
    let mut command = Command::new(&bench.parts);
    command.args(["touch", "--containers", &containers.to_string()]);
    let said = command::probe(&mut command).context("cannot touch memory")?;
    said.trim().parse().context("no number")
}

/// CPU time per record in nanoseconds, and memory in KiB.
fn replay(bench: &Bench, records: u64, flags: &[&str]) -> Result<(u64, u64)> {
    let file = recording(bench, records, flags)?;
    let bytes = fs::read(&file).context("cannot read the recording")?;
    fs::remove_file(&file).context("cannot remove the recording")?;
    let (mut costs, mut memory) = (Vec::new(), 0);
    for _ in 0..3 {
        let mut child = Command::new(&bench.tracer)
            .args(["replay", "--format", "json", "/dev/stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start tracer")?;
        let mut pipe = child.stdin.take().context("no pipe")?;
        pipe.write_all(&bytes).context("tracer does not read")?;
        // All but what the pipe holds is done, and the process is still there to be asked.
        costs.push(cpu_ns(child.id())? / records);
        memory = memory.max(status(child.id(), "VmHWM")?);
        drop(pipe);
        child.wait()?;
    }
    Ok((median(&mut costs), memory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_cachegrind_says() {
        let said = "==1== Cachegrind\n==1== I   refs:      2,023,515,399\n\
            ==1== LLd misses:            163,205  (     98,026 rd   +      65,179 wr)\n";
        assert_eq!(counted(said, "I refs:"), Some(2_023_515_399));
        assert_eq!(counted(said, "LLd misses:"), Some(163_205));
        assert_eq!(counted(said, "LL misses:"), None);
    }
}
