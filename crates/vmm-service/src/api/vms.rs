//! `/vms` and `/vms/{id}`: which VMs there are, and making and deleting them.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;
use vmm_api::guest::AgentState;
use vmm_api::operation::Operation;
use vmm_api::vm::{self, Vm, VmList, VmPatch, VmSpec};

use super::actions::accepted;
use super::answers::{Acting, Changing, Creating, Listing, Reading};
use super::body::{JsonBody, read_fields};
use super::page::Asked;
use super::problem::{ApiError, Result};
use super::{Context, idempotency, page};
use crate::vm::Request;

/// The VM that a path names, by its UUID or its name.
pub fn find(context: &Context, id: &str) -> Result<Uuid> {
    context.registry.find(id).ok_or_else(|| ApiError::no_such_vm(id))
}

/// Which VMs there are. Going from page to page by `next_cursor` gives every
/// VM that stays exactly once, whatever is created and deleted meanwhile. A
/// page may hold fewer VMs than `limit` and still have a next one.
#[utoipa::path(get, path = "/vms", tag = "vms",
    params(
        ("limit" = Option<usize>, Query, description = "VMs on a page, 1 to 1000; 200 when absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, with the same `sort`"),
        ("state" = Option<Vec<vm::State>>, Query, explode = false, description = "Only VMs in one of these states, with commas between them"),
        ("agent" = Option<Vec<AgentState>>, Query, explode = false, description = "Only VMs whose agent is in one of these states"),
        ("name" = Option<String>, Query, description = "Only VMs whose name fits: `*` stands for any characters, `?` for one"),
        ("label" = Option<Vec<String>>, Query, description = "Only VMs with this label, as key:value; several: with all of them"),
        ("sort" = Option<String>, Query, description = "name (when absent), state, created_at, state_changed_at, agent_age, problem, memory_mib or vcpus; with '-' before it the order is turned round"),
    ),
    responses((status = 200, description = "A page of VMs", body = VmList), Listing))]
pub async fn list(
    State(context): State<Context>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<VmList>> {
    page::page(&context, &Asked::parse(query)?).map(Json)
}

/// Makes a VM; it is not started.
#[utoipa::path(post, path = "/vms", tag = "vms", request_body = VmSpec,
    params(("Idempotency-Key" = Option<String>, Header,
            description = "Repeats of one request with one key make one VM")),
    responses((status = 201, description = "The VM", body = Vm), Creating))]
pub async fn create(
    State(context): State<Context>,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response> {
    let key = idempotency::key(&headers, "POST /vms", &body.raw)?;
    let registry = context.registry.clone();
    // The files that the specification names may lie on a slow disk.
    let spec = tokio::task::spawn_blocking(move || registry.parse_spec(&body.value))
        .await
        .map_err(|_| ApiError::internal("This is a bug; the log has more."))?
        .map_err(|errors| ApiError::invalid("The specification is not valid", errors))?;
    let vm = context.registry.create(spec, key).await?;
    let location = HeaderValue::try_from(format!("/vms/{}", vm.id)).expect("a UUID is plain text");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(vm)).into_response())
}

/// Makes a VM; the same as POST /vms.
#[utoipa::path(post, path = "/vm/create", tag = "vms", request_body = VmSpec,
    params(("Idempotency-Key" = Option<String>, Header,
            description = "Repeats of one request with one key make one VM")),
    responses((status = 201, description = "The VM", body = Vm), Creating))]
pub async fn create_alias(
    context: State<Context>,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response> {
    create(context, headers, body).await
}

/// One VM.
#[utoipa::path(get, path = "/vms/{id}", tag = "vms",
    params(("id" = String, Path, description = "UUID or name")),
    responses((status = 200, description = "The VM", body = Vm), Reading))]
pub async fn get(State(context): State<Context>, Path(id): Path<String>) -> Result<Json<Vm>> {
    let found = find(&context, &id)?;
    context.registry.vm(found).map(Json).ok_or_else(|| ApiError::no_such_vm(&id))
}

/// Changes a VM's specification; what is absent stays as it is.
#[utoipa::path(patch, path = "/vms/{id}", tag = "vms", request_body = VmPatch,
    params(("id" = String, Path, description = "UUID or name")),
    responses((status = 200, description = "The VM as it is now", body = Vm), Changing))]
pub async fn change(
    State(context): State<Context>,
    Path(id): Path<String>,
    body: JsonBody,
) -> Result<Json<Vm>> {
    let patch: VmPatch = read_fields(body.value)?;
    let id = find(&context, &id)?;
    Ok(Json(context.registry.change(id, patch).await?))
}

/// Deletes a VM that does not run. Its disks are the operator's and stay.
#[utoipa::path(delete, path = "/vms/{id}", tag = "vms",
    params(("id" = String, Path, description = "UUID or name")),
    responses((status = 202, description = "The work that was begun", body = Operation), Acting))]
pub async fn delete(State(context): State<Context>, Path(id): Path<String>) -> Result<Response> {
    let id = find(&context, &id)?;
    Ok(accepted(context.registry.request(id, Request::Delete).await?))
}
