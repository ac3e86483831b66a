//! The tests on other kernels: each boots in QEMU, whose guest runs them and says how they ended.
//!
//! ```text
//!  plan (kernel × layout) ──▶ kernels::store ──▶ image ┐
//!                        └──▶ guest ──▶ cpio ──▶ files ┼─▶ machine ──▶ output ──▶ table
//!                              kernels::tree ──▶ qemu ─┘
//! ```
//!
//! The guest has no disk and no network; it holds this build of tracer, the test programs, runc and
//! crun, and where systemd runs also podman, LXC and systemd-nspawn. QEMU emulates the processor, so
//! it runs on any `x86_64` machine, also inside another guest.

mod cpio;
mod guest;
mod machine;
mod output;
mod qemu;

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use self::{
    machine::{End, Machine},
    output::{Output, Verdict},
    qemu::Qemu,
};
use crate::{
    kernels::{
        archive,
        series::{self, Series},
        store::{self, Kernel},
    },
    packages::{self, Package, Policy},
    say,
    test::{
        count::{Log, Skip},
        runtimes,
    },
    workspace,
};

/// The cgroup hierarchies of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Layout {
    /// cgroup v2 alone
    V2,
    /// cgroup v1 alone: every controller of the kernel in a hierarchy of its own
    V1,
    /// v1 with a v2 hierarchy beside it that has no controller
    Hybrid,
    /// v2 with systemd as the first process and as the runtimes' cgroup driver
    Systemd,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
            Self::Systemd => "systemd",
        })
    }
}

/// A guest's first process, and with it all that is in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Init {
    /// `tests/vm/run.sh` itself
    Run,
    Systemd,
}

impl Layout {
    fn init(self) -> Init {
        match self {
            Self::V2 | Self::V1 | Self::Hybrid => Init::Run,
            Self::Systemd => Init::Systemd,
        }
    }
}

impl Init {
    /// The guest's files, below the directory of the machines.
    fn initramfs(self) -> &'static str {
        match self {
            Self::Run => "initramfs",
            Self::Systemd => "initramfs-systemd",
        }
    }
}

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    pub machines: Vec<(Series, Layout)>,
    /// The live tests that need no daemon too.
    pub live: bool,
    pub filter: Option<String>,
}

impl Plan {
    /// What every `cargo xtask test` does: the oldest kernel, one between, the newest.
    pub fn usual() -> Self {
        let [oldest, _, middle, _, newest] = series::DEFAULT;
        Self {
            machines: [oldest, middle, newest].map(|it| (it, Layout::V2)).into(),
            live: false,
            filter: None,
        }
    }

    /// What is asked for; nothing said means every kernel on v2 and each other layout once.
    pub fn of(kernels: &[Series], layouts: &[Layout], all: bool, filter: Option<&str>) -> Self {
        let [_, second, third, ..] = series::DEFAULT;
        let of_kernels = match kernels {
            [] => &series::DEFAULT[..],
            named => named,
        };
        let of_layouts = match layouts {
            [] if all => Layout::value_variants(),
            [] => &[Layout::V2],
            named => named,
        };
        let mut machines: Vec<_> = of_layouts
            .iter()
            .flat_map(|layout| of_kernels.iter().map(|kernel| (*kernel, *layout)))
            .collect();
        if kernels.is_empty() && layouts.is_empty() && !all {
            machines.extend([
                (second, Layout::V1),
                (second, Layout::Hybrid),
                (third, Layout::Systemd),
            ]);
        }
        Self {
            machines,
            live: all,
            filter: filter.map(str::to_owned),
        }
    }

    /// One name per machine, for what is skipped.
    pub fn names(&self) -> Vec<String> {
        let names = self.machines.iter();
        names
            .map(|(series, layout)| format!("kernel {series} with {layout}"))
            .collect()
    }

    /// The test programs of a guest with this init system.
    fn targets(&self, init: Init) -> Vec<&'static str> {
        let mut targets = vec!["vm_matrix"];
        if self.live {
            targets.extend(["live_nested", "live_node", "live_restart", "live_runc"]);
        }
        if init == Init::Systemd {
            targets.extend(["live_machines", "live_podman", "vm_podman"]);
        }
        targets
    }

    /// The init systems of its machines.
    fn inits(&self) -> BTreeSet<Init> {
        let layouts = self.machines.iter().map(|(_, layout)| layout);
        layouts.map(|layout| layout.init()).collect()
    }

    /// Far above what emulation takes on a busy machine.
    fn deadline(&self, init: Init) -> Duration {
        let own = match init {
            Init::Run => 8,
            Init::Systemd => 24,
        };
        Duration::from_mins(own + if self.live { 12 } else { 0 })
    }
}

/// Why no virtual machine can run on this machine, told without changing anything.
pub fn obstacle() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the virtual machines are x86_64 only".to_owned());
    }
    archive::obstacle()
}

/// One machine's result.
struct Ran {
    kernel: String,
    layout: Layout,
    took: Duration,
    output: Output,
    log: PathBuf,
}

