//! An initramfs: an archive in the kernel's `newc` format (its `Documentation/driver-api/early-userspace/
//! buffer-format.rst`), with everything owned by root. What is put later replaces what was there.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::workspace;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// One entry; contents are read when the archive is written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory,
    Link(PathBuf),
    File { source: PathBuf, mode: u32 },
    Text { text: String, mode: u32 },
}

/// A file tree to be.
#[derive(Debug, Default)]
pub struct Tree(BTreeMap<PathBuf, Entry>);

impl Tree {
    /// A file of the host, with its mode.
    pub fn file(&mut self, at: &str, source: &Path) -> Result<()> {
        let meta = fs::metadata(source)
            .with_context(|| format!("cannot read {}", workspace::shown(source)))?;
        let source = source.to_owned();
        let mode = meta.permissions().mode() & 0o7777;
        self.put(at.as_ref(), Entry::File { source, mode });
        Ok(())
    }

    pub fn text(&mut self, at: &str, text: &str, mode: u32) {
        let text = text.to_owned();
        self.put(at.as_ref(), Entry::Text { text, mode });
    }

    pub fn link(&mut self, at: &str, target: &str) {
        self.put(at.as_ref(), Entry::Link(target.into()));
    }

    /// All that is below a directory of the host, but the paths that `leave_out` picks.
    pub fn tree(&mut self, root: &Path, leave_out: &dyn Fn(&Path) -> bool) -> Result<()> {
        self.below(root, Path::new(""), leave_out)
            .with_context(|| format!("cannot read all of {}", workspace::shown(root)))
    }

    fn below(
        &mut self,
        root: &Path,
        at: &Path,
        leave_out: &dyn Fn(&Path) -> bool,
    ) -> io::Result<()> {
        for entry in fs::read_dir(root.join(at))? {
            let entry = entry?;
            let at = at.join(entry.file_name());
            if leave_out(&at) {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.put(&at, Entry::Directory);
                self.below(root, &at, leave_out)?;
            } else if kind.is_symlink() {
                self.put(&at, Entry::Link(fs::read_link(entry.path())?));
            } else if kind.is_file() {
                let source = entry.path();
                let mode = entry.metadata()?.permissions().mode() & 0o7777;
                self.put(&at, Entry::File { source, mode });
            }
        }
        Ok(())
    }

    /// Puts an entry and the directories above it. Where one of those is a link (`/lib` is one to
    /// `usr/lib` on most systems) the entry goes where the link leads.
    fn put(&mut self, at: &Path, entry: Entry) {
        let mut place = PathBuf::new();
        let mut parts = at.strip_prefix("/").unwrap_or(at).components().peekable();
        while let Some(part) = parts.next() {
            place.push(part);
            if parts.peek().is_none() {
                break;
            }
            match self.0.get(&place) {
                Some(Entry::Link(target)) if target.is_relative() => {
                    place.pop();
                    place.push(target.clone());
                }
                Some(Entry::Link(target)) => {
                    target
                        .strip_prefix("/")
                        .unwrap_or(target)
                        .clone_into(&mut place);
                }
                Some(Entry::Directory) => {}
                _ => drop(self.0.insert(place.clone(), Entry::Directory)),
            }
        }
        // A directory that is there as a link stays one: what goes into it follows the link.
        if entry == Entry::Directory && self.0.contains_key(&place) {
            return;
        }
        self.0.insert(place, entry);
    }

    /// Writes the archive.
    pub fn write(&self, mut to: impl Write) -> Result<()> {
        for (inode, (path, entry)) in (1_u32..).zip(&self.0) {
            let (mode, contents) = match entry {
                Entry::Directory => (DIRECTORY | 0o755, Vec::new()),
                Entry::Link(target) => (LINK | 0o777, target.as_os_str().as_bytes().to_vec()),
                Entry::Text { text, mode } => (REGULAR | mode, text.clone().into_bytes()),
                Entry::File { source, mode } => {
                    let contents = fs::read(source)
                        .with_context(|| format!("cannot read {}", workspace::shown(source)))?;
                    (REGULAR | mode, contents)
                }
            };
            member(&mut to, inode, mode, path.as_os_str().as_bytes(), &contents)?;
        }
        member(&mut to, 0, 0, b"TRAILER!!!", b"")?;
        to.flush().context("cannot write the initramfs")
    }
}

/// Header, name and contents, each padded to four bytes.
fn member(to: &mut impl Write, inode: u32, mode: u32, name: &[u8], contents: &[u8]) -> Result<()> {
    let size = u32::try_from(contents.len()).ok();
    let name_size = u32::try_from(name.len() + 1).ok();
    ensure!(
        size.is_some() && name_size.is_some(),
        "a file of 4 GiB is too large for an initramfs"
    );
    let mut head = b"070701".to_vec();
    let fields = [
        inode,
        mode,
        0, // user
        0, // group
        1, // links
        0, // time
        size.unwrap_or_default(),
        0, // device of the file system
        0,
        0, // device of the node
        0,
        name_size.unwrap_or_default(),
        0, // checksum
    ];
    for field in fields {
        head.extend(format!("{field:08x}").bytes());
    }
    head.extend(name);
    head.push(0);
    pad(&mut head);
    let tail = vec![0; contents.len().next_multiple_of(4) - contents.len()];
    to.write_all(&head)
        .and_then(|()| to.write_all(contents))
        .and_then(|()| to.write_all(&tail))
        .context("cannot write the initramfs")
}

fn pad(data: &mut Vec<u8>) {
    data.resize(data.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(path, mode, contents)` of every member, by a reader of its own.
    fn read(mut data: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut members = Vec::new();
        let whole = data.len();
        loop {
            assert_eq!(&data[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&data[6 + 8 * index..14 + 8 * index]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size) = (field(1), field(6) as usize);
            let end = 110 + field(11) as usize;
            let name = String::from_utf8(data[110..end - 1].to_vec()).unwrap();
            let start = end.next_multiple_of(4);
            if name == "TRAILER!!!" {
                return members;
            }
            members.push((name, mode, data[start..start + size].to_vec()));
            data = &data[(start + size).next_multiple_of(4)..];
            assert_eq!((whole - data.len()) % 4, 0);
        }
    }

    fn written(tree: &Tree) -> Vec<(String, u32, Vec<u8>)> {
        let mut data = Vec::new();
        tree.write(&mut data).unwrap();
        read(&data)
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let mut tree = Tree::default();
        tree.text("/a/b/c", "hello", 0o755);
        tree.link("a/sh", "b/c");
        let expected = [
            ("a", 0o040_755, ""),
            ("a/b", 0o040_755, ""),
            ("a/b/c", 0o100_755, "hello"),
            ("a/sh", 0o120_777, "b/c"),
        ];
        assert_eq!(
            written(&tree),
            expected.map(|(path, mode, text)| (path.to_owned(), mode, text.as_bytes().to_vec()))
        );
    }

    #[test]
    fn the_last_one_stays_and_goes_where_links_lead() {
        let mut tree = Tree::default();
        tree.link("/lib", "usr/lib");
        tree.text("/usr/lib/x", "old", 0o644);
        tree.text("/lib/x", "new", 0o644);
        let paths: Vec<_> = written(&tree)
            .into_iter()
            .map(|(path, _, contents)| (path, contents))
            .collect();
        assert!(paths.contains(&("usr/lib/x".to_owned(), b"new".to_vec())));
        assert_eq!(paths.len(), 4, "{paths:?}");
    }
}
