//! `cargo xtask kernels`: whether tracer knows a kernel, judged by its type information alone.
//!
//! ```text
//!  series ──▶ store (target/kernels) ◀── archive (a private apt) ──▶ image (bzImage ──▶ BTF)
//!               │
//!               ▼
//!             tracer doctor --btf FILE ──▶ one row per kernel
//! ```

pub mod archive;
mod image;
pub mod series;
pub mod store;
pub mod tree;

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use self::{
    series::Series,
    store::{Found, Kernel},
};
use crate::{
    build::{self, Profile, What},
    packages::Policy,
    say,
};

/// Check the members and tracepoints that tracer relies on against the BTF of Debian's kernels
///
/// Boots nothing. The kernels are fetched once into target/kernels, with an apt configuration of
/// xtask's own and by the checksums of Debian's signed lists. Ends with 1 where a kernel lacks what
/// tracer requires. To try them out: `cargo xtask test --vm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kernel series: `6.12`, or `7` for the newest 7.x [default: 5.10 6.1 6.12 6.18 7]
    kernels: Vec<Series>,
    /// Look for newer packages than those that were fetched before
    #[arg(long)]
    refresh: bool,
    #[command(flatten)]
    policy: Policy,
}

/// As `tracer doctor --format json` says it.
#[derive(Debug, Deserialize)]
struct Report {
    ready: bool,
    findings: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    what: String,
    verdict: String,
    found: String,
}

impl Report {
    fn found(&self, what: &str) -> &str {
        self.findings
            .iter()
            .find(|finding| finding.what == what)
            .map_or("-", |finding| finding.found.as_str())
    }

    /// `43 members found` as 43.
    fn members(&self) -> &str {
        let found = self.found("BTF");
        found.strip_suffix(" members found").unwrap_or("-")
    }

    /// `10 of 10 fit` as `10 of 10`.
    fn prototypes(&self) -> &str {
        let found = self.found("tracepoints");
        found.strip_suffix(" fit").unwrap_or(found)
    }

    fn with(&self, verdict: &str) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(move |finding| finding.verdict == verdict)
    }
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let what = What {
        features: Vec::new(),
        policy: args.policy,
    };
    let tracer = build::build(Profile::Fast, &what)?;
    let wanted: &[Series] = match &args.kernels[..] {
        [] => &series::DEFAULT,
        named => named,
    };
    let mut rows = Vec::new();
    for (series, found) in store::ensure(wanted, args.refresh, args.policy)? {
        let verdict = match &found {
            Ok(kernel) => Ok(judge(Command::new(&tracer), kernel)?),
            Err(why) => Err(why.clone()),
        };
        rows.push((name(&(series, found)), verdict));
    }
    // A series that is asked for by name must be there; of the usual ones Debian may drop some.
    let good = rows.iter().all(|(_, verdict)| match verdict {
        Ok(report) => report.ready,
        Err(_) => args.kernels.is_empty(),
    });
    for line in table(&rows) {
        say::result(line);
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn name((series, found): &Found) -> String {
    match found {
        Ok(kernel) => kernel.version.clone(),
        Err(_) => series.to_string(),
    }
}

fn judge(mut tracer: Command, kernel: &Kernel) -> Result<Report> {
    let output = tracer
        .args(["doctor", "--format", "json", "--btf"])
        .arg(kernel.btf())
        .output()
        .context("cannot start tracer")?;
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "cannot read what tracer says of {}: {}",
            kernel.version,
            String::from_utf8_lossy(&output.stderr).trim_end()
        )
    })
}

type Row = (String, Result<Report, String>);

/// A row per kernel, then what is missing, degraded or skipped.
fn table(rows: &[Row]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:<12}{:>8}  {:<12}{:>9}  {}",
        "kernel", "members", "prototypes", "degraded", "result"
    )];
    let mut notes = Vec::new();
    for (name, verdict) in rows {
        let report = match verdict {
            Ok(report) => report,
            Err(why) => {
                lines.push(format!(
                    "{name:<12}{:>8}  {:<12}{:>9}  skipped",
                    "-", "-", "-"
                ));
                notes.push(format!("SKIPPED {name}: {why}"));
                continue;
            }
        };
        lines.push(format!(
            "{name:<12}{:>8}  {:<12}{:>9}  {}",
            report.members(),
            report.prototypes(),
            report.with("degraded").count(),
            if report.ready { "fits" } else { "LACKS" }
        ));
        for (verdict, word) in [("missing", "LACKS"), ("degraded", "LESS")] {
            notes.extend(
                report
                    .with(verdict)
                    .map(|finding| format!("{word} {name}: {}: {}", finding.what, finding.found)),
            );
        }
    }
    lines.extend(notes);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(json: &str) -> Result<Report, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_kernel_is_a_row_and_each_lack_a_line() {
        let rows = [
            (
                "6.1.192".to_owned(),
                report(
                    r#"{"ready":true,"findings":[
                        {"what":"BTF","verdict":"good","found":"43 members found"},
                        {"what":"tracepoints","verdict":"info","found":"9 of 10 fit"},
                        {"what":"tracepoint mark_victim","verdict":"degraded","found":"no task","remedy":"x"}]}"#,
                ),
            ),
            (
                "9.9".to_owned(),
                report(
                    r#"{"ready":false,"findings":[{"what":"BTF","verdict":"missing","found":"no 'pid'"}]}"#,
                ),
            ),
            ("7".to_owned(), Err("gone".to_owned())),
        ];
        assert_eq!(
            table(&rows),
            [
                "kernel       members  prototypes   degraded  result",
                "6.1.192           43  9 of 10             1  fits",
                "9.9                -  -                   0  LACKS",
                "7                  -  -                   -  skipped",
                "LESS 6.1.192: tracepoint mark_victim: no task",
                "LACKS 9.9: BTF: no 'pid'",
                "SKIPPED 7: gone",
            ]
        );
    }
}
