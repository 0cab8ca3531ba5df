//! `/operations/{id}`: how long work goes on.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use uuid::Uuid;
use vmm_api::operation::Operation;

use super::Context;
use super::answers::Asking;
use super::problem::{ApiError, Result};
use super::query::Parameters;

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
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Operation>> {
    let mut given = Parameters::new(query);
    let right = format!("a number of seconds from 0 to {MAX_WAIT_S}");
    let wait = given.one("wait_s", &right, |text| {
        text.parse().ok().filter(|seconds| *seconds <= MAX_WAIT_S).map(Duration::from_secs)
    });
    given.finish()?;
    let wait = wait.unwrap_or_default();
    let parsed: Uuid = id.parse().map_err(|_| ApiError::no_such_operation(&id))?;
    let found = tokio::select! {
        found = context.registry.wait_operation(parsed, wait) => found,
        () = context.shutdown.cancelled() => context.registry.operation(parsed).await,
    };
    found?.map(Json).ok_or_else(|| ApiError::no_such_operation(&id))
}
