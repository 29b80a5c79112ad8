//! Rules for retries: timeout from measured latency, jittered back-off, budget. Only clients retry.
//!
//! Sources: RFC 6298 (smoothed round trip and its variance), "Exponential Backoff And Jitter" (AWS,
//! 2015: full jitter), Finagle's retry budgets (2016). Pure: time and randomness are arguments.

use std::time::Duration;

use crate::base::rng::Rng;
use crate::base::time::Instant;

/// Smoothed latency, and the timeout derived from it.
#[derive(Clone, Debug)]
pub struct Timeout {
    floor: Duration,
    smoothed: Option<(Duration, Duration)>,
}

/// Maximum timeout, back-off included.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3);

impl Timeout {
    /// A timeout of at least `floor`, which also applies until a latency was measured.
    pub fn new(floor: Duration) -> Self {
        Timeout { floor, smoothed: None }
    }

    /// Records the latency of an answered *first* attempt. A reply to a retry is ambiguous (Karn's rule,
    /// RFC 6298).
    pub fn observe(&mut self, latency: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (latency, latency / 2),
            Some((mean, deviation)) => {
                let error = mean.abs_diff(latency);
                (mean * 7 / 8 + latency / 8, deviation * 3 / 4 + error / 4)
            }
        });
    }

    /// Timeout of an attempt, numbered from 1; it doubles with each attempt.
    pub fn for_attempt(&self, attempt: u8) -> Duration {
        let measured = self.smoothed.map_or(Duration::ZERO, |(mean, deviation)| mean + deviation * 4);
        let doubled = self.floor.max(measured) * (1u32 << u32::from(attempt.saturating_sub(1)).min(16));
        doubled.min(TIMEOUT_MAX)
    }

    /// Pause before the next attempt after a timeout: random, up to half a timeout.
    pub fn backoff(&self, attempt: u8, rng: &mut Rng) -> Duration {
        self.for_attempt(attempt).mul_f64(0.5 * rng.unit_f64())
    }
}

/// Bounds the load of retries: a share of the requests, plus a few per second.
#[derive(Clone, Debug)]
pub struct Budget {
    tokens: f64,
    refilled: Instant,
}

/// Retries earned per request.
const PER_REQUEST: f64 = 0.2;
/// Retries earned per second.
const PER_SECOND: f64 = 10.0;
/// Maximum retries that can be saved.
const TOKENS_MAX: f64 = 100.0;

impl Budget {
    /// A full budget.
    pub fn new(now: Instant) -> Self {
        Budget { tokens: TOKENS_MAX, refilled: now }
    }

    /// Earns a share of a retry for a new request.
    pub fn earn(&mut self) {
        self.tokens = (self.tokens + PER_REQUEST).min(TOKENS_MAX);
    }

    /// Whether a retry is allowed now; if so, it is taken from the budget.
    pub fn spend(&mut self, now: Instant) -> bool {
        let earned = now.since(self.refilled).as_secs_f64() * PER_SECOND;
        self.tokens = (self.tokens + earned).min(TOKENS_MAX);
        self.refilled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_time_out_follows_the_latency_but_not_below_its_floor() {
        let mut timeout = Timeout::new(10 * MS);
        assert_eq!(timeout.for_attempt(1), 10 * MS);
        for _ in 0..200 {
            timeout.observe(MS);
        }
        assert_eq!(timeout.for_attempt(1), 10 * MS);
        for _ in 0..200 {
            timeout.observe(40 * MS);
        }
        assert!((40 * MS..44 * MS).contains(&timeout.for_attempt(1)), "{:?}", timeout.for_attempt(1));
    }

    #[test]
    fn attempts_double_up_to_a_bound_and_back_off_at_random() {
        let timeout = Timeout::new(100 * MS);
        assert_eq!(timeout.for_attempt(2), 200 * MS);
        assert_eq!(timeout.for_attempt(200), TIMEOUT_MAX);
        let mut rng = Rng::new(1);
        let pauses: Vec<_> = (0..100).map(|_| timeout.backoff(1, &mut rng)).collect();
        assert!(pauses.iter().all(|&p| p < 50 * MS));
        assert!(pauses.iter().any(|&p| p < 10 * MS) && pauses.iter().any(|&p| p > 40 * MS));
    }

    #[test]
    fn a_storm_of_retries_is_held_to_a_share_of_the_requests() {
        let mut budget = Budget::new(Instant::ZERO);
        let sent = (0..1000).filter(|_| {
            budget.earn();
            budget.spend(Instant::ZERO)
        });
        assert!((290..=301).contains(&sent.count()), "100 saved and 20 % of 1,000");
        assert!(!budget.spend(Instant::ZERO));
        assert!(budget.spend(Instant::ZERO + Duration::from_millis(200)), "a second earns a few");
    }
}
