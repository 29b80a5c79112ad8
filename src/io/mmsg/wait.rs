//! Waiting for sockets, a wake-up or a deadline: mio, an eventfd and a timerfd.
//!
//! mio rounds timeouts up to whole milliseconds, so a timerfd in the poll ends a wait instead: once, at the
//! deadline. The timer is lazy: a timer that fires before the current deadline is not moved, and the wait
//! continues. A deadline that moves with each turn therefore costs one system call per expiry of the timer,
//! not one per turn.
//!
//! Neither descriptor is ever read: mio registers edge-triggered, and each expiry and each write is an
//! edge of its own.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::super::{Waker, eventfd};
use crate::base::batch::SocketId;
use crate::base::time::{Clock, Instant};

const TIMER: Token = Token(usize::MAX - 2);
const WAKER: Token = Token(usize::MAX - 3);

/// Room for this many events at once, at least. More than that are reported by the next poll.
const EVENTS_MIN: usize = 32;

/// A readable socket, or a back end with news.
#[derive(Clone, Copy, Debug)]
pub(in crate::io) struct ReadySocket {
    pub(in crate::io) socket: SocketId,
    /// Whether an error is pending or in the error queue (EPOLLERR).
    pub(super) has_error: bool,
}

/// Everything that can end a wait.
pub(in crate::io) struct Waiter {
    poll: Poll,
    events: Events,
    timer: OwnedFd,
    /// When the timer fires or fired.
    armed: Option<Instant>,
    waker: Waker,
}

impl Waiter {
    /// Registers the sockets under their numbers.
    pub(in crate::io) fn new(sockets: &[UdpSocket]) -> io::Result<Self> {
        let poll = Poll::new()?;
        for (socket, number) in sockets.iter().zip(0..) {
            watch(&poll, socket.as_raw_fd(), Token(number))?;
        }
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        watch(&poll, timer.as_raw_fd(), TIMER)?;
        let wakeups = eventfd()?;
        watch(&poll, wakeups.as_raw_fd(), WAKER)?;
        let events = Events::with_capacity(sockets.len().max(EVENTS_MIN) + 2);
        Ok(Waiter { poll, events, timer, armed: None, waker: Waker::new(wakeups) })
    }

    /// Watches a socket again. Data that it already has is reported as an edge.
    pub(in crate::io) fn watch(&self, socket: SocketId, descriptor: RawFd) -> io::Result<()> {
        watch(&self.poll, descriptor, Token(socket.0.into()))
    }

    /// Stops watching a socket.
    pub(in crate::io) fn forget(&self, descriptor: RawFd) -> io::Result<()> {
        self.poll.registry().deregister(&mut SourceFd(&descriptor))
    }

    /// A descriptor that is readable when something would end a wait.
    pub(super) fn descriptor(&self) -> RawFd {
        self.poll.as_raw_fd()
    }

    /// A waker that ends waits from other threads.
    pub(super) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Checks without waiting which sockets are readable or have an error.
    pub(super) fn look(&mut self, on_ready: impl FnMut(ReadySocket)) -> io::Result<()> {
        self.poll(Some(Duration::ZERO), on_ready)?;
        Ok(())
    }

    /// Waits until a socket is readable or has an error, the waker fires, or `deadline` has passed. A
    /// signal handler also ends the wait.
    pub(in crate::io) fn wait(
        &mut self,
        clock: Clock,
        deadline: Option<Instant>,
        mut on_ready: impl FnMut(ReadySocket),
    ) -> io::Result<()> {
        let Some(deadline) = deadline else {
            while !self.poll(None, &mut on_ready)? {}
            return Ok(());
        };
        let mut now = clock.now();
        loop {
            if now >= deadline {
                return self.look(on_ready);
            }
            self.arm(now, deadline)?;
            if self.poll(None, &mut on_ready)? {
                return Ok(());
            }
            now = clock.now();
            if now >= deadline {
                return Ok(());
            }
        }
    }

    /// Makes the timer fire at the deadline or before it.
    fn arm(&mut self, now: Instant, deadline: Instant) -> io::Result<()> {
        let fires_in_time = self.armed.is_some_and(|at| now < at && at <= deadline);
        if !fires_in_time {
            // Not zero, which would disarm the timer. Once: the interval is zero.
            let left = deadline.since(now);
            let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let it_interval = Timespec::default();
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
            self.armed = Some(deadline);
        }
        Ok(())
    }

    /// Polls once. True if something other than the timer or the timeout ended the poll.
    fn poll(
        &mut self,
        time_out: Option<Duration>,
        mut on_ready: impl FnMut(ReadySocket),
    ) -> io::Result<bool> {
        match self.poll.poll(&mut self.events, time_out) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
            result => result?,
        }
        let mut ended = false;
        for event in &self.events {
            match event.token() {
                TIMER => continue,
                WAKER => {}
                Token(number) => {
                    on_ready(ReadySocket { socket: SocketId(number as u16), has_error: event.is_error() });
                }
            }
            ended = true;
        }
        Ok(ended)
    }
}

fn watch(poll: &Poll, fd: RawFd, token: Token) -> io::Result<()> {
    poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_that_fires_early_enough_is_left_alone() {
        let mut waiter = Waiter::new(&[]).unwrap();
        let at = |micros: u64| Instant::from_nanos(micros * 1_000);
        for (now, deadline, armed) in
            [(0, 500, 500), (10, 9_000, 500), (499, 999, 500), (500, 9_000, 9_000), (501, 600, 600)]
        {
            waiter.arm(at(now), at(deadline)).unwrap();
            assert_eq!(waiter.armed, Some(at(armed)), "at {now} for {deadline}");
        }
    }
}
