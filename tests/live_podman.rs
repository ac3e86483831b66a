//! Podman: containers and pods, and what is known of them; conmon and pod cgroups are not containers.
//!
//! It also runs in the guest of `cargo xtask test --vm` that has systemd, with crun and systemd's
//! cgroups; what only such a host can do is in `vm_podman`.

use tracer_tests::facts::{count, known_later, start_in_full};
use tracer_tests::janitor::OnDrop;
use tracer_tests::runtimes::{Podman, podman};
use tracer_tests::{
    Result, Step, Tracer, created, discovered, emptied, ensure, exec_exited, exec_killed,
    exec_started, exited, killed, live, oom, paused, removed, resumed, started,
};

const LIMIT: [&str; 2] = ["--memory=32m", "--memory-swap=32m"];

/// Begin and end as every container has them, with `steps` between.
fn life(cgroup: &str, steps: &[Step]) -> Vec<Step> {
    let first = created().parents(&[]).is("cgroup.path", cgroup);
    let whole = [&[first], steps, &[emptied(), removed()]].concat();
    whole
        .into_iter()
        .map(|step| step.runtime("podman"))
        .collect()
}

/// Runs it to its end; the container's life is these steps.
fn ends(options: &[&str], arguments: &[&str], code: u8, steps: &[Step]) -> Result<()> {
    let podman = Podman::shared()?;
    let mut tracer = Tracer::start(&[])?;
    let container = podman.create(options, arguments)?;
    let id = container.id();
    container.run()?.ended(i32::from(code))?;
    tracer.expect_life(id, &life(&podman::cgroup(id, None), steps))?;
    podman::only(&tracer, &[id])?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn run_ends_by_itself() -> Result<()> {
    let _live = live!("podman", podman::runtime()?);
    ends(
        &[],
        &["/bin/sh", "-c", "exit 3"],
        3,
        &[started("/bin/sh"), exited(3)],
    )
}

#[test]
fn out_of_memory_in_init() -> Result<()> {
    let _live = live!("podman", podman::runtime()?);
    ends(
        &LIMIT,
        &[
            "/bin/dd",
            "if=/dev/zero",
            "of=/dev/null",
            "bs=100M",
            "count=1",
        ],
        137,
        &[
            started("/bin/dd"),
            oom(true)
                .is("oom.limit.scope", "cgroup")
                .is("oom.limit.bytes", (32 << 20).to_string()),
            killed("SIGKILL", 9, false).by_oom(),
        ],
    )
}

#[test]
fn out_of_memory_in_a_child() -> Result<()> {
    let _live = live!("podman", podman::runtime()?);
    let script = "/bin/dd if=/dev/zero of=/dev/null bs=100M count=1; exit 3";
    ends(
        &LIMIT,
        &["/bin/sh", "-c", script],
        3,
        &[started("/bin/sh"), oom(false), exited(3)],
    )
}

#[test]
fn exec_pause_and_kill() -> Result<()> {
    let _live = live!("podman", podman::runtime()?);
    let podman = Podman::shared()?;
    let mut tracer = Tracer::start(&[])?;
    let container = podman.create(&[], &["/bin/sleep", "1000"])?;
    let id = container.id();
    container.act(&["start"])?;
    container.exec(&["/bin/sh", "-c", "exit 5"])?.ended(5)?;
    tracer.expect_of(id, "container.exec_exited", 1)?;
    container.act(&["pause"])?;
    tracer.expect_of(id, "container.paused", 1)?;
    container.act(&["unpause"])?;
    tracer.expect_of(id, "container.resumed", 1)?;
    let long = podman.spawn(&["exec", id, "/bin/sleep", "1000"])?;
    tracer.expect_of(id, "container.exec_started", 2)?;
    container.act(&["kill"])?;
    long.finish(tracer_tests::wait::DEADLINE)?;
    let steps = [
        started("/bin/sleep"),
        exec_started("short", "/bin/sh"),
        exec_exited("short", 5),
        paused(),
        resumed(),
        exec_started("long", "/bin/sleep"),
        killed("SIGKILL", 9, false),
        exec_killed("long", "SIGKILL", 9),
    ];
    tracer.expect_life(id, &life(&podman::cgroup(id, None), &steps))?;
    podman::only(&tracer, &[id])?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn what_was_there_before_is_discovered() -> Result<()> {
    let _live = live!("podman", podman::runtime()?);
    let podman = Podman::shared()?;
    let running = podman.create(&[], &["/bin/sleep", "1000"])?;
    let resting = podman.create(&[], &["/bin/sleep", "1000"])?;
    running.act(&["start"])?;
    resting.act(&["start"])?;
    resting.act(&["pause"])?;
    let mut tracer = Tracer::start(&[])?;
    for one in [&running, &resting] {
        known_later(&mut tracer, one.id(), "container.name")?;
    }
    running.act(&["kill"])?;
    resting.act(&["unpause"])?;
    tracer.expect_of(resting.id(), "container.resumed", 1)?;
    resting.act(&["kill"])?;
    let first = |state, id| {
        discovered(state)
            .parents(&[])
            .runtime("podman")
            .is("cgroup.path", podman::cgroup(id, None))
    };
    let last = [
        killed("SIGKILL", 9, false).any_duration(),
        emptied(),
        removed(),
    ];
    let of_running = [&[first("running", running.id())], &last[..]].concat();
    let of_resting = [&[first("paused", resting.id()), resumed()], &last[..]].concat();
    tracer.expect_lives(&[(running.id(), &of_running), (resting.id(), &of_resting)])?;
    podman::only(&tracer, &[running.id(), resting.id()])?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn a_pod_with_two_containers() -> Result<()> {
    let _live = live!("podman", podman::runtime()?);
    let podman = Podman::shared()?;
    let mut tracer = Tracer::start(&[])?;
    let pod = podman.ok(&["pod", "create"])?;
    let _removal = OnDrop::new(|| {
        drop(podman.run(&["pod", "rm", "--force", "--time", "0", &pod]));
    });
    let join = format!("--pod={pod}");
    let one = podman.create(&[&join], &["/bin/sleep", "1000"])?;
    let two = podman.create(&[&join], &["/bin/sh", "-c", "exit 4"])?;
    let infra = podman.ok(&["pod", "inspect", "--format", "{{.InfraContainerID}}", &pod])?;
    one.act(&["start"])?;
    two.act(&["start"])?;
    tracer.expect_of(two.id(), "container.exited", 1)?;
    one.act(&["kill"])?;
    let of_two = [started("/bin/sh"), exited(4)];
    let of_one = [started("/bin/sleep"), killed("SIGKILL", 9, false)];
    let in_pod = |id, steps| life(&podman::cgroup(id, Some(&pod)), steps);
    tracer.expect_lives(&[
        (two.id(), &in_pod(two.id(), &of_two)),
        (one.id(), &in_pod(one.id(), &of_one)),
    ])?;
    // Its first container, which holds what the others share, is one as well.
    let first = tracer.expect_of(&infra, "container.started", 1)?;
    ensure!(
        first.text("cgroup.path") == Some(&podman::cgroup(&infra, Some(&pod))),
        "{first:?}"
    );
    tracer.expect_nothing_of(&pod)?;
    podman::only(&tracer, &[one.id(), two.id(), &infra])?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn containers_start_with_all_that_files_know() -> Result<()> {
    let _live = live!("podman", podman::runtime()?);
    let podman = Podman::shared()?;
    let containers: Vec<_> = (0..count())
        .map(|_| podman.create(&["--label=app=shop"], &["/bin/true"]))
        .collect::<Result<_>>()?;
    let ids: Vec<String> = containers.iter().map(|one| one.id().to_owned()).collect();
    let facts = [
        "container.name",
        "container.image.name",
        "container.image.tags",
        "container.image.id",
        "container.created",
    ];
    start_in_full("podman", &ids, &facts, |id| podman.spawn(&["start", id]))
}

#[test]
fn labels_come_from_its_socket() -> Result<()> {
    let _live = live!("podman", podman::runtime()?);
    let podman = Podman::shared()?;
    let mut tracer = Tracer::start(&["--log=tracer=debug"])?;
    // Started before anybody listens: asked again until somebody does.
    let before = podman.create(&["--label=app=shop"], &["/bin/sleep", "1000"])?;
    before.act(&["start"])?;
    tracer.expect_of(before.id(), "container.started", 1)?;
    let _service = podman.service()?;
    let after = podman.create(&["--label=app=shop"], &["/bin/sleep", "1000"])?;
    after.act(&["start"])?;
    for one in [&after, &before] {
        known_later(&mut tracer, one.id(), "container.label.app")?;
    }
    tracer.stop()?;
    Ok(())
}
