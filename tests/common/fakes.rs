//! Servers that know nothing of lbd, as threads of the test, and what their clients send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::PATIENCE;

/// A datagram that reached a fake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub from: SocketAddr,
    pub bytes: Vec<u8>,
}

/// A server that answers each datagram with what a function says, and remembers all of them. Its port is
/// closed with it.
pub struct Fake {
    addr: SocketAddr,
    socket: Arc<UdpSocket>,
    seen: Arc<Mutex<Vec<Seen>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub fn start(
        addr: SocketAddr,
        mut answer: impl FnMut(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Fake {
        let socket = UdpSocket::bind(addr).unwrap_or_else(|e| panic!("cannot bind {addr}: {e}"));
        let (socket, seen) = (Arc::new(socket), Arc::new(Mutex::new(vec![])));
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (socket, seen, is_over) = (Arc::clone(&socket), Arc::clone(&seen), Arc::clone(&is_over));
            move || {
                let mut buffer = vec![0; 65_536];
                while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let bytes = &buffer[..len];
                    let answers = answer(bytes, from);
                    seen.lock().unwrap().push(Seen { from, bytes: bytes.to_vec() });
                    for answer in answers {
                        socket.send_to(&answer, from).expect("an answer can be sent");
                    }
                }
            }
        });
        Fake { addr: socket.local_addr().unwrap(), socket, seen, is_over, thread: Some(thread) }
    }

    /// Answers with its number and what it got.
    pub fn echo(number: u8, addr: SocketAddr) -> Fake {
        Fake::start(addr, move |bytes, _| vec![tagged(number, bytes)])
    }

    /// Never answers.
    pub fn silent(addr: SocketAddr) -> Fake {
        Fake::start(addr, |_, _| vec![])
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Sends something from its port.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) {
        self.socket.send_to(bytes, to).expect("it can be sent");
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Any datagram wakes it.
        let wake = UdpSocket::bind(any_port_beside(self.addr)).and_then(|s| s.send_to(b"", self.addr));
        if let (Ok(_), Some(thread)) = (wake, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// What [`Fake::echo`] answers.
pub fn tagged(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number], bytes].concat()
}

/// A PROXY protocol header, version 2: `client` asked `asked` by IPv4 over what `protocol` says.
pub fn proxy_header(protocol: u8, client: SocketAddr, asked: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(client), SocketAddr::V4(asked)) = (client, asked) else { panic!("IPv4") };
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x21, protocol, 0, 12]);
    header.extend(client.ip().octets());
    header.extend(asked.ip().octets());
    header.extend(client.port().to_be_bytes());
    header.extend(asked.port().to_be_bytes());
    header
}

fn any_port_beside(addr: SocketAddr) -> SocketAddr {
    let loopback: IpAddr =
        if addr.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    (loopback, 0).into()
}

/// 127.0.0.1 with this port.
pub fn v4(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// `[::1]` with this port.
pub fn v6(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

/// A client. Its socket is connected: it hears only the address that it asks.
pub struct Asker(pub UdpSocket);

impl Asker {
    pub fn to(addr: SocketAddr) -> Asker {
        Asker::from(any_port_beside(addr), addr)
    }

    pub fn from(own: SocketAddr, addr: SocketAddr) -> Asker {
        let socket = UdpSocket::bind(own).unwrap_or_else(|e| panic!("cannot bind {own}: {e}"));
        socket.connect(addr).expect("a loopback address");
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Asker(socket)
    }

    pub fn send(&self, bytes: &[u8]) {
        self.0.send(bytes).expect("it can be sent");
    }

    /// The next datagram.
    #[track_caller]
    pub fn recv(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let len = self.0.recv(&mut buffer).unwrap_or_else(|e| panic!("no answer: {e}"));
        buffer.truncate(len);
        buffer
    }

    #[track_caller]
    pub fn ask(&self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        self.recv()
    }

    /// Whether an unread datagram is there. Correct only after all expected datagrams have arrived.
    pub fn has_more(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let is_there = self.0.recv(&mut [0; 1]).is_ok();
        self.0.set_nonblocking(false).unwrap();
        is_there
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}
