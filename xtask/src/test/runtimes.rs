//! The container runtimes that the live tests drive. The tests start daemons of their own in
//! temporary directories; installing a package starts none.

use std::{fs::File, io::Read as _, path::Path};

use anyhow::{Result, bail};

use crate::{
    command,
    packages::{self, Family, Package, Policy},
};

struct Runtime {
    /// The program that shows that it is there, wherever it came from.
    program: &'static str,
    is_static: bool,
    apt: &'static str,
    dnf: &'static str,
    pacman: &'static str,
    zypper: &'static str,
    why: &'static str,
}

impl Runtime {
    const fn new(program: &'static str, package: &'static str, why: &'static str) -> Self {
        Self {
            program,
            is_static: false,
            apt: package,
            dnf: package,
            pacman: package,
            zypper: package,
            why,
        }
    }

    fn package(&self, family: Family) -> &'static str {
        match family {
            Family::Apt => self.apt,
            Family::Dnf => self.dnf,
            Family::Pacman => self.pacman,
            Family::Zypper => self.zypper,
            Family::Other => self.program,
        }
    }

    fn is_present(&self) -> bool {
        command::find(self.program).is_some_and(|file| !self.is_static || is_static(&file))
    }
}

const RUNTIMES: [Runtime; 8] = [
    Runtime::new("runc", "runc", "containers without any daemon"),
    Runtime::new("crun", "crun", "the other low-level runtime; podman's here"),
    Runtime::new("containerd", "containerd", "ctr and the CRI plugin"),
    Runtime {
        apt: "docker.io",
        dnf: "moby-engine",
        ..Runtime::new("dockerd", "docker", "Docker's containers")
    },
    Runtime::new("podman", "podman", "Podman's containers and pods"),
    Runtime::new("lxc-start", "lxc", "LXC's containers"),
    Runtime {
        pacman: "systemd",
        ..Runtime::new(
            "systemd-nspawn",
            "systemd-container",
            "systemd-nspawn's containers",
        )
    },
    Runtime {
        is_static: true,
        apt: "busybox-static",
        zypper: "busybox-static",
        ..Runtime::new("busybox", "busybox", "what runs in every test's container")
    },
];

/// Installs what lacks, or names the command that does.
pub fn ensure(policy: Policy) -> Result<()> {
    ensure_of(&RUNTIMES.map(|runtime| runtime.program), policy)
}

/// [`ensure`] for these programs alone.
pub fn ensure_of(programs: &[&str], policy: Policy) -> Result<()> {
    let missing = || -> Vec<&Runtime> {
        RUNTIMES
            .iter()
            .filter(|r| programs.contains(&r.program) && !r.is_present())
            .collect()
    };
    let wanted = missing();
    if wanted.is_empty() {
        return Ok(());
    }
    let family = Family::find();
    if family != Family::Apt || policy.no_install {
        bail!(
            "this lacks {}; run this, then this command again (the tests: or pass --no-live):\n  {}",
            names(&wanted, |runtime| runtime.program),
            family.by_hand(wanted.iter().map(|runtime| runtime.package(family))),
        );
    }
    let packages: Vec<Package> = wanted
        .iter()
        .map(|runtime| Package {
            name: runtime.apt.to_owned(),
            why: runtime.why,
        })
        .collect();
    packages::apt_install(&packages)?;
    let missing = missing();
    if !missing.is_empty() {
        bail!(
            "installed, but not to be found in PATH: {}",
            names(&missing, |runtime| runtime.program)
        );
    }
    Ok(())
}

fn names(runtimes: &[&Runtime], name: fn(&Runtime) -> &'static str) -> String {
    let names: Vec<_> = runtimes.iter().map(|runtime| name(runtime)).collect();
    names.join(", ")
}

/// A container's root file system holds this one file: it must run without any library.
fn is_static(program: &Path) -> bool {
    let mut head = Vec::new();
    // A program that needs an interpreter names it within its first page.
    let read = File::open(program).and_then(|file| file.take(4096).read_to_end(&mut head));
    read.is_ok() && !names_interpreter(&head)
}

fn names_interpreter(head: &[u8]) -> bool {
    const LOADERS: [&[u8]; 2] = [b"/ld-linux", b"/ld-musl"];
    LOADERS
        .iter()
        .any(|loader| head.windows(loader.len()).any(|window| window == *loader))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_names_its_interpreter() {
        let rows: [(&[u8], bool); 4] = [
            (b"\x7fELF....\0/lib64/ld-linux-x86-64.so.2\0", true),
            (b"\x7fELF....\0/lib/ld-musl-x86_64.so.1\0", true),
            (b"\x7fELF....\0/lib64/", false),
            (b"", false),
        ];
        for (head, expected) in rows {
            assert_eq!(names_interpreter(head), expected);
        }
        assert!(
            !is_static(Path::new("/proc/self/exe")),
            "tests are built against libc"
        );
        assert!(!is_static(Path::new("/no/such/program")));
    }

    #[test]
    fn packages_go_by_each_systems_names() {
        let all = |family| RUNTIMES.map(|runtime| runtime.package(family)).join(" ");
        assert_eq!(
            all(Family::Apt),
            "runc crun containerd docker.io podman lxc systemd-container busybox-static"
        );
        assert_eq!(
            all(Family::Dnf),
            "runc crun containerd moby-engine podman lxc systemd-container busybox"
        );
        assert_eq!(
            all(Family::Pacman),
            "runc crun containerd docker podman lxc systemd busybox"
        );
        assert_eq!(
            all(Family::Zypper),
            "runc crun containerd docker podman lxc systemd-container busybox-static"
        );
    }
}
