//! `/v1/events`: all nodes' records as they are committed, as server-sent events.
//!
//! A reader has a place and no queue. What it missed is in memory or in the store; what is no longer
//! kept, and a cursor of another store, is told by an event named `gap`.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Extension, State},
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::stream::{self, Stream};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Face, Failed, asked::Asked, several};
use crate::{
    cli::FilterArgs,
    config,
    filter::Filter,
    gateway::{hub::Next, parse::View, shares::Share, store::Piece, trust::Peer},
    sink::socket::protocol::Since,
    time::{boot_now, wall_offset},
};

/// Which records.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Where to begin: a cursor (an event's id; the next one comes), a time (RFC 3339), or so long
    /// ago (`10m`). Where it is left out: from now on. The header `Last-Event-ID` goes before it.
    since: Option<String>,
    /// Only this node; several with commas.
    node: Option<String>,
    /// Only records of these types; several with commas.
    #[serde(rename = "type")]
    kind: Option<String>,
    runtime: Option<String>,
    container: Option<String>,
    namespace: Option<String>,
    label: Option<String>,
}

/// Bytes of events that are made ready at a time: so much a reader that does not read costs.
const PIECE: usize = 256 << 10;
/// An idle stream says that it is alive.
const ALIVE: Duration = Duration::from_secs(15);

struct Reader {
    face: Face,
    at: u64,
    ends: watch::Receiver<u64>,
    stop: watch::Receiver<bool>,
    nodes: Vec<String>,
    filter: Option<Filter>,
    ready: VecDeque<Event>,
    failed: bool,
    _count: Count,
    _place: Place,
}

/// Among all readers, and among those of the same token.
type Place = (OwnedSemaphorePermit, Option<Share>);

/// Counts the open streams.
struct Count(Face);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.metrics.subscribers.dec();
    }
}

pub async fn follow(
    State(face): State<Face>,
    Extension(peer): Extension<Peer>,
    Asked(query): Asked<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Failed> {
    let place = place(&face, &peer)?;
    let filter = filter(&query)?;
    let ends = face.hub.ends();
    let end = *ends.borrow();
    let mut ready = VecDeque::new();
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let at = match last.or(query.since.as_deref()) {
        None => end,
        Some(since) => begin(&face, since, end, &mut ready).await?,
    };
    face.metrics.subscribers.inc();
    let reader = Reader {
        stop: face.stop.clone(),
        _count: Count(face.clone()),
        face,
        at,
        ends,
        nodes: several(query.node.as_deref()),
        filter,
        ready,
        failed: false,
        _place: place,
    };
    Ok(Sse::new(events(reader))
        .keep_alive(KeepAlive::new().interval(ALIVE))
        .into_response())
}

fn place(face: &Face, peer: &Peer) -> Result<Place, Failed> {
    let crowded = |sentence| Failed::new(StatusCode::SERVICE_UNAVAILABLE, sentence);
    let share = match peer.who() {
        None => None,
        Some(who) => Some(
            face.shares
                .take(who)
                .ok_or_else(|| crowded("this reader follows too often already"))?,
        ),
    };
    let place = Arc::clone(&face.subscribers).try_acquire_owned();
    let place = place.map_err(|_full| crowded("there are too many readers already"))?;
    Ok((place, share))
}

fn filter(query: &EventsQuery) -> Result<Option<Filter>, Failed> {
    // The gateway's own types are no kinds of the record; asked for, they come by name.
    let filter = config::filter(FilterArgs {
        types: several(query.kind.as_deref()),
        runtimes: several(query.runtime.as_deref()),
        containers: several(query.container.as_deref()),
        namespaces: several(query.namespace.as_deref()),
        labels: several(query.label.as_deref()),
    })
    .map_err(|error| Failed::usage(error.to_string()))?;
    Ok((filter != Filter::default()).then_some(filter))
}

/// The number to begin with.
async fn begin(
    face: &Face,
    since: &str,
    end: u64,
    ready: &mut VecDeque<Event>,
) -> Result<u64, Failed> {
    if let Some((run, number)) = since
        .rsplit_once('-')
        .and_then(|(run, n)| Some((run, n.parse::<u64>().ok()?)))
        && run.len() == RUN_LEN
        && run.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        let next = number.saturating_add(1);
        let known = face.readers.run(run.to_owned()).await?;
        return match known {
            // A power failure took what was not on the disk yet: the nodes send it again.
            Some((first, Some(after))) if next >= first && next > after => {
                let why = "the newest records before this were not kept: they come again";
                ready.push_back(gap(why, Some(after), next));
                Ok(after)
            }
            Some((first, _)) if next >= first && next <= end => Ok(next),
            _ => {
                ready.push_back(gap(
                    "the cursor is of another store: what lies between is not known",
                    None,
                    end,
                ));
                Ok(end)
            }
        };
    }
    match Since::parse(since, wall_offset().at(boot_now())) {
        Some(Since::Seq(number)) => Ok(number.min(end)),
        Some(Since::Time(time)) => {
            let found = face.readers.number_at(time.0 / 1_000_000).await?;
            Ok(found.unwrap_or(end))
        }
        None => Err(Failed::usage("since is no cursor, time or duration")),
    }
}

