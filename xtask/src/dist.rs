//! `--profile dist`: the binary to ship, shaped by a profile of itself at work.
//!
//! ```text
//!  a build that counts ──▶ it works ──▶ llvm-profdata ──▶ a build that knows what runs
//!                        (bench::work)
//! ```
//!
//! What often runs is made fast, what hardly ran is made small, and what ran lies together in the file,
//! first what a daemon runs. The kernel maps a file by neighbourhoods of 64 KiB (`fault_around_bytes`),
//! and each counts whole as the daemon's memory: of a text that lies as its crates were linked, a few
//! functions here and there make most of it count.
//!
//! The work is the benchmark's, in short, with every outlet and a gateway: what it leaves out is made
//! small as well, and still works.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    bench,
    build::{self, Profile, What},
    command,
    privilege::Privilege,
    probe::{self, HostCompiler},
    say, workspace,
};

/// The target that rustc links with lld.
const LLD: &str = "x86_64-unknown-linux-gnu";

/// Builds `target/dist/tracer`; the eBPF object is there.
pub fn build(what: &What) -> Result<()> {
    if Privilege::find()? != Privilege::Root {
        bail!("needs root: the first build traces this host, to be counted");
    }
    let compiler = probe::host_compiler().context("no rustc")?;
    let profdata = profdata(&compiler)?;
    let dir = workspace::target().join("dist");
    let counts = dir.join("counts");
    // Ours: a daemon in its sandbox may write there and not make it.
    fs::create_dir_all(&counts).with_context(|| format!("cannot create {}", counts.display()))?;
    say::note("first build: one that counts");
    let counting = compile(
        what,
        &compiler,
        &dir.join("counting"),
        &[format!("-Cprofile-generate={}", counts.display())],
    )?;
    let binary = Profile::Dist.binary();
    let shaped_by = dir.join("shaped-by");
    let state = state_of(&counting)?;
    if binary.exists() && fs::read_to_string(&shaped_by).is_ok_and(|before| before == state) {
        return Ok(());
    }
    for count in fs::read_dir(&counts)? {
        // Of other code.
        fs::remove_file(count?.path())?;
    }
    let profile = dir.join("profile");
    let counted = || {
        let mut merging = Command::new(&profdata);
        merging.arg("merge").arg("-o").arg(&profile).arg(&counts);
        command::run(&mut merging).context("cannot merge what was counted")?;
        shown(&profdata, &profile)
    };
    say::note("it works, for some minutes");
    bench::work::daemon(&counting, what.policy)?;
    let daemon = counted()?;
    bench::work::others(&counting, what.policy)?;
    let all = counted()?;
    let order = dir.join("order");
    fs::write(&order, in_order(&daemon, &all).join("\n") + "\n")
        .with_context(|| format!("cannot write {}", order.display()))?;
    say::note("second build: shaped by that");
    let mut flags = vec![format!("-Cprofile-use={}", profile.display())];
    // Other targets' linker has no such option.
    if compiler.triple == LLD {
        flags.push(format!(
            "-Clink-arg=-Wl,--symbol-ordering-file={},--no-warn-symbol-ordering",
            order.display()
        ));
    }
    let shaped = compile(what, &compiler, &dir.join("shaped"), &flags)?;
    fs::copy(&shaped, &binary).with_context(|| format!("cannot write {}", binary.display()))?;
    fs::write(&shaped_by, state).with_context(|| format!("cannot write {}", shaped_by.display()))
}

/// Tells this build of a file from others.
fn state_of(file: &Path) -> Result<String> {
    let about = fs::metadata(file).with_context(|| format!("no {}", file.display()))?;
    Ok(format!("{:?} {}", about.modified()?, about.len()))
}

/// A release build with these flags, in a directory of its own.
fn compile(what: &What, compiler: &HostCompiler, dir: &Path, flags: &[String]) -> Result<PathBuf> {
    let given = std::env::var("RUSTFLAGS").unwrap_or_default();
    let given = given.split_whitespace().map(str::to_owned);
    let flags: Vec<String> = given.chain(flags.iter().cloned()).collect();
    let mut cargo = build::cargo(Profile::Release, what);
    cargo
        // With a target the flags are not those of build scripts and macros.
        .args(["--target", &compiler.triple])
        .arg("--target-dir")
        .arg(dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    command::run(&mut cargo).context("could not build tracer: see the compiler's message above")?;
    Ok(dir.join(&compiler.triple).join("release/tracer"))
}

/// All that was counted, as text.
fn shown(profdata: &Path, profile: &Path) -> Result<String> {
    let mut show = Command::new(profdata);
    show.args(["show", "--all-functions", "--counts"])
        .arg(profile);
    command::probe(&mut show).context("cannot read what was counted")
}

/// What a daemon ran, then what else did.
fn in_order<'a>(daemon: &'a str, all: &'a str) -> Vec<&'a str> {
    let first = ran(daemon);
    let known: BTreeSet<&str> = first.iter().copied().collect();
    let others = ran(all).into_iter().filter(|name| !known.contains(name));
    first.iter().copied().chain(others).collect()
}

/// The names of the functions of which any block ran.
fn ran(shown: &str) -> Vec<&str> {
    let mut name = "";
    let mut ran = Vec::new();
    for line in shown.lines() {
        let text = line.trim_start();
        let depth = line.len() - text.len();
        if let (2, Some(function)) = (depth, text.strip_suffix(':')) {
            // Of a local one the file stands before it.
            name = function.rsplit(';').next().unwrap_or(function);
        } else if let Some(counts) = text.strip_prefix("Block counts: [")
            && counts
                .trim_end_matches(']')
                .split(", ")
                .any(|count| count != "0")
        {
            ran.push(name);
        }
    }
    ran
}

/// Works with counts: that of the compiler, or of an LLVM that is not older.
fn profdata(compiler: &HostCompiler) -> Result<PathBuf> {
    let name = "llvm-profdata";
    let own = compiler.sysroot.join("lib/rustlib").join(&compiler.triple);
    let llvms = probe::llvms().into_iter();
    let fitting = llvms.filter(|llvm| llvm.major >= compiler.llvm);
    [own.join("bin").join(name)]
        .into_iter()
        .chain(fitting.map(|llvm| llvm.prefix.join("bin").join(name)))
        .find(|file| command::is_executable(file))
        .with_context(|| {
            let llvm = compiler.llvm;
            format!("no {name} of LLVM {llvm}: `rustup component add llvm-tools`, or the package llvm-{llvm}")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_is_named() {
        let shown = "\
Counters:
  _ZN5never4runs17h0123456789abcdefE:
    Hash: 0x0a4d0ad3efffffff
    Counters: 2
    Block counts: [0, 0]
  tracer.5d5c05e2da8094c4-cgu.0;_ZN4some4drop17h0123456789abcdefE:
    Hash: 0x02f30c12042b0f02
    Counters: 3
    Block counts: [0, 10, 0]
  _ZN4runs5often17h0123456789abcdefE:
    Hash: 0x0a4d0ad3efffffff
    Counters: 1
    Block counts: [4096]
Instrumentation level: IR  entry_first = 0
";
        let names = [
            "_ZN4some4drop17h0123456789abcdefE",
            "_ZN4runs5often17h0123456789abcdefE",
        ];
        assert_eq!(ran(shown), names);
        assert!(ran("").is_empty());
        let (before, after) = shown.split_at(shown.find("  _ZN4runs").expect("the last"));
        let [first, second] = names;
        assert_eq!(in_order(before, shown), names);
        assert_eq!(in_order(after, shown), [second, first]);
    }
}
