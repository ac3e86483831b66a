//! containerd: its CRI plugin, ctr and nerdctl.
//!
//! | form | writer |
//! | --- | --- |
//! | `cri-containerd-ID.scope`, literal `SLICE:cri-containerd:ID` | containerd `internal/cri/server/helpers.go` getCgroupsPath |
//! | `podUID/ID` | the same, cgroupfs driver: read in `docker.rs`, where bare ids are told apart |
//! | `/NAMESPACE/ID` | containerd `pkg/oci/spec.go`, whenever a client sets no path: ctr, nerdctl with cgroupfs |
//! | `nerdctl-ID.scope` | nerdctl `pkg/cmd/container/run_cgroup_linux.go` generateCgroupPath |

use super::Runtime;
use super::place::{Mark, Place};
use super::text::{hex_id, identifier};

/// The namespaces whose name alone tells that containerd made the directory: its default, the ones
/// of the CRI plugin, Docker and buildkitd, and the one of `LinuxKit`'s service containers. A path
/// `/a/b` in general may be anybody's.
const NAMESPACES: [&[u8]; 5] = [
    b"default",
    b"k8s.io",
    b"moby",
    b"buildkit",
    b"services.linuxkit",
];

pub(super) fn is_namespace(name: &[u8]) -> bool {
    NAMESPACES.contains(&name)
}

pub(super) fn read<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    if let Some(id) = place.unit_id(b"cri-containerd") {
        return Some(Mark::container(Runtime::Containerd, hex_id(id)?));
    }
    if let Some(id) = place.unit_id(b"nerdctl") {
        return Some(Mark::container(Runtime::Containerd, hex_id(id)?));
    }
    if !place.is_second_of_level() || !is_namespace(place.parent) {
        return None;
    }
    // Inside a container a directory `default` may be its own; there the id has to look like one.
    let id = if place.nested {
        hex_id(place.name)?
    } else {
        identifier(place.name)?
    };
    Some(Mark::in_namespace(Runtime::Containerd, id, place.parent))
}
