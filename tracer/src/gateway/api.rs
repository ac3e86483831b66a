//! The face: HTTP for people and programs. Read only.
//!
//! ```text
//!  /                        one page                       no right needed: it holds no data
//!  /healthz /readyz         for whoever starts the gateway  no right needed
//!  /metrics /v1/…           a reader's token               (none on loopback without tokens)
//! ```
//!
//! Answers are JSON; an error is `{"error": "…"}` with a status that fits.

mod asked;
mod containers;
pub mod events;
mod nodes;
pub mod openapi;
mod page;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{
    hub::Hub,
    live::Queries,
    metrics::Metrics,
    shares::Shares,
    store::{Readers, StoreError},
    trust::Peer,
};

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct Face {
    pub hub: Arc<Hub>,
    pub readers: Arc<Readers>,
    pub queries: Arc<Queries>,
    pub metrics: Arc<Metrics>,
    pub subscribers: Arc<Semaphore>,
    /// Of these, those of one reader.
    pub shares: Arc<Shares>,
    pub stop: watch::Receiver<bool>,
}

/// Readers of the event stream at a time.
pub const SUBSCRIBERS: usize = 512;
/// Of these, those of one reader's token.
pub const SUBSCRIBERS_EACH: usize = 64;
/// How long an answer may take; the event stream has no end.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no answer.
#[derive(Debug)]
pub struct Failed(StatusCode, String);

/// As it is sent.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorBody {
    /// A sentence.
    pub error: String,
}

impl Failed {
    fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self(status, sentence.into())
    }

    fn usage(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, sentence)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(%error, cause, "a reader's question failed");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody { error: self.1 })).into_response()
    }
}

/// All routes.
pub fn router(face: Face) -> Router {
    let answers = Router::new()
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/nodes/{name}", get(nodes::one))
        .route("/v1/containers", get(containers::list))
        .route("/v1/containers/{id}", get(containers::one))
        .route("/v1/openapi.json", get(openapi::serve))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn(in_time));
    let read = answers
        .route("/v1/events", get(events::follow))
        .layer(middleware::from_fn(may_read));
    let free = Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .merge(page::routes());
    read.merge(free)
        .fallback(async || Failed::new(StatusCode::NOT_FOUND, "there is nothing here"))
        .layer(middleware::from_fn(headers))
        .with_state(face)
}

async fn in_time(request: Request, next: Next) -> Response {
    match timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_late) => {
            Failed::new(StatusCode::GATEWAY_TIMEOUT, "that took too long").into_response()
        }
    }
}

async fn may_read(request: Request, next: Next) -> Response {
    if request
        .extensions()
        .get::<Peer>()
        .is_some_and(Peer::may_read)
    {
        return next.run(request).await;
    }
    let failed = Failed::new(StatusCode::UNAUTHORIZED, "reading needs a reader's token");
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (challenge, failed).into_response()
}

/// Nothing from elsewhere is loaded, nothing here is shown elsewhere.
async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (
            "content-security-policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    let plain = HeaderValue::from_static("no-store");
    headers.entry(header::CACHE_CONTROL).or_insert(plain);
    response
}

async fn ready(State(face): State<Face>) -> Response {
    if face.hub.is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the store is not ready\n").into_response()
    }
}

async fn metrics(State(face): State<Face>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], face.metrics.text()).into_response()
}

/// Rows per page.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

fn limit(asked: Option<usize>) -> Result<usize, Failed> {
    match asked.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        other => Err(Failed::usage(format!(
            "limit is {other}: it must be 1 to {MAX_LIMIT}"
        ))),
    }
}

/// Values of a parameter that takes several, with commas between them.
fn several(text: Option<&str>) -> Vec<String> {
    let parts = text.unwrap_or_default().split(',');
    parts
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

pub use self::events::RUN_LEN;
