//! containers/storage, which Podman, Buildah and CRI-O share:
//! `<root>/<driver>-containers/containers.json`, and beside it (or, with a transient store, below
//! the run root) `volatile-containers.json` for what need not survive. Both are replaced by rename.
//! Each entry carries a `metadata` text that is JSON of its owner's: libpod's has the names of
//! image and container, CRI-O's those of the pod besides.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, SeqAccess, Visitor},
};

use super::{
    created::time,
    found::{Found, Kube, Manager},
    json::{List, MAX_NAME, Maybe, Name, Object, Text, parse},
    reference::ImageFacts,
};

/// Longest metadata that is read.
const MAX_METADATA: usize = 16 << 10;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    id: Name,
    names: Maybe<List<Text<MAX_NAME>>>,
    image: Name,
    metadata: Maybe<Text<MAX_METADATA>>,
    created: Name,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Metadata {
    image_name: Maybe<Text<{ 2 * MAX_NAME }>>,
    image_id: Name,
    name: Name,
    pod_name: Name,
    pod_id: Name,
    #[serde(rename = "metadata-name")]
    cri_name: Name,
    uid: Name,
    namespace: Name,
    attempt: Maybe<u64>,
}

/// What the file tells about the container; `None` if it is not in it.
pub(super) fn read(bytes: &[u8], id: &str) -> Result<Option<Found>, serde_json::Error> {
    let Only(entry) = parse_for(bytes, id)?;
    Ok(entry.map(|entry| found(entry, id)))
}

fn found(entry: Entry, id: &str) -> Found {
    let names = entry.names.list().into_iter().next().map(|name| name.0);
    let metadata = entry.metadata.text();
    let metadata: Metadata = metadata
        .and_then(|text| parse(text.as_bytes()).ok())
        .unwrap_or_default();
    let image_id = entry.image.text().or_else(|| metadata.image_id.text());
    let image = metadata.image_name.text();
    let image = ImageFacts::of(image.as_deref().unwrap_or_default()).with_id(image_id.as_deref());
    let created = entry.created.text().as_deref().and_then(time);
    let Some(pod_name) = metadata.pod_name.text() else {
        return Found {
            name: metadata.name.text().or(names),
            image,
            created,
            ..Found::default()
        };
    };
    let sandbox = metadata.pod_id.text().as_deref() == Some(id);
    let name = metadata.cri_name.text();
    let mut kube = pod_of_name(&pod_name).unwrap_or_default();
    kube.uid = metadata.uid.text().or(kube.uid);
    kube.namespace = metadata.namespace.text().or(kube.namespace);
    kube.container = name.clone().filter(|_| !sandbox);
    Found {
        name,
        image,
        kube,
        created,
        restart_count: metadata.attempt.0.filter(|_| !sandbox),
        sandbox,
        manager: Some(Manager::CriO),
        ..Found::default()
    }
}

/// CRI-O's name of a sandbox: `k8s_POD_NAMESPACE_UID_ATTEMPT`; none of the parts may hold `_`.
pub(super) fn pod_of_name(name: &str) -> Option<Kube> {
    let parts: Vec<&str> = name.split('_').collect();
    let &["k8s", pod, namespace, uid, attempt] = parts.as_slice() else {
        return None;
    };
    let good = [pod, namespace, uid, attempt]
        .into_iter()
        .all(|part| !part.is_empty());
    good.then(|| Kube {
        pod: Some(pod.to_owned()),
        uid: Some(uid.to_owned()),
        namespace: Some(namespace.to_owned()),
        container: None,
    })
}

/// The one entry of a list that has the id.
struct Only(Option<Entry>);

fn parse_for(bytes: &[u8], id: &str) -> Result<Only, serde_json::Error> {
    let read = |bytes: &[u8]| {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let only = Wanted(id).deserialize(&mut json)?;
        json.end()?;
        Ok(only)
    };
    match read(bytes) {
        Err(_) if std::str::from_utf8(bytes).is_err() => {
            read(String::from_utf8_lossy(bytes).as_bytes())
        }
        done => done,
    }
}

struct Wanted<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Only;

    fn deserialize<D: Deserializer<'de>>(self, list: D) -> Result<Only, D::Error> {
        list.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Only;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of containers")
    }

    /// One entry at a time: a list of thousands is never in memory beside its text.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Only, A::Error> {
        let mut only = None;
        while let Some(Maybe(entry)) = list.next_element::<Maybe<Object<Entry>>>()? {
            let entry = entry.map(|entry| entry.0);
            let is_it = |entry: &Entry| entry.id.0.as_ref().is_some_and(|id| id.0 == self.0);
            only = entry.filter(is_it).or(only);
        }
        Ok(Only(only))
    }
}

#[cfg(test)]
#[path = "storage_tests.rs"]
mod tests;
