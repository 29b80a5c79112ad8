//! A lock-free min-heap over the servers' queue lengths, as an f-array.
//!
//! Sources: Jayanti, "f-arrays: implementation and applications", PODC 2002; the double refresh of
//! Afek, Dauber and Touitou, "Wait-free made fast", STOC 1995. A complete 8-ary tree in arrays of atomics,
//! one cache line of children to a node; every node is the minimum of its children. Concurrent heaps,
//! skip lists and multi-queues lack the one operation that is needed: change the key of a *known* leaf.
//!
//! * The minimum is one load of the root.
//! * A change of a leaf is one CAS there, then [`Tree::propagate`]: refresh each node on the path to the
//!   root; a second time only if the first CAS failed; then go up regardless.
//! * Why two are enough: if both CASes of P at a node fail, some S1 changed it after P's first read and some
//!   S2 after P's second. S2 expected a version at least S1's, so it read the node after S1's write, hence
//!   after P's leaf write, and the children after that: S2's value includes P's change or a later one.
//!   "P's leaf write before S2's child read" is a store-to-load step: it needs sequential consistency.
//! * Three shortcuts are wrong, and the tests show each one failing: one refresh (loses completions),
//!   skipping the CAS because nothing seems to have changed (a slower refresher's pending CAS is
//!   not invalidated), and acquire/release ordering.
//!
//! [`Tree::reserve`] guarantees: the selected leaf was a minimum at some instant within the call, and its
//! key was unchanged when the request was added.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_utils::CachePadded;

use super::{Full, Slot};
use crate::base::rng::Rng;
use crate::base::sync::{AtomicU64, LOAD, UPDATE, proof_fence};

/// Whether a server can be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LeafState {
    /// The slot has no server.
    Absent = 0,
    /// The server can be selected.
    Eligible = 1,
    /// The server is selected only while no server is eligible (fail open).
    LastResort = 2,
    /// The server is not selected.
    Barred = 3,
}

/// A slot to which one request was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The selected slot.
    pub slot: Slot,
    /// Whether 16 races were lost and the shorter of two random leaves was taken.
    pub fallback: bool,
}

// Leaf, written by every thread that changes a server: version:24 | state:4 | cost:16 | len:20.
const LEN_BITS: u32 = 20;
const COST_BITS: u32 = 16;
const STATE_BITS: u32 = 4;
const COST_SHIFT: u32 = LEN_BITS;
const STATE_SHIFT: u32 = COST_SHIFT + COST_BITS;
const LEAF_VERSION: u64 = 1 << (STATE_SHIFT + STATE_BITS);

// Node, written by refreshers: version:22 | leaf:12 | key:30. The version is at the top, so that its wrap
// drops off.
const KEY_BITS: u32 = 30;
const INDEX_BITS: u32 = 12;
const INDEX_SHIFT: u32 = KEY_BITS;
const VERSION_SHIFT: u32 = KEY_BITS + INDEX_BITS;

/// The key of a leaf that must not be selected.
const NONE: u64 = (1 << KEY_BITS) - 1;
/// Set in the keys of last resorts: above every eligible key.
const LAST_RESORT: u64 = 1 << (KEY_BITS - 1);
/// The highest key within its class: keys saturate here.
const KEY_MAX: u64 = LAST_RESORT - 2;

/// Maximum number of servers.
const LEAVES_MAX: usize = 1 << INDEX_BITS;
const ELIGIBLE: u64 = LeafState::Eligible as u64;

/// Maximum length of a queue; longer ones count as this length.
pub const LEN_MAX: u32 = (1 << LEN_BITS) - 1;

/// Rounds that `reserve` may lose before it takes the shorter of two random leaves.
const ROUNDS_MAX: usize = 16;

const _: () = assert!(VERSION_SHIFT + 22 == 64 && STATE_SHIFT + STATE_BITS + 24 == 64);
const _: () = assert!(LAST_RESORT + KEY_MAX < NONE);

fn leaf_len(leaf: u64) -> u32 {
    leaf as u32 & LEN_MAX
}

fn leaf_state(leaf: u64) -> u64 {
    leaf >> STATE_SHIFT & ((1 << STATE_BITS) - 1)
}

