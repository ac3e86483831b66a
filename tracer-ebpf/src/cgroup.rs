//! The cgroup tracepoints: which cgroups exist, who is brought into them, whether they are populated
//! or frozen.
//!
//! The path that the kernel passes is relative to the root of the hierarchy and cut after 1023
//! bytes, at its end (`TRACE_CGROUP_PATH_LEN`): the leaf, which is what identifies a container, then
//! comes from `kernfs_node.name`.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::bpf_get_current_task,
    programs::BtfTracePointContext,
};
use tracer_common::{
    CgroupKey, CgroupMkdir, CgroupState, Followed, LEAF_LEN, PATH_LARGE, PATH_SMALL, Tracked,
    flags, kind, loss,
};

use crate::{
    emit::{Class, emit, head, read_str, reserve, submit},
    maps::{PROCS, Step, TRACKED, count_live, count_loss},
    offsets::*,
    read::{Place, Ptr, Task, cgroup_key, load, probe, slot_of},
};

/// A record with a short path: nearly every one.
#[repr(C)]
struct SmallPath {
    fixed: CgroupMkdir,
    path: [u8; PATH_SMALL],
}

/// A record with a long path, and the leaf in case that the kernel cut it off.
#[repr(C)]
struct LargePath {
    fixed: CgroupMkdir,
    path: [u8; PATH_LARGE],
    leaf: [u8; LEAF_LEN],
}

pub fn mkdir(ctx: &BtfTracePointContext) {
    let cgroup: Ptr = ctx.arg(0);
    let key = cgroup_key(cgroup);
    let slot = slot_of(key.hierarchy);
    if slot == Place::NO_SLOT {
        return;
    }
    let entry = Tracked {
        slot,
        level: load(cgroup, CGROUP_LEVEL.load()),
    };
    if TRACKED.insert(key, entry, BPF_ANY.into()).is_ok() {
        count_live(slot, Step::Added);
    } else {
        count_loss(loss::CGROUPS_FULL);
    }
    with_path(ctx, kind::CGROUP_MKDIR, cgroup, key);
}

pub fn rmdir(ctx: &BtfTracePointContext) {
    let key = cgroup_key(ctx.arg(0));
    let Some(entry) = TRACKED.get_ptr(key) else {
        return;
    };
    // SAFETY: the pointer came from a successful look-up.
    let slot = unsafe { (*entry).slot };
    if TRACKED.remove(key).is_ok() {
        count_live(slot, Step::Removed);
        state(kind::CGROUP_RMDIR, key, 0);
    }
}

pub fn rename(ctx: &BtfTracePointContext) {
    let cgroup: Ptr = ctx.arg(0);
    let key = cgroup_key(cgroup);
    if slot_of(key.hierarchy) != Place::NO_SLOT {
        with_path(ctx, kind::CGROUP_RENAME, cgroup, key);
    }
}

/// Someone was brought in: remember it until it lands or ends.
pub fn attach_task(ctx: &BtfTracePointContext) {
    let key = cgroup_key(ctx.arg(0));
    if TRACKED.get_ptr(key).is_none() {
        return;
    }
    let task = Task(ctx.arg(2));
    follow(task.tgid(), key, flags::ENTRANT, BPF_NOEXIST.into());
}

pub fn notify_populated(ctx: &BtfTracePointContext) {
    changed(ctx, kind::CGROUP_POPULATED);
}

pub fn notify_frozen(ctx: &BtfTracePointContext) {
    changed(ctx, kind::CGROUP_FROZEN);
}

/// Enters a process into [`PROCS`]. With `BPF_NOEXIST` a process that is followed already stays as
/// it is: a landed one that moves between cgroups of its container is no entrant again.
#[inline(always)]
pub fn follow(pid: u32, cgroup: CgroupKey, flags: u32, how: u64) {
    let entry = Followed {
        cgroup,
        flags,
        reserved: 0,
    };
    if let Err(errno) = PROCS.insert(pid, entry, how)
        && errno != -EEXIST
    {
        count_loss(loss::PROCS_FULL);
    }
}

/// `EEXIST` of `uapi/asm-generic/errno-base.h`.
const EEXIST: i32 = 17;

#[inline(always)]
fn changed(ctx: &BtfTracePointContext, kind: u16) {
    let key = cgroup_key(ctx.arg(0));
    if TRACKED.get_ptr(key).is_some() {
        let value: i32 = ctx.arg(2);
        state(kind, key, u32::from(value != 0));
    }
}

#[inline(always)]
fn state(kind: u16, cgroup: CgroupKey, value: u32) {
    emit(kind, |head| CgroupState {
        head,
        cgroup,
        value,
        reserved: 0,
    });
}

#[inline(always)]
fn with_path(ctx: &BtfTracePointContext, kind: u16, cgroup: Ptr, key: CgroupKey) {
    let path: *const u8 = ctx.arg(1);
    // SAFETY: the helper has no precondition.
    let current = unsafe { bpf_get_current_task() } as Ptr;
    let parent: Ptr = probe::<u64>(current, TASK_REAL_PARENT.load()) as Ptr;
    // `cgroup.self` is the first member's css; its parent's css is the parent's `self`.
    let parent_css: Ptr = load(cgroup, CGROUP_SELF.load() + CSS_PARENT.load());
    let parent_cgroup = parent_css.wrapping_byte_sub(CGROUP_SELF.load() as usize);
    let parent_kn: Ptr = probe::<u64>(parent_cgroup, CGROUP_KN.load()) as Ptr;
    let mut fixed = CgroupMkdir {
        head: head::<SmallPath>(kind),
        cgroup: key,
        parent_id: probe(parent_kn, KN_ID.load()),
        level: load(cgroup, CGROUP_LEVEL.load()),
        maker_pid: ctx.tgid(),
        maker_parent_pid: probe(parent, TASK_TGID.load()),
        path_len: 0,
        leaf_len: 0,
    };
    let Some(mut entry) = reserve::<SmallPath>(kind, Class::Lifecycle) else {
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is reserved memory of this type.
    let text = unsafe { &mut (*record).path };
    let len = read_str(path, text);
    if len < PATH_SMALL - 1 {
        fixed.path_len = len as u16;
        // SAFETY: as above.
        unsafe { (*record).fixed = fixed };
        submit(entry, Class::Lifecycle);
        return;
    }
    entry.discard(aya_ebpf::bindings::BPF_RB_NO_WAKEUP.into());
    with_large_path(kind, cgroup, path, fixed);
}

#[inline(always)]
fn with_large_path(kind: u16, cgroup: Ptr, path: *const u8, mut fixed: CgroupMkdir) {
    let Some(mut entry) = reserve::<LargePath>(kind, Class::Lifecycle) else {
        return;
    };
    fixed.head.len = size_of::<LargePath>() as u32;
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is reserved memory of this type.
    let text = unsafe { &mut (*record).path };
    let len = read_str(path, text);
    fixed.path_len = len as u16;
    if len >= PATH_LARGE - 1 {
        let kn: Ptr = load(cgroup, CGROUP_KN.load());
        let name: u64 = load(kn, KN_NAME.load());
        // SAFETY: as above.
        let leaf = unsafe { &mut (*record).leaf };
        fixed.leaf_len = read_str(name as *const u8, leaf) as u16;
    }
    // SAFETY: as above.
    unsafe { (*record).fixed = fixed };
    submit(entry, Class::Lifecycle);
}
