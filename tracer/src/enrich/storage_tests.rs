use super::{super::tests::survives, *};

const FILE: &[u8] = include_bytes!("testdata/podman-containers.json");
const WEB: &str = "dbb93525f106f0d2ea4b8e1b7de4d147f3144625305b35840ead323d111ea98e";

#[test]
fn a_list_of_podman() {
    let found = read(FILE, WEB).expect("json").expect("in the list");
    assert_eq!(found.name.as_deref(), Some("web"));
    assert_eq!(found.image.name.as_deref(), Some("localhost/tracer-test"));
    assert_eq!(found.image.tags, ["1"]);
    assert_eq!(
        found.image.id.as_deref(),
        Some("sha256:fbd35878ad10a78e1758ac1eadfb47f5bc793eae192d9cf55f3af071742c5e39")
    );
    let created = found.created.map(|time| time.to_string());
    assert_eq!(created.as_deref(), Some("2026-11-21T23:17:16.367477998Z"));
    assert!(found.kube.is_empty());
    assert_eq!(read(FILE, "other").expect("json"), None);
}

/// As CRI-O writes it (`RuntimeContainerMetadata` in its `internal/storage`).
fn crio(id: &str, metadata: &str) -> Found {
    let metadata = serde_json::to_string(metadata).expect("text");
    let json = format!(r#"[{{"id":"other"}},{{"id":"{id}","names":["n"],"metadata":{metadata}}}]"#);
    read(json.as_bytes(), id)
        .expect("json")
        .expect("in the list")
}

#[test]
fn lists_of_crio() {
    let pod = r#""pod-name":"k8s_shop_prod_u-1_0","pod-id":"s","image-name":"quay.io/team/web:2""#;
    let container = crio(
        "c",
        &format!(r#"{{{pod},"name":"k8s_web_shop_prod_u-1_3","metadata-name":"web","attempt":3}}"#),
    );
    assert_eq!(container.name.as_deref(), Some("web"));
    assert_eq!(container.kube.pod.as_deref(), Some("shop"));
    assert_eq!(container.kube.uid.as_deref(), Some("u-1"));
    assert_eq!(container.kube.namespace.as_deref(), Some("prod"));
    assert_eq!(container.kube.container.as_deref(), Some("web"));
    assert_eq!(container.restart_count, Some(3));
    assert_eq!(container.manager, Some(Manager::CriO));
    let sandbox = crio(
        "s",
        &format!(
            r#"{{{pod},"name":"k8s_POD_shop_prod_u-1_0","metadata-name":"shop","uid":"u-1","namespace":"prod"}}"#
        ),
    );
    assert!(sandbox.sandbox);
    assert_eq!(
        (sandbox.kube.container, sandbox.name.as_deref()),
        (None, Some("shop"))
    );
}

#[test]
fn each_fact_stands_alone() {
    for (json, name) in [
        (r#"[{"id":"x"}]"#, None),
        (r#"[{"id":"x","names":["a","b"]}]"#, Some("a")),
        (r#"[{"id":"x","names":"a","metadata":"not json"}]"#, None),
        (r#"[{"id":"x","names":[1,"b"],"metadata":"[]"}]"#, Some("b")),
        (
            r#"[{"id":"x","names":["a"],"metadata":"{\"name\":\"m\"}"}]"#,
            Some("m"),
        ),
        (
            r#"[{"id":"x","names":["a"],"metadata":{"name":"m"},"created":7,"image":[]}]"#,
            Some("a"),
        ),
        (
            r#"[7,null,[],{"id":7},{"id":"x","names":["a"]},{}]"#,
            Some("a"),
        ),
    ] {
        let found = read(json.as_bytes(), "x").expect(json).expect(json);
        assert_eq!(found.name.as_deref(), name, "{json}");
    }
    for none in ["[]", "[{}]", "[1]"] {
        assert_eq!(read(none.as_bytes(), "x").expect(none), None, "{none}");
    }
    for wrong in ["{}", "7", "", "[", "[]]", "[{\"id\":\"x\"}"] {
        assert!(read(wrong.as_bytes(), "x").is_err(), "{wrong}");
    }
}

#[test]
fn names_of_sandboxes() {
    for wrong in ["", "k8s_a_b_c", "k8s_a_b_c_d_e", "x_a_b_c_0", "k8s__b_c_0"] {
        assert_eq!(pod_of_name(wrong), None, "{wrong}");
    }
}

#[test]
fn damage_never_panics() {
    survives(FILE, |bytes| read(bytes, WEB));
    for cut in 0..FILE.len() - 1 {
        assert!(read(&FILE[..cut], WEB).is_err(), "{cut}");
    }
}
