//! Other programs, run with a deadline.
//!
//! Output goes to files, not to pipes: `docker run -d` and its like leave processes behind that
//! keep the standard streams open, and a pipe would then never end.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::DEADLINE;

/// What a finished program left.
#[derive(Debug)]
pub struct Done {
    /// Shell convention: 128 + signal where a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    line: String,
}

impl Done {
    /// Fails, with all that the program said, unless it ended with `code`.
    pub fn ended(self, code: i32) -> Result<Self> {
        if self.code == code {
            return Ok(self);
        }
        bail!(
            "`{}` ended with {}, expected {code}\nstdout: {}\nstderr: {}",
            self.line,
            self.code,
            self.stdout.trim_end(),
            self.stderr.trim_end()
        )
    }

    /// Standard output without the line end.
    #[must_use]
    pub fn text(&self) -> &str {
        self.stdout.trim_end()
    }
}

/// Runs to the end, whatever the exit code.
pub fn run(command: &mut Command) -> Result<Done> {
    spawn(command)?.finish(DEADLINE)
}

/// Runs and requires exit code 0.
pub fn run_ok(command: &mut Command) -> Result<Done> {
    run(command)?.ended(0)
}

/// Starts without waiting; killed on drop where it still runs. Standard input is empty unless the
/// caller set it.
pub fn spawn(command: &mut Command) -> Result<Running> {
    let line = line_of(command);
    let stdout = tempfile::tempfile().context("create a file for standard output")?;
    let stderr = tempfile::tempfile().context("create a file for standard error")?;
    command
        .stdout(stdout.try_clone().context("share standard output")?)
        .stderr(stderr.try_clone().context("share standard error")?);
    let mut child = command.spawn().with_context(|| format!("start `{line}`"))?;
    let stdin = child.stdin.take();
    Ok(Running {
        process: Process::new(child, &line)?,
        stdin,
        stdout,
        stderr,
        line,
    })
}

/// A [`Command`] with empty standard input.
#[must_use]
pub fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.stdin(Stdio::null());
    command
}

/// A started program.
#[derive(Debug)]
pub struct Running {
    process: Process,
    stdin: Option<ChildStdin>,
    stdout: File,
    stderr: File,
    line: String,
}

impl Running {
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid.as_raw_nonzero().get()
    }

    /// Closes standard input, where it is a pipe.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for the end.
    pub fn finish(mut self, deadline: Duration) -> Result<Done> {
        self.stdin = None;
        let status = self.process.wait(deadline).with_context(|| {
            format!(
                "`{}` did not end, so far it said: {}{}",
                self.line,
                all_of(&mut self.stdout).unwrap_or_default(),
                all_of(&mut self.stderr).unwrap_or_default()
            )
        })?;
        Ok(Done {
            code: shell_code(status),
            stdout: all_of(&mut self.stdout)?,
            stderr: all_of(&mut self.stderr)?,
            line: self.line.clone(),
        })
    }
}

/// A child process whose end can be waited for with a deadline: a thread of its own sits in
/// `wait(2)`. The process id is free for others only once that thread has its answer, so no signal
/// can hit a stranger but in the instant between the two.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    end: Arc<End>,
}

/// How a process ended, once it has.
#[derive(Debug, Default)]
struct End {
    status: Mutex<Option<ExitStatus>>,
    came: Condvar,
}

impl Process {
    pub(crate) fn new(mut child: Child, what: &str) -> Result<Self> {
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .with_context(|| format!("process id of `{what}`"))?;
        let end = Arc::new(End::default());
        let told = Arc::clone(&end);
        thread::Builder::new()
            .name(format!("wait-{}", child.id()))
            .spawn(move || {
                if let Ok(status) = child.wait() {
                    *told.lock() = Some(status);
                    told.came.notify_all();
                }
            })
            .context("start a waiting thread")?;
        Ok(Self { pid, end })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        let (status, _) = self
            .end
            .came
            .wait_timeout_while(self.end.lock(), deadline, |status| status.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        status.with_context(|| format!("process {:?} still runs after {deadline:?}", self.pid))
    }

    /// Nothing happens where the process has ended already.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        if self.end.lock().is_some() {
            return Ok(());
        }
        kill_process(self.pid, signal)
            .with_context(|| format!("send {signal:?} to process {:?}", self.pid))
    }
}

