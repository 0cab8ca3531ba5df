//! The API as its callers meet it: through a real socket, with a client of its
//! own making.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::vm::driver_tests::Daemon;

/// Longer than any answer takes here.
const LIMIT: Duration = Duration::from_secs(20);

struct Api {
    daemon: Daemon,
    socket: PathBuf,
    streams: Arc<Semaphore>,
    shutdown: CancellationToken,
    door: JoinHandle<()>,
}

struct Answer {
    status: u16,
    headers: hyper::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    /// The last part of the problem's type.
    fn problem(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"], self.headers["x-request-id"].to_str().unwrap());
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        problem["type"].as_str().unwrap().strip_prefix("/problems/").unwrap().to_owned()
    }
}

impl Api {
    async fn new() -> Self {
        let daemon = Daemon::new().await;
        std::fs::write(daemon.folder.path().join("kernel"), "a kernel").unwrap();
        let socket = daemon.folder.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let shutdown = CancellationToken::new();
        let (registry, hub, events) =
            (daemon.registry.clone(), daemon.hub.clone(), daemon.events.clone());
        let context = Context::new(registry, hub, events, shutdown.clone());
        let streams = Arc::clone(&context.streams);
        let door = tokio::spawn(serve_unix(listener, context, shutdown.clone()));
        Self { daemon, socket, streams, shutdown, door }
    }

    fn spec(&self, name: &str) -> Value {
        let kernel = self.daemon.folder.path().join("kernel");
        json!({"name": name, "vcpus": 1, "memory_mib": 64, "kernel": kernel})
    }

    async fn stream(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        send(UnixStream::connect(&self.socket).await.unwrap(), request).await
    }

    /// Sends a request; its answer must be one that the document names.
    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let (method, path) = (request.method().as_str().to_lowercase(), request.uri().path());
        let documented = documented(&method, path);
        let answer = read(self.stream(request).await).await;
        if let Some(statuses) = documented {
            assert!(statuses.contains(&answer.status.to_string()), "{method}: {}", answer.status);
        }
        answer
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, None)).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(request("POST", path, Some(body.to_string()))).await
    }

    /// Does something to a VM and waits for its end.
    async fn does(&self, path: &str) {
        let accepted = self.send(request("POST", path, None)).await;
        assert_eq!(accepted.status, 202, "{path}: {}", accepted.text);
        let operation = accepted.headers["location"].to_str().unwrap().to_owned();
        let ended = self.get(&format!("{operation}?wait_s=20")).await.json();
        assert_eq!(ended["state"], "succeeded", "{ended}");
    }
}

/// The statuses that the document names for a request, if it names the request.
fn documented(method: &str, path: &str) -> Option<BTreeSet<String>> {
    let document = serde_json::to_value(routed().into_openapi()).unwrap();
    let is = |template: &str| {
        let (template, path) = (template.split('/'), path.split('/'));
        template.clone().count() == path.clone().count()
            && template.zip(path).all(|(named, part)| named == part || named.starts_with('{'))
    };
    let (_, methods) = document["paths"].as_object().unwrap().iter().find(|(path, _)| is(path))?;
    let responses = methods.get(method)?["responses"].as_object().unwrap();
    Some(responses.keys().cloned().collect())
}

fn request(method: &str, path: &str, body: Option<String>) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "vmm");
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    request.body(Full::from(body.unwrap_or_default())).unwrap()
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Response<Incoming>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    try_send(stream, request).await.expect("the connection was closed")
}

/// `None` when the connection is closed before an answer.
async fn try_send<S>(stream: S, request: Request<Full<Bytes>>) -> Option<Response<Incoming>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    tokio::time::timeout(LIMIT, sender.send_request(request)).await.unwrap().ok()
}

async fn read(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let bytes = tokio::time::timeout(LIMIT, body.collect()).await.unwrap().unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    Answer { status: head.status.as_u16(), headers: head.headers, text }
}

