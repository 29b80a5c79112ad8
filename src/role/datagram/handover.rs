//! Handover: the state that a pool leaves to its successor.
//!
//! The successor has the same client-side sockets. It knows what the predecessor knew of the servers. With
//! `affinity: client` it has the predecessor's server-side ports too, and continues each flow on its port:
//! all workers have stopped before the first of them exports its flows, and the predecessor reads those ports
//! never again. Pairs in quarantine are included, so a late datagram still reaches its client or none.
//!
//! Without affinity, or if the successor cannot use the ports, it has ports of its own, and the predecessor
//! finishes its requests in flight. Then a flow keeps its *server* but not its port.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::DatagramRole;
use super::drain::{DrainPhase, Leaving, is_serving};
use super::forward::Forwarder;
use super::health::{DatagramPrimary, DatagramServer, Sensed};
use super::leases::PairRow;
use super::settings::Affinity;
use crate::base::batch::SocketId;
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
    /// The number of that socket at the worker.
    pub front_id: u16,
    /// The address to which the client sends, where the socket is bound to a wildcard.
    pub local_ip: Option<IpAddr>,
    /// The server's address.
    pub server: SocketAddr,
    /// Whether the server has ever sent anything.
    pub is_answered: bool,
    /// The flow's lease; `None` if its client has not sent a datagram since an earlier handover.
    pub lease: Option<FlowLease>,
}

/// The lease of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowLease {
    /// The number of the port towards the server, from 0.
    pub port: u16,
    /// The number of times for which the client has taken its pair again.
    pub returns: u32,
    /// Reply allowance.
    pub credit: u32,
    /// The time of its last datagram, or the beginning of its present timeout.
    pub since: Instant,
    /// The time of the client's last datagram.
    pub sent: Instant,
}

/// A pair in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RestingPair {
    pub client: SocketAddr,
    pub front: SocketAddr,
    pub front_id: u16,
    pub local_ip: Option<IpAddr>,
    pub server: SocketAddr,
    pub port: u16,
    pub row: PairRow,
    pub until: Instant,
    pub returns: u32,
    pub credit: u32,
    pub is_answered: bool,
}

/// Where a successor has the sockets of its predecessor's workers. The default is for tests: workers without
/// a common socket, whose client-side sockets have equal addresses.
#[derive(Debug, Default)]
pub struct SocketOrigins {
    /// By worker and number of a client-side socket of the predecessor: the worker here that reads the
    /// socket, and its number there.
    pub fronts: HashMap<(u16, u16), (u16, u16)>,
    /// By worker of the predecessor: where its server-side ports are. Empty if this pool has ports of its
    /// own.
    pub ports: Vec<PortOrigin>,
}

/// Where a successor has the server-side ports of one worker of its predecessor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortOrigin {
    /// The worker that reads them.
    pub worker: u16,
    /// The number of the first port for IPv4 servers.
    pub v4: u16,
    /// The number of the first port for IPv6 servers.
    pub v6: u16,
}

/// The state that one worker leaves.
#[derive(Debug, Serialize, Deserialize)]
struct DatagramWorkerState {
    /// The flows; none without `affinity: client`.
    flows: Vec<Flow>,
    /// Pairs in quarantine.
    resting: Vec<RestingPair>,
    /// What the primary knows of the servers; `None` from other workers.
    known: Option<KnownServers>,
}

