//! Unit, model and stress tests of the queue, and (with their `--cfg`) loom and shuttle.
#![cfg_attr(any(loom, shuttle), allow(dead_code, unused_imports))]

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::base::rng::Rng;
use crate::pool::select::{LeafState, Slot, Tree};

const MS: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_secs(1);
const NOW: Instant = Instant::from_nanos(5_000_000_000);

/// A queue with its entries, for requests of four bytes at most.
fn allocated<const IS_FENCED: bool>(entries: usize) -> PendingQueue<u32, IS_FENCED> {
    let queue = PendingQueue::new(entries, 4, 0);
    queue.allocate();
    queue
}

fn push<const IS_FENCED: bool>(
    queue: &PendingQueue<u32, IS_FENCED>,
    now: Instant,
    deadline: Duration,
    client: u32,
    key: u64,
    bytes: &[u8],
) -> Result<(), NotQueued> {
    queue.push(now, Push { client, deadline, key, bytes })
}

/// Servers that take one request each.
struct Free(u32);

impl ServerSource<u32> for Free {
    type Server = ();
    fn reserve(&mut self) -> Option<()> {
        self.0 = self.0.checked_sub(1)?;
        Some(())
    }
    fn release(&mut self, (): ()) {
        self.0 += 1;
    }
}

fn pop(queue: &PendingQueue<u32>, now: Instant, free: &mut Free) -> Option<u32> {
    let (server, request) = queue.pop_ready(now, free, &mut 0)?;
    let () = server;
    let client = request.client;
    queue.recycle(request);
    queue.check_invariants();
    Some(client)
}

#[test]
fn requests_are_popped_in_order_with_their_bytes() {
    let (queue, mut free) = (allocated::<true>(3), Free(2));
    for (client, bytes) in [(7, &b"abcd"[..]), (8, b""), (9, b"xy")] {
        push(&queue, NOW, DEADLINE, client, NO_KEY, bytes).unwrap();
    }
    assert_eq!((queue.len(), queue.is_empty()), (3, false));
    for (client, bytes) in [(7, &b"abcd"[..]), (8, b"")] {
        let ((), mut request) = queue.pop_ready(NOW + MS, &mut free, &mut 0).unwrap();
        assert_eq!((request.client, request.since, request.bytes()), (client, NOW, &mut bytes.to_vec()[..]));
        queue.recycle(request);
    }
    assert!(pop(&queue, NOW, &mut free).is_none(), "no server is free");
    assert_eq!((queue.len(), free.0), (1, 0));
    free.0 = 5;
    assert_eq!((pop(&queue, NOW, &mut free), pop(&queue, NOW, &mut free), free.0), (Some(9), None, 4));
}

#[test]
fn a_full_queue_one_without_entries_and_a_long_request_are_refusals() {
    let queue = allocated::<true>(2);
    assert_eq!(push(&queue, NOW, DEADLINE, 1, NO_KEY, b"12345"), Err(NotQueued));
    push(&queue, NOW, DEADLINE, 1, NO_KEY, b"1234").unwrap();
    push(&queue, NOW, DEADLINE, 2, NO_KEY, b"").unwrap();
    assert_eq!(push(&queue, NOW, DEADLINE, 3, NO_KEY, b""), Err(NotQueued));
    assert_eq!(pop(&queue, NOW, &mut Free(1)), Some(1));
    push(&queue, NOW, DEADLINE, 3, NO_KEY, b"").unwrap();
    assert_eq!(push(&allocated::<true>(0), NOW, DEADLINE, 1, NO_KEY, b""), Err(NotQueued));
}

#[test]
fn before_the_entries_are_allocated_every_request_is_refused() {
    let queue: PendingQueue<u32> = PendingQueue::new(2, 4, 0);
    assert_eq!(push(&queue, NOW, DEADLINE, 1, 7, b""), Err(NotQueued));
    assert!(queue.is_empty() && !queue.contains(7) && queue.pop().is_none());
    (0..2).for_each(|_| queue.allocate());
    assert_eq!(push(&queue, NOW, DEADLINE, 1, 7, b""), Ok(()));
    queue.allocate();
    assert_eq!((queue.len(), queue.contains(7)), (1, true), "a second call changes nothing");
}

