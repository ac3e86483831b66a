//! What runs when tracer starts is discovered, with its true state, and nothing else is invented.
//!
//! runc makes these containers under Docker's paths: a bare path says nothing to someone who did
//! not see runc's command line.

use tracer_tests::raw::random_id;
use tracer_tests::runtimes::runc::Container;
use tracer_tests::runtimes::{Docker, Runc, Spec};
use tracer_tests::{
    Result, Step, Tracer, created, discovered, emptied, ensure, exited, killed, live, removed,
    resumed, started,
};

/// A container in Docker's place; gives the id that its path tells.
fn in_dockers_place<'a>(runc: &'a Runc, spec: &Spec) -> Result<(Container<'a>, String)> {
    let id = random_id()?;
    let container = runc.container(&spec.clone().cgroup(&format!("/docker/{id}")))?;
    container.create()?;
    Ok((container, id))
}

fn end(signal: Step) -> [Step; 3] {
    [signal.any_duration(), emptied(), removed()]
}

#[test]
fn what_runs_already_is_discovered_in_its_true_state() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let sleeping = Spec::new(&["/bin/sleep", "1000"]);
    let (running, running_id) = in_dockers_place(&runc, &sleeping)?;
    running.act("start")?;
    let (frozen, frozen_id) = in_dockers_place(&runc, &sleeping)?;
    frozen.act("start")?;
    frozen.act("pause")?;
    let (waiting, waiting_id) = in_dockers_place(&runc, &Spec::sh("exit 3"))?;

    let mut tracer = Tracer::start(&[])?;
    let synced = tracer
        .records()
        .iter()
        .position(|record| record.is("node.synced"));
    for id in [&running_id, &frozen_id, &waiting_id] {
        let at = tracer
            .records()
            .iter()
            .position(|record| record.container() == Some(id));
        ensure!(
            at.is_some() && at < synced,
            tracer.failure(&format!("{id} was not discovered before node.synced"))
        );
    }

    frozen.act("resume")?;
    tracer.expect_of(&frozen_id, "container.resumed", 1)?;
    waiting.act("start")?;
    for (container, id) in [(&running, &running_id), (&frozen, &frozen_id)] {
        container.kill("KILL")?;
        tracer.expect_of(id, "container.exited", 1)?;
    }
    tracer.expect_of(&waiting_id, "container.exited", 1)?;
    for container in [&running, &frozen, &waiting] {
        container.act("delete")?;
    }
    let sigkill = || end(killed("SIGKILL", 9, false)).to_vec();
    tracer.expect_lives(&[
        (
            &running_id,
            &[vec![discovered("running").runtime("docker")], sigkill()].concat(),
        ),
        (
            &frozen_id,
            &[vec![discovered("paused"), resumed()], sigkill()].concat(),
        ),
        (
            &waiting_id,
            &[
                vec![discovered("created"), started("/bin/sh")],
                end(exited(3)).to_vec(),
            ]
            .concat(),
        ),
    ])?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn the_next_tracer_finds_what_the_last_one_left() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let mut first = Tracer::start(&[])?;
    let (container, id) = in_dockers_place(&runc, &Spec::new(&["/bin/sleep", "1000"]))?;
    container.act("start")?;
    let (gone, gone_id) = in_dockers_place(&runc, &Spec::new(&["/bin/sleep", "1000"]))?;
    gone.act("start")?;
    for one in [&id, &gone_id] {
        first.expect_life(one, &[created(), started("/bin/sleep")])?;
    }
    first.stop()?;

    gone.act("pause")?;
    gone.act("resume")?;
    drop(gone);

    let mut second = Tracer::start(&[])?;
    second.expect_nothing_of(&gone_id)?;
    container.kill("KILL")?;
    second.expect_of(&id, "container.exited", 1)?;
    container.act("delete")?;
    let rest = end(killed("SIGKILL", 9, false)).to_vec();
    second.expect_life(&id, &[vec![discovered("running")], rest].concat())?;
    second.stop()?;
    Ok(())
}

#[test]
fn dockers_own_containers_are_discovered() -> Result<()> {
    let _live = live!("docker", "dockerd");
    let docker = Docker::shared()?;
    let container = docker.start_container(&[], &["/bin/sleep", "1000"])?;
    // Without a process nothing of it is on the host.
    let idle = docker.create(&[], &["/bin/true"])?;
    let mut tracer = Tracer::start(&[])?;
    tracer.expect_nothing_of(idle.id())?;
    container.act(&["kill"])?;
    let rest = end(killed("SIGKILL", 9, false)).to_vec();
    tracer.expect_life(
        container.id(),
        &[
            vec![discovered("running").runtime("docker").parents(&[])],
            rest,
        ]
        .concat(),
    )?;
    tracer.stop()?;
    Ok(())
}
