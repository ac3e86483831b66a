//! What tracer relies on in the kernel: tracepoints with their prototypes, members, enumerators.
//!
//! One table each, checked against the running kernel before anything is loaded, and against the
//! BTF of other kernels by `cargo xtask kernels`. A name that is missing is an error that says which
//! one, or a degradation that is named in `node.started`; never a wrong value.

use super::btf::{Btf, BtfError, Param};

/// A program and the tracepoint it hangs on.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Name of the program in the eBPF object, and of the tracepoint.
    pub name: &'static str,
    /// Structs that its first arguments point to; `None` for any other kind of argument.
    pub args: &'static [Option<&'static str>],
    /// Whether tracer is of use without it.
    pub required: bool,
    /// What is missing without it.
    pub gives: &'static str,
}

const CGROUP: Option<&str> = Some("cgroup");
const TASK: Option<&str> = Some("task_struct");

/// In the order of attachment. Ends come before beginnings: an exit or rmdir in the moment between
/// two attachments then finds its program there, and no entry is left behind as a ghost (with mkdir
/// first, 1 ghost was measured in 40 rounds; in this order none in 300).
pub const PROGRAMS: &[Program] = &[
    Program {
        name: "sched_process_exit",
        args: &[TASK],
        required: true,
        gives: "container.exited, container.exec_exited",
    },
    Program {
        name: "cgroup_rmdir",
        args: &[CGROUP, None],
        required: true,
        gives: "container.removed",
    },
    Program {
        name: "cgroup_notify_populated",
        args: &[CGROUP, None, None],
        required: true,
        gives: "container.emptied",
    },
    Program {
        name: "cgroup_notify_frozen",
        args: &[CGROUP, None, None],
        required: false,
        gives: "container.paused and container.resumed on cgroup v2",
    },
    Program {
        name: "mark_victim",
        args: &[TASK, None],
        required: false,
        gives: "container.oom, oom_killed",
    },
    Program {
        name: "sched_process_exec",
        args: &[TASK, None, Some("linux_binprm")],
        required: true,
        gives: "container.started, container.exec_started",
    },
    Program {
        name: "cgroup_attach_task",
        args: &[CGROUP, None, TASK, None],
        required: true,
        gives: "container.started with --pid=host",
    },
    Program {
        name: "sched_process_fork",
        args: &[TASK, TASK],
        required: true,
        gives: "container.start_failed",
    },
    Program {
        name: "cgroup_rename",
        args: &[CGROUP, None],
        required: false,
        gives: "the new path of a renamed v1 cgroup",
    },
    Program {
        name: "cgroup_mkdir",
        args: &[CGROUP, None],
        required: true,
        gives: "container.created",
    },
];

