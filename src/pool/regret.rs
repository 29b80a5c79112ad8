//! Samples one selection of a server in 64, after it was made, so that the cost per request is close to
//! zero.

use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::pool::select::{Slot, Tree};
use crate::pool::stats::DecisionStats;

/// One selection in this number is sampled, on average.
const ONE_IN: u64 = 64;

/// The sampler of one worker.
#[derive(Debug)]
pub struct RegretSampler {
    now: Instant,
    /// Selections until the next sample.
    left: u64,
    rng: Rng,
}

impl RegretSampler {
    /// `seed` decides which selections are sampled.
    pub fn new(seed: u64) -> Self {
        RegretSampler { now: Instant::ZERO, left: ONE_IN, rng: Rng::new(seed) }
    }

    /// Sets the time of the selections that follow.
    pub fn begin(&mut self, now: Instant) {
        self.now = now;
    }

    /// Notes a selected slot, after its request was counted. `heard_at` is when the server was last heard
    /// from ([`Instant::ZERO`]: never).
    #[inline]
    pub fn note(
        &mut self,
        tree: &Tree,
        slot: Slot,
        heard_at: impl FnOnce() -> Instant,
        stats: &DecisionStats,
    ) {
        self.left -= 1;
        if self.left == 0 {
            self.sample(tree, slot, heard_at(), stats);
        }
    }

    #[cold]
    fn sample(&mut self, tree: &Tree, slot: Slot, heard_at: Instant, stats: &DecisionStats) {
        // The distances are random: with fixed ones a periodic load would always present the same requests.
        self.left = 1 + self.rng.below(2 * ONE_IN - 1);
        stats.regret.record(tree.regret(slot));
        if heard_at > Instant::ZERO {
            let age = self.now.since(heard_at).as_micros();
            stats.age.record(u32::try_from(age).unwrap_or(u32::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::select::{Chooser, LeafState, PolicyKind};

    #[test]
    fn one_selection_in_64_is_sampled_with_its_regret_and_age() {
        for (kind, mean) in [(PolicyKind::ShortestQueue, 0.0..=0.0), (PolicyKind::Random, 0.5..=4.0)] {
            let tree = Tree::new(4, u32::MAX);
            (0..4).for_each(|slot| tree.set(Slot::new(slot), LeafState::Eligible, 840));
            let (mut chooser, stats) = (Chooser::new(kind, 7), DecisionStats::default());
            let mut decisions = RegretSampler::new(9);
            let mut held = std::collections::VecDeque::new();
            for n in 0..64_000 {
                decisions.begin(Instant::from_nanos(10_000_000 + n));
                let slot = chooser.reserve(&tree).unwrap().slot;
                decisions.note(&tree, slot, || Instant::from_nanos(7_000_000 + n), &stats);
                held.push_back(slot);
                if held.len() > 8 {
                    tree.adjust(held.pop_front().unwrap(), -1);
                }
            }
            let regret = stats.regret.snapshot();
            assert!((900..1_100).contains(&regret.count()), "{kind}: {}", regret.count());
            assert!(mean.contains(&regret.mean()), "{kind}: {}", regret.mean());
            let age = stats.age.snapshot();
            assert_eq!(age.count(), regret.count());
            let p50 = age.quantile(0.5).unwrap().as_micros();
            assert!((3_000..=3_375).contains(&p50), "{p50} us");
        }
    }

    #[test]
    fn a_server_never_heard_from_has_no_age() {
        let tree = Tree::new(1, u32::MAX);
        tree.set(Slot::new(0), LeafState::Eligible, 1);
        let (mut decisions, stats) = (RegretSampler::new(1), DecisionStats::default());
        for _ in 0..64 {
            let slot = tree.reserve(&mut Rng::new(1)).unwrap().slot;
            decisions.note(&tree, slot, || Instant::ZERO, &stats);
        }
        assert_eq!((stats.regret.snapshot().count(), stats.age.snapshot().count()), (1, 0));
    }
}
