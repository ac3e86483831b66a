//! Answers the machine's questions about containers, on a thread of its own: a file system that does
//! not answer must not hold up an event.
//!
//! ```text
//! pipeline ──Ask──▶ bounded queue ──▶ serve: learn places, look files up, try again ──▶ pipeline
//! ```
//!
//! A question that finds a file half written, or none yet, is asked again after 10, 100 and 500 ms.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tracer_common::CgroupKey;

use crate::{
    enrich::{Facts, Query, Source, Sources, lookup},
    lifecycle::{Ask, Metadata},
    record::{Image, Runtime},
};

/// When a question without a whole answer is asked again.
const AGAIN: [Duration; 3] = [
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_millis(500),
];

/// Questions that wait to be asked again; beyond that they are not.
const MAX_WAITING: usize = 4096;

/// A question to be asked again, by when and in the order of coming.
type Waiting = BTreeMap<(Instant, u64), (Ask, usize)>;

/// What is asked.
#[derive(Debug)]
pub enum Question {
    /// What files say, for the table.
    Enrich(Ask),
    /// Which files say it, for a reader of the socket.
    Explain(u64, Ask),
}

/// What is answered.
#[derive(Debug)]
pub enum Answer {
    Enriched(CgroupKey, Metadata),
    Explained(u64, Vec<Source>),
}

/// Serves questions until nobody asks or nobody listens any more.
pub fn serve(
    questions: &Receiver<Question>,
    mut sources: Sources,
    mut answer: impl FnMut(Answer) -> bool,
) {
    let mut waiting = Waiting::new();
    let mut count = 0;
    loop {
        let Some((question, tries)) = next(questions, &mut waiting) else {
            return;
        };
        let ask = match question {
            Question::Enrich(ask) => ask,
            Question::Explain(reader, ask) => {
                let facts = lookup(&sources, &query(&ask));
                if !answer(Answer::Explained(reader, facts.sources)) {
                    return;
                }
                continue;
            }
        };
        sources.learn(&ask.id, ask.bundle.as_deref(), ask.state.as_deref());
        let facts = lookup(&sources, &query(&ask));
        for problem in &facts.problems {
            tracing::debug!(id = &*ask.id, file = %problem.file.display(), why = ?problem.why, "file not used");
        }
        let again = AGAIN.get(tries).filter(|_| facts.retry);
        let metadata = metadata(facts);
        if !answer(Answer::Enriched(ask.root, metadata)) {
            return;
        }
        if let Some(again) = again
            && waiting.len() < MAX_WAITING
        {
            count += 1;
            waiting.insert((Instant::now() + *again, count), (ask, tries + 1));
        }
    }
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

/// The question as `enrich` takes it.
pub(crate) fn query(ask: &Ask) -> Query<'_> {
    Query {
        id: &ask.id,
        runtime: ask.runtime.as_deref(),
        bundle: ask.bundle.as_deref(),
        root: ask.state.as_deref(),
        pod_uid: ask.pod_uid.as_deref(),
        owner: ask.owner,
        ..Query::default()
    }
}

/// The answer as the table takes it.
pub(crate) fn metadata(facts: Facts) -> Metadata {
    let image = facts.image.map(|image| {
        Arc::new(Image {
            repo_digests: facts.repo_digests,
            ..image
        })
    });
    Metadata {
        name: facts.name.map(Into::into),
        image,
        label: (!facts.label.is_empty()).then(|| Arc::new(facts.label)),
        k8s: facts.k8s.map(Arc::new),
        created: facts.created,
        restart_count: facts.restart_count,
        sandbox: facts.sandbox,
        runtime: facts.runtime.map(|name| Runtime { name: name.into() }),
        level: facts.level,
    }
}
