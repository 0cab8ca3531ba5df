//! One VM's channel: the task that owns the host's end of the socket, the only
//! client that the hypervisor serves there. It always reads, within the guest's
//! budget, and writes only what the guest takes, so that a guest which never
//! reads costs one small buffer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use guest_protocol::codec::{Decoder, Discard, Frame, MAX_FEED_BYTES};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::budget::{Budget, Cost, Limits};
use super::session::{Order, Session};
use super::state::GuestState;
use crate::sys::host::is_out_of_files;

/// The first wait before another try to connect: at a VM's start the socket is
/// there before the daemon is told, so a failure means that QEMU is going.
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(50);

/// The longest wait between two tries. A connect to a unix socket costs next to
/// nothing, and a guest must not wait long for the host.
const LAST_RETRY: Duration = Duration::from_secs(2);

/// After how many heartbeats without a word a guest counts as silent.
const SILENT_AFTER_HEARTBEATS: u32 = 3;

/// What an output buffer keeps when it is empty, in bytes: a hello and a
/// heartbeat fit.
const RETAINED_OUTPUT_BYTES: usize = 1024;

/// What a piece of garbage and a reset cost beside their bytes, in bytes: as
/// much as it takes to count them. They are no messages, or random bytes would
/// be read at an eighth of a megabyte a second.
const SCRAP_BYTES: usize = 64;

thread_local! {
    /// Where bytes are read to on their way into a decoder. One for a thread
    /// and not for a guest: most guests are silent at any moment.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_FEED_BYTES]);
}

/// What the hypervisor said of the guest, as a channel's task has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signals {
    /// Whether the guest's port is believed open. What is written to a closed
    /// one waits in the hypervisor, and is stale when it arrives.
    pub(super) open: bool,
    pub(super) closes: u64,
    pub(super) resets: u64,
}

impl Default for Signals {
    fn default() -> Self {
        Self { open: true, closes: 0, resets: 0 }
    }
}

/// How fast things go on a channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) heartbeat: Duration,
    /// The first wait before another try to connect.
    pub(super) retry: Duration,
    pub(super) limits: Limits,
}

/// What a channel's task owns.
#[derive(Debug)]
pub(super) struct Channel {
    socket: PathBuf,
    pace: Pace,
    state: Arc<GuestState>,
    session: Session,
    /// Kept over connections: to reconnect buys nothing.
    budget: Budget,
    signals: watch::Receiver<Signals>,
    orders: mpsc::Receiver<Box<Order>>,
    detached: CancellationToken,
}

/// What belongs to one connection.
#[derive(Debug)]
struct Link {
    decoder: Decoder,
    /// What was read since it was last counted, in bytes.
    read: u64,
    /// The guest is over its budget and not read until then.
    paused: Option<Instant>,
    out: Vec<u8>,
    /// How much of `out` is written.
    written: usize,
    /// Whether anything sensible came.
    spoke: bool,
}

impl Channel {
    pub(super) fn new(
        socket: PathBuf,
        pace: Pace,
        state: Arc<GuestState>,
        signals: watch::Receiver<Signals>,
        orders: mpsc::Receiver<Box<Order>>,
        detached: CancellationToken,
    ) -> Self {
        let session = Session::new(Arc::clone(&state), pace.heartbeat);
        let budget = Budget::new(&pace.limits, Instant::now());
        Self { socket, pace, state, session, budget, signals, orders, detached }
    }

    /// Serves the channel until it is detached. `previous` is the task of the
    /// same VM's earlier attachment, which ends first: the hypervisor lets
    /// only one client in.
    pub(super) async fn run(mut self, previous: Option<JoinHandle<()>>) {
        if let Some(previous) = previous
            && let Err(error) = previous.await
        {
            tracing::error!(vm = %self.state.vm(), %error, "A channel's task ended badly.");
        }
        let mut retry = self.pace.retry;
        // Said once for each time that the socket is away: one that is going
        // with its VM is no news.
        let mut warned = false;
        loop {
            let connected = tokio::select! {
                biased;
                () = self.detached.cancelled() => break,
                connected = UnixStream::connect(&self.socket) => connected,
            };
            match connected {
                Ok(mut stream) => {
                    self.state.connected();
                    if self.serve(&mut stream).await {
                        retry = self.pace.retry;
                    }
                    drop(stream);
                    self.session.renew();
                    warned = false;
                }
                Err(error) if is_out_of_files(&error) && !warned => {
                    warned = true;
                    let vm = self.state.vm();
                    tracing::error!(
                        %vm, %error,
                        "Nothing is heard of a guest, for too many files are open: give the daemon \
                         more (LimitNOFILE= in its unit, or ulimit -Hn) and restart it. Trying on."
                    );
                }
                Err(error) if retry == LAST_RETRY && !warned => {
                    warned = true;
                    let (vm, socket) = (self.state.vm(), &self.socket);
                    tracing::warn!(%vm, %error, ?socket, "A guest's channel cannot be reached.");
                }
                Err(error) => self.log(&error, "A channel's socket lets nobody in."),
            }
            if !self.wait(jittered(retry)).await {
                break;
            }
            retry = (retry * 2).min(LAST_RETRY);
        }
        self.session.renew();
    }

