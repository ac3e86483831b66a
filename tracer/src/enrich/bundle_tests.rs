use super::{super::tests::survives, *};

const CRI_CONTAINER: &[u8] = include_bytes!("testdata/cri-container-bundle.json");
const CRI_SANDBOX: &[u8] = include_bytes!("testdata/cri-sandbox-bundle.json");
const CTR: &[u8] = include_bytes!("testdata/ctr-bundle.json");
const PODMAN: &[u8] = include_bytes!("testdata/podman-bundle.json");
const PODMAN_POD: &[u8] = include_bytes!("testdata/podman-pod-bundle.json");
const OCI: &[u8] = include_bytes!("testdata/oci-bundle.json");
const DOCKER: &[u8] = include_bytes!("testdata/docker-bundle.json");
const HEX: &str = "98bd7cfc43b8ef0ff130465e3d5427c0771002c2f35a6a9b62cb2d04602bed0a";

fn bundle(bytes: &[u8]) -> Bundle {
    Bundle::parse(bytes).expect("a bundle")
}

fn annotated(pairs: &[(&str, &str)]) -> Bundle {
    let notes: std::collections::BTreeMap<_, _> = pairs.iter().copied().collect();
    let json = serde_json::json!({"ociVersion": "1.0.2", "annotations": notes});
    bundle(json.to_string().as_bytes())
}

#[track_caller]
fn check_kube(found: &Found, pod: &str, uid: &str, namespace: &str, container: Option<&str>) {
    assert_eq!(found.kube.pod.as_deref(), Some(pod));
    assert_eq!(found.kube.uid.as_deref(), Some(uid));
    assert_eq!(found.kube.namespace.as_deref(), Some(namespace));
    assert_eq!(found.kube.container.as_deref(), container);
}

#[test]
fn bundles_of_containerd() {
    let uid = "1f2e3d4c-5b6a-4798-8a9b-0c1d2e3f4a5b";
    let found = bundle(CRI_CONTAINER).containerd();
    check_kube(&found, "shop-7d4b9c", uid, "prod", Some("web"));
    assert_eq!(found.image.name.as_deref(), Some("localhost/tracer-test"));
    assert_eq!(found.name.as_deref(), Some("web"));
    let found = bundle(CRI_SANDBOX).containerd();
    check_kube(&found, "shop-7d4b9c", uid, "prod", None);
    assert!(found.sandbox && !found.image.is_known());
    let found = bundle(CTR).containerd();
    assert_eq!(found.label.len(), 2);
    assert_eq!(
        (found.manager, found.name),
        (Some(Manager::Containerd), None)
    );
    // containerd 2 names the sandbox's image.
    let found = annotated(&[
        ("io.kubernetes.cri.container-type", "sandbox"),
        (
            "io.kubernetes.cri.podsandbox.image-name",
            "registry.k8s.io/pause:3.10",
        ),
    ]);
    assert_eq!(found.containerd().image.tags, ["3.10"]);
    // nerdctl 1 and 2
    let found = annotated(&[
        ("nerdctl/name", "nginx"),
        ("nerdctl/namespace", "default"),
        ("io.containerd.image.config.stop-signal", "SIGQUIT"),
        ("mine", "yes"),
    ]);
    let found = found.containerd();
    assert_eq!(found.name.as_deref(), Some("nginx"));
    assert_eq!(found.label.into_keys().collect::<Vec<_>>(), ["mine"]);
}

#[test]
fn bundles_of_podman() {
    for (bytes, time) in [
        (PODMAN, "2026-11-21T23:17:16.365234477Z"),
        (PODMAN_POD, "2026-11-21T23:17:16.934932687Z"),
    ] {
        let found = bundle(bytes).storage();
        assert_eq!(found.manager, Some(Manager::Podman));
        assert_eq!(
            found.created.map(|time| time.to_string()).as_deref(),
            Some(time)
        );
        assert!(found.kube.is_empty() && found.label.is_empty() && !found.sandbox);
    }
}

