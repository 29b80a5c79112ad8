//! The state that the workers of a pool share, in every kind of pool. The data path changes it through
//! atomics only.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, Cache};

use crate::pool::concurrency::FinishedCounts;
use crate::pool::local_addresses::LocalAddresses;
use crate::pool::members::{Member, Members};
use crate::pool::select::{LeafState, Slot, Tree};
use crate::pool::waiting::{Limit, PendingQueue, cap};

/// The settings of a pool, as far as its shared state depends on them.
pub trait PoolSettings {
    /// The number of slots. It cannot change.
    fn servers_max(&self) -> usize;

    /// The number of workers. It cannot change.
    fn workers(&self) -> usize;

    /// The limit of each server.
    fn max_outstanding(&self) -> Option<Limit>;

    /// The number of threads that count finished requests: the workers, then others. It cannot change.
    fn counting_threads(&self) -> usize {
        self.workers()
    }
}

/// The shared state of a pool. `M` is what a member has besides address and epoch, `C` the client of a queued
/// request, `S` the settings.
#[derive(Debug)]
pub struct PoolShared<M, C, S> {
    /// Each server's queue length, and whether it can be selected.
    pub tree: Tree,
    /// Requests that wait for a server below its limit.
    pub pending: PendingQueue<C>,
    /// Which server is in which slot.
    pub members: Members<M>,
    /// The local addresses at which datagrams of clients arrived.
    pub locals: LocalAddresses,
    /// Finished requests, by the thread that counts them. Counted with the limit `auto` only.
    pub finished: Box<[FinishedCounts]>,
    /// The number of servers that can be selected, last resorts included. The primary writes it.
    pub usable: AtomicU32,
    settings: Arc<ArcSwap<S>>,
    /// Held during a change of settings, which is several writes.
    change: Mutex<()>,
}

impl<M: Copy + PartialEq, C: Copy, S: PoolSettings> PoolShared<M, C, S> {
    /// The state of a pool without servers.
    pub fn new(settings: S, pending: PendingQueue<C>) -> Self {
        let (slots, workers, limit) =
            (settings.servers_max(), settings.workers(), settings.max_outstanding());
        let shared = PoolShared {
            tree: Tree::new(slots, cap(limit)),
            pending,
            members: Members::new(slots, workers),
            locals: LocalAddresses::default(),
            finished: (0..settings.counting_threads()).map(|_| FinishedCounts::default()).collect(),
            usable: AtomicU32::new(0),
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            change: Mutex::new(()),
        };
        shared.allocate(limit);
        shared
    }

    fn allocate(&self, limit: Option<Limit>) {
        if limit.is_some() {
            self.pending.allocate();
        }
    }

    /// The present settings.
    pub fn settings(&self) -> Arc<S> {
        self.settings.load_full()
    }

    /// The present settings for a worker, which copies newer ones between turns.
    pub fn worker_settings(&self) -> WorkerSettings<S> {
        WorkerSettings { current: self.settings(), newest: Cache::new(Arc::clone(&self.settings)) }
    }

    /// Replaces the settings by those that `change` makes of them, unless it fails. Workers have them from
    /// their next turn on. If the limit changes, it takes effect at once; with `auto`, a limit that was found
    /// is found again.
    pub fn reconfigure<E>(&self, change: impl FnOnce(&S) -> Result<S, E>) -> Result<Arc<S>, E> {
        let _one_at_a_time = self.change.lock().expect("no panic while it is held");
        let old = self.settings();
        let new = Arc::new(change(&old)?);
        self.settings.store(Arc::clone(&new));
        let limit = new.max_outstanding();
        if limit != old.max_outstanding() {
            self.allocate(limit);
            self.tree.set_cap(cap(limit));
        }
        Ok(new)
    }

    /// Writes a server, or none, into its slot: for the workers, and for the selection. For the primary.
    ///
    /// The order matters (see [`crate::pool::members`]). A server that can be selected is published before
    /// the tree lets it be selected; otherwise the tree bars the slot first.
    pub fn set_member(&self, slot: Slot, member: Option<Member<M>>, leaf: LeafState, cost: u16) {
        if is_selectable(leaf) {
            self.members.publish(slot, member);
            self.tree.set(slot, leaf, cost);
        } else {
            self.tree.set(slot, leaf, cost);
            self.members.publish(slot, member);
        }
    }

    /// Whether a server can be selected, even if only as a last resort.
    #[inline]
    pub fn can_serve(&self) -> bool {
        self.usable.load(Ordering::Relaxed) > 0
    }

    /// Lifts the limit, so that queued requests are sent in the next turns: for workers that retire.
    pub fn lift_limit(&self) {
        self.tree.set_cap(u32::MAX);
    }

    /// Counts one request less at a server, at once.
    #[inline]
    pub fn release(&self, slot: Slot) {
        self.tree.adjust(slot, -1);
    }
}

