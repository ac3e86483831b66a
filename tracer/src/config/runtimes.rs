//! `[runtimes]`: where container runtimes listen and keep their files, besides their defaults.
//!
//! ```toml
//! [runtimes]
//! files = true    # read what they wrote of their containers
//! ask = true      # over their sockets, for what no file says
//! learn = true    # sockets and directories from the command lines of running daemons
//! users = false   # also ask the sockets of users, which takes CAP_DAC_OVERRIDE
//!
//! [runtimes.sockets]
//! docker = ["/srv/docker.sock"]
//! podman = []
//! containerd = ["/srv/containerd.sock"]
//! cri = ["/srv/containerd.sock"]
//!
//! [runtimes.directories]
//! docker = ["/srv/docker"]            # dockerd --data-root
//! containerd = ["/srv/containerd"]    # containerd --state
//! storage = ["/srv/containers"]       # podman and cri-o --root, --runroot
//! oci = ["/srv/runc"]                 # runc, crun, youki --root
//! ```

use std::path::PathBuf;

use serde::Deserialize;
use tokio::sync::mpsc;

use crate::{
    cli::SandboxArg,
    enrich::{Places, Sources},
    metadata::{Answer, Sockets},
};

/// The section as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtimes {
    files: Option<bool>,
    ask: Option<bool>,
    learn: Option<bool>,
    users: Option<bool>,
    sockets: SocketPaths,
    directories: Directories,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SocketPaths {
    docker: Vec<PathBuf>,
    podman: Vec<PathBuf>,
    containerd: Vec<PathBuf>,
    cri: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Directories {
    docker: Vec<PathBuf>,
    containerd: Vec<PathBuf>,
    storage: Vec<PathBuf>,
    oci: Vec<PathBuf>,
}

impl Runtimes {
    /// Puts the flag in and checks the paths.
    pub(super) fn checked(self, ask: Option<bool>, sandbox: SandboxArg) -> anyhow::Result<Self> {
        let (sockets, directories) = (&self.sockets, &self.directories);
        let all = [
            &sockets.docker,
            &sockets.podman,
            &sockets.containerd,
            &sockets.cri,
            &directories.docker,
            &directories.containerd,
            &directories.storage,
            &directories.oci,
        ];
        for path in all.into_iter().flatten() {
            anyhow::ensure!(
                path.is_absolute(),
                "[runtimes] names '{}': a path there must be absolute",
                path.display()
            );
        }
        Ok(Self {
            ask: ask.or(self.ask),
            // Without a sandbox they are in reach anyhow.
            users: self.users.or(Some(sandbox == SandboxArg::None)),
            ..self
        })
    }

    /// Whether the sockets of users are asked: only their user, and who may override that, connects.
    #[must_use]
    pub fn asks_users(&self) -> bool {
        self.ask.unwrap_or(true) && self.learn.unwrap_or(true) && self.users == Some(true)
    }

    /// Puts the configured directories before the defaults, and those of running daemons before
    /// both. Looks through `/proc`.
    pub(crate) fn configure(&self, sources: &mut Sources) {
        sources.files = self.files.unwrap_or(true);
        let given = &self.directories;
        let put = |places: &mut Places, paths: &[PathBuf]| {
            for path in paths.iter().rev() {
                places.configure(path);
            }
        };
        put(&mut sources.docker, &given.docker);
        put(&mut sources.containerd, &given.containerd);
        put(&mut sources.storage, &given.storage);
        put(&mut sources.oci, &given.oci);
        #[cfg(feature = "runtimes")]
        if self.learn.unwrap_or(true) {
            for line in crate::runtimes::command_lines() {
                sources.learn_daemon(line.iter().map(String::as_str));
            }
        }
    }

    /// Starts the thread that asks runtimes, unless they shall not be asked.
    #[cfg(feature = "runtimes")]
    pub(crate) fn ask_on_a_thread(
        &self,
        answers: &mpsc::Sender<Answer>,
    ) -> anyhow::Result<impl Sockets + Send + use<>> {
        use crate::runtimes::{self, Endpoint, Kind, Thread};

        if !self.ask.unwrap_or(true) {
            return Ok(Thread::none());
        }
        let given = &self.sockets;
        let kinds = [
            (Kind::Docker, &given.docker),
            (Kind::Podman, &given.podman),
            (Kind::Containerd, &given.containerd),
            (Kind::Cri, &given.cri),
        ];
        let configured = kinds.into_iter().flat_map(|(kind, paths)| {
            let endpoint = move |path| Endpoint::new(kind, path);
            paths.iter().map(endpoint)
        });
        let mut sockets = runtimes::Sockets::new(configured.collect(), self.learn.unwrap_or(true));
        sockets.users = self.asks_users();
        Thread::start(sockets, answers.clone())
    }

    /// This build cannot ask.
    #[cfg(not(feature = "runtimes"))]
    #[expect(clippy::unnecessary_wraps, reason = "the other build can fail")]
    pub(crate) fn ask_on_a_thread(
        &self,
        _answers: &mpsc::Sender<Answer>,
    ) -> anyhow::Result<impl Sockets + Send + use<>> {
        if self.ask == Some(true) {
            tracing::warn!(
                "this build does not ask runtimes: it is without the feature `runtimes`"
            );
        }
        Ok(crate::metadata::NoSockets)
    }
}
