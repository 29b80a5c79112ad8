//! Counters and results of a run.

use serde::Serialize;

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

impl Quantiles {
    /// Exact percentiles by rank.
    pub fn of(mut latencies: Vec<u64>) -> Quantiles {
        if latencies.is_empty() {
            return Quantiles::default();
        }
        latencies.sort_unstable();
        let at = |share: f64| latencies[((latencies.len() as f64 * share) as usize).min(latencies.len() - 1)];
        Quantiles { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
    }

    /// Median of each percentile over several runs.
    pub(super) fn median(runs: impl Iterator<Item = Quantiles> + Clone) -> Quantiles {
        let median = |of: usize| {
            let mut values: Vec<u64> = runs.clone().map(|quantiles| quantiles.all()[of]).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied().unwrap_or(0)
        };
        Quantiles { p50: median(0), p99: median(1), p999: median(2) }
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
    /// Merges several runs: sums of counts, means of means, medians of latencies, and the maximum of the
    /// longest queues.
    pub(super) fn together<'a>(runs: impl Iterator<Item = &'a Figures> + Clone) -> Figures {
        let sum = |of: fn(&Figures) -> u64| runs.clone().map(of).sum();
        let mean =
            |of: fn(&Figures) -> f64| runs.clone().map(of).sum::<f64>() / runs.clone().count().max(1) as f64;
        Figures {
            latency: Quantiles::median(runs.clone().map(|figures| figures.latency)),
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

/// State of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestState {
    Open,
    Answered(u64),
    Refused,
    Lost,
}

/// Requests and selections of a run.
pub(super) struct SimLedger {
    endings: Vec<RequestState>,
    arrived: Vec<Instant>,
    warmup: usize,
    open: usize,
    decisions: u64,
    regret: u64,
    error: u64,
    queue_max: u32,
}

impl SimLedger {
    /// A ledger for `requests` requests; the first `warmup` do not count.
    pub fn new(requests: usize, warmup: usize) -> Self {
        SimLedger {
            endings: vec![RequestState::Open; requests],
            arrived: vec![Instant::ZERO; requests],
            warmup,
            open: 0,
            decisions: 0,
            regret: 0,
            error: 0,
            queue_max: 0,
        }
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
    fn end(&mut self, request: usize, ending: RequestState) {
        if self.endings[request] == RequestState::Open {
            self.endings[request] = ending;
            self.open -= 1;
        }
    }

    /// Records that a request was answered.
    pub fn answer(&mut self, now: Instant, request: usize) {
        let latency = now.since(self.arrived[request]).as_nanos() as u64;
        self.end(request, RequestState::Answered(latency));
    }

    /// Records that a request was refused.
    pub fn refuse(&mut self, request: usize) {
        self.end(request, RequestState::Refused);
    }

    /// Records that a request can no longer end.
    pub fn lose(&mut self, request: usize) {
        self.end(request, RequestState::Lost);
    }

    /// Records a selection: the server had `chosen` requests, the estimate was `believed`, and the
    /// shortest queue was `least`.
    pub fn decide(&mut self, request: usize, chosen: u32, least: u32, believed: u32) {
        self.queue_max = self.queue_max.max(chosen + 1);
        if request >= self.warmup {
            self.decisions += 1;
            self.regret += u64::from(chosen - least);
            self.error += u64::from(chosen.abs_diff(believed));
        }
    }

    /// Latency of each request in nanoseconds, if it was answered.
    pub fn latencies(&self) -> impl Iterator<Item = Option<u64>> {
        self.endings.iter().map(|ending| match ending {
            RequestState::Answered(latency) => Some(*latency),
            _ => None,
        })
    }

    /// The results.
    pub fn figures(&self) -> Figures {
        let counted = &self.endings[self.warmup.min(self.endings.len())..];
        let count = |of: fn(&RequestState) -> bool| counted.iter().filter(|ending| of(ending)).count() as u64;
        let mean = |sum: u64| sum as f64 / self.decisions.max(1) as f64;
        Figures {
            latency: Quantiles::of(self.latencies().skip(self.warmup).flatten().collect()),
            requests: counted.len() as u64,
            answered: count(|ending| matches!(ending, RequestState::Answered(_))),
            refused: count(|ending| *ending == RequestState::Refused),
            lost: count(|ending| matches!(ending, RequestState::Lost | RequestState::Open)),
            regret: mean(self.regret),
            error: mean(self.error),
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
        let mut ledger = SimLedger::new(5, 1);
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
        let figures = ledger.figures();
        let Figures { requests, answered, refused, lost, .. } = figures;
        assert_eq!((requests, answered, refused, lost), (4, 1, 1, 2), "an open request is lost at the end");
        assert_eq!((figures.regret, figures.error, figures.queue_max), (1.0, 1.0, 10));
        assert_eq!(figures.latency.p50, 100);
        assert_eq!(ledger.latencies().collect::<Vec<_>>(), [Some(100), Some(100), None, None, None]);
    }
}