#[tokio::test]
async fn a_patch_changes_what_it_names() {
    let api = Api::new().await;
    api.post("/vms", &api.spec("web")).await;
    assert_eq!(api.get("/vms/web").await.json()["spec"]["autostart"], false);
    let patch = |body: &str| request("PATCH", "/vms/web", Some(body.to_owned()));
    let changed = api.send(patch(r#"{"autostart": true}"#)).await;
    assert_eq!((changed.status, &changed.json()["spec"]["autostart"]), (200, &true.into()));
    let same = api.send(patch("{}")).await;
    assert_eq!((same.status, &same.json()["spec"]["autostart"]), (200, &true.into()));
    let wrong = api.send(patch(r#"{"autostart": null, "name": "other"}"#)).await;
    assert_eq!(wrong.status, 422);
    let fields: Vec<_> = wrong.json()["errors"].as_array().unwrap().clone();
    assert_eq!((&fields[0]["field"], &fields[1]["field"]), (&"autostart".into(), &"name".into()));
    let nobody = request("PATCH", "/vms/db", Some("{}".to_owned()));
    assert_eq!(api.send(nobody).await.status, 404);
    assert_eq!(api.get("/vms/web").await.json()["spec"]["name"], "web");
}

#[tokio::test]
async fn a_vm_from_creation_to_deletion() {
    let api = Api::new().await;
    let created = api.post("/vms", &api.spec("web")).await;
    assert_eq!(created.status, 201);
    let vm = created.json();
    let id = vm["id"].as_str().unwrap();
    assert_eq!(created.headers["location"], format!("/vms/{id}"));
    assert_eq!(vm["state"], "created");
    assert_eq!(api.get("/vms/web").await.json(), api.get(&format!("/vms/{id}")).await.json());
    api.does("/vms/web/start").await;
    assert_eq!(api.get("/vms/web").await.json()["state"], "running");
    assert_eq!(api.get("/vms/web/guest").await.json()["agent"], "absent");
    let log = api.get("/vms/web/console/log").await;
    assert_eq!((log.status, log.text.as_str()), (200, "Booting\n"));
    assert_eq!(api.get("/vms/web/console/log?tail_bytes=4").await.text, "ing\n");
    api.does("/vms/web/pause").await;
    api.does("/vms/web/resume").await;
    let conflict = api.send(request("DELETE", "/vms/web", None)).await;
    assert_eq!((conflict.status, conflict.problem().as_str()), (409, "wrong-state"));
    assert!(conflict.text.contains("it is running: stop or kill it first"));
    api.does("/vms/web/kill").await;
    let deleted = api.send(request("DELETE", "/vms/web", None)).await;
    assert_eq!(deleted.status, 202);
    let operation = deleted.headers["location"].to_str().unwrap();
    let ended = api.get(&format!("{operation}?wait_s=20")).await.json();
    assert_eq!(ended["state"], "succeeded");
}

#[tokio::test]
async fn every_wrong_field_is_told_at_once() {
    let api = Api::new().await;
    let raw = json!({"name": "a,b", "vcpus": 1, "memory_mib": 1u64 << 40,
                     "kernel": "/nowhere/vmlinuz", "colour": "red"});
    let answer = api.post("/vms", &raw).await;
    assert_eq!((answer.status, answer.problem().as_str()), (422, "invalid-fields"));
    let errors = answer.json()["errors"].clone();
    let fields: Vec<&str> =
        errors.as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["name", "memory_mib", "kernel", "colour"]);
    assert_eq!(api.get("/vms").await.json()["vms"], json!([]));
}

#[tokio::test]
async fn bad_requests_are_problems() {
    let api = Api::new().await;
    api.post("/vms", &api.spec("web")).await;
    let plain = Request::post("/vms").header("host", "vmm").body(Full::from("{}")).unwrap();
    let large = Some(format!("\"{}\"", "x".repeat(1 << 20)));
    for (request, status, kind) in [
        (request("GET", "/nowhere", None), 404, "no-such-route"),
        (request("PUT", "/vms", None), 405, "no-such-method"),
        (plain, 415, "unsupported-media-type"),
        (request("POST", "/vms", large), 413, "too-large"),
        (request("POST", "/vms", Some("{\"name\":\n oops".to_owned())), 400, "bad-body"),
        (request("POST", "/vms", Some("[".repeat(10_000))), 400, "bad-body"),
        (request("POST", "/vms", Some(api.spec("web").to_string())), 409, "name-taken"),
        (request("GET", "/vms/nobody", None), 404, "no-such-vm"),
        (request("POST", "/vms/nobody/start", None), 404, "no-such-vm"),
        (request("GET", "/operations/x", None), 404, "no-such-operation"),
        (request("GET", "/operations/x?wait_s=61", None), 400, "bad-parameter"),
        (request("GET", "/vms?limit=0", None), 400, "bad-parameter"),
        (request("GET", "/vms?state=asleep", None), 400, "bad-parameter"),
        (request("GET", "/vms?colour=red", None), 400, "bad-parameter"),
        (request("GET", "/events?since=yesterday", None), 400, "bad-parameter"),
        (request("GET", "/events?vms=web", None), 400, "bad-parameter"),
        (request("GET", "/events?kind=state,fact", None), 400, "bad-parameter"),
        (request("GET", "/vms/web/console/log?tail=1", None), 400, "bad-parameter"),
        (request("GET", "/operations/x?wait=1", None), 400, "bad-parameter"),
        (
            request("POST", "/vms/web/stop", Some("{\"force\": 1}".to_owned())),
            422,
            "invalid-fields",
        ),
        (request("POST", "/vms/web/pause", None), 409, "wrong-state"),
    ] {
        let what = format!("{} {}", request.method(), request.uri());
        let answer = api.send(request).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, kind), "{what}");
    }
    let wrong = json!({"cold": "very", "force_after_s": -1, "now": true});
    let errors = api.post("/vms/web/restart", &wrong).await.json()["errors"].clone();
    assert_eq!(errors.as_array().unwrap().len(), 3, "{errors}");
    let answer = api.send(request("POST", "/vms", Some("{\"name\":\n oops".to_owned()))).await;
    assert!(answer.text.contains("line 2 column 2"), "{}", answer.text);
}

#[tokio::test]
async fn a_client_that_neither_sends_nor_reads_is_left_behind() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let api = Api::new().await;
    let mut slow = UnixStream::connect(&api.socket).await.unwrap();
    slow.write_all(b"POST /vms HTTP/1.1\r\nhost: vmm\r\ncontent-length: 9\r\n\r\n{").await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(LIMIT, slow.read_to_string(&mut text)).await.unwrap().unwrap();
    assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("/problems/too-slow"), "{text}");

    // More than the socket and hyper hold, to a client that reads nothing.
    let mut deaf = UnixStream::connect(&api.socket).await.unwrap();
    api.post("/vms", &api.spec("web")).await;
    api.does("/vms/web/start").await;
    let id = api.daemon.registry.find("web").unwrap();
    let log = api.daemon.folder.path().join(format!("{id}.log"));
    std::fs::write(log, "x".repeat(4 << 20)).unwrap();
    deaf.write_all(b"GET /vms/web/console/log HTTP/1.1\r\nhost: vmm\r\n\r\n").await.unwrap();
    deaf.readable().await.unwrap();
    api.shutdown.cancel();
    tokio::time::timeout(LIMIT, api.door).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_repeated_creation_with_a_key_makes_one_vm() {
    let api = Api::new().await;
    let create = |spec: Value| {
        let mut request = request("POST", "/vms", Some(spec.to_string()));
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        request
    };
    let first = api.send(create(api.spec("web"))).await;
    let again = api.send(create(api.spec("web"))).await;
    assert_eq!((again.status, &again.json()["id"]), (201, &first.json()["id"]));
    let other = api.send(create(api.spec("other"))).await;
    assert_eq!((other.status, other.problem().as_str()), (422, "idempotency-key-reused"));
}