/// Whether requests may be sent to a server with such a leaf.
pub fn is_selectable(leaf: LeafState) -> bool {
    matches!(leaf, LeafState::Eligible | LeafState::LastResort)
}

/// One worker's settings: the same throughout a turn. Reading them is plain memory.
pub struct WorkerSettings<S> {
    current: Arc<S>,
    newest: Cache<Arc<ArcSwap<S>>, Arc<S>>,
}

impl<S> WorkerSettings<S> {
    /// Takes newer settings, if there are any, and returns those before. Between turns: one relaxed load, no
    /// lock.
    #[inline]
    pub fn adopt(&mut self) -> Option<Arc<S>> {
        let newest = self.newest.load();
        if Arc::ptr_eq(newest, &self.current) {
            return None;
        }
        Some(std::mem::replace(&mut self.current, Arc::clone(newest)))
    }
}

impl<S> Deref for WorkerSettings<S> {
    type Target = S;

    #[inline]
    fn deref(&self) -> &S {
        &self.current
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::base::rng::Rng;
    use crate::base::time::Instant;
    use crate::pool::waiting::{NO_KEY, Push};

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Settings {
        number: u32,
        limit: Option<Limit>,
    }

    impl PoolSettings for Settings {
        fn servers_max(&self) -> usize {
            2
        }
        fn workers(&self) -> usize {
            1
        }
        fn max_outstanding(&self) -> Option<Limit> {
            self.limit
        }
    }

    fn shared(limit: Option<Limit>) -> PoolShared<(), (), Settings> {
        PoolShared::new(Settings { number: 1, limit }, PendingQueue::new(4, 4, ()))
    }

    fn set(shared: &PoolShared<(), (), Settings>, number: u32, limit: Option<Limit>) {
        shared.reconfigure(|_| Ok::<_, ()>(Settings { number, limit })).unwrap();
    }

    #[test]
    fn each_worker_adopts_newer_settings_once_and_a_failure_changes_nothing() {
        let shared = shared(None);
        let (mut one, mut other) = (shared.worker_settings(), shared.worker_settings());
        assert!(one.adopt().is_none());
        for number in 2..5 {
            set(&shared, number, None);
            assert_eq!(one.number, number - 1, "the same until the turn ends");
            assert_eq!((one.adopt().unwrap().number, one.number), (number - 1, number));
            assert!(one.adopt().is_none());
        }
        assert_eq!(shared.reconfigure(|_| Err("no")).err(), Some("no"));
        assert!(one.adopt().is_none());
        assert_eq!((other.adopt().unwrap().number, other.number, shared.settings().number), (1, 4, 4));
    }

    #[test]
    fn a_changed_limit_counts_at_once_and_brings_the_queue() {
        let shared = shared(None);
        shared.tree.set(Slot::new(0), LeafState::Eligible, 1);
        let mut rng = Rng::new(1);
        (0..3).for_each(|_| _ = shared.tree.reserve(&mut rng).unwrap());
        let push = Push { client: (), deadline: std::time::Duration::from_secs(1), key: NO_KEY, bytes: b"" };
        assert!(shared.pending.push(Instant::ZERO, push).is_err());
        set(&shared, 2, Some(Limit::Fixed(4)));
        assert!(shared.pending.push(Instant::ZERO, push).is_ok());
        assert!(shared.tree.reserve(&mut rng).is_ok() && shared.tree.reserve(&mut rng).is_err());
        shared.tree.set_cap(9); // as the adaptive limit does
        set(&shared, 3, Some(Limit::Fixed(4)));
        assert!(shared.tree.reserve(&mut rng).is_ok(), "not set again");
        set(&shared, 4, Some(Limit::Fixed(5)));
        assert!(shared.tree.reserve(&mut rng).is_err());
        shared.lift_limit();
        assert!(shared.tree.reserve(&mut rng).is_ok());
    }

    /// The second of the two writes panics, or the first: the members have one slot fewer than the tree.
    #[test]
    fn a_member_is_published_before_its_slot_can_be_selected_and_withdrawn_after_it_is_barred() {
        let mut shared = shared(None);
        shared.members = Members::new(1, 1);
        let slot = Slot::new(1);
        let set = |leaf| {
            let result = catch_unwind(AssertUnwindSafe(|| shared.set_member(slot, None, leaf, 1)));
            assert!(result.is_err(), "there is no such slot");
            // The lock of the members is poisoned now.
        };
        set(LeafState::Eligible);
        assert!(!shared.tree.is_choosable(slot), "selected before its member was published");
        shared.tree.set(slot, LeafState::Eligible, 1);
        for leaf in [LeafState::Barred, LeafState::Absent] {
            shared.tree.set(slot, LeafState::Eligible, 1);
            set(leaf);
            assert!(!shared.tree.is_choosable(slot), "withdrawn before its slot was barred");
        }
    }
}
