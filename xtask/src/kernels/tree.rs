//! Packages with all that they need, unpacked into a directory and never installed. So it does not
//! matter what this machine has instead of them, and from which suite.
//!
//! ```text
//! target/kernels/<name>/root/         the packages' files
//! target/kernels/<name>/origin.json   which packages were asked for, and which came
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    archive::{self, Archive, Suite},
    store,
};
use crate::{say, workspace};

/// Where programs and libraries of guests and machines come from: old enough for every kernel that
/// is tried, and with security's fixes.
const SUITES: [Suite; 2] = [
    Suite::main("bookworm"),
    Suite::security("bookworm-security"),
];

#[derive(Debug, Serialize, Deserialize)]
struct Origin {
    wanted: Vec<String>,
    /// Their files, whose names hold the versions. Apt has checked them by the signed lists.
    came: Vec<String>,
}

/// The root under which `packages` lie. What was unpacked before is used without any network.
///
/// # Errors
///
/// Where they cannot be fetched or unpacked.
pub fn ensure(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let dir = store::home().join(name);
    if !holds(&dir, packages) {
        fetch(&dir, packages)
            .with_context(|| format!("cannot have {} unpacked", packages.join(" and ")))?;
    }
    Ok(dir.join("root"))
}

fn holds(dir: &Path, packages: &[&str]) -> bool {
    fs::read(dir.join("origin.json"))
        .ok()
        .and_then(|note| serde_json::from_slice::<Origin>(&note).ok())
        .is_some_and(|origin| origin.wanted == packages)
}

fn fetch(dir: &Path, packages: &[&str]) -> Result<()> {
    say::note(format_args!(
        "fetching {} into {}, with all that is needed; nothing is installed",
        packages.join(" and "),
        workspace::shown(dir)
    ));
    let archive = Archive::fetch(&store::home().join("apt-packages"), &SUITES)?;
    let beside = dir.with_extension("new");
    drop(fs::remove_dir_all(&beside));
    let root = beside.join("root");
    fs::create_dir_all(&root).context("cannot create a directory")?;
    let files = archive.download_all(packages)?;
    for file in &files {
        archive::unpack(file, &root)?;
    }
    let origin = Origin {
        wanted: packages.iter().map(|&name| name.to_owned()).collect(),
        came: files.iter().filter_map(|file| file_name(file)).collect(),
    };
    let note = serde_json::to_vec_pretty(&origin).context("cannot write the origin")?;
    fs::write(beside.join("origin.json"), note).context("cannot write the origin")?;
    drop(fs::remove_dir_all(dir));
    fs::rename(&beside, dir).context("cannot put it in its place")?;
    archive.forget_files()
}

fn file_name(file: &Path) -> Option<String> {
    Some(file.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_what_was_asked_for_and_came_whole() {
        let dir = std::env::temp_dir().join(format!("tracer-tree-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert!(!holds(&dir, &["a"]), "nothing is there");
        let note = r#"{"wanted":["a","b"],"came":["a_1_amd64.deb","b_2_all.deb","c_3_all.deb"]}"#;
        let rows: [(&str, &[&str], bool); 5] = [
            (note, &["a", "b"], true),
            (note, &["a"], false),
            (note, &["a", "b", "c"], false),
            ("", &["a", "b"], false),
            (&note[..20], &["a", "b"], false),
        ];
        for (text, packages, expected) in rows {
            fs::write(dir.join("origin.json"), text).unwrap();
            assert_eq!(holds(&dir, packages), expected, "{text} {packages:?}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
