//! The datagrams of one turn as plain data: received ones ([`Rx`]) and those to send ([`Tx`]).
//!
//! The I/O back end owns the memory. A role reads and patches frames in the receive slots and references
//! them in [`Tx`]. It never frees, copies or sends anything. Both are allocated once, sizes are fixed,
//! and "full" is an ordinary result.
//!
//! `stride` describes GRO and `segment_size` describes GSO completely. A receive slot holds `len /
//! stride` datagrams of one peer; the last may be shorter. All frames of a turn for one destination
//! leave as equal segments of one message.

use std::net::{IpAddr, SocketAddr};

/// Index of a back end's socket, in the order in which the sockets were given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(pub u16);

/// A receive slot with data: one datagram, or several of one peer merged by GRO.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The receiving socket.
    pub socket: SocketId,
    /// Sender.
    pub peer: SocketAddr,
    /// Destination address, if the socket is bound to a wildcard.
    pub local_ip: Option<IpAddr>,
    /// The slot with the bytes.
    pub slot: u16,
    /// Offset of the first byte within the slot.
    pub start: u32,
    /// Total size, in bytes.
    pub len: u32,
    /// Size of a datagram in bytes; the last may be shorter. Never zero.
    pub stride: u32,
}

/// An error that the network reported about a datagram sent earlier, on a socket that reports errors.
/// Only a hint, because ICMP is neither reliable nor authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerError {
    /// The socket that sent the datagram.
    pub socket: SocketId,
    /// Destination of the datagram.
    pub peer: SocketAddr,
    /// The error as in errno(3), for example ECONNREFUSED if no socket listens on the port.
    pub errno: i32,
}

/// Maximum errors listed per turn.
pub const PEER_ERRORS_MAX: usize = 64;

/// Received datagrams of one turn, in slots of fixed size.
pub struct Rx {
    memory: Box<[u8]>,
    slot_size: usize,
    received: Vec<Received>,
    errors: Vec<PeerError>,
}

impl Rx {
    /// `slot_count` slots of `slot_size` bytes each.
    pub fn new(slot_count: usize, slot_size: usize) -> Self {
        assert!(slot_count < STAGED as usize, "slot numbers are 16 bits, and the last is reserved");
        Rx {
            memory: vec![0; slot_count * slot_size].into_boxed_slice(),
            slot_size,
            received: Vec::with_capacity(slot_count),
            errors: Vec::with_capacity(PEER_ERRORS_MAX),
        }
    }

    /// Touches the memory of the slots now, so that the first turns have no page faults. Call it before
    /// anything is received.
    pub fn fault_in(&mut self) {
        fault_in(&mut self.memory);
    }

    /// Number of slots that hold data.
    pub fn len(&self) -> usize {
        self.received.len()
    }

    /// Whether nothing arrived in this turn.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// The socket of the `index`-th filled slot.
    pub fn socket(&self, index: usize) -> SocketId {
        self.received[index].socket
    }

    /// The `index`-th filled slot, and its bytes.
    pub fn get_mut(&mut self, index: usize) -> (Received, &mut [u8]) {
        let r = self.received[index];
        let from = r.slot as usize * self.slot_size + r.start as usize;
        (r, &mut self.memory[from..from + r.len as usize])
    }

    /// Number of slots, filled or free.
    pub fn slot_count(&self) -> usize {
        self.memory.len() / self.slot_size
    }

    /// Size of a slot, in bytes.
    pub fn slot_size(&self) -> usize {
        self.slot_size
    }

    /// The whole slot, for the back end to fill.
    pub fn slot_mut(&mut self, slot: u16) -> &mut [u8] {
        let from = slot as usize * self.slot_size;
        &mut self.memory[from..from + self.slot_size]
    }

    /// The whole slot.
    pub fn slot(&self, slot: u16) -> &[u8] {
        let from = slot as usize * self.slot_size;
        &self.memory[from..from + self.slot_size]
    }

