//! The rules that hold for every record of every stream.
//!
//! * Each record is valid under the JSON Schema that the binary prints.
//! * `seq` advances by one; `id` is `<stream>/<seq>`, of one stream.
//! * `time` is UTC with nine digits. Nothing is `null`, and no text is empty: unknown is absent.
//! * `container.version` is the `seq` of the record where the record changed the container, and
//!   never larger.
//! * An instance's first record is `created` or `discovered`, its last is `removed`; it has at most
//!   one `started` and one `exited`, in this order; it is not told twice in a row that it is paused
//!   or running; a session that ends had begun, unless the container was there before tracer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use jsonschema::Validator;
use serde_json::Value;

use crate::command;
use crate::record::Record;

/// Schema of the records of one binary.
#[derive(Debug, Clone)]
pub struct Schema(Arc<Validator>);

impl Schema {
    /// Asks the binary.
    pub fn of(binary: &Path) -> Result<Self> {
        let printed = command::run_ok(Command::new(binary).arg("schema"))
            .context("ask tracer for its schema")?;
        Self::parse(&printed.stdout)
    }

    pub fn parse(text: &str) -> Result<Self> {
        let schema: Value = serde_json::from_str(text).context("the schema is not JSON")?;
        let validator =
            jsonschema::validator_for(&schema).map_err(|error| anyhow!("the schema: {error}"))?;
        Ok(Self(Arc::new(validator)))
    }

    fn check(&self, value: &Value) -> Result<()> {
        let faults: Vec<String> = self
            .0
            .iter_errors(value)
            .map(|fault| format!("{} at `{}`", fault, fault.instance_path()))
            .collect();
        ensure!(
            faults.is_empty(),
            "against the schema: {}",
            faults.join("; ")
        );
        Ok(())
    }
}

/// What of a stream has been seen.
#[derive(Debug)]
pub struct Checker {
    schema: Schema,
    last: Option<Place>,
    instances: BTreeMap<String, Instance>,
}

#[derive(Debug)]
struct Place {
    stream: String,
    seq: u64,
}

#[derive(Debug, Default)]
struct Instance {
    phase: Phase,
    discovered: bool,
    paused: bool,
    sessions: BTreeSet<String>,
}

/// How far an instance has got.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Created,
    Started,
    Exited,
    Removed,
}

impl Checker {
    #[must_use]
    pub fn new(schema: Schema) -> Self {
        Self {
            schema,
            last: None,
            instances: BTreeMap::new(),
        }
    }

    /// Checks the next record of the stream.
    pub fn check_record(&mut self, record: &Record) -> Result<()> {
        self.schema.check(record.value())?;
        no_blank(record.value(), "")?;
        self.check_place(record)?;
        check_time(record)?;
        self.check_container(record)
    }

    fn check_place(&mut self, record: &Record) -> Result<()> {
        let seq = record.seq().context("no seq")?;
        let id = record.text("id").context("no id")?;
        let (stream, number) = id.rsplit_once('/').context("id is not <stream>/<seq>")?;
        ensure!(number == seq.to_string(), "id {id} and seq {seq} differ");
        if let Some(last) = &self.last {
            ensure!(
                seq == last.seq + 1,
                "seq {seq} follows {}: a hole",
                last.seq
            );
            ensure!(
                stream == last.stream,
                "stream {stream} follows {}",
                last.stream
            );
        }
        self.last = Some(Place {
            stream: stream.to_owned(),
            seq,
        });
        Ok(())
    }

    fn check_container(&mut self, record: &Record) -> Result<()> {
        let kind = record.kind();
        if !kind.starts_with("container.") {
            return Ok(());
        }
        let seq = record.seq().context("no seq")?;
        let version = record
            .number("container.version")
            .context("no container.version")?;
        ensure!(
            version == seq,
            "version {version} of a container that seq {seq} changed"
        );
        record.container().context("no container.id")?;
        let key = record.instance().context("no container.instance")?;
        let known = self.instances.contains_key(key);
        let first = matches!(kind, "container.created" | "container.discovered");
        ensure!(known || first, "{kind} is the first record of {key}");
        ensure!(!(known && first), "{kind} is not the first record of {key}");
        self.instances
            .entry(key.to_owned())
            .or_default()
            .apply(record)
            .with_context(|| format!("instance {key}"))
    }
}

impl Instance {
    fn apply(&mut self, record: &Record) -> Result<()> {
        let kind = record.kind();
        let phase = self.phase;
        ensure!(phase != Phase::Removed, "{kind} after container.removed");
        match kind {
            "container.discovered" => {
                let state = record.text("container.state").context("no state")?;
                self.discovered = true;
                self.paused = state == "paused";
                self.phase = match state {
                    "created" => Phase::Created,
                    "exited" => Phase::Exited,
                    _ => Phase::Started,
                };
            }
            "container.started" => {
                ensure!(phase == Phase::Created, "{kind} of what is {phase:?}");
                self.phase = Phase::Started;
            }
            "container.start_failed" => {
                ensure!(phase == Phase::Created, "{kind} of what is {phase:?}");
            }
            "container.exited" => {
                ensure!(phase == Phase::Started, "{kind} of what is {phase:?}");
                self.phase = Phase::Exited;
            }
            "container.paused" | "container.resumed" => {
                let now = kind == "container.paused";
                ensure!(self.paused != now, "{kind} tells what was known");
                self.paused = now;
            }
            "container.exec_started" | "container.exec_exited" => self.session(record)?,
            "container.removed" => self.phase = Phase::Removed,
            _ => {}
        }
        Ok(())
    }

