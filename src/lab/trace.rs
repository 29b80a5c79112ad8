//! Traces: arrival time, balancer and service time of each request. All policies under test get the same
//! trace.

use std::time::Duration;

use super::setup::Setup;
use crate::base::rng::Rng;
use crate::base::time::Instant;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedRequest {
    /// Arrival, relative to the start of the trace.
    pub at: Instant,
    /// Service time at speed 1, in nanoseconds.
    pub work: u64,
    /// Index of the balancer that receives the request.
    pub balancer: u32,
}

/// A time with a constant rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Phase {
    /// Requests per second.
    pub rate: f64,
    /// Length of the phase.
    pub lasts: Duration,
}

/// Requests in the order of arrival.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestTrace {
    requests: Vec<TracedRequest>,
}

impl RequestTrace {
    /// The requests of a system at this rate in requests per second. Each request goes to a random balancer.
    pub fn steady(setup: &Setup, rate: f64, seed: u64) -> RequestTrace {
        let for_ever = Phase { rate, lasts: Duration::MAX };
        RequestTrace { requests: Draws::new(&[for_ever], setup, seed).take(setup.requests).collect() }
    }

    /// Consecutive phases, each of its own rate. They end the trace, regardless of the system's number of
    /// requests.
    pub(super) fn phases(setup: &Setup, phases: &[Phase], seed: u64) -> RequestTrace {
        RequestTrace { requests: Draws::new(phases, setup, seed).collect() }
    }

    /// All requests.
    pub fn requests(&self) -> &[TracedRequest] {
        &self.requests
    }
}

impl From<Vec<TracedRequest>> for RequestTrace {
    /// A trace of these requests, which must be in the order of arrival.
    fn from(requests: Vec<TracedRequest>) -> Self {
        assert!(requests.is_sorted_by_key(|request| request.at), "requests must be in the order of arrival");
        RequestTrace { requests }
    }
}

impl Setup {
    /// A trace at this load.
    pub fn trace(&self, load: f64, seed: u64) -> RequestTrace {
        RequestTrace::steady(self, self.rate(load), seed)
    }
}

/// Draws requests until the last phase is over.
struct Draws<'a> {
    /// Phases that are not over.
    phases: &'a [Phase],
    /// Time in seconds, at most a few days: exact to about one nanosecond.
    now: f64,
    phase_ends: f64,
    setup: &'a Setup,
    /// Requests drawn so far.
    drawn: usize,
    /// One generator per property, so traces of one seed and different rates have the same requests.
    gaps: Rng,
    work: Rng,
    places: Rng,
}

impl<'a> Draws<'a> {
    fn new(phases: &'a [Phase], setup: &'a Setup, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut fork = || Rng::new(rng.next_u64());
        let (gaps, work, places) = (fork(), fork(), fork());
        let phase_ends = phases.first().map_or(0.0, |phase| phase.lasts.as_secs_f64());
        Draws { phases, now: 0.0, phase_ends, setup, drawn: 0, gaps, work, places }
    }
}

impl Iterator for Draws<'_> {
    type Item = TracedRequest;

    fn next(&mut self) -> Option<TracedRequest> {
        // A gap at rate 1, scaled by the rates of the phases that it crosses.
        let mut gap = self.setup.gaps.gap(self.drawn, &mut self.gaps);
        self.drawn += 1;
        loop {
            let rate = self.phases.first()?.rate;
            let left = (self.phase_ends - self.now) * rate;
            if gap < left {
                self.now += gap / rate;
                break;
            }
            gap -= left;
            self.now = self.phase_ends;
            self.phases = &self.phases[1..];
            self.phase_ends += self.phases.first()?.lasts.as_secs_f64();
        }
        Some(TracedRequest {
            at: Instant::from_nanos((self.now * 1e9) as u64),
            work: self.setup.service.sample(&mut self.work).max(1),
            balancer: self.places.below(self.setup.balancers as u64) as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::service_time::ServiceTime;

    const MS: Duration = Duration::from_millis(1);

    fn setup(requests: usize, mean: Duration, balancers: usize) -> Setup {
        Setup { requests, balancers, service: ServiceTime::exponential(mean).into(), ..Setup::default() }
    }

    #[test]
    fn a_steady_trace_has_its_rate_its_work_and_all_balancers() {
        let trace = RequestTrace::steady(&setup(100_000, 5 * MS, 4), 1_000.0, 1);
        let all = trace.requests();
        let seconds = all.last().unwrap().at.as_nanos() as f64 / 1e9;
        assert!((99.0..101.0).contains(&seconds), "{seconds} s");
        let mean = all.iter().map(|r| r.work).sum::<u64>() / 100_000;
        assert!((4_950_000..5_050_000).contains(&mean), "{mean} ns");
        for balancer in 0..4 {
            let share = all.iter().filter(|r| r.balancer == balancer).count();
            assert!((24_000..26_000).contains(&share), "{share} at {balancer}");
        }
    }

    #[test]
    fn traces_of_one_seed_have_the_same_work_at_any_rate() {
        let of = |rate| RequestTrace::steady(&setup(1_000, MS, 2), rate, 9);
        let (slow, fast) = (of(100.0), of(200.0));
        for (slow, fast) in slow.requests().iter().zip(fast.requests()) {
            assert_eq!((slow.work, slow.balancer), (fast.work, fast.balancer));
            assert!(slow.at.as_nanos().abs_diff(2 * fast.at.as_nanos()) <= 2);
        }
        assert_ne!(of(100.0), RequestTrace::steady(&setup(1_000, MS, 2), 100.0, 10));
    }

    #[test]
    fn each_phase_has_its_own_rate_and_the_last_one_ends_the_trace() {
        let phase = |rate, seconds| Phase { rate, lasts: Duration::from_secs(seconds) };
        let phases = [phase(1_000.0, 10), phase(5_000.0, 4), phase(0.0, 2), phase(1_000.0, 10)];
        let trace = RequestTrace::phases(&setup(0, MS, 1), &phases, 3);
        let between = |from: u64, to: u64| {
            let second = |r: &&TracedRequest| (from..to).contains(&(r.at.as_nanos() / 1_000_000_000));
            trace.requests().iter().filter(second).count()
        };
        assert!((9_600..10_400).contains(&between(0, 10)));
        assert!((19_400..20_600).contains(&between(10, 14)));
        assert_eq!((between(14, 16), between(26, u64::MAX)), (0, 0));
        assert!((9_600..10_400).contains(&between(16, 26)));
    }
}
