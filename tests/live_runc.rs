//! runc alone: every event of a container's life, and the ways in which it can end.

use std::fs;

use tracer_tests::cgroup::{self, Kind};
use tracer_tests::janitor::OnDrop;
use tracer_tests::raw::{RawContainer, Shape};
use tracer_tests::runtimes::{Runc, Spec};
use tracer_tests::wait::DEADLINE;
use tracer_tests::{
    Context, Record, Result, Step, Tracer, created, emptied, ensure, exec_exited, exec_killed,
    exec_started, exited, image, killed, live, need, paused, removed, resumed, start_failed,
    started, started_without_exec, this_test,
};

#[test]
fn a_whole_life_step_by_step() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let mut tracer = Tracer::start(&[])?;
    let container = runc.container(&Spec::new(&["/bin/sleep", "1000"]))?;
    let id = container.id();

    container.create()?;
    tracer.expect_of(id, "container.created", 1)?;
    container.act("start")?;
    tracer.expect_of(id, "container.started", 1)?;
    container.exec(&["/bin/sh", "-c", "exit 5"])?.ended(5)?;
    tracer.expect_of(id, "container.exec_exited", 1)?;
    container.act("pause")?;
    tracer.expect_of(id, "container.paused", 1)?;
    container.act("resume")?;
    tracer.expect_of(id, "container.resumed", 1)?;
    container.kill("KILL")?;
    tracer.expect_of(id, "container.exited", 1)?;
    container.act("delete")?;

    tracer.expect_life(
        id,
        &[
            created().runtime("runc").parents(&[]),
            started("/bin/sleep").runtime("runc"),
            exec_started("a", "/bin/sh"),
            exec_exited("a", 5),
            paused(),
            resumed(),
            killed("SIGKILL", 9, false),
            emptied(),
            removed().runtime("runc"),
        ],
    )?;
    tracer.stop()?;
    Ok(())
}

/// Runs a container to its end, with a limit of core dumps where one is given, and asserts its life.
fn runs(spec: &Spec, core_limit: Option<&str>, code: i32, first: Step, end: Step) -> Result<()> {
    let runc = Runc::new()?;
    let mut tracer = Tracer::start(&[])?;
    if core_limit.is_some() {
        image::add_crash(&runc.rootfs())?;
    }
    let container = runc.container(spec)?;
    let done = match core_limit {
        Some(limit) => container.run_with_core_limit(limit)?,
        None => container.run()?,
    };
    done.ended(code)?;
    tracer.expect_life(
        container.id(),
        &[created(), first, end, emptied(), removed()],
    )?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn exit_codes_are_inits_own() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let mut tracer = Tracer::start(&[])?;
    for code in [0, 3, 255] {
        let container = runc.container(&Spec::sh(&format!("exit {code}")))?;
        container.run()?.ended(i32::from(code))?;
        tracer.expect_life(
            container.id(),
            &[
                created(),
                started("/bin/sh"),
                exited(code),
                emptied(),
                removed(),
            ],
        )?;
    }
    tracer.stop()?;
    Ok(())
}

#[test]
fn killed_from_outside() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let mut tracer = Tracer::start(&[])?;
    let container = runc.container(&Spec::new(&["/bin/sleep", "1000"]))?;
    let running = container.run_spawn()?;
    tracer.expect_of(container.id(), "container.started", 1)?;
    container.kill("KILL")?;
    running.finish(DEADLINE)?.ended(137)?;
    tracer.expect_life(
        container.id(),
        &[
            created(),
            started("/bin/sleep"),
            killed("SIGKILL", 9, false),
            emptied(),
            removed(),
        ],
    )?;
    tracer.stop()?;
    Ok(())
}

/// Init of a pid namespace cannot kill itself; without one it can.
#[test]
fn killed_from_inside_in_the_hosts_pid_namespace() -> Result<()> {
    let _live = live!("runc");
    runs(
        &Spec::sh("kill -KILL $$").host_pid(),
        None,
        137,
        started("/bin/sh").any_vpid(),
        killed("SIGKILL", 9, false),
    )
}

#[test]
fn a_fault_without_a_core_dump() -> Result<()> {
    let _live = live!("runc", "cc");
    if core_goes_to_a_program()? {
        return need::skip(
            this_test!(),
            "core_pattern is a pipe: limit 0 does not hold",
        );
    }
    runs(
        &Spec::new(&["/bin/crash"]),
        Some("0"),
        139,
        started("/bin/crash"),
        killed("SIGSEGV", 11, false),
    )
}

#[test]
fn a_fault_with_a_core_dump() -> Result<()> {
    let _live = live!("runc", "cc");
    runs(
        &Spec::new(&["/bin/crash"]),
        Some("unlimited"),
        139,
        started("/bin/crash"),
        killed("SIGSEGV", 11, true),
    )
}

fn core_goes_to_a_program() -> Result<bool> {
    Ok(fs::read_to_string("/proc/sys/kernel/core_pattern")?.starts_with('|'))
}

