//! What the kernel reported about a message, and its result: a place in the batch, or a counter.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use super::cmsg::Ancillary;
use super::{IoCounters, IoOptions, socket, sys};
use crate::base::batch::{Received, Rx, SocketId};

/// Minimum size of a slot that holds every merged datagram, in bytes.
const MERGED_MAX: usize = 65_535;

/// What the kernel reported about one message. The slot has the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// `len` bytes of one peer.
    Data {
        /// The sender.
        peer: SocketAddr,
        /// Total size, in bytes.
        len: u32,
        /// Control data of the message.
        ancillary: Ancillary,
    },
    /// A datagram without bytes.
    Empty(Ancillary),
    /// The datagram or its control data did not fit, so the ends of its datagrams are unknown.
    Cut(Ancillary),
}

/// Facts about a socket.
pub struct SocketFacts {
    /// Local address.
    pub local: SocketAddr,
    /// Whether the socket is connected to a peer, and so reports the peer's ICMP errors.
    pub is_connected: bool,
    /// Whether the socket reports the ICMP errors of all its peers (IP_RECVERR).
    pub reports_errors: bool,
    /// Whether the back end does not read the socket, and does not count its drops.
    pub is_paused: bool,
    /// The kernel's last count of dropped datagrams.
    dropped: u32,
    /// Datagrams that the kernel has dropped since this process uses the socket.
    pub drops: u64,
    /// Datagrams that were read but cannot be used: empty, or truncated.
    pub unusable: u64,
}

impl SocketFacts {
    /// Sets the options that a back end needs, and gathers the facts.
    pub fn prepare(socket: &UdpSocket, options: &IoOptions) -> io::Result<Self> {
        socket::prepare(socket, options.slot_size >= MERGED_MAX)?;
        Ok(SocketFacts {
            local: socket.local_addr()?,
            is_connected: socket.peer_addr().is_ok(),
            reports_errors: socket::reports_errors(socket)?,
            is_paused: false,
            // Earlier drops do not count. A kernel without this counter starts at zero.
            dropped: sys::dropped_by(socket.as_fd()).unwrap_or(0),
            drops: 0,
            unusable: 0,
        })
    }

    /// Prepares all sockets of a back end; socket numbers have 16 bits.
    pub fn prepare_all(sockets: &[UdpSocket], options: &IoOptions) -> io::Result<Vec<Self>> {
        if sockets.len() > usize::from(u16::MAX) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than 65,535 sockets"));
        }
        sockets.iter().map(|socket| SocketFacts::prepare(socket, options)).collect()
    }

    /// Whether a receive may end with an error of a peer although there are datagrams.
    pub fn may_end_early(&self) -> bool {
        self.is_connected || self.reports_errors
    }

    /// Datagrams dropped since the last count. The count wraps, and two CPUs may report it out of order.
    fn newly_dropped(&mut self, count: u32) -> u64 {
        match count.wrapping_sub(self.dropped) {
            newly if newly < 1 << 31 => {
                self.dropped = count;
                self.drops += u64::from(newly);
                u64::from(newly)
            }
            _ => 0,
        }
    }

    /// Reads the kernel's count of drops. After the last datagram of a burst, no further datagram reports it.
    pub fn recount_drops(&mut self, socket: &UdpSocket) -> u64 {
        if self.is_paused {
            return 0;
        }
        sys::dropped_by(socket.as_fd()).map_or(0, |count| self.newly_dropped(count))
    }
}

/// The methods of [`DatagramIo`](super::DatagramIo) that a back end answers from the facts of its sockets,
/// its counters and its sender.
macro_rules! facts_of_sockets {
    () => {
        fn local_addr(&self, socket: SocketId) -> std::net::SocketAddr {
            self.facts[socket.0 as usize].local
        }

        fn counters(&self) -> IoCounters {
            self.counters
        }

        fn poll_too_large(&mut self) -> Option<super::TooLarge> {
            self.sender.poll_too_large()
        }

        fn kernel_drops(&self, socket: SocketId) -> u64 {
            self.facts[socket.0 as usize].drops
        }

        fn unusable(&self, socket: SocketId) -> u64 {
            self.facts[socket.0 as usize].unusable
        }

        fn recount_drops(&mut self) {
            for (facts, socket) in self.facts.iter_mut().zip(&self.sockets) {
                self.counters.kernel_drops += facts.recount_drops(socket);
            }
        }
    };
}
pub(super) use facts_of_sockets;

/// Position of an arrival's bytes.
#[derive(Clone, Copy, Debug)]
pub struct SlotSpan {
    /// The receiving socket.
    pub socket: SocketId,
    /// The slot with the bytes.
    pub slot: u16,
    /// Offset of the first byte within the slot.
    pub start: u32,
}

/// Records one arrival in the batch, or in a counter if it has no data.
pub fn take_in(
    arrival: Option<Arrival>,
    place: SlotSpan,
    facts: &mut SocketFacts,
    rx: &mut Rx,
    counters: &mut IoCounters,
) {
    let Some(arrival) = arrival else { return };
    let (Arrival::Data { ancillary, .. } | Arrival::Empty(ancillary) | Arrival::Cut(ancillary)) = &arrival;
    if let Some(count) = ancillary.dropped {
        counters.kernel_drops += facts.newly_dropped(count);
    }
    match arrival {
        Arrival::Empty(_) => {
            counters.empty += 1;
            facts.unusable += 1;
        }
        Arrival::Cut(_) => {
            counters.truncated += 1;
            facts.unusable += 1;
        }
        Arrival::Data { peer, len, ancillary: Ancillary { segment_size, local_ip, .. } } => {
            let stride = segment_size.filter(|&size| size > 0).unwrap_or(len).min(len);
            counters.received += u64::from(len.div_ceil(stride));
            let SlotSpan { socket, slot, start } = place;
            rx.push(Received { socket, peer, local_ip, slot, start, len, stride });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_counts_wrap_and_may_come_in_the_wrong_order() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut facts = SocketFacts::prepare(&socket, &IoOptions::default()).unwrap();
        facts.dropped = u32::MAX - 1;
        let counts = [u32::MAX, 3, 2, 5];
        assert_eq!(counts.map(|count| facts.newly_dropped(count)), [1, 4, 0, 2]);
    }
}
