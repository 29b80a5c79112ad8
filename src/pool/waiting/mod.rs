//! The waiting room of a pool: requests that wait in the balancer until a server has room for them.
//!
//! Where each server has a few requests at most (`max_outstanding`), the rest waits here and is bound to a server only
//! when one is free: join-bounded-shortest-queue (Kogias and others, "R2P2: Making RPCs first-class datacenter
//! citizens", USENIX ATC 2019). The tail of the response times comes to that of one central queue.
//!
//! One room is shared by the workers of a pool: first in, first out; whoever frees a server calls the next guest and sends
//! it by its own sockets. Memory is fixed: a guest is copied once, into a place that was made when the limit was set.
//!
//! # No guest is forgotten
//! Whoever enters tries to be called itself afterwards ([`Room::call`]); whoever gives a server room looks here afterwards.
//! Entering writes the count and reads the selection tree, giving room writes the tree and reads the count: one of the
//! two sees the other, if these accesses are sequentially consistent (Dekker's argument).
//! The loom test plays this through, and fails without the fence.
//!
//! # Nobody waits in vain
//! A guest that would wait for more than half of its patience is refused at once: it would come back, or have left, by the
//! time that it is served, and the servers would do work that nobody needs. Who comes again while it waits ([`Room::has`]) need
//! not be let in twice. How long it would wait follows from how long
//! those before it have waited for each place in the queue. Who is out of patience when called is not served.

mod limit;

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64 as Plain;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

pub use limit::{LIMIT_AT_FIRST, Limit, cap};

use crate::base::sync::{AtomicU64, LOAD, UPDATE, proof_fence};
use crate::base::time::Instant;

/// The most guests of a room.
pub const PLACES_MAX: usize = 1 << 20;
/// The mark of guests that need not be told apart.
pub const NO_MARK: u64 = 0;
/// A guest is let in if it is likely to wait for its patience divided by this at most.
const PATIENCE_SHARE: u32 = 2;
/// Of the time for a place in the queue, each guest that is called makes up one part in so many.
const PACE_PARTS: u64 = 16;

/// A guest: a request, and whatever is needed to send it.
#[derive(Debug)]
pub struct Waiting<G> {
    /// Who it is.
    pub guest: G,
    /// Since when it waits.
    pub since: Instant,
    /// How long it waits at most.
    pub patience: Duration,
    mark: u64,
    ahead: u32,
    len: u32,
    bytes: Box<[u8]>,
}

impl<G> Waiting<G> {
    /// What is to be sent.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len as usize]
    }
}

/// Who can give a guest a server: a worker.
pub trait Host {
    /// A server with room for one request more, which is counted already.
    type Server;

    /// Finds one.
    fn reserve(&mut self) -> Option<Self::Server>;

    /// Takes it back: nobody needs it.
    fn release(&mut self, server: Self::Server);
}

/// There is no place for another guest, or it would wait for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// See the module's text.
#[derive(Debug)]
pub struct Room<G> {
    /// Guests that nobody has called yet.
    count: AtomicU64,
    /// Nanoseconds that a guest waits for each one before it.
    pace: Plain,
    /// There from the first time on that somebody may have to wait: they take megabytes.
    places: OnceLock<Places<G>>,
    places_max: usize,
    bytes_max: usize,
    /// A deliberate mistake, for a test that must see it.
    has_fence: bool,
}

#[derive(Debug)]
struct Places<G> {
    queue: ArrayQueue<Box<Waiting<G>>>,
    /// Places that nobody has.
    free: ArrayQueue<Box<Waiting<G>>>,
    /// By their last bits: the marks of guests that wait. A hint: of two marks for one place only the first is there.
    marks: Box<[Plain]>,
}

impl<G: Copy> Places<G> {
    fn new(count: usize, bytes_max: usize, blank: G) -> Self {
        let place = || {
            let bytes = vec![0; bytes_max].into_boxed_slice();
            let (since, patience) = (Instant::ZERO, Duration::ZERO);
            Box::new(Waiting { guest: blank, since, patience, mark: NO_MARK, ahead: 0, len: 0, bytes })
        };
        let (queue, free) = (ArrayQueue::new(count.max(1)), ArrayQueue::new(count.max(1)));
        (0..count).for_each(|_| drop(free.push(place())));
        let marks = (0..(2 * count).next_power_of_two()).map(|_| Plain::new(NO_MARK)).collect();
        Places { queue, free, marks }
    }

    fn mark(&self, mark: u64) -> &Plain {
        &self.marks[mark as usize & (self.marks.len() - 1)]
    }
}

