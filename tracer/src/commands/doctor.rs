//! `tracer doctor`: what this host offers and lacks, with the remedy.

use std::{fs, path::Path};

use serde::Serialize;

use super::{Failure, print, wants_json};
use crate::{
    cli::DoctorArgs,
    host::{self, capability},
    kernel::{
        btf::Btf,
        hierarchies::Layout,
        load::VMLINUX_BTF,
        needs::{self, Constants, PROGRAMS},
    },
};

/// How one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    /// tracer runs, with less.
    Degraded,
    /// tracer does not run.
    Missing,
    /// Neither good nor bad.
    Info,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    ready: bool,
    findings: Vec<Finding>,
}

impl Report {
    fn of(findings: Vec<Finding>) -> Self {
        let ready = findings
            .iter()
            .all(|finding| finding.verdict != Verdict::Missing);
        Self { ready, findings }
    }
}

/// Prints the report.
///
/// # Errors
///
/// [`Failure::Host`] where tracer cannot run here.
pub fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let report = match &args.btf {
        Some(file) => Report::of(btf(file)),
        None => report(),
    };
    if wants_json(args.format) {
        let text = serde_json::to_string(&report).map_err(anyhow::Error::from)?;
        print(&(text + "\n"))?;
    } else {
        print(&table(&report))?;
    }
    if report.ready {
        return Ok(());
    }
    let missing: Vec<&str> = report
        .findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Missing)
        .map(|finding| finding.what.as_str())
        .collect();
    Err(Failure::Host(anyhow::anyhow!(
        "tracer cannot run here: {}",
        missing.join(", ")
    )))
}

fn report() -> Report {
    let mut findings = vec![kernel()];
    findings.extend(btf(Path::new(VMLINUX_BTF)));
    findings.extend(capabilities());
    findings.extend(cgroups());
    findings.extend(mounts());
    findings.extend(runtimes());
    Report::of(findings)
}

fn kernel() -> Finding {
    let release = host::kernel_release();
    let (major, minor) = host::MIN_KERNEL;
    let good = host::is_supported(&release);
    finding(
        "kernel",
        good,
        format!("Linux {release}"),
        &format!("boot Linux {major}.{minor} or later"),
    )
}

fn btf(file: &Path) -> Vec<Finding> {
    let missing = |found: String, remedy: &str| vec![finding("BTF", false, found, remedy)];
    let blob = match fs::read(file) {
        Ok(blob) => blob,
        Err(error) => {
            return missing(
                format!("{}: {error}", file.display()),
                "use a kernel built with CONFIG_DEBUG_INFO_BTF=y; every current distribution's is",
            );
        }
    };
    let parsed = Btf::parse(&blob, needs::is_needed);
    match parsed.and_then(|btf| Ok((needs::resolve(&btf)?, btf))) {
        Ok((constants, btf)) => needs_of(&btf, constants),
        Err(error) => missing(
            error.to_string(),
            "report this kernel: tracer does not know it",
        ),
    }
}

/// What this kernel has of what tracer relies on.
fn needs_of(btf: &Btf, constants: Constants) -> Vec<Finding> {
    let mut findings = vec![finding(
        "BTF",
        true,
        format!("{} members found", constants.offsets.len()),
        "",
    )];
    let misfits: Vec<Finding> = PROGRAMS
        .iter()
        .filter_map(|program| {
            let error = needs::check_prototype(btf, program).err()?;
            Some(Finding {
                what: format!("tracepoint {}", program.name),
                verdict: if program.required {
                    Verdict::Missing
                } else {
                    Verdict::Degraded
                },
                found: error.to_string(),
                remedy: Some(format!("without it tracer lacks {}", program.gives)),
            })
        })
        .collect();
    let all = PROGRAMS.len();
    let fit = all - misfits.len();
    findings.push(info("tracepoints", format!("{fit} of {all} fit")));
    findings.extend(misfits);
    for lack in constants.degraded {
        findings.push(Finding {
            what: "kernel".to_owned(),
            verdict: Verdict::Degraded,
            found: lack,
            remedy: Some("a later kernel has it".to_owned()),
        });
    }
    findings
}

