//! `cargo xtask test`: every check of this repository, counted into one closing line.

pub mod count;
pub mod runtimes;
mod step;
mod targets;

use std::{io::Write as _, process::Command, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use self::{count::Tally, step::Step, targets::Targets};
use crate::{
    build::{Profile, What},
    command, ebpf, fuzz,
    kernels::series::Series,
    mounts,
    packages::{self, Package, Policy},
    privilege::Privilege,
    say,
    vm::{self, Layout, Plan},
    workspace,
};

/// Build, install what the tests need, and run every check and test
///
/// Steps, in this order: fmt, build, clippy, plain (tests that need nothing), live (tests that load
/// the eBPF programs and drive real container runtimes, as root, with daemons of their own in
/// temporary directories), fuzz (hostile input for every parser, 30 s each), vm (the live tests on
/// three other kernels, in QEMU). A failing step does not stop the others, except the build. The last line of the output is `N passed, N failed, N
/// skipped`; each skipped test is named with its reason.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run only the tests whose name contains this; leaves out fmt and clippy
    filter: Option<String>,
    /// Leave the live tests and the virtual machines out; they count as skipped
    #[arg(long)]
    no_live: bool,
    /// Run only this step, and the build where it needs one (may be given several times)
    #[arg(long, value_enum, value_name = "STEP")]
    only: Vec<Only>,
    /// Run the tests in virtual machines with these kernels instead (`6.12`, or `7` for the newest
    /// 7.x); none named: all of Debian's that tracer is for, on cgroup v2, and every other layout
    /// on one of them. Needs no root
    #[arg(long, value_name = "KERNEL", num_args = 0.., conflicts_with_all = ["only", "no_live"])]
    vm: Option<Vec<Series>>,
    /// Layout of the cgroup hierarchies in the machines (may be given several times)
    #[arg(long, value_enum, value_name = "LAYOUT", requires = "vm")]
    layout: Vec<Layout>,
    /// Every layout with every kernel, and the live tests that need no daemon in them too
    #[arg(long, requires = "vm")]
    all: bool,
    #[command(flatten)]
    policy: Policy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Fmt,
    Clippy,
    Plain,
    Live,
    Fuzz,
    Vm,
}

impl Args {
    fn wants(&self, step: Only) -> bool {
        let named = self.only.contains(&step);
        match step {
            Only::Fmt | Only::Clippy | Only::Fuzz | Only::Vm => {
                named || (self.only.is_empty() && self.filter.is_none())
            }
            Only::Plain | Only::Live => named || self.only.is_empty(),
        }
    }

    /// Whether live tests are to run, not just to be counted as skipped.
    fn runs_live(&self) -> bool {
        self.wants(Only::Live) && !self.no_live
    }
}

pub fn main(args: &Args) -> Result<ExitCode> {
    if let Some(kernels) = &args.vm {
        let plan = Plan::of(kernels, &args.layout, args.all, args.filter.as_deref());
        return machines(args, &plan);
    }
    let targets = targets::find()?;
    let mut steps = Vec::new();
    if args.wants(Only::Fmt) {
        steps.push(Step::check("fmt", fmt));
    }
    let builds = [Only::Clippy, Only::Plain, Only::Live, Only::Fuzz, Only::Vm];
    if builds.into_iter().any(|step| args.wants(step)) {
        let build = Step::check("build", || build(args));
        let is_complete = build.passed();
        steps.push(build);
        if is_complete {
            after_build(args, &targets, &mut steps);
        } else {
            say::note("the build failed: the steps after it did not run");
        }
    }
    report(args, &steps)
}

/// The virtual machines and what they need, alone.
fn machines(args: &Args, plan: &Plan) -> Result<ExitCode> {
    let mut steps = vec![Step::check("build", || build_binaries(args.policy))];
    if steps.iter().all(Step::passed) {
        steps.push(Step::run("vm", |log| vm::run(plan, args.policy, log)));
    }
    report(args, &steps)
}

