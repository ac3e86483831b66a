//! What an entry is in a recording: a tag, and bytes.
//!
//! | entry | bytes |
//! | --- | --- |
//! | raw record | as the kernel side wrote it, up to the last that it says |
//! | the node's own record | JSON, as in the stream |
//! | scans, metadata, paths, freezers | postcard: the fields in their order, without names |
//!
//! A scan holds every container of the host and metadata comes with each of them, so both are
//! written and read without naming a field. What changes their fields makes another version of
//! recordings.

use std::{
    borrow::Cow,
    io::{self, Write as _},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tracer_common::CgroupKey;

use crate::{
    decode::trim,
    engine::Entry,
    lifecycle::{Metadata, Snapshot},
    record::{Enrichment, Image, K8s, Kind, Labels, Named, Node, Origin, Pod, Runtime},
    time::{Timestamp, WallOffset},
};

const TAG_RAW: u8 = 1;
const TAG_FREEZER: u8 = 2;
const TAG_SNAPSHOT: u8 = 3;
const TAG_NODE: u8 = 4;
const TAG_TICK: u8 = 5;
const TAG_OFFSET: u8 = 6;
const TAG_METADATA: u8 = 7;
const TAG_PATH: u8 = 8;
const TAG_PROGRAMS: u8 = 9;

/// Appends an entry's bytes to `to`; gives its tag.
///
/// # Errors
///
/// None that an entry can cause; serde's signature has one.
pub(super) fn write(entry: &Entry<'_>, to: &mut Vec<u8>) -> io::Result<u8> {
    Ok(match entry {
        Entry::Raw(bytes) => {
            to.extend_from_slice(trim(bytes));
            TAG_RAW
        }
        Entry::Freezer { root, frozen } => {
            put(&(root, frozen), to)?;
            TAG_FREEZER
        }
        Entry::Snapshot(snapshot, origin) => {
            put(&(&**snapshot, origin), to)?;
            TAG_SNAPSHOT
        }
        Entry::Node(kind, node) => {
            serde_json::to_writer(to, &(kind, node))?;
            TAG_NODE
        }
        Entry::Tick => TAG_TICK,
        Entry::Metadata { root, metadata } => {
            put(&(root, Facts::from(&**metadata)), to)?;
            TAG_METADATA
        }
        Entry::Path { cgroup, path } => {
            put(&(cgroup, path), to)?;
            TAG_PATH
        }
        Entry::Programs(id) => {
            to.extend_from_slice(id.as_bytes());
            TAG_PROGRAMS
        }
        Entry::Offset(offset) => {
            to.write_all(&offset.0.to_le_bytes())?;
            TAG_OFFSET
        }
    })
}

/// The entry with this tag and these bytes, or why there is none.
pub(super) fn read(tag: u8, payload: &[u8]) -> Result<Entry<'_>, String> {
    match tag {
        TAG_RAW => Ok(Entry::Raw(payload)),
        TAG_FREEZER => {
            let (root, frozen) = get(payload)?;
            Ok(Entry::Freezer { root, frozen })
        }
        TAG_SNAPSHOT => {
            let (snapshot, origin): (Snapshot, Origin) = get(payload)?;
            Ok(Entry::Snapshot(Arc::new(snapshot), origin))
        }
        TAG_NODE => {
            let entry = serde_json::from_slice(payload);
            let (kind, node): (Kind, Box<Node>) = entry.map_err(|error| error.to_string())?;
            Ok(Entry::Node(kind, node))
        }
        TAG_TICK => Ok(Entry::Tick),
        TAG_METADATA => {
            let (root, facts): (CgroupKey, Facts<'_>) = get(payload)?;
            let metadata = Arc::new(facts.into());
            Ok(Entry::Metadata { root, metadata })
        }
        TAG_PATH => {
            let (cgroup, path) = get(payload)?;
            Ok(Entry::Path { cgroup, path })
        }
        TAG_PROGRAMS => {
            let id = std::str::from_utf8(payload).map_err(|error| error.to_string())?;
            Ok(Entry::Programs(id.into()))
        }
        TAG_OFFSET => match payload.try_into() {
            Ok(bytes) => Ok(Entry::Offset(WallOffset(u64::from_le_bytes(bytes)))),
            Err(error) => Err(format!("offset: {error}")),
        },
        other => Err(format!("unknown tag {other}")),
    }
}

fn put(value: &impl Serialize, to: &mut Vec<u8>) -> io::Result<()> {
    postcard::to_io(value, to)
        .map(|_| ())
        .map_err(io::Error::other)
}

fn get<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, String> {
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} bytes too many", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}

/// [`Metadata`] without the attributes of the record's schema, which leave fields out.
#[derive(Serialize, Deserialize)]
struct Facts<'a> {
    name: Option<&'a str>,
    #[serde(borrow)]
    image: Option<ImageFacts<'a>>,
    label: Option<Cow<'a, Labels>>,
    k8s: Option<K8sFacts<'a>>,
    created: Option<u64>,
    restart_count: Option<u64>,
    sandbox: bool,
    runtime: Option<&'a str>,
    level: Enrichment,
}

/// Of an [`Image`].
#[derive(Serialize, Deserialize)]
struct ImageFacts<'a> {
    name: Option<&'a str>,
    tags: Cow<'a, [String]>,
    id: Option<&'a str>,
    repo_digests: Cow<'a, [String]>,
}

/// Of [`K8s`].
#[derive(Serialize, Deserialize)]
struct K8sFacts<'a> {
    #[serde(borrow)]
    pod: Option<PodFacts<'a>>,
    namespace: Option<&'a str>,
    container: Option<&'a str>,
}

/// Of a [`Pod`].
#[derive(Serialize, Deserialize)]
struct PodFacts<'a> {
    name: Option<&'a str>,
    uid: Option<&'a str>,
    label: Cow<'a, Labels>,
}

