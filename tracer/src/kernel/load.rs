//! Loading and attaching the programs.
//!
//! Everything that can be known beforehand is checked first (privilege, BTF, members), so that a
//! host that cannot run tracer is told so in one sentence with the remedy. What the kernel refuses
//! after that carries the verifier's own last lines.
//!
//! The daemon has this done by a process of its own ([`super::loader`]), because resolving types
//! takes ten times the memory of all the rest: what is loaded is handed over as pins in bpffs
//! ([`super::pins`]). Only where there is no bpffs does it load in itself.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fs, io,
    panic::resume_unwind,
    path::Path,
    sync::{Mutex, PoisonError},
    thread::{self, ScopedJoinHandle},
};

use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData},
    programs::{
        BtfTracePoint, ProgramError,
        links::{FdLink, PinnedLink},
    },
};
use serde::{Deserialize, Serialize};
use tracer_common::{COMM_LEN, MAX_HIERARCHIES};

use super::{
    btf::{Btf, BtfError},
    hierarchies::Hierarchies,
    needs::{self, PROGRAMS},
    ring::Ring,
    tables::Tables,
};

/// The kernel side, compiled into this binary.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TRACER_EBPF_OBJECT"));

/// Where the kernel shows its type information.
pub const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Names under which container runtimes execute; the kernel keeps 15 bytes of a name. A longer list
/// comes from the configuration.
pub const RUNTIME_NAMES: &[&str] = &["runc", "crun", "youki", "conmon", "runsc", "kata-runtime"];

/// Why the kernel side is not there.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "the kernel shows no type information at {VMLINUX_BTF} ({0}): tracer needs Linux 5.10 or later built with CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf(io::Error),
    #[error("{VMLINUX_BTF} cannot be used: {0}")]
    BadBtf(BtfError),
    #[error("this kernel is not one that tracer knows: {0}")]
    Kernel(BtfError),
    #[error(
        "no cgroup hierarchy is mounted with its root: mount one, or give tracer the host's cgroup namespace"
    )]
    NoCgroups,
    #[error("the kernel refused the eBPF maps: {0:#}")]
    Maps(Box<aya::EbpfError>),
    #[error("the kernel refused program {name}: {why}")]
    Program { name: &'static str, why: String },
    #[error("the eBPF object lacks {0}: it was not built together with this binary")]
    Object(&'static str),
    #[error("a map operation failed: {0}")]
    Map(#[from] aya::maps::MapError),
    #[error("the ring buffer cannot be mapped: {0}")]
    Ring(io::Error),
    #[error("{operation} {path} failed: {why}")]
    Pins {
        operation: &'static str,
        path: String,
        why: String,
    },
    /// What the loading process said.
    #[error("{message}")]
    Loader { host: bool, message: String },
}

impl LoadError {
    /// Whether it is the host that lacks something.
    #[must_use]
    pub const fn is_the_hosts(&self) -> bool {
        match self {
            Self::Object(_) | Self::Map(_) | Self::Ring(_) | Self::Pins { .. } => false,
            Self::Loader { host, .. } => *host,
            Self::NoBtf(_)
            | Self::BadBtf(_)
            | Self::Kernel(_)
            | Self::NoCgroups
            | Self::Maps(_)
            | Self::Program { .. } => true,
        }
    }
}

/// How to load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Emit every exec and exit of tracked cgroups.
    pub processes: bool,
    /// Record command lines.
    pub args: bool,
    /// Size of the ring buffer: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Further names of container runtimes.
    pub runtimes: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            processes: false,
            args: false,
            ring_bytes: 1 << 20,
            runtimes: Vec::new(),
        }
    }
}

/// What became of one program, for `node.started`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    pub name: String,
    pub required: bool,
    pub gives: String,
    /// Why it is not attached.
    pub error: Option<String>,
}

/// What is known of programs that are loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub report: Vec<Attached>,
    pub degraded: Vec<String>,
    /// Hierarchy of each slot in the order of look-up.
    pub(super) slots: Vec<u32>,
}

/// Programs that are loaded and attached, as long as this lives.
pub struct Loaded {
    facts: Facts,
    programs: Ebpf,
    links: Vec<(String, FdLink)>,
    /// Kept for whoever ends this to give back: a hundred thousand small pieces.
    types: AyaBtf,
}

