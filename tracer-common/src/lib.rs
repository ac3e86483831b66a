//! The contract between the kernel side and user space.
//!
//! An eBPF program writes one of the records below into the ring buffer; `tracer::decode` reads it
//! back by offset. Both sides compile this crate, so a field can only move for both at once.
//!
//! # Layout rules
//!
//! * `repr(C)`, integers and byte arrays only, host byte order. No `bool`, no enum, no padding that
//!   the compiler adds: what is not written would be the bytes of an older record, because ring
//!   buffer memory is not cleared.
//! * Every record starts with [`Head`]. `kind`, `version` and `len` let a reader skip what it does
//!   not know.
//! * Text follows the fixed part. Its capacity is a size class, its length a field; nothing is
//!   terminated by NUL.
//!
//! ```text
//!  0        8        12       16     18        20       24
//!  ├────────┼────────┼────────┼──────┼─────────┼────────┤
//!  │time_ns │drops   │cpu     │kind  │version  │len     │  Head (24 bytes)
//!  └────────┴────────┴────────┴──────┴─────────┴────────┘
//! ```
//!
//! Kernel claims made here (id width, path bound, thread-group death) were measured on Linux 5.10,
//! 6.1, 6.12, 6.18 and 7.3.

#![no_std]
#![forbid(unsafe_code)]

use core::mem::{offset_of, size_of};

/// Version of every layout in this crate. Programs and maps that outlive a tracer process carry it,
/// so that the next process knows whether it can read them.
pub const ABI_VERSION: u16 = 1;

/// Bytes of a task's name, the terminating NUL included (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;

/// Bytes of cgroup path that a record of the small class holds.
pub const PATH_SMALL: usize = 256;
/// Bytes of cgroup path in the large class. The kernel itself cuts the path of its cgroup
/// tracepoints after 1023 bytes (`TRACE_CGROUP_PATH_LEN`), which loses the leaf.
pub const PATH_LARGE: usize = 1024;
/// Bytes of the leaf's own name (`NAME_MAX` + NUL), recorded beside a path that was cut.
pub const LEAF_LEN: usize = 256;
/// Bytes of an executed file's path; of a longer one the end is kept.
pub const FILENAME_LEN: usize = 256;
/// Bytes of argument vector (NUL between arguments) for a process inside a container.
pub const ARGS_LEN: usize = 1024;
/// Bytes of argument vector of a container runtime's own process.
pub const RUNTIME_ARGS_LEN: usize = 4096;

/// Bytes of the longest record: an exec of a container runtime.
pub const MAX_RECORD: usize = size_of::<Exec>() + FILENAME_LEN + RUNTIME_ARGS_LEN;

/// Hierarchies whose cgroups the programs can look up from a task: the unified one and the v1
/// controllers (`CGROUP_SUBSYS_COUNT` is at most 14 so far).
pub const MAX_HIERARCHIES: usize = 16;

/// What a record tells. The numbers are part of the ABI.
pub mod kind {
    /// `cgroup_mkdir`: [`super::CgroupMkdir`] and a path.
    pub const CGROUP_MKDIR: u16 = 1;
    /// `cgroup_rmdir`: [`super::CgroupState`].
    pub const CGROUP_RMDIR: u16 = 2;
    /// `cgroup_rename` (v1 only): [`super::CgroupMkdir`] with the new path.
    pub const CGROUP_RENAME: u16 = 3;
    /// `cgroup_notify_populated`: [`super::CgroupState`].
    pub const CGROUP_POPULATED: u16 = 4;
    /// `cgroup_notify_frozen` (v2 only): [`super::CgroupState`].
    pub const CGROUP_FROZEN: u16 = 5;
    /// `sched_process_fork` of a process that may become an init: [`super::Fork`].
    pub const FORK: u16 = 6;
    /// `sched_process_exec`: [`super::Exec`], file name, arguments.
    pub const EXEC: u16 = 7;
    /// `sched_process_exit` of the last thread: [`super::Exit`].
    pub const EXIT: u16 = 8;
    /// `oom:mark_victim`: [`super::Oom`].
    pub const OOM: u16 = 9;
    /// One more than the largest kind.
    pub const COUNT: u16 = 10;

    /// Name of a kind in logs, metrics and `node.gap`.
    #[must_use]
    pub const fn name(kind: u16) -> &'static str {
        match kind {
            CGROUP_MKDIR => "cgroup_mkdir",
            CGROUP_RMDIR => "cgroup_rmdir",
            CGROUP_RENAME => "cgroup_rename",
            CGROUP_POPULATED => "cgroup_populated",
            CGROUP_FROZEN => "cgroup_frozen",
            FORK => "fork",
            EXEC => "exec",
            EXIT => "exit",
            OOM => "oom",
            _ => "unknown",
        }
    }
}

/// Reasons for which a program could not do its work; one counter each, per CPU.
pub mod loss {
    use super::kind;

