//! `/metrics`: the Prometheus text.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Context;
use super::answers::Plain;
use crate::metrics;

/// Prometheus text format 0.0.4.
#[utoipa::path(get, path = "/metrics", tag = "daemon",
    responses((status = 200, description = "Metrics", content_type = "text/plain", body = String), Plain))]
pub async fn metrics(State(context): State<Context>) -> Response {
    let machines: Vec<_> = context
        .registry
        .list()
        .into_iter()
        .map(|vm| {
            let guest = context.hub.guest(vm.id);
            (vm, guest)
        })
        .collect();
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&machines)).into_response()
}