fn capabilities() -> Vec<Finding> {
    let set = host::capabilities();
    let has = |capability: u32| set >> capability & 1 == 1;
    let mut findings = vec![finding(
        "privilege",
        host::may_trace(set),
        if host::may_trace(set) {
            "may load tracing programs".to_owned()
        } else {
            "may not load tracing programs".to_owned()
        },
        "run as root, or with CAP_BPF and CAP_PERFMON",
    )];
    for (number, name, lost) in [
        (
            capability::DAC_READ_SEARCH,
            "CAP_DAC_READ_SEARCH",
            "files of runtimes that run as other users cannot be read",
        ),
        (
            capability::SYS_PTRACE,
            "CAP_SYS_PTRACE",
            "exec sessions that run when tracer starts are not recognised",
        ),
    ] {
        if !has(number) && !has(capability::SYS_ADMIN) {
            findings.push(Finding {
                what: name.to_owned(),
                verdict: Verdict::Degraded,
                found: format!("missing: {lost}"),
                remedy: Some(format!("add {name}")),
            });
        }
    }
    findings
}

fn cgroups() -> Vec<Finding> {
    let hierarchies = match host::hierarchies() {
        Ok(hierarchies) => hierarchies,
        Err(error) => {
            return vec![finding(
                "cgroups",
                false,
                format!("/proc/self/mountinfo: {error}"),
                "mount /proc",
            )];
        }
    };
    let names: Vec<&str> = hierarchies.all.iter().map(|h| h.name.as_str()).collect();
    let layout = hierarchies.layout();
    let mut findings = vec![finding(
        "cgroups",
        layout != Layout::None,
        format!("{} ({})", layout.as_str(), names.join(", ")),
        "mount cgroup2, or run tracer in the host's cgroup and mount namespaces",
    )];
    if hierarchies.layout() != Layout::Unified && hierarchies.freezer().is_none() {
        findings.push(Finding {
            what: "freezer".to_owned(),
            verdict: Verdict::Degraded,
            found: "no v1 freezer hierarchy: pauses of v1 containers are not seen".to_owned(),
            remedy: Some("mount the freezer controller".to_owned()),
        });
    }
    findings
}

fn mounts() -> Vec<Finding> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = |kind: &str| {
        mounts
            .lines()
            .any(|line| line.split(' ').nth(2) == Some(kind))
    };
    let mut findings = Vec::new();
    for (kind, what, remedy) in [
        (
            "tracefs",
            "not needed: the programs attach by BTF",
            "mount -t tracefs tracefs /sys/kernel/tracing",
        ),
        (
            "bpf",
            "needed only to keep the programs over a restart",
            "mount -t bpf bpf /sys/fs/bpf",
        ),
    ] {
        let there = mounted(kind);
        findings.push(Finding {
            what: if kind == "bpf" { "bpffs" } else { kind }.to_owned(),
            verdict: if there { Verdict::Good } else { Verdict::Info },
            found: if there {
                "mounted".to_owned()
            } else {
                format!("not mounted; {what}")
            },
            remedy: (!there).then(|| remedy.to_owned()),
        });
    }
    findings
}

/// Runtimes on the search path and daemons by their usual sockets: for information, since tracer
/// asks none of them.
fn runtimes() -> Vec<Finding> {
    const BINARIES: &[&str] = &[
        "runc",
        "crun",
        "youki",
        "dockerd",
        "containerd",
        "crio",
        "podman",
        "lxc-start",
        "systemd-nspawn",
        "nomad",
    ];
    const SOCKETS: &[&str] = &[
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/crio/crio.sock",
        "/run/podman/podman.sock",
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found: Vec<&str> = BINARIES
        .iter()
        .copied()
        .filter(|name| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
        .collect();
    let running: Vec<&str> = SOCKETS
        .iter()
        .copied()
        .filter(|socket| Path::new(socket).exists())
        .collect();
    let list = |names: Vec<&str>| {
        if names.is_empty() {
            "none found".to_owned()
        } else {
            names.join(", ")
        }
    };
    vec![
        info("runtimes", list(found)),
        info("sockets", list(running)),
    ]
}

fn info(what: &str, found: String) -> Finding {
    Finding {
        what: what.to_owned(),
        verdict: Verdict::Info,
        found,
        remedy: None,
    }
}

fn finding(what: &str, good: bool, found: String, remedy: &str) -> Finding {
    Finding {
        what: what.to_owned(),
        verdict: if good {
            Verdict::Good
        } else {
            Verdict::Missing
        },
        found,
        remedy: (!good).then(|| remedy.to_owned()),
    }
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let mark = match finding.verdict {
            Verdict::Good => "ok",
            Verdict::Degraded => "less",
            Verdict::Missing => "LACKS",
            Verdict::Info => "-",
        };
        let line = format!("{mark:<6} {:<12} {}\n", finding.what, finding.found);
        text.push_str(&line);
        if let Some(remedy) = &finding.remedy {
            let line = format!("{:<20} remedy: {remedy}\n", "");
            text.push_str(&line);
        }
    }
    let end = if report.ready {
        "tracer can run here"
    } else {
        "tracer cannot run here"
    };
    text + end + "\n"
}
