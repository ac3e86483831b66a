use super::*;

const ID: &str = "45312fe4a2b1c09d8e7f6a5b4c3d2e1f00112233445566778899aabbccddeeff";
const DIGEST: &str = "sha256:b8448bf69fa3b2ced122bd2d5ae97b3cd2fb524fa224c76e2a1d3384d88fa12f";

#[test]
fn podmans_description_has_the_labels() {
    // podman 4.3.1, `GET /v4.0.0/libpod/containers/ID/json`, shortened
    let json = format!(
        r#"{{"Id":"{ID}","Created":"2026-11-21T23:16:56.053062Z","Path":"/bin/sleep",
            "State":{{"Pid":1}},"Image":"{digits}","ImageName":"localhost/tracer-test:1",
            "ImageDigest":"{DIGEST}","Name":"web","RestartCount":2,
            "Config":{{"Labels":{{"app":"shop"}},"Annotations":{{"x":"y"}}}}}}"#,
        digits = DIGEST.trim_start_matches("sha256:")
    );
    let told = podman(json.as_bytes(), ID)
        .expect("json")
        .expect("this one");
    assert_eq!(told.name.as_deref(), Some("web"));
    assert_eq!(told.label.get("app").map(String::as_str), Some("shop"));
    assert_eq!(told.restart_count, Some(2));
    let image = told.image.expect("an image");
    assert_eq!(image.name.as_deref(), Some("localhost/tracer-test"));
    assert_eq!(image.tags, ["1"]);
    assert_eq!(image.id.as_deref(), Some(DIGEST));
    assert_eq!(
        image.repo_digests,
        [format!("localhost/tracer-test@{DIGEST}")]
    );
    assert_eq!(podman(json.as_bytes(), "other").expect("json"), None);
}

#[test]
fn dockers_description_is_read_as_its_file() {
    // dockerd 20.10, `GET /containers/ID/json`, shortened
    let json = format!(
        r#"{{"Id":"{ID}","Created":"2026-11-21T23:16:56.053062Z","Image":"{DIGEST}",
            "Name":"/web","RestartCount":1,"Config":{{"Image":"nginx:1.27","Labels":{{"a":"b"}}}}}}"#
    );
    let told = docker(json.as_bytes(), ID)
        .expect("json")
        .expect("this one");
    assert_eq!(told.name.as_deref(), Some("web"));
    let image = told.image.expect("an image");
    assert_eq!(image.name.as_deref(), Some("nginx"));
    assert_eq!(image.id.as_deref(), Some(DIGEST));
    assert_eq!(told.restart_count, Some(1));
}

#[test]
fn answers_of_any_shape_are_survived() {
    for bytes in [
        &b""[..],
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        br#"{"Id":7,"Config":[],"Name":{}}"#,
        br#"{"Id":"x","Config":{"Labels":"no"},"ImageName":7}"#,
    ] {
        for id in ["x", ID] {
            for read in [docker, podman] {
                let told = read(bytes, id).ok().flatten();
                assert!(told.is_none_or(|told| told.name.is_none()));
            }
        }
    }
}

fn known() -> Metadata {
    Metadata {
        name: Some("web".into()),
        image: Some(Arc::new(Image {
            name: Some("nginx".to_owned()),
            ..Image::default()
        })),
        label: None,
        k8s: None,
        created: None,
        restart_count: None,
        sandbox: false,
        runtime: None,
        level: Enrichment::Full,
    }
}

#[test]
fn an_answer_fills_gaps_and_overrides_nothing() {
    let mut metadata = known();
    let told = Told {
        name: Some("other".to_owned()),
        image: image("evil:1", Some(&format!("evil@{DIGEST}")), None),
        label: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        pod_label: BTreeMap::from([("app".to_owned(), "shop".to_owned())]),
        created: time_of_ns(7),
        ..Told::default()
    };
    let new = fill(&mut metadata, told.clone());
    assert_eq!(
        new,
        [
            "container.image.repo_digests",
            "container.label",
            "container.created",
            "k8s.pod.label"
        ]
    );
    assert_eq!(metadata.name.as_deref(), Some("web"));
    assert_eq!(
        metadata.image.as_ref().and_then(|image| image.name.clone()),
        Some("nginx".to_owned())
    );
    assert!(fill(&mut metadata, told).is_empty(), "told twice");
}

#[test]
fn texts_are_bounded() {
    let many = (0..5_000).map(|n| (format!("k{n}"), "v".to_owned()));
    assert!(labels(many).len() <= 256);
    assert_eq!(name("x".repeat(5_000)), None);
    assert_eq!(name(String::new()), None);
    assert_eq!(image(&"x".repeat(5_000), None, None), None);
    assert_eq!((time_of_ns(0), time_of_ns(-1)), (None, None));
    assert_eq!(time_of(i64::MAX, 0), None);
    assert_eq!(time_of(1, 5), Some(Timestamp(1_000_000_005)));
}
