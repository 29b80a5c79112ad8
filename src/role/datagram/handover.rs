//! Handover: the state that a pool leaves to its successor.
//!
//! The successor has the same client-side sockets, and server-side ports of its own. The predecessor finishes
//! its requests in flight. So the state is small: what is known of the servers, and with `affinity: client`
//! the server of each client. A flow keeps its *server* but not its port. A server that tells its clients
//! apart by their port sees a new client.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::DatagramRole;
use super::drain::{DrainPhase, Leaving, is_serving};
use super::forward::Forwarder;
use super::health::{DatagramPrimary, DatagramServer, Sensed};
use crate::base::time::Instant;
use crate::pool::departed::{DepartedServer, PastRecord};
use crate::pool::health::{Health, State};
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

/// What the primary knows of a server.
#[derive(Debug, Serialize, Deserialize)]
struct KnownServer {
    id: u32,
    addr: SocketAddr,
    weight: u16,
    health: Health,
    admin: AdminState,
    slow_since: Option<Instant>,
    /// Its drain, if it leaves.
    leaving: Option<Leaving>,
}

impl KnownServer {
    fn departed(self) -> DepartedServer {
        let past = PastRecord { admin: self.admin, record: self.health.record().clone() };
        DepartedServer { id: self.id, addr: self.addr, past }
    }

    /// Its drain at a successor that does not desire it; `None` if its flows move.
    fn drain(&self, now: Instant) -> Option<Leaving> {
        let leaving = match self.leaving {
            Some(leaving) => leaving,
            None if is_serving(self.health.state()) => Leaving::new(now, DrainPhase::Flows),
            None => return None,
        };
        (leaving.phase == DrainPhase::Flows).then(|| leaving.handed_over())
    }
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
        let with_flows = states.iter().flat_map(|state| &state.flows).map(|flow| flow.server).collect();
        let count = workers.len();
        for (number, DatagramWorkerState { flows, known }) in states.into_iter().enumerate() {
            if let (Some(known), Some(primary)) = (known, workers.first_mut()) {
                primary.import_known(now, known, &with_flows);
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

    fn import_known(&mut self, now: Instant, known: KnownServers, with_flows: &HashSet<SocketAddr>) {
        if let Some(primary) = &mut self.primary {
            primary.continue_from(&mut self.core, now, known, with_flows);
        }
    }
}

impl DatagramPrimary {
    fn known(&self) -> KnownServers {
        let registry = self.pool.registry();
        let mut known =
            KnownServers { servers: vec![], departed: registry.departed.iter().cloned().collect() };
        for (_, server) in registry.iter() {
            let &DatagramServer { id, addr, weight, ref health, admin, slow_since, ref extra, .. } = server;
            let (health, leaving) = (health.clone(), extra.leaving);
            known.servers.push(KnownServer { id, addr, weight, health, admin, slow_since, leaving });
        }
        known
    }

    /// Continues from what a predecessor knew. A server that is not desired (yet) drains if it has flows, and
    /// else counts as departed.
    fn continue_from(
        &mut self,
        core: &mut Forwarder,
        now: Instant,
        known: KnownServers,
        with_flows: &HashSet<SocketAddr>,
    ) {
        if !known.servers.is_empty() {
            self.pool.had_servers();
        }
        let first = self.pool.settings().first_state;
        known.departed.into_iter().for_each(|server| self.pool.registry_mut().departed.keep(server));
        for server in known.servers {
            let Some(slot) = self.pool.registry().slot_at(server.addr) else {
                let drain = server.drain(now).filter(|_| with_flows.contains(&server.addr));
                if let Err(server) = self.drain_on(core, now, server, drain) {
                    self.pool.registry_mut().departed.keep(server.departed());
                }
                continue;
            };
            if server.leaving.is_some() {
                self.pool.registry_mut().departed.keep(server.departed()); // it is back
                continue;
            }
            let KnownServer { health, admin, slow_since, .. } = server;
            let server = self.pool.registry_mut().get_mut(slot).expect("the slot has a server");
            server.weight = admin.weight(server.weight);
            server.extra.heard_at = health.last_alive();
            server.extra.next_trial = now + server.extra.trial_pause;
            core.shared.signals[slot.index()].hear(server.extra.heard_at);
            if health.state() == State::Up {
                server.extra.checks.note_up();
            }
            (server.health, server.admin, server.slow_since) = (health, admin, slow_since);
        }
        self.rename_leaving();
        let registry = self.pool.registry_mut();
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

    /// Continues the drain of a server that is not desired, if there is a slot. The caller publishes it.
    fn drain_on(
        &mut self,
        core: &Forwarder,
        now: Instant,
        known: KnownServer,
        drain: Option<Leaving>,
    ) -> Result<(), KnownServer> {
        let is_empty = |slot| core.shared.pool.tree.len(slot) == 0;
        let slot = self.slots.find(now, known.addr, self.pool.registry(), is_empty);
        let (Some(slot), Some(leaving)) = (slot, drain) else { return Err(known) };
        if core.ports_to(known.addr).is_empty() {
            return Err(known);
        }
        self.slots.last_generation = self.slots.last_generation.wrapping_add(1);
        let KnownServer { id, addr, weight, health, admin, .. } = known;
        core.shared.signals[slot.index()].hear(health.last_alive());
        let sensed = self.sensed(core, now, slot, self.slots.last_generation);
        let server = DatagramServer {
            id,
            addr,
            weight,
            limits: self.limits(),
            health: Health::with_record(State::Draining, health.record().clone(), now),
            admin,
            is_leaving: true,
            is_doubted: false,
            slow_since: None,
            extra: Sensed { leaving: Some(leaving), ..sensed },
        };
        self.pool.registry_mut().put(slot, server);
        Ok(())
    }
}
