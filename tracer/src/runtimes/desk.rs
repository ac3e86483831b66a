//! The open questions, shared by the tasks that ask them. All on one thread.
//!
//! Questions are numbered in the order of coming. A task remembers up to which number it has asked,
//! so that finding the next question does not mean looking at all of them.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::Path,
    rc::Rc,
};

use tokio::sync::{Notify, mpsc};
use tracer_common::CgroupKey;

use super::{Endpoint, Question};
use crate::{
    enrich::{Source, api},
    lifecycle::Metadata,
    metadata::Answer,
};

/// Most open questions; the oldest are given up first.
const MAX_OPEN: usize = 16_384;

/// Number of a question.
pub(super) type Ticket = u64;

pub(super) struct Desk {
    state: RefCell<State>,
    /// Something was put on the desk.
    arrived: Notify,
    answers: mpsc::Sender<Answer>,
    given_up: Cell<u64>,
}

#[derive(Default)]
struct State {
    next: Ticket,
    open: BTreeMap<Ticket, Rc<Question>>,
    by_root: BTreeMap<CgroupKey, Ticket>,
    /// Which facts came from which socket, of containers that are there.
    told: BTreeMap<CgroupKey, Vec<(&'static str, Rc<Path>)>>,
}

impl Desk {
    pub(super) fn new(answers: mpsc::Sender<Answer>) -> Self {
        Self {
            state: RefCell::default(),
            arrived: Notify::new(),
            answers,
            given_up: Cell::new(0),
        }
    }

    /// Puts a question; one about the same container is replaced.
    pub(super) fn open(&self, question: Question) {
        let mut state = self.state.borrow_mut();
        let ticket = state.next;
        state.next += 1;
        if let Some(before) = state.by_root.insert(question.root, ticket) {
            state.open.remove(&before);
        }
        state.open.insert(ticket, Rc::new(question));
        if state.open.len() > MAX_OPEN
            && let Some((_, oldest)) = state.open.pop_first()
        {
            state.by_root.remove(&oldest.root);
            self.given_up.set(self.given_up.get() + 1);
            tracing::warn!(
                given_up = self.given_up.get(),
                "a question to a runtime is given up: too many are open"
            );
        }
        drop(state);
        self.arrived.notify_waiters();
    }

    /// Whether anything is unanswered.
    pub(super) fn has_questions(&self) -> bool {
        !self.state.borrow().open.is_empty()
    }

    /// The container is gone.
    pub(super) fn close(&self, root: CgroupKey) {
        let mut state = self.state.borrow_mut();
        state.told.remove(&root);
        if let Some(ticket) = state.by_root.remove(&root) {
            state.open.remove(&ticket);
        }
    }

    /// The first question from `from` on that this socket may know about.
    pub(super) fn next(&self, from: Ticket, endpoint: &Endpoint) -> Option<(Ticket, Rc<Question>)> {
        let state = self.state.borrow();
        let mut rest = state.open.range(from..);
        rest.find(|(_, question)| is_for(question, endpoint))
            .map(|(ticket, question)| (*ticket, Rc::clone(question)))
    }

    /// The question with this number, if it is still open for this socket.
    pub(super) fn get(&self, ticket: Ticket, endpoint: &Endpoint) -> Option<Rc<Question>> {
        let state = self.state.borrow();
        let question = state.open.get(&ticket)?;
        is_for(question, endpoint).then(|| Rc::clone(question))
    }

    /// Waits for the next change. Enabled before the caller looks, so that nothing is missed.
    pub(super) fn arrival(&self) -> tokio::sync::futures::Notified<'_> {
        self.arrived.notified()
    }

    /// A socket answered: fills the gaps, tells it, and keeps the question open for sockets of
    /// other kinds. False if nobody takes answers any more.
    pub(super) async fn answer(
        &self,
        ticket: Ticket,
        endpoint: &Endpoint,
        socket: &Rc<Path>,
        found: api::Told,
    ) -> bool {
        let Some(question) = self.take(ticket) else {
            return true;
        };
        let mut question = Rc::unwrap_or_clone(question);
        let mut known = question
            .known
            .map_or_else(Metadata::default, |known| *known);
        let facts = api::fill(&mut known, found);
        for kind in &mut question.kinds {
            kind.take_if(|kind| *kind == endpoint.kind);
        }
        let root = question.root;
        {
            let mut state = self.state.borrow_mut();
            if !facts.is_empty() {
                let facts = facts.iter().map(|fact| (*fact, Rc::clone(socket)));
                state.told.entry(root).or_default().extend(facts);
            }
            if question.kinds.iter().any(Option::is_some) {
                question.known = Some(Box::new(known.clone()));
                state.by_root.insert(root, ticket);
                state.open.insert(ticket, Rc::new(question));
            }
        }
        facts.is_empty()
            || self
                .answers
                .send(Answer::Enriched(root, known))
                .await
                .is_ok()
    }

    /// Which facts of a container are from sockets.
    pub(super) fn sources(&self, root: CgroupKey) -> Vec<Source> {
        let state = self.state.borrow();
        let told = state.told.get(&root).into_iter().flatten();
        told.map(|(fact, socket)| Source {
            fact,
            file: socket.to_path_buf(),
        })
        .collect()
    }

    fn take(&self, ticket: Ticket) -> Option<Rc<Question>> {
        let mut state = self.state.borrow_mut();
        let question = state.open.remove(&ticket)?;
        state.by_root.remove(&question.root);
        Some(question)
    }
}

fn is_for(question: &Question, endpoint: &Endpoint) -> bool {
    let is_users = endpoint.user.is_none() || endpoint.user == question.user;
    is_users && question.kinds.contains(&Some(endpoint.kind))
}
