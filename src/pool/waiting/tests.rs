//! Unit, model and stress tests of the room, and (with their `--cfg`) loom and shuttle.
#![cfg_attr(any(loom, shuttle), allow(dead_code, unused_imports))]

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::base::rng::Rng;
use crate::pool::select::{LeafState, Slot, Tree};

const MS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(1);
const NOW: Instant = Instant::from_nanos(5_000_000_000);

/// A room that is ready for guests, with requests of four bytes at most.
fn furnished(places: usize) -> Room<u32> {
    let room = Room::new(places, 4);
    room.furnish(0);
    room
}

/// Servers that take one request each.
struct Free(u32);

impl Host for Free {
    type Server = ();
    fn reserve(&mut self) -> Option<()> {
        self.0 = self.0.checked_sub(1)?;
        Some(())
    }
    fn release(&mut self, (): ()) {
        self.0 += 1;
    }
}

fn call(room: &Room<u32>, now: Instant, free: &mut Free) -> Option<u32> {
    let (server, waiting) = room.call(now, free, &mut 0)?;
    let () = server;
    let guest = waiting.guest;
    room.vacate(waiting);
    Some(guest)
}

#[test]
fn guests_are_called_in_order_with_what_they_brought() {
    let (room, mut free) = (furnished(3), Free(2));
    for (guest, bytes) in [(7, &b"abcd"[..]), (8, b""), (9, b"xy")] {
        room.enter(NOW, PATIENCE, guest, NO_MARK, bytes).unwrap();
    }
    assert_eq!((room.len(), room.is_empty()), (3, false));
    for (guest, bytes) in [(7, &b"abcd"[..]), (8, b"")] {
        let ((), mut waiting) = room.call(NOW + MS, &mut free, &mut 0).unwrap();
        assert_eq!((waiting.guest, waiting.since, waiting.bytes()), (guest, NOW, &mut bytes.to_vec()[..]));
        room.vacate(waiting);
    }
    assert!(call(&room, NOW, &mut free).is_none(), "no server is free");
    assert_eq!((room.len(), free.0), (1, 0));
    free.0 = 5;
    assert_eq!((call(&room, NOW, &mut free), call(&room, NOW, &mut free), free.0), (Some(9), None, 4));
}

#[test]
fn a_full_room_refuses_and_so_does_one_without_places_and_what_is_too_long() {
    let room = furnished(2);
    assert_eq!(room.enter(NOW, PATIENCE, 1, NO_MARK, b"12345"), Err(NoRoom));
    room.enter(NOW, PATIENCE, 1, NO_MARK, b"1234").unwrap();
    room.enter(NOW, PATIENCE, 2, NO_MARK, b"").unwrap();
    assert_eq!(room.enter(NOW, PATIENCE, 3, NO_MARK, b""), Err(NoRoom));
    assert_eq!(call(&room, NOW, &mut Free(1)), Some(1));
    room.enter(NOW, PATIENCE, 3, NO_MARK, b"").unwrap();
    assert_eq!(furnished(0).enter(NOW, PATIENCE, 1, NO_MARK, b""), Err(NoRoom));
}

#[test]
fn before_there_are_places_nobody_is_let_in() {
    let room = Room::new(2, 4);
    assert_eq!(room.enter(NOW, PATIENCE, 1, 7, b""), Err(NoRoom));
    assert!(room.is_empty() && !room.has(7) && room.take().is_none());
    (0..2).for_each(|_| room.furnish(0));
    assert_eq!(room.enter(NOW, PATIENCE, 1, 7, b""), Ok(()));
    room.furnish(0);
    assert_eq!((room.len(), room.has(7)), (1, true), "nobody is sent away");
}

#[test]
fn who_is_out_of_patience_is_passed_over_and_no_server_is_spent_on_it() {
    let (room, mut free, mut expired) = (furnished(4), Free(1), 0);
    for (guest, patience) in [(1, 10 * MS), (2, 20 * MS), (3, 10 * MS)] {
        room.enter(NOW, patience, guest, NO_MARK, b"").unwrap();
    }
    let ((), waiting) = room.call(NOW + 10 * MS, &mut free, &mut expired).unwrap();
    assert_eq!((waiting.guest, expired, free.0), (2, 1, 0));
    room.vacate(waiting);
    free.0 = 1;
    assert!(room.call(NOW + 10 * MS, &mut free, &mut expired).is_none());
    assert_eq!((expired, free.0, room.len()), (2, 1, 0));
    for guest in 0..4 {
        room.enter(NOW, PATIENCE, guest, NO_MARK, b"").expect("all places are free again");
    }
}