impl<'a> From<&'a Metadata> for Facts<'a> {
    fn from(metadata: &'a Metadata) -> Self {
        let name = |named: &'a Option<Named>| named.as_ref().map(|named| &*named.name);
        Self {
            name: metadata.name.as_deref(),
            image: metadata.image.as_deref().map(|image| ImageFacts {
                name: image.name.as_deref(),
                tags: Cow::Borrowed(&image.tags),
                id: image.id.as_deref(),
                repo_digests: Cow::Borrowed(&image.repo_digests),
            }),
            label: metadata.label.as_deref().map(Cow::Borrowed),
            k8s: metadata.k8s.as_deref().map(|k8s| K8sFacts {
                pod: k8s.pod.as_ref().map(|pod| PodFacts {
                    name: pod.name.as_deref(),
                    uid: pod.uid.as_deref(),
                    label: Cow::Borrowed(&pod.label),
                }),
                namespace: name(&k8s.namespace),
                container: name(&k8s.container),
            }),
            created: metadata.created.map(|created| created.0),
            restart_count: metadata.restart_count,
            sandbox: metadata.sandbox,
            runtime: metadata.runtime.as_ref().map(|runtime| &*runtime.name),
            level: metadata.level,
        }
    }
}

impl From<Facts<'_>> for Metadata {
    fn from(facts: Facts<'_>) -> Self {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let named = |name: Option<&str>| name.map(|name| Named { name: name.into() });
        Self {
            name: facts.name.map(Into::into),
            image: facts.image.map(|image| {
                Arc::new(Image {
                    name: text(image.name),
                    tags: image.tags.into_owned(),
                    id: text(image.id),
                    repo_digests: image.repo_digests.into_owned(),
                })
            }),
            label: facts.label.map(|label| Arc::new(label.into_owned())),
            k8s: facts.k8s.map(|k8s| {
                Arc::new(K8s {
                    pod: k8s.pod.map(|pod| Pod {
                        name: text(pod.name),
                        uid: text(pod.uid),
                        label: pod.label.into_owned(),
                    }),
                    namespace: named(k8s.namespace),
                    container: named(k8s.container),
                })
            }),
            created: facts.created.map(Timestamp),
            restart_count: facts.restart_count,
            sandbox: facts.sandbox,
            runtime: facts.runtime.map(|name| Runtime { name: name.into() }),
            level: facts.level,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::{Comm, Found, FoundProcess};

    const ROOT: CgroupKey = CgroupKey::new(3, 1 << 40);

    fn full() -> Metadata {
        let labels = || Labels::from_iter([("a", "1"), ("", "\0")]);
        let named = |name: &str| {
            Some(Named {
                name: name.to_owned(),
            })
        };
        Metadata {
            name: Some("web".into()),
            image: Some(Arc::new(Image {
                name: Some("nginx".to_owned()),
                tags: vec!["1".to_owned(), "latest".to_owned()],
                id: Some("sha256:0".to_owned()),
                repo_digests: vec!["nginx@sha256:1".to_owned()],
            })),
            label: Some(Arc::new(labels())),
            k8s: Some(Arc::new(K8s {
                pod: Some(Pod {
                    name: Some("p".to_owned()),
                    uid: Some("u".to_owned()),
                    label: labels(),
                }),
                namespace: named("ns"),
                container: named("c"),
            })),
            created: Some(Timestamp(u64::MAX >> 1)),
            restart_count: Some(7),
            sandbox: true,
            runtime: Some(Runtime {
                name: "docker".into(),
            }),
            level: Enrichment::Partial,
        }
    }

    fn snapshot() -> Snapshot {
        let process = FoundProcess {
            pid: 100,
            vpid: 1,
            parent_pid: 90,
            pid_ns_level: 1,
            start_ns: 12_340_000_000,
            comm: Comm::from(&b"\xff sh"[..]),
        };
        Snapshot {
            found: vec![Found {
                cgroup: ROOT,
                path: Arc::from(&b"/docker/\xff"[..]),
                frozen: true,
                populated: true,
                fresh: true,
                processes: vec![process.clone(), process],
            }],
            complete: true,
            touched: [ROOT].into(),
            born: [ROOT, CgroupKey::new(0, 1)].into(),
        }
    }

    #[test]
    fn every_entry_comes_back_as_it_was() {
        let metadata = |metadata| Entry::Metadata {
            root: ROOT,
            metadata: Arc::new(metadata),
        };
        let entries = [
            Entry::Raw(b"\0raw"),
            metadata(full()),
            metadata(Metadata::default()),
            Entry::Freezer {
                root: ROOT,
                frozen: true,
            },
            Entry::Snapshot(Arc::new(snapshot()), Origin::Reconcile),
            Entry::Node(Kind::NodeStarted, Box::default()),
            Entry::Tick,
            Entry::Offset(WallOffset(u64::MAX)),
            Entry::Path {
                cgroup: ROOT,
                path: Arc::from(&b"/a/\xff"[..]),
            },
            Entry::Programs("7-8".into()),
        ];
        for entry in entries {
            let mut bytes = Vec::new();
            let tag = write(&entry, &mut bytes).expect("an entry");
            assert_eq!(read(tag, &bytes), Ok(entry));
            // Bytes that no entry needs are another version's, or an accident.
            if matches!(tag, TAG_FREEZER | TAG_SNAPSHOT | TAG_METADATA | TAG_PATH) {
                bytes.push(0);
                assert_eq!(read(tag, &bytes), Err("1 bytes too many".to_owned()));
                bytes.truncate(bytes.len() - 2);
                assert!(read(tag, &bytes).is_err(), "tag {tag}");
            }
        }
    }
}
