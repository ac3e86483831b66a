//! Asks runtimes, over their own sockets, for what no file holds: Podman's labels, the image of a
//! container that ctr or nerdctl made, the labels of a pod.
//!
//! ```text
//! metadata ──Message──▶ bounded queue ──▶ desk (open questions) ◀──▶ one task per socket
//!     ▲                                     │                        │ connect, ask, back off
//!     └── command lines learnt ◀── scan of /proc                     └──▶ pipeline: Answer
//! ```
//!
//! All of it is on one thread of its own. Nothing waits for it: an event carries what is known when
//! it happens, an answer that comes later is told by `container.enriched`. A runtime's own events
//! are not listened to; nothing here is needed for any lifecycle record.
//!
//! A question stays open until it is answered or its container is gone. A socket that does not answer
//! within [`DEADLINE`] or breaks is tried again for ever, after 0.1 s at first and 30 s at last, each
//! time a little apart from others, and at once when it is made anew; one that is not there is waited
//! for ([`absent`]). On each new connection every open question is asked again. So a runtime that was restarted back-fills what its containers lack. Without open
//! questions nothing is connected and nothing wakes.
//!
//! | runtime | protocol | asked for |
//! | --- | --- | --- |
//! | docker | HTTP | all, where its files were not found |
//! | podman | HTTP | labels |
//! | containerd (ctr, nerdctl) | gRPC | image, digest, labels, creation time |
//! | containerd, CRI-O, cri-dockerd by CRI | gRPC | pod labels, labels, digest, creation time, restart count |
//!
//! Answers only fill gaps: they never override what a file said. They are untrusted: bounded in
//! size before they are parsed, and their texts as those of files are. Who listens on a socket must
//! be root, or for a user's socket that user, who is asked about this user's containers only.

mod absent;
mod containerd;
mod cri;
mod desk;
mod grpc;
mod http;
mod learn;
mod peer;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    runtime::Builder,
    sync::mpsc::{self, error::TrySendError},
    task::LocalSet,
};
use tracer_common::CgroupKey;

use self::desk::Desk;
pub use self::learn::{Learnt, command_lines};
use crate::{
    enrich::{Facts, Source},
    lifecycle::{Ask, Metadata},
    metadata::{self, Answer, Further},
    poll::sleep_at_rest,
};

/// How long a connection or an answer may take.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// Largest answer, bytes.
pub const MAX_ANSWER: usize = 1 << 20;
/// Messages that wait for the thread.
const MAX_MESSAGES: usize = 4096;

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Docker,
    Podman,
    Containerd,
    Cri,
}

/// A runtime's socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub kind: Kind,
    pub path: PathBuf,
    /// The user whose runtime listens there, if it is not root's.
    pub user: Option<u32>,
}

impl Endpoint {
    /// Root's socket.
    pub fn new(kind: Kind, path: impl Into<PathBuf>) -> Self {
        Self {
            kind,
            path: path.into(),
            user: None,
        }
    }
}

/// Which sockets to ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sockets {
    /// In the order of asking.
    pub endpoints: Vec<Endpoint>,
    /// Also those that running daemons were told to use.
    pub learn: bool,
    /// Also those of users.
    pub users: bool,
}

/// What runtimes use unless told otherwise.
const DEFAULTS: &[(Kind, &str)] = &[
    (Kind::Docker, "/run/docker.sock"),
    (Kind::Podman, "/run/podman/podman.sock"),
    (Kind::Containerd, "/run/containerd/containerd.sock"),
    (Kind::Containerd, "/run/docker/containerd/containerd.sock"),
    (Kind::Containerd, "/run/k3s/containerd/containerd.sock"),
    (
        Kind::Containerd,
        "/var/snap/microk8s/common/run/containerd.sock",
    ),
    (Kind::Cri, "/run/containerd/containerd.sock"),
    (Kind::Cri, "/run/crio/crio.sock"),
    (Kind::Cri, "/run/k3s/containerd/containerd.sock"),
    (Kind::Cri, "/var/snap/microk8s/common/run/containerd.sock"),
    (Kind::Cri, "/run/cri-dockerd.sock"),
];

impl Sockets {
    /// Configured ones first, then the defaults.
    #[must_use]
    pub fn new(configured: Vec<Endpoint>, learn: bool) -> Self {
        let mut endpoints = configured;
        for (kind, path) in DEFAULTS {
            let default = Endpoint::new(*kind, path);
            if !endpoints.contains(&default) {
                endpoints.push(default);
            }
        }
        Self {
            endpoints,
            learn,
            users: false,
        }
    }
}

/// What files did not tell of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub root: CgroupKey,
    pub id: Arc<str>,
    /// containerd's.
    pub namespace: Option<Box<str>>,
    /// The sandbox of the container's pod, where a file names it.
    pub pod_sandbox: Option<Box<str>>,
    /// Whose container it is, if not root's.
    pub user: Option<u32>,
    /// Each of these may add something.
    pub kinds: Kinds,
    /// What is known already, if anything is: most questions of a host without the runtime stay open.
    pub known: Option<Box<Metadata>>,
}

/// What may be asked of at most: a runtime itself, and the CRI in front of it.
pub type Kinds = [Option<Kind>; 2];

impl Question {
    /// What sockets could add to what files said; `None` where that is nothing.
    #[must_use]
    pub fn of(ask: &Ask, known: &Metadata, facts: &Facts) -> Option<Self> {
        // What is in a container has its sockets there.
        if ask.outer.is_some() {
            return None;
        }
        let kinds = kinds(ask, known, facts.namespace.as_deref());
        kinds.iter().any(Option::is_some).then(|| Self {
            root: ask.root,
            id: Arc::clone(&ask.id),
            namespace: facts.namespace.as_deref().map(Into::into),
            pod_sandbox: facts.pod_sandbox.as_deref().map(Into::into),
            user: ask.user,
            kinds,
            known: (*known != Metadata::default()).then(|| Box::new(known.clone())),
        })
    }
}