#[test]
fn who_waits_is_known_by_its_mark_until_it_is_called() {
    let (room, mut free) = (furnished(4), Free(2));
    // The second and the third have one place for their marks: the later one is not remembered.
    for (guest, mark) in [(1, 7), (2, 8), (3, 16), (4, NO_MARK)] {
        room.enter(NOW, PATIENCE, guest, mark, b"").unwrap();
    }
    let known = |room: &Room<u32>| [7, 8, 16, NO_MARK].map(|mark| room.has(mark));
    assert_eq!(known(&room), [true, true, false, false]);
    assert_eq!((call(&room, NOW, &mut free), known(&room)), (Some(1), [false, true, false, false]));
    assert_eq!((call(&room, NOW, &mut free), known(&room)), (Some(2), [false; 4]));
}

/// A queue in which each guest waits for 10 ms per place.
fn slow_room() -> Room<u32> {
    let room = furnished(1000);
    let mut now = NOW;
    for _ in 0..200 {
        room.enter(now, Duration::from_secs(3600), 0, NO_MARK, b"").unwrap();
        now += 10 * MS;
        call(&room, now, &mut Free(1)).unwrap();
    }
    room
}

#[test]
fn who_would_wait_for_more_than_half_of_its_patience_is_refused_at_once() {
    let room = slow_room();
    let entered =
        (0..1000).take_while(|&guest| room.enter(NOW, PATIENCE, guest, NO_MARK, b"").is_ok()).count();
    assert!((48..=52).contains(&entered), "{entered} of 10 ms each, half a second");
    assert!((450..=550).contains(&room.expected_wait().as_millis()), "{:?}", room.expected_wait());
    room.enter(NOW, 4 * PATIENCE, 0, NO_MARK, b"").expect("it has more patience");
}

#[test]
fn a_room_that_was_slow_once_fills_again_when_it_has_become_fast() {
    let room = slow_room();
    let mut now = NOW;
    for _ in 0..200 {
        // Even the first is likely to wait for too long, but an empty room takes it: else nothing would be learnt.
        room.enter(now, 10 * MS, 0, NO_MARK, b"").unwrap();
        now += MS / 100;
        call(&room, now, &mut Free(1)).unwrap();
    }
    let entered =
        (0..1000).take_while(|&guest| room.enter(NOW, 10 * MS, guest, NO_MARK, b"").is_ok()).count();
    assert!(entered > 400, "{entered}");
}

proptest! {
    /// Against a plain queue.
    #[test]
    fn it_is_a_queue_with_places(ops in prop::collection::vec((0u8..4, 0u32..30), 1..200)) {
        let (room, mut oracle) = (furnished(8), VecDeque::new());
        let (mut now, mut free, mut number) = (NOW, Free(0), 0u32);
        for (op, n) in ops {
            match op {
                0 => {
                    let patience = Duration::from_secs(60) + MS * n;
                    let is_long = room.expected_wait() > patience / PATIENCE_SHARE;
                    let is_let_in = room.enter(now, patience, number, NO_MARK, &number.to_le_bytes()).is_ok();
                    prop_assert_eq!(is_let_in, oracle.len() < 8 && !is_long);
                    if is_let_in {
                        oracle.push_back((number, now + patience));
                    }
                    number += 1;
                }
                1 => free.0 += 1,
                2 => now += MS * n * 700,
                _ => {
                    let mut expired = 0;
                    let called = room.call(now, &mut free, &mut expired);
                    let mut expected = None;
                    if called.is_some() || free.0 > 0 {
                        while let Some((guest, until)) = oracle.pop_front() {
                            if until > now {
                                expected = Some(guest);
                                break;
                            }
                            expired -= 1;
                        }
                    }
                    prop_assert_eq!(expired, 0);
                    prop_assert_eq!(called.as_ref().map(|(_, waiting)| waiting.guest), expected);
                    if let Some(((), mut waiting)) = called {
                        let guest = waiting.guest.to_le_bytes();
                        prop_assert_eq!(&*waiting.bytes(), &guest[..]);
                        room.vacate(waiting);
                    }
                }
            }
            prop_assert_eq!(room.len(), oracle.len() as u64);
        }
    }
}

/// A worker over a real tree.
struct Worker {
    tree: Arc<Tree>,
    rng: Rng,
}

