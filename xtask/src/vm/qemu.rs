//! QEMU, run from where it was unpacked. It comes with its own C library and loader, so that neither
//! this machine's libraries nor another suite's packages on it have a say.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::kernels::tree;

pub const PROGRAM: &str = "qemu-system-x86_64";

/// Debian's, below the target directory.
#[derive(Debug, Clone)]
pub struct Qemu {
    root: PathBuf,
}

impl Qemu {
    /// Fetches it where it is not there yet.
    pub fn ensure() -> Result<Self> {
        let root = tree::ensure("qemu", &["qemu-system-x86"])?;
        Ok(Self { root })
    }

    /// The program, with its libraries, modules and firmware; machine and kernel are to be added.
    pub fn command(&self) -> Result<Command> {
        const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
        const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];
        let at = |path: &str| self.root.join(path);
        let libraries = env::join_paths(LIBRARIES.map(at))
            .with_context(|| format!("no library can be found below {}", self.root.display()))?;
        let mut qemu = Command::new(at("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
        qemu.arg("--library-path")
            .arg(libraries)
            .arg(at("usr/bin").join(PROGRAM))
            // The emulation itself is a module; QEMU looks for it beside its loader otherwise.
            .env("QEMU_MODULE_DIR", at("usr/lib/x86_64-linux-gnu/qemu"));
        for dir in FIRMWARE.map(at) {
            qemu.arg("-L").arg(dir);
        }
        Ok(qemu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_this_machine_is_used() {
        let root = PathBuf::from("/there");
        let qemu = Qemu { root }.command().unwrap();
        let words = qemu.get_args().map(|word| word.to_str().unwrap());
        let paths: Vec<&str> = words
            .flat_map(|word| word.split(':'))
            .filter(|word| word.starts_with('/'))
            .chain([qemu.get_program().to_str().unwrap()])
            .chain(
                qemu.get_envs()
                    .map(|(_, value)| value.unwrap().to_str().unwrap()),
            )
            .collect();
        assert_eq!(paths.len(), 7, "{paths:?}");
        assert!(
            paths.iter().all(|path| path.starts_with("/there/")),
            "{paths:?}"
        );
    }

    #[test]
    fn a_directory_that_no_path_can_name_is_an_error() {
        let root = PathBuf::from("/a:b");
        assert!(Qemu { root }.command().is_err());
    }
}
