//! runc alone, with bundles made here.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::command::{self, Done, Running, run, run_ok};
use crate::image;
use crate::janitor::{Janitor, Prepared};
use crate::raw::random_id;
use crate::wait::{DEADLINE, wait_until};

/// What a container's `config.json` says.
#[derive(Debug, Clone)]
pub struct Spec {
    arguments: Vec<String>,
    pid_namespace: PidNamespace,
    cgroup: Place,
    memory_bytes: Option<u64>,
    mounts: Vec<Value>,
    privileged: bool,
}

/// `cgroupsPath`.
#[derive(Debug, Clone)]
enum Place {
    /// `/<id>` in every hierarchy, wherever the tests themselves run.
    Id,
    /// Not given. runc then goes below its own cgroup, which may differ between v1 hierarchies.
    Runcs,
    Given(String),
}

#[derive(Debug, Clone)]
enum PidNamespace {
    Own,
    Host,
    Of(i32),
}

impl Spec {
    #[must_use]
    pub fn new(arguments: &[&str]) -> Self {
        Self {
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            pid_namespace: PidNamespace::Own,
            cgroup: Place::Id,
            memory_bytes: None,
            mounts: Vec::new(),
            privileged: false,
        }
    }

    /// A shell script as entrypoint.
    #[must_use]
    pub fn sh(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    #[must_use]
    pub fn host_pid(mut self) -> Self {
        self.pid_namespace = PidNamespace::Host;
        self
    }

    /// Joins the pid namespace of a process.
    #[must_use]
    pub fn pid_namespace_of(mut self, pid: i32) -> Self {
        self.pid_namespace = PidNamespace::Of(pid);
        self
    }

    /// The cgroup's path; `/<id>` unless told otherwise.
    #[must_use]
    pub fn cgroup(mut self, path: &str) -> Self {
        self.cgroup = Place::Given(path.to_owned());
        self
    }

    /// Leaves the cgroup's path to runc: `<its own cgroup>/<id>` in each hierarchy.
    #[must_use]
    pub fn cgroup_of_runcs_choice(mut self) -> Self {
        self.cgroup = Place::Runcs;
        self
    }

    #[must_use]
    pub fn memory_bytes(mut self, limit: u64) -> Self {
        self.memory_bytes = Some(limit);
        self
    }

    /// A host directory inside, with all mounts below it.
    #[must_use]
    pub fn bind(mut self, source: &Path, target: &str, writable: bool) -> Self {
        self.mounts.push(json!({
            "destination": target, "type": "bind", "source": source,
            "options": ["rbind", if writable { "rw" } else { "ro" }],
        }));
        self
    }

    /// May mount and make namespaces: enough for a runtime inside.
    #[must_use]
    pub fn privileged(mut self) -> Self {
        self.privileged = true;
        self
    }

    /// No resource limits of processes: raising one needs `CAP_SYS_RESOURCE`, which a test machine
    /// that is itself a container may lack.
    #[must_use]
    pub fn config(&self, id: &str, rootfs: &str) -> Value {
        let mut capabilities = vec!["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
        if self.privileged {
            capabilities.extend([
                "CAP_CHOWN",
                "CAP_DAC_OVERRIDE",
                "CAP_FOWNER",
                "CAP_MKNOD",
                "CAP_SETGID",
                "CAP_SETPCAP",
                "CAP_SETUID",
                "CAP_SYS_ADMIN",
                "CAP_SYS_CHROOT",
                "CAP_SYS_PTRACE",
            ]);
        }
        let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "ipc"})];
        match self.pid_namespace {
            PidNamespace::Own => namespaces.push(json!({"type": "pid"})),
            PidNamespace::Host => {}
            PidNamespace::Of(pid) => {
                namespaces.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}));
            }
        }
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                   "options": ["nosuid", "mode=755", "size=65536k"]}),
        ];
        mounts.extend(self.mounts.iter().cloned());
        let mut linux = json!({
            "namespaces": namespaces,
            // runc adds the devices that every container has.
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        });
        match &self.cgroup {
            Place::Id => insert(&mut linux, "cgroupsPath", json!(format!("/{id}"))),
            Place::Runcs => {}
            Place::Given(path) => insert(&mut linux, "cgroupsPath", json!(path)),
        }
        if let Some(limit) = self.memory_bytes {
            let resources = linux.pointer_mut("/resources");
            if let Some(resources) = resources {
                insert(resources, "memory", json!({"limit": limit}));
            }
        }
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": self.arguments,
                "env": ["PATH=/bin:/usr/bin:/usr/sbin"],
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
                "noNewPrivileges": !self.privileged,
            },
            "root": {"path": rootfs, "readonly": false},
            "mounts": mounts,
            "linux": linux,
        })
    }
}

fn insert(object: &mut Value, key: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(key.to_owned(), value);
    }
}

/// A state directory of runc and a root file system that its containers share.
#[derive(Debug)]
pub struct Runc {
    janitor: Janitor,
    made: Cell<u32>,
}

impl Runc {
    pub fn new() -> Result<Self> {
        let prepared = Prepared::new("runc")?;
        image::rootfs(&prepared.dir().join("rootfs"))?;
        let root = prepared.dir().join("state");
        let janitor = prepared
            .cleanup(format!(
                "for one in {root}/*; do [ -d \"$one\" ] && runc --root {root} delete --force \"${{one##*/}}\"; done",
                root = root.display()
            ))
            .start()?;
        Ok(Self {
            janitor,
            made: Cell::new(0),
        })
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        self.janitor.dir()
    }

    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.dir().join("rootfs")
    }

    /// Writes a bundle; nothing runs yet.
    pub fn container(&self, spec: &Spec) -> Result<Container<'_>> {
        let number = self.made.get() + 1;
        self.made.set(number);
        // Unlike anything a path alone would tell to be a container.
        let unique: String = random_id()?.chars().take(8).collect();
        let id = format!("live-{number}-{unique}");
        let bundle = self.dir().join(&id);
        write_bundle(
            &bundle,
            &spec.config(&id, &self.rootfs().display().to_string()),
        )?;
        Ok(Container {
            runc: self,
            id,
            bundle,
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("runc");
        command
            .arg("--root")
            .arg(self.dir().join("state"))
            .stdin(Stdio::null());
        command
    }
}

