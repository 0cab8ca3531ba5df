//! What surrounds every request: an id that the caller and the log both have, a
//! deadline, one log line, and a body for every problem.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use uuid::Uuid;
use vmm_api::problem::MEDIA_TYPE;

use super::problem::ApiError;

/// How long a handler may take to begin its answer. Longer than the longest
/// long poll; streams are not limited by it, for they begin at once.
const HANDLER_DEADLINE: Duration = Duration::from_secs(75);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Runs a request. The id is ours, never the caller's: it must be unique in the
/// log.
pub async fn wrap(request: Request, next: Next) -> Response {
    let id = Uuid::now_v7().to_string();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let start = Instant::now();

    let answer = AssertUnwindSafe(tokio::time::timeout(HANDLER_DEADLINE, next.run(request)));
    let response = match answer.catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => ApiError::timed_out(HANDLER_DEADLINE.as_secs()).into_response(),
        Err(_) => ApiError::internal("This is a bug; the log has more.").into_response(),
    };
    let response = finish(response, &id);

    let status = response.status().as_u16();
    let ms = start.elapsed().as_millis();
    if response.status().is_server_error() {
        tracing::warn!(request = id, %method, path, status, ms, "A request failed.");
    } else {
        tracing::debug!(request = id, %method, path, status, ms, "A request was answered.");
    }
    response
}

fn finish(mut response: Response, id: &str) -> Response {
    if let Some(ApiError(mut problem)) = response.extensions_mut().remove::<ApiError>() {
        problem.request_id = id.to_owned();
        response = (response.status(), Json(problem)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    }
    let id = HeaderValue::from_str(id).expect("a UUID is a header value");
    response.headers_mut().insert(REQUEST_ID, id);
    response
}
