//! An overload with clients that retry: the goodput during it, and the time to recover after it.

use std::ops::Range;
use std::time::Duration;

use serde::Serialize;

use super::contender::PolicyUnderTest;
use super::setup::Setup;
use super::study::{in_parallel, play};
use super::trace::{Phase, RequestTrace};
use super::world::NotReady;
use crate::base::time::Instant;

/// A temporary overload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overload {
    /// Load as a multiple of the total capacity.
    pub factor: f64,
    /// Length of the overload.
    pub lasts: Duration,
}

/// Result of an overload for one policy under test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Survival {
    /// Name of the policy under test.
    pub name: String,
    /// Requests answered during the overload, as a share of the total capacity.
    pub during: f64,
    /// Time to recover, in seconds: from the end of the overload to the last request without an answer;
    /// 0 if there is none.
    pub back_after: f64,
    /// Requests of the whole run.
    pub requests: u64,
    /// Answered requests of the whole run.
    pub answered: u64,
    /// Answers in each [`Overload::SLICE`], as a share of the total capacity.
    pub goodput: Vec<f64>,
}

impl Overload {
    /// Time of the usual load before the overload.
    pub const BEFORE: Duration = Duration::from_secs(2);
    /// Time of the usual load after the overload.
    pub const AFTER: Duration = Duration::from_secs(4);
    /// Length of a slice in which answers are counted.
    pub const SLICE: Duration = Duration::from_millis(100);

    /// Start and end of the overload.
    fn span(&self) -> Range<Instant> {
        let begins = Instant::ZERO + Overload::BEFORE;
        begins..begins + self.lasts
    }

    /// The trace, with `load` as the usual load.
    fn trace(&self, setup: &Setup, load: f64, seed: u64) -> RequestTrace {
        let usual = |lasts| Phase { rate: setup.rate(load), lasts };
        let phases = [
            usual(Overload::BEFORE),
            Phase { rate: setup.rate(self.factor), lasts: self.lasts },
            usual(Overload::AFTER),
        ];
        RequestTrace::phases(setup, &phases, seed)
    }

    /// Runs the overload for each policy under test.
    pub fn run(
        &self,
        setup: &Setup,
        contenders: &[PolicyUnderTest],
        load: f64,
        seed: u64,
        threads: usize,
    ) -> Result<Vec<Survival>, NotReady> {
        let trace = self.trace(setup, load, seed);
        in_parallel(contenders.len(), threads, |index| {
            let contender = contenders[index];
            let ledger = play(setup, contender, &trace, seed)?;
            let latencies: Vec<Option<u64>> = ledger.outcomes().iter().map(|one| one.latency()).collect();
            Ok(self.judge(contender.to_string(), setup.rate(1.0), &trace, &latencies))
        })
    }

    /// The result of a run; `capacity` is in requests per second.
    fn judge(
        &self,
        name: String,
        capacity: f64,
        trace: &RequestTrace,
        latencies: &[Option<u64>],
    ) -> Survival {
        let span = self.span();
        let slice = Overload::SLICE.as_nanos() as u64;
        let whole = Overload::BEFORE + self.lasts + Overload::AFTER;
        let mut counts = vec![0u64; (whole.as_nanos() as u64).div_ceil(slice) as usize];
        let (mut during, mut back_after) = (0, Duration::ZERO);
        for (request, latency) in trace.requests().iter().zip(latencies) {
            let Some(latency) = latency else {
                back_after = back_after.max(request.at.since(span.end));
                continue;
            };
            let at = request.at + Duration::from_nanos(*latency);
            during += u64::from(span.contains(&at));
            if let Some(count) = counts.get_mut((at.as_nanos() / slice) as usize) {
                *count += 1;
            }
        }
        Survival {
            name,
            during: during as f64 / (capacity * self.lasts.as_secs_f64()),
            back_after: back_after.as_secs_f64(),
            requests: latencies.len() as u64,
            answered: latencies.iter().flatten().count() as u64,
            goodput: counts.iter().map(|&n| n as f64 / (capacity * Overload::SLICE.as_secs_f64())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::TracedRequest;

    #[test]
    fn what_is_served_meanwhile_counts_and_what_is_lost_later() {
        let overload = Overload { factor: 2.0, lasts: Duration::from_secs(1) };
        let at =
            |millis: u64| TracedRequest { at: Instant::from_nanos(millis * 1_000_000), work: 1, balancer: 0 };
        let trace = RequestTrace::from(vec![
            at(100),
            at(1_990),
            at(2_500),
            at(2_600),
            at(2_990),
            at(3_400),
            at(6_999),
        ]);
        let answered = Some(20_000_000);
        let latencies = [None, answered, answered, None, answered, None, answered];
        let survival = overload.judge("x".into(), 4.0, &trace, &latencies);
        assert_eq!(survival.during, 0.5, "two of four: one answer came just after the end");
        assert_eq!((survival.back_after, survival.requests, survival.answered), (0.4, 7, 4));
        assert_eq!(survival.goodput.len(), 70);
        assert_eq!((survival.goodput[20], survival.goodput[25], survival.goodput[30]), (2.5, 2.5, 2.5));
        assert_eq!(survival.goodput.iter().sum::<f64>(), 7.5, "an answer after the end is in no slice");
    }
}
