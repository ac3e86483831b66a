use super::{super::tests::survives, *};

const RUNC: &[u8] = include_bytes!("testdata/runc-state.json");
const CRUN: &[u8] = include_bytes!("testdata/crun-status");

#[track_caller]
fn check(json: &[u8], id: &str, bundle: Option<&str>, created: Option<&str>) {
    let state = read(json, id).expect("json").expect("this container");
    assert_eq!(state.bundle.as_deref(), bundle);
    let time = state.created.map(|time| time.to_string());
    assert_eq!(time.as_deref(), created);
}

#[test]
fn states_of_runtimes() {
    check(
        RUNC,
        "enr1",
        Some("/srv/oci"),
        Some("2026-11-21T23:22:33.075856399Z"),
    );
    check(
        CRUN,
        "enr2",
        Some("/srv/oci"),
        Some("2026-11-21T23:22:59.975539000Z"),
    );
    // youki 0.5 (`State` in its libcontainer)
    let youki = br#"{"ociVersion":"v1.0.2","id":"c","status":"running","pid":9,"bundle":"/b",
        "annotations":{},"created":"2024-05-01T10:00:00.123456789Z","creator":0,"useSystemd":false}"#;
    check(
        youki,
        "c",
        Some("/b"),
        Some("2024-05-01T10:00:00.123456789Z"),
    );
    assert_eq!(read(RUNC, "other").expect("json"), None);
}

#[test]
fn each_fact_stands_alone() {
    check(b"{}", "x", None, None);
    check(
        br#"{"bundle":"relative","created":"0001-01-01T00:00:00Z"}"#,
        "x",
        None,
        None,
    );
    check(
        br#"{"config":{"labels":["bundle=/a","x",7,"bundle=/b","bundle"]}}"#,
        "x",
        Some("/b"),
        None,
    );
    check(br#"{"config":{"labels":{}},"bundle":7}"#, "x", None, None);
    check(br#"{"config":"","created":{}}"#, "x", None, None);
}

#[test]
fn damage_never_panics() {
    survives(RUNC, |bytes| read(bytes, "enr1"));
    survives(CRUN, |bytes| read(bytes, "enr2"));
}
