//! `oom:mark_victim`: the OOM killer chose a process.
//!
//! With `memory.oom.group` the kernel marks every process of the group in the context of the first,
//! so the victim is the tracepoint's task, never the current one.
//!
//! Whose limit was hit is not among the arguments. It is the nearest memory cgroup above the victim
//! that has no room left: a charge failed there, after reclaim, and the OOM lock is still held. The
//! margin of one charge batch (`MEMCG_CHARGE_BATCH`, 64 pages) covers what other CPUs gave back
//! since.

use aya_ebpf::programs::BtfTracePointContext;
use tracer_common::{CgroupKey, Oom, flags, kind};

use crate::{
    emit::emit,
    offsets::*,
    read::{Ptr, Task, load, probe, tracked},
};

/// Depth of memory cgroups that is searched for the limit.
const MAX_DEPTH: usize = 24;
/// Pages that may be free below a limit that was just hit.
const MARGIN_PAGES: u64 = 64;
const PAGE_SIZE: u64 = 4096;

pub fn mark_victim(ctx: &BtfTracePointContext) {
    if OOM_HAS_TASK.load() == 0 {
        return;
    }
    let task = Task(ctx.arg(0));
    let css_set = task.css_set();
    let place = tracked(css_set);
    if !place.is_tracked() {
        return;
    }
    // The kernel names a thread that still has the memory; the process is its leader's.
    let leader = task.group_leader();
    let victim = leader.process(leader.upid());
    let limit = if HAS_MEMCG.load() == 0 {
        Limit::NONE
    } else {
        let subsys = CSS_SET_SUBSYS.load() + MEMORY_SUBSYS.load() * 8;
        Limit::find(load(css_set, subsys))
    };
    emit(kind::OOM, |head| Oom {
        head,
        cgroup: place.cgroup,
        victim,
        limit: limit.owner,
        memory: limit.memory,
        limit_bytes: limit.bytes,
        flags: flags::TRACKED,
        reserved: 0,
    });
}

/// A memory cgroup that ran out.
struct Limit {
    owner: CgroupKey,
    memory: CgroupKey,
    bytes: u64,
}

impl Limit {
    const NONE: Self = Self {
        owner: CgroupKey::new(0, 0),
        memory: CgroupKey::new(0, 0),
        bytes: 0,
    };

    /// Walks up from the victim's memory css to the first without room.
    #[inline(always)]
    fn find(css: Ptr) -> Self {
        let memory = css_key(css);
        let mut css = css;
        for _ in 0..MAX_DEPTH {
            if css.is_null() {
                break;
            }
            let counter = css.wrapping_byte_add(
                (MEMCG_MEMORY.load() as usize).wrapping_sub(MEMCG_CSS.load() as usize),
            );
            let usage: u64 = probe(counter, PAGE_COUNTER_USAGE.load());
            let max: u64 = probe(counter, PAGE_COUNTER_MAX.load());
            if max != 0 && usage.saturating_add(MARGIN_PAGES) >= max {
                return Self {
                    owner: css_key(css),
                    memory,
                    bytes: max.saturating_mul(PAGE_SIZE),
                };
            }
            css = probe::<u64>(css, CSS_PARENT.load()) as Ptr;
        }
        Self {
            memory,
            ..Self::NONE
        }
    }
}

/// The cgroup that a css belongs to, read without types.
#[inline(always)]
fn css_key(css: Ptr) -> CgroupKey {
    let cgroup = probe::<u64>(css, CSS_CGROUP.load()) as Ptr;
    let kn = probe::<u64>(cgroup, CGROUP_KN.load()) as Ptr;
    let root = probe::<u64>(cgroup, CGROUP_ROOT.load()) as Ptr;
    CgroupKey::new(
        probe(root, ROOT_HIERARCHY_ID.load()),
        probe(kn, KN_ID.load()),
    )
}
