//! The servers as every worker of a balancer sees them.
//!
//! The primary worker registers servers and publishes each change here; every worker keeps a [`View`] of its own and
//! copies what has changed, at most once a turn. So the data path reads plain memory: one relaxed load a turn tells
//! whether there is anything to copy. Pure but for that: no sockets, no clock.
//!
//! Order matters twice. A member is published *before* the selection tree says that it may be chosen, so whoever is
//! given a slot by the tree finds its member here. That it drains is published *after* the tree has barred it, so whoever
//! sees it draining has sent its last request there.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::pool::select::Slot;
use crate::wire::tag::Stamp;

/// What every worker must know of a registered server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it takes requests. Frames from elsewhere are not its.
    pub addr: SocketAddr,
    /// Random number of its registration.
    pub epoch: u32,
    /// The nonce that it made for its registration, echoed in every SYNC.
    pub nonce: u64,
    /// How often it reports.
    pub interval: Duration,
    /// Whether it stops: it gets no more requests and shall be told so. (One that only an operator has drained is not told: it
    /// may get some again.)
    pub draining: bool,
    /// The frame that registered it, where frames are authenticated: later ones have the same epoch and a higher counter.
    pub stamp: Option<Stamp>,
}

/// The most workers of a balancer: each has a bit in 32.
pub const WORKERS_MAX: usize = 32;

/// The members of a pool, shared by its workers.
#[derive(Debug)]
pub struct Roster {
    /// Counts the changes; written by the primary with the lock held.
    version: AtomicU64,
    members: Mutex<Box<[Option<Member>]>>,
    /// Per slot: the epoch of the registration (upper half), and a bit for each worker that its server has answered.
    confirmed: Box<[AtomicU64]>,
    all_workers: u64,
}

impl Roster {
    /// Room for so many servers, shared by 1 to [`WORKERS_MAX`] workers.
    pub fn new(slots: usize, workers: usize) -> Self {
        assert!((1..=WORKERS_MAX).contains(&workers), "1 to {WORKERS_MAX} workers");
        Roster {
            version: AtomicU64::new(0),
            members: Mutex::new(vec![None; slots].into_boxed_slice()),
            confirmed: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            all_workers: u64::MAX >> (64 - workers),
        }
    }

    /// Tells all workers who is in a slot now. Only the primary calls this.
    pub fn publish(&self, slot: Slot, member: Option<Member>) {
        let mut members = self.members.lock().expect("no panic while it is held");
        let place = &mut members[slot.index()];
        let epoch = |member: &Option<Member>| member.as_ref().map(|m| m.epoch);
        if epoch(place) != epoch(&member) {
            let nobody = u64::from(member.map_or(0, |m| m.epoch)) << 32;
            self.confirmed[slot.index()].store(nobody, Ordering::Relaxed);
        }
        *place = member;
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Notes that this worker and the server of this registration have heard each other.
    pub fn confirm(&self, slot: Slot, epoch: u32, worker: u8) {
        // A registration that came in between has another epoch, and then there is nothing to confirm.
        let _ = self.confirmed[slot.index()].fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
            ((word >> 32) as u32 == epoch).then_some(word | 1 << worker)
        });
    }

    /// Whether every worker and the server of this registration have heard each other: before that, it would
    /// refuse the requests of those that it does not know.
    pub fn is_confirmed(&self, slot: Slot, epoch: u32) -> bool {
        self.confirmed[slot.index()].load(Ordering::Acquire) == u64::from(epoch) << 32 | self.all_workers
    }
}

/// One worker's copy of the [`Roster`].
#[derive(Debug)]
pub struct View {
    version: u64,
    members: Box<[Option<Member>]>,
    /// Where the last member of each slot is, or was.
    last_addrs: Box<[Option<SocketAddr>]>,
    /// Addresses of the balancer itself.
    own: Box<[SocketAddr]>,
    /// One bit per UDP port that the balancer or a server uses: a cheap "certainly neither".
    ports: Box<[u64; 1024]>,
}

impl View {
    /// An empty view of a roster with so many slots, for a balancer with these addresses.
    pub fn new(slots: usize, own: &[SocketAddr]) -> Self {
        let mut view = View {
            version: 0,
            members: vec![None; slots].into_boxed_slice(),
            last_addrs: vec![None; slots].into_boxed_slice(),
            own: own.into(),
            ports: Box::new([0; 1024]),
        };
        view.index_ports();
        view
    }

    /// The member in a slot.
    pub fn get(&self, slot: Slot) -> Option<&Member> {
        self.members.get(slot.index())?.as_ref()
    }

    /// The address of the member in a slot, or of the last one that was there: its last replies may come after it has left.
    pub fn last_addr(&self, slot: Slot) -> Option<SocketAddr> {
        *self.last_addrs.get(slot.index())?
    }

    /// Notes where the last member of an empty slot was, as another process knew it.
    pub fn recall(&mut self, slot: Slot, addr: SocketAddr) {
        self.last_addrs[slot.index()].get_or_insert(addr);
    }

