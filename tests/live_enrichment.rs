//! Who a container is, told with `container.started`; and what sockets add, over the death and
//! return of the daemons behind them. Podman, which has no daemon, is in `live_podman`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use tracer_tests::facts::{all, count, known_later, share, start_in_full, told};
use tracer_tests::raw::random_uuid;
use tracer_tests::runtimes::cri::{Cri, PidMode, Pod};
use tracer_tests::runtimes::{Containerd, Docker, Runc, Spec};
use tracer_tests::wait::DEADLINE;
use tracer_tests::{
    Context, Record, Result, Step, Tracer, created, emptied, ensure, exited, image, live, removed,
    started,
};

#[test]
fn docker_containers_start_with_all_that_is_known() -> Result<()> {
    let _live = live!("docker", "dockerd");
    let docker = Docker::shared()?;
    let containers: Vec<_> = (0..count())
        .map(|_| docker.create(&["--label=app=shop"], &["/bin/true"]))
        .collect::<Result<_>>()?;
    let ids: Vec<String> = containers.iter().map(|one| one.id().to_owned()).collect();
    let facts = [
        "container.name",
        "container.image.name",
        "container.image.tags",
        "container.image.id",
        "container.label.app",
        "container.created",
        "container.restart_count",
    ];
    start_in_full("docker", &ids, &facts, |id| docker.spawn(&["start", id]))
}

#[test]
fn ctr_containers_start_with_all_that_files_know() -> Result<()> {
    let _live = live!("containerd", "ctr");
    let containerd = Containerd::shared()?;
    let named: Vec<_> = (0..count())
        .map(|_| containerd.name_container("default"))
        .collect::<Result<_>>()?;
    let mut tracer = Tracer::start(&[])?;
    all(&named, |one| {
        let run = ["run", "--detach", "--null-io", "--label", "app=shop"];
        let what = [image::NAME, one.id(), "/bin/true"];
        containerd.spawn("default", &[&run[..], &what].concat())
    })?;
    let ids: Vec<String> = named.iter().map(|one| one.id().to_owned()).collect();
    share(
        &mut tracer,
        "ctr",
        &ids,
        &["container.name", "container.label.app"],
    )?;
    // No file has the image: its socket tells it.
    for id in &ids {
        known_later(&mut tracer, id, "container.image.repo_digests")?;
    }
    told(&tracer.stop()?, "ctr")
}

#[test]
fn pods_start_with_all_that_files_know_and_get_their_labels() -> Result<()> {
    let _live = live!("containerd", "ctr");
    let containerd = Containerd::shared()?;
    let cri = Cri::connect(&containerd.socket())?;
    let mut tracer = Tracer::start(&[])?;
    let pod = Pod {
        name: "shop".to_owned(),
        uid: random_uuid()?,
        namespace: "tests".to_owned(),
        pid: PidMode::Container,
        log_directory: containerd.dir().join("logs").display().to_string(),
    };
    let sandbox = cri.run_pod(&pod)?;
    let mut ids = Vec::new();
    for number in 0..count() {
        let name = format!("web{number}");
        let id =
            cri.create_container(&pod, &sandbox, &name, image::NAME, &["/bin/sleep", "1000"])?;
        cri.start_container(&id)?;
        ids.push(id);
    }
    let pods = ["k8s.pod.name", "k8s.pod.uid", "k8s.namespace.name"];
    let mut facts = pods.to_vec();
    facts.extend([
        "container.name",
        "container.image.name",
        "k8s.container.name",
    ]);
    share(&mut tracer, "cri", &ids, &facts)?;
    share(
        &mut tracer,
        "cri sandbox",
        std::slice::from_ref(&sandbox),
        &pods,
    )?;
    for id in ids.iter().chain([&sandbox]) {
        known_later(&mut tracer, id, "k8s.pod.label.app")?;
    }
    let sandboxes = tracer.life(&sandbox);
    ensure!(
        sandboxes
            .iter()
            .any(|record| record.at("container.sandbox").is_some()),
        "not marked as a sandbox"
    );
    for id in &ids {
        cri.stop_container(id, 0)?;
        cri.remove_container(id)?;
    }
    cri.remove_pod(&sandbox)?;
    told(&tracer.stop()?, "cri")
}

