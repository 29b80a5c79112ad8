//! Layout of a slot that multishot recvmsg fills: a header, the peer's address and control data before
//! the payload (struct io_uring_recvmsg_out in linux/io_uring.h, Linux 6.0, commit 9bb66906f23e). Pure.
//!
//! ```text
//!  0          16          48             256
//!  ├ lengths ─┼─ address ─┼─ control ────┼─ payload ...
//! ```

use super::super::arrival::Arrival;
use super::super::cmsg::{self, CONTROL_SIZE};
use super::super::sockaddr::RawAddr;

const NAME: usize = 16;
const CONTROL: usize = 48;

/// Offset of the payload: whole cache lines. With the default slot size, a slot has an odd number of
/// them, so that the slots' first lines do not share a few cache sets.
pub(super) const PAYLOAD: usize = 256;

/// Value of msg_namelen: the space for the address.
pub(super) const NAME_ROOM: usize = CONTROL - NAME;

/// Value of msg_controllen: the space for control data.
pub(super) const CONTROL_ROOM: usize = PAYLOAD - CONTROL;

const _: () = assert!(CONTROL_ROOM >= CONTROL_SIZE);

/// Reads the header of a message. `None` if it has no address that can be answered.
pub(super) fn read(slot: &[u8], filled: usize) -> Option<Arrival> {
    let word = |at: usize| u32::from_ne_bytes(slot[at..at + 4].try_into().expect("four bytes"));
    if filled < PAYLOAD || slot.len() < filled {
        return None;
    }
    let [name_len, control_len, len, flags] = [word(0), word(4), word(8), word(12)];
    let control = &slot[CONTROL..PAYLOAD];
    let ancillary = cmsg::decode(&control[..control.len().min(control_len as usize)]);
    if flags as i32 & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 || len as usize > filled - PAYLOAD {
        return Some(Arrival::Cut(ancillary));
    }
    if len == 0 {
        return Some(Arrival::Empty(ancillary));
    }
    let name = &slot[NAME..CONTROL];
    let peer = RawAddr::read(&name[..name.len().min(name_len as usize)])?;
    Some(Arrival::Data { peer, len, ancillary })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::super::cmsg::Ancillary;
    use super::*;

    /// A slot as the kernel fills it: an IPv4 peer, a count of drops, and this payload.
    fn slot(payload: usize, flags: i32) -> Vec<u8> {
        let mut slot = vec![0; PAYLOAD + payload];
        for (at, value) in [(0, 16), (4, 24), (8, payload as u32), (12, flags as u32)] {
            slot[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        slot[NAME..NAME + 2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        slot[NAME + 2..NAME + 8].copy_from_slice(&[0x12, 0x34, 127, 0, 0, 9]);
        slot[CONTROL..CONTROL + 8].copy_from_slice(&20usize.to_ne_bytes());
        slot[CONTROL + 8..CONTROL + 12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
        slot[CONTROL + 12..CONTROL + 16].copy_from_slice(&libc::SO_RXQ_OVFL.to_ne_bytes());
        slot[CONTROL + 16..CONTROL + 20].copy_from_slice(&7u32.to_ne_bytes());
        slot
    }

    fn ancillary() -> Ancillary {
        Ancillary { dropped: Some(7), ..Ancillary::default() }
    }

    #[test]
    fn a_message_is_read() {
        let slot = slot(5, 0);
        let peer: SocketAddr = "127.0.0.9:4660".parse().unwrap();
        assert_eq!(read(&slot, slot.len()), Some(Arrival::Data { peer, len: 5, ancillary: ancillary() }));
    }

    #[test]
    fn empty_and_cut_messages_are_told_apart() {
        assert_eq!(read(&slot(0, 0), PAYLOAD), Some(Arrival::Empty(ancillary())));
        for flag in [libc::MSG_TRUNC, libc::MSG_CTRUNC] {
            assert_eq!(read(&slot(9, flag), PAYLOAD + 9), Some(Arrival::Cut(ancillary())));
        }
        assert_eq!(
            read(&slot(9, 0), PAYLOAD + 8),
            Some(Arrival::Cut(ancillary())),
            "longer than what is there"
        );
    }

    #[test]
    fn nonsense_is_none() {
        let mut bytes = slot(5, 0);
        let whole = bytes.len();
        assert_eq!(read(&bytes, PAYLOAD - 1), None);
        assert_eq!(read(&bytes, whole + 1), None);
        bytes[NAME] = 99; // no such family
        assert_eq!(read(&bytes, whole), None);
    }
}
