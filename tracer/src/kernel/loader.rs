//! Loading in a process of its own.
//!
//! ```text
//! daemon ── Order (JSON) ──▶ stdin  `tracer load-programs` ── loads, pins, ends
//!    ▲                                      │
//!    └──────── Answer (JSON) ◀── stdout ────┘          then opens the pins and removes them
//! ```
//!
//! The kernel's type information costs some tens of megabytes to read and to search; a process that
//! ends gives all of that back. It ends with the daemon: what it leaves is what a daemon that was
//! killed leaves, and the next one removes it.

use std::{
    env,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
};

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::{
    hierarchies::Hierarchies,
    load::{Facts, Kernel, LoadError, Loaded, Options},
    pins::{BPFFS, Pins, is_bpffs},
};

/// The hidden verb of the loading process.
pub const VERB: &str = "load-programs";

/// Its memory lives for a tenth of a second, a third of which went on page faults: glibc takes huge
/// pages for it where the kernel has any. Another libc does not look at this.
const TUNABLES: &str = "GLIBC_TUNABLES";

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    /// Who waits for the answer.
    daemon: i32,
    options: Options,
    directory: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Pinned(Facts),
    Refused { host: bool, message: String },
}

/// Has everything loaded and attached, and takes it over. Where pins are, they come back as well,
/// for the caller to keep or to remove.
///
/// # Errors
///
/// [`LoadError`]; nothing stays attached then.
pub fn load(
    options: &Options,
    hierarchies: &Hierarchies,
) -> Result<(Kernel, Option<Pins>), LoadError> {
    let here = |hierarchies| Ok((Loaded::load(options, hierarchies)?.into_kernel()?, None));
    if cfg!(feature = "log") || !ensure_bpffs() {
        return here(hierarchies);
    }
    let pins = match Pins::for_loading() {
        Ok(pins) => pins,
        Err(error) => {
            tracing::info!(%error, "no use of bpffs: loading in the daemon itself, which needs more memory");
            return here(hierarchies);
        }
    };
    let kernel = order(options, &pins).and_then(|facts| Kernel::open(pins.path(), facts));
    match kernel {
        Ok(kernel) => Ok((kernel, Some(pins))),
        Err(error) => {
            if let Err(error) = pins.remove() {
                tracing::warn!(%error, "pins stay in bpffs");
            }
            Err(error)
        }
    }
}

/// As bpftool does: bpffs is where everybody looks for it, or is mounted there.
fn ensure_bpffs() -> bool {
    use rustix::mount::{MountFlags, mount};

    if is_bpffs(BPFFS.as_ref()) {
        return true;
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount("bpf", BPFFS, "bpf", flags, Some(c"mode=0700")) {
        Ok(()) => {
            tracing::info!("mounted bpffs at {BPFFS}");
            true
        }
        Err(error) => {
            tracing::info!(%error, "no bpffs at {BPFFS}: loading in the daemon itself, which needs more memory");
            false
        }
    }
}

fn order(options: &Options, pins: &Pins) -> Result<Facts, LoadError> {
    let failed = |why: String| LoadError::Loader {
        host: false,
        message: format!("the loading process failed: {why}"),
    };
    let order = Order {
        daemon: getpid().as_raw_nonzero().get(),
        options: options.clone(),
        directory: pins.path().to_owned(),
    };
    let order = serde_json::to_vec(&order).map_err(|error| failed(error.to_string()))?;
    let mut loader = Command::new("/proc/self/exe");
    if env::var_os(TUNABLES).is_none() {
        loader.env(TUNABLES, "glibc.malloc.hugetlb=1");
    }
    let mut process = loader
        .arg(VERB)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = process.stdin.take() {
        // One that ended early says why below.
        drop(stdin.write_all(&order));
    }
    let mut answer = Vec::new();
    if let Some(mut stdout) = process.stdout.take() {
        stdout
            .read_to_end(&mut answer)
            .map_err(|error| failed(error.to_string()))?;
    }
    let status = process.wait().map_err(|error| failed(error.to_string()))?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Pinned(facts)) => Ok(facts),
        Ok(Answer::Refused { host, message }) => Err(LoadError::Loader { host, message }),
        Err(error) => Err(failed(format!("it ended with {status}: {error}"))),
    }
}

/// What the loading process does, between its standard input and output.
///
/// # Errors
///
/// Those of reading the order and of writing the answer.
pub fn obey(hierarchies: &Hierarchies) -> anyhow::Result<()> {
    let mut order = Vec::new();
    std::io::stdin().lock().read_to_end(&mut order)?;
    if order.is_empty() {
        // The daemon was killed first.
        return Ok(());
    }
    let order: Order = serde_json::from_slice(&order)?;
    // Nobody would wait for what may take a second of a processor.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(order.daemon) {
        return Ok(());
    }
    let pinned =
        Loaded::load(&order.options, hierarchies).and_then(|loaded| loaded.pin(&order.directory));
    let answer = match pinned {
        Ok(facts) => Answer::Pinned(facts),
        Err(error) => Answer::Refused {
            host: error.is_the_hosts(),
            message: error.to_string(),
        },
    };
    let answer = serde_json::to_vec(&answer)?;
    if let Err(error) = std::io::stdout().lock().write_all(&answer) {
        // The daemon is gone, and nobody will take this over.
        Pins::at(order.directory).remove()?;
        return Err(error.into());
    }
    Ok(())
}
