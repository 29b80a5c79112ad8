//! Counters and results of a run.

use serde::Serialize;

use super::interval::rank;
use super::outcome::Outcome;
use crate::base::time::Instant;

/// Latency percentiles of a run, in nanoseconds; 0 if no request was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// 50th percentile.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
}

/// The shares of [`Quantiles`].
pub(super) const SHARES: [f64; 3] = [0.5, 0.99, 0.999];

impl Quantiles {
    /// Exact percentiles by rank.
    pub fn of(mut latencies: Vec<u64>) -> Quantiles {
        latencies.sort_unstable();
        Quantiles::of_sorted(&latencies)
    }

    /// Exact percentiles by rank of sorted latencies.
    pub(super) fn of_sorted(latencies: &[u64]) -> Quantiles {
        let Some(last) = latencies.len().checked_sub(1) else { return Quantiles::default() };
        let at = |share: f64| latencies[((latencies.len() as f64 * share) as usize).min(last)];
        let [p50, p99, p999] = SHARES.map(at);
        Quantiles { p50, p99, p999 }
    }

    /// p50, p99 and p99.9.
    pub fn all(&self) -> [u64; 3] {
        [self.p50, self.p99, self.p999]
    }
}

/// The results of a run without its warm-up.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Latency of the answered requests from their arrival at a balancer.
    pub latency: Quantiles,
    /// Number of requests.
    pub requests: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests refused: the final reply was BUSY, or the deadline had passed.
    pub refused: u64,
    /// Requests without a final reply.
    pub lost: u64,
    /// Mean regret of a selection, in requests: true queue of the selected server minus the true
    /// shortest queue.
    pub regret: f64,
    /// Mean absolute error of a selection, in requests: estimated minus true queue of the selected server.
    pub error: f64,
    /// Longest queue of any server, with requests in transit to it.
    pub queue_max: u32,
}

impl Figures {
    /// The percentiles that the number of answers supports: at least ten must be slower.
    pub fn known(&self) -> [Option<u64>; 3] {
        Figures::known_of(self.latency.all(), self.answered)
    }

    /// The percentiles that this number of answers supports.
    pub fn known_of(percentiles: [u64; 3], answered: u64) -> [Option<u64>; 3] {
        [0, 1, 2].map(|n| rank(answered as usize, SHARES[n]).map(|_| percentiles[n]))
    }

    /// Merges several runs: sums of counts, means of means, the percentiles of all latencies together, and
    /// the maximum of the longest queues.
    pub(super) fn together<'a>(
        latency: Quantiles,
        runs: impl Iterator<Item = &'a Figures> + Clone,
    ) -> Figures {
        let sum = |of: fn(&Figures) -> u64| runs.clone().map(of).sum();
        let mean =
            |of: fn(&Figures) -> f64| runs.clone().map(of).sum::<f64>() / runs.clone().count().max(1) as f64;
        Figures {
            latency,
            requests: sum(|figures| figures.requests),
            answered: sum(|figures| figures.answered),
            refused: sum(|figures| figures.refused),
            lost: sum(|figures| figures.lost),
            regret: mean(|figures| figures.regret),
            error: mean(|figures| figures.error),
            queue_max: runs.clone().map(|figures| figures.queue_max).max().unwrap_or(0),
        }
    }
}

/// Sums of a part of the selections.
#[derive(Clone, Copy, Debug, Default)]
struct Selections {
    count: u64,
    regret: u64,
    error: u64,
}

/// Requests and selections of a run.
pub(super) struct SimLedger {
    outcomes: Vec<Outcome>,
    arrived: Vec<Instant>,
    open: usize,
    /// By the number of the request, in parts of equal length.
    selections: Vec<Selections>,
    /// Requests of a part.
    part: usize,
    queue_max: u32,
}

/// Maximum parts of a run for the sums of selections.
const PARTS: usize = 1_000;

impl SimLedger {
    /// A ledger for `requests` requests.
    pub fn new(requests: usize) -> Self {
        let part = requests.div_ceil(PARTS).max(1);
        SimLedger {
            outcomes: vec![Outcome::OPEN; requests],
            arrived: vec![Instant::ZERO; requests],
            open: 0,
            selections: vec![Selections::default(); requests.div_ceil(part)],
            part,
            queue_max: 0,
        }
    }

    /// The ledger of a run in which each request was answered, after these nanoseconds.
    pub fn answered(latencies: Vec<u64>, queue_max: u32) -> Self {
        let outcomes = latencies.into_iter().map(Outcome::answered).collect();
        SimLedger { outcomes, queue_max, ..SimLedger::new(0) }
    }

    /// Records the arrival of a request.
    pub fn arrive(&mut self, now: Instant, request: usize) {
        self.arrived[request] = now;
        self.open += 1;
    }

