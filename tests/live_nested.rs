//! Containers inside containers: both lives, and who is inside whom.

use std::path::{Path, PathBuf};

use tracer_tests::cgroup::{self, Kind};
use tracer_tests::command::{Done, program, run};
use tracer_tests::image;
use tracer_tests::janitor::tail;
use tracer_tests::raw::{RawContainer, Shape, random_id};
use tracer_tests::runtimes::runc::write_bundle;
use tracer_tests::runtimes::{Docker, Runc, Spec};
use tracer_tests::wait::{DEADLINE, wait_until};
use tracer_tests::{
    Result, Step, Tracer, created, emptied, exited, killed, live, need, removed, started, this_test,
};

/// Host directories that make runc run inside a container.
const HOST: [&str; 3] = ["/usr", "/lib", "/lib64"];

/// Where the bundle of the inner container is, seen from inside the outer one.
const INSIDE: &str = "/nested";

fn life(first: Step, code: u8, parents: &[&str]) -> Vec<Step> {
    [created(), first, exited(code), emptied(), removed()]
        .into_iter()
        .map(|step| step.parents(parents))
        .collect()
}

fn inner_id() -> Result<String> {
    Ok(format!(
        "inner-{}",
        random_id()?.get(..8).unwrap_or_default()
    ))
}

/// Its bundle is where only the outer container sees it.
fn enriched() -> Step {
    started("/bin/sh").is("enrichment", "full")
}

/// Runs runc in the outer container, then ends with 6.
fn script(inner: &str) -> String {
    format!("runc --root /tmp/state run --bundle {INSIDE} {inner} || exit 99; exit 6")
}

/// Every hierarchy, where the host has it.
fn every_hierarchy() -> Vec<PathBuf> {
    vec![PathBuf::from("/sys/fs/cgroup")]
}

/// The v1 hierarchies of controllers, of a host that has a unified one too; `None` elsewhere.
fn only_v1() -> Result<Option<Vec<PathBuf>>> {
    let all = cgroup::hierarchies()?;
    let v1 = all.iter().filter(|hierarchy| match &hierarchy.kind {
        Kind::V1(names) => names.iter().all(|name| !name.starts_with("name=")),
        Kind::Unified => false,
    });
    let v1: Vec<PathBuf> = v1.map(|hierarchy| hierarchy.mount.clone()).collect();
    let has_unified = all.iter().any(|one| one.kind == Kind::Unified);
    Ok((has_unified && !v1.is_empty()).then_some(v1))
}

const NOT_HYBRID: &str = "no v1 hierarchies beside a unified one";

#[test]
fn runc_inside_a_runc_container() -> Result<()> {
    let _live = live!("runc");
    runc_inside_runc(&every_hierarchy())
}

/// Its container is in the outer one's unified cgroup, as all inside the outer one are.
#[test]
fn runc_that_sees_only_v1_inside_a_runc_container() -> Result<()> {
    let _live = live!("runc");
    match only_v1()? {
        Some(v1) => runc_inside_runc(&v1),
        None => need::skip(this_test!(), NOT_HYBRID),
    }
}

