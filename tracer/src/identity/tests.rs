//! Tables of real paths, one row each: `path | verdict | origin of the path`.
//!
//! In a path `{A}` to `{D}` are ids of 64 digits, `{P}` and `{Q}` are pod uids (`{P_}` and `{Q_}`
//! with underscores), `{S}` is the uid of a static pod, `{N}` an id of 25 base-36 digits, `{T}` 32
//! digits, `{U}` a UUID, `{G}` a handle of Diego, `{0}` nothing; `^` stands behind the container's
//! own cgroup, by default the whole path. A verdict is `RUNTIME ID [ns=NAME] [pod=UID] [in RUNTIME ID]…` (parents outermost
//! first), or `excluded`, `unknown`, `host`.

mod hosts;
mod kubernetes;
mod properties;
mod runtimes;

use super::{Identity, Runtime, identify};

const SHORTHAND: [(&str, &str); 14] = [
    ("{0}", ""),
    (
        "{A}",
        "45312fe4a2b1c09d8e7f6a5b4c3d2e1f00112233445566778899aabbccddeeff",
    ),
    (
        "{B}",
        "b6a1f0e9d8c7b6a5f4e3d2c1b0a99887766554433221100ffeeddccbbaa99887",
    ),
    (
        "{C}",
        "c0ffee00c0ffee11c0ffee22c0ffee33c0ffee44c0ffee55c0ffee66c0ffee77",
    ),
    (
        "{D}",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    ),
    ("{P}", "872d2066-00ef-48ea-a7d8-51b18b72d739"),
    ("{P_}", "872d2066_00ef_48ea_a7d8_51b18b72d739"),
    ("{Q}", "068e8fa0-9213-11e7-a01f-507b9d4141fa"),
    ("{Q_}", "068e8fa0_9213_11e7_a01f_507b9d4141fa"),
    ("{S}", "d76e26fba3bf2bfd215eb29011d55250"),
    ("{N}", "f5lxx1zz5pnorynqglhzmsp33"),
    ("{T}", "34dc0b5e626f2c5c4c5170e34b10e765"),
    ("{G}", "6f265890-5165-7fab-6b52-18d1"),
    ("{U}", "5b3a9e2c-7d41-4f0b-9a6e-1c2d3e4f5a6b"),
];

fn expand(text: &str) -> String {
    SHORTHAND
        .iter()
        .fold(text.to_owned(), |text, (short, long)| {
            text.replace(short, long)
        })
}

/// Checks every row of `table`, and for each container that its ancestors and children agree.
fn check(table: &str) {
    let mut failures = Vec::new();
    let mut rows = 0;
    for row in table.lines().map(str::trim).filter(|row| !row.is_empty()) {
        rows += 1;
        let columns: Vec<&str> = row.split(" | ").map(str::trim).collect();
        let [path, verdict, origin] = columns.as_slice() else {
            panic!("a row has three columns: {row}");
        };
        assert!(!origin.is_empty(), "a row names its origin: {row}");
        let marked = expand(path);
        let path = marked.replace('^', "");
        let root_len = marked
            .find('^')
            .unwrap_or(marked.trim_end_matches('/').len());
        let found = identify(path.as_bytes());
        let told = tell(&found);
        if told != expand(verdict) {
            failures.push(format!("{path}\n  want {}\n  got  {told}", expand(verdict)));
        }
        if let Identity::Container(container) = found {
            if container.root_len != root_len {
                let got = &path[..container.root_len];
                failures.push(format!("{path}\n  its own cgroup is not {got}"));
            }
            let mut own = container.clone();
            for suffix in [
                "",
                "/",
                "/init.scope",
                "/a/b.service",
                " (deleted)",
                " (deleted) (deleted)",
            ] {
                let at_root = format!("{}{suffix}", &path[..container.root_len]);
                own.root_len = container.root_len;
                let again = identify(at_root.as_bytes());
                if again != Identity::Container(own.clone()) {
                    failures.push(format!("{at_root}\n  is not in the container: {again:?}"));
                }
            }
        }
    }
    assert!(rows > 0, "the table is empty");
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn tell(identity: &Identity) -> String {
    let container = match identity {
        Identity::Container(container) => container,
        Identity::Excluded { why } => {
            assert!(!why.is_empty());
            return "excluded".to_owned();
        }
        Identity::Unknown => return "unknown".to_owned(),
        Identity::NotContainer { why } => {
            assert!(!why.is_empty());
            return "host".to_owned();
        }
    };
    let mut words = vec![container.runtime.to_string(), container.id.clone()];
    words.extend(container.namespace.iter().map(|name| format!("ns={name}")));
    words.extend(container.pod_uid.iter().map(|uid| format!("pod={uid}")));
    words.extend(
        container
            .parents
            .iter()
            .map(|parent| format!("in {} {}", parent.runtime, parent.id)),
    );
    words.join(" ")
}

#[test]
fn runtime_names_are_distinct_and_lower_case() {
    let all = [
        Runtime::Docker,
        Runtime::Containerd,
        Runtime::CriO,
        Runtime::Podman,
        Runtime::Buildkit,
        Runtime::Runc,
        Runtime::Crun,
        Runtime::Youki,
        Runtime::Lxc,
        Runtime::LibvirtLxc,
        Runtime::SystemdNspawn,
        Runtime::Nomad,
        Runtime::Garden,
        Runtime::Ecs,
    ];
    let mut names: Vec<&str> = all.iter().map(|runtime| runtime.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len());
    let plain = |name: &&str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    assert!(names.iter().all(plain));
}
