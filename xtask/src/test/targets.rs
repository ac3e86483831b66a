//! The workspace's integration tests: plain ones, live ones, and those of the virtual machines.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{command, workspace};

/// Tests whose target's name begins so need root and real runtimes.
const LIVE: &str = "live_";
/// Tests whose target's name begins so are for the guests of [`crate::vm`], which picks them itself.
const GUEST: &str = "vm_";

/// Names of `[[test]]` targets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Targets {
    pub plain: Vec<String>,
    pub live: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Asks cargo, which knows them without building anything.
pub fn find() -> Result<Targets> {
    let mut cargo = command::cargo();
    cargo
        .current_dir(workspace::root())
        .args(["metadata", "--no-deps", "--format-version", "1"]);
    let output = cargo
        .output()
        .with_context(|| format!("cannot start {}", command::describe(&cargo)))?;
    if !output.status.success() {
        bail!(
            "{} failed: {}",
            command::describe(&cargo),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    read(&output.stdout)
}

fn read(metadata: &[u8]) -> Result<Targets> {
    let metadata: Metadata =
        serde_json::from_slice(metadata).context("cannot read the output of `cargo metadata`")?;
    let names = metadata
        .packages
        .into_iter()
        .filter(|package| package.name != "tracer-ebpf")
        .flat_map(|package| package.targets)
        .filter(|target| target.kind.iter().any(|kind| kind == "test"))
        .map(|target| target.name)
        .filter(|name| !name.starts_with(GUEST));
    let (live, plain) = names.partition(|name| name.starts_with(LIVE));
    Ok(Targets { plain, live })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_targets_are_split_by_name() {
        let metadata = r#"{"packages":[
            {"name":"tracer","targets":[{"name":"tracer","kind":["lib"]},{"name":"tracer","kind":["bin"]},
                                        {"name":"cli","kind":["test"]}]},
            {"name":"tracer-ebpf","targets":[{"name":"never","kind":["test"]}]},
            {"name":"tracer-tests","targets":[{"name":"live_runc","kind":["test"]},
                                              {"name":"vm_matrix","kind":["test"]},
                                              {"name":"lively","kind":["test"]}],"edition":"2024"}
        ],"version":1}"#;
        assert_eq!(
            read(metadata.as_bytes()).unwrap(),
            Targets {
                plain: vec!["cli".into(), "lively".into()],
                live: vec!["live_runc".into()],
            }
        );
        assert!(read(b"{}").is_err());
    }
}
