//! What is known of one container now: what `ps` lists and `inspect` shows. Pure.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    engine::Engine,
    enrich::Source,
    identity::{self, identify},
    lifecycle::{Ask, Instance},
    record::{Cgroup, Container, Enrichment, K8s},
    time::Timestamp,
};

/// One container; the objects are those of the records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub container: Container,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k8s: Option<Arc<K8s>>,
    pub cgroup: Cgroup,
    pub enrichment: Enrichment,
    /// When its entrypoint was executed; found by a scan, when its init was forked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// In the host's pid namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_pid: Option<u32>,
    /// With `inspect`: where each fact is from, by its path in this object.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, String>,
}

/// Shortest part of an id that is taken for it.
const MIN_PREFIX: usize = 4;

impl Status {
    /// Of an instance in the table.
    #[must_use]
    pub fn new(engine: &Engine, instance: &Instance) -> Self {
        let subject = instance.subject();
        let (container, k8s, cgroup) = engine.renderer.subject(subject);
        Self {
            container,
            k8s,
            cgroup,
            enrichment: subject.enrichment,
            since: instance
                .started()
                .map(|moment| engine.renderer.offset.at(moment)),
            init_pid: instance.init_pid(),
            sources: BTreeMap::new(),
        }
    }

    /// The one container with this id, prefix of it, or name; and the question about its files.
    ///
    /// # Errors
    ///
    /// A sentence that says that there is none, or several.
    pub fn find(engine: &Engine, wanted: &str) -> Result<(Self, Option<Ask>), String> {
        let is = |instance: &&Instance| {
            let identity = &instance.identity;
            *identity.id == *wanted || identity.instance() == *wanted
        };
        let resembles = |instance: &&Instance| {
            let identity = &instance.identity;
            let by_id = wanted.len() >= MIN_PREFIX && identity.id.starts_with(wanted);
            by_id || identity.name.as_deref() == Some(wanted)
        };
        let machine = &engine.machine;
        let mut found: Vec<&Instance> = machine.instances().filter(is).collect();
        if found.is_empty() {
            found = machine.instances().filter(resembles).collect();
        }
        match found.as_slice() {
            [] => Err(format!(
                "there is no container '{}' now: give its id, at least {MIN_PREFIX} characters of it, or its name (`tracer events --since 1h --no-follow` tells of those that are gone)",
                wanted.escape_debug()
            )),
            [instance] => Ok((
                Self::new(engine, instance),
                machine.question(instance.identity.cgroup),
            )),
            several => {
                let ids = several.iter().take(8).map(|one| one.identity.instance());
                Err(format!(
                    "'{}' fits {} containers; give the instance of one: {}",
                    wanted.escape_debug(),
                    several.len(),
                    ids.collect::<Vec<_>>().join(", ")
                ))
            }
        }
    }

    /// Says where each fact is from: `live` names where states come from.
    pub fn explain(&mut self, live: &str, files: &[Source]) {
        let path = self.cgroup.path.clone().unwrap_or_default();
        let (who, pod) = match identify(path.as_bytes()) {
            identity::Identity::Container(found) => ("cgroup path", found.pod_uid.is_some()),
            _ => ("command line of the runtime", false),
        };
        let mut from = |fact: &str, place: &str| {
            self.sources
                .entry(fact.to_owned())
                .or_insert_with(|| place.to_owned());
        };
        from("container.id", who);
        from("container.parents", "cgroup path");
        if pod {
            from("k8s.pod.uid", "cgroup path");
        }
        from("container.state", live);
        from("cgroup", live);
        if self.since.is_some() {
            from("since", live);
        }
        if self.init_pid.is_some() {
            from("init_pid", live);
        }
        for source in files {
            from(source.fact, &source.file.to_string_lossy());
        }
        if self.container.runtime.is_some() {
            from("container.runtime.name", who);
        }
        if self.container.name.as_deref() == Some(&*self.container.id) {
            from("container.name", who);
        }
    }

    /// Its JSON line.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}
