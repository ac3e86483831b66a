//! Which compiler and which linker build the eBPF object: a pure choice over what was found.
//!
//! The BPF target has no precompiled `core`, so the compiler must bring core's source. The linker
//! (bpf-linker) reads the LLVM bitcode that the compiler wrote: its LLVM must not be older.

use std::{collections::BTreeSet, fmt, ops::RangeInclusive, path::PathBuf};

use crate::packages::Package;

/// The release that this repository is built with; an older one is not used.
pub const LINKER_VERSION: Version = Version(0, 13, 0);
/// The LLVMs that this release of bpf-linker can be built with.
pub const LINKER_LLVMS: RangeInclusive<u32> = 21..=23;
/// The LLVM of Debian's rustc-web; assumed only where apt's lists cannot be asked.
pub const DEBIAN_LLVM: u32 = 22;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// As told to the user: "rustup's nightly".
    pub name: String,
    pub rustc: PathBuf,
    pub cargo: PathBuf,
    pub version: Version,
    pub llvm: u32,
    /// Whether core's source lies where `-Z build-std` looks for it.
    pub core_source: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linker {
    pub path: PathBuf,
    pub version: Version,
    /// Unknown where LLVM is linked in statically.
    pub llvm: Option<u32>,
}

/// An LLVM with the libraries that a linker can be built on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Llvm {
    pub major: u32,
    pub prefix: PathBuf,
}

/// What apt could install.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offers {
    /// Version and LLVM of Debian's rustc-web.
    pub rustc_web: Option<(Version, u32)>,
    /// The `N` of each `llvm-N-dev`.
    pub llvm_dev: BTreeSet<u32>,
}

/// What is on this machine, best first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub compilers: Vec<Compiler>,
    pub linkers: Vec<Linker>,
    pub llvms: Vec<Llvm>,
    /// `None` where there is no apt, or where it was not asked.
    pub offers: Option<Offers>,
}

/// A compiler and a linker that fit each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    pub compiler: Compiler,
    pub linker: Linker,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    Ready(Tools),
    /// Install these packages, then build a linker on this LLVM.
    Install {
        packages: Vec<Package>,
        linker: Option<u32>,
    },
    /// No package manager that we drive has it.
    ByHand {
        compiler: bool,
        /// The LLVM to match; that of the compiler that is still to come is unknown.
        llvm: Option<u32>,
    },
}

/// Chooses what is ready over what needs building, and that over what needs installing.
pub fn choose(found: &Found, oldest: Version) -> Choice {
    let usable: Vec<&Compiler> = found
        .compilers
        .iter()
        .filter(|c| unfit(c, oldest).is_none())
        .collect();
    let ready = usable.iter().find_map(|compiler| {
        let linker = fitting_linker(found, compiler.llvm)?.clone();
        let compiler = (*compiler).clone();
        Some(Choice::Ready(Tools { compiler, linker }))
    });
    let buildable = || {
        usable.iter().find_map(|compiler| {
            let llvm = fitting_llvm(found, compiler.llvm)?;
            Some(Choice::Install {
                packages: Vec::new(),
                linker: Some(llvm.major),
            })
        })
    };
    ready
        .or_else(buildable)
        .or_else(|| packaged(found, &usable, oldest))
        .unwrap_or_else(|| Choice::ByHand {
            compiler: usable.is_empty(),
            llvm: usable.first().map(|compiler| compiler.llvm),
        })
}

/// Why a compiler cannot be used, in words.
pub fn unfit(compiler: &Compiler, oldest: Version) -> Option<String> {
    if !compiler.core_source {
        Some("it lacks core's source".into())
    } else if compiler.version < oldest {
        Some(format!("it is older than {oldest}"))
    } else {
        None
    }
}

fn fitting_linker(found: &Found, llvm: u32) -> Option<&Linker> {
    found.linkers.iter().find(|linker| {
        linker.version >= LINKER_VERSION && linker.llvm.is_none_or(|linked| linked >= llvm)
    })
}

