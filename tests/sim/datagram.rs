//! Datagram pools on a lossy network in virtual time. After each turn of a worker its tables agree with the
//! counts that are kept elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lbd::base::batch::{Rx, SocketId, Tx};
use lbd::base::rng::Rng;
use lbd::base::time::{Instant, earliest};
use lbd::io::{DatagramIo, SimNet};
use lbd::pool::desired::DesiredServer;
use lbd::pool::health::Rules;
use lbd::pool::select::PolicyKind;
use lbd::pool::waiting::Limit;
use lbd::role::Role;
use lbd::role::datagram::{
    Affinity, Chance, Check, DatagramRole, DatagramSettings, DatagramShared, HealthCheck, Protocol,
    ProxyProtocol, Sockets, WorkerSockets,
};

use super::world::{MS, Node, client_addr, front_of, options, server_addr};
use super::{faults, seeds};

const WORKERS: usize = 2;
const SERVERS: u32 = 4;
const CLIENTS: usize = 12;
/// Server-side ports of a worker, too few for all clients at one server.
const PORTS: u16 = 4;
const ASKED: u64 = 1_000;
const TIMEOUT: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_millis(300);

/// A server that sends each datagram back with the QR bit of DNS set.
struct Echo;

impl Role for Echo {
    fn on_batch(&mut self, _: Instant, rx: &mut Rx, tx: &mut Tx) {
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            for query in bytes.chunks(received.stride as usize) {
                let to = tx.destination(received.socket, received.peer, None).expect("an empty turn");
                let response = tx.stage(to, query.len()).expect("an empty turn");
                response.copy_from_slice(query);
                response[2] |= 0x80;
            }
        }
    }

    fn on_timeout(&mut self, _: Instant, _: &mut Tx) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

/// A client that counts its responses.
struct Asker {
    number: usize,
    responses: u64,
}

/// A DNS query for the name of one label, the client's number.
fn query(client: usize, id: u16) -> Vec<u8> {
    let mut query = vec![0; 12];
    query[..2].copy_from_slice(&id.to_be_bytes());
    query[5] = 1;
    query.extend([1, client as u8, 0, 0, 1, 0, 1]);
    query
}

impl Role for Asker {
    fn on_batch(&mut self, _: Instant, rx: &mut Rx, _: &mut Tx) {
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            for response in bytes.chunks(received.stride as usize) {
                assert_eq!(usize::from(response[13]), self.number, "a response to another client's query");
                self.responses += 1;
            }
        }
    }

    fn on_timeout(&mut self, _: Instant, _: &mut Tx) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

struct DatagramWorld {
    net: SimNet,
    workers: Vec<Node<DatagramRole>>,
    shared: Arc<DatagramShared>,
    servers: Vec<Node<Echo>>,
    /// A server that stands still: what arrives there waits.
    frozen: Option<usize>,
    clients: Vec<Node<Asker>>,
}

impl DatagramWorld {
    fn new(seed: u64, settings: DatagramSettings, net: SimNet) -> DatagramWorld {
        let ports = |worker: u16| {
            (0..PORTS).map(move |n| SocketAddr::from(([10, 0, 0, 1], 56_000 + 100 * worker + n)))
        };
        let sockets: Vec<_> = (0..WORKERS)
            .map(|worker| WorkerSockets {
                sockets: Sockets {
                    fronts: 0..1,
                    v4: 1..1 + PORTS,
                    v6: 1 + PORTS..1 + PORTS,
                    ..Sockets::default()
                },
                addrs: std::iter::once(front_of(worker)).chain(ports(worker as u16)).collect(),
            })
            .collect();
        let chance = Chance { secret: [seed as u8; 16], seed };
        let (shared, roles) = DatagramRole::workers(settings, chance, &sockets, net.now());
        let attach = |addrs: &[SocketAddr]| net.attach(addrs, &options()).unwrap();
        let workers = roles.into_iter().zip(&sockets);
        let client =
            |number| Node { role: Asker { number, responses: 0 }, io: attach(&[client_addr(number)]) };
        DatagramWorld {
            workers: workers.map(|(role, of)| Node { role, io: attach(&of.addrs) }).collect(),
            servers: (0..SERVERS).map(|id| Node { role: Echo, io: attach(&[server_addr(id)]) }).collect(),
            clients: (0..CLIENTS).map(client).collect(),
            frozen: None,
            shared,
            net,
        }
    }

