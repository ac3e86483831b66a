//! The two file systems that tracer wants, mounted where they are missing. Cgroup mounts are the
//! host's own layout: they are never touched.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{command, privilege::Privilege, say};

struct Wanted {
    fstype: &'static str,
    at: &'static str,
    why: &'static str,
    kernel_option: &'static str,
}

const WANTED: [Wanted; 2] = [
    Wanted {
        fstype: "tracefs",
        at: "/sys/kernel/tracing",
        why: "the kernel's tracepoints are listed there",
        kernel_option: "CONFIG_FTRACE",
    },
    Wanted {
        fstype: "bpf",
        at: "/sys/fs/bpf",
        why: "programs and maps are pinned there",
        kernel_option: "CONFIG_BPF_SYSCALL",
    },
];

/// Mounts what is missing, and says so.
pub fn ensure() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    for wanted in WANTED
        .iter()
        .filter(|wanted| !is_mounted(&mounts, wanted.fstype, wanted.at))
    {
        mount(wanted)?;
    }
    Ok(())
}

fn mount(wanted: &Wanted) -> Result<()> {
    let Wanted {
        fstype,
        at,
        why,
        kernel_option,
    } = wanted;
    if !Path::new(at).is_dir() {
        bail!("{at} does not exist: this kernel was built without {kernel_option}");
    }
    say::note(format_args!("mounting {fstype} at {at}: {why}"));
    let mut mount = Privilege::find()?
        .command("mount")
        .with_context(|| format!("cannot mount {fstype} at {at}"))?;
    command::run(mount.args(["-t", fstype, fstype, at]))
}

/// Whether a file system of this type is mounted exactly there, in the format of `/proc/mounts`.
fn is_mounted(mounts: &str, fstype: &str, at: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        fields.nth(1) == Some(at) && fields.next() == Some(fstype)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_recognised_by_place_and_type() {
        let mounts = "\
sysfs /sys sysfs rw,nosuid 0 0
tracefs /sys/kernel/debug/tracing tracefs rw 0 0
none /sys/fs/bpf bpf rw,mode=700 0 0
tmpfs /sys/kernel/tracing tmpfs rw 0 0
tracefs /mnt/a\\040b tracefs rw 0 0
";
        let rows = [
            ("bpf", "/sys/fs/bpf", true),
            ("tracefs", "/sys/kernel/tracing", false),
            ("tracefs", "/sys/kernel/debug/tracing", true),
            ("tmpfs", "/sys/kernel/tracing", true),
            ("sysfs", "/sys/fs", false),
        ];
        for (fstype, at, expected) in rows {
            assert_eq!(is_mounted(mounts, fstype, at), expected, "{fstype} {at}");
        }
        assert!(!is_mounted("", "bpf", "/sys/fs/bpf"));
    }
}
