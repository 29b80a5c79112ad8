//! Atomics: those of `std`, or those of a model checker. The rest of the crate does not depend on the choice.

#[cfg(not(any(loom, shuttle)))]
pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

#[cfg(shuttle)]
pub use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Ordering of the selection tree's loads. Under loom it is only acquire, and [`proof_fence`] has to
/// carry the proof.
pub const LOAD: Ordering = if cfg!(loom) { Ordering::Acquire } else { Ordering::SeqCst };

/// Ordering of the selection tree's read-modify-writes. Under loom it is only acquire and release, and
/// [`proof_fence`] has to carry the proof.
pub const UPDATE: Ordering = if cfg!(loom) { Ordering::AcqRel } else { Ordering::SeqCst };

/// The store-to-load step of a proof that needs sequentially consistent *accesses*.
///
/// It does nothing in production, where those accesses are themselves `SeqCst`. loom models `SeqCst`
/// accesses only partly, but `SeqCst` fences fully; only there, this is a fence.
#[inline(always)]
pub fn proof_fence() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}
