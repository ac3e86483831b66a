//! Whole look-ups in directories laid out as the runtimes do, with files that they wrote.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;

/// A directory that goes with the test.
#[derive(Debug)]
pub(super) struct Dir(PathBuf);

impl Dir {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("tracer-enrich-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn write(&self, below: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(below.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// The defaults, in this directory instead of `/`.
    pub(super) fn sources(&self) -> Sources {
        Sources {
            filesystem: self.0.clone(),
            ..Sources::default()
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Cut at every byte, and with each byte damaged in turn: neither may panic.
pub(super) fn survives<T>(bytes: &[u8], parse: impl Fn(&[u8]) -> T) {
    let mut damaged = bytes.to_vec();
    for at in 0..bytes.len() {
        drop(parse(&bytes[..at]));
        damaged[at] = [b'{', b'"', b'\\', 0, 0xff][at % 5];
        drop(parse(&damaged));
        damaged[at] = bytes[at];
    }
}

const DOCKER: &[u8] = include_bytes!("testdata/docker-config.v2.json");
const DOCKER_KUBERNETES: &[u8] = include_bytes!("testdata/docker-kubernetes-config.v2.json");
const DOCKER_BUNDLE: &[u8] = include_bytes!("testdata/docker-bundle.json");
const CRI_CONTAINER: &[u8] = include_bytes!("testdata/cri-container-bundle.json");
const CRI_SANDBOX: &[u8] = include_bytes!("testdata/cri-sandbox-bundle.json");
const CTR: &[u8] = include_bytes!("testdata/ctr-bundle.json");
const PODMAN_LIST: &[u8] = include_bytes!("testdata/podman-containers.json");
const PODMAN_BUNDLE: &[u8] = include_bytes!("testdata/podman-bundle.json");
const OCI: &[u8] = include_bytes!("testdata/oci-bundle.json");
const RUNC_STATE: &[u8] = include_bytes!("testdata/runc-state.json");
const CRUN_STATUS: &[u8] = include_bytes!("testdata/crun-status");

const DOCKER_ID: &str = "923e176e0e310f868a905bf018d76f329601941a6b731ad7a733f57d5efeed46";
const KUBERNETES_ID: &str = "01c7fd4c5f9354839462d2bb64f09488068ce6b99f775ab65ad0cc311fb8e876";
const CRI_ID: &str = "7316a416c617a85436695bf9d2d2c6cc494a1532d51c3693efcd921862b09d04";
const SANDBOX_ID: &str = "29c589c5a824dedb8eb1319a5a861862b7a0dc952d659ce5efb4fb685d481e6b";
const PODMAN_ID: &str = "dbb93525f106f0d2ea4b8e1b7de4d147f3144625305b35840ead323d111ea98e";
const POD_UID: &str = "1f2e3d4c-5b6a-4798-8a9b-0c1d2e3f4a5b";
const TASKS: &str = "/run/containerd/io.containerd.runtime.v2.task";

fn query<'a>(id: &'a str, runtime: &'a str) -> Query<'a> {
    Query {
        id,
        runtime: Some(runtime),
        ..Query::default()
    }
}

/// name, runtime, image, pod, namespace, container: what a reader wants to see at once.
fn line(facts: &Facts) -> String {
    let text = |value: Option<&str>| value.unwrap_or("-").to_owned();
    let image = facts.image.as_ref();
    let k8s = facts.k8s.as_ref();
    let pod = k8s.and_then(|k8s| k8s.pod.as_ref());
    let named = |named: Option<&crate::record::Named>| text(named.map(|named| named.name.as_str()));
    format!(
        "{:?} {} {} {}:{} {}/{}/{}{}{}",
        facts.level,
        text(facts.runtime),
        text(facts.name.as_deref()),
        text(image.and_then(|image| image.name.as_deref())),
        image.map(|image| image.tags.join(",")).unwrap_or_default(),
        named(k8s.and_then(|k8s| k8s.namespace.as_ref())),
        text(pod.and_then(|pod| pod.name.as_deref())),
        named(k8s.and_then(|k8s| k8s.container.as_ref())),
        if facts.sandbox { " sandbox" } else { "" },
        if facts.retry { " retry" } else { "" },
    )
}

#[track_caller]
fn check(files: &[(String, &[u8])], query: &Query<'_>, expected: &str) -> Facts {
    let dir = Dir::new();
    for (path, bytes) in files {
        dir.write(path, bytes);
    }
    let facts = lookup(&dir.sources(), query);
    assert_eq!(line(&facts), expected, "{:?}", facts.problems);
    facts
}

fn docker_file(id: &str) -> String {
    format!("/var/lib/docker/containers/{id}/config.v2.json")
}

#[test]
fn docker() {
    let full = "Full docker web registry.example:5000/team/web:1.27 -/-/-";
    let facts = check(
        &[(docker_file(DOCKER_ID), DOCKER)],
        &query(DOCKER_ID, "docker"),
        full,
    );
    assert_eq!(facts.label.get("app").map(String::as_str), Some("shop"));
    assert_eq!(facts.restart_count, Some(0));
    let created = facts.created.map(|time| time.to_string());
    assert_eq!(created.as_deref(), Some("2026-11-21T23:16:56.053062491Z"));
    assert!(
        facts
            .sources
            .iter()
            .all(|source| source.file.ends_with("config.v2.json"))
    );
    // The data root of another daemon is in the bundle.
    let bundle = format!("/run/other/io.containerd.runtime.v2.task/moby/{DOCKER_ID}");
    let files = [
        (format!("{bundle}/config.json"), DOCKER_BUNDLE),
        (
            docker_file(DOCKER_ID).replace("/var/lib/docker", "/srv/docker"),
            DOCKER,
        ),
    ];
    let moved = String::from_utf8_lossy(DOCKER_BUNDLE).replace("/var/lib/docker", "/srv/docker");
    let files = [(files[0].0.clone(), moved.as_bytes()), files[1].clone()];
    let with_bundle = Query {
        bundle: Some(&bundle),
        ..query(DOCKER_ID, "runc")
    };
    check(&files, &with_bundle, full);
    check(&[], &query(DOCKER_ID, "docker"), "None - - -: -/-/- retry");
}

#[test]
fn docker_below_kubernetes() {
    let bundle = format!("{TASKS}/moby/{KUBERNETES_ID}/config.json");
    let files = [
        (docker_file(KUBERNETES_ID), DOCKER_KUBERNETES),
        (bundle, DOCKER_BUNDLE),
    ];
    let name = format!("k8s_web_shop-7d4b9c_prod_{POD_UID}_2");
    // The cgroup's path cannot tell it from containerd's.
    for runtime in ["docker", "containerd"] {
        let facts = check(
            &files,
            &query(KUBERNETES_ID, runtime),
            &format!("Full docker {name} -: prod/shop-7d4b9c/web"),
        );
        assert_eq!(facts.restart_count, Some(2));
        assert!(facts.image.is_some_and(|image| image.id.is_some()));
    }
}

#[test]
fn containerd() {
    let at = |namespace: &str, id: &str| format!("{TASKS}/{namespace}/{id}/config.json");
    let files = [
        (at("k8s.io", CRI_ID), CRI_CONTAINER),
        (at("k8s.io", SANDBOX_ID), CRI_SANDBOX),
        (at("default", "mycont"), CTR),
    ];
    let container = "Full containerd web localhost/tracer-test:1 prod/shop-7d4b9c/web";
    check(&files, &query(CRI_ID, "containerd"), container);
    // An unusual parent: only the runtime's call was seen.
    let bundle = format!("{TASKS}/k8s.io/{CRI_ID}/");
    let called = Query {
        bundle: Some(&bundle),
        ..query(CRI_ID, "runc")
    };
    check(&files, &called, container);
    let sandbox = "Full containerd shop-7d4b9c -: prod/shop-7d4b9c/- sandbox";
    check(&files, &query(SANDBOX_ID, "containerd"), sandbox);
    let ctr = check(
        &files,
        &query("mycont", "containerd"),
        "Full containerd mycont -: -/-/-",
    );
    assert_eq!(ctr.label.get("team").map(String::as_str), Some("blue"));
    assert_eq!(ctr.namespace.as_deref(), Some("default"));
    let elsewhere = Query {
        namespace: Some("k8s.io"),
        ..query("mycont", "containerd")
    };
    let facts = check(&files, &elsewhere, "None - - -: -/-/- retry");
    assert_eq!(facts.namespace, None);
}

#[test]
fn podman() {
    let root = "/home/ann/.local/share/containers/storage/overlay-containers";
    let userdata = format!("{root}/{PODMAN_ID}/userdata");
    let files = [
        (format!("{userdata}/config.json"), PODMAN_BUNDLE),
        (format!("{root}/containers.json"), PODMAN_LIST),
    ];
    let full = "Full podman web localhost/tracer-test:1 -/-/-";
    let called = Query {
        bundle: Some(&userdata),
        ..query(PODMAN_ID, "podman")
    };
    let facts = check(&files, &called, full);
    assert_eq!(facts.label.len(), 0, "user's annotations are no labels");
    // Not yet in the list: a name may come.
    check(&files[..1], &called, "Partial podman - -: -/-/-");
    check(&files[1..], &called, full);
    // Found later, without a call; a user's place must be known.
    check(
        &files,
        &query(PODMAN_ID, "podman"),
        "None - - -: -/-/- retry",
    );
    let root = "/var/lib/containers/storage/vfs-containers";
    let files = [(format!("{root}/volatile-containers.json"), PODMAN_LIST)];
    check(&files, &query(PODMAN_ID, "podman"), full);
}

#[test]
fn bare_runtimes() {
    let oci = |extra: &'static str| (format!("/srv/oci{extra}/config.json"), OCI);
    let full = "Full - enr1 example.org/team/app:2 -/-/-";
    let called = Query {
        bundle: Some("/srv/oci"),
        root: Some("/root-of-runc"),
        ..query("enr1", "runc")
    };
    let facts = check(&[oci("")], &called, full);
    assert_eq!(facts.label.get("team").map(String::as_str), Some("blue"));
    let state = [oci(""), ("/run/runc/enr1/state.json".into(), RUNC_STATE)];
    let facts = check(&state, &query("enr1", "runc"), full);
    assert!(facts.created.is_some());
    let status = [oci(""), ("/run/crun/enr2/status".into(), CRUN_STATUS)];
    check(
        &status,
        &query("enr2", "crun"),
        "Full - enr2 example.org/team/app:2 -/-/-",
    );
    // The state alone.
    check(&state[1..], &query("enr1", "runc"), "Partial - - -: -/-/-");
    // A relative bundle is relative to a process that may be gone.
    let relative = Query {
        bundle: Some("srv/oci"),
        ..query("enr1", "runc")
    };
    check(&[oci("")], &relative, "None - - -: -/-/- retry");
}

#[test]
fn anybody_may_write_annotations() {
    let called = Query {
        bundle: Some("/home/mallory/b"),
        ..query("x", "runc")
    };
    let files = [("/home/mallory/b/config.json".into(), CRI_CONTAINER)];
    let facts = check(&files, &called, "Full - x -: -/-/-");
    let claimed = facts.label.get("io.kubernetes.cri.sandbox-name");
    assert_eq!(claimed.map(String::as_str), Some("shop-7d4b9c"));
}

#[test]
fn files_of_others_are_not_read_out() {
    let files = [("/root/private/config.json".into(), OCI)];
    let called = |owner| Query {
        bundle: Some("/root/private"),
        owner,
        ..query("x", "runc")
    };
    let own = rustix::process::getuid().as_raw();
    check(
        &files,
        &called(Some(own)),
        "Full - x example.org/team/app:2 -/-/-",
    );
    let facts = check(&files, &called(Some(own + 1)), "None - - -: -/-/-");
    assert_eq!(facts.problems[0].why, Refusal::Owner(own));
}

#[test]
fn a_file_that_is_being_written_is_worth_a_retry() {
    for cut in [0, 1, 100, DOCKER.len() - 1] {
        let files = [(docker_file(DOCKER_ID), &DOCKER[..cut])];
        let facts = check(
            &files,
            &query(DOCKER_ID, "docker"),
            "None - - -: -/-/- retry",
        );
        assert_eq!(facts.problems[0].why, Refusal::Syntax);
    }
    for wrong in [&b"[]"[..], b"7", b"{\"ID\":1}"] {
        let files = [(docker_file(DOCKER_ID), wrong)];
        let facts = lookup_in(&files, &query(DOCKER_ID, "docker"));
        assert_eq!(facts.level, Enrichment::None);
    }
}

fn lookup_in(files: &[(String, &[u8])], query: &Query<'_>) -> Facts {
    let dir = Dir::new();
    for (path, bytes) in files {
        dir.write(path, bytes);
    }
    lookup(&dir.sources(), query)
}

#[test]
fn hostile_files_cost_nothing_but_the_facts() {
    let file = docker_file(DOCKER_ID);
    let huge = vec![b' '; (1 << 20) + 1];
    let facts = lookup_in(&[(file.clone(), &huge)], &query(DOCKER_ID, "docker"));
    assert_eq!(facts.problems[0].why, Refusal::TooLarge(1 << 20));
    assert_eq!((facts.level, facts.retry), (Enrichment::None, false));
    let deep = [b"{\"Config\":{\"Labels\":".as_slice(), &vec![b'['; 500_000]].concat();
    let facts = lookup_in(&[(file, &deep)], &query(DOCKER_ID, "docker"));
    assert_eq!(facts.level, Enrichment::None);
}

#[test]
fn ids_are_names_not_paths() {
    let dir = Dir::new();
    dir.write("/var/lib/docker/config.v2.json", DOCKER);
    for id in ["", ".", "..", "a/b", "../x", "a\0b", &"a".repeat(5_000)] {
        assert_eq!(
            lookup(&dir.sources(), &query(id, "docker")),
            Facts::default(),
            "{id}"
        );
    }
}

#[test]
fn runtimes_without_files_are_not_asked_again() {
    for runtime in ["lxc", "systemd-nspawn", "ecs"] {
        let facts = lookup_in(&[], &query("web", runtime));
        assert!(!facts.retry, "{runtime}");
    }
}

#[test]
fn the_pod_of_the_path_goes_first() {
    let pod = Query {
        pod_uid: Some("other"),
        ..query("x", "containerd")
    };
    let k8s = lookup_in(&[], &pod).k8s.expect("a pod");
    assert_eq!(k8s.pod.and_then(|pod| pod.uid).as_deref(), Some("other"));
}

#[test]
fn what_one_lookup_reads_is_bounded() {
    let dir = Dir::new();
    let large = [b"[".as_slice(), &vec![b' '; (15 << 20) + 1], b"]"].concat();
    let mut sources = dir.sources();
    for root in 0..4 {
        dir.write(
            &format!("/r{root}/overlay-containers/containers.json"),
            &large,
        );
        sources.storage.configure(format!("/r{root}"));
    }
    let facts = lookup(&sources, &query(PODMAN_ID, "podman"));
    assert_eq!(facts.problems.len(), 2, "{:?}", facts.problems);
}
