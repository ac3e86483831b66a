//! `cargo xtask fuzz`: hostile input for everything that reads what others wrote.
//!
//! ```text
//!  tools (cargo-fuzz, a compiler with sanitizers) ──▶ cargo fuzz build ──▶ one binary per target
//!  seeds (recordings, test data, tables of paths) ──▶ corpus ──▶ binary ──▶ counted
//! ```
//!
//! The targets are in `tests/fuzz`, each with what must hold for any bytes. They run with the
//! address sanitizer, overflow checks and debug assertions. The corpus is kept in `target/fuzz`
//! and grows from run to run; what made a target fail is kept there too, with the command that
//! repeats it.

mod seeds;
mod tools;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use self::tools::{Compiler, Fuzzer};
use crate::{
    command, ebpf,
    packages::Policy,
    say,
    test::count::{Log, Skip},
    workspace,
};

/// Fuzz targets of `tests/fuzz`, with what they read.
pub const TARGETS: [&str; 7] = [
    "decode",
    "identify",
    "recording",
    "btf",
    "enrich",
    "request",
    "config",
];

/// Each target of `cargo xtask test` for so long, seconds.
pub const USUAL_SECONDS: u32 = 30;

/// Longest input, bytes. Recordings and BTF are made of parts that lie far from each other.
const MAX_LEN: u32 = 16 << 10;

