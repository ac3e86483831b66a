//! What a request asks for, with errors in the face's own form: axum's are plain text.

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::Failed;

/// The query.
pub struct Asked<T>(pub T);

/// The part of the path that is a name.
pub struct Named(pub String);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let query = Query::from_request_parts(parts, state).await;
        let Query(query) = query.map_err(|error| Failed::usage(error.body_text()))?;
        Ok(Self(query))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let path = Path::from_request_parts(parts, state).await;
        let Path(name) = path.map_err(|error| Failed::usage(error.body_text()))?;
        Ok(Self(name))
    }
}