    /// Records that a slot was filled. The back end keeps `received.len() <= slot_count`.
    pub fn push(&mut self, received: Received) {
        debug_assert!(received.stride > 0 && self.received.len() < self.received.capacity());
        self.received.push(received);
    }

    /// Errors about datagrams sent earlier; those of one socket are in the order of arrival.
    pub fn errors(&self) -> &[PeerError] {
        &self.errors
    }

    /// Lists an error. Beyond [`PEER_ERRORS_MAX`] it is dropped, since errors are only hints.
    pub fn push_error(&mut self, error: PeerError) {
        if self.errors.len() < PEER_ERRORS_MAX {
            self.errors.push(error);
        }
    }

    /// Frees all slots.
    pub fn clear(&mut self) {
        self.received.clear();
        self.errors.clear();
    }
}

/// Slot number of the staging area of [`Tx`], used instead of a receive slot.
pub const STAGED: u16 = u16::MAX;

/// Bytes to send: a range of a receive slot or of the staging area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef {
    /// A receive slot, or [`STAGED`].
    pub slot: u16,
    /// Size, in bytes.
    pub len: u16,
    /// Offset of the first byte within the slot or the staging area.
    pub offset: u32,
}

/// Index of a destination in the current turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestinationId(u32);

/// A destination of frames in this turn.
#[derive(Clone, Copy, Debug)]
pub struct Destination {
    /// The sending socket.
    pub socket: SocketId,
    /// The receiver.
    pub to: SocketAddr,
    /// Source address, if the socket is bound to a wildcard.
    pub source_ip: Option<IpAddr>,
    first: u32,
    last: u32,
}

struct TxEntry {
    frame: FrameRef,
    next: u32,
}

const NONE: u32 = u32::MAX;

/// Frames to send, collected per destination until the end of the turn.
pub struct Tx {
    destinations: Vec<Destination>,
    entries: Vec<TxEntry>,
    /// Open-addressing table from destination to its index + 1; 0 is empty.
    index: Box<[u32]>,
    staging: Box<[u8]>,
    staged_bytes: usize,
    frames_per_datagram: usize,
}

impl Tx {
    /// Room for `frames_max` frames to at most as many destinations, and `staging_bytes` for frames that
    /// the role makes itself. Up to `frames_per_datagram` frames of equal size share a datagram.
    pub fn new(frames_max: usize, staging_bytes: usize, frames_per_datagram: usize) -> Self {
        let destinations_max = frames_max.min(DESTINATIONS_MAX);
        Tx {
            destinations: Vec::with_capacity(destinations_max),
            entries: Vec::with_capacity(frames_max),
            index: vec![0; (destinations_max * 2).next_power_of_two()].into_boxed_slice(),
            staging: vec![0; staging_bytes].into_boxed_slice(),
            staged_bytes: 0,
            frames_per_datagram: frames_per_datagram.max(1),
        }
    }

    /// Touches the memory for staged frames now, so that the first turns have no page faults.
    pub fn fault_in(&mut self) {
        fault_in(&mut self.staging);
    }

    /// The destination with this socket, peer and source address; it is added if it is new in this turn.
    /// `None` if the turn has no room for another destination.
    pub fn destination(
        &mut self,
        socket: SocketId,
        to: SocketAddr,
        source_ip: Option<IpAddr>,
    ) -> Option<DestinationId> {
        let mask = self.index.len() - 1;
        let mut at = hash(socket, to) & mask;
        loop {
            match self.index[at] {
                0 => break,
                n => {
                    let d = &self.destinations[n as usize - 1];
                    if d.to == to && d.socket == socket && d.source_ip == source_ip {
                        return Some(DestinationId(n - 1));
                    }
                }
            }
            at = (at + 1) & mask;
        }
        if self.destinations.len() == self.destinations.capacity() {
            return None;
        }
        self.destinations.push(Destination { socket, to, source_ip, first: NONE, last: NONE });
        self.index[at] = self.destinations.len() as u32;
        Some(DestinationId(self.destinations.len() as u32 - 1))
    }