    /// Index of a lost record of `kind` is the kind itself; index 0 is the sum of all.
    pub const TOTAL: u32 = 0;
    /// Bulk records of `--processes` that gave way to lifecycle records, or found no room.
    pub const BULK: u32 = kind::COUNT as u32;
    /// A cgroup that could not be entered into the tracked set, because it was full.
    pub const CGROUPS_FULL: u32 = BULK + 1;
    /// A process that could not be followed, because the table was full.
    pub const PROCS_FULL: u32 = BULK + 2;
    /// Number of counters.
    pub const COUNT: u32 = BULK + 3;

    /// Name of a counter in logs, metrics and `node.gap`.
    #[must_use]
    pub fn name(index: u32) -> &'static str {
        match index {
            TOTAL => "total",
            BULK => "process",
            CGROUPS_FULL => "cgroups_full",
            PROCS_FULL => "procs_full",
            other => u16::try_from(other).map_or("unknown", kind::name),
        }
    }
}

/// First bytes of every record.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Head {
    /// `CLOCK_BOOTTIME` in nanoseconds.
    pub time_ns: u64,
    /// Low half of what this CPU has lost in all ([`loss::TOTAL`]) when the record was made: a step
    /// between two records of one CPU is a gap in front of the second.
    pub drops: u32,
    /// CPU that made the record.
    pub cpu: u32,
    /// One of [`kind`].
    pub kind: u16,
    /// [`ABI_VERSION`].
    pub version: u16,
    /// Length of the record in bytes, this head and the whole text class included.
    pub len: u32,
}

/// A cgroup: ids are unique only within a hierarchy (every root is 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "(u32, u64)", into = "(u32, u64)"))]
#[repr(C)]
pub struct CgroupKey {
    /// `kernfs_node.id`, which is the directory's inode number and file handle.
    pub id: u64,
    /// `cgroup_root.hierarchy_id`: 0 is the unified hierarchy, v1 counts from 1 as in
    /// `/proc/PID/cgroup`.
    pub hierarchy: u32,
    /// Always zero; makes the key's bytes comparable as a map key.
    pub reserved: u32,
}

impl CgroupKey {
    /// Key of cgroup `id` in `hierarchy`.
    #[must_use]
    pub const fn new(hierarchy: u32, id: u64) -> Self {
        Self {
            id,
            hierarchy,
            reserved: 0,
        }
    }

    /// The key as a map sees it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let words = self.id.to_ne_bytes().into_iter();
        let words = words.chain(self.hierarchy.to_ne_bytes());
        for (to, from) in bytes.iter_mut().zip(words) {
            *to = from;
        }
        bytes
    }
}

/// Hierarchy and id, as a key stands in a recording.
impl From<(u32, u64)> for CgroupKey {
    fn from((hierarchy, id): (u32, u64)) -> Self {
        Self::new(hierarchy, id)
    }
}

impl From<CgroupKey> for (u32, u64) {
    fn from(key: CgroupKey) -> Self {
        (key.hierarchy, key.id)
    }
}

/// A process as the programs see it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Process {
    /// `task_struct.start_boottime` of the thread-group leader, nanoseconds; with `pid` it names
    /// the process uniquely.
    pub start_ns: u64,
    /// Thread-group id in the initial pid namespace.
    pub pid: u32,
    /// Thread-group id in its own pid namespace.
    pub vpid: u32,
    /// Thread-group id of `real_parent` in the initial pid namespace.
    pub parent_pid: u32,
    /// Nesting level of its pid namespace; 0 is the initial one.
    pub pid_ns_level: u32,
    /// Name of the task, NUL-padded.
    pub comm: [u8; COMM_LEN],
}

/// [`kind::CGROUP_MKDIR`], [`kind::CGROUP_RENAME`]; followed by the path class and, in the large
/// class, by the leaf.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CgroupMkdir {
    pub head: Head,
    pub cgroup: CgroupKey,
    /// Id of the parent cgroup, same hierarchy.
    pub parent_id: u64,
    /// Depth below the hierarchy's root.
    pub level: u32,
    /// Thread-group id of the task that made the directory (systemd, where that is the driver).
    pub maker_pid: u32,
    /// Thread-group id of the maker's parent.
    pub maker_parent_pid: u32,
    /// Bytes of path in the text; relative to the hierarchy's root, whatever cgroup namespace.
    pub path_len: u16,
    /// Bytes of the leaf's name behind the path class; 0 where the path is whole.
    pub leaf_len: u16,
}

/// [`kind::CGROUP_RMDIR`], [`kind::CGROUP_POPULATED`], [`kind::CGROUP_FROZEN`].
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CgroupState {
    pub head: Head,
    pub cgroup: CgroupKey,
    /// The tracepoint's `val`; 0 for rmdir.
    pub value: u32,
    pub reserved: u32,
}

/// [`kind::FORK`].
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Fork {
    pub head: Head,
    /// Cgroup of the child.
    pub cgroup: CgroupKey,
    pub child: Process,
    /// [`flags`].
    pub flags: u32,
    pub reserved: u32,
}

