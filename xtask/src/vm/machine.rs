//! One virtual machine, from its start to its end: QEMU without a disk or a network.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::qemu::{PROGRAM, Qemu};
use crate::workspace;

/// What to boot.
#[derive(Debug)]
pub struct Machine {
    pub qemu: Qemu,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// Words for the guest, in the kernel's command line.
    pub options: Vec<String>,
    pub deadline: Duration,
    /// Without an extension: `.console` gets what the kernel says, `.out` what the guest says.
    pub log: PathBuf,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The guest turned itself off, or the kernel ended it: its output tells.
    Off,
    /// QEMU failed, with what it said.
    Broken(String),
    /// It was still running at the deadline.
    Late,
}

/// Kills the machine when nobody waits for it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Machine {
    pub fn console(&self) -> PathBuf {
        self.log.with_extension("console")
    }

    fn command(&self) -> Result<Command> {
        let mut qemu = self.qemu.command()?;
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-smp", "2", "-m", "1G"]);
        // Emulation everywhere: what a machine's /dev/kvm is good for shows only when a guest hangs.
        // With a thread per CPU, TCG runs into half-patched code of newer kernels.
        qemu.args(["-accel", "tcg,thread=single"])
            .arg("-serial")
            .arg(format!("file:{}", self.console().display()))
            .args(["-serial", "stdio", "-kernel"])
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .arg("-append")
            .arg(self.command_line());
        Ok(qemu)
    }

    /// Any oops is a panic, any panic is a reboot, and QEMU ends instead of rebooting.
    fn command_line(&self) -> String {
        let fixed = "console=ttyS0 quiet loglevel=3 oops=panic panic=-1";
        let seconds = self.deadline.as_secs();
        format!(
            "{fixed} tracer.seconds={seconds} {}",
            self.options.join(" ")
        )
    }

    /// Runs it to its end, line by line of what the guest says.
    pub fn run(&self, mut on_line: impl FnMut(&str)) -> Result<End> {
        const LINES_HELD: usize = 1024;
        let out = self.log.with_extension("out");
        let mut copy =
            File::create(&out).with_context(|| format!("cannot write {}", shown(&out)))?;
        let errors = self.log.with_extension("qemu");
        let stderr =
            File::create(&errors).with_context(|| format!("cannot write {}", shown(&errors)))?;
        let mut command = self.command()?;
        let mut machine = Running(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(stderr)
                .spawn()
                .with_context(|| format!("cannot start {PROGRAM}"))?,
        );
        let output = machine.0.stdout.take().context("QEMU has no stdout")?;
        let (sender, lines) = sync_channel(LINES_HELD);
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let end = Instant::now() + self.deadline;
        loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let line = String::from_utf8_lossy(&line);
                    let line = line.trim_end_matches('\r');
                    writeln!(copy, "{line}")
                        .with_context(|| format!("cannot write {}", shown(&out)))?;
                    on_line(line);
                }
                Err(RecvTimeoutError::Timeout) => return Ok(End::Late),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = machine.0.wait().context("lost QEMU")?;
        Ok(ended(status, &errors))
    }
}

fn ended(status: ExitStatus, errors: &Path) -> End {
    if status.success() {
        return End::Off;
    }
    let said = fs::read_to_string(errors).unwrap_or_default();
    End::Broken(format!(
        "{PROGRAM} ended with {status}: {}",
        said.trim_end()
    ))
}

fn shown(path: &Path) -> String {
    workspace::shown(path)
}