fn runc_inside_runc(hierarchies: &[PathBuf]) -> Result<()> {
    let runc = Runc::new()?;
    let inner = inner_id()?;
    // The outer cgroup has the outer id as its name, which exists only with the container.
    let shared = runc.dir().join("nested");
    let mut spec = Spec::sh(&script(&inner))
        .privileged()
        .bind(&shared, INSIDE, true)
        .bind(&runc.rootfs(), "/inner-rootfs", true);
    for mount in hierarchies {
        spec = spec.bind(mount, &mount.display().to_string(), true);
    }
    for dir in HOST.into_iter().filter(|dir| Path::new(dir).is_dir()) {
        spec = spec.bind(Path::new(dir), dir, false);
    }
    std::fs::create_dir_all(&shared)?;
    let outer = runc.container(&spec)?;
    let config = Spec::sh("exit 0")
        .cgroup(&format!("/{}/{inner}", outer.id()))
        .config(&inner, "/inner-rootfs");
    write_bundle(&shared, &config)?;

    let mut tracer = Tracer::start(&[])?;
    outer.run()?.ended(6)?;
    tracer.expect_lives(&[
        (&inner, &life(enriched(), 0, &[outer.id()])),
        (outer.id(), &life(started("/bin/sh"), 6, &[])),
    ])?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn runc_inside_a_docker_container() -> Result<()> {
    let _live = live!("runc", "docker", "dockerd");
    runc_inside_docker(&every_hierarchy())
}

#[test]
fn runc_that_sees_only_v1_inside_a_docker_container() -> Result<()> {
    let _live = live!("runc", "docker", "dockerd");
    match only_v1()? {
        Some(v1) => runc_inside_docker(&v1),
        None => need::skip(this_test!(), NOT_HYBRID),
    }
}

fn runc_inside_docker(hierarchies: &[PathBuf]) -> Result<()> {
    let docker = Docker::shared()?;
    let runc = Runc::new()?;
    let inner = inner_id()?;
    let shared = runc.dir().join("nested");
    let mut options: Vec<String> = [
        "--cap-add=SYS_ADMIN",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--security-opt=systempaths=unconfined",
        "--env=PATH=/bin:/usr/bin:/usr/sbin",
    ]
    .map(str::to_owned)
    .to_vec();
    for mount in hierarchies.iter().map(|mount| mount.display()) {
        options.push(format!("--volume={mount}:{mount}"));
    }
    options.push(format!("--volume={}:{INSIDE}", shared.display()));
    options.push(format!(
        "--volume={}:/inner-rootfs",
        runc.rootfs().display()
    ));
    for dir in HOST.into_iter().filter(|dir| Path::new(dir).is_dir()) {
        options.push(format!("--volume={dir}:{dir}:ro"));
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    std::fs::create_dir_all(&shared)?;
    let outer = docker.create(&options, &["/bin/sh", "-c", &script(&inner)])?;
    let config = Spec::sh("exit 0")
        .cgroup(&format!("/docker/{}/{inner}", outer.id()))
        .config(&inner, "/inner-rootfs");
    write_bundle(&shared, &config)?;

    let mut tracer = Tracer::start(&[])?;
    let done: Done = outer.run()?;
    done.ended(6)?;
    tracer.expect_lives(&[
        (&inner, &life(enriched(), 0, &[outer.id()])),
        (outer.id(), &life(started("/bin/sh"), 6, &[])),
    ])?;
    tracer.stop()?;
    Ok(())
}

/// What runs in the outer container: a daemon with all its files there. The parent of its cgroups is
/// what a cgroup namespace would make of its own default.
const DOCKERD: &str = "\
own=$(busybox sed -n 's/^.*:pids:\\|^0:://p' /proc/self/cgroup | busybox head -n 1)
exec dockerd --host=unix:///shared/docker.sock --data-root=/inner/data --exec-root=/inner/exec \
 --pidfile=/inner/docker.pid --config-file=/shared/daemon.json --storage-driver=vfs --bridge=none \
 --iptables=false --ip6tables=false --exec-opt=native.cgroupdriver=cgroupfs \
 --cgroup-parent=$own/docker --default-ulimit=nofile=1024:1024 >/shared/log 2>&1";

/// Docker in Docker: a daemon in a container, whose container is a grandchild of the host.
#[test]
fn docker_inside_a_docker_container() -> Result<()> {
    let _live = live!("docker", "dockerd");
    let docker = Docker::shared()?;
    let runc = Runc::new()?;
    let shared = runc.dir().join("shared");
    std::fs::create_dir_all(&shared)?;
    std::fs::write(shared.join("daemon.json"), "{}")?;
    let tar = image::rootfs_tar(&shared)?;
    let mut options: Vec<String> = [
        "--cap-add=SYS_ADMIN",
        "--cap-add=NET_ADMIN",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--security-opt=systempaths=unconfined",
        "--cgroupns=host",
        "--volume=/sys/fs/cgroup:/sys/fs/cgroup",
        "--env=PATH=/bin:/usr/bin:/usr/sbin",
        "--tmpfs=/inner:exec",
        "--tmpfs=/run",
    ]
    .map(str::to_owned)
    .to_vec();
    options.push(format!("--volume={}:/shared", shared.display()));
    for dir in HOST.into_iter().filter(|dir| Path::new(dir).is_dir()) {
        options.push(format!("--volume={dir}:{dir}:ro"));
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let outer = docker.create(&options, &["/bin/sh", "-c", DOCKERD])?;
    let mut tracer = Tracer::start(&[])?;
    outer.act(&["start"])?;
    let host = format!("unix://{}", shared.join("docker.sock").display());
    let inside =
        |arguments: &[&str]| run(program("docker").args(["--host", &host]).args(arguments));
    wait_until(DEADLINE, "the inner daemon to answer", || {
        Ok((inside(&["version"])?.code == 0).then_some(()))
    })
    .map_err(|error| error.context(tail(&shared.join("log"), 20)))?;
    inside(&["import", &tar.display().to_string(), image::NAME])?.ended(0)?;
    let create = ["create", "--name=inner", "--network=none", image::NAME];
    let inner = inside(&[&create[..], &["/bin/sh", "-c", "exit 8"]].concat())?.ended(0)?;
    let inner = inner.text();
    inside(&["start", "--attach", inner])?.ended(8)?;
    inside(&["rm", inner])?.ended(0)?;
    outer.act(&["kill"])?;
    let docker_started = started("/bin/sh").is("container.name", "inner");
    tracer.expect_lives(&[
        (inner, &life(docker_started, 8, &[outer.id()])),
        (outer.id(), &outer_life()),
    ])?;
    tracer.stop()?;
    Ok(())
}

fn outer_life() -> Vec<Step> {
    let steps = [
        created(),
        started("/bin/sh"),
        killed("SIGKILL", 9, false),
        emptied(),
        removed(),
    ];
    steps.into_iter().map(|step| step.parents(&[])).collect()
}

/// The paths that a Docker daemon inside a Docker container makes.
#[test]
fn a_docker_path_below_a_docker_path() -> Result<()> {
    let _live = live!("cc");
    let mut tracer = Tracer::start(&[])?;
    let outer = RawContainer::docker()?;
    let mut outer_init = outer.spawn(Shape::Joined, &["/bin/cat"])?;
    tracer.expect_of(outer.id(), "container.started", 1)?;
    let inner = RawContainer::inside(&outer)?;
    inner
        .spawn(Shape::Joined, &["/bin/sh", "-c", "exit 8"])?
        .finish(DEADLINE)?
        .ended(8)?;
    let inner_id = inner.id().to_owned();
    inner.remove()?;
    outer_init.close_stdin();
    outer_init.finish(DEADLINE)?.ended(0)?;
    let outer_id = outer.id().to_owned();
    outer.remove()?;
    tracer.expect_lives(&[
        (&inner_id, &life(started("/bin/sh"), 8, &[&outer_id])),
        (&outer_id, &life(started("/bin/cat"), 0, &[])),
    ])?;
    tracer.stop()?;
    Ok(())
}
