//! The sockets of a handover with their labels.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{SocketType, getsockname};
use serde::{Deserialize, Serialize};

/// Purpose of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SocketKind {
    /// Client-side UDP socket.
    Front,
    /// Server-side UDP socket.
    Back,
    /// TCP listener for clients.
    Tcp,
    /// TCP listener of the admin interface.
    Admin,
}

/// Identifies a socket of a balancer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Label {
    /// Name of its pool; empty if it belongs to none.
    pub pool: String,
    /// Purpose of the socket.
    pub kind: SocketKind,
    /// Index of the worker that reads it.
    pub worker: u16,
    /// Local address.
    pub addr: SocketAddr,
}

/// A socket of another process, with its number among the sockets of its kind of the same worker.
#[derive(Debug)]
pub struct InheritedSocket {
    /// Index of the worker that read it.
    pub worker: u16,
    /// Its number at that worker, from 0.
    pub number: u16,
    /// Local address.
    pub addr: SocketAddr,
    /// The socket.
    pub socket: OwnedFd,
}

impl Label {
    fn is(&self, pool: &str, kind: SocketKind, worker: u16, addr: SocketAddr) -> bool {
        let is_there = self.addr.ip() == addr.ip() && (addr.port() == 0 || self.addr.port() == addr.port());
        self.pool == pool && self.kind == kind && self.worker == worker && is_there
    }
}

/// Sockets from another process. Sockets that are not taken are closed with the set: an open one in a
/// group that shares a port would receive datagrams that no process reads.
#[derive(Debug, Default)]
pub struct SocketSet(Vec<(Label, OwnedFd)>);

impl FromIterator<(Label, OwnedFd)> for SocketSet {
    fn from_iter<I: IntoIterator<Item = (Label, OwnedFd)>>(sockets: I) -> Self {
        SocketSet(sockets.into_iter().collect())
    }
}

impl SocketSet {
    /// Takes the socket with this label, if it is there and matches its label: a UDP socket or TCP
    /// listener on that address. Port 0 matches any port.
    pub fn take(&mut self, pool: &str, kind: SocketKind, worker: u16, addr: SocketAddr) -> Option<OwnedFd> {
        let is_it = |(label, socket): &(Label, OwnedFd)| {
            label.is(pool, kind, worker, addr) && is_as_labelled(label, socket.as_fd())
        };
        let found = self.0.iter().position(is_it)?;
        Some(self.0.swap_remove(found).1)
    }

    /// Takes all sockets of this kind of a pool that match their labels, in the order in which they were
    /// given.
    pub fn take_all(&mut self, pool: &str, kind: SocketKind) -> Vec<InheritedSocket> {
        let is_wanted = |(label, _): &mut (Label, OwnedFd)| label.pool == pool && label.kind == kind;
        let mut numbers = std::collections::BTreeMap::new();
        let mut taken = vec![];
        for (label, socket) in self.0.extract_if(.., is_wanted) {
            let next = numbers.entry(label.worker).or_insert(0);
            let number = *next;
            *next += 1;
            if is_as_labelled(&label, socket.as_fd()) {
                taken.push(InheritedSocket { worker: label.worker, number, addr: label.addr, socket });
            }
        }
        taken
    }

    /// Whether [`SocketSet::take`] would find a socket; its label is not verified.
    pub fn has(&self, pool: &str, kind: SocketKind, worker: u16, addr: SocketAddr) -> bool {
        self.labels().any(|label| label.is(pool, kind, worker, addr))
    }

    /// Adds a socket.
    pub fn add(&mut self, label: Label, socket: OwnedFd) {
        self.0.push((label, socket));
    }

    /// Adds all sockets of another set.
    pub fn append(&mut self, mut other: SocketSet) {
        self.0.append(&mut other.0);
    }

    /// The sockets, for sending them to another process.
    pub fn borrowed(&self) -> Vec<(Label, BorrowedFd<'_>)> {
        self.0.iter().map(|(label, socket)| (label.clone(), socket.as_fd())).collect()
    }

    /// Labels of the sockets that were not taken.
    pub fn labels(&self) -> impl Iterator<Item = &Label> {
        self.0.iter().map(|(label, _)| label)
    }

    /// Number of sockets that were not taken.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all sockets were taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether a descriptor is the socket that its label describes.
fn is_as_labelled(label: &Label, socket: BorrowedFd<'_>) -> bool {
    let is_bound_there = getsockname(socket).is_ok_and(|name| SocketAddr::try_from(name) == Ok(label.addr));
    is_bound_there
        && match label.kind {
            SocketKind::Front | SocketKind::Back => socket_type(socket) == Ok(SocketType::DGRAM),
            SocketKind::Tcp | SocketKind::Admin => socket_acceptconn(socket) == Ok(true),
        }
}
