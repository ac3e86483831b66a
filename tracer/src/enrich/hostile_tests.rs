//! Whole look-ups where somebody else put something in the file's place.

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::fs::{CWD, Mode, mkfifoat};

use super::{tests::Dir, *};

const DOCKER: &[u8] = include_bytes!("testdata/docker-config.v2.json");
const ID: &str = "923e176e0e310f868a905bf018d76f329601941a6b731ad7a733f57d5efeed46";
const MAX_FILE: usize = 1 << 20;

/// Longer than any look-up here takes, shorter than anybody waits.
const SOON: Duration = Duration::from_secs(5);

fn query() -> Query<'static> {
    Query {
        id: ID,
        runtime: Some("docker"),
        ..Query::default()
    }
}

fn file_in(dir: &Dir) -> PathBuf {
    let containers = dir.path().join("var/lib/docker/containers").join(ID);
    fs::create_dir_all(&containers).expect("a directory");
    containers.join("config.v2.json")
}

/// A file that names the container as nobody outside the tree may learn it.
fn secret() -> Vec<u8> {
    let text = String::from_utf8_lossy(DOCKER).replace("/web", "/secret");
    assert!(text.contains("/secret"), "the file has another name");
    text.into_bytes()
}

/// Makes something at a path.
type Make<'a> = Box<dyn Fn(&Path) + 'a>;

/// Each way to make something that is not the file that is expected.
fn traps(outside: &Path) -> [(&'static str, Make<'_>); 13] {
    let write = |bytes: Vec<u8>| move |at: &Path| fs::write(at, &bytes).expect("a file");
    let huge = write(vec![b' '; MAX_FILE + 1]);
    let truncated = write(DOCKER[..DOCKER.len() / 2].to_vec());
    let binary = write(vec![0xff; 4096]);
    let deep = write(vec![b'['; MAX_FILE]);
    [
        ("huge", Box::new(huge)),
        ("truncated", Box::new(truncated)),
        ("binary", Box::new(binary)),
        ("deep", Box::new(deep)),
        ("empty", Box::new(write(Vec::new()))),
        (
            "wrong types",
            Box::new(write(br#"{"ID":[],"Name":7,"Config":"x"}"#.to_vec())),
        ),
        (
            "link out",
            Box::new(move |at| symlink(outside, at).expect("a link")),
        ),
        (
            "link to itself",
            Box::new(|at| symlink(at, at).expect("a link")),
        ),
        (
            "device",
            Box::new(|at| symlink("/dev/zero", at).expect("a link")),
        ),
        (
            "directory",
            Box::new(|at| fs::create_dir(at).expect("a directory")),
        ),
        (
            "FIFO",
            Box::new(|at| mkfifoat(CWD, at, Mode::RUSR).expect("a FIFO")),
        ),
        (
            "socket",
            Box::new(|at| drop(UnixListener::bind(at).expect("a socket"))),
        ),
        (
            "sparse",
            Box::new(|at| {
                let file = fs::File::create(at).expect("a file");
                file.set_len(1 << 40).expect("a hole");
            }),
        ),
    ]
}

#[test]
fn nothing_in_the_place_of_a_file_is_more_than_no_file() {
    let outside = Dir::new();
    let outside = outside.write("secret", &secret());
    for (name, make) in traps(&outside) {
        // Short: a socket's path may have 107 bytes.
        let dir = Dir::new();
        let file = file_in(&dir);
        let staged = dir.path().join("new");
        make(&staged);
        fs::rename(&staged, &file).expect("in place");
        let start = Instant::now();
        let facts = lookup(&dir.sources(), &query());
        assert!(start.elapsed() < SOON, "{name}: {:?}", start.elapsed());
        assert_eq!(facts.level, Enrichment::None, "{name}: {facts:?}");
        assert_eq!(facts.name, None, "{name}");
        // A file of wrong types is another container's.
        let noted = facts.problems.len() == 1 || name == "wrong types";
        assert!(noted, "{name}: {:?}", facts.problems);
    }
}

#[test]
fn a_directory_on_the_way_may_be_a_trap_too() {
    let outside = Dir::new();
    let containers = outside.path().join(ID);
    fs::create_dir(&containers).expect("a directory");
    fs::write(containers.join("config.v2.json"), secret()).expect("a file");
    let dir = Dir::new();
    fs::create_dir_all(dir.path().join("var/lib/docker")).expect("a directory");
    symlink(outside.path(), dir.path().join("var/lib/docker/containers")).expect("a link");
    let facts = lookup(&dir.sources(), &query());
    assert_eq!((facts.level, facts.name), (Enrichment::None, None));
}

/// What is read is one file or another, never something else, whoever replaces it meanwhile.
#[test]
fn a_file_may_be_replaced_while_it_is_read() {
    let outside = Dir::new();
    let outside = outside.write("secret", &secret());
    let dir = Dir::new();
    let file = file_in(&dir);
    let done = AtomicBool::new(false);
    let swaps = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let staged = dir.path().join("new");
            let mut swaps = 0;
            while !done.load(Ordering::Relaxed) {
                for (_, make) in traps(&outside) {
                    for path in [&staged, &file] {
                        drop(fs::remove_dir(path));
                        drop(fs::remove_file(path));
                    }
                    make(&staged);
                    drop(fs::rename(&staged, &file));
                    fs::write(&staged, DOCKER).expect("a file");
                    drop(fs::rename(&staged, &file));
                    // In place too: a reader sees it shrink and grow.
                    drop(fs::write(&file, &DOCKER[..100]));
                    drop(fs::write(&file, DOCKER));
                    swaps += 1;
                }
            }
            swaps
        });
        let mut whole = 0;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            let begun = Instant::now();
            let facts = lookup(&dir.sources(), &query());
            assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
            match facts.name.as_deref() {
                Some("web") => whole += 1,
                None => assert_eq!(facts.level, Enrichment::None),
                other => panic!("{other:?}"),
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(whole > 0, "the file was never read whole");
        swapper.join().expect("the other thread")
    });
    assert!(swaps > 10, "replaced {swaps} times only");
}

#[test]
fn files_that_are_not_to_be_read_are_not() {
    let dir = Dir::new();
    fs::write(file_in(&dir), DOCKER).expect("a file");
    let mut sources = dir.sources();
    assert_eq!(lookup(&sources, &query()).level, Enrichment::Full);
    sources.files = false;
    assert_eq!(lookup(&sources, &query()), Facts::default());
    sources.add_users();
    sources.learn(ID, None, Some("/var/lib/docker"));
    assert_eq!(
        sources,
        Sources {
            files: false,
            ..dir.sources()
        }
    );
}
