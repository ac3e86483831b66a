//! The system's packages: installed with apt where apt is, named with the system's own command
//! elsewhere. Nothing is installed before it was said what and why.

use std::{fs, process::Stdio};

use anyhow::{Context as _, Result, bail};
use clap::builder::FalseyValueParser;

use crate::{command, privilege::Privilege, say};

/// Whether a verb may install what it lacks.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Policy {
    /// Install nothing: fail with the commands to run by hand where something is missing
    #[arg(long, env = "TRACER_NO_INSTALL", value_parser = FalseyValueParser::new())]
    pub no_install: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub why: &'static str,
}

impl Package {
    pub fn new(name: &str, why: &'static str) -> Self {
        let name = name.to_owned();
        Self { name, why }
    }
}

/// How a distribution installs packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Apt,
    Dnf,
    Pacman,
    Zypper,
    Other,
}

impl Family {
    pub fn find() -> Self {
        let family = of_release(&fs::read_to_string("/etc/os-release").unwrap_or_default());
        // A slimmed-down Debian without apt is as unknown as any other system.
        match family {
            Self::Apt if command::find("apt-get").is_none() => Self::Other,
            found => found,
        }
    }

    /// The command that a person would type to install these.
    pub fn by_hand<'a>(self, names: impl IntoIterator<Item = &'a str>) -> String {
        let names = names.into_iter().collect::<Vec<_>>().join(" ");
        match self {
            Self::Apt => {
                format!("apt-get update && apt-get install -y --no-install-recommends {names}")
            }
            Self::Dnf => format!("dnf install {names}"),
            Self::Pacman => format!("pacman -S --needed {names}"),
            Self::Zypper => format!("zypper install {names}"),
            Self::Other => format!("with your system's package manager, install {names}"),
        }
    }
}

/// Reads `ID` and `ID_LIKE` of `/etc/os-release`.
fn of_release(os_release: &str) -> Family {
    os_release
        .lines()
        .filter_map(|line| {
            line.strip_prefix("ID=")
                .or_else(|| line.strip_prefix("ID_LIKE="))
        })
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .find_map(|id| match id {
            "debian" | "ubuntu" => Some(Family::Apt),
            "fedora" | "rhel" | "centos" => Some(Family::Dnf),
            "arch" => Some(Family::Pacman),
            "suse" | "opensuse" => Some(Family::Zypper),
            _ => None,
        })
        .unwrap_or(Family::Other)
}

/// Runs as root. `policy-rc.d` is Debian's own way to say that a package's daemon must not start
/// because it was installed; one that is there already is the administrator's and stays.
const APT_SCRIPT: &str = r#"
set -u
guard=/usr/sbin/policy-rc.d
if [ ! -e "$guard" ]; then
    trap 'rm -f "$guard"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$guard"
    chmod 755 "$guard"
fi
export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -q -o DPkg::Lock::Timeout=300 "$@"; }
install() { apt install -y --no-install-recommends --no-remove "$@"; }
if [ "$#" -eq 0 ]; then
    apt update
    exit
fi
install "$@" || {
    echo 'xtask: updating the package lists, they may be old, then once more' >&2
    apt update && install "$@"
}
"#;

/// Installs with apt, after saying what and why.
pub fn apt_install(packages: &[Package]) -> Result<()> {
    say::note("installing with apt, without starting any service of theirs:");
    for Package { name, why } in packages {
        say::note(format_args!("  {name}: {why}"));
    }
    let names: Vec<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    apt(&names).with_context(|| {
        format!(
            "could not install {}: see what apt says above, then run `{}` by hand",
            names.join(" "),
            Family::Apt.by_hand(names.iter().copied()),
        )
    })
}

/// Installs the package of each program that is not there. The names are Debian's: what needs these
/// programs needs Debian's packages anyway.
pub fn ensure_programs(programs: &[(&str, Package)], policy: Policy) -> Result<()> {
    let missing: Vec<Package> = programs
        .iter()
        .filter(|(program, _)| command::find(program).is_none())
        .map(|(_, package)| package.clone())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let family = Family::find();
    if family != Family::Apt || policy.no_install {
        bail!(
            "run this, then this command again:\n  {}",
            family.by_hand(missing.iter().map(|package| package.name.as_str()))
        );
    }
    apt_install(&missing)
}

/// Fetches the package lists.
pub fn apt_update() -> Result<()> {
    say::note("updating apt's package lists: they do not name the packages that are needed");
    apt(&[]).context("could not update apt's package lists: see what apt says above")
}

fn apt(names: &[&str]) -> Result<()> {
    let status = Privilege::find()?
        .command("sh")?
        .args(["-c", APT_SCRIPT, "apt"])
        .args(names)
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .status()
        .context("cannot start sh")?;
    if !status.success() {
        bail!("apt-get ended with {status}");
    }
    Ok(())
}

/// The version that apt would install of each package, from `apt-cache policy`.
pub fn candidates(policy: &str) -> Vec<(&str, &str)> {
    let mut package = None;
    let mut found = Vec::new();
    for line in policy.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|l| !l.starts_with(' ')) {
            package = Some(name);
        } else if let (Some(name), Some(version)) =
            (package, line.trim_start().strip_prefix("Candidate: "))
            && version != "(none)"
        {
            found.push((name, version));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_known_by_what_it_is_like() {
        let rows = [
            ("ID=debian\n", Family::Apt),
            ("NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n", Family::Apt),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Family::Apt),
            ("ID=fedora\n", Family::Dnf),
            (
                "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
                Family::Dnf,
            ),
            ("ID=arch\n", Family::Pacman),
            (
                "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n",
                Family::Zypper,
            ),
            ("ID=alpine\n", Family::Other),
            ("VERSION_ID=debian\n", Family::Other),
            ("", Family::Other),
        ];
        for (text, expected) in rows {
            assert_eq!(of_release(text), expected, "{text}");
        }
    }

    #[test]
    fn the_command_by_hand_is_the_systems_own() {
        let rows = [
            (
                Family::Apt,
                "apt-get update && apt-get install -y --no-install-recommends a b",
            ),
            (Family::Dnf, "dnf install a b"),
            (Family::Pacman, "pacman -S --needed a b"),
            (Family::Zypper, "zypper install a b"),
        ];
        for (family, expected) in rows {
            assert_eq!(family.by_hand(["a", "b"]), expected);
        }
    }

    #[test]
    fn apt_candidates_are_read() {
        let policy = "\
rustc-web:
  Installed: (none)
  Candidate: 1.96.0+dfsg1-1~deb12u2
  Version table:
     1.96.0+dfsg1-1~deb12u2 500
        500 mirror bookworm-security/main amd64 Packages
removed:
  Installed: (none)
  Candidate: (none)
  Version table:
llvm-22-dev:
  Installed: 1:22.1.8-1~deb12u1
  Candidate: 1:22.1.8-1~deb12u1
";
        assert_eq!(
            candidates(policy),
            [
                ("rustc-web", "1.96.0+dfsg1-1~deb12u2"),
                ("llvm-22-dev", "1:22.1.8-1~deb12u1"),
            ]
        );
        assert!(candidates("").is_empty());
    }
}
