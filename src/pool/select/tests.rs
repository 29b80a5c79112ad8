//! Tests of the tree: unit, model, stress, and (with their `--cfg`) loom and shuttle.
#![cfg_attr(any(loom, shuttle), allow(dead_code, unused_imports))]

use proptest::prelude::*;

use super::*;
use crate::base::rng::Rng;

fn pool(slots: usize, servers: usize, cap: u32) -> Tree {
    let tree = Tree::new(slots, cap);
    for i in 0..servers {
        tree.set(Slot::new(i), LeafState::Eligible, 1);
    }
    tree
}

/// What the root must say: the least key, and one of the leaves that have it.
fn assert_root_is_the_minimum<const F: usize, P: Propagation>(tree: &FArray<F, P>, what: &str) {
    #[cfg(not(any(loom, shuttle)))] // each load is a step of the checkers
    tree.check_invariants();
    let root = tree.root.load(LOAD);
    let keys: Vec<u64> = (0..tree.slots).map(|leaf| tree.key(leaf, tree.leaf(leaf).load(LOAD))).collect();
    let least = *keys.iter().min().unwrap();
    assert_eq!(node_key(root), least, "{what}: keys {keys:?}");
    if least != NONE {
        assert_eq!(
            keys[node_leaf(root)],
            least,
            "{what}: the root names leaf {} of {keys:?}",
            node_leaf(root)
        );
    }
}

#[test]
fn the_shortest_queue_is_selected_and_counted() {
    let (tree, mut rng) = (pool(64, 3, LEN_MAX), Rng::new(1));
    tree.adjust(Slot::new(0), 5);
    tree.adjust(Slot::new(1), 2);
    tree.adjust(Slot::new(2), 4);
    let picks: Vec<_> = (0..4).map(|_| tree.reserve(&mut rng).unwrap().slot.index()).collect();
    assert_eq!((picks[0], picks[1]), (1, 1));
    assert_eq!(tree.total(), 15);
    assert_eq!([0, 1, 2].map(|i| tree.len(Slot::new(i))), [5, 5, 5]);
}

#[test]
fn a_server_that_must_not_be_selected_is_not() {
    let (tree, mut rng) = (Tree::new(8, LEN_MAX), Rng::new(1));
    assert_eq!(tree.reserve(&mut rng), Err(Full));
    tree.set(Slot::new(3), LeafState::Barred, 1);
    assert_eq!(tree.reserve(&mut rng), Err(Full));
    tree.set(Slot::new(3), LeafState::LastResort, 1);
    assert_eq!(tree.reserve(&mut rng).unwrap().slot, Slot::new(3));
    tree.set(Slot::new(5), LeafState::Eligible, 1);
    tree.adjust(Slot::new(5), 1000);
    assert_eq!(tree.reserve(&mut rng).unwrap().slot, Slot::new(5), "however long its queue");
}

#[test]
fn a_server_at_its_cap_is_passed_over_until_it_has_room() {
    let (tree, mut rng) = (pool(8, 2, 1), Rng::new(1));
    let (a, b) = (tree.reserve(&mut rng).unwrap().slot, tree.reserve(&mut rng).unwrap().slot);
    assert_ne!(a, b);
    assert_eq!(tree.reserve(&mut rng), Err(Full));
    tree.adjust(a, -1);
    assert_eq!(tree.reserve(&mut rng).unwrap().slot, a);
}

#[test]
fn cost_divides_the_load() {
    let (tree, mut rng) = (Tree::new(8, LEN_MAX), Rng::new(1));
    tree.set(Slot::new(0), LeafState::Eligible, 840);
    tree.set(Slot::new(1), LeafState::Eligible, 280); // weight 3
    for _ in 0..4000 {
        tree.reserve(&mut rng).unwrap();
    }
    assert!(tree.len(Slot::new(0)).abs_diff(1000) <= 1, "{tree:?}");
}

#[test]
fn the_length_survives_a_change_of_state() {
    let tree = pool(8, 1, LEN_MAX);
    tree.adjust(Slot::new(0), 7);
    tree.set(Slot::new(0), LeafState::Barred, 9);
    assert_eq!(tree.len(Slot::new(0)), 7);
    assert!(!tree.is_choosable(Slot::new(0)));
}