#[test]
fn a_missing_entrypoint_is_a_failed_start() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let mut tracer = Tracer::start(&[])?;
    let container = runc.container(&Spec::new(&["/no/such/program"]))?;
    let done = container.run()?;
    ensure!(done.code != 0, "runc ran what does not exist");
    tracer.expect_life(
        container.id(),
        &[created(), start_failed(), emptied(), removed()],
    )?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn a_container_deleted_before_its_start_is_a_failed_start() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let mut tracer = Tracer::start(&[])?;
    let container = runc.container(&Spec::new(&["/bin/true"]))?;
    container.create()?;
    tracer.expect_of(container.id(), "container.created", 1)?;
    container.kill("KILL")?;
    container.act("delete")?;
    tracer.expect_life(
        container.id(),
        &[
            created(),
            start_failed().is("process.exit.signal", "SIGKILL"),
            emptied(),
            removed(),
        ],
    )?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn a_cgroup_that_goes_without_ever_having_a_process_is_a_failed_start() -> Result<()> {
    let _live = live!();
    let mut tracer = Tracer::start(&[])?;
    let container = RawContainer::docker()?;
    let id = container.id().to_owned();
    container.remove()?;
    tracer.expect_life(&id, &[created(), start_failed(), removed()])?;
    tracer.stop()?;
    Ok(())
}

/// Ten cgroups make one container, and one alone makes one as well.
#[test]
fn a_container_in_one_hierarchy_only() -> Result<()> {
    let _live = live!("cc");
    let mut tracer = Tracer::start(&[])?;
    for hierarchy in cgroup::hierarchies()? {
        // A named hierarchy has no controller, and no runtime puts a container there alone.
        if matches!(&hierarchy.kind, Kind::V1(names) if names.iter().any(|name| name.starts_with("name=")))
        {
            continue;
        }
        let container = RawContainer::docker_in(|kind| *kind == hierarchy.kind)?;
        container
            .spawn(Shape::Joined, &["/bin/sh", "-c", "exit 5"])?
            .finish(DEADLINE)?
            .ended(5)?;
        let id = container.id().to_owned();
        container.remove()?;
        tracer
            .expect_life(
                &id,
                &[
                    created(),
                    started("/bin/sh"),
                    exited(5),
                    emptied(),
                    removed(),
                ],
            )
            .with_context(|| format!("in {:?} alone", hierarchy.kind))?;
    }
    tracer.stop()?;
    Ok(())
}

#[test]
fn init_that_never_executes_anything() -> Result<()> {
    let _live = live!("cc");
    let mut tracer = Tracer::start(&[])?;
    for shape in [Shape::Joined, Shape::Into] {
        let container = RawContainer::docker()?;
        let mut init = container.spawn(shape, &["stay", "7"])?;
        tracer.expect_of(container.id(), "container.started", 1)?;
        init.close_stdin();
        init.finish(DEADLINE)?.ended(7)?;
        let id = container.id().to_owned();
        container.remove()?;
        tracer.expect_life(
            &id,
            &[
                created(),
                started_without_exec(),
                exited(7),
                emptied(),
                removed(),
            ],
        )?;
    }
    tracer.stop()?;
    Ok(())
}

/// The shape of crun on cgroup v2: no process ever moves into the cgroup.
#[test]
fn init_cloned_into_its_cgroup() -> Result<()> {
    let _live = live!("cc");
    let mut tracer = Tracer::start(&[])?;
    let container = RawContainer::docker()?;
    container
        .spawn(Shape::Into, &["/bin/sh", "-c", "exit 9"])?
        .finish(DEADLINE)?
        .ended(9)?;
    let id = container.id().to_owned();
    container.remove()?;
    tracer.expect_life(
        &id,
        &[
            created().runtime("docker"),
            started("/bin/sh"),
            exited(9),
            emptied(),
            removed(),
        ],
    )?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn the_hosts_pid_namespace() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let mut tracer = Tracer::start(&[])?;
    let container = runc.container(&Spec::new(&["/bin/sleep", "1000"]).host_pid())?;
    container.create()?;
    container.act("start")?;
    let start = tracer.expect_of(container.id(), "container.started", 1)?;
    ensure!(
        start.number("process.vpid") == start.number("process.pid"),
        "one namespace, one number: {start:?}"
    );
    container.kill("TERM")?;
    tracer.expect_of(container.id(), "container.exited", 1)?;
    container.act("delete")?;
    tracer.expect_life(
        container.id(),
        &[
            created(),
            started("/bin/sleep").any_vpid(),
            killed("SIGTERM", 15, false),
            emptied(),
            removed(),
        ],
    )?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn the_pid_namespace_of_another_container() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let mut tracer = Tracer::start(&[])?;
    let first = runc.container(&Spec::new(&["/bin/sleep", "1000"]))?;
    first.create()?;
    first.act("start")?;
    let spec = Spec::sh("exit 4").pid_namespace_of(first.pid()?);
    let second = runc.container(&spec)?;
    second.run()?.ended(4)?;
    first.kill("KILL")?;
    tracer.expect_of(first.id(), "container.exited", 1)?;
    first.act("delete")?;
    tracer.expect_lives(&[
        (
            second.id(),
            &[
                created(),
                started("/bin/sh").any_vpid(),
                exited(4),
                emptied(),
                removed(),
            ],
        ),
        (
            first.id(),
            &[
                created(),
                started("/bin/sleep"),
                killed("SIGKILL", 9, false),
                emptied(),
                removed(),
            ],
        ),
    ])?;
    let vpid = tracer
        .life(second.id())
        .iter()
        .find_map(|record| record.number("process.vpid"));
    ensure!(
        vpid.is_some_and(|vpid| vpid > 1),
        "the namespace has a first process already, so this is not it: {vpid:?}"
    );
    tracer.stop()?;
    Ok(())
}

