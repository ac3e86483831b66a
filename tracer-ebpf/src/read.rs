//! Reading kernel structures: typed pointers, offsets from [`crate::offsets`].
//!
//! A direct load through a `tp_btf` pointer is checked by the verifier and reads zero if the address
//! is bad; where the verifier knows no type (array elements at a variable index, pointers taken from
//! a plain number) `bpf_probe_read_kernel` does the same.

use aya_ebpf::{
    cty::c_void,
    helpers::{bpf_probe_read_kernel, bpf_probe_read_kernel_buf},
};
use tracer_common::{COMM_LEN, CgroupKey, MAX_HIERARCHIES, Process};

use crate::{
    maps::{TRACKED, slot_in_use},
    offsets::*,
};

/// A pointer to some kernel structure.
pub type Ptr = *const c_void;

/// Direct load of the `T` at `base + offset`.
#[inline(always)]
pub fn load<T: Copy>(base: Ptr, offset: u32) -> T {
    let at = base.wrapping_byte_add(offset as usize).cast::<T>();
    // SAFETY: the verifier admits this load only if the type behind `base` has a member of this
    // size at this offset; a fault at run time reads as zero.
    unsafe { at.read_volatile() }
}

/// Load of the `T` at `base + offset` where the verifier knows no type for `base`; zero on a fault.
#[inline(always)]
pub fn probe<T: Copy + Default>(base: Ptr, offset: u32) -> T {
    let at = base.wrapping_byte_add(offset as usize).cast::<T>();
    // SAFETY: the helper checks the address and reports a fault.
    unsafe { bpf_probe_read_kernel(at) }.unwrap_or_default()
}

/// A pid as its own namespace sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Upid {
    pub nr: u32,
    pub level: u32,
    /// Address of the namespace, for comparison only.
    pub ns: u64,
}

/// A `struct task_struct *` with a type the verifier knows.
#[derive(Clone, Copy)]
pub struct Task(pub Ptr);

impl Task {
    #[inline(always)]
    pub fn pid(self) -> u32 {
        load(self.0, TASK_PID.load())
    }

    #[inline(always)]
    pub fn tgid(self) -> u32 {
        load(self.0, TASK_TGID.load())
    }

    #[inline(always)]
    pub fn real_parent(self) -> Self {
        Self(load(self.0, TASK_REAL_PARENT.load()))
    }

    #[inline(always)]
    pub fn group_leader(self) -> Self {
        Self(load(self.0, TASK_GROUP_LEADER.load()))
    }

    #[inline(always)]
    pub fn css_set(self) -> Ptr {
        load(self.0, TASK_CGROUPS.load())
    }

    /// `thread_pid->numbers[level]`: the pid and the namespace it is active in.
    #[inline(always)]
    pub fn upid(self) -> Upid {
        let pid: Ptr = load(self.0, TASK_THREAD_PID.load());
        let level: u32 = load(pid, PID_LEVEL.load());
        let upid = PID_NUMBERS
            .load()
            .wrapping_add(level.wrapping_mul(UPID_SIZE.load()));
        Upid {
            nr: probe(pid, upid.wrapping_add(UPID_NR.load())),
            level,
            ns: probe(pid, upid.wrapping_add(UPID_NS.load())),
        }
    }

    /// Address of the mount namespace, for comparison; 0 for a task that has let go of it.
    #[inline(always)]
    pub fn mnt_ns(self) -> u64 {
        let nsproxy: Ptr = load(self.0, TASK_NSPROXY.load());
        load(nsproxy, NSPROXY_MNT_NS.load())
    }

    /// Effective user id, in the initial user namespace.
    #[inline(always)]
    pub fn uid(self) -> u32 {
        let cred: Ptr = load(self.0, TASK_CRED.load());
        load(cred, CRED_EUID.load())
    }

