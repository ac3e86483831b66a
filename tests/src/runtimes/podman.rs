//! Podman with storage and configuration of our own.
//!
//! | hierarchies | low-level runtime | cgroups |
//! | --- | --- | --- |
//! | v2 alone | crun, Podman's own choice | by Podman, or with `TRACER_CGROUP_DRIVER=systemd` by systemd |
//! | with v1 | runc, because crun refuses those that have both | by Podman |

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use rustix::fs::statfs;

use crate::cgroup;
use crate::command::{self, Done, Running, run, run_ok};
use crate::image;
use crate::janitor::{Janitor, Prepared};
use crate::raw::random_id;
use crate::tracer::Tracer;
use crate::wait::{DEADLINE, wait_until};

/// See the module's description.
#[derive(Debug)]
pub struct Podman {
    janitor: Janitor,
    options: Vec<String>,
}

impl Podman {
    /// The storage of this test process; made by the first caller.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Podman, String>> = OnceLock::new();
        super::shared(&SHARED, Self::start)
    }

    fn start() -> Result<Self> {
        let prepared = Prepared::new("podman")?;
        let dir = prepared.dir().display().to_string();
        fs::write(prepared.dir().join("containers.conf"), containers_conf()?)
            .context("write podman's configuration")?;
        let tar = image::rootfs_tar(prepared.dir())?;
        let options = options(prepared.dir())?;
        let janitor = prepared
            .cleanup(format!(
                "export CONTAINERS_CONF={dir}/containers.conf; \
                 p='podman {}'; \
                 $p pod rm --all --force --time 0; $p rm --all --force --time 0; \
                 umount {dir}/storage/overlay",
                options.join(" ")
            ))
            .start()?;
        let podman = Self { janitor, options };
        // A pod's infra container runs the image's own command.
        podman.ok(&[
            "import",
            "--change=CMD [\"/bin/sleep\",\"100000\"]",
            &tar.display().to_string(),
            image::NAME,
        ])?;
        Ok(podman)
    }

    /// `podman system service`, listening; ends when dropped.
    pub fn service(&self) -> Result<Running> {
        let socket = self.janitor.dir().join("podman.sock");
        let uri = format!("unix://{}", socket.display());
        let service = command::spawn(self.command().args(["system", "service", "--time=0", &uri]))?;
        wait_until(DEADLINE, "podman's service to listen", || {
            Ok(UnixStream::connect(&socket).ok())
        })?;
        Ok(service)
    }

    /// Runs `podman ARGUMENTS` to its end.
    pub fn run(&self, arguments: &[&str]) -> Result<Done> {
        run(self.command().args(arguments))
    }

    /// Starts `podman ARGUMENTS` and goes on.
    pub fn spawn(&self, arguments: &[&str]) -> Result<Running> {
        command::spawn(self.command().args(arguments))
    }

    /// Runs `podman ARGUMENTS`; exit code 0 required. Gives its standard output.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        run_ok(self.command().args(arguments)).map(|done| done.text().to_owned())
    }

    /// `podman create OPTIONS IMAGE ARGUMENTS`: the id is known before its cgroup appears.
    pub fn create(&self, options: &[&str], arguments: &[&str]) -> Result<Container<'_>> {
        let name: String = random_id()?.chars().take(12).collect();
        let name = format!("live-{name}");
        let id = self.ok(&[
            &["create", "--name", &name][..],
            options,
            &[image::NAME],
            arguments,
        ]
        .concat())?;
        let id = id.lines().last().context("id of a created container")?;
        Ok(Container {
            podman: self,
            id: id.to_owned(),
        })
    }

    /// `podman`, with this storage.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new("podman");
        command
            .args(&self.options)
            .env(
                "CONTAINERS_CONF",
                self.janitor.dir().join("containers.conf"),
            )
            // Where conmon leaves a file `oom`.
            .current_dir(self.janitor.dir())
            // Where a service of systemd runs the tests, it would leave conmon in that one's cgroup.
            .env_remove("INVOCATION_ID")
            .stdin(Stdio::null());
        command
    }
}

/// One container; removed on drop, whatever its state.
#[derive(Debug)]
pub struct Container<'a> {
    podman: &'a Podman,
    id: String,
}

impl Container<'_> {
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `podman VERB… ID`, exit code 0 required.
    pub fn act(&self, verb: &[&str]) -> Result<()> {
        self.podman.ok(&[verb, &[&self.id]].concat()).map(drop)
    }

    /// `podman exec ID ARGUMENTS`, to its end.
    pub fn exec(&self, arguments: &[&str]) -> Result<Done> {
        self.podman.run(&[&["exec", &self.id], arguments].concat())
    }

    /// `podman start --attach`: to the container's end, with its exit code.
    pub fn run(&self) -> Result<Done> {
        self.podman.run(&["start", "--attach", &self.id])
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        drop(self.podman.run(&["rm", "--force", "--time", "0", &self.id]));
    }
}

/// No other cgroup of Podman's (conmon, a pod, their parent) was taken for a container.
pub fn only(tracer: &Tracer, ids: &[&str]) -> Result<()> {
    for record in tracer.records() {
        let begins = record.is("container.created") || record.is("container.discovered");
        let podmans = record
            .text("cgroup.path")
            .is_some_and(|path| path.contains("libpod"));
        let known = record.container().is_some_and(|id| ids.contains(&id));
        ensure!(
            !(begins && podmans) || known,
            "a container that nobody made: {record:?}"
        );
    }
    Ok(())
}

/// The low-level runtime that Podman is told to use.
pub fn runtime() -> Result<&'static str> {
    Ok(if cgroup::is_unified()? {
        "crun"
    } else {
        "runc"
    })
}

/// Path of a container's cgroup below the root of each hierarchy.
#[must_use]
pub fn cgroup(id: &str, pod: Option<&str>) -> String {
    match (cgroup::is_systemds(), pod) {
        (true, None) => format!("/machine.slice/libpod-{id}.scope"),
        (true, Some(pod)) => {
            format!("/machine.slice/machine-libpod_pod_{pod}.slice/libpod-{id}.scope")
        }
        (false, None) => format!("/libpod_parent/libpod-{id}"),
        (false, Some(pod)) => format!("/libpod_parent/{pod}/libpod-{id}"),
    }
}

/// Where Podman keeps its own below `dir`, and how: its overlays cannot lie on a tmpfs.
fn options(dir: &Path) -> Result<Vec<String>> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let shown = dir.display();
    let mut options: Vec<String> = [("root", "storage"), ("runroot", "run"), ("tmpdir", "tmp")]
        .into_iter()
        .map(|(option, below)| format!("--{option}={shown}/{below}"))
        .collect();
    let disk = statfs(dir).with_context(|| format!("look at the file system of {shown}"))?;
    if disk.f_type == TMPFS_MAGIC {
        options.push("--storage-driver=vfs".to_owned());
    }
    Ok(options)
}

/// Limits that need no capability to set; no network.
fn containers_conf() -> Result<String> {
    Ok(format!(
        r#"[containers]
cgroupns = "{cgroupns}"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "none"

[engine]
cgroup_manager = "{manager}"
events_logger = "file"
infra_image = "{image}"
runtime = "{runtime}"
"#,
        cgroupns = if cgroup::is_unified()? {
            "private"
        } else {
            "host"
        },
        manager = if cgroup::is_systemds() {
            "systemd"
        } else {
            "cgroupfs"
        },
        image = image::NAME,
        runtime = runtime()?,
    ))
}