impl<G: Copy> Room<G> {
    /// A room for so many guests (0 to [`PLACES_MAX`]) with requests of so many bytes, that takes nobody before
    /// [`Room::furnish`].
    pub fn new(places_max: usize, bytes_max: usize) -> Self {
        assert!(places_max <= PLACES_MAX, "at most {PLACES_MAX} guests");
        let (count, pace) = (AtomicU64::new(0), Plain::new(0));
        Room { count, pace, places: OnceLock::new(), places_max, bytes_max, has_fence: true }
    }

    /// Makes the places, if that was not done before; `blank` fills empty ones. Off the data path.
    pub fn furnish(&self, blank: G) {
        self.places.get_or_init(|| Places::new(self.places_max, self.bytes_max, blank));
    }

    /// Guests that wait.
    pub fn len(&self) -> u64 {
        self.count.load(LOAD)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.fence();
        self.len() == 0
    }

    /// The longest request that can wait, in bytes.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// How long one that entered now would wait, as far as is known.
    pub fn expected_wait(&self) -> Duration {
        Duration::from_nanos(self.pace.load(Relaxed).saturating_mul(self.len()))
    }

    /// Whether a guest with this mark waits, as far as is known.
    pub fn has(&self, mark: u64) -> bool {
        let marks = self.places.get().filter(|_| mark != NO_MARK);
        marks.is_some_and(|places| places.mark(mark).load(Relaxed) == mark)
    }

    /// Takes a guest in. It is to be followed by [`Room::call`]. Its `mark` is a hash that tells it from others, or
    /// [`NO_MARK`].
    pub fn enter(
        &self,
        now: Instant,
        patience: Duration,
        guest: G,
        mark: u64,
        bytes: &[u8],
    ) -> Result<(), NoRoom> {
        if bytes.len() > self.bytes_max || self.expected_wait() > patience / PATIENCE_SHARE {
            return Err(NoRoom);
        }
        let places = self.places.get().ok_or(NoRoom)?;
        let mut waiting = places.free.pop().ok_or(NoRoom)?;
        waiting.bytes[..bytes.len()].copy_from_slice(bytes);
        let (len, ahead) = (bytes.len() as u32, self.len() as u32);
        *waiting = Waiting {
            guest,
            since: now,
            patience,
            mark,
            ahead,
            len,
            bytes: std::mem::take(&mut waiting.bytes),
        };
        let _ = places.mark(mark).compare_exchange(NO_MARK, mark, Relaxed, Relaxed);
        drop(places.queue.push(waiting)); // there are as many places in both queues
        self.count.fetch_add(1, UPDATE);
        self.fence();
        Ok(())
    }

    /// The guest that has waited longest, if a server can be had for it; its place is to be given back with
    /// [`Room::vacate`]. Those who are out of patience are passed over and counted.
    pub fn call<H: Host>(
        &self,
        now: Instant,
        host: &mut H,
        expired: &mut u64,
    ) -> Option<(H::Server, Box<Waiting<G>>)> {
        while !self.is_empty() {
            let server = host.reserve()?;
            while let Some(waiting) = self.take() {
                let waited = now.since(waiting.since);
                self.learn(waited, waiting.ahead);
                if waited < waiting.patience {
                    return Some((server, waiting));
                }
                *expired += 1;
                self.vacate(waiting);
            }
            // Others were faster. Who has entered since then may have found no server because of this reservation.
            host.release(server);
        }
        None
    }

    /// The guest that has waited longest, be there a server for it or not.
    pub fn take(&self) -> Option<Box<Waiting<G>>> {
        let mut count = self.count.load(LOAD);
        loop {
            let left = count.checked_sub(1)?;
            match self.count.compare_exchange(count, left, UPDATE, LOAD) {
                // Each guest was there before it was counted.
                Ok(_) => {
                    let places = self.places.get()?;
                    let waiting = places.queue.pop()?;
                    let mark = places.mark(waiting.mark);
                    let _ = mark.compare_exchange(waiting.mark, NO_MARK, Relaxed, Relaxed);
                    return Some(waiting);
                }
                Err(now) => count = now,
            }
        }
    }

    /// Gives a place back.
    pub fn vacate(&self, waiting: Box<Waiting<G>>) {
        if let Some(places) = self.places.get() {
            drop(places.free.push(waiting)); // there are as many places in both queues
        }
    }

    /// A guest has waited for so long behind so many others. Workers may overwrite each other's figure: it is a hint.
    fn learn(&self, waited: Duration, ahead: u32) {
        let of_this = waited.as_nanos() as u64 / (u64::from(ahead) + 1);
        let pace = self.pace.load(Relaxed);
        self.pace.store(pace - pace / PACE_PARTS + of_this / PACE_PARTS, Relaxed);
    }

    fn fence(&self) {
        if self.has_fence {
            proof_fence();
        }
    }
}

#[cfg(test)]
mod tests;
