//! A histogram of small whole numbers, such as queue lengths: one thread writes, and others read.

use super::{Counter, LatencyHistogram, LatencySnapshot};

/// Counts numbers: exactly below 8, and at most 12.5 % too high above.
#[derive(Debug, Default)]
pub struct CountHistogram {
    /// Buckets of numbers instead of microseconds.
    counts: LatencyHistogram,
    sum: Counter,
}

impl CountHistogram {
    /// Counts a number. One writer only.
    pub fn record(&self, number: u32) {
        self.counts.record(number);
        self.sum.add(u64::from(number));
    }

    /// A total by its position: the counts of the buckets, then the sum.
    pub(super) fn total(&self, place: usize) -> u64 {
        if place < LatencyHistogram::BUCKETS { self.counts.bucket(place) } else { self.sum.get() }
    }

    /// Adds to the total at this position. One writer only.
    pub(super) fn add(&self, place: usize, n: u64) {
        if place < LatencyHistogram::BUCKETS {
            self.counts.add(place, n);
        } else {
            self.sum.set(self.sum.get().wrapping_add(n));
        }
    }

    /// A copy of the counts.
    pub fn snapshot(&self) -> CountSnapshot {
        CountSnapshot { sum: self.sum.get(), counts: self.counts.snapshot() }
    }
}

/// The counts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountSnapshot {
    sum: u64,
    counts: LatencySnapshot,
}

impl CountSnapshot {
    /// The counts between `earlier` and this snapshot.
    pub fn since(&self, earlier: &CountSnapshot) -> CountSnapshot {
        CountSnapshot {
            sum: self.sum.saturating_sub(earlier.sum),
            counts: self.counts.since(&earlier.counts),
        }
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &CountSnapshot) {
        self.sum += other.sum;
        self.counts.merge(&other.counts);
    }

    /// Count of the numbers.
    pub fn count(&self) -> u64 {
        self.counts.count()
    }

    /// Exact sum of the numbers.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Mean of the numbers; 0 without data.
    pub fn mean(&self) -> f64 {
        self.sum as f64 / self.count().max(1) as f64
    }

    /// The number that the share `quantile` (0 to 1) is not above; 0 without data.
    pub fn quantile(&self, quantile: f64) -> u64 {
        self.counts.quantile(quantile).map_or(0, |number| number.as_micros() as u64)
    }

    /// The buckets that are not empty: their highest number, and their count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.buckets()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_are_counted_exactly() {
        let histogram = CountHistogram::default();
        assert_eq!((histogram.snapshot().mean(), histogram.snapshot().quantile(0.99)), (0.0, 0));
        (0..4).for_each(|n| histogram.record(n));
        let before = histogram.snapshot();
        assert_eq!((before.mean(), before.quantile(0.5), before.quantile(1.0)), (1.5, 1, 3));
        histogram.record(100);
        let mut all = histogram.snapshot();
        let since = all.since(&before);
        assert_eq!((since.count(), since.sum()), (1, 100));
        assert!((100..=112).contains(&since.quantile(1.0)));
        all.merge(&before);
        assert_eq!((all.count(), all.sum(), all.buckets().next()), (9, 112, Some((0, 2))));
    }
}