#[test]
fn keys_saturate_below_the_next_class() {
    let tree = Tree::new(8, LEN_MAX);
    tree.set(Slot::new(0), LeafState::Eligible, u16::MAX);
    tree.adjust(Slot::new(0), LEN_MAX as i32 - 1);
    tree.set(Slot::new(1), LeafState::LastResort, 1);
    assert_eq!(tree.reserve(&mut Rng::new(1)).unwrap().slot, Slot::new(0));
}

#[test]
fn versions_wrap_without_touching_anything_else() {
    let (tree, mut rng) = (pool(8, 1, LEN_MAX), Rng::new(1));
    let slot = Slot::new(0);
    tree.leaf(0).fetch_or(u64::MAX << (STATE_SHIFT + STATE_BITS), UPDATE);
    tree.root.fetch_or(u64::MAX << VERSION_SHIFT, UPDATE);
    for _ in 0..3 {
        assert_eq!(tree.reserve(&mut rng).unwrap().slot, slot);
    }
    assert_eq!(tree.len(slot), 3);
    assert_root_is_the_minimum(&tree, "after the wrap");
}

#[test]
fn slots_are_dealt_evenly_over_sibling_subtrees() {
    for slots in [1, 7, 8, 9, 64, 65, 513, 4096] {
        let leaves = dealt_leaves(8, slots);
        let mut sorted = leaves.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(i, &leaf)| i == usize::from(leaf)), "{slots}: a permutation");
        // While no subtree is full, those of one parent differ by at most one.
        let mut span = 8;
        while span < slots {
            let full_siblings = slots / span;
            let mut taken = vec![0u32; slots.div_ceil(span)];
            for &leaf in leaves.iter().take(slots.min(full_siblings * 4)) {
                taken[usize::from(leaf) / span] += 1;
                for siblings in taken[..full_siblings].chunks(8) {
                    let (min, max) = (siblings.iter().min().unwrap(), siblings.iter().max().unwrap());
                    assert!(max - min <= 1, "{slots} slots, spans of {span}: {siblings:?}");
                }
            }
            span *= 8;
        }
    }
}

/// Equal servers get equal shares, also while idle. Servers that cannot be dealt evenly over the children
/// of the root (9 over 8, for example) differ while idle, where it does not matter, and are equal as soon
/// as queues build up.
#[test]
fn ties_take_turns() {
    for (servers, in_flight) in
        [(2, 1), (3, 1), (4, 1), (5, 1), (8, 1), (16, 1), (64, 1), (4, 30), (9, 100), (17, 200)]
    {
        let (tree, mut rng) = (pool(64, servers, LEN_MAX), Rng::new(1));
        let (mut picks, mut flying) = (vec![0u32; servers], std::collections::VecDeque::new());
        for _ in 0..300_000 {
            if flying.len() == in_flight {
                tree.adjust(flying.pop_front().unwrap(), -1);
            }
            let slot = tree.reserve(&mut rng).unwrap().slot;
            picks[slot.index()] += 1;
            flying.push_back(slot);
        }
        let (min, max) = (*picks.iter().min().unwrap(), *picks.iter().max().unwrap());
        assert!(
            f64::from(max) <= 1.10 * f64::from(min),
            "{servers} servers, {in_flight} in flight: {picks:?}"
        );
    }
}

#[derive(Clone, Debug)]
enum Op {
    Reserve,
    Adjust(prop::sample::Index, i32),
    Foreign(prop::sample::Index, i32),
    Set(prop::sample::Index, u8, u16),
    Cap(u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::Reserve),
        3 => (any::<prop::sample::Index>(), -3i32..4).prop_map(|(i, d)| Op::Adjust(i, d)),
        1 => (any::<prop::sample::Index>(), -3i32..4).prop_map(|(i, d)| Op::Foreign(i, d)),
        1 => (any::<prop::sample::Index>(), 0u8..4, 1u16..5).prop_map(|(i, s, c)| Op::Set(i, s, c)),
        1 => prop::sample::select(vec![1, 2, 5, LEN_MAX, u32::MAX]).prop_map(Op::Cap),
    ]
}

