//! A typed client over the daemon's unix socket.
//!
//! One connection per request: on a unix socket it costs microseconds, and no
//! request can be answered with what another one left behind. No task is
//! spawned; dropping a future ends its request.

mod connection;
mod error;
mod events;
mod list;
mod sse;
mod wait;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::guest::Guest;
use crate::operation::Operation;
use crate::problem::{self, Problem};
use crate::vm::{RestartRequest, StopRequest, Vm, VmPatch};

pub use error::Error;
pub use events::{EventStream, Next, Received};
pub use list::{ListQuery, MAX_PAGE, Pages};

use connection::{Connection, Limits, Request};

/// Where the daemon listens when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/infinibay/vmm.sock";

/// The environment variable that names another socket.
pub const SOCKET_VARIABLE: &str = "VMM_SOCKET";

/// How long an answer may take: the daemon answers from memory or after one
/// write to its store, so that half a minute means that it hangs.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// The longest answer that is read. The largest is a page of VMs or one
/// guest's facts, which the channel bounds at 1 MiB.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// The most of a console log that is read at once. The daemon keeps less.
const MAX_LOG_BYTES: usize = 256 * 1024 * 1024;

/// Speaks to one daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon that listens on `socket`. Connects to nothing
    /// yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the daemon answers.
    ///
    /// # Errors
    ///
    /// As every method here: [`Error`] tells whether the daemon was not
    /// reached, refused, or answered what this client does not understand.
    pub async fn health(&self) -> Result<(), Error> {
        self.send(Method::GET, "/health".to_owned(), None, ANSWER_DEADLINE).await.map(drop)
    }

    /// Creates a VM. `spec` is a [`crate::vm::VmSpec`], or any other value so
    /// that the daemon can name everything that is wrong with it.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn create(&self, spec: &impl Serialize) -> Result<Vm, Error> {
        self.call(Method::POST, "/vms".to_owned(), Some(body(spec)?)).await
    }

    /// A VM by its name or id.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn vm(&self, vm: &str) -> Result<Vm, Error> {
        self.get(vm_path(vm, "")).await
    }

    /// Changes a VM's specification, and gives the VM as it is then.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn change(&self, vm: &str, patch: &VmPatch) -> Result<Vm, Error> {
        self.call(Method::PATCH, vm_path(vm, ""), Some(body(patch)?)).await
    }

    /// Begins to delete a VM.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn delete(&self, vm: &str) -> Result<Operation, Error> {
        self.call(Method::DELETE, vm_path(vm, ""), None).await
    }

    /// Begins to start a VM.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn start(&self, vm: &str) -> Result<Operation, Error> {
        self.call(Method::POST, vm_path(vm, "/start"), None).await
    }

    /// Begins to stop a VM.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn stop(&self, vm: &str, request: &StopRequest) -> Result<Operation, Error> {
        self.call(Method::POST, vm_path(vm, "/stop"), Some(body(request)?)).await
    }

    /// Begins to restart a VM.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn restart(&self, vm: &str, request: &RestartRequest) -> Result<Operation, Error> {
        self.call(Method::POST, vm_path(vm, "/restart"), Some(body(request)?)).await
    }

    /// Begins to pause a VM.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn pause(&self, vm: &str) -> Result<Operation, Error> {
        self.call(Method::POST, vm_path(vm, "/pause"), None).await
    }

    /// Begins to resume a VM.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn resume(&self, vm: &str) -> Result<Operation, Error> {
        self.call(Method::POST, vm_path(vm, "/resume"), None).await
    }

    /// Begins to kill a VM.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn kill(&self, vm: &str) -> Result<Operation, Error> {
        self.call(Method::POST, vm_path(vm, "/kill"), None).await
    }

    /// Everything that is known of the inside of a VM.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn guest(&self, vm: &str) -> Result<Guest, Error> {
        self.get(vm_path(vm, "/guest")).await
    }

    /// The console log, raw as the guest wrote it: its last `tail_bytes`, or
    /// all that is kept.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn console_log(&self, vm: &str, tail_bytes: Option<u64>) -> Result<Bytes, Error> {
        let tail = tail_bytes.map(|bytes| bytes.to_string());
        let path = with_query(&vm_path(vm, "/console/log"), &[("tail_bytes", tail.as_deref())]);
        let request = Request::new(Method::GET, path);
        self.answer(request, Limits { deadline: ANSWER_DEADLINE, bytes: MAX_LOG_BYTES }).await
    }

    /// An operation as it is now, or as it is once it has ended or `wait` (in
    /// whole seconds) is over.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn operation(&self, id: Uuid, wait: Duration) -> Result<Operation, Error> {
        let seconds = (wait.as_secs() > 0).then(|| wait.as_secs().to_string());
        let path = with_query(&format!("/operations/{id}"), &[("wait_s", seconds.as_deref())]);
        decode(&self.send(Method::GET, path, None, ANSWER_DEADLINE + wait).await?)
    }

    /// What happens from now on, or after `since`, to one VM (by name or id)
    /// or to all.
    ///
    /// # Errors
    ///
    /// When the daemon is not reached or refuses now; later losses of the
    /// connection are the stream's own business.
    pub async fn events(
        &self,
        vm: Option<&str>,
        since: Option<String>,
    ) -> Result<EventStream, Error> {
        self.events_of_kinds(&[], vm, since).await
    }

    /// As [`Client::events`], but only events of these kinds, by their words
    /// ([`EventKind::word`](crate::event::EventKind::word)), and what was
    /// missed; of every kind when there are none.
    ///
    /// # Errors
    ///
    /// See [`Client::events`].
    pub async fn events_of_kinds(
        &self,
        kinds: &[&str],
        vm: Option<&str>,
        since: Option<String>,
    ) -> Result<EventStream, Error> {
        let kinds = (!kinds.is_empty()).then(|| kinds.join(","));
        let path = with_query("/events", &[("vm", vm), ("kind", kinds.as_deref())]);
        EventStream::open(self.clone(), path, since).await
    }

    async fn get<T: DeserializeOwned>(&self, path: String) -> Result<T, Error> {
        self.call(Method::GET, path, None).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        body: Option<Bytes>,
    ) -> Result<T, Error> {
        decode(&self.send(method, path, body, ANSWER_DEADLINE).await?)
    }

    async fn send(
        &self,
        method: Method,
        path: String,
        body: Option<Bytes>,
        deadline: Duration,
    ) -> Result<Bytes, Error> {
        let mut request = Request::new(method, path);
        request.headers.insert(ACCEPT, const_value("application/json, application/problem+json"));
        if let Some(body) = body {
            request.headers.insert(CONTENT_TYPE, const_value("application/json"));
            request.body = body;
        }
        self.answer(request, Limits { deadline, bytes: MAX_ANSWER_BYTES }).await
    }

    /// Sends a request and reads all of its answer, which must be a success.
    async fn answer(&self, request: Request, limits: Limits) -> Result<Bytes, Error> {
        let exchange = async {
            let mut connection = Connection::open(&self.socket).await?;
            let response = connection.send(request).await?;
            let (parts, incoming) = response.into_parts();
            let bytes = connection.collect(incoming, limits.bytes).await?;
            if parts.status.is_success() { Ok(bytes) } else { Err(refusal(&parts, &bytes)) }
        };
        tokio::time::timeout(limits.deadline, exchange)
            .await
            .unwrap_or(Err(Error::TimedOut(limits.deadline)))
    }
}

