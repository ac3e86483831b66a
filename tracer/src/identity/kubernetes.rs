//! Kubernetes: the cgroups of pods. Containers below them are read by their runtime's family.
//!
//! | form | writer |
//! | --- | --- |
//! | `[ROOT/]kubepods/[besteffort\|burstable/]podUID` | kubelet `pkg/kubelet/cm/cgroup_manager_linux.go`, cgroupfs driver; kind's ROOT is `kubelet` |
//! | `[ROOT-]kubepods[-QOS].slice/[ROOT-]kubepods[-QOS]-podUID.slice` | the same, systemd driver, `-` in UID written as `_` |
//!
//! UID is a UUID, or for static pods 32 digits without dashes (kubelet `pkg/kubelet/config`).
//! k3s, RKE2, `MicroK8s` and kind are kubelets with another service or container around them.

use super::place::{Mark, Place};
use super::text::{is_hex, is_hex_groups, is_uuid};

/// A pod; its uid is absent where it is none that Kubernetes would make.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pod<'a> {
    pub uid: Option<&'a [u8]>,
}

pub(super) fn read<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    let pod = match place.name.strip_suffix(b".slice") {
        Some(stem) => pod_of_slice(stem)?,
        None => pod_of_directory(place)?,
    };
    Some(Mark::Group {
        kubernetes: true,
        pod_uid: pod.uid,
        why: "a Kubernetes pod: it holds containers and is none",
    })
}

fn pod_of_directory<'a>(place: &Place<'a>) -> Option<Pod<'a>> {
    let rest = place.name.strip_prefix(b"pod")?;
    let uid = uid(rest);
    // Below kubepods nothing else is called so, whatever its uid.
    let pod = uid.is_some() || (place.in_kubepods && !rest.is_empty());
    pod.then_some(Pod { uid })
}

/// The pod of a slice `…kubepods[-QOS]-podUID`, given without its suffix. Also for the SLICE of a
/// literal `SLICE:cri-containerd:ID`.
pub(super) fn pod_of_slice(stem: &[u8]) -> Option<Pod<'_>> {
    let at = stem.windows(4).rposition(|window| window == b"-pod")?;
    let (head, tail) = stem.split_at_checked(at)?;
    let rest = tail.strip_prefix(b"-pod")?;
    let pod = !rest.is_empty() && is_kubepods(head);
    pod.then(|| Pod { uid: uid(rest) })
}

/// Whether a cgroup of this name is kubelet's: `kubepods`, or a slice with that part in its name.
pub(super) fn is_kubepods(name: &[u8]) -> bool {
    let stem = name.strip_suffix(b".slice").unwrap_or(name);
    stem.split(|b| *b == b'-').any(|part| part == b"kubepods")
}

fn uid(bytes: &[u8]) -> Option<&[u8]> {
    let known =
        is_uuid(bytes) || is_hex_groups(bytes, &[8, 4, 4, 4, 12], b'_') || is_hex(bytes, 32);
    known.then_some(bytes)
}