    /// Adds a frame for a destination. False if the turn is full.
    #[must_use]
    pub fn push(&mut self, to: DestinationId, frame: FrameRef) -> bool {
        if self.entries.len() == self.entries.capacity() {
            return false;
        }
        let entry = self.entries.len() as u32;
        self.entries.push(TxEntry { frame, next: NONE });
        let d = &mut self.destinations[to.0 as usize];
        match d.last {
            NONE => d.first = entry,
            last => self.entries[last as usize].next = entry,
        }
        d.last = entry;
        true
    }

    /// Whether [`Tx::stage`] of `len` bytes would succeed.
    pub fn can_stage(&self, len: usize) -> bool {
        self.staged_bytes + len <= self.staging.len() && self.entries.len() < self.entries.capacity()
    }

    /// Whether a frame of `len` bytes can be staged for any destination.
    pub fn has_room_for(&self, len: usize) -> bool {
        self.can_stage(len) && self.destinations.len() < self.destinations.capacity()
    }

    /// `len` zeroed bytes that will be sent to the destination; `None` if the turn is full.
    pub fn stage(&mut self, to: DestinationId, len: usize) -> Option<&mut [u8]> {
        if !self.can_stage(len) || len > u16::MAX as usize {
            return None;
        }
        let from = self.staged_bytes;
        self.staged_bytes += len;
        let pushed = self.push(to, FrameRef { slot: STAGED, len: len as u16, offset: from as u32 });
        debug_assert!(pushed, "can_stage was true");
        let bytes = &mut self.staging[from..from + len];
        bytes.fill(0);
        Some(bytes)
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of frames to send.
    pub fn frame_count(&self) -> usize {
        self.entries.len()
    }

    /// Maximum frames of equal size per datagram; at least 1.
    pub fn frames_per_datagram(&self) -> usize {
        self.frames_per_datagram
    }

    /// The destinations of this turn, in the order in which they first occurred.
    pub fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    /// The frames of one destination, in order.
    pub fn frames(&self, of: &Destination) -> impl Iterator<Item = FrameRef> + '_ {
        let mut at = of.first;
        std::iter::from_fn(move || {
            let entry = self.entries.get(at as usize)?;
            at = entry.next;
            Some(entry.frame)
        })
    }

    /// The bytes of a frame. `rx` is the batch of the same turn.
    pub fn bytes<'a>(&'a self, rx: &'a Rx, frame: FrameRef) -> &'a [u8] {
        self.range(rx, frame.slot, frame.offset, frame.len.into())
    }

    /// A range of a receive slot or of the staging area, for the back end, which sends adjacent frames
    /// as one.
    pub fn range<'a>(&'a self, rx: &'a Rx, slot: u16, offset: u32, len: u32) -> &'a [u8] {
        let from = offset as usize;
        let whole = if slot == STAGED { &self.staging[..] } else { rx.slot(slot) };
        &whole[from..from + len as usize]
    }

    /// Removes everything; the back end calls it after it has sent.
    pub fn clear(&mut self) {
        if self.destinations.len() * 4 > self.index.len() {
            self.index.fill(0);
        } else {
            let mask = self.index.len() - 1;
            for d in &self.destinations {
                // Every table entry is in the run that starts at its hash, so clear the run.
                let mut at = hash(d.socket, d.to) & mask;
                while self.index[at] != 0 {
                    self.index[at] = 0;
                    at = (at + 1) & mask;
                }
            }
        }
        self.destinations.clear();
        self.entries.clear();
        self.staged_bytes = 0;
    }
}

/// Writes to each page of fresh memory, so that the first turns have no page faults.
fn fault_in(memory: &mut [u8]) {
    const PAGE: usize = 4096;
    for page in std::hint::black_box(memory).chunks_mut(PAGE) {
        page[0] = 0;
    }
}

/// Maximum destinations of one turn.
const DESTINATIONS_MAX: usize = 4096;

