//! The process tracepoints: who enters, lands and ends.

use aya_ebpf::{
    bindings::BPF_ANY, helpers::generated::bpf_probe_read_user, programs::BtfTracePointContext,
};
use tracer_common::{
    ARGS_LEN, CgroupKey, Exec, Exit, FILENAME_LEN, Followed, Fork, Process, RUNTIME_ARGS_LEN,
    flags, kind,
};

use crate::{
    cgroup::follow,
    emit::{Class, emit, head, read_str, reserve, submit},
    maps::{PROCS, RUNTIMES},
    offsets::*,
    read::{Place, Ptr, Task, differ, forget, load, tracked},
};

/// An exec without arguments.
#[repr(C)]
struct ExecOnly {
    fixed: Exec,
    filename: [u8; FILENAME_LEN],
}

/// An exec with the arguments of class `N`.
#[repr(C)]
struct ExecArgs<const N: usize> {
    fixed: Exec,
    filename: [u8; FILENAME_LEN],
    args: [u8; N],
}

/// What is known of a followed process; no flag is set where nothing is.
#[inline(always)]
fn followed(pid: u32) -> Followed {
    let found = match PROCS.get_ptr(pid) {
        // SAFETY: the pointer came from a successful look-up; the value is plain data.
        Some(entry) => unsafe { *entry },
        None => Followed {
            cgroup: Place::NOWHERE.cgroup,
            flags: 0,
            reserved: 0,
        },
    };
    Followed {
        flags: forget(found.flags, pid),
        ..found
    }
}

/// A child in a tracked cgroup is an entrant if its parent is one that has not landed, or if it was
/// cloned into the cgroup. Only the birth of a possible init, and the first child of an entrant that
/// is one, are told.
pub fn fork(ctx: &BtfTracePointContext) {
    let child = Task(ctx.arg(1));
    let pid = child.tgid();
    if child.pid() != pid {
        return;
    }
    let css_set = child.css_set();
    let place = tracked(css_set);
    if !place.is_tracked() {
        return;
    }
    let cgroup = place.cgroup;
    let parent = Task(ctx.arg(0));
    let parent_entrant = followed(parent.tgid()).flags & flags::ENTRANT != 0;
    // A css_set is unique for its combination of cgroups: another one means CLONE_INTO_CGROUP.
    let cloned_into = parent.css_set() != css_set;
    if !parent_entrant && !cloned_into {
        return;
    }
    follow(pid, cgroup, flags::ENTRANT, BPF_ANY.into());
    let (upid, parent_upid) = (child.upid(), parent.upid());
    let mut bits =
        flags::TRACKED | flags::ENTRANT | (differ(upid.ns, parent_upid.ns) * flags::PID_NS_DIFFERS);
    if parent_entrant && parent_upid.nr == 1 {
        bits |= flags::PARENT_ENTRANT;
    }
    if bits & (flags::PID_NS_DIFFERS | flags::PARENT_ENTRANT) == 0 {
        return;
    }
    let process = child.process(upid);
    emit(kind::FORK, |head| Fork {
        head,
        cgroup,
        child: process,
        flags: bits,
        reserved: 0,
    });
}

pub fn exec(ctx: &BtfTracePointContext) {
    let task = Task(ctx.arg(0));
    let runtime = forget(u32::from(is_runtime(task)), task.pid());
    let place = tracked(task.css_set());
    if !place.is_tracked() && runtime == 0 {
        return;
    }
    let parent = task.real_parent();
    let (upid, parent_upid) = (task.upid(), parent.upid());
    let (mnt_ns, parent_mnt_ns) = (task.mnt_ns(), parent.mnt_ns());
    let parent_cgroup = place.same_hierarchy(parent.css_set());
    let mut bits = (differ(upid.ns, parent_upid.ns) * flags::PID_NS_DIFFERS)
        | (differ(mnt_ns, parent_mnt_ns) * flags::MNT_NS_DIFFERS)
        | (runtime * flags::RUNTIME);
    if place.is_tracked() {
        bits |= flags::TRACKED;
        bits |= landing(task.tgid(), place.cgroup, bits);
    }
    let mut bits = forget(bits, task.pid());
    let told = bits & (flags::RUNTIME | flags::ENTRANT | flags::LANDED) != 0;
    if !told {
        if WITH_PROCESSES.load() == 0 {
            return;
        }
        bits |= flags::BULK;
    }
    let bprm: Ptr = ctx.arg(2);
    let mm: Ptr = load(task.0, TASK_MM.load());
    let exec = ExecOf {
        process: task.process(upid),
        uid: task.uid(),
        cgroup: place.cgroup,
        parent_cgroup,
        bits,
        filename: load(bprm, BPRM_FILENAME.load()),
        args: load(mm, MM_ARG_START.load()),
        args_end: load(mm, MM_ARG_END.load()),
    };
    if bits & flags::RUNTIME != 0 {
        exec.emit_with_args::<RUNTIME_ARGS_LEN>();
    } else if WITH_ARGS.load() != 0 {
        exec.emit_with_args::<ARGS_LEN>();
    } else {
        exec.emit();
    }
}

