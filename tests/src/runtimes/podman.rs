//! Podman with storage and configuration of our own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result};

use crate::command::{self, Done, Running, run, run_ok};
use crate::image;
use crate::janitor::{Janitor, Prepared};
use crate::raw::random_id;
use crate::wait::{DEADLINE, wait_until};

/// See the module's description.
#[derive(Debug)]
pub struct Podman {
    janitor: Janitor,
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
        fs::write(prepared.dir().join("containers.conf"), containers_conf())
            .context("write podman's configuration")?;
        let tar = image::rootfs_tar(prepared.dir())?;
        let janitor = prepared
            .cleanup(format!(
                "export CONTAINERS_CONF={dir}/containers.conf; \
                 p='podman --root {dir}/root --runroot {dir}/run --tmpdir {dir}/tmp'; \
                 $p pod rm --all --force --time 0; $p rm --all --force --time 0; \
                 umount {dir}/root/overlay"
            ))
            .start()?;
        let podman = Self { janitor };
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
        let dir = self.janitor.dir();
        let mut command = Command::new("podman");
        for (flag, below) in [
            ("--root", "root"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            command.arg(flag).arg(dir.join(below));
        }
        command
            .env("CONTAINERS_CONF", dir.join("containers.conf"))
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

/// runc, because crun refuses hybrid cgroups; limits that need no capability to set; no network.
fn containers_conf() -> String {
    format!(
        r#"[containers]
cgroupns = "host"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "none"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
infra_image = "{image}"
runtime = "runc"
"#,
        image = image::NAME
    )
}
