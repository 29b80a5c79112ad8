//! What the workers of a native pool share: the selection tree, the members, keys and windows. Everything
//! here changes through atomics or, off the data path, under a short lock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Settings;
use super::reply::Client;
use crate::pool::select::Slot;
use crate::pool::shared::{PoolSettings, PoolShared};
use crate::pool::stats::NativeStats;
use crate::pool::waiting::{Limit, PendingQueue};
use crate::wire::tag::Stamp;
use crate::wire::{CookieKey, DispatchWindow};

/// What a worker must know of a server beside its address and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extra {
    /// The nonce that the server made for its registration. Every SYNC echoes it.
    pub nonce: u64,
    /// The report interval of the server.
    pub interval: Duration,
    /// Whether the server stops: it gets no more requests, and SYNC says so. SYNC does not say so to a server
    /// that only an operator has drained, since that server may get requests again.
    pub draining: bool,
    /// The frame that registered the server, where frames are authenticated: later ones have the same epoch
    /// and a higher counter.
    pub stamp: Option<Stamp>,
}

pub(super) type Member = crate::pool::members::Member<Extra>;

/// A server that was reserved for a request: what the request needs of its member.
#[derive(Clone, Copy, Debug)]
pub struct Reserved {
    pub slot: Slot,
    pub addr: SocketAddr,
    /// The server's registration.
    pub epoch: u32,
}

/// One for all workers of a native pool.
pub(super) struct Shared {
    /// What a pool of any kind has.
    pub pool: PoolShared<Extra, Client, Settings>,
    /// Cookies of all workers are made under one key, so that any of them can check a reply.
    pub cookies: CookieKey,
    /// Random number of this process towards the controller and the servers.
    pub instance: u64,
    /// The same in 32 bits, as requests carry it.
    pub epoch: u32,
    /// By worker and slot.
    windows: Box<[Box<[Arc<DispatchWindow>]>]>,
    /// By worker; the gauges are in the primary's.
    pub stats: Box<[Arc<NativeStats>]>,
}

impl PoolSettings for Settings {
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

impl Shared {
    pub fn new(settings: Settings, instance: u64, epoch: u32) -> Self {
        let (slots, workers) = (settings.servers_max, settings.workers);
        let pending = pending_queue(&settings);
        Shared {
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

/// The pending queue of a pool, without entries.
fn pending_queue(settings: &Settings) -> PendingQueue<Client> {
    PendingQueue::new(settings.waiting_max, settings.format.size, Client::NONE)
}