/// [`kind::EXEC`]; followed by [`FILENAME_LEN`] bytes of file name and the argument class.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Exec {
    pub head: Head,
    /// Cgroup of the process; hierarchy `u32::MAX` where it is in none that is tracked.
    pub cgroup: CgroupKey,
    /// Cgroup of its `real_parent` in the same hierarchy.
    pub parent_cgroup: CgroupKey,
    pub process: Process,
    /// [`flags`].
    pub flags: u32,
    pub filename_len: u16,
    /// Bytes of arguments behind the file name class.
    pub args_len: u16,
    /// Effective user id, in the initial user namespace.
    pub uid: u32,
    pub reserved: u32,
}

/// [`kind::EXIT`].
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Exit {
    pub head: Head,
    pub cgroup: CgroupKey,
    pub process: Process,
    /// Wait status of the thread group: `code << 8`, or signal with 0x80 for a core dump.
    pub status: u32,
    /// [`flags`].
    pub flags: u32,
}

/// [`kind::OOM`].
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Oom {
    pub head: Head,
    /// Cgroup of the victim.
    pub cgroup: CgroupKey,
    pub victim: Process,
    /// Memory cgroup whose limit was hit; id 0 where none was (the whole host ran out).
    pub limit: CgroupKey,
    /// Memory cgroup of the victim.
    pub memory: CgroupKey,
    /// The limit in bytes; 0 where none.
    pub limit_bytes: u64,
    /// [`flags`].
    pub flags: u32,
    pub reserved: u32,
}

/// Bits of `flags`.
pub mod flags {
    /// The process and its `real_parent` are in different pid namespaces: an init, or a process
    /// brought in from outside.
    pub const PID_NS_DIFFERS: u32 = 1 << 0;
    /// Likewise for mount namespaces.
    pub const MNT_NS_DIFFERS: u32 = 1 << 1;
    /// The process came into its cgroup from outside (attached, or cloned into it) and has not yet
    /// executed what it was brought in for.
    pub const ENTRANT: u32 = 1 << 2;
    /// The name of the executed file is one of a container runtime.
    pub const RUNTIME: u32 = 1 << 3;
    /// The cgroup is in the tracked set.
    pub const TRACKED: u32 = 1 << 4;
    /// The beginning of the file name was cut off.
    pub const FILENAME_CUT: u32 = 1 << 5;
    /// The end of the arguments was cut off.
    pub const ARGS_CUT: u32 = 1 << 6;
    /// A record that only `--processes` asks for.
    pub const BULK: u32 = 1 << 7;
    /// The process had executed what it was brought in for: an init or an exec session ended.
    pub const LANDED: u32 = 1 << 8;
    /// The parent is an entrant that has executed nothing yet: its first child.
    pub const PARENT_ENTRANT: u32 = 1 << 9;
}

/// Value of the map `PROCS`: processes that came into a tracked cgroup from outside. Key: pid.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Followed {
    pub cgroup: CgroupKey,
    /// [`flags::ENTRANT`] or [`flags::LANDED`].
    pub flags: u32,
    pub reserved: u32,
}

impl Followed {
    /// The value as a map sees it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let words = self.cgroup.to_bytes().into_iter();
        let words = words.chain(self.flags.to_ne_bytes());
        for (to, from) in bytes.iter_mut().zip(words) {
            *to = from;
        }
        bytes
    }
}

/// Value of the map `TRACKED`: cgroups whose tasks are watched. Key: [`CgroupKey`].
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Tracked {
    /// Index of its hierarchy in the order of look-up, see `SLOTS` in the programs.
    pub slot: u32,
    /// How deep it lies below the root of its hierarchy, whose own level is 0.
    pub level: u32,
}

/// Value of the map `LIVE`: how many cgroups of one slot were entered and taken out by programs.
/// User space keeps its own removals; the slot is empty when they add up.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct SlotCount {
    pub added: u64,
    pub removed: u64,
}

// The layouts above are read by offset. A record's fixed part is a multiple of eight, so that its
// text and the next record stay aligned, and has no hole.
const _: () = assert!(size_of::<Head>() == 24);
const _: () = assert!(size_of::<CgroupKey>() == 16);
const _: () = assert!(size_of::<Process>() == 40);
const _: () = assert!(size_of::<CgroupMkdir>() == 24 + 16 + 8 + 4 + 4 + 4 + 2 + 2);
const _: () = assert!(size_of::<CgroupState>() == 24 + 16 + 8);
const _: () = assert!(size_of::<Fork>() == 24 + 16 + 40 + 8);
const _: () = assert!(size_of::<Exec>() == 24 + 16 + 16 + 40 + 8 + 8);
const _: () = assert!(size_of::<Exit>() == 24 + 16 + 40 + 8);
const _: () = assert!(size_of::<Oom>() == 24 + 16 + 40 + 16 + 16 + 8 + 8);
const _: () = assert!(offset_of!(Head, kind) == 16 && offset_of!(Head, len) == 20);
const _: () = assert!(offset_of!(CgroupMkdir, path_len) == 60);
const _: () = assert!(offset_of!(Exec, filename_len) == 100);
