//! Atomics: `std`, or those of a model checker where one runs. Nothing else in the crate knows which.

#[cfg(not(any(loom, shuttle)))]
pub use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering};

#[cfg(shuttle)]
pub use shuttle::sync::atomic::{AtomicU64, Ordering};

/// The store-to-load step of a proof that rests on sequentially consistent *accesses*.
///
/// Nothing in production, where those accesses are themselves `SeqCst`. loom treats `SeqCst` accesses as
/// `AcqRel`, but models `SeqCst` fences: there, and only there, this is one.
#[inline(always)]
pub fn proof_fence() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}
