//! containerd, by `ctr` and as a kubelet drives it.

use tracer_tests::image;
use tracer_tests::raw::random_uuid;
use tracer_tests::runtimes::Containerd;
use tracer_tests::runtimes::cri::{Cri, PidMode, Pod};
use tracer_tests::wait::DEADLINE;
use tracer_tests::{
    Result, Step, Tracer, created, emptied, ensure, exec_exited, exec_started, exited, killed,
    live, paused, removed, resumed, started,
};

#[test]
fn ctr_run_ends_by_itself() -> Result<()> {
    let _live = live!("containerd", "ctr");
    let containerd = Containerd::shared()?;
    let mut tracer = Tracer::start(&[])?;
    for namespace in ["default", "tracer-other"] {
        let container = containerd.name_container(namespace)?;
        containerd
            .ctr(
                namespace,
                &[
                    "run",
                    "--rm",
                    image::NAME,
                    container.id(),
                    "/bin/sh",
                    "-c",
                    "exit 4",
                ],
            )?
            .ended(4)?;
        tracer.expect_life(
            container.id(),
            &[
                created().runtime("containerd").parents(&[]),
                started("/bin/sh").runtime("containerd"),
                exited(4),
                emptied(),
                removed(),
            ],
        )?;
    }
    tracer.stop()?;
    Ok(())
}

#[test]
fn ctr_exec_pause_kill_and_remove() -> Result<()> {
    let _live = live!("containerd", "ctr");
    let containerd = Containerd::shared()?;
    let mut tracer = Tracer::start(&[])?;
    for namespace in ["default", "tracer-other"] {
        let container = containerd.start_container(namespace, &["/bin/sleep", "1000"])?;
        let id = container.id();
        container.exec(&["/bin/sh", "-c", "exit 5"])?.ended(5)?;
        tracer.expect_of(id, "container.exec_exited", 1)?;
        container.task(&["pause"], &[])?.ended(0)?;
        tracer.expect_of(id, "container.paused", 1)?;
        container.task(&["resume"], &[])?.ended(0)?;
        tracer.expect_of(id, "container.resumed", 1)?;
        container
            .task(&["kill", "--signal", "KILL"], &[])?
            .ended(0)?;
        tracer.expect_of(id, "container.exited", 1)?;
        container.task(&["rm", "--force"], &[])?;
        tracer.expect_life(
            id,
            &[
                created().runtime("containerd"),
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
    }
    tracer.stop()?;
    Ok(())
}

fn pod(containerd: &Containerd, pid: PidMode) -> Result<Pod> {
    let uid = random_uuid()?;
    Ok(Pod {
        name: format!("live-{}", uid.get(..8).unwrap_or_default()),
        log_directory: containerd.dir().join(&uid).display().to_string(),
        uid,
        namespace: "tests".to_owned(),
        pid,
    })
}

/// A pod with two containers, whose first process has a number of its own in each where `pid` says
/// so.
fn pod_with_two_containers(pid: PidMode) -> Result<()> {
    let containerd = Containerd::shared()?;
    let cri = Cri::connect(&containerd.socket())?;
    let mut tracer = Tracer::start(&[])?;
    let pod = pod(containerd, pid)?;
    let of_pod = |step: Step| {
        let step = step
            .is("k8s.pod.uid", pod.uid.as_str())
            .runtime("containerd")
            .parents(&[]);
        if pid == PidMode::Pod {
            step.any_vpid()
        } else {
            step
        }
    };
    let sandbox = cri.run_pod(&pod)?;
    let start = |name: &str, command: &[&str]| -> Result<String> {
        let id = cri.create_container(&pod, &sandbox, name, image::NAME, command)?;
        cri.start_container(&id)?;
        Ok(id)
    };
    let web = start("web", &["/bin/sleep", "1000"])?;
    let job = start("job", &["/bin/sh", "-c", "exit 4"])?;
    tracer.expect_of(&web, "container.started", 1)?;
    tracer.expect_of(&job, "container.exited", 1)?;
    let code = cri.exec(&web, &["/bin/sh", "-c", "exit 5"])?;
    ensure!(code == 5, "the command ended with {code}");
    cri.stop_container(&web, 1)?;
    cri.remove_container(&web)?;
    cri.remove_container(&job)?;
    let end = if pid == PidMode::Pod {
        // Not the first of its namespace, so SIGTERM ends it.
        killed("SIGTERM", 15, false)
    } else {
        killed("SIGKILL", 9, false)
    };
    tracer.expect_lives(&[
        (
            &job,
            &[
                of_pod(created()),
                of_pod(started("/bin/sh")),
                of_pod(exited(4)),
                of_pod(emptied()),
                of_pod(removed()),
            ],
        ),
        (
            &web,
            &[
                of_pod(created()),
                of_pod(started("/bin/sleep")),
                of_pod(exec_started("a", "/bin/sh")),
                of_pod(exec_exited("a", 5)),
                of_pod(end),
                of_pod(emptied()),
                of_pod(removed()),
            ],
        ),
    ])?;
    cri.remove_pod(&sandbox)?;
    ensure!(
        !tracer
            .records()
            .iter()
            .any(|record| record.container().is_some_and(|id| id.starts_with("pod"))),
        "a pod's cgroup is no container"
    );
    tracer.stop()?;
    Ok(())
}

#[test]
fn a_pod_with_two_containers() -> Result<()> {
    let _live = live!("containerd", "ctr");
    pod_with_two_containers(PidMode::Container)
}

#[test]
fn a_pod_that_shares_its_pid_namespace() -> Result<()> {
    let _live = live!("containerd", "ctr");
    pod_with_two_containers(PidMode::Pod)
}

#[test]
fn a_ctr_container_in_the_foreground() -> Result<()> {
    let _live = live!("containerd", "ctr");
    let containerd = Containerd::shared()?;
    let mut tracer = Tracer::start(&[])?;
    let container = containerd.name_container("default")?;
    let id = container.id();
    let running = containerd.spawn(
        "default",
        &["run", "--rm", image::NAME, id, "/bin/sleep", "1000"],
    )?;
    tracer.expect_of(id, "container.started", 1)?;
    container
        .task(&["kill", "--signal", "KILL"], &[])?
        .ended(0)?;
    running.finish(DEADLINE)?.ended(137)?;
    tracer.expect_life(
        id,
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
