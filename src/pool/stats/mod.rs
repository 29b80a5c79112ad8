//! Counters and histograms of the data path: one worker writes them with relaxed stores, any thread reads
//! them.
//!
//! [`common`] has what every pool counts; [`native`] and [`datagram`] embed it and add what only their kind
//! can count.

pub mod common;
pub mod counts;
pub mod datagram;
pub mod decisions;
pub mod histogram;
pub mod native;
pub mod rejects;
pub mod served;
pub mod totals;

pub use common::{ServerStats, WorkerStats};
pub use counts::{CountHistogram, CountSnapshot};
pub use datagram::{DatagramServerStats, DatagramStats, TcpStats};
pub use decisions::DecisionStats;
pub use histogram::{LatencyHistogram, LatencySnapshot};
pub use native::{NativeServerStats, NativeStats};
pub use rejects::{Reject, Rejects};
pub use served::{Answers, Served, ServedTotals};
pub use totals::{HasTotals, PoolTotals, ThreadTotals, Totals};

use std::sync::atomic::{AtomicU64, Ordering};

/// A total that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. One writer only: a plain load and store, no locked instruction.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// Replaces the value, for gauges.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Its present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
