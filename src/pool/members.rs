//! The members of a pool: which server is in which slot, for all workers.
//!
//! The primary worker publishes each change to [`Members`]. Each worker keeps a [`View`] and copies changes
//! into it at most once a turn. So the data path reads plain memory: one acquire load a turn shows whether
//! there is a change. Pure: no socket, clock or random source. What a member has besides address and epoch is
//! the caller's type `M`.
//!
//! The order relative to the selection tree matters. A member must be published *before* the tree lets its
//! slot be selected: then a worker that reserves the slot finds the member. A change that ends requests must
//! be published *after* the tree has barred the slot: then a worker that sees it has sent its last request
//! there.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pool::select::Slot;

/// A server as the workers know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<M> {
    /// The address to which requests go and from which the server's datagrams come.
    pub addr: SocketAddr,
    /// Tells the server from those that had the slot before; at most one registration of a slot has it.
    pub epoch: u32,
    /// What this kind of pool needs besides.
    pub extra: M,
}

impl<M> Member<M> {
    /// Whether a datagram from this address is the server's. The flow label of IPv6 does not count, and the
    /// scope only of a link-local address.
    #[inline]
    pub fn is_at(&self, peer: SocketAddr) -> bool {
        bare(self.addr) == bare(peer)
    }
}

/// The most workers of a pool: each has a bit in 32.
pub const WORKERS_MAX: usize = 32;

/// The members of a pool as the primary has published them.
#[derive(Debug)]
pub struct Members<M> {
    /// Counts the changes. Written by the primary with the lock held.
    version: AtomicU64,
    slots: Mutex<Box<[Option<Member<M>>]>>,
    /// By slot: the epoch (upper half), and a bit for each worker that has heard the server.
    confirmed: Box<[AtomicU64]>,
    all_workers: u64,
}

impl<M: Copy + PartialEq> Members<M> {
    /// A pool without members: `slots` servers at most, 1 to [`WORKERS_MAX`] workers.
    pub fn new(slots: usize, workers: usize) -> Self {
        assert!((1..=WORKERS_MAX).contains(&workers), "1 to {WORKERS_MAX} workers");
        Members {
            version: AtomicU64::new(0),
            slots: Mutex::new(vec![None; slots].into_boxed_slice()),
            confirmed: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            all_workers: u64::MAX >> (64 - workers),
        }
    }

    /// Publishes the member of a slot. Only the primary calls this.
    pub fn publish(&self, slot: Slot, member: Option<Member<M>>) {
        let mut slots = self.slots.lock().expect("no panic while it is held");
        let published = &mut slots[slot.index()];
        if *published == member {
            return;
        }
        let epoch = |member: &Option<Member<M>>| member.as_ref().map(|member| member.epoch);
        if epoch(published) != epoch(&member) {
            let unheard = u64::from(epoch(&member).unwrap_or(0)) << 32;
            self.confirmed[slot.index()].store(unheard, Ordering::Relaxed);
        }
        *published = member;
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The member of a slot. Takes a lock: off the data path.
    pub fn get(&self, slot: Slot) -> Option<Member<M>> {
        self.slots.lock().expect("no panic while it is held")[slot.index()]
    }

    /// Records that this worker and the server with this epoch have heard each other.
    pub fn confirm(&self, slot: Slot, epoch: u32, worker: u8) {
        // A newer registration has another epoch: then there is nothing to confirm.
        let _ = self.confirmed[slot.index()].fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
            ((word >> 32) as u32 == epoch).then_some(word | 1 << worker)
        });
    }

    /// Whether every worker and the server with this epoch have heard each other. Before that, a native
    /// server refuses the requests of workers that it does not know.
    pub fn is_confirmed(&self, slot: Slot, epoch: u32) -> bool {
        self.confirmed[slot.index()].load(Ordering::Acquire) == u64::from(epoch) << 32 | self.all_workers
    }
}

/// One worker's copy of [`Members`], by slot and by address, with the pool's own addresses.
#[derive(Debug)]
pub struct View<M> {
    version: u64,
    slots: Box<[Option<Member<M>>]>,
    /// The number of members.
    count: usize,
    /// Address of the last member of each slot.
    last_addrs: Box<[Option<SocketAddr>]>,
    by_addr: HashMap<SocketAddr, Slot>,
    /// The addresses to which the pool's own sockets are bound.
    own: Box<[SocketAddr]>,
    /// One bit for each UDP port that the pool or a server uses. Most clients have another port: one load
    /// excludes them.
    ports: Box<[u64; 1024]>,
}

impl<M: Copy + PartialEq> View<M> {
    /// An empty view of a pool with this number of slots, whose own sockets are bound to `own`.
    pub fn new(slots: usize, own: &[SocketAddr]) -> Self {
        let mut view = View {
            version: 0,
            slots: vec![None; slots].into_boxed_slice(),
            count: 0,
            last_addrs: vec![None; slots].into_boxed_slice(),
            by_addr: HashMap::with_capacity(2 * slots),
            own: own.into(),
            ports: Box::new([0; 1024]),
        };
        view.index();
        view
    }

    /// The member of a slot.
    #[inline]
    pub fn get(&self, slot: Slot) -> Option<&Member<M>> {
        self.slots.get(slot.index())?.as_ref()
    }

