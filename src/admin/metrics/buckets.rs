//! A log-linear histogram brought down to a few fixed buckets.

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

/// Latencies since the start.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Buckets {
    /// Their sum in seconds, as if each were in the middle of its fine bucket.
    pub sum_s: f64,
    /// How many.
    pub count: u64,
    /// Upper bounds, and how many lie below it and above the one before.
    pub counts: [(f64, u64); BOUNDS_S.len()],
}

impl Buckets {
    /// Of (highest microseconds, count) pairs, as [`crate::status::Latencies::histogram`] has them.
    pub fn of(histogram: &[(u64, u64)]) -> Buckets {
        let mut buckets = Buckets { sum_s: 0.0, count: 0, counts: BOUNDS_S.map(|bound| (bound, 0)) };
        for &(upper_us, count) in histogram {
            let upper_s = upper_us as f64 / 1e6;
            let place = BOUNDS_S.iter().position(|&bound| upper_s <= bound).expect("the last one holds all");
            buckets.counts[place].1 += count;
            buckets.count += count;
            buckets.sum_s += middle_us(upper_us) * count as f64 / 1e6;
        }
        buckets
    }
}

/// The middle of the fine bucket with this upper end: exact below 8 us, then 8 steps to each doubling.
fn middle_us(upper_us: u64) -> f64 {
    let width = if upper_us < 8 { 0 } else { 1u64 << (upper_us - 1).ilog2().saturating_sub(3) };
    upper_us as f64 - width as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::LatencyHistogram;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sum_and_counts_are_those_of_what_was_recorded(latencies in prop::collection::vec(0u32..20_000_000, 0..200)) {
            let histogram = LatencyHistogram::default();
            latencies.iter().for_each(|&micros| histogram.record(micros));
            let pairs: Vec<(u64, u64)> = histogram.snapshot().buckets().collect();
            let buckets = Buckets::of(&pairs);
            prop_assert_eq!(buckets.count, latencies.len() as u64);
            prop_assert_eq!(buckets.counts.iter().map(|(_, n)| n).sum::<u64>(), buckets.count);
            let exact: f64 = latencies.iter().map(|&micros| f64::from(micros) / 1e6).sum();
            prop_assert!((buckets.sum_s - exact).abs() <= exact * 0.0626 + 1e-9, "{} {}", buckets.sum_s, exact);
            let mut below = 0;
            for (bound, count) in buckets.counts {
                below += count;
                // What is counted as below is below; what is far below is counted so.
                let surely = latencies.iter().filter(|&&us| f64::from(us) * 1.125 + 1.0 <= bound * 1e6).count();
                let perhaps = latencies.iter().filter(|&&us| f64::from(us) <= bound * 1e6).count();
                prop_assert!((surely..=perhaps).contains(&(below as usize)), "{} {}", bound, below);
            }
        }
    }
}