    /// Requests that have arrived and not ended.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Records an outcome; only the first one of a request counts.
    fn end(&mut self, request: usize, outcome: Outcome) {
        if self.outcomes[request] == Outcome::OPEN {
            self.outcomes[request] = outcome;
            self.open -= 1;
        }
    }

    /// Records that a request was answered.
    pub fn answer(&mut self, now: Instant, request: usize) {
        let latency = now.since(self.arrived[request]).as_nanos() as u64;
        self.end(request, Outcome::answered(latency));
    }

    /// Records that a request was refused.
    pub fn refuse(&mut self, request: usize) {
        self.end(request, Outcome::REFUSED);
    }

    /// Records that a request can no longer end.
    pub fn lose(&mut self, request: usize) {
        self.end(request, Outcome::LOST);
    }

    /// Records a selection: the server had `chosen` requests, the estimate was `believed`, and the
    /// shortest queue was `least`.
    pub fn decide(&mut self, request: usize, chosen: u32, least: u32, believed: u32) {
        self.queue_max = self.queue_max.max(chosen + 1);
        let part = &mut self.selections[request / self.part];
        part.count += 1;
        part.regret += u64::from(chosen - least);
        part.error += u64::from(chosen.abs_diff(believed));
    }

    /// Forgets what only a run needs.
    pub fn close(mut self) -> Self {
        self.arrived = vec![];
        self
    }

    /// Outcomes of all requests, in the order of arrival.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// Means of the parts after the warm-up: regret, then error. Empty parts are left out.
    pub fn means(&self, warmup: usize) -> [Vec<f64>; 2] {
        let counted = self.selections_after(warmup).filter(|part| part.count > 0);
        let mean = |sum: u64, part: &Selections| sum as f64 / part.count as f64;
        counted.map(|part| (mean(part.regret, part), mean(part.error, part))).unzip().into()
    }

    fn selections_after(&self, warmup: usize) -> impl Iterator<Item = &Selections> {
        self.selections.iter().skip(warmup.div_ceil(self.part))
    }

    /// The results without the first `warmup` requests. Regret and error leave out the rest of the warm-up's
    /// last part, a thousandth of the run.
    pub fn figures(&self, warmup: usize) -> Figures {
        let counted = &self.outcomes[warmup.min(self.outcomes.len())..];
        let count = |of: &[Outcome]| counted.iter().filter(|outcome| of.contains(outcome)).count() as u64;
        let latencies: Vec<u64> = counted.iter().filter_map(|outcome| outcome.latency()).collect();
        let sum = |of: fn(&Selections) -> u64| self.selections_after(warmup).map(of).sum::<u64>();
        let decisions = sum(|part| part.count).max(1) as f64;
        Figures {
            requests: counted.len() as u64,
            answered: latencies.len() as u64,
            latency: Quantiles::of(latencies),
            refused: count(&[Outcome::REFUSED]),
            lost: count(&[Outcome::LOST, Outcome::OPEN]),
            regret: sum(|part| part.regret) as f64 / decisions,
            error: sum(|part| part.error) as f64 / decisions,
            queue_max: self.queue_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_rank() {
        let of = |n: u64| Quantiles::of((1..=n).rev().collect());
        assert_eq!(of(1_000).all(), [501, 991, 1_000]);
        assert_eq!(of(1).all(), [1; 3]);
        assert_eq!(Quantiles::of(vec![]).all(), [0; 3]);
    }

    #[test]
    fn a_request_ends_once_and_the_warm_up_does_not_count() {
        let at = |nanos| Instant::from_nanos(nanos);
        let mut ledger = SimLedger::new(5);
        (0..5).for_each(|request| ledger.arrive(at(request as u64 * 10), request));
        ledger.decide(0, 9, 0, 0);
        ledger.decide(1, 3, 1, 4);
        ledger.decide(2, 1, 1, 0);
        ledger.answer(at(100), 0);
        ledger.answer(at(110), 1);
        ledger.answer(at(120), 1);
        ledger.lose(1);
        ledger.refuse(2);
        ledger.lose(3);
        assert_eq!(ledger.open(), 1);
        let figures = ledger.figures(1);
        let Figures { requests, answered, refused, lost, .. } = figures;
        assert_eq!((requests, answered, refused, lost), (4, 1, 1, 2), "an open request is lost at the end");
        assert_eq!((figures.regret, figures.error, figures.queue_max), (1.0, 1.0, 10));
        assert_eq!(figures.latency.p50, 100);
        let latencies: Vec<_> = ledger.outcomes().iter().map(|outcome| outcome.latency()).collect();
        assert_eq!(latencies, [Some(100), Some(100), None, None, None]);
        assert_eq!(ledger.means(1), [vec![2.0, 0.0], vec![1.0, 1.0]], "two of the parts have selections");
        assert!(ledger.means(5).iter().all(Vec::is_empty));
    }
}
