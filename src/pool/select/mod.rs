//! Chooses the server for a request. Pure: no sockets, no clock, no frames; only slots and lengths.
//!
//! The [`Tree`] holds every server's queue length and finds the least in O(1); a [`Chooser`] is one
//! worker's policy over it. Whatever the policy, the lengths are kept in the tree.

mod policy;
mod tree;

pub use policy::{Chooser, PolicyKind, UnknownPolicy};
#[cfg(loom)]
pub(crate) use tree::{FArray, Proved};
pub use tree::{LEN_MAX, LeafState, Reserved, Tree};

/// A place for a server: small, dense, the same in the tree, the fleet, the statistics and on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The `index`-th place, from 0; `index` is below 65,536.
    pub const fn new(index: usize) -> Self {
        assert!(index <= u16::MAX as usize);
        Slot(index as u16)
    }

    /// Its number.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// No server may be chosen: none is eligible, or all are at their limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A server's whole share of what its weight brings it.
pub const SHARE_ALL: u16 = 1_000;
/// The least share that a server may have for a while.
const SHARE_MIN: u16 = SHARE_ALL / 10;
/// Divisible by 1 to 8, so that small weights are exact.
const COST_OF_WEIGHT_ONE: u16 = 840;

/// A server that is as fast as the fastest; twice as much takes twice as long.
pub const AS_FAST: u32 = 1_000;
/// No server counts as slower than this, 64 times as slow as the fastest.
pub const SLOWNESS_MAX: u32 = 64 * AS_FAST;

/// What a request costs at a server of this weight, relative to others, while it gets `share` of [`SHARE_ALL`] (a tenth at
/// least) and takes `slowness` of [`AS_FAST`] (that at least). Weight 1 costs most.
pub fn cost_of(weight: u16, share: u16, slowness: u32) -> u16 {
    let whole = u64::from((COST_OF_WEIGHT_ONE / weight.max(1)).max(1));
    let of_share = whole * u64::from(SHARE_ALL) / u64::from(share.clamp(SHARE_MIN, SHARE_ALL));
    let cost = of_share * u64::from(slowness.max(AS_FAST)) / u64::from(AS_FAST);
    // What does not fit costs as much as anything can.
    cost.min(u64::from(u16::MAX)) as u16
}

// The least share of the least weight fits into a leaf, and so does a whole share of the slowest server.
const _: () = assert!(COST_OF_WEIGHT_ONE as u32 * SHARE_ALL as u32 / SHARE_MIN as u32 <= u16::MAX as u32);
const _: () = assert!(COST_OF_WEIGHT_ONE as u32 * SLOWNESS_MAX / AS_FAST <= u16::MAX as u32);
