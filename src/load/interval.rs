//! Medians of repeated runs with a confidence interval. Pure.

use serde::{Deserialize, Serialize};

/// Confidence that intervals aim at.
pub const CONFIDENCE: f64 = 0.95;

/// The median of repeats with a confidence interval between two of them.
///
/// The interval assumes no distribution. A repeat is below the true median with probability 1/2, so the
/// number of such repeats is binomial (David & Nagaraja, *Order Statistics*, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Median of the repeats. In JSON, `null` is infinite: a latency of lost requests.
    #[serde(with = "null_if_infinite")]
    pub median: f64,
    /// Lower end of the interval.
    #[serde(with = "null_if_infinite")]
    pub low: f64,
    /// Upper end of the interval.
    #[serde(with = "null_if_infinite")]
    pub high: f64,
    /// Probability that such an interval contains the true median. It is at least [`CONFIDENCE`] from
    /// six repeats on; with fewer repeats, the interval reaches from the lowest to the highest.
    pub confidence: f64,
    /// Number of repeats.
    pub repeats: usize,
}

impl Interval {
    /// The interval of at least one value; `None` for no value. No value may be NaN.
    pub fn of_median(values: &[f64]) -> Option<Interval> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let n = sorted.len();
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let median = f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]);
        // Probability that the median is outside if `out` values are left out at each end.
        let outside = |out: usize| 2.0 * coins_at_most(out, n);
        let out = (0..n / 2).take_while(|out| 1.0 - outside(*out) >= CONFIDENCE).last();
        let (low, high) = out.map_or((first, last), |out| (sorted[out], sorted[n - 1 - out]));
        let confidence = (1.0 - outside(out.unwrap_or(0))).max(0.0);
        Some(Interval { median, low, high, confidence, repeats: n })
    }

    /// Whether a value is outside an interval of sufficient confidence.
    pub fn excludes(&self, value: f64) -> bool {
        self.confidence >= CONFIDENCE && !(self.low..=self.high).contains(&value)
    }
}

/// Numbers that may be infinite, in JSON, which has no such numbers.
pub(super) mod null_if_infinite {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(from)?.unwrap_or(f64::INFINITY))
    }
}

/// Probability of at most `heads` heads in `n` tosses of a fair coin.
pub fn coins_at_most(heads: usize, n: usize) -> f64 {
    let mut term = 0.5f64.powi(n as i32);
    let mut sum = 0.0;
    for k in 0..=heads.min(n) {
        sum += term;
        term *= (n - k) as f64 / (k + 1) as f64;
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    #[test]
    fn coins_are_binomial() {
        for (heads, n, wanted) in
            [(0, 3, 0.125), (1, 4, 5.0 / 16.0), (2, 2, 1.0), (0, 0, 1.0), (3, 15, 576.0 / 32768.0)]
        {
            assert!((coins_at_most(heads, n) - wanted).abs() < 1e-12, "{heads} of {n}");
        }
    }

    #[test]
    fn the_interval_is_the_narrowest_that_is_sure_enough() {
        let of = |n: u32| Interval::of_median(&(1..=n).rev().map(f64::from).collect::<Vec<_>>()).unwrap();
        // From tables of the sign test: 6 (1..6, 96.9 %), 9 (2..8, 96.1 %), 15 (4..12, 96.5 %), 20
        // (6..15, 95.9 %).
        for (n, low, high, confidence) in
            [(6, 1.0, 6.0, 0.969), (9, 2.0, 8.0, 0.961), (15, 4.0, 12.0, 0.965), (20, 6.0, 15.0, 0.959)]
        {
            let found = of(n);
            assert_eq!((found.low, found.high), (low, high), "{n}");
            assert!((found.confidence - confidence).abs() < 5e-4, "{found:?}");
            assert_eq!(found.median, f64::from(n + 1) / 2.0);
        }
        assert!((of(3).confidence - 0.75).abs() < 1e-12 && of(1).confidence == 0.0);
        assert!(Interval::of_median(&[]).is_none());
        assert!(of(6).excludes(7.0) && !of(6).excludes(6.0) && !of(5).excludes(7.0), "five are too few");
    }

    #[test]
    fn it_holds_the_true_median_as_often_as_it_says() {
        let mut rng = Rng::new(11);
        for n in [6, 9, 15, 30] {
            let mut held = 0;
            let mut promised = 0.0;
            for _ in 0..4_000 {
                // A skewed distribution: exponential with median ln 2.
                let values: Vec<f64> = (0..n).map(|_| -(1.0 - rng.unit_f64()).ln()).collect();
                let found = Interval::of_median(&values).unwrap();
                held += u32::from((found.low..=found.high).contains(&std::f64::consts::LN_2));
                promised = found.confidence;
            }
            let share = f64::from(held) / 4_000.0;
            assert!((share - promised).abs() < 0.015, "{n}: {share} instead of {promised}");
        }
    }
}
