//! Disks for trouble: small ones that can be filled, and one that stalls.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{program, run, run_ok},
    wait::{DEADLINE, wait_until},
};

/// A file system of its own, gone with this.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

const BALLAST: &str = "ballast";

impl Disk {
    /// Mounts a new one of so many bytes there; needs root.
    pub fn mount(path: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(path).context("create a mount point")?;
        run_ok(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
                .arg(path),
        )?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Makes it larger.
    pub fn grow(&self, bytes: u64) -> Result<()> {
        let mut mount = program("mount");
        mount.args(["-o", &format!("remount,size={bytes}")]);
        run_ok(mount.arg(&self.path)).map(drop)
    }

    /// Leaves not a byte.
    pub fn fill(&self) -> Result<()> {
        let path = self.path.join(BALLAST);
        let mut ballast = File::options().create(true).append(true).open(path)?;
        for size in [64 << 10, 4096, 1] {
            let block = vec![7; size];
            while ballast.write_all(&block).is_ok() {}
        }
        Ok(())
    }

    /// As it was.
    pub fn free(&self) -> Result<()> {
        match fs::remove_file(self.path.join(BALLAST)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open there loses it with its end.
        drop(run_ok(Command::new("umount").arg("-l").arg(&self.path)));
    }
}

/// A file system on a disk that can be made to stall: whoever writes there waits, in the kernel, and
/// not even `kill -9` ends that. It goes on at the latest when this goes or the test process does.
#[derive(Debug)]
pub struct Stalling {
    path: PathBuf,
    freezer: Option<(Child, ChildStdin)>,
}

impl Stalling {
    /// Mounts a new one there, made in a file beside; needs root and loop devices.
    pub fn mount(path: &Path) -> Result<Self> {
        const BYTES: u64 = 64 << 20;
        fs::create_dir_all(path).context("create a mount point")?;
        let image = path.with_extension("image");
        File::create(&image)
            .and_then(|file| file.set_len(BYTES))
            .context("create a disk's image")?;
        run_ok(program("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        run_ok(program("mount").args(["-o", "loop"]).arg(&image).arg(path))?;
        Ok(Self {
            path: path.to_owned(),
            freezer: None,
        })
    }

    /// From here on every write to it waits.
    pub fn stall(&mut self) -> Result<()> {
        const SCRIPT: &str = r#"
            fsfreeze -f "$1" || exit
            echo stalls
            read -r _
            fsfreeze -u "$1"
        "#;
        let mut freezer = Command::new("sh")
            .args(["-c", SCRIPT, "freezer"])
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start sh")?;
        let stdin = freezer.stdin.take().context("a pipe to the freezer")?;
        let mut said = [0; 6];
        let read = freezer
            .stdout
            .as_mut()
            .context("a pipe from the freezer")?
            .read_exact(&mut said);
        self.freezer = Some((freezer, stdin));
        read.context("the disk does not stall (util-linux: fsfreeze)")
    }

    /// It goes on.
    pub fn go_on(&mut self) -> Result<()> {
        let Some((mut freezer, stdin)) = self.freezer.take() else {
            return Ok(());
        };
        drop(stdin);
        let status = freezer.wait().context("wait for the freezer")?;
        ensure!(status.success(), "fsfreeze ended with {status}");
        Ok(())
    }
}

impl Drop for Stalling {
    fn drop(&mut self) {
        drop(self.go_on());
        // Whoever was stopped by it may need a moment.
        drop(wait_until(DEADLINE, "the disk to be free", || {
            let done = run(program("umount").arg(&self.path))?;
            Ok((done.code == 0).then_some(()))
        }));
    }
}