fn node_key(node: u64) -> u64 {
    node & NONE
}

fn node_leaf(node: u64) -> usize {
    (node >> INDEX_SHIFT) as usize & (LEAVES_MAX - 1)
}

/// Breaks ties among the children of a node: the lowest rank wins. Ranks look random, differ between
/// children and change with the node's version, so ties take turns. (Low bits of the version itself would
/// resonate with reserve/adjust pairs, and starting the search at a random child is unfair where slots are
/// empty.)
struct Ties(u64);

impl Ties {
    const BITS: u32 = 11;

    fn of(node: u64) -> Self {
        let x = (node >> VERSION_SHIFT).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Ties((x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9))
    }

    /// Eight random bits of the child, then its number under a random mask.
    fn rank(&self, child: usize) -> u64 {
        (self.0 >> (child * 7) & 0xff) << 3 | (child as u64 ^ self.mask())
    }

    fn child(&self, rank: u64) -> usize {
        (rank & 7 ^ self.mask()) as usize
    }

    fn mask(&self) -> u64 {
        self.0 >> 61
    }
}

/// One cache line of siblings.
#[repr(align(64))]
struct Group<const FAN_OUT: usize>([AtomicU64; FAN_OUT]);

impl<const FAN_OUT: usize> Group<FAN_OUT> {
    fn new(word: u64) -> Self {
        Group(std::array::from_fn(|_| AtomicU64::new(word)))
    }
}

/// The steps of a propagation. Only those of [`Proved`] are correct: a test replaces one and must see the
/// tree fail.
pub trait Propagation {
    /// Maximum number of refreshes of a node: the second only if the first lost a race.
    const REFRESHES: u32;
    /// Whether a node that seems unchanged is left unwritten.
    const SKIPS_UNCHANGED: bool;
    /// Whether a store is ordered before the loads that follow it.
    const IS_FENCED: bool;
}

/// The propagation that the proof in the module's documentation covers.
pub struct Proved;

impl Propagation for Proved {
    const REFRESHES: u32 = 2;
    const SKIPS_UNCHANGED: bool = false;
    const IS_FENCED: bool = true;
}

/// The selection tree: eight children per node, so that siblings share a cache line.
pub type Tree = FArray<8>;

/// A lock-free min-heap over the servers' queue lengths. Only model checks use a smaller `FAN_OUT`, or
/// another `P` than [`Proved`].
pub struct FArray<const FAN_OUT: usize, P = Proved> {
    /// `levels[0]` are the leaves, grouped. Node `i` of level `k` is the minimum of group `i` of level
    /// `k - 1`.
    levels: Box<[Box<[Group<FAN_OUT>]>]>,
    root: CachePadded<AtomicU64>,
    slots: usize,
    leaf_by_slot: Box<[u16]>,
    slot_by_leaf: Box<[u16]>,
    /// Outstanding requests of this balancer at which a server stops being eligible. Rarely written. A
    /// reader of an old value has read before a change that [`FArray::set_cap`] carries to the root. A
    /// plain atomic, not the checkers' one: the cap is no part of the algorithm.
    cap: AtomicU32,
    /// Foreign load by leaf: the part of the length that other balancers cause, which the cap does not
    /// count. Rarely written, and carried to the root like `cap`.
    foreign: Box<[AtomicU32]>,
    /// Number of eligible leaves. Rarely written, and carried to the root like `cap`.
    eligible: AtomicU32,
    propagation: PhantomData<fn() -> P>,
}