fn after_build(args: &Args, targets: &Targets, steps: &mut Vec<Step>) {
    if args.wants(Only::Clippy) {
        steps.push(Step::check("clippy", clippy));
    }
    if args.wants(Only::Plain) {
        steps.push(Step::tests("plain", plain(args, targets)));
    }
    if args.runs_live() {
        steps.push(match live(args, targets) {
            Ok(command) => Step::tests("live", vec![command]),
            Err(error) => Step::check("live", || Err(error)),
        });
    } else if args.wants(Only::Live) {
        steps.push(Step::skipped("live", &targets.live, "--no-live"));
    }
    if args.wants(Only::Fuzz) {
        steps.push(Step::run("fuzz", |log| {
            fuzz::run(&fuzz::TARGETS, fuzz::USUAL_SECONDS, args.policy, log)
        }));
    }
    if args.wants(Only::Vm) {
        let plan = Plan::usual();
        let why = if args.no_live {
            Some("--no-live".to_owned())
        } else {
            vm::obstacle()
        };
        steps.push(match why {
            Some(why) => Step::skipped("vm", &plan.names(), &why),
            None => Step::run("vm", |log| vm::run(&plan, args.policy, log)),
        });
    }
}

fn fmt() -> Result<()> {
    command::run(in_root(command::cargo()).args(["fmt", "--all", "--check"]))
        .context("run `cargo fmt --all`")
}

/// Installs, mounts and builds all that the later steps share.
fn build(args: &Args) -> Result<()> {
    if args.runs_live() {
        Privilege::find()?
            .prefix()
            .context("the live tests load eBPF programs (--no-live leaves them out)")?;
        runtimes::ensure(args.policy)?;
        packages::ensure_programs(
            &[
                ("mkfs.ext4", Package::new("e2fsprogs", "a disk that stalls")),
                ("fsfreeze", Package::new("util-linux", "makes it stall")),
            ],
            args.policy,
        )?;
        mounts::ensure()?;
    }
    if args.wants(Only::Plain)
        && command::find("chromium").is_none()
        && let Err(error) = packages::ensure_programs(
            &[(
                "chromium-headless-shell",
                Package::new("chromium-headless-shell", "the gateway's page in a browser"),
            )],
            args.policy,
        )
    {
        // Its test is skipped by name.
        say::note(format_args!("no browser: {error:#}"));
    }
    build_binaries(args.policy)
}

fn build_binaries(policy: Policy) -> Result<()> {
    let what = What {
        features: Vec::new(),
        policy,
    };
    ebpf::build(&what.features, what.policy)?;
    // The selection of packages is that of the test steps: with another one, cargo would choose
    // other features for shared dependencies and build them twice.
    command::run(workspace_cargo("build").arg("--bins")).context("could not build tracer")
}

/// `tracer-ebpf` is `no_std` with a panic handler of its own: it is linted apart, under a profile
/// that aborts, and without its test harness, which wants `std`.
fn clippy() -> Result<()> {
    const DENY: [&str; 3] = ["--", "-D", "warnings"];
    let host = command::run(
        workspace_cargo("clippy")
            .args(["--all-targets", "--keep-going"])
            .args(DENY),
    );
    let ebpf = command::run(
        in_root(command::cargo())
            .args(["clippy", "--package", "tracer-ebpf", "--bins", "--release"])
            .args(DENY),
    );
    host.and(ebpf)
}

fn plain(args: &Args, targets: &Targets) -> Vec<Command> {
    let mut tests = workspace_cargo("test");
    tests.args(["--no-fail-fast", "--lib", "--bins"]);
    for name in &targets.plain {
        tests.args(["--test", name]);
    }
    let mut doc = workspace_cargo("test");
    doc.args(["--no-fail-fast", "--doc"]);
    let mut commands = vec![tests, doc];
    for command in &mut commands {
        command.env("TRACER_BIN", Profile::Fast.binary());
        command.args(args.filter.iter().flat_map(|filter| ["--", filter]));
    }
    commands
}

fn live(args: &Args, targets: &Targets) -> Result<Command> {
    if targets.live.is_empty() {
        bail!("there is no live test: no test target is named live_*");
    }
    let mut tests = workspace_cargo("test");
    if let prefix @ [_, ..] = Privilege::find()?.prefix()? {
        tests.arg("--config").arg(runner(prefix));
    }
    tests.arg("--no-fail-fast");
    for name in &targets.live {
        tests.args(["--test", name]);
    }
    // They share one kernel and one cgroup tree: each asserts that nothing extra came.
    tests.args(["--", "--test-threads=1"]).args(&args.filter);
    tests
        .env("TRACER_BIN", Profile::Fast.binary())
        .env("TRACER_REQUIRE_LIVE", "1");
    Ok(tests)
}

