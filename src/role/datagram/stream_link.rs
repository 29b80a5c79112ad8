//! Shared state of a pool's workers and its TCP side: the order in which both serve queued requests, and the
//! end of the pool. Changed through atomics only.

use std::sync::OnceLock;

use crossbeam_queue::ArrayQueue;

use crate::base::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::pool::select::Slot;

/// Servers that were reserved for queries by TCP and are not taken yet.
const GRANTS_MAX: usize = 1_024;

/// Makes the TCP side take notice of a change.
type Waker = Box<dyn Fn() + Send + Sync>;

/// One for a pool.
///
/// Queries by TCP wait in a queue of their own, since the bytes of a connection belong to one thread.
/// Each has a *turn*: the number of requests that must have left the pending queue before it. So both
/// queues together are first in, first out. A worker that has a free server reserves it for a query by
/// TCP whose turn has come, and hands the server over as a *grant*.
pub struct StreamLink {
    /// Queries by TCP that wait and have no grant.
    wanted: AtomicU32,
    /// The turn of the oldest of them.
    turn: AtomicU64,
    grants: ArrayQueue<Slot>,
    is_retired: AtomicBool,
    waker: OnceLock<Waker>,
}

impl Default for StreamLink {
    fn default() -> Self {
        StreamLink {
            wanted: AtomicU32::new(0),
            turn: AtomicU64::new(u64::MAX),
            grants: ArrayQueue::new(GRANTS_MAX),
            is_retired: AtomicBool::new(false),
            waker: OnceLock::new(),
        }
    }
}

impl StreamLink {
    /// Sets what wakes the TCP side. Only the first one counts.
    pub fn set_waker(&self, waker: impl Fn() + Send + Sync + 'static) {
        let _ = self.waker.set(Box::new(waker));
    }

    /// Ends the TCP side: each connection is closed after the answers that it is owed.
    pub fn retire(&self) {
        self.is_retired.store(true, Relaxed);
        self.wake();
    }