impl<const FAN_OUT: usize, P: Propagation> FArray<FAN_OUT, P> {
    /// A tree for 1 to 4,096 slots. A server is eligible only below `cap` outstanding requests of this
    /// balancer.
    pub fn new(slots: usize, cap: u32) -> Self {
        assert!((1..=LEAVES_MAX).contains(&slots), "1 to {LEAVES_MAX} servers");
        let mut levels = vec![];
        let mut width = slots;
        loop {
            width = width.div_ceil(FAN_OUT);
            let word = if levels.is_empty() { 0 } else { NONE };
            levels.push((0..width).map(|_| Group::new(word)).collect());
            if width == 1 {
                break;
            }
        }
        let leaf_by_slot = dealt_leaves(FAN_OUT, slots);
        let mut slot_by_leaf = vec![0; slots];
        for (slot, &leaf) in leaf_by_slot.iter().enumerate() {
            slot_by_leaf[usize::from(leaf)] = slot as u16;
        }
        FArray {
            leaf_by_slot: leaf_by_slot.into_boxed_slice(),
            slot_by_leaf: slot_by_leaf.into_boxed_slice(),
            levels: levels.into_boxed_slice(),
            root: CachePadded::new(AtomicU64::new(NONE)),
            slots,
            cap: AtomicU32::new(cap.min(LEN_MAX)),
            foreign: (0..slots).map(|_| AtomicU32::new(0)).collect(),
            eligible: AtomicU32::new(0),
            propagation: PhantomData,
        }
    }

    /// Number of slots.
    pub fn slot_count(&self) -> usize {
        self.slots
    }

    /// Adds one request to a shortest queue. Lock-free: a lost CAS means that another thread's succeeded,
    /// and the thread that sees a stale root repairs it. `rng` is used only after 16 lost rounds.
    pub fn reserve(&self, rng: &mut Rng) -> Result<Reserved, Full> {
        for _ in 0..ROUNDS_MAX {
            let root = self.root.load(LOAD);
            let key = node_key(root);
            if key == NONE {
                return Err(Full);
            }
            let leaf = node_leaf(root);
            let word = self.leaf(leaf).load(LOAD);
            if self.key(leaf, word) != key {
                self.propagate(leaf); // the root is stale: repair it, do not spin
            } else if self.take(leaf, word) {
                return Ok(Reserved { slot: self.slot_of(leaf), fallback: false });
            }
        }
        let pick = |rng: &mut Rng| Slot::new(rng.below(self.slots as u64) as usize);
        let (a, b) = (pick(rng), pick(rng));
        self.reserve_shorter(a, b)
            .or_else(|Full| self.reserve_any(a))
            .map(|slot| Reserved { slot, fallback: true })
    }

    /// Adds one request to the shorter of two queues, if at least one can be selected.
    pub fn reserve_shorter(&self, a: Slot, b: Slot) -> Result<Slot, Full> {
        let (a, b) = (self.leaf_of(a), self.leaf_of(b));
        for _ in 0..ROUNDS_MAX {
            let (word_a, word_b) = (self.leaf(a).load(LOAD), self.leaf(b).load(LOAD));
            let (leaf, word) =
                if self.key(b, word_b) < self.key(a, word_a) { (b, word_b) } else { (a, word_a) };
            if self.key(leaf, word) == NONE {
                return Err(Full);
            }
            if self.take(leaf, word) {
                return Ok(self.slot_of(leaf));
            }
        }
        Err(Full)
    }

    /// Adds one request to the first eligible queue from `start` on, or else to the first last resort.
    pub fn reserve_any(&self, start: Slot) -> Result<Slot, Full> {
        for acceptable in [KEY_MAX, NONE - 1] {
            for step in 0..self.slots {
                let at = start.index() + step;
                let leaf = self.leaf_of(Slot::new(if at < self.slots { at } else { at - self.slots }));
                for _ in 0..ROUNDS_MAX {
                    let word = self.leaf(leaf).load(LOAD);
                    if self.key(leaf, word) > acceptable {
                        break;
                    }
                    if self.take(leaf, word) {
                        return Ok(self.slot_of(leaf));
                    }
                }
            }
        }
        Err(Full)
    }

    /// Changes a length. Lock-free; the root reflects the change on return. Lengths stay within 0 to
    /// [`LEN_MAX`]: callers add and remove their own contributions, so a length outside is a caller's
    /// error.
    pub fn adjust(&self, slot: Slot, delta: i32) {
        let leaf = self.leaf_of(slot);
        self.change(leaf, |word| {
            let len = i64::from(leaf_len(word)) + i64::from(delta);
            debug_assert!(len >= 0, "slot {} would have {len} requests", slot.index());
            let len = len.clamp(0, i64::from(LEN_MAX)) as u64;
            word & !u64::from(LEN_MAX) | len
        });
    }

