//! Container runtimes of the tests' own: private state, private sockets, nothing of the host's.

pub mod containerd;
pub mod cri;
pub mod docker;
pub mod lxc;
pub mod nspawn;
pub mod podman;
pub mod runc;

pub use containerd::Containerd;
pub use docker::Docker;
pub use lxc::Lxc;
pub use nspawn::Machine;
pub use podman::Podman;
pub use runc::{Runc, Spec};

use std::sync::OnceLock;

use anyhow::Result;

/// A runtime that the tests of one process share; its janitor ends it with the process.
pub(crate) fn shared<T>(
    cell: &'static OnceLock<Result<T, String>>,
    start: impl FnOnce() -> Result<T>,
) -> Result<&'static T> {
    cell.get_or_init(|| start().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow::Error::msg(error.clone()))
}
