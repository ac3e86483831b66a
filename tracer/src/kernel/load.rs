//! Loading and attaching the programs.
//!
//! Everything that can be known beforehand is checked first (privilege, BTF, members), so that a
//! host that cannot run tracer is told so in one sentence with the remedy. What the kernel refuses
//! after that carries the verifier's own last lines.

use std::{fs, io};

use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader,
    maps::{HashMap, MapData, RingBuf},
    programs::{BtfTracePoint, ProgramError},
};
use tracer_common::{COMM_LEN, MAX_HIERARCHIES};

use super::{
    btf::{Btf, BtfError},
    hierarchies::Hierarchies,
    needs::{self, PROGRAMS},
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
}

/// How to load.
#[derive(Debug, Clone)]
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
            ring_bytes: 8 << 20,
            runtimes: Vec::new(),
        }
    }
}

/// What became of one program, for `node.started`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    pub name: &'static str,
    pub required: bool,
    pub gives: &'static str,
    /// Why it is not attached.
    pub error: Option<String>,
}

/// The loaded kernel side. Dropping it detaches everything.
pub struct Kernel {
    pub report: Vec<Attached>,
    pub degraded: Vec<String>,
    pub tables: Tables,
    pub ring: RingBuf<MapData>,
    /// Attached as long as this lives.
    pub programs: Ebpf,
    /// What the programs log.
    #[cfg(feature = "log")]
    pub log: aya_log::EbpfLogger<&'static dyn log::Log>,
}

impl Kernel {
    /// Loads and attaches every program. Records collect in the ring from here on.
    ///
    /// # Errors
    ///
    /// [`LoadError`]; nothing stays attached then.
    pub fn load(options: &Options, hierarchies: &Hierarchies) -> Result<Self, LoadError> {
        if hierarchies.all.is_empty() {
            return Err(LoadError::NoCgroups);
        }
        let blob = fs::read(VMLINUX_BTF).map_err(LoadError::NoBtf)?;
        let btf = Btf::parse(&blob, needs::is_needed).map_err(LoadError::BadBtf)?;
        drop(blob);
        let constants = needs::resolve(&btf).map_err(LoadError::Kernel)?;
        let slots = Slots::resolve(&btf, hierarchies, &constants.offsets);
        drop(btf);

        let mut offsets = constants.offsets;
        offsets.push(("WITH_PROCESSES", u32::from(options.processes)));
        offsets.push(("WITH_ARGS", u32::from(options.args)));
        offsets.push(("SLOT_COUNT", slots.count));
        let ring_bytes = u64::from(options.ring_bytes);
        let mut loader = EbpfLoader::new();
        for (name, value) in &offsets {
            loader.override_global(name, value, true);
        }
        loader
            .override_global("RING_BYTES", &ring_bytes, true)
            .override_global("SLOT_HIERARCHY", &slots.hierarchy, true)
            .override_global("SLOT_CSS", &slots.css, true)
            .map_max_entries("EVENTS", options.ring_bytes);
        let mut programs = loader
            .load(OBJECT)
            .map_err(|error| LoadError::Maps(Box::new(error)))?;

        let ring = RingBuf::try_from(take(&mut programs, "EVENTS")?)?;
        let tables = Tables::take(&mut programs, &slots)?;
        name_runtimes(&mut programs, &options.runtimes)?;
        #[cfg(feature = "log")]
        let log = aya_log::EbpfLogger::init(&mut programs)
            .map_err(|_error| LoadError::Object("AYA_LOGS: build with `--features log`"))?;
        let report = attach_all(&mut programs)?;
        Ok(Self {
            report,
            degraded: constants.degraded,
            tables,
            ring,
            programs,
            #[cfg(feature = "log")]
            log,
        })
    }
}

/// The look-up table of hierarchies, as the programs take it.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) count: u32,
    pub(super) hierarchy: [u32; MAX_HIERARCHIES],
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
}

pub(super) fn take(programs: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, LoadError> {
    programs.take_map(name).ok_or(LoadError::Object(name))
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

fn attach_all(programs: &mut Ebpf) -> Result<Vec<Attached>, LoadError> {
    let btf = AyaBtf::from_sys_fs().map_err(|error| LoadError::Program {
        name: "(all)",
        why: error.to_string(),
    })?;
    let mut report = Vec::new();
    for need in PROGRAMS {
        let error = match attach(programs, need.name, &btf) {
            Ok(()) => None,
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
            name: need.name,
            required: need.required,
            gives: need.gives,
            error,
        });
    }
    Ok(report)
}

fn attach(programs: &mut Ebpf, name: &str, btf: &AyaBtf) -> Result<(), String> {
    let program: &mut BtfTracePoint = programs
        .program_mut(name)
        .ok_or("the object lacks it")?
        .try_into()
        .map_err(|error: ProgramError| error.to_string())?;
    program.load(name, btf).map_err(|error| describe(&error))?;
    program.attach().map_err(|error| describe(&error))?;
    Ok(())
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