    /// Sets the desired servers: all but one.
    fn want_without(&self, id: Option<u32>) {
        let ids = (0..SERVERS).filter(|&other| Some(other) != id);
        self.shared.want(ids.map(|id| DesiredServer { addr: server_addr(id), id, weight: 1 }).collect());
    }

    fn run(&mut self, span: Duration) {
        let end = self.net.now() + span;
        loop {
            let now = self.net.now();
            for node in &mut self.workers {
                if node.turn_if_due(now) {
                    node.role.check_invariants();
                }
                while node.role.poll_event().is_some() {}
            }
            for (number, node) in self.servers.iter_mut().enumerate() {
                if self.frozen != Some(number) {
                    node.turn_if_due(now);
                }
            }
            for node in &mut self.clients {
                node.turn_if_due(now);
            }
            if now >= end {
                return;
            }
            let deadlines = self.workers.iter().map(|node| node.role.next_deadline());
            let next = deadlines.fold(earliest(self.net.next_event(), Some(end)), earliest);
            self.net.advance(next.unwrap().max(now + Duration::from_micros(1)).min(end));
        }
    }

    fn ask(&mut self, client: usize, id: u16) {
        let (_, tx) = self.clients[client].io.turn();
        let query = query(client, id);
        let to = tx.destination(SocketId(0), front_of(client % WORKERS), None).expect("an empty turn");
        tx.stage(to, query.len()).expect("an empty turn").copy_from_slice(&query);
        self.clients[client].io.flush().unwrap();
    }
}

fn settings(protocol: Protocol, affinity: Affinity, max_outstanding: Option<Limit>) -> DatagramSettings {
    DatagramSettings {
        name: "sim".into(),
        protocol,
        affinity,
        workers: WORKERS,
        servers_max: SERVERS as usize,
        policy: PolicyKind::ShortestQueue,
        max_outstanding,
        waiting_max: 64,
        timeout: TIMEOUT,
        replies: Some(1),
        hold: Some(20 * MS),
        idle_timeout: IDLE,
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
            interval: 500 * MS,
            timeout: 100 * MS,
            rcodes: vec![0, 3],
            rules: Rules { fall: 3, down_max: 1.0, ..Rules::default() },
        },
    }
}

/// Requests are lost, doubled and reordered, servers leave, return and stand still. Each client gets only
/// responses to its own queries, and in the end nothing is in flight.
#[test]
fn tables_and_counts_agree_after_each_turn_of_a_datagram_pool() {
    let kinds = [
        settings(Protocol::Dns, Affinity::None, None),
        settings(Protocol::Dns, Affinity::None, Some(Limit::Fixed(4))),
        settings(Protocol::Datagram, Affinity::None, None),
        settings(Protocol::Datagram, Affinity::None, Some(Limit::Fixed(4))),
        settings(Protocol::Datagram, Affinity::Client, None),
        DatagramSettings { replies: Some(0), ..settings(Protocol::Datagram, Affinity::Client, None) },
    ];
    for (seed, kind) in seeds(12).flat_map(|seed| kinds.iter().map(move |kind| (seed, kind))) {
        let loss = [0.0, 0.01, 0.03][seed as usize % 3];
        let net = SimNet::new(seed, faults(loss, 0.05, 0.1));
        let mut world = DatagramWorld::new(seed, kind.clone(), net);
        world.want_without(None);
        world.run(250 * MS);
        let mut rng = Rng::new(seed);
        for number in 0..ASKED {
            world.run(Duration::from_micros(rng.below(1_500)));
            // Each client has a pause that ends its flow, and at last only the first one asks.
            let clients = CLIENTS as u64 - number * CLIENTS as u64 / ASKED;
            world.ask(rng.below(clients) as usize, number as u16);
            match number % 200 {
                50 => world.want_without(Some(rng.below(SERVERS.into()) as u32)),
                100 => world.want_without(None),
                120 => world.frozen = Some(rng.below(SERVERS.into()) as usize),
                180 => world.frozen = None,
                _ => {}
            }
        }
        world.run(TIMEOUT * 4 + IDLE);
        let at = format!("seed {seed}: {kind:?}");
        assert_eq!(world.shared.tree().total(), 0, "{at}");
        for node in &world.workers {
            let stats = node.role.stats();
            assert_eq!((stats.in_flight.get(), stats.flows.get()), (0, 0), "{at}");
        }
        let responses: u64 = world.clients.iter().map(|client| client.role.responses).sum();
        let expected = if kind.replies == Some(0) { 0..=0 } else { ASKED / 2..=ASKED * 11 / 10 };
        assert!(expected.contains(&responses), "{at}: {responses} responses");
    }
}
