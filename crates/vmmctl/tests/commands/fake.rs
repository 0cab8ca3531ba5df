//! A daemon that is none: answers what a test tells it to, on a unix socket of
//! its own, and remembers what it was asked.

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET /vms?state=running`.
    pub line: String,
    /// The request's `Last-Event-ID`.
    pub last_event_id: Option<String>,
    /// The request's body.
    pub body: String,
}

/// An answer: status, media type, body.
pub type Answer = (u16, &'static str, String);

type Behaviour = dyn Fn(&Asked) -> Answer + Send + Sync;

/// The fake daemon, while it lives.
pub struct Fake {
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fake {
    /// A daemon that answers everything by `behaviour`.
    pub fn new(behaviour: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = {
            let _guard = runtime.enter();
            UnixListener::bind(folder.path().join("vmm.sock")).unwrap()
        };
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let memory = Arc::clone(&asked);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, behaviour, memory) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { folder, asked, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("vmm.sock")
    }

    /// Runs vmmctl against it.
    pub fn vmmctl(&self, arguments: &[&str]) -> Ran {
        Ran::from(command(&self.socket()).args(arguments).output().unwrap())
    }

    /// What it was asked so far, as request lines.
    pub fn lines(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|asked| asked.line.clone()).collect()
    }

    /// All that it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// vmmctl with nothing of the test's own surroundings.
pub fn command(socket: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmmctl"));
    command.env_clear().env("TZ", "UTC").env("VMM_SOCKET", socket);
    command
}

/// How a run of vmmctl went.
#[derive(Debug)]
pub struct Ran {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

async fn serve(listener: UnixListener, behaviour: Arc<Behaviour>, memory: Arc<Mutex<Vec<Asked>>>) {
    // Ends with the runtime, and every connection with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (behaviour, memory) = (Arc::clone(&behaviour), Arc::clone(&memory));
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                answer(request, Arc::clone(&behaviour), Arc::clone(&memory))
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    behaviour: Arc<Behaviour>,
    memory: Arc<Mutex<Vec<Asked>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri());
    let last_event_id =
        request.headers().get("last-event-id").map(|value| value.to_str().unwrap().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let asked = Asked { line, last_event_id, body: String::from_utf8(body.to_vec()).unwrap() };
    memory.lock().unwrap().push(asked.clone());
    let (status, media_type, text) = behaviour(&asked);
    let response = Response::builder()
        .status(status)
        .header("content-type", media_type)
        .body(Full::new(Bytes::from(text)))
        .unwrap();
    Ok(response)
}

/// 200 with JSON.
#[allow(clippy::needless_pass_by_value, reason = "tests read better without a borrow")]
pub fn ok(value: Value) -> Answer {
    (200, "application/json", value.to_string())
}

/// A problem.
#[allow(clippy::needless_pass_by_value, reason = "tests read better without a borrow")]
pub fn problem(status: u16, detail: &str, errors: Value) -> Answer {
    let problem = json!({
        "type": "/problems/test", "title": "A problem", "status": status, "detail": detail,
        "request_id": "req-1", "errors": errors,
    });
    (status, "application/problem+json", problem.to_string())
}

/// A VM as the API shows it.
pub fn vm(name: &str) -> Value {
    json!({
        "id": "0193f1c2-0000-7000-8000-000000000001",
        "spec": {"name": name, "vcpus": 2, "memory_mib": 512, "labels": {"tier": "web"},
                 "autostart": false},
        "state": "running", "pid": 4242,
        "created_at": "2026-01-01T00:00:00Z", "state_changed_at": "2026-01-01T00:00:05Z",
        "guest": {"agent": "connected", "age_s": 1.5, "stage": "boot-complete"},
    })
}

/// An operation as the API shows it.
pub fn operation(kind: &str, state: &str) -> Value {
    json!({
        "id": "0193f1c2-0000-7000-8000-0000000000aa",
        "vm": "0193f1c2-0000-7000-8000-000000000001",
        "kind": kind, "state": state, "progress": 0.5,
        "created_at": "2026-01-01T00:00:00Z",
        "ended_at": if state == "running" { Value::Null } else { json!("2026-01-01T00:00:02Z") },
        "error": if state == "failed" { json!("the kernel is not there") } else { Value::Null },
    })
}

/// All VMs on one page.
pub fn page(vms: &[Value]) -> Value {
    let count = vms.len();
    json!({"vms": vms, "total": count, "matched": count})
}