    /// Changes the foreign load of a server, caused by other balancers. The foreign load counts for the
    /// selection, but not for the cap.
    pub fn adjust_foreign(&self, slot: Slot, delta: i32) {
        let leaf = self.leaf_of(slot);
        self.adjust(slot, delta);
        let now = |foreign: u32| Some(foreign.saturating_add_signed(delta));
        let _ = self.foreign[leaf].fetch_update(Ordering::SeqCst, Ordering::SeqCst, now);
        self.propagate(leaf);
    }

    /// Changes whether a server can be selected, and the cost of a request there relative to others (1 to
    /// 65,535). Of two servers the one with the lower (length + 1) x cost is selected.
    pub fn set(&self, slot: Slot, state: LeafState, cost: u16) {
        if self.state_and_cost(slot) == (state, cost.max(1)) {
            return; // a write would compete with the workers' selections
        }
        let leaf = self.leaf_of(slot);
        let set = (state as u64) << STATE_SHIFT | u64::from(cost.max(1)) << COST_SHIFT;
        let old = self.change(leaf, |word| word & !(LEAF_VERSION - 1) | set | u64::from(leaf_len(word)));
        let (was, is) = (leaf_state(old) == ELIGIBLE, state as u64 == ELIGIBLE);
        let crossed = match (was, is) {
            (false, true) => self.eligible.fetch_add(1, Ordering::SeqCst) == 0,
            (true, false) => self.eligible.fetch_sub(1, Ordering::SeqCst) == 1,
            _ => false,
        };
        if crossed {
            self.refresh_all(); // the keys of last resorts may have changed
        }
    }

    /// Changes the maximum number of outstanding requests at which a server can be selected. A server
    /// above it keeps its requests.
    pub fn set_cap(&self, cap: u32) {
        self.cap.store(cap.min(LEN_MAX), Ordering::SeqCst);
        self.refresh_all();
    }

    /// Propagates all leaves: each key may have changed.
    fn refresh_all(&self) {
        (0..self.slots).for_each(|leaf| self.propagate(leaf));
    }

    /// The length of a queue.
    pub fn len(&self, slot: Slot) -> u32 {
        leaf_len(self.leaf(self.leaf_of(slot)).load(LOAD))
    }

    /// The part of a queue's length that this balancer's requests cause.
    pub fn own_len(&self, slot: Slot) -> u32 {
        self.len(slot).saturating_sub(self.foreign_at(self.leaf_of(slot)))
    }

    /// Maximum outstanding requests of this balancer at a server; [`LEN_MAX`] without a limit.
    pub fn cap(&self) -> u32 {
        self.cap.load(Ordering::SeqCst)
    }

    /// State and cost of a slot's leaf, as [`FArray::set`] wrote them.
    pub fn state_and_cost(&self, slot: Slot) -> (LeafState, u16) {
        let word = self.leaf(self.leaf_of(slot)).load(LOAD);
        let state = match leaf_state(word) {
            0 => LeafState::Absent,
            ELIGIBLE => LeafState::Eligible,
            2 => LeafState::LastResort,
            _ => LeafState::Barred,
        };
        (state, (word >> COST_SHIFT & ((1 << COST_BITS) - 1)) as u16)
    }

    /// Whether a server is eligible, even if it is at its limit.
    pub fn takes_traffic(&self, slot: Slot) -> bool {
        leaf_state(self.leaf(self.leaf_of(slot)).load(LOAD)) == ELIGIBLE
    }

    /// Regret of a selection that has just added its request at this slot: the excess of the slot's queue
    /// over the shortest queue that could have been selected, in requests. Reads all leaves: for samples.
    pub fn regret(&self, slot: Slot) -> u32 {
        let own = self.len(slot).saturating_sub(1);
        let others = (0..self.slots).map(Slot::new).filter(|&other| other != slot);
        let least = |is_choosable: fn(&Self, Slot) -> bool| {
            others.clone().filter(|&other| is_choosable(self, other)).map(|other| self.len(other)).min()
        };
        let shortest = least(Self::is_eligible).or_else(|| least(Self::is_choosable));
        shortest.map_or(0, |shortest| own.saturating_sub(shortest))
    }

