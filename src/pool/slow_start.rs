//! Slow start: a server that comes up gets a part of its share of the requests at first, and more with
//! time, so that its caches, connections and compilers can warm up. Pure: time is an argument.

use std::time::Duration;

use crate::base::time::Instant;
use crate::pool::select::SHARE_ALL;

/// First share of a server that comes up, in units of [`SHARE_ALL`].
const SHARE_FIRST: u16 = SHARE_ALL / 10;
/// Servers that come up within this time of the first are assumed to predate the balancer; they skip slow
/// start.
const FIRST_TO_COME: Duration = Duration::from_secs(5);

/// Slow start of a pool's servers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlowStart {
    first_up: Option<Instant>,
}

impl SlowStart {
    /// A server comes up. Returns the start of its slow start; `None` without one: `span` is 0, or the
    /// server comes up with the balancer.
    pub fn begin(&mut self, now: Instant, span: Duration) -> Option<Instant> {
        let first = *self.first_up.get_or_insert(now);
        (span > Duration::ZERO && now.since(first) > FIRST_TO_COME).then_some(now)
    }
}

/// Share of a server whose slow start began at `since`, in units of [`SHARE_ALL`]; `None` when `span` is
/// over.
pub fn share(since: Instant, now: Instant, span: Duration) -> Option<u16> {
    let passed = now.since(since);
    if passed >= span {
        return None;
    }
    let rest = u128::from(SHARE_ALL - SHARE_FIRST);
    Some(SHARE_FIRST + (rest * passed.as_nanos() / span.as_nanos()) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPAN: Duration = Duration::from_secs(10);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_tenth_at_first_half_of_the_rest_after_half_of_the_time_and_then_all() {
        let shares = [0, 1, 5_000, 9_999, 10_000, 99_999].map(|ms| share(at(1_000), at(1_000 + ms), SPAN));
        assert_eq!(shares, [Some(100), Some(100), Some(550), Some(999), None, None]);
    }

    #[test]
    fn servers_that_come_up_with_the_balancer_skip_slow_start_and_later_ones_do_not() {
        let mut slow = SlowStart::default();
        let begun = [1_000, 1_500, 6_000, 6_001].map(|ms| slow.begin(at(ms), SPAN));
        assert_eq!(begun, [None, None, None, Some(at(6_001))]);
        assert_eq!(slow.begin(at(9_000), Duration::ZERO), None);
    }

    proptest! {
        #[test]
        fn the_share_only_grows_and_stays_within_its_bounds(
            span in 1..=600_000_000_000u64,
            mut times in prop::collection::vec(0..=600_000_000_000u64, 1..20),
        ) {
            times.sort_unstable();
            let mut last = SHARE_FIRST;
            for nanos in times {
                let share = share(Instant::ZERO, Instant::from_nanos(nanos), Duration::from_nanos(span));
                let share = share.unwrap_or(SHARE_ALL);
                prop_assert!((last..=SHARE_ALL).contains(&share));
                last = share;
            }
        }
    }
}
