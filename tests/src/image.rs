//! The one image of the tests: busybox, a program that crashes, nothing from a network.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::command::{program, run_ok};
use crate::raw;

/// Name under which every runtime knows it.
pub const NAME: &str = "localhost/tracer-test:1";

const BUSYBOX: &str = "/bin/busybox";
/// Names that a test may run as `/bin/NAME`.
const APPLETS: [&str; 9] = [
    "cat", "dd", "echo", "false", "kill", "sh", "sleep", "true", "usleep",
];

/// A fault that the kernel itself raises: init of a pid namespace ignores signals that are sent.
const CRASH: &str = "int main(void) { *(volatile int *)0 = 1; return 0; }\n";

/// Lays out the root file system.
pub fn rootfs(dir: &Path) -> Result<()> {
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(dir.join(name))
            .with_context(|| format!("create {name} in {}", dir.display()))?;
    }
    let busybox = dir.join("bin/busybox");
    fs::copy(BUSYBOX, &busybox).with_context(|| format!("copy {BUSYBOX}"))?;
    for applet in APPLETS {
        symlink("busybox", dir.join("bin").join(applet))
            .with_context(|| format!("link {applet} to busybox"))?;
    }
    Ok(())
}

/// Adds `/bin/crash` to a root file system.
pub fn add_crash(rootfs: &Path) -> Result<()> {
    let dir = tempfile::tempdir().context("create a directory to compile in")?;
    let program = raw::compile(CRASH, dir.path(), "crash")?;
    let target = rootfs.join("bin/crash");
    fs::copy(program, &target).with_context(|| format!("write {}", target.display()))?;
    Ok(())
}

/// The root file system as a tar file in `dir`, for `docker import` and `podman import`.
pub fn rootfs_tar(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("image-rootfs");
    rootfs(&root)?;
    let tar = dir.join("rootfs.tar");
    run_ok(
        program("tar")
            .args(["--numeric-owner", "--owner=0", "--group=0", "-cf"])
            .arg(&tar)
            .arg("-C")
            .arg(&root)
            .arg("."),
    )?;
    fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    Ok(tar)
}

/// The image in the form that `docker save` writes and `ctr images import` reads.
pub fn docker_archive(dir: &Path) -> Result<PathBuf> {
    let stage = dir.join("archive");
    fs::create_dir_all(&stage).with_context(|| format!("create {}", stage.display()))?;
    let layer = rootfs_tar(&stage)?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "100000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer)?)]},
    });
    let config_file = stage.join("config");
    write(&config_file, &config.to_string())?;
    let config_name = format!("{}.json", sha256(&config_file)?);
    fs::rename(&config_file, stage.join(&config_name)).context("name the image's configuration")?;
    let manifest = json!([{"Config": config_name, "RepoTags": [NAME], "Layers": ["rootfs.tar"]}]);
    write(&stage.join("manifest.json"), &manifest.to_string())?;
    let archive = dir.join("image.tar");
    run_ok(
        program("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&stage)
            .args(["manifest.json", &config_name, "rootfs.tar"]),
    )?;
    fs::remove_dir_all(&stage).with_context(|| format!("remove {}", stage.display()))?;
    Ok(archive)
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

fn sha256(file: &Path) -> Result<String> {
    let done = run_ok(program("sha256sum").arg(file))?;
    done.text()
        .split_whitespace()
        .next()
        .map(str::to_owned)
        .context("output of sha256sum")
}
