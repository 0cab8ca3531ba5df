//! `/operations/{id}`: how long work goes on.

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use uuid::Uuid;
use vmm_api::operation::Operation;

use super::answers::Asking;
use super::problem::{ApiError, Result};
use super::{Context, query};

/// The longest that one request may wait for an operation's end, in seconds.
const MAX_WAIT_S: u64 = 60;

/// An operation as it is now, or when it ended if that is within `wait_s`.
#[utoipa::path(get, path = "/operations/{id}", tag = "operations",
    params(("id" = Uuid, Path, description = "The operation"),
           ("wait_s" = Option<u64>, Query, description = "Answer when it ended, after at most so many seconds (0 to 60)")),
    responses((status = 200, description = "The operation", body = Operation), Asking))]
pub async fn get(
    State(context): State<Context>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Operation>> {
    query::only(&query, &["wait_s"])?;
    let parsed: Uuid = id.parse().map_err(|_| ApiError::no_such_operation(&id))?;
    let wait = match query.get("wait_s").map(|text| (text, text.parse::<u64>())) {
        None => Duration::ZERO,
        Some((_, Ok(seconds))) if seconds <= MAX_WAIT_S => Duration::from_secs(seconds),
        Some((text, _)) => {
            let detail = format!("wait_s={text:?}: write a number from 0 to {MAX_WAIT_S}.");
            return Err(ApiError::bad_parameter(detail));
        }
    };
    let found = tokio::select! {
        found = context.registry.wait_operation(parsed, wait) => found,
        () = context.shutdown.cancelled() => context.registry.operation(parsed).await,
    };
    found?.map(Json).ok_or_else(|| ApiError::no_such_operation(&id))
}
