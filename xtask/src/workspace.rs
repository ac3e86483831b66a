//! Where things lie in the checkout.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The repository's root.
pub fn root() -> PathBuf {
    let crate_dir = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    crate_dir.parent().unwrap_or(&crate_dir).to_path_buf()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(
        || root().join("target"),
        |dir| root().join(dir), // An absolute path replaces the root.
    )
}

/// Where the `tracer` crate looks for the eBPF object; cargo takes the value from its configuration.
pub fn ebpf_object() -> PathBuf {
    env::var_os("TRACER_EBPF_OBJECT")
        .map_or_else(|| root().join("target/bpf/tracer-ebpf"), PathBuf::from)
}

/// Tools that xtask builds for itself: they leave with `cargo clean`.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// A path as shown: relative to the checkout where it lies inside.
pub fn shown(path: &Path) -> String {
    let root = root();
    path.strip_prefix(&root)
        .unwrap_or(path)
        .display()
        .to_string()
}
