//! Which records a reader wants.
//!
//! All given conditions must hold; of several values of one condition any. Records of the tracer
//! itself concern no container, so conditions on containers let them pass; only `--type` leaves them
//! out, and never `node.gap`: whoever reads the stream must learn that something is missing.

use serde::{Deserialize, Serialize};

use crate::{
    lifecycle::{Event, Identity},
    record::{Container, K8s, Kind, Labels, Record, Runtime},
};

/// Conditions on a record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    pub types: Vec<Kind>,
    /// `container.runtime.name`.
    pub runtimes: Vec<String>,
    /// A container's id, a prefix of at least 4 characters of it, or its name.
    pub containers: Vec<String>,
    /// `k8s.namespace.name`.
    pub namespaces: Vec<String>,
    /// `key` or `key=value`.
    pub labels: Vec<String>,
}

/// Shortest prefix of an id that is taken for one.
const MIN_PREFIX: usize = 4;

impl Filter {
    /// Whether the record is wanted.
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        self.matches_kind(record.kind).unwrap_or_else(|| {
            let container = record.container.as_ref();
            container.is_none_or(|container| self.selects(container, record.k8s.as_deref()))
        })
    }

    /// Whether the record of this event is wanted.
    #[must_use]
    pub fn wants(&self, event: &Event<'_>) -> bool {
        self.matches_kind(event.kind).unwrap_or_else(|| {
            // Without a condition who the container is is not even looked at: among many it is in no
            // cache of the processor.
            let subject = event.container.filter(|_| self.has_conditions());
            subject.is_none_or(|subject| self.picks(&Subject::of(subject.identity)))
        })
    }

    /// Whether the container is wanted.
    #[must_use]
    pub fn selects(&self, container: &Container, k8s: Option<&K8s>) -> bool {
        self.picks(&Subject {
            id: &container.id,
            name: container.name.as_deref(),
            runtime: container.runtime.as_ref(),
            label: container.label.as_deref(),
            k8s,
        })
    }

    /// What the type alone decides.
    fn matches_kind(&self, kind: Kind) -> Option<bool> {
        if kind == Kind::NodeGap {
            return Some(true);
        }
        let unwanted = !self.types.is_empty() && !self.types.contains(&kind);
        unwanted.then_some(false)
    }

    /// Whether it matters who the container is.
    const fn has_conditions(&self) -> bool {
        !(self.runtimes.is_empty()
            && self.containers.is_empty()
            && self.namespaces.is_empty()
            && self.labels.is_empty())
    }

    fn picks(&self, subject: &Subject<'_>) -> bool {
        let runtime = subject.runtime.map(|runtime| &*runtime.name);
        let namespace = subject
            .k8s
            .and_then(|k8s| k8s.namespace.as_ref())
            .map(|namespace| namespace.name.as_str());
        any(&self.runtimes, |wanted| runtime == Some(wanted))
            && any(&self.containers, |wanted| {
                let by_id = subject.id.starts_with(wanted) && wanted.len() >= MIN_PREFIX;
                by_id || subject.id == wanted || subject.name == Some(wanted)
            })
            && any(&self.namespaces, |wanted| namespace == Some(wanted))
            && any(&self.labels, |wanted| {
                let (key, value) = match wanted.split_once('=') {
                    Some((key, value)) => (key, Some(value)),
                    None => (wanted, None),
                };
                let found = subject.label.and_then(|labels| labels.get(key));
                found.is_some_and(|found| value.is_none_or(|value| found == value))
            })
    }
}

/// What conditions can be about.
struct Subject<'a> {
    id: &'a str,
    name: Option<&'a str>,
    runtime: Option<&'a Runtime>,
    label: Option<&'a Labels>,
    k8s: Option<&'a K8s>,
}

impl<'a> Subject<'a> {
    fn of(identity: &'a Identity) -> Self {
        Self {
            id: &identity.id,
            name: identity.name.as_deref(),
            runtime: identity.runtime.as_ref(),
            label: identity.label.as_deref(),
            k8s: identity.k8s.as_deref(),
        }
    }
}

fn any(wanted: &[String], matches: impl Fn(&str) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| matches(wanted))
}
