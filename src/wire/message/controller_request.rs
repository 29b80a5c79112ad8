//! ControllerRequest: orders between balancer, controller and servers.

use serde::{Deserialize, Serialize};

use super::{Lead, Route};
use crate::wire::{Kind, RequestOp};

/// From the balancer to the controller (grow, shrink) and back (ack, challenge), and from the balancer
/// to a server (sync, challenge).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerRequest {
    /// The first eight bytes of the frame.
    pub lead: Lead,
    /// A [`crate::wire::Status`], in an ack.
    pub status: u8,
    /// Zero.
    pub mode: u8,
    /// Number of times this request was sent, saturating.
    pub attempt: u8,
    /// A [`RequestOp`].
    pub op: u8,
    /// Zero.
    #[serde(with = "postcard::fixint::le")]
    pub deadline_us: u32,
    /// Random number of the requesting process; echoed in answers.
    #[serde(with = "postcard::fixint::le")]
    pub instance: u64,
    /// Number of the request, echoed in its ack. In a sync the nonce of the server's registration.
    #[serde(with = "postcard::fixint::le")]
    pub number: u64,
    /// In a sync: `worker`, epochs, `slot`, and `dispatch_seq` = requests sent so far. The sync comes
    /// from the worker's address. `cookie` is the nonce of a challenge or of its echo.
    pub route: Route,
    /// Grow: the desired number of servers. Shrink: the id of the server to stop.
    #[serde(with = "postcard::fixint::le")]
    pub target: u32,
    /// The load that led to the order, in thousandths of a request per server.
    #[serde(with = "postcard::fixint::le")]
    pub load_milli: u32,
    /// Servers that are up.
    #[serde(with = "postcard::fixint::le")]
    pub servers_up: u32,
    /// Zero.
    pub reserved: [u8; 16],
    /// In a sync: the server's [`crate::wire::ServerState`] as the balancer knows it.
    pub server_state: u8,
    /// Zero.
    pub reserved_end: [u8; 3],
}

impl ControllerRequest {
    /// An order of this process.
    pub fn new(op: RequestOp, instance: u64, number: u64) -> Self {
        ControllerRequest {
            lead: Lead::new(Kind::ControllerRequest),
            status: 0,
            mode: 0,
            attempt: 1,
            op: op as u8,
            deadline_us: 0,
            instance,
            number,
            route: Route::default(),
            target: 0,
            load_milli: 0,
            servers_up: 0,
            reserved: [0; 16],
            server_state: 0,
            reserved_end: [0; 3],
        }
    }
}
