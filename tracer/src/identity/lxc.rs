//! LXC, which Incus, LXD and Proxmox build on, and libvirt's LXC driver.
//!
//! | form | writer |
//! | --- | --- |
//! | `lxc.payload.NAME`, beside `lxc.monitor.NAME` and `lxc.pivot` | lxc 4+ `src/lxc/cgroups/cgfsng.c` |
//! | `lxc.payload/NAME`, `lxc.monitor/NAME` | lxc 3.1 to 3.2, and Proxmox for the monitor |
//! | `lxc/NAME`, with `lxc.cgroup.pattern` also `lxc/NAME/payload` and `lxc/NAME/monitor` | lxc before 3.1, Proxmox (`lxc/NAME/ns`), `lxc.system.conf(5)` |
//! | `machine-lxc\x2dN\x2dNAME.scope`, `NAME.libvirt-lxc`, `libvirt/lxc/NAME` | libvirt `docs/cgroups.rst`: with systemd, without, before 1.0.5 |
//!
//! A container started while its cgroup of an earlier life is left over gets `-1`, `-2`… behind its
//! name; that cannot be told from a name.

use super::Runtime;
use super::place::{Mark, Place};
use super::text::host_name;

pub(super) fn read<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    let name = place.name;
    if name == b"lxc.pivot" || name == b"lxc.monitor" || name.starts_with(b"lxc.monitor.") {
        let why = "LXC's monitor, not its container";
        return Some(Mark::Aside { why });
    }
    if let Some(rest) = name.strip_prefix(b"lxc.payload.") {
        return Some(Mark::container(Runtime::Lxc, host_name(rest)?));
    }
    if let Some(rest) = name.strip_suffix(b".libvirt-lxc") {
        return Some(Mark::container(Runtime::LibvirtLxc, host_name(rest)?));
    }
    match (place.grandparent, place.parent) {
        (b"libvirt", b"lxc") => Some(Mark::container(Runtime::LibvirtLxc, host_name(name)?)),
        (_, b"lxc") => Some(Mark::with_aside(Runtime::Lxc, host_name(name)?, b"monitor")),
        (_, b"lxc.payload") => Some(Mark::container(Runtime::Lxc, host_name(name)?)),
        _ => None,
    }
}
