//! Orchestrators that make the cgroups of their containers themselves.
//!
//! | form | writer |
//! | --- | --- |
//! | `nomad.slice/[share.slice\|reserve.slice/]ALLOC.TASK.scope` | nomad `client/lib/cgroupslib/editor.go`, cgroup v2; 1.2 to 1.6 without the middle |
//! | `/nomad/[share/\|reserve/]ALLOC.TASK` | the same, cgroup v1 |
//! | `/nomad/reserved/ALLOC-TASK` | nomad 1.2 to 1.6 `client/lib/cgutil/cpuset_manager_v1.go` |
//! | `/nomad/UUID` | nomad before 1.7 `drivers/shared/executor/executor_linux.go` configureCgroups, cgroup v1 |
//! | `[…/]garden/[good\|bad/]HANDLE` | Cloud Foundry guardian `rundmc/bundlerules/cgroup_path.go`, `rundmc/cgroups/constants.go`; HANDLE of Diego is 8-4-4-4-4 digits |
//! | `/ecs/[CLUSTER/]TASK/TASK-NUMBER` | AWS Fargate; TASK is 32 digits. ECS on EC2 runs Docker: see `docker.rs` |
//! | `kata_overhead/…`, `kata-overhead.slice/…` | kata-containers: the virtual machine monitor of a sandbox |

use super::Runtime;
use super::place::{Mark, Place};
use super::text::{identifier, is_hex, is_uuid, printable};

pub(super) fn read<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    if matches!(place.name, b"kata_overhead" | b"kata-overhead.slice") {
        let why = "Kata's virtual machine monitor, not a container";
        return Some(Mark::Aside { why });
    }
    nomad(place)
        .or_else(|| garden(place))
        .or_else(|| ecs(place))
}

fn nomad<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    let below_nomad = place.parent == b"nomad"
        || (place.grandparent == b"nomad"
            && matches!(place.parent, b"share" | b"reserve" | b"reserved"));
    let (alloc, rest) = place.name.split_at_checked(36)?;
    if !is_uuid(alloc) {
        return None;
    }
    let id = match (rest.strip_suffix(b".scope"), rest) {
        // A UUID, a task and `.scope` is nobody else's, so the parent may be a configured one.
        (Some([b'.', task @ ..]), _) => {
            printable(task)?;
            printable(place.name.strip_suffix(b".scope")?)?
        }
        (_, [b'.' | b'-', task @ ..]) if below_nomad => {
            printable(task)?;
            printable(place.name)?
        }
        (_, []) if place.parent == b"nomad" => printable(alloc)?,
        _ => return None,
    };
    Some(Mark::container(Runtime::Nomad, id))
}

fn garden<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    let below_garden = place.parent == b"garden"
        || (place.grandparent == b"garden" && matches!(place.parent, b"good" | b"bad"));
    // Guardian's two groups and its leaf are no handles.
    if !below_garden || matches!(place.name, b"good" | b"bad" | b"init") {
        return None;
    }
    Some(Mark::container(Runtime::Garden, identifier(place.name)?))
}

fn ecs<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    let is_task = |name: &[u8]| is_hex(name, 32) || is_uuid(name);
    let slice_task = || {
        let stem = place.name.strip_suffix(b".slice")?;
        stem.strip_prefix(b"ecstasks-")
    };
    let below_ecs = place.parent == b"ecs" || place.grandparent == b"ecs";
    if (below_ecs && is_task(place.name)) || slice_task().is_some_and(is_task) {
        return Some(Mark::Group {
            kubernetes: false,
            pod_uid: None,
            why: "an ECS task: it holds containers and is none",
        });
    }
    // A task's number behind the task's own id, below it: nobody else's, whatever is above.
    if !is_hex(place.parent, 32) {
        return None;
    }
    let number = place.name.strip_prefix(place.parent)?.strip_prefix(b"-")?;
    let digits = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
    if digits {
        Some(Mark::container(Runtime::Ecs, printable(place.name)?))
    } else {
        None
    }
}
