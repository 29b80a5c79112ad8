//! ClientRequest: a client asks for service.

use serde::{Deserialize, Serialize};

use super::{Lead, Report, Route};
use crate::wire::Kind;

/// From a client to the balancer, and, with its route filled in, from the balancer to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientRequest {
    /// What every frame starts with.
    pub lead: Lead,
    /// Zero.
    pub status: u8,
    /// A [`crate::wire::Mode`]: what the client promises about repeating it.
    pub mode: u8,
    /// 1 for the first attempt, counted up by each retry.
    pub attempt: u8,
    /// As the balancer dispatches it, a [`crate::wire::ReplyPath`]; zero before.
    pub op: u8,
    /// Time left until the client gives up, in microseconds; 0 = no deadline.
    #[serde(with = "postcard::fixint::le")]
    pub deadline_us: u32,
    /// Random number of the client's process start: never the same after a restart.
    #[serde(with = "postcard::fixint::le")]
    pub client_id: u64,
    /// The request's number at its client, from 1; the same in every attempt.
    #[serde(with = "postcard::fixint::le")]
    pub sequence: u64,
    /// Filled in by the balancer, but for `incomplete`.
    pub route: Route,
    /// Zero: servers fill it in as they answer.
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
