//! Small disks that can be filled.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::command::run_ok;

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
