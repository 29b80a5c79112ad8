//! What the workers of one balancer share: the selection tree, the roster, keys and windows. Everything here is
//! changed through atomics, or, off the data path, under a short lock.

use std::net::IpAddr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use super::Settings;
use super::waiting::{self, Guest};
use crate::base::published::Live;
use crate::pool::concurrency::Finished;
use crate::pool::members::Roster;
use crate::pool::select::{Slot, Tree};
use crate::pool::stats::NativeStats;
use crate::pool::waiting::{Limit, Room, cap};
use crate::wire::{CookieKey, DispatchWindow};

/// One for all workers of a balancer.
pub(super) struct Shared {
    pub settings: Live<Settings>,
    pub tree: Tree,
    /// Requests that wait until a server has room.
    pub room: Room<Guest>,
    pub roster: Roster,
    /// Cookies of all workers are made under one key, so that any of them can check a reply.
    pub cookies: CookieKey,
    /// Random number of this process towards the controller and the servers.
    pub instance: u64,
    /// The same in 32 bits, as requests carry it.
    pub epoch: u32,
    /// By worker and slot.
    windows: Box<[Box<[Arc<DispatchWindow>]>]>,
    pub listeners: Mutex<Addresses>,
    /// Requests that were finished, by worker; counted where the limit is to be found.
    pub finished: Box<[Finished]>,
    /// By worker; the gauges are in the primary's.
    pub stats: Box<[Arc<NativeStats>]>,
    /// Servers that may be chosen, suspects included. Written by the primary.
    pub usable: AtomicU32,
}

impl Shared {
    pub fn new(settings: Settings, instance: u64, epoch: u32) -> Self {
        let (slots, workers, limit) = (settings.servers_max, settings.workers, settings.max_outstanding);
        let shared = Shared {
            tree: Tree::new(slots, cap(settings.max_outstanding)),
            room: waiting::room(&settings),
            roster: Roster::new(slots, workers),
            cookies: CookieKey::new(settings.secret),
            instance,
            epoch,
            windows: (0..workers).map(|_| (0..slots).map(|_| Arc::default()).collect()).collect(),
            listeners: Mutex::new(Addresses::new()),
            finished: (0..workers).map(|_| Finished::default()).collect(),
            stats: (0..workers).map(|_| Arc::new(NativeStats::new(slots))).collect(),
            usable: AtomicU32::new(0),
            settings: Live::new(settings),
        };
        shared.furnish(limit);
        shared
    }

    /// Makes room for those who may have to wait.
    pub fn furnish(&self, limit: Option<Limit>) {
        if limit.is_some() {
            self.room.furnish(Guest::NOBODY);
        }
    }

    /// The dispatches of a worker to a slot, if there is such a worker.
    pub fn window(&self, worker: u8, slot: Slot) -> Option<&Arc<DispatchWindow>> {
        self.windows.get(usize::from(worker))?.get(slot.index())
    }
}

impl Shared {
    /// The front addresses that were asked so far, by number.
    pub fn front_addresses(&self) -> Vec<IpAddr> {
        self.listeners.lock().expect("no panic while it is held").to_vec()
    }

    /// Gives these addresses their numbers, as at a predecessor. More than there are numbers are nobody.
    pub fn number_addresses(&self, addresses: &[IpAddr]) {
        let mut all = self.listeners.lock().expect("no panic while it is held");
        *all = addresses.iter().copied().take(all.capacity()).collect();
    }
}

type Addresses = heapless::Vec<IpAddr, 255>;

/// Which front address was asked, as the byte that a frame carries: the same at all workers. A worker's own copy of
/// the addresses that are known so far.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    known: Addresses,
}

impl Listeners {
    /// "The address that the socket is bound to, or whatever the kernel chooses."
    pub const UNSPECIFIED: u8 = 255;

    /// The number of a local address; the 256th and later ones share the number of nobody.
    pub fn number(&mut self, local_ip: Option<IpAddr>, shared: &Mutex<Addresses>) -> u8 {
        let Some(ip) = local_ip else { return Self::UNSPECIFIED };
        if let Some(number) = self.find(ip) {
            return number;
        }
        if !self.known.is_full() {
            let mut all = shared.lock().expect("no panic while it is held");
            if !all.contains(&ip) {
                let _ = all.push(ip); // full: it stays nobody
            }
            self.known = all.clone();
        }
        self.find(ip).unwrap_or(Self::UNSPECIFIED)
    }

    /// The address with this number.
    pub fn local_ip(&mut self, number: u8, shared: &Mutex<Addresses>) -> Option<IpAddr> {
        let number = usize::from(number);
        if number >= self.known.len() && number != usize::from(Self::UNSPECIFIED) {
            self.known = shared.lock().expect("no panic while it is held").clone();
        }
        self.known.get(number).copied()
    }

    fn find(&self, ip: IpAddr) -> Option<u8> {
        self.known.iter().position(|&known| known == ip).map(|number| number as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn workers_give_an_address_the_same_number() {
        let shared = Mutex::default();
        let (mut one, mut other) = (Listeners::default(), Listeners::default());
        let ip = |last| Some(IpAddr::from(Ipv4Addr::new(10, 0, 0, last)));
        assert_eq!((one.number(ip(1), &shared), other.number(ip(2), &shared)), (0, 1));
        assert_eq!((one.number(ip(2), &shared), other.number(ip(1), &shared)), (1, 0));
        assert_eq!(shared.lock().unwrap().len(), 2, "each address once");
        assert_eq!(
            Listeners::default().local_ip(1, &shared),
            ip(2),
            "of a reply that came to another worker"
        );
        assert_eq!((one.number(None, &shared), one.local_ip(255, &shared)), (255, None));
        assert_eq!(one.local_ip(7, &shared), None, "nobody has it");
    }

    #[test]
    fn more_addresses_than_numbers_share_the_number_of_nobody() {
        let (shared, mut one) = (Mutex::default(), Listeners::default());
        let numbers: Vec<u8> =
            (0..300u32).map(|n| one.number(Some(Ipv4Addr::from(n).into()), &shared)).collect();
        assert!((0..255).all(|n| numbers[n] == n as u8) && numbers[255..].iter().all(|&n| n == 255));
    }
}
