//! Reading kernel structures: typed pointers, offsets from [`crate::offsets`].
//!
//! A direct load through a `tp_btf` pointer is checked by the verifier and reads zero if the address
//! is bad; where the verifier knows no type (array elements at a variable index, pointers taken from
//! a plain number) `bpf_probe_read_kernel` does the same.
//!
//! A direct load costs nothing when it runs, but when it is verified: Linux 6.2 and later look for the
//! type by name several times in all of the kernel's, one after the other, on each path that leads to
//! a load of a pointer. Paths that meet again must look alike to the verifier, or the program takes a
//! second to load.

use aya_ebpf::{
    cty::c_void,
    helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str},
};
use tracer_common::{COMM_LEN, CgroupKey, MAX_HIERARCHIES, Process, Tracked};

use crate::{
    maps::{TRACKED, slot_in_use},
    offsets::*,
};

/// More than any offset in a `css_set`; tells the verifier that it cannot be far away.
const MAX_CSS_OFFSET: u32 = 0xfff;

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
///
/// Nobody asks whether it failed: the helper itself writes zeros then (`bpf_probe_read_kernel_common`
/// in `kernel/trace/bpf_trace.c`), and a branch less is half of the paths less to verify.
#[inline(always)]
pub fn probe<T: Copy + Default>(base: Ptr, offset: u32) -> T {
    let mut value = T::default();
    let at = base.wrapping_byte_add(offset as usize);
    let to = (&raw mut value).cast();
    // SAFETY: the helper checks the address and writes exactly the value.
    unsafe { bpf_probe_read_kernel(to, size_of::<T>() as u32, at) };
    value
}

/// `value`, of which the verifier knows nothing any more. What follows is then verified once, and not
/// once for each value that led there. `any` is a number that it does not know either.
#[inline(always)]
pub fn forget(value: u32, any: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = u64::from(value);
        // SAFETY: two instructions on a register, which leave it as it was.
        unsafe {
            core::arch::asm!(
                "{value} ^= {any}",
                "{value} ^= {any}",
                value = inout(reg) value,
                any = in(reg) u64::from(any),
                options(pure, nomem, nostack),
            );
        }
        value as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = any;
        value
    }
}

/// 1 where `a` and `b` differ, else 0. A branch would double the paths to verify after it.
#[inline(always)]
pub fn differ(a: u64, b: u64) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let mut bits = a ^ b;
        // SAFETY: four instructions on two registers: the sign of `bits | -bits`.
        unsafe {
            core::arch::asm!(
                "{negative} = {bits}",
                "{negative} = -{negative}",
                "{bits} |= {negative}",
                "{bits} >>= 63",
                bits = inout(reg) bits,
                negative = out(reg) _,
                options(pure, nomem, nostack),
            );
        }
        bits as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        u32::from(a != b)
    }
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
        // A typed load would give a pointer, which the verifier does not let be calculated with.
        probe(nsproxy, NSPROXY_MNT_NS.load())
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
        Process {
            start_ns: load(self.group_leader().0, TASK_START_BOOTTIME.load()),
            pid: self.tgid(),
            vpid: upid.nr,
            parent_pid: self.real_parent().tgid(),
            pid_ns_level: upid.level,
            comm: self.comm(),
        }
    }

    /// Its name, and zeros behind it: Linux 5.10 leaves there what is left of a longer name before it
    /// (`__set_task_comm` in `fs/exec.c`; later ones pad it), as of a thread's or `(runc)` of systemd's.
    #[inline(always)]
    pub fn comm(self) -> [u8; COMM_LEN] {
        let mut comm = [0; COMM_LEN];
        let at = self.0.wrapping_byte_add(TASK_COMM.load() as usize);
        // SAFETY: the helper checks the address, and writes no more than the array holds.
        unsafe { bpf_probe_read_kernel_str((&raw mut comm).cast(), COMM_LEN as u32, at) };
        comm
    }
}

