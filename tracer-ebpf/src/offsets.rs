//! Constants that user space fills in before the programs are loaded.
//!
//! The map behind them is frozen, so the verifier sees plain numbers: it follows only the branches
//! that they select and checks each load they address. The names are the contract with the loader
//! (`tracer::kernel::btf` has the same list, with the member that each stands for).

use aya_ebpf::Global;

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident: $ty:ty = $value:expr;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub static $name: Global<$ty> = Global::new($value);
    )*};
}

constants! {
    // Configuration.
    /// Emit every exec and exit of tracked cgroups (`--processes`).
    WITH_PROCESSES: u32 = 0;
    /// Record the arguments of processes in tracked cgroups (`--args`).
    WITH_ARGS: u32 = 0;
    /// Size of the ring buffer, bytes.
    RING_BYTES: u64 = 0;
    /// Hierarchies in use, see [`SLOT_HIERARCHY`].
    SLOT_COUNT: u32 = 0;

    // What this kernel's tracepoints look like.
    /// `sched_process_exit` has its `group_dead` argument.
    EXIT_HAS_GROUP_DEAD: u32 = 0;
    /// `mark_victim` has the task as its first argument (a plain pid before the 6.8 backports).
    OOM_HAS_TASK: u32 = 0;
    /// The kernel has memory cgroups.
    HAS_MEMCG: u32 = 0;

    // Members, named STRUCT_MEMBER.
    TASK_PID: u32 = 0;
    TASK_TGID: u32 = 0;
    TASK_REAL_PARENT: u32 = 0;
    TASK_GROUP_LEADER: u32 = 0;
    TASK_THREAD_PID: u32 = 0;
    TASK_SIGNAL: u32 = 0;
    TASK_CGROUPS: u32 = 0;
    TASK_NSPROXY: u32 = 0;
    TASK_MM: u32 = 0;
    TASK_EXIT_CODE: u32 = 0;
    TASK_START_BOOTTIME: u32 = 0;
    TASK_COMM: u32 = 0;
    TASK_CRED: u32 = 0;
    CRED_EUID: u32 = 0;
    SIGNAL_LIVE: u32 = 0;
    SIGNAL_FLAGS: u32 = 0;
    SIGNAL_GROUP_EXIT_CODE: u32 = 0;
    NSPROXY_MNT_NS: u32 = 0;
    PID_LEVEL: u32 = 0;
    PID_NUMBERS: u32 = 0;
    UPID_NR: u32 = 0;
    UPID_NS: u32 = 0;
    UPID_SIZE: u32 = 0;
    MM_ARG_START: u32 = 0;
    MM_ARG_END: u32 = 0;
    BPRM_FILENAME: u32 = 0;
    CSS_SET_DFL_CGRP: u32 = 0;
    CSS_SET_SUBSYS: u32 = 0;
    CSS_CGROUP: u32 = 0;
    CSS_PARENT: u32 = 0;
    CGROUP_SELF: u32 = 0;
    CGROUP_KN: u32 = 0;
    CGROUP_ROOT: u32 = 0;
    CGROUP_LEVEL: u32 = 0;
    ROOT_HIERARCHY_ID: u32 = 0;
    KN_ID: u32 = 0;
    KN_NAME: u32 = 0;
    MEMCG_CSS: u32 = 0;
    MEMCG_MEMORY: u32 = 0;
    PAGE_COUNTER_USAGE: u32 = 0;
    PAGE_COUNTER_MAX: u32 = 0;
    /// `enum cgroup_subsys_id`: index of the memory controller.
    MEMORY_SUBSYS: u32 = 0;
}

/// A table in `.rodata`, one number per slot.
#[repr(transparent)]
pub struct Slots([u32; tracer_common::MAX_HIERARCHIES]);

impl Slots {
    const fn new() -> Self {
        Self([0; tracer_common::MAX_HIERARCHIES])
    }

    /// The number of `slot`. A mask, because the verifier loses what a comparison says of a number
    /// once the compiler has copied it.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the mask keeps the index within")]
    pub fn get(&self, slot: u32) -> u32 {
        const {
            assert!(
                tracer_common::MAX_HIERARCHIES.is_power_of_two(),
                "the mask leaves no slot out"
            );
        }
        let value = &self.0[slot as usize & (tracer_common::MAX_HIERARCHIES - 1)];
        // SAFETY: the reference came from the table. Volatile, because the loader rewrites it.
        unsafe { (&raw const *value).read_volatile() }
    }
}

/// `cgroup_root.hierarchy_id` of each slot. Slot 0 is the hierarchy that containers are told by; the
/// others are v1 hierarchies, in which a container may live that is not in slot 0.
#[unsafe(no_mangle)]
pub static SLOT_HIERARCHY: Slots = Slots::new();

/// Offset within `css_set` of the pointer that leads to the task's cgroup in each slot's hierarchy:
/// `subsys[controller]`. Unused where the hierarchy is the unified one.
#[unsafe(no_mangle)]
pub static SLOT_CSS: Slots = Slots::new();
