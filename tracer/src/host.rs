//! What is read of the host once, at start.

use std::{fs, io};

use anyhow::Context as _;
use rustix::system::uname;

use crate::{kernel::hierarchies::Hierarchies, record::Host};

/// Oldest kernel that is supported.
pub const MIN_KERNEL: (u32, u32) = (5, 10);

/// Name and ids of this host.
///
/// # Errors
///
/// Where `/proc` is not readable.
pub fn identity() -> anyhow::Result<Host> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("cannot read the boot id: is /proc mounted?")?;
    let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let id = id.trim();
    Ok(Host {
        name: uname().nodename().to_string_lossy().into_owned(),
        id: (!id.is_empty()).then(|| id.to_owned()),
        boot_id: boot_id.trim().to_owned(),
    })
}

/// Release of the running kernel.
#[must_use]
pub fn kernel_release() -> String {
    uname().release().to_string_lossy().into_owned()
}

/// Whether a release is one that is supported; an unreadable one is given the benefit of the doubt.
#[must_use]
pub fn is_supported(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= MIN_KERNEL,
        _ => true,
    }
}

/// The cgroup hierarchies of this host.
///
/// # Errors
///
/// Where `/proc` is not readable.
pub fn hierarchies() -> io::Result<Hierarchies> {
    let mountinfo = fs::read("/proc/self/mountinfo")?;
    let controllers = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    Ok(Hierarchies::parse(
        &String::from_utf8_lossy(&mountinfo),
        &controllers,
    ))
}

/// Capabilities by number, as in `linux/capability.h`.
pub mod capability {
    pub const DAC_READ_SEARCH: u32 = 2;
    pub const SYS_PTRACE: u32 = 19;
    pub const SYS_ADMIN: u32 = 21;
    pub const PERFMON: u32 = 38;
    pub const BPF: u32 = 39;
}

/// The effective capabilities of this process, as a bit set.
#[must_use]
pub fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

/// Whether `set` allows loading tracing programs: the two fine-grained capabilities, or the one that
/// contained them before Linux 5.8.
#[must_use]
pub fn may_trace(set: u64) -> bool {
    let has = |capability: u32| set >> capability & 1 == 1;
    has(capability::SYS_ADMIN) || (has(capability::BPF) && has(capability::PERFMON))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for (release, supported) in [
            ("5.10.0-28-cloud-amd64", true),
            ("5.9.16", false),
            ("4.19.0", false),
            ("6.1.0", true),
            ("10.0", true),
            ("odd", true),
        ] {
            assert_eq!(is_supported(release), supported, "{release}");
        }
    }

    #[test]
    fn either_way_to_the_privilege_is_taken() {
        let bit = |capability: u32| 1_u64 << capability;
        assert!(may_trace(bit(capability::SYS_ADMIN)));
        assert!(may_trace(bit(capability::BPF) | bit(capability::PERFMON)));
        assert!(!may_trace(bit(capability::BPF)));
        assert!(!may_trace(0));
    }
}
