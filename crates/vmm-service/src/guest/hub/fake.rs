//! A guest as the hub sees it: the other end of a socket, speaking the
//! channel's own types, and able to misbehave.

use std::time::{Duration, SystemTime};

use guest_protocol::codec::{self, Decoder, Frame};
use guest_protocol::message::{
    AgentHello, ErrorBody, Event, Heartbeat, Hello, Lifecycle, Outcome, Reply, Report, Request,
    Stage, TimedEvent, Timestamp,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use uuid::Uuid;
use vmm_api::event::EventKind;

use crate::events::{EventBus, Next, Subscriber};
pub(super) use crate::guest::budget::UNLIMITED;
use crate::guest::channel::Pace;
use crate::guest::hub::Hub;

/// Far beyond what anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// No heartbeat and no repeated question comes between.
pub(super) const CALM: Pace = Pace {
    heartbeat: Duration::from_secs(3600),
    retry: Duration::from_millis(1),
    limits: UNLIMITED,
};

pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("it hangs")
}

/// A hub, and a VM whose socket listens.
pub(super) struct Host {
    pub(super) hub: Hub,
    pub(super) events: EventBus,
    folder: TempDir,
}

impl Host {
    pub(super) fn new(pace: Pace) -> Self {
        Self::with_events(pace, EventBus::default())
    }

    pub(super) fn with_events(pace: Pace, events: EventBus) -> Self {
        let hub = Hub::with_pace(events.clone(), pace);
        Self { hub, events, folder: tempfile::tempdir().unwrap() }
    }

    /// A VM as the hypervisor starts it.
    pub(super) fn vm(&self) -> Vm {
        let id = Uuid::new_v4();
        let listener = UnixListener::bind(self.folder.path().join(id.to_string())).unwrap();
        let told = self.events.subscribe(None).only(id);
        self.attach(id, true);
        Vm { id, listener, told }
    }

    pub(super) fn attach(&self, vm: Uuid, fresh: bool) {
        self.hub.attach(vm, self.folder.path().join(vm.to_string()), fresh);
    }

    /// A VM whose agent has said hello and was confirmed.
    pub(super) async fn connected(&self) -> (Vm, Port) {
        let mut vm = self.vm();
        let mut port = vm.accept().await;
        port.shake_hands("session").await;
        assert!(matches!(vm.event().await, EventKind::Agent { .. }));
        (vm, port)
    }
}

/// A VM's socket, and what is told of the VM.
pub(super) struct Vm {
    pub(super) id: Uuid,
    listener: UnixListener,
    pub(super) told: Subscriber,
}

impl Vm {
    pub(super) async fn accept(&self) -> Port {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        Port { stream, decoder: Decoder::default(), host_session: String::new() }
    }

    pub(super) async fn event(&mut self) -> EventKind {
        match soon(self.told.next()).await {
            Next::Event(event) => {
                serde_json::from_str::<vmm_api::event::Event>(&event.json).unwrap().kind
            }
            other => panic!("expected an event, got {other:?}"),
        }
    }

    /// Waits until all that `port` sent before was taken: the channel keeps
    /// the order. Gives what was told on the way.
    pub(super) async fn settle(&mut self, port: &mut Port) -> Vec<EventKind> {
        let lifecycle = Lifecycle {
            stage: Stage::Resume,
            uptime_ms: 0,
            detail: Some(Uuid::new_v4().to_string().into()),
        };
        port.event(Event::Lifecycle(lifecycle.clone())).await;
        let mut told = Vec::new();
        loop {
            match self.event().await {
                EventKind::Lifecycle { lifecycle: last } if last == lifecycle => return told,
                event => told.push(event),
            }
        }
    }
}

/// The guest's end of one connection.
pub(super) struct Port {
    pub(super) stream: UnixStream,
    decoder: Decoder,
    pub(super) host_session: String,
}

impl Port {
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        soon(self.stream.write_all(bytes)).await.unwrap();
    }

    pub(super) async fn event(&mut self, event: Event) {
        let bytes = wire(event);
        self.send(&bytes).await;
    }

    pub(super) async fn report(&mut self, seq: u64, full: bool, facts: Value) {
        self.event(Event::Report(Report { seq, full, facts })).await;
    }

    pub(super) async fn reach(&mut self, stage: Stage, uptime_ms: u64) {
        self.event(Event::Lifecycle(Lifecycle { stage, uptime_ms, detail: None })).await;
    }

    pub(super) async fn beat(&mut self, session: &str) {
        let heartbeat = Heartbeat { seq: 1, session: session.to_owned(), clock: clock() };
        self.event(Event::Heartbeat(heartbeat)).await;
    }

    pub(super) async fn answer(&mut self, request: &Request, outcome: Outcome) {
        let mut bytes = Vec::new();
        codec::encode_reply(&Reply { outcome, id: request.id.clone() }, &mut bytes);
        self.send(&bytes).await;
    }

    pub(super) async fn refuse(&mut self, request: &Request, error: ErrorBody) {
        self.answer(request, Outcome::Error(error)).await;
    }

    /// The next request, or `None` at the end.
    pub(super) async fn request_or_end(&mut self) -> Option<Request> {
        loop {
            while let Some(frame) = self.decoder.next_frame() {
                match frame {
                    Frame::Object(object) => return Some(codec::parse_request(object).unwrap()),
                    Frame::Sync => {}
                    Frame::Discarded(..) => panic!("the host wrote garbage"),
                }
            }
            let mut bytes = [0; 4096];
            let read = soon(self.stream.read(&mut bytes)).await.unwrap_or(0);
            if read == 0 {
                return None;
            }
            self.decoder.feed(&bytes[..read]);
        }
    }

    pub(super) async fn request(&mut self) -> Request {
        self.request_or_end().await.expect("the host hung up")
    }

    pub(super) async fn host_hello(&mut self) -> AgentHello {
        let request = self.request().await;
        assert_eq!(request.execute, "agent-hello");
        let hello: AgentHello = serde_json::from_value(request.arguments.unwrap()).unwrap();
        self.host_session.clone_from(&hello.session);
        hello
    }

    /// Reads the host's hello, says ours, reads the confirmation.
    pub(super) async fn shake_hands(&mut self, session: &str) {
        let first = self.host_hello().await;
        assert_eq!(first.peer_session, None);
        self.event(Event::Hello(hello(session))).await;
        let second = self.host_hello().await;
        assert_eq!(second.peer_session.as_deref(), Some(session));
        assert_eq!(second.session, first.session);
    }
}

pub(super) fn wire(event: Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode_event(&TimedEvent { event, timestamp: clock() }, &mut bytes);
    bytes
}

pub(super) fn hello(session: &str) -> Hello {
    Hello {
        protocols: vec![1],
        session: session.to_owned(),
        agent_id: "an-agent".to_owned(),
        agent: "infiniservice/0.1.0".to_owned(),
        boot_id: "a-boot".to_owned(),
        capabilities: vec!["guest-ping".to_owned(), "guest-shutdown".to_owned()],
        clock: clock(),
    }
}

pub(super) fn clock() -> Timestamp {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp { seconds: now.as_secs(), microseconds: now.subsec_micros() }
}
