//! The eBPF object: crate `tracer-ebpf`, compiled for the BPF target with a tool chain of its own and
//! left where the `tracer` crate embeds it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{command, packages::Policy, setup, toolchain::Tools, workspace};

/// The one feature that both halves have: the programs' own log lines.
const LOG: &str = "log";

/// A compiler's flags and wrappers for the host, which must not reach the BPF build.
const HOST_ONLY: [&str; 12] = [
    "CARGO",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_INCREMENTAL",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// Builds the object with whatever tool chain there is or may be installed.
pub fn build(features: &[String], policy: Policy) -> Result<()> {
    let tools = setup::ensure(policy)?;
    let target_dir = workspace::target().join("bpf-build");
    command::run(&mut cargo(&tools, &target_dir, features)?).with_context(|| {
        let linker = &tools.linker;
        let doubt = match linker.llvm {
            Some(_) => String::new(),
            None => format!(
                "; if it complains about bitcode, {} was built on an LLVM older than {}: put a newer one on PATH",
                linker.path.display(),
                tools.compiler.llvm,
            ),
        };
        format!("could not build the eBPF object: see the compiler's message above{doubt}")
    })?;
    let built = target_dir.join(target()).join("release/tracer-ebpf");
    place(&built, &workspace::ebpf_object())
}

/// eBPF comes in the host's byte order.
fn target() -> &'static str {
    if cfg!(target_endian = "big") {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    }
}

fn cargo(tools: &Tools, target_dir: &Path, features: &[String]) -> Result<Command> {
    let rustflags = [
        // Whose registers a kernel program sees: aya's bindings differ by it.
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        // BTF is made from debug information.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    let mut cargo = Command::new(&tools.compiler.cargo);
    for name in HOST_ONLY {
        cargo.env_remove(name);
    }
    cargo
        .current_dir(workspace::root())
        .args(["build", "--package", "tracer-ebpf", "--release"])
        .args(["-Z", "build-std=core", "--target", target()])
        .arg("--target-dir")
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\u{1f}"))
        .env("RUSTC", &tools.compiler.rustc)
        // `-Z build-std` is for nightlies; a release compiler takes it with this, here alone.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", path_with(&tools.linker.path)?);
    if features.iter().any(|feature| feature == LOG) {
        cargo.args(["--features", LOG]);
    }
    Ok(cargo)
}

/// `PATH` on which this very linker is the first.
fn path_with(linker: &Path) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let first = linker.parent().map(PathBuf::from);
    env::join_paths(first.into_iter().chain(env::split_paths(&path)))
        .with_context(|| format!("{} cannot stand on PATH", linker.display()))
}

/// Puts the object in its place if it differs from what lies there, so that cargo does not rebuild
/// what embeds it; a reader sees the old one or the new one, never half of one.
fn place(built: &Path, place: &Path) -> Result<()> {
    let object = fs::read(built)
        .with_context(|| format!("cannot read the eBPF object {}", built.display()))?;
    match fs::read(place) {
        Ok(there) if there == object => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot read {}", place.display()));
        }
        Ok(_) | Err(_) => {}
    }
    let beside = place.with_extension("new");
    let put = || {
        if let Some(dir) = place.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(&beside, &object)?;
        fs::rename(&beside, place)
    };
    put().with_context(|| format!("cannot write the eBPF object to {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_object_is_not_written_again() {
        let dir = env::temp_dir().join(format!("xtask-place-{}", std::process::id()));
        let (built, object) = (dir.join("built"), dir.join("deep/object"));
        fs::create_dir_all(&dir).unwrap();
        let modified = || fs::metadata(&object).unwrap().modified().unwrap();

        fs::write(&built, "one").unwrap();
        place(&built, &object).unwrap();
        let first = modified();
        place(&built, &object).unwrap();
        assert_eq!(modified(), first, "an equal object was written again");

        fs::write(&built, "two").unwrap();
        place(&built, &object).unwrap();
        assert_eq!(fs::read(&object).unwrap(), b"two");

        fs::remove_file(&built).unwrap();
        assert!(place(&built, &object).is_err());
        assert_eq!(fs::read(&object).unwrap(), b"two");
        fs::remove_dir_all(&dir).unwrap();
    }
}
