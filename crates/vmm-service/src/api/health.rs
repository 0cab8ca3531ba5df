//! `/health`: whether the daemon is there. Answered to everybody.

use axum::Json;
use serde::Serialize;

/// That the daemon is there.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Health {
    /// Always `ok`: a daemon that is not does not answer.
    status: &'static str,
    /// The daemon's version.
    version: &'static str,
}

/// Whether the daemon is there.
#[utoipa::path(get, path = "/health", tag = "daemon",
    responses((status = 200, description = "The daemon is there", body = Health)))]
pub async fn health() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}
