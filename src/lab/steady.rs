//! Steady state: how long a run should be, and where its warm-up ends. Pure.
//!
//! * Length: the variance of a mean over `n` requests of a busy queue is that of about `n (1 - load)^2 / 4`
//!   independent ones, times the variability of gaps and service times (Whitt, "Planning Queueing
//!   Simulations", Management Science 35(11), 1989).
//! * Warm-up: MSER (White, "An Effective Truncation Heuristic for Bias Reduction in Simulation Output",
//!   Simulation 69(6), 1997). It leaves out the start if that lowers the estimated error of the mean. Here
//!   its batches are a 2,000th of the run. Small batches of a busy queue depend on each other, and then MSER
//!   leaves out long queues that belong to the steady state.

/// Independent requests that a planned run is worth.
const INDEPENDENT: f64 = 400.0;
/// Limits of a planned run, in requests.
const PLANNED: std::ops::RangeInclusive<f64> = 200_000.0..=2_000_000.0;
/// Batches of the search for the end of the warm-up.
const BATCHES: usize = 2_000;
/// Minimum requests of such a batch: those of MSER-5.
const BATCH_MIN: usize = 5;
/// The warm-up is at most this part of a run: one in this number.
const PART: usize = 4;

/// Requests of a run at this load, as a share of the capacity. `variability` is the mean of the squared
/// coefficients of variation of gaps and service times: 1 for exponential ones. With a load of 1 or more
/// there is no steady state, and the length is the shortest.
pub fn planned_requests(load: f64, variability: f64) -> usize {
    if load >= 1.0 {
        return *PLANNED.start() as usize;
    }
    let one = 4.0 * load * variability.max(0.1) / (1.0 - load).powi(2);
    let planned = (INDEPENDENT * one).clamp(*PLANNED.start(), *PLANNED.end());
    (planned / 10_000.0).ceil() as usize * 10_000
}

/// The start of a run that does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// Its requests.
    pub requests: usize,
    /// Whether the run is steady after it. Otherwise it may begin too early: the run is too short.
    pub is_over: bool,
}

/// Finds the warm-up of a run from the latencies in the order of arrival. A request without an answer counts
/// like the one before it.
pub fn warm_up(latencies: impl ExactSizeIterator<Item = Option<u64>>) -> WarmUp {
    let batch = (latencies.len() / BATCHES).max(BATCH_MIN);
    let (mut means, mut sum, mut last) = (vec![], 0.0, 0.0);
    for (index, latency) in latencies.enumerate() {
        last = latency.map_or(last, |latency| latency as f64);
        sum += last;
        if (index + 1) % batch == 0 {
            means.push(std::mem::take(&mut sum) / batch as f64);
        }
    }
    let longest = means.len() / PART;
    let (mut sum, mut squares, mut best) = (0.0, 0.0, (f64::MAX, 0));
    for (start, mean) in means.iter().enumerate().rev() {
        sum += mean;
        squares += mean * mean;
        let rest = (means.len() - start) as f64;
        let error = (squares - sum * sum / rest) / (rest * rest);
        if start <= longest && error <= best.0 {
            best = (error, start);
        }
    }
    WarmUp { requests: best.1 * batch, is_over: best.1 < longest || longest == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    /// Latencies of a queue with one server, which starts with this much work.
    fn queue(load: f64, count: usize, work: f64, seed: u64) -> Vec<Option<u64>> {
        let mut rng = Rng::new(seed);
        let mut exponential = || -(1.0 - rng.unit_f64()).ln() * 1_000.0;
        let mut waits = work;
        let mut next = |_| {
            let latency = waits + exponential();
            waits = (latency - exponential() / load).max(0.0);
            Some(latency as u64)
        };
        (0..count).map(&mut next).collect()
    }

    #[test]
    fn a_full_queue_at_the_start_does_not_count_and_a_steady_run_loses_little() {
        for seed in 0..10 {
            // The work ends after about 2,000 requests.
            let found = warm_up(queue(0.5, 50_000, 2_000_000.0, seed).into_iter());
            assert!((1_700..12_500).contains(&found.requests) && found.is_over, "{found:?}");
            let found = warm_up(queue(0.5, 50_000, 0.0, seed).into_iter());
            assert!(found.requests < 12_500 && found.is_over, "{found:?}");
        }
    }

    #[test]
    fn a_queue_that_grows_is_never_steady() {
        let found = warm_up(queue(1.5, 20_000, 0.0, 1).into_iter());
        assert!(!found.is_over, "{found:?}");
        assert_eq!(warm_up([].into_iter()), WarmUp { requests: 0, is_over: true });
        assert_eq!(warm_up([None, Some(3)].into_iter()).requests, 0);
    }

    #[test]
    fn a_run_is_longer_at_a_high_load_and_with_variable_work() {
        assert_eq!(planned_requests(0.5, 1.0), 200_000);
        assert_eq!(planned_requests(0.95, 1.0), 610_000);
        assert_eq!(planned_requests(0.95, 2.0), 1_220_000);
        assert_eq!(planned_requests(0.99, 1.0), 2_000_000);
        assert_eq!(planned_requests(1.0, 1.0), 200_000);
    }
}
