//! What podman does only where systemd makes the cgroups and cgroup v2 is all there is: made for the
//! guest of `cargo xtask test --vm` that has systemd.

use std::fs;

use tracer_tests::command::run_ok;
use tracer_tests::janitor::OnDrop;
use tracer_tests::raw::random_id;
use tracer_tests::runtimes::{Podman, podman};
use tracer_tests::{
    Context, Result, Tracer, cgroup, created, emptied, ensure, image, killed, live, need, oom,
    removed, started, this_test,
};

/// Why this host is none for these tests.
fn lack() -> Result<Option<&'static str>> {
    Ok(match (cgroup::is_systemds(), cgroup::is_unified()?) {
        (false, _) => Some("TRACER_CGROUP_DRIVER is not systemd"),
        (_, false) => Some("there is cgroup v1"),
        (true, true) => None,
    })
}

/// The cgroup v2 of a process.
fn cgroup_of(pid: &str) -> Result<String> {
    let file = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    Ok(path.with_context(|| format!("{file}: {text}"))?.to_owned())
}

/// `memory.oom.group`: the kernel kills all of the container at once, and says so of each process.
#[test]
fn out_of_memory_as_a_group() -> Result<()> {
    let _live = live!("podman", "crun");
    if let Some(why) = lack()? {
        return need::skip(this_test!(), why);
    }
    let podman = Podman::shared()?;
    let mut tracer = Tracer::start(&[])?;
    let limits = ["--memory=32m", "--memory-swap=32m"];
    let group = ["--cgroup-conf=memory.oom.group=1"];
    let script = "/bin/dd if=/dev/zero of=/dev/null bs=100M count=1 & wait; exit 3";
    let container = podman.create(&[&limits[..], &group].concat(), &["/bin/sh", "-c", script])?;
    let id = container.id();
    container.run()?.ended(137)?;
    tracer.expect_life(
        id,
        &[
            created().runtime("podman"),
            started("/bin/sh"),
            oom(false),
            oom(true),
            killed("SIGKILL", 9, false).by_oom(),
            emptied(),
            removed(),
        ],
    )?;
    podman::only(&tracer, &[id])?;
    tracer.stop()?;
    Ok(())
}

/// systemd makes a scope for conmon beside the container's.
#[test]
fn the_scope_of_conmon_is_no_container() -> Result<()> {
    let _live = live!("podman", "crun");
    if let Some(why) = lack()? {
        return need::skip(this_test!(), why);
    }
    let podman = Podman::shared()?;
    let mut tracer = Tracer::start(&[])?;
    let container = podman.create(&[], &["/bin/sleep", "1000"])?;
    let id = container.id();
    container.act(&["start"])?;
    tracer.expect_of(id, "container.started", 1)?;
    let inspect = ["inspect", "--format={{.ConmonPidFile}} {{.State.Pid}}", id];
    let said = podman.ok(&inspect)?;
    let (file, init) = said.split_once(' ').context("what podman inspect says")?;
    let conmon = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    let conmon = cgroup_of(conmon.trim())?;
    ensure!(
        conmon == format!("/machine.slice/libpod-conmon-{id}.scope"),
        "conmon is in {conmon}"
    );
    // crun puts the container into a cgroup of its own inside the scope.
    let inner = format!("{}/container", podman::cgroup(id, None));
    let init = cgroup_of(init)?;
    ensure!(init == inner, "init is in {init}");

    let mut second = Tracer::start(&[])?;
    container.act(&["kill"])?;
    for tracer in [&mut tracer, &mut second] {
        tracer.expect_of(id, "container.removed", 1)?;
        tracer.settle()?;
        podman::only(tracer, &[id])?;
        let of_conmon = |path: &str| path.contains("conmon");
        let told = tracer.records().iter();
        let told: Vec<_> = told
            .filter(|one| one.text("cgroup.path").is_some_and(of_conmon))
            .collect();
        ensure!(told.is_empty(), "{told:?}");
    }
    tracer.stop()?;
    second.stop()?;
    Ok(())
}

/// As Quadlet's units do: container and conmon are in cgroups of the service's own.
#[test]
fn a_container_in_the_cgroup_of_its_service() -> Result<()> {
    let _live = live!("podman", "crun", "systemd-run");
    if let Some(why) = lack()? {
        return need::skip(this_test!(), why);
    }
    let podman = Podman::shared()?;
    let mut tracer = Tracer::start(&[])?;
    let name: String = random_id()?.chars().take(12).collect();
    let unit = format!("live-{name}.service");
    let inner = podman.command();
    let mut command = tracer_tests::command::program("systemd-run");
    command
        .args(["--quiet", "--collect", "--unit", &unit])
        .args(["--property=Delegate=yes", "--property=Type=notify"])
        .args(["--property=NotifyAccess=all", "--property=KillMode=mixed"])
        .arg("--property=TimeoutStartSec=infinity");
    let given = inner
        .get_envs()
        .filter_map(|(key, value)| Some((key, value?)));
    for (key, value) in given {
        command.arg(format!(
            "--setenv={}={}",
            key.to_string_lossy(),
            value.to_string_lossy()
        ));
    }
    command.arg("podman").args(inner.get_args());
    command
        .args(["run", "--rm", "--detach", "--sdnotify=conmon"])
        .args(["--cgroups=split", "--name", &unit, image::NAME])
        .args(["/bin/sleep", "1000"]);
    let _stopped = OnDrop::new(|| {
        let mut stop = tracer_tests::command::program("systemctl");
        drop(tracer_tests::command::run(stop.args(["stop", &unit])));
    });
    run_ok(&mut command)?;
    let id = podman.ok(&["inspect", "--format={{.Id}}", &unit])?;
    podman.ok(&["kill", &id])?;
    tracer.expect_life(
        &id,
        &[
            created().runtime("podman").parents(&[]).is(
                "cgroup.path",
                format!("/system.slice/{unit}/libpod-payload-{id}"),
            ),
            started("/bin/sleep")
                .is("enrichment", "full")
                .is("container.name", unit.as_str()),
            killed("SIGKILL", 9, false),
            emptied(),
            removed(),
        ],
    )?;
    podman::only(&tracer, &[&id])?;
    tracer.stop()?;
    Ok(())
}
