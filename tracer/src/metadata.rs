//! Answers the machine's questions about containers, on a thread of its own: a file system that does
//! not answer must not hold up an event.
//!
//! ```text
//! pipeline ──Ask──▶ bounded queue ──▶ serve: learn places, look files up, try again ──▶ pipeline
//!                                        └──▶ what no file says ──▶ runtimes' sockets ──────▲
//! ```
//!
//! A question that finds a file half written, or none yet, is asked again after 10, 100 and 500 ms.
//!
//! A container inside another has its files in that one's mount namespace: they are looked up below
//! `/proc/PID/root`, of the runtime's process while that makes the container, of the outer
//! container's init later. Nothing of the host's is told of such a container.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tracer_common::CgroupKey;

use crate::{
    enrich::{Facts, Query, Source, Sources, lookup},
    lifecycle::{Ask, Metadata, of_call},
    record::{Image, Runtime},
};

/// When a question without a whole answer is asked again.
const AGAIN: [Duration; 3] = [
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_millis(500),
];

/// A question to be asked again, by when and in the order of coming. Bounded by the containers that were
/// asked about within the sum of [`AGAIN`], and live.
type Waiting = BTreeMap<(Instant, u64), (Box<Ask>, usize)>;

/// What is asked.
#[derive(Debug)]
pub enum Question {
    /// What files say, for the table.
    Enrich(Box<Ask>),
    /// Which files say it, for a reader of the socket.
    Explain(u64, Box<Ask>),
    /// The container with this root is gone.
    Gone(CgroupKey),
}

/// What goes to the runtimes' sockets.
#[derive(Debug)]
pub enum Further<'a> {
    /// What files said, with the rest of what a socket must be asked with.
    Ask(&'a Ask, &'a Metadata, &'a Facts),
    Gone(CgroupKey),
    /// To be answered by [`Answer::Explained`].
    Explain(u64, CgroupKey, Vec<Source>),
}

/// The way to the runtimes' sockets, or none.
pub trait Sockets {
    /// Command lines of daemons that were found since the last call.
    fn daemons(&mut self) -> Vec<Vec<String>>;
    /// Takes something further; an explanation is given back where nobody takes it.
    fn further(&mut self, what: Further<'_>) -> Option<Answer>;
}

/// There are none.
#[derive(Debug)]
pub struct NoSockets;

impl Sockets for NoSockets {
    fn daemons(&mut self) -> Vec<Vec<String>> {
        Vec::new()
    }

