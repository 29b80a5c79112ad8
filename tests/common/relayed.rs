//! A datagram pool in memory, with clients that ask and servers that answer: everything in the same buffers,
//! turn by turn, without allocations of its own.

use std::net::SocketAddr;
use std::time::Duration;

use lbd::base::batch::{Received, Rx, SocketId, Tx};
use lbd::base::time::Instant;
use lbd::pool::desired::DesiredServer;
use lbd::pool::health::Rules;
use lbd::pool::select::PolicyKind;
use lbd::pool::waiting::Limit;
use lbd::role::Role;
use lbd::role::datagram::{
    Affinity, Chance, Check, DatagramRole, DatagramSettings, HealthCheck, Protocol, ProxyProtocol, Sockets,
    WorkerSockets,
};

/// Servers of the pool.
pub const SERVERS: u16 = 16;
const PORTS: u16 = 64;
/// Datagrams that clients send in a busy turn.
pub const ASKED: usize = 128;
/// Pending requests of a pool whose servers have a limit, at most.
const PENDING_MAX: usize = 1_024;
const SLOT_SIZE: usize = 64;
/// QR, the DNS flag that servers set in each response.
const QR: u8 = 0x80;

pub fn settings(protocol: Protocol, affinity: Affinity) -> DatagramSettings {
    DatagramSettings {
        name: "pool".into(),
        protocol,
        affinity,
        workers: 1,
        servers_max: 64,
        policy: PolicyKind::ShortestQueue,
        max_outstanding: None,
        waiting_max: 0,
        timeout: Duration::from_millis(20),
        replies: None,
        hold: Some(Duration::from_micros(100)),
        idle_timeout: Duration::from_millis(5),
        drain_timeout: Duration::from_secs(30),
        proxy_protocol: ProxyProtocol::Off,
        transparent: false,
        allow: vec![],
        deny: vec!["203.0.113.0/24".parse().expect("a network")],
        rate_per_source: Some(1e9),
        rate_limit_truncate: 2,
        notify_all: false,
        flows_per_source: Some(1 << 20),
        tcp_connections_per_source: 16,
        tcp_idle_timeout: Duration::from_secs(30),
        health: HealthCheck {
            check: Check::None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rcodes: vec![0, 3],
            rules: Rules { fall: 3, down_max: 1.0, ..Rules::default() },
        },
    }
}

/// Servers that have one request each at most: the other requests are pending in the pool.
pub fn limited(protocol: Protocol) -> DatagramSettings {
    let max_outstanding = Some(Limit::Fixed(1));
    DatagramSettings { max_outstanding, waiting_max: PENDING_MAX, ..settings(protocol, Affinity::None) }
}

/// The `n`-th client.
pub fn asker(n: u64) -> SocketAddr {
    SocketAddr::from(([10, 2, (n >> 14) as u8, (n >> 8) as u8 & 63], 1_024 + n as u16 % 256))
}

fn server(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, n as u8], 7_000))
}

/// A worker, what arrives in this turn, and what will in the next.
pub struct Relayed {
    pub relay: DatagramRole,
    now: Instant,
    turn: u64,
    rx: Rx,
    next: Rx,
    tx: Tx,
}

impl Relayed {
    pub fn new(settings: DatagramSettings) -> Relayed {
        let now = Instant::from_nanos(5_000_000_000);
        let sockets = Sockets { fronts: 0..1, v4: 1..1 + PORTS, ..Sockets::default() };
        let sockets = Sockets { v6: 1 + PORTS..1 + PORTS, ..sockets };
        let addrs = (0..=PORTS).map(|n| SocketAddr::from(([192, 0, 2, 1], 5_000 + n))).collect();
        let chance = Chance { secret: [7; 16], seed: 1 };
        let (shared, mut workers) =
            DatagramRole::workers(settings, chance, &[WorkerSockets { sockets, addrs }], now);
        let wanted = |n: u16| DesiredServer { addr: server(n), id: n.into(), weight: 1 };
        shared.want((0..SERVERS).map(wanted).collect());
        let rx = || Rx::new(4 * ASKED, SLOT_SIZE);
        let tx = Tx::new(16 * ASKED, 1 << 16, 1);
        let mut relayed = Relayed { relay: workers.remove(0), now, turn: 0, rx: rx(), next: rx(), tx };
        relayed.turn(|_| unreachable!("no client asks yet"), 0);
        relayed
    }

    /// A turn: servers answer all that they got in the last one, and each client on the list asks.
    pub fn turn(&mut self, client: impl Fn(u64) -> SocketAddr, asked: usize) {
        self.ask(client, asked);
        self.handle();
        self.answer();
    }

    /// The first part of a turn: `asked` clients ask.
    pub fn ask(&mut self, client: impl Fn(u64) -> SocketAddr, asked: usize) {
        self.turn += 1;
        self.now += Duration::from_micros(50);
        for n in 0..asked as u64 {
            let query = *b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x07example\0\0\x01\0\x01";
            arrive(&mut self.rx, SocketId(0), client(self.turn * asked as u64 + n), &query);
        }
    }

    /// The second part of a turn, the work of the role: answers, requests and timers.
    pub fn handle(&mut self) {
        self.relay.on_batch(self.now, &mut self.rx, &mut self.tx);
        self.relay.on_timeout(self.now, &mut self.tx);
    }

    /// The last part of a turn: servers answer what they got, which arrives in the next turn.
    pub fn answer(&mut self) {
        for destination in self.tx.destinations() {
            for frame in self.tx.frames(destination).filter(|_| destination.socket != SocketId(0)) {
                let bytes = self.tx.bytes(&self.rx, frame);
                let answer = arrive(&mut self.next, destination.socket, destination.to, bytes);
                answer[2] |= QR;
            }
        }
        self.tx.clear();
        self.rx.clear();
        std::mem::swap(&mut self.rx, &mut self.next);
    }

    /// A turn in which the clients with these numbers ask, as many as usual.
    pub fn busy_turn(&mut self, client: impl Fn(u64) -> SocketAddr) {
        self.turn(client, ASKED);
    }
}

fn arrive<'a>(rx: &'a mut Rx, socket: SocketId, peer: SocketAddr, bytes: &[u8]) -> &'a mut [u8] {
    let slot = rx.len() as u16;
    let len = bytes.len() as u32;
    rx.push(Received { socket, peer, local_ip: None, slot, start: 0, len, stride: len });
    let place = &mut rx.slot_mut(slot)[..bytes.len()];
    place.copy_from_slice(bytes);
    place
}
