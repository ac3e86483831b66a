//! A record as far as the gateway looks into it. Pure.
//!
//! Ingest reads four members and skips the rest; nothing is copied. What the table's columns need is
//! read only when a row is written ([`Columns`]), what a filter needs only where one is set
//! ([`View`]). Kinds and states that this build does not know are carried, not refused: a node may be
//! newer than its gateway.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_128;

use crate::{filter::Filter, record::State, uplink::state_hash};

/// Longest record that is taken, bytes.
pub const MAX_RECORD: usize = 256 << 10;

/// What ingest needs to know of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub kind: Told,
    pub subject: Option<Subject>,
}

/// The kinds that the gateway acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The table of a stream is complete.
    Synced,
    /// So many records left the node's spool without an ack.
    SpoolGap(u64),
    Other,
}

/// The container that a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// Of the instance's name.
    pub key: u128,
    pub version: u64,
    /// Its part of the state hash.
    pub hash: u64,
    pub state: State,
}

#[derive(Deserialize)]
struct WireHead<'a> {
    seq: u64,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    container: Option<WireSubject<'a>>,
}

#[derive(Deserialize)]
struct WireSubject<'a> {
    #[serde(borrow)]
    instance: Cow<'a, str>,
    version: u64,
    state: State,
}

#[derive(Deserialize)]
struct WireGap<'a> {
    #[serde(borrow)]
    node: GapBody<'a>,
}

#[derive(Deserialize)]
struct GapBody<'a> {
    #[serde(borrow)]
    sink: Option<Cow<'a, str>>,
    #[serde(default)]
    lost: BTreeMap<String, u64>,
}

impl Head {
    /// Reads one line; `None` where it is no record: then it is left out, and that is told.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        if line.len() > MAX_RECORD || line.contains(&b'\n') {
            return None;
        }
        let text = std::str::from_utf8(line).ok()?;
        let wire: WireHead<'_> = serde_json::from_str(text).ok()?;
        let subject = wire.container.map(|container| Subject {
            key: xxh3_128(container.instance.as_bytes()),
            version: container.version,
            hash: state_hash(&container.instance, container.version),
            state: container.state,
        });
        if subject.is_some_and(|subject| subject.version > wire.seq) {
            return None;
        }
        let kind = match &*wire.kind {
            "node.synced" => Told::Synced,
            "node.gap" => told_gap(text),
            _ => Told::Other,
        };
        Some(Self {
            seq: wire.seq,
            kind,
            subject,
        })
    }
}

fn told_gap(text: &str) -> Told {
    match serde_json::from_str::<WireGap<'_>>(text) {
        Ok(gap) if gap.node.sink.as_deref() == Some("spool") => {
            let lost = gap.node.lost.values();
            Told::SpoolGap(lost.fold(0, |sum, count| sum.saturating_add(*count)))
        }
        _ => Told::Other,
    }
}

/// What the table of containers has a column for, as a record says it.
#[derive(Debug)]
pub struct Columns<'a> {
    pub instance: Cow<'a, str>,
    pub id: Cow<'a, str>,
    pub name: Option<Cow<'a, str>>,
    pub runtime: Option<Cow<'a, str>>,
    pub image: Option<Cow<'a, str>>,
    pub namespace: Option<Cow<'a, str>>,
    pub pod: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct WireColumns<'a> {
    #[serde(borrow)]
    container: WireContainer<'a>,
    #[serde(borrow)]
    k8s: Option<ViewK8s<'a>>,
}

#[derive(Deserialize)]
struct WireContainer<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    instance: Cow<'a, str>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    runtime: Option<ViewNamed<'a>>,
    #[serde(borrow)]
    image: Option<ViewNamed<'a>>,
}

impl<'a> Columns<'a> {
    /// Reads one line; `None` where it concerns no container.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let wire: WireColumns<'a> = serde_json::from_slice(line).ok()?;
        let named = |named: Option<ViewNamed<'a>>| named.and_then(|named| named.name);
        let (namespace, pod) = wire
            .k8s
            .map_or((None, None), |k8s| (k8s.namespace, k8s.pod));
        Some(Self {
            instance: wire.container.instance,
            id: wire.container.id,
            name: wire.container.name,
            runtime: named(wire.container.runtime),
            image: named(wire.container.image),
            namespace: named(namespace),
            pod: named(pod),
        })
    }
}

/// What a filter looks at.
#[derive(Deserialize)]
pub struct View<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    container: Option<ViewContainer<'a>>,
    #[serde(borrow)]
    k8s: Option<ViewK8s<'a>>,
}

#[derive(Deserialize)]
struct ViewContainer<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    runtime: Option<ViewNamed<'a>>,
    #[serde(default)]
    label: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct ViewK8s<'a> {
    #[serde(borrow)]
    namespace: Option<ViewNamed<'a>>,
    #[serde(borrow)]
    pod: Option<ViewNamed<'a>>,
}

#[derive(Deserialize)]
struct ViewNamed<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
}

impl<'a> View<'a> {
    /// Reads one line.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// As [`Filter::matches`], without the record's other members.
    #[must_use]
    pub fn matches(&self, filter: &Filter) -> bool {
        if self.kind == "node.gap" {
            return true;
        }
        let types = &filter.types;
        if !types.is_empty() && !types.iter().any(|kind| kind.as_str() == self.kind) {
            return false;
        }
        self.container
            .as_ref()
            .is_none_or(|container| container.is_wanted(filter, self.namespace()))
    }

