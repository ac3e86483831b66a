//! Rules of the house that no compiler checks.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tracer_tests::{Context, Result, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

const CRATES: [&str; 5] = ["tests", "tracer", "tracer-common", "tracer-ebpf", "xtask"];

#[test]
fn every_crate_inherits_the_lints() -> Result<()> {
    let workspace = read(&root().join("Cargo.toml"))?;
    for name in CRATES {
        ensure!(
            workspace.contains(&format!("\"{name}\"")),
            "{name}: no member"
        );
        let manifest = read(&root().join(name).join("Cargo.toml"))?;
        ensure!(
            manifest.contains("[lints]\nworkspace = true"),
            "{name} does not inherit the workspace's lints"
        );
    }
    Ok(())
}

#[test]
fn unsafe_code_is_forbidden_outside_the_ebpf_crate_and_two_modules() -> Result<()> {
    for (name, file) in [
        ("tests", "src/lib.rs"),
        ("tracer", "src/main.rs"),
        ("tracer-common", "src/lib.rs"),
        ("xtask", "src/main.rs"),
    ] {
        let source = read(&root().join(name).join(file))?;
        ensure!(
            source.contains("#![forbid(unsafe_code)]"),
            "{name}/{file} does not forbid unsafe code"
        );
    }
    let library = root().join("tracer/src");
    let denies = read(&library.join("lib.rs"))?.contains("#![deny(unsafe_code)]");
    ensure!(denies, "tracer/src/lib.rs does not deny unsafe code");
    for file in sources(&library)? {
        let lifts = read(&file)?.contains("expect(unsafe_code,");
        let may = ["kernel/ring.rs", "resident.rs"]
            .iter()
            .any(|name| file.ends_with(name));
        ensure!(
            lifts == may,
            "{}: unsafe code is for kernel/ring.rs and resident.rs",
            file.display()
        );
    }
    Ok(())
}

/// Lints are lifted with `expect` and a reason, so that a lift that is no longer needed is found.
#[test]
fn lints_are_lifted_with_expect() -> Result<()> {
    for name in CRATES {
        for file in sources(&root().join(name))? {
            let lifted = concat!("#[", "allow(");
            let source = read(&file)?;
            ensure!(!source.contains(lifted), "{} uses {lifted}", file.display());
        }
    }
    Ok(())
}

fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}