/// The kernel side, as the daemon uses it.
pub struct Kernel {
    pub facts: Facts,
    pub tables: Tables,
    pub ring: Ring,
    /// What keeps the programs attached, unless they are pinned.
    pub links: Vec<FdLink>,
    /// What the programs log.
    #[cfg(feature = "log")]
    pub log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

/// Maps that user space uses; the others live with the programs.
const MAPS: &[&str] = &[EVENTS, "TRACKED", "PROCS", "DROPPED", "LOST", "READER_IDLE"];
const EVENTS: &str = "EVENTS";

impl Loaded {
    /// Loads and attaches every program. Records collect in the ring from here on.
    ///
    /// # Errors
    ///
    /// [`LoadError`]; nothing stays attached then.
    pub fn load(options: &Options, hierarchies: &Hierarchies) -> Result<Self, LoadError> {
        if hierarchies.all.is_empty() {
            return Err(LoadError::NoCgroups);
        }
        // The loader reads the same for itself, whatever it is given: all at the same time.
        let (constants, types, mut loader) = thread::scope(|scope| {
            let types = scope.spawn(AyaBtf::from_sys_fs);
            let loader = scope.spawn(EbpfLoader::new);
            (Constants::read(hierarchies), join(types), join(loader))
        });
        let Constants {
            mut offsets,
            degraded,
            slots,
        } = constants?;
        offsets.push(("WITH_PROCESSES", u32::from(options.processes)));
        offsets.push(("WITH_ARGS", u32::from(options.args)));
        offsets.push(("SLOT_COUNT", slots.count));
        let ring_bytes = u64::from(options.ring_bytes);
        for (name, value) in &offsets {
            loader.override_global(name, value, true);
        }
        loader
            .override_global("RING_BYTES", &ring_bytes, true)
            .override_global("SLOT_HIERARCHY", &slots.hierarchy, true)
            .override_global("SLOT_CSS", &slots.css, true)
            .map_max_entries(EVENTS, options.ring_bytes);
        let mut programs = loader
            .load(OBJECT)
            .map_err(|error| LoadError::Maps(Box::new(error)))?;
        name_runtimes(&mut programs, &options.runtimes)?;
        let types = types.map_err(|error| LoadError::Program {
            name: "(all)",
            why: error.to_string(),
        })?;
        let (report, links) = attach_all(&mut programs, &types)?;
        let facts = Facts {
            report,
            degraded,
            slots: slots.ids(),
        };
        Ok(Self {
            facts,
            programs,
            links,
            types,
        })
    }

    /// Pins all that [`Kernel::open`] needs into a directory of bpffs, as the last thing that this
    /// process does.
    ///
    /// # Errors
    ///
    /// [`LoadError`]; what was pinned before stays for the caller to remove.
    pub fn pin(self, directory: &Path) -> Result<Facts, LoadError> {
        // The process ends before all of it is given back, and does not wait for it.
        thread::spawn(move || drop(self.types));
        for name in MAPS {
            let map = self.programs.map(name).ok_or(LoadError::Object(name))?;
            let path = directory.join(name);
            map.pin(&path)
                .map_err(|error| failed("pinning", &path, &error))?;
        }
        for (name, link) in self.links {
            let path = directory.join(link_name(&name));
            link.pin(&path)
                .map_err(|error| failed("pinning", &path, &error))?;
        }
        Ok(self.facts)
    }

