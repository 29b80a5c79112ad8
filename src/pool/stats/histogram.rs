//! A latency histogram of fixed size: one thread writes, and others read at the same time.
//!
//! Log-linear, as HdrHistogram: 8 steps per power of two, so a value is at most 12.5 % off. At most 4 KiB.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Steps per power of two.
const STEPS: usize = 8;
/// Buckets: exact below [`STEPS`] microseconds, then 8 steps for each power of two up to 2^32 us.
const BUCKETS: usize = STEPS + (32 - 3) * STEPS;

const _: () = assert!(BUCKETS * size_of::<AtomicU32>() <= 4096);

/// Counts latencies from 1 us to 71 minutes.
#[derive(Debug)]
pub struct LatencyHistogram(Box<[AtomicU32; BUCKETS]>);

impl Default for LatencyHistogram {
    fn default() -> Self {
        LatencyHistogram(Box::new(std::array::from_fn(|_| AtomicU32::new(0))))
    }
}

fn bucket(micros: u32) -> usize {
    if (micros as usize) < STEPS {
        return micros as usize;
    }
    let exponent = micros.ilog2() as usize;
    let step = (micros >> (exponent - 3)) as usize & (STEPS - 1);
    STEPS + (exponent - 3) * STEPS + step
}

/// The highest value of a bucket.
fn upper(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let (exponent, step) = ((bucket - STEPS) / STEPS + 3, (bucket - STEPS) % STEPS);
    ((STEPS + step + 1) as u64) << (exponent - 3)
}

/// The bucket in which the share `quantile` of the counts ends; `None` if all are zero.
fn bucket_of<I: Iterator<Item = u64>>(counts: impl Fn() -> I, quantile: f64) -> Option<usize> {
    let total: u64 = counts().sum();
    let rank = ((total as f64 * quantile).ceil() as u64).clamp(1, total.max(1));
    let mut seen = 0;
    counts().position(|count| {
        seen += count;
        seen >= rank
    })
}

impl LatencyHistogram {
    /// Counts one latency, in microseconds. One writer only; a bucket wraps after 2^32.
    pub fn record(&self, micros: u32) {
        let count = &self.0[bucket(micros)];
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// The latency that the share `quantile` (0 to 1) is not above, at most 12.5 % too high; `None` without
    /// data. Resets the counts. For the writer only.
    pub fn take_quantile(&self, quantile: f64) -> Option<Duration> {
        let counts = || self.0.iter().map(|count| u64::from(count.load(Ordering::Relaxed)));
        let bucket = bucket_of(counts, quantile);
        self.0.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        bucket.map(|bucket| Duration::from_micros(upper(bucket)))
    }

    /// Number of buckets.
    pub(super) const BUCKETS: usize = BUCKETS;

    /// The count of a bucket.
    pub(super) fn bucket(&self, bucket: usize) -> u64 {
        u64::from(self.0[bucket].load(Ordering::Relaxed))
    }

    /// Adds to the count of a bucket. One writer only.
    pub(super) fn add(&self, bucket: usize, n: u64) {
        let count = &self.0[bucket];
        count.store(count.load(Ordering::Relaxed).wrapping_add(n as u32), Ordering::Relaxed);
    }

    /// A copy of the counts.
    pub fn snapshot(&self) -> LatencySnapshot {
        LatencySnapshot(self.0.iter().map(|c| c.load(Ordering::Relaxed)).collect())
    }
}

/// The counts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencySnapshot(Vec<u32>);

impl LatencySnapshot {
    /// The counts between `earlier` and this snapshot.
    pub fn since(&self, earlier: &LatencySnapshot) -> LatencySnapshot {
        let before = earlier.0.iter().copied().chain(std::iter::repeat(0));
        LatencySnapshot(self.0.iter().zip(before).map(|(now, then)| now.wrapping_sub(then)).collect())
    }

    /// The buckets that are not empty: their highest value in microseconds, and their count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let filled = self.0.iter().enumerate().filter(|&(_, &count)| count > 0);
        filled.map(|(bucket, &count)| (upper(bucket), u64::from(count)))
    }

    /// Count of the latencies.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|&c| u64::from(c)).sum()
    }

    /// The latency that the share `quantile` (0 to 1) is not above, at most 12.5 % too high; `None` without
    /// data.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let counts = || self.0.iter().map(|&count| u64::from(count));
        bucket_of(counts, quantile).map(|bucket| Duration::from_micros(upper(bucket)))
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &LatencySnapshot) {
        self.0.resize(BUCKETS, 0);
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = mine.wrapping_add(*theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_a_bucket_that_is_close_to_it() {
        for micros in (0..100_000).chain((0..32).map(|e| 1u32 << e)).chain([u32::MAX]) {
            let (b, top) = (bucket(micros), upper(bucket(micros)));
            assert!(b < BUCKETS && top >= u64::from(micros), "{micros}");
            assert!(top as f64 <= f64::from(micros) * 1.125 + 1.0, "{micros}: {top}");
        }
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for micros in 1..100_000 {
            assert!([0, 1].contains(&(bucket(micros) - bucket(micros - 1))), "{micros}");
        }
    }

    #[test]
    fn quantiles_are_of_what_was_counted_in_between() {
        let h = LatencyHistogram::default();
        assert_eq!(h.snapshot().quantile(0.5), None);
        for _ in 0..100 {
            h.record(1_000_000);
        }
        let before = h.snapshot();
        for micros in 1..=1000 {
            h.record(micros);
        }
        let during = h.snapshot().since(&before);
        assert_eq!(during.count(), 1000);
        let p = |q| during.quantile(q).unwrap().as_micros();
        assert!((500..=563).contains(&p(0.5)) && (990..=1125).contains(&p(0.99)), "{} {}", p(0.5), p(0.99));
        let mut both = before.clone();
        both.merge(&during);
        assert_eq!(both, h.snapshot());
    }
}
