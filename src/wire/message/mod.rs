//! The four messages, one file each, for code that needs their meaning. The balancer does not decode
//! them: it patches [`crate::wire::Header`] in place.
//!
//! Each message is a serde struct of 112 bytes under postcard, with `fixint` little-endian integers. It
//! *defines* the header of its frame. A golden test compares it with the view, byte for byte.

mod client_request;
mod client_response;
mod controller_request;
mod server_response;

use serde::{Deserialize, Serialize};

pub use client_request::ClientRequest;
pub use client_response::ClientResponse;
pub use controller_request::ControllerRequest;
pub use server_response::{Registration, ServerResponse};

use crate::base::drop_reason::DropReason;
use crate::wire::header::{HEADER_LEN, MAGIC, VERSION};
use crate::wire::{Frame, FrameFormat, Kind};

/// The first eight bytes of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lead {
    #[serde(with = "postcard::fixint::le")]
    magic: u16,
    version: u8,
    kind: u8,
    /// Size of the frame, in bytes.
    #[serde(with = "postcard::fixint::le")]
    pub frame_size: u16,
    /// Bytes of the payload in use.
    #[serde(with = "postcard::fixint::le")]
    pub payload_len: u16,
}

impl Lead {
    /// The lead of a message of this kind; [`Message::encode`] fills in the sizes.
    pub fn new(kind: Kind) -> Self {
        Lead { magic: MAGIC, version: VERSION, kind: kind as u8, frame_size: 0, payload_len: 0 }
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

/// Bytes 80..112: a server's counters and queue. Zero outside.
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

/// One of the four messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A request of a client.
    ClientRequest(ClientRequest),
    /// The reply to a client.
    ClientResponse(ClientResponse),
    /// An order between balancer, controller and servers.
    ControllerRequest(ControllerRequest),
    /// A reply, report or registration of a server.
    ServerResponse(ServerResponse),
}

impl Message {
    /// Reads a frame: the message and its payload. The trailer is not checked.
    pub fn decode<'a>(bytes: &'a mut [u8], format: &FrameFormat) -> Result<(Message, &'a [u8]), DropReason> {
        let frame = Frame::check(bytes, format)?;
        let (kind, payload_len) = (frame.kind(), frame.payload().len());
        let header = &bytes[..HEADER_LEN];
        let message = match kind {
            Kind::ClientRequest => postcard::from_bytes(header).map(Message::ClientRequest),
            Kind::ClientResponse => postcard::from_bytes(header).map(Message::ClientResponse),
            Kind::ControllerRequest => postcard::from_bytes(header).map(Message::ControllerRequest),
            Kind::ServerResponse => postcard::from_bytes(header).map(Message::ServerResponse),
        };
        // Fixed-size integers and byte arrays accept any 112 bytes, so this cannot fail.
        let message = message.map_err(|_| DropReason::Kind)?;
        Ok((message, &bytes[HEADER_LEN..HEADER_LEN + payload_len]))
    }

    /// Writes a frame of the format's size over `bytes`. The payload must fit
    /// ([`FrameFormat::payload_max`]); a trailer is sealed afterwards.
    pub fn encode(mut self, payload: &[u8], format: &FrameFormat, bytes: &mut [u8]) {
        assert!(payload.len() <= format.payload_max() && bytes.len() == format.size);
        let lead = self.lead_mut();
        lead.frame_size = format.size as u16;
        lead.payload_len = payload.len() as u16;
        bytes[HEADER_LEN..HEADER_LEN + payload.len()].copy_from_slice(payload);
        bytes[HEADER_LEN + payload.len()..].fill(0);
        let header = &mut bytes[..HEADER_LEN];
        let written = match &self {
            Message::ClientRequest(m) => postcard::to_slice(m, header),
            Message::ClientResponse(m) => postcard::to_slice(m, header),
            Message::ControllerRequest(m) => postcard::to_slice(m, header),
            Message::ServerResponse(m) => postcard::to_slice(m, header),
        };
        let written = written.expect("a header is 112 bytes").len();
        debug_assert_eq!(written, HEADER_LEN);
    }

    fn lead_mut(&mut self) -> &mut Lead {
        match self {
            Message::ClientRequest(m) => &mut m.lead,
            Message::ClientResponse(m) => &mut m.lead,
            Message::ControllerRequest(m) => &mut m.lead,
            Message::ServerResponse(m) => &mut m.lead,
        }
    }
}

#[cfg(test)]
mod tests;
