//! Atomics: `std`, or those of a model checker where one runs. Nothing else in the crate knows which.

#[cfg(not(any(loom, shuttle)))]
pub use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering};

#[cfg(shuttle)]
pub use shuttle::sync::atomic::{AtomicU64, Ordering};

/// Loads of the selection tree. Where loom checks it the orderings are only acquire and release, and
/// [`proof_fence`] has to carry the proof.
pub const LOAD: Ordering = if cfg!(loom) { Ordering::Acquire } else { Ordering::SeqCst };

/// Read-modify-writes of the selection tree; see [`LOAD`].
pub const UPDATE: Ordering = if cfg!(loom) { Ordering::AcqRel } else { Ordering::SeqCst };

/// The store-to-load step of a proof that rests on sequentially consistent *accesses*.
///
/// Nothing in production, where those accesses are themselves `SeqCst`. loom does not model `SeqCst` accesses
/// faithfully, but `SeqCst` fences it does: there, and only there, this is one.
#[inline(always)]
pub fn proof_fence() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}
