//! A pool with simulated sockets in virtual time: tests put datagrams in, and read the sent ones. After each
//! turn the bench checks tables and counts.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::base::batch::{PeerError, SocketId};
use crate::pool::desired::DesiredServer;
use crate::pool::health::Rules;
use crate::pool::select::{PolicyKind, Slot};

pub const MS: Duration = Duration::from_millis(1);
pub const TIMEOUT: Duration = Duration::from_millis(200);
pub const HOLD: Duration = Duration::from_millis(50);
pub const IDLE: Duration = Duration::from_secs(2);
/// Fronts of a worker: IPv4, IPv6, and a wildcard.
pub const FRONTS: u16 = 3;
/// The front that is bound to a wildcard.
pub const WILDCARD: u16 = 2;
/// ECONNREFUSED.
const REFUSED: i32 = 111;

pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The `n`-th client.
pub fn client(n: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n as u8], 40_000 + n))
}

/// The `n`-th server; every fourth speaks IPv6.
pub fn server(n: u16) -> SocketAddr {
    match n % 4 {
        3 => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 1, n], 7_000)),
        _ => SocketAddr::from(([10, 1, 0, n as u8], 7_000)),
    }
}

/// Time between turns: often none, never so long that the pool takes it for a pause of its own.
pub fn wait() -> impl Strategy<Value = Duration> {
    prop_oneof![1 => Just(0), 1 => 1..20_000u64, 1 => 20_000..90_000u64].prop_map(Duration::from_micros)
}

pub fn wanted(servers: impl IntoIterator<Item = u16>) -> Vec<DesiredServer> {
    servers.into_iter().map(|n| DesiredServer { addr: server(n), id: n.into(), weight: 1 }).collect()
}

pub fn settings(protocol: Protocol) -> DatagramSettings {
    DatagramSettings {
        name: "pool".into(),
        protocol,
        affinity: Affinity::None,
        workers: 1,
        servers_max: 4,
        policy: PolicyKind::ShortestQueue,
        max_outstanding: None,
        waiting_max: 64,
        timeout: TIMEOUT,
        replies: Some(1),
        hold: Some(HOLD),
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
            interval: Duration::from_secs(1),
            timeout: 100 * MS,
            rcodes: vec![0, 3],
            rules: Rules { fall: 3, down_max: 1.0, ..Rules::default() },
        },
    }
}

/// A datagram that arrives.
#[derive(Clone, Debug)]
pub struct In {
    pub socket: u16,
    pub peer: SocketAddr,
    pub local_ip: Option<IpAddr>,
    pub bytes: Vec<u8>,
    /// Bytes per datagram, where several came as one.
    pub stride: usize,
}

impl In {
    pub fn new(socket: u16, peer: SocketAddr, bytes: &[u8]) -> In {
        In { socket, peer, local_ip: None, bytes: bytes.to_vec(), stride: bytes.len() }
    }
}

/// A datagram that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub socket: u16,
    pub to: SocketAddr,
    pub source_ip: Option<IpAddr>,
    pub bytes: Vec<u8>,
}

impl Sent {
    /// What the receiver sends back.
    pub fn answered(&self, bytes: &[u8]) -> In {
        In::new(self.socket, self.to, bytes)
    }
}

pub struct Bench {
    pub workers: Vec<DatagramRole>,
    pub shared: Arc<DatagramShared>,
    pub now: Instant,
    /// Whether the tree has queries by TCP too.
    pub has_streams: bool,
    ports: u16,
    rx: Rx,
    tx: Tx,
}

impl Bench {
    /// A pool with these servers, and `ports` ports for each address family at each worker.
    pub fn new(settings: DatagramSettings, ports: u16, servers: impl IntoIterator<Item = u16>) -> Bench {
        Bench::with_seed(1, settings, ports, servers)
    }

    /// The same; chance begins with this seed.
    pub fn with_seed(
        seed: u64,
        settings: DatagramSettings,
        ports: u16,
        servers: impl IntoIterator<Item = u16>,
    ) -> Bench {
        let now = Instant::from_nanos(5_000_000_000);
        let sockets: Vec<_> = (0..settings.workers as u16).map(|worker| sockets(worker, ports)).collect();
        let (shared, workers) =
            DatagramRole::workers(settings, Chance { secret: [7; 16], seed }, &sockets, now);
        let (rx, tx) = (Rx::new(300, 4608), Tx::new(70_000, 1 << 20, 1));
        let mut bench = Bench { workers, shared, now, has_streams: false, ports, rx, tx };
        bench.want(wanted(servers));
        while bench.workers[0].poll_event().is_some() {}
        bench
    }