#[test]
fn bare_containers_start_with_all_that_is_known() -> Result<()> {
    let _live = live!("runc");
    let runc = Runc::new()?;
    let containers: Vec<_> = (0..count())
        .map(|_| runc.container(&Spec::new(&["/bin/true"])))
        .collect::<Result<_>>()?;
    let mut tracer = Tracer::start(&[])?;
    all(
        &containers,
        tracer_tests::runtimes::runc::Container::run_spawn,
    )?;
    let ids: Vec<String> = containers.iter().map(|one| one.id().to_owned()).collect();
    share(&mut tracer, "runc", &ids, &["container.name"])?;
    told(&tracer.stop()?, "runc")
}

/// Starts and ends containers beside a tracer of this configuration; how long their records of each
/// type waited.
fn waits(docker: &Docker, config: &Path, count: usize) -> Result<BTreeMap<String, Vec<u64>>> {
    let containers: Vec<_> = (0..count)
        .map(|_| docker.create(&["--label=app=shop"], &["/bin/true"]))
        .collect::<Result<_>>()?;
    let mut tracer = Tracer::start(&["--config", &config.display().to_string()])?;
    all(&containers, |one| docker.spawn(&["start", one.id()]))?;
    for one in &containers {
        tracer.expect_of(one.id(), "container.removed", 1)?;
    }
    let mut waits: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in tracer.stop()? {
        let own = record
            .container()
            .is_some_and(|id| containers.iter().any(|one| one.id() == id));
        let own = own && !record.is("container.enriched");
        if let (true, Some(waited)) = (own, record.number("emit_latency_ns")) {
            waits
                .entry(record.kind().to_owned())
                .or_default()
                .push(waited);
        }
    }
    Ok(waits)
}

/// What enrichment adds to the way of a record, measured: the same lives with and without it, in
/// turn. With `TRACER_ENRICHED=200` on an idle machine the figures mean something; the median of a few
/// lives on a busy one says only that no record waits for a daemon.
#[test]
fn no_record_waits_for_metadata() -> Result<()> {
    /// Containers of one turn.
    const TURN: usize = 20;
    let noise_ns = if count() < 100 { 20_000_000 } else { 500_000 };
    let _live = live!("docker", "dockerd");
    let docker = Docker::shared()?;
    let dir = tempfile::tempdir()?;
    let with = dir.path().join("with.toml");
    let without = dir.path().join("without.toml");
    fs::write(&with, "")?;
    fs::write(
        &without,
        "[runtimes]\nfiles = false\nask = false\nlearn = false\n",
    )?;
    let mut all = [BTreeMap::new(), BTreeMap::new()];
    let turns = count().div_ceil(TURN);
    for turn in 0..turns {
        // The first of each pair in turn: the machine may get slower or faster.
        let mut sides = [(0, &with), (1, &without)];
        sides.rotate_left(turn % 2);
        for (side, config) in sides {
            for (kind, more) in waits(docker, config, count().div_ceil(turns))? {
                let waited: &mut Vec<u64> = all[side].entry(kind).or_default();
                waited.extend(more);
            }
        }
    }
    let [with, without] = &mut all;
    for (kind, with) in with {
        let without = without.get_mut(kind).with_context(|| kind.clone())?;
        let [with, without] = [with, without].map(|waited| {
            waited.sort_unstable();
            [50, 90, 99].map(|percent| waited[(waited.len() - 1) * percent / 100])
        });
        let line = format!("{kind}: p50 p90 p99 {with:?} ns with, {without:?} ns without\n");
        std::io::stderr().write_all(line.as_bytes())?;
        ensure!(with[0] <= without[0] * 2 + noise_ns, "{line}");
    }
    Ok(())
}

fn whole_life() -> Vec<Step> {
    vec![
        created(),
        started("/bin/sh"),
        exited(3),
        emptied(),
        removed(),
    ]
}

