//! bpf-linker: built into the target directory where no fitting one is installed, and the commands
//! that do by hand what xtask may not do.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{
    command,
    packages::{Family, Policy},
    say,
    toolchain::{Choice, Found, LINKER_LLVMS, LINKER_VERSION, Llvm},
    workspace,
};

/// Builds bpf-linker on this LLVM.
pub fn build(llvm: &Llvm) -> Result<()> {
    let tools = workspace::tools();
    say::note(format_args!(
        "building bpf-linker {LINKER_VERSION} on LLVM {} into {}: it links eBPF programs; takes some minutes, once",
        llvm.major,
        workspace::shown(&tools),
    ));
    let mut install = command::cargo();
    install
        .args(arguments(llvm.major))
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(tools.join("build"))
        .env("LLVM_PREFIX", &llvm.prefix);
    quiet_path_warning(&mut install);
    command::run(&mut install).with_context(|| {
        format!(
            "could not build bpf-linker: check that {} has LLVM's libraries and that crates can be downloaded",
            llvm.prefix.display()
        )
    })
}

/// cargo warns that the tools are not on `PATH`: for the eBPF build they will be.
fn quiet_path_warning(install: &mut Command) {
    let bin = workspace::tools().join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([bin]);
    if let Ok(path) = std::env::join_paths(dirs) {
        install.env("PATH", path);
    }
}

fn arguments(llvm: u32) -> Vec<String> {
    format!(
        "install bpf-linker --version {LINKER_VERSION} --locked --no-default-features --features llvm-{llvm}"
    )
    .split(' ')
    .map(String::from)
    .collect()
}

/// The commands to run by hand, where xtask may not or cannot install; `None` where it can.
pub fn commands_by_hand(choice: &Choice, found: &Found, policy: Policy) -> Option<Vec<String>> {
    match choice {
        Choice::Ready(_) => None,
        Choice::Install { .. } if !policy.no_install => None,
        Choice::Install { packages, linker } => {
            let mut commands = Vec::new();
            if !packages.is_empty() {
                commands.push(Family::Apt.by_hand(packages.iter().map(|p| p.name.as_str())));
            }
            if let Some(major) = *linker {
                let prefix = found
                    .llvms
                    .iter()
                    .find(|llvm| llvm.major == major)
                    .map_or_else(
                        || format!("/usr/lib/llvm-{major}"),
                        |llvm| llvm.prefix.display().to_string(),
                    );
                let cargo = arguments(major).join(" ");
                commands.push(format!("LLVM_PREFIX={prefix} cargo {cargo}"));
            }
            Some(commands)
        }
        Choice::ByHand { compiler, llvm } => Some(unpackaged(Family::find(), *compiler, *llvm)),
    }
}

/// The steps on a system whose packages xtask does not install.
fn unpackaged(family: Family, compiler: bool, llvm: Option<u32>) -> Vec<String> {
    let mut commands = Vec::new();
    if compiler {
        commands.push("rustup toolchain install nightly --component rust-src".to_owned());
    }
    let newest = *LINKER_LLVMS.end();
    let which = match llvm {
        Some(llvm) if llvm > newest => {
            commands.push(format!(
                "rustup toolchain install a nightly with LLVM {newest} or older (this one has {llvm}), with --component rust-src"
            ));
            newest
        }
        Some(llvm) => llvm,
        None => newest,
    };
    let package = match family {
        Family::Apt => format!("llvm-{which}-dev"),
        Family::Dnf | Family::Zypper => "llvm-devel".to_owned(),
        Family::Pacman => "llvm".to_owned(),
        Family::Other => "LLVM with its headers".to_owned(),
    };
    let matching = match llvm {
        Some(_) => format!("LLVM {which}"),
        None => "the LLVM that `rustc +nightly -vV` names".to_owned(),
    };
    commands.push(format!(
        "{}   # {matching} or newer, at most {newest}, with llvm-config on PATH",
        family.by_hand([package.as_str()])
    ));
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::Package;

    fn commands(choice: &Choice, no_install: bool) -> Option<Vec<String>> {
        commands_by_hand(choice, &Found::default(), Policy { no_install })
    }

    #[test]
    fn what_may_be_installed_is_not_asked_for() {
        let choice = Choice::Install {
            packages: vec![Package {
                name: "llvm-22-dev".into(),
                why: "",
            }],
            linker: Some(22),
        };
        assert_eq!(commands(&choice, false), None);
        assert_eq!(
            commands(&choice, true).unwrap(),
            [
                "apt-get update && apt-get install -y --no-install-recommends llvm-22-dev",
                "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked \
                 --no-default-features --features llvm-22",
            ]
        );
    }

    #[test]
    fn each_distribution_gets_its_own_command() {
        let rows = [
            (Family::Dnf, true, None, "dnf install llvm-devel"),
            (Family::Pacman, false, Some(22), "pacman -S --needed llvm"),
            (Family::Zypper, false, Some(22), "zypper install llvm-devel"),
            (
                Family::Apt,
                false,
                Some(21),
                "apt-get update && apt-get install -y --no-install-recommends llvm-21-dev",
            ),
        ];
        for (family, compiler, llvm, expected) in rows {
            let commands = unpackaged(family, compiler, llvm);
            assert_eq!(commands.len(), 1 + usize::from(compiler), "{commands:?}");
            assert!(
                commands.last().unwrap().starts_with(expected),
                "{commands:?}"
            );
            assert_eq!(
                compiler,
                commands[0].starts_with("rustup toolchain install nightly")
            );
        }
        let too_new = unpackaged(Family::Other, false, Some(99));
        assert!(
            too_new[0].contains("LLVM 23 or older (this one has 99)"),
            "{too_new:?}"
        );
    }
}