#[test]
fn exec_sessions_at_the_same_time_are_told_apart() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let mut tracer = Tracer::start(&[])?;
    let container = runc.container(&Spec::new(&["/bin/sleep", "1000"]))?;
    let id = container.id();
    container.create()?;
    container.act("start")?;

    let long = container.exec_spawn(&["/bin/sleep", "1000"])?;
    tracer.expect_of(id, "container.exec_started", 1)?;
    container.exec(&["/bin/sh", "-c", "exit 6"])?.ended(6)?;
    tracer.expect_of(id, "container.exec_exited", 1)?;
    // What cannot be executed is no session.
    ensure!(
        container.exec(&["/no/such/program"])?.code != 0,
        "runc ran it"
    );
    // The end of init ends every session.
    container.kill("KILL")?;
    long.finish(DEADLINE)?;
    tracer.expect_of(id, "container.exec_exited", 2)?;
    container.act("delete")?;

    tracer.expect_life(
        id,
        &[
            created(),
            started("/bin/sleep"),
            exec_started("long", "/bin/sleep"),
            exec_started("short", "/bin/sh"),
            exec_exited("short", 6),
            killed("SIGKILL", 9, false),
            exec_killed("long", "SIGKILL", 9),
            emptied(),
            removed(),
        ],
    )?;
    tracer.stop()?;
    Ok(())
}

const INNER: &str =
    "/bin/busybox true; /bin/busybox false; (/bin/busybox true; exit 2) & wait; exit 1";

#[test]
fn inner_processes_are_not_told_by_default() -> Result<()> {
    let _live = live!("runc");
    runs(&Spec::sh(INNER), None, 1, started("/bin/sh"), exited(1))
}

#[test]
fn inner_processes_are_told_where_asked() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let mut tracer = Tracer::start(&["--processes"])?;
    let container = runc.container(&Spec::sh(INNER))?;
    container.run()?.ended(1)?;
    tracer.expect_life(
        container.id(),
        &[
            created(),
            started("/bin/sh"),
            exited(1),
            emptied(),
            removed(),
        ],
    )?;
    let of = |kind: &str, fits: &dyn Fn(&Record) -> bool| {
        tracer
            .life(container.id())
            .iter()
            .filter(|record| record.is(kind) && fits(record))
            .count()
    };
    let busybox = |record: &Record| record.text("process.executable.path") == Some("/bin/busybox");
    let execs = of("process.exec", &busybox);
    ensure!(execs == 3, "{execs} executions told, there were 3");
    for (code, times) in [(0, 2), (1, 1), (2, 1)] {
        let ends = of("process.exited", &|record| {
            record.number("process.exit.code") == Some(code)
        });
        ensure!(
            ends == times,
            "{ends} ends with {code} told, there were {times}"
        );
    }
    tracer.stop()?;
    Ok(())
}

#[test]
fn a_cgroup_path_that_tells_nothing() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let mut tracer = Tracer::start(&[])?;
    let spec = Spec::new(&["/bin/true"]).cgroup("/tracer-live/some/where");
    let container = runc.container(&spec)?;
    container.run()?.ended(0)?;
    tracer.expect_life(
        container.id(),
        &[
            created().runtime("runc").parents(&[]),
            started("/bin/true"),
            exited(0),
            emptied(),
            removed(),
        ],
    )?;
    tracer.stop()?;
    Ok(())
}

/// runc itself sits in different places of different v1 hierarchies (so it does in a login session);
/// left to its own choice it puts the container below each.
#[test]
fn cgroup_paths_that_differ_between_hierarchies() -> Result<()> {
    let _live = live!("runc");
    let Some(memory) = cgroup::hierarchies()?
        .into_iter()
        .find(|hierarchy| hierarchy.has("memory"))
    else {
        return need::skip(this_test!(), "no v1 memory hierarchy");
    };
    let runc = Runc::new()?;
    let place = cgroup::create(&memory, "/tracer-live-session")?;
    let _removal = OnDrop::new(|| drop(cgroup::remove(&place)));
    let mut tracer = Tracer::start(&[])?;
    let container = runc.container(&Spec::sh("exit 4").cgroup_of_runcs_choice())?;
    container.run_from(&place.join("cgroup.procs"))?.ended(4)?;
    tracer.expect_life(
        container.id(),
        &[
            created().runtime("runc").parents(&[]),
            started("/bin/sh"),
            exited(4),
            emptied(),
            removed(),
        ],
    )?;
    tracer.stop()?;
    Ok(())
}