/// Boots every machine of the plan, some at a time, and adds up what they say.
pub fn run(plan: &Plan, policy: Policy, log: &mut Log) -> Result<()> {
    if let Some(why) = obstacle() {
        bail!(why);
    }
    runtimes::ensure_of(&guest::PROGRAMS, policy)?;
    let strip = Package::new(
        "binutils",
        "programs of a guest without what debuggers read",
    );
    packages::ensure_programs(&[(guest::STRIP, strip)], policy)?;
    let machines = prepare(plan, policy, log)?;
    let ran = boot_all(plan, machines)?;
    for one in &ran {
        add(one, log);
    }
    for line in table(&ran) {
        say::result(line);
    }
    Ok(())
}

/// A machine that can be booted.
struct Ready {
    qemu: Qemu,
    kernel: Kernel,
    layout: Layout,
    initramfs: PathBuf,
}

fn prepare(plan: &Plan, policy: Policy, log: &mut Log) -> Result<Vec<Ready>> {
    let wanted: BTreeSet<Series> = plan.machines.iter().map(|(series, _)| *series).collect();
    let wanted: Vec<Series> = wanted.into_iter().collect();
    let kernels = store::ensure(&wanted, false, policy)?;
    let qemu = Qemu::ensure()?;
    let dir = workspace::target().join("vm");
    std::fs::create_dir_all(&dir).context("cannot create a directory for the machines")?;
    write_guests(plan, &dir)?;
    let mut ready = Vec::new();
    for (series, layout) in &plan.machines {
        match kernels.iter().find(|(found, _)| found == series) {
            Some((_, Ok(kernel))) => ready.push(Ready {
                qemu: qemu.clone(),
                kernel: kernel.clone(),
                layout: *layout,
                initramfs: dir.join(layout.init().initramfs()),
            }),
            Some((_, Err(why))) => {
                log.tally.skipped += 1;
                log.skips.push(Skip {
                    name: format!("kernel {series} with {layout}"),
                    reason: why.clone(),
                });
            }
            None => bail!("nothing was said of kernel {series}"),
        }
    }
    Ok(ready)
}

/// The files of each kind of guest that the plan has.
fn write_guests(plan: &Plan, dir: &Path) -> Result<()> {
    let inits = plan.inits();
    let targets: BTreeSet<&str> = inits.iter().flat_map(|init| plan.targets(*init)).collect();
    let built = guest::build_tests(&targets)?;
    for init in inits {
        let root = match init {
            Init::Run => None,
            Init::Systemd => Some(guest::systemd_root()?),
        };
        let wanted = plan.targets(init);
        let tests = built
            .iter()
            .filter(|(name, _)| wanted.contains(&name.as_str()));
        let tree = guest::tree(tests, root.as_deref())?;
        guest::write(&tree, &dir.join(init.initramfs()))?;
    }
    Ok(())
}

/// As many at a time as there are processors: each machine keeps about one of them busy.
fn boot_all(plan: &Plan, machines: Vec<Ready>) -> Result<Vec<Ran>> {
    let at_once = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(machines.len());
    let queue: Mutex<VecDeque<_>> = Mutex::new(machines.into_iter().enumerate().collect());
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let next = queue
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    let Some((position, ready)) = next else {
                        return;
                    };
                    let ran = boot(plan, &ready);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.push((position, ran));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(position, _)| *position);
    results.into_iter().map(|(_, ran)| ran).collect()
}

fn boot(plan: &Plan, ready: &Ready) -> Result<Ran> {
    let Ready {
        qemu,
        kernel,
        layout,
        initramfs,
    } = ready;
    let name = format!("{}-{layout}", kernel.version.replace('.', "_"));
    let mut options = vec![format!("tracer.layout={layout}")];
    options.extend(
        plan.filter
            .iter()
            .map(|filter| format!("tracer.filter={filter}")),
    );
    if *layout == Layout::Systemd {
        options.push("systemd.unit=tracer-vm.service systemd.show_status=false".to_owned());
    }
    let machine = Machine {
        qemu: qemu.clone(),
        kernel: kernel.image(),
        initramfs: initramfs.clone(),
        options,
        deadline: plan.deadline(layout.init()),
        log: workspace::target().join("vm").join(name),
    };
    let begin = Instant::now();
    let mut output = Output::default();
    let end = machine.run(|line| output.line(line))?;
    output.end(&match end {
        End::Off => format!("its console says last:\n{}", tail(&machine.console())),
        End::Late => format!("still running after {} s", machine.deadline.as_secs()),
        End::Broken(why) => why,
    });
    let tally = output.tally();
    let took = begin.elapsed();
    say::note(format_args!(
        "kernel {} with {layout}: {} passed, {} failed, {} skipped in {:.0} s",
        kernel.version,
        tally.passed,
        tally.failed,
        tally.skipped,
        took.as_secs_f64(),
    ));
    Ok(Ran {
        kernel: kernel.version.clone(),
        layout: *layout,
        took,
        output,
        log: machine.log,
    })
}