#[test]
fn an_expired_request_is_dropped_and_takes_no_server() {
    let (queue, mut free, mut expired) = (allocated::<true>(4), Free(1), 0);
    for (client, deadline) in [(1, 10 * MS), (2, 20 * MS), (3, 10 * MS)] {
        push(&queue, NOW, deadline, client, NO_KEY, b"").unwrap();
    }
    let ((), request) = queue.pop_ready(NOW + 10 * MS, &mut free, &mut expired).unwrap();
    assert_eq!((request.client, expired, free.0), (2, 1, 0));
    queue.recycle(request);
    free.0 = 1;
    assert!(queue.pop_ready(NOW + 10 * MS, &mut free, &mut expired).is_none());
    assert_eq!((expired, free.0, queue.len()), (2, 1, 0));
    for client in 0..4 {
        push(&queue, NOW, DEADLINE, client, NO_KEY, b"").expect("all entries are free again");
    }
}

#[test]
fn a_queued_request_is_found_by_its_key_until_it_is_popped() {
    let (queue, mut free) = (allocated(4), Free(2));
    // The keys of the second and the third have one index: the later key is not kept.
    for (client, key) in [(1, 7), (2, 8), (3, 16), (4, NO_KEY)] {
        push(&queue, NOW, DEADLINE, client, key, b"").unwrap();
    }
    let known = |queue: &PendingQueue<u32>| [7, 8, 16, NO_KEY].map(|key| queue.contains(key));
    assert_eq!(known(&queue), [true, true, false, false]);
    assert_eq!((pop(&queue, NOW, &mut free), known(&queue)), (Some(1), [false, true, false, false]));
    assert_eq!((pop(&queue, NOW, &mut free), known(&queue)), (Some(2), [false; 4]));
}

/// A worker that writes down what becomes of requests; the turn has room for some.
#[derive(Default)]
struct Log {
    free: u32,
    room: usize,
    has_servers: bool,
    sent: Vec<u32>,
    refused: Vec<u32>,
    expired: Vec<u32>,
}

impl ServerSource<u32> for Log {
    type Server = ();
    fn reserve(&mut self) -> Option<()> {
        self.free = self.free.checked_sub(1)?;
        Some(())
    }
    fn release(&mut self, (): ()) {
        self.free += 1;
    }
    fn expire(&mut self, request: &mut Pending<u32>) {
        self.expired.push(request.client);
    }
}

impl Dispatcher<u32> for Log {
    fn has_room(&self) -> bool {
        self.sent.len() + self.refused.len() < self.room
    }
    fn can_serve(&self) -> bool {
        self.has_servers
    }
    fn send(&mut self, (): (), request: &mut Pending<u32>) {
        self.sent.push(request.client);
    }
    fn refuse(&mut self, request: &mut Pending<u32>) {
        self.refused.push(request.client);
    }
}

#[test]
fn serving_sends_what_servers_and_turn_have_room_for_and_refuses_without_servers() {
    let (all, none) = (&[0, 1, 2, 3][..], &[][..]);
    for (free, room, has_servers, sent, refused, has_more) in [
        (9, 9, true, all, none, false),
        (2, 9, true, &all[..2], none, false), // the servers are at their limit
        (9, 2, true, &all[..2], none, true),  // the turn is full
        (9, 9, false, none, all, false),
        (9, 3, false, none, &all[..3], true),
    ] {
        let queue: PendingQueue<u32> = allocated(8);
        push(&queue, NOW, MS, 9, NO_KEY, b"").unwrap(); // expires
        for client in 0..4 {
            push(&queue, NOW, DEADLINE, client, NO_KEY, b"").unwrap();
        }
        let mut worker = Log { free, room, has_servers, ..Log::default() };
        if !has_servers {
            queue.recycle(queue.pop().expect("the one that expires"));
        }
        let served = queue.serve(NOW + MS, &mut worker);
        assert_eq!((worker.sent.as_slice(), worker.refused.as_slice()), (sent, refused));
        assert_eq!(
            served,
            ServeOutcome { expired: has_servers.into(), has_more },
            "{free} {room} {has_servers}"
        );
        assert_eq!(queue.len() as usize, 4 - sent.len() - refused.len());
    }
}

#[test]
fn an_expired_request_is_told_although_no_server_is_free() {
    let queue: PendingQueue<u32> = allocated(2);
    let mut worker = Log { room: 9, has_servers: true, ..Log::default() };
    // More requests than entries: the numbers go round.
    for round in 0..5 {
        let now = NOW + MS * 100 * round;
        push(&queue, now, 10 * MS, 2 * round, NO_KEY, b"").unwrap();
        push(&queue, now + MS, 10 * MS, 2 * round + 1, NO_KEY, b"").unwrap();
        queue.check_invariants();
        for (after, expired) in [(9, 0), (10, 1), (10, 0), (11, 1)] {
            let served = queue.serve(now + MS * after, &mut worker);
            assert_eq!(served, ServeOutcome { expired, has_more: false }, "round {round} after {after} ms");
        }
    }
    assert_eq!((worker.expired, worker.sent.len(), queue.len()), ((0..10).collect(), 0, 0));
}