#[tokio::test]
async fn lists_have_pages_and_filters() {
    let api = Api::new().await;
    for (name, tier) in [("b1", "front"), ("a1", "back"), ("a2", "front")] {
        let mut spec = api.spec(name);
        spec["labels"] = json!({"tier": tier});
        assert_eq!(api.post("/vm/create", &spec).await.status, 201);
    }
    api.does("/vms/a2/start").await;
    let names = |answer: Answer| -> Vec<String> {
        let list = answer.json();
        let vms = list["vms"].as_array().unwrap();
        vms.iter().map(|vm| vm["spec"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = api.get("/vms?limit=2").await;
    let cursor = first.json()["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(names(first), ["a1", "a2"]);
    let last = api.get(&format!("/vms?limit=2&cursor={cursor}")).await;
    assert_eq!(last.json()["next_cursor"], Value::Null);
    assert_eq!(names(last), ["b1"]);
    assert_eq!(names(api.get("/vms?state=running").await), ["a2"]);
    assert_eq!(names(api.get("/vms?label=tier:front").await), ["a2", "b1"]);
    assert_eq!(names(api.get("/vms?name=a*").await), ["a1", "a2"]);
    assert_eq!(names(api.get("/vms?name=a").await), [""; 0]);
    assert_eq!(names(api.get("/vms?state=created,failed&label=tier:front").await), ["b1"]);
    assert_eq!(
        names(api.get("/vms?state=created&state=running&sort=-name").await),
        ["b1", "a2", "a1"]
    );
    assert_eq!(names(api.get("/vms?sort=-state").await), ["a2", "a1", "b1"]);
    assert_eq!(names(api.get("/vms?agent=connected").await), [""; 0]);
    let counted = api.get("/vms?limit=1&name=a*").await.json();
    assert_eq!((&counted["total"], &counted["matched"]), (&json!(3), &json!(2)));
}

#[tokio::test]
async fn every_wrong_parameter_is_told_at_once() {
    let api = Api::new().await;
    let path = "/vms?limit=1001&state=running,asleep&agent=gone&sort=size&label=tier&name=\
                &cursor=zz&colour=red&limit=2";
    let answer = api.get(path).await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-parameter"));
    let errors = answer.json()["errors"].clone();
    let told: Vec<&str> =
        errors.as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!(told, ["limit", "cursor", "state", "agent", "name", "label", "sort", "colour"]);
    for right in
        ["1 to 1000", "next_cursor", "stopping", "connected", "web-*", "tier:web", "-", "limit"]
    {
        assert!(answer.text.contains(right), "{right}: {}", answer.text);
    }
}

#[tokio::test]
async fn events_are_streamed_resumed_and_end_with_the_daemon() {
    let api = Api::new().await;
    let mut live = api.stream(request("GET", "/events", None)).await.into_body();
    let mut frame = async || {
        let frame = tokio::time::timeout(LIMIT, live.frame()).await.unwrap().unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    };
    let begin = frame().await;
    let place = begin.strip_prefix("id: ").unwrap().trim_end().to_owned();
    assert!(!begin.contains("data:"), "it is no event: {begin}");
    api.post("/vms", &api.spec("web")).await;
    let text = frame().await;
    assert!(text.contains("event: created\n"), "{text}");
    let id = text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    api.does("/vms/web/start").await;

    let mut resumed = request("GET", "/events", None);
    resumed.headers_mut().insert("last-event-id", id.parse().unwrap());
    let resumed = api.stream(resumed).await;
    let again = api.stream(request("GET", &format!("/events?since={place}"), None)).await;
    let stale = api.stream(request("GET", "/events?since=00000000-7&vm=web", None)).await;
    let some = format!("/events?since={place}&kind=created,agent&kind=operation");
    let some = api.stream(request("GET", &some, None)).await;
    api.shutdown.cancel();
    let text = read(some).await.text;
    assert!(text.contains("event: created\n") && text.contains("event: operation\n"), "{text}");
    assert!(!text.contains("event: state\n"), "{text}");
    let text = read(resumed).await.text;
    assert!(text.contains("event: state\n") && !text.contains("event: created\n"), "{text}");
    let text = read(again).await.text;
    assert!(text.starts_with("id: ") && text.contains("event: created\n"), "{text}");
    let text = read(stale).await.text;
    assert!(text.starts_with("event: missed\n"), "{text}");
    drop(live);
    tokio::time::timeout(LIMIT, api.door).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_long_poll_answers_at_its_limit() {
    let api = Api::new().await;
    api.post("/vms", &api.spec("web")).await;
    api.does("/vms/web/start").await;
    let never = json!({"force_after_s": 0});
    let operation = api.post("/vms/web/stop", &never).await.json();
    let path = format!("/operations/{}?wait_s=1", operation["id"].as_str().unwrap());
    assert_eq!(api.get(&path).await.json()["state"], "running");
    let id = api.daemon.registry.find("web").unwrap();
    api.daemon.hypervisor.control(id).power_off().await;
    let path = path.replace("wait_s=1", "wait_s=20");
    assert_eq!(api.get(&path).await.json()["state"], "succeeded");
}

#[tokio::test]
async fn metrics_are_there() {
    let api = Api::new().await;
    let answer = api.get("/metrics").await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(answer.text.contains("infinibay_vms{state=\"running\"} 0"));
}

#[tokio::test]
async fn every_route_is_in_the_document_and_answers() {
    let api = Api::new().await;
    let document = api.get("/openapi.json").await.json();
    assert_eq!(document["openapi"].as_str().unwrap().split('.').next(), Some("3"));
    let text = document.to_string();
    for name in text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next()) {
        assert!(document["components"]["schemas"][name.unwrap()].is_object(), "{name:?}");
    }
    let refused = &document["paths"]["/vms"]["post"]["responses"]["422"]["content"];
    assert!(refused["application/problem+json"].is_object(), "{refused}");
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            documented.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let mut expected: BTreeSet<String> = [
        "GET /health",
        "GET /vms",
        "POST /vms",
        "POST /vm/create",
        "GET /vms/{id}",
        "PATCH /vms/{id}",
        "DELETE /vms/{id}",
        "GET /vms/{id}/guest",
        "GET /vms/{id}/console/log",
        "GET /events",
        "GET /operations/{id}",
        "GET /metrics",
        "GET /openapi.json",
    ]
    .map(str::to_owned)
    .into();
    for action in ["start", "stop", "restart", "pause", "resume", "kill"] {
        expected.insert(format!("POST /vms/{{id}}/{action}"));
    }
    assert_eq!(documented, expected);
    for route in documented {
        let (method, path) = route.split_once(' ').unwrap();
        let response = api.stream(request(method, &path.replace("{id}", "nobody"), None)).await;
        if response.status() == 404 {
            assert_ne!(read(response).await.problem(), "no-such-route", "{route}");
        } else {
            assert_ne!(response.status(), 405, "{route}");
        }
    }
}

#[tokio::test]
async fn tcp_answers_only_health() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let door = tokio::spawn(serve_tcp(listener, shutdown.clone()));
    let ask = async |method, path| {
        let stream = TcpStream::connect(address).await.unwrap();
        read(send(stream, request(method, path, None)).await).await
    };
    assert_eq!(ask("GET", "/health").await.json()["status"], "ok");
    for (method, path) in [
        ("GET", "/vms"),
        ("POST", "/vms"),
        ("DELETE", "/vms/x"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/health/../vms"),
        ("GET", "//vms"),
        ("PUT", "/events"),
    ] {
        let answer = ask(method, path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthenticated"), "{path}");
        assert!(answer.text.contains("unix socket"));
    }
    shutdown.cancel();
    tokio::time::timeout(LIMIT, door).await.unwrap().unwrap();
}

#[tokio::test]
async fn watchers_leave_room_for_other_requests() {
    let api = Api::new().await;
    let taken = Arc::clone(&api.streams).acquire_many_owned(events::MAX_STREAMS as u32);
    let taken = taken.await.unwrap();
    let answer = api.get("/events").await;
    assert_eq!((answer.status, answer.problem().as_str()), (429, "too-many-watchers"));
    assert_eq!(api.get("/vms").await.status, 200);
    drop(taken);
    // A watcher that goes gives its place back.
    let watching = api.stream(request("GET", "/events", None)).await;
    assert_eq!(api.streams.available_permits(), events::MAX_STREAMS - 1);
    let metrics = api.get("/metrics").await.text;
    assert!(metrics.contains("\ninfinibay_event_streams 1\n"), "{metrics}");
    drop(watching);
    tokio::time::timeout(LIMIT, async {
        while api.streams.available_permits() < events::MAX_STREAMS {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_process_with_too_many_connections_is_told_so() {
    let api = Api::new().await;
    let mut held = Vec::new();
    for _ in 0..256 {
        held.push(UnixStream::connect(&api.socket).await.unwrap());
    }
    let mut further = UnixStream::connect(&api.socket).await.unwrap();
    let mut refusal = String::new();
    let whole = tokio::io::AsyncReadExt::read_to_string(&mut further, &mut refusal);
    tokio::time::timeout(LIMIT, whole).await.unwrap().unwrap();
    assert!(refusal.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{refusal}");
    let body = refusal.split_once("\r\n\r\n").unwrap().1;
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["type"], "/problems/too-many-connections");
    assert_eq!(
        problem["detail"],
        "A process may have 256 connections: close some, or use them again."
    );
    // One that ends makes room for another.
    held.pop();
    let metrics = tokio::time::timeout(LIMIT, async {
        loop {
            let stream = UnixStream::connect(&api.socket).await.unwrap();
            let sent = try_send(stream, request("GET", "/metrics", None)).await;
            if let Some(answer) = sent.filter(|answer| answer.status() == 200) {
                break read(answer).await.text;
            }
        }
    });
    let metrics = metrics.await.unwrap();
    assert!(metrics.contains("\ninfinibay_api_connections 256\n"), "{metrics}");
}
