//! One look at the host, without daemon and without eBPF: cgroupfs, `/proc` and the runtimes' files.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use rustix::process::geteuid;
use tracer_common::CgroupKey;

use super::Failure;
use crate::{
    engine::{Engine, Entry},
    enrich::{Source, Sources},
    host,
    lifecycle::{self, Action, Ask, Machine, Output},
    metadata,
    reconcile::{self, Watch},
    record::Origin,
    render::Renderer,
    time::{boot_now, wall_offset},
};

/// No more files are read after so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Nobody watches.
struct Unwatched;

impl Watch for Unwatched {
    fn track(&mut self, _cgroup: CgroupKey, _level: u32) {}
    fn forget(&mut self, _cgroup: CgroupKey) {}
    fn follow(&mut self, _pid: u32, _cgroup: CgroupKey, _landed: bool) {}
}

/// The table as one scan shows it, with what files say of its containers.
pub(super) fn survey() -> Result<Engine, Failure> {
    if !geteuid().is_root() {
        return Err(Failure::Host(anyhow!(
            "no daemon listens, and only root can look for itself: start `tracer run`, name its socket with --socket, or run this with sudo"
        )));
    }
    let hierarchies = host::hierarchies().context("cannot read the cgroup mounts")?;
    let identity = host::identity()?;
    let names: Vec<(u32, Arc<str>)> = hierarchies
        .all
        .iter()
        .map(|hierarchy| (hierarchy.id, hierarchy.name.as_str().into()))
        .collect();
    let host = lifecycle::Host {
        boot_id: identity.boot_id.as_str().into(),
        hierarchies: names.clone(),
        freezer: hierarchies.freezer().map(|freezer| freezer.id),
        processes: false,
    };
    let renderer = Renderer {
        stream: "survey".into(),
        host: Arc::new(identity),
        offset: wall_offset(),
        hierarchies: names.into_iter().collect::<BTreeMap<_, _>>(),
        written: crate::render::Written::default(),
    };
    let mut engine = Engine::new(Machine::new(host, 1), renderer);
    let snapshot = reconcile::scan(&hierarchies, &mut Unwatched);
    let asked = step(
        &mut engine,
        &Entry::Snapshot(Arc::new(snapshot), Origin::Snapshot),
    );
    let (sources, start) = (sources(), Instant::now());
    for ask in asked {
        if start.elapsed() > PATIENCE {
            tracing::warn!("not all files of runtimes were read: that took too long");
            break;
        }
        let Some(facts) = metadata::look(&sources, &ask) else {
            continue;
        };
        let found = metadata::metadata(&facts);
        let entry = Entry::Metadata {
            root: ask.root,
            metadata: Arc::new(found),
        };
        step(&mut engine, &entry);
    }
    Ok(engine)
}

/// Which file says what about one container.
pub(super) fn files(ask: &Ask) -> Vec<Source> {
    let facts = metadata::look(&sources(), ask).unwrap_or_default();
    facts.sources
}

/// Where to look, as a daemon that has just started knows it.
fn sources() -> Sources {
    let mut sources = Sources::default();
    sources.add_users();
    #[cfg(feature = "runtimes")]
    for line in crate::runtimes::command_lines() {
        sources.learn_daemon(line.iter().map(String::as_str));
    }
    sources
}

fn step(engine: &mut Engine, entry: &Entry<'_>) -> Vec<Ask> {
    let mut asked = Vec::new();
    let stepped = engine.step(boot_now(), entry, |_, output| {
        if let Output::Act(Action::Enrich(ask)) = output {
            asked.push(*ask);
        }
    });
    if let Err(error) = stepped {
        tracing::debug!(%error, "not understood");
    }
    asked
}
