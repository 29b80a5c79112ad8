//! The selection policies: which of the selectable servers gets a request.

use std::str::FromStr;

use super::{Full, Reserved, Slot, Tree};
use crate::base::rng::Rng;

/// The rule by which a server is selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyKind {
    /// A server with the lowest (queue + 1) x cost; ties take turns.
    #[default]
    ShortestQueue,
    /// As the shortest queue, but a request costs more at servers that take longer. The slowness is
    /// measured ([`crate::pool::slowness`]).
    ShortestDelay,
    /// The shorter of two different random servers (Mitzenmacher 2001): for several balancers that each see
    /// only a part of the load.
    TwoChoices,
    /// One after the other.
    RoundRobin,
    /// A random server.
    Random,
}

impl PolicyKind {
    /// All policies.
    pub const ALL: [PolicyKind; 5] = [
        PolicyKind::ShortestQueue,
        PolicyKind::ShortestDelay,
        PolicyKind::TwoChoices,
        PolicyKind::RoundRobin,
        PolicyKind::Random,
    ];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            PolicyKind::ShortestQueue => "shortest_queue",
            PolicyKind::ShortestDelay => "shortest_delay",
            PolicyKind::TwoChoices => "two_choices",
            PolicyKind::RoundRobin => "round_robin",
            PolicyKind::Random => "random",
        }
    }
}

impl std::fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is not the name of a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy \"{0}\": use shortest_queue, shortest_delay, two_choices, round_robin or random")]
pub struct UnknownPolicy(String);

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;
    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let found = PolicyKind::ALL.into_iter().find(|policy| policy.name() == name);
        found.ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

/// A policy over the tree: adds one request to the slot that it selects.
trait SelectionPolicy {
    fn reserve(&mut self, tree: &Tree, rng: &mut Rng) -> Result<Reserved, Full>;
}

struct ShortestQueue;

impl SelectionPolicy for ShortestQueue {
    fn reserve(&mut self, tree: &Tree, rng: &mut Rng) -> Result<Reserved, Full> {
        tree.reserve(rng)
    }
}

struct TwoChoices;

impl SelectionPolicy for TwoChoices {
    fn reserve(&mut self, tree: &Tree, rng: &mut Rng) -> Result<Reserved, Full> {
        let a = random_choosable(tree, rng, None)?;
        // A last resort is no alternative to an eligible server. Without an alternative there is no choice.
        let is_alternative = |b: &Slot| tree.is_eligible(*b) == tree.is_eligible(a);
        let b = random_choosable(tree, rng, Some(a)).ok().filter(is_alternative).unwrap_or(a);
        chosen(tree.reserve_shorter(a, b).or_else(|Full| tree.reserve_any(a)))
    }
}

#[derive(Default)]
struct RoundRobin {
    next: usize,
}

impl SelectionPolicy for RoundRobin {
    fn reserve(&mut self, tree: &Tree, _: &mut Rng) -> Result<Reserved, Full> {
        let reserved = tree.reserve_any(Slot::new(self.next))?;
        self.next = (reserved.index() + 1) % tree.slot_count();
        chosen(Ok(reserved))
    }
}

struct Random;

impl SelectionPolicy for Random {
    fn reserve(&mut self, tree: &Tree, rng: &mut Rng) -> Result<Reserved, Full> {
        chosen(tree.reserve_any(random_choosable(tree, rng, None)?))
    }
}

fn chosen(slot: Result<Slot, Full>) -> Result<Reserved, Full> {
    slot.map(|slot| Reserved { slot, fallback: false })
}

/// A random selectable slot other than `except`; eligible ones come before last resorts. Most slots may be
/// empty, so after four misses the selectable ones are counted: still fair, and bounded.
fn random_choosable(tree: &Tree, rng: &mut Rng, except: Option<Slot>) -> Result<Slot, Full> {
    let slots = tree.slot_count();
    let is_eligible = |slot: Slot| Some(slot) != except && tree.is_eligible(slot);
    for _ in 0..4 {
        let slot = Slot::new(rng.below(slots as u64) as usize);
        if is_eligible(slot) {
            return Ok(slot);
        }
    }
    let pick = |acceptable: &dyn Fn(Slot) -> bool, rng: &mut Rng| {
        let count = (0..slots).filter(|&i| acceptable(Slot::new(i))).count();
        let nth = rng.below(count as u64) as usize;
        (0..slots).map(Slot::new).filter(|&s| acceptable(s)).nth(nth)
    };
    let is_choosable = |slot: Slot| Some(slot) != except && tree.is_choosable(slot);
    pick(&is_eligible, rng).or_else(|| pick(&is_choosable, rng)).ok_or(Full)
}

