//! The client's loop: a number of requests, at a rate or as fast as answers come.

use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::signals::Stop;
use crate::io::DatagramIo;
use crate::rng::Rng;
use crate::role::Role;
use crate::role::client::{ClientRole, Ending};
use crate::time::{Clock, Instant, earliest};
use crate::wire::Mode;

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// So many requests; `None` = until asked to stop.
    pub requests: Option<u64>,
    /// Requests per second with exponential gaps (a Poisson process); `None` = as fast as answers come.
    pub rate: Option<f64>,
    /// Requests in flight at most, where no rate is given.
    pub window: usize,
    /// The payload of each request.
    pub payload: Vec<u8>,
    /// Seed of the gaps.
    pub seed: u64,
}

/// What came of it. Latencies include retries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub answered: u64,
    /// Attempts after the first.
    pub retried: u64,
    /// Requests refused for good.
    pub refused: u64,
    /// Requests whose last word was BUSY.
    pub busy: u64,
    /// Requests without a word before the deadline.
    pub lost: u64,
    /// First attempts that were not answered in time.
    pub first_failed: u64,
    /// Percentiles of the answered requests' latency in microseconds.
    pub latency_us_p50: u64,
    /// See `latency_us_p50`.
    pub latency_us_p99: u64,
    /// The slowest answer in microseconds.
    pub latency_us_max: u64,
}

/// Runs the plan, or until asked to stop; what is in flight then still gets its answers.
pub fn run(
    mut role: ClientRole,
    mut io: impl DatagramIo,
    plan: &Plan,
    clock: Clock,
    stop: &Stop,
) -> io::Result<Summary> {
    let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("fixed bounds are valid");
    let mut gaps = Gaps::new(plan, clock.now());
    let mut left = plan.requests.unwrap_or(u64::MAX);
    while (left > 0 && !stop.is_asked()) || (role.in_flight() > 0 && !stop.is_asked_twice()) {
        let sending = left > 0 && !stop.is_asked();
        let window_open = plan.rate.is_none() && role.in_flight() < plan.window;
        let next = match (sending, window_open) {
            (true, true) => Some(Instant::ZERO),
            (true, false) => gaps.next,
            (false, _) => None,
        };
        io.wait(earliest(role.next_deadline(), next))?;
        io.receive()?;
        let now = clock.now();
        let (rx, tx) = io.turn();
        role.on_batch(now, rx, tx);
        role.on_timeout(now, tx);
        while sending && left > 0 && gaps.is_due(now, role.in_flight() < plan.window) {
            match role.submit(now, Mode::Idempotent, &plan.payload, tx) {
                Ok(_) => left -= 1,
                Err(_) => break,
            }
            gaps.advance();
        }
        io.flush()?;
        while let Some(outcome) = role.poll_outcome() {
            if outcome.ending == Ending::Answered {
                latency.saturating_record((outcome.latency.as_micros() as u64).max(1));
            }
        }
    }
    role.abandon(clock.now());
    let totals = role.totals();
    let summary = Summary {
        sent: totals.sent,
        answered: totals.answered,
        retried: totals.retried,
        refused: totals.refused,
        busy: totals.busy,
        lost: totals.lost,
        first_failed: totals.first_failed,
        latency_us_p50: latency.value_at_quantile(0.5),
        latency_us_p99: latency.value_at_quantile(0.99),
        latency_us_max: latency.max(),
    };
    info!(
        sent = summary.sent,
        answered = summary.answered,
        retried = summary.retried,
        refused = summary.refused,
        busy = summary.busy,
        lost = summary.lost,
        latency_us_p50 = summary.latency_us_p50,
        latency_us_p99 = summary.latency_us_p99,
        "finished"
    );
    Ok(summary)
}

/// When the next request is due.
struct Gaps {
    rate: Option<f64>,
    rng: Rng,
    next: Option<Instant>,
}

impl Gaps {
    fn new(plan: &Plan, now: Instant) -> Self {
        let mut gaps = Gaps { rate: plan.rate, rng: Rng::new(plan.seed), next: plan.rate.map(|_| now) };
        gaps.advance(); // so that many clients of one rate do not all start with a request
        gaps
    }

    fn is_due(&self, now: Instant, window_open: bool) -> bool {
        self.next.map_or(window_open, |next| next <= now)
    }

    fn advance(&mut self) {
        if let (Some(rate), Some(next)) = (self.rate, self.next) {
            let gap = -(1.0 - self.rng.unit_f64()).ln() / rate;
            self.next = Some(next + Duration::try_from_secs_f64(gap).unwrap_or(Duration::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_longer_than_any_clock_is_only_a_long_gap() {
        let plan = Plan { requests: None, rate: Some(1e-300), window: 1, payload: vec![], seed: 3 };
        let gaps = Gaps::new(&plan, Instant::ZERO);
        assert!(!gaps.is_due(Instant::ZERO + Duration::from_secs(86_400), true));
    }

    #[test]
    fn gaps_have_the_mean_of_the_rate() {
        let plan = Plan { requests: None, rate: Some(1000.0), window: 1, payload: vec![], seed: 3 };
        let mut gaps = Gaps::new(&plan, Instant::ZERO);
        for _ in 0..100_000 {
            gaps.advance();
        }
        let mean = gaps.next.unwrap().as_nanos() as f64 / 100_001.0;
        assert!((mean - 1e6).abs() < 2e4, "{mean} ns");
    }
}