/// Feed hostile input to every parser
///
/// Builds the targets of tests/fuzz with the address sanitizer and overflow checks, and runs them
/// one after the other. cargo-fuzz is built into the target directory where it is missing. Corpora
/// and what made a target fail are kept in target/fuzz.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// decode, identify, recording, btf, enrich, request, config [default: all]
    #[arg(value_parser = TARGETS)]
    targets: Vec<String>,
    /// For how long each target runs
    #[arg(long, value_name = "N", default_value_t = USUAL_SECONDS)]
    seconds: u32,
    #[command(flatten)]
    policy: Policy,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    ebpf::build(&[], args.policy)?;
    let mut log = Log::default();
    let named: Vec<&str> = args.targets.iter().map(String::as_str).collect();
    let targets = if named.is_empty() {
        &TARGETS
    } else {
        &named[..]
    };
    run(targets, args.seconds, args.policy, &mut log)?;
    for skip in &log.skips {
        say::result(format_args!("SKIPPED {}: {}", skip.name, skip.reason));
    }
    for failure in &log.failures {
        say::result(format_args!("FAILED {failure}"));
    }
    say::result(format_args!(
        "\n{} passed, {} failed, {} skipped",
        log.tally.passed, log.tally.failed, log.tally.skipped
    ));
    Ok(if log.tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds and runs `targets`, each for `seconds`; a target that finds something is a failure, and
/// the others run all the same. The eBPF object must be there.
pub fn run(targets: &[&str], seconds: u32, policy: Policy, log: &mut Log) -> Result<()> {
    let fuzzer = match tools::ensure(policy)? {
        Ok(fuzzer) => fuzzer,
        Err(reason) => {
            skip(targets, &reason, log);
            return Ok(());
        }
    };
    build(&fuzzer, targets)?;
    for target in targets {
        let corpus = directory("corpus", target)?;
        let count = seeds::write(target, &corpus)?;
        say::note(format_args!("fuzz {target}: {seconds} s, {count} seeds"));
        match fuzz(&fuzzer, target, &corpus, seconds)? {
            None => log.tally.passed += 1,
            Some(what) => {
                log.tally.failed += 1;
                log.failures.push(format!("{target}: {what}"));
            }
        }
    }
    Ok(())
}

fn skip(targets: &[&str], reason: &str, log: &mut Log) {
    for target in targets {
        log.tally.skipped += 1;
        log.skips.push(Skip {
            name: format!("fuzz {target}"),
            reason: reason.to_owned(),
        });
    }
}

/// Where cargo-fuzz and the targets keep everything.
fn place() -> PathBuf {
    workspace::target().join("fuzz")
}

fn source() -> PathBuf {
    workspace::root().join("tests/fuzz")
}

fn directory(kind: &str, target: &str) -> Result<PathBuf> {
    let path = place().join(kind).join(target);
    fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}

/// One binary per target. The versions of all dependencies are the workspace's.
fn build(fuzzer: &Fuzzer, targets: &[&str]) -> Result<()> {
    let lock = source().join("Cargo.lock");
    if !lock.is_file() {
        fs::copy(workspace::root().join("Cargo.lock"), &lock)
            .with_context(|| format!("cannot write {}", lock.display()))?;
    }
    let mut all = vec![None];
    if let [one] = targets {
        all = vec![Some(*one)];
    }
    for target in all {
        let mut cargo = cargo_fuzz(fuzzer);
        cargo
            .args(["build", "--sanitizer", "address", "--codegen-units", "16"])
            .arg("--fuzz-dir")
            .arg(source())
            .arg("--target-dir")
            .arg(place())
            .args(target);
        command::run(&mut cargo).context("could not build the fuzz targets")?;
    }
    Ok(())
}

/// `cargo fuzz` without cargo in front of it: it takes cargo from `PATH`, and that the compiler
/// from the environment.
fn cargo_fuzz(fuzzer: &Fuzzer) -> Command {
    let Compiler { cargo, rustc, .. } = &fuzzer.compiler;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = cargo.parent().map(PathBuf::from);
    let dirs = first.into_iter().chain(std::env::split_paths(&path));
    let path = std::env::join_paths(dirs).unwrap_or_else(|_unusable| path.clone());
    let mut command = Command::new(&fuzzer.cargo_fuzz);
    command
        .arg("fuzz")
        .current_dir(workspace::root())
        .env("PATH", path)
        .env("RUSTC", rustc)
        // Sanitizers are for nightlies; a release compiler takes them with this, here alone.
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

/// Runs one target; what it found, if it found something.
fn fuzz(fuzzer: &Fuzzer, target: &str, corpus: &Path, seconds: u32) -> Result<Option<String>> {
    let found = directory("artifacts", target)?;
    let log = place().join(format!("{target}.log"));
    let output =
        fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let binary = place()
        .join(&fuzzer.compiler.host)
        .join("release")
        .join(target);
    if !binary.is_file() {
        bail!("cargo-fuzz left no {}", binary.display());
    }
    let mut command = Command::new(&binary);
    command
        .arg(corpus)
        .arg(format!("-artifact_prefix={}/", found.display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_LEN}"))
        .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"])
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stderr(output);
    let status = command
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", command::describe(&command)))?;
    let said = fs::read(&log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    if status.success() {
        say::note(format_args!("fuzz {target}: {}", summary(&said)));
        return Ok(None);
    }
    Ok(Some(format!(
        "{} (all of it in {}); again with: {} {}",
        reason(&said).unwrap_or("it ended without a word"),
        workspace::shown(&log),
        workspace::shown(&binary),
        artifact(&said).unwrap_or("FILE"),
    )))
}

/// `250000 inputs, 8333/s`, by libFuzzer's closing statistics.
fn summary(said: &str) -> String {
    let number = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_prefix(':').map(str::trim)
    };
    format!(
        "{} inputs, {}/s, nothing found",
        number("stat::number_of_executed_units").unwrap_or("?"),
        number("stat::average_exec_per_sec").unwrap_or("?"),
    )
}

/// The first line that says what went wrong, or the one after a panic's place.
fn reason(said: &str) -> Option<&str> {
    let mut lines = said.lines();
    while let Some(line) = lines.next() {
        if line.contains("panicked at ") {
            return lines.next().or(Some(line));
        }
        if line.contains("ERROR: ") {
            return Some(line.trim());
        }
    }
    None
}

/// The file that libFuzzer left.
fn artifact(said: &str) -> Option<&str> {
    said.lines()
        .find_map(|line| line.split_once("Test unit written to "))
        .map(|(_, path)| path.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_read() {
        let good = "#2 INITED\nDone 7 runs in 1 second(s)\nstat::number_of_executed_units: 7\nstat::average_exec_per_sec:     3\n";
        assert_eq!(summary(good), "7 inputs, 3/s, nothing found");
        assert_eq!(reason(good), None);
        let panicked = "thread '<unnamed>' panicked at tracer/src/time.rs:104:26:\nattempt to multiply with overflow\n\
            ==1== ERROR: libFuzzer: deadly signal\nartifact_prefix='x/'; Test unit written to x/crash-0a\n";
        assert_eq!(reason(panicked), Some("attempt to multiply with overflow"));
        assert_eq!(artifact(panicked), Some("x/crash-0a"));
        let slow = "==1== ERROR: libFuzzer: timeout after 10 seconds\n";
        assert_eq!(
            reason(slow),
            Some("==1== ERROR: libFuzzer: timeout after 10 seconds")
        );
    }

    #[test]
    fn every_target_is_in_the_manifest_and_has_seeds() {
        let manifest = fs::read_to_string(source().join("Cargo.toml")).unwrap();
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
        for target in TARGETS {
            assert!(
                manifest.contains(&format!("name = \"{target}\"")),
                "{target}"
            );
            let dir =
                std::env::temp_dir().join(format!("xtask-fuzz-{}-{target}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            let count = seeds::write(target, &dir).unwrap();
            fs::remove_dir_all(&dir).unwrap();
            assert!(count >= 3, "{target}: {count} seeds");
        }
    }
}
