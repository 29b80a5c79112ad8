//! Log-linear histograms reduced to a few fixed buckets.

use crate::admin::status::Distribution;

/// Upper bounds in seconds; the last one holds the rest.
pub(super) const BOUNDS_S: [f64; 17] = [
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    f64::INFINITY,
];

/// Upper bounds of queue lengths and of differences between them, in requests.
pub(super) const BOUNDS_REQUESTS: [f64; 12] =
    [0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 15.0, 30.0, 60.0, 120.0, 480.0, f64::INFINITY];

/// A histogram of latencies or numbers since the start.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Buckets {
    /// Sum of the values; of latencies in seconds, each taken as the middle of its fine bucket.
    pub sum: f64,
    /// Count of the values.
    pub count: u64,
    /// Pairs of an upper bound and the count of values not above it and above the bound before.
    pub counts: Vec<(f64, u64)>,
}

impl Buckets {
    /// From (highest microseconds, count) pairs as in [`crate::admin::status::Latencies::histogram`].
    pub fn of(histogram: &[(u64, u64)]) -> Buckets {
        let sum = histogram.iter().map(|&(upper_us, count)| middle_us(upper_us) * count as f64 / 1e6).sum();
        let seconds = histogram.iter().map(|&(upper_us, count)| (upper_us as f64 / 1e6, count));
        Buckets::within(&BOUNDS_S, sum, seconds)
    }

    /// From whole numbers, whose sum is known.
    pub fn of_numbers(numbers: &Distribution) -> Buckets {
        let pairs = numbers.histogram.iter().map(|&(upper, count)| (upper as f64, count));
        Buckets::within(&BOUNDS_REQUESTS, numbers.sum as f64, pairs)
    }

    fn within(bounds: &[f64], sum: f64, pairs: impl Iterator<Item = (f64, u64)>) -> Buckets {
        let mut buckets = Buckets { sum, count: 0, counts: bounds.iter().map(|&bound| (bound, 0)).collect() };
        for (upper, count) in pairs {
            let place = bounds.iter().position(|&bound| upper <= bound).expect("the last one holds all");
            buckets.counts[place].1 += count;
            buckets.count += count;
        }
        buckets
    }
}

/// The middle of the fine bucket with this upper end: exact below 8 us, then 8 steps per power of two.
fn middle_us(upper_us: u64) -> f64 {
    let width = if upper_us < 8 { 0 } else { 1u64 << (upper_us - 1).ilog2().saturating_sub(3) };
    upper_us as f64 - width as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::stats::LatencyHistogram;

    #[test]
    fn numbers_fall_below_their_bounds_and_keep_their_sum() {
        let histogram = vec![(0, 5), (4, 2), (7, 1), (8, 1), (1_000, 1)];
        let buckets = Buckets::of_numbers(&Distribution { sum: 1_020, histogram, ..Distribution::default() });
        assert_eq!((buckets.sum, buckets.count), (1_020.0, 10));
        let filled: Vec<_> = buckets.counts.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.0, 5), (5.0, 2), (7.0, 1), (15.0, 1), (f64::INFINITY, 1)]);
    }
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sum_and_counts_are_those_of_what_was_recorded(
            latencies in prop::collection::vec(0u32..20_000_000, 0..200),
        ) {
            let histogram = LatencyHistogram::default();
            latencies.iter().for_each(|&micros| histogram.record(micros));
            let pairs: Vec<(u64, u64)> = histogram.snapshot().buckets().collect();
            let buckets = Buckets::of(&pairs);
            prop_assert_eq!(buckets.count, latencies.len() as u64);
            prop_assert_eq!(buckets.counts.iter().map(|(_, n)| n).sum::<u64>(), buckets.count);
            let exact: f64 = latencies.iter().map(|&micros| f64::from(micros) / 1e6).sum();
            prop_assert!((buckets.sum - exact).abs() <= exact * 0.0626 + 1e-9, "{} {}", buckets.sum, exact);
            let mut below = 0;
            for (bound, count) in buckets.counts {
                below += count;
                // A value in the bucket is not above its bound; a value far below the bound is in the bucket.
                let is_surely = |us: u32| f64::from(us) * 1.125 + 1.0 <= bound * 1e6;
                let surely = latencies.iter().filter(|&&us| is_surely(us)).count();
                let perhaps = latencies.iter().filter(|&&us| f64::from(us) <= bound * 1e6).count();
                prop_assert!((surely..=perhaps).contains(&(below as usize)), "{} {}", bound, below);
            }
        }
    }
}
