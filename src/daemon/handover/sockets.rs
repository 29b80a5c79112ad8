//! The sockets of a hand-over, each with what it is for.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{SocketType, getsockname};
use serde::{Deserialize, Serialize};

/// What a socket is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SocketKind {
    /// UDP, towards clients.
    Front,
    /// UDP, towards servers.
    Back,
    /// A TCP listener for clients.
    Tcp,
    /// The TCP listener of the admin interface.
    Admin,
}

/// Which socket of a balancer it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Label {
    /// The name of its pool; empty for what belongs to none.
    pub pool: String,
    /// What it is there for.
    pub kind: SocketKind,
    /// The worker that reads it, from 0.
    pub worker: u16,
    /// The address that it is bound to.
    pub addr: SocketAddr,
}

impl Label {
    fn is(&self, pool: &str, kind: SocketKind, worker: u16, addr: SocketAddr) -> bool {
        let is_there = self.addr.ip() == addr.ip() && (addr.port() == 0 || self.addr.port() == addr.port());
        self.pool == pool && self.kind == kind && self.worker == worker && is_there
    }
}

/// Sockets that came from another process. Those that nobody takes are closed with it: one that is left open in a
/// group of sockets that share a port would get datagrams that nobody reads.
#[derive(Debug, Default)]
pub struct SocketSet(Vec<(Label, OwnedFd)>);

impl FromIterator<(Label, OwnedFd)> for SocketSet {
    fn from_iter<I: IntoIterator<Item = (Label, OwnedFd)>>(sockets: I) -> Self {
        SocketSet(sockets.into_iter().collect())
    }
}

impl SocketSet {
    /// The socket that is this, if it came and is what its label says: a UDP socket or TCP listener on that
    /// address. Port 0 stands for any.
    pub fn take(&mut self, pool: &str, kind: SocketKind, worker: u16, addr: SocketAddr) -> Option<OwnedFd> {
        let is_it = |(label, socket): &(Label, OwnedFd)| {
            label.is(pool, kind, worker, addr) && is_as_labelled(label, socket.as_fd())
        };
        let found = self.0.iter().position(is_it)?;
        Some(self.0.swap_remove(found).1)
    }

    /// Whether [`SocketSet::take`] would find one; what its label says is believed.
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

    /// The sockets, to be given to another process.
    pub fn borrowed(&self) -> Vec<(Label, BorrowedFd<'_>)> {
        self.0.iter().map(|(label, socket)| (label.clone(), socket.as_fd())).collect()
    }

    /// What nobody has taken.
    pub fn labels(&self) -> impl Iterator<Item = &Label> {
        self.0.iter().map(|(label, _)| label)
    }

    /// How many nobody has taken.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all were taken.
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
