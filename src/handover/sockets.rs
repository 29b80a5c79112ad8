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
        let is_it = |label: &Label| {
            let is_there =
                label.addr.ip() == addr.ip() && (addr.port() == 0 || label.addr.port() == addr.port());
            label.pool == pool && label.kind == kind && label.worker == worker && is_there
        };
        let found = self
            .0
            .iter()
            .position(|(label, socket)| is_it(label) && is_as_labelled(label, socket.as_fd()))?;
        Some(self.0.swap_remove(found).1)
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
