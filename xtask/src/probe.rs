//! What is on this machine: compilers, linkers and LLVMs, asked for by running them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    command, packages,
    toolchain::{Compiler, DEBIAN_LLVM, Found, LINKER_LLVMS, Linker, Llvm, Offers, Version},
    workspace,
};

/// The toolchain name under which somebody may have linked a compiler for this very purpose.
const LINKED: &str = "bpf";

/// The workspace's own oldest compiler holds for eBPF too.
pub fn oldest_compiler() -> Version {
    version(env!("CARGO_PKG_RUST_VERSION")).unwrap_or(Version(0, 0, 0))
}

/// Looks at this machine only: no network, no package manager.
pub fn machine() -> Found {
    Found {
        compilers: compilers(),
        linkers: linkers(),
        llvms: llvms(),
        offers: None,
    }
}

fn compilers() -> Vec<Compiler> {
    let listed = command::probe(Command::new("rustup").args(["toolchain", "list"]));
    let toolchains = listed.as_deref().map(toolchains).unwrap_or_default();
    let from_rustup = toolchains.into_iter().filter_map(|toolchain| {
        let rustc = rustup_which(toolchain, "rustc")?;
        let name = toolchain.split('-').next().unwrap_or(toolchain);
        compiler(
            format!("rustup's {name}"),
            rustc,
            rustup_which(toolchain, "cargo"),
        )
    });
    let system = Path::new("/usr/bin");
    let from_system = compiler(
        "the system's rustc".to_owned(),
        system.join("rustc"),
        Some(system.join("cargo")),
    );
    from_rustup.chain(from_system).collect()
}

/// The toolchains to consider out of `rustup toolchain list`, best first.
fn toolchains(list: &str) -> Vec<&str> {
    let names = || {
        list.lines()
            .filter_map(|line| line.split_whitespace().next())
    };
    let nightly = |name: &&str| {
        // `nightly-HOST`, not `nightly-2026-01-01-HOST`: that one serves some other project.
        name.strip_prefix("nightly-")
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    names()
        .filter(nightly)
        .chain(names().filter(|name| *name == LINKED))
        .collect()
}

fn rustup_which(toolchain: &str, program: &str) -> Option<PathBuf> {
    let path =
        command::probe(Command::new("rustup").args(["which", "--toolchain", toolchain, program]))?;
    Some(PathBuf::from(path.trim_end()))
}

fn compiler(name: String, rustc: PathBuf, cargo: Option<PathBuf>) -> Option<Compiler> {
    let (about, sysroot) = asked(&rustc)?;
    let library = sysroot.join("lib/rustlib/src/rust/library");
    Some(Compiler {
        name,
        version: field(&about, "release: ").and_then(version)?,
        llvm: field(&about, "LLVM version: ").and_then(version)?.0,
        core_source: library.join("Cargo.lock").is_file(),
        cargo: cargo
            .filter(|cargo| command::is_executable(cargo))
            .or_else(|| command::find("cargo"))?,
        rustc,
    })
}

/// What a compiler says of itself, and its sysroot.
fn asked(rustc: &Path) -> Option<(String, PathBuf)> {
    let about = command::probe(Command::new(rustc).arg("-vV"))?;
    let sysroot = command::probe(Command::new(rustc).args(["--print", "sysroot"]))?;
    Some((about, PathBuf::from(sysroot.trim_end())))
}

/// The compiler of this very workspace.
pub struct HostCompiler {
    pub triple: String,
    pub sysroot: PathBuf,
    pub llvm: u32,
}

pub fn host_compiler() -> Option<HostCompiler> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let (about, sysroot) = asked(Path::new(&rustc))?;
    Some(HostCompiler {
        triple: field(&about, "host: ")?.to_owned(),
        sysroot,
        llvm: field(&about, "LLVM version: ").and_then(version)?.0,
    })
}

fn linkers() -> Vec<Linker> {
    [
        Some(workspace::tools().join("bin/bpf-linker")),
        command::find("bpf-linker"),
    ]
    .into_iter()
    .flatten()
    .filter_map(|path| {
        let said = command::probe(Command::new(&path).arg("--version"))?;
        let libraries = command::probe(Command::new("ldd").arg(&path));
        Some(Linker {
            version: said.split_whitespace().nth(1).and_then(version)?,
            llvm: libraries.as_deref().and_then(linked_llvm),
            path,
        })
    })
    .collect()
}

/// The LLVM among the shared libraries that `ldd` lists.
fn linked_llvm(ldd: &str) -> Option<u32> {
    ldd.lines().find_map(|line| {
        let library = line.split_whitespace().next()?;
        let rest = library
            .strip_prefix("libLLVM.so.")
            .or_else(|| library.strip_prefix("libLLVM-"))?;
        version(rest).map(|version| version.0)
    })
}

/// Debian keeps each LLVM under a prefix of its own; elsewhere llvm-config tells.
pub fn llvms() -> Vec<Llvm> {
    let configs = LINKER_LLVMS.flat_map(|n| {
        [
            PathBuf::from(format!("/usr/lib/llvm-{n}/bin/llvm-config")),
            PathBuf::from(format!("llvm-config-{n}")),
            PathBuf::from(format!("llvm-config-{n}-64")),
        ]
    });
    configs
        .chain([PathBuf::from("llvm-config")])
        .filter_map(|config| {
            let ask = |what| command::probe(Command::new(&config).arg(what));
            Some(Llvm {
                major: version(ask("--version")?.trim_end())?.0,
                prefix: PathBuf::from(ask("--prefix")?.trim_end()),
            })
        })
        // The runtime package has llvm-config too; linking needs the library's development name.
        .filter(|llvm| has_library(&llvm.prefix))
        .collect()
}

