//! Errors as RFC 9457 problems: the one place where a domain error becomes a
//! status code.

use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use vmm_api::problem::{FieldError, Problem};

use crate::store::StoreError;
use crate::vm::{Refusal, RequestError, chain};

/// A problem on its way out. `envelope` gives it the request's id and its body.
#[derive(Clone, Debug)]
pub struct ApiError(pub Box<Problem>);

/// What a handler comes to.
pub type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    fn new(status: StatusCode, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem {
            kind: format!("/problems/{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            request_id: String::new(),
            errors: Vec::new(),
        }))
    }

    /// The caller is nobody that we know.
    pub fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "The caller is not known",
            "This door answers only /health. Use the daemon's unix socket, as root.",
        )
    }

    /// The caller is known and has no rights.
    pub fn forbidden(uid: u32) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "The caller has no rights here",
            format!("User {uid} has no role on this host: call as root, with sudo say."),
        )
    }

    /// The caller's process holds all connections that it may have.
    pub fn too_many_connections(limit: usize) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-connections",
            "The calling process has too many connections",
            format!("A process may have {limit} connections: close some, or use them again."),
        )
    }

    /// All places for watchers are taken.
    pub fn too_many_watchers(limit: usize) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-watchers",
            "Too many watch already",
            format!("{limit} clients watch events, which is all that may: end some of them."),
        )
    }

    /// There is no VM of that id or name.
    pub fn no_such_vm(id: &str) -> Self {
        let detail = format!("There is no VM {id:?}: GET /vms lists those that there are.");
        Self::new(StatusCode::NOT_FOUND, "no-such-vm", "There is no such VM", detail)
    }

    /// There is no operation of that id.
    pub fn no_such_operation(id: &str) -> Self {
        let detail = format!("There is no operation {id:?}, or its VM was deleted.");
        Self::new(StatusCode::NOT_FOUND, "no-such-operation", "There is no such operation", detail)
    }

    /// The body is not JSON, or not to be read.
    pub fn bad_body(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-body", "The body could not be read", detail)
    }

    /// The query or a header is wrong.
    pub fn bad_parameter(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-parameter", "A parameter is wrong", detail)
    }

    /// Parameters are wrong: all that are, at once.
    pub fn bad_parameters(errors: Vec<FieldError>) -> Self {
        let detail = match &errors[..] {
            [FieldError { field, detail }] => format!("{field}: {detail}."),
            several => format!("{} parameters are wrong.", several.len()),
        };
        let mut problem = Self::bad_parameter(detail);
        problem.0.errors = errors;
        problem
    }

    /// The body is longer than anything that we take.
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("The body is longer than {limit} bytes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too long", detail)
    }

    /// The body did not arrive in time.
    pub fn too_slow(seconds: u64) -> Self {
        let detail = format!("The body did not arrive within {seconds} s.");
        Self::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "The body came too slowly", detail)
    }

    /// The body is of a type that we do not read.
    pub fn unsupported_media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            "The body is of another type",
            "Send JSON, with the header Content-Type: application/json.",
        )
    }

    /// Fields of the body are wrong: all that are, at once.
    pub fn invalid(title: &str, errors: Vec<FieldError>) -> Self {
        let mut problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid-fields",
            title,
            match errors.len() {
                1 => "One field is wrong.".to_owned(),
                n => format!("{n} fields are wrong."),
            },
        );
        problem.0.errors = errors;
        problem
    }

    /// An idempotency key came back with another body.
    pub fn key_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "The idempotency key belongs to another request",
            "This Idempotency-Key was used with another body: use a new key for a new request.",
        )
    }

    /// The answer took too long.
    pub fn timed_out(seconds: u64) -> Self {
        let detail =
            format!("There was no answer within {seconds} s; GET the VM to see its state.");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timed-out", "The answer took too long", detail)
    }

    /// We failed. What went wrong is in the log, under the request's id.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The daemon failed", detail)
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NoSuchVm(id) => Self::no_such_vm(&id.to_string()),
            RequestError::Refused(Refusal { why, .. }) => Self::new(
                StatusCode::CONFLICT,
                "wrong-state",
                "The VM's state does not allow it",
                format!("Nothing was changed, because {why}."),
            ),
            RequestError::NotBootable(why) => Self::new(
                StatusCode::CONFLICT,
                "nothing-to-boot",
                "There is nothing to boot from",
                format!("The VM was not started: {why}."),
            ),
            RequestError::Busy | RequestError::Closed => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "The VM takes no request now",
                format!("Nothing was changed: {error}. Try again in a moment."),
            ),
            RequestError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NameTaken(name) => Self::new(
                StatusCode::CONFLICT,
                "name-taken",
                "The name is taken",
                format!("There is a VM {name:?} already: choose another name, or delete it."),
            ),
            StoreError::NoSuchVm(id) => Self::no_such_vm(&id.to_string()),
            StoreError::KeyReused => Self::key_reused(),
            StoreError::Full(_) => {
                tracing::error!(error = chain(&error), "The disk that holds the state is full.");
                Self::new(
                    StatusCode::INSUFFICIENT_STORAGE,
                    "disk-full",
                    "The state could not be kept",
                    "Nothing was changed: the disk that holds the daemon's state is full. Make \
                     room on it and try again.",
                )
            }
            StoreError::Disk(_) => {
                tracing::error!(error = chain(&error), "The disk that holds the state fails.");
                Self::new(
                    StatusCode::INSUFFICIENT_STORAGE,
                    "disk-fails",
                    "The state could not be kept",
                    "Nothing was changed: the disk that holds the daemon's state fails or is \
                     read-only; the kernel's log says why. Stop the daemon, mend the file system, \
                     and start it again; the virtual machines run on meanwhile.",
                )
            }
            StoreError::Failed { .. } => {
                tracing::error!(error = chain(&error), "The state store failed.");
                Self::internal("The state could not be kept or read; the log says why.")
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status)
            .expect("problems are made from status codes, in this file");
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Answers paths that there are not.
pub async fn no_such_route(uri: Uri) -> ApiError {
    let detail = format!("There is no {}: GET /openapi.json lists what there is.", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, "no-such-route", "There is no such resource", detail)
}

/// Answers methods that a path does not know.
pub async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    let detail = format!("{} does not know {method}; see GET /openapi.json.", uri.path());
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "no-such-method",
        "The resource does not know the method",
        detail,
    )
}
