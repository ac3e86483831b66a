//! Containers inside containers: both lives, and who is inside whom.

use std::path::Path;

use tracer_tests::command::Done;
use tracer_tests::raw::{RawContainer, Shape, random_id};
use tracer_tests::runtimes::runc::write_bundle;
use tracer_tests::runtimes::{Docker, Runc, Spec};
use tracer_tests::wait::DEADLINE;
use tracer_tests::{Result, Step, Tracer, created, emptied, exited, live, removed, started};

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

#[test]
fn runc_inside_a_runc_container() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let inner = inner_id()?;
    // The outer cgroup has the outer id as its name, which exists only with the container.
    let shared = runc.dir().join("nested");
    let mut spec = Spec::sh(&script(&inner))
        .privileged()
        .bind(Path::new("/sys/fs/cgroup"), "/sys/fs/cgroup", true)
        .bind(&shared, INSIDE, true)
        .bind(&runc.rootfs(), "/inner-rootfs", true);
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
        "--volume=/sys/fs/cgroup:/sys/fs/cgroup",
    ]
    .map(str::to_owned)
    .to_vec();
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