/// Lives that have nothing to do with the daemon that is away.
fn lives_meanwhile(tracer: &mut Tracer) -> Result<()> {
    let runc = Runc::new()?;
    for _ in 0..5 {
        let other = runc.container(&Spec::sh("exit 3"))?;
        other.run()?.ended(3)?;
        tracer.expect_life(other.id(), &whole_life())?;
    }
    Ok(())
}

/// No record waited for a daemon.
fn none_was_late(records: &[Record]) -> Result<()> {
    const LATEST_NS: u64 = 1_000_000_000;
    let worst = records
        .iter()
        .filter(|record| record.text("origin") == Some("kernel"))
        .filter_map(|record| record.number("emit_latency_ns"))
        .max()
        .context("no record has a latency")?;
    ensure!(worst < LATEST_NS, "a record came after {worst} ns");
    Ok(())
}

#[test]
fn what_containerd_knows_is_filled_in_when_it_is_back() -> Result<()> {
    let _live = live!("containerd", "ctr", "runc");
    let containerd = Containerd::shared()?;
    let container = containerd.start_container("default", &["/bin/sleep", "1000"])?;
    let down = containerd.kill()?;
    let mut tracer = Tracer::start(&["--log=tracer=debug"])?;
    let found = tracer.expect_of(container.id(), "container.discovered", 1)?;
    ensure!(found.at("container.image").is_none(), "{found:?}");
    lives_meanwhile(&mut tracer)?;
    drop(down);
    known_later(&mut tracer, container.id(), "container.image.repo_digests")?;
    // And once more, with a connection that breaks.
    let down = containerd.kill()?;
    lives_meanwhile(&mut tracer)?;
    drop(down);
    let second = containerd.name_container("default")?;
    let run = ["run", "--detach", "--null-io", image::NAME, second.id()];
    let run = [&run[..], &["/bin/sleep", "1000"]].concat();
    tracer_tests::wait::wait_until(DEADLINE, "containerd to be back", || {
        Ok((containerd.ctr("default", &["version"])?.code == 0).then_some(()))
    })?;
    containerd.ok("default", &run)?;
    known_later(&mut tracer, second.id(), "container.image.repo_digests")?;
    none_was_late(&tracer.stop()?)
}

#[test]
fn what_dockerd_knows_is_filled_in_when_it_is_back() -> Result<()> {
    let _live = live!("docker", "dockerd", "runc");
    // One of its own: a daemon takes long to come back to many containers.
    let docker = Docker::start()?;
    // Nothing is learnt: its files are nowhere, its socket is configured.
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("tracer.toml");
    let socket = docker.socket().display().to_string();
    fs::write(
        &config,
        format!("[runtimes]\nlearn = false\n[runtimes.sockets]\ndocker = [\"{socket}\"]\n"),
    )?;
    let running = docker.start_container(&["--label=app=shop"], &["/bin/sleep", "1000"])?;
    let config = config.display().to_string();
    let down = docker.kill()?;
    let mut tracer = Tracer::start(&["--config", &config, "--log=tracer=debug"])?;
    let found = tracer.expect_of(running.id(), "container.discovered", 1)?;
    ensure!(found.at("container.name").is_none(), "{found:?}");
    lives_meanwhile(&mut tracer)?;
    drop(down);
    docker.wait()?;
    // Without live restore dockerd ends what it finds; what it starts now is told in full.
    let next = docker.start_container(&["--label=app=shop"], &["/bin/sleep", "1000"])?;
    let start = tracer.expect_of(next.id(), "container.started", 1)?;
    ensure!(
        start.text("container.label.app") == Some("shop"),
        "{start:?}"
    );
    tracer.expect_of(running.id(), "container.exited", 1)?;
    let down = docker.kill()?;
    lives_meanwhile(&mut tracer)?;
    drop(down);
    docker.wait()?;
    tracer.expect_of(next.id(), "container.removed", 1)?;
    none_was_late(&tracer.stop()?)
}