    /// The member of a slot that the tree let be reserved. The tree can be ahead of this view: then copies
    /// first what the primary has changed.
    #[inline]
    pub fn newest(
        &mut self,
        slot: Slot,
        members: &Members<M>,
        on_new: impl FnMut(Slot, Option<&Member<M>>),
    ) -> Option<&Member<M>> {
        if self.slots[slot.index()].is_none() {
            self.refresh(members, on_new);
        }
        self.get(slot)
    }

    /// The slot of the server at this address.
    #[inline]
    pub fn slot_of(&self, addr: SocketAddr) -> Option<Slot> {
        self.by_addr.get(&bare(addr)).copied()
    }

    /// The address of a slot's member, or of its last one: the last replies can arrive after the server has
    /// left.
    #[inline]
    pub fn last_addr(&self, slot: Slot) -> Option<SocketAddr> {
        *self.last_addrs.get(slot.index())?
    }

    /// Sets the address of an empty slot's last member, as another process knew it.
    pub fn recall(&mut self, slot: Slot, addr: SocketAddr) {
        self.last_addrs[slot.index()].get_or_insert(addr);
    }

    /// The number of members.
    pub fn member_count(&self) -> usize {
        self.count
    }

    /// The number of slots.
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// Whether a datagram that arrived at `local_ip` was sent by one of the pool's own sockets.
    pub fn is_own(&self, peer: SocketAddr, local_ip: Option<IpAddr>) -> bool {
        self.own.iter().any(|own| is_from(peer, *own, local_ip))
    }

    /// Whether a datagram that arrived at `local_ip` was sent by the pool or by one of its servers.
    #[inline]
    pub fn is_inside(&self, peer: SocketAddr, local_ip: Option<IpAddr>) -> bool {
        let port = usize::from(peer.port());
        self.ports[port / 64] & 1 << (port % 64) != 0
            && (self.slot_of(peer).is_some() || self.is_own(peer, local_ip))
    }

    /// Copies what the primary has changed. Calls `on_new` for each slot that has another registration now,
    /// or none.
    #[inline]
    pub fn refresh(&mut self, members: &Members<M>, on_new: impl FnMut(Slot, Option<&Member<M>>)) {
        if self.is_behind(members) {
            self.copy(members, on_new);
        }
    }

    /// The version of the members that this view shows.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether the primary has published changes that this view does not show yet.
    pub fn is_behind(&self, members: &Members<M>) -> bool {
        members.version.load(Ordering::Acquire) != self.version
    }

    #[cold]
    fn copy(&mut self, members: &Members<M>, mut on_new: impl FnMut(Slot, Option<&Member<M>>)) {
        let published = members.slots.lock().expect("no panic while it is held");
        self.version = members.version.load(Ordering::Acquire);
        let mut has_lost_addr = false;
        for (index, (mine, new)) in self.slots.iter_mut().zip(published.iter()).enumerate() {
            let key = |member: &Option<Member<M>>| member.map(|member| (member.addr, member.epoch));
            let (key_before, key_now) = (key(mine), key(new));
            *mine = *new;
            if key_before == key_now {
                continue;
            }
            has_lost_addr |=
                key_before.is_some_and(|(before, _)| key_now.is_none_or(|(now, _)| before != now));
            let slot = Slot::new(index);
            if let Some((addr, _)) = key_now {
                self.last_addrs[index] = Some(addr);
                self.by_addr.insert(bare(addr), slot);
                set_port(&mut self.ports, addr);
            }
            on_new(slot, new.as_ref());
        }
        drop(published);
        self.count = self.slots.iter().flatten().count();
        if has_lost_addr {
            self.index(); // another slot may have the same address
        }
    }

    fn index(&mut self) {
        self.by_addr.clear();
        self.ports.fill(0);
        self.own.iter().for_each(|&own| set_port(&mut self.ports, own));
        for (index, member) in self.slots.iter().enumerate() {
            if let Some(member) = member {
                self.by_addr.insert(bare(member.addr), Slot::new(index));
                set_port(&mut self.ports, member.addr);
            }
        }
    }
}

fn set_port(ports: &mut [u64; 1024], addr: SocketAddr) {
    let port = usize::from(addr.port());
    ports[port / 64] |= 1 << (port % 64);
}

/// An address without flow label, and without the scope that means nothing: a link-local address alone is
/// another one on each interface.
#[inline]
fn bare(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => {
            let scope = if v6.ip().is_unicast_link_local() { v6.scope_id() } else { 0 };
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope).into()
        }
        v4 => v4,
    }
}

/// Whether a datagram that arrived at `local_ip` was sent by the socket that is bound to `own`. A socket
/// bound to a wildcard sends from the address that the route has: from the loopback, or from the address at
/// which it arrived. A port number of one address family says nothing about the other.
fn is_from(peer: SocketAddr, own: SocketAddr, local_ip: Option<IpAddr>) -> bool {
    let ip = peer.ip();
    peer.port() == own.port()
        && peer.is_ipv4() == own.is_ipv4()
        && if own.ip().is_unspecified() { ip.is_loopback() || Some(ip) == local_ip } else { ip == own.ip() }
}

#[cfg(test)]
mod tests;
