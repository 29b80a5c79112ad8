//! Which server is in which slot, for all workers of a pool.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pool::select::Slot;

/// What a worker must know of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it is.
    pub addr: SocketAddr,
    /// Which server of the slot it is: two servers that follow each other in a slot never have the same.
    pub generation: u32,
    /// Whether flows may stay there: it is neither down nor switched off, nor about to go.
    pub keeps_flows: bool,
}

impl Member {
    /// Whether a datagram from there is its.
    pub fn is_at(&self, peer: SocketAddr) -> bool {
        self.addr.port() == peer.port() && self.addr.ip() == peer.ip()
    }
}

/// The members as the primary has published them.
#[derive(Debug)]
pub(super) struct Members {
    version: AtomicU64,
    places: Mutex<Box<[Option<Member>]>>,
}

impl Members {
    pub fn new(slots: usize) -> Self {
        Members { version: AtomicU64::new(0), places: Mutex::new(vec![None; slots].into()) }
    }

    pub fn publish(&self, slot: Slot, member: Option<Member>) {
        let mut places = self.places.lock().expect("no panic while it is held");
        if places[slot.index()] != member {
            places[slot.index()] = member;
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    pub fn get(&self, slot: Slot) -> Option<Member> {
        self.places.lock().expect("no panic while it is held")[slot.index()]
    }
}

/// One worker's copy of [`Members`], by slot and by address, with the pool's own addresses.
#[derive(Debug)]
pub(super) struct View {
    version: u64,
    places: Box<[Option<Member>]>,
    by_addr: HashMap<SocketAddr, Slot>,
    own: Box<[SocketAddr]>,
    /// One bit per UDP port that the pool or a server uses: a cheap "certainly neither".
    ports: Box<[u64; 1024]>,
}

impl View {
    /// An empty view of a pool with these addresses of its own.
    pub fn new(slots: usize, own: &[SocketAddr]) -> Self {
        let by_addr = HashMap::with_capacity(2 * slots);
        let mut view = View {
            version: 0,
            places: vec![None; slots].into(),
            by_addr,
            own: own.into(),
            ports: Box::new([0; 1024]),
        };
        view.index();
        view
    }

    pub fn get(&self, slot: Slot) -> Option<&Member> {
        self.places[slot.index()].as_ref()
    }

    /// The slot of the server at this address.
    pub fn slot_of(&self, addr: SocketAddr) -> Option<Slot> {
        self.by_addr.get(&bare(addr)).copied()
    }

    /// Whether the sender of a datagram that came to `local_ip` is the pool itself or one of its servers.
    pub fn is_inside(&self, peer: SocketAddr, local_ip: Option<IpAddr>) -> bool {
        let port = usize::from(peer.port());
        self.ports[port / 64] & 1 << (port % 64) != 0
            && (self.by_addr.contains_key(&bare(peer))
                || self.own.iter().any(|own| is_from(peer, *own, local_ip)))
    }

    /// Copies what has changed; tells the slots that have another server now, or none.
    pub fn refresh(&mut self, members: &Members, mut on_new: impl FnMut(Slot)) {
        if members.version.load(Ordering::Acquire) == self.version {
            return;
        }
        let places = members.places.lock().expect("no panic while it is held");
        self.version = members.version.load(Ordering::Acquire);
        for (index, (mine, new)) in self.places.iter_mut().zip(places.iter()).enumerate() {
            let generation = |member: &Option<Member>| member.map(|member| member.generation);
            let is_new = generation(mine) != generation(new);
            *mine = *new;
            if is_new {
                on_new(Slot::new(index));
            }
        }
        drop(places);
        self.index();
    }

    fn index(&mut self) {
        self.by_addr.clear();
        self.ports.fill(0);
        for (index, member) in self.places.iter().enumerate() {
            if let Some(member) = member {
                self.by_addr.insert(bare(member.addr), Slot::new(index));
            }
        }
        for addr in self.own.iter().chain(self.by_addr.keys()) {
            let port = usize::from(addr.port());
            self.ports[port / 64] |= 1 << (port % 64);
        }
    }
}

/// An address without what a received one has beside address and port.
fn bare(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port())
}

/// Whether a peer is this socket of ours. One that is bound to a wildcard sends from whatever address the way there
/// has: from the loopback, or from the very address that was asked.
fn is_from(peer: SocketAddr, own: SocketAddr, local_ip: Option<IpAddr>) -> bool {
    let ip = peer.ip();
    let is_ours =
        if own.ip().is_unspecified() { ip.is_loopback() || Some(ip) == local_ip } else { ip == own.ip() };
    peer.port() == own.port() && is_ours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn member(text: &str, generation: u32) -> Option<Member> {
        Some(Member { addr: addr(text), generation, keeps_flows: true })
    }

    #[test]
    fn a_view_follows_the_members_and_tells_what_is_new() {
        let (members, mut view) = (Members::new(4), View::new(4, &[]));
        let slot = Slot::new(2);
        let mut told = vec![];
        for (member, expected) in [
            (member("127.0.0.1:53", 1), vec![slot]),
            (member("127.0.0.1:53", 1), vec![]),
            (member("127.0.0.2:53", 2), vec![slot]),
            (member("127.0.0.2:53", 3), vec![slot]),
            (None, vec![slot]),
        ] {
            members.publish(slot, member);
            told.clear();
            view.refresh(&members, |slot| told.push(slot));
            assert_eq!(told, expected, "{member:?}");
            assert_eq!(view.get(slot).copied(), member);
            let found = member.and_then(|member| view.slot_of(member.addr));
            assert_eq!(found, member.map(|_| slot));
            assert_eq!(members.get(slot), member);
        }
        assert_eq!(view.slot_of(addr("127.0.0.2:53")), None);
    }

    #[test]
    fn its_own_addresses_and_its_servers_are_inside() {
        let members = Members::new(1);
        let mut view = View::new(1, &[addr("10.0.0.1:53"), addr("0.0.0.0:4000")]);
        members.publish(Slot::new(0), member("10.0.0.9:5301", 1));
        view.refresh(&members, |_| ());
        let asked = Some("10.0.0.1".parse().unwrap());
        for (peer, expected) in [
            ("10.0.0.1:53", true),
            ("10.0.0.2:53", false),
            ("10.0.0.9:5301", true),
            ("10.0.0.9:5302", false),
            ("127.0.0.1:4000", true),
            ("10.0.0.1:4000", true),
            ("10.0.0.77:4000", false),
        ] {
            assert_eq!(view.is_inside(addr(peer), asked), expected, "{peer}");
        }
    }
}
