//! Time for the roles: an argument, never a call.
//!
//! [`Instant`] counts nanoseconds from the origin of the [`Clock`] that made it, so simulated and real
//! time have the same type. [`Clock`] is the only reader of the operating system's clock. Its origin is
//! the same in all processes of a machine, so a process and its successor agree on instants.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A point in time: nanoseconds since the origin of the clock that made it. Wraps after 584 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instant(u64);

impl Instant {
    /// The origin of every clock.
    pub const ZERO: Instant = Instant(0);

    /// The instant `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Instant(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Microseconds since the origin, modulo 2^32 (71 minutes), as in frames.
    pub const fn wrapping_micros(self) -> u32 {
        (self.0 / 1_000) as u32
    }

    /// The first multiple of `step` after this instant, counted from the origin. What is due at such moments
    /// in several places wakes a machine once.
    pub fn next_multiple(self, step: Duration) -> Instant {
        let step = nanos(step).max(1);
        Instant((self.0 / step + 1).saturating_mul(step))
    }

    /// The time from `earlier` to this instant, zero if `earlier` is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(rhs)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_sub(nanos(rhs)))
    }
}

/// A duration in whole nanoseconds, saturating after 584 years.
fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// The earlier of two optional deadlines; `None` means never.
pub fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The monotonic system clock (CLOCK_MONOTONIC). Its origin is one second before boot, so that earlier
/// moments exist.
#[derive(Clone, Copy, Debug)]
pub struct Clock(());

impl Clock {
    /// The clock; all clocks of a machine are equal.
    pub fn start() -> Self {
        Clock(())
    }

    /// Reads the clock. Called once a turn, never per datagram.
    pub fn now(&self) -> Instant {
        let time = clock_gettime(ClockId::Monotonic);
        let since_start = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
        Instant(nanos(since_start).saturating_add(1_000_000_000))
    }
}

/// CPU time of this thread: the cost of its work, regardless of other processes.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        let t = Instant::from_nanos(5);
        assert_eq!(t - Duration::from_secs(1), Instant::ZERO);
        assert_eq!(t.since(Instant::from_nanos(9)), Duration::ZERO);
        assert_eq!(Instant::from_nanos(u64::MAX) + Duration::from_secs(1), Instant::from_nanos(u64::MAX));
    }

    #[test]
    fn the_next_multiple_is_always_later() {
        let next = |at, step| Instant::from_nanos(at).next_multiple(Duration::from_nanos(step)).as_nanos();
        assert_eq!((next(0, 5), next(4, 5), next(5, 5), next(7, 0)), (5, 5, 10, 8));
    }

    #[test]
    fn the_earliest_of_never_and_a_deadline_is_the_deadline() {
        let t = Some(Instant::from_nanos(7));
        assert_eq!(earliest(None, t), t);
        assert_eq!(earliest(t, Some(Instant::from_nanos(3))), Some(Instant::from_nanos(3)));
        assert_eq!(earliest(None, None), None);
    }

    #[test]
    fn the_clock_never_runs_backwards() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(first.as_nanos() >= 1_000_000_000);
        assert!(clock.now() >= first);
    }

    #[test]
    fn clocks_that_are_made_one_after_the_other_are_the_same() {
        let first = Clock::start();
        let before = first.now();
        std::thread::sleep(Duration::from_millis(2));
        let (second, between) = (Clock::start().now(), first.now());
        assert!(before + Duration::from_millis(2) <= second && second <= between);
        assert!(between.since(second) < Duration::from_secs(10));
    }
}