    /// Whether the container has one of these labels (`key` or `key=value`).
    #[must_use]
    pub fn has_label(&self, wanted: &[String]) -> bool {
        let container = self.container.as_ref();
        wanted.is_empty() || container.is_some_and(|container| container.has_label(wanted))
    }

    fn namespace(&self) -> Option<&str> {
        self.k8s.as_ref()?.namespace.as_ref()?.name.as_deref()
    }
}

/// Shortest prefix of an id that is taken for one.
pub const MIN_PREFIX: usize = 4;

impl ViewContainer<'_> {
    fn is_wanted(&self, filter: &Filter, namespace: Option<&str>) -> bool {
        let any = |wanted: &[String], is: &dyn Fn(&str) -> bool| {
            wanted.is_empty() || wanted.iter().any(|wanted| is(wanted))
        };
        let runtime = self.runtime.as_ref().and_then(|r| r.name.as_deref());
        any(&filter.runtimes, &|wanted| runtime == Some(wanted))
            && any(&filter.namespaces, &|wanted| namespace == Some(wanted))
            && any(&filter.containers, &|wanted| {
                let by_id = wanted.len() >= MIN_PREFIX && self.id.starts_with(wanted);
                by_id || self.id == wanted || self.name.as_deref() == Some(wanted)
            })
            && (filter.labels.is_empty() || self.has_label(&filter.labels))
    }

    fn has_label(&self, wanted: &[String]) -> bool {
        wanted.iter().any(|wanted| {
            let (key, value) = match wanted.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (wanted.as_str(), None),
            };
            let found = self.label.get(key);
            found.is_some_and(|found| value.is_none_or(|value| found == value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"id":"s/7","seq":7,"time":"2026-11-21T21:02:48.197953294Z","type":"container.started","origin":"kernel","host":{"name":"h","boot_id":"b"},"container":{"id":"abcdef012345","instance":"b:1:2","name":"we\"b","runtime":{"name":"docker"},"image":{"name":"nginx"},"label":{"app":"shop"},"state":"running","version":7,"parents":[]},"k8s":{"namespace":{"name":"prod"}}}"#;

    #[test]
    fn a_record_is_read_as_far_as_needed() {
        let head = Head::parse(LINE.as_bytes()).expect("a record");
        let subject = head.subject.expect("a container");
        assert_eq!((head.seq, head.kind), (7, Told::Other));
        assert_eq!(subject.hash, state_hash("b:1:2", 7));
        assert_eq!(subject.state, State::Running);
        let columns = Columns::parse(LINE.as_bytes()).expect("a container");
        assert_eq!(columns.name.as_deref(), Some("we\"b"));
        assert_eq!(columns.image.as_deref(), Some("nginx"));
        assert_eq!(columns.namespace.as_deref(), Some("prod"));
        assert_eq!(
            (&*columns.id, &*columns.instance),
            ("abcdef012345", "b:1:2")
        );
        assert!(Columns::parse(br#"{"seq":1,"type":"node.synced"}"#).is_none());
    }

    #[test]
    fn filters_are_those_of_the_command_line() {
        let view = View::parse(LINE.as_bytes()).expect("a record");
        let one = |set: &dyn Fn(&mut Filter)| {
            let mut filter = Filter::default();
            set(&mut filter);
            view.matches(&filter)
        };
        assert!(one(&|_| ()));
        assert!(one(&|f| f.types = vec![crate::record::Kind::Started]));
        assert!(!one(&|f| f.types = vec![crate::record::Kind::Exited]));
        assert!(one(&|f| f.labels = vec!["app=shop".into()]));
        assert!(!one(&|f| f.labels = vec!["app=x".into()]));
        assert!(one(&|f| f.containers = vec!["abcd".into()]));
        assert!(!one(&|f| f.containers = vec!["abc".into()]));
        assert!(one(&|f| f.namespaces = vec!["x".into(), "prod".into()]));
        assert!(!one(&|f| f.runtimes = vec!["podman".into()]));
    }

    #[test]
    fn what_is_no_record_is_none() {
        let version = LINE.replace("\"version\":7", "\"version\":8");
        let broken = LINE.replace(",\"type\"", ",\n\"type\"");
        for line in ["", "{}", "[]", "{\"seq\":1}", "null", &version, &broken] {
            assert_eq!(Head::parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(Head::parse(b"{\"seq\":1,\"type\":\"\xff\"}"), None);
        for cut in 0..LINE.len() {
            assert_eq!(Head::parse(&LINE.as_bytes()[..cut]), None);
        }
    }

    #[test]
    fn a_gap_of_the_spool_says_how_many() {
        let line =
            br#"{"seq":3,"type":"node.gap","node":{"sink":"spool","lost":{"records":4,"x":1}}}"#;
        assert_eq!(Head::parse(line).map(|h| h.kind), Some(Told::SpoolGap(5)));
        let line = br#"{"seq":3,"type":"node.gap","node":{"lost":{"exit":4}}}"#;
        assert_eq!(Head::parse(line).map(|h| h.kind), Some(Told::Other));
    }
}
