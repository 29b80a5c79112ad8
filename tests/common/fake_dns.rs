//! A DNS server as a thread of the test, with a selectable behaviour, and DNS messages.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::PATIENCE;
use super::fakes::{Asker, Fake, Seen};

const HEADER_LEN: usize = 12;
pub const SERVFAIL: u8 = 2;

/// What a [`FakeDns`] does with a query of a client. Checks (of the root) are answered, unless it is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Answers.
    Proper,
    /// Does nothing, nor with a check.
    Silent,
    /// Answers, and does nothing with a check.
    IgnoresChecks,
    /// Answers with SERVFAIL.
    Fails,
    /// Keeps the queries for [`FakeDns::release`].
    Holds,
    /// Answers twice.
    Twice,
    /// Sends an answer with another id, then the right one.
    WrongIdFirst,
    /// Sends an answer to another question, then the right one.
    WrongQuestionFirst,
    /// Answers with a message of this length.
    Long(usize),
    /// Sets TC and leaves the records out.
    Truncated,
}

/// Its answers carry the address 192.0.2.NUMBER.
pub struct FakeDns {
    number: u8,
    udp: Fake,
    manner: Arc<Mutex<Manner>>,
    queries: Arc<AtomicU64>,
    held: Arc<Mutex<Vec<Seen>>>,
}

impl FakeDns {
    pub fn start(number: u8, addr: SocketAddr) -> FakeDns {
        let manner = Arc::new(Mutex::new(Manner::Proper));
        let queries = Arc::new(AtomicU64::new(0));
        let held = Arc::new(Mutex::new(vec![]));
        let udp = Fake::start(addr, {
            let (manner, queries, held) = (Arc::clone(&manner), Arc::clone(&queries), Arc::clone(&held));
            move |query, from| {
                let manner = *manner.lock().unwrap();
                let is_check = query.get(HEADER_LEN) == Some(&0);
                queries.fetch_add(u64::from(!is_check), Ordering::Relaxed);
                let right = answer(query, number);
                match manner {
                    Manner::Silent => vec![],
                    Manner::IgnoresChecks if is_check => vec![],
                    _ if is_check => vec![right],
                    Manner::Proper | Manner::IgnoresChecks => vec![right],
                    Manner::Fails => vec![with(&right, 3, |byte| byte & 0xf0 | SERVFAIL)],
                    Manner::Holds => {
                        held.lock().unwrap().push(Seen { from, bytes: query.to_vec() });
                        vec![]
                    }
                    Manner::Twice => vec![right.clone(), right],
                    Manner::WrongIdFirst => vec![with(&right, 1, |byte| byte ^ 1), right],
                    Manner::WrongQuestionFirst => {
                        vec![with(&right, HEADER_LEN + 1, |byte| byte + 1), right]
                    }
                    Manner::Long(len) => vec![long_answer(query, len)],
                    Manner::Truncated => vec![truncated(query)],
                }
            }
        });
        FakeDns { number, udp, manner, queries, held }
    }

    pub fn addr(&self) -> SocketAddr {
        self.udp.addr()
    }

    pub fn be(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// Queries of clients so far.
    pub fn queries(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }

    pub fn held(&self) -> usize {
        self.held.lock().unwrap().len()
    }

    /// Answers what it has kept.
    pub fn release(&self) {
        for Seen { from, bytes } in self.held.lock().unwrap().drain(..) {
            self.udp.send(from, &answer(&bytes, self.number));
        }
    }
}

/// The TCP side of a DNS server: answers each query in full, with records of a given length.
pub struct FakeDnsTcp {
    addr: SocketAddr,
    accepted: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeDnsTcp {
    pub fn start(addr: SocketAddr, len: usize) -> FakeDnsTcp {
        let listener = TcpListener::bind(addr).unwrap_or_else(|e| panic!("cannot listen on {addr}: {e}"));
        let [accepted, asked] = [0, 0].map(|n| Arc::new(AtomicU64::new(n)));
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (accepted, is_over) = (Arc::clone(&accepted), Arc::clone(&is_over));
            let asked = Arc::clone(&asked);
            move || {
                for stream in listener.incoming().flatten() {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    accepted.fetch_add(1, Ordering::Relaxed);
                    let asked = Arc::clone(&asked);
                    std::thread::spawn(move || serve(stream, len, &asked));
                }
            }
        });
        FakeDnsTcp { addr, accepted, asked, is_over, thread: Some(thread) }
    }

