//! Selects how a wait ends at its deadline. Pure.
//!
//! A timeout of io_uring_enter(2) sets up and removes a timer in each wait. In a virtual machine, where each
//! is an exit, a balancer took 41 us instead of 31 us for each of 5,000 requests per second. So short waits
//! share a lazy timer in the ring: a timer that fires before the current deadline is not moved, and the wait
//! continues. A deadline that moves with each turn costs one timer per expiry, not one per turn.

use std::time::Duration;

use crate::base::time::Instant;

/// Longer waits have their own timeout, so that the timer is never far ahead of the deadlines.
const SHARED_MAX: Duration = Duration::from_millis(20);

/// How a wait that starts now ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitEnd {
    /// The deadline has passed.
    Now,
    /// A timeout of this wait alone.
    TimeOut(Duration),
    /// The timer that is already set, at the deadline or before.
    Timer,
    /// The timer, after it is set to this time from now.
    NewTimer(Duration),
}

/// Selects how a wait ends; `timer` is when the timer fires, if it is set.
pub(super) fn end_of_wait(now: Instant, deadline: Instant, timer: Option<Instant>) -> WaitEnd {
    let left = deadline.since(now);
    match timer {
        _ if left.is_zero() => WaitEnd::Now,
        _ if left > SHARED_MAX => WaitEnd::TimeOut(left),
        Some(fires) if fires <= deadline => WaitEnd::Timer,
        Some(_) => WaitEnd::TimeOut(left),
        None => WaitEnd::NewTimer(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_share_a_timer_that_is_left_alone_if_it_fires_early() {
        let at = |micros: u64| Instant::from_nanos(micros * 1_000);
        let micros = Duration::from_micros;
        for (now, deadline, timer, expected) in [
            (10, 10, None, WaitEnd::Now),
            (10, 9, Some(20), WaitEnd::Now),
            (0, 500, None, WaitEnd::NewTimer(micros(500))),
            (10, 510, Some(500), WaitEnd::Timer),
            // The timer has fired, but its completion was not read yet; it ends the wait at once.
            (501, 999, Some(500), WaitEnd::Timer),
            (10, 400, Some(500), WaitEnd::TimeOut(micros(390))),
            (0, 20_001, None, WaitEnd::TimeOut(micros(20_001))),
            (0, 20_001, Some(500), WaitEnd::TimeOut(micros(20_001))),
        ] {
            assert_eq!(
                end_of_wait(at(now), at(deadline), timer.map(at)),
                expected,
                "at {now} for {deadline}"
            );
        }
    }
}