/// Follows a process over its exec in a tracked cgroup. Returns [`flags::LANDED`] if this is the
/// landing, [`flags::ENTRANT`] if it is an entrant that is still on its way.
///
/// A process that landed before and executes again tells nothing new: the bits stay empty.
#[inline(always)]
fn landing(pid: u32, cgroup: CgroupKey, bits: u32) -> u32 {
    let before = followed(pid).flags;
    if before & flags::LANDED != 0 {
        return 0;
    }
    let entrant = before & flags::ENTRANT;
    if bits & flags::PID_NS_DIFFERS != 0 || (entrant != 0 && bits & flags::MNT_NS_DIFFERS != 0) {
        follow(pid, cgroup, flags::LANDED, BPF_ANY.into());
        return entrant | flags::LANDED;
    }
    entrant
}

#[inline(always)]
fn is_runtime(task: Task) -> bool {
    RUNTIMES.get_ptr(task.comm()).is_some()
}

/// An exec about to be told.
struct ExecOf {
    process: Process,
    uid: u32,
    cgroup: CgroupKey,
    parent_cgroup: CgroupKey,
    bits: u32,
    /// Address in the kernel.
    filename: u64,
    /// Addresses in the new program's memory.
    args: u64,
    args_end: u64,
}

impl ExecOf {
    #[inline(always)]
    fn class(&self) -> Class {
        if self.bits & flags::BULK == 0 {
            Class::Lifecycle
        } else {
            Class::Bulk
        }
    }

    #[inline(always)]
    fn fixed<T>(&self, filename: Text, args: Text) -> Exec {
        let mut flags = self.bits;
        if filename.cut {
            flags |= flags::FILENAME_CUT;
        }
        if args.cut {
            flags |= flags::ARGS_CUT;
        }
        Exec {
            head: head::<T>(kind::EXEC),
            cgroup: self.cgroup,
            parent_cgroup: self.parent_cgroup,
            process: self.process,
            flags,
            filename_len: filename.len,
            args_len: args.len,
            uid: self.uid,
            reserved: 0,
        }
    }

    #[inline(always)]
    fn emit(&self) {
        let Some(mut entry) = reserve::<ExecOnly>(kind::EXEC, self.class()) else {
            return;
        };
        let record = entry.as_mut_ptr();
        // SAFETY: `record` is reserved memory of this type.
        let text = unsafe { &mut (*record).filename };
        let filename = read_tail(self.filename, text);
        let fixed = self.fixed::<ExecOnly>(filename, Text::EMPTY);
        // SAFETY: as above.
        unsafe { (*record).fixed = fixed };
        submit(entry, self.class());
    }

    #[inline(always)]
    fn emit_with_args<const N: usize>(&self) {
        let Some(mut entry) = reserve::<ExecArgs<N>>(kind::EXEC, self.class()) else {
            return;
        };
        let record = entry.as_mut_ptr();
        // SAFETY: `record` is reserved memory of this type.
        let text = unsafe { &mut (*record).filename };
        let filename = read_tail(self.filename, text);
        // SAFETY: as above.
        let text = unsafe { &mut (*record).args };
        let args = read_args(self.args, self.args_end, text);
        let fixed = self.fixed::<ExecArgs<N>>(filename, args);
        // SAFETY: as above.
        unsafe { (*record).fixed = fixed };
        submit(entry, self.class());
    }
}

/// How much of a text was recorded.
#[derive(Clone, Copy)]
struct Text {
    len: u16,
    cut: bool,
}

impl Text {
    const EMPTY: Self = Self { len: 0, cut: false };
}