    /// Waits between two connections; says whether to go on.
    async fn wait(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            self.state.check_silence(self.patience());
            tokio::select! {
                biased;
                () = self.detached.cancelled() => return false,
                // Dropped: nobody is there who could obey.
                order = self.orders.recv() => if order.is_none() { return false },
                () = sleep_until(until) => return true,
            }
        }
    }

    /// Serves one connection until it ends; says whether the guest spoke.
    async fn serve(&mut self, stream: &mut UnixStream) -> bool {
        let (mut reader, writer) = stream.split();
        let mut seen = *self.signals.borrow_and_update();
        let now = Instant::now();
        let mut link = Link {
            decoder: Decoder::default(),
            read: 0,
            paused: None,
            out: Vec::new(),
            written: 0,
            spoke: false,
        };
        self.session.connect(&mut link.out);
        let mut alarm = pin!(sleep_until(now + self.pace.heartbeat));
        let ended = loop {
            let now = Instant::now();
            self.state.check_silence(self.patience());
            self.take_frames(&mut link, now);
            if seen.open && link.out.is_empty() {
                self.session.write_due(&mut link.out, now);
            }
            let wake = self.next_wake(&link, seen, now);
            // An alarm that rings too early is cheaper than one that is set
            // anew with each message.
            if alarm.is_elapsed() || alarm.deadline() > wake {
                alarm.as_mut().reset(wake);
            }
            tokio::select! {
                biased;
                () = self.detached.cancelled() => break Ok(()),
                changed = self.signals.changed() => {
                    if changed.is_err() {
                        break Ok(());
                    }
                    let signals = *self.signals.borrow_and_update();
                    // Whatever was said to the guest before is void.
                    if (signals.closes, signals.resets) != (seen.closes, seen.resets) {
                        self.session.renew();
                    }
                    seen = signals;
                }
                ready = writer.writable(), if !link.out.is_empty() => {
                    if let Err(error) = ready.and_then(|()| self.write(&writer, &mut link)) {
                        break Err(error);
                    }
                }
                read = read(&mut reader, &mut link.decoder), if link.paused.is_none() => match read {
                    Ok(0) => break Ok(()),
                    Ok(bytes) => {
                        link.read += bytes as u64;
                        if bytes == MAX_FEED_BYTES {
                            // There is more, and others wait for this thread.
                            yield_now().await;
                        }
                    }
                    Err(error) => break Err(error),
                },
                // One at a time: the next when this one is written.
                order = self.orders.recv(), if link.out.is_empty() => match order {
                    Some(order) if seen.open && self.session.confirmed() => {
                        self.session.command(*order, &mut link.out);
                    }
                    Some(_not_there) => {}
                    None => break Ok(()),
                },
                () = alarm.as_mut() => {}
            }
        };
        if let Err(error) = ended {
            self.log(&error, "A channel's connection broke.");
        }
        link.spoke
    }

    /// Takes what the decoder holds, as far as the budget goes.
    fn take_frames(&mut self, link: &mut Link, now: Instant) {
        if link.paused.is_some_and(|until| now < until) {
            return;
        }
        link.paused = None;
        let mut messages = 0;
        loop {
            if let Some(pause) = self.budget.exhausted(&self.pace.limits, now) {
                link.paused = Some(now + pause.time);
                self.state.paused(pause);
                break;
            }
            let frame = link.decoder.next_frame();
            let last = frame.is_none();
            match frame {
                None => {}
                Some(Frame::Sync) => self.budget.spend(Cost::Bytes, SCRAP_BYTES),
                Some(Frame::Discarded(Discard::Garbage, bytes)) => {
                    self.state.discarded(Discard::Garbage, bytes);
                    self.budget.spend(Cost::Bytes, SCRAP_BYTES);
                }
                Some(Frame::Discarded(reason, bytes)) => {
                    messages += 1;
                    self.state.discarded(reason, bytes);
                    self.budget.spend(Cost::Messages, 1);
                }
                Some(Frame::Object(object)) => {
                    messages += 1;
                    link.spoke = true;
                    self.session.receive(object, now, &mut self.budget);
                    self.budget.spend(Cost::Messages, 1);
                }
            }
            self.budget.spend(Cost::Bytes, link.decoder.take_work());
            if last {
                break;
            }
        }
        let read = std::mem::take(&mut link.read);
        if read > 0 || messages > 0 {
            self.state.received(read, messages);
        }
    }

    /// Writes what the socket takes.
    fn write(&mut self, stream: &WriteHalf<'_>, link: &mut Link) -> io::Result<()> {
        match stream.try_write(&link.out[link.written..]) {
            Ok(written) => link.written += written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if link.written == link.out.len() {
            link.out.clear();
            link.out.shrink_to(RETAINED_OUTPUT_BYTES);
            link.written = 0;
            self.session.flushed();
        }
        Ok(())
    }

    fn log(&self, error: &io::Error, what: &str) {
        tracing::debug!(vm = %self.state.vm(), %error, socket = ?self.socket, "{what}");
    }

    fn next_wake(&self, link: &Link, seen: Signals, now: Instant) -> Instant {
        // Often enough to notice silence in time.
        let wake = now + self.pace.heartbeat;
        let due = self.session.next_due().filter(|_| seen.open && link.out.is_empty());
        [due, link.paused].into_iter().flatten().fold(wake, Instant::min)
    }

    fn patience(&self) -> Duration {
        self.pace.heartbeat * SILENT_AFTER_HEARTBEATS
    }
}

/// Reads once, and says how much; zero when the other end closed. Cancel-safe.
///
/// By `poll_read`, which sees by a short read that there is no more: `try_read`
/// would have to be called again to hear it, with each report.
async fn read(stream: &mut ReadHalf<'_>, decoder: &mut Decoder) -> io::Result<usize> {
    poll_fn(|context| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
            decoder.feed(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    })
    .await
}

/// Between half of `time` and all of it, so that thousands of channels which
/// lost their peers together do not come back together.
fn jittered(time: Duration) -> Duration {
    let (random, ..) = Uuid::new_v4().as_fields();
    time.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}
