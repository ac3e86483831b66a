//! Podman.
//!
//! | form | writer |
//! | --- | --- |
//! | `machine.slice/libpod-ID.scope`, rootless `user.slice/…/user.slice/libpod-ID.scope` | libpod `container_internal_linux.go` getOCICgroupPath |
//! | `PARENT/libpod-ID`, by default `/libpod_parent/libpod-ID` | the same, cgroupfs |
//! | `SERVICE/libpod-payload-ID` | the same, `--cgroups=split` (Quadlet) |
//! | `libpod-conmon-ID.scope`, `PARENT/conmon` | libpod `oci_conmon_linux.go` moveConmonToCgroupAndSignal |
//! | `SERVICE/runtime` | libpod `oci_conmon_common.go` createOCIContainer: conmon with `--cgroups=split` |
//! | `machine-libpod_pod_ID.slice`, `user-libpod_pod_ID.slice`, `libpod_parent/ID` | libpod `runtime_pod_linux.go`: pods |
//! | `podman-pause-N.scope`, `podman-N.scope` | libpod: the process that holds a rootless user namespace |

use super::Runtime;
use super::place::{Mark, Place};
use super::text::{UnitKind, hex_id, is_hex, unit_kind};

pub(super) fn read<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    aside(place).or_else(|| pod(place)).or_else(|| {
        let id = if let Some(id) = place.unit_id(b"libpod") {
            id.strip_prefix(b"payload-").unwrap_or(id)
        } else {
            let rest = place.name.strip_prefix(b"libpod-")?;
            rest.strip_prefix(b"payload-").unwrap_or(rest)
        };
        Some(Mark::container(Runtime::Podman, hex_id(id)?))
    })
}

fn aside<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    let literal = place
        .colons()
        .is_some_and(|(_, middle, _)| middle == b"libpod-conmon");
    let conmon = literal
        || place.name.starts_with(b"libpod-conmon-")
        || (place.name == b"conmon" && !place.parent.is_empty())
        || (place.name == b"runtime" && unit_kind(place.parent) == Some(UnitKind::Service));
    if conmon {
        let why = "Podman's conmon, the monitor of a container";
        return Some(Mark::Aside { why });
    }
    let stem = place.name.strip_suffix(b".scope")?;
    stem.starts_with(b"podman-").then_some(Mark::Aside {
        why: "Podman's own process, not a container",
    })
}

fn pod<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    let slice = || {
        let stem = place.name.strip_suffix(b".slice")?;
        let at = stem.len().checked_sub(64)?;
        let (head, id) = stem.split_at_checked(at)?;
        let pod = head.ends_with(b"-libpod_pod_") || head == b"libpod_pod_";
        (pod && is_hex(id, 64)).then_some(())
    };
    // With cgroupfs a pod's cgroup is its bare id, as Docker's containers are; Podman's parent
    // above it or Podman's children below it tell. Below `docker` it is a container in which
    // Podman runs.
    let bare = || {
        let next = place.next();
        place.parent == b"libpod_parent"
            || (!matches!(place.parent, b"" | b"docker")
                && !place.in_kubepods
                && !place.in_pod
                && (next == b"conmon" || next.starts_with(b"libpod-")))
    };
    (slice().is_some() || (place.is_hex_id() && bare())).then_some(Mark::Group {
        kubernetes: false,
        pod_uid: None,
        why: "a Podman pod: it holds containers and is none",
    })
}
