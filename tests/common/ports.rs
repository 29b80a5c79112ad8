//! Blocks of ports that no other test has, in this process or in another.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Blocks lie below the ports that Linux gives to sockets without one (32768 and up).
const FIRST: u16 = 10_000;
const BLOCKS: u32 = 250;
const BLOCK: u16 = 90;

/// 90 ports in a row. The first stays bound as the mark of the block's owner: the kernel lets one process
/// have it, and takes it back when that process ends, however it ends.
pub struct Ports {
    _mark: UdpSocket,
    first: u16,
}

impl Ports {
    /// A block whose ports are all free.
    pub fn take() -> Ports {
        static TAKEN: AtomicU32 = AtomicU32::new(0);
        let start = std::process::id().wrapping_mul(37) + TAKEN.fetch_add(1, Ordering::Relaxed);
        for i in 0..BLOCKS {
            let first = FIRST + (start.wrapping_add(i) % BLOCKS) as u16 * BLOCK;
            let Some(mark) = bind(first) else { continue };
            if (first + 1..first + BLOCK).all(|port| bind(port).is_some()) {
                return Ports { _mark: mark, first };
            }
        }
        panic!("none of {BLOCKS} blocks of {BLOCK} ports is free");
    }

    /// The port with this place in the block; place 0 is the mark.
    pub fn at(&self, place: u16) -> u16 {
        assert!((1..BLOCK).contains(&place), "place {place}");
        self.first + place
    }

    /// The port after the last one.
    pub fn end(&self) -> u16 {
        self.first + BLOCK
    }
}

fn bind(port: u16) -> Option<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()
}
