//! The datagrams of a turn: requests of clients, responses of servers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::base::batch::{FrameRef, Received, SocketId};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::local_addresses::LocalAddresses;

/// A client: the address to which its responses go, and the socket and address from which they leave. The
/// same at all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramClient {
    pub addr: SocketAddr,
    pub front: SocketId,
    /// The index of the local address at which its datagram arrived.
    pub local: u8,
}

impl DatagramClient {
    /// Fills an empty entry of the pending queue.
    pub const NONE: DatagramClient = DatagramClient {
        addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        front: SocketId(0),
        local: LocalAddresses::UNSPECIFIED,
    };
}

/// A datagram that was handled, or the reason for which it was dropped.
pub(super) type Handled = Result<(), DropReason>;

/// A client's datagram.
pub(super) struct DatagramRequest<'a> {
    pub client: DatagramClient,
    pub bytes: &'a mut [u8],
    /// Its place in the turn's memory; `None` for a queued request, which leaves as a copy.
    pub at: Option<FrameRef>,
    /// The time of the turn.
    pub now: Instant,
}

/// A datagram that arrived at a server-side socket.
pub(super) struct Response<'a> {
    pub peer: SocketAddr,
    pub socket: SocketId,
    pub bytes: &'a mut [u8],
    /// Its place in the turn's memory.
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
