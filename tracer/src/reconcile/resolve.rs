//! The path of a cgroup that is known by its id alone.
//!
//! The kernel cuts the path in its cgroup tracepoints after 1023 bytes, which loses the middle of a
//! longer one: what is left is a prefix, the leaf, and the parent's id. The id is the inode number
//! of the parent's directory, so it is looked for below the prefix, in so many directories at most.
//! (`open_by_handle_at` would give it at once; no safe wrapper of it exists.)

use std::{
    collections::VecDeque,
    fs,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::DirEntryExt as _,
    },
    path::{Path, PathBuf},
};

/// Directories that are looked into: such a path is rare, and nothing waits for it for long.
const MAX_DIRECTORIES: usize = 4096;

/// Path below `mount` of the directory with inode number `id`, which lies below `prefix` (a path
/// below `mount` whose last part may be cut); `None` where it is not found.
#[must_use]
pub fn resolve(mount: &Path, prefix: &[u8], id: u64) -> Option<Vec<u8>> {
    let end = prefix.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let (whole, cut) = prefix.split_at_checked(end)?;
    let cut = cut.strip_prefix(b"/").unwrap_or_default();
    let mut first = mount.as_os_str().as_bytes().to_vec();
    let below = first.len();
    first.extend_from_slice(whole);
    let mut waiting = VecDeque::from([(PathBuf::from(std::ffi::OsString::from_vec(first)), true)]);
    for _ in 0..MAX_DIRECTORIES {
        let (directory, is_first) = waiting.pop_front()?;
        // What cannot be read is gone, or is not ours to look for.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir())
                || is_first && !entry.file_name().as_bytes().starts_with(cut)
            {
                continue;
            }
            let path = entry.path();
            if entry.ino() == id {
                return path.as_os_str().as_bytes().get(below..).map(<[u8]>::to_vec);
            }
            waiting.push_back((path, false));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_directory_is_found_by_its_number_below_a_cut_path() {
        let mount = tempfile::tempdir().expect("a directory");
        let deep = mount.path().join("docker/abcdef/system/inner");
        fs::create_dir_all(&deep).expect("directories");
        fs::create_dir_all(mount.path().join("docker/xyz/inner")).expect("directories");
        let id = fs::metadata(&deep).expect("there").ino();
        let find = |prefix: &str| resolve(mount.path(), prefix.as_bytes(), id);
        let path = Some(b"/docker/abcdef/system/inner".to_vec());
        for prefix in ["/docker/abc", "/docker/abcdef/", "/docker/", "/", ""] {
            assert_eq!(find(prefix), path, "{prefix}");
        }
        assert_eq!(find("/docker/xyz/in"), None);
        assert_eq!(find("/nowhere/at"), None);
        assert_eq!(resolve(mount.path(), b"/docker/", u64::MAX), None);
    }
}