/// Ends another process when this one is gone, however that happens: a shell waits on a pipe that
/// only this process can write to. A line says that there is nothing left to end.
#[derive(Debug)]
pub(crate) struct Leash {
    pipe: Option<ChildStdin>,
    shell: Process,
}

impl Leash {
    pub(crate) fn new(process: &Process) -> Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", "read -r _ || kill -KILL \"$1\"", "leash"])
            .arg(process.pid.as_raw_nonzero().to_string())
            // An interrupt from the keyboard must not end it first.
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn()
            .context("start the leash of a process")?;
        let pipe = child.stdin.take();
        Ok(Self {
            pipe,
            shell: Process::new(child, "leash")?,
        })
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            drop(pipe.write_all(b"let go\n"));
        }
        drop(self.shell.wait(DEADLINE));
    }
}

impl End {
    fn lock(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.signal(Signal::KILL).is_ok() {
            drop(self.wait(DEADLINE));
        }
    }
}

/// A child process that is ended when this goes, or when the test process does.
#[derive(Debug)]
pub struct Keep {
    // Dropped in this order.
    process: Process,
    _leash: Leash,
}

impl Keep {
    pub fn new(child: Child, what: &str) -> Result<Self> {
        let process = Process::new(child, what)?;
        let leash = Leash::new(&process)?;
        Ok(Self {
            process,
            _leash: leash,
        })
    }

    /// Ends it without a chance to do anything about it, and waits for that.
    pub fn kill(self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait(DEADLINE).map(drop)
    }

    /// Asks it to end, and waits for that.
    pub fn terminate(self) -> Result<ExitStatus> {
        self.process.signal(Signal::TERM)?;
        self.process.wait(DEADLINE)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid.as_raw_nonzero().get()
    }

    /// Waits for its end.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.process.wait(DEADLINE)
    }
}

/// Shell convention of an exit status.
#[must_use]
pub fn shell_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

fn all_of(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind().context("rewind captured output")?;
    file.read_to_end(&mut bytes)
        .context("read captured output")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn line_of(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_follows_the_shell() {
        for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137)] {
            let done = run(program("sh").args(["-c", script])).unwrap();
            assert_eq!(done.code, code, "{script}");
        }
    }

    #[test]
    fn a_wrong_code_tells_what_the_program_said() {
        let done = run(program("sh").args(["-c", "echo out; echo err >&2; exit 2"])).unwrap();
        let message = done.ended(0).unwrap_err().to_string();
        for part in ["ended with 2", "stdout: out", "stderr: err"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_program_that_does_not_end_is_named_and_killed() {
        let running = spawn(program("sleep").arg("1000")).unwrap();
        let pid = running.pid();
        let error = running.finish(Duration::from_millis(50)).unwrap_err();
        assert!(format!("{error:#}").contains("`sleep 1000` did not end"));
        assert!(!std::path::Path::new(&format!("/proc/{pid}/exe")).exists());
    }

    #[test]
    fn a_leash_ends_its_process_only_where_nobody_lets_go() {
        let sleeper = || {
            let child = program("sleep").arg("1000").spawn().unwrap();
            Process::new(child, "sleep").unwrap()
        };
        let kept = sleeper();
        drop(Leash::new(&kept).unwrap());
        assert!(kept.wait(Duration::from_millis(50)).is_err());

        let ended = sleeper();
        let mut leash = Leash::new(&ended).unwrap();
        // As the kernel does when this process dies.
        leash.pipe = None;
        assert_eq!(shell_code(ended.wait(DEADLINE).unwrap()), 137);
    }

    #[test]
    fn a_child_that_keeps_the_output_open_does_not_hold_up_the_end() {
        let done = run(program("sh").args(["-c", "sleep 2 & echo started"])).unwrap();
        assert_eq!(done.text(), "started");
    }
}
