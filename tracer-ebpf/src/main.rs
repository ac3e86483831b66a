//! tracer's kernel side: what ten tracepoints tell about containers, as records in one ring buffer.
//!
//! ```text
//!  cgroup_mkdir ──▶ TRACKED += cgroup ──▶ record          user space takes out what is no container
//!  cgroup_rmdir ──▶ TRACKED -= cgroup ──▶ record
//!  cgroup_attach_task ─▶ PROCS += entrant                 membership itself is never remembered:
//!  sched_process_fork ─▶ PROCS += entrant's child         it is read from the task, each time
//!  sched_process_exec ─▶ entrant lands ──▶ record
//!  sched_process_exit ─▶ PROCS -= process ─▶ record
//! ```
//!
//! # Invariants
//!
//! * **Nobody else pays.** A fork or exit outside every tracked cgroup costs one hash look-up, an
//!   exec two (the second asks whether the name is a container runtime's), and nothing is emitted.
//! * **No race decides what is seen.** A new cgroup is tracked from its mkdir on; user space only
//!   takes out what proves not to be a container, after it has read the record that says so.
//! * **A record is complete.** Nothing has to be read later from the `/proc` of a process that may
//!   be gone.
//! * **Nothing is lost silently.** What finds no room is counted per CPU and kind ([`maps::LOST`])
//!   and the count travels in the next record's head.
//! * **Nothing blocks or changes a process.** The programs only read.
//!
//! # Which process is told
//!
//! An *entrant* is a process that came into a cgroup from outside: attached to it, or cloned into it
//! (`CLONE_INTO_CGROUP`, which makes no attach event). Children of an entrant are entrants until it
//! *lands*: executes a file in a pid or mount namespace that is not its parent's. Container runtimes
//! execute themselves inside the container's cgroup before that (`/proc/self/exe`, `/dev/fd/6`),
//! without changing namespace: not a landing. An init and an exec session are landed processes; what
//! they fork is not followed.
//!
//! # Reading kernel structures
//!
//! The programs are of type `tp_btf`: arguments are typed pointers and a load at an offset is
//! checked by the verifier against the kernel's own types. Offsets are constants in `.rodata` that
//! user space takes from the running kernel's BTF ([`offsets`]); a wrong one is refused at load.

#![no_std]
#![no_main]
#![cfg_attr(
    target_arch = "bpf",
    feature(asm_experimental_arch),
    expect(
        unstable_features,
        reason = "the BPF target has its atomic add only as assembly"
    )
)]
#![expect(
    unsafe_code,
    reason = "kernel memory is reached through raw pointers and helpers"
)]
#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined is verified on its own, without the types of its arguments"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "a checked conversion brings a panic path, which the verifier refuses; bounds stand beside the casts"
)]
#![expect(
    clippy::wildcard_imports,
    reason = "the constants of `offsets` are the kernel's own names"
)]

mod cgroup;
mod emit;
mod maps;
mod offsets;
mod oom;
mod process;
mod read;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

/// One entry point per tracepoint: hook, program of the same name, body.
macro_rules! programs {
    ($($(#[$doc:meta])* $hook:literal $name:ident => $body:path;)*) => {$(
        $(#[$doc])*
        #[btf_tracepoint(function = $hook)]
        pub fn $name(ctx: BtfTracePointContext) -> i32 {
            #[cfg(feature = "log")]
            aya_log_ebpf::debug!(&ctx, $hook);
            $body(&ctx);
            0
        }
    )*};
}

programs! {
    /// `(struct cgroup *cgrp, const char *path)`
    "cgroup_mkdir" cgroup_mkdir => cgroup::mkdir;
    /// `(struct cgroup *cgrp, const char *path)`
    "cgroup_rmdir" cgroup_rmdir => cgroup::rmdir;
    /// `(struct cgroup *cgrp, const char *path)`, v1 only
    "cgroup_rename" cgroup_rename => cgroup::rename;
    /// `(struct cgroup *cgrp, const char *path, struct task_struct *task, bool threadgroup)`
    "cgroup_attach_task" cgroup_attach_task => cgroup::attach_task;
    /// `(struct cgroup *cgrp, const char *path, int val)`
    "cgroup_notify_populated" cgroup_notify_populated => cgroup::notify_populated;
    /// `(struct cgroup *cgrp, const char *path, int val)`, v2 only
    "cgroup_notify_frozen" cgroup_notify_frozen => cgroup::notify_frozen;
    /// `(struct task_struct *parent, struct task_struct *child)`
    "sched_process_fork" sched_process_fork => process::fork;
    /// `(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
    "sched_process_exec" sched_process_exec => process::exec;
    /// `(struct task_struct *p[, bool group_dead])`, the second from 6.16 on
    "sched_process_exit" sched_process_exit => process::exit;
    /// `(struct task_struct *task, uid_t uid)`
    "mark_victim" mark_victim => oom::mark_victim;
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Lets the kernel lend the helpers that are reserved for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
