//! Becoming root for the few things that need it.

use std::{
    ffi::OsStr,
    fs,
    io::{self, IsTerminal as _},
    os::unix::fs::MetadataExt as _,
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::command;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// We are root.
    Root,
    /// sudo may ask for a password, since somebody sits in front of it.
    SudoAsks,
    /// sudo must work without a password.
    SudoSilent,
    Absent,
}

impl Privilege {
    pub fn find() -> Result<Self> {
        // The owner of a process's /proc directory is its effective user.
        let user = fs::metadata("/proc/self").context("cannot read /proc/self: mount /proc")?;
        let sudo = command::find("sudo").is_some();
        Ok(choose(user.uid(), sudo, io::stdin().is_terminal()))
    }

    /// What stands before a command to make it root's: nothing, or sudo and its flags.
    pub fn prefix(self) -> Result<&'static [&'static str]> {
        match self {
            Self::Root => Ok(&[]),
            Self::SudoAsks => Ok(&["sudo"]),
            Self::SudoSilent => Ok(&["sudo", "-n"]),
            Self::Absent => bail!("this needs root: run it as root, or install sudo"),
        }
    }

    /// A command that runs as root.
    pub fn command(self, program: impl AsRef<OsStr>) -> Result<Command> {
        let Some((sudo, flags)) = self.prefix()?.split_first() else {
            return Ok(Command::new(program));
        };
        let mut command = Command::new(sudo);
        command.args(flags).arg("--").arg(program);
        Ok(command)
    }
}

fn choose(user: u32, sudo: bool, terminal: bool) -> Privilege {
    match (user, sudo, terminal) {
        (0, _, _) => Privilege::Root,
        (_, true, true) => Privilege::SudoAsks,
        (_, true, false) => Privilege::SudoSilent,
        (_, false, _) => Privilege::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_needs_no_sudo_and_others_do() {
        let rows = [
            (0, false, false, Some("`mount x`")),
            (0, true, true, Some("`mount x`")),
            (1000, true, true, Some("`sudo -- mount x`")),
            (1000, true, false, Some("`sudo -n -- mount x`")),
            (1000, false, true, None),
        ];
        for (user, sudo, terminal, expected) in rows {
            let command = choose(user, sudo, terminal).command("mount").map(|mut c| {
                c.arg("x");
                command::describe(&c)
            });
            assert_eq!(
                command.ok().as_deref(),
                expected,
                "{user} {sudo} {terminal}"
            );
        }
    }
}
