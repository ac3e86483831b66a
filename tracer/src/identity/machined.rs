//! What systemd-machined registers, and systemd-nspawn's own service.
//!
//! | form | writer |
//! | --- | --- |
//! | `machine.slice/machine-NAME.scope` | systemd `src/nspawn/nspawn-register.c` (machined makes the same for any caller) |
//! | `machine.slice/systemd-nspawn@NAME.service` | systemd `units/systemd-nspawn@.service.in` |
//! | `…/payload`, `…/supervisor` below them | systemd `src/nspawn/nspawn-cgroup.c`: the container, and nspawn itself |
//! | `machine-qemu\x2dN\x2dNAME.scope`, `NAME.libvirt-qemu`, `libvirt/qemu/NAME` | libvirt `docs/cgroups.rst`: virtual machines |
//! | `firecracker/ID` | firecracker `src/jailer/src/env.rs`: virtual machines, below the name of the program |
//! | `machine-lxc\x2dN\x2dNAME.scope` | libvirt `docs/cgroups.rst`: containers |
//!
//! NAME is escaped in the scope only.

use super::Runtime;
use super::place::{Mark, Place};
use super::text::{host_name, unescape};

/// libvirt's driver names beside qemu, as they start a machine's name: `DRIVER-NUMBER-NAME`.
const HYPERVISORS: [&[u8]; 3] = [b"xen-", b"ch-", b"vz-"];

const MACHINE: Mark<'static> = Mark::Machine {
    why: "a virtual machine",
};

pub(super) fn read<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    let name = place.name;
    let hypervisor = name.ends_with(b".libvirt-qemu")
        || (place.parent == b"qemu" && place.grandparent == b"libvirt")
        || (place.parent == b"firecracker" && place.is_second_of_level())
        || (name.starts_with(b"systemd-vmspawn@") && name.ends_with(b".service"));
    if hypervisor {
        return Some(MACHINE);
    }
    if let Some(stem) = name.strip_suffix(b".service") {
        let machine = unescape(stem.strip_prefix(b"systemd-nspawn@")?)?;
        return nspawn(&machine);
    }
    let stem = name.strip_suffix(b".scope")?.strip_prefix(b"machine-")?;
    let machine = unescape(stem)?;
    // Older libvirt leaves the number out.
    if machine.starts_with(b"qemu-") || HYPERVISORS.iter().any(|driver| numbered(&machine, driver))
    {
        return Some(MACHINE);
    }
    if let Some(domain) = machine.strip_prefix(b"lxc-") {
        return Some(Mark::container(Runtime::LibvirtLxc, domain_name(domain)?));
    }
    nspawn(&machine)
}

fn nspawn<'a>(machine: &[u8]) -> Option<Mark<'a>> {
    let id = host_name(machine)?;
    Some(Mark::with_aside(Runtime::SystemdNspawn, id, b"supervisor"))
}

fn numbered(machine: &[u8], driver: &[u8]) -> bool {
    machine
        .strip_prefix(driver)
        .is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
}

/// The domain's name as `virsh` prints it: without the number that newer libvirt puts before it.
fn domain_name(rest: &[u8]) -> Option<String> {
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let (number, tail) = rest.split_at_checked(digits)?;
    match tail.strip_prefix(b"-") {
        Some(domain) if !number.is_empty() && !domain.is_empty() => host_name(domain),
        _ => host_name(rest),
    }
}