    /// Connections so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Queries so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for FakeDnsTcp {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let (Ok(_), Some(thread)) = (TcpStream::connect(self.addr), self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// Answers the queries of a connection until its end.
fn serve(mut stream: TcpStream, len: usize, asked: &AtomicU64) {
    while let Some(query) = read_message(&mut stream) {
        asked.fetch_add(1, Ordering::Relaxed);
        if write_message(&mut stream, &long_answer(&query, len)).is_err() {
            return;
        }
    }
}

/// A message with its length before it (RFC 1035, section 4.2.2); `None` at the end.
pub fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

pub fn write_message(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], message].concat())
}

/// A connection whose reads end at last.
pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap_or_else(|e| panic!("cannot connect to {addr}: {e}"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The same from this address of the loopback.
pub fn connect_from(ip: [u8; 4], addr: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect(&addr.into()).unwrap_or_else(|e| panic!("cannot connect to {addr}: {e}"));
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// A query with this id for the address of `qN.example`, N being the id; with EDNS for 4,096 bytes.
pub fn query(id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 1]); // RD; one question, one additional record
    let label = format!("q{id}");
    message.push(label.len() as u8);
    message.extend(label.as_bytes());
    message.extend(b"\x07example\0\0\x01\0\x01"); // A, IN
    message.extend(b"\0\0\x29\x10\x00\0\0\0\0\0\0"); // OPT, 4,096 bytes
    message
}

/// Header and question of the answer, without records.
fn bare_answer(query: &[u8], answers: u16) -> Vec<u8> {
    let name_len = query[HEADER_LEN..].iter().position(|&byte| byte == 0).expect("a name has an end");
    let mut message = query[..HEADER_LEN + name_len + 5].to_vec();
    message[2] |= 0x84; // QR, AA
    message[3] |= 0x80; // RA
    message[6..8].copy_from_slice(&answers.to_be_bytes());
    message[8..12].fill(0);
    message
}

/// The answer with one address: 192.0.2.NUMBER.
pub fn answer(query: &[u8], number: u8) -> Vec<u8> {
    let mut message = bare_answer(query, 1);
    message.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\x00\x02");
    message.push(number);
    message
}

/// An answer of `len` bytes: one record of an unknown type (RFC 3597).
pub fn long_answer(query: &[u8], len: usize) -> Vec<u8> {
    let mut message = bare_answer(query, 1);
    message.extend(b"\xc0\x0c\xff\x00\0\x01\0\0\0\x3c");
    let data = len - message.len() - 2;
    message.extend((data as u16).to_be_bytes());
    message.extend((0..data).map(|i| i as u8));
    message
}

fn truncated(query: &[u8]) -> Vec<u8> {
    with(&bare_answer(query, 0), 2, |flags| flags | 0x02)
}

fn with(message: &[u8], at: usize, change: impl Fn(u8) -> u8) -> Vec<u8> {
    let mut message = message.to_vec();
    message[at] = change(message[at]);
    message
}

pub fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

pub fn rcode(message: &[u8]) -> u8 {
    message[3] & 0x0f
}

/// The number of the server that gave this answer to [`query`]; it must be the right one.
#[track_caller]
pub fn number(query: &[u8], message: &[u8]) -> u8 {
    let number = *message.last().expect("bytes");
    assert_eq!(message, answer(query, number), "the answer to the query");
    number
}

/// Asks one query.
#[track_caller]
pub fn ask(client: &Asker, id: u16) -> u8 {
    let query = query(id);
    number(&query, &client.ask(&query))
}

/// What a run of queries came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub answered: u64,
    /// By the number of the server.
    pub by_server: [u64; 16],
    pub servfail: u64,
    pub lost: u64,
}

/// Sends `count` queries, at most `window` of them in flight. A query counts as lost after `give_up`, and
/// another one takes its place.
pub fn ask_many(client: &Asker, count: u16, window: usize, give_up: Duration) -> Tally {
    let mut tally = Tally::default();
    let mut open: Vec<(u16, Instant)> = vec![];
    let mut next = 0;
    let mut buffer = vec![0; 65_536];
    client.0.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    while next < count || !open.is_empty() {
        while next < count && open.len() < window {
            client.send(&query(next));
            open.push((next, Instant::now()));
            next += 1;
        }
        if let Ok(len) = client.0.recv(&mut buffer) {
            let message = &buffer[..len];
            let id = id(message);
            let Some(place) = open.iter().position(|&(open, _)| open == id) else { continue };
            open.swap_remove(place);
            if rcode(message) == SERVFAIL {
                tally.servfail += 1;
            } else {
                tally.answered += 1;
                tally.by_server[usize::from(number(&query(id), message))] += 1;
            }
        }
        let before = open.len();
        open.retain(|(_, sent)| sent.elapsed() < give_up);
        tally.lost += (before - open.len()) as u64;
    }
    client.0.set_read_timeout(Some(PATIENCE)).unwrap();
    tally
}