#[cfg(not(any(loom, shuttle)))]
proptest! {
    /// The oracle is a plain list, searched from end to end.
    #[test]
    fn it_agrees_with_a_linear_scan(
        slots in prop::sample::select(vec![1usize, 7, 8, 9, 64, 65, 513]),
        cap in prop::sample::select(vec![1u32, 3, LEN_MAX]),
        ops in prop::collection::vec(op(), 1..300),
    ) {
        let (tree, mut rng, mut cap) = (Tree::new(slots, cap), Rng::new(7), cap);
        // Length in all, state, cost, and what of the length is foreign.
        let mut model = vec![(0u32, LeafState::Absent, 1u64, 0u32); slots];
        for (i, leaf) in model.iter_mut().enumerate().take(9) {
            tree.set(Slot::new(i), LeafState::Eligible, 1);
            leaf.1 = LeafState::Eligible;
        }
        for op in ops {
            match op {
                Op::Reserve => {
                    let is_any_eligible = model.iter().any(|leaf| leaf.1 == LeafState::Eligible);
                    let goes_last = cap == LEN_MAX || !is_any_eligible;
                    let key = |&(len, state, cost, foreign): &(u32, LeafState, u64, u32)| {
                        let (has_room, key) = (len - foreign < cap, (u64::from(len) + 1) * cost);
                        match state {
                            LeafState::Eligible if has_room => Some((0, key)),
                            LeafState::LastResort if has_room && goes_last => Some((1, key)),
                            _ => None,
                        }
                    };
                    let least = model.iter().filter_map(key).min();
                    match tree.reserve(&mut rng) {
                        Err(Full) => prop_assert_eq!(least, None),
                        Ok(Reserved { slot, fallback }) => {
                            prop_assert!(!fallback);
                            prop_assert_eq!(key(&model[slot.index()]), least);
                            model[slot.index()].0 += 1;
                        }
                    }
                }
                Op::Adjust(i, delta) => {
                    let i = i.index(slots);
                    let delta = delta.max(-((model[i].0 - model[i].3) as i32));
                    tree.adjust(Slot::new(i), delta);
                    model[i].0 = (model[i].0 as i32 + delta) as u32;
                }
                Op::Foreign(i, delta) => {
                    let i = i.index(slots);
                    let delta = delta.max(-(model[i].3 as i32));
                    tree.adjust_foreign(Slot::new(i), delta);
                    model[i].0 = (model[i].0 as i32 + delta) as u32;
                    model[i].3 = (model[i].3 as i32 + delta) as u32;
                }
                Op::Cap(new) => {
                    tree.set_cap(new);
                    cap = new.min(LEN_MAX);
                }
                Op::Set(i, state, cost) => {
                    let i = i.index(slots);
                    let states =
                        [LeafState::Absent, LeafState::Eligible, LeafState::LastResort, LeafState::Barred];
                    let state = states[usize::from(state)];
                    tree.set(Slot::new(i), state, cost);
                    (model[i].1, model[i].2) = (state, cost.into());
                }
            }
            assert_root_is_the_minimum(&tree, "after each operation");
        }
        for (i, &(len, ..)) in model.iter().enumerate() {
            prop_assert_eq!(tree.len(Slot::new(i)), len);
        }
    }
}

#[cfg(not(any(loom, shuttle)))]
#[test]
fn threads_that_reserve_and_complete_leave_nothing_behind() {
    for servers in [1, 3, 16, 100] {
        let tree = pool(128, servers, 4);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let tree = &tree;
                scope.spawn(move || {
                    let (mut rng, mut held) = (Rng::new(thread), vec![]);
                    if thread == 0 {
                        (0..5_000).for_each(|n| tree.set_cap(1 + n % 7));
                    }
                    for _ in 0..20_000 {
                        match tree.reserve(&mut rng) {
                            Ok(reserved) if rng.below(2) == 0 => held.push(reserved.slot),
                            Ok(reserved) => tree.adjust(reserved.slot, -1),
                            Err(Full) => held.drain(..).for_each(|slot| tree.adjust(slot, -1)),
                        }
                    }
                    held.drain(..).for_each(|slot| tree.adjust(slot, -1));
                });
            }
        });
        assert_eq!(tree.total(), 0);
        assert_root_is_the_minimum(&tree, "at rest");
    }
}

