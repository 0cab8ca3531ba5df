//! `/vms` and `/vms/{id}`: which VMs there are, and making and deleting them.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;
use vmm_api::operation::Operation;
use vmm_api::vm::{self, Vm, VmList, VmSpec};

use super::actions::accepted;
use super::answers::{Acting, Creating, Listing, Reading};
use super::body::JsonBody;
use super::problem::{ApiError, Result};
use super::{Context, idempotency};
use crate::vm::Request;

/// How many VMs a page holds when the caller names no number.
const DEFAULT_PAGE: usize = 200;
/// The most that a page holds.
const MAX_PAGE: usize = 1000;

/// The VM that a path names, by its UUID or its name.
pub fn find(context: &Context, id: &str) -> Result<Uuid> {
    context.registry.find(id).ok_or_else(|| ApiError::no_such_vm(id))
}

/// Which VMs there are, sorted by name.
#[utoipa::path(get, path = "/vms", tag = "vms",
    params(
        ("limit" = Option<usize>, Query, description = "VMs on a page, 1 to 1000; 200 when absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("state" = Option<vm::State>, Query, description = "Only VMs in this state"),
        ("name" = Option<String>, Query, description = "Only VMs whose name begins so"),
        ("label" = Option<String>, Query, description = "Only VMs with this label, as key:value"),
    ),
    responses((status = 200, description = "A page of VMs", body = VmList), Listing))]
pub async fn list(
    State(context): State<Context>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<VmList>> {
    let filter = Filter::parse(&query)?;
    let mut vms = context.registry.list();
    vms.retain(|vm| filter.keeps(vm));
    let next_cursor = (vms.len() > filter.limit).then(|| vms[filter.limit - 1].spec.name.clone());
    vms.truncate(filter.limit);
    Ok(Json(VmList { vms, next_cursor }))
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

/// Deletes a VM that does not run. Its disks are the operator's and stay.
#[utoipa::path(delete, path = "/vms/{id}", tag = "vms",
    params(("id" = String, Path, description = "UUID or name")),
    responses((status = 202, description = "The work that was begun", body = Operation), Acting))]
pub async fn delete(State(context): State<Context>, Path(id): Path<String>) -> Result<Response> {
    let id = find(&context, &id)?;
    Ok(accepted(context.registry.request(id, Request::Delete).await?))
}

/// Which VMs a list shows.
#[derive(Debug, Default, PartialEq)]
struct Filter {
    limit: usize,
    after: Option<String>,
    name: String,
    state: Option<vm::State>,
    label: Option<(String, String)>,
}

impl Filter {
    fn parse(query: &HashMap<String, String>) -> Result<Self> {
        let mut filter = Self { limit: DEFAULT_PAGE, ..Self::default() };
        for (key, value) in query {
            match key.as_str() {
                "limit" => {
                    filter.limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=MAX_PAGE).contains(limit))
                        .ok_or_else(|| wrong(key, value, "a number from 1 to 1000"))?;
                }
                "name" => filter.name.clone_from(value),
                "cursor" => filter.after = Some(value.clone()),
                "state" => {
                    let state = serde_json::from_value(value.as_str().into())
                        .map_err(|_| wrong(key, value, "a state, such as running"))?;
                    filter.state = Some(state);
                }
                "label" => {
                    let (name, wanted) =
                        value.split_once(':').ok_or_else(|| wrong(key, value, "key:value"))?;
                    filter.label = Some((name.to_owned(), wanted.to_owned()));
                }
                _ => {
                    return Err(wrong(
                        key,
                        value,
                        "limit, cursor, state, name or label as the key",
                    ));
                }
            }
        }
        Ok(filter)
    }

    fn keeps(&self, vm: &Vm) -> bool {
        self.after.as_ref().is_none_or(|after| vm.spec.name > *after)
            && vm.spec.name.starts_with(&self.name)
            && self.state.is_none_or(|state| vm.state == state)
            && self.label.as_ref().is_none_or(|(key, value)| vm.spec.labels.get(key) == Some(value))
    }
}

fn wrong(key: &str, value: &str, right: &str) -> ApiError {
    ApiError::bad_parameter(format!("{key}={value:?}: write {right}."))
}
