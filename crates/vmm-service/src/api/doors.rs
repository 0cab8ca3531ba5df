//! The daemon's doors: who comes in, and how long they may stay.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::Response;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use vmm_api::problem::MEDIA_TYPE;

use super::patience::{Endless, Patient};
use super::problem::ApiError;
use super::visitors::{Place, Refused, Visitors};
use super::{Context, everything, health_only};

/// Connections that one door serves at a time; more wait in the backlog. Event
/// streams hold theirs, so this is also how many may watch.
const MAX_CONNECTIONS: usize = 1024;
/// How long a client may take to send a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How large a request's head may be, and how much of an answer waits in memory
/// beside the piece that was added last; hyper's least is 8 KiB.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How long connections may take to end when the daemon goes: answers are short,
/// and a client that does not read must not hold the daemon up.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long to wait after accepting failed (out of descriptors, say), so that
/// the loop does not spin while that lasts.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Somebody who came in.
struct Caller<S> {
    stream: S,
    router: Router,
    /// Where callers are told apart.
    place: Option<Place>,
}

/// Serves the unix socket, whose callers the kernel identifies: root may do
/// everything, nobody else anything but see that the daemon is there. One
/// process has only so many connections, and makes them only so fast.
pub async fn serve_unix(listener: UnixListener, context: Context, shutdown: CancellationToken) {
    let visitors = context.visitors.clone();
    let router = everything(context);
    let accept = || async {
        let (stream, _) = listener.accept().await?;
        let caller = stream.peer_cred()?;
        let Some(place) = admit(&visitors, caller.pid(), &stream) else { return Ok(None) };
        let router = match caller.uid() {
            0 => router.clone(),
            stranger => health_only(ApiError::forbidden(stranger)),
        };
        Ok(Some(Caller { stream, router, place: Some(place) }))
    };
    serve(accept, shutdown).await;
}

/// A place for a process's connection. One that is refused is told so at once,
/// without a look at what it asks: to wait for that would take up a place.
fn admit(visitors: &Visitors, process: Option<i32>, stream: &UnixStream) -> Option<Place> {
    // The kernel names 0 whom we cannot see, in another process namespace.
    let entered = visitors.enter(process.unwrap_or(0));
    entered
        .map_err(|Refused { limit }| {
            // One that does not take it is refused all the same.
            let _ = stream.try_write(&refusal(&ApiError::too_many_connections(limit)));
        })
        .ok()
}

/// A whole answer, for a connection that is closed after it.
fn refusal(error: &ApiError) -> Vec<u8> {
    let status = StatusCode::from_u16(error.0.status).unwrap_or_default();
    let body = serde_json::to_string(&error.0).expect("a problem is plain data");
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Serves TCP, where until signatures are there nobody can be identified.
pub async fn serve_tcp(listener: TcpListener, shutdown: CancellationToken) {
    let router = health_only(ApiError::unauthenticated());
    let accept = || async {
        let (stream, _) = listener.accept().await?;
        Ok(Some(Caller { stream, router: router.clone(), place: None }))
    };
    serve(accept, shutdown).await;
}

/// Accepts until `shutdown`, then lets every connection finish what it began.
async fn serve<S, F>(mut accept: impl FnMut() -> F, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = std::io::Result<Option<Caller<S>>>>,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            // First those that ended, lest they pile up.
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            permit = Arc::clone(&permits).acquire_owned() => {
                permit.expect("the semaphore is never closed")
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept() => match accepted {
                Ok(Some(caller)) => {
                    connections.spawn(converse(caller, shutdown.clone(), permit));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "A connection could not be accepted.");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn converse<S>(
    Caller { stream, router, place }: Caller<S>,
    shutdown: CancellationToken,
    _permit: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if let Some(place) = &place {
        tokio::select! {
            () = place.turn() => {}
            () = shutdown.cancelled() => return,
        }
    }
    let endless = Endless::default();
    let stream = Patient::new(stream, endless.clone());
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        let (answer, endless) = (router.call(request), endless.clone());
        async move {
            let response = answer.await?;
            endless.set(is_event_stream(&response));
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(FAREWELL, connection).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::debug!("A connection was cut off, for its client does not read.");
                    return;
                }
            }
        }
    };
    if let Err(error) = ended {
        // Clients go away in the middle of things all the time.
        tracing::debug!(%error, "A connection ended early.");
    }
}

fn is_event_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}
