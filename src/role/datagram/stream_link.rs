//! Shared state of a pool's workers and its TCP side: the order in which both serve queued requests, and the
//! end of the pool. Changed through atomics only.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crossbeam_queue::ArrayQueue;

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
    use std::sync::Arc;

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
}
