//! What a VM is told to do. Each answers 202 with an operation once the request
//! was accepted and written down; how it goes on is in `/operations/{id}` and
//! in `/events`.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use vmm_api::operation::Operation;
use vmm_api::vm::{RestartRequest, StopRequest};

use super::Context;
use super::answers::{Acting, Telling};
use super::body::OptionalBody;
use super::problem::Result;
use super::vms::find;
use crate::vm::Request;

/// How long a guest may take to go down by itself when the caller names no
/// number: what systemd gives a unit is 90 s, and most guests need 10.
const DEFAULT_FORCE_AFTER_S: u32 = 60;

/// The answer to what takes time.
pub fn accepted(operation: Operation) -> Response {
    let location = HeaderValue::try_from(format!("/operations/{}", operation.id))
        .expect("a UUID is plain text");
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(operation)).into_response()
}

async fn act(context: &Context, id: &str, request: Request) -> Result<Response> {
    let id = find(context, id)?;
    Ok(accepted(context.registry.request(id, request).await?))
}

/// 0 means never.
fn force_after(seconds: Option<u32>) -> Option<Duration> {
    let seconds = seconds.unwrap_or(DEFAULT_FORCE_AFTER_S);
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// Boots a VM that does not run.
#[utoipa::path(post, path = "/vms/{id}/start", tag = "actions",
    params(("id" = String, Path, description = "UUID or name")),
    responses((status = 202, description = "The work that was begun", body = Operation), Acting))]
pub async fn start(State(context): State<Context>, Path(id): Path<String>) -> Result<Response> {
    act(&context, &id, Request::Start).await
}

/// Asks the guest to go down: its agent if the guest's policy allows that, else
/// the power button. Killed after the deadline.
#[utoipa::path(post, path = "/vms/{id}/stop", tag = "actions", request_body = Option<StopRequest>,
    params(("id" = String, Path, description = "UUID or name")),
    responses((status = 202, description = "The work that was begun", body = Operation), Telling))]
pub async fn stop(
    State(context): State<Context>,
    Path(id): Path<String>,
    OptionalBody(body): OptionalBody<StopRequest>,
) -> Result<Response> {
    let force_after = force_after(body.force_after_s);
    act(&context, &id, Request::Stop(force_after)).await
}

/// Reboots the guest, in the same process unless `cold`.
#[utoipa::path(post, path = "/vms/{id}/restart", tag = "actions", request_body = Option<RestartRequest>,
    params(("id" = String, Path, description = "UUID or name")),
    responses((status = 202, description = "The work that was begun", body = Operation), Telling))]
pub async fn restart(
    State(context): State<Context>,
    Path(id): Path<String>,
    OptionalBody(body): OptionalBody<RestartRequest>,
) -> Result<Response> {
    let force_after = force_after(body.force_after_s);
    act(&context, &id, Request::Restart { cold: body.cold, deadline: force_after }).await
}

/// Stops a VM's processors; everything else stays as it is.
#[utoipa::path(post, path = "/vms/{id}/pause", tag = "actions",
    params(("id" = String, Path, description = "UUID or name")),
    responses((status = 202, description = "The work that was begun", body = Operation), Acting))]
pub async fn pause(State(context): State<Context>, Path(id): Path<String>) -> Result<Response> {
    act(&context, &id, Request::Pause).await
}

/// Lets a paused VM's processors run again.
#[utoipa::path(post, path = "/vms/{id}/resume", tag = "actions",
    params(("id" = String, Path, description = "UUID or name")),
    responses((status = 202, description = "The work that was begun", body = Operation), Acting))]
pub async fn resume(State(context): State<Context>, Path(id): Path<String>) -> Result<Response> {
    act(&context, &id, Request::Resume).await
}

/// Ends a VM's process at once. What its guest had not written is lost.
#[utoipa::path(post, path = "/vms/{id}/kill", tag = "actions",
    params(("id" = String, Path, description = "UUID or name")),
    responses((status = 202, description = "The work that was begun", body = Operation), Acting))]
pub async fn kill(State(context): State<Context>, Path(id): Path<String>) -> Result<Response> {
    act(&context, &id, Request::Kill).await
}