/// What an answer that is no success says.
fn refusal(parts: &hyper::http::response::Parts, bytes: &[u8]) -> Error {
    let media_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if media_type.is_some_and(|text| text.starts_with(problem::MEDIA_TYPE))
        && let Ok(problem) = serde_json::from_slice::<Problem>(bytes)
    {
        return Error::Problem(Box::new(problem));
    }
    Error::Protocol(format!("it answered {} without saying why", parts.status))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Protocol(format!("its answer has another shape: {error}")))
}

fn body(value: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Error::Protocol(format!("the request cannot be written as JSON: {error}")))
}

fn const_value(text: &'static str) -> hyper::header::HeaderValue {
    hyper::header::HeaderValue::from_static(text)
}

fn vm_path(vm: &str, rest: &str) -> String {
    format!("/vms/{}{rest}", percent_encoded(vm))
}

fn with_query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut path = path.to_owned();
    let mut separator = '?';
    for (name, value) in parameters {
        let Some(value) = value else { continue };
        path.push(separator);
        path.push_str(name);
        path.push('=');
        path.push_str(&percent_encoded(value));
        separator = '&';
    }
    path
}

/// Everything but RFC 3986's unreserved characters as `%XX`, so that what an
/// operator typed can be no other path than the one it was meant for.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    encoded
}
