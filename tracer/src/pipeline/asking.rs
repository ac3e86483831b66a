//! Questions to the metadata thread, none of which is lost.
//!
//! The thread's queue is bounded: it may be held up by a file system that does not answer, or by the
//! first scan of a full host. A question that finds no place there waits here as one word about its
//! container, and is put as soon as the thread has taken others, the newest cgroup first: whoever starts
//! a container now looks at it sooner than at those that a scan found. What waits is bounded by the
//! containers that exist, and by [`MAX_GONE`] that do not; a container that goes takes its question
//! along.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
};

use anyhow::Context as _;
use tokio::sync::mpsc;
use tracer_common::CgroupKey;

use crate::{
    config::Runtimes,
    enrich::Sources,
    lifecycle::{Ask, of_call},
    metadata::{self, Answer, Question},
};

/// Questions in the thread's queue at most, which it takes in their order.
/// Few: a question about a container that starts now waits for them.
const MAX_QUESTIONS: usize = 256;

/// Answers on their way back at most; beyond that whoever answers waits.
const MAX_ANSWERS: usize = 256;

/// Ends of containers that the thread was not told of at most: it may hang for days.
const MAX_GONE: usize = 4096;

/// What the thread is still to be told about a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    Enrich { sockets: bool },
    Gone,
}

/// The way to the metadata thread.
#[derive(Debug)]
pub(super) struct Asking {
    queue: SyncSender<Question>,
    late: BTreeMap<CgroupKey, Late>,
    /// Tells the thread to say when it takes a question.
    waits: Arc<AtomicBool>,
    /// How many of them are gone.
    gone: usize,
}

impl Asking {
    /// Starts the thread that reads what runtimes wrote, and the one that asks runtimes. They end
    /// when either queue has no other end.
    pub(super) fn start(
        mut sources: Sources,
        runtimes: &Runtimes,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Answer>)> {
        let (queue, asked) = std::sync::mpsc::sync_channel(MAX_QUESTIONS);
        let (answered, answers) = mpsc::channel(MAX_ANSWERS);
        let sockets = runtimes.ask_on_a_thread(&answered)?;
        let runtimes = runtimes.clone();
        let thread = std::thread::Builder::new().name("metadata".to_owned());
        let asking = Self::to(queue);
        let waits = Arc::clone(&asking.waits);
        let spawned: io::Result<_> = thread.spawn(move || {
            runtimes.configure(&mut sources);
            metadata::serve(&asked, &waits, sources, sockets, |answer| {
                answered.blocking_send(answer).is_ok()
            });
        });
        spawned.context("cannot start a thread")?;
        Ok((asking, answers))
    }

    fn to(queue: SyncSender<Question>) -> Self {
        Self {
            queue,
            late: BTreeMap::new(),
            waits: Arc::default(),
            gone: 0,
        }
    }

    /// What files say, for the table.
    pub(super) fn enrich(&mut self, ask: Box<Ask>) {
        let (root, sockets) = (ask.root, ask.sockets);
        if !self.late.contains_key(&root) {
            match self.queue.try_send(Question::Enrich(ask)) {
                // Without its thread tracer is about to end.
                Ok(()) | Err(TrySendError::Disconnected(_)) => return,
                // Of a container that is not there yet; it is asked about when it is.
                Err(TrySendError::Full(_)) if of_call(root) => return,
                Err(TrySendError::Full(_)) => {}
            }
        }
        let sockets = sockets || self.late.get(&root) == Some(&Late::Enrich { sockets: true });
        self.note(root, Late::Enrich { sockets });
    }

    /// The container with this root is gone.
    pub(super) fn gone(&mut self, root: CgroupKey) {
        let full = match self.queue.try_send(Question::Gone(root)) {
            Err(TrySendError::Full(_)) => true,
            Ok(()) | Err(TrySendError::Disconnected(_)) => false,
        };
        if full && self.gone < MAX_GONE {
            self.note(root, Late::Gone);
        } else {
            self.forget(root);
        }
    }

    /// Which files say it, for a reader of the socket; false where the thread is too busy.
    pub(super) fn explain(&self, reader: u64, ask: Ask) -> bool {
        let question = Question::Explain(reader, Box::new(ask));
        self.queue.try_send(question).is_ok()
    }