    /// Takes them over in this process.
    ///
    /// # Errors
    ///
    /// [`LoadError`].
    pub fn into_kernel(self) -> Result<Kernel, LoadError> {
        let Self {
            facts,
            mut programs,
            links,
            types: _,
        } = self;
        #[cfg(feature = "log")]
        let log = aya_log::EbpfLogger::init(&mut programs)
            .map_err(|_error| LoadError::Object("AYA_LOGS: build with `--features log`"))?;
        let mut take = |name: &'static str| programs.take_map(name).ok_or(LoadError::Object(name));
        let ring = ring_of(take(EVENTS)?)?;
        let tables = Tables::new(take, &facts.slots)?;
        Ok(Kernel {
            facts,
            tables,
            ring,
            links: links.into_iter().map(|(_, link)| link).collect(),
            #[cfg(feature = "log")]
            log: Some(log),
        })
    }
}

impl Kernel {
    /// Takes over what is pinned in a directory of bpffs: the ring goes on where its last reader
    /// was.
    ///
    /// # Errors
    ///
    /// [`LoadError`] where something is missing.
    pub fn open(directory: &Path, facts: Facts) -> Result<Self, LoadError> {
        let take = |name: &'static str| -> Result<Map, LoadError> {
            let data = MapData::from_pin(directory.join(name))?;
            Ok(Map::from_map_data(data)?)
        };
        let ring = ring_of(take(EVENTS)?)?;
        let tables = Tables::new(take, &facts.slots)?;
        let mut links = Vec::new();
        for Attached { name, .. } in facts.report.iter().filter(|one| one.error.is_none()) {
            let path = directory.join(link_name(name));
            let link = PinnedLink::from_pin(&path)
                .map_err(|error| failed("opening the pin", &path, &error))?;
            links.push(link.into());
        }
        Ok(Self {
            facts,
            tables,
            ring,
            links,
            #[cfg(feature = "log")]
            log: None,
        })
    }
}

/// The reader's end of the map.
fn ring_of(map: Map) -> Result<Ring, LoadError> {
    match map {
        Map::RingBuf(map) => Ring::new(map).map_err(LoadError::Ring),
        _ => Err(LoadError::Object(EVENTS)),
    }
}

fn link_name(program: &str) -> String {
    format!("link_{program}")
}

