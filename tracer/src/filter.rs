//! Which records a reader wants.
//!
//! All given conditions must hold; of several values of one condition any. Records of the tracer
//! itself concern no container, so conditions on containers let them pass; only `--type` leaves them
//! out, and never `node.gap`: whoever reads the stream must learn that something is missing.

use serde::{Deserialize, Serialize};

use crate::record::{Container, K8s, Kind, Record};

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
        if record.kind == Kind::NodeGap {
            return true;
        }
        if !self.types.is_empty() && !self.types.contains(&record.kind) {
            return false;
        }
        let container = record.container.as_ref();
        container.is_none_or(|container| self.selects(container, record.k8s.as_deref()))
    }

    /// Whether the container is wanted.
    #[must_use]
    pub fn selects(&self, container: &Container, k8s: Option<&K8s>) -> bool {
        let runtime = container.runtime.as_ref().map(|runtime| &*runtime.name);
        let namespace = k8s
            .and_then(|k8s| k8s.namespace.as_ref())
            .map(|namespace| namespace.name.as_str());
        any(&self.runtimes, |wanted| runtime == Some(wanted))
            && any(&self.containers, |wanted| {
                let by_id = container.id.starts_with(wanted) && wanted.len() >= MIN_PREFIX;
                by_id || *container.id == *wanted || container.name.as_deref() == Some(wanted)
            })
            && any(&self.namespaces, |wanted| namespace == Some(wanted))
            && any(&self.labels, |wanted| {
                let (key, value) = match wanted.split_once('=') {
                    Some((key, value)) => (key, Some(value)),
                    None => (wanted, None),
                };
                let found = container.label.as_ref().and_then(|labels| labels.get(key));
                found.is_some_and(|found| value.is_none_or(|value| found == value))
            })
    }
}

fn any(wanted: &[String], matches: impl Fn(&str) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| matches(wanted))
}
