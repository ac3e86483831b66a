//! From what is on this machine to a complete eBPF tool chain: probe, choose, install what lacks,
//! probe again.

use anyhow::{Result, bail};

use crate::{
    linker,
    packages::{self, Family, Package, Policy},
    probe, say,
    toolchain::{self, Choice, Found, Tools, Version},
};

/// Packages first, then the linker on top of them, then all is there.
const ROUNDS: usize = 3;

/// Finds the tools, or installs what they lack.
pub fn ensure(policy: Policy) -> Result<Tools> {
    let oldest = probe::oldest_compiler();
    for _ in 0..ROUNDS {
        let mut found = probe::machine();
        let mut choice = toolchain::choose(&found, oldest);
        if let Choice::Ready(tools) = choice {
            tell(&found, &tools, oldest);
            return Ok(tools);
        }
        if Family::find() == Family::Apt {
            found.offers = Some(probe::offers());
            choice = toolchain::choose(&found, oldest);
            // Lists that are missing or old name nothing of use, whatever else they name.
            if matches!(choice, Choice::ByHand { .. }) {
                found.offers = Some(if policy.no_install {
                    probe::usual_offers()
                } else {
                    packages::apt_update()?;
                    probe::offers()
                });
                choice = toolchain::choose(&found, oldest);
            }
        }
        tell_unfit(&found, oldest);
        if let Some(commands) = linker::commands_by_hand(&choice, &found, policy) {
            bail!(
                "the eBPF tool chain is incomplete; run these, then this command again:\n  {}",
                commands.join("\n  ")
            );
        }
        if let Choice::Install { packages, linker } = choice {
            install(&packages, linker, &found)?;
        }
    }
    bail!(
        "all was installed and still does not fit together: --no-install shows what is missing now"
    )
}

fn install(packages: &[Package], linker: Option<u32>, found: &Found) -> Result<()> {
    if !packages.is_empty() {
        return packages::apt_install(packages);
    }
    let llvm = linker.and_then(|major| toolchain::fitting_llvm(found, major));
    llvm.map_or(Ok(()), linker::build)
}

fn tell(found: &Found, Tools { compiler, linker }: &Tools, oldest: Version) {
    let passed_over: Vec<String> = found
        .compilers
        .iter()
        .take_while(|other| other.name != compiler.name)
        .map(|other| {
            let why = toolchain::unfit(other, oldest)
                .unwrap_or_else(|| format!("no bpf-linker for its LLVM {}", other.llvm));
            format!(" (not {}: {why})", other.name)
        })
        .collect();
    say::note(format_args!(
        "eBPF tool chain: {} {} with LLVM {}, bpf-linker {}{}",
        compiler.name,
        compiler.version,
        compiler.llvm,
        linker.version,
        passed_over.concat(),
    ));
}

fn tell_unfit(found: &Found, oldest: Version) {
    for compiler in &found.compilers {
        if let Some(why) = toolchain::unfit(compiler, oldest) {
            say::note(format_args!("{} cannot build eBPF: {why}", compiler.name));
        }
    }
}