/// A constant of the programs, and the member whose offset it is.
struct Member(&'static str, &'static str, &'static str);

const MEMBERS: &[Member] = &[
    Member("TASK_PID", "task_struct", "pid"),
    Member("TASK_TGID", "task_struct", "tgid"),
    Member("TASK_REAL_PARENT", "task_struct", "real_parent"),
    Member("TASK_GROUP_LEADER", "task_struct", "group_leader"),
    Member("TASK_THREAD_PID", "task_struct", "thread_pid"),
    Member("TASK_SIGNAL", "task_struct", "signal"),
    Member("TASK_CGROUPS", "task_struct", "cgroups"),
    Member("TASK_NSPROXY", "task_struct", "nsproxy"),
    Member("TASK_MM", "task_struct", "mm"),
    Member("TASK_EXIT_CODE", "task_struct", "exit_code"),
    Member("TASK_START_BOOTTIME", "task_struct", "start_boottime"),
    Member("TASK_COMM", "task_struct", "comm"),
    Member("TASK_CRED", "task_struct", "cred"),
    Member("CRED_EUID", "cred", "euid"),
    Member("SIGNAL_LIVE", "signal_struct", "live"),
    Member("SIGNAL_FLAGS", "signal_struct", "flags"),
    Member("SIGNAL_GROUP_EXIT_CODE", "signal_struct", "group_exit_code"),
    Member("NSPROXY_MNT_NS", "nsproxy", "mnt_ns"),
    Member("PID_LEVEL", "pid", "level"),
    Member("PID_NUMBERS", "pid", "numbers"),
    Member("UPID_NR", "upid", "nr"),
    Member("UPID_NS", "upid", "ns"),
    Member("MM_ARG_START", "mm_struct", "arg_start"),
    Member("MM_ARG_END", "mm_struct", "arg_end"),
    Member("BPRM_FILENAME", "linux_binprm", "filename"),
    Member("CSS_SET_DFL_CGRP", "css_set", "dfl_cgrp"),
    Member("CSS_SET_SUBSYS", "css_set", "subsys"),
    Member("CSS_CGROUP", "cgroup_subsys_state", "cgroup"),
    Member("CSS_PARENT", "cgroup_subsys_state", "parent"),
    Member("CGROUP_SELF", "cgroup", "self"),
    Member("CGROUP_KN", "cgroup", "kn"),
    Member("CGROUP_ROOT", "cgroup", "root"),
    Member("CGROUP_LEVEL", "cgroup", "level"),
    Member("ROOT_HIERARCHY_ID", "cgroup_root", "hierarchy_id"),
    Member("KN_ID", "kernfs_node", "id"),
    Member("KN_NAME", "kernfs_node", "name"),
];

/// Absent on a kernel without memory cgroups; `container.oom` then lacks the limit.
const MEMCG_MEMBERS: &[Member] = &[
    Member("MEMCG_CSS", "mem_cgroup", "css"),
    Member("MEMCG_MEMORY", "mem_cgroup", "memory"),
    Member("PAGE_COUNTER_USAGE", "page_counter", "usage"),
    Member("PAGE_COUNTER_MAX", "page_counter", "max"),
];

const SUBSYS_ENUM: &str = "cgroup_subsys_id";

/// Values for the programs' constants, in the order of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constants {
    pub offsets: Vec<(&'static str, u32)>,
    /// What this kernel lacks and what that costs.
    pub degraded: Vec<String>,
}

/// Whether the tables below name this struct, enum or typedef.
#[must_use]
pub fn is_needed(name: &[u8]) -> bool {
    name == SUBSYS_ENUM.as_bytes()
        || name.starts_with(b"btf_trace_")
        || MEMBERS
            .iter()
            .chain(MEMCG_MEMBERS)
            .any(|member| member.1.as_bytes() == name)
}

/// Looks everything up.
///
/// # Errors
///
/// The first member or required tracepoint that is missing or of another shape.
pub fn resolve(btf: &Btf) -> Result<Constants, BtfError> {
    let mut offsets = Vec::new();
    let mut degraded = Vec::new();
    for Member(constant, name, member) in MEMBERS {
        offsets.push((*constant, btf.member_offset(name, member)?));
    }
    offsets.push(("UPID_SIZE", btf.struct_size("upid")?));
    match resolve_memcg(btf) {
        Ok(found) => {
            offsets.extend(found);
            offsets.push(("HAS_MEMCG", 1));
        }
        Err(why) => degraded.push(format!("container.oom lacks the limit: {why}")),
    }
    let exit = btf.tracepoint("sched_process_exit")?;
    offsets.push(("EXIT_HAS_GROUP_DEAD", u32::from(exit.len() > 1)));
    let victim = btf.tracepoint("mark_victim").unwrap_or_default();
    let has_task = victim.first() == Some(&Param::Struct("task_struct".to_owned()));
    offsets.push(("OOM_HAS_TASK", u32::from(has_task)));
    if !has_task {
        degraded.push("no container.oom: oom:mark_victim does not carry the task".to_owned());
    }
    for program in PROGRAMS.iter().filter(|program| program.required) {
        check_prototype(btf, program)?;
    }
    Ok(Constants { offsets, degraded })
}

fn resolve_memcg(btf: &Btf) -> Result<Vec<(&'static str, u32)>, BtfError> {
    let mut offsets = vec![("MEMORY_SUBSYS", subsys(btf, "memory")?)];
    for Member(constant, name, member) in MEMCG_MEMBERS {
        offsets.push((constant, btf.member_offset(name, member)?));
    }
    Ok(offsets)
}

/// Index of a v1 controller in `css_set.subsys`; `blkio` is named `io` in the enum.
///
/// # Errors
///
/// [`BtfError::NoMember`] for a controller that this kernel lacks.
pub fn subsys(btf: &Btf, controller: &str) -> Result<u32, BtfError> {
    let name = match controller {
        "blkio" => "io",
        "debug" => "debug",
        other => other,
    };
    btf.enum_value(SUBSYS_ENUM, &format!("{name}_cgrp_id"))
}

/// Whether the tracepoint's arguments are what the program takes them for. More arguments than
/// expected are fine: kernels append.
///
/// # Errors
///
/// [`BtfError::NoType`] or [`BtfError::NoMember`], naming the tracepoint and its argument.
pub fn check_prototype(btf: &Btf, program: &Program) -> Result<(), BtfError> {
    let params = btf.tracepoint(program.name)?;
    for (position, expected) in program.args.iter().enumerate() {
        let wrong = || {
            BtfError::NoMember(
                format!("tracepoint {}", program.name),
                format!("argument {position} ({})", expected.unwrap_or("any")),
            )
        };
        let found = params.get(position).ok_or_else(wrong)?;
        if let Some(name) = expected
            && *found != Param::Struct((*name).to_owned())
        {
            return Err(wrong());
        }
    }
    Ok(())
}