    /// What a record says of the process that this task belongs to.
    #[inline(always)]
    pub fn process(self, upid: Upid) -> Process {
        let mut comm = [0; COMM_LEN];
        let at = self
            .0
            .wrapping_byte_add(TASK_COMM.load() as usize)
            .cast::<u8>();
        // SAFETY: the helper checks the address.
        if unsafe { bpf_probe_read_kernel_buf(at, &mut comm) }.is_err() {
            comm = [0; COMM_LEN];
        }
        Process {
            start_ns: load(self.group_leader().0, TASK_START_BOOTTIME.load()),
            pid: self.tgid(),
            vpid: upid.nr,
            parent_pid: self.real_parent().tgid(),
            pid_ns_level: upid.level,
            comm,
        }
    }
}

/// `(hierarchy, id)` of a `struct cgroup *`.
#[inline(always)]
pub fn cgroup_key(cgroup: Ptr) -> CgroupKey {
    let kn: Ptr = load(cgroup, CGROUP_KN.load());
    let root: Ptr = load(cgroup, CGROUP_ROOT.load());
    CgroupKey::new(load(root, ROOT_HIERARCHY_ID.load()), load(kn, KN_ID.load()))
}

/// The cgroup of a `css_set` in the hierarchy of `slot`.
#[inline(always)]
pub fn cgroup_in_slot(css_set: Ptr, slot: u32) -> CgroupKey {
    let hierarchy = SLOT_HIERARCHY.get(slot);
    let cgroup: Ptr = if hierarchy == 0 {
        load(css_set, CSS_SET_DFL_CGRP.load())
    } else {
        let css: Ptr = load(css_set, SLOT_CSS.get(slot));
        load(css, CSS_CGROUP.load())
    };
    let kn: Ptr = load(cgroup, CGROUP_KN.load());
    CgroupKey::new(hierarchy, load(kn, KN_ID.load()))
}

/// The slot of a hierarchy, [`Place::NO_SLOT`] if it is none that can be looked up from a task.
#[inline(always)]
pub fn slot_of(hierarchy: u32) -> u32 {
    for slot in 0..MAX_HIERARCHIES as u32 {
        if slot >= SLOT_COUNT.load() {
            break;
        }
        if SLOT_HIERARCHY.get(slot) == hierarchy {
            return slot;
        }
    }
    Place::NO_SLOT
}

/// Where a task stands among the tracked cgroups.
///
/// Not an `Option`: the payload of `None` is undefined to the compiler, which may copy it all the
/// same, and the verifier refuses to copy what was never written.
#[derive(Clone, Copy)]
pub struct Place {
    pub cgroup: CgroupKey,
    /// Slot of its hierarchy, [`Place::NO_SLOT`] where the task is in no tracked cgroup.
    pub slot: u32,
}

impl Place {
    pub const NO_SLOT: u32 = u32::MAX;

    /// In no tracked cgroup.
    pub const NOWHERE: Self = Self {
        cgroup: CgroupKey::new(u32::MAX, 0),
        slot: Self::NO_SLOT,
    };

    #[inline(always)]
    pub fn is_tracked(self) -> bool {
        self.slot != Self::NO_SLOT
    }
}

/// The tracked cgroup that a `css_set` holds.
///
/// One look-up where no tracked cgroup lives outside slot 0, which is always so but while a
/// container is being made on a host with v1 hierarchies, and where one lives in v1 alone.
#[inline(always)]
pub fn tracked(css_set: Ptr) -> Place {
    let cgroup = cgroup_in_slot(css_set, 0);
    if TRACKED.get_ptr(cgroup).is_some() {
        return Place { cgroup, slot: 0 };
    }
    if !slot_in_use(0) {
        return Place::NOWHERE;
    }
    for slot in 1..MAX_HIERARCHIES as u32 {
        if slot >= SLOT_COUNT.load() {
            break;
        }
        if !slot_in_use(slot) {
            continue;
        }
        let cgroup = cgroup_in_slot(css_set, slot);
        if TRACKED.get_ptr(cgroup).is_some() {
            return Place { cgroup, slot };
        }
    }
    Place::NOWHERE
}
