use super::{super::tests::Dir, *};

fn learnt(places: &Places) -> Vec<String> {
    let paths = places.learnt.iter();
    paths
        .map(|place| place.path.display().to_string())
        .collect()
}

#[test]
fn daemons_say_where_their_files_are() {
    let mut sources = Sources::default();
    sources.learn_daemon([
        "/usr/sbin/dockerd",
        "--iptables=false",
        "--debug",
        "--data-root",
        "/srv/docker",
        "--exec-root=/run/other",
    ]);
    sources.learn_daemon([
        "containerd",
        "--config",
        "/etc/c.toml",
        "--state",
        "/run/ctrd",
    ]);
    sources.learn_daemon([
        "podman",
        "--root",
        "/srv/pods",
        "--runroot",
        "relative",
        "run",
        "x",
    ]);
    sources.learn_daemon(["sh", "--data-root", "/evil"]);
    sources.learn_daemon([]);
    assert_eq!(learnt(&sources.docker), ["/srv/docker"]);
    assert_eq!(
        learnt(&sources.containerd),
        ["/run/ctrd", "/run/other/containerd/daemon"]
    );
    assert_eq!(learnt(&sources.oci_namespaced), ["/run/other/runtime-runc"]);
    assert_eq!(learnt(&sources.storage), ["/srv/pods"]);
}

#[test]
fn only_what_is_roots_counts_for_others() {
    let dir = Dir::new();
    let id = "923e176e0e310f868a905bf018d76f329601941a6b731ad7a733f57d5efeed46";
    let bundle = format!("/run/x/io.containerd.runtime.v2.task/moby/{id}");
    let config = include_str!("testdata/docker-bundle.json").replace("/var/lib/docker", "/data");
    dir.write(&format!("{bundle}/config.json"), config.as_bytes());
    for name in ["runc", "data", "open", "pods/overlay-containers/c/userdata"] {
        fs::create_dir_all(dir.path().join(name)).expect("a directory");
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(dir.path().join("open"), mode).expect("a mode");
    let mut sources = dir.sources();
    sources.learn(id, Some(&bundle), Some("/runc"));
    sources.learn(
        "c",
        Some("/pods/overlay-containers/c/userdata"),
        Some("/open"),
    );
    sources.learn("c", Some("/anywhere"), Some("/gone"));
    sources.learn("c", None, Some("relative"));
    let root = rustix::process::getuid().is_root();
    let expected = |path: &'static str| if root { vec![path] } else { vec![] };
    assert_eq!(learnt(&sources.containerd), expected("/run/x"));
    assert_eq!(learnt(&sources.docker), expected("/data"));
    assert_eq!(learnt(&sources.storage), expected("/pods"));
    assert_eq!(learnt(&sources.oci), expected("/runc"));
}

#[test]
fn what_is_learnt_is_bounded_and_goes_first() {
    let mut places = Places::of(&["/default"]);
    places.configure("/configured");
    for number in 0..100 {
        places.learn(format!("/{number}").as_ref());
        places.learn("/default".as_ref());
    }
    let all: Vec<_> = places
        .iter()
        .map(|place| place.path.display().to_string())
        .collect();
    assert_eq!(all.len(), MAX_LEARNT + 2);
    assert_eq!(all[0], "/99");
    assert_eq!(all[MAX_LEARNT..], ["/configured", "/default"]);
}

#[test]
fn users_have_places_of_their_own() {
    let dir = Dir::new();
    dir.write("/home/ann/x", b"");
    dir.write("/home/file", b"");
    dir.write("/run/user/1000/x", b"");
    let mut sources = dir.sources();
    sources.add_users();
    let own = Some(rustix::process::getuid().as_raw());
    let last = sources.docker.iter().last().expect("places");
    assert_eq!(last.path, Path::new("/home/ann/.local/share/docker"));
    assert_eq!(last.owner, own);
    assert!(sources.storage.knows("/run/user/1000/containers".as_ref()));
    assert!(sources.oci.knows("/run/user/1000/crun".as_ref()));
}