fn has_library(prefix: &Path) -> bool {
    ["lib", "lib64"]
        .iter()
        .any(|dir| prefix.join(dir).join("libLLVM.so").exists())
}

/// What Debian has, for a machine that does not know it and may not ask.
pub fn usual_offers() -> Offers {
    Offers {
        rustc_web: Some((oldest_compiler(), DEBIAN_LLVM)),
        llvm_dev: BTreeSet::from([DEBIAN_LLVM]),
    }
}

/// What apt would install, by the package lists that are on this machine: none, or old ones, perhaps.
pub fn offers() -> Offers {
    let llvms = LINKER_LLVMS.map(|llvm| format!("llvm-{llvm}-dev"));
    let policy = command::probe(
        Command::new("apt-cache")
            .args(["policy", "rustc-web"])
            .args(llvms)
            .env("LC_ALL", "C"),
    )
    .unwrap_or_default();
    let depends = command::probe(
        Command::new("apt-cache")
            .args(["depends", "rust-web-llvm"])
            .env("LC_ALL", "C"),
    )
    .unwrap_or_default();
    read_offers(&policy, &depends)
}

/// `apt-cache policy` of the packages, `apt-cache depends` of the one that binds rustc-web to LLVM.
fn read_offers(policy: &str, depends: &str) -> Offers {
    let mut offers = Offers::default();
    let web_llvm = depends
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("Depends: llvm-"))
        .and_then(|llvm| llvm.trim_end().parse().ok())
        .unwrap_or(DEBIAN_LLVM);
    for (package, candidate) in packages::candidates(policy) {
        if package == "rustc-web" {
            offers.rustc_web = version(candidate).map(|version| (version, web_llvm));
        } else if let Some(llvm) = package.strip_prefix("llvm-") {
            let major = llvm.strip_suffix("-dev");
            offers
                .llvm_dev
                .extend(major.and_then(|n| n.parse::<u32>().ok()));
        }
    }
    offers
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

/// Reads `22.1.8`, `1.97.0-nightly`, `1.96.0+dfsg1-1~deb12u2`, `22.1`, `22`; what lacks is zero.
fn version(text: &str) -> Option<Version> {
    let digits = text
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?;
    let mut numbers = digits.split('.');
    let major = numbers.next()?.parse().ok()?;
    let mut rest = || numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    Some(Version(major, rest(), rest()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_tools_print_them() {
        let rows = [
            ("22.1.8", Some(Version(22, 1, 8))),
            (
                "1.97.0-nightly (e50aa6fba 2026-05-19)",
                Some(Version(1, 97, 0)),
            ),
            ("1.96.0+dfsg1-1~deb12u2", Some(Version(1, 96, 0))),
            ("0.13.0", Some(Version(0, 13, 0))),
            ("22.1", Some(Version(22, 1, 0))),
            ("23git", Some(Version(23, 0, 0))),
            ("22", Some(Version(22, 0, 0))),
            ("", None),
            ("unknown", None),
            (".1", None),
        ];
        for (text, expected) in rows {
            assert_eq!(version(text), expected, "{text}");
        }
        assert!(oldest_compiler() > Version(1, 0, 0));
    }

    #[test]
    fn the_compilers_own_words_are_read() {
        let about = "\
rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)
host: x86_64-unknown-linux-gnu
release: 1.96.0
LLVM version: 22.1.8
";
        assert_eq!(
            field(about, "release: ").and_then(version),
            Some(Version(1, 96, 0))
        );
        assert_eq!(
            field(about, "LLVM version: ").and_then(version),
            Some(Version(22, 1, 8))
        );
        assert_eq!(field(about, "binary: "), None);
    }

    #[test]
    fn nightly_comes_before_a_linked_toolchain() {
        let list = "\
bpf
stable-x86_64-unknown-linux-gnu (active, default)
nightly-2025-01-01-x86_64-unknown-linux-gnu
nightly-x86_64-unknown-linux-gnu
1.95.0-x86_64-unknown-linux-gnu
";
        assert_eq!(
            toolchains(list),
            ["nightly-x86_64-unknown-linux-gnu", "bpf"]
        );
        assert!(toolchains("no installed toolchains\n").is_empty());
    }

    #[test]
    fn a_linkers_llvm_is_the_library_that_it_loads() {
        let rows = [
            (
                "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x7f)\n",
                Some(22),
            ),
            (
                "\tlinux-vdso.so.1 (0x7f)\n\tlibLLVM-17.so.1 => not found\n",
                Some(17),
            ),
            ("\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n", None),
            ("\tstatically linked\n", None),
        ];
        for (ldd, expected) in rows {
            assert_eq!(linked_llvm(ldd), expected, "{ldd}");
        }
    }

    #[test]
    fn apts_offers_are_read() {
        let policy = "\
rustc-web:
  Candidate: 1.96.0+dfsg1-1~deb12u2
llvm-22-dev:
  Candidate: 1:22.1.8-1~deb12u1
llvm-23-dev:
  Candidate: (none)
";
        let depends = "rust-web-llvm\n  Depends: libc6\n  Depends: llvm-22\n";
        let offers = read_offers(policy, depends);
        assert_eq!(offers.rustc_web, Some((Version(1, 96, 0), 22)));
        assert_eq!(offers.llvm_dev, BTreeSet::from([22]));
        assert_eq!(read_offers("", ""), Offers::default());
    }
}