/// The LLVM on this machine that fits closest.
pub fn fitting_llvm(found: &Found, wanted: u32) -> Option<&Llvm> {
    found
        .llvms
        .iter()
        .filter(|llvm| llvm.major >= wanted && LINKER_LLVMS.contains(&llvm.major))
        .min_by_key(|llvm| llvm.major)
}

fn packaged(found: &Found, usable: &[&Compiler], oldest: Version) -> Option<Choice> {
    let offers = found.offers.as_ref()?;
    let offered = |llvm: &u32| LINKER_LLVMS.contains(llvm) && offers.llvm_dev.contains(llvm);
    if let Some(llvm) = usable.iter().map(|c| c.llvm).find(offered) {
        return Some(Choice::Install {
            packages: vec![llvm_package(llvm)],
            linker: Some(llvm),
        });
    }
    let (_, llvm) = offers.rustc_web.filter(|(version, _)| *version >= oldest)?;
    let mut packages = vec![
        package("rustc-web", "a compiler whose core has its source packaged"),
        package("cargo-web", "the cargo of that compiler"),
        package(
            "rust-web-src",
            "core's source: the BPF target has no other core",
        ),
    ];
    if fitting_linker(found, llvm).is_some() {
        return Some(Choice::Install {
            packages,
            linker: None,
        });
    }
    let on_machine = fitting_llvm(found, llvm).map(|llvm| llvm.major);
    if on_machine.is_none() {
        packages.push(offered(&llvm).then(|| llvm_package(llvm))?);
    }
    Some(Choice::Install {
        packages,
        linker: on_machine.or(Some(llvm)),
    })
}

fn llvm_package(llvm: u32) -> Package {
    package(format!("llvm-{llvm}-dev"), "bpf-linker is built on it")
}