fn failed(operation: &'static str, path: &Path, why: &dyn std::fmt::Display) -> LoadError {
    LoadError::Pins {
        operation,
        path: path.display().to_string(),
        why: why.to_string(),
    }
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// What the kernel's types say, for the programs.
struct Constants {
    offsets: Vec<(&'static str, u32)>,
    degraded: Vec<String>,
    slots: Slots,
}

impl Constants {
    fn read(hierarchies: &Hierarchies) -> Result<Self, LoadError> {
        let blob = fs::read(VMLINUX_BTF).map_err(LoadError::NoBtf)?;
        let btf = Btf::parse(&blob, needs::is_needed).map_err(LoadError::BadBtf)?;
        drop(blob);
        let constants = needs::resolve(&btf).map_err(LoadError::Kernel)?;
        let slots = Slots::resolve(&btf, hierarchies, &constants.offsets);
        Ok(Self {
            offsets: constants.offsets,
            degraded: constants.degraded,
            slots,
        })
    }
}

/// The look-up table of hierarchies, as the programs take it.
#[derive(Debug)]
struct Slots {
    count: u32,
    hierarchy: [u32; MAX_HIERARCHIES],
    css: [u32; MAX_HIERARCHIES],
}

impl Slots {
    fn resolve(btf: &Btf, hierarchies: &Hierarchies, offsets: &[(&str, u32)]) -> Self {
        let subsys_offset = offsets
            .iter()
            .find(|(name, _)| *name == "CSS_SET_SUBSYS")
            .map_or(0, |(_, offset)| *offset);
        let mut slots = Self {
            count: 0,
            hierarchy: [0; MAX_HIERARCHIES],
            css: [0; MAX_HIERARCHIES],
        };
        let mut places = slots.hierarchy.iter_mut().zip(slots.css.iter_mut());
        for hierarchy in &hierarchies.all {
            let css = match &hierarchy.controller {
                None => 0,
                Some(controller) => match needs::subsys(btf, controller) {
                    // The array holds pointers.
                    Ok(index) => subsys_offset + index * 8,
                    Err(error) => {
                        tracing::warn!(controller, %error, "hierarchy is not followed");
                        continue;
                    }
                },
            };
            if let Some((id, offset)) = places.next() {
                *id = hierarchy.id;
                *offset = css;
                slots.count += 1;
            }
        }
        slots
    }

    fn ids(&self) -> Vec<u32> {
        let count = usize::try_from(self.count).unwrap_or(0);
        self.hierarchy.iter().take(count).copied().collect()
    }
}

/// Tells the programs which command names are container runtimes.
fn name_runtimes(programs: &mut Ebpf, further: &[String]) -> Result<(), LoadError> {
    // Borrowed, not taken: a map that is dropped before the programs are loaded is gone.
    let map = programs
        .map_mut("RUNTIMES")
        .ok_or(LoadError::Object("RUNTIMES"))?;
    let mut map: HashMap<_, [u8; COMM_LEN], u32> = HashMap::try_from(map)?;
    let names = RUNTIME_NAMES.iter().copied();
    for name in names.chain(further.iter().map(String::as_str)) {
        let mut comm = [0; COMM_LEN];
        // The last byte stays NUL, as in the kernel.
        for (to, from) in comm.iter_mut().take(COMM_LEN - 1).zip(name.bytes()) {
            *to = from;
        }
        map.insert(comm, 1, 0)?;
    }
    Ok(())
}

type Links = Vec<(String, FdLink)>;

fn attach_all(programs: &mut Ebpf, types: &AyaBtf) -> Result<(Vec<Attached>, Links), LoadError> {
    let mut report = Vec::new();
    let mut links = Vec::new();
    let mut verified = verify(programs, types);
    for need in PROGRAMS {
        let link = verified
            .remove(need.name)
            .unwrap_or_else(|| Err(LACKING.to_owned()))
            .and_then(|()| attach(programs, need.name));
        let error = match link {
            Ok(link) => {
                links.push((need.name.to_owned(), link));
                None
            }
            Err(why) if need.required => {
                return Err(LoadError::Program {
                    name: need.name,
                    why,
                });
            }
            Err(why) => {
                tracing::warn!(program = need.name, lost = need.gives, %why, "not attached");
                Some(why)
            }
        };
        report.push(Attached {
            name: need.name.to_owned(),
            required: need.required,
            gives: need.gives.to_owned(),
            error,
        });
    }
    Ok((report, links))
}

const LACKING: &str = "the object lacks it";

/// Programs that the kernel takes longest to verify, the longest first: 50, 22, 17 and 14 ms of 130
/// on Linux 6.18.
const LONG: &[&str] = &[
    "sched_process_exec",
    "sched_process_fork",
    "mark_victim",
    "sched_process_exit",
];

/// Has the kernel verify every program: that is most of what a start takes. Each keeps one processor
/// busy; they are taken up one after the other by as many threads as there are processors, so that
/// no long one is left over alone at the end.
fn verify(programs: &mut Ebpf, types: &AyaBtf) -> BTreeMap<String, Result<(), String>> {
    let mut waiting: Vec<_> = programs.programs_mut().collect();
    let place = |name: &str| LONG.iter().position(|long| *long == name);
    // The last is taken first.
    waiting.sort_by_key(|(name, _)| Reverse(place(name).unwrap_or(LONG.len())));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(waiting.len());
    let waiting = Mutex::new(waiting);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || {
        let mut verified = Vec::new();
        while let Some((name, program)) = next() {
            let program: Result<&mut BtfTracePoint, _> = program.try_into();
            let result = program.and_then(|program| program.load(name, types));
            verified.push((name.to_owned(), result.map_err(|error| describe(&error))));
        }
        verified
    };
    thread::scope(|scope| {
        let begun: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        begun.into_iter().flat_map(join).collect()
    })
}

fn attach(programs: &mut Ebpf, name: &str) -> Result<FdLink, String> {
    let program: &mut BtfTracePoint = programs
        .program_mut(name)
        .ok_or(LACKING)?
        .try_into()
        .map_err(|error: ProgramError| error.to_string())?;
    let link = program.attach().map_err(|error| describe(&error))?;
    let link = program.take_link(link).map_err(|error| describe(&error))?;
    Ok(link.into())
}

/// Lines of the verifier's log that an error shows: the last ones say what was refused.
const VERIFIER_LINES: usize = 8;

fn describe(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines
                .get(lines.len().saturating_sub(VERIFIER_LINES)..)
                .unwrap_or_default();
            if last.is_empty() {
                format!("{io_error}")
            } else {
                format!(
                    "{io_error}; the verifier's last lines:\n  {}",
                    last.join("\n  ")
                )
            }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_programs_are_programs() {
        for long in LONG {
            assert!(
                PROGRAMS.iter().any(|program| program.name == *long),
                "{long}"
            );
        }
    }
}
