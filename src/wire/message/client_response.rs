//! ClientResponse: the reply to a client.

use serde::{Deserialize, Serialize};

use super::{Lead, Report, Route};
use crate::wire::Kind;

/// From the balancer (or, with direct replies, from a server) to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientResponse {
    /// The first eight bytes of the frame.
    pub lead: Lead,
    /// A [`crate::wire::Status`].
    pub status: u8,
    /// The request's mode.
    pub mode: u8,
    /// The attempt that is answered.
    pub attempt: u8,
    /// Zero.
    pub op: u8,
    /// With status Busy, the time to wait before the next attempt, in microseconds.
    #[serde(with = "postcard::fixint::le")]
    pub retry_after_us: u32,
    /// The request's client id.
    #[serde(with = "postcard::fixint::le")]
    pub client_id: u64,
    /// The request's sequence.
    #[serde(with = "postcard::fixint::le")]
    pub sequence: u64,
    /// Zero: the route stays inside the system.
    pub route: Route,
    /// Zero.
    pub report: Report,
}

impl ClientResponse {
    /// The reply to a request of this client.
    pub fn new(client_id: u64, sequence: u64) -> Self {
        ClientResponse {
            lead: Lead::new(Kind::ClientResponse),
            status: 0,
            mode: 0,
            attempt: 1,
            op: 0,
            retry_after_us: 0,
            client_id,
            sequence,
            route: Route::default(),
            report: Report::default(),
        }
    }
}