/// Writes `config.json` into a new directory.
pub fn write_bundle(bundle: &Path, config: &Value) -> Result<()> {
    fs::create_dir_all(bundle).with_context(|| format!("create {}", bundle.display()))?;
    let file = bundle.join("config.json");
    fs::write(&file, config.to_string()).with_context(|| format!("write {}", file.display()))
}

/// One container; deleted on drop, whatever its state.
#[derive(Debug)]
pub struct Container<'a> {
    runc: &'a Runc,
    id: String,
    bundle: PathBuf,
}

impl Container<'_> {
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `runc create`.
    pub fn create(&self) -> Result<()> {
        run_ok(&mut self.with_bundle("create")).map(drop)
    }

    /// `runc start`, `pause`, `resume`, `delete`.
    pub fn act(&self, verb: &str) -> Result<()> {
        if verb == "delete" {
            return self.delete();
        }
        run_ok(self.runc.command().args([verb, &self.id])).map(drop)
    }

    /// The stream may tell an init's end before its parent has waited for it; until then runc calls
    /// the container running.
    fn delete(&self) -> Result<()> {
        wait_until(DEADLINE, "runc to see the container stopped", || {
            let done = run(self.runc.command().args(["delete", &self.id]))?;
            if done.stderr.contains("that is not stopped") {
                return Ok(None);
            }
            done.ended(0).map(Some)
        })
        .map(drop)
    }

    /// `runc kill`.
    pub fn kill(&self, signal: &str) -> Result<()> {
        run_ok(self.runc.command().args(["kill", &self.id, signal])).map(drop)
    }

    /// `runc exec`, to its end.
    pub fn exec(&self, arguments: &[&str]) -> Result<Done> {
        run(self.runc.command().args(["exec", &self.id]).args(arguments))
    }

    /// `runc exec`, left running.
    pub fn exec_spawn(&self, arguments: &[&str]) -> Result<Running> {
        command::spawn(self.runc.command().args(["exec", &self.id]).args(arguments))
    }

    /// `runc run` in the foreground, to its end.
    pub fn run(&self) -> Result<Done> {
        run(&mut self.with_bundle("run"))
    }

    /// `runc run` with another soft limit of core dumps (`0`, `unlimited`).
    pub fn run_with_core_limit(&self, limit: &str) -> Result<Done> {
        let inner = self.with_bundle("run");
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "ulimit -S -c \"$1\"; shift; exec \"$@\"", "sh", limit])
            .arg(inner.get_program())
            .args(inner.get_args())
            .stdin(Stdio::null());
        run(&mut shell)
    }

    /// `runc run` of the same bundle under another id, to its end.
    pub fn run_as(&self, id: &str) -> Result<Done> {
        self.start_as(id)?.finish(DEADLINE)
    }

    /// The same, without waiting for the end.
    pub fn start_as(&self, id: &str) -> Result<Running> {
        command::spawn(
            self.runc
                .command()
                .args(["run", "--bundle"])
                .arg(&self.bundle)
                .arg(id),
        )
    }

    /// `runc run` from a process in the cgroup at `procs` (a `cgroup.procs` file), to its end.
    pub fn run_from(&self, procs: &Path) -> Result<Done> {
        let inner = self.with_bundle("run");
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "echo $$ >\"$1\" && shift && exec \"$@\"", "sh"])
            .arg(procs)
            .arg(inner.get_program())
            .args(inner.get_args())
            .stdin(Stdio::null());
        run(&mut shell)
    }

    /// `runc run`, left running.
    pub fn run_spawn(&self) -> Result<Running> {
        command::spawn(&mut self.with_bundle("run"))
    }

    /// Process id of init.
    pub fn pid(&self) -> Result<i32> {
        let done = run_ok(self.runc.command().args(["state", &self.id]))?;
        let state: Value = serde_json::from_str(&done.stdout).context("output of runc state")?;
        state
            .get("pid")
            .and_then(Value::as_i64)
            .and_then(|pid| i32::try_from(pid).ok())
            .context("pid in the output of runc state")
    }

    fn with_bundle(&self, verb: &str) -> Command {
        let mut command = self.runc.command();
        command
            .args([verb, "--bundle"])
            .arg(&self.bundle)
            .arg(&self.id);
        command
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        drop(run(self
            .runc
            .command()
            .args(["delete", "--force", &self.id])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_says_what_was_asked() {
        let config = Spec::sh("exit 3")
            .host_pid()
            .cgroup("/a/b")
            .memory_bytes(7)
            .config("x", "/root/fs");
        let at = |path: &str| config.pointer(path).cloned().unwrap_or_default();
        assert_eq!(at("/process/args"), json!(["/bin/sh", "-c", "exit 3"]));
        assert_eq!(at("/linux/cgroupsPath"), json!("/a/b"));
        assert_eq!(at("/linux/resources/memory/limit"), json!(7));
        assert_eq!(at("/root/path"), json!("/root/fs"));
        assert!(!at("/linux/namespaces").to_string().contains("pid"));
        assert!(config.pointer("/process/rlimits").is_none());
    }
}
