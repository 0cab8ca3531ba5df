//! Bodies: bounded, and read with errors that say where.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;
use vmm_api::vm::{RestartRequest, StopRequest, VmPatch};

use super::problem::{ApiError, Result};
use crate::vm::field::Fields;

/// The longest body that any route takes, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// How long a body may take to arrive. The longest takes moments over a socket
/// of this host.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// A JSON body, with the bytes that it came as.
pub struct JsonBody {
    /// As it was sent.
    pub raw: Bytes,
    /// As it was understood.
    pub value: Value,
}

/// A body that may be left out; then it is the type's default.
pub struct OptionalBody<T>(pub T);

/// What can be read field by field, so that every wrong one is told at once.
pub trait FromFields: Default {
    /// Reads the fields; what is not read is unknown.
    fn from_fields(fields: &mut Fields<'_>) -> Self;
}

impl FromFields for StopRequest {
    fn from_fields(fields: &mut Fields<'_>) -> Self {
        Self { force_after_s: seconds(fields) }
    }
}

impl FromFields for RestartRequest {
    fn from_fields(fields: &mut Fields<'_>) -> Self {
        Self { cold: fields.flag("cold"), force_after_s: seconds(fields) }
    }
}

impl FromFields for VmPatch {
    fn from_fields(fields: &mut Fields<'_>) -> Self {
        Self { autostart: fields.has("autostart").then(|| fields.flag("autostart")) }
    }
}

impl<S: Sync> FromRequest<S> for JsonBody {
    type Rejection = Response;

    async fn from_request(request: Request, _state: &S) -> std::result::Result<Self, Response> {
        read(request).await.map_err(IntoResponse::into_response)
    }
}

impl<S: Sync, T: FromFields> FromRequest<S> for OptionalBody<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _state: &S) -> std::result::Result<Self, Response> {
        read_optional(request).await.map(OptionalBody).map_err(IntoResponse::into_response)
    }
}

async fn read(request: Request) -> Result<JsonBody> {
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    let raw = bytes(request.into_body()).await?;
    if !is_json {
        return Err(ApiError::unsupported_media_type());
    }
    let value = serde_json::from_slice(&raw)
        .map_err(|error| ApiError::bad_body(format!("The body is not JSON: {error}.")))?;
    Ok(JsonBody { raw, value })
}

async fn read_optional<T: FromFields>(request: Request) -> Result<T> {
    let raw = bytes(request.into_body()).await?;
    if raw.is_empty() {
        return Ok(T::default());
    }
    let value: Value = serde_json::from_slice(&raw)
        .map_err(|error| ApiError::bad_body(format!("The body is not JSON: {error}.")))?;
    read_fields(value)
}

/// Reads an object field by field, or tells every wrong one.
pub fn read_fields<T: FromFields>(value: Value) -> Result<T> {
    let Value::Object(object) = value else {
        return Err(ApiError::bad_body("The body must be a JSON object."));
    };
    let mut errors = Vec::new();
    let mut fields = Fields::new("", &object, &mut errors);
    let read = T::from_fields(&mut fields);
    fields.refuse_the_rest();
    if errors.is_empty() {
        return Ok(read);
    }
    Err(ApiError::invalid("The request is not valid", errors))
}

fn seconds(fields: &mut Fields<'_>) -> Option<u32> {
    let seconds = fields.optional_integer("force_after_s", 0..=u32::MAX.into())?;
    Some(u32::try_from(seconds).expect("it was checked against the largest"))
}

async fn bytes(body: Body) -> Result<Bytes> {
    let read = timeout(BODY_DEADLINE, to_bytes(body, MAX_BODY_BYTES)).await;
    let read = read.map_err(|_| ApiError::too_slow(BODY_DEADLINE.as_secs()))?;
    read.map_err(|error| {
        let too_long = std::error::Error::source(&error)
            .is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>);
        if too_long {
            ApiError::too_large(MAX_BODY_BYTES)
        } else {
            ApiError::bad_body("The body did not arrive whole.")
        }
    })
}
