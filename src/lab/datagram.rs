//! A datagram pool: the real datagram role, and unmodified servers that echo.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::addresses::Endpoint;
use super::contender::PolicyUnderTest;
use super::links::DATAGRAM;
use super::machine::ServerEnd;
use super::setup::{Setup, WAITING_MAX};
use super::world::{Meaning, NewEnd, PoolModel};
use crate::base::batch::{Rx, SocketId, Tx};
use crate::base::time::Instant;
use crate::pool::desired::DesiredServer;
use crate::pool::health::Rules;
use crate::pool::select::Slot;
use crate::role::Role;
use crate::role::datagram::{
    Affinity, Chance, Check, DatagramRole, DatagramSettings, HealthCheck, Protocol, ProxyProtocol, Sockets,
    WorkerSockets,
};

/// Server-side ports: all requests come from one client, which uses one pair of port and server per request.
const PORTS: u16 = 4;
/// Timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct DatagramModel;

impl PoolModel for DatagramModel {
    type Balancer = DatagramRole;
    type End = PlainServer;

    const FRONT: SocketId = SocketId(0);

    fn balancer(
        setup: &Setup,
        contender: PolicyUnderTest,
        number: u32,
        seed: u64,
        now: Instant,
    ) -> DatagramRole {
        let settings = DatagramSettings {
            name: "lab".into(),
            protocol: Protocol::Datagram,
            affinity: Affinity::None,
            workers: 1,
            servers_max: setup.servers_of_one(),
            policy: contender.policy,
            max_outstanding: contender.max_outstanding,
            waiting_max: WAITING_MAX,
            timeout: TIMEOUT.max(setup.service.mean() * 100),
            replies: Some(1),
            hold: None,
            idle_timeout: TIMEOUT,
            drain_timeout: Duration::from_secs(30),
            proxy_protocol: ProxyProtocol::Off,
            transparent: false,
            allow: vec![],
            deny: vec![],
            rate_per_source: None,
            rate_limit_truncate: 2,
            notify_all: false,
            flows_per_source: None,
            tcp_connections_per_source: 16,
            tcp_idle_timeout: Duration::from_secs(30),
            health: HealthCheck {
                check: Check::None,
                interval: Duration::from_secs(1),
                timeout: Duration::from_millis(500),
                rcodes: vec![0, 3],
                rules: Rules::default(),
            },
        };
        let sockets = Sockets { fronts: 0..1, v4: 1..1 + PORTS, v6: 0..0, check_v4: None, check_v6: None };
        let addrs = (0..=PORTS).map(|socket| Endpoint::Balancer(number, SocketId(socket)).into()).collect();
        let chance = Chance { secret: [seed as u8; 16], seed };
        let (_, mut workers) =
            DatagramRole::workers(settings, chance, &[WorkerSockets { sockets, addrs }], now);
        workers.pop().expect("one worker")
    }

    fn end(_: &Setup, _: NewEnd, _: Instant) -> PlainServer {
        PlainServer::default()
    }

    fn take_servers(balancer: &mut DatagramRole, now: Instant, servers: &[(SocketAddr, u16)]) {
        let wanted = servers.iter().zip(0..).map(|(&(addr, weight), id)| DesiredServer { addr, id, weight });
        balancer.shared().want(wanted.collect());
        balancer.take_servers(now);
    }

    fn is_ready(balancer: &DatagramRole, servers: usize) -> bool {
        (0..servers).all(|slot| balancer.shared().tree().is_eligible(Slot::new(slot)))
    }

    fn write_request(request: usize, bytes: &mut [u8; DATAGRAM]) -> usize {
        bytes[..8].copy_from_slice(&(request as u64).to_le_bytes());
        bytes[8] = REQUEST;
        LEN
    }

    fn meaning(bytes: &[u8]) -> Meaning {
        let request =
            u64::from_le_bytes(*bytes.first_chunk().expect("every datagram has a request number")) as usize;
        match bytes[8] {
            REQUEST => Meaning::Request(request),
            _ => Meaning::Reply { request, is_ok: true },
        }
    }

    fn believed(balancer: &DatagramRole, server: usize, _: &[u8]) -> u32 {
        // Servers took the slots in their order.
        balancer.shared().tree().len(Slot::new(server))
    }
}

/// Request number, and whether the datagram is a request or its response.
const LEN: usize = 9;
const REQUEST: u8 = 0;
const REPLY: u8 = 1;

/// An unmodified server: its queue, with the sender of each request.
#[derive(Default)]
pub(super) struct PlainServer {
    waiting: VecDeque<EchoRequest>,
    in_service: usize,
    finished: VecDeque<EchoRequest>,
}

type EchoRequest = (SocketAddr, [u8; LEN]);

impl Role for PlainServer {
    fn on_batch(&mut self, _: Instant, rx: &mut Rx, _: &mut Tx) {
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            if let Some(&bytes) = bytes.first_chunk() {
                self.waiting.push_back((received.peer, bytes));
            }
        }
    }

    fn on_timeout(&mut self, _: Instant, tx: &mut Tx) {
        for (to, mut bytes) in self.finished.drain(..) {
            bytes[8] = REPLY;
            if let Some(staged) = tx.destination(SocketId(0), to, None).and_then(|d| tx.stage(d, LEN)) {
                staged.copy_from_slice(&bytes);
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.finished.front().map(|_| Instant::ZERO)
    }
}

impl ServerEnd for PlainServer {
    type Job = EchoRequest;

    fn held(&self) -> usize {
        self.waiting.len() + self.in_service
    }

    fn set_elsewhere(&mut self, _: u32) {
        // An unmodified server reports nothing.
    }

    fn take(&mut self, _: Instant) -> Option<(EchoRequest, usize)> {
        let asked = self.waiting.pop_front()?;
        self.in_service += 1;
        Some((asked, u64::from_le_bytes(*asked.1.first_chunk().expect("longer")) as usize))
    }

    fn finish(&mut self, asked: EchoRequest, _: Duration) {
        self.in_service -= 1;
        self.finished.push_back(asked);
    }
}
