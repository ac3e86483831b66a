//! What runtimes answer over their sockets, as facts. Pure; the asking is [`crate::runtimes`]'.
//!
//! An answer is no more trusted than a file: texts are bounded in the same way, and it only fills
//! what files left open.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;

use super::{
    created::time,
    docker as docker_file,
    found::Found,
    json::{Annotations, Labels, MAX_NAME, Maybe, Name, Object, Text, parse},
    reference::ImageFacts,
};
use crate::{
    lifecycle::Metadata,
    record::{Enrichment, Image, K8s, Named, Pod},
    time::Timestamp,
};

/// What one runtime told of one container; all of it optional.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    pub name: Option<String>,
    pub image: Option<Image>,
    pub label: BTreeMap<String, String>,
    pub pod: Option<String>,
    pub pod_uid: Option<String>,
    pub pod_namespace: Option<String>,
    pub pod_label: BTreeMap<String, String>,
    /// Its name in the pod.
    pub container: Option<String>,
    pub created: Option<Timestamp>,
    pub restart_count: Option<u64>,
    pub sandbox: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct PodmanInspect {
    id: Name,
    created: Name,
    image: Name,
    image_name: Maybe<Text<{ 2 * MAX_NAME }>>,
    image_digest: Name,
    name: Name,
    restart_count: Maybe<u64>,
    config: Maybe<Object<PodmanConfig>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct PodmanConfig {
    labels: Maybe<Annotations>,
}

/// Docker's `GET /containers/ID/json`: the fields of its own file.
///
/// # Errors
///
/// What is no JSON object.
pub fn docker(bytes: &[u8], id: &str) -> Result<Option<Told>, serde_json::Error> {
    Ok(docker_file::read(bytes, id)?.map(of_found))
}

/// Podman's `GET /libpod/containers/ID/json`.
///
/// # Errors
///
/// What is no JSON object.
pub fn podman(bytes: &[u8], id: &str) -> Result<Option<Told>, serde_json::Error> {
    let inspect: PodmanInspect = parse(bytes)?;
    if inspect.id.text().as_deref() != Some(id) {
        return Ok(None);
    }
    let config = inspect.config.object().unwrap_or_default();
    let labels = config.labels.0.unwrap_or_default();
    let reference = inspect.image_name.text().unwrap_or_default();
    Ok(Some(Told {
        name: inspect.name.text(),
        image: image(
            &reference,
            inspect.image.text().as_deref(),
            inspect.image_digest.text().as_deref(),
        ),
        label: labels.into_labels(),
        created: inspect.created.text().as_deref().and_then(time),
        restart_count: inspect.restart_count.0,
        ..Told::default()
    }))
}

fn of_found(found: Found) -> Told {
    Told {
        name: found.name,
        image: known(found.image),
        label: found.label,
        pod: found.kube.pod,
        pod_uid: found.kube.uid,
        pod_namespace: found.kube.namespace,
        pod_label: BTreeMap::new(),
        container: found.kube.container,
        created: found.created,
        restart_count: found.restart_count,
        sandbox: found.sandbox,
    }
}

/// An image by its reference, what that was found to be (an id, or a reference with a digest), and
/// the digest of what the name stands for.
#[must_use]
pub fn image(reference: &str, resolved: Option<&str>, digest: Option<&str>) -> Option<Image> {
    let mut facts = ImageFacts::of(reference);
    if let Some(resolved) = resolved {
        let other = ImageFacts::of(resolved);
        facts = facts.with_id(other.id.as_deref());
        if facts.repo_digests.is_empty() {
            facts.repo_digests = other.repo_digests;
        }
    }
    if let (Some(name), Some(digest)) = (&facts.name, digest)
        && facts.repo_digests.is_empty()
    {
        facts.repo_digests = ImageFacts::of(&format!("{name}@{digest}")).repo_digests;
    }
    known(facts)
}

fn known(facts: ImageFacts) -> Option<Image> {
    let is_known = facts.is_known();
    is_known.then_some(Image {
        name: facts.name,
        tags: facts.tags,
        id: facts.id,
        repo_digests: facts.repo_digests,
    })
}

/// Labels within the bounds that files have.
#[must_use]
pub fn labels(map: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let mut labels = Labels::default();
    // In one order, so that the same ones are kept each time.
    for (key, value) in map.into_iter().collect::<BTreeMap<_, _>>() {
        labels.add(key, value);
    }
    labels.into_map()
}

/// A name, if it is one.
#[must_use]
pub fn name(text: String) -> Option<String> {
    (!text.is_empty() && text.len() <= MAX_NAME).then_some(text)
}

/// Nanoseconds since 1970; nought and less is unknown.
#[must_use]
pub fn time_of_ns(ns: i64) -> Option<Timestamp> {
    u64::try_from(ns).ok().filter(|ns| *ns > 0).map(Timestamp)
}

/// Seconds since 1970 and nanoseconds.
#[must_use]
pub fn time_of(seconds: i64, nanos: i32) -> Option<Timestamp> {
    let ns = seconds
        .checked_mul(1_000_000_000)?
        .checked_add(i64::from(nanos))?;
    time_of_ns(ns)
}

/// Fills what is not known yet; gives the paths of what was new.
pub fn fill(known: &mut Metadata, told: Told) -> Vec<&'static str> {
    let mut new = Vec::new();
    let mut tell = |fact: &'static str, is_new: bool| {
        if is_new {
            new.push(fact);
        }
    };
    let Told {
        name,
        image,
        label,
        pod,
        pod_uid,
        pod_namespace,
        pod_label,
        container,
        created,
        restart_count,
        sandbox,
    } = told;
    tell("container.name", put(&mut known.name, name.map(Into::into)));
    if let Some(more) = image {
        fill_image(known, more, &mut tell);
    }
    let label = (!label.is_empty()).then(|| Arc::new(label.into_iter().collect()));
    tell("container.label", put(&mut known.label, label));
    tell("container.created", put(&mut known.created, created));
    tell(
        "container.restart_count",
        put(&mut known.restart_count, restart_count),
    );
    known.sandbox |= sandbox;
    let told = K8s {
        pod: Some(Pod {
            name: pod,
            uid: pod_uid,
            label: pod_label.into_iter().collect(),
        }),
        namespace: pod_namespace.map(|name| Named { name }),
        container: container.map(|name| Named { name }),
    };
    fill_k8s(known, told, &mut tell);
    if known.name.is_some() && known.image.is_some() {
        known.level = Enrichment::Full;
    } else if !new.is_empty() {
        known.level = known.level.max(Enrichment::Partial);
    }
    new
}

