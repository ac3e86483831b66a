//! The runtimes of the harness themselves, without tracer: where one of these fails, the fault is
//! the host's or the harness's.

use tracer_tests::image;
use tracer_tests::janitor::OnDrop;
use tracer_tests::raw::{RawContainer, Shape, random_uuid};
use tracer_tests::runtimes::cri::{Cri, PidMode, Pod};
use tracer_tests::runtimes::{Containerd, Docker, Podman, Runc, Spec};
use tracer_tests::wait::DEADLINE;
use tracer_tests::{Result, ensure, live};

#[test]
fn raw_containers_run() -> Result<()> {
    let _live = live!("cc");
    for shape in [Shape::Joined, Shape::Into] {
        let container = RawContainer::docker()?;
        container
            .spawn(shape, &["/bin/sh", "-c", "exit 3"])?
            .finish(DEADLINE)?
            .ended(3)?;
        let mut init = container.spawn(shape, &["stay", "7"])?;
        init.close_stdin();
        init.finish(DEADLINE)?.ended(7)?;
        container.remove()?;
    }
    Ok(())
}

#[test]
fn runc_runs() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    runc.container(&Spec::sh("exit 3"))?.run()?.ended(3)?;
    let sleeper = runc.container(&Spec::new(&["/bin/sleep", "1000"]))?;
    sleeper.create()?;
    sleeper.act("start")?;
    ensure!(sleeper.pid()? > 1, "no process id");
    sleeper.exec(&["/bin/sh", "-c", "exit 5"])?.ended(5)?;
    Ok(())
}

#[test]
fn docker_runs() -> Result<()> {
    let _live = live!("docker", "dockerd");
    let docker = Docker::shared()?;
    let container = docker.create(
        &["--memory=32m", "--memory-swap=32m"],
        &["/bin/sh", "-c", "exit 3"],
    )?;
    container.run()?.ended(3)?;
    let sleeper = docker.start_container(&["--init"], &["/bin/sleep", "1000"])?;
    sleeper.exec(&["/bin/sh", "-c", "exit 5"])?.ended(5)?;
    sleeper.act(&["stop", "-t", "20"])
}

#[test]
fn containerd_runs() -> Result<()> {
    let _live = live!("containerd", "ctr");
    let containerd = Containerd::shared()?;
    let container = containerd.start_container("tracer-other", &["/bin/sleep", "1000"])?;
    container.exec(&["/bin/sh", "-c", "exit 5"])?.ended(5)?;
    Ok(())
}

#[test]
fn cri_runs_pods() -> Result<()> {
    let _live = live!("containerd", "ctr");
    let containerd = Containerd::shared()?;
    let cri = Cri::connect(&containerd.socket())?;
    let pod = Pod {
        name: "smoke".to_owned(),
        uid: random_uuid()?,
        namespace: "tests".to_owned(),
        pid: PidMode::Container,
        log_directory: containerd.dir().join("logs").display().to_string(),
    };
    let sandbox = cri.run_pod(&pod)?;
    let id = cri.create_container(&pod, &sandbox, "web", image::NAME, &["/bin/sleep", "1000"])?;
    cri.start_container(&id)?;
    let code = cri.exec(&id, &["/bin/sh", "-c", "exit 5"])?;
    ensure!(code == 5, "the command ended with {code}");
    cri.stop_container(&id, 0)?;
    cri.remove_container(&id)?;
    cri.remove_pod(&sandbox)
}

#[test]
fn podman_runs() -> Result<()> {
    let _live = live!("podman", "runc");
    let podman = Podman::shared()?;
    podman
        .create(&[], &["/bin/sh", "-c", "exit 3"])?
        .run()?
        .ended(3)?;
    let pod = podman.ok(&["pod", "create"])?;
    let _removal = OnDrop::new(|| {
        drop(podman.run(&["pod", "rm", "--force", "--time", "0", &pod]));
    });
    let inside = podman.create(&[&format!("--pod={pod}")], &["/bin/sleep", "1000"])?;
    inside.act(&["start"])?;
    inside.exec(&["/bin/sh", "-c", "exit 5"])?.ended(5)?;
    Ok(())
}
