//! What is measured on the data path, readable from any other thread: one writer, relaxed stores.

pub mod counts;
pub mod decisions;
pub mod histogram;
pub mod pool;
pub mod relay;
pub mod served;

pub use counts::{CountHistogram, CountSnapshot};
pub use decisions::DecisionStats;
pub use histogram::{LatencyHistogram, LatencySnapshot};
pub use pool::{PoolStats, ServerStats};
pub use relay::{DatagramServerStats, DatagramStats, TcpStats};
pub use served::{Answers, Served, ServedTotals};

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

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
