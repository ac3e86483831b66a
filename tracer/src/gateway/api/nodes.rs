//! `/v1/nodes`.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Face, Failed,
    asked::{Asked, Named},
    limit, several,
};
use crate::gateway::{hub::NodeView, liveness::Reach};

/// Which nodes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodesQuery {
    /// `online`, `unreachable`, `offline`; several with commas.
    #[schemars(regex(pattern = "^(online|unreachable|offline)(,(online|unreachable|offline))*$"))]
    state: Option<String>,
    /// Part of the name.
    q: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Nodes per page: 1 to 1000, 100 where it is left out.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<usize>,
}

/// One page of nodes, by name. One that was not heard for as long as records are kept is on none.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Nodes {
    nodes: Vec<Arc<NodeView>>,
    /// The next page's `cursor`; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Arc<str>>,
}

pub async fn list(
    State(face): State<Face>,
    Asked(query): Asked<NodesQuery>,
) -> Result<Json<Nodes>, Failed> {
    let limit = limit(query.limit)?;
    let mut states = Vec::new();
    for name in several(query.state.as_deref()) {
        let all = [Reach::Online, Reach::Unreachable, Reach::Offline];
        let found = all.into_iter().find(|state| state.as_str() == name);
        states.push(found.ok_or_else(|| {
            Failed::usage(format!("there is no state '{}'", name.escape_debug()))
        })?);
    }
    let part = query.q.unwrap_or_default().to_lowercase();
    let wanted = |node: &NodeView| {
        let in_state = states.is_empty() || node.state.is_some_and(|state| states.contains(&state));
        in_state && node.name.to_lowercase().contains(&part)
    };
    let mut nodes = face.hub.nodes(query.cursor.as_deref(), limit + 1, wanted);
    let more = nodes.len() > limit;
    nodes.truncate(limit);
    let next = nodes
        .last()
        .filter(|_| more)
        .map(|node| Arc::clone(&node.name));
    Ok(Json(Nodes { nodes, next }))
}

pub async fn one(
    State(face): State<Face>,
    Named(name): Named,
) -> Result<Json<Arc<NodeView>>, Failed> {
    let found = face.hub.node(&name);
    found
        .map(Json)
        .ok_or_else(|| Failed::new(StatusCode::NOT_FOUND, "there is no node of this name"))
}