impl Host for Worker {
    type Server = Slot;
    fn reserve(&mut self) -> Option<Slot> {
        self.tree.reserve(&mut self.rng).ok().map(|reserved| reserved.slot)
    }
    fn release(&mut self, slot: Slot) {
        self.tree.adjust(slot, -1);
    }
}

/// Four workers, three servers with one request each: every guest is served once, and nobody is left when all rest.
#[cfg(not(any(loom, shuttle)))]
#[test]
fn stress_every_guest_is_served_once() {
    const EACH: u32 = 20_000;
    let tree = Arc::new(Tree::new(3, 1));
    (0..3).for_each(|slot| tree.set(Slot::new(slot), LeafState::Eligible, 1));
    let room = Arc::new(furnished(64));
    let served: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..4u32)
            .map(|number| {
                let (room, tree) = (Arc::clone(&room), Arc::clone(&tree));
                scope.spawn(move || {
                    let mut worker = Worker { tree, rng: Rng::new(number.into()) };
                    let (mut served, mut own) = (vec![], VecDeque::new());
                    for n in 0..EACH {
                        let guest = number * EACH + n;
                        // Either at once, or by way of the room.
                        match if room.is_empty() { worker.reserve() } else { None } {
                            Some(slot) => {
                                served.push(guest);
                                own.push_back(slot);
                            }
                            None if room.enter(NOW, PATIENCE, guest, NO_MARK, b"").is_err() => {
                                served.push(guest)
                            }
                            None => {}
                        }
                        if let Some(slot) = own.pop_front() {
                            worker.release(slot);
                        }
                        while let Some((slot, waiting)) = room.call(NOW, &mut worker, &mut 0) {
                            served.push(waiting.guest);
                            room.vacate(waiting);
                            own.push_back(slot);
                        }
                    }
                    for slot in own {
                        worker.release(slot);
                        while let Some((slot, waiting)) = room.call(NOW, &mut worker, &mut 0) {
                            served.push(waiting.guest);
                            room.vacate(waiting);
                            worker.release(slot);
                        }
                    }
                    served
                })
            })
            .collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
    });
    assert_eq!((room.len(), tree.total()), (0, 0), "somebody was forgotten");
    let mut served = served;
    served.sort_unstable();
    assert!(served.iter().copied().eq(0..4 * EACH));
}

/// `RUSTFLAGS="--cfg loom" cargo test --profile model --lib loom_`
#[cfg(loom)]
mod loom_model {
    use super::*;
    use crate::pool::select::{FArray, Proved};
    use loom::sync::Arc;

    struct Binary {
        tree: Arc<FArray<2>>,
        rng: Rng,
    }

    impl Host for Binary {
        type Server = Slot;
        fn reserve(&mut self) -> Option<Slot> {
            self.tree.reserve(&mut self.rng).ok().map(|reserved| reserved.slot)
        }
        fn release(&mut self, slot: Slot) {
            self.tree.adjust(slot, -1);
        }
    }

    /// One server, which is busy; it ends its request while another thread brings one.
    fn one_comes_as_one_goes(has_fence: bool) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let tree = Arc::new(FArray::<2, Proved>::new(1, 1));
            tree.set(Slot::new(0), LeafState::Eligible, 1);
            let busy = tree.reserve(&mut Rng::new(1)).unwrap().slot;
            let room = Arc::new(Room { has_fence, ..furnished(1) });
            let (other_tree, other_room) = (Arc::clone(&tree), Arc::clone(&room));
            let handle = loom::thread::spawn(move || {
                let mut host = Binary { tree: other_tree, rng: Rng::new(2) };
                other_room.enter(NOW, PATIENCE, 7, NO_MARK, b"").unwrap();
                other_room.call(NOW, &mut host, &mut 0).map(|(_, waiting)| waiting.guest)
            });
            let mut host = Binary { tree: Arc::clone(&tree), rng: Rng::new(3) };
            host.release(busy);
            let mine = room.call(NOW, &mut host, &mut 0).map(|(_, waiting)| waiting.guest);
            let theirs = handle.join().unwrap();
            assert_eq!(mine.or(theirs), Some(7), "nobody has called it");
            assert!(mine.is_none() || theirs.is_none());
            assert_eq!(tree.total(), 1);
        });
    }

    #[test]
    fn loom_a_guest_that_comes_as_a_server_gets_room_is_called() {
        one_comes_as_one_goes(true);
    }

    #[test]
    fn loom_sees_a_room_without_fences() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let outcome = std::panic::catch_unwind(|| one_comes_as_one_goes(false));
        std::panic::set_hook(hook);
        assert!(outcome.is_err(), "the check did not see it");
    }
}
