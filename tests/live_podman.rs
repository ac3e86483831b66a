//! Podman: containers and pods; conmon and pod cgroups are not containers.

use tracer_tests::janitor::OnDrop;
use tracer_tests::runtimes::Podman;
use tracer_tests::{
    Result, Tracer, created, emptied, ensure, exec_exited, exec_started, exited, killed, live,
    paused, removed, resumed, started,
};

#[test]
fn run_ends_by_itself() -> Result<()> {
    let _live = live!("podman", "runc");
    let podman = Podman::shared()?;
    let mut tracer = Tracer::start(&[])?;
    let container = podman.create(&[], &["/bin/sh", "-c", "exit 3"])?;
    container.run()?.ended(3)?;
    tracer.expect_life(
        container.id(),
        &[
            created().runtime("podman").parents(&[]),
            started("/bin/sh").runtime("podman"),
            exited(3),
            emptied(),
            removed(),
        ],
    )?;
    only(&tracer, &[container.id()])?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn exec_pause_and_kill() -> Result<()> {
    let _live = live!("podman", "runc");
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
    container.act(&["kill"])?;
    tracer.expect_life(
        id,
        &[
            created().runtime("podman"),
            started("/bin/sleep"),
            exec_started("a", "/bin/sh"),
            exec_exited("a", 5),
            paused(),
            resumed(),
            killed("SIGKILL", 9, false),
            emptied(),
            removed(),
        ],
    )?;
    only(&tracer, &[id])?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn a_pod_with_two_containers() -> Result<()> {
    let _live = live!("podman", "runc");
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
    tracer.expect_lives(&[
        (
            two.id(),
            &[
                created().runtime("podman").parents(&[]),
                started("/bin/sh"),
                exited(4),
                emptied(),
                removed(),
            ],
        ),
        (
            one.id(),
            &[
                created().runtime("podman").parents(&[]),
                started("/bin/sleep"),
                killed("SIGKILL", 9, false),
                emptied(),
                removed(),
            ],
        ),
    ])?;
    tracer.expect_nothing_of(&pod)?;
    only(&tracer, &[one.id(), two.id(), &infra])?;
    tracer.stop()?;
    Ok(())
}

/// No other new cgroup of podman's (conmon, the pod, their parent) was taken for a container.
fn only(tracer: &Tracer, ids: &[&str]) -> Result<()> {
    for record in tracer.records() {
        let podmans = record.is("container.created")
            && record
                .text("cgroup.path")
                .is_some_and(|path| path.contains("libpod"));
        let known = record.container().is_some_and(|id| ids.contains(&id));
        ensure!(
            !podmans || known,
            "a container that nobody made: {record:?}"
        );
    }
    Ok(())
}
