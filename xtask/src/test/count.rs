//! What a step's output says about its tests: libtest's lines, and the skips that tests report.

use std::ops::AddAssign;

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// A test that did not run, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    pub name: String,
    pub reason: String,
}

/// One step's result, gathered while its output passes by.
#[derive(Debug, Default)]
pub struct Log {
    pub tally: Tally,
    pub skips: Vec<Skip>,
    pub failures: Vec<String>,
    /// The begin of a line whose end is still to come.
    partial: Vec<u8>,
}

impl Log {
    /// Takes the next bytes of the output, in pieces of any size.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        if let Some(first) = lines.next() {
            self.partial.extend_from_slice(first);
        }
        for line in lines {
            self.end_line();
            self.partial.extend_from_slice(line);
        }
    }

    /// The output has ended.
    pub fn end(&mut self) {
        self.end_line();
    }

    fn end_line(&mut self) {
        let bytes = std::mem::take(&mut self.partial);
        let line = String::from_utf8_lossy(&bytes);
        if let Some(tally) = closing_line(&line) {
            self.tally += tally;
        } else if let Some(ended) = test_line(&line) {
            match ended {
                Ended::Failed(name) => self.failures.push(name.to_owned()),
                Ended::Ignored(skip) => self.skips.push(skip),
            }
        }
    }

    /// Adds what the tests themselves wrote down as skipped. libtest knows nothing of that and
    /// counted them as passed.
    pub fn add_reported(&mut self, text: &str) {
        let reported: Vec<Skip> = text.lines().filter_map(skip_line).collect();
        let count = u64::try_from(reported.len()).unwrap_or(u64::MAX);
        self.tally.passed = self.tally.passed.saturating_sub(count);
        self.tally.skipped += count;
        self.skips.extend(reported);
    }
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s`
fn closing_line(line: &str) -> Option<Tally> {
    let rest = line.trim_end().strip_prefix("test result: ")?;
    let (_verdict, counts) = rest.split_once(". ")?;
    let count = |what: &str| {
        counts.split("; ").find_map(|part| {
            let (number, name) = part.trim().split_once(' ')?;
            (name == what).then(|| number.parse().ok()).flatten()
        })
    };
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
    })
}

enum Ended<'a> {
    Failed(&'a str),
    Ignored(Skip),
}

/// `test NAME ... FAILED` and `test NAME ... ignored[, REASON]`; others say nothing that counts.
fn test_line(line: &str) -> Option<Ended<'_>> {
    let (name, end) = line
        .trim_end()
        .strip_prefix("test ")?
        .rsplit_once(" ... ")?;
    if end.starts_with("FAILED") {
        return Some(Ended::Failed(name));
    }
    let reason = end.strip_prefix("ignored")?.trim_start_matches(", ");
    Some(Ended::Ignored(Skip {
        name: name.to_owned(),
        reason: if reason.is_empty() { "ignored" } else { reason }.to_owned(),
    }))
}

/// `SKIPPED name: reason`
pub fn skip_line(line: &str) -> Option<Skip> {
    let (name, reason) = line.strip_prefix("SKIPPED ")?.split_once(": ")?;
    Some(Skip {
        name: name.to_owned(),
        reason: reason.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn closing_lines_are_read_and_others_are_not() {
        let rows = [
            (
                "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s",
                Some(tally(3, 0, 1)),
            ),
            (
                "test result: FAILED. 120 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 61.20s\r",
                Some(tally(120, 2, 0)),
            ),
            ("test result: ok. 3 passed", None),
            (
                "  test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured",
                None,
            ),
            ("test result: ok. many passed; 0 failed; 0 ignored", None),
            ("test a ... ok", None),
            ("", None),
        ];
        for (line, expected) in rows {
            assert_eq!(closing_line(line), expected, "{line}");
        }
    }

    const OUTPUT: &str = "\
running 4 tests
test a ... ok
test b::c - should panic ... FAILED
test d ... ignored, needs a second host
test e ... ignored

failures:

---- b::c stdout ----
SKIPPED not from the file: does not count

test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s
running 1 test
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    #[test]
    fn output_is_read_alike_in_pieces_of_any_size() {
        for size in 1..OUTPUT.len() {
            let mut log = Log::default();
            for piece in OUTPUT.as_bytes().chunks(size) {
                log.push(piece);
            }
            log.end();
            assert_eq!(log.tally, tally(2, 1, 2), "{size}");
            assert_eq!(log.failures, ["b::c - should panic"]);
            let skips: Vec<_> = log
                .skips
                .iter()
                .map(|skip| (skip.name.as_str(), skip.reason.as_str()))
                .collect();
            assert_eq!(skips, [("d", "needs a second host"), ("e", "ignored")]);
        }
    }

    #[test]
    fn a_reported_skip_is_not_a_pass() {
        let mut log = Log {
            tally: tally(5, 0, 1),
            ..Log::default()
        };
        log.add_reported(
            "SKIPPED oom: the memory controller: none\nnoise\nSKIPPED crun: not installed\n",
        );
        assert_eq!(log.tally, tally(3, 0, 3));
        assert_eq!(log.skips[0].name, "oom");
        assert_eq!(log.skips[0].reason, "the memory controller: none");

        let mut none_passed = Log::default();
        none_passed.add_reported("SKIPPED a: b");
        assert_eq!(none_passed.tally, tally(0, 0, 1));
    }
}
