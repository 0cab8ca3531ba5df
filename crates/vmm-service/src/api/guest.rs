//! `/vms/{id}/guest`: what is known of the inside of a VM.

use axum::Json;
use axum::extract::{Path, State};
use vmm_api::guest::Guest;

use super::Context;
use super::answers::Reading;
use super::problem::Result;
use super::vms::find;

/// What the guest told: facts, stages of its boot, and what was thrown away.
#[utoipa::path(get, path = "/vms/{id}/guest", tag = "guest",
    params(("id" = String, Path, description = "UUID or name")),
    responses((status = 200, description = "The guest's own word", body = Guest), Reading))]
pub async fn guest(State(context): State<Context>, Path(id): Path<String>) -> Result<Json<Guest>> {
    let id = find(&context, &id)?;
    Ok(Json(context.hub.guest(id)))
}
