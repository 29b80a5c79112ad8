//! Atomics: `std`, or `loom` where the model checker runs. Nothing else in the crate knows which.

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