    fn further(&mut self, what: Further<'_>) -> Option<Answer> {
        match what {
            Further::Ask(..) | Further::Gone(_) => None,
            Further::Explain(reader, _, files) => Some(Answer::Explained(reader, files)),
        }
    }
}

/// What is answered.
#[derive(Debug)]
pub enum Answer {
    Enriched(CgroupKey, Metadata),
    Explained(u64, Vec<Source>),
    /// A question was taken, and somebody waits for a place in the queue.
    Taken,
}

/// Serves questions until nobody asks or nobody listens any more. Whoever found no place in the queue
/// sets `waits`, to be told when there is one.
pub fn serve(
    questions: &Receiver<Question>,
    waits: &AtomicBool,
    mut sources: Sources,
    mut sockets: impl Sockets,
    mut answer: impl FnMut(Answer) -> bool,
) {
    sources.add_users();
    let mut waiting = Waiting::new();
    let mut count = 0;
    while let Some((question, tries)) = next(questions, &mut waiting) {
        if waits.swap(false, Ordering::AcqRel) && !answer(Answer::Taken) {
            return;
        }
        for line in sockets.daemons() {
            sources.learn_daemon(line.iter().map(String::as_str));
        }
        let ask = match question {
            Question::Enrich(ask) => ask,
            Question::Explain(reader, ask) => {
                let facts = look(&sources, &ask).unwrap_or_default();
                let further = Further::Explain(reader, ask.root, facts.sources);
                if let Some(explained) = sockets.further(further)
                    && !answer(explained)
                {
                    return;
                }
                continue;
            }
            Question::Gone(root) => {
                waiting.retain(|_, (ask, _)| ask.root != root);
                sockets.further(Further::Gone(root));
                continue;
            }
        };
        if ask.outer.is_none() && !is_elsewhere(ask.caller) {
            sources.learn(&ask.id, ask.bundle.as_deref(), ask.state.as_deref());
        }
        let Some(facts) = look(&sources, &ask) else {
            continue;
        };
        for problem in &facts.problems {
            tracing::debug!(id = &*ask.id, file = %problem.file.display(), why = ?problem.why, "file not used");
        }
        let may_wait = facts.retry && !of_call(ask.root);
        let again = AGAIN.get(tries).filter(|_| may_wait);
        let metadata = metadata(&facts);
        if ask.sockets && again.is_none() {
            sockets.further(Further::Ask(&ask, &metadata, &facts));
        }
        if !answer(Answer::Enriched(ask.root, metadata)) {
            return;
        }
        if let Some(again) = again {
            count += 1;
            waiting.insert((Instant::now() + *again, count), (ask, tries + 1));
        }
    }
}

/// Looks a container's files up, in the file system in which they are meant. `None` where the
/// process that sees it is gone.
pub(crate) fn look(sources: &Sources, ask: &Ask) -> Option<Facts> {
    let seen_by = ask.caller.or(ask.outer);
    let namespace = match seen_by {
        Some(pid) => Some(mount_namespace(&pid.to_string())?),
        None => None,
    };
    let elsewhere = namespace.is_some() && namespace != mount_namespace("self");
    let filesystem = seen_by
        .filter(|_| elsewhere)
        .map(|pid| PathBuf::from(format!("/proc/{pid}/root")));
    let bundle = bundle(ask);
    let query = Query {
        id: &ask.id,
        runtime: ask.runtime.as_deref(),
        bundle: bundle.as_deref(),
        root: ask.state.as_deref(),
        pod_uid: ask.pod_uid.as_deref(),
        owner: ask.owner,
        filesystem: filesystem.as_deref(),
        ..Query::default()
    };
    Some(lookup(sources, &query))
}

/// Whether a process has another mount namespace than this one.
fn is_elsewhere(pid: Option<u32>) -> bool {
    pid.is_some_and(|pid| mount_namespace(&pid.to_string()) != mount_namespace("self"))
}

fn mount_namespace(process: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/mnt")).ok()
}

/// The bundle; a relative one, or none, is meant from the runtime's working directory.
fn bundle(ask: &Ask) -> Option<String> {
    let given = ask.bundle.as_deref();
    if given.is_some_and(|bundle| bundle.starts_with('/')) {
        return given.map(str::to_owned);
    }
    let from = fs::read_link(format!("/proc/{}/cwd", ask.caller?)).ok()?;
    let bundle = from.join(Path::new(given.unwrap_or_default()));
    bundle.to_str().map(str::to_owned)
}

/// The next question: one that is due again, or a new one.
fn next(questions: &Receiver<Question>, waiting: &mut Waiting) -> Option<(Question, usize)> {
    loop {
        let Some(first) = waiting.first_entry() else {
            return questions.recv().ok().map(|question| (question, 0));
        };
        let left = first.key().0.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let (ask, tries) = first.remove();
            return Some((Question::Enrich(ask), tries));
        }
        match questions.recv_timeout(left) {
            Ok(question) => return Some((question, 0)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// The answer as the table takes it.
pub(crate) fn metadata(facts: &Facts) -> Metadata {
    let image = facts.image.as_ref().map(|image| {
        Arc::new(Image {
            repo_digests: facts.repo_digests.clone(),
            ..image.clone()
        })
    });
    Metadata {
        name: facts.name.as_deref().map(Into::into),
        image,
        label: (!facts.label.is_empty()).then(|| Arc::new(facts.label.iter().collect())),
        k8s: facts.k8s.clone().map(Arc::new),
        created: facts.created,
        restart_count: facts.restart_count,
        sandbox: facts.sandbox,
        runtime: facts.runtime.map(|name| Runtime { name: name.into() }),
        level: facts.level,
    }
}
