//! ClientRequest: a request of a client.

use serde::{Deserialize, Serialize};

use super::{Lead, Report, Route};
use crate::wire::Kind;

/// From a client to the balancer, and with a complete route from the balancer to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientRequest {
    /// The first eight bytes of the frame.
    pub lead: Lead,
    /// Zero.
    pub status: u8,
    /// A [`crate::wire::Mode`]: whether the request may be repeated.
    pub mode: u8,
    /// 1 for the first attempt, incremented by each retry.
    pub attempt: u8,
    /// A [`crate::wire::ReplyPath`], set by the balancer at dispatch; zero before.
    pub op: u8,
    /// Time left until the client gives up, in microseconds; 0: no deadline.
    #[serde(with = "postcard::fixint::le")]
    pub deadline_us: u32,
    /// Random number of the client's process; it differs after a restart.
    #[serde(with = "postcard::fixint::le")]
    pub client_id: u64,
    /// The request's number at its client, from 1; the same in every attempt.
    #[serde(with = "postcard::fixint::le")]
    pub sequence: u64,
    /// Written by the balancer, except `incomplete`.
    pub route: Route,
    /// Zero; servers fill it in when they reply.
    pub report: Report,
}

impl ClientRequest {
    /// The first attempt of a request without a deadline.
    pub fn new(client_id: u64, sequence: u64) -> Self {
        ClientRequest {
            lead: Lead::new(Kind::ClientRequest),
            status: 0,
            mode: 0,
            attempt: 1,
            op: 0,
            deadline_us: 0,
            client_id,
            sequence,
            route: Route::default(),
            report: Report::default(),
        }
    }
}
