//! Any bytes as a cgroup path: `root_len` is the end of a name, and whoever is told that a path is
//! a container's is told the same of that container's own cgroup.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer::identity::{Identity, identify};

fuzz_target!(|path: &[u8]| {
    let Identity::Container(found) = identify(path) else {
        return;
    };
    assert!(!found.id.is_empty());
    assert!(found.root_len <= path.len());
    let (root, below) = path.split_at(found.root_len);
    // The kernel's word about a cgroup that is gone stands behind its name.
    assert!(
        below.is_empty() || below.starts_with(b"/") || below.starts_with(b" (deleted)"),
        "ends within a name"
    );
    match identify(root) {
        Identity::Container(own) => assert_eq!(own, found),
        other => panic!("the container's own cgroup is {other:?}"),
    }
});