/// Cargo's setting that builds as this user and runs the tests through sudo.
fn runner(prefix: &[&str]) -> String {
    const KEPT: &str =
        "--preserve-env=TRACER_BIN,TRACER_REQUIRE_LIVE,TRACER_SKIP_FILE,RUST_BACKTRACE";
    let words: Vec<String> = prefix
        .iter()
        .chain([&KEPT, &"--"])
        .map(|word| format!("'{word}'"))
        .collect();
    format!("target.'cfg(unix)'.runner=[{}]", words.join(","))
}

/// A cargo command over all that is built for the host, in the profile of the tests.
pub fn workspace_cargo(verb: &str) -> Command {
    let mut cargo = in_root(command::cargo());
    cargo.args([verb, "--workspace", "--exclude", "tracer-ebpf"]);
    cargo.args(["--profile", Profile::Fast.name()]);
    cargo
}

fn in_root(mut cargo: Command) -> Command {
    cargo.current_dir(workspace::root());
    cargo
}

fn report(args: &Args, steps: &[Step]) -> Result<ExitCode> {
    let mut total = Tally::default();
    for step in steps {
        total += step.tally;
    }
    let lines = table(steps);
    if let Some(filter) = &args.filter
        && total.failed == 0
        && steps
            .iter()
            .all(|step| step.name == "build" || step.tally.passed == 0)
    {
        total.failed += 1;
        say::result(format_args!(
            "\nno test that ran has {filter:?} in its name"
        ));
    }
    for line in lines {
        say::result(line);
    }
    say::result(format_args!(
        "\n{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    ));
    std::io::stdout()
        .flush()
        .context("cannot write the result")?;
    Ok(if total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A row per step, then what was skipped and what failed.
fn table(steps: &[Step]) -> Vec<String> {
    let mut lines = vec![format!(
        "\n{:<8}{:>8}{:>8}{:>8}{:>10}",
        "step", "passed", "failed", "skipped", "seconds"
    )];
    for step in steps {
        lines.push(format!(
            "{:<8}{:>8}{:>8}{:>8}{:>10.1}",
            step.name,
            step.tally.passed,
            step.tally.failed,
            step.tally.skipped,
            step.took.as_secs_f64()
        ));
    }
    for skip in steps.iter().flat_map(|step| &step.skips) {
        lines.push(format!("SKIPPED {}: {}", skip.name, skip.reason));
    }
    for step in steps {
        for failure in &step.failures {
            lines.push(format!("FAILED {}: {failure}", step.name));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_choose_the_steps() {
        let rows = [
            (vec![], "fmt clippy plain live fuzz vm"),
            (vec!["--no-live"], "fmt clippy plain fuzz vm"),
            (vec!["oom"], "plain live"),
            (vec!["oom", "--only", "live"], "live"),
            (vec!["--only", "fmt", "--only", "clippy"], "fmt clippy"),
            (vec!["--only", "live", "--no-live"], ""),
            (vec!["--only", "fuzz"], "fuzz"),
            (vec!["--only", "vm"], "vm"),
        ];
        for (flags, expected) in rows {
            let cli = Cli::try_parse_from([&["test"], &flags[..]].concat()).unwrap();
            let mut steps = Vec::new();
            for (step, name) in [
                (cli.args.wants(Only::Fmt), "fmt"),
                (cli.args.wants(Only::Clippy), "clippy"),
                (cli.args.wants(Only::Plain), "plain"),
                (cli.args.runs_live(), "live"),
                (cli.args.wants(Only::Fuzz), "fuzz"),
                (cli.args.wants(Only::Vm), "vm"),
            ] {
                steps.extend(step.then_some(name));
            }
            assert_eq!(steps.join(" "), expected, "{flags:?}");
        }
    }

    #[test]
    fn sudo_runs_the_tests_and_not_the_build() {
        assert_eq!(
            runner(&["sudo", "-n"]),
            "target.'cfg(unix)'.runner=['sudo','-n',\
             '--preserve-env=TRACER_BIN,TRACER_REQUIRE_LIVE,TRACER_SKIP_FILE,RUST_BACKTRACE','--']"
        );
    }
}
