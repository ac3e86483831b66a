//! One timed step: its commands run with their output passing through, and end as a count.

use std::{
    fs,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
    process::{ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::count::{Log, Skip, Tally};
use crate::{command, say, workspace};

/// Tests append a line `SKIPPED name: reason` to the file that this names.
const SKIP_FILE: &str = "TRACER_SKIP_FILE";
/// How long output may stay open after the command that owned it has ended.
const LEFTOVER: Duration = Duration::from_secs(10);

/// A step that has ended.
#[derive(Debug)]
pub struct Step {
    pub name: &'static str,
    pub took: Duration,
    pub tally: Tally,
    pub skips: Vec<Skip>,
    /// Names of failed tests, or a sentence about what failed.
    pub failures: Vec<String>,
}

impl Step {
    /// A step that is one check: it passes as a whole or fails as a whole.
    pub fn check(name: &'static str, check: impl FnOnce() -> Result<()>) -> Self {
        Self::run(name, |log| match check() {
            Ok(()) => {
                log.tally.passed += 1;
                Ok(())
            }
            Err(error) => Err(error),
        })
    }

    /// A step of libtest's: each command's tests count. A command that ends badly without having
    /// told a failed test (it did not compile, it was killed) is a failure of its own.
    pub fn tests(name: &'static str, commands: Vec<Command>) -> Self {
        Self::run(name, |log| {
            let skip_file = SkipFile::create()?;
            for mut command in commands {
                let failed = log.tally.failed;
                command.env(SKIP_FILE, &skip_file.path);
                let ended = stream(&mut command, log, io::stdout())?;
                if !ended && log.tally.failed == failed {
                    fail(
                        log,
                        format!("{} ended without a result", command::describe(&command)),
                    );
                }
            }
            log.add_reported(&skip_file.read()?);
            Ok(())
        })
    }

    /// A step that does not run: each name counts as skipped.
    pub fn skipped(name: &'static str, what: &[String], reason: &str) -> Self {
        Self::run(name, |log| {
            for name in what {
                log.tally.skipped += 1;
                log.skips.push(Skip {
                    name: name.clone(),
                    reason: reason.to_owned(),
                });
            }
            Ok(())
        })
    }

    pub fn passed(&self) -> bool {
        self.tally.failed == 0
    }

    /// A step that counts for itself; an error is a failure.
    pub fn run(name: &'static str, body: impl FnOnce(&mut Log) -> Result<()>) -> Self {
        say::note(format_args!("== {name}"));
        let begin = Instant::now();
        let mut log = Log::default();
        if let Err(error) = body(&mut log) {
            say::note(format_args!("error: {error:#}"));
            fail(&mut log, format!("{error:#}"));
        }
        Self {
            name,
            took: begin.elapsed(),
            tally: log.tally,
            skips: log.skips,
            failures: log.failures,
        }
    }
}

fn fail(log: &mut Log, what: String) {
    log.tally.failed += 1;
    log.failures.push(what);
}

/// Runs one command with its output going on to `to`; whether it ended well.
fn stream(command: &mut Command, log: &mut Log, to: impl Write + Send + 'static) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command::describe(command)))?;
    let output = child.stdout.take().context("the child has no stdout")?;
    let shared = Arc::new(Mutex::new(std::mem::take(log)));
    let (tell_end, ended) = mpsc::sync_channel(1);
    let reader = Arc::clone(&shared);
    thread::spawn(move || tell_end.send(pass_on(output, to, &reader)));

    let status = child
        .wait()
        .with_context(|| format!("lost {}", command::describe(command)));
    let read = ended.recv_timeout(LEFTOVER);
    let mut gathered = shared.lock().unwrap_or_else(PoisonError::into_inner);
    gathered.end();
    *log = std::mem::take(&mut gathered);
    match read {
        Ok(result) => result.context("cannot pass the tests' output on")?,
        // Waiting on would hang for as long as that process lives.
        Err(RecvTimeoutError::Timeout) => fail(
            log,
            "a test left a process behind that still holds its output open".to_owned(),
        ),
        Err(RecvTimeoutError::Disconnected) => fail(log, "the tests' output was lost".to_owned()),
    }
    Ok(status?.success())
}

/// Copies output as it comes, line or no line, and reads it on the way.
fn pass_on(mut output: ChildStdout, mut to: impl Write, log: &Mutex<Log>) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = output.read(&mut buffer)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        to.write_all(bytes)?;
        to.flush()?;
        log.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(bytes);
    }
}

/// Where tests say that they did not run.
struct SkipFile {
    path: PathBuf,
}

impl SkipFile {
    fn create() -> Result<Self> {
        let path = workspace::target().join("skipped-tests");
        let created = fs::create_dir_all(workspace::target()).and_then(|()| fs::write(&path, ""));
        created.with_context(|| format!("cannot create {}", shown(&path)))?;
        Ok(Self { path })
    }

    fn read(&self) -> Result<String> {
        fs::read_to_string(&self.path).with_context(|| format!("cannot read {}", shown(&self.path)))
    }
}

fn shown(path: &Path) -> String {
    workspace::shown(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const CLOSING: &str =
        "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'";

    #[test]
    fn a_command_counts_by_what_it_says_and_how_it_ends() {
        let rows = [
            (CLOSING.to_owned(), true, 2, 0),
            (format!("{CLOSING}; {CLOSING}"), true, 4, 0),
            (format!("{CLOSING}; exit 101"), false, 2, 0),
            ("kill -SEGV $$".to_owned(), false, 0, 0),
            ("printf 'test a ... FAILED'".to_owned(), true, 0, 1),
        ];
        for (script, well, passed, failures) in rows {
            let mut log = Log::default();
            assert_eq!(
                stream(&mut shell(&script), &mut log, io::sink()).unwrap(),
                well,
                "{script}"
            );
            assert_eq!(log.tally.passed, passed, "{script}");
            assert_eq!(log.failures.len(), failures, "{script}");
        }
    }

    #[test]
    fn a_failing_check_is_one_failure_with_its_cause() {
        let step = Step::check("x", || anyhow::bail!("no"));
        assert_eq!((step.tally.passed, step.tally.failed), (0, 1));
        assert_eq!(step.failures, ["no"]);
        assert!(!step.passed());
        assert!(Step::check("x", || Ok(())).passed());
    }

    #[test]
    fn what_is_skipped_by_name_is_counted() {
        let step = Step::skipped(
            "live",
            &["live_a".to_owned(), "live_b".to_owned()],
            "--no-live",
        );
        assert_eq!(step.tally.skipped, 2);
        assert!(step.passed());
    }
}