    /// The sum of all lengths; exact while no thread changes the tree.
    pub fn total(&self) -> u64 {
        (0..self.slots).map(|i| u64::from(self.len(Slot::new(i)))).sum()
    }

    /// Whether a request can be reserved at this slot, even if only as a last resort.
    pub fn is_choosable(&self, slot: Slot) -> bool {
        let leaf = self.leaf_of(slot);
        self.key(leaf, self.leaf(leaf).load(LOAD)) != NONE
    }

    /// Whether a request can be reserved at this slot, not only as a last resort.
    pub fn is_eligible(&self, slot: Slot) -> bool {
        let leaf = self.leaf_of(slot);
        self.key(leaf, self.leaf(leaf).load(LOAD)) <= KEY_MAX
    }

    /// Panics, with the numbers, unless every node is the minimum of its children and the count of
    /// eligible leaves is correct. No other thread may change the tree meanwhile.
    pub fn check_invariants(&self) {
        let eligible = (0..self.slots).filter(|&leaf| leaf_state(self.leaf(leaf).load(LOAD)) == ELIGIBLE);
        let (counted, found) = (self.eligible.load(Ordering::SeqCst) as usize, eligible.count());
        assert_eq!(counted, found, "the tree counts {counted} eligible leaves and has {found}");
        for leaf in 0..self.slots {
            let (len, foreign) = (leaf_len(self.leaf(leaf).load(LOAD)), self.foreign_at(leaf));
            let slot = self.slot_of(leaf).index();
            assert!(foreign <= len, "slot {slot}: {foreign} foreign of {len} requests");
        }
        for (level, groups) in self.levels.iter().enumerate() {
            for (index, group) in groups.iter().enumerate() {
                let children = group.0.iter().enumerate().map(|(child, word)| match level {
                    0 => self.key(index * FAN_OUT + child, word.load(LOAD)),
                    _ => node_key(word.load(LOAD)),
                });
                let node = match self.levels.get(level + 1) {
                    Some(above) => &above[index / FAN_OUT].0[index % FAN_OUT],
                    None => &*self.root,
                };
                let (key, least) = (node_key(node.load(LOAD)), children.min().expect("a group has children"));
                assert_eq!(
                    key, least,
                    "node {index} above level {level} has key {key}, its least child {least}"
                );
            }
        }
    }

    fn leaf_of(&self, slot: Slot) -> usize {
        usize::from(self.leaf_by_slot[slot.index()])
    }

    fn slot_of(&self, leaf: usize) -> Slot {
        Slot::new(usize::from(self.slot_by_leaf[leaf]))
    }

    /// The foreign load of a leaf; 0 for an index beyond the last leaf, which a group may have.
    fn foreign_at(&self, leaf: usize) -> u32 {
        self.foreign.get(leaf).map_or(0, |foreign| foreign.load(Ordering::SeqCst))
    }

    fn leaf(&self, leaf: usize) -> &AtomicU64 {
        &self.levels[0][leaf / FAN_OUT].0[leaf % FAN_OUT]
    }

    /// The selection key: (length + 1) x cost, so that an idle slow server is worse than an idle fast one.
    #[inline]
    fn key(&self, leaf: usize, word: u64) -> u64 {
        let len = leaf_len(word);
        let cost = word >> COST_SHIFT & ((1 << COST_BITS) - 1);
        let key = ((u64::from(len) + 1) * cost).min(KEY_MAX);
        let cap = self.cap.load(Ordering::SeqCst);
        const LAST: u64 = LeafState::LastResort as u64;
        let has_room = cap == LEN_MAX || len.saturating_sub(self.foreign_at(leaf)) < cap;
        match leaf_state(word) {
            ELIGIBLE if has_room => key,
            // With a limit, a request waits for an eligible server rather than going to a last resort.
            LAST if has_room && (cap == LEN_MAX || self.eligible.load(Ordering::SeqCst) == 0) => {
                key | LAST_RESORT
            }
            _ => NONE,
        }
    }

    /// Adds one request to a leaf if its word is unchanged.
    fn take(&self, leaf: usize, word: u64) -> bool {
        let taken = (word + 1).wrapping_add(LEAF_VERSION);
        let won = self.leaf(leaf).compare_exchange(word, taken, UPDATE, LOAD).is_ok();
        if won {
            self.propagate(leaf);
        }
        won
    }

