//! What a live test needs from the machine, and what happens where it is missing.
//!
//! A skip that counts as passed hides a hole. So a test that cannot run either fails
//! (`TRACER_REQUIRE_LIVE` set, as in CI) or leaves a line `SKIPPED <test>: <reason>` in the file
//! that `TRACER_SKIP_FILE` names, on standard error where it names none.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};

use crate::{cgroup, tracer};

/// Says that a live test may go on. Tests of one process run one after the other: two cores and
/// forty tracers make deadlines a matter of luck.
#[derive(Debug)]
pub struct Live {
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

/// Checks root, the tracer binary, the cgroup mounts and `programs`. `None` means: skipped, noted.
pub fn live(test: &str, programs: &[&str]) -> Result<Option<Live>> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    match missing(programs) {
        None => Ok(Some(Live { _turn: turn })),
        Some(reason) => {
            skip(test, &reason)?;
            Ok(None)
        }
    }
}

/// Notes that `test` cannot do what it is for. An error where live tests are required.
pub fn skip(test: &str, reason: &str) -> Result<()> {
    note(
        test,
        reason,
        env::var_os("TRACER_REQUIRE_LIVE").is_some(),
        env::var_os("TRACER_SKIP_FILE").as_deref().map(Path::new),
    )
}

fn note(test: &str, reason: &str, required: bool, file: Option<&Path>) -> Result<()> {
    if required {
        bail!("{test} cannot run: {reason}");
    }
    let line = format!("SKIPPED {test}: {reason}\n");
    match file {
        // One write in append mode: lines of concurrent test processes do not mix.
        Some(path) => OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("note a skipped test in {}", path.display())),
        None => std::io::stderr()
            .write_all(line.as_bytes())
            .context("note a skipped test on standard error"),
    }
}

fn missing(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let binary = tracer::binary();
    if !binary.is_file() {
        return Some(format!(
            "no tracer binary at {}: build it, or name it in TRACER_BIN",
            binary.display()
        ));
    }
    match cgroup::hierarchies() {
        Ok(found) if found.is_empty() => return Some("no cgroup hierarchy is mounted".to_owned()),
        Ok(_) => {}
        Err(error) => return Some(format!("{error:#}")),
    }
    programs
        .iter()
        .find(|program| !on_path(program))
        .map(|program| format!("{program} is not installed"))
}

/// Whether a program can be started by its name.
#[must_use]
pub fn on_path(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| {
        env::split_paths(&path).any(|directory| directory.join(program).is_file())
    })
}

/// [`live`] for the test function it stands in; returns from it where the test cannot run.
#[macro_export]
macro_rules! live {
    ($($program:expr),* $(,)?) => {{
        match $crate::need::live($crate::this_test!(), &[$($program),*])? {
            Some(live) => live,
            None => return Ok(()),
        }
    }};
}

/// Path of the function it stands in.
#[macro_export]
macro_rules! this_test {
    () => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        name.strip_suffix("::here").unwrap_or(name)
    }};
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_skip_is_written_where_it_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("skipped");
        note("live_x::a", "runc is not installed", false, Some(&file)).unwrap();
        note("live_x::b", "needs root", false, Some(&file)).unwrap();
        assert_eq!(
            fs::read_to_string(file).unwrap(),
            "SKIPPED live_x::a: runc is not installed\nSKIPPED live_x::b: needs root\n"
        );
    }

    #[test]
    fn a_required_test_does_not_skip() {
        let error = note("live_x::a", "needs root", true, None).unwrap_err();
        assert_eq!(error.to_string(), "live_x::a cannot run: needs root");
    }

    #[test]
    fn a_missing_program_is_named() {
        assert!(on_path("sh"));
        assert!(!on_path("no-such-program-anywhere"));
    }

    #[test]
    fn a_test_knows_its_name() {
        assert!(this_test!().ends_with("need::tests::a_test_knows_its_name"));
    }
}
