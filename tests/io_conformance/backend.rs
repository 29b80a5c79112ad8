//! What the cases need of a back end under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use lbd::batch::SocketId;
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{DatagramIo, Faults, IoOptions, MmsgIo, SimIo, SimNet};
use lbd::time::Clock;

/// A datagram as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub socket: SocketId,
    pub peer: SocketAddr,
    pub local_ip: Option<IpAddr>,
    pub bytes: Vec<u8>,
}

/// A kind of back end, and the network that it lives in.
pub trait Backend {
    type Io: DatagramIo;

    /// A back end with a socket on each of these addresses.
    fn open(&self, ips: &[IpAddr], options: &IoOptions) -> Self::Io;

    /// The address of this host that everything may be sent to.
    fn localhost(&self) -> IpAddr;

    /// Another address of this host, and the wildcard that covers both.
    fn second_and_wildcard(&self) -> Option<(IpAddr, IpAddr)>;

    /// Waits until something has arrived.
    fn wait(&self, io: &mut Self::Io);

    /// A back end with one socket and the usual sizes.
    fn one(&self) -> Self::Io {
        self.open(&[self.localhost()], &options())
    }
}

/// Sizes that fit a test.
pub fn options() -> IoOptions {
    IoOptions { slots: 16, frames_max: 4096, staging_bytes: 1 << 20, ..IoOptions::default() }
}

/// Takes one turn and returns what arrived in it.
pub fn take_turn(io: &mut impl DatagramIo) -> Vec<Arrived> {
    io.receive().unwrap();
    let arrived = drain(io);
    io.flush().unwrap();
    arrived
}

/// What this turn has received, datagram by datagram.
pub fn drain(io: &mut impl DatagramIo) -> Vec<Arrived> {
    let (rx, _) = io.turn();
    let mut arrived = Vec::new();
    for index in 0..rx.len() {
        let (r, bytes) = rx.get_mut(index);
        assert!(r.stride > 0 && r.stride <= r.len, "{r:?}");
        for bytes in bytes.chunks(r.stride as usize) {
            let (socket, peer, local_ip) = (r.socket, r.peer, r.local_ip);
            arrived.push(Arrived { socket, peer, local_ip, bytes: bytes.to_vec() });
        }
    }
    arrived
}

/// Takes turns until this many datagrams have arrived.
pub fn collect<B: Backend>(backend: &B, io: &mut B::Io, count: usize) -> Vec<Arrived> {
    let mut arrived = Vec::new();
    while arrived.len() < count {
        backend.wait(io);
        arrived.extend(take_turn(io));
    }
    assert_eq!(arrived.len(), count, "more than was sent");
    arrived
}

/// Adds a frame of the turn to what is sent to an address.
pub fn stage(io: &mut impl DatagramIo, socket: u16, to: SocketAddr, frame: &[u8]) {
    let (_, tx) = io.turn();
    let to = tx.destination(SocketId(socket), to, None).unwrap();
    tx.stage(to, frame.len()).unwrap().copy_from_slice(frame);
}

/// Waits on a real socket; gives up if nothing arrives.
fn wait_on(io: &mut MmsgIo, clock: Clock) {
    let give_up = clock.now() + Duration::from_secs(10);
    io.wait(Some(give_up)).unwrap();
    assert!(clock.now() < give_up, "nothing arrived");
}

fn open(ips: &[IpAddr], options: &IoOptions) -> MmsgIo {
    let sockets = ips.iter().map(|&ip| bind(SocketAddr::new(ip, 0), &SocketOptions::default()).unwrap());
    MmsgIo::new(sockets.collect(), options, clock()).unwrap()
}

/// One clock for all: deadlines are points of it.
fn clock() -> Clock {
    static CLOCK: std::sync::OnceLock<Clock> = std::sync::OnceLock::new();
    *CLOCK.get_or_init(Clock::start)
}

/// recvmmsg and sendmmsg over IPv4 on loopback.
pub struct Mmsg;

impl Backend for Mmsg {
    type Io = MmsgIo;

    fn open(&self, ips: &[IpAddr], options: &IoOptions) -> MmsgIo {
        open(ips, options)
    }

    fn localhost(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    fn second_and_wildcard(&self) -> Option<(IpAddr, IpAddr)> {
        Some((Ipv4Addr::new(127, 0, 0, 2).into(), Ipv4Addr::UNSPECIFIED.into()))
    }

    fn wait(&self, io: &mut MmsgIo) {
        wait_on(io, clock());
    }
}

/// Whether this host has an IPv6 loopback address; containers often have none.
pub fn has_ipv6() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// The same over IPv6.
pub struct MmsgV6;

impl Backend for MmsgV6 {
    type Io = MmsgIo;

    fn open(&self, ips: &[IpAddr], options: &IoOptions) -> MmsgIo {
        open(ips, options)
    }

    fn localhost(&self) -> IpAddr {
        Ipv6Addr::LOCALHOST.into()
    }

    fn second_and_wildcard(&self) -> Option<(IpAddr, IpAddr)> {
        Some((Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()))
    }

    fn wait(&self, io: &mut MmsgIo) {
        wait_on(io, clock());
    }
}

/// As on a kernel without GSO and GRO.
pub struct MmsgWithoutOffload;

impl Backend for MmsgWithoutOffload {
    type Io = MmsgIo;

    fn open(&self, ips: &[IpAddr], options: &IoOptions) -> MmsgIo {
        let slot_size = options.slot_size.min(65_534);
        open(ips, &IoOptions { gso: false, slot_size, slots: 64, ..*options })
    }

    fn localhost(&self) -> IpAddr {
        Mmsg.localhost()
    }

    fn second_and_wildcard(&self) -> Option<(IpAddr, IpAddr)> {
        Mmsg.second_and_wildcard()
    }

    fn wait(&self, io: &mut MmsgIo) {
        wait_on(io, clock());
    }
}

/// The simulated network, with delays but without faults.
pub struct Sim {
    net: SimNet,
    next_port: std::cell::Cell<u16>,
}

impl Sim {
    pub fn new() -> Self {
        let delay = (Duration::from_micros(10), Duration::from_micros(500));
        let net = SimNet::new(1, Faults { delay, ..Faults::none(Duration::ZERO) });
        Sim { net, next_port: 1024.into() }
    }
}

impl Backend for Sim {
    type Io = SimIo;

    fn open(&self, ips: &[IpAddr], options: &IoOptions) -> SimIo {
        let addrs: Vec<_> = ips
            .iter()
            .map(|&ip| SocketAddr::new(ip, self.next_port.replace(self.next_port.get() + 1)))
            .collect();
        self.net.attach(&addrs, options).unwrap()
    }

    fn localhost(&self) -> IpAddr {
        Mmsg.localhost()
    }

    fn second_and_wildcard(&self) -> Option<(IpAddr, IpAddr)> {
        Mmsg.second_and_wildcard()
    }

    fn wait(&self, io: &mut SimIo) {
        io.wait(None).unwrap();
        while !io.is_readable() {
            self.net.advance(self.net.next_event().expect("nothing arrives"));
        }
    }
}
