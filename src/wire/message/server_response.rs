//! ServerResponse: replies, reports and registrations of a server.

use serde::{Deserialize, Serialize};

use super::{Lead, Report, Route};
use crate::wire::{Kind, ServerOp};

/// From a server to the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerResponse {
    /// The first eight bytes of the frame.
    pub lead: Lead,
    /// A [`crate::wire::Status`], in a reply.
    pub status: u8,
    /// In a reply the request's mode.
    pub mode: u8,
    /// In a reply the request's attempt.
    pub attempt: u8,
    /// A [`ServerOp`].
    pub op: u8,
    /// In a busy reply, the time to wait before the next attempt, in microseconds.
    #[serde(with = "postcard::fixint::le")]
    pub retry_after_us: u32,
    /// In a reply the client's id; otherwise the random number of the server's process.
    #[serde(with = "postcard::fixint::le")]
    pub client_id: u64,
    /// In a reply the request's sequence; in a registration the server's nonce.
    #[serde(with = "postcard::fixint::le")]
    pub sequence: u64,
    /// In a reply the request's route, unmodified. In a registration, `cookie` echoes the challenge.
    pub route: Route,
    /// Counters for the worker that receives the frame, and the server's queue.
    pub report: Report,
}

impl ServerResponse {
    /// A report or registration of this server process.
    pub fn new(op: ServerOp, instance: u64) -> Self {
        ServerResponse {
            lead: Lead::new(Kind::ServerResponse),
            status: 0,
            mode: 0,
            attempt: 0,
            op: op as u8,
            retry_after_us: 0,
            client_id: instance,
            sequence: 0,
            route: Route::default(),
            report: Report::default(),
        }
    }
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