/// Characters of a run's name.
pub const RUN_LEN: usize = 8;

fn gap(why: &str, from: Option<u64>, to: u64) -> Event {
    let text = serde_json::json!({"why": why, "from": from, "to": to}).to_string();
    Event::default().event("gap").data(text)
}

fn events(reader: Reader) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(reader, async |mut reader| {
        loop {
            if let Some(event) = reader.ready.pop_front() {
                return Some((Ok(event), reader));
            }
            if reader.failed || *reader.stop.borrow() {
                return None;
            }
            reader.fill().await;
            if reader.ready.is_empty() && reader.at >= *reader.ends.borrow() {
                let mut stop = reader.stop.clone();
                tokio::select! {
                    changed = reader.ends.changed() => changed.ok()?,
                    _ = stop.wait_for(|stop| *stop) => return None,
                }
            }
        }
    })
}

impl Reader {
    async fn fill(&mut self) {
        self.ends.mark_unchanged();
        match self.face.hub.from(self.at) {
            Next::Pieces(pieces) => {
                let mut room = PIECE;
                for piece in pieces {
                    if !self.take(&piece, &mut room) {
                        break;
                    }
                }
            }
            Next::Behind => match self.face.readers.pieces(self.at, PIECE).await {
                Ok(pieces) => {
                    let first = pieces
                        .first()
                        .map_or_else(|| *self.ends.borrow(), |piece| piece.first);
                    if first > self.at {
                        let lost = first - self.at;
                        self.face.metrics.not_streamed("expired", lost);
                        self.ready
                            .push_back(gap("these are no longer kept", Some(self.at), first));
                        self.at = first;
                    }
                    let mut room = PIECE;
                    for piece in pieces {
                        if !self.take(&piece, &mut room) {
                            break;
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a reader of events is ended");
                    self.failed = true;
                }
            },
        }
    }

    /// Makes a batch's events ready; false where there is no room for more: the rest comes later.
    fn take(&mut self, piece: &Piece, room: &mut usize) -> bool {
        let end = piece.first + piece.count;
        if self.nodes.is_empty() || self.nodes.contains(&piece.node) {
            let mut filtered = 0;
            for item in piece.items(self.at) {
                let wanted = self.filter.as_ref().is_none_or(|filter| {
                    View::parse(&item.line).is_some_and(|view| view.matches(filter))
                });
                if !wanted {
                    filtered += 1;
                    continue;
                }
                let Ok(line) = std::str::from_utf8(&item.line) else {
                    continue;
                };
                let node = serde_json::to_string(&piece.node).unwrap_or_default();
                let cursor = format!("{}-{}", self.face.hub.run, item.number);
                let text = format!(
                    "{{\"cursor\":\"{cursor}\",\"received_ms\":{},\"node\":{node},\"record\":{line}}}",
                    piece.received
                );
                self.face.metrics.streamed.inc();
                *room = room.saturating_sub(text.len());
                self.ready.push_back(Event::default().id(cursor).data(text));
                if *room == 0 {
                    self.face.metrics.not_streamed("filtered", filtered);
                    self.at = self.at.max(item.number + 1);
                    return false;
                }
            }
            self.face.metrics.not_streamed("filtered", filtered);
        }
        self.at = self.at.max(end);
        true
    }
}

/// What `data` of an event is.
#[derive(Debug, JsonSchema)]
#[expect(dead_code, reason = "describes text that is put together by hand")]
pub struct EventView {
    /// For `since` and `Last-Event-ID`.
    cursor: String,
    /// When the gateway got it, milliseconds since 1970.
    received_ms: u64,
    /// Who it is from, or about.
    node: String,
    /// The node's record, as it came; or the gateway's own.
    record: crate::record::Record,
}
