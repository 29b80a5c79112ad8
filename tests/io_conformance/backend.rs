//! What the cases need of a back end under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use lbd::base::batch::SocketId;
use lbd::base::time::Clock;
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{BackEnd, DatagramIo, Faults, IoChoice, IoOptions, SimIo, SimNet};

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

/// One clock for all: deadlines are points of it.
pub fn clock() -> Clock {
    static CLOCK: std::sync::OnceLock<Clock> = std::sync::OnceLock::new();
    *CLOCK.get_or_init(Clock::start)
}

/// A back end over the kernel, on loopback.
#[derive(Clone, Copy)]
pub struct Kernel {
    choice: IoChoice,
    ip: IpAddr,
    offload: bool,
}

impl Kernel {
    /// Over IPv4. `None`, and a word about it, where there is no such back end.
    pub fn v4(choice: IoChoice) -> Option<Kernel> {
        let kernel = Kernel { choice, ip: Ipv4Addr::LOCALHOST.into(), offload: true };
        let io = BackEnd::open(choice, vec![], &options(), clock()).unwrap();
        if io.name() == choice.name() {
            return Some(kernel);
        }
        eprintln!("skipped: there is no {choice} here");
        None
    }

    /// Over IPv6; containers often have none.
    pub fn v6(choice: IoChoice) -> Option<Kernel> {
        let ip = Ipv6Addr::LOCALHOST;
        if UdpSocket::bind((ip, 0)).is_err() {
            eprintln!("skipped: there is no IPv6 here");
            return None;
        }
        Kernel::v4(choice).map(|kernel| Kernel { ip: ip.into(), ..kernel })
    }

    /// As on a kernel without GSO and GRO.
    pub fn without_offload(choice: IoChoice) -> Option<Kernel> {
        Kernel::v4(choice).map(|kernel| Kernel { offload: false, ..kernel })
    }

    /// A socket on this host's address.
    pub fn socket(&self, options: &SocketOptions) -> UdpSocket {
        bind(SocketAddr::new(self.ip, 0), options).unwrap()
    }

    /// A socket that is connected to itself. No other socket can take its address, and the kernel answers
    /// every other sender with an ICMP error.
    pub fn dead(&self) -> (UdpSocket, SocketAddr) {
        let socket = self.socket(&SocketOptions::default());
        let addr = socket.local_addr().unwrap();
        socket.connect(addr).unwrap();
        (socket, addr)
    }

    /// A back end over these sockets.
    pub fn over(&self, sockets: Vec<UdpSocket>, options: &IoOptions) -> BackEnd {
        let io = BackEnd::open(self.choice, sockets, options, clock()).unwrap();
        assert_eq!(io.name(), self.choice.name());
        io
    }
}

impl Backend for Kernel {
    type Io = BackEnd;

    fn open(&self, ips: &[IpAddr], options: &IoOptions) -> BackEnd {
        let bound = |&ip: &IpAddr| bind(SocketAddr::new(ip, 0), &SocketOptions::default()).unwrap();
        let sockets = ips.iter().map(bound).collect();
        if self.offload {
            return self.over(sockets, options);
        }
        let slot_size = options.slot_size.min(65_534);
        self.over(sockets, &IoOptions { gso: false, slot_size, slots: 64, ..*options })
    }

    fn localhost(&self) -> IpAddr {
        self.ip
    }

    fn second_and_wildcard(&self) -> Option<(IpAddr, IpAddr)> {
        Some(match self.ip {
            IpAddr::V4(_) => (Ipv4Addr::new(127, 0, 0, 2).into(), Ipv4Addr::UNSPECIFIED.into()),
            IpAddr::V6(ip) => (ip.into(), Ipv6Addr::UNSPECIFIED.into()),
        })
    }

    /// Gives up if nothing arrives.
    fn wait(&self, io: &mut BackEnd) {
        let give_up = clock().now() + Duration::from_secs(10);
        io.wait(Some(give_up)).unwrap();
        assert!(clock().now() < give_up, "nothing arrived");
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
        Ipv4Addr::LOCALHOST.into()
    }

    fn second_and_wildcard(&self) -> Option<(IpAddr, IpAddr)> {
        Some((Ipv4Addr::new(127, 0, 0, 2).into(), Ipv4Addr::UNSPECIFIED.into()))
    }

    fn wait(&self, io: &mut SimIo) {
        io.wait(None).unwrap();
        while !io.is_readable() {
            self.net.advance(self.net.next_event().expect("nothing arrives"));
        }
    }
}
