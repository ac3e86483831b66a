//! Containers that live and die: what a small shop's would do.

use std::{
    fs,
    os::unix::{fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::pause;
use crate::{command, say};

/// What makes them.
#[derive(Debug)]
pub struct Engine {
    kind: Kind,
    dir: PathBuf,
    /// Unlike that of any other container of this host.
    prefix: String,
}

#[derive(Debug)]
enum Kind {
    /// docker, podman: the same words.
    Client(&'static str),
    Runc,
}

const IMAGE: &str = "localhost/tracer-demo:1";
/// Between two births.
const PACE: Duration = Duration::from_millis(1500);

/// Name, what it does, and its limit of memory in MiB.
const LIVES: [(&str, &str, Option<u64>); 6] = [
    ("shop", "sleep 9; exit 0", None),
    ("cart", "sleep 6; exit 1", None),
    ("mail", "sleep 4; exit 3", None),
    (
        "report",
        "sleep 2; dd if=/dev/zero of=/dev/null bs=64M count=1; exit 0",
        Some(16),
    ),
    ("search", "sleep 12; exit 0", None),
    ("cron", "true", None),
];

impl Engine {
    /// The first that can run a container here.
    pub fn find(dir: &Path) -> Result<Self> {
        rootfs(&dir.join("rootfs"))?;
        for kind in [Kind::Client("docker"), Kind::Client("podman"), Kind::Runc] {
            let engine = Self {
                kind,
                dir: dir.to_owned(),
                prefix: format!("demo-{}", std::process::id()),
            };
            match engine.prepare() {
                Ok(()) => return Ok(engine),
                Err(error) => say::note(format_args!("no {}: {error:#}", engine.name())),
            }
            engine.remove();
        }
        bail!("nothing here can run a container")
    }

    pub const fn name(&self) -> &'static str {
        match self.kind {
            Kind::Client(name) => name,
            Kind::Runc => "runc",
        }
    }

    /// Makes the image, and sees whether a container runs.
    fn prepare(&self) -> Result<()> {
        if let Kind::Client(program) = self.kind {
            command::find(program).context("it is not installed")?;
            let tar = self.dir.join("rootfs.tar");
            quietly(
                Command::new("tar")
                    .arg("-cf")
                    .arg(&tar)
                    .arg("-C")
                    .arg(self.dir.join("rootfs"))
                    .arg("."),
            )?;
            quietly(Command::new(program).arg("import").arg(&tar).arg(IMAGE))?;
        }
        let number = 0;
        self.birth(number, "probe", "true", None)?;
        self.burial(number);
        Ok(())
    }

    /// One after the other, until it is over.
    pub fn live(&self, is_over: impl Fn() -> bool) -> Result<()> {
        let mut number = 0;
        let mut next = Instant::now();
        while !is_over() {
            if Instant::now() < next {
                pause(Duration::from_millis(50));
                continue;
            }
            next += PACE;
            number += 1;
            let life = usize::try_from(number)? % LIVES.len();
            let Some((name, script, limit)) = LIVES.get(life) else {
                continue;
            };
            if let Err(error) = self.birth(number, name, script, *limit) {
                // Such as a limit that this host has no controller for.
                say::note(format_args!("{error:#}"));
            }
            if *name == "search" {
                self.visit(number);
            }
            // Long over by now.
            self.burial(number.saturating_sub(16));
        }
        Ok(())
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.prefix)
    }

    fn birth(&self, number: u64, name: &str, script: &str, limit: Option<u64>) -> Result<()> {
        let id = self.id(number);
        match self.kind {
            Kind::Client(program) => {
                let mut run = Command::new(program);
                run.args(["run", "--detach", "--network=none", "--label=app=shop"])
                    .arg(format!("--label=tier={name}"))
                    .arg(format!("--name={id}-{name}"))
                    .arg(format!("--label=tracer.demo={}", self.prefix))
                    .args(limit.map(|limit| format!("--memory={limit}m")))
                    .args([IMAGE, "/bin/sh", "-c", script]);
                quietly(&mut run)
            }
            Kind::Runc => {
                let bundle = self.dir.join(&id);
                fs::create_dir_all(&bundle)?;
                let config = config(&id, &self.dir.join("rootfs"), script, limit);
                fs::write(bundle.join("config.json"), config.to_string())?;
                quietly(
                    self.runc()
                        .args(["run", "--detach", "--bundle"])
                        .arg(&bundle)
                        .arg(&id),
                )
            }
        }
    }

    /// An exec session.
    fn visit(&self, number: u64) {
        let id = self.id(number);
        let visited = match self.kind {
            Kind::Client(program) => {
                quietly(Command::new(program).args(["exec", &format!("{id}-search"), "/bin/true"]))
            }
            Kind::Runc => quietly(self.runc().args(["exec", &id, "/bin/true"])),
        };
        if let Err(error) = visited {
            say::note(format_args!("{error:#}"));
        }
    }

    fn runc(&self) -> Command {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(self.dir.join("runc"));
        runc
    }

    /// Takes what is left of one away; it may never have been.
    fn burial(&self, number: u64) {
        let id = self.id(number);
        match self.kind {
            Kind::Client(_) => self.remove_named(&format!("name=^{id}-")),
            Kind::Runc => {
                drop(quietly(self.runc().args(["delete", "--force", &id])));
                drop(fs::remove_dir_all(self.dir.join(&id)));
            }
        }
    }

    fn remove_named(&self, filter: &str) {
        let Kind::Client(program) = self.kind else {
            return;
        };
        let mut list = Command::new(program);
        list.args(["ps", "--all", "--quiet", "--filter", filter]);
        let listed = command::probe(&mut list).unwrap_or_default();
        let ids: Vec<&str> = listed.split_whitespace().collect();
        if !ids.is_empty() {
            drop(quietly(
                Command::new(program).args(["rm", "--force"]).args(ids),
            ));
        }
    }

    /// Takes everything away.
    pub fn remove(&self) {
        match self.kind {
            Kind::Client(program) => {
                self.remove_named(&format!("label=tracer.demo={}", self.prefix));
                drop(quietly(
                    Command::new(program).args(["rmi", "--force", IMAGE]),
                ));
            }
            Kind::Runc => {
                let mut list = self.runc();
                list.args(["list", "--quiet"]);
                for id in command::probe(&mut list)
                    .unwrap_or_default()
                    .split_whitespace()
                {
                    drop(quietly(self.runc().args(["delete", "--force", id])));
                }
            }
        }
    }
}

/// Runs it, in a group that a Ctrl-C does not reach; its words are told only where it fails.
fn quietly(command: &mut Command) -> Result<()> {
    // A container that stays keeps standard output: a file, so that nobody waits for it.
    let done = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .status()
        .with_context(|| format!("cannot start {}", command::describe(command)))?;
    if !done.success() {
        bail!("{} ended with {done}", command::describe(command));
    }
    Ok(())
}

fn rootfs(dir: &Path) -> Result<()> {
    for name in ["bin", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(dir.join(name))?;
    }
    let busybox = command::find("busybox").context("busybox is not installed")?;
    fs::copy(busybox, dir.join("bin/busybox")).context("cannot copy busybox")?;
    for applet in ["dd", "kill", "sh", "sleep", "true"] {
        symlink("busybox", dir.join("bin").join(applet))?;
    }
    Ok(())
}

fn config(id: &str, rootfs: &Path, script: &str, limit: Option<u64>) -> serde_json::Value {
    let mut resources = json!({"devices": [{"allow": false, "access": "rwm"}]});
    if let (Some(limit), Some(resources)) = (limit, resources.as_object_mut()) {
        resources.insert("memory".to_owned(), json!({"limit": limit << 20}));
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": {"path": rootfs, "readonly": true},
        "annotations": {"app": "shop"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "mode=755", "size=65536k"]},
        ],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "ipc"}, {"type": "pid"}],
            "resources": resources,
            "cgroupsPath": format!("/{id}"),
        },
    })
}