/// The annotations of CRI-O's `pkg/annotations`, as it fills them for a kubelet.
#[test]
fn bundles_of_crio() {
    let labels = r#"{"app":"shop","io.kubernetes.container.name":"web","io.kubernetes.pod.name":"shop-1","io.kubernetes.pod.namespace":"prod","io.kubernetes.pod.uid":"u-1"}"#;
    let digest = format!("quay.io/team/web@sha256:{HEX}");
    let container = [
        ("io.container.manager", "cri-o"),
        ("io.kubernetes.cri-o.ContainerType", "container"),
        (
            "io.kubernetes.cri-o.Created",
            "2023-12-12T04:10:25.992573978Z",
        ),
        ("io.kubernetes.cri-o.Image", HEX),
        ("io.kubernetes.cri-o.ImageName", "quay.io/team/web:2"),
        ("io.kubernetes.cri-o.ImageRef", &digest),
        ("io.kubernetes.cri-o.Labels", labels),
        (
            "io.kubernetes.cri-o.Metadata",
            r#"{"name":"web","attempt":2}"#,
        ),
        ("io.kubernetes.cri-o.SandboxName", "k8s_shop-1_prod_u-1_0"),
        ("io.kubernetes.container.restartCount", "3"),
    ];
    let found = annotated(&container).storage();
    check_kube(&found, "shop-1", "u-1", "prod", Some("web"));
    assert_eq!(found.name.as_deref(), Some("web"));
    assert_eq!(found.image.name.as_deref(), Some("quay.io/team/web"));
    assert_eq!(found.image.tags, ["2"]);
    assert_eq!(found.image.id, Some(format!("sha256:{HEX}")));
    assert_eq!(found.image.repo_digests, [digest.as_str()]);
    assert_eq!(found.label.get("app").map(String::as_str), Some("shop"));
    assert_eq!(found.restart_count, Some(3));
    assert!(found.created.is_some());
    // Without a kubelet (crictl) only the sandbox's name tells the pod.
    let found = annotated(&[
        ("io.kubernetes.cri-o.ContainerType", "container"),
        ("io.kubernetes.cri-o.Metadata", r#"{"name":"redis"}"#),
        (
            "io.kubernetes.cri-o.SandboxName",
            "k8s_pod1_redhat.test_uid-1_1",
        ),
    ]);
    check_kube(
        &found.storage(),
        "pod1",
        "uid-1",
        "redhat.test",
        Some("redis"),
    );
    let found = annotated(&[
        ("io.kubernetes.cri-o.ContainerType", "sandbox"),
        ("io.kubernetes.cri-o.Image", "registry.k8s.io/pause:3.6"),
        (
            "io.kubernetes.cri-o.Metadata",
            r#"{"name":"pod1","uid":"u","namespace":"n","attempt":1}"#,
        ),
        ("io.kubernetes.container.name", "POD"),
    ]);
    let found = found.storage();
    check_kube(&found, "pod1", "u", "n", None);
    assert!(found.sandbox && found.restart_count.is_none());
}

#[test]
fn annotations_of_wrong_types() {
    for json in [
        "{}",
        r#"{"annotations":null}"#,
        r#"{"annotations":[]}"#,
        r#"{"annotations":{"io.kubernetes.cri.container-type":{}},"mounts":{}}"#,
        r#"{"annotations":{"io.kubernetes.cri-o.ContainerType":7},"mounts":[{"source":[]},7]}"#,
    ] {
        assert_eq!(
            bundle(json.as_bytes()).storage(),
            Found::default(),
            "{json}"
        );
        assert_eq!(bundle(json.as_bytes()).plain(), Found::default(), "{json}");
        assert_eq!(bundle(json.as_bytes()).docker_root("x"), None, "{json}");
    }
    let inner = annotated(&[
        ("io.kubernetes.cri-o.ContainerType", "container"),
        ("io.kubernetes.cri-o.Metadata", "[[[[{"),
        ("io.kubernetes.cri-o.Labels", "7"),
        ("io.kubernetes.cri-o.SandboxName", "____"),
        ("io.kubernetes.container.restartCount", "-1"),
    ]);
    let expected = Found {
        manager: Some(Manager::CriO),
        ..Found::default()
    };
    assert_eq!(inner.storage(), expected);
}

#[test]
fn anybodys_bundle() {
    let found = bundle(OCI).plain();
    assert_eq!(found.image.name.as_deref(), Some("example.org/team/app"));
    assert_eq!(found.label.get("team").map(String::as_str), Some("blue"));
    // A tag of an image layout, not a reference.
    let found = annotated(&[("org.opencontainers.image.ref.name", "latest")]).plain();
    assert!(!found.image.is_known());
}

#[test]
fn the_data_root_is_where_mounts_are_from() {
    let id = "923e176e0e310f868a905bf018d76f329601941a6b731ad7a733f57d5efeed46";
    assert_eq!(bundle(DOCKER).docker_root(id), Some("/var/lib/docker"));
    assert_eq!(bundle(DOCKER).docker_root("other"), None);
    let relative = r#"{"mounts":[{"source":"x/containers/y/hostname"}]}"#;
    assert_eq!(bundle(relative.as_bytes()).docker_root("y"), None);
}

#[test]
fn damage_never_panics() {
    for file in [CRI_CONTAINER, CRI_SANDBOX, CTR, PODMAN_POD, OCI, DOCKER] {
        survives(file, |bytes| {
            for read in [Bundle::containerd, Bundle::storage, Bundle::plain] {
                drop(Bundle::parse(bytes).map(read));
            }
        });
    }
}
