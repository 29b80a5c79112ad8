//! Chooses the server for a request. Pure: no sockets, no clock, no frames; only slots and lengths.
//!
//! The [`Tree`] holds every server's queue length and finds the least in O(1); a [`Chooser`] is one
//! worker's policy over it. Whatever the policy, the lengths are kept in the tree.

mod policy;
mod tree;

pub use policy::{Chooser, PolicyKind, UnknownPolicy};
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

/// What a request costs at a server of this weight, relative to others: what a unit of weight divides. Weight 1 costs
/// most.
pub fn cost_of_weight(weight: u16) -> u16 {
    const COST_OF_WEIGHT_ONE: u16 = 840; // divisible by 1 to 8, so that small weights are exact
    (COST_OF_WEIGHT_ONE / weight.max(1)).max(1)
}