    /// Puts what is late, as far as there is room; `question` makes the one about a container that
    /// is still there.
    pub(super) fn catch_up(&mut self, question: impl Fn(CgroupKey) -> Option<Ask>) {
        if self.late.is_empty() {
            return;
        }
        // Before the queue is tried: if it is full, the thread takes something after this.
        self.waits.store(true, Ordering::Release);
        while let Some((root, late)) = self.late.last_key_value() {
            let (root, late) = (*root, *late);
            let question = match late {
                Late::Gone => Some(Question::Gone(root)),
                Late::Enrich { sockets } => {
                    question(root).map(|ask| Question::Enrich(Box::new(Ask { sockets, ..ask })))
                }
            };
            if let Some(question) = question
                && self.queue.try_send(question).is_err()
            {
                return;
            }
            self.forget(root);
        }
        self.waits.store(false, Ordering::Release);
    }

    fn note(&mut self, root: CgroupKey, late: Late) {
        self.forget(root);
        self.gone += usize::from(late == Late::Gone);
        self.late.insert(root, late);
    }

    fn forget(&mut self, root: CgroupKey) {
        let before = self.late.remove(&root);
        self.gone -= usize::from(before == Some(Late::Gone));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    fn ask(id: u64, sockets: bool) -> Box<Ask> {
        Box::new(Ask {
            root: CgroupKey::new(0, id),
            sockets,
            ..Ask::default()
        })
    }

    /// Everything that is queued, as the number of its container: negative where it is gone.
    fn heard(queue: &Receiver<Question>) -> Vec<(i64, bool)> {
        let number = |root: CgroupKey| i64::try_from(root.id).expect("a small one");
        let questions = queue.try_iter();
        questions
            .map(|question| match question {
                Question::Enrich(ask) => (number(ask.root), ask.sockets),
                Question::Gone(root) => (-number(root), false),
                Question::Explain(..) => (0, false),
            })
            .collect()
    }

    #[test]
    fn what_finds_no_place_is_asked_later() {
        let (sender, queue) = sync_channel(2);
        let mut asking = Asking::to(sender);
        for id in 1..=5 {
            asking.enrich(ask(id, true));
        }
        // Asked again before it was asked at all: one question, with sockets.
        asking.enrich(ask(3, false));
        // This one goes meanwhile, and what is asked about it goes along.
        let question = |root: CgroupKey| (root.id != 4).then(|| *ask(root.id, false));
        assert!(!asking.explain(1, *ask(1, false)));
        asking.catch_up(question);
        assert!(asking.waits.load(Ordering::Acquire), "nobody would go on");
        assert_eq!(heard(&queue), [(1, true), (2, true)]);
        asking.catch_up(question);
        assert_eq!(heard(&queue), [(5, true), (3, true)]);
        asking.catch_up(question);
        assert_eq!(heard(&queue), []);
        assert!(asking.late.is_empty());
        assert!(!asking.waits.load(Ordering::Acquire));
    }

    #[test]
    fn the_end_of_a_container_is_told_later_too() {
        let (sender, queue) = sync_channel(2);
        let mut asking = Asking::to(sender);
        for id in 1..=3 {
            asking.enrich(ask(id, false));
        }
        asking.gone(CgroupKey::new(0, 1));
        asking.gone(CgroupKey::new(0, 3));
        assert_eq!(asking.gone, 2);
        assert_eq!(heard(&queue), [(1, false), (2, false)]);
        asking.catch_up(|_| None);
        assert_eq!(heard(&queue), [(-3, false), (-1, false)]);
        assert_eq!(asking.gone, 0);
        assert!(asking.late.is_empty());
    }

    #[test]
    fn a_thread_that_hangs_costs_bounded_memory() {
        let (sender, queue) = sync_channel(1);
        let mut asking = Asking::to(sender);
        for id in 0..3 * u64::try_from(MAX_GONE).expect("small") {
            asking.enrich(ask(id, false));
            asking.gone(CgroupKey::new(0, id));
        }
        assert_eq!(asking.late.len(), MAX_GONE);
        assert_eq!(heard(&queue), [(0, false)]);
    }

    #[test]
    fn a_call_is_not_asked_about_later() {
        let (sender, _queue) = sync_channel(1);
        let mut asking = Asking::to(sender);
        for number in 0..3 {
            asking.enrich(Box::new(Ask {
                root: CgroupKey::new(u32::MAX, number),
                ..Ask::default()
            }));
        }
        assert!(asking.late.is_empty());
    }
}