    /// Changes a leaf and returns its previous word.
    fn change(&self, leaf: usize, to: impl Fn(u64) -> u64) -> u64 {
        let place = self.leaf(leaf);
        let mut word = place.load(LOAD);
        while let Err(now) = place.compare_exchange(word, to(word).wrapping_add(LEAF_VERSION), UPDATE, LOAD) {
            word = now;
        }
        self.propagate(leaf);
        word
    }

    /// Carries a leaf's change to the root. When it returns, the root reflects the change or a later one.
    fn propagate(&self, leaf: usize) {
        self.fence();
        let mut index = leaf / FAN_OUT;
        for level in 0..self.levels.len() {
            let place = match self.levels.get(level + 1) {
                Some(above) => &above[index / FAN_OUT].0[index % FAN_OUT],
                None => &*self.root,
            };
            for _ in 0..P::REFRESHES {
                if self.refresh(place, level, index) {
                    break;
                }
            }
            index /= FAN_OUT;
        }
    }

    /// Sets a node to the minimum of its children; false if another thread has changed the node meanwhile.
    fn refresh(&self, place: &AtomicU64, level: usize, index: usize) -> bool {
        let old = place.load(LOAD);
        self.fence();
        let least = if level == 0 { self.least_leaf(index, old) } else { self.least_node(level, index, old) };
        if P::SKIPS_UNCHANGED && least == old & !(u64::MAX << VERSION_SHIFT) {
            return true;
        }
        let version = (old >> VERSION_SHIFT).wrapping_add(1) << VERSION_SHIFT;
        place.compare_exchange(old, version | least, UPDATE, LOAD).is_ok()
    }

    /// The minimum of a group of leaves, as a node without a version.
    #[inline]
    fn least_leaf(&self, index: usize, old: u64) -> u64 {
        let ties = Ties::of(old);
        let mut best = u64::MAX;
        for (child, leaf) in self.levels[0][index].0.iter().enumerate() {
            let key = self.key(index * FAN_OUT + child, leaf.load(LOAD));
            best = best.min(key << Ties::BITS | ties.rank(child));
        }
        let leaf = index * FAN_OUT + ties.child(best);
        (leaf as u64) << INDEX_SHIFT | best >> Ties::BITS
    }

    /// The minimum of a group of nodes, without its version.
    #[inline]
    fn least_node(&self, level: usize, index: usize, old: u64) -> u64 {
        let ties = Ties::of(old);
        let mut best = (u64::MAX, 0);
        for (child, place) in self.levels[level][index].0.iter().enumerate() {
            let node = place.load(LOAD);
            let rank = node_key(node) << Ties::BITS | ties.rank(child);
            if rank < best.0 {
                best = (rank, node);
            }
        }
        best.1 & !(u64::MAX << VERSION_SHIFT)
    }

    fn fence(&self) {
        if P::IS_FENCED {
            proof_fence();
        }
    }
}

/// The leaf of each slot. Slots are dealt over the subtrees in turn. So if the first n slots are taken,
/// siblings differ by at most one server for every n: with ties, each subtree is as likely as its sibling.
fn dealt_leaves(fan_out: usize, slots: usize) -> Vec<u16> {
    let mut subtrees: Vec<Vec<u16>> = (0..slots as u16).map(|leaf| vec![leaf]).collect();
    while subtrees.len() > 1 {
        let merged = subtrees.chunks(fan_out).map(|children| {
            let longest = children.iter().map(Vec::len).max().unwrap_or(0);
            (0..longest).flat_map(|i| children.iter().filter_map(move |c| c.get(i).copied())).collect()
        });
        subtrees = merged.collect();
    }
    subtrees.pop().expect("at least one slot")
}

impl<const FAN_OUT: usize, P: Propagation> std::fmt::Debug for FArray<FAN_OUT, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let choosable = (0..self.slots).map(Slot::new).filter(|&s| self.is_choosable(s));
        f.debug_map().entries(choosable.map(|s| (s.index(), self.len(s)))).finish()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
