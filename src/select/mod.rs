//! Chooses the server for a request. Pure: no sockets, no clock, no frames; only slots and lengths.
//!
//! The [`Tree`] holds every server's queue length and finds the least in O(1); a [`Chooser`] is one
//! worker's policy over it. Whatever the policy, the lengths are kept in the tree.

mod policy;
mod tree;

pub use policy::{Chooser, PolicyKind, UnknownPolicy};
#[cfg(loom)]
pub(crate) use tree::FArray;
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

/// What a request costs at a server of this weight, relative to others, while it gets `share` of [`SHARE_ALL`] (a tenth at
/// least). Weight 1 costs most.
pub fn cost_of(weight: u16, share: u16) -> u16 {
    let whole = u32::from((COST_OF_WEIGHT_ONE / weight.max(1)).max(1));
    (whole * u32::from(SHARE_ALL) / u32::from(share.clamp(SHARE_MIN, SHARE_ALL))) as u16
}

// The least share of the least weight fits into a leaf.
const _: () = assert!(COST_OF_WEIGHT_ONE as u32 * SHARE_ALL as u32 / SHARE_MIN as u32 <= u16::MAX as u32);