fn kinds(ask: &Ask, known: &Metadata, namespace: Option<&str>) -> Kinds {
    use crate::record::Enrichment::Full;
    let runtime = known.runtime.as_ref().map(|runtime| &*runtime.name);
    let pod = ask.pod_uid.is_some() || known.k8s.is_some() || namespace == Some("k8s.io");
    let full = known.level == Full;
    match runtime.or(ask.runtime.as_deref()) {
        Some("docker") => [(!full).then_some(Kind::Docker), pod.then_some(Kind::Cri)],
        Some("podman") if !full || known.label.is_none() => [Some(Kind::Podman), None],
        Some("containerd") if pod => [Some(Kind::Cri), None],
        Some("containerd") => [Some(Kind::Containerd), None],
        Some("cri-o") => [Some(Kind::Cri), None],
        _ => [None, None],
    }
}

/// What the thread is told.
#[derive(Debug)]
enum Message {
    Ask(Box<Question>),
    Gone(CgroupKey),
    /// Say which facts are from sockets, to a reader who has been told those of files.
    Explain(u64, CgroupKey, Vec<Source>),
}

/// Command lines of daemons, from this thread to the one that reads files.
type Daemons = Arc<Mutex<Vec<Vec<String>>>>;

/// The way to the thread.
#[derive(Debug)]
pub struct Thread {
    messages: Option<mpsc::Sender<Message>>,
    daemons: Daemons,
}

impl Thread {
    /// Nobody is asked.
    #[must_use]
    pub fn none() -> Self {
        Self {
            messages: None,
            daemons: Daemons::default(),
        }
    }

    /// Starts the thread. It ends when this is dropped or nobody takes answers any more.
    ///
    /// # Errors
    ///
    /// No thread, or no event loop for it.
    pub fn start(sockets: Sockets, answers: mpsc::Sender<Answer>) -> anyhow::Result<Self> {
        let (sender, messages) = mpsc::channel(MAX_MESSAGES);
        let daemons = Daemons::default();
        let found = Arc::clone(&daemons);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot make an event loop for the runtimes' sockets")?;
        std::thread::Builder::new()
            .name("runtimes".to_owned())
            .spawn(move || {
                let local = LocalSet::new();
                local.block_on(&runtime, serve(sockets, messages, answers, found));
            })
            .context("cannot start a thread")?;
        Ok(Self {
            messages: Some(sender),
            daemons,
        })
    }

    /// Nothing waits for this thread: what finds no place in its queue is given back.
    fn send(&self, message: Message) -> Option<Message> {
        match &self.messages {
            None => Some(message),
            Some(messages) => messages
                .try_send(message)
                .err()
                .map(TrySendError::into_inner),
        }
    }
}

impl metadata::Sockets for Thread {
    fn daemons(&mut self) -> Vec<Vec<String>> {
        let mut found = self.daemons.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut found)
    }

    fn further(&mut self, what: Further<'_>) -> Option<Answer> {
        let left = match what {
            Further::Ask(ask, known, facts) => {
                let question = Question::of(ask, known, facts)?;
                self.send(Message::Ask(Box::new(question)))
            }
            // Lost, it costs the question's place until that is answered or pushed out.
            Further::Gone(root) => self.send(Message::Gone(root)),
            Further::Explain(reader, root, files) => {
                self.send(Message::Explain(reader, root, files))
            }
        };
        match left? {
            Message::Explain(reader, _, files) => Some(Answer::Explained(reader, files)),
            Message::Ask(question) => {
                if self.messages.is_some() {
                    tracing::warn!(
                        id = &*question.id,
                        "a runtime is not asked: too many questions at once"
                    );
                }
                None
            }
            Message::Gone(_) => None,
        }
    }
}

async fn serve(
    sockets: Sockets,
    mut messages: mpsc::Receiver<Message>,
    answers: mpsc::Sender<Answer>,
    daemons: Daemons,
) {
    let desk = Rc::new(Desk::new(answers.clone()));
    let mut learnt = Learnt::default();
    for endpoint in sockets.endpoints {
        learnt.keep(&endpoint);
        peer::start(&desk, endpoint);
    }
    loop {
        let looks = sockets.learn && desk.has_questions();
        let message = tokio::select! {
            message = messages.recv() => message,
            () = sleep_at_rest(learnt.due()), if looks => {
                look(&mut learnt, sockets.users, &desk, &daemons);
                continue;
            }
        };
        match message {
            Some(Message::Ask(question)) => {
                desk.open(*question);
                learnt.expect_news();
            }
            Some(Message::Gone(root)) => desk.close(root),
            Some(Message::Explain(reader, root, mut files)) => {
                files.extend(desk.sources(root));
                let explained = Answer::Explained(reader, files);
                if answers.send(explained).await.is_err() {
                    return;
                }
            }
            None => return,
        }
    }
}

/// Looks for daemons that were not there, or not known, before.
fn look(learnt: &mut Learnt, users: bool, desk: &Rc<Desk>, daemons: &Daemons) {
    let found = learnt.look(users);
    // As they are now: whoever reads them may not have come to it for a while.
    *daemons.lock().unwrap_or_else(PoisonError::into_inner) = found.command_lines;
    for endpoint in found.endpoints {
        tracing::info!(kind = ?endpoint.kind, socket = %endpoint.path.display(), "runtime's socket learnt");
        peer::start(desk, endpoint);
    }
}