/// Spreads destinations over the table. No key is needed: the table holds the peers of one turn only, at
/// most [`DESTINATIONS_MAX`]. Deliberate collisions cost a bounded scan and end with the turn.
fn hash(socket: SocketId, to: SocketAddr) -> usize {
    let (high, low) = match to.ip() {
        IpAddr::V4(ip) => (0, u64::from(u32::from(ip))),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            ((bits >> 64) as u64, bits as u64)
        }
    };
    let mut h = (low ^ high.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^= (u64::from(to.port()) << 16 | u64::from(socket.0)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    h = (h ^ (h >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (h >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    fn frame(offset: u32) -> FrameRef {
        FrameRef { slot: 0, len: 256, offset }
    }

    #[test]
    fn frames_of_one_destination_keep_their_order() {
        let mut tx = Tx::new(8, 0, 1);
        let a = tx.destination(SocketId(0), addr(1), None).unwrap();
        let b = tx.destination(SocketId(0), addr(2), None).unwrap();
        for (d, offset) in [(a, 0), (b, 256), (a, 512), (a, 768)] {
            assert!(tx.push(d, frame(offset)));
        }
        assert_eq!(tx.destination(SocketId(0), addr(1), None), Some(a));
        let of = |i: usize| tx.frames(&tx.destinations()[i]).map(|f| f.offset).collect::<Vec<_>>();
        assert_eq!(of(0), [0, 512, 768]);
        assert_eq!(of(1), [256]);
    }

    #[test]
    fn the_same_peer_on_another_socket_or_from_another_address_is_another_destination() {
        let mut tx = Tx::new(8, 0, 1);
        let a = tx.destination(SocketId(0), addr(1), None).unwrap();
        let b = tx.destination(SocketId(1), addr(1), None).unwrap();
        let c = tx.destination(SocketId(1), addr(1), Some(Ipv4Addr::LOCALHOST.into())).unwrap();
        assert!(a != b && b != c);
    }

    #[test]
    fn full_is_an_ordinary_result_and_clear_makes_room() {
        let mut tx = Tx::new(2, 256, 1);
        let a = tx.destination(SocketId(0), addr(1), None).unwrap();
        assert!(tx.push(a, frame(0)));
        assert!(tx.stage(a, 256).is_some());
        assert!(!tx.push(a, frame(256)) && tx.stage(a, 1).is_none());
        tx.destination(SocketId(0), addr(2), None).unwrap();
        assert_eq!(tx.destination(SocketId(0), addr(3), None), None);
        tx.clear();
        assert!(tx.is_empty() && tx.destinations().is_empty());
        let b = tx.destination(SocketId(0), addr(3), None).unwrap();
        assert!(tx.stage(b, 256).is_some());
    }

    #[test]
    fn clear_leaves_no_stale_destination_behind() {
        let mut tx = Tx::new(64, 0, 1);
        for round in 0..200u16 {
            for port in 0..(round % 60) {
                let d = tx.destination(SocketId(0), addr(1000 + port), None).unwrap();
                assert_eq!(d.0, u32::from(port), "round {round}");
            }
            tx.clear();
            assert!(tx.index.iter().all(|&n| n == 0), "round {round}");
        }
    }

    #[test]
    fn errors_beyond_the_list_are_dropped_and_clear_makes_room() {
        let mut rx = Rx::new(1, 16);
        let error = |port| PeerError { socket: SocketId(0), peer: addr(port), errno: 111 };
        (1..=100).for_each(|port| rx.push_error(error(port)));
        assert_eq!(rx.errors().len(), PEER_ERRORS_MAX);
        rx.clear();
        assert_eq!(rx.errors(), []);
        rx.push_error(error(7));
        assert_eq!(rx.errors(), [error(7)]);
    }

    #[test]
    fn staged_bytes_are_zeroed_although_the_area_is_reused() {
        let mut tx = Tx::new(2, 16, 1);
        let a = tx.destination(SocketId(0), addr(1), None).unwrap();
        tx.stage(a, 16).unwrap().fill(7);
        tx.clear();
        let a = tx.destination(SocketId(0), addr(1), None).unwrap();
        assert_eq!(tx.stage(a, 16).unwrap(), [0; 16]);
    }
}
