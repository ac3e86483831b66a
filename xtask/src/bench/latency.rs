//! From the kernel's time stamp to the bytes in another process: tracer and the floor, in turns.
//!
//! The load is mkdir and rmdir of cgroups with a container's name, at a steady rate. The floor
//! forwards the raw records of these, tracer tells `created`, `start_failed` and `removed`. The
//! moment is taken after the `read(2)` that completes a record or line.

use std::collections::BTreeSet;

use anyhow::Result;
use rustix::time::ClockId;

use super::{
    Bench, Results,
    line::Line,
    load::{Containers, wait_until},
    stats::{micros, percentile, ratio},
    subject::{Chunk, Subject, now},
};

/// The rate that the bars are for, kernel events per second.
const JUDGED: u64 = 500;

pub fn measure(bench: &Bench, results: &mut Results) -> Result<()> {
    let mut containers = Containers::new()?;
    for rate in [10, JUDGED, 10_000] {
        let lives = match rate {
            10 => bench.scaled(100, 20),
            JUDGED => bench.scaled(1_500, 400),
            _ => bench.scaled(10_000, 4_000),
        };
        let (mut floor, mut tracer) = (Vec::new(), Vec::new());
        for _ in 0..bench.scaled(3, 2) {
            let subject = Subject::floor(bench)?;
            load(&mut containers, rate, lives)?;
            floor.extend(of_floor(&subject.stop()?));
            let subject = Subject::tracer(bench, &[])?;
            load(&mut containers, rate, lives)?;
            tracer.extend(of_tracer(&subject.stop()?));
        }
        for (name, per_mille, bar) in [("p50", 500, 1.5), ("p99", 990, 3.0)] {
            let (ours, least) = (
                percentile(&mut tracer, per_mille),
                percentile(&mut floor, per_mille),
            );
            let times = ratio(ours, least);
            let line = Line::told(
                format!("latency at {rate}/s, {name}"),
                format!("{} = {times:.2}x", micros(ours)),
            )
            .with_peer(format!("{} ({} samples)", micros(least), floor.len()));
            results.lines.push(if rate == JUDGED {
                line.with_bar(format!("<= {bar}x floor"), times <= bar && least != 0)
            } else {
                line
            });
        }
        if rate == JUDGED {
            let named = [("minimal reader", floor), ("tracer", tracer)];
            results.picture.latency = named.map(|(name, all)| (name.to_owned(), all)).into();
        }
    }
    Ok(())
}

/// Makes and removes `lives` cgroups, `rate` of both together per second.
pub fn load(containers: &mut Containers, rate: u64, lives: u64) -> Result<()> {
    let step = 1_000_000_000 / rate;
    let mut then = now(ClockId::Boottime) + 10_000_000;
    for _ in 0..lives {
        wait_until(then)?;
        let container = containers.make()?;
        then += step;
        wait_until(then)?;
        container.remove()?;
        then += step;
    }
    // The last record is read before the end is asked for.
    wait_until(then + 20_000_000)
}

/// Latencies of the records of this run's cgroups, nanoseconds.
fn of_floor(chunks: &[Chunk]) -> Vec<u64> {
    /// Offsets in `tracer_common`'s layouts.
    const KIND: usize = 16;
    const LEN: usize = 20;
    const CGROUP: usize = 24;
    const HEAD: usize = 24;
    const MKDIR: u16 = 1;
    let mark = format!("/docker/{}", Containers::prefix());
    let mut own = BTreeSet::new();
    let mut latencies = Vec::new();
    let mut rest: Vec<u8> = Vec::new();
    for chunk in chunks {
        rest.extend_from_slice(&chunk.bytes);
        while let Some(len) = u32_at(&rest, LEN) {
            let len = usize::try_from(len).unwrap_or(usize::MAX).max(HEAD);
            let Some(record) = rest.get(..len) else { break };
            let is_mkdir = record.get(KIND..KIND + 2) == Some(&MKDIR.to_ne_bytes());
            let id = u64_at(record, CGROUP);
            let text = record.get(CGROUP..).unwrap_or_default();
            if is_mkdir && text.windows(mark.len()).any(|part| part == mark.as_bytes()) {
                own.insert(id);
            }
            if own.contains(&id)
                && let Some(stamp) = u64_at(record, 0)
            {
                latencies.push(chunk.boot_ns.saturating_sub(stamp));
            }
            rest.drain(..len);
        }
    }
    latencies
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_ne_bytes(*bytes))
}

/// Latencies of the lines about this run's containers, nanoseconds.
pub fn of_tracer(chunks: &[Chunk]) -> Vec<u64> {
    let mark = format!("\"id\":\"{}", Containers::prefix());
    let mut latencies = Vec::new();
    let mut rest: Vec<u8> = Vec::new();
    for chunk in chunks {
        rest.extend_from_slice(&chunk.bytes);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(rest.get(..end).unwrap_or_default());
            if line.contains(&mark)
                && line.contains("\"origin\":\"kernel\"")
                && let Some(stamp) = stamp_of(&line)
            {
                latencies.push(since(stamp, chunk.wall_ns));
            }
            rest.drain(..=end);
        }
    }
    latencies
}

const DAY_NS: u64 = 86_400 * 1_000_000_000;

/// The time of a line, nanoseconds of its day.
fn stamp_of(line: &str) -> Option<u64> {
    let (_, time) = line.split_once("\"time\":\"")?;
    let number = |from: usize, len: usize| time.get(from..from + len)?.parse::<u64>().ok();
    let seconds = number(11, 2)? * 3600 + number(14, 2)? * 60 + number(17, 2)?;
    Some(seconds * 1_000_000_000 + number(20, 9)?)
}

/// From a time of day to a moment less than a day later; 0 for one that is not later.
fn since(of_day: u64, wall_ns: u64) -> u64 {
    let passed = (wall_ns % DAY_NS + DAY_NS - of_day) % DAY_NS;
    if passed > DAY_NS / 2 { 0 } else { passed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_line_is_compared_with_the_wall_clock() {
        let line = r#"{"id":"x/1","seq":1,"time":"2026-11-21T00:00:01.000000005Z","type":"x"}"#;
        let stamp = stamp_of(line).expect("a time");
        assert_eq!(stamp, 1_000_000_005);
        assert_eq!(since(stamp, 3 * DAY_NS + 1_000_000_105), 100);
        assert_eq!(since(DAY_NS - 5, DAY_NS * 4 + 5), 10);
        assert_eq!(since(10, 3 * DAY_NS + 5), 0);
    }
}
