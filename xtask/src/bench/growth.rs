//! Cost per event and memory against the number of containers and the depth of cgroups.
//!
//! From recordings, so that nothing but tracer is measured: CPU time of a replay per record, and the
//! memory it had at most. Beside it stands what memory alone costs: among many containers whatever is
//! kept of one is in no cache of the processor.

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

pub fn measure(bench: &Bench, results: &mut Results) -> Result<()> {
    let records = bench.scaled(2_000_000, 400_000);
    for (name, flag, values) in [
        (
            "containers",
            "--containers",
            &[10_u64, 100, 1_000, 10_000][..],
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
