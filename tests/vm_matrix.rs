//! What must hold on every kernel and cgroup layout: the events of runc's and crun's containers.
//!
//! Made for the guests of `cargo xtask test --vm` and as good on a host. It needs no compiler, no
//! daemon and no network. `TRACER_CGROUP_DRIVER=systemd` lets systemd make the cgroups.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tracer_tests::cgroup::{self, Kind};
use tracer_tests::command::{self, Done};
use tracer_tests::image;
use tracer_tests::janitor::{Janitor, Prepared};
use tracer_tests::raw::random_id;
use tracer_tests::runtimes::Spec;
use tracer_tests::runtimes::runc::write_bundle;
use tracer_tests::{
    Context, Result, Step, Tracer, created, emptied, ensure, exec_exited, exec_killed,
    exec_started, exited, killed, need, oom, paused, removed, resumed, start_failed, started,
};

const LIMIT: u64 = 32 << 20;
/// Takes more memory than that, at once.
const GREEDY: [&str; 5] = [
    "/bin/dd",
    "if=/dev/zero",
    "of=/dev/null",
    "bs=100M",
    "count=1",
];

/// A low-level runtime with a state directory of its own.
struct Runtime {
    program: &'static str,
    janitor: Janitor,
    made: Cell<u32>,
}

struct Container<'a> {
    runtime: &'a Runtime,
    id: String,
    bundle: PathBuf,
    /// Below the root of each hierarchy.
    cgroup: String,
}

impl Runtime {
    fn new(program: &'static str) -> Result<Self> {
        let prepared = Prepared::new(program)?;
        image::rootfs(&prepared.dir().join("rootfs"))?;
        Ok(Self {
            program,
            janitor: prepared.start()?,
            made: Cell::new(0),
        })
    }

    fn dir(&self) -> &Path {
        self.janitor.dir()
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(self.program);
        command.arg("--root").arg(self.dir().join("state"));
        if cgroup::is_systemds() {
            command.arg("--systemd-cgroup");
        }
        command.arg(verb).stdin(Stdio::null());
        command
    }

    /// Named as Docker names its containers, so that the cgroup's path alone tells whose it is.
    fn container(&self, spec: Spec) -> Result<Container<'_>> {
        self.place("docker", random_id()?, spec)
    }

    /// Where systemd makes no cgroup, the path tells nothing: what this runtime is told to do does.
    fn bare(&self, spec: Spec) -> Result<Container<'_>> {
        let id: String = random_id()?.chars().take(12).collect();
        self.place(self.program, format!("live-{id}"), spec)
    }

    /// In a cgroup that is `owner`'s by its name.
    fn place(&self, owner: &str, id: String, spec: Spec) -> Result<Container<'_>> {
        self.made.set(self.made.get() + 1);
        let (asked, cgroup) = if cgroup::is_systemds() {
            (
                format!("system.slice:{owner}:{id}"),
                format!("/system.slice/{owner}-{id}.scope"),
            )
        } else {
            (format!("/{owner}/{id}"), format!("/{owner}/{id}"))
        };
        let bundle = self.dir().join(self.made.get().to_string());
        let rootfs = self.dir().join("rootfs");
        let config = spec
            .cgroup(&asked)
            .config(&id, &rootfs.display().to_string());
        write_bundle(&bundle, &config)?;
        Ok(Container {
            runtime: self,
            id,
            bundle,
            cgroup,
        })
    }
}

impl Container<'_> {
    fn bundled(&self, verb: &str) -> Command {
        let mut command = self.runtime.command(verb);
        command.arg("--bundle").arg(&self.bundle).arg(&self.id);
        command
    }

    fn create(&self) -> Result<()> {
        command::run_ok(&mut self.bundled("create")).map(drop)
    }

    fn run(&self) -> Result<Done> {
        command::run(&mut self.bundled("run"))
    }

    fn act(&self, verb: &str) -> Result<()> {
        command::run_ok(self.runtime.command(verb).arg(&self.id)).map(drop)
    }

    fn kill(&self, signal: &str) -> Result<()> {
        command::run_ok(self.runtime.command("kill").arg(&self.id).arg(signal)).map(drop)
    }

    fn exec(&self, arguments: &[&str]) -> Command {
        let mut command = self.runtime.command("exec");
        command.arg(&self.id).args(arguments);
        command
    }

    /// Directory in the hierarchy that controls memory, and whether that is cgroup v2.
    fn memory_dir(&self) -> Result<Option<(PathBuf, bool)>> {
        for hierarchy in cgroup::hierarchies()? {
            let (dir, root) = (hierarchy.dir(&self.cgroup), &hierarchy.mount);
            match &hierarchy.kind {
                Kind::V1(names) if names.iter().any(|name| name == "memory") => {
                    return Ok(Some((dir, false)));
                }
                Kind::Unified => {
                    let controllers = fs::read_to_string(root.join("cgroup.controllers"))
                        .context("read cgroup.controllers")?;
                    if controllers.split_whitespace().any(|name| name == "memory") {
                        return Ok(Some((dir, true)));
                    }
                }
                Kind::V1(_) => {}
            }
        }
        Ok(None)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        drop(command::run(
            self.runtime.command("delete").args(["--force", &self.id]),
        ));
    }
}

