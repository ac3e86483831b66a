//! One record of each type, and the lines that both formats make of it.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{Format, docker::Docker};
use crate::record::{Kind, Record};

const ID: &str = "45312fe4a2b1c09d8e7f6a5b4c3d2e1f00112233445566778899aabbccddeeff";
const TIME: &str = "2026-11-21T21:02:48.197953294Z";

/// A whole record of this type; what it says beside that is `facts`.
fn record(kind: &str, facts: &Value) -> Record {
    let mut whole = json!({
        "id": "01932c5e-7a3b-7c4d-8e5f-001122334455/1842", "seq": 1842, "time": TIME,
        "type": kind, "origin": "kernel",
        "host": {"name": "edge 7", "id": "4c1fd2a6", "boot_id": "9b2e4f00-0c11-4d22-8e33-445566778899"},
    });
    if !kind.starts_with("node.") {
        whole["enrichment"] = json!("full");
        whole["container"] = json!({
            "id": ID, "instance": "9b2e:0:16227", "name": "web", "runtime": {"name": "docker"},
            "image": {"name": "nginx", "tags": ["1.27"], "id": "sha256:ae66"},
            "label": {"app": "shop", "exitCode": "fake"},
            "state": "running", "version": 1842, "parents": [],
        });
    }
    merge(&mut whole, facts);
    serde_json::from_value(whole).expect("a record")
}

fn merge(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().expect("an object") {
        match (into.get_mut(key), value) {
            (_, Value::Null) => drop(into.as_object_mut().expect("an object").remove(key)),
            (Some(there @ Value::Object(_)), Value::Object(_)) => merge(there, value),
            _ => into[key] = value.clone(),
        }
    }
}

fn lines(format: &mut Format, record: &Record) -> Vec<String> {
    let mut lines = Vec::new();
    let count = format.write(record, &mut lines);
    let text = String::from_utf8(lines).expect("text");
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(u64::try_from(lines.len()), Ok(count));
    lines
}

fn ended(code: u32, signal: Option<&str>, status: u32) -> Value {
    let mut exit = json!({"code": code, "core_dumped": false, "status": status});
    if let Some(signal) = signal {
        exit["signal"] = json!(signal);
    }
    json!({"pid": 4711, "vpid": 1, "exit": exit})
}

const EXEC: &str = r#""execID":"9b2e4f000c114d228e334455667788990000000000000009000000000000126a""#;

