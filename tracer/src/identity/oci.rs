//! OCI runtimes on their own, under systemd. Without systemd their path is whatever the caller
//! likes, and only their arguments tell (the path stays unknown here).
//!
//! | form | writer |
//! | --- | --- |
//! | `runc-ID.scope` | runc `docs/systemd.md`, the default of `--systemd-cgroup` |
//! | `crun-ID.scope` | crun `src/libcrun/cgroup-systemd.c` get_systemd_scope_and_slice |
//! | `youki-ID.scope`, with cgroupfs a literal `:youki:ID` | youki `crates/libcontainer/src/utils.rs` get_cgroup_path |

use super::Runtime;
use super::place::{Mark, Place};
use super::text::oci_id;

const PREFIXES: [(&[u8], Runtime); 3] = [
    (b"runc", Runtime::Runc),
    (b"crun", Runtime::Crun),
    (b"youki", Runtime::Youki),
];

pub(super) fn read<'a>(place: &Place<'a>) -> Option<Mark<'a>> {
    PREFIXES.iter().find_map(|(prefix, runtime)| {
        let id = oci_id(place.unit_id(prefix)?)?;
        Some(Mark::container(*runtime, id))
    })
}
