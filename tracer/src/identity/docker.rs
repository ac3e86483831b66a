//! Docker and `BuildKit`.
//!
//! | form | writer |
//! | --- | --- |
//! | `system.slice/docker-ID.scope`, rootless `user.slice/…/user.slice/docker-ID.scope`, `PARENT.slice/docker-ID.scope` | moby `daemon/oci_linux.go` withCgroups, systemd driver |
//! | `/docker/ID`, `/PARENT/ID` with `--cgroup-parent` | the same, cgroupfs driver |
//! | `/ecs/TASK/ID`, `ecstasks.slice/ecstasks-TASK.slice/docker-ID.scope` | amazon-ecs-agent `agent/api/task/task_linux.go`, which sets Docker's parent |
//! | `/actions_job/ID` | GitHub's hosted runners, a Docker parent |
//! | `docker-ID25.scope`, `/docker/buildkit/ID25` | moby `daemon/command/daemon_unix.go` newCgroupParent and buildkit `executor/oci/spec.go`: build steps of dockerd |
//! | `/buildkit/ID25`, `/PARENT/buildkit/ID25` | buildkit `executor/oci/spec.go`: build steps of buildkitd |
//! | `kata_ID` in place of `ID` | kata-containers `src/runtime/pkg/resourcecontrol/cgroups.go` RenameCgroupPath: the cgroup of the sandbox of that id |

use super::Runtime;
use super::place::{Mark, Place};
use super::text::{UnitKind, base36_id, hex_id, unit_kind};

const SYSTEMD_SLICES: [&[u8]; 6] = [
    b"system.slice",
    b"user.slice",
    b"machine.slice",
    b"app.slice",
    b"session.slice",
    b"background.slice",
];

pub(super) fn read<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    if let Some(id) = place.unit_id(b"docker") {
        // dockerd hands build steps the same prefix, so they are Docker's too.
        let id = hex_id(id).or_else(|| base36_id(id))?;
        return Some(Mark::container(Runtime::Docker, id));
    }
    bare_id(place)
}

pub(super) fn build_step<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    if place.parent != b"buildkit" {
        return None;
    }
    let id = base36_id(place.name)?;
    Some(match place.grandparent {
        b"docker" => Mark::container(Runtime::Docker, id),
        b"" => Mark::in_namespace(Runtime::Buildkit, id, place.parent),
        _ => Mark::container(Runtime::Buildkit, id),
    })
}

/// 64 digits and nothing else. Below a pod only the CRI of containerd writes that; elsewhere it is
/// Docker's cgroupfs driver, whose parent may have any name. (nerdctl and Podman can be made to
/// write it too, with a custom parent or namespace; far rarer, and not to be told from Docker.)
fn bare_id<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    let id = hex_id(place.name.strip_prefix(b"kata_").unwrap_or(place.name))?;
    if place.in_kubepods || place.in_pod {
        return Some(Mark::container(Runtime::Containerd, id));
    }
    let docker = match unit_kind(place.parent) {
        // Without a parent it is what any runtime writes that was given no cgroups path.
        None => !place.parent.is_empty(),
        // systemd's own slices are where runc and crun put a container that was given no cgroups
        // path, beside their caller (opencontainers/cgroups `fs2/defaultpath.go`).
        Some(UnitKind::Slice) => {
            !SYSTEMD_SLICES.contains(&place.parent) && !place.parent.starts_with(b"user-")
        }
        Some(_) => false,
    };
    docker.then(|| Mark::container(Runtime::Docker, id))
}