#[test]
fn a_turn_without_room_leaves_expired_requests_for_the_next() {
    let queue: PendingQueue<u32> = allocated(2);
    push(&queue, NOW, MS, 1, NO_KEY, b"").unwrap();
    let mut full = Log { has_servers: true, ..Log::default() };
    assert_eq!(queue.serve(NOW + MS, &mut full), ServeOutcome { expired: 0, has_more: true });
    let mut worker = Log { room: 1, has_servers: true, ..Log::default() };
    assert_eq!(queue.serve(NOW + MS, &mut worker).expired, 1);
    assert_eq!(worker.expired, [1]);
}

/// A queue in which each request waited 10 ms per position.
fn slow_queue() -> PendingQueue<u32> {
    let queue = allocated(1000);
    let mut now = NOW;
    for _ in 0..200 {
        push(&queue, now, Duration::from_secs(3600), 0, NO_KEY, b"").unwrap();
        now += 10 * MS;
        pop(&queue, now, &mut Free(1)).unwrap();
    }
    queue
}

#[test]
fn a_request_that_would_wait_for_more_than_half_of_its_deadline_is_refused() {
    let queue = slow_queue();
    let queued =
        (0..1000).take_while(|&client| push(&queue, NOW, DEADLINE, client, NO_KEY, b"").is_ok()).count();
    assert!((48..=52).contains(&queued), "{queued} of 10 ms each, half a second");
    assert!((450..=550).contains(&queue.expected_wait().as_millis()), "{:?}", queue.expected_wait());
    push(&queue, NOW, 4 * DEADLINE, 0, NO_KEY, b"").expect("its deadline is later");
}

#[test]
fn a_queue_that_was_slow_fills_again_when_it_is_fast() {
    let queue = slow_queue();
    let mut now = NOW;
    for _ in 0..200 {
        // Even the first request is likely to wait too long, but an empty queue accepts it: otherwise it
        // would learn nothing.
        push(&queue, now, 10 * MS, 0, NO_KEY, b"").unwrap();
        now += MS / 100;
        pop(&queue, now, &mut Free(1)).unwrap();
    }
    let queued =
        (0..1000).take_while(|&client| push(&queue, NOW, 10 * MS, client, NO_KEY, b"").is_ok()).count();
    assert!(queued > 400, "{queued}");
}

proptest! {
    /// The oracle is a plain queue.
    #[test]
    fn it_is_a_bounded_queue(ops in prop::collection::vec((0u8..4, 0u32..30), 1..200)) {
        let (queue, mut oracle) = (allocated::<true>(8), VecDeque::new());
        let (mut now, mut free, mut number) = (NOW, Free(0), 0u32);
        for (op, n) in ops {
            match op {
                0 => {
                    let deadline = Duration::from_secs(60) + MS * n;
                    let is_long = queue.expected_wait() > deadline / DEADLINE_SHARE;
                    let bytes = number.to_le_bytes();
                    let key = u64::from(number % 20);
                    let is_queued = push(&queue, now, deadline, number, key, &bytes).is_ok();
                    prop_assert_eq!(is_queued, oracle.len() < 8 && !is_long);
                    if is_queued {
                        oracle.push_back((number, now + deadline));
                    }
                    number += 1;
                }
                1 => free.0 += 1,
                2 => now += MS * n * 700,
                _ => {
                    let mut expired = 0;
                    let popped = queue.pop_ready(now, &mut free, &mut expired);
                    let mut expected = None;
                    if popped.is_some() || free.0 > 0 {
                        while let Some((client, until)) = oracle.pop_front() {
                            if until > now {
                                expected = Some(client);
                                break;
                            }
                            expired -= 1;
                        }
                    }
                    prop_assert_eq!(expired, 0);
                    prop_assert_eq!(popped.as_ref().map(|(_, request)| request.client), expected);
                    if let Some(((), mut request)) = popped {
                        let client = request.client.to_le_bytes();
                        prop_assert_eq!(&*request.bytes(), &client[..]);
                        queue.recycle(request);
                    }
                }
            }
            prop_assert_eq!(queue.len(), oracle.len() as u64);
            queue.check_invariants();
        }
    }
}

