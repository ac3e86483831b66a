//! What the daemon gives up once the kernel side is attached and its socket is bound.
//!
//! ```text
//! attach ─▶ bind ─▶ enter ─▶ first thread ─▶ files, upstreams, event loop
//!                     │
//!                     ├─ no_new_privs
//!                     ├─ capabilities: effective, permitted, inheritable, ambient, bounding
//!                     └─ system calls: what is not on the list fails with EPERM
//! ```
//!
//! Capabilities belong to threads: it must be the first thread, and the only one, that enters;
//! later ones inherit all of it. The kernel's own checks are the wall, the filter of system calls
//! stands in front of it: it forbids to execute anything, to load programs, to trace, to mount, to
//! change namespaces or users, kernel modules, raw memory of others. A forbidden call *fails*
//! instead of ending the process: a tracer that lost a function tells more than one that is gone.
//!
//! Landlock is not used: a domain may not look at processes outside of it, and that (`/proc/PID/root`,
//! `/proc/PID/ns`) is how containers' files and namespaces are found.
//!
//! Nothing here ends the run: a kernel that offers less gets less, which is logged.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use caps::{CapSet, Capability, CapsHashSet};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::{cli::SandboxArg, config::Config, sink::socket::Choice};

/// Capabilities that are kept.
///
/// `CAP_BPF` to read and write the maps where unprivileged bpf(2) is switched off, before Linux
/// 5.19; `CAP_DAC_READ_SEARCH` for files of runtimes that run as users; `CAP_SYS_PTRACE` for
/// `/proc/PID/root` and `/proc/PID/ns` of processes that may do more than tracer.
pub const KEPT: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_SYS_PTRACE,
];

/// Gives up what is not needed any more. Call it while there is one thread.
pub fn enter(config: &Config) {
    if config.sandbox == SandboxArg::None {
        return;
    }
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        tracing::warn!(%error, "executing could still give privileges");
    }
    let mut kept = CapsHashSet::from(KEPT);
    if let Some(path) = elsewhere(&written(config)) {
        // Root without this writes only to what is its own.
        tracing::info!(path = %path.display(), "CAP_DAC_OVERRIDE is kept: the directory belongs to another user");
        kept.insert(Capability::CAP_DAC_OVERRIDE);
    }
    if config.runtimes.asks_users() {
        // A socket is connected to by who may write to it: its user.
        tracing::info!("CAP_DAC_OVERRIDE is kept: [runtimes] users is on");
        kept.insert(Capability::CAP_DAC_OVERRIDE);
    }
    if let Err(error) = limit_capabilities(&kept) {
        tracing::warn!(error = format!("{error:#}"), "capabilities are kept");
    }
    if config.sandbox == SandboxArg::Full
        && let Err(error) = filter_calls()
    {
        tracing::warn!(
            error = format!("{error:#}"),
            "system calls are not filtered"
        );
    }
}

/// Files that the daemon makes, opens again or removes later.
fn written(config: &Config) -> Vec<&Path> {
    let files = [&config.file, &config.record];
    let parents = files.into_iter().flatten().filter_map(|file| file.parent());
    let mut all: Vec<&Path> = parents.chain(config.state_dir.as_deref()).collect();
    if let Choice::At(path) = &config.socket {
        all.extend(path.parent());
    }
    #[cfg(feature = "upstream")]
    all.extend(
        config
            .upstream
            .iter()
            .filter_map(|upstream| upstream.spool_dir.as_deref()),
    );
    all
}

/// The first directory that is not this user's own.
fn elsewhere(directories: &[&Path]) -> Option<PathBuf> {
    let own = rustix::process::geteuid().as_raw();
    let there = directories.iter().filter_map(|directory| {
        // The parent of a plain file name is the empty path.
        let directory = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory
        };
        // What is not there yet will be made by tracer, below one that is.
        let there = directory.ancestors().find(|one| one.exists())?;
        Some((there, fs::metadata(there).ok()?.uid()))
    });
    there
        .filter(|(_, uid)| *uid != own)
        .map(|(directory, _)| directory.to_owned())
        .next()
}

fn limit_capabilities(kept: &CapsHashSet) -> anyhow::Result<()> {
    // The bounding set first: it takes CAP_SETPCAP.
    let bounding = caps::read(None, CapSet::Bounding).context("cannot read the bounding set")?;
    for capability in bounding.difference(kept) {
        if let Err(error) = caps::drop(None, CapSet::Bounding, *capability) {
            // Nothing is executed any more, with no_new_privs not even for its sake.
            tracing::debug!(%capability, %error, "the bounding set stays as it is");
            break;
        }
    }
    caps::clear(None, CapSet::Ambient).context("cannot clear the ambient set")?;
    caps::clear(None, CapSet::Inheritable).context("cannot clear the inheritable set")?;
    let permitted = caps::read(None, CapSet::Permitted).context("cannot read the permitted set")?;
    let kept: CapsHashSet = permitted.intersection(kept).copied().collect();
    // Effective before permitted: never more effective than permitted.
    caps::set(None, CapSet::Effective, &kept).context("cannot set the effective set")?;
    caps::set(None, CapSet::Permitted, &kept).context("cannot set the permitted set")?;
    Ok(())
}

