//! A Docker daemon of our own, with the containerd that it starts itself.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result};

use crate::command::{self, Done, Running, run, run_ok};
use crate::image;
use crate::janitor::{Down, Janitor, Prepared};
use crate::raw::random_id;
use crate::wait::{DEADLINE, wait_until};

/// See the module's description.
#[derive(Debug)]
pub struct Docker {
    janitor: Janitor,
    host: String,
}

impl Docker {
    /// The daemon of this test process; started by the first caller.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Docker, String>> = OnceLock::new();
        super::shared(&SHARED, Self::start)
    }

    /// A daemon for one test alone.
    pub fn start() -> Result<Self> {
        let prepared = Prepared::new("docker")?;
        let tar = image::rootfs_tar(prepared.dir())?;
        // Not the host's.
        fs::write(prepared.dir().join("daemon.json"), "{}").context("write dockerd's settings")?;
        let dir = prepared.dir().display().to_string();
        let host = format!("unix://{dir}/docker.sock");
        let janitor = prepared
            .cleanup(format!(
                "docker -H {host} ps -aq | xargs -r docker -H {host} rm -f"
            ))
            .start_daemon(&[
                "dockerd".into(),
                format!("--host={host}"),
                format!("--data-root={dir}/data"),
                format!("--exec-root={dir}/exec"),
                format!("--pidfile={dir}/docker.pid"),
                format!("--config-file={dir}/daemon.json"),
                // No network: no bridge, no firewall tools, no privilege for either.
                "--bridge=none".into(),
                "--iptables=false".into(),
                "--ip6tables=false".into(),
                "--exec-opt=native.cgroupdriver=cgroupfs".into(),
                // The default raises a limit, which needs a capability the machine may lack.
                "--default-ulimit=nofile=1024:1024".into(),
            ])?;
        let docker = Self { janitor, host };
        docker.wait()?;
        docker.ok(&["import", &tar.display().to_string(), image::NAME])?;
        Ok(docker)
    }

    /// Where the daemon listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.janitor.dir().join("docker.sock")
    }

    /// Kills the daemon; its containers live on until it is back, when the guard is dropped.
    pub fn kill(&self) -> Result<Down> {
        self.janitor.kill_daemon()
    }

    /// Waits until the daemon answers.
    pub fn wait(&self) -> Result<()> {
        wait_until(DEADLINE, "dockerd to answer", || {
            Ok((self.run(&["version"])?.code == 0).then_some(()))
        })
        .map_err(|error| error.context(self.janitor.log_tail()))
    }

    /// Runs `docker ARGUMENTS` to its end.
    pub fn run(&self, arguments: &[&str]) -> Result<Done> {
        run(self.command().args(arguments))
    }

    /// Runs `docker ARGUMENTS`; exit code 0 required. Gives its standard output.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        run_ok(self.command().args(arguments))
            .map(|done| done.text().to_owned())
            .map_err(|error| error.context(format!("dockerd said: {}", self.janitor.log_tail())))
    }

    /// Starts `docker ARGUMENTS` and goes on.
    pub fn spawn(&self, arguments: &[&str]) -> Result<Running> {
        command::spawn(self.command().args(arguments))
    }

    /// `docker create OPTIONS IMAGE ARGUMENTS`: the id is known before anything happens that
    /// tracer could see.
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
            docker: self,
            id: id.to_owned(),
            name,
        })
    }

    /// [`Self::create`], then `docker start`.
    pub fn start_container(&self, options: &[&str], arguments: &[&str]) -> Result<Container<'_>> {
        let container = self.create(options, arguments)?;
        container.act(&["start"])?;
        Ok(container)
    }

    /// `docker`, for this daemon.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command
            .args(["-H", &self.host])
            // No context of whoever runs the tests.
            .env("DOCKER_CONFIG", self.janitor.dir().join("cli"))
            .stdin(Stdio::null());
        command
    }
}

/// One container; removed on drop, whatever its state.
#[derive(Debug)]
pub struct Container<'a> {
    docker: &'a Docker,
    id: String,
    name: String,
}

impl Container<'_> {
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `docker VERB… ID`, exit code 0 required.
    pub fn act(&self, verb: &[&str]) -> Result<()> {
        self.docker.ok(&[verb, &[&self.id]].concat()).map(drop)
    }

    /// `docker exec ID ARGUMENTS`, to its end.
    pub fn exec(&self, arguments: &[&str]) -> Result<Done> {
        self.docker.run(&[&["exec", &self.id], arguments].concat())
    }

    /// `docker start --attach`: to the container's end, with its exit code.
    pub fn run(&self) -> Result<Done> {
        self.docker.run(&["start", "--attach", &self.id])
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        drop(self.docker.run(&["rm", "--force", &self.id]));
    }
}
