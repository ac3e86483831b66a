//! CRI-O (cri-o `internal/config/cgmgr`): `crio-ID.scope` with systemd, `podUID/crio-ID` with
//! cgroupfs, each beside a `crio-conmon-ID` for its monitor. crun adds a child `container`.

use super::Runtime;
use super::place::{Mark, Place};
use super::text::hex_id;

pub(super) fn read<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    // Kata renames the cgroup of a sandbox.
    let name = place.name.strip_prefix(b"kata_").unwrap_or(place.name);
    let literal = place
        .colons()
        .is_some_and(|(_, middle, _)| middle == b"crio-conmon");
    if literal || name.starts_with(b"crio-conmon-") {
        let why = "CRI-O's conmon, the monitor of a container";
        return Some(Mark::Aside { why });
    }
    let id = place
        .unit_id(b"crio")
        .or_else(|| name.strip_prefix(b"crio-"))?;
    Some(Mark::container(Runtime::CriO, hex_id(id)?))
}
