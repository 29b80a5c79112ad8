//! Handover: the state that a pool leaves to its successor.
//!
//! The successor has the same client-side sockets, and server-side ports of its own. The predecessor finishes
//! its requests in flight. So the state is small: what is known of the servers, and with `affinity: client`
//! the server of each client. A flow keeps its *server* but not its port. A server that tells its clients
//! apart by their port sees a new client.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::DatagramRole;
use super::forward::Forwarder;
use super::health::DatagramPrimary;
use crate::base::time::Instant;
use crate::pool::departed::{DepartedServer, PastRecord};
use crate::pool::health::Health;
use crate::pool::order::AdminState;
use crate::pool::part::{Part, Unreadable};

/// The version of [`DatagramWorkerState`]. It must rise whenever the order, type or presence of a field
/// changes.
const VERSION: u32 = 2;

/// A flow: a client and its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The client's address.
    pub client: SocketAddr,
    /// The address to which the client-side socket is bound.
    pub front: SocketAddr,
    /// The address to which the client sends, where the socket is bound to a wildcard.
    pub local_ip: Option<IpAddr>,
    /// The server's address.
    pub server: SocketAddr,
    /// Whether the server has ever sent anything.
    pub is_answered: bool,
}

/// The state that one worker leaves.
#[derive(Debug, Serialize, Deserialize)]
struct DatagramWorkerState {
    /// The flows; none without `affinity: client`.
    flows: Vec<Flow>,
    /// What the primary knows of the servers; `None` from other workers.
    known: Option<KnownServers>,
}

/// What the primary knows of the servers.
#[derive(Debug, Serialize, Deserialize)]
struct KnownServers {
    servers: Vec<KnownServer>,
    departed: Vec<DepartedServer>,
}

/// What the primary knows of a server that stays.
#[derive(Debug, Serialize, Deserialize)]
struct KnownServer {
    id: u32,
    addr: SocketAddr,
    health: Health,
    admin: AdminState,
    slow_since: Option<Instant>,
}

impl DatagramRole {
    /// The state of this worker for a successor: its flows, and, from the primary, the servers' health,
    /// failure records and orders.
    pub fn export(&self, now: Instant) -> Part {
        let known = self.primary.as_ref().map(|primary| primary.known());
        Part::new(VERSION, &DatagramWorkerState { flows: self.export_flows(now), known })
    }

    /// Continues with what the workers of a predecessor left, after [`DatagramRole::take_servers`]. Their
    /// number may differ.
    ///
    /// At its next datagram a client goes to its server again, if that may keep flows. A flow without a
    /// datagram within the idle timeout ends. Any worker takes the flows of any other: a client that never
    /// sends to it does no harm.
    pub fn import(workers: &mut [&mut DatagramRole], now: Instant, parts: &[Part]) -> Result<(), Unreadable> {
        let states =
            parts.iter().map(|part| part.state(VERSION)).collect::<Result<Vec<DatagramWorkerState>, _>>()?;
        let count = workers.len();
        for (number, DatagramWorkerState { flows, known }) in states.into_iter().enumerate() {
            if let (Some(known), Some(primary)) = (known, workers.first_mut()) {
                primary.import_known(now, known);
            }
            workers[number % count].import_flows(now, &flows);
        }
        Ok(())
    }

    /// The flows of this worker, at most one for each of its pairs of port and server. None without affinity.
    pub(super) fn export_flows(&self, now: Instant) -> Vec<Flow> {
        self.matching.export(&self.core, now)
    }

    pub(super) fn import_flows(&mut self, now: Instant, flows: &[Flow]) {
        self.matching.import(&mut self.core, now, flows);
    }

    fn import_known(&mut self, now: Instant, known: KnownServers) {
        if let Some(primary) = &mut self.primary {
            primary.continue_from(&mut self.core, now, known);
        }
    }
}

impl DatagramPrimary {
    fn known(&self) -> KnownServers {
        let registry = self.pool.registry();
        let mut known =
            KnownServers { servers: vec![], departed: registry.departed.iter().cloned().collect() };
        for (_, server) in registry.iter() {
            let (id, addr) = (server.id, server.addr);
            if server.is_leaving {
                known.departed.push(DepartedServer { id, addr, past: server.past() });
                continue;
            }
            let (health, admin, slow_since) = (server.health.clone(), server.admin, server.slow_since);
            known.servers.push(KnownServer { id, addr, health, admin, slow_since });
        }
        known
    }

    /// Continues from what a predecessor knew. A server that is not desired (yet) counts as departed.
    fn continue_from(&mut self, core: &mut Forwarder, now: Instant, known: KnownServers) {
        if !known.servers.is_empty() {
            self.pool.had_servers();
        }
        let first = self.pool.settings().first_state;
        let registry = self.pool.registry_mut();
        known.departed.into_iter().for_each(|server| registry.departed.keep(server));
        for KnownServer { id, addr, health, admin, slow_since } in known.servers {
            let Some(slot) = registry.slot_at(addr) else {
                let past = PastRecord { admin, record: health.record().clone() };
                registry.departed.keep(DepartedServer { id, addr, past });
                continue;
            };
            let server = registry.get_mut(slot).expect("the slot has a server");
            server.weight = admin.weight(server.weight);
            server.extra.heard_at = health.last_alive();
            server.extra.next_trial = now + server.extra.trial_pause;
            core.shared.signals[slot.index()].hear(server.extra.heard_at);
            (server.health, server.admin, server.slow_since) = (health, admin, slow_since);
        }
        // Servers that had left the predecessor, and are members here.
        for slot in registry.slots() {
            let Some((id, addr)) = registry.get(slot).map(|server| (server.id, server.addr)) else {
                continue;
            };
            if registry.departed.contains(id, addr) {
                let past = registry.departed.take(id, addr);
                let server = registry.get_mut(slot).expect("the slot has a server");
                server.weight = past.admin.weight(server.weight);
                (server.health, server.admin) = (past.health(first, now), past.admin);
            }
        }
        self.pool.publish_all(now);
        core.refresh();
    }
}
