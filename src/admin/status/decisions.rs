//! Quality of a pool's selections, and the time that requests spend in its pending queue.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Latencies, Percentiles};
use crate::pool::stats::{CountSnapshot, Counter, LatencySnapshot, WorkerStats};

/// Measured by what this balancer knows: requests of another balancer at the same servers do not count.
/// Values `..._recent` are those of the last second, all others count from the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decisions {
    /// Excess of the selected server's queue over the shortest eligible queue, in requests, of one selection
    /// in 64.
    pub regret: Distribution,
    /// `regret` in the last second.
    pub regret_recent: Distribution,
    /// Staleness: age of the newest information about the selected server at the selection, in microseconds;
    /// of the same selections.
    pub age_us: Latencies,
    /// `age_us` in the last second.
    pub age_us_recent: Percentiles,
    /// Absolute error of the queue estimate at a report, in requests; `None` where servers do not report.
    pub estimate_error: Option<Distribution>,
    /// `estimate_error` in the last second.
    pub estimate_error_recent: Option<Distribution>,
    /// Requests taken off the outstanding count as lost or timed out.
    pub corrections: u64,
    /// Requests in the pending queue.
    pub waiting: u64,
    /// Requests that left the pending queue for a server.
    pub waited: u64,
    /// Time that these spent in the queue, in microseconds.
    pub waiting_delay_us: Latencies,
    /// `waiting_delay_us` in the last second.
    pub waiting_delay_us_recent: Percentiles,
}

/// Whole numbers that were counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Distribution {
    /// Count of the numbers.
    pub count: u64,
    /// Sum of the numbers.
    pub sum: u64,
    /// Mean of the numbers; 0 without data.
    pub mean: f64,
    /// 50 % are not above this. Like the next values exact below 8, and at most 12.5 % too high above.
    pub p50: u64,
    /// 99 % are not above this.
    pub p99: u64,
    /// No number is above this.
    pub max: u64,
    /// Pairs (number, count): the count of numbers not above this and above the pair before, without empty
    /// ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub histogram: Vec<(u64, u64)>,
}

impl Distribution {
    /// Without the histogram.
    fn recent(snapshot: &CountSnapshot) -> Self {
        Distribution {
            count: snapshot.count(),
            sum: snapshot.sum(),
            mean: snapshot.mean(),
            p50: snapshot.quantile(0.5),
            p99: snapshot.quantile(0.99),
            max: snapshot.quantile(1.0),
            histogram: vec![],
        }
    }

    fn all(snapshot: &CountSnapshot) -> Self {
        Distribution { histogram: snapshot.buckets().collect(), ..Distribution::recent(snapshot) }
    }
}

/// All workers together at one moment.
#[derive(Clone, Debug, Default)]
struct DecisionSample {
    regret: CountSnapshot,
    age: LatencySnapshot,
    estimate_error: CountSnapshot,
    waiting_delay: LatencySnapshot,
}

impl DecisionSample {
    fn take<'a>(workers: impl Iterator<Item = &'a WorkerStats>) -> DecisionSample {
        let mut sample = DecisionSample::default();
        for WorkerStats { decisions, waiting_delay, .. } in workers {
            sample.regret.merge(&decisions.regret.snapshot());
            sample.age.merge(&decisions.age.snapshot());
            sample.estimate_error.merge(&decisions.estimate_error.snapshot());
            sample.waiting_delay.merge(&waiting_delay.snapshot());
        }
        sample
    }
}

/// Takes snapshots and remembers those of the last second.
pub(super) struct DecisionSampler {
    /// Samples that the window reaches back.
    span: usize,
    samples: VecDeque<DecisionSample>,
    has_reports: bool,
}

impl DecisionSampler {
    /// Of a pool whose servers report their queues, or do not. What was counted before is not recent.
    pub fn new<'a>(
        span: usize,
        has_reports: bool,
        workers: impl Iterator<Item = &'a WorkerStats>,
    ) -> DecisionSampler {
        DecisionSampler {
            span: span.max(1),
            samples: VecDeque::from([DecisionSample::take(workers)]),
            has_reports,
        }
    }

    /// The values now; `corrections` are counted elsewhere.
    pub fn sample<'a>(
        &mut self,
        corrections: u64,
        workers: impl Iterator<Item = &'a WorkerStats> + Clone,
    ) -> Decisions {
        let now = DecisionSample::take(workers.clone());
        let before = self.samples.front().expect("there is a first sample");
        let sum = |counter: fn(&WorkerStats) -> &Counter| workers.clone().map(|of| counter(of).get()).sum();
        let reported = |numbers: Distribution| self.has_reports.then_some(numbers);
        let decisions = Decisions {
            regret: Distribution::all(&now.regret),
            regret_recent: Distribution::recent(&now.regret.since(&before.regret)),
            age_us: Latencies::of(&now.age),
            age_us_recent: Percentiles::of(&now.age.since(&before.age)),
            estimate_error: reported(Distribution::all(&now.estimate_error)),
            estimate_error_recent: reported(Distribution::recent(
                &now.estimate_error.since(&before.estimate_error),
            )),
            corrections,
            waiting: sum(|stats| &stats.waiting),
            waited: sum(|stats| &stats.waited),
            waiting_delay_us: Latencies::of(&now.waiting_delay),
            waiting_delay_us_recent: Percentiles::of(&now.waiting_delay.since(&before.waiting_delay)),
        };
        self.samples.push_back(now);
        if self.samples.len() > self.span {
            self.samples.pop_front();
        }
        decisions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up_and_what_is_recent_is_forgotten() {
        let workers = [WorkerStats::default(), WorkerStats::default()];
        let sources = || workers.iter();
        let mut sampler = DecisionSampler::new(2, true, sources());
        for (n, worker) in workers.iter().enumerate() {
            worker.decisions.regret.record(2 * n as u32);
            worker.decisions.age.record(3_000);
            worker.decisions.estimate_error.record(5);
            worker.waiting.set(4);
            worker.waited.add(1);
            worker.waiting_delay.record(700);
        }
        let first = sampler.sample(9, sources());
        let regret = Distribution { count: 2, sum: 2, mean: 1.0, p50: 0, p99: 2, max: 2, histogram: vec![] };
        assert_eq!(first.regret_recent, regret);
        assert_eq!(first.regret, Distribution { histogram: vec![(0, 1), (2, 1)], ..regret });
        let error = first.estimate_error.clone().unwrap();
        assert_eq!((error.count, error.mean, error.max), (2, 5.0, 5));
        assert!((3_000..=3_375).contains(&first.age_us.p50) && first.age_us_recent.p50 == first.age_us.p50);
        assert_eq!((first.corrections, first.waiting, first.waited), (9, 8, 2));
        assert!((700..=788).contains(&first.waiting_delay_us_recent.p99), "{first:?}");
        sampler.sample(9, sources());
        let third = sampler.sample(9, sources());
        assert_eq!((third.regret_recent.count, third.age_us_recent.p50), (0, 0), "it is long ago");
        assert_eq!((third.waiting_delay_us_recent.p99, third.regret.count), (0, 2));
        let unreported = DecisionSampler::new(1, false, sources()).sample(0, sources());
        assert_eq!((unreported.estimate_error, unreported.estimate_error_recent), (None, None));
    }
}
