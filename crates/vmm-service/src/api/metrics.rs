//! `/metrics`: the Prometheus text.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Context;
use super::answers::Plain;
use super::events::MAX_STREAMS;
use super::problem::{ApiError, Result};
use crate::metrics::{self, Door};

/// Prometheus text format 0.0.4.
#[utoipa::path(get, path = "/metrics", tag = "daemon",
    responses((status = 200, description = "Metrics", content_type = "text/plain", body = String), Plain))]
pub async fn metrics(State(context): State<Context>) -> Result<Response> {
    // A few hundred milliseconds at ten thousand VMs, which would keep others
    // waiting on this thread.
    let text = tokio::task::spawn_blocking(move || text(&context))
        .await
        .map_err(|_| ApiError::internal("This is a bug; the log has more."))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

fn text(context: &Context) -> String {
    let machines: Vec<_> = context
        .registry
        .list()
        .into_iter()
        .map(|vm| {
            let guest = context.hub.guest(vm.id);
            (vm, guest)
        })
        .collect();
    let visitors = &context.visitors;
    let door = Door {
        connections: visitors.connections(),
        refused: visitors.refused(),
        delayed: visitors.delayed(),
        streams: MAX_STREAMS - context.streams.available_permits(),
    };
    metrics::render(&door, &machines)
}
