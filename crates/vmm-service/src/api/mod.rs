//! HTTP: parses, authorises, translates, and does nothing else. One file per
//! resource; the only folder that knows status codes.

mod actions;
mod answers;
mod body;
mod console;
mod doors;
mod envelope;
mod events;
mod guest;
mod health;
mod idempotency;
mod metrics;
mod operations;
mod page;
mod patience;
mod problem;
mod query;
#[cfg(test)]
mod tests;
mod visitors;
mod vms;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use vmm_api::problem::Problem;

pub use doors::{serve_tcp, serve_unix};

use self::problem::ApiError;
use self::visitors::Visitors;
use crate::events::EventBus;
use crate::guest::hub::Hub;
use crate::vm::registry::Registry;

/// What the handlers may use. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// All VMs.
    pub registry: Registry,
    /// What their guests told.
    pub hub: Hub,
    /// What happens.
    pub events: EventBus,
    /// The lists that callers are on their way through.
    orders: page::Orders,
    /// Who is at the unix socket.
    visitors: Visitors,
    /// Places for watchers.
    streams: Arc<Semaphore>,
    /// Ends the streams, which would otherwise outlive every drain.
    shutdown: CancellationToken,
}

impl Context {
    /// What the handlers may use until `shutdown`.
    pub fn new(
        registry: Registry,
        hub: Hub,
        events: EventBus,
        shutdown: CancellationToken,
    ) -> Self {
        let streams = Arc::new(Semaphore::new(events::MAX_STREAMS));
        Self {
            registry,
            hub,
            events,
            orders: page::Orders::default(),
            visitors: Visitors::default(),
            streams,
            shutdown,
        }
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "vmm-service",
        description = "Runs virtual machines on this host and shows what happens inside them."
    ),
    components(schemas(Problem))
)]
struct Document;

/// Every route, for callers that were recognised.
fn everything(context: Context) -> Router {
    let (router, document) = routed().split_for_parts();
    router
        .layer(axum::Extension(Arc::new(document)))
        .with_state(context)
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(from_fn(envelope::wrap))
}

/// This document: every route, its parameters and what it answers.
#[utoipa::path(get, path = "/openapi.json", tag = "daemon",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"), answers::Plain))]
async fn openapi(document: axum::Extension<Arc<utoipa::openapi::OpenApi>>) -> Response {
    axum::Json(document.0.as_ref()).into_response()
}

fn routed() -> OpenApiRouter<Context> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::health))
        .routes(routes!(vms::list, vms::create))
        // The seed's own name for creating.
        .routes(routes!(vms::create_alias))
        .routes(routes!(vms::get, vms::change, vms::delete))
        .routes(routes!(actions::start))
        .routes(routes!(actions::stop))
        .routes(routes!(actions::restart))
        .routes(routes!(actions::pause))
        .routes(routes!(actions::resume))
        .routes(routes!(actions::kill))
        .routes(routes!(guest::guest))
        .routes(routes!(console::log))
        .routes(routes!(events::events))
        .routes(routes!(operations::get))
        .routes(routes!(metrics::metrics))
        .routes(routes!(openapi))
}

/// What is answered to callers who may see only that the daemon is there:
/// everything else is refused with `refusal`.
fn health_only(refusal: ApiError) -> Router {
    Router::new()
        .route("/health", axum::routing::get(health::health))
        .fallback(move || std::future::ready(refusal.clone()))
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(from_fn(envelope::wrap))
}
