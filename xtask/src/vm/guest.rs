//! The guest's files: what `tests/vm/*.sh` needs, the programs under test, and the libraries that
//! they are linked to on this machine.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::cpio::Tree;
use crate::{build::Profile, command, kernels::tree, test, workspace};

const INIT: &str = include_str!("../../../tests/vm/init.sh");
const RUN: &str = include_str!("../../../tests/vm/run.sh");
const SERVICE: &str = include_str!("../../../tests/vm/tracer-vm.service");

/// Programs of this machine that the guest gets, each found by its name.
pub const PROGRAMS: [&str; 3] = ["busybox", "runc", "crun"];

/// Takes from a program what only debuggers read.
pub const STRIP: &str = "strip";

/// A test program: its target's name and the file.
pub type Test = (String, PathBuf);

#[derive(Deserialize)]
struct Artifact {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Builds these test targets, without running them.
pub fn build_tests(names: &BTreeSet<&str>) -> Result<Vec<Test>> {
    let mut cargo = test::workspace_cargo("test");
    for name in names {
        cargo.args(["--test", name]);
    }
    cargo.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", command::describe(&cargo)))?;
    if !output.status.success() {
        bail!("could not build the tests for the virtual machines: see above");
    }
    let built = executables(&String::from_utf8_lossy(&output.stdout));
    let found: Vec<Test> = built
        .into_iter()
        .filter(|(name, _)| names.contains(name.as_str()))
        .collect();
    if found.len() != names.len() {
        bail!("cargo did not say where it left all of {names:?}");
    }
    Ok(found)
}

fn executables(messages: &str) -> Vec<Test> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Artifact>(line).ok())
        .filter_map(|artifact| Some((artifact.target?.name, artifact.executable?)))
        .collect()
}

/// Everything but what belongs to one init system.
pub fn tree<'a>(tests: impl Iterator<Item = &'a Test>, under: Option<&Path>) -> Result<Tree> {
    let mut tree = Tree::default();
    if let Some(root) = under {
        tree.tree(root, &is_useless)?;
        systemd(&mut tree);
    }
    tree.text("/init", INIT, 0o755);
    tree.text("/guest/run.sh", RUN, 0o755);
    let mut libraries = BTreeSet::new();
    let tracer = stripped("tracer", &Profile::Fast.binary())?;
    let mut programs = vec![("/usr/bin/tracer".to_owned(), tracer)];
    for name in PROGRAMS {
        let file = command::find(name).with_context(|| format!("{name} is not installed"))?;
        // Containers get the host's busybox from here.
        let dir = if name == "busybox" {
            "/bin"
        } else {
            "/usr/bin"
        };
        programs.push((format!("{dir}/{name}"), file));
    }
    for (name, file) in tests {
        programs.push((format!("/tests/{name}"), stripped(name, file)?));
    }
    for (at, file) in &programs {
        tree.file(at, file)?;
        let linked = command::probe(Command::new("ldd").arg(file)).unwrap_or_default();
        libraries.extend(linked_to(&linked));
    }
    for library in &libraries {
        tree.file(library, Path::new(library))?;
    }
    Ok(tree)
}

/// A copy of one of our programs that is a tenth of it: a guest has its files in memory, and twice
/// while it begins.
fn stripped(name: &str, file: &Path) -> Result<PathBuf> {
    let dir = workspace::target().join("vm/stripped");
    fs::create_dir_all(&dir)
        .with_context(|| format!("cannot create {}", workspace::shown(&dir)))?;
    let copy = dir.join(name);
    let mut strip = Command::new(STRIP);
    command::run(strip.args(["--strip-debug", "-o"]).arg(&copy).arg(file))?;
    Ok(copy)
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn linked_to(ldd: &str) -> Vec<String> {
    ldd.lines()
        .filter_map(|line| {
            let (path, _) = line.rsplit_once(" (")?;
            let path = path.rsplit_once("=> ").map_or(path, |(_, path)| path);
            Some(path.trim()).filter(|path| path.starts_with('/'))
        })
        .map(str::to_owned)
        .collect()
}

/// Writes the tree where QEMU reads it.
pub fn write(tree: &Tree, file: &Path) -> Result<()> {
    let context = || format!("cannot write {}", workspace::shown(file));
    let out = File::create(file).with_context(context)?;
    tree.write(BufWriter::new(out)).with_context(context)
}

/// Debian's systemd with a system bus, what containers its tests make, and all that they need, never
/// run here. Of what can be podman's network the smallest: the guest has none.
pub fn systemd_root() -> Result<PathBuf> {
    const SYSTEM: [&str; 2] = ["systemd", "dbus"];
    const RUNTIMES: [&str; 4] = ["podman", "netavark", "lxc", "systemd-container"];
    tree::ensure("systemd", &[&SYSTEM[..], &RUNTIMES].concat())
}

/// What nobody reads in a guest.
fn is_useless(path: &Path) -> bool {
    const DIRS: [&str; 12] = [
        "usr/lib/x86_64-linux-gnu/gconv",
        "usr/lib/x86_64-linux-gnu/perl",
        "usr/lib/x86_64-linux-gnu/perl-base",
        "usr/share/bash-completion",
        "usr/share/doc",
        "usr/share/i18n",
        "usr/share/info",
        "usr/share/locale",
        "usr/share/man",
        "usr/share/perl",
        "usr/share/zoneinfo",
        "var/lib/dpkg",
    ];
    DIRS.iter().any(|dir| path == Path::new(dir))
}

/// What the packages' scripts would have made.
fn systemd(tree: &mut Tree) {
    const AT_ONCE: &str = "[Unit]\nDefaultDependencies=no\n";
    const OF_UNITS: &str = "/etc/systemd/system";
    tree.text(&format!("{OF_UNITS}/tracer-vm.service"), SERVICE, 0o644);
    // The last is every service, those of tests too.
    for unit in ["dbus.socket", "service"] {
        // Without the rest of a system before them, which would clear /tmp.
        tree.text(&format!("{OF_UNITS}/{unit}.d/at-once.conf"), AT_ONCE, 0o644);
    }
    tree.text(
        "/etc/passwd",
        "root:x:0:0::/root:/bin/sh\nmessagebus:x:100:100::/:/bin/false\n",
        0o644,
    );
    tree.text("/etc/group", "root:x:0:\nmessagebus:x:100:\n", 0o644);
    tree.text(
        "/etc/machine-id",
        "0123456789abcdef0123456789abcdef\n",
        0o444,
    );
    // systemd-nspawn shows it to its machines.
    tree.text("/etc/os-release", "ID=guest\n", 0o644);
    tree.link("/var/run", "/run");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let ldd = "\
\tlinux-vdso.so.1 (0x00007f3c1b4ed000)
\tlibseccomp.so.2 => /lib/x86_64-linux-gnu/libseccomp.so.2 (0x00007f3c1b4ba000)
\tlibgone.so => not found
\t/lib64/ld-linux-x86-64.so.2 (0x00007f3c1b4ef000)
";
        assert_eq!(
            linked_to(ldd),
            [
                "/lib/x86_64-linux-gnu/libseccomp.so.2",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert!(linked_to("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn cargo_says_where_tests_are() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"vm_matrix"},"executable":"/t/vm_matrix-1"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(
            executables(messages),
            [("vm_matrix".to_owned(), PathBuf::from("/t/vm_matrix-1"))]
        );
    }
}