    fn session(&mut self, record: &Record) -> Result<()> {
        let session = record.text("exec.session").context("no exec.session")?;
        if record.is("container.exec_started") {
            ensure!(
                self.sessions.insert(session.to_owned()),
                "exec session {session} began twice"
            );
        } else {
            ensure!(
                self.sessions.remove(session) || self.discovered,
                "exec session {session} ended without having begun"
            );
        }
        Ok(())
    }
}

/// `2026-11-21T21:02:48.197953294Z`.
fn check_time(record: &Record) -> Result<()> {
    const SHAPE: &str = "dddd-dd-ddTdd:dd:dd.dddddddddZ";
    let time = record.text("time").context("no time")?;
    let fits = time.len() == SHAPE.len()
        && time
            .chars()
            .zip(SHAPE.chars())
            .all(|(have, want)| match want {
                'd' => have.is_ascii_digit(),
                fixed => have == fixed,
            });
    ensure!(fits, "time {time} is not RFC 3339 UTC with nine digits");
    Ok(())
}

/// Labels are the one place where an empty text says something.
fn no_blank(value: &Value, path: &str) -> Result<()> {
    match value {
        Value::Null => bail!("`{path}` is null: unknown is absent"),
        Value::String(text) => ensure!(
            !text.is_empty() || path.starts_with(".container.label."),
            "`{path}` is empty: unknown is absent"
        ),
        Value::Array(items) => {
            for item in items {
                no_blank(item, path)?;
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                no_blank(field, &format!("{path}.{key}"))?;
            }
        }
        Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Feeds `(type, extra fields)` rows of one container; gives the first complaint.
    fn complaint(rows: &[(&str, Value)]) -> Option<String> {
        let schema = Schema::parse(r#"{"type":"object","required":["type"]}"#).unwrap();
        let mut checker = Checker::new(schema);
        rows.iter().zip(1_u64..).find_map(|((kind, extra), seq)| {
            let mut value = json!({
                "id": format!("s/{seq}"), "seq": seq, "type": kind,
                "time": "2026-11-21T21:02:48.197953294Z",
                "container": {"id": "c", "instance": "b:2:7", "version": seq, "state": "created"},
            });
            for (key, field) in extra.as_object().unwrap() {
                value[key] = field.clone();
            }
            let record = Record::parse(&value.to_string()).unwrap();
            checker
                .check_record(&record)
                .err()
                .map(|error| format!("{error:#}"))
        })
    }

    #[test]
    fn a_whole_life_passes() {
        let exec = json!({"exec": {"session": "x"}});
        let rows = [
            ("container.created", json!({})),
            ("container.started", json!({})),
            ("container.exec_started", exec.clone()),
            ("container.exec_exited", exec),
            ("container.paused", json!({})),
            ("container.resumed", json!({})),
            ("container.exited", json!({})),
            ("container.emptied", json!({})),
            ("container.removed", json!({})),
        ];
        assert_eq!(complaint(&rows), None);
    }

    #[test]
    fn each_broken_rule_is_named() {
        let created = ("container.created", json!({}));
        let started = ("container.started", json!({}));
        let exited = ("container.exited", json!({}));
        let removed = ("container.removed", json!({}));
        let row = |kind: &'static str, extra: Value| (kind, extra);
        let cases: Vec<(Vec<(&str, Value)>, &str)> = vec![
            (vec![started.clone()], "first record"),
            (vec![created.clone(), created.clone()], "not the first"),
            (
                vec![created.clone(), started.clone(), started.clone()],
                "started of what is Started",
            ),
            (
                vec![created.clone(), exited.clone()],
                "exited of what is Created",
            ),
            (
                vec![created.clone(), removed.clone(), started.clone()],
                "after container.removed",
            ),
            (
                vec![created.clone(), row("container.resumed", json!({}))],
                "tells what was known",
            ),
            (
                vec![
                    created.clone(),
                    row("container.exec_exited", json!({"exec": {"session": "x"}})),
                ],
                "without having begun",
            ),
            (
                vec![row("node.synced", json!({"time": "2026-11-21T21:02:48Z"}))],
                "nine digits",
            ),
            (
                vec![row("node.synced", json!({"host": {"name": ""}}))],
                "is empty",
            ),
            (vec![row("node.synced", json!({"host": null}))], "is null"),
            (vec![row("node.synced", json!({"seq": 7}))], "differ"),
            (
                vec![
                    created.clone(),
                    row("node.synced", json!({"seq": 9, "id": "s/9"})),
                ],
                "a hole",
            ),
            (
                vec![created.clone(), row("node.synced", json!({"id": "t/2"}))],
                "stream t",
            ),
            (
                vec![row(
                    "container.created",
                    json!({"container": {"id": "c", "version": 9}}),
                )],
                "version 9",
            ),
            (vec![row("", json!({"type": 3, "time": 3}))], "no time"),
        ];
        for (rows, part) in cases {
            let said = complaint(&rows).unwrap_or_default();
            assert!(said.contains(part), "{said:?} lacks {part:?}");
        }
    }

    #[test]
    fn the_schema_is_asked() {
        let schema = Schema::parse(r#"{"required":["origin"]}"#).unwrap();
        let said = schema.check(&json!({"type": "node.synced"})).unwrap_err();
        assert!(said.to_string().contains("origin"), "{said}");
    }

    #[test]
    fn what_was_there_before_may_end_a_session_nobody_saw_begin() {
        let rows = [
            (
                "container.discovered",
                json!({"container": {"id": "c", "instance": "i", "version": 1, "state": "running"}}),
            ),
            (
                "container.exec_exited",
                json!({"exec": {"session": "x"}, "container": {"id": "c", "instance": "i", "version": 2}}),
            ),
        ];
        assert_eq!(complaint(&rows), None);
    }
}
