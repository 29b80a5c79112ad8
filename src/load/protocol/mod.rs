//! What requests look like, and how answers find them. Pure, like the generator that uses it.

mod dns;
mod echo;
mod marker;
mod native;
mod payload;
mod plain;

use super::ledger::Ledger;
use crate::base::batch::{Received, SocketId};
use crate::base::time::Instant;

pub use dns::{Dns, Queries, type_from};
pub use echo::Echo;
pub use native::Native;
pub use payload::Payload;
pub use plain::Plain;

/// The request that leaves next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// One more than that of the request before.
    pub number: u64,
    /// Numbers before it back to that of the oldest open request.
    pub incomplete: u64,
    /// Bytes of payload, where a trace says so.
    pub payload: Option<u32>,
}

/// A protocol of requests and answers.
///
/// The sockets of a generator are its clients: `SocketId(0)` and up.
pub trait Protocol {
    /// The most bytes of a request.
    fn len_max(&self) -> usize;

    /// How far numbers of open requests may lie apart for their answers to be told apart.
    fn span_max(&self) -> u64;

    /// When a client may send the next request, if that is known: a moment that has passed means now. `None`: once a
    /// request ends.
    fn free_at(&self) -> Option<Instant>;

    /// The client that the request comes from, and its length. Called when a client is free; the request may be put off.
    fn plan(&self, request: &Request) -> (SocketId, usize);

    /// Writes the request as it was planned, into zeroed bytes of that length. From now on it is open.
    fn write(&mut self, request: &Request, bytes: &mut [u8]);

    /// Finds the requests that a datagram answers and ends them in the ledger, or counts why there are none. `from` says who sent
    /// it, and to which client.
    fn read(&mut self, now: Instant, from: &Received, datagram: &mut [u8], ledger: &mut Ledger);

    /// A request of this number has ended without an answer.
    fn lost(&mut self, number: u64, now: Instant);

    /// Time goes on: clients that have rested are free.
    fn tick(&mut self, now: Instant);
}

/// The client whose turn it is, of so many.
fn in_turn(number: u64, clients: u64) -> SocketId {
    SocketId((number % clients) as u16)
}