/// `(hierarchy, id)` of a `struct cgroup *`.
#[inline(always)]
pub fn cgroup_key(cgroup: Ptr) -> CgroupKey {
    let kn: Ptr = load(cgroup, CGROUP_KN.load());
    let root: Ptr = load(cgroup, CGROUP_ROOT.load());
    CgroupKey::new(load(root, ROOT_HIERARCHY_ID.load()), load(kn, KN_ID.load()))
}

/// The cgroup of a `css_set` in the hierarchy of slot 0. It is read for every exec and exit: by typed
/// loads.
#[inline(always)]
fn cgroup_in_first_slot(css_set: Ptr) -> CgroupKey {
    let hierarchy = SLOT_HIERARCHY.get(0);
    let cgroup: Ptr = if hierarchy == 0 {
        load(css_set, CSS_SET_DFL_CGRP.load())
    } else {
        let css: Ptr = load(css_set, SLOT_CSS.get(0));
        load(css, CSS_CGROUP.load())
    };
    let kn: Ptr = load(cgroup, CGROUP_KN.load());
    CgroupKey::new(hierarchy, load(kn, KN_ID.load()))
}

/// The cgroup of a `css_set` in the hierarchy of another slot. Where its pointer lies depends on the
/// slot, and a typed load's offset has to be one number.
#[inline(always)]
fn cgroup_in_v1_slot(css_set: Ptr, slot: u32) -> CgroupKey {
    let css = probe::<u64>(css_set, SLOT_CSS.get(slot) & MAX_CSS_OFFSET) as Ptr;
    let cgroup = probe::<u64>(css, CSS_CGROUP.load()) as Ptr;
    let kn = probe::<u64>(cgroup, CGROUP_KN.load()) as Ptr;
    CgroupKey::new(SLOT_HIERARCHY.get(slot), probe(kn, KN_ID.load()))
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

    /// Takes the slot from the entry, though the caller knows it: a number that the verifier does not
    /// know, or it would follow all that comes after once for each slot.
    #[inline(always)]
    const fn of(cgroup: CgroupKey, entry: Tracked) -> Self {
        Self {
            cgroup,
            slot: entry.slot,
        }
    }

    #[inline(always)]
    pub fn is_tracked(self) -> bool {
        self.slot != Self::NO_SLOT
    }

    /// Which cgroup another `css_set` holds in the same hierarchy, if this is a place at all.
    #[inline(always)]
    pub fn same_hierarchy(self, css_set: Ptr) -> CgroupKey {
        let first = cgroup_in_first_slot(css_set);
        match self.slot {
            0 => first,
            Self::NO_SLOT => self.cgroup,
            slot => cgroup_in_v1_slot(css_set, slot),
        }
    }
}

/// The tracked cgroup that a `css_set` holds; of several the deepest, of equally deep ones that with
/// the lowest slot. A container that has v1 cgroups alone may lie inside one that has a unified
/// cgroup: a process of the inner one is in both, and the inner one's lies deeper.
///
/// One look-up where no tracked cgroup lives outside slot 0, which is always so but while a
/// container is being made on a host with v1 hierarchies, and where one lives in v1 alone.
#[inline(always)]
pub fn tracked(css_set: Ptr) -> Place {
    let cgroup = cgroup_in_first_slot(css_set);
    let mut deepest = Place::NOWHERE;
    deepest.slot = forget(deepest.slot, cgroup.id as u32);
    let mut level = 0;
    if let Some(entry) = TRACKED.get_ptr(cgroup) {
        // SAFETY: the pointer came from a successful look-up.
        let entry = unsafe { *entry };
        deepest = Place::of(cgroup, entry);
        level = entry.level;
    }
    if !slot_in_use(0) {
        return deepest;
    }
    for slot in 1..MAX_HIERARCHIES as u32 {
        if slot >= SLOT_COUNT.load() {
            break;
        }
        if !slot_in_use(slot) {
            continue;
        }
        let cgroup = cgroup_in_v1_slot(css_set, slot);
        let Some(entry) = TRACKED.get_ptr(cgroup) else {
            continue;
        };
        // SAFETY: as above.
        let entry = unsafe { *entry };
        if entry.level > level {
            deepest = Place::of(cgroup, entry);
            level = entry.level;
        }
    }
    deepest
}
