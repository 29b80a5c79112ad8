//! A client of a datagram pool.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::base::batch::SocketId;
use crate::pool::local_addresses::LocalAddresses;

/// A client: where its responses go, and the socket and address from which they leave. The same at all
/// workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    pub addr: SocketAddr,
    pub front: SocketId,
    /// The number of the local address at which its datagram arrived, in [`super::Shared`].
    pub local: u8,
}

impl Client {
    /// Fills an empty entry of the pending queue.
    pub const NONE: Client = Client {
        addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        front: SocketId(0),
        local: LocalAddresses::UNSPECIFIED,
    };
}