/// What the primary knows of the servers.
#[derive(Debug, Serialize, Deserialize)]
struct KnownServers {
    servers: Vec<KnownServer>,
    departed: Vec<DepartedServer>,
    /// Servers that have left, and until when datagrams of their time may arrive.
    left: Vec<(SocketAddr, Instant)>,
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
        let known = self.primary.as_ref().map(|primary| primary.known(now));
        let resting = self.matching.export_resting(&self.core, now);
        Part::new(VERSION, &DatagramWorkerState { flows: self.export_flows(now), resting, known })
    }

    /// Continues with what the workers of a predecessor left, after [`DatagramRole::take_servers`]. Their
    /// number may differ. `origins` says where their sockets are now.
    ///
    /// Flows continue on their ports if these are here. Otherwise a client goes to its server again at its
    /// next datagram, if that may keep flows. A flow without a datagram within the idle timeout ends.
    ///
    /// # Errors
    /// If the state is not readable.
    pub fn import(
        workers: &mut [&mut DatagramRole],
        now: Instant,
        parts: &[Part],
        origins: &SocketOrigins,
    ) -> Result<(), Unreadable> {
        let states = read(parts)?;
        let with_flows = states.iter().flat_map(|state| &state.flows).map(|flow| flow.server).collect();
        let mut left = vec![];
        let mut inherited: Vec<(Vec<Flow>, Vec<RestingPair>)> =
            workers.iter().map(|_| <_>::default()).collect();
        for (number, DatagramWorkerState { flows, resting, known }) in (0..).zip(states) {
            if let (Some(known), Some(primary)) = (known, workers.first_mut()) {
                left.extend_from_slice(&known.left);
                primary.import_known(now, known, &with_flows);
            }
            let reader = Reader { number, origins, workers: inherited.len() as u16 };
            for flow in flows {
                let Some((worker, front_id)) = reader.front(workers, flow.front, flow.front_id) else {
                    continue;
                };
                let lease = flow.lease.and_then(|lease| {
                    reader.port(worker, lease.port, flow.server).map(|port| FlowLease { port, ..lease })
                });
                inherited[usize::from(worker)].0.push(Flow { front_id, lease, ..flow });
            }
            for rests in resting {
                let Some((worker, front_id)) = reader.front(workers, rests.front, rests.front_id) else {
                    continue;
                };
                if let Some(port) = reader.port(worker, rests.port, rests.server) {
                    inherited[usize::from(worker)].1.push(RestingPair { front_id, port, ..rests });
                }
            }
        }
        if let Some(primary) = workers.first_mut().and_then(|worker| worker.primary.as_mut())
            && origins.ports.is_empty()
        {
            primary.slots.former.clear(); // nothing arrives at new ports
        }
        for (worker, (flows, resting)) in workers.iter_mut().zip(inherited) {
            worker.core.refresh();
            worker.import_flows(now, flows, resting);
            let DatagramRole { core, matching, .. } = &mut **worker;
            if let Some(by_port) = matching.by_port().filter(|_| !origins.ports.is_empty()) {
                left.iter().for_each(|&(server, until)| by_port.rest_all(core, server, until));
            }
        }
        Ok(())
    }

    /// The flows of this worker, at most one for each of its pairs of port and server. None without affinity.
    pub(super) fn export_flows(&self, now: Instant) -> Vec<Flow> {
        self.matching.export(&self.core, now)
    }

    pub(super) fn import_flows(&mut self, now: Instant, flows: Vec<Flow>, resting: Vec<RestingPair>) {
        let DatagramRole { core, matching, .. } = self;
        if let Some(by_port) = matching.by_port() {
            let (here, moved): (Vec<_>, Vec<_>) = flows.into_iter().partition(|flow| flow.lease.is_some());
            by_port.continue_from(core, now, here, resting);
            by_port.import(core, now, &moved);
        }
    }

    fn import_known(&mut self, now: Instant, known: KnownServers, with_flows: &HashSet<SocketAddr>) {
        if let Some(primary) = &mut self.primary {
            primary.continue_from(&mut self.core, now, known, with_flows);
        }
    }
}

fn read(parts: &[Part]) -> Result<Vec<DatagramWorkerState>, Unreadable> {
    parts.iter().map(|part| part.state(VERSION)).collect()
}

/// Finds the sockets of one worker of the predecessor.
struct Reader<'a> {
    /// The number of that worker.
    number: u16,
    origins: &'a SocketOrigins,
    /// The number of workers here.
    workers: u16,
}

impl Reader<'_> {
    /// The worker that reads this client-side socket now, and its number there. Without origins, the worker
    /// of the same number, at its socket of the same address.
    fn front(&self, workers: &[&mut DatagramRole], addr: SocketAddr, id: u16) -> Option<(u16, u16)> {
        if !self.origins.fronts.is_empty() {
            return self.origins.fronts.get(&(self.number, id)).copied();
        }
        let worker = self.number % self.workers;
        let SocketId(front) = workers[usize::from(worker)].core.front_at(addr)?;
        Some((worker, front))
    }

    /// The number of this port at a worker here; `None` if that worker does not read it.
    fn port(&self, worker: u16, port: u16, server: SocketAddr) -> Option<u16> {
        let origin = self.origins.ports.get(usize::from(self.number))?;
        let first = if server.is_ipv4() { origin.v4 } else { origin.v6 };
        (origin.worker == worker).then(|| first + port)
    }
}

impl DatagramPrimary {
    fn known(&self, now: Instant) -> KnownServers {
        let registry = self.pool.registry();
        let left = self.slots.left.iter().flatten().map(|left| (left.addr, left.until));
        let left = left.chain(self.slots.former.iter().copied());
        let is_away =
            |&(addr, until): &(SocketAddr, Instant)| until > now && registry.slot_at(addr).is_none();
        let mut known = KnownServers {
            servers: vec![],
            departed: registry.departed.iter().cloned().collect(),
            left: left.filter(is_away).collect(),
        };
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
        if core.settings.affinity == Affinity::Client {
            self.slots.former.clone_from(&known.left);
        }
        known.departed.into_iter().for_each(|server| self.pool.registry_mut().departed.keep(server));
        for server in known.servers {
            let Some(slot) = self.pool.registry().slot_at(server.addr) else {
                let drain = server.drain(now).filter(|_| with_flows.contains(&server.addr));
                if let Some(departed) = self.drain_on(core, now, server, drain) {
                    self.pool.registry_mut().departed.keep(departed);
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

    /// Continues the drain of a server that is not desired, and else returns what remains of it. The caller
    /// publishes the server.
    fn drain_on(
        &mut self,
        core: &Forwarder,
        now: Instant,
        known: KnownServer,
        drain: Option<Leaving>,
    ) -> Option<DepartedServer> {
        let is_empty = |slot| core.shared.pool.tree.len(slot) == 0;
        let slot = self.slots.find(now, known.addr, self.pool.registry(), is_empty);
        let (Some(slot), Some(leaving)) = (slot, drain) else { return Some(known.departed()) };
        if core.ports_to(known.addr).is_empty() {
            return Some(known.departed());
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
        None
    }
}
