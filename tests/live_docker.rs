//! Docker: what its commands do to containers.

use tracer_tests::command::Running;
use tracer_tests::runtimes::Docker;
use tracer_tests::runtimes::docker::Container;
use tracer_tests::wait::DEADLINE;
use tracer_tests::{
    Result, Step, Tracer, created, emptied, ensure, exec_exited, exec_started, exited, killed,
    live, need, oom, paused, removed, resumed, started, this_test,
};

/// Ends with 0 on SIGTERM.
const POLITE: &str = "trap 'exit 0' TERM; sleep 1000 & wait";

/// A life whose middle is `steps`.
fn life(first: Step, steps: Vec<Step>) -> Vec<Step> {
    [
        vec![created().runtime("docker").parents(&[]), first],
        steps,
        vec![emptied(), removed()],
    ]
    .concat()
}

/// Starts a container, does something to it, compares its life.
fn lives(
    options: &[&str],
    arguments: &[&str],
    act: impl FnOnce(&Container<'_>, &mut Tracer) -> Result<()>,
    expected: &[Step],
) -> Result<()> {
    let docker = Docker::shared()?;
    let mut tracer = Tracer::start(&[])?;
    let container = docker.start_container(options, arguments)?;
    tracer.expect_of(container.id(), "container.started", 1)?;
    act(&container, &mut tracer)?;
    tracer.expect_life(container.id(), expected)?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn run_and_remove() -> Result<()> {
    let _live = live!("docker", "dockerd");
    let docker = Docker::shared()?;
    let mut tracer = Tracer::start(&[])?;
    for code in [0, 3] {
        let container = docker.create(&["--rm"], &["/bin/sh", "-c", &format!("exit {code}")])?;
        container.run()?.ended(i32::from(code))?;
        tracer.expect_life(
            container.id(),
            &life(started("/bin/sh").runtime("docker"), vec![exited(code)]),
        )?;
    }
    tracer.stop()?;
    Ok(())
}

#[test]
fn exec() -> Result<()> {
    let _live = live!("docker", "dockerd");
    lives(
        &[],
        &["/bin/sleep", "1000"],
        |container, _| {
            container.exec(&["/bin/sh", "-c", "exit 5"])?.ended(5)?;
            container.exec(&["/bin/true"])?.ended(0)?;
            container.act(&["kill"])
        },
        &life(
            started("/bin/sleep"),
            vec![
                exec_started("first", "/bin/sh"),
                exec_exited("first", 5),
                exec_started("second", "/bin/true"),
                exec_exited("second", 0),
                killed("SIGKILL", 9, false),
            ],
        ),
    )
}

#[test]
fn pause_and_unpause() -> Result<()> {
    let _live = live!("docker", "dockerd");
    lives(
        &[],
        &["/bin/sleep", "1000"],
        |container, tracer| {
            for round in 1..=2 {
                container.act(&["pause"])?;
                tracer.expect_of(container.id(), "container.paused", round)?;
                container.act(&["unpause"])?;
                tracer.expect_of(container.id(), "container.resumed", round)?;
            }
            container.act(&["kill"])
        },
        &life(
            started("/bin/sleep"),
            vec![
                paused(),
                resumed(),
                paused(),
                resumed(),
                killed("SIGKILL", 9, false),
            ],
        ),
    )
}

#[test]
fn stop_of_one_that_listens() -> Result<()> {
    let _live = live!("docker", "dockerd");
    lives(
        &[],
        &["/bin/sh", "-c", POLITE],
        |container, _| container.act(&["stop", "-t", "20"]),
        &life(started("/bin/sh"), vec![exited(0)]),
    )
}

#[test]
fn stop_of_one_that_does_not_listen() -> Result<()> {
    let _live = live!("docker", "dockerd");
    lives(
        &[],
        &["/bin/sleep", "1000"],
        |container, _| container.act(&["stop", "-t", "1"]),
        &life(started("/bin/sleep"), vec![killed("SIGKILL", 9, false)]),
    )
}

#[test]
fn restart_makes_a_new_instance_of_the_same_container() -> Result<()> {
    let _live = live!("docker", "dockerd");
    let docker = Docker::shared()?;
    let mut tracer = Tracer::start(&[])?;
    let container = docker.start_container(&[], &["/bin/sh", "-c", POLITE])?;
    let id = container.id();
    tracer.expect_of(id, "container.started", 1)?;
    container.act(&["restart", "-t", "20"])?;
    tracer.expect_of(id, "container.started", 2)?;
    container.act(&["kill"])?;
    let twice = [
        life(started("/bin/sh"), vec![exited(0)]),
        life(started("/bin/sh"), vec![killed("SIGKILL", 9, false)]),
    ]
    .concat();
    tracer.expect_life(id, &twice)?;
    let mut instances: Vec<&str> = tracer
        .life(id)
        .iter()
        .filter_map(|record| record.instance())
        .collect();
    instances.dedup();
    ensure!(
        instances.len() == 2 && instances[0] != instances[1],
        "instances in order: {instances:?}"
    );
    tracer.stop()?;
    Ok(())
}

#[test]
fn the_hosts_pid_namespace() -> Result<()> {
    let _live = live!("docker", "dockerd");
    lives(
        &["--pid=host"],
        &["/bin/sh", "-c", "/bin/busybox true; exec /bin/sleep 1000"],
        |container, tracer| {
            let start = tracer.expect_of(container.id(), "container.started", 1)?;
            ensure!(
                start.number("process.vpid") == start.number("process.pid"),
                "one namespace, one number: {start:?}"
            );
            container.exec(&["/bin/sh", "-c", "exit 5"])?.ended(5)?;
            tracer.expect_of(container.id(), "container.exec_exited", 1)?;
            container.act(&["kill"])
        },
        &life(
            started("/bin/sh").any_vpid(),
            vec![
                exec_started("a", "/bin/sh"),
                exec_exited("a", 5),
                killed("SIGKILL", 9, false),
            ],
        ),
    )
}

#[test]
fn the_pid_namespace_of_another_container() -> Result<()> {
    let _live = live!("docker", "dockerd");
    let docker = Docker::shared()?;
    let mut tracer = Tracer::start(&[])?;
    let first = docker.start_container(&[], &["/bin/sleep", "1000"])?;
    let join = format!("--pid=container:{}", first.id());
    let second = docker.start_container(&[&join], &["/bin/sh", "-c", POLITE])?;
    let start = tracer.expect_of(second.id(), "container.started", 1)?;
    ensure!(
        start.number("process.vpid").is_some_and(|vpid| vpid > 1),
        "the namespace has a first process already: {start:?}"
    );
    second.exec(&["/bin/sh", "-c", "exit 5"])?.ended(5)?;
    second.act(&["stop", "-t", "20"])?;
    tracer.expect_of(second.id(), "container.removed", 1)?;
    first.act(&["kill"])?;
    tracer.expect_lives(&[
        (
            second.id(),
            &life(
                started("/bin/sh").any_vpid(),
                vec![exec_started("a", "/bin/sh"), exec_exited("a", 5), exited(0)],
            ),
        ),
        (
            first.id(),
            &life(started("/bin/sleep"), vec![killed("SIGKILL", 9, false)]),
        ),
    ])?;
    tracer.stop()?;
    Ok(())
}

/// docker-init hands SIGTERM on and reports what became of its child: 128 + 15, by exiting.
#[test]
fn an_init_in_front_of_the_entrypoint() -> Result<()> {
    let _live = live!("docker", "dockerd");
    if !need::on_path("docker-init") {
        return need::skip(this_test!(), "docker-init is not installed");
    }
    lives(
        &["--init"],
        &["/bin/sleep", "1000"],
        |container, _| container.act(&["stop", "-t", "20"]),
        &life(started("/sbin/docker-init"), vec![exited(143)]),
    )
}

const LIMIT: [&str; 2] = ["--memory=32m", "--memory-swap=32m"];

#[test]
fn out_of_memory_in_init() -> Result<()> {
    let _live = live!("docker", "dockerd");
    lives(
        &LIMIT,
        &[
            "/bin/dd",
            "if=/dev/zero",
            "of=/dev/null",
            "bs=100M",
            "count=1",
        ],
        |container, tracer| {
            let oom = tracer.expect_of(container.id(), "container.oom", 1)?;
            let start = tracer.expect_of(container.id(), "container.started", 1)?;
            ensure!(
                oom.number("process.pid") == start.number("process.pid"),
                "the victim was init: {oom:?}"
            );
            Ok(())
        },
        &life(
            started("/bin/dd"),
            vec![oom(true), killed("SIGKILL", 9, false).by_oom()],
        ),
    )
}

#[test]
fn out_of_memory_in_a_child() -> Result<()> {
    let _live = live!("docker", "dockerd");
    lives(
        &LIMIT,
        &[
            "/bin/sh",
            "-c",
            "/bin/dd if=/dev/zero of=/dev/null bs=100M count=1; exit 3",
        ],
        |container, tracer| {
            let oom = tracer.expect_of(container.id(), "container.oom", 1)?;
            let start = tracer.expect_of(container.id(), "container.started", 1)?;
            ensure!(
                oom.number("process.pid") != start.number("process.pid"),
                "the victim was not init: {oom:?}"
            );
            Ok(())
        },
        &life(started("/bin/sh"), vec![oom(false), exited(3)]),
    )
}

#[test]
fn fifty_at_once() -> Result<()> {
    const CONTAINERS: usize = 50;
    let _live = live!("docker", "dockerd");
    let docker = Docker::shared()?;
    let mut containers = Vec::new();
    for _ in 0..CONTAINERS {
        containers.push(docker.create(&[], &["/bin/sleep", "1000"])?);
    }
    let ids: Vec<&str> = containers.iter().map(Container::id).collect();
    let mut tracer = Tracer::start(&[])?;
    let starting: Vec<Running> = ids
        .iter()
        .map(|id| docker.spawn(&["start", id]))
        .collect::<Result<_>>()?;
    for start in starting {
        start.finish(DEADLINE * 2)?.ended(0)?;
    }
    docker.ok(&[&["kill"], &ids[..]].concat())?;
    let expected = life(started("/bin/sleep"), vec![killed("SIGKILL", 9, false)]);
    let lives: Vec<(&str, &[Step])> = ids.iter().map(|id| (*id, &expected[..])).collect();
    tracer.expect_lives(&lives)?;
    tracer.stop()?;
    Ok(())
}