fn fill_image(known: &mut Metadata, more: Image, tell: &mut impl FnMut(&'static str, bool)) {
    let mut image = known.image.as_deref().cloned().unwrap_or_default();
    if image.name.is_none() && more.name.is_some() {
        image.name = more.name;
        image.tags = more.tags;
        tell("container.image.name", true);
    }
    tell("container.image.id", put(&mut image.id, more.id));
    if image.repo_digests.is_empty() && !more.repo_digests.is_empty() {
        image.repo_digests = more.repo_digests;
        tell("container.image.repo_digests", true);
    }
    known.image = Some(Arc::new(image));
}

fn fill_k8s(known: &mut Metadata, told: K8s, tell: &mut impl FnMut(&'static str, bool)) {
    let mut k8s = known.k8s.as_deref().cloned().unwrap_or_default();
    let mut pod = k8s.pod.take().unwrap_or_default();
    let more = told.pod.unwrap_or_default();
    tell("k8s.pod.name", put(&mut pod.name, more.name));
    tell("k8s.pod.uid", put(&mut pod.uid, more.uid));
    if pod.label.is_empty() && !more.label.is_empty() {
        pod.label = more.label;
        tell("k8s.pod.label", true);
    }
    tell(
        "k8s.namespace.name",
        put(&mut k8s.namespace, told.namespace),
    );
    tell(
        "k8s.container.name",
        put(&mut k8s.container, told.container),
    );
    k8s.pod = (pod != Pod::default()).then_some(pod);
    known.k8s = (k8s != K8s::default()).then(|| Arc::new(k8s));
}

fn put<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    let is_new = slot.is_none() && value.is_some();
    if is_new {
        *slot = value;
    }
    is_new
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
