//! One worker's selection of servers: a policy over the tree that all workers share, and the sampler of its
//! quality.

use crate::base::time::Instant;
use crate::pool::regret::RegretSampler;
use crate::pool::select::{Chooser, Full, PolicyKind, Slot, Tree};
use crate::pool::stats::WorkerStats;

/// Reserves servers for one worker.
pub struct Selector {
    chooser: Chooser,
    sampler: RegretSampler,
}

impl Selector {
    /// A selector of this policy. The seeds decide ties and random selections, and which selections are
    /// sampled.
    pub fn new(policy: PolicyKind, seed: u64, sampler_seed: u64) -> Self {
        Selector { chooser: Chooser::new(policy, seed), sampler: RegretSampler::new(sampler_seed) }
    }

    /// Changes the policy.
    pub fn set_policy(&mut self, policy: PolicyKind) {
        self.chooser.set_policy(policy);
    }

    /// Begins a turn at this time.
    pub fn begin_turn(&mut self, now: Instant) {
        self.sampler.begin(now);
    }

    /// Reserves a server for one request, which is then counted in the tree. `member` finds what the worker
    /// knows of the server of a slot, after it has copied the newest members if need be. `heard_at` is when
    /// the server was last heard from ([`Instant::ZERO`]: never).
    #[inline]
    pub fn reserve<M>(
        &mut self,
        tree: &Tree,
        stats: &WorkerStats,
        mut member: impl FnMut(Slot) -> Option<M>,
        heard_at: impl FnOnce(Slot) -> Instant,
    ) -> Result<(Slot, M), Full> {
        loop {
            let reserved = self.chooser.reserve(tree)?;
            stats.select_fallback.add(u64::from(reserved.fallback));
            if let Some(member) = member(reserved.slot) {
                self.note(tree, reserved.slot, stats, heard_at);
                return Ok((reserved.slot, member));
            }
            // The server has left since. The primary bars a slot before it withdraws the member, so a round
            // that fails takes another departure.
            tree.adjust(reserved.slot, -1);
        }
    }

    /// Notes a server that was reserved in another way than by the policy.
    #[inline]
    pub fn note(
        &mut self,
        tree: &Tree,
        slot: Slot,
        stats: &WorkerStats,
        heard_at: impl FnOnce(Slot) -> Instant,
    ) {
        self.sampler.note(tree, slot, || heard_at(slot), &stats.decisions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::select::LeafState;

    #[test]
    fn a_slot_without_a_member_is_given_back() {
        let tree = Tree::new(4, u32::MAX);
        (0..2).for_each(|slot| tree.set(Slot::new(slot), LeafState::Eligible, 840));
        let stats = &WorkerStats::default();
        let mut selector = Selector::new(PolicyKind::ShortestQueue, 1, 2);
        let left = selector.reserve(&tree, stats, Some, |_| Instant::ZERO).unwrap().0;
        tree.adjust(left, -1);
        // The server that would be selected leaves in between.
        let member = |slot| {
            if slot == left {
                tree.set(left, LeafState::Absent, 1);
            }
            (slot != left).then_some(slot)
        };
        for length in 1..9 {
            let (slot, found) = selector.reserve(&tree, stats, member, |_| Instant::ZERO).unwrap();
            assert!(slot == found && slot != left);
            assert_eq!((tree.len(slot), tree.len(left)), (length, 0));
        }
        tree.set(Slot::new(1 - left.index()), LeafState::Absent, 1);
        assert_eq!(selector.reserve(&tree, stats, member, |_| Instant::ZERO), Err(Full));
    }

    #[test]
    fn one_selection_in_64_is_sampled() {
        let tree = Tree::new(1, u32::MAX);
        tree.set(Slot::new(0), LeafState::Eligible, 840);
        let stats = &WorkerStats::default();
        let mut selector = Selector::new(PolicyKind::Random, 1, 2);
        selector.begin_turn(Instant::from_nanos(9_000));
        for _ in 0..64_000 {
            let (slot, ()) =
                selector.reserve(&tree, stats, |_| Some(()), |_| Instant::from_nanos(2_000)).unwrap();
            tree.adjust(slot, -1);
        }
        let count = stats.decisions.age.snapshot().count();
        assert!((900..1_100).contains(&count), "{count}");
    }
}
