//! How good a pool's choices of servers are, and how long requests wait in the balancer: the same for all pools.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Latencies, Percentiles};
use crate::pool::stats::{CountSnapshot, Counter, DecisionStats, LatencyHistogram, LatencySnapshot};

/// By what this balancer knows. What it does not know, such as the requests of another balancer at the same servers, is not in
/// here. Since the start, or, where it says "recent", of the last moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decisions {
    /// By how many requests the queue of the chosen server was longer than the shortest that might have been chosen. One choice
    /// in 64 is looked at.
    pub regret: Numbers,
    /// The same.
    pub regret_recent: Numbers,
    /// How long before a choice the chosen server had last been heard of, in microseconds; of the same choices.
    pub age_us: Latencies,
    /// The same.
    pub age_us_recent: Percentiles,
    /// By how many requests the believed queue differed from what a report said; none where servers do not report.
    pub estimate_error: Option<Numbers>,
    /// The same.
    pub estimate_error_recent: Option<Numbers>,
    /// Requests that had counted as outstanding and were not: lost on the way, or never answered.
    pub corrections: u64,
    /// Requests that wait in the balancer for a server with room.
    pub waiting: u64,
    /// Requests that have waited there and were then sent.
    pub waited: u64,
    /// For how long they waited, in microseconds.
    pub waiting_delay_us: Latencies,
    /// The same.
    pub waiting_delay_us_recent: Percentiles,
}

/// Whole numbers that were counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Numbers {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// Their mean; 0 without data.
    pub mean: f64,
    /// Half are not above this. This and what follows is exact below 8, and at most 12.5 % too high above.
    pub p50: u64,
    /// 99 % are not above this.
    pub p99: u64,
    /// None is above this.
    pub max: u64,
    /// How many are not above a number, and above that of the pair before: (number, count), without empty ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub histogram: Vec<(u64, u64)>,
}

impl Numbers {
    /// Without the histogram.
    fn recent(snapshot: &CountSnapshot) -> Self {
        Numbers {
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
        Numbers { histogram: snapshot.buckets().collect(), ..Numbers::recent(snapshot) }
    }
}

/// What a worker has of all this.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub decisions: &'a DecisionStats,
    pub waiting: &'a Counter,
    pub waited: &'a Counter,
    pub waiting_delay: &'a LatencyHistogram,
}

/// All workers together at one look.
#[derive(Clone, Debug, Default)]
struct Look {
    regret: CountSnapshot,
    age: LatencySnapshot,
    estimate_error: CountSnapshot,
    waiting_delay: LatencySnapshot,
}

impl Look {
    fn at<'a>(sources: impl Iterator<Item = Source<'a>>) -> Look {
        let mut look = Look::default();
        for Source { decisions, waiting_delay, .. } in sources {
            look.regret.merge(&decisions.regret.snapshot());
            look.age.merge(&decisions.age.snapshot());
            look.estimate_error.merge(&decisions.estimate_error.snapshot());
            look.waiting_delay.merge(&waiting_delay.snapshot());
        }
        look
    }
}

/// Takes snapshots and remembers those of the last moment.
pub(super) struct DecisionSampler {
    /// Looks that the last moment reaches back.
    span: usize,
    looks: VecDeque<Look>,
    has_reports: bool,
}

impl DecisionSampler {
    /// Of servers that report, or do not. What was counted before is not of the last moment.
    pub fn new<'a>(span: usize, has_reports: bool, sources: impl Iterator<Item = Source<'a>>) -> Self {
        DecisionSampler { span: span.max(1), looks: VecDeque::from([Look::at(sources)]), has_reports }
    }

    /// The figures now; `corrections` are counted elsewhere.
    pub fn sample<'a>(
        &mut self,
        corrections: u64,
        sources: impl Iterator<Item = Source<'a>> + Clone,
    ) -> Decisions {
        let (now, before) = (Look::at(sources.clone()), self.looks.front().expect("there is a first look"));
        let sum = |counter: fn(&Source<'a>) -> &'a Counter| sources.clone().map(|s| counter(&s).get()).sum();
        let reported = |numbers: Numbers| self.has_reports.then_some(numbers);
        let figures = Decisions {
            regret: Numbers::all(&now.regret),
            regret_recent: Numbers::recent(&now.regret.since(&before.regret)),
            age_us: Latencies::of(&now.age),
            age_us_recent: Percentiles::of(&now.age.since(&before.age)),
            estimate_error: reported(Numbers::all(&now.estimate_error)),
            estimate_error_recent: reported(Numbers::recent(
                &now.estimate_error.since(&before.estimate_error),
            )),
            corrections,
            waiting: sum(|source| source.waiting),
            waited: sum(|source| source.waited),
            waiting_delay_us: Latencies::of(&now.waiting_delay),
            waiting_delay_us_recent: Percentiles::of(&now.waiting_delay.since(&before.waiting_delay)),
        };
        self.looks.push_back(now);
        if self.looks.len() > self.span {
            self.looks.pop_front();
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::stats::WorkerStats;

    #[test]
    fn workers_are_added_up_and_what_is_recent_is_forgotten() {
        let workers = [WorkerStats::default(), WorkerStats::default()];
        let sources = || workers.iter().map(WorkerStats::decision_source);
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
        let regret = Numbers { count: 2, sum: 2, mean: 1.0, p50: 0, p99: 2, max: 2, histogram: vec![] };
        assert_eq!(first.regret_recent, regret);
        assert_eq!(first.regret, Numbers { histogram: vec![(0, 1), (2, 1)], ..regret });
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
