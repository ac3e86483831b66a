//! Against servers that are not there, do not answer, break off, or say too much.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    metadata::Sockets as _,
    record::{Enrichment, Runtime},
};

const ID: &str = "45312fe4a2b1c09d8e7f6a5b4c3d2e1f00112233445566778899aabbccddeeff";
const PATIENCE: Duration = Duration::from_secs(20);

/// A place for a socket; removed on drop.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tracer-runtimes-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// In place of an answer.
const BREAK_OFF: String = String::new();

/// Answers each request with the next of these.
fn serve_http(socket: &Path, answers: Vec<String>) {
    drop(std::fs::remove_file(socket));
    let listener = UnixListener::bind(socket).expect("a socket");
    thread::spawn(move || {
        let mut answers = answers.into_iter();
        while let Ok((stream, _)) = listener.accept() {
            if !serve_one(&stream, &mut answers) {
                return;
            }
        }
    });
}

fn serve_one(stream: &UnixStream, answers: &mut impl Iterator<Item = String>) -> bool {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return true;
            }
        }
        match answers.next() {
            Some(answer) if answer.is_empty() => return true,
            Some(answer) => (&*stream).write_all(answer.as_bytes()).expect("written"),
            None => return false,
        }
    }
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn not_found() -> String {
    "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}".to_owned()
}

fn labelled() -> String {
    ok(&format!(
        r#"{{"Id":"{ID}","Name":"web","Config":{{"Labels":{{"app":"shop"}}}}}}"#
    ))
}

fn thread_for(socket: &Path) -> (Thread, mpsc::Receiver<Answer>) {
    let sockets = Sockets {
        endpoints: vec![Endpoint::new(Kind::Podman, socket)],
        learn: false,
        users: false,
    };
    let (sender, answers) = mpsc::channel(64);
    (Thread::start(sockets, sender).expect("a thread"), answers)
}

fn known() -> Metadata {
    Metadata {
        name: Some("web".into()),
        image: None,
        label: None,
        k8s: None,
        created: None,
        restart_count: None,
        sandbox: false,
        runtime: Some(Runtime {
            name: "podman".into(),
        }),
        level: Enrichment::Full,
    }
}

fn root(id: u64) -> CgroupKey {
    CgroupKey::new(1, id)
}

fn put(thread: &mut Thread, id: u64) {
    let ask = Ask {
        root: root(id),
        id: ID.into(),
        sockets: true,
        ..Ask::default()
    };
    let further = Further::Ask(&ask, &known(), &Facts::default());
    assert!(thread.further(further).is_none());
}

fn answer(answers: &mut mpsc::Receiver<Answer>) -> Option<Answer> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Ok(answer) = answers.try_recv() {
            return Some(answer);
        }
        thread::park_timeout(Duration::from_millis(5));
    }
    None
}

#[track_caller]
fn expect_labels(answers: &mut mpsc::Receiver<Answer>, id: u64) {
    match answer(answers) {
        Some(Answer::Enriched(key, metadata)) => {
            assert_eq!(key, root(id));
            let label = metadata.label.expect("labels");
            assert_eq!(label.get("app"), Some("shop"));
            assert_eq!(metadata.level, Enrichment::Full);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_runtime_that_comes_later_is_asked_then() {
    let place = Place::new();
    let (mut thread, mut answers) = thread_for(&place.socket());
    put(&mut thread, 1);
    thread::park_timeout(Duration::from_millis(150));
    assert!(answers.try_recv().is_err());
    serve_http(&place.socket(), vec![labelled()]);
    expect_labels(&mut answers, 1);
}

#[test]
fn a_container_that_is_not_known_yet_is_asked_about_again() {
    let place = Place::new();
    serve_http(&place.socket(), vec![not_found(), not_found(), labelled()]);
    let (mut thread, mut answers) = thread_for(&place.socket());
    put(&mut thread, 1);
    expect_labels(&mut answers, 1);
}

#[test]
fn a_connection_that_breaks_is_made_again() {
    let place = Place::new();
    serve_http(
        &place.socket(),
        vec![BREAK_OFF, labelled(), BREAK_OFF, labelled()],
    );
    let (mut thread, mut answers) = thread_for(&place.socket());
    for id in [1, 2] {
        put(&mut thread, id);
        expect_labels(&mut answers, id);
    }
}

#[test]
fn an_answer_that_is_too_large_or_nonsense_holds_nobody_up() {
    let place = Place::new();
    let huge = ok(&"x".repeat(MAX_ANSWER + 1));
    serve_http(
        &place.socket(),
        vec![huge, ok("[]"), ok("{"), ok(r#"{"Id":"other"}"#), labelled()],
    );
    let (mut thread, mut answers) = thread_for(&place.socket());
    put(&mut thread, 1);
    expect_labels(&mut answers, 1);
}

#[test]
fn one_that_does_not_answer_is_left_after_the_deadline() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).expect("a socket");
    let (mut thread, mut answers) = thread_for(&place.socket());
    put(&mut thread, 1);
    let (silent, _) = listener.accept().expect("a connection");
    // The next connection comes only when this one is given up.
    let (second, _) = listener.accept().expect("another connection");
    drop(silent);
    // On a thread: it is served until the other side hangs up.
    thread::spawn(move || serve_one(&second, &mut [labelled()].into_iter()));
    expect_labels(&mut answers, 1);
}

#[test]
fn what_is_gone_is_not_asked_about_and_sources_are_told() {
    let place = Place::new();
    let (mut thread, mut answers) = thread_for(&place.socket());
    put(&mut thread, 1);
    assert!(thread.further(Further::Gone(root(1))).is_none());
    put(&mut thread, 2);
    serve_http(&place.socket(), vec![labelled(), labelled()]);
    expect_labels(&mut answers, 2);
    let explain = Further::Explain(7, root(2), Vec::new());
    assert!(thread.further(explain).is_none());
    match answer(&mut answers) {
        Some(Answer::Explained(7, sources)) => {
            let told = Source {
                fact: "container.label",
                file: place.socket(),
            };
            assert_eq!(sources, [told]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn users_sockets_are_asked_about_their_users_containers_only() {
    let desk = Desk::new(mpsc::channel(1).0);
    let of_user = |user| Endpoint {
        kind: Kind::Podman,
        path: "/run/user/1000/podman/podman.sock".into(),
        user: Some(user),
    };
    let question = |user, id| Question {
        root: root(id),
        id: ID.into(),
        namespace: None,
        pod_sandbox: None,
        user,
        kinds: [Some(Kind::Podman), None],
        known: Some(Box::new(known())),
    };
    desk.open(question(None, 1));
    desk.open(question(Some(1000), 2));
    let next = |endpoint| desk.next(0, &endpoint).map(|(ticket, _)| ticket);
    assert_eq!(next(of_user(1000)), Some(1));
    assert_eq!(next(of_user(1001)), None);
    assert_eq!(next(Endpoint::new(Kind::Podman, "/s")), Some(0));
    assert_eq!(next(Endpoint::new(Kind::Docker, "/s")), None);
}
