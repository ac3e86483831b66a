//! What holds for any bytes.

use super::super::{Identity, identify};
use super::expand;

/// `SplitMix64`: enough for soup, and the same on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const INGREDIENTS: &[&str] = &[
    "",
    ".",
    "..",
    "docker",
    "{A}",
    "{B}",
    "docker-{A}.scope",
    "docker-{N}.scope",
    "buildkit",
    "{N}",
    "system.slice",
    "user.slice",
    "user-1000.slice",
    "user@1000.service",
    "machine.slice",
    "foo",
    "init.scope",
    "container",
    "kubepods",
    "kubepods.slice",
    "besteffort",
    "pod{P}",
    "pod{S}",
    "podx",
    "kubepods-pod{P_}.slice",
    "kubelet-kubepods-burstable-pod{Q_}.slice",
    "cri-containerd-{C}.scope",
    "kubepods-pod{P_}.slice:cri-containerd:{A}",
    ":youki:x",
    "a:b:c",
    "crio-{A}",
    "crio-{A}.scope",
    "crio-conmon-{A}.scope",
    "libpod_parent",
    "libpod-{B}",
    "libpod-{B}.scope",
    "conmon",
    "libpod-payload-{C}",
    "machine-libpod_pod_{D}.slice",
    "lxc",
    "lxc.payload",
    "lxc.payload.c1",
    "lxc.monitor.c1",
    ".lxc",
    "monitor",
    "payload",
    "supervisor",
    "machine-a\\x2db.scope",
    "machine-a\\x2.scope",
    "machine-qemu\\x2d1\\x2dvm.scope",
    "machine-lxc\\x2d1\\x2dc.scope",
    "systemd-nspawn@n.service",
    "nomad",
    "{U}.web.scope",
    "{U}.web",
    "garden",
    "good",
    "{G}",
    "ecs",
    "{T}",
    "{T}-123",
    "kata_{A}",
    "kata_overhead",
    "default",
    "mycont",
    "runc-x.scope",
    "crun-.scope",
    "nerdctl-{D}.scope",
    "x.mount",
    "x.socket",
    "x.service",
    "session-1.scope",
    "(deleted)",
];

/// The promises of the module for one path. Returns how deep the containers are nested.
fn hold(path: &[u8]) -> usize {
    let found = identify(path);
    assert_eq!(found, identify(path), "the same path, the same answer");
    let Identity::Container(container) = found else {
        return 0;
    };
    assert!(!container.id.is_empty() && !container.id.contains('/'));
    assert!(container.parents.iter().all(|parent| !parent.id.is_empty()));
    let own = path
        .get(..container.root_len)
        .expect("root_len is inside the path");
    assert!(
        !own.is_empty() && !own.ends_with(b"/"),
        "root_len ends on a name"
    );
    let behind = &path[container.root_len..];
    let boundary = behind.is_empty() || behind.starts_with(b"/") || behind == b" (deleted)";
    assert!(boundary, "root_len ends at the end of a name");
    container.parents.len() + 1
}

#[test]
fn soup_of_names_keeps_the_promises() {
    let mut random = Random(42);
    let mut deepest = 0;
    for _ in 0..60_000 {
        let mut path = String::new();
        for _ in 0..random.below(9) {
            path.push('/');
            path.push_str(random.pick(INGREDIENTS));
        }
        deepest = deepest.max(hold(expand(&path).as_bytes()));
    }
    assert!(deepest >= 4, "the soup is too thin: {deepest}");
}

#[test]
fn every_truncation_and_every_changed_byte_keeps_the_promises() {
    let mut random = Random(7);
    for path in [
        "/docker/{A}/docker/{B}/init.scope",
        "/system.slice/docker-{A}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{P_}.slice/cri-containerd-{B}.scope/x",
        "/kubepods-burstable-pod{P_}.slice:cri-containerd:{A}",
        "/machine.slice/machine-my\\x2dbox.scope/payload",
        "/machine.slice/machine-lxc\\x2d12\\x2dbox.scope/libvirt",
        "/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope/container",
        "/nomad.slice/share.slice/{U}.web.scope",
        "/ecs/{T}/{T}-1234567890",
        "/lxc/web/payload/docker/{A} (deleted)",
        "/garden/good/{G}/init",
    ] {
        let path = expand(path).into_bytes();
        for len in 0..=path.len() {
            hold(&path[..len]);
            hold(&path[len..]);
        }
        for at in 0..path.len() {
            for _ in 0..8 {
                let mut changed = path.clone();
                changed[at] = random.next().to_le_bytes()[0];
                hold(&changed);
            }
        }
    }
}

#[test]
fn random_bytes_are_accepted() {
    let mut random = Random(1);
    for _ in 0..20_000 {
        let len = random.below(120);
        let path: Vec<u8> = (0..len).map(|_| random.next().to_le_bytes()[0]).collect();
        hold(&path);
    }
    hold(&[b'/'; 5000]);
    hold(&b"/..".repeat(2000));
    hold(&b"/docker".repeat(2000));
    hold(&[0xff; 4096]);
}

#[test]
fn a_longer_chain_is_kept_whole() {
    let path = expand("/docker/{A}").repeat(200);
    assert_eq!(hold(path.as_bytes()), 200);
}

#[test]
fn a_truncated_id_is_never_an_id() {
    let id = expand("{A}");
    for len in 0..id.len() {
        for prefix in [
            "/docker/",
            "/kubepods/besteffort/podx/",
            "/libpod_parent/libpod-",
        ] {
            let path = format!("{prefix}{}", &id[..len]);
            assert!(
                !matches!(identify(path.as_bytes()), Identity::Container(_)),
                "{path}"
            );
        }
    }
}
