//! The client's loop: requests at a rate, or as fast as replies arrive.

use std::io;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::base::time::{Clock, Instant, earliest};
use crate::io::DatagramIo;
use crate::load::{LoadRate, Schedule, Share};
use crate::os::signals::Stop;
use crate::role::Role;
use crate::role::client::{ClientRole, Ending};
use crate::wire::Mode;

/// The requests to send.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Number of requests; `None`: until asked to stop.
    pub requests: Option<u64>,
    /// Requests per second with exponential gaps (a Poisson process); `None`: as fast as replies arrive.
    pub rate: Option<f64>,
    /// Maximum requests in flight without a rate.
    pub window: usize,
    /// Payload of each request.
    pub payload: Vec<u8>,
    /// Seed of the gaps.
    pub seed: u64,
}

/// Results of a client. Latencies include retries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub answered: u64,
    /// Attempts after the first.
    pub retried: u64,
    /// Requests refused permanently.
    pub refused: u64,
    /// Requests whose final reply was BUSY.
    pub busy: u64,
    /// Requests without a reply before the deadline.
    pub lost: u64,
    /// First attempts without a reply in time.
    pub first_failed: u64,
    /// Median latency of the answered requests, in microseconds.
    pub latency_us_p50: u64,
    /// 99th percentile of the answered requests' latency, in microseconds.
    pub latency_us_p99: u64,
    /// Highest latency of an answered request, in microseconds.
    pub latency_us_max: u64,
}

/// Sends the workload, or stops when asked to; requests in flight still wait for their replies.
pub fn run(
    mut role: ClientRole,
    mut io: impl DatagramIo,
    plan: &Workload,
    clock: Clock,
    stop: &Stop,
) -> io::Result<Summary> {
    let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("fixed bounds are valid");
    let now = clock.now();
    let mut schedule =
        plan.rate.map(|rate| Schedule::poisson(LoadRate::flat(rate), Share::WHOLE, now, plan.seed));
    let mut left = plan.requests.unwrap_or(u64::MAX);
    while (left > 0 && !stop.is_asked()) || (role.in_flight() > 0 && !stop.is_asked_twice()) {
        let sending = left > 0 && !stop.is_asked();
        let window_open = plan.rate.is_none() && role.in_flight() < plan.window;
        let next = match (sending, window_open) {
            (true, true) => Some(Instant::ZERO),
            (true, false) => schedule.as_ref().map(Schedule::next),
            (false, _) => None,
        };
        io.wait(earliest(role.next_deadline(), next))?;
        io.receive()?;
        let now = clock.now();
        let (rx, tx) = io.turn();
        role.on_batch(now, rx, tx);
        role.on_timeout(now, tx);
        while sending && left > 0 {
            let due = schedule.as_ref().map_or(role.in_flight() < plan.window, |s| s.next() <= now);
            if !due || role.submit(now, Mode::Idempotent, &plan.payload, tx).is_err() {
                break;
            }
            left -= 1;
            if let Some(schedule) = &mut schedule {
                schedule.advance();
            }
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
