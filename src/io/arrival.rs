//! What the kernel said about a message, and what becomes of it: a place in the batch, or a counter.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use super::cmsg::Ancillary;
use super::{IoCounters, IoOptions, socket, sys};
use crate::base::batch::{Received, Rx, SocketId};

/// The least slot size that every merged datagram fits.
const MERGED_MAX: usize = 65_535;

/// What the kernel wrote about one message. The bytes are in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// `len` bytes of one peer.
    Data {
        /// Who sent it.
        peer: SocketAddr,
        /// Bytes in all.
        len: u32,
        /// What came with it.
        ancillary: Ancillary,
    },
    /// A datagram without bytes.
    Empty(Ancillary),
    /// It did not fit in the slot, or what the kernel said about it did not fit: nobody can tell
    /// where one datagram ends and the next begins.
    Cut(Ancillary),
}

/// What is known of a socket.
pub struct SocketFacts {
    /// The address it is bound to.
    pub local: SocketAddr,
    /// Whether it has a fixed peer, whose ICMP errors it reports.
    pub is_connected: bool,
    /// Whether it reports the ICMP errors of all its peers (IP_RECVERR).
    pub reports_errors: bool,
    /// Whether nothing is read from it, and its drops are not ours to count.
    pub is_paused: bool,
    /// The last count of dropped datagrams that the kernel told.
    dropped: u32,
    /// Datagrams that the kernel has dropped in our time.
    pub drops: u64,
    /// Datagrams that were read and are no use: empty, or cut.
    pub unusable: u64,
}

impl SocketFacts {
    /// Sets what a back end relies on, and notes what is known.
    pub fn prepare(socket: &UdpSocket, options: &IoOptions) -> io::Result<Self> {
        socket::prepare(socket, options.slot_size >= MERGED_MAX)?;
        Ok(SocketFacts {
            local: socket.local_addr()?,
            is_connected: socket.peer_addr().is_ok(),
            reports_errors: socket::reports_errors(socket)?,
            is_paused: false,
            // Drops before our time are not ours; a kernel that cannot tell starts at zero.
            dropped: sys::dropped_by(socket.as_fd()).unwrap_or(0),
            drops: 0,
            unusable: 0,
        })
    }

    /// Prepares all sockets of a back end; their numbers are 16 bits.
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

    /// Datagrams that were dropped since the last count. The count wraps, and two processors may
    /// note it in the wrong order.
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

    /// Asks the kernel how many it has dropped: after the last of a row, no datagram comes that would tell.
    pub fn recount_drops(&mut self, socket: &UdpSocket) -> u64 {
        if self.is_paused {
            return 0;
        }
        sys::dropped_by(socket.as_fd()).map_or(0, |count| self.newly_dropped(count))
    }
}

/// Where an arrival's bytes are.
#[derive(Clone, Copy, Debug)]
pub struct SlotSpan {
    /// The socket it arrived on.
    pub socket: SocketId,
    /// The slot that holds the bytes.
    pub slot: u16,
    /// Offset of the first byte within the slot.
    pub start: u32,
}

/// Notes one arrival in the batch, or in the counters if there is nothing to note.
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
