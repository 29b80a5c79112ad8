//! The network: delay and loss of datagrams. Datagrams in flight are stored in slots that are reused.

use std::time::Duration;

use super::addresses::Endpoint;
use crate::base::rng::Rng;

/// Maximum size of a simulated datagram: a frame of the smallest size.
pub(super) const DATAGRAM: usize = crate::wire::header::FRAME_SIZE_MIN;

/// A datagram in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transit {
    pub from: Endpoint,
    pub to: Endpoint,
    pub len: u16,
    pub bytes: [u8; DATAGRAM],
}

/// Identifies a datagram in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ParcelId(u32);

/// The network: draws delay and loss of each datagram and stores the datagrams in flight.
pub(super) struct Links {
    delay: Duration,
    jitter: Duration,
    loss: f64,
    rng: Rng,
    parcels: Vec<Transit>,
    free: Vec<u32>,
}

impl Links {
    /// Each direction takes `delay`, plus a random time up to `jitter` for each datagram; datagrams may
    /// overtake each other.
    pub fn new(delay: Duration, jitter: Duration, loss: f64, seed: u64) -> Self {
        Links { delay, jitter, loss, rng: Rng::new(seed), parcels: vec![], free: vec![] }
    }

    /// Draws the delay of the next datagram; `None` if it is lost.
    pub fn draw(&mut self) -> Option<Duration> {
        // No draw without loss or jitter.
        if self.loss > 0.0 && self.rng.unit_f64() < self.loss {
            return None;
        }
        let jitter = self.jitter.as_nanos() as u64;
        let more = if jitter == 0 { 0 } else { self.rng.below(jitter + 1) };
        Some(self.delay + Duration::from_nanos(more))
    }

    /// Whether datagrams arrive in the order in which they were sent.
    pub fn keeps_order(&self) -> bool {
        self.jitter.is_zero()
    }

    /// Sends a datagram.
    pub fn put(&mut self, from: Endpoint, to: Endpoint, bytes: &[u8]) -> ParcelId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.parcels.push(Transit { from, to, len: 0, bytes: [0; DATAGRAM] });
            self.parcels.len() as u32 - 1
        });
        let parcel = &mut self.parcels[id as usize];
        (parcel.from, parcel.to, parcel.len) = (from, to, bytes.len() as u16);
        parcel.bytes[..bytes.len()].copy_from_slice(bytes);
        ParcelId(id)
    }

    /// Delivers a datagram. The next [`Links::put`] may reuse its slot.
    pub fn take(&mut self, id: ParcelId) -> &Transit {
        self.free.push(id.0);
        &self.parcels[id.0 as usize]
    }
}