enum Chosen {
    ShortestQueue(ShortestQueue),
    TwoChoices(TwoChoices),
    RoundRobin(RoundRobin),
    Random(Random),
}

impl Chosen {
    fn new(kind: PolicyKind) -> Self {
        match kind {
            // The policies differ in the cost of the leaves.
            PolicyKind::ShortestQueue | PolicyKind::ShortestDelay => Chosen::ShortestQueue(ShortestQueue),
            PolicyKind::TwoChoices => Chosen::TwoChoices(TwoChoices),
            PolicyKind::RoundRobin => Chosen::RoundRobin(RoundRobin::default()),
            PolicyKind::Random => Chosen::Random(Random),
        }
    }
}

/// One worker's policy, with its state and its random numbers.
pub struct Chooser {
    policy: Chosen,
    rng: Rng,
}

impl Chooser {
    /// A chooser of this kind; `seed` decides ties and random selections.
    pub fn new(kind: PolicyKind, seed: u64) -> Self {
        Chooser { policy: Chosen::new(kind), rng: Rng::new(seed) }
    }

    /// Changes the policy.
    pub fn set_policy(&mut self, kind: PolicyKind) {
        self.policy = Chosen::new(kind);
    }

    /// Selects a server and adds one request there.
    pub fn reserve(&mut self, tree: &Tree) -> Result<Reserved, Full> {
        match &mut self.policy {
            Chosen::ShortestQueue(policy) => policy.reserve(tree, &mut self.rng),
            Chosen::TwoChoices(policy) => policy.reserve(tree, &mut self.rng),
            Chosen::RoundRobin(policy) => policy.reserve(tree, &mut self.rng),
            Chosen::Random(policy) => policy.reserve(tree, &mut self.rng),
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::pool::select::{LEN_MAX, LeafState};

    /// Slots with these states and queues.
    fn pool(leaves: &[(LeafState, u32)]) -> Tree {
        let tree = Tree::new(leaves.len(), LEN_MAX);
        for (index, &(state, len)) in leaves.iter().enumerate() {
            tree.set(Slot::new(index), state, 1);
            tree.adjust(Slot::new(index), len as i32);
        }
        tree
    }

    #[test]
    fn two_choices_are_two_different_servers() {
        use LeafState::{Absent, Eligible};
        for empty in 0..7 {
            let mut leaves = vec![(Eligible, 1), (Eligible, 0)];
            leaves.extend(vec![(Absent, 0); empty]);
            let tree = pool(&leaves);
            let mut chooser = Chooser::new(PolicyKind::TwoChoices, 7);
            for _ in 0..200 {
                let slot = chooser.reserve(&tree).unwrap().slot;
                assert_eq!(slot.index(), 1, "with both servers drawn the shorter one is known");
                tree.adjust(slot, -1);
            }
        }
    }

    #[test]
    fn two_choices_draw_every_pair_alike() {
        // The server with rank r is the shorter one of the pairs with the 3 - r servers above it.
        let tree = pool(&[0, 1, 2, 3].map(|len| (LeafState::Eligible, len)));
        let (mut chooser, mut chosen) = (Chooser::new(PolicyKind::TwoChoices, 7), [0; 4]);
        for _ in 0..6_000 {
            let slot = chooser.reserve(&tree).unwrap().slot;
            chosen[slot.index()] += 1;
            tree.adjust(slot, -1);
        }
        assert!((2_850..3_150).contains(&chosen[0]) && (1_850..2_150).contains(&chosen[1]), "{chosen:?}");
        assert!((870..1_130).contains(&chosen[2]) && chosen[3] == 0, "{chosen:?}");
    }

    #[test]
    fn one_server_is_chosen_alone_and_a_last_resort_is_no_choice() {
        use LeafState::{Barred, Eligible, LastResort};
        for (leaves, expected) in [
            (&[(Eligible, 9), (Barred, 0)], 0),
            (&[(LastResort, 0), (Eligible, 9)], 1),
            (&[(LastResort, 3), (LastResort, 0)], 1),
        ] {
            let tree = pool(leaves);
            let mut chooser = Chooser::new(PolicyKind::TwoChoices, 7);
            for _ in 0..50 {
                let slot = chooser.reserve(&tree).unwrap().slot;
                assert_eq!(slot.index(), expected, "{leaves:?}");
                tree.adjust(slot, -1);
            }
        }
        assert_eq!(Chooser::new(PolicyKind::TwoChoices, 7).reserve(&pool(&[(Barred, 0); 2])), Err(Full));
    }
}