    /// Whether the TCP side must end.
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Relaxed)
    }

    /// Whether queries by TCP are queued. A request that arrives meanwhile joins the pending queue.
    #[inline]
    pub fn has_queue(&self) -> bool {
        self.wanted.load(Relaxed) > 0
    }

    /// Takes the duty to serve the oldest query by TCP, if its turn has come after `popped` requests.
    pub fn take_turn(&self, popped: u64) -> bool {
        self.turn.load(Relaxed) <= popped && self.withdraw()
    }

    /// Gives the duty of [`StreamLink::take_turn`] back: no server was free.
    pub fn return_turn(&self) {
        self.wanted.fetch_add(1, Relaxed);
    }

    /// Hands a reserved server over to the TCP side; gives it back if too many wait there.
    pub fn grant(&self, slot: Slot) -> Result<(), Slot> {
        self.grants.push(slot)?;
        self.wake();
        Ok(())
    }

    /// A server that a worker reserved for a query by TCP.
    pub(super) fn take_grant(&self) -> Option<Slot> {
        self.grants.pop()
    }

    /// One more query waits.
    pub(super) fn enqueue(&self) {
        self.wanted.fetch_add(1, Relaxed);
    }

    /// One query less waits. False if a worker has the duty to serve one: a grant follows.
    pub(super) fn withdraw(&self) -> bool {
        self.wanted.fetch_update(Relaxed, Relaxed, |wanted| wanted.checked_sub(1)).is_ok()
    }

    /// Publishes the turn of the oldest query that waits; `None` if none does.
    pub(super) fn set_turn(&self, turn: Option<u64>) {
        self.turn.store(turn.unwrap_or(u64::MAX), Relaxed);
    }

    fn wake(&self) {
        if let Some(wake) = self.waker.get() {
            wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(not(any(loom, shuttle)))]
    use std::sync::Arc;

    #[cfg(not(any(loom, shuttle)))]
    #[test]
    fn a_server_is_granted_once_to_each_query_whose_turn_has_come() {
        let (link, woken) = (StreamLink::default(), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&woken);
        link.set_waker(move || _ = count.fetch_add(1, Relaxed));
        assert!(!link.has_queue() && !link.take_turn(u64::MAX - 1));
        link.set_turn(Some(3));
        link.enqueue();
        assert!(link.has_queue() && !link.take_turn(2));
        assert!(link.take_turn(3) && !link.take_turn(3), "one query waits");
        link.return_turn();
        assert!(link.take_turn(4));
        link.grant(Slot::new(5)).unwrap();
        assert!(!link.withdraw(), "its grant is there");
        assert_eq!((link.take_grant(), link.take_grant()), (Some(Slot::new(5)), None));
        assert!(!link.is_retired());
        link.retire();
        assert!(link.is_retired() && woken.load(Relaxed) == 2);
    }

    /// `RUSTFLAGS="--cfg loom" cargo test --profile model --lib loom_`
    #[cfg(loom)]
    mod loom_model {
        use super::*;
        use crate::base::rng::Rng;
        use crate::pool::select::{FArray, LeafState, Proved};
        use loom::sync::Arc;

        fn model(run: impl Fn() + Send + Sync + 'static) {
            let mut builder = loom::model::Builder::new();
            builder.preemption_bound = Some(3);
            builder.check(run);
        }

        /// Whether loom finds a fault.
        fn fails(run: impl Fn() + Send + Sync + 'static) -> bool {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| {}));
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model(run)));
            std::panic::set_hook(hook);
            outcome.is_err()
        }

        /// [`StreamLink::withdraw`] as two accesses: a mutation.
        fn withdraw_in_two_steps(link: &StreamLink) -> bool {
            let wanted = link.wanted.load(Relaxed);
            link.wanted.store(wanted.saturating_sub(1), Relaxed);
            wanted > 0
        }

        /// A query ends while a worker takes the duty to serve it.
        fn an_end_meets_a_worker(withdraw: fn(&StreamLink) -> bool) {
            let link = Arc::new(StreamLink::default());
            link.set_turn(Some(0));
            link.enqueue();
            let other = Arc::clone(&link);
            let worker = loom::thread::spawn(move || {
                let has_duty = other.take_turn(0);
                if has_duty {
                    other.grant(Slot::new(0)).unwrap();
                }
                has_duty
            });
            let has_left = withdraw(&link);
            let has_duty = worker.join().unwrap();
            assert!(has_left != has_duty, "left the queue: {has_left}, served: {has_duty}");
            assert_eq!((link.take_grant().is_some(), link.has_queue()), (has_duty, false));
        }

        /// A query arrives while a worker frees the only server, which was at its limit. After the tick that
        /// follows, the query has the server.
        fn an_arrival_meets_a_free_server(return_turn: fn(&StreamLink)) {
            let tree = Arc::new(FArray::<2, Proved>::new(1, 1));
            tree.set(Slot::new(0), LeafState::Eligible, 1);
            let busy = tree.reserve(&mut Rng::new(1)).unwrap().slot;
            let link = Arc::new(StreamLink::default());
            let (other_tree, other) = (Arc::clone(&tree), Arc::clone(&link));
            let worker = loom::thread::spawn(move || {
                other_tree.adjust(busy, -1);
                if other.has_queue() && other.take_turn(0) {
                    match other_tree.reserve(&mut Rng::new(2)) {
                        Ok(reserved) => other.grant(reserved.slot).unwrap(),
                        Err(_) => other.return_turn(),
                    }
                }
            });
            // As `Streams` does: the turn, the count, then a look at the servers.
            link.set_turn(Some(0));
            link.enqueue();
            let serve = |rng: u64| match link.withdraw() {
                true => match tree.reserve(&mut Rng::new(rng)) {
                    Ok(_) => true,
                    Err(_) => {
                        return_turn(&link);
                        false
                    }
                },
                false => false,
            };
            let is_served = serve(3);
            worker.join().unwrap();
            if !is_served {
                assert!(link.take_grant().is_some() || serve(4), "no tick serves the query");
            }
            assert_eq!((link.take_grant(), link.has_queue(), tree.total()), (None, false, 1));
        }

        #[test]
        fn loom_a_query_leaves_the_queue_or_is_granted_a_server() {
            model(|| an_end_meets_a_worker(StreamLink::withdraw));
        }

        #[test]
        fn loom_sees_a_withdrawal_in_two_steps() {
            assert!(fails(|| an_end_meets_a_worker(withdraw_in_two_steps)), "the check missed it");
        }

        #[test]
        fn loom_a_query_that_arrives_as_a_server_becomes_free_is_served() {
            model(|| an_arrival_meets_a_free_server(StreamLink::return_turn));
        }

        #[test]
        fn loom_sees_a_duty_that_is_not_returned() {
            assert!(fails(|| an_arrival_meets_a_free_server(|_| ())), "the check missed it");
        }
    }
}