fn package(name: impl Into<String>, why: &'static str) -> Package {
    let name = name.into();
    Package { name, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLDEST: Version = Version(1, 95, 0);

    fn compiler(name: &str, minor: u32, llvm: u32, core_source: bool) -> Compiler {
        Compiler {
            name: name.into(),
            rustc: PathBuf::from(name).join("rustc"),
            cargo: PathBuf::from(name).join("cargo"),
            version: Version(1, minor, 0),
            llvm,
            core_source,
        }
    }

    fn linker(minor: u32, llvm: Option<u32>) -> Linker {
        Linker {
            path: format!("bpf-linker-0.{minor}").into(),
            version: Version(0, minor, 0),
            llvm,
        }
    }

    fn llvms(majors: &[u32]) -> Vec<Llvm> {
        let llvm = |major: &u32| Llvm {
            major: *major,
            prefix: format!("/usr/lib/llvm-{major}").into(),
        };
        majors.iter().map(llvm).collect()
    }

    fn offers(web: Option<(u32, u32)>, llvm_dev: &[u32]) -> Offers {
        Offers {
            rustc_web: web.map(|(minor, llvm)| (Version(1, minor, 0), llvm)),
            llvm_dev: llvm_dev.iter().copied().collect(),
        }
    }

    /// A choice on one line: `nightly + bpf-linker-0.13`, `install a b, linker on 22`, `by hand …`.
    fn told(found: &Found) -> String {
        match choose(found, OLDEST) {
            Choice::Ready(tools) => {
                format!("{} + {}", tools.compiler.name, tools.linker.path.display())
            }
            Choice::Install { packages, linker } => {
                let names: Vec<_> = packages.into_iter().map(|p| p.name).collect();
                format!("install {} / {linker:?}", names.join(" "))
            }
            Choice::ByHand { compiler, llvm } => format!("by hand {compiler} {llvm:?}"),
        }
    }

    #[test]
    fn what_is_ready_is_taken_in_order() {
        let nightly = || compiler("nightly", 97, 22, true);
        let bare_nightly = || compiler("nightly", 97, 22, false);
        let system = || compiler("system", 96, 22, true);
        let rows = [
            (
                vec![nightly(), system()],
                vec![linker(13, Some(22))],
                "nightly + bpf-linker-0.13",
            ),
            (
                vec![bare_nightly(), system()],
                vec![linker(13, Some(22))],
                "system + bpf-linker-0.13",
            ),
            // The first nightly is too new for the linker, the second compiler is not.
            (
                vec![compiler("nightly", 99, 23, true), system()],
                vec![linker(13, Some(22))],
                "system + bpf-linker-0.13",
            ),
            // A newer LLVM reads older bitcode; an unknown one is believed.
            (
                vec![nightly()],
                vec![linker(14, Some(23))],
                "nightly + bpf-linker-0.14",
            ),
            (
                vec![nightly()],
                vec![linker(13, None)],
                "nightly + bpf-linker-0.13",
            ),
            // An old linker before a good one does not hide it.
            (
                vec![nightly()],
                vec![
                    linker(9, Some(22)),
                    linker(13, Some(21)),
                    linker(15, Some(22)),
                ],
                "nightly + bpf-linker-0.15",
            ),
        ];
        for (compilers, linkers, expected) in rows {
            let found = Found {
                compilers,
                linkers,
                ..Found::default()
            };
            assert_eq!(told(&found), expected, "{found:?}");
        }
    }

    #[test]
    fn what_lacks_is_installed_or_named() {
        let system = || vec![compiler("system", 96, 22, true)];
        let debian = || Some(offers(Some((96, 22)), &[21, 22]));
        let all = "install rustc-web cargo-web rust-web-src llvm-22-dev / Some(22)";
        let rows = [
            // A machine with rustup's stable only.
            (vec![], vec![], llvms(&[]), debian(), all),
            (
                vec![compiler("nightly", 97, 22, false)],
                vec![],
                llvms(&[]),
                debian(),
                all,
            ),
            // Too old for this workspace, although it has the source.
            (
                vec![compiler("system", 85, 19, true)],
                vec![],
                llvms(&[]),
                debian(),
                all,
            ),
            (
                vec![],
                vec![],
                llvms(&[22]),
                debian(),
                "install rustc-web cargo-web rust-web-src / Some(22)",
            ),
            (
                vec![],
                vec![linker(13, Some(22))],
                llvms(&[]),
                debian(),
                "install rustc-web cargo-web rust-web-src / None",
            ),
            // Only the linker lacks; the closest LLVM is taken, one that it cannot use is not.
            (
                system(),
                vec![],
                llvms(&[23, 22, 14]),
                None,
                "install  / Some(22)",
            ),
            (
                system(),
                vec![linker(9, Some(22))],
                llvms(&[22]),
                None,
                "install  / Some(22)",
            ),
            (
                system(),
                vec![],
                llvms(&[14, 24]),
                debian(),
                "install llvm-22-dev / Some(22)",
            ),
            // A nightly newer than every LLVM in reach: the packaged compiler is.
            (
                vec![compiler("nightly", 99, 23, true)],
                vec![],
                llvms(&[]),
                debian(),
                all,
            ),
            // No apt, or an apt that has nothing of use.
            (vec![], vec![], llvms(&[]), None, "by hand true None"),
            (
                vec![],
                vec![],
                llvms(&[]),
                Some(offers(Some((85, 19)), &[22])),
                "by hand true None",
            ),
            (
                vec![],
                vec![],
                llvms(&[]),
                Some(offers(Some((96, 22)), &[])),
                "by hand true None",
            ),
            (
                system(),
                vec![],
                llvms(&[]),
                Some(offers(None, &[21])),
                "by hand false Some(22)",
            ),
        ];
        for (compilers, linkers, llvms, offers, expected) in rows {
            let found = Found {
                compilers,
                linkers,
                llvms,
                offers,
            };
            assert_eq!(told(&found), expected, "{found:?}");
        }
    }
}
