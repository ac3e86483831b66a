//! A wall clock of a process's own, that can be set while the process runs.
//!
//! The kernel has one wall clock for all. So the C library's reading of it is replaced, for one
//! process, by a small library that adds what a file says.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::command::run_ok;

const SOURCE: &str = include_str!("clock.c");

/// The clock; whoever is started with it goes by it.
#[derive(Debug, Clone)]
pub struct FalseClock {
    library: PathBuf,
    offset: PathBuf,
}

impl FalseClock {
    /// One that is right so far. `name` tells it from others in the same directory.
    pub fn new(directory: &Path, name: &str) -> Result<Self> {
        let source = directory.join(name).with_extension("clock.c");
        let library = directory.join(name).with_extension("clock.so");
        fs::write(&source, SOURCE).context("write the clock's source")?;
        run_ok(
            Command::new("cc")
                .args([
                    "-std=gnu11",
                    "-O1",
                    "-Wall",
                    "-Werror",
                    "-shared",
                    "-fPIC",
                    "-o",
                ])
                .arg(&library)
                .arg(&source)
                .stdin(Stdio::null()),
        )
        .context("compile the clock (Debian: gcc and libc6-dev)")?;
        let offset = directory.join(name).with_extension("clock");
        fs::write(&offset, 0_i64.to_ne_bytes()).context("write the clock's offset")?;
        Ok(Self { library, offset })
    }

    /// Has a program go by it.
    pub fn wind(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FALSE_CLOCK", &self.offset);
    }

    /// From now on the clock is so many seconds ahead.
    pub fn set(&self, ahead_s: i64) -> Result<()> {
        // In place: whoever reads meanwhile finds eight bytes.
        let file = File::options().write(true).open(&self.offset)?;
        file.write_all_at(&ahead_s.to_ne_bytes(), 0)
            .context("set a clock")
    }

    /// How far it is ahead.
    pub fn ahead_s(&self) -> Result<i64> {
        let bytes = fs::read(&self.offset).context("read a clock's offset")?;
        let bytes = bytes.first_chunk().context("a clock's offset")?;
        Ok(i64::from_ne_bytes(*bytes))
    }
}