/// A worker over a real tree.
struct Worker {
    tree: Arc<Tree>,
    rng: Rng,
}

impl ServerSource<u32> for Worker {
    type Server = Slot;
    fn reserve(&mut self) -> Option<Slot> {
        self.tree.reserve(&mut self.rng).ok().map(|reserved| reserved.slot)
    }
    fn release(&mut self, slot: Slot) {
        self.tree.adjust(slot, -1);
    }
}

/// Four workers, three servers with a limit of one: every request is served once, and none is left at the
/// end.
#[cfg(not(any(loom, shuttle)))]
#[test]
fn stress_every_request_is_served_once() {
    const EACH: u32 = 20_000;
    let tree = Arc::new(Tree::new(3, 1));
    (0..3).for_each(|slot| tree.set(Slot::new(slot), LeafState::Eligible, 1));
    let queue = Arc::new(allocated::<true>(64));
    let served: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..4u32)
            .map(|number| {
                let (queue, tree) = (Arc::clone(&queue), Arc::clone(&tree));
                scope.spawn(move || {
                    let mut worker = Worker { tree, rng: Rng::new(number.into()) };
                    let (mut served, mut own) = (vec![], VecDeque::new());
                    for n in 0..EACH {
                        let client = number * EACH + n;
                        // Either at once, or through the queue.
                        match if queue.is_empty() { worker.reserve() } else { None } {
                            Some(slot) => {
                                served.push(client);
                                own.push_back(slot);
                            }
                            None if push(&queue, NOW, DEADLINE, client, NO_KEY, b"").is_err() => {
                                served.push(client)
                            }
                            None => {}
                        }
                        if let Some(slot) = own.pop_front() {
                            worker.release(slot);
                        }
                        while let Some((slot, request)) = queue.pop_ready(NOW, &mut worker, &mut 0) {
                            served.push(request.client);
                            queue.recycle(request);
                            own.push_back(slot);
                        }
                    }
                    for slot in own {
                        worker.release(slot);
                        while let Some((slot, request)) = queue.pop_ready(NOW, &mut worker, &mut 0) {
                            served.push(request.client);
                            queue.recycle(request);
                            worker.release(slot);
                        }
                    }
                    served
                })
            })
            .collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
    });
    assert_eq!((queue.len(), tree.total()), (0, 0), "a request was forgotten");
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

    impl ServerSource<u32> for Binary {
        type Server = Slot;
        fn reserve(&mut self) -> Option<Slot> {
            self.tree.reserve(&mut self.rng).ok().map(|reserved| reserved.slot)
        }
        fn release(&mut self, slot: Slot) {
            self.tree.adjust(slot, -1);
        }
    }

    /// One server, at its limit: its request ends while another thread pushes one.
    fn a_push_meets_an_end<const IS_FENCED: bool>() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let tree = Arc::new(FArray::<2, Proved>::new(1, 1));
            tree.set(Slot::new(0), LeafState::Eligible, 1);
            let busy = tree.reserve(&mut Rng::new(1)).unwrap().slot;
            let queue = Arc::new(allocated::<IS_FENCED>(1));
            let (other_tree, other_queue) = (Arc::clone(&tree), Arc::clone(&queue));
            let handle = loom::thread::spawn(move || {
                let mut host = Binary { tree: other_tree, rng: Rng::new(2) };
                push(&other_queue, NOW, DEADLINE, 7, NO_KEY, b"").unwrap();
                other_queue.pop_ready(NOW, &mut host, &mut 0).map(|(_, request)| request.client)
            });
            let mut host = Binary { tree: Arc::clone(&tree), rng: Rng::new(3) };
            host.release(busy);
            let mine = queue.pop_ready(NOW, &mut host, &mut 0).map(|(_, request)| request.client);
            let theirs = handle.join().unwrap();
            assert_eq!(mine.or(theirs), Some(7), "no worker has popped it");
            assert!(mine.is_none() || theirs.is_none());
            assert_eq!(tree.total(), 1);
        });
    }

    #[test]
    fn loom_a_request_pushed_as_a_server_becomes_free_is_popped() {
        a_push_meets_an_end::<true>();
    }

    #[test]
    fn loom_sees_a_queue_without_fences() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let outcome = std::panic::catch_unwind(a_push_meets_an_end::<false>);
        std::panic::set_hook(hook);
        assert!(outcome.is_err(), "the check missed it");
    }
}