/// Why this runtime cannot do its work on this host, where that is known. Beside v1 hierarchies crun
/// suffers no v2 one that has controllers, and runc uses none of those.
fn refusal(program: &str, memory: bool) -> Result<Option<&'static str>> {
    let hierarchies = cgroup::hierarchies()?;
    let is_v2 = |hierarchy: &&cgroup::Hierarchy| hierarchy.kind == Kind::Unified;
    let Some(v2) = hierarchies.iter().find(is_v2) else {
        return Ok(None);
    };
    if hierarchies.len() == 1 {
        return Ok(None);
    }
    let controllers = fs::read_to_string(v2.mount.join("cgroup.controllers"))
        .context("read cgroup.controllers")?;
    let has = |name: &str| controllers.split_whitespace().any(|one| one == name);
    Ok(match program {
        "crun" if !controllers.trim().is_empty() => {
            Some("crun refuses a v2 hierarchy with controllers beside v1")
        }
        "runc" if memory && has("memory") => Some("runc wants the memory controller on v1 here"),
        _ => None,
    })
}

/// Begin and end as every container has them, with `steps` between.
fn life(steps: &[Step]) -> Vec<Step> {
    let whole = [&[created().parents(&[])], steps, &[emptied(), removed()]];
    whole.concat()
}

fn whole_life(program: &'static str) -> Result<()> {
    let runtime = Runtime::new(program)?;
    let mut tracer = Tracer::start(&[])?;
    let container = runtime.container(Spec::new(&["/bin/sleep", "1000"]))?;
    let id = &container.id;

    container.create()?;
    tracer.expect_of(id, "container.created", 1)?;
    container.act("start")?;
    tracer.expect_of(id, "container.started", 1)?;
    command::run(&mut container.exec(&["/bin/sh", "-c", "exit 5"]))?.ended(5)?;
    tracer.expect_of(id, "container.exec_exited", 1)?;
    container.act("pause")?;
    tracer.expect_of(id, "container.paused", 1)?;
    container.act("resume")?;
    tracer.expect_of(id, "container.resumed", 1)?;
    let long = command::spawn(&mut container.exec(&["/bin/sleep", "1000"]))?;
    tracer.expect_of(id, "container.exec_started", 2)?;
    container.kill("KILL")?;
    tracer.expect_of(id, "container.exec_exited", 2)?;
    long.finish(tracer_tests::wait::DEADLINE)?;
    container.act("delete")?;

    let expected = life(&[
        started("/bin/sleep"),
        exec_started("short", "/bin/sh"),
        exec_exited("short", 5),
        paused(),
        resumed(),
        exec_started("long", "/bin/sleep"),
        killed("SIGKILL", 9, false),
        exec_killed("long", "SIGKILL", 9),
    ]);
    tracer.expect_life(id, &expected)?;
    tracer.stop()?;
    Ok(())
}

fn exit_codes_and_signals(program: &'static str) -> Result<()> {
    let runtime = Runtime::new(program)?;
    let mut tracer = Tracer::start(&[])?;
    for code in [0, 3, 255] {
        let container = runtime.container(Spec::sh(&format!("exit {code}")))?;
        container.run()?.ended(i32::from(code))?;
        let expected = life(&[started("/bin/sh"), exited(code)]);
        tracer.expect_life(&container.id, &expected)?;
    }
    // Only where it is not the first of its pid namespace can a process kill itself.
    let container = runtime.container(Spec::sh("kill -TERM $$").host_pid())?;
    container.run()?.ended(143)?;
    let expected = life(&[started("/bin/sh").any_vpid(), killed("SIGTERM", 15, false)]);
    tracer.expect_life(&container.id, &expected)?;
    tracer.stop()?;
    Ok(())
}

fn bare_container(program: &'static str) -> Result<()> {
    let runtime = Runtime::new(program)?;
    let mut tracer = Tracer::start(&[])?;
    let container = runtime.bare(Spec::sh("exit 3"))?;
    container.run()?.ended(3)?;
    let mut expected = life(&[started("/bin/sh"), exited(3)]);
    for step in &mut expected {
        *step = step.clone().runtime(program);
    }
    tracer.expect_life(&container.id, &expected)?;
    tracer.stop()?;
    Ok(())
}

