//! What the agent counts: each stage has what came in, what went out, and what was dropped and why.
//!
//! Counters are plain atomics that the stages add to; a scrape reads them on a thread of its own, so
//! that nobody who asks costs the event loop anything.
//!
//! In every stage `in = out + dropped + held`; what is held is small and bounded.

#[cfg(feature = "metrics")]
mod serve;

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

#[cfg(feature = "metrics")]
pub use self::serve::{Address, serve};

/// One counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    RingIn,
    RingLost,
    RingUndecoded,
    EngineOut,
    FilterDropped,
    StdoutIn,
    StdoutDropped,
    SpoolIn,
    SpoolOut,
    SpoolRepeated,
    SpoolQueueFull,
    SpoolBounds,
    SpoolFailures,
    UpstreamSessions,
    UpstreamFailures,
    UpstreamSent,
    UpstreamLostPlace,
}

/// Name without prefix and suffix, labels, help; in the order of [`Count`].
const COUNTS: [(Count, &str, &str, &str); 17] = [
    (Count::RingIn, "records_in", "stage=\"ring\"", IN),
    (
        Count::RingLost,
        "records_dropped",
        "stage=\"ring\",reason=\"full\"",
        DROPPED,
    ),
    (
        Count::RingUndecoded,
        "records_dropped",
        "stage=\"ring\",reason=\"undecoded\"",
        DROPPED,
    ),
    (Count::EngineOut, "records_out", "stage=\"engine\"", OUT),
    (
        Count::FilterDropped,
        "records_dropped",
        "stage=\"filter\",reason=\"filtered\"",
        DROPPED,
    ),
    (Count::StdoutIn, "records_in", "stage=\"stdout\"", IN),
    (
        Count::StdoutDropped,
        "records_dropped",
        "stage=\"stdout\",reason=\"slow_reader\"",
        DROPPED,
    ),
    (Count::SpoolIn, "records_in", "stage=\"spool\"", IN),
    (Count::SpoolOut, "records_out", "stage=\"spool\"", OUT),
    (
        Count::SpoolRepeated,
        "records_dropped",
        "stage=\"spool\",reason=\"repeated\"",
        DROPPED,
    ),
    (
        Count::SpoolQueueFull,
        "records_dropped",
        "stage=\"spool\",reason=\"queue_full\"",
        DROPPED,
    ),
    (
        Count::SpoolBounds,
        "records_dropped",
        "stage=\"spool\",reason=\"bounds\"",
        DROPPED,
    ),
    (
        Count::SpoolFailures,
        "spool_failures",
        "",
        "Commits of the spool that failed",
    ),
    (
        Count::UpstreamSessions,
        "upstream_sessions",
        "",
        "Sessions that upstreams let in",
    ),
    (
        Count::UpstreamFailures,
        "upstream_failures",
        "",
        "Tries and sessions that failed",
    ),
    (
        Count::UpstreamSent,
        "records_out",
        "stage=\"upstream\"",
        OUT,
    ),
    (
        Count::UpstreamLostPlace,
        "upstream_lost_places",
        "",
        "Streams that were begun because an upstream had more of the one before than was known here",
    ),
];

const IN: &str = "Records that came into a stage";
const OUT: &str = "Records that left a stage";
const DROPPED: &str = "Records that a stage left out, by reason";

/// All counters.
#[derive(Debug, Default)]
pub struct Metrics {
    counts: [AtomicU64; COUNTS.len()],
}

impl Metrics {
    /// So many more.
    pub fn add(&self, count: Count, more: u64) {
        if more != 0
            && let Some(counter) = self.counter(count)
        {
            counter.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// One of them, which only rises.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        let counter = self.counter(count);
        counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    fn counter(&self, count: Count) -> Option<&AtomicU64> {
        self.counts.get(count as usize)
    }

    /// In the text format of Prometheus: families in one piece each.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut done: Vec<&str> = Vec::new();
        for (_, name, _, help) in COUNTS {
            if done.contains(&name) {
                continue;
            }
            done.push(name);
            let family = format!("tracer_{name}_total");
            line(&mut text, format_args!("# HELP {family} {help}."));
            line(&mut text, format_args!("# TYPE {family} counter"));
            for (count, _, labels, _) in COUNTS.iter().filter(|(_, other, ..)| *other == name) {
                let value = self.get(*count);
                if labels.is_empty() {
                    line(&mut text, format_args!("{family} {value}"));
                } else {
                    line(&mut text, format_args!("{family}{{{labels}}} {value}"));
                }
            }
        }
        text
    }
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    if let Err(error) = writeln!(text, "{what}") {
        tracing::debug!(%error, "metrics");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_its_own_place() {
        for (index, (count, ..)) in COUNTS.iter().enumerate() {
            assert_eq!(*count as usize, index, "{count:?}");
        }
    }

    #[test]
    fn families_are_told_in_one_piece() {
        let metrics = Metrics::default();
        metrics.add(Count::SpoolBounds, 7);
        let text = metrics.text();
        assert_eq!(
            text.matches("# TYPE tracer_records_dropped_total").count(),
            1
        );
        let told = "tracer_records_dropped_total{stage=\"spool\",reason=\"bounds\"} 7\n";
        assert!(text.contains(told), "{text}");
        assert!(text.contains("\ntracer_spool_failures_total 0\n"));
    }

    /// A counter that nobody adds to says 0 where it does not know.
    #[test]
    fn every_counter_is_used() {
        let mut source = String::new();
        let mut directories =
            vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("sources") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    if !path.ends_with("metrics") {
                        directories.push(path);
                    }
                } else {
                    source += &std::fs::read_to_string(path).unwrap_or_default();
                }
            }
        }
        for (count, ..) in COUNTS {
            let used = format!("Count::{count:?}");
            assert!(source.contains(&used), "nobody adds to {used}");
        }
    }
}
