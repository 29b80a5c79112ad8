//! Pools for fuzz targets: one role, its memory, and the datagrams of one turn.
//!
//! The tables of a role are too large to be made for each input. So a role lives as long as the process, and
//! each input leaves it at rest: a later input finds nothing of an earlier one except counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lbd::base::batch::{Received, Rx, SocketId, Tx};
use lbd::base::time::Instant;
use lbd::pool::desired::DesiredServer;
use lbd::pool::health::Rules;
use lbd::pool::select::PolicyKind;
use lbd::role::Role;
use lbd::role::datagram::{
    Affinity, Chance, Check, DatagramRole, DatagramSettings, DatagramShared, HealthCheck, Protocol,
    ProxyProtocol, Sockets, WorkerSockets,
};

/// The client-side socket of a datagram pool.
pub const FRONT: u16 = 0;
/// The server-side sockets of a datagram pool.
pub const BACKS: std::ops::Range<u16> = 1..1 + PORTS;
const PORTS: u16 = 4;
/// Timeout and idle timeout of a pool.
const TIMEOUT: Duration = Duration::from_millis(3);
/// Longer than both timeouts, their quarantines, and the time between two ticks of a worker. Short enough
/// that its rarer tasks do not run for each input.
const STEP: Duration = Duration::from_millis(12);
/// Room for a datagram.
const SLOT_SIZE: usize = 4_096;

/// The only client.
pub fn client() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 7], 40_000))
}

/// The only server.
pub fn server() -> SocketAddr {
    SocketAddr::from(([10, 1, 0, 1], 53))
}

/// A datagram that was sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Sent {
    /// The socket.
    pub socket: u16,
    /// The receiver.
    pub to: SocketAddr,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The memory of a turn, and the clock.
pub struct Turns {
    /// The time of the next turn.
    pub now: Instant,
    rx: Rx,
    tx: Tx,
}

impl Default for Turns {
    fn default() -> Self {
        Turns {
            now: Instant::from_nanos(5_000_000_000),
            rx: Rx::new(1, SLOT_SIZE),
            tx: Tx::new(64, SLOT_SIZE, 1),
        }
    }
}

impl Turns {
    /// A turn with one datagram, or none if `bytes` is empty.
    pub fn turn(&mut self, role: &mut impl Role, socket: u16, peer: SocketAddr, bytes: &[u8]) -> Vec<Sent> {
        let Turns { now, rx, tx } = self;
        rx.clear();
        tx.clear();
        if !bytes.is_empty() {
            rx.slot_mut(0)[..bytes.len()].copy_from_slice(bytes);
            let len = bytes.len() as u32;
            let socket = SocketId(socket);
            rx.push(Received { socket, peer, local_ip: None, slot: 0, start: 0, len, stride: len });
        }
        role.on_batch(*now, rx, tx);
        role.on_timeout(*now, tx);
        let mut sent = vec![];
        for destination in tx.destinations() {
            let (socket, to) = (destination.socket.0, destination.to);
            sent.extend(tx.frames(destination).map(|frame| Sent {
                socket,
                to,
                bytes: tx.bytes(rx, frame).to_vec(),
            }));
        }
        sent
    }
}

/// A datagram pool with one worker and one server.
pub struct Pool {
    /// The worker.
    pub role: DatagramRole,
    /// What it shares with the TCP side.
    pub shared: Arc<DatagramShared>,
    /// Its turns.
    pub turns: Turns,
}

impl Pool {
    /// A pool of this protocol.
    pub fn new(protocol: Protocol, proxy_protocol: ProxyProtocol) -> Pool {
        let turns = Turns::default();
        let mut addrs = vec![SocketAddr::from(([192, 0, 2, 53], 53))];
        addrs.extend((0..PORTS).map(|n| SocketAddr::from(([0; 4], 20_000 + n))));
        let sockets = Sockets { fronts: FRONT..FRONT + 1, v4: BACKS, ..Sockets::default() };
        let sockets = [WorkerSockets { sockets, addrs }];
        let chance = Chance { secret: [7; 16], seed: 1 };
        let (shared, mut workers) =
            DatagramRole::workers(settings(protocol, proxy_protocol), chance, &sockets, turns.now);
        shared.want(vec![DesiredServer { addr: server(), id: 1, weight: 1 }]);
        let mut role = workers.remove(0);
        role.take_servers(turns.now);
        Pool { role, shared, turns }
    }

    /// A turn with one datagram, or none if `bytes` is empty.
    pub fn turn(&mut self, socket: u16, peer: SocketAddr, bytes: &[u8]) -> Vec<Sent> {
        self.turns.turn(&mut self.role, socket, peer, bytes)
    }

    /// Lets time pass until nothing is in flight. Events are dropped.
    pub fn rest(&mut self) {
        self.turns.now += STEP;
        let sent = self.turn(FRONT, client(), &[]);
        assert_eq!(sent, [], "time alone sends nothing");
        while self.role.poll_event().is_some() {}
        assert_eq!(self.shared.tree().total(), 0, "requests in flight at rest");
    }
}

fn settings(protocol: Protocol, proxy_protocol: ProxyProtocol) -> DatagramSettings {
    let is_flow = proxy_protocol == ProxyProtocol::First;
    DatagramSettings {
        name: "pool".into(),
        protocol,
        affinity: if is_flow { Affinity::Client } else { Affinity::None },
        workers: 1,
        servers_max: 2,
        policy: PolicyKind::ShortestQueue,
        max_outstanding: None,
        waiting_max: 0,
        timeout: TIMEOUT,
        replies: if is_flow { None } else { Some(1) },
        hold: Some(TIMEOUT),
        idle_timeout: TIMEOUT,
        drain_timeout: TIMEOUT,
        proxy_protocol,
        transparent: false,
        allow: vec![],
        deny: vec![],
        rate_per_source: None,
        rate_limit_truncate: 0,
        notify_all: false,
        flows_per_source: None,
        tcp_connections_per_source: 16,
        tcp_idle_timeout: Duration::from_secs(30),
        health: HealthCheck {
            check: Check::None,
            interval: Duration::from_secs(1),
            timeout: TIMEOUT,
            rcodes: vec![0, 3],
            rules: Rules::default(),
        },
    }
}
