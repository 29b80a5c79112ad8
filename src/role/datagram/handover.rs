//! What a pool of one process leaves to that of its successor.
//!
//! The successor has the same front sockets and ports of its own: what is under way is finished where it began. So there is
//! little to tell: what is known of the servers, and with `affinity: client` which client has which server. A flow keeps its
//! *server*; the port towards it is another one, so that a server which tells its clients apart by their port sees a new one.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::DatagramRole;
use crate::base::time::Instant;
use crate::pool::departed::PastRecord;
use crate::pool::health::Health;
use crate::pool::order::AdminState;

/// A client that has a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Who.
    pub client: SocketAddr,
    /// The address that the front socket is bound to which it asks.
    pub front: SocketAddr,
    /// The address that it has asked, where that is a wildcard.
    pub local_ip: Option<IpAddr>,
    /// Where its server is.
    pub server: SocketAddr,
    /// Whether that has ever sent anything.
    pub is_answered: bool,
}

/// What is known of a pool's servers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Known {
    pub(super) servers: Vec<KnownServer>,
    /// Of servers that have left, by their addresses.
    pub(super) away: Vec<(SocketAddr, PastRecord)>,
}

/// What is known of a server that the pool has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct KnownServer {
    pub addr: SocketAddr,
    pub health: Health,
    pub standing: AdminState,
    pub slow_since: Option<Instant>,
}

impl DatagramRole {
    /// The flows of this worker, at most one for each of its pairs of port and server. None without affinity.
    pub fn export_flows(&self, now: Instant) -> Vec<Flow> {
        self.matching.export(&self.core, now)
    }

    /// Takes over flows of a predecessor. At its next datagram such a client goes to its server, if that may keep
    /// flows; those that have not come within the idle time-out are forgotten. Any worker takes those of any other: a
    /// client that never comes here does no harm.
    pub fn import_flows(&mut self, now: Instant, flows: &[Flow]) {
        self.matching.import(&mut self.core, now, flows);
    }

    /// What is known of the servers: their health, their failures, what an operator has said. Only the primary knows.
    pub fn export_members(&self) -> Known {
        self.primary.as_ref().map_or_else(Known::default, |primary| primary.known())
    }

    /// Goes on from what a predecessor knew of the servers that this pool has, or will have. For the primary, after
    /// [`DatagramRole::take_servers`].
    pub fn import_members(&mut self, now: Instant, known: &Known) {
        if let Some(primary) = &mut self.primary {
            primary.go_on_from(&mut self.core, now, known);
        }
    }
}
