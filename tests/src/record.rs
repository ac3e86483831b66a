//! One record of the stream, read by path.
//!
//! The harness reads JSON, not tracer's types: it stands where a consumer stands.

use anyhow::{Context, Result};
use serde_json::Value;

/// A parsed line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record(Value);

impl Record {
    pub fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line)
            .map(Self)
            .with_context(|| format!("not a JSON record: {line}"))
    }

    #[must_use]
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// Value at a dotted path, `process.exit.code`.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Value> {
        path.split('.')
            .try_fold(&self.0, |value, key| value.get(key))
    }

    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.at(path).and_then(Value::as_str)
    }

    #[must_use]
    pub fn number(&self, path: &str) -> Option<u64> {
        self.at(path).and_then(Value::as_u64)
    }

    /// The record's `type`; empty where it has none, which the checks refuse.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text("type").unwrap_or_default()
    }

    #[must_use]
    pub fn is(&self, kind: &str) -> bool {
        self.kind() == kind
    }

    #[must_use]
    pub fn container(&self) -> Option<&str> {
        self.text("container.id")
    }

    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.text("container.instance")
    }

    #[must_use]
    pub fn seq(&self) -> Option<u64> {
        self.number("seq")
    }

    /// Ids of the containers around this one.
    #[must_use]
    pub fn parents(&self) -> Vec<&str> {
        self.at("container.parents")
            .and_then(Value::as_array)
            .map(|parents| {
                parents
                    .iter()
                    .filter_map(|parent| parent.get("id").and_then(Value::as_str))
                    .collect()
            })
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_by_path() {
        let record = Record::parse(
            r#"{"seq":3,"type":"container.exited","container":{"id":"c","parents":[{"id":"p","runtime":"docker"}]},"process":{"exit":{"code":5}}}"#,
        )
        .unwrap();
        assert_eq!(record.number("process.exit.code"), Some(5));
        assert_eq!(record.text("process.exit.signal"), None);
        assert_eq!(record.container(), Some("c"));
        assert_eq!(record.parents(), ["p"]);
        assert!(record.is("container.exited"));
    }

    #[test]
    fn a_line_that_is_not_json_is_quoted() {
        let error = Record::parse("oops").unwrap_err();
        assert!(error.to_string().contains("oops"));
    }
}