    /// Wants these servers and lets the primary see to it.
    pub fn want(&mut self, servers: Vec<DesiredServer>) {
        self.shared.want(servers);
        self.pass(250 * MS);
    }

    /// The same, where a host name has left a server for others.
    pub fn rename(&mut self, from: u16, servers: impl IntoIterator<Item = u16>) {
        self.shared.want_moved(wanted(servers), &[server(from)]);
        self.pass(250 * MS);
    }

    pub fn fronts(&self) -> std::ops::Range<u16> {
        0..FRONTS
    }

    /// All of a worker's ports towards servers.
    pub fn ports(&self) -> std::ops::Range<u16> {
        FRONTS..FRONTS + 2 * self.ports
    }

    /// A worker's ports towards a server.
    pub fn ports_to(&self, server: SocketAddr) -> std::ops::Range<u16> {
        let start = if server.is_ipv4() { FRONTS } else { FRONTS + self.ports };
        start..start + self.ports
    }

    pub fn is_front(&self, socket: u16) -> bool {
        self.fronts().contains(&socket)
    }

    /// A turn of one worker.
    pub fn turn_of(&mut self, worker: usize, arrived: &[In]) -> Vec<Sent> {
        self.turn_in(worker, arrived, false)
    }

    /// The same, maybe in a turn that has no room for anything to send.
    pub fn turn_in(&mut self, worker: usize, arrived: &[In], is_full: bool) -> Vec<Sent> {
        self.rx.clear();
        self.tx.clear();
        for (slot, datagram) in arrived.iter().enumerate() {
            let In { socket, peer, local_ip, ref bytes, stride } = *datagram;
            self.rx.slot_mut(slot as u16)[..bytes.len()].copy_from_slice(bytes);
            self.rx.push(Received {
                socket: SocketId(socket),
                peer,
                local_ip,
                slot: slot as u16,
                start: 0,
                len: bytes.len() as u32,
                stride: stride as u32,
            });
        }
        if !is_full {
            return self.run(worker);
        }
        let tx = std::mem::replace(&mut self.tx, Tx::new(0, 0, 1));
        let sent = self.run(worker);
        self.tx = tx;
        sent
    }

    /// What the network says of a datagram to this server; `count` times.
    pub fn refuse(&mut self, worker: usize, peer: SocketAddr, count: usize) {
        self.rx.clear();
        self.tx.clear();
        for _ in 0..count {
            self.rx.push_error(PeerError { socket: SocketId(FRONTS), peer, errno: REFUSED });
        }
        self.run(worker);
    }

    fn run(&mut self, worker: usize) -> Vec<Sent> {
        let (role, rx, tx) = (&mut self.workers[worker], &mut self.rx, &mut self.tx);
        role.on_batch(self.now, rx, tx);
        role.on_timeout(self.now, tx);
        let of = |destination: &crate::base::batch::Destination| {
            let (socket, to, source_ip) = (destination.socket.0, destination.to, destination.source_ip);
            let bytes = tx.frames(destination).map(|frame| tx.bytes(rx, frame).to_vec());
            bytes.map(move |bytes| Sent { socket, to, source_ip, bytes }).collect::<Vec<_>>()
        };
        let sent = tx.destinations().iter().flat_map(of).collect();
        self.check();
        sent
    }

    /// A turn of the primary.
    pub fn turn(&mut self, arrived: &[In]) -> Vec<Sent> {
        self.turn_of(0, arrived)
    }

    /// A client's datagram at the first front; gives what is sent.
    pub fn ask(&mut self, client: SocketAddr, bytes: &[u8]) -> Vec<Sent> {
        self.turn(&[In::new(u16::from(client.is_ipv6()), client, bytes)])
    }

    /// The same where exactly one datagram is to leave for a server.
    pub fn forwarded(&mut self, client: SocketAddr, bytes: &[u8]) -> Sent {
        let mut sent = self.ask(client, bytes);
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert!(!self.is_front(sent[0].socket), "{sent:?}");
        sent.remove(0)
    }

    /// Lets time pass, a tick at a time. Gives what was sent, such as checks.
    pub fn pass(&mut self, time: Duration) -> Vec<Sent> {
        let end = self.now + time;
        let mut sent = vec![];
        while self.now < end {
            self.now = (self.now + 10 * MS).min(end);
            for worker in 0..self.workers.len() {
                sent.extend(self.turn_of(worker, &[]));
            }
        }
        sent
    }

    pub fn stats(&self) -> &DatagramStats {
        self.workers[0].stats()
    }

    pub fn refused(&self, reason: DropReason) -> u64 {
        self.workers.iter().map(|worker| worker.stats().common.refused.get(reason)).sum()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.workers.iter().map(|worker| worker.stats().common.dropped.get(reason)).sum()
    }

