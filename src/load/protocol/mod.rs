//! Protocols: the bytes of requests, and the matching of responses. Pure, like the generator that uses them.

mod dns;
mod echo;
mod marker;
mod native;
mod payload;
mod plain;

use super::dns_answers::DnsAnswers;
use super::ledger::RequestLedger;
use crate::base::batch::{Received, SocketId};
use crate::base::time::Instant;

pub use dns::{DnsLoad, DnsQueries, type_from};
pub use echo::Echo;
pub use native::{Native, NativeSettings};
pub use payload::Payload;
pub use plain::Plain;

/// The request that leaves next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextRequest {
    /// Number of the request, one above the previous.
    pub number: u64,
    /// Distance from this number back to the oldest open request.
    pub incomplete: u64,
    /// Payload size in bytes, if a trace sets it.
    pub payload: Option<u32>,
}

/// A protocol of requests and responses.
///
/// The sockets of a generator are its clients: `SocketId(0)` and up.
pub trait LoadProtocol {
    /// Maximum size of a request, in bytes.
    fn len_max(&self) -> usize;

    /// Maximum distance between numbers of open requests at which their responses are distinct.
    fn span_max(&self) -> u64 {
        u64::MAX
    }

    /// When a client can send the next request; a past moment means now. `None`: unknown, a request has
    /// to end first.
    fn free_at(&self) -> Option<Instant> {
        Some(Instant::ZERO)
    }

    /// The client that sends the request, and the request's size. The generator calls it when a client
    /// is free, and may postpone the request.
    fn plan(&self, request: &NextRequest) -> (SocketId, usize);

    /// Writes the planned request into zeroed bytes of that length. The request is open from now on.
    fn write(&mut self, request: &NextRequest, bytes: &mut [u8]);

    /// Ends the requests that a datagram answers, or counts why it answers none. `from` has the sender
    /// and the receiving client.
    fn read(&mut self, now: Instant, from: &Received, datagram: &mut [u8], ledger: &mut RequestLedger);

    /// Reports that a request ended without a response.
    fn lost(&mut self, _number: u64, _now: Instant) {}

    /// What the responses to the requests of the measurement said, if they are DNS.
    fn dns_answers(&self) -> Option<DnsAnswers> {
        None
    }

    /// Advances the time: clients whose pause is over become free.
    fn tick(&mut self, _now: Instant) {}
}

/// The client for a request number, in round-robin order.
fn in_turn(number: u64, clients: u64) -> SocketId {
    SocketId((number % clients) as u16)
}
