//! What lines have in common, kept as it was written.
//!
//! Most of a line says who the container is, and that is the same in all its lines: it is kept beside
//! the identity ([`Kept`](crate::lifecycle::Kept)), in one piece. So a line about one of very many
//! containers reads one piece of cold memory, not a dozen scattered texts. When the machine learns
//! something of the container the piece goes.

use std::{cell::Cell, fmt, sync::Arc};

use super::{Renderer, line::Json};
use crate::{
    lifecycle::{Event, Parts, Subject},
    record::{Host, Kind, Origin, State},
    time::Timestamp,
};

/// Longer parts (of many labels) are not kept, bytes.
const MAX_KEPT: usize = 4096;

/// What a line says before the state of a container, and after its version, to be kept.
pub(super) fn parts([before, after]: [Option<&[u8]>; 2]) -> Option<Parts> {
    let (before, after) = (before?, after?);
    (before.len() + after.len() <= MAX_KEPT).then(|| Parts::new(before, after))
}

/// Whether more lines are to be expected that say the same of the container. Most containers of a
/// full host are told of when they are found and when they are looked up, and then no more; of one
/// that is made more becomes known before it starts.
pub(super) fn is_lasting(event: &Event<'_>) -> bool {
    let starts = |subject: Subject<'_>| subject.state == State::Created;
    let lasts = match event.kind {
        Kind::Created => false,
        Kind::Enriched => event.container.is_some_and(starts),
        _ => true,
    };
    lasts && event.origin == Origin::Kernel
}

/// Bytes of a time that change once per second: up to the decimal point.
const SECOND_LEN: usize = 20;

/// Kept parts.
#[derive(Default)]
pub struct Written {
    /// Out of its place only while a line is written.
    common: Cell<Option<Common>>,
    second: Cell<Option<(u64, [u8; SECOND_LEN])>>,
}

/// What all lines of a stream on a host say.
pub(super) struct Common {
    stream: Arc<str>,
    host: Arc<Host>,
    /// Up to the number in the id.
    pub id: Vec<u8>,
    /// From the end of the time to the host, for each kind from each origin.
    what: Vec<Vec<u8>>,
}

const ORIGINS: [Origin; 3] = [Origin::Kernel, Origin::Snapshot, Origin::Reconcile];

impl Common {
    fn new(renderer: &Renderer) -> Self {
        let mut id = Vec::new();
        Json(&mut id).id(&renderer.stream);
        let what = ORIGINS.iter().flat_map(|origin| {
            Kind::ALL.iter().map(|kind| {
                let mut what = Vec::new();
                Json(&mut what).what(*kind, *origin, &renderer.host);
                what
            })
        });
        Self {
            stream: Arc::clone(&renderer.stream),
            host: Arc::clone(&renderer.host),
            id,
            what: what.collect(),
        }
    }

    fn is_of(&self, renderer: &Renderer) -> bool {
        Arc::ptr_eq(&self.stream, &renderer.stream) && Arc::ptr_eq(&self.host, &renderer.host)
    }

    pub(super) fn what(&self, kind: Kind, origin: Origin) -> &[u8] {
        let place = origin as usize * Kind::ALL.len() + kind as usize;
        self.what.get(place).map_or(&[], Vec::as_slice)
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").finish_non_exhaustive()
    }
}

impl Clone for Written {
    /// Nothing is known that could not be written again.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Written {
    /// What all lines say, from memory if it is there; to be given back by [`Written::keep`].
    pub(super) fn common(&self, renderer: &Renderer) -> Common {
        let kept = self.common.take().filter(|kept| kept.is_of(renderer));
        kept.unwrap_or_else(|| Common::new(renderer))
    }

    pub(super) fn keep(&self, common: Common) {
        self.common.set(Some(common));
    }

    /// Appends a time; within one second only the nanoseconds are made.
    pub(super) fn time(&self, time: Timestamp, to: &mut Vec<u8>) {
        let second = time.0 / 1_000_000_000;
        let start = to.len();
        match self.second.get() {
            Some((kept, text)) if kept == second => {
                to.extend_from_slice(&text);
                to.extend_from_slice(&time.fraction());
            }
            _ => {
                to.extend_from_slice(&time.text());
                let text = to.get(start..).and_then(|text| text.first_chunk());
                self.second.set(text.map(|text| (second, *text)));
            }
        }
    }
}