/// A check must see a mistake that is made on purpose.
#[cfg(any(loom, shuttle))]
fn must_fail(what: &str, check: impl FnOnce() + std::panic::UnwindSafe) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(check);
    std::panic::set_hook(hook);
    assert!(outcome.is_err(), "{what}: the check missed it");
}

/// Wrong propagations: the checkers must see each of them.
#[cfg(any(loom, shuttle))]
mod wrong {
    use super::*;

    pub struct SingleRefresh;
    pub struct SkipUnchanged;
    pub struct NoFence;

    impl Propagation for SingleRefresh {
        const REFRESHES: u32 = 1;
        const SKIPS_UNCHANGED: bool = false;
        const IS_FENCED: bool = true;
    }

    impl Propagation for SkipUnchanged {
        const REFRESHES: u32 = 2;
        const SKIPS_UNCHANGED: bool = true;
        const IS_FENCED: bool = true;
    }

    impl Propagation for NoFence {
        const REFRESHES: u32 = 2;
        const SKIPS_UNCHANGED: bool = false;
        const IS_FENCED: bool = false;
    }
}

/// Exhaustive, under the C11 memory model: two leaves, one node, two or three threads.
/// `RUSTFLAGS="--cfg loom" cargo test --profile model --lib loom_`
#[cfg(loom)]
mod loom_model {
    use super::wrong::{NoFence, SingleRefresh, SkipUnchanged};
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    fn check(preemptions: usize, scenario: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(scenario);
    }

    fn two_leaves<P: Propagation>(lens: [i32; 2]) -> Arc<FArray<2, P>> {
        let tree = FArray::new(2, LEN_MAX);
        for (i, len) in lens.into_iter().enumerate() {
            tree.set(Slot::new(i), LeafState::Eligible, 1);
            tree.adjust(Slot::new(i), len);
        }
        Arc::new(tree)
    }

    /// Each thread changes leaves; at rest the root must be the minimum.
    fn changes<P: Propagation + 'static>(lens: [i32; 2], threads: &'static [&'static [(usize, i32)]]) {
        let tree = two_leaves::<P>(lens);
        let run = |tree: &FArray<2, P>, changes: &[(usize, i32)]| {
            for &(slot, delta) in changes {
                tree.adjust(Slot::new(slot), delta);
            }
        };
        let (first, others) = threads.split_first().unwrap();
        let handles: Vec<_> = others
            .iter()
            .map(|changes| {
                let tree = Arc::clone(&tree);
                thread::spawn(move || run(&tree, changes))
            })
            .collect();
        run(&tree, first);
        handles.into_iter().for_each(|h| h.join().unwrap());
        assert_root_is_the_minimum(&tree, "at rest");
    }

    const CROSSING: &[&[(usize, i32)]] = &[&[(0, 3)], &[(1, 2)]];
    const THERE_AND_BACK: &[&[(usize, i32)]] = &[&[(1, -6)], &[(1, 6)]];
    const THREE: &[&[(usize, i32)]] = &[&[(0, 5)], &[(1, 1)], &[(1, 1)]];

    #[test]
    fn loom_the_root_is_exact_at_rest() {
        check(3, || changes::<Proved>([0, 0], CROSSING));
        check(3, || changes::<Proved>([2, 7], THERE_AND_BACK));
        check(2, || changes::<Proved>([0, 1], THREE));
    }

    #[test]
    fn loom_reservations_are_counted_once_each() {
        check(3, || {
            let tree = two_leaves::<Proved>([0, 0]);
            let other = Arc::clone(&tree);
            let handle = thread::spawn(move || other.reserve(&mut Rng::new(1)).unwrap());
            let mine = tree.reserve(&mut Rng::new(2)).unwrap();
            let theirs = handle.join().unwrap();
            assert_ne!(mine.slot, theirs.slot, "both queues were empty");
            assert_eq!(tree.total(), 2);
            assert_root_is_the_minimum(&tree, "at rest");
        });
    }

