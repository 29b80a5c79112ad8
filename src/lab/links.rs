//! The network: how long a datagram is on its way, if it arrives. Datagrams under way lie in places that are used again.

use std::time::Duration;

use super::addresses::Place;
use crate::base::rng::Rng;

/// The most bytes of a datagram in the lab: a frame of the smallest size.
pub(super) const DATAGRAM: usize = crate::wire::header::FRAME_SIZE_MIN;

/// A datagram under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parcel {
    pub from: Place,
    pub to: Place,
    pub len: u16,
    pub bytes: [u8; DATAGRAM],
}

/// Names a datagram under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ParcelId(u32);

/// See the module's text.
pub(super) struct Links {
    delay: Duration,
    jitter: Duration,
    loss: f64,
    rng: Rng,
    parcels: Vec<Parcel>,
    free: Vec<u32>,
}

impl Links {
    /// One way takes `delay`, and up to `jitter` more by chance, each datagram by itself: later ones may overtake.
    pub fn new(delay: Duration, jitter: Duration, loss: f64, seed: u64) -> Self {
        Links { delay, jitter, loss, rng: Rng::new(seed), parcels: vec![], free: vec![] }
    }

    /// How long the next datagram takes; `None` if it is lost.
    pub fn draw(&mut self) -> Option<Duration> {
        // No draw where there is nothing to decide.
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

    /// Puts a datagram on its way.
    pub fn put(&mut self, from: Place, to: Place, bytes: &[u8]) -> ParcelId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.parcels.push(Parcel { from, to, len: 0, bytes: [0; DATAGRAM] });
            self.parcels.len() as u32 - 1
        });
        let parcel = &mut self.parcels[id as usize];
        (parcel.from, parcel.to, parcel.len) = (from, to, bytes.len() as u16);
        parcel.bytes[..bytes.len()].copy_from_slice(bytes);
        ParcelId(id)
    }

    /// A datagram arrives. Its place is free again with the next [`Links::put`].
    pub fn take(&mut self, id: ParcelId) -> &Parcel {
        self.free.push(id.0);
        &self.parcels[id.0 as usize]
    }
}