fn failed_starts(program: &'static str) -> Result<()> {
    let runtime = Runtime::new(program)?;
    let mut tracer = Tracer::start(&[])?;

    let missing = runtime.container(Spec::new(&["/no/such/program"]))?;
    ensure!(missing.run()?.code != 0, "{program} ran what is not there");

    let unwanted = runtime.container(Spec::new(&["/bin/true"]))?;
    unwanted.create()?;
    tracer.expect_of(&unwanted.id, "container.created", 1)?;
    unwanted.kill("KILL")?;
    unwanted.act("delete")?;

    tracer.expect_life(
        &missing.id,
        &life(&[start_failed().present("process.exit.code")]),
    )?;
    tracer.expect_life(
        &unwanted.id,
        &life(&[start_failed().is("process.exit.signal", "SIGKILL")]),
    )?;
    tracer.stop()?;
    Ok(())
}

fn out_of_memory(program: &'static str, test: &str) -> Result<()> {
    let runtime = Runtime::new(program)?;
    let mut tracer = Tracer::start(&[])?;
    let alone = runtime.container(Spec::new(&GREEDY).memory_bytes(LIMIT))?;
    if alone.memory_dir()?.is_none() {
        return need::skip(test, "no memory controller");
    }
    alone.run()?.ended(137)?;
    let script = format!("{}; exit 3", GREEDY.join(" "));
    let child = runtime.container(Spec::sh(&script).memory_bytes(LIMIT))?;
    child.run()?.ended(3)?;
    tracer.expect_life(
        &alone.id,
        &life(&[
            started("/bin/dd"),
            oom(true)
                .is("oom.limit.scope", "cgroup")
                .is("oom.limit.bytes", LIMIT.to_string()),
            killed("SIGKILL", 9, false).by_oom(),
        ]),
    )?;
    tracer.expect_life(
        &child.id,
        &life(&[started("/bin/sh"), oom(false), exited(3)]),
    )?;
    tracer.stop()?;
    Ok(())
}

/// `memory.oom.group`, Kubernetes' default: the kernel kills all of the container at once, and says
/// so of each process.
fn out_of_memory_as_a_group(program: &'static str, test: &str) -> Result<()> {
    let runtime = Runtime::new(program)?;
    let mut tracer = Tracer::start(&[])?;
    let script = format!("{} & wait; exit 3", GREEDY.join(" "));
    let container = runtime.container(Spec::sh(&script).memory_bytes(LIMIT))?;
    let Some((dir, true)) = container.memory_dir()? else {
        return need::skip(test, "memory.oom.group is cgroup v2's");
    };
    let id = &container.id;
    container.create()?;
    // With systemd crun sets the limit on a cgroup of its own inside the scope.
    for inner in ["", "container"] {
        let file = dir.join(inner).join("memory.oom.group");
        if file.exists() {
            fs::write(&file, "1").with_context(|| format!("write {}", file.display()))?;
        }
    }
    container.act("start")?;
    tracer.expect_of(id, "container.exited", 1)?;
    container.act("delete")?;
    let expected = life(&[
        started("/bin/sh"),
        oom(false),
        oom(true),
        killed("SIGKILL", 9, false).by_oom(),
    ]);
    tracer.expect_life(id, &expected)?;
    tracer.stop()?;
    Ok(())
}

/// The same tests for a runtime, in a module of its name.
macro_rules! tests_of {
    ($runtime:ident, $program:literal) => {
        mod $runtime {
            use tracer_tests::{Result, live, need, this_test};

            #[test]
            fn a_whole_life() -> Result<()> {
                run(this_test!(), false, super::whole_life)
            }

            #[test]
            fn exit_codes_and_signals() -> Result<()> {
                run(this_test!(), false, super::exit_codes_and_signals)
            }

            #[test]
            fn a_bare_container() -> Result<()> {
                run(this_test!(), false, super::bare_container)
            }

            #[test]
            fn failed_starts() -> Result<()> {
                run(this_test!(), false, super::failed_starts)
            }

            #[test]
            fn out_of_memory() -> Result<()> {
                let name = this_test!();
                run(name, true, |program| super::out_of_memory(program, name))
            }

            #[test]
            fn out_of_memory_as_a_group() -> Result<()> {
                let name = this_test!();
                run(name, true, |program| {
                    super::out_of_memory_as_a_group(program, name)
                })
            }

            fn run(
                name: &str,
                memory: bool,
                test: impl FnOnce(&'static str) -> Result<()>,
            ) -> Result<()> {
                let _live = live!($program);
                match super::refusal($program, memory)? {
                    Some(why) => need::skip(name, why),
                    None => test($program),
                }
            }
        }
    };
}

tests_of!(runc, "runc");
tests_of!(crun, "crun");
