//! The pending queue of a pool: requests that wait in the balancer for a server below its limit.
//!
//! With `max_outstanding` each server has few requests. The others wait here, and the balancer binds each to
//! a server only when a server is free: join-bounded-shortest-queue (Kogias and others, "R2P2: Making RPCs
//! first-class datacenter citizens", USENIX ATC 2019). The tail of the response times approaches that of one
//! central queue.
//!
//! The workers of a pool share one queue, first in, first out. A worker that frees a server pops the next
//! request and sends it through its own sockets ([`PendingQueue::serve`]). Memory is fixed: a request is
//! copied once, into an entry that was allocated when the limit was set.
//!
//! # No request is forgotten
//! A worker that pushes a request tries to pop one afterwards; a worker that frees a server does so, too.
//! Pushing writes the count and reads the selection tree; freeing writes the tree and reads the count. If
//! these accesses are sequentially consistent, one of the two sees the other (Dekker's argument). The loom
//! test checks this, and fails without the fence.
//!
//! # No request waits without prospect
//! A request that would wait for more than half of its queue deadline is refused at once. Its client would
//! have repeated it, or given it up, by the time at which it is served, and a server would do work that no
//! client needs. The expected wait follows from the time per position that earlier requests waited. A
//! duplicate of a queued request ([`PendingQueue::contains`]) need not be queued. A request whose queue
//! deadline has passed is not served: [`ServerSource::expire`] may answer it, even if no server is free.

mod limit;

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64 as Plain;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

pub use limit::{LIMIT_AT_FIRST, Limit, cap};

use crate::base::sync::{AtomicU64, LOAD, UPDATE, proof_fence};
use crate::base::time::Instant;

/// The most entries of a queue.
pub const PENDING_MAX: usize = 1 << 20;
/// The key of requests whose duplicates are not detected.
pub const NO_KEY: u64 = 0;
/// A request is queued if its expected wait is at most its queue deadline divided by this.
const DEADLINE_SHARE: u32 = 2;
/// The time per position is a moving average: each popped request contributes one part in this number.
const AVERAGE_PARTS: u64 = 16;

/// A queued request, and what is needed to send it.
#[derive(Debug)]
pub struct Pending<C> {
    /// The client that sent it.
    pub client: C,
    /// When it was queued.
    pub since: Instant,
    /// The queue deadline: how long it waits at most.
    pub deadline: Duration,
    key: u64,
    /// Requests that were queued before it when it was pushed.
    ahead: u32,
    len: u32,
    bytes: Box<[u8]>,
}

impl<C> Pending<C> {
    /// The request.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len as usize]
    }
}

/// A request that is to be queued.
#[derive(Clone, Copy, Debug)]
pub struct Push<'a, C> {
    /// The client that sent it.
    pub client: C,
    /// The queue deadline: how long it waits at most.
    pub deadline: Duration,
    /// A hash that all attempts of the request have, and others hardly ever; or [`NO_KEY`].
    pub key: u64,
    /// The request.
    pub bytes: &'a [u8],
}

/// What finds a server for a request of a client `C`.
pub trait ServerSource<C> {
    /// A server below its limit. The request is already counted there.
    type Server;

    /// Reserves a server; `None` if all are at their limit.
    fn reserve(&mut self) -> Option<Self::Server>;

    /// Gives back a reservation that no request needs.
    fn release(&mut self, server: Self::Server);

    /// Handles a request whose queue deadline has passed, before it is dropped.
    fn expire(&mut self, _request: &mut Pending<C>) {}
}

/// A worker in its turn: what sends and refuses queued requests.
pub trait Dispatcher<C>: ServerSource<C> {
    /// Whether the turn has room to send one more request, or its refusal.
    fn has_room(&self) -> bool;

    /// Whether the pool has a server at all, even if only as a last resort.
    fn can_serve(&self) -> bool;

    /// Sends a request to the server that was reserved for it.
    fn send(&mut self, server: Self::Server, request: &mut Pending<C>);

