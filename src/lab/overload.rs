//! A time of too many requests, with clients that try again: how much is served meanwhile, and how soon all is well again.

use std::ops::Range;
use std::time::Duration;

use serde::Serialize;

use super::contender::PolicyUnderTest;
use super::setup::Setup;
use super::study::{in_parallel, play};
use super::trace::{Phase, Trace};
use super::world::NotReady;
use crate::base::time::Instant;

/// A time of too many requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overload {
    /// How many times what all servers can do.
    pub factor: f64,
    /// For how long.
    pub lasts: Duration,
}

/// What became of it, for one contender.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Survival {
    /// Its name.
    pub name: String,
    /// Requests answered while there are too many, as a share of what all servers can do.
    pub during: f64,
    /// Seconds from its end on until a request was the last to stay without an answer; zero if none did.
    pub back_after: f64,
    /// Requests of the whole run, and those of them that were answered.
    pub requests: u64,
    /// See `requests`.
    pub answered: u64,
    /// Answers in each [`Overload::SLICE`], as a share of what all servers can do.
    pub goodput: Vec<f64>,
}

impl Overload {
    /// The usual load lasts so long before it.
    pub const BEFORE: Duration = Duration::from_secs(2);
    /// The usual load lasts so long after it.
    pub const AFTER: Duration = Duration::from_secs(4);
    /// Answers are counted in slices of time.
    pub const SLICE: Duration = Duration::from_millis(100);

    /// The moments at which it begins and ends.
    fn span(&self) -> Range<Instant> {
        let begins = Instant::ZERO + Overload::BEFORE;
        begins..begins + self.lasts
    }

    /// What comes, where `load` is usual.
    fn trace(&self, setup: &Setup, load: f64, seed: u64) -> Trace {
        let usual = |lasts| Phase { rate: setup.rate(load), lasts };
        let phases = [
            usual(Overload::BEFORE),
            Phase { rate: setup.rate(self.factor), lasts: self.lasts },
            usual(Overload::AFTER),
        ];
        Trace::phases(&phases, setup.service, setup.balancers, seed)
    }

    /// Has each contender go through it.
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
            let latencies: Vec<Option<u64>> = ledger.latencies().collect();
            Ok(self.judge(contender.to_string(), setup.rate(1.0), &trace, &latencies))
        })
    }

    /// `capacity` is in requests per second.
    fn judge(&self, name: String, capacity: f64, trace: &Trace, latencies: &[Option<u64>]) -> Survival {
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
    use crate::lab::Request;

    #[test]
    fn what_is_served_meanwhile_counts_and_what_is_lost_later() {
        let overload = Overload { factor: 2.0, lasts: Duration::from_secs(1) };
        let at = |millis: u64| Request { at: Instant::from_nanos(millis * 1_000_000), work: 1, balancer: 0 };
        let trace =
            Trace::from(vec![at(100), at(1_990), at(2_500), at(2_600), at(2_990), at(3_400), at(6_999)]);
        let answered = Some(20_000_000);
        let latencies = [None, answered, answered, None, answered, None, answered];
        let survival = overload.judge("x".into(), 4.0, &trace, &latencies);
        assert_eq!(survival.during, 0.5, "two of four: one answer came just after its end");
        assert_eq!((survival.back_after, survival.requests, survival.answered), (0.4, 7, 4));
        assert_eq!(survival.goodput.len(), 70);
        assert_eq!((survival.goodput[20], survival.goodput[25], survival.goodput[30]), (2.5, 2.5, 2.5));
        assert_eq!(survival.goodput.iter().sum::<f64>(), 7.5, "what comes after the end is in no slice");
    }
}
