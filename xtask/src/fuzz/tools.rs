//! cargo-fuzz, and a compiler that has the sanitizer's runtime.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    command,
    packages::{self, Package, Policy},
    say, workspace,
};

/// The release that this repository is fuzzed with.
const VERSION: &str = "0.13.2";

/// All that is needed.
#[derive(Debug)]
pub struct Fuzzer {
    pub cargo_fuzz: PathBuf,
    pub compiler: Compiler,
}

#[derive(Debug)]
pub struct Compiler {
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    /// `x86_64-unknown-linux-gnu`
    pub host: String,
}

/// Finds or builds the tools; the inner error is why this machine cannot fuzz.
pub fn ensure(policy: Policy) -> Result<Result<Fuzzer, String>> {
    let Some(compiler) = compiler() else {
        return Ok(Err(
            "no compiler here has the address sanitizer's runtime: \
            `rustup toolchain install nightly` brings one"
                .to_owned(),
        ));
    };
    // libFuzzer is C++.
    let package = Package::new("g++", "libFuzzer is built with it");
    if command::find("c++").is_none()
        && let Err(error) = packages::ensure_programs(&[("c++", package)], policy)
    {
        return Ok(Err(format!("no C++ compiler: {error:#}").replace('\n', " ")));
    }
    let cargo_fuzz = workspace::tools().join("bin/cargo-fuzz");
    if !is_current(&cargo_fuzz) {
        if policy.no_install {
            return Ok(Err(format!(
                "cargo-fuzz {VERSION} is missing and may not be installed"
            )));
        }
        install()?;
    }
    Ok(Ok(Fuzzer {
        cargo_fuzz,
        compiler,
    }))
}

fn is_current(cargo_fuzz: &Path) -> bool {
    let said = command::probe(Command::new(cargo_fuzz).args(["fuzz", "--version"]));
    said.is_some_and(|said| said.split_whitespace().any(|word| word == VERSION))
}

fn install() -> Result<()> {
    let tools = workspace::tools();
    say::note(format_args!(
        "building cargo-fuzz {VERSION} into {}: it builds the fuzz targets; once",
        workspace::shown(&tools),
    ));
    let mut install = command::cargo();
    install
        .args(["install", "cargo-fuzz", "--version", VERSION, "--locked"])
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(tools.join("build"));
    command::run(&mut install)
        .context("could not build cargo-fuzz: check that crates can be downloaded")
}

/// rustup's nightly, else the compiler that builds this workspace.
fn compiler() -> Option<Compiler> {
    let which = |program: &str| {
        let said = command::probe(Command::new("rustup").args([
            "which",
            "--toolchain",
            "nightly",
            program,
        ]))?;
        Some(PathBuf::from(said.trim_end()))
    };
    let nightly = which("cargo").zip(which("rustc"));
    let own = command::probe(
        command::cargo()
            .args(["-Z", "help"])
            .env("RUSTC_BOOTSTRAP", "1"),
    )
    .and_then(|_| Some((PathBuf::from(command::cargo().get_program()), own_rustc()?)));
    nightly
        .into_iter()
        .chain(own)
        .find_map(|(cargo, rustc)| with_sanitizer(cargo, rustc))
}

fn own_rustc() -> Option<PathBuf> {
    let sysroot = command::probe(Command::new("rustc").args(["--print", "sysroot"]))?;
    let rustc = Path::new(sysroot.trim_end()).join("bin/rustc");
    command::is_executable(&rustc).then_some(rustc)
}

fn with_sanitizer(cargo: PathBuf, rustc: PathBuf) -> Option<Compiler> {
    let about = command::probe(Command::new(&rustc).arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "))?;
    let libraries = command::probe(Command::new(&rustc).args(["--print", "target-libdir"]))?;
    let files = std::fs::read_dir(libraries.trim_end()).ok()?;
    let has_runtime = files.flatten().any(|file| {
        let name = file.file_name();
        name.to_string_lossy().ends_with("_rt.asan.a")
    });
    has_runtime.then(|| Compiler {
        host: host.to_owned(),
        cargo,
        rustc,
    })
}
