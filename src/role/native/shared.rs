//! State that the workers of a native pool share: selection tree, members, keys and dispatch windows. It
//! changes through atomics or, off the data path, under a short lock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::NativePoolSettings;
use super::reply::Client;
use crate::pool::select::Slot;
use crate::pool::shared::{PoolSettings, PoolShared};
use crate::pool::stats::NativeStats;
use crate::pool::waiting::{Limit, PendingQueue};
use crate::wire::tag::Stamp;
use crate::wire::{CookieKey, DispatchWindow};

/// What a worker must know of a server besides its address and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extra {
    /// The nonce that the server made for its registration. Every SYNC echoes it.
    pub nonce: u64,
    /// The report interval of the server.
    pub interval: Duration,
    /// Whether the server is about to stop: it gets no more requests, and its SYNCs are draining. A server
    /// that only an operator has drained gets no draining SYNC, since it may get requests again.
    pub draining: bool,
    /// The stamp of the registration, if frames are authenticated. Later frames have the same epoch and a
    /// higher counter.
    pub stamp: Option<Stamp>,
}

pub(super) type Member = crate::pool::members::Member<Extra>;

/// A server that was reserved for a request.
#[derive(Clone, Copy, Debug)]
pub struct ReservedServer {
    pub slot: Slot,
    pub addr: SocketAddr,
    /// The server's registration.
    pub epoch: u32,
}

/// The shared state of a native pool.
pub(super) struct NativeShared {
    /// The shared state of every kind of pool.
    pub pool: PoolShared<Extra, Client, NativePoolSettings>,
    /// The key of all workers' cookies, so that any worker can check a reply.
    pub cookies: CookieKey,
    /// Random number of this process in frames to the controller and the servers.
    pub instance: u64,
    /// Random number of this process in requests.
    pub epoch: u32,
    /// By worker and slot.
    windows: Box<[Box<[Arc<DispatchWindow>]>]>,
    /// By worker; the gauges are in the primary's.
    pub stats: Box<[Arc<NativeStats>]>,
}

impl PoolSettings for NativePoolSettings {
    fn servers_max(&self) -> usize {
        self.servers_max
    }

    fn workers(&self) -> usize {
        self.workers
    }

    fn max_outstanding(&self) -> Option<Limit> {
        self.max_outstanding
    }
}

impl NativeShared {
    pub fn new(settings: NativePoolSettings, instance: u64, epoch: u32) -> Self {
        let (slots, workers) = (settings.servers_max, settings.workers);
        let pending = PendingQueue::new(settings.waiting_max, settings.format.size, Client::NONE);
        NativeShared {
            cookies: CookieKey::new(settings.secret),
            instance,
            epoch,
            windows: (0..workers).map(|_| (0..slots).map(|_| Arc::default()).collect()).collect(),
            stats: (0..workers).map(|_| Arc::new(NativeStats::new(slots))).collect(),
            pool: PoolShared::new(settings, pending),
        }
    }

    /// The dispatches of a worker to a slot, if there is such a worker.
    pub fn window(&self, worker: u8, slot: Slot) -> Option<&Arc<DispatchWindow>> {
        self.windows.get(usize::from(worker))?.get(slot.index())
    }
}
