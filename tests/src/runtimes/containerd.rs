//! A containerd of our own, with its CRI plugin; driven by `ctr` and by [`super::cri`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result};

use crate::command::{self, Done, Running, run, run_ok};
use crate::image;
use crate::janitor::{Down, Janitor, Prepared};
use crate::raw::random_id;
use crate::wait::{DEADLINE, wait_until};

/// Namespaces that tests use; `k8s.io` is CRI's.
pub const NAMESPACES: [&str; 3] = ["default", "tracer-other", "k8s.io"];

/// See the module's description.
#[derive(Debug)]
pub struct Containerd {
    janitor: Janitor,
}

impl Containerd {
    /// The daemon of this test process; started by the first caller.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Containerd, String>> = OnceLock::new();
        super::shared(&SHARED, Self::start)
    }

    fn start() -> Result<Self> {
        let prepared = Prepared::new("ctrd")?;
        let dir = prepared.dir().display().to_string();
        let archive = image::docker_archive(prepared.dir())?;
        let config = prepared.dir().join("config.toml");
        fs::write(&config, config_toml(&dir)).context("write containerd's configuration")?;
        let janitor = prepared
            .cleanup(format!(
                "for ns in {}; do c=\"ctr -a {dir}/c.sock -n $ns\"; \
                 for one in $($c tasks ls -q); do $c tasks kill -a -s KILL $one; done; \
                 for one in $($c containers ls -q); do $c tasks rm -f $one; $c containers rm $one; done; \
                 done",
                NAMESPACES.join(" ")
            ))
            .start_daemon(&[
                "containerd".into(),
                "--config".into(),
                config.display().to_string(),
            ])?;
        let containerd = Self { janitor };
        wait_until(DEADLINE, "containerd to answer", || {
            Ok((containerd.ctr("default", &["version"])?.code == 0).then_some(()))
        })
        .map_err(|error| error.context(containerd.janitor.log_tail()))?;
        let archive = archive.display().to_string();
        for namespace in NAMESPACES {
            containerd.ok(namespace, &["images", "import", &archive])?;
        }
        Ok(containerd)
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        self.janitor.dir()
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.janitor.dir().join("c.sock")
    }

    #[must_use]
    pub fn log_tail(&self) -> String {
        self.janitor.log_tail()
    }

    /// Kills the daemon; containers live on. It is back when the guard is dropped.
    pub fn kill(&self) -> Result<Down> {
        self.janitor.kill_daemon()
    }

    /// Runs `ctr -n NAMESPACE ARGUMENTS` to its end.
    pub fn ctr(&self, namespace: &str, arguments: &[&str]) -> Result<Done> {
        run(self.command(namespace).args(arguments))
    }

    /// [`Self::ctr`], exit code 0 required.
    pub fn ok(&self, namespace: &str, arguments: &[&str]) -> Result<String> {
        run_ok(self.command(namespace).args(arguments))
            .map(|done| done.text().to_owned())
            .map_err(|error| error.context(format!("containerd said: {}", self.log_tail())))
    }

    /// Starts `ctr -n NAMESPACE ARGUMENTS` and goes on.
    pub fn spawn(&self, namespace: &str, arguments: &[&str]) -> Result<Running> {
        command::spawn(self.command(namespace).args(arguments))
    }

    /// `ctr run ARGUMENTS` in the background of containerd.
    pub fn start_container(&self, namespace: &str, arguments: &[&str]) -> Result<Container<'_>> {
        let container = self.name_container(namespace)?;
        self.ok(
            namespace,
            &[
                &["run", "--detach", "--null-io", image::NAME, &container.id][..],
                arguments,
            ]
            .concat(),
        )?;
        Ok(container)
    }

    /// An id that nothing has yet; removed on drop.
    pub fn name_container(&self, namespace: &str) -> Result<Container<'_>> {
        let unique: String = random_id()?.chars().take(10).collect();
        Ok(Container {
            containerd: self,
            namespace: namespace.to_owned(),
            id: format!("live-{unique}"),
        })
    }

    /// `ctr`, for this daemon.
    #[must_use]
    pub fn command(&self, namespace: &str) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", namespace])
            .stdin(Stdio::null());
        command
    }
}

/// One container of `ctr`; removed on drop, whatever its state.
#[derive(Debug)]
pub struct Container<'a> {
    containerd: &'a Containerd,
    namespace: String,
    id: String,
}

impl Container<'_> {
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `ctr tasks VERB… ID MORE…`.
    pub fn task(&self, verb: &[&str], more: &[&str]) -> Result<Done> {
        self.containerd.ctr(
            &self.namespace,
            &[&["tasks"], verb, &[&self.id], more].concat(),
        )
    }

    /// `ctr tasks exec`, to its end.
    pub fn exec(&self, arguments: &[&str]) -> Result<Done> {
        self.task(&["exec", "--exec-id", "live-exec"], arguments)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        drop(self.task(&["rm", "--force"], &[]));
        drop(
            self.containerd
                .ctr(&self.namespace, &["containers", "rm", &self.id]),
        );
    }
}

/// CRI without a network: pods use the host's, so no CNI plugin is needed.
fn config_toml(dir: &str) -> String {
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"

[grpc]
  address = "{dir}/c.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_apparmor = true
  disable_tcp_service = true
  # The machine may lack the capability to lower a score.
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{dir}/cni/bin"
  conf_dir = "{dir}/cni/conf"
"#,
        image = image::NAME
    )
}
