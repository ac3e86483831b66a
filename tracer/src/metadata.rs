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
    enrich::{Facts, Query, Sources, lookup},
    lifecycle::{Ask, Metadata},
    record::Runtime,
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

/// Serves questions until nobody asks or nobody listens any more.
pub fn serve(
    questions: &Receiver<Ask>,
    mut sources: Sources,
    mut answer: impl FnMut(CgroupKey, Metadata) -> bool,
) {
    let mut waiting = Waiting::new();
    let mut count = 0;
    loop {
        let Some((ask, tries)) = next(questions, &mut waiting) else {
            return;
        };
        sources.learn(&ask.id, ask.bundle.as_deref(), ask.state.as_deref());
        let facts = lookup(&sources, &query(&ask));
        for problem in &facts.problems {
            tracing::debug!(id = &*ask.id, file = %problem.file.display(), why = ?problem.why, "file not used");
        }
        let again = AGAIN.get(tries).filter(|_| facts.retry);
        let metadata = metadata(facts);
        if !answer(ask.root, metadata) {
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
fn next(questions: &Receiver<Ask>, waiting: &mut Waiting) -> Option<(Ask, usize)> {
    loop {
        let Some(first) = waiting.first_entry() else {
            return questions.recv().ok().map(|ask| (ask, 0));
        };
        let left = first.key().0.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some(first.remove());
        }
        match questions.recv_timeout(left) {
            Ok(ask) => return Some((ask, 0)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

fn query(ask: &Ask) -> Query<'_> {
    Query {
        id: &ask.id,
        runtime: ask.runtime.as_deref(),
        bundle: ask.bundle.as_deref(),
        root: ask.state.as_deref(),
        pod_uid: ask.pod_uid.as_deref(),
        ..Query::default()
    }
}

fn metadata(facts: Facts) -> Metadata {
    Metadata {
        name: facts.name.map(Into::into),
        image: facts.image.map(Arc::new),
        label: (!facts.label.is_empty()).then(|| Arc::new(facts.label)),
        k8s: facts.k8s.map(Arc::new),
        created: facts.created,
        restart_count: facts.restart_count,
        sandbox: facts.sandbox,
        runtime: facts.runtime.map(|name| Runtime { name: name.into() }),
        level: facts.level,
    }
}