    #[test]
    fn loom_a_cap_of_one_is_never_exceeded_and_a_completion_is_never_lost() {
        check(2, || {
            let tree = Arc::new(FArray::<2, Proved>::new(2, 1));
            tree.set(Slot::new(0), LeafState::Eligible, 1);
            let taken = tree.reserve(&mut Rng::new(1)).unwrap().slot;
            let other = Arc::clone(&tree);
            let handle = thread::spawn(move || other.reserve(&mut Rng::new(2)).is_ok());
            tree.adjust(taken, -1);
            let got = handle.join().unwrap();
            assert_eq!(tree.total(), u64::from(got));
            assert_eq!(
                tree.reserve(&mut Rng::new(3)).is_ok(),
                !got,
                "there is room unless another thread took it"
            );
        });
    }

    #[test]
    fn loom_sees_a_single_refresh() {
        must_fail("single refresh", || check(3, || changes::<SingleRefresh>([0, 0], CROSSING)));
    }

    #[test]
    fn loom_sees_a_skipped_refresh() {
        must_fail("skip when unchanged", || check(3, || changes::<SkipUnchanged>([2, 7], THERE_AND_BACK)));
    }

    #[test]
    fn loom_sees_a_missing_fence() {
        must_fail("no fence", || check(2, || changes::<NoFence>([0, 1], THREE)));
    }
}

/// Random schedules of the real thing: eight threads, real fan-out, sequentially consistent.
/// `RUSTFLAGS="--cfg shuttle" cargo test --profile model --lib shuttle_`
#[cfg(shuttle)]
mod shuttle_model {
    use super::wrong::{SingleRefresh, SkipUnchanged};
    use super::*;
    use shuttle::sync::Arc;
    use shuttle::thread;

    fn traffic<P: Propagation + 'static>() {
        let tree = Arc::new(FArray::<8, P>::new(16, 3));
        for i in 0..3 {
            tree.set(Slot::new(i), LeafState::Eligible, 1);
        }
        let handles: Vec<_> = (0..8)
            .map(|thread| {
                let tree = Arc::clone(&tree);
                thread::spawn(move || {
                    let mut rng = Rng::new(thread);
                    for _ in 0..3 {
                        if let Ok(reserved) = tree.reserve(&mut rng) {
                            tree.adjust(reserved.slot, -1);
                        }
                    }
                })
            })
            .collect();
        handles.into_iter().for_each(|h| h.join().unwrap());
        assert_eq!(tree.total(), 0);
        assert_root_is_the_minimum(&tree, "at rest");
    }

    /// Four leaves become the minimum and four threads revert that. No later change repairs what a lost
    /// race left behind.
    fn there_and_back<P: Propagation + 'static>() {
        let tree = Arc::new(FArray::<8, P>::new(16, LEN_MAX));
        for (i, len) in [2, 7, 7, 7, 7].into_iter().enumerate() {
            tree.set(Slot::new(i), LeafState::Eligible, 1);
            tree.adjust(Slot::new(i), len);
        }
        let changes = (1..5).flat_map(|i| [(i, -6), (i, 6)]);
        let handles: Vec<_> = changes
            .map(|(slot, delta)| {
                let tree = Arc::clone(&tree);
                thread::spawn(move || tree.adjust(Slot::new(slot), delta))
            })
            .collect();
        handles.into_iter().for_each(|h| h.join().unwrap());
        assert_root_is_the_minimum(&tree, "at rest");
    }

    #[test]
    fn shuttle_eight_threads_leave_nothing_behind() {
        for scenario in [traffic::<Proved>, there_and_back::<Proved>] {
            shuttle::check_random(scenario, 20_000);
            shuttle::check_pct(scenario, 20_000, 4);
        }
    }

    #[test]
    fn shuttle_sees_a_single_refresh() {
        must_fail("single refresh", || shuttle::check_random(traffic::<SingleRefresh>, 20_000));
    }

    #[test]
    fn shuttle_sees_a_skipped_refresh() {
        must_fail("skip when unchanged", || shuttle::check_random(there_and_back::<SkipUnchanged>, 20_000));
    }
}
