//! One connection to the daemon, driven by whoever waits for something on it:
//! no task has to be spawned, owned and awaited.

use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::Error;

/// What is asked.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Request {
    pub(super) fn new(method: Method, path: String) -> Self {
        Self { method, path, headers: HeaderMap::new(), body: Bytes::new() }
    }
}

/// How long an answer may take and how large it may be.
pub(super) struct Limits {
    pub(super) deadline: Duration,
    pub(super) bytes: usize,
}

/// How long to wait before a daemon is tried again that has no room for one
/// more connection.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// A connection for one request.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Driver,
}

impl Connection {
    pub(super) async fn open(socket: &Path) -> Result<Self, Error> {
        let stream = connect(socket)
            .await
            .map_err(|source| Error::NotReachable { socket: socket.to_owned(), source })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        Ok(Self { sender, driver: Driver { connection: Some(Box::pin(connection)) } })
    }

    /// Sends the request and waits for the head of its answer.
    pub(super) async fn send(&mut self, request: Request) -> Result<Response<Incoming>, Error> {
        let mut head = hyper::Request::builder()
            .method(request.method)
            .uri(request.path)
            .body(Full::new(request.body))
            .map_err(|error| Error::Protocol(format!("the request is not HTTP: {error}")))?;
        *head.headers_mut() = request.headers;
        head.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
        head.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let sent = self.sender.send_request(head);
        self.driver.alongside(sent).await.map_err(lost)
    }

    /// The next piece of the answer's body, or `None` at its end. Cancel-safe.
    pub(super) async fn chunk(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(frame) = self.driver.alongside(body.frame()).await else { return Ok(None) };
            // Trailers are nothing that the daemon sends.
            if let Ok(data) = frame.map_err(lost)?.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body, of at most `limit` bytes.
    pub(super) async fn collect(
        &mut self,
        mut body: Incoming,
        limit: usize,
    ) -> Result<Bytes, Error> {
        let mut whole = BytesMut::new();
        while let Some(data) = self.chunk(&mut body).await? {
            if whole.len() + data.len() > limit {
                return Err(Error::Protocol(format!("its answer is longer than {limit} bytes")));
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }
}

/// A unix socket refuses at once while its queue is full, instead of making the
/// caller wait as TCP does. The caller's deadline ends the waiting here.
async fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                tokio::time::sleep(FULL_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

type Http1 = http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

/// Moves bytes while something else waits for them.
struct Driver {
    /// Absent once it has ended; whoever waits then hears of it by himself.
    connection: Option<Pin<Box<Http1>>>,
}

impl Driver {
    async fn alongside<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = pin!(work);
        while let Some(connection) = &mut self.connection {
            tokio::select! {
                biased;
                output = &mut work => return output,
                // Its error reaches the work as well, which reports it.
                _ = connection => self.connection = None,
            }
        }
        work.await
    }
}

fn lost(error: hyper::Error) -> Error {
    Error::Lost(Box::new(error))
}
