use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Instant};

use rustix::fs::mkfifoat;

use super::{super::tests::Dir, *};

const MAX: usize = 1_000;

fn tree(dir: &Dir) -> Tree {
    Tree::open(dir.path()).expect("the directory")
}

/// Reads with openat2, and name by name.
#[track_caller]
fn check(dir: &Dir, below: &str, expected: Result<&[u8], Refusal>) {
    let tree = tree(dir);
    let read = tree.read(below.as_ref(), MAX, None);
    let walked =
        walk(tree.0.as_fd(), below.as_ref(), FILE).and_then(|file| content(file, MAX, None));
    for (how, done) in [("openat2", read), ("walk", walked)] {
        let done = done.map(|content| content.bytes);
        assert_eq!(done, expected.map(<[u8]>::to_vec), "{how} {below}");
    }
}

#[test]
fn only_regular_files_below_the_directory_are_read() {
    let outside = Dir::new();
    outside.write("secret", b"secret");
    let dir = Dir::new();
    dir.write("a/b/file", b"good");
    dir.write("a/empty", b"");
    check(&dir, "a/b/file", Ok(b"good"));
    check(&dir, "a/empty", Ok(b""));
    check(&dir, "a/gone", Err(Refusal::Missing));
    check(&dir, "a/b/file/x", Err(Refusal::Missing));
    check(&dir, "a/b", Err(Refusal::NotRegular));
    symlink(outside.path().join("secret"), dir.path().join("out")).expect("a link");
    symlink(outside.path(), dir.path().join("outdir")).expect("a link");
    symlink("a/b/file", dir.path().join("in")).expect("a link");
    check(&dir, "out", Err(Refusal::Link));
    check(&dir, "in", Err(Refusal::Link));
    symlink("loop", dir.path().join("loop")).expect("a link");
    check(&dir, "loop", Err(Refusal::Link));
    assert!(
        tree(&dir)
            .read("outdir/secret".as_ref(), MAX, None)
            .is_err()
    );
    assert!(walk(tree(&dir).0.as_fd(), "outdir/secret".as_ref(), FILE).is_err());
    let up = format!("../{}/secret", name(&outside));
    check(&dir, &up, Err(Refusal::Link));
}

fn name(dir: &Dir) -> String {
    let name = dir.path().file_name().expect("a name");
    name.to_string_lossy().into_owned()
}

#[test]
fn nothing_is_waited_for() {
    let dir = Dir::new();
    mkfifoat(CWD, dir.path().join("fifo"), Mode::RUSR).expect("a FIFO");
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket"));
    socket.expect("a socket");
    let start = Instant::now();
    check(&dir, "fifo", Err(Refusal::NotRegular));
    check(&dir, "socket", Err(Refusal::NotRegular));
    assert!(start.elapsed().as_secs() < 2);
    let dev = Tree::open("/dev".as_ref()).expect("/dev");
    let zero = dev.read("zero".as_ref(), MAX, None);
    assert_eq!(zero.map(|content| content.bytes), Err(Refusal::NotRegular));
}

#[test]
fn size_is_bounded_also_where_the_file_hides_it() {
    let dir = Dir::new();
    dir.write("at", &[b'x'; MAX]);
    dir.write("over", &[b'x'; MAX + 1]);
    check(&dir, "at", Ok(&[b'x'; MAX]));
    check(&dir, "over", Err(Refusal::TooLarge(MAX)));
    let huge = File::create(dir.path().join("sparse")).expect("a file");
    huge.set_len(1 << 40).expect("a hole");
    check(&dir, "sparse", Err(Refusal::TooLarge(MAX)));
    // Files of /proc say that they are empty.
    let proc = Tree::open("/proc/self".as_ref()).expect("/proc");
    let maps = proc.read("maps".as_ref(), 16, None);
    assert_eq!(
        maps.map(|content| content.bytes),
        Err(Refusal::TooLarge(16))
    );
}

#[test]
fn directories_may_be_links_but_not_of_proc() {
    let dir = Dir::new();
    dir.write("data/docker/file", b"good");
    fs::create_dir_all(dir.path().join("var/lib")).expect("a directory");
    symlink("/data/docker", dir.path().join("var/lib/docker")).expect("a link");
    let tree = tree(&dir);
    let read = |path: &str| {
        let dir = tree.dir(path.as_ref())?;
        dir.read("file".as_ref(), MAX, None)
            .map(|content| content.bytes)
    };
    // An absolute link is one of this file system.
    assert_eq!(read("/var/lib/docker"), Ok(b"good".to_vec()));
    assert_eq!(read("/../../data/docker"), Ok(b"good".to_vec()));
    assert_eq!(read("/data/docker/file"), Err(Refusal::Missing));
    let host = Tree::open("/".as_ref()).expect("/");
    assert_eq!(
        host.dir("/proc/self/cwd".as_ref()).err(),
        Some(Refusal::Link)
    );
    assert_eq!(
        host.dir("/proc/self/root/etc".as_ref()).err(),
        Some(Refusal::Link)
    );
}

#[test]
fn the_owner_is_checked() {
    let dir = Dir::new();
    let path: PathBuf = dir.write("file", b"good");
    let uid = rustix::process::getuid().as_raw();
    let tree = tree(&dir);
    let read = |owner| {
        tree.read("file".as_ref(), MAX, owner)
            .map(|content| content.uid)
    };
    assert_eq!(read(Some(uid)), Ok(uid));
    assert_eq!(read(Some(uid + 1)), Err(Refusal::Owner(uid)));
    fs::remove_file(path).expect("the file");
    assert_eq!(read(None), Err(Refusal::Missing));
}

#[test]
fn names_are_bounded() {
    let dir = Dir::new();
    for name in ["a", "b", "c"] {
        dir.write(&format!("sub/{name}"), b"");
    }
    assert_eq!(tree(&dir).names("sub".as_ref(), 2).len(), 2);
    assert_eq!(tree(&dir).names("sub".as_ref(), 9).len(), 3);
    assert_eq!(tree(&dir).names("gone".as_ref(), 9).len(), 0);
}
