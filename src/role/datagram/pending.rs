//! What a request that waits is to the pool's room.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::settings::{Affinity, Settings};
use crate::base::batch::SocketId;
use crate::pool::waiting::Room;

/// The longest datagram that can wait, in bytes.
pub(super) const DATAGRAM_MAX: usize = 2_048;

/// Who waits. Another worker than the one that read its request may send it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    pub addr: SocketAddr,
    pub front: SocketId,
    /// The address that it asked, where the front is bound to a wildcard.
    pub local_ip: Option<IpAddr>,
}

impl Guest {
    /// In an empty place.
    pub const NOBODY: Guest = Guest {
        addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        front: SocketId(0),
        local_ip: None,
    };
}

/// The room of a pool, without places.
pub(super) fn room(settings: &Settings) -> Room<Guest> {
    // A flow lasts: nobody waits for its end.
    let places = if settings.affinity == Affinity::None { settings.waiting_max } else { 0 };
    Room::new(places, DATAGRAM_MAX)
}