    /// Refuses a request, since no server is there.
    fn refuse(&mut self, request: &mut Pending<C>);
}

/// The queue is full, or the request would wait too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotQueued;

/// What [`PendingQueue::serve`] has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServeOutcome {
    /// Requests whose queue deadline had passed. They were dropped.
    pub expired: u64,
    /// Whether the turn had no room for the next request.
    pub has_more: bool,
}

/// The pending queue of a pool: first in, first out, shared by its workers. `C` is the client of a request.
/// Only a model check sets `IS_FENCED` to false, and must see the queue forget a request.
#[derive(Debug)]
pub struct PendingQueue<C, const IS_FENCED: bool = true> {
    /// Requests that no worker has popped yet.
    count: AtomicU64,
    /// Nanoseconds that a request waits for each one before it.
    per_position: Plain,
    /// Allocated when a limit is first set: they take megabytes.
    entries: OnceLock<Entries<C>>,
    entries_max: usize,
    bytes_max: usize,
    /// The client of an empty entry.
    no_client: C,
}

#[derive(Debug)]
struct Entries<C> {
    queue: ArrayQueue<Box<Pending<C>>>,
    free: ArrayQueue<Box<Pending<C>>>,
    /// By their last bits: the keys of queued requests. A hint: of two keys for one index only the first is
    /// here.
    keys: Box<[Plain]>,
    /// The ends of the queue deadlines in nanoseconds, by the number of the request.
    ends: Box<[Plain]>,
    /// Requests pushed so far: the number of the next one.
    pushed: Plain,
    /// Requests popped so far: the number of the oldest queued one.
    popped: Plain,
}

impl<C: Copy> Entries<C> {
    fn new(count: usize, bytes_max: usize, no_client: C) -> Self {
        let entry = || {
            let bytes = vec![0; bytes_max].into_boxed_slice();
            let (since, deadline) = (Instant::ZERO, Duration::ZERO);
            Box::new(Pending { client: no_client, since, deadline, key: NO_KEY, ahead: 0, len: 0, bytes })
        };
        let (queue, free) = (ArrayQueue::new(count.max(1)), ArrayQueue::new(count.max(1)));
        (0..count).for_each(|_| drop(free.push(entry())));
        let keys = (0..(2 * count).next_power_of_two()).map(|_| Plain::new(NO_KEY)).collect();
        let ends = (0..count.max(1)).map(|_| Plain::new(0)).collect();
        Entries { queue, free, keys, ends, pushed: Plain::new(0), popped: Plain::new(0) }
    }

    fn key(&self, key: u64) -> &Plain {
        &self.keys[key as usize & (self.keys.len() - 1)]
    }

    fn end(&self, number: u64) -> &Plain {
        &self.ends[(number % self.ends.len() as u64) as usize]
    }
}

impl<C: Copy, const IS_FENCED: bool> PendingQueue<C, IS_FENCED> {
    /// A queue of at most `entries_max` requests (0 to [`PENDING_MAX`]) of at most `bytes_max` bytes each. It
    /// refuses all requests until [`PendingQueue::allocate`]. `no_client` fills empty entries.
    pub fn new(entries_max: usize, bytes_max: usize, no_client: C) -> Self {
        assert!(entries_max <= PENDING_MAX, "at most {PENDING_MAX} entries");
        PendingQueue {
            count: AtomicU64::new(0),
            per_position: Plain::new(0),
            entries: OnceLock::new(),
            entries_max,
            bytes_max,
            no_client,
        }
    }

    /// Allocates the entries, once. Off the data path.
    pub fn allocate(&self) {
        self.entries.get_or_init(|| Entries::new(self.entries_max, self.bytes_max, self.no_client));
    }

    /// The number of queued requests.
    pub fn len(&self) -> u64 {
        self.count.load(LOAD)
    }

    /// Requests that were popped since the start: the place in line of a request that waits elsewhere.
    pub fn popped(&self) -> u64 {
        self.entries.get().map_or(0, |entries| entries.popped.load(Relaxed))
    }

