//! `/v1/containers`.

use axum::{Json, extract::State as Shared, http::StatusCode};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Face, Failed,
    asked::{Asked, Named},
    limit, several,
};
use crate::{
    gateway::{
        live::Live,
        liveness::Reach,
        parse::Head,
        store::{ContainerRow, Search},
    },
    record::{Record, State},
    time::Timestamp,
};

/// Which containers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainersQuery {
    /// A node's name.
    node: Option<String>,
    /// `created`, `running`, `paused`, `exited`, `removed`; several with commas. Where it is left
    /// out: all but `removed`, which are known for as long as their last record is kept.
    #[schemars(regex(
        pattern = "^(created|running|paused|exited|removed)(,(created|running|paused|exited|removed))*$"
    ))]
    state: Option<String>,
    runtime: Option<String>,
    namespace: Option<String>,
    /// An id, at least 4 characters of one, or a name.
    container: Option<String>,
    /// `key` or `key=value`; several with commas: any of them.
    label: Option<String>,
    /// Part of a name, id, image, pod or node.
    q: Option<String>,
    /// `next` of the page before.
    #[schemars(regex(pattern = "^[0-9]{1,18}$"))]
    cursor: Option<String>,
    /// Containers per page: 1 to 1000, 100 where it is left out. A page may have less though there
    /// is a next one.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<usize>,
}

/// How to look at one container.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerQuery {
    /// On this node only.
    node: Option<String>,
    /// `1`: ask the node itself.
    fresh: Option<u8>,
}

/// A container, as the gateway knows it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ContainerView {
    node: String,
    /// Where its node is: the state of a container on an unreachable one is an old one.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_state: Option<Reach>,
    state: State,
    /// When the gateway got the newest record.
    updated: Timestamp,
    /// The newest record about it.
    #[schemars(with = "Record")]
    record: Box<RawValue>,
    /// With `fresh=1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<LiveView>,
}

/// What came of asking the node.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LiveView {
    /// `false`: neither now nor lately did the node answer; the record is the gateway's.
    answered: bool,
    /// The node does not answer now: this is what it said before.
    stale: bool,
    /// How old its answer is.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<u64>,
}

/// One page of containers, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Containers {
    containers: Vec<ContainerView>,
    /// The next page's `cursor`; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

fn raw(line: &Bytes) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(line).ok()?;
    RawValue::from_string(text.to_owned()).ok()
}

fn view(face: &Face, row: ContainerRow) -> Option<ContainerView> {
    Some(ContainerView {
        node_state: face.hub.node(&row.node).and_then(|node| node.state),
        state: row.state,
        updated: Timestamp(row.updated.saturating_mul(1_000_000)),
        record: raw(&row.line)?,
        live: None,
        node: row.node,
    })
}

fn states(text: Option<&str>) -> Result<Vec<State>, Failed> {
    let one = |name: String| match name.as_str() {
        "created" => Ok(State::Created),
        "running" => Ok(State::Running),
        "paused" => Ok(State::Paused),
        "exited" => Ok(State::Exited),
        "removed" => Ok(State::Removed),
        other => Err(Failed::usage(format!(
            "there is no state '{}'",
            other.escape_debug()
        ))),
    };
    several(text).into_iter().map(one).collect()
}

pub async fn list(
    Shared(face): Shared<Face>,
    Asked(query): Asked<ContainersQuery>,
) -> Result<Json<Containers>, Failed> {
    let before = query.cursor.map(|cursor| cursor.parse());
    let before = before
        .transpose()
        .map_err(|_number| Failed::usage("this is no cursor"))?;
    let search = Search {
        node: query.node,
        states: states(query.state.as_deref())?,
        runtime: query.runtime,
        namespace: query.namespace,
        container: query.container,
        labels: several(query.label.as_deref()),
        text: query.q.filter(|text| !text.is_empty()),
        before,
        limit: limit(query.limit)?,
    };
    let found = face.readers.search(search).await?;
    let rows = found.rows.into_iter();
    Ok(Json(Containers {
        containers: rows.filter_map(|row| view(&face, row)).collect(),
        next: found.next.map(|row| row.to_string()),
    }))
}

pub async fn one(
    Shared(face): Shared<Face>,
    Named(id): Named,
    Asked(query): Asked<ContainerQuery>,
) -> Result<Json<ContainerView>, Failed> {
    let rows = face.readers.one(id, query.node).await?;
    let row = choose(rows)?;
    if query.fresh != Some(1) {
        return shown(view(&face, row));
    }
    let live = face.queries.ask(&row.node, &row.instance).await;
    shown(view(&face, row).map(|view| with(view, live)))
}

fn shown(view: Option<ContainerView>) -> Result<Json<ContainerView>, Failed> {
    view.map(Json).ok_or_else(|| {
        Failed::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "its record cannot be read",
        )
    })
}

/// The first is the best; another container that is no worse makes the question ambiguous.
fn choose(rows: Vec<ContainerRow>) -> Result<ContainerRow, Failed> {
    let mut rows = rows.into_iter();
    let Some(first) = rows.next() else {
        return Err(Failed::new(
            StatusCode::NOT_FOUND,
            "there is no such container",
        ));
    };
    let gone = first.state == State::Removed;
    let rivals: Vec<String> = rows
        .filter(|row| {
            (row.id != first.id || row.node != first.node) && (gone || row.state != State::Removed)
        })
        .map(|row| format!("{} on {}", row.instance, row.node))
        .take(8)
        .collect();
    if rivals.is_empty() {
        return Ok(first);
    }
    let sentence = format!(
        "this fits several containers; give the instance of one: {} on {}, {}",
        first.instance,
        first.node,
        rivals.join(", ")
    );
    Err(Failed::new(StatusCode::CONFLICT, sentence))
}

fn with(mut view: ContainerView, live: Option<Live>) -> ContainerView {
    let Some(live) = live else {
        view.live = Some(LiveView {
            answered: false,
            stale: true,
            age_ms: None,
        });
        return view;
    };
    view.live = Some(LiveView {
        answered: true,
        stale: live.stale,
        age_ms: u64::try_from(live.age.as_millis()).ok(),
    });
    // A node that does not know the container has seen it go.
    match &live.line {
        None => view.state = State::Removed,
        Some(told) => {
            let subject = Head::parse(told).and_then(|head| head.subject);
            if let (Some(subject), Some(record)) = (subject, raw(told)) {
                view.state = subject.state;
                view.record = record;
            }
        }
    }
    view
}
