//! Flows of another process whose clients have not come yet. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::request::Client;
use crate::base::time::Instant;

/// Where a client's flow was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MovedFlow {
    pub server: SocketAddr,
    /// Whether that has ever sent anything.
    pub is_answered: bool,
}

/// At most so many flows, each for one datagram of its client, until a time. Nothing allocates but
/// [`AdoptedFlows::add`].
#[derive(Debug)]
pub(super) struct AdoptedFlows {
    flows: HashMap<Client, MovedFlow>,
    max: usize,
    until: Instant,
}

impl AdoptedFlows {
    /// None, and room for so many.
    pub fn new(max: usize) -> Self {
        AdoptedFlows { flows: HashMap::new(), max, until: Instant::ZERO }
    }

    /// Adds a flow, if there is room; all of them last until then.
    pub fn add(&mut self, until: Instant, client: Client, flow: MovedFlow) {
        self.until = self.until.max(until);
        if self.flows.len() < self.max {
            self.flows.insert(client, flow);
        }
    }

    /// The flow of a client that has come.
    pub fn take(&mut self, now: Instant, client: &Client) -> Option<MovedFlow> {
        if self.flows.is_empty() {
            return None; // as it is nearly always
        }
        self.flows.remove(client).filter(|_| now < self.until)
    }

    /// Those whose clients have not come.
    pub fn iter(&self) -> impl Iterator<Item = (&Client, &MovedFlow)> {
        self.flows.iter()
    }

    /// Forgets those that nobody comes for any more.
    pub fn expire(&mut self, now: Instant) {
        if !self.flows.is_empty() && now >= self.until {
            self.flows = HashMap::new();
        }
    }
}