/// The last lines of a file.
fn tail(file: &Path) -> String {
    const LINES: usize = 20;
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let from = lines.len().saturating_sub(LINES);
    lines.get(from..).unwrap_or_default().join("\n")
}

/// Counts a machine's tests; shows all that it said where something failed.
fn add(ran: &Ran, log: &mut Log) {
    let name = |what: &str| format!("{} {}: {what}", ran.kernel, ran.layout);
    log.tally += ran.output.tally();
    for test in &ran.output.tests {
        match &test.verdict {
            Verdict::Passed => {}
            Verdict::Failed => log.failures.push(name(&test.name)),
            Verdict::Skipped(reason) => log.skips.push(Skip {
                name: name(&test.name),
                reason: reason.clone(),
            }),
        }
    }
    let faults = ran.output.faults.iter();
    log.failures.extend(faults.map(|fault| name(fault)));
    if ran.output.tally().failed > 0 {
        let out = ran.log.with_extension("out");
        let said = std::fs::read_to_string(&out).unwrap_or_default();
        say::note(format_args!(
            "what the guest said ({}):\n{said}",
            workspace::shown(&out)
        ));
    }
}

/// Kernel × layout × runtime × result.
fn table(ran: &[Ran]) -> Vec<String> {
    let mut lines = vec![format!(
        "\n{:<12}{:<9}{:<9}{:>7}{:>8}{:>9}{:>9}  {}",
        "kernel", "layout", "runtime", "passed", "failed", "skipped", "seconds", "result"
    )];
    for one in ran {
        let runtimes: BTreeSet<&str> = one.output.tests.iter().map(output::Test::runtime).collect();
        let seconds = one.took.as_secs_f64();
        for runtime in runtimes.iter().rev() {
            let tests = one.output.tests.iter();
            let tally = output::tally(tests.filter(|test| test.runtime() == *runtime));
            let result = match (tally.failed, tally.passed) {
                (0, 0) => "skipped",
                (0, _) => "passed",
                _ => "FAILED",
            };
            lines.push(format!(
                "{:<12}{:<9}{runtime:<9}{:>7}{:>8}{:>9}{seconds:>9.1}  {result}",
                one.kernel, one.layout, tally.passed, tally.failed, tally.skipped
            ));
        }
        if !one.output.faults.is_empty() {
            lines.push(format!(
                "{:<12}{:<9}{:<9}{:>7}{:>8}{:>9}{seconds:>9.1}  FAILED",
                one.kernel,
                one.layout,
                "-",
                "-",
                one.output.faults.len(),
                "-"
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(plan: &Plan) -> String {
        let machines: Vec<_> = plan
            .machines
            .iter()
            .map(|(series, layout)| format!("{series}:{layout}"))
            .collect();
        machines.join(" ")
    }

    #[test]
    fn the_plan_is_what_was_asked_for() {
        let series = |text: &str| text.parse::<Series>().unwrap();
        let rows = [
            (
                Plan::of(&[], &[], false, None),
                "5.10:v2 6.1:v2 6.12:v2 6.18:v2 7:v2 6.1:v1 6.1:hybrid 6.12:systemd",
            ),
            (
                Plan::of(&[series("6.1"), series("7")], &[], false, None),
                "6.1:v2 7:v2",
            ),
            (
                Plan::of(&[], &[Layout::V1], false, None),
                "5.10:v1 6.1:v1 6.12:v1 6.18:v1 7:v1",
            ),
            (
                Plan::of(&[series("6.1")], &[], true, None),
                "6.1:v2 6.1:v1 6.1:hybrid 6.1:systemd",
            ),
            (Plan::usual(), "5.10:v2 6.12:v2 7:v2"),
        ];
        for (plan, expected) in rows {
            assert_eq!(shown(&plan), expected);
        }
    }

    #[test]
    fn only_a_guest_of_systemd_has_podman() {
        let plan = Plan::of(&[], &[], false, None);
        assert_eq!(plan.inits(), [Init::Run, Init::Systemd].into());
        let has = |init| plan.targets(init).contains(&"live_podman");
        assert!(has(Init::Systemd) && !has(Init::Run));
        assert_eq!(Plan::usual().inits(), [Init::Run].into());
    }

    #[test]
    fn a_machine_is_a_row_per_runtime() {
        let mut output = Output::default();
        let said = "tracer-vm: begin vm_matrix\ntest crun::a ... ok\ntest runc::a ... FAILED\ntest crun::b ... ok";
        said.lines().for_each(|line| output.line(line));
        output.end("late");
        let ran = Ran {
            kernel: "6.1.192".to_owned(),
            layout: Layout::V2,
            took: Duration::from_secs(30),
            output,
            log: PathBuf::new(),
        };
        assert_eq!(
            table(&[ran])[1..],
            [
                "6.1.192     v2       runc           0       1        0     30.0  FAILED",
                "6.1.192     v2       crun           2       0        0     30.0  passed",
                "6.1.192     v2       -              -       1        -     30.0  FAILED",
            ]
        );
    }
}
