//! Datagrams of a turn: a client's request, and what came from a server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::base::batch::{FrameRef, Received, SocketId};
use crate::base::time::Instant;
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

/// A client's datagram.
pub(super) struct Request<'a> {
    pub client: Client,
    pub bytes: &'a mut [u8],
    /// Where it is in the turn's memory; `None` of a queued one, which leaves as a copy.
    pub at: Option<FrameRef>,
    /// The time of the turn.
    pub now: Instant,
}

/// A datagram that came to a server-side socket.
pub(super) struct Response<'a> {
    pub peer: SocketAddr,
    pub socket: SocketId,
    pub bytes: &'a mut [u8],
    /// Where it is in the turn's memory.
    pub at: FrameRef,
    /// The time of the turn.
    pub now: Instant,
}

/// The datagrams of a receive slot; the last one can be shorter.
pub(super) fn datagrams<'a>(
    received: &Received,
    bytes: &'a mut [u8],
) -> impl Iterator<Item = (FrameRef, &'a mut [u8])> {
    let (slot, start, stride) = (received.slot, received.start, received.stride);
    bytes.chunks_mut(stride as usize).zip(0u32..).map(move |(bytes, i)| {
        // No datagram is longer than 65,535 bytes.
        (FrameRef { slot, len: bytes.len() as u16, offset: start + i * stride }, bytes)
    })
}
