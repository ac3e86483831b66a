//! LXC's own tools, with containers in a directory of our own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::command::{self, Done, Running, run, run_ok};
use crate::image;
use crate::janitor::{Janitor, Prepared};
use crate::raw::random_id;

/// See the module's description.
#[derive(Debug)]
pub struct Lxc {
    janitor: Janitor,
}

impl Lxc {
    pub fn new() -> Result<Self> {
        let prepared = Prepared::new("lxc")?;
        image::rootfs(&prepared.dir().join("rootfs"))?;
        let dir = prepared.dir().display().to_string();
        let janitor = prepared
            .cleanup(format!(
                "for name in $(lxc-ls -P {dir}); do lxc-stop -P {dir} -n $name -k; done"
            ))
            .start()?;
        Ok(Self { janitor })
    }

    /// A container that is not started; its name is its id.
    pub fn container(&self) -> Result<Container<'_>> {
        let name: String = random_id()?.chars().take(8).collect();
        let name = format!("live-{name}");
        let dir = self.janitor.dir().join(&name);
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let config = format!(
            "lxc.uts.name = {name}\n\
             lxc.rootfs.path = dir:{}\n\
             lxc.net.0.type = empty\n\
             lxc.mount.auto = proc:mixed sys:ro\n\
             lxc.apparmor.profile = unconfined\n",
            self.janitor.dir().join("rootfs").display()
        );
        fs::write(dir.join("config"), config).context("write LXC's configuration")?;
        Ok(Container { lxc: self, name })
    }

    fn command(&self, program: &str, name: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-P")
            .arg(self.janitor.dir())
            .args(["-n", name])
            .arg("-o")
            .arg(self.log(name))
            .stdin(Stdio::null());
        command
    }

    fn log(&self, name: &str) -> PathBuf {
        self.janitor.dir().join(name).join("log")
    }
}

/// One container; killed on drop where it still runs.
#[derive(Debug)]
pub struct Container<'a> {
    lxc: &'a Lxc,
    name: String,
}

impl Container<'_> {
    #[must_use]
    pub fn id(&self) -> &str {
        &self.name
    }

    /// `lxc-start -F … -- ARGUMENTS`: these are init; it ends when init does.
    pub fn start(&self, arguments: &[&str]) -> Result<Running> {
        let mut command = self.lxc.command("lxc-start", &self.name);
        command::spawn(command.args(["-F", "-l", "INFO", "--"]).args(arguments))
    }

    /// `lxc-attach … -- ARGUMENTS`, to its end.
    pub fn attach(&self, arguments: &[&str]) -> Result<Done> {
        let mut command = self.lxc.command("lxc-attach", &self.name);
        run(command.arg("--").args(arguments))
    }

    /// `lxc-VERB`, exit code 0 required.
    pub fn act(&self, verb: &str, options: &[&str]) -> Result<()> {
        let mut command = self.lxc.command(&format!("lxc-{verb}"), &self.name);
        run_ok(command.args(options)).map(drop)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let mut stop = self.lxc.command("lxc-stop", &self.name);
        drop(run(stop.arg("-k")));
    }
}
