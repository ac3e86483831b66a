//! One line of the table.

use serde::Serialize;

use crate::say;

/// How a measurement stands to its bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Pass,
    Short,
    /// There is no bar.
    Told,
    Skipped,
    Failed,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    pub what: String,
    pub bar: String,
    pub measured: String,
    /// The floor, or what else it is compared with in the same run.
    pub peer: String,
    pub verdict: Verdict,
}

impl Line {
    /// A measurement without a bar.
    pub fn told(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            bar: String::new(),
            measured: measured.into(),
            peer: String::new(),
            verdict: Verdict::Told,
        }
    }

    /// What could not be measured here, and why.
    pub fn skipped(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Skipped,
            ..Self::told(what, why)
        }
    }

    pub fn failed(row: &str, error: &anyhow::Error) -> Self {
        Self {
            verdict: Verdict::Failed,
            ..Self::told(row, format!("{error:#}"))
        }
    }

    pub fn with_peer(mut self, peer: impl Into<String>) -> Self {
        self.peer = peer.into();
        self
    }

    /// Against a bar.
    pub fn with_bar(mut self, bar: impl Into<String>, met: bool) -> Self {
        self.bar = bar.into();
        self.verdict = if met { Verdict::Pass } else { Verdict::Short };
        self
    }
}

/// The table, as Markdown.
pub fn print(lines: &[Line]) {
    for row in table(lines) {
        say::result(row);
    }
}

fn table(lines: &[Line]) -> Vec<String> {
    let head = ["what", "bar", "measured", "floor or peer", ""].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(lines.iter().map(|line| {
        let verdict = match line.verdict {
            Verdict::Pass => "pass",
            Verdict::Short => "SHORT",
            Verdict::Told => "",
            Verdict::Skipped => "skipped",
            Verdict::Failed => "FAILED",
        };
        let cells = [&line.what, &line.bar, &line.measured, &line.peer];
        let [what, bar, measured, peer] = cells.map(|cell| cell.replace('\n', " "));
        [what, bar, measured, peer, verdict.to_owned()]
    }));
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut shown: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells = row.iter().zip(widths);
            cells.fold(String::from("|"), |line, (cell, width)| {
                format!("{line} {cell:width$} |")
            })
        })
        .collect();
    let rule = widths.iter().fold(String::from("|"), |line, width| {
        format!("{line} {} |", "-".repeat((*width).max(3)))
    });
    shown.insert(1, rule);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_below_each_other() {
        let lines = [
            Line::told("a", "12 µs").with_bar("<= 20 µs", true),
            Line::skipped("docker", "not here"),
        ];
        assert_eq!(
            table(&lines),
            [
                "| what   | bar      | measured | floor or peer |         |",
                "| ------ | -------- | -------- | ------------- | ------- |",
                "| a      | <= 20 µs | 12 µs    |               | pass    |",
                "| docker |          | not here |               | skipped |",
            ]
        );
    }
}