fn filter_calls() -> anyhow::Result<()> {
    let arch =
        TargetArch::try_from(std::env::consts::ARCH).context("no filter for this machine")?;
    // The last one installed is asked first; the kernel takes the strictest answer of all.
    for program in [new_threads(arch)?, allowed(arch)?] {
        seccompiler::apply_filter(&program).context("the kernel refused the filter")?;
    }
    Ok(())
}

/// clone3 takes its flags from memory, where no filter can look. It is told not to exist, and the C
/// library falls back to clone.
fn new_threads(arch: TargetArch) -> anyhow::Result<BpfProgram> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let errno = u32::try_from(libc::ENOSYS).context("an errno")?;
    program(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        arch,
    )
}

fn allowed(arch: TargetArch) -> anyhow::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(OLD_CALLS.iter().map(|call| (*call, Vec::new())));
    let thread = u64::try_from(libc::CLONE_THREAD).context("a flag")?;
    let is_thread = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(thread),
        thread,
    )?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_thread])?]);
    // The other filter answers for it.
    rules.insert(libc::SYS_clone3, Vec::new());
    let commands = BPF_COMMANDS.iter().map(|command| {
        let is_it = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *command)?;
        SeccompRule::new(vec![is_it])
    });
    rules.insert(libc::SYS_bpf, commands.collect::<Result<_, _>>()?);
    let errno = u32::try_from(libc::EPERM).context("an errno")?;
    program(
        rules,
        SeccompAction::Errno(errno),
        SeccompAction::Allow,
        arch,
    )
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
    arch: TargetArch,
) -> anyhow::Result<BpfProgram> {
    let filter = SeccompFilter::new(rules, otherwise, matched, arch)?;
    Ok(filter.try_into()?)
}

/// What bpf(2) is still used for: elements of maps (`linux/bpf.h`: look up, update, delete, next
/// key, look up and delete, the batches of these), and what a map is (by its descriptor).
const BPF_COMMANDS: [u64; 10] = [1, 2, 3, 4, 15, 21, 24, 25, 26, 27];

/// What is called in any mode, by what it is for.
const CALLS: &[i64] = &[
    // memory
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_membarrier,
    // threads and processes
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_wait4,
    libc::SYS_restart_syscall,
    // signals
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    // time; the clock's state is read with adjtimex, to set it takes a capability
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    // identity of this process and the host
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_capget,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
    // waiting
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_pidfd_open,
    // files
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_msync,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_ftruncate,
    libc::SYS_truncate,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_umask,
    libc::SYS_copy_file_range,
    libc::SYS_memfd_create,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_vmsplice,
    libc::SYS_sendfile,
    libc::SYS_name_to_handle_at,
    // sockets
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
];

/// The older forms of the above, which C libraries still use where there are any.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[i64] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_creat,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getdents,
    libc::SYS_inotify_init,
    libc::SYS_link,
    libc::SYS_lchown,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
    libc::SYS_arch_prctl,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_another_user_is_noticed() {
        let own = tempdir();
        assert_eq!(elsewhere(&[&own, &own.join("not/yet")]), None);
        if rustix::process::geteuid().is_root() {
            let theirs = own.join("theirs");
            fs::create_dir(&theirs).expect("a directory");
            std::os::unix::fs::chown(&theirs, Some(1234), None).expect("given away");
            assert_eq!(elsewhere(&[&own, &theirs]), Some(theirs.clone()));
            assert_eq!(elsewhere(&[&theirs.join("not/yet")]), Some(theirs));
        }
        fs::remove_dir_all(own).expect("removed");
    }

    fn tempdir() -> PathBuf {
        let path = std::env::temp_dir().join(format!("tracer-sandbox-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    /// Threads of a test do not touch each other: the filter is the thread's own.
    #[test]
    fn what_is_not_listed_fails_and_threads_begin() {
        let inside = std::thread::spawn(|| {
            filter_calls().expect("a filter");
            let executed = std::process::Command::new("/bin/true").status();
            let error = executed.expect_err("no process may begin").raw_os_error();
            let thread = std::thread::spawn(|| fs::read("/proc/self/stat").is_ok());
            (error, thread.join().expect("a thread"))
        });
        assert_eq!(inside.join().expect("no panic"), (Some(libc::EPERM), true));
    }

    #[test]
    fn capabilities_are_the_threads_own_and_become_fewer() {
        let inside = std::thread::spawn(|| {
            let kept = CapsHashSet::from(KEPT);
            limit_capabilities(&kept).expect("fewer");
            let read = |set| caps::read(None, set).expect("a set");
            for set in [CapSet::Effective, CapSet::Permitted] {
                assert!(read(set).is_subset(&kept));
            }
            for set in [CapSet::Inheritable, CapSet::Ambient] {
                assert!(read(set).is_empty());
            }
        });
        inside.join().expect("no panic");
    }
}
