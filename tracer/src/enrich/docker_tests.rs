use super::{super::tests::survives, *};

const ID: &str = "923e176e0e310f868a905bf018d76f329601941a6b731ad7a733f57d5efeed46";
const FILE: &[u8] = include_bytes!("testdata/docker-config.v2.json");
/// Labels as cri-dockerd sets them.
const KUBERNETES: &[u8] = include_bytes!("testdata/docker-kubernetes-config.v2.json");
const IMAGE: &str = "sha256:b8448bf69fa3b2ced122bd2d5ae97b3cd2fb524fa224c76e2a1d3384d88fa12f";

fn found(json: &str) -> Found {
    let read = read(json.as_bytes(), "x").expect(json);
    read.expect(json)
}

#[test]
fn a_file_of_dockerd() {
    let found = read(FILE, ID).expect("json").expect("this container");
    assert_eq!(found.name.as_deref(), Some("web"));
    assert_eq!(
        found.image.name.as_deref(),
        Some("registry.example:5000/team/web")
    );
    assert_eq!(found.image.tags, ["1.27"]);
    assert_eq!(found.image.id.as_deref(), Some(IMAGE));
    assert_eq!(found.label.len(), 2);
    assert!(found.label.contains_key("com.docker.compose.project"));
    assert_eq!(found.manager, Some(Manager::Docker));
    assert!(found.kube.is_empty() && !found.sandbox);
    assert_eq!(read(FILE, "other").expect("json"), None);
}

#[test]
fn labels_of_cri_dockerd() {
    let id = "01c7fd4c5f9354839462d2bb64f09488068ce6b99f775ab65ad0cc311fb8e876";
    let found = read(KUBERNETES, id).expect("json").expect("this container");
    assert_eq!(found.kube.pod.as_deref(), Some("shop-7d4b9c"));
    assert_eq!(found.kube.namespace.as_deref(), Some("prod"));
    assert_eq!(found.kube.container.as_deref(), Some("web"));
    assert!(found.kube.uid.is_some());
    assert_eq!(found.restart_count, Some(2));
    assert_eq!(
        (found.image.name, found.image.id.as_deref()),
        (None, Some(IMAGE))
    );
    assert_eq!(
        found
            .label
            .get("io.kubernetes.pod.name")
            .map(String::as_str),
        Some("shop-7d4b9c")
    );
}

#[test]
fn each_fact_stands_alone() {
    let empty = Found {
        manager: Some(Manager::Docker),
        ..Found::default()
    };
    assert_eq!(found(r#"{"ID":"x"}"#), empty);
    let wrong = r#"{"ID":"x","Name":7,"Config":[],"Image":{},"Created":"then","RestartCount":-1}"#;
    assert_eq!(found(wrong), empty);
    let wrong =
        r#"{"ID":"x","Name":"/","Config":{"Image":null,"Labels":"a=b"},"RestartCount":1e3}"#;
    assert_eq!(found(wrong), empty);
    assert_eq!(
        found(r#"{"ID":"x","Name":"/a","Config":7}"#)
            .name
            .as_deref(),
        Some("a")
    );
    let label = found(r#"{"ID":"x","Config":{"Labels":{"a":"b","c":7,"d":{"e":1},"":"f"}}}"#).label;
    assert_eq!(
        label.into_iter().collect::<Vec<_>>(),
        [("a".into(), "b".into())]
    );
    let sandbox = found(
        r#"{"ID":"x","Config":{"Labels":{"io.kubernetes.docker.type":"podsandbox",
            "io.kubernetes.container.name":"POD","io.kubernetes.pod.name":"p"}}}"#,
    );
    assert!(sandbox.sandbox);
    assert_eq!(sandbox.kube.container, None);
    assert_eq!(sandbox.kube.pod.as_deref(), Some("p"));
}

#[test]
fn hostile_text_stays_text() {
    let found = found(r#"{"ID":"x","Name":"/\u001b[2J\n\u0000\"}{$(id)"}"#);
    assert_eq!(found.name.as_deref(), Some("\u{1b}[2J\n\0\"}{$(id)"));
    let long = format!(r#"{{"ID":"x","Name":"/{}"}}"#, "n".repeat(5_000));
    assert_eq!(self::found(&long).name, None);
}

#[test]
fn a_short_id_for_an_image() {
    let json = format!(r#"{{"ID":"x","Image":"{IMAGE}","Config":{{"Image":"b8448bf69fa3"}}}}"#);
    assert_eq!(found(&json).image.name, None);
}

#[test]
fn damage_never_panics() {
    survives(FILE, |bytes| read(bytes, ID));
    for cut in 0..FILE.len() {
        assert!(
            read(&FILE[..cut], ID).is_err_and(|error| !error.is_data()),
            "{cut}"
        );
    }
}