/// Reads the kernel string at `src`; of one that is too long, the end: the leaf says what it is.
#[inline(always)]
fn read_tail(src: u64, dst: &mut [u8; FILENAME_LEN]) -> Text {
    const STEP: usize = FILENAME_LEN - 1;
    let mut len = read_str(src as *const u8, dst);
    let mut total = len;
    // `PATH_MAX` is 4096 bytes.
    for _ in 0..4096 / STEP {
        if len < STEP {
            break;
        }
        len = read_str((src + total as u64) as *const u8, dst);
        total += len;
    }
    if total <= STEP {
        if total == STEP {
            read_str(src as *const u8, dst);
        }
        return Text {
            len: total as u16,
            cut: false,
        };
    }
    read_str((src + (total - STEP) as u64) as *const u8, dst);
    Text {
        len: STEP as u16,
        cut: true,
    }
}

/// Copies the argument vector, NUL between arguments, from the new program's own memory. Its pages
/// were written by the exec a moment ago, so they are there to be read without faulting.
#[inline(always)]
fn read_args<const N: usize>(start: u64, end: u64, dst: &mut [u8; N]) -> Text {
    let size = end.saturating_sub(start);
    let len = if size > N as u64 { N as u64 } else { size };
    // SAFETY: `len` is at most `N`; the helper checks the user address.
    let failed =
        unsafe { bpf_probe_read_user(dst.as_mut_ptr().cast(), len as u32, start as *const _) };
    if failed != 0 {
        return Text { len: 0, cut: true };
    }
    Text {
        len: len as u16,
        cut: size > N as u64,
    }
}

/// The end of a process is the end of its last thread; which thread that is says nothing.
pub fn exit(ctx: &BtfTracePointContext) {
    let task = Task(ctx.arg(0));
    let signal: Ptr = load(task.0, TASK_SIGNAL.load());
    let group_dead = if EXIT_HAS_GROUP_DEAD.load() != 0 {
        ctx.arg::<u64>(1) as u8 != 0
    } else {
        // Two threads of one exit may both see zero here; the first one takes the entry of PROCS,
        // and user space knows bulk exits by pid and start.
        load::<i32>(signal, SIGNAL_LIVE.load()) == 0
    };
    if !group_dead {
        return;
    }
    let pid = task.tgid();
    let entry = followed(pid);
    let mut bits = entry.flags;
    let mut cgroup = entry.cgroup;
    if bits != 0 {
        if PROCS.remove(pid).is_err() {
            return;
        }
        bits |= flags::TRACKED;
    } else if WITH_PROCESSES.load() == 0 {
        return;
    }
    // An entrant that never landed is known by the first cgroup that it was brought into; on v1 that
    // may be of a hierarchy that is not followed any more.
    if WITH_PROCESSES.load() != 0 || bits & flags::LANDED == 0 {
        let place = tracked(task.css_set());
        if place.is_tracked() {
            cgroup = place.cgroup;
            bits |= flags::TRACKED;
        }
    }
    if bits & flags::TRACKED == 0 {
        return;
    }
    // The last thread to end is often not the leader, and has ids and a name of its own.
    let leader = task.group_leader();
    let upid = leader.upid();
    // Of entrants that never landed only one that was the first of its namespace can be an init.
    if bits & flags::LANDED == 0 && (bits & flags::ENTRANT == 0 || upid.nr != 1) {
        if WITH_PROCESSES.load() == 0 {
            return;
        }
        bits |= flags::BULK;
    }
    let process = leader.process(upid);
    let status = wait_status(leader, signal);
    let class = if bits & flags::BULK == 0 {
        Class::Lifecycle
    } else {
        Class::Bulk
    };
    let Some(mut entry) = reserve::<Exit>(kind::EXIT, class) else {
        return;
    };
    entry.write(Exit {
        head: head::<Exit>(kind::EXIT),
        cgroup,
        process,
        status,
        flags: bits,
    });
    submit(entry, class);
}

/// `SIGNAL_GROUP_EXIT` of `linux/sched/signal.h`.
const SIGNAL_GROUP_EXIT: u32 = 4;

/// The status that the parent's wait will return: the group's if one was set (a signal, or
/// `exit_group`), else the leader's own.
#[inline(always)]
fn wait_status(leader: Task, signal: Ptr) -> u32 {
    let group: u32 = load(signal, SIGNAL_FLAGS.load());
    // Both, always: of a load in each branch the compiler makes one, with a pointer and an offset that
    // belong together, which the verifier does not see.
    let of_group: u32 = load(signal, SIGNAL_GROUP_EXIT_CODE.load());
    let own: u32 = load(leader.0, TASK_EXIT_CODE.load());
    if group & SIGNAL_GROUP_EXIT != 0 {
        of_group
    } else {
        own
    }
}
