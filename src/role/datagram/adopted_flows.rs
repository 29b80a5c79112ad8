//! Adopted flows: flows of a predecessor whose clients have not sent a datagram yet. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::request::DatagramClient;
use crate::base::time::Instant;

/// The server of an adopted flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MovedFlow {
    pub server: SocketAddr,
    /// Whether the server has ever sent a datagram in the flow.
    pub is_answered: bool,
}

/// Flows until a common end, each for the first datagram of its client. Only [`AdoptedFlows::add`] allocates.
#[derive(Debug)]
pub(super) struct AdoptedFlows {
    flows: HashMap<DatagramClient, MovedFlow>,
    max: usize,
    until: Instant,
}

impl AdoptedFlows {
    /// An empty table for at most `max` flows.
    pub fn new(max: usize) -> Self {
        AdoptedFlows { flows: HashMap::new(), max, until: Instant::ZERO }
    }

    /// Adds a flow, unless the table is full. All flows last at least `until` then.
    pub fn add(&mut self, until: Instant, client: DatagramClient, flow: MovedFlow) {
        self.until = self.until.max(until);
        if self.flows.len() < self.max {
            self.flows.insert(client, flow);
        }
    }

    /// Takes the flow of a client that has sent a datagram.
    pub fn take(&mut self, now: Instant, client: &DatagramClient) -> Option<MovedFlow> {
        if self.flows.is_empty() {
            return None; // nearly always: saves the hash
        }
        self.flows.remove(client).filter(|_| now < self.until)
    }

    /// The flows whose clients have not sent a datagram.
    pub fn iter(&self) -> impl Iterator<Item = (&DatagramClient, &MovedFlow)> {
        self.flows.iter()
    }

    /// Panics, with the numbers, if there are more flows than there may be.
    pub fn check_invariants(&self) {
        assert!(self.flows.len() <= self.max, "{} adopted flows, at most {}", self.flows.len(), self.max);
    }

    /// Removes all flows after their end.
    pub fn expire(&mut self, now: Instant) {
        if !self.flows.is_empty() && now >= self.until {
            self.flows = HashMap::new();
        }
    }
}
