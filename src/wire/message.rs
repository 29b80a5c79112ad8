//! The header as a serde struct, and the payload of a registration. The balancer does not decode frames: it
//! patches [`crate::wire::Header`] in place.
//!
//! The struct has 112 bytes under postcard, with `fixint` little-endian integers. It *defines* the header of
//! all four messages, which share one layout; `docs/PROTOCOL.md` has the meaning of each field by kind. A
//! golden test compares it with the view, byte for byte.

use serde::{Deserialize, Serialize};

use crate::base::drop_reason::DropReason;
use crate::wire::header::{HEADER_LEN, MAGIC, VERSION};
use crate::wire::{Frame, FrameFormat, Kind};

/// The header of a message, for code that needs its meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    #[serde(with = "postcard::fixint::le")]
    magic: u16,
    version: u8,
    /// A [`Kind`].
    pub kind: u8,
    /// Size of the frame, in bytes; [`Message::encode`] sets it.
    #[serde(with = "postcard::fixint::le")]
    pub frame_size: u16,
    /// Bytes of the payload in use; [`Message::encode`] sets it.
    #[serde(with = "postcard::fixint::le")]
    pub payload_len: u16,
    /// A [`crate::wire::Status`] in a response, a reply or an ack; otherwise 0.
    pub status: u8,
    /// The [`crate::wire::Mode`] of a request, and of its replies; otherwise 0.
    pub mode: u8,
    /// 1 for the first attempt of a request or an order, incremented by each retry; a reply repeats it.
    pub attempt: u8,
    /// The operation by kind, as in [`crate::wire::Header::op`].
    pub op: u8,
    /// In requests the time left until the deadline, in refusals the time to wait before a retry, in
    /// microseconds; 0: none.
    #[serde(with = "postcard::fixint::le")]
    pub deadline_us: u32,
    /// In requests and their replies the client's id; otherwise the random number of the sending process.
    #[serde(with = "postcard::fixint::le")]
    pub client_id: u64,
    /// In requests and their replies the request's number at its client; in orders their number; in a
    /// registration and a sync the server's nonce.
    #[serde(with = "postcard::fixint::le")]
    pub sequence: u64,
    /// Bytes 32..80.
    pub route: Route,
    /// Bytes 80..112.
    pub report: Report,
}

impl Message {
    /// A message of this kind. All fields except `client_id` and `sequence` are 0.
    pub fn new(kind: Kind, client_id: u64, sequence: u64) -> Self {
        Message {
            magic: MAGIC,
            version: VERSION,
            kind: kind as u8,
            client_id,
            sequence,
            ..Message::default()
        }
    }

    /// Reads a frame: the message and its payload. The trailer is not checked.
    pub fn decode<'a>(bytes: &'a mut [u8], format: &FrameFormat) -> Result<(Message, &'a [u8]), DropReason> {
        let payload_len = Frame::check(bytes, format)?.payload().len();
        let (header, rest) = bytes.split_at(HEADER_LEN);
        // Fixed-size integers and byte arrays accept any 112 bytes, so this cannot fail.
        let message = postcard::from_bytes(header).map_err(|_| DropReason::Kind)?;
        Ok((message, &rest[..payload_len]))
    }

    /// Writes a frame of the format's size over `bytes`. The payload must fit
    /// ([`FrameFormat::payload_max`]); a trailer is sealed afterwards.
    pub fn encode(mut self, payload: &[u8], format: &FrameFormat, bytes: &mut [u8]) {
        assert!(payload.len() <= format.payload_max() && bytes.len() == format.size);
        self.frame_size = format.size as u16;
        self.payload_len = payload.len() as u16;
        let (header, rest) = bytes.split_at_mut(HEADER_LEN);
        rest[..payload.len()].copy_from_slice(payload);
        rest[payload.len()..].fill(0);
        let written = postcard::to_slice(&self, header).expect("a header is 112 bytes").len();
        debug_assert_eq!(written, HEADER_LEN);
    }
}

/// Bytes 32..80: the route of a request through the balancer. Zero outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The client's address, IPv4 mapped into IPv6.
    pub client_ip: [u8; 16],
    /// The client's port.
    #[serde(with = "postcard::fixint::le")]
    pub client_port: u16,
    /// Index of the balancer's client-side address that received the request.
    pub listener: u8,
    /// Index of the balancer's worker that sent the request.
    pub worker: u8,
    /// Random number of the balancer's process.
    #[serde(with = "postcard::fixint::le")]
    pub balancer_epoch: u32,
    /// Random number of the server's registration.
    #[serde(with = "postcard::fixint::le")]
    pub server_epoch: u32,
    /// The server's slot at the balancer.
    #[serde(with = "postcard::fixint::le")]
    pub slot: u16,
    /// `sequence` minus the client's first incomplete sequence, saturating.
    #[serde(with = "postcard::fixint::le")]
    pub incomplete: u16,
    /// Number of the dispatch from this worker to this slot.
    #[serde(with = "postcard::fixint::le")]
    pub dispatch_seq: u32,
    /// Time of the dispatch, in microseconds of the balancer's clock.
    #[serde(with = "postcard::fixint::le")]
    pub dispatch_us: u32,
    /// Proof that the balancer dispatched the request; in registration and control a nonce.
    #[serde(with = "postcard::fixint::le")]
    pub cookie: u64,
}

/// Bytes 80..112: a server's counters and queue; in an order the desired number of servers or the id of the
/// server to stop, the load in thousandths, and the servers that are up. Zero outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Number of the report.
    #[serde(with = "postcard::fixint::le")]
    pub report: u32,
    /// Highest dispatch sequence received from this worker.
    #[serde(with = "postcard::fixint::le")]
    pub seq: u32,
    /// Valid requests received from this worker.
    #[serde(with = "postcard::fixint::le")]
    pub received: u32,
    /// Requests of this worker finished, with any status.
    #[serde(with = "postcard::fixint::le")]
    pub done: u32,
    /// Requests at the server, queued and in service.
    #[serde(with = "postcard::fixint::le")]
    pub queue: u32,
    /// Requests of `queue` that belong to other registrations.
    #[serde(with = "postcard::fixint::le")]
    pub foreign: u32,
    /// Mean service time, in microseconds.
    #[serde(with = "postcard::fixint::le")]
    pub service_us: u32,
    /// A [`crate::wire::ServerState`].
    pub server_state: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// The payload of a registration: 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The server's id, unique in its pool.
    #[serde(with = "postcard::fixint::le")]
    pub server_id: u32,
    /// Maximum requests that the server holds.
    #[serde(with = "postcard::fixint::le")]
    pub queue_capacity: u32,
    /// Interval of the server's reports, in microseconds.
    #[serde(with = "postcard::fixint::le")]
    pub report_interval_us: u32,
    /// Share relative to other servers, 1 to 100.
    #[serde(with = "postcard::fixint::le")]
    pub weight: u16,
    /// Zero.
    pub reserved: [u8; 2],
}

impl Registration {
    /// Size in bytes; it fits into the smallest frame.
    pub const LEN: usize = 16;

    /// The payload bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        postcard::to_slice(&self, &mut bytes).expect("a registration is 16 bytes");
        bytes
    }

    /// Reads a payload of exactly 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::LEN {
            return None;
        }
        postcard::from_bytes(bytes).ok()
    }
}

#[cfg(test)]
mod tests;
