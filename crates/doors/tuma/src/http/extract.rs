//! What stands in a path and behind its question mark, refused as everything else is where it cannot be read.

use super::refusal::Refusal;
use axum::extract::{FromRequestParts, Path as AnyPath, Query as AnyQuery};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

/// What stands behind the question mark.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let wrong = |why: axum::extract::rejection::QueryRejection| Refusal::bad(why.body_text());
        AnyQuery::try_from_uri(&parts.uri).map(|AnyQuery(value)| Self(value)).map_err(wrong)
    }
}

/// A part of the path.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = AnyPath::from_request_parts(parts, state).await;
        path.map(|AnyPath(value)| Self(value)).map_err(|why| Refusal::bad(why.body_text()))
    }
}
