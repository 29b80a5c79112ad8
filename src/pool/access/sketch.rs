//! Per-source rate limit, in memory that does not grow with the number of sources.
//!
//! Each source has a token bucket, as GCRA writes it: as one *time*, when its next request is due (ITU-T
//! I.371). The times are in a count-min table with conservative update (Cormode and Muthukrishnan 2005; Estan
//! and Varghese 2002): a source has a cell in each of four rows, its time is the least of the four, and only
//! cells below its new time are raised. Sources that share cells can only make each other's times later, and
//! only where all four are shared.

use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::source_hash;
use crate::base::sync::{AtomicU64, Ordering};
use crate::base::time::Instant;

const ROWS: usize = 4;
/// Cells of a row, as a power of two.
const ROW_BITS: usize = 14;
const ROW_CELLS: usize = 1 << ROW_BITS;

const _: () = assert!(ROWS * ROW_BITS <= 64, "one hash names a cell in each row");

/// At most `rate` requests per second, and `burst` at once, from each source, in 512 KiB.
///
/// A source is an IPv4 address, mapped or not, or an IPv6 /64. A source within its rate is refused only
/// while other sources have used up all four of its cells. With a burst worth one second that takes more
/// than 16,384 times `rate` from all sources together, as in a flood from made-up sources. With a burst of
/// a few requests it begins earlier, at about a quarter of that.
///
/// Shared by threads, wait-free except for the hardware's own retries. Threads that check one source at
/// the same instant may each admit a request where only one is within the rate.
pub struct Sketch {
    /// Row by row: the nanosecond at which the next request is due; zero if there was none.
    /// Relaxed: each cell only grows, and guards no other memory.
    cells: Box<[AtomicU64]>,
    /// A random key per process, so that an attacker cannot choose sources that share a victim's cells.
    key: SipHasher13,
    /// Nanoseconds per request, at least 1.
    interval: u64,
    /// How early a request may be, in nanoseconds: `burst - 1` intervals.
    tolerance: u64,
}

impl Sketch {
    /// `rate` in requests per second, `burst` in requests; `key` is 16 random bytes.
    ///
    /// `rate` is 1e-9 to 1e9, `burst` at least 1; a value outside counts as the nearest one. The burst may
    /// be worth at most 146 years. The interval between requests is truncated to whole nanoseconds, in the
    /// source's favour.
    pub fn new(rate: f64, burst: f64, key: [u8; 16]) -> Self {
        // A rate that is not a number becomes an interval of zero, and so of one.
        let interval = ((1e9 / rate.clamp(1e-9, 1e9)) as u64).max(1);
        let tolerance = ((burst.max(1.0) - 1.0) * interval as f64) as u64;
        Sketch {
            cells: (0..ROWS * ROW_CELLS).map(|_| AtomicU64::new(0)).collect(),
            key: SipHasher13::new_with_key(&key),
            interval,
            tolerance: tolerance.min(TOLERANCE_MAX),
        }
    }

    /// A sketch whose burst is one second's requests, at least 1.
    pub fn per_second(rate: f64, key: [u8; 16]) -> Self {
        Sketch::new(rate, rate, key)
    }

    /// Whether a request of this source is within its rate; if so it is counted.
    pub fn allow(&self, source: IpAddr, now: Instant) -> bool {
        self.allow_many(source, 1, now) == 1
    }

    /// How many of `n` requests of this source, which came together, are within its rate; those are counted.
    pub fn allow_many(&self, source: IpAddr, n: u32, now: Instant) -> u32 {
        let now = now.as_nanos();
        let cells = self.cells(source);
        let seen = cells.map(|cell| cell.load(Ordering::Relaxed));
        let due = seen.into_iter().fold(u64::MAX, u64::min).max(now);
        // Intervals that fit before the last moment at which a request may be due.
        let Some(spare) = self.tolerance.checked_sub(due - now) else {
            return 0;
        };
        let allowed = (spare / self.interval).saturating_add(1).min(n.into());
        let due = due.saturating_add(allowed * self.interval);
        for (cell, seen) in cells.into_iter().zip(seen) {
            if seen < due && allowed > 0 {
                cell.fetch_max(due, Ordering::Relaxed);
            }
        }
        allowed as u32
    }

