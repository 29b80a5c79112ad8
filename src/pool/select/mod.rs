//! Selects the server for a request. Pure: no sockets, no clock, no frames; only slots and lengths.
//!
//! The [`Tree`] holds every server's queue length and finds the shortest in O(1). A [`Chooser`] is one
//! worker's policy over the tree. The tree keeps the lengths under every policy.

mod policy;
mod tree;

pub use policy::{Chooser, PolicyKind, UnknownPolicy};
#[cfg(loom)]
pub(crate) use tree::{FArray, Proved};
pub use tree::{LEN_MAX, LeafState, Reserved, Tree};

/// Index of a server: small, dense, the same in the tree, the registry, the statistics and on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot with this index, 0 to 65,535.
    pub const fn new(index: usize) -> Self {
        assert!(index <= u16::MAX as usize);
        Slot(index as u16)
    }

    /// The index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// No server can be selected: none is eligible, or all are at their limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The whole share of requests that a server's weight entitles it to.
pub const SHARE_ALL: u16 = 1_000;
/// Smallest share that a server may have temporarily.
const SHARE_MIN: u16 = SHARE_ALL / 10;
/// Divisible by 1 to 8, so that small weights are exact.
const COST_OF_WEIGHT_ONE: u16 = 840;

/// The slowness of the fastest server; twice this value means that a request takes twice as long.
pub const AS_FAST: u32 = 1_000;
/// Maximum slowness: 64 times as slow as the fastest server.
pub const SLOWNESS_MAX: u32 = 64 * AS_FAST;

/// Cost of a request at a server of this weight, relative to other servers. `share` is in units of
/// [`SHARE_ALL`], at least a tenth of it; `slowness` is in units of [`AS_FAST`], at least that. Weight 1
/// costs most.
pub fn cost_of(weight: u16, share: u16, slowness: u32) -> u16 {
    let whole = u64::from((COST_OF_WEIGHT_ONE / weight.max(1)).max(1));
    let of_share = whole * u64::from(SHARE_ALL) / u64::from(share.clamp(SHARE_MIN, SHARE_ALL));
    let cost = of_share * u64::from(slowness.max(AS_FAST)) / u64::from(AS_FAST);
    // Saturates at the highest cost that a leaf can hold.
    cost.min(u64::from(u16::MAX)) as u16
}

// The smallest share of the lowest weight fits into a leaf, and so does a whole share of the slowest
// server.
const _: () = assert!(COST_OF_WEIGHT_ONE as u32 * SHARE_ALL as u32 / SHARE_MIN as u32 <= u16::MAX as u32);
const _: () = assert!(COST_OF_WEIGHT_ONE as u32 * SLOWNESS_MAX / AS_FAST <= u16::MAX as u32);
