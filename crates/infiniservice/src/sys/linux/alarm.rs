//! When to wake next, kept by the kernel in a descriptor. Apart from the
//! runtime's own timers, which it hands to every wait anew: with one of those
//! pending, each request that the host sends costs a timer that is armed and
//! disarmed, and that is a tenth of a `guest-ping`.

#![expect(unsafe_code, reason = "registering a descriptor with the runtime is a promise")]

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One moment to wake at: timerfd_create(2).
#[derive(Debug)]
pub struct Alarm {
    timer: AsyncFd<OwnedFd>,
    at: Option<Instant>,
}

impl Alarm {
    /// An alarm that is not set. Called within the runtime.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: an `OwnedFd` is one open descriptor for as long as it lives.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        Ok(Self { timer, at: None })
    }

    /// Sets it to a moment, in place of the one before. The same moment again
    /// costs nothing.
    pub fn set(&mut self, at: Instant) -> io::Result<()> {
        if self.at == Some(at) {
            return Ok(());
        }
        let left = at.saturating_duration_since(Instant::now());
        let it_value = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            // Zero would switch it off.
            tv_nsec: i64::from(left.subsec_nanos()).max(1),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval, it_value };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        self.at = Some(at);
        Ok(())
    }

    /// Waits for the moment that it is set to; for ever when it is not set.
    /// Cancel-safe.
    pub async fn rings(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.timer.readable().await?;
            match rustix::io::read(guard.get_inner(), &mut [0; size_of::<u64>()]) {
                Ok(_) => {
                    self.at = None;
                    return Ok(());
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Long beside every alarm that should ring here.
    const LONG: Duration = Duration::from_secs(60);

    async fn rings_within(alarm: &mut Alarm, limit: Duration) -> bool {
        tokio::time::timeout(limit, alarm.rings()).await.is_ok()
    }

    #[tokio::test]
    async fn it_rings_once_for_each_moment_even_one_that_is_past() {
        let mut alarm = Alarm::new().unwrap();
        let now = Instant::now();
        for at in [now + Duration::from_millis(20), now] {
            alarm.set(at).unwrap();
            assert!(rings_within(&mut alarm, LONG).await);
            assert!(Instant::now() >= at);
            assert!(!rings_within(&mut alarm, Duration::from_millis(50)).await);
        }
    }

    #[tokio::test]
    async fn a_later_moment_takes_the_place_of_an_earlier_one_and_the_other_way_round() {
        let mut alarm = Alarm::new().unwrap();
        let now = Instant::now();
        alarm.set(now + Duration::from_millis(1)).unwrap();
        alarm.set(now + LONG).unwrap();
        assert!(!rings_within(&mut alarm, Duration::from_millis(50)).await);
        alarm.set(now + Duration::from_millis(60)).unwrap();
        assert!(rings_within(&mut alarm, LONG).await);
    }
}