    /// The cells of a source, one in each row.
    fn cells(&self, source: IpAddr) -> [&AtomicU64; ROWS] {
        let hash = source_hash(&self.key, source);
        std::array::from_fn(|row| {
            let column = (hash >> (row * ROW_BITS)) as usize % ROW_CELLS;
            &self.cells[row * ROW_CELLS + column]
        })
    }
}

/// So that a time plus the tolerance passes the end of the clock in 438 years at the earliest.
const TOLERANCE_MAX: u64 = 1 << 62;

impl std::fmt::Debug for Sketch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sketch {{ interval: {}, tolerance: {}, .. }}", self.interval, self.tolerance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    const KEY: [u8; 16] = *b"a key of a test.";
    const SECOND: u64 = 1_000_000_000;

    fn ip(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn a_source_at_or_under_its_rate_is_never_refused() {
        for (rate, gap) in
            [(3.0, 333_333_334), (6.0, 166_666_667), (6.0, SECOND), (0.5, 2 * SECOND), (1e6, 1_000)]
        {
            let sketch = Sketch::new(rate, 1.0, KEY);
            for n in 0..1_000 {
                assert!(sketch.allow(ip(1), at(SECOND + n * gap)), "request {n} at {rate}");
            }
        }
    }

    #[test]
    fn a_source_over_its_rate_gets_its_rate_and_one_burst() {
        let sketch = Sketch::new(100.0, 20.0, KEY);
        // 1,000 a second for ten seconds.
        let allowed = (0..10_000).filter(|n| sketch.allow(ip(1), at(SECOND + n * SECOND / 1_000))).count();
        assert!((1_018..=1_020).contains(&allowed), "{allowed}");
    }

    #[test]
    fn a_burst_is_allowed_at_once_and_again_after_it_was_earned() {
        let sketch = Sketch::per_second(6.0, KEY);
        for start in [0, SECOND, 2 * SECOND] {
            assert_eq!(sketch.allow_many(ip(1), 100, at(start)), 6, "at {start}");
            assert_eq!(sketch.allow_many(ip(1), 100, at(start)), 0, "at {start}");
        }
        assert_eq!(Sketch::per_second(0.1, KEY).allow_many(ip(1), 9, at(0)), 1, "at least one");
        assert_eq!(sketch.allow_many(ip(2), 0, at(0)), 0);
        assert_eq!(sketch.allow_many(ip(2), 9, at(0)), 6, "none asked, none counted");
    }

    #[test]
    fn a_hundred_thousand_quiet_sources_do_not_disturb_one_at_its_rate() {
        let sketch = Sketch::new(100.0, 2.0, KEY);
        // Each of the others asks once a second; each may ask a hundred times.
        let refused = (0..300u32).filter(|turn| {
            let now = at(SECOND) + Duration::from_millis(10) * *turn;
            for n in 0..1_000 {
                assert!(sketch.allow(ip(1_000 + turn % 100 * 1_000 + n), now));
            }
            !sketch.allow(ip(1), now)
        });
        assert_eq!(refused.count(), 0);
        assert_eq!(sketch.cells.len() * 8, 512 * 1024, "memory does not grow");
    }

    #[test]
    fn floods_of_a_thousand_sources_do_not_disturb_one_at_its_rate() {
        let sketch = Sketch::new(100.0, 2.0, KEY);
        for turn in 0..200 {
            let now = at(SECOND + turn * SECOND / 100);
            for n in 0..1_000 {
                assert!(sketch.allow_many(ip(1_000 + n), 1_000, now) <= 2);
            }
            assert!(sketch.allow(ip(1), now), "turn {turn}");
        }
    }

    #[test]
    fn ipv6_counts_by_64_bits_and_mapped_addresses_as_ipv4() {
        let sketch = Sketch::new(1.0, 1.0, KEY);
        let allow = |ip: &str| sketch.allow(ip.parse().unwrap(), at(SECOND));
        assert!(allow("2001:db8::1") && !allow("2001:db8::ffff:0:0:2") && allow("2001:db8:0:1::1"));
        assert!(allow("10.0.0.1") && !allow("::ffff:10.0.0.1") && allow("::ffff:10.0.0.2"));
        assert!(!allow("10.0.0.2") && allow("::a00:2"));
    }

    #[test]
    fn threads_share_one_table() {
        let sketch = Sketch::new(1.0, 1_000.0, KEY);
        let allowed: usize = std::thread::scope(|scope| {
            let ask = || (0..1_000).filter(|_| sketch.allow(ip(1), at(SECOND))).count();
            let threads = [scope.spawn(ask), scope.spawn(ask)];
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!((1_000..=2_000).contains(&allowed), "{allowed}");
        assert_eq!(sketch.allow_many(ip(2), 2_000, at(SECOND)), 1_000);
    }

    #[test]
    fn the_key_is_not_printed() {
        let sketch = Sketch::new(2.0, 3.0, KEY);
        assert_eq!(format!("{sketch:?}"), "Sketch { interval: 500000000, tolerance: 1000000000, .. }");
    }

    /// A bucket of nanoseconds: it earns one each nanosecond, and a request costs an interval of them.
    #[derive(Clone, Copy)]
    struct Bucket {
        saved: u64,
        since: u64,
    }

    fn number() -> impl Strategy<Value = f64> {
        let odd = prop::sample::select(&[0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
        prop_oneof![any::<f64>(), odd, 0.0..1e6]
    }

    proptest! {
        #[test]
        fn behaves_as_a_token_bucket_per_source(
            rate in 1..200_000u32,
            burst in 1..50u64,
            asks in vec((0..8u32, 0..20u32, 0..SECOND / 20), 1..200),
        ) {
            let sketch = Sketch::new(rate.into(), burst as f64, KEY);
            let interval = SECOND / u64::from(rate);
            let mut buckets = HashMap::new();
            let mut now = 0;
            for (source, n, gap) in asks {
                now += gap * u64::from(gap % 3 != 0);
                let full = Bucket { saved: burst * interval, since: now };
                let bucket = buckets.entry(source).or_insert(full);
                bucket.saved = (bucket.saved + now - bucket.since).min(burst * interval);
                bucket.since = now;
                let allowed = (bucket.saved / interval).min(n.into());
                bucket.saved -= allowed * interval;
                prop_assert_eq!(u64::from(sketch.allow_many(ip(source), n, at(now))), allowed);
            }
        }

        #[test]
        fn a_request_that_is_allowed_now_is_allowed_later(
            asks in vec((0..20u32, 0..SECOND), 0..20),
            n: u32,
            then in 0..20 * SECOND,
            wait in 0..20 * SECOND,
        ) {
            let [early, late] = [0, wait].map(|wait| {
                let sketch = Sketch::new(10.0, 5.0, KEY);
                let mut now = 0;
                for (n, gap) in &asks {
                    now += gap;
                    sketch.allow_many(ip(1), *n, at(now));
                }
                sketch.allow_many(ip(1), n, at(then + wait))
            });
            prop_assert!(early <= late, "{} then, {} later", early, late);
        }

        #[test]
        fn no_rate_burst_or_time_panics_and_no_cell_goes_back(
            rate in number(),
            burst in number(),
            asks in vec((any::<u32>(), prop_oneof![any::<u64>(), 0..9u64, u64::MAX - 9..=u64::MAX]), 1..20),
        ) {
            let sketch = Sketch::new(rate, burst, KEY);
            let mut before = [0; ROWS];
            for (n, now) in asks {
                prop_assert!(sketch.allow_many(ip(1), n, at(now)) <= n);
                let after = sketch.cells(ip(1)).map(|cell| cell.load(Ordering::Relaxed));
                prop_assert!((0..ROWS).all(|row| before[row] <= after[row]));
                before = after;
            }
        }
    }
}
