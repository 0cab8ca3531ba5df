//! How long a client may leave an answer unread: one that never reads would
//! keep its connection, and what is to be sent on it, for ever.
//!
//! Streams of events are exempt. A stopped watcher costs a connection, one
//! piece of events in hyper's buffer and a place in the ring, and is told what it
//! missed when it goes on.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a client may take nothing of what waits for it.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Whether the answer under way may wait for its reader without end.
#[derive(Clone, Debug, Default)]
pub struct Endless(Arc<AtomicBool>);

impl Endless {
    /// Says so of the answer that begins.
    pub fn set(&self, endless: bool) {
        self.0.store(endless, Ordering::Relaxed);
    }
}

/// A connection that breaks when its reader takes nothing for too long.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    endless: Endless,
    /// Runs while the reader takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Guards `stream`, except while `endless` says otherwise.
    pub fn new(stream: S, endless: Endless) -> Self {
        Self { stream, endless, stalled: None }
    }

    fn limit<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() || self.endless.0.load(Ordering::Relaxed) {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_DEADLINE)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limit(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.limit(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.limit(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.limit(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_left_and_a_slow_one_is_not() {
        let (near, mut far) = duplex(8);
        let mut near = Patient::new(near, Endless::default());
        let reader = tokio::spawn(async move {
            let mut taken = [0; 8];
            for _ in 0..3 {
                sleep(WRITE_DEADLINE * 9 / 10).await;
                far.read_exact(&mut taken).await.unwrap();
            }
            far
        });
        near.write_all(&[0; 32]).await.unwrap();
        let far = reader.await.unwrap();
        let began = Instant::now();
        let error = near.write_all(&[0; 32]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), WRITE_DEADLINE.as_secs());
        drop(far);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_answer_waits() {
        let (near, _far) = duplex(8);
        let endless = Endless::default();
        endless.set(true);
        let mut near = Patient::new(near, endless);
        let written = timeout(WRITE_DEADLINE * 100, near.write_all(&[0; 32])).await;
        assert!(written.is_err(), "it was not broken off");
    }
}