/// Type of a record, the record, and the lines that the Docker format makes of it.
type Row = (&'static str, Value, Vec<(String, String)>);

/// Record, and of each Docker line the action and the attributes that are the action's own, as they
/// stand between the others.
fn rows() -> Vec<Row> {
    let none = |action: &str| (action.to_owned(), String::new());
    let own = |action: &str, own: &str| (action.to_owned(), own.to_owned());
    let exec = json!({"exec": {"session": "4714:9"}});
    let with = |more: Value| {
        let mut both = exec.clone();
        merge(&mut both, &more);
        both
    };
    let sh = json!({"process": {"pid": 4714, "executable": {"name": "sh", "path": "/bin/sh"}}});
    let args = json!({"process": {"pid": 4714, "command_args": ["sh", "-c", "exit 5"]}});
    vec![
        ("container.discovered", json!({}), vec![]),
        ("container.created", json!({}), vec![none("create")]),
        ("container.started", json!({}), vec![none("start")]),
        ("container.start_failed", json!({}), vec![]),
        (
            "container.exec_started",
            with(sh),
            vec![
                own("exec_create: /bin/sh ", EXEC),
                own("exec_start: /bin/sh ", EXEC),
            ],
        ),
        (
            "container.exec_started",
            with(args),
            vec![
                own("exec_create: sh -c exit 5", EXEC),
                own("exec_start: sh -c exit 5", EXEC),
            ],
        ),
        (
            "container.exec_exited",
            with(json!({"process": ended(5, None, 1280), "duration_ns": "713950"})),
            vec![own("exec_die", &format!("{EXEC},\"exitCode\":\"5\""))],
        ),
        ("container.oom", json!({}), vec![none("oom")]),
        ("container.paused", json!({}), vec![none("pause")]),
        ("container.resumed", json!({}), vec![none("unpause")]),
        (
            "container.exited",
            json!({"process": ended(3, None, 768), "duration_ns": "81345678901"}),
            vec![own("die", r#""execDuration":"81","exitCode":"3""#)],
        ),
        (
            "container.exited",
            json!({"process": ended(137, Some("SIGKILL"), 9), "oom_killed": false}),
            vec![
                own("kill", r#""signal":"9""#),
                own("die", r#""exitCode":"137""#),
            ],
        ),
        (
            "container.exited",
            json!({"process": ended(137, Some("SIGKILL"), 9), "oom_killed": true}),
            vec![own("die", r#""exitCode":"137""#)],
        ),
        (
            "container.exited",
            json!({"process": ended(139, Some("SIGSEGV"), 11)}),
            vec![own("die", r#""exitCode":"139""#)],
        ),
        ("container.emptied", json!({}), vec![]),
        ("container.removed", json!({}), vec![none("destroy")]),
        ("container.enriched", json!({}), vec![]),
        ("process.exec", json!({}), vec![]),
        ("process.exited", json!({}), vec![]),
        ("node.started", json!({}), vec![]),
        ("node.synced", json!({}), vec![]),
        ("node.gap", json!({}), vec![]),
        ("node.resynced", json!({}), vec![]),
        ("node.clock", json!({}), vec![]),
        ("node.stopped", json!({}), vec![]),
    ]
}

#[test]
fn every_type_has_a_row() {
    let told: Vec<&str> = rows().iter().map(|(kind, ..)| *kind).collect();
    for kind in Kind::ALL {
        assert!(told.contains(&kind.as_str()), "{}", kind.as_str());
    }
}

#[test]
fn docker_lines() {
    for (kind, facts, expected) in rows() {
        let mut docker = Format::Docker(Docker::default());
        let told = lines(&mut docker, &record(kind, &facts));
        let expected: Vec<String> = expected
            .iter()
            .map(|(action, own)| {
                // In alphabetical order, as Go writes a map; the label that plays an exit code is
                // there where there is none.
                let (before, exit) = match own.find("\"exitCode\"") {
                    Some(at) => own.split_at(at),
                    None if own.contains("signal") => ("", r#""exitCode":"fake""#),
                    None => (own.as_str(), r#""exitCode":"fake""#),
                };
                let after = if own.contains("signal") { format!(",{own}") } else { String::new() };
                let comma = if before.is_empty() || before.ends_with(',') { "" } else { "," };
                format!(
                    r#"{{"status":"{action}","id":"{ID}","from":"nginx:1.27","Type":"container","Action":"{action}","Actor":{{"ID":"{ID}","Attributes":{{"app":"shop",{before}{comma}{exit},"image":"nginx:1.27","name":"web"{after}}}}},"scope":"local","time":1795294968,"timeNano":1795294968197953294}}"#
                )
            })
            .collect();
        assert_eq!(told, expected, "{kind}");
    }
}

#[test]
fn docker_leaves_out_what_is_not_known() {
    let bare = json!({"container": {"name": null, "image": null, "label": null}});
    let told = lines(
        &mut Format::Docker(Docker::default()),
        &record("container.started", &bare),
    );
    let expected = format!(
        r#"{{"status":"start","id":"{ID}","Type":"container","Action":"start","Actor":{{"ID":"{ID}","Attributes":{{}}}},"scope":"local","time":1795294968,"timeNano":1795294968197953294}}"#
    );
    assert_eq!(told, [expected]);
}

#[test]
fn an_image_is_named_as_it_was_asked_for() {
    for (image, name) in [
        (
            json!({"name": "localhost:5000/a/b", "tags": ["1"]}),
            json!("localhost:5000/a/b:1"),
        ),
        (
            json!({"name": "busybox", "id": "sha256:ae66"}),
            json!("busybox"),
        ),
        (json!({"id": "sha256:ae66"}), json!("sha256:ae66")),
        (json!({}), Value::Null),
    ] {
        let mut facts = json!({"container": {"image": null}});
        let mut started = record("container.started", &facts);
        facts["container"]["image"] = image;
        started.container.as_mut().expect("one").image =
            serde_json::from_value(facts["container"]["image"].take()).expect("an image");
        let told = lines(&mut Format::Docker(Docker::default()), &started);
        let told: Value = serde_json::from_str(&told[0]).expect("JSON");
        assert_eq!(told["from"], name);
        assert_eq!(told["Actor"]["Attributes"]["image"], name);
    }
}

/// What comes after `created` without metadata, and which lines with which name that makes.
#[test]
fn create_waits_for_metadata() {
    let bare =
        json!({"enrichment": "none", "container": {"name": null, "image": null, "label": null}});
    let partial = json!({"enrichment": "partial", "container": {"image": null}});
    let other = json!({"container": {"instance": "9b2e:0:9", "name": "other"}});
    let later = json!({"time": "2026-11-21T21:02:49.000000000Z"});
    for (steps, expected) in [
        (vec![("container.created", &bare)], vec![]),
        (
            vec![
                ("container.created", &bare),
                ("container.enriched", &partial),
                ("container.started", &other),
                ("container.enriched", &later),
                ("container.started", &later),
            ],
            vec![
                "start other 294968",
                "create web 294968",
                "start web 294969",
            ],
        ),
        (
            vec![("container.created", &bare), ("container.removed", &bare)],
            vec!["create - 294968", "destroy - 294968"],
        ),
        (
            vec![
                ("container.created", &later),
                ("container.enriched", &later),
            ],
            vec!["create web 294969"],
        ),
    ] {
        let mut docker = Format::Docker(Docker::default());
        let mut told = Vec::new();
        for (kind, facts) in &steps {
            for line in lines(&mut docker, &record(kind, facts)) {
                let line: Value = serde_json::from_str(&line).expect("JSON");
                told.push(format!(
                    "{} {} {}",
                    line["Action"].as_str().expect("text"),
                    line["Actor"]["Attributes"]["name"].as_str().unwrap_or("-"),
                    line["time"].as_u64().expect("a number") % 1_000_000,
                ));
            }
        }
        assert_eq!(told, expected, "{steps:?}");
    }
}

#[test]
fn creations_that_never_go_on_are_bounded() {
    const MANY: usize = 5_000;
    let mut docker = Format::Docker(Docker::default());
    let bare = json!({"enrichment": "none"});
    let mut created = record("container.created", &bare);
    let mut told = 0;
    for number in 0..MANY {
        let instance: Arc<str> = format!("9b2e:0:{number}").into();
        created.container.as_mut().expect("one").instance = instance;
        told += lines(&mut docker, &created).len();
    }
    assert_eq!(told, MANY - 4096);
}

#[test]
fn cloudevents_lines() {
    for (kind, facts, _) in rows() {
        let record = record(kind, &facts);
        let told = lines(&mut Format::CloudEvents, &record);
        let subject = record
            .container
            .as_ref()
            .map_or_else(String::new, |_| format!(r#""subject":"{ID}","#));
        let data = serde_json::to_string(&record).expect("JSON");
        let expected = format!(
            r#"{{"specversion":"1.0","id":"01932c5e-7a3b-7c4d-8e5f-001122334455/1842","source":"/nodes/4c1fd2a6","type":"dev.tracer.{kind}",{subject}"time":"{TIME}","datacontenttype":"application/json","sequence":"00000000000000001842","data":{data}}}"#
        );
        assert_eq!(told, [expected], "{kind}");
    }
}

#[test]
fn cloudevents_are_valid_under_the_specifications_schema() {
    let schema: Value =
        serde_json::from_str(include_str!("testdata/cloudevents.json")).expect("a schema");
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("a schema");
    // It does tell good from bad.
    let good = json!({"specversion": "1.0", "id": "1", "source": "/a", "type": "t"});
    assert!(validator.is_valid(&good));
    for (key, bad) in [
        ("source", json!("a b")),
        ("time", json!("today")),
        ("id", json!("")),
    ] {
        let mut event = good.clone();
        event[key] = bad;
        assert!(!validator.is_valid(&event), "{event}");
    }
    let nameless = json!({"host": {"id": null, "name": "k\u{fc}che #1/ü%"}});
    for (kind, mut facts, _) in rows() {
        for more in [json!({}), nameless.clone()] {
            merge(&mut facts, &more);
            let told = lines(&mut Format::CloudEvents, &record(kind, &facts));
            let told: BTreeMap<String, Value> = serde_json::from_str(&told[0]).expect("JSON");
            for name in told.keys() {
                let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
                assert!(name.len() <= 20 && name.bytes().all(plain), "{name}");
            }
            let told = json!(told);
            let faults: Vec<String> = validator
                .iter_errors(&told)
                .map(|fault| fault.to_string())
                .collect();
            assert!(faults.is_empty(), "{kind}: {faults:?}");
        }
    }
}