    /// Whether no request is queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.fence();
        self.len() == 0
    }

    /// The longest request that can be queued, in bytes.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// How long a request that is pushed now is likely to wait.
    pub fn expected_wait(&self) -> Duration {
        Duration::from_nanos(self.per_position.load(Relaxed).saturating_mul(self.len()))
    }

    /// Whether a request with this key is queued. May miss one.
    pub fn contains(&self, key: u64) -> bool {
        let entries = self.entries.get().filter(|_| key != NO_KEY);
        entries.is_some_and(|entries| entries.key(key).load(Relaxed) == key)
    }

    /// Queues a request. [`PendingQueue::serve`] must follow in the same turn.
    pub fn push(&self, now: Instant, request: Push<'_, C>) -> Result<(), NotQueued> {
        let Push { client, deadline, key, bytes } = request;
        if bytes.len() > self.bytes_max || self.expected_wait() > deadline / DEADLINE_SHARE {
            return Err(NotQueued);
        }
        let entries = self.entries.get().ok_or(NotQueued)?;
        let mut entry = entries.free.pop().ok_or(NotQueued)?;
        entry.bytes[..bytes.len()].copy_from_slice(bytes);
        let (len, ahead) = (bytes.len() as u32, self.len() as u32);
        *entry = Pending {
            client,
            since: now,
            deadline,
            key,
            ahead,
            len,
            bytes: std::mem::take(&mut entry.bytes),
        };
        let _ = entries.key(key).compare_exchange(NO_KEY, key, Relaxed, Relaxed);
        let number = entries.pushed.fetch_add(1, Relaxed);
        entries.end(number).store((now + deadline).as_nanos(), Relaxed);
        drop(entries.queue.push(entry)); // both queues have room for all entries
        self.count.fetch_add(1, UPDATE);
        self.fence();
        Ok(())
    }

    /// Sends queued requests as long as servers are below their limit and the turn has room. Without a server
    /// in the pool it refuses them. At the end of a turn, when the tree has the turn's results.
    pub fn serve<D: Dispatcher<C>>(&self, now: Instant, worker: &mut D) -> ServeOutcome {
        let mut served = ServeOutcome::default();
        while !self.is_empty() {
            if !worker.has_room() {
                served.has_more = true;
                break;
            }
            if !worker.can_serve() {
                let Some(mut request) = self.pop() else { break };
                worker.refuse(&mut request);
                self.recycle(request);
                continue;
            }
            if self.has_expired(now) {
                let Some(request) = self.pop() else { break };
                self.learn(now.since(request.since), request.ahead);
                self.expire(worker, request, &mut served.expired);
                continue;
            }
            let Some((server, mut request)) = self.pop_ready(now, worker, &mut served.expired) else { break };
            worker.send(server, &mut request);
            self.recycle(request);
        }
        served
    }

    /// Whether the queue deadline of the oldest request has passed. A hint: while another worker pops a
    /// request, it may be about that one.
    fn has_expired(&self, now: Instant) -> bool {
        let entries = self.entries.get().filter(|_| !self.is_empty());
        entries
            .is_some_and(|entries| entries.end(entries.popped.load(Relaxed)).load(Relaxed) <= now.as_nanos())
    }

    fn expire<S: ServerSource<C>>(&self, servers: &mut S, mut request: Box<Pending<C>>, expired: &mut u64) {
        servers.expire(&mut request);
        *expired += 1;
        self.recycle(request);
    }

    /// The oldest request, if a server can be reserved for it. Requests whose queue deadline has passed are
    /// dropped and counted. The entry must be given back by [`PendingQueue::recycle`].
    pub fn pop_ready<S: ServerSource<C>>(
        &self,
        now: Instant,
        servers: &mut S,
        expired: &mut u64,
    ) -> Option<(S::Server, Box<Pending<C>>)> {
        while !self.is_empty() {
            let server = servers.reserve()?;
            while let Some(request) = self.pop() {
                let waited = now.since(request.since);
                self.learn(waited, request.ahead);
                if waited < request.deadline {
                    return Some((server, request));
                }
                self.expire(servers, request, expired);
            }
            // Other workers were faster. A request pushed since then may have found no server because of this
            // reservation.
            servers.release(server);
        }
        None
    }

    /// The oldest request, whether or not a server is free.
    pub fn pop(&self) -> Option<Box<Pending<C>>> {
        let mut count = self.count.load(LOAD);
        loop {
            let left = count.checked_sub(1)?;
            match self.count.compare_exchange(count, left, UPDATE, LOAD) {
                // Each request is in the queue before it is counted.
                Ok(_) => {
                    let entries = self.entries.get()?;
                    let request = entries.queue.pop()?;
                    entries.popped.fetch_add(1, Relaxed);
                    let key = entries.key(request.key);
                    let _ = key.compare_exchange(request.key, NO_KEY, Relaxed, Relaxed);
                    return Some(request);
                }
                Err(now) => count = now,
            }
        }
    }

    /// Gives an entry back.
    pub fn recycle(&self, entry: Box<Pending<C>>) {
        if let Some(entries) = self.entries.get() {
            drop(entries.free.push(entry)); // both queues have room for all entries
        }
    }

    /// Takes in how long a request waited, and behind how many others. Workers may overwrite each other's
    /// value: it is a hint.
    fn learn(&self, waited: Duration, ahead: u32) {
        let of_this = waited.as_nanos() as u64 / (u64::from(ahead) + 1);
        let average = self.per_position.load(Relaxed);
        self.per_position.store(average - average / AVERAGE_PARTS + of_this / AVERAGE_PARTS, Relaxed);
    }

    #[inline]
    fn fence(&self) {
        if IS_FENCED {
            proof_fence();
        }
    }

    /// Panics, with the numbers, unless the count is the number of queued requests, each entry is either
    /// queued or free, and the queued requests are in the order of their arrival. Workers have taken turns
    /// since the first push, and none has popped a request without recycling it.
    pub fn check_invariants(&self) {
        let count = self.len();
        let Some(entries) = self.entries.get() else {
            assert_eq!(count, 0, "{count} requests are counted, and no entry is allocated");
            return;
        };
        let (queued, free, max) = (entries.queue.len(), entries.free.len(), self.entries_max);
        assert!(
            count == queued as u64 && queued + free == max,
            "{count} requests are counted and {queued} queued; {free} of {max} entries are free"
        );
        let (mut keys, mut before) = (BTreeSet::new(), None);
        // One round through the queue: each request returns to the end.
        for position in 0..queued {
            let Some(request) = entries.queue.pop() else { break };
            let Pending { since, key, ahead, len, ref bytes, .. } = *request;
            let (size, size_max) = (bytes.len(), self.bytes_max);
            assert!(
                len as usize <= size && size == size_max,
                "position {position}: {len} bytes in an entry of {size}, at most {size_max}"
            );
            assert!(
                ahead as usize >= position && (ahead as usize) < max,
                "position {position}: pushed behind {ahead} requests, of at most {max}"
            );
            if let Some((earlier, ahead_of_it)) = before.replace((since, ahead)) {
                assert!(
                    earlier <= since && ahead <= ahead_of_it + 1,
                    "position {position}: pushed at {since:?} behind {ahead} requests, and the one before it \
                     at {earlier:?} behind {ahead_of_it}"
                );
            }
            let end = entries.end(entries.popped.load(Relaxed) + position as u64).load(Relaxed);
            let expected = (since + request.deadline).as_nanos();
            assert_eq!(end, expected, "position {position}: the end of its queue deadline");
            keys.insert(key);
            drop(entries.queue.push(request));
        }
        let stored = entries.keys.iter().map(|key| key.load(Relaxed)).filter(|&key| key != NO_KEY);
        let stale: Vec<u64> = stored.filter(|key| !keys.contains(key)).collect();
        assert!(stale.is_empty(), "no queued request has the keys {stale:x?}");
    }
}

#[cfg(test)]
mod tests;