    /// All dropped datagrams of servers, by reason.
    pub fn all_dropped(&self) -> Vec<(DropReason, u64)> {
        self.stats().common.dropped.nonzero().collect()
    }

    pub fn slot(&self, n: u16) -> Option<Slot> {
        self.workers[0].core.view.slot_of(server(n))
    }

    /// The length of a server's queue.
    pub fn queue(&self, n: u16) -> u32 {
        self.slot(n).map_or(0, |slot| self.shared.pool.tree.len(slot))
    }

    /// What became of servers since the last call: their numbers and states, in order.
    pub fn states(&mut self) -> Vec<(u16, &'static str)> {
        let mut states = vec![];
        while let Some(event) = self.workers[0].poll_event() {
            match event {
                Event::State { id, state, .. } => states.push((id as u16, state.name())),
                Event::Joined { id, .. } => states.push((id as u16, "joined")),
                Event::Left { id, .. } => states.push((id as u16, "left")),
                _ => {}
            }
        }
        states
    }

    /// The state of a server as the figures have it.
    pub fn state(&self, n: u16) -> &'static str {
        let slot = self.slot(n).expect("it is a member");
        let state = self.stats().servers[slot.index()].common.state.get();
        crate::pool::health::State::ALL[state as usize].name()
    }

    /// What holds between turns.
    pub fn check(&self) {
        let (mut received, mut accounted) = (0, self.shared.pool.pending.len());
        for (number, worker) in self.workers.iter().enumerate() {
            let stats = worker.stats();
            let get = |counter: &crate::pool::stats::Counter| counter.get();
            let ended = get(&stats.common.answered) + get(&stats.timed_out) + get(&stats.forwarded);
            // One worker may send what another one has received.
            accounted += ended + stats.common.refused.total() + get(&stats.in_flight);
            received += get(&stats.common.received);
            let mut in_flight = 0;
            for server in &stats.servers {
                let ended = get(&server.common.answered) + get(&server.timed_out) + get(&server.forwarded);
                in_flight +=
                    get(&server.common.dispatched).checked_sub(ended).expect("no more than was sent");
            }
            assert_eq!(get(&stats.in_flight), in_flight, "worker {number}: {stats:?}");
            let server_sum = |of: fn(&crate::pool::stats::DatagramServerStats) -> u64| {
                stats.servers.iter().map(of).sum::<u64>()
            };
            assert_eq!(get(&stats.delivered), server_sum(|server| server.delivered.get()));
        }
        assert_eq!(received, accounted);
        let slots = self.shared.settings().servers_max;
        let mut held = vec![0; slots];
        for worker in &self.workers {
            held.iter_mut().zip(worker.checked().held).for_each(|(held, of_worker)| *held += of_worker);
        }
        let queues: Vec<u32> = self.slots().map(|slot| self.shared.pool.tree.len(slot)).collect();
        assert!(self.has_streams || queues == held, "queues {queues:?} in the tree, {held:?} in all tables");
    }

    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.shared.settings().servers_max).map(Slot::new)
    }

    /// Checks that nothing is in flight, and that no count says otherwise.
    pub fn check_rest(&self) {
        self.check();
        let checks = self.workers[0].primary.as_ref().map_or(0, |primary| primary.places);
        assert_eq!(self.shared.pool.tree.total(), checks as u64);
        for worker in &self.workers {
            assert_eq!((worker.stats().in_flight.get(), worker.stats().flows.get()), (0, 0));
            assert!(!worker.core.owes());
            if let Matching::Dns(dns) = &worker.matching {
                dns.check_index();
            }
        }
    }
}

/// Fronts, ports towards IPv4 and IPv6 servers, and, at worker 0, where checks are answered.
fn sockets(worker: u16, ports: u16) -> WorkerSockets {
    let (v4, v6) = (FRONTS + ports, FRONTS + 2 * ports);
    let is_primary = worker == 0;
    let mut addrs = vec![addr("192.0.2.53:53"), addr("[2001:db8::53]:53"), addr("0.0.0.0:5353")];
    let port = |n: u16| 20_000 + 1_000 * worker + n;
    addrs.extend((0..ports).map(|n| SocketAddr::from(([0; 4], port(n)))));
    addrs.extend((0..ports).map(|n| SocketAddr::from(([0; 8], port(n)))));
    addrs.extend([addr("0.0.0.0:19999"), addr("[::]:19999")].iter().filter(|_| is_primary));
    let sockets = Sockets {
        fronts: 0..FRONTS,
        v4: FRONTS..v4,
        v6: v4..v6,
        check_v4: is_primary.then_some(v6),
        check_v6: is_primary.then_some(v6 + 1),
    };
    WorkerSockets { sockets, addrs }
}