    /// All members with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Member)> {
        self.members.iter().enumerate().filter_map(|(i, m)| Some((Slot::new(i), m.as_ref()?)))
    }

    /// Number of slots.
    pub fn slot_count(&self) -> usize {
        self.members.len()
    }

    /// Whether this is an address of the balancer itself.
    pub fn is_own(&self, addr: SocketAddr) -> bool {
        self.own.contains(&addr)
    }

    /// Whether this is an address of the balancer itself or of a server.
    pub fn is_inside(&self, addr: SocketAddr) -> bool {
        let port = usize::from(addr.port());
        self.ports[port / 64] & 1 << (port % 64) != 0
            && (self.is_own(addr) || self.iter().any(|(_, m)| m.addr == addr))
    }

    /// Copies what has changed, and tells each slot that another registration has now.
    pub fn refresh(&mut self, roster: &Roster, mut on_new: impl FnMut(Slot, Option<&Member>)) {
        if roster.version.load(Ordering::Acquire) == self.version {
            return;
        }
        let members = roster.members.lock().expect("no panic while it is held");
        self.version = roster.version.load(Ordering::Acquire);
        for (index, (mine, new)) in self.members.iter_mut().zip(members.iter()).enumerate() {
            let key = |member: &Option<Member>| member.map(|m| (m.addr, m.epoch));
            let is_new = key(mine) != key(new);
            *mine = *new;
            if let Some(member) = new {
                self.last_addrs[index] = Some(member.addr);
            }
            if is_new {
                on_new(Slot::new(index), new.as_ref());
            }
        }
        drop(members);
        self.index_ports();
    }

    fn index_ports(&mut self) {
        self.ports.fill(0);
        let servers = self.members.iter().flatten().map(|m| m.addr);
        for addr in self.own.iter().copied().chain(servers) {
            let port = usize::from(addr.port());
            self.ports[port / 64] |= 1 << (port % 64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn member(port: u16, epoch: u32) -> Member {
        let interval = Duration::from_millis(10);
        Member { addr: addr(port), epoch, nonce: 1, interval, draining: false, stamp: None }
    }

    const SLOT: Slot = Slot::new(1);

    #[test]
    fn a_view_follows_the_roster_and_tells_what_is_new() {
        let (roster, mut view) = (Roster::new(4, 2), View::new(4, &[addr(54_000)]));
        let mut told = vec![];
        let mut refresh = |view: &mut View| {
            told.clear();
            view.refresh(&roster, |slot, member| told.push((slot, member.map(|m| m.epoch))));
            told.clone()
        };
        assert_eq!(refresh(&mut view), []);
        roster.publish(SLOT, Some(member(1, 7)));
        assert_eq!(refresh(&mut view), [(SLOT, Some(7))]);
        assert!(view.is_inside(addr(1)) && view.is_inside(addr(54_000)) && !view.is_inside(addr(2)));
        assert!(!view.is_own(addr(1)));
        let elsewhere = SocketAddr::from(([127, 0, 0, 2], 1));
        assert!(!view.is_inside(elsewhere), "the port alone is not the address");

        roster.publish(SLOT, Some(Member { draining: true, ..member(1, 7) }));
        assert_eq!(refresh(&mut view), [], "the same registration");
        assert!(view.get(SLOT).unwrap().draining);
        roster.publish(SLOT, Some(member(1, 8)));
        assert_eq!(refresh(&mut view), [(SLOT, Some(8))]);
        roster.publish(SLOT, None);
        assert_eq!(refresh(&mut view), [(SLOT, None)]);
        assert!(!view.is_inside(addr(1)));
        assert_eq!((view.get(SLOT), view.last_addr(SLOT)), (None, Some(addr(1))));
        roster.publish(SLOT, Some(member(2, 9)));
        assert_eq!((refresh(&mut view), view.last_addr(SLOT)), (vec![(SLOT, Some(9))], Some(addr(2))));
    }

    #[test]
    fn a_server_is_confirmed_when_every_worker_has_heard_it() {
        let roster = Roster::new(4, 3);
        roster.publish(SLOT, Some(member(1, 7)));
        for worker in [2, 0] {
            roster.confirm(SLOT, 7, worker);
            assert!(!roster.is_confirmed(SLOT, 7));
        }
        roster.publish(SLOT, Some(Member { draining: true, ..member(1, 7) }));
        roster.confirm(SLOT, 7, 1);
        assert!(roster.is_confirmed(SLOT, 7));
        roster.publish(SLOT, Some(member(1, 8)));
        assert!(!roster.is_confirmed(SLOT, 7) && !roster.is_confirmed(SLOT, 8), "another registration");
        roster.confirm(SLOT, 7, 1);
        (0..2).for_each(|worker| roster.confirm(SLOT, 8, worker));
        assert!(!roster.is_confirmed(SLOT, 8), "what was heard of the old one does not count");
        roster.confirm(SLOT, 8, 2);
        assert!(roster.is_confirmed(SLOT, 8));
    }
}
