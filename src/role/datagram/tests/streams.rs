//! DNS over TCP: queries and answers by message, over invented connections. The driver carries out each
//! action at once, unless a test says otherwise.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::bench::*;
use super::*;
use crate::pool::order::Order;
use crate::pool::waiting::Limit;
use crate::role::datagram::streams::{Action, ConnectionId, Streams};
use crate::wire::dns::records::{AXFR, IXFR};
use crate::wire::dns::stream::{ByteQueue, LENGTH_LEN, first_message};
use crate::wire::dns::{self, SERVFAIL, id, name_to_wire, rcode, write_query};

/// The client-side address.
const LOCAL: &str = "192.0.2.53:53";

/// One end of an invented connection.
#[derive(Default)]
struct Peer {
    /// The server's address, or that of the client.
    addr: Option<SocketAddr>,
    /// What the pool has sent there and no test has read yet.
    received: ByteQueue,
    /// The peer takes no bytes.
    is_blocked: bool,
    is_connected: bool,
    resumed: usize,
}

/// A pool with its TCP side.
struct Tcp {
    pool: Bench,
    streams: Streams,
    peers: HashMap<ConnectionId, Peer>,
    closed: HashSet<ConnectionId>,
    /// Servers that do not accept connections.
    refusing: HashSet<SocketAddr>,
    /// Connections that the pool has opened, in order.
    opened: Vec<ConnectionId>,
    /// Whether each step is checked; that takes time with many connections.
    is_checked: bool,
}

fn query(number: u16) -> Vec<u8> {
    query_of(number, 1)
}

/// A query with this id, about a name that has the number in it.
fn query_of(number: u16, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0; dns::QUERY_MAX];
    let name = name_to_wire(&format!("q{number}.example")).unwrap();
    let len = write_query(&mut bytes, number, &name, kind);
    bytes.truncate(len);
    bytes
}

/// The same with an OPT record.
fn query_with_opt(number: u16) -> Vec<u8> {
    let mut bytes = query(number);
    bytes[11] = 1;
    bytes.extend(b"\0\0\x29\x10\x00\0\0\0\0\0\0");
    bytes
}

fn answer_to(query: &[u8]) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] |= 0x80;
    bytes
}

/// An answer with this number of SOA records, with the same serial, of `len` bytes at least.
fn transfer_answer(query: &[u8], soas: u8, len: usize) -> Vec<u8> {
    let mut bytes = answer_to(query);
    bytes[7] = soas + 1;
    let mut record = |kind: u16, data: &[u8]| {
        bytes.extend([0xc0, 12]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 9]);
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
    };
    (0..soas).for_each(|_| record(6, &[0; 22]));
    record(16, &vec![7; len]);
    bytes
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut stream = ByteQueue::default();
    stream.append_message(id(message), message);
    stream.bytes().to_vec()
}

impl Tcp {
    fn new(settings: DatagramSettings, servers: impl IntoIterator<Item = u16>) -> Tcp {
        Tcp::with_connections(settings, 64, servers)
    }

    fn with_connections(
        settings: DatagramSettings,
        max: usize,
        servers: impl IntoIterator<Item = u16>,
    ) -> Tcp {
        let mut pool = Bench::new(settings, 4, servers);
        pool.has_streams = true;
        let streams = Streams::new(&pool.shared, max, [3; 16], 5);
        Tcp {
            pool,
            streams,
            peers: HashMap::new(),
            closed: HashSet::new(),
            refusing: HashSet::new(),
            opened: vec![],
            is_checked: true,
        }
    }

    fn now(&self) -> Instant {
        self.pool.now
    }

    fn connect_from(&mut self, peer: SocketAddr) -> Option<ConnectionId> {
        let id = self.streams.accept(self.now(), peer, addr(LOCAL))?;
        self.peers.insert(id, Peer { addr: Some(peer), is_connected: true, ..Peer::default() });
        self.carry_out();
        Some(id)
    }

    fn connect(&mut self, n: u16) -> ConnectionId {
        self.connect_from(client(n)).expect("it is accepted")
    }

    /// Carries out what the pool wants.
    fn carry_out(&mut self) {
        while let Some(action) = self.streams.poll_action() {
            match action {
                Action::Connect(id, server) => {
                    self.opened.push(id);
                    self.peers.insert(id, Peer { addr: Some(server), ..Peer::default() });
                    if self.refusing.contains(&server) {
                        self.streams.on_failed(self.now(), id);
                    } else {
                        self.peers.get_mut(&id).unwrap().is_connected = true;
                        self.streams.on_connected(self.now(), id);
                    }
                }
                Action::Send(id) => self.send(id),
                Action::Resume(id) => self.peers.get_mut(&id).unwrap().resumed += 1,
                Action::Close(id) => {
                    assert!(self.closed.insert(id), "closed twice");
                }
            }
        }
        if self.is_checked {
            self.streams.check_invariants();
        }
    }

    fn send(&mut self, id: ConnectionId) {
        let now = self.now();
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.is_blocked) else { return };
        assert!(peer.is_connected || self.streams.unsent(id).is_empty());
        let count = self.streams.unsent(id).len();
        peer.received.append(self.streams.unsent(id));
        self.streams.on_sent(now, id, count);
    }

    /// A connection takes bytes again.
    fn unblock(&mut self, id: ConnectionId) {
        self.peers.get_mut(&id).unwrap().is_blocked = false;
        self.send(id);
        self.carry_out();
    }

    fn bytes(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.streams.on_bytes(self.now(), id, bytes);
        self.carry_out();
    }

    fn ask(&mut self, id: ConnectionId, query: &[u8]) {
        self.bytes(id, &framed(query));
    }

    fn end(&mut self, id: ConnectionId) {
        self.streams.on_end(self.now(), id);
        self.carry_out();
    }

    /// The next message that arrived at this end.
    fn read(&mut self, id: ConnectionId) -> Option<Vec<u8>> {
        let received = &mut self.peers.get_mut(&id)?.received;
        let message = first_message(received.bytes())?.to_vec();
        received.consume(LENGTH_LEN + message.len());
        Some(message)
    }

    fn is_closed(&self, id: ConnectionId) -> bool {
        self.closed.contains(&id)
    }

    fn open_to_servers(&self) -> Vec<ConnectionId> {
        self.opened.iter().copied().filter(|id| !self.closed.contains(id)).collect()
    }

    /// The next query that arrived at any server.
    fn at_server(&mut self) -> Option<(ConnectionId, Vec<u8>)> {
        self.open_to_servers().into_iter().find_map(|id| self.read(id).map(|query| (id, query)))
    }

    fn server_of(&self, id: ConnectionId) -> SocketAddr {
        self.peers[&id].addr.unwrap()
    }

    /// Answers all that servers have.
    fn answer_all(&mut self) {
        while let Some((id, query)) = self.at_server() {
            self.bytes(id, &framed(&answer_to(&query)));
        }
    }

    fn tick(&mut self) {
        self.streams.on_tick(self.now());
        self.carry_out();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.now() < end {
            self.pool.now = (self.now() + 20 * MS).min(end);
            self.tick();
        }
    }

    fn total(&self) -> u64 {
        self.pool.shared.pool.tree.total()
    }

    fn counters(&self) -> &DatagramStats {
        self.pool.shared.stats.last().unwrap()
    }

    fn refused(&self, reason: DropReason) -> u64 {
        self.counters().common.refused.get(reason)
    }
}

fn dns_settings() -> DatagramSettings {
    settings(Protocol::Dns)
}

fn limited(limit: u32) -> DatagramSettings {
    DatagramSettings { max_outstanding: Some(Limit::Fixed(limit)), ..dns_settings() }
}

/// The extended error of an answer: its INFO-CODE.
fn extended_error(message: &[u8]) -> Option<u16> {
    let at = message.windows(2).position(|two| two == [0, 15])?;
    Some(u16::from_be_bytes([message[at + 4], message[at + 5]]))
}

#[test]
fn queries_arrive_byte_by_byte_and_answers_out_of_order() {
    let mut tcp = Tcp::new(dns_settings(), [1]);
    let (a, b) = (tcp.connect(1), tcp.connect(2));
    let stream: Vec<u8> = (1..=3).flat_map(|n| framed(&query(n))).collect();
    for byte in &stream {
        tcp.bytes(a, std::slice::from_ref(byte));
    }
    tcp.ask(b, &query(1)); // the same id from another client
    let mut arrived = vec![];
    while let Some(query) = tcp.at_server() {
        arrived.push(query);
    }
    assert_eq!((arrived.len(), tcp.total()), (4, 4));
    for (id, query) in arrived.iter().rev() {
        tcp.bytes(*id, &framed(&answer_to(query)));
    }
    let answers: HashSet<Vec<u8>> = std::iter::from_fn(|| tcp.read(a)).collect();
    assert_eq!(answers, [1, 2, 3].map(|n| answer_to(&query(n))).into());
    assert_eq!((tcp.read(b), tcp.read(b)), (Some(answer_to(&query(1))), None));
    let stats = tcp.counters();
    assert_eq!((stats.common.received.get(), stats.common.answered.get(), tcp.total()), (4, 4, 0));
    assert_eq!(stats.servers[0].common.answered.get(), 4);
    assert_eq!(stats.servers[0].common.latency.snapshot().count(), 4);
}

#[test]
fn the_longest_message_passes_and_a_server_has_few_connections() {
    let mut tcp = Tcp::new(dns_settings(), [1]);
    let a = tcp.connect(1);
    let mut long = query(7);
    long.resize(65_535, 0);
    tcp.ask(a, &long);
    let (id, at_server) = tcp.at_server().unwrap();
    assert_eq!(at_server[2..], long[2..]);
    tcp.bytes(id, &framed(&answer_to(&at_server)));
    assert_eq!(tcp.read(a), Some(answer_to(&long)));
    (0..50).for_each(|n| tcp.ask(a, &query(n)));
    assert_eq!((tcp.open_to_servers().len(), tcp.total()), (8, 50));
}

#[test]
fn long_queries_in_flight_have_a_bound_and_harm_no_other_client() {
    let mut tcp = Tcp::new(dns_settings(), [1]);
    tcp.is_checked = false;
    let mut long = query(7);
    long.resize(65_535, 0);
    for n in 0..6 {
        let greedy = tcp.connect(n);
        (0..100).for_each(|_| tcp.ask(greedy, &long));
    }
    let fit = (32 << 20) / 65_535;
    assert_eq!((tcp.total(), tcp.refused(DropReason::TableFull)), (fit, 600 - fit));
    let modest = tcp.connect(7);
    tcp.ask(modest, &query(8));
    assert_eq!(tcp.total(), fit + 1);
    tcp.pass(TIMEOUT + 20 * MS);
    assert_eq!(tcp.total(), 0);
    let late = tcp.connect(8);
    tcp.ask(late, &long);
    assert_eq!((tcp.total(), tcp.read(late)), (1, None), "there is room again");
}

#[test]
fn idle_connections_take_no_server_and_no_place() {
    let mut tcp = Tcp::new(limited(1), [1, 2]);
    let idle: Vec<_> = (0..8).map(|n| tcp.connect(n)).collect();
    assert_eq!((tcp.total(), tcp.opened.len(), tcp.pool.shared.tcp.busy.get()), (0, 0, 0));
    for (n, &id) in idle.iter().enumerate() {
        tcp.ask(id, &query(n as u16));
        tcp.answer_all();
        assert!(tcp.read(id).is_some());
    }
    assert_eq!((tcp.total(), tcp.pool.shared.tcp.busy.get(), tcp.pool.shared.tcp.open.get()), (0, 0, 8));
    let kept = tcp.open_to_servers().len();
    assert!((1..=2).contains(&kept), "{kept} connections to two servers");
    tcp.pass(11 * Duration::from_secs(1));
    assert_eq!(tcp.open_to_servers(), [], "they are closed after a while");
    assert!(idle.iter().all(|&id| !tcp.is_closed(id)));
    tcp.pass(20 * Duration::from_secs(1));
    assert!(idle.iter().all(|&id| tcp.is_closed(id)), "idle for 30 s");
    assert_eq!((tcp.pool.shared.tcp.open.get(), tcp.streams.period()), (0, None));
}

#[test]
fn queries_spread_like_those_by_udp() {
    let mut tcp = Tcp::new(dns_settings(), [1, 2, 4]);
    let a = tcp.connect(1);
    (0..30).for_each(|n| tcp.ask(a, &query(n)));
    assert_eq!([1, 2, 4].map(|n| tcp.pool.queue(n)), [10; 3]);
}

#[test]
fn above_the_limit_queries_wait_in_order_and_then_get_servfail() {
    let mut tcp = Tcp::new(DatagramSettings { waiting_max: 2, ..limited(1) }, [1]);
    let a = tcp.connect(1);
    (1..=4).for_each(|n| tcp.ask(a, &query_with_opt(n)));
    assert_eq!((tcp.total(), tcp.refused(DropReason::ServersFull)), (1, 1));
    let refused = tcp.read(a).unwrap();
    assert_eq!((id(&refused), rcode(&refused), extended_error(&refused)), (4, SERVFAIL, Some(0)));
    for n in 1..=3 {
        let (server, at_server) = tcp.at_server().unwrap();
        assert!(tcp.at_server().is_none(), "one at a time");
        tcp.bytes(server, &framed(&answer_to(&at_server)));
        assert_eq!(tcp.read(a), Some(answer_to(&query_with_opt(n))));
    }
    assert_eq!((tcp.counters().common.waited.get(), tcp.total()), (2, 0));
    (5..=6).for_each(|n| tcp.ask(a, &query(n)));
    tcp.pass(TIMEOUT);
    let answers = [tcp.read(a), tcp.read(a)].map(|answer| rcode(&answer.unwrap()));
    assert_eq!(answers, [SERVFAIL; 2], "one at the silent server, one in the queue");
    assert_eq!((tcp.counters().timed_out.get(), tcp.refused(DropReason::Expired), tcp.total()), (1, 1, 0));
}

#[test]
fn tcp_and_udp_wait_in_one_order() {
    let mut tcp = Tcp::new(limited(1), [1]);
    let a = tcp.connect(1);
    let first = tcp.pool.forwarded(client(10), &query(10));
    assert_eq!(tcp.pool.ask(client(11), &query(11)), [], "it waits");
    tcp.ask(a, &query(12));
    assert_eq!(tcp.pool.ask(client(13), &query(13)), [], "it waits behind the one by TCP");
    let answered = |tcp: &mut Tcp, sent: &Sent| {
        let sent = tcp.pool.turn(&[sent.answered(&answer_to(&sent.bytes))]);
        sent.into_iter().find(|sent| !tcp.pool.is_front(sent.socket))
    };
    let second = answered(&mut tcp, &first).expect("the next by UDP");
    assert!(second.bytes.windows(3).any(|part| part == b"q11"));
    tcp.tick();
    assert!(tcp.at_server().is_none());
    assert!(answered(&mut tcp, &second).is_none(), "the server is kept for the query by TCP");
    tcp.tick();
    let (server, at_server) = tcp.at_server().expect("its turn has come");
    tcp.bytes(server, &framed(&answer_to(&at_server)));
    assert_eq!(tcp.read(a), Some(answer_to(&query(12))));
    let last = tcp.pool.turn(&[]);
    assert!(last[0].bytes.windows(3).any(|part| part == b"q13"), "{last:?}");
    answered(&mut tcp, &last[0]);
    assert_eq!(tcp.total(), 0);
}

#[test]
fn a_server_that_was_reserved_for_a_client_that_left_is_given_back() {
    let mut tcp = Tcp::new(limited(1), [1]);
    let a = tcp.connect(1);
    let first = tcp.pool.forwarded(client(10), &query(10));
    tcp.ask(a, &query(12));
    tcp.pool.turn(&[first.answered(&answer_to(&first.bytes))]);
    assert_eq!(tcp.total(), 1, "granted");
    tcp.streams.on_failed(tcp.pool.now, a);
    tcp.tick();
    assert_eq!((tcp.total(), tcp.refused(DropReason::Expired)), (0, 1));
    let b = tcp.connect(2);
    tcp.ask(b, &query(13));
    tcp.answer_all();
    assert!(tcp.read(b).is_some());
}

#[test]
fn without_a_server_the_answer_is_servfail_with_the_reason() {
    let mut tcp = Tcp::new(dns_settings(), [1]);
    tcp.pool.workers[0].order(tcp.pool.now, 1, Order::Disable).unwrap();
    let a = tcp.connect(1);
    tcp.ask(a, &query_with_opt(1));
    tcp.ask(a, &query(2));
    let (with, without) = (tcp.read(a).unwrap(), tcp.read(a).unwrap());
    assert_eq!((rcode(&with), extended_error(&with), with[11]), (SERVFAIL, Some(23), 1));
    assert_eq!((rcode(&without), without.len(), without[11]), (SERVFAIL, query(2).len(), 0));
    assert_eq!((tcp.refused(DropReason::NoServer), tcp.counters().servfail.get()), (2, 2));
    assert!(!tcp.is_closed(a));
}

#[test]
fn a_server_that_accepts_no_connection_is_passed_over_and_then_avoided() {
    let mut tcp = Tcp::new(dns_settings(), [1, 2]);
    tcp.refusing.insert(server(1));
    let a = tcp.connect(1);
    for n in 0..20 {
        tcp.ask(a, &query(n));
        tcp.answer_all();
        assert_eq!(tcp.read(a), Some(answer_to(&query(n))));
    }
    let tried = |tcp: &Tcp| tcp.opened.iter().filter(|&&id| tcp.server_of(id) == server(1)).count();
    assert_eq!((tried(&tcp), tcp.total()), (1, 0));
    tcp.pass(Duration::from_secs(2));
    for n in 20..30 {
        tcp.ask(a, &query(n));
        tcp.answer_all();
    }
    assert_eq!(tried(&tcp), 2, "tried again after a second");
    tcp.refusing.insert(server(2));
    let idle = tcp.open_to_servers();
    idle.into_iter().for_each(|id| tcp.end(id));
    std::iter::from_fn(|| tcp.read(a)).for_each(drop);
    tcp.ask(a, &query_with_opt(40));
    let answer = tcp.read(a).unwrap();
    assert_eq!((rcode(&answer), extended_error(&answer), tcp.total()), (SERVFAIL, Some(22), 0));
}

#[test]
fn a_query_whose_connection_breaks_goes_to_another_server_once() {
    let mut tcp = Tcp::new(dns_settings(), [1, 2]);
    let a = tcp.connect(1);
    tcp.ask(a, &query_with_opt(1));
    let (first, at_first) = tcp.at_server().unwrap();
    tcp.end(first);
    let (second, at_second) = tcp.at_server().expect("it was sent again");
    assert_ne!(tcp.server_of(first), tcp.server_of(second));
    assert_eq!(at_first[2..], at_second[2..]);
    tcp.end(second);
    let answer = tcp.read(a).unwrap();
    assert_eq!((id(&answer), rcode(&answer), extended_error(&answer)), (1, SERVFAIL, Some(22)));
    assert_eq!((tcp.total(), tcp.refused(DropReason::NoServer)), (0, 1));
    // What is no plain query is not sent twice.
    tcp.pass(3 * Duration::from_secs(1));
    let mut update = query(2);
    update[2] |= 5 << 3;
    tcp.ask(a, &update);
    let (id, _) = tcp.at_server().unwrap();
    tcp.end(id);
    assert_eq!(tcp.read(a).map(|answer| rcode(&answer)), Some(SERVFAIL));
    assert!(tcp.at_server().is_none());
}

#[test]
fn the_only_server_may_close_an_idle_connection_at_any_time() {
    let mut tcp = Tcp::new(dns_settings(), [1]);
    let a = tcp.connect(1);
    tcp.ask(a, &query(1));
    tcp.answer_all();
    tcp.read(a);
    tcp.ask(a, &query(2)); // while the server closes
    let (id, _) = tcp.at_server().unwrap();
    tcp.end(id);
    tcp.answer_all();
    assert_eq!(tcp.read(a), Some(answer_to(&query(2))));
}

#[test]
fn an_unanswered_query_gets_servfail_and_its_connection_is_given_up() {
    let mut tcp = Tcp::new(dns_settings(), [1]);
    let a = tcp.connect(1);
    tcp.ask(a, &query_with_opt(1));
    let (id, at_server) = tcp.at_server().unwrap();
    tcp.pass(TIMEOUT);
    let answer = tcp.read(a).unwrap();
    assert_eq!((rcode(&answer), extended_error(&answer)), (SERVFAIL, Some(22)));
    assert!(tcp.is_closed(id));
    assert_eq!((tcp.counters().timed_out.get(), tcp.total()), (1, 0));
    tcp.bytes(id, &framed(&answer_to(&at_server))); // too late
    assert_eq!(tcp.read(a), None);
}

#[test]
fn answers_that_belong_to_no_query_reach_no_client() {
    let mut tcp = Tcp::new(dns_settings(), [1]);
    let a = tcp.connect(1);
    tcp.ask(a, &query(1));
    let (server, at_server) = tcp.at_server().unwrap();
    let right = answer_to(&at_server);
    let mut other_id = right.clone();
    other_id[1] ^= 1;
    let mut other_question = right.clone();
    other_question[13] ^= 1;
    let mut bare = right[..12].to_vec();
    bare[5] = 0;
    for wrong in [&other_id, &other_question, &at_server, &bare, &right[..11].to_vec()] {
        tcp.bytes(server, &framed(wrong));
        assert_eq!(tcp.read(a), None);
    }
    let dropped = |reason| tcp.counters().common.dropped.get(reason);
    assert_eq!((dropped(DropReason::NotOpen), dropped(DropReason::WrongQuestion)), (1, 2));
    // An error without a question belongs to the query with its id.
    bare[3] |= 1;
    tcp.bytes(server, &framed(&bare));
    assert_eq!(tcp.read(a).map(|answer| (id(&answer), rcode(&answer))), Some((1, 1)));
}

#[test]
fn queries_without_one_question_are_the_servers_to_answer() {
    let mut tcp = Tcp::new(dns_settings(), [1]);
    let a = tcp.connect(1);
    let mut none = query(9)[..12].to_vec();
    none[5] = 0;
    tcp.ask(a, &none);
    tcp.answer_all();
    assert_eq!(tcp.read(a), Some(answer_to(&none)));
    assert!(!tcp.is_closed(a));
}

#[test]
fn what_is_no_query_closes_the_connection() {
    let mut tcp = Tcp::new(dns_settings(), [1]);
    for (n, (bytes, reason)) in
        [(b"short".to_vec(), DropReason::Malformed), (answer_to(&query(1)), DropReason::AnAnswer)]
            .into_iter()
            .enumerate()
    {
        let a = tcp.connect(n as u16);
        tcp.bytes(a, &framed(&bytes));
        assert!(tcp.is_closed(a) && tcp.refused(reason) == 1, "{reason:?}");
    }
    assert_eq!((tcp.total(), tcp.opened.len()), (0, 0));
}

#[test]
fn each_query_counts_for_the_rate_of_its_source() {
    let mut tcp = Tcp::new(DatagramSettings { rate_per_source: Some(2.0), ..dns_settings() }, [1]);
    let (a, b) = (tcp.connect(1), tcp.connect(2));
    (0..5).for_each(|n| tcp.ask(a, &query_with_opt(n)));
    tcp.ask(b, &query(1));
    tcp.answer_all();
    let answers: Vec<_> = std::iter::from_fn(|| tcp.read(a)).collect();
    let refused: Vec<_> = answers.iter().filter(|answer| rcode(answer) == 5).collect();
    assert_eq!((answers.len(), refused.len(), extended_error(refused[0])), (5, 3, Some(18)));
    assert!(tcp.read(b).is_some());
    assert_eq!(tcp.refused(DropReason::Rate), 3);
}

#[test]
fn the_oldest_idle_connection_makes_room_and_a_busy_one_does_not() {
    let mut tcp = Tcp::with_connections(dns_settings(), 3, [1]);
    let [a, b, c] = [1, 2, 3].map(|n| tcp.connect(n));
    tcp.ask(a, &query(1));
    let d = tcp.connect(4);
    assert_eq!([a, b, c, d].map(|id| tcp.is_closed(id)), [false, true, false, false]);
    for id in [c, d] {
        tcp.ask(id, &query(2));
    }
    assert_eq!(tcp.connect_from(client(5)), None, "all are busy");
    assert_eq!(tcp.pool.shared.tcp.refused.get(), 1);
    tcp.answer_all();
    assert!([a, c, d].iter().all(|&id| tcp.read(id).is_some()));
    tcp.connect(6);
}

#[test]
fn a_source_has_its_share_and_the_access_list_counts() {
    let settings = DatagramSettings {
        tcp_connections_per_source: 2,
        deny: vec!["198.51.100.9/32".parse().unwrap()],
        ..dns_settings()
    };
    let mut tcp = Tcp::new(settings, [1]);
    let of_one = |n: u16| SocketAddr::from(([198, 51, 100, 1], n));
    let first = tcp.connect_from(of_one(1)).unwrap();
    assert!(tcp.connect_from(of_one(2)).is_some() && tcp.connect_from(of_one(3)).is_none());
    assert!(tcp.connect_from(client(2)).is_some() && tcp.connect_from(client(9)).is_none());
    tcp.end(first);
    assert!(tcp.is_closed(first) && tcp.connect_from(of_one(4)).is_some());
    assert_eq!((tcp.pool.shared.tcp.refused.get(), tcp.pool.shared.tcp.opened.get()), (2, 4));
}

#[test]
fn a_source_at_its_share_takes_no_connection_of_another_source() {
    let settings = DatagramSettings { tcp_connections_per_source: 2, ..dns_settings() };
    let mut tcp = Tcp::with_connections(settings, 3, [1]);
    let idle = tcp.connect(1);
    let of_one = |n: u16| SocketAddr::from(([203, 0, 113, 1], n));
    assert!(tcp.connect_from(of_one(1)).is_some() && tcp.connect_from(of_one(2)).is_some());
    for n in 3..9 {
        tcp.pool.now += Duration::from_millis(1);
        assert_eq!(tcp.connect_from(of_one(n)), None, "its share is used up");
        assert!(!tcp.is_closed(idle), "connection {n} has taken that of another source");
    }
    assert_eq!(tcp.pool.shared.tcp.refused.get(), 6);
}

#[test]
fn a_client_that_does_not_read_is_not_read_and_a_client_that_asked_all_is_answered() {
    let mut tcp = Tcp::new(dns_settings(), [1]);
    let a = tcp.connect(1);
    tcp.peers.get_mut(&a).unwrap().is_blocked = true;
    let mut sent = 0;
    while tcp.streams.wants_bytes(a) {
        let many: Vec<u8> = (0..200).flat_map(|n| framed(&query(n))).collect();
        tcp.bytes(a, &many);
        sent += 200;
        while let Some((server, query)) = tcp.at_server() {
            let mut answer = answer_to(&query);
            answer.resize(2_000, 0);
            tcp.bytes(server, &framed(&answer));
        }
        assert!(sent <= 400, "it is read without end");
    }
    assert!(tcp.streams.unsent(a).len() < (64 << 10) + 100 * 2_100);
    assert_eq!(tcp.pool.shared.tcp.busy.get(), 1);
    tcp.unblock(a);
    tcp.end(a);
    while let Some((server, query)) = tcp.at_server() {
        tcp.bytes(server, &framed(&answer_to(&query)));
    }
    let answers = std::iter::from_fn(|| tcp.read(a)).count();
    assert_eq!((answers, tcp.is_closed(a)), (sent, true));
    assert!(tcp.peers[&a].resumed >= 1);
}

#[test]
fn a_client_that_reads_nothing_for_long_is_closed() {
    let mut tcp = Tcp::new(dns_settings(), [1]);
    let a = tcp.connect(1);
    tcp.peers.get_mut(&a).unwrap().is_blocked = true;
    tcp.ask(a, &query(1));
    tcp.answer_all();
    tcp.pass(29 * Duration::from_secs(1));
    assert!(!tcp.is_closed(a));
    tcp.pass(2 * Duration::from_secs(1));
    assert!(tcp.is_closed(a));
}

#[test]
fn a_transfer_has_a_connection_of_its_own_until_its_last_message() {
    for kind in [AXFR, IXFR] {
        let mut tcp = Tcp::new(dns_settings(), [1]);
        let a = tcp.connect(1);
        tcp.ask(a, &query_of(1, kind));
        let (own, request) = tcp.at_server().unwrap();
        tcp.ask(a, &query(2));
        let (shared, _) = tcp.at_server().unwrap();
        assert_ne!(own, shared);
        tcp.bytes(own, &framed(&transfer_answer(&request, 1, 1_000)));
        assert_eq!((tcp.total(), tcp.counters().common.answered.get()), (2, 1));
        tcp.pass(40 * Duration::from_secs(1)); // the server is silent, and the other query times out
        assert!(!tcp.is_closed(a) && !tcp.is_closed(own) && tcp.total() == 1);
        tcp.bytes(own, &framed(&transfer_answer(&request, 0, 1_000)));
        assert!(!tcp.is_closed(own));
        tcp.bytes(own, &framed(&transfer_answer(&request, 1, 1_000)));
        assert!(tcp.is_closed(own) && !tcp.is_closed(a) && tcp.total() == 0);
        let messages: Vec<_> = std::iter::from_fn(|| tcp.read(a)).collect();
        assert_eq!(messages.len(), 4);
        assert_eq!(messages.iter().filter(|message| id(message) == 1).count(), 3);
    }
}

#[test]
fn a_transfer_waits_for_a_slow_reader() {
    let mut tcp = Tcp::new(dns_settings(), [1]);
    let a = tcp.connect(1);
    tcp.ask(a, &query_of(1, AXFR));
    let (own, request) = tcp.at_server().unwrap();
    tcp.peers.get_mut(&a).unwrap().is_blocked = true;
    let mut sent = 0;
    while tcp.streams.wants_bytes(own) {
        tcp.bytes(own, &framed(&transfer_answer(&request, u8::from(sent == 0), 30_000)));
        sent += 1;
    }
    assert_eq!(sent, 3, "above 64 KiB it is not read");
    tcp.unblock(a);
    assert_eq!(tcp.peers[&own].resumed, 1);
    assert!(tcp.streams.wants_bytes(own));
    assert_eq!(std::iter::from_fn(|| tcp.read(a)).count(), 3);
}

#[test]
fn the_end_of_a_transfer_that_breaks_is_the_end_of_the_connection() {
    let mut tcp = Tcp::new(dns_settings(), [1, 2]);
    let a = tcp.connect(1);
    tcp.ask(a, &query_of(1, AXFR));
    let (own, request) = tcp.at_server().unwrap();
    tcp.bytes(own, &framed(&transfer_answer(&request, 1, 10)));
    tcp.end(own);
    assert_eq!(std::iter::from_fn(|| tcp.read(a)).count(), 1);
    assert!(tcp.is_closed(a) && tcp.total() == 0);
    // One that has not begun goes to the other server, and a client that leaves ends it there.
    let b = tcp.connect(2);
    tcp.ask(b, &query_of(1, AXFR));
    let (first, _) = tcp.at_server().unwrap();
    tcp.end(first);
    let (second, _) = tcp.at_server().unwrap();
    assert_ne!(tcp.server_of(first), tcp.server_of(second));
    tcp.end(b);
    assert!(!tcp.is_closed(second), "a client may have asked all");
    tcp.streams.on_failed(tcp.pool.now, b);
    tcp.carry_out();
    assert!(tcp.is_closed(second) && tcp.total() == 0);
}

#[test]
fn a_removed_server_finishes_its_transfers_until_the_drain_timeout() {
    let drain_timeout = Duration::from_secs(10);
    let mut tcp = Tcp::new(DatagramSettings { drain_timeout, ..dns_settings() }, [1]);
    let [a, b] = [1, 2].map(|n| tcp.connect(n));
    tcp.ask(a, &query_of(1, AXFR));
    let (long, request) = tcp.at_server().unwrap();
    tcp.ask(b, &query_of(2, AXFR));
    let (short, other) = tcp.at_server().unwrap();
    tcp.pool.want(wanted([2]));
    tcp.tick();
    tcp.ask(b, &query(3));
    let (new, of_new) = tcp.at_server().unwrap();
    assert_eq!(tcp.server_of(new), server(2), "it gets nothing new");
    tcp.bytes(new, &framed(&answer_to(&of_new)));
    for message in 0..9 {
        tcp.bytes(long, &framed(&transfer_answer(&request, u8::from(message == 0), 100)));
        tcp.pass(Duration::from_secs(1));
        tcp.pool.pass(10 * MS);
    }
    tcp.bytes(short, &framed(&transfer_answer(&other, 2, 10)));
    assert!(tcp.is_closed(short) && !tcp.is_closed(long) && tcp.pool.slot(1).is_some());
    // Half a message, when it is over: the client gets whole ones only.
    tcp.bytes(long, &framed(&transfer_answer(&request, 0, 100))[..50]);
    tcp.pool.pass(Duration::from_secs(2));
    tcp.pass(Duration::from_secs(2));
    assert!(tcp.is_closed(long) && tcp.is_closed(a) && !tcp.is_closed(b));
    assert_eq!(std::iter::from_fn(|| tcp.read(a)).count(), 9);
    assert!(tcp.peers[&a].received.is_empty());
    tcp.pool.pass(20 * MS);
    assert_eq!((tcp.pool.slot(1), tcp.total()), (None, 0));
}

#[test]
fn with_the_proxy_protocol_a_connection_serves_one_client() {
    let mut tcp = Tcp::new(DatagramSettings { proxy_protocol: ProxyProtocol::Every, ..dns_settings() }, [1]);
    let (a, b) = (tcp.connect(1), tcp.connect(2));
    for (n, id) in [(1, a), (2, b), (3, a)] {
        tcp.ask(id, &query(n));
    }
    let opened = tcp.open_to_servers();
    assert_eq!(opened.len(), 2);
    for (&id, n) in opened.iter().zip([1, 2]) {
        let header = crate::wire::proxy_protocol::header(
            crate::wire::proxy_protocol::Transport::Stream,
            client(n),
            addr(LOCAL),
        );
        let received = &mut tcp.peers.get_mut(&id).unwrap().received;
        assert!(received.bytes().starts_with(&header));
        received.consume(header.len());
    }
    tcp.answer_all();
    assert_eq!([a, b].map(|id| std::iter::from_fn(|| tcp.read(id)).count()), [2, 1]);
    tcp.end(a);
    assert!(tcp.is_closed(opened[0]) && !tcp.is_closed(opened[1]));
}

#[test]
fn a_drained_server_finishes_and_its_connections_end() {
    let mut tcp = Tcp::new(dns_settings(), [1, 2]);
    let a = tcp.connect(1);
    (0..4).for_each(|n| tcp.ask(a, &query(n)));
    tcp.pool.workers[0].order(tcp.pool.now, 1, Order::Drain).unwrap();
    (4..8).for_each(|n| tcp.ask(a, &query(n)));
    assert_eq!([1, 2].map(|n| tcp.pool.queue(n)), [2, 6]);
    tcp.answer_all();
    assert_eq!(std::iter::from_fn(|| tcp.read(a)).count(), 8);
    let open = tcp.open_to_servers();
    assert!(!open.is_empty() && open.iter().all(|&id| tcp.server_of(id) == server(2)));
    tcp.pool.workers[0].order(tcp.pool.now, 2, Order::Drain).unwrap();
    tcp.pass(2 * Duration::from_secs(1));
    assert_eq!(tcp.open_to_servers(), [], "idle ones too");
    assert!(!tcp.is_closed(a));
}

#[test]
fn a_pool_that_retires_closes_clients_between_messages() {
    let mut tcp = Tcp::new(dns_settings(), [1]);
    let (idle, busy) = (tcp.connect(1), tcp.connect(2));
    tcp.ask(busy, &query(1));
    tcp.bytes(busy, &framed(&query(2))[..9]);
    tcp.pool.workers[0].retire(tcp.pool.now);
    assert!(!tcp.pool.workers[0].is_idle(tcp.pool.now), "a query by TCP is in flight");
    tcp.tick();
    assert!(tcp.is_closed(idle) && !tcp.is_closed(busy) && !tcp.streams.is_over());
    assert_eq!(tcp.connect_from(client(3)), None);
    tcp.answer_all();
    assert_eq!(tcp.read(busy), Some(answer_to(&query(1))));
    assert!(tcp.is_closed(busy) && tcp.streams.is_over());
    assert_eq!(tcp.open_to_servers(), []);
    assert!(tcp.pool.workers[0].is_idle(tcp.pool.now));
}

#[test]
fn ten_thousand_idle_connections_hold_no_buffers() {
    let settings = DatagramSettings { tcp_connections_per_source: 20_000, ..dns_settings() };
    let mut tcp = Tcp::with_connections(settings, 10_000, [1]);
    tcp.is_checked = false;
    let idle: Vec<_> = (0..10_000).map(|n| tcp.connect(n)).collect();
    for (n, &id) in idle.iter().enumerate() {
        tcp.ask(id, &query(n as u16));
        if n % 50 == 0 {
            tcp.answer_all();
        }
    }
    tcp.answer_all();
    assert!(idle.iter().all(|&id| tcp.read(id).is_some()));
    assert_eq!((tcp.total(), tcp.pool.shared.tcp.open.get()), (0, 10_000));
}

/// What happens in a run.
#[derive(Clone, Copy, Debug)]
enum Step {
    Connect,
    Ask { client: usize, count: u8, kind: u8 },
    Piece { client: usize, len: usize },
    Answer { nth: usize, count: u8 },
    Break { nth: usize },
    Leave { client: usize, orderly: bool },
    Block { client: usize },
    Unblock { client: usize },
    Refuse { server: u16, refuses: bool },
    Udp,
    Pass { ms: u64 },
    Order { server: u16, order: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    prop_oneof![
        3 => Just(Connect),
        8 => (0usize..8, 1u8..9, 0u8..12).prop_map(|(client, count, kind)| Ask { client, count, kind }),
        3 => (0usize..8, 1usize..90).prop_map(|(client, len)| Piece { client, len }),
        8 => (0usize..8, 1u8..9).prop_map(|(nth, count)| Answer { nth, count }),
        1 => (0usize..8).prop_map(|nth| Break { nth }),
        2 => (0usize..8, any::<bool>()).prop_map(|(client, orderly)| Leave { client, orderly }),
        1 => (0usize..8).prop_map(|client| Block { client }),
        2 => (0usize..8).prop_map(|client| Unblock { client }),
        1 => (1u16..4, any::<bool>()).prop_map(|(server, refuses)| Refuse { server, refuses }),
        2 => Just(Udp),
        3 => (1u64..120).prop_map(|ms| Pass { ms }),
        1 => (1u16..4, 0u8..3).prop_map(|(server, order)| Order { server, order }),
    ]
}

/// A client of a run: the queries that it sent, and bytes of a query that are not sent yet.
struct Asker {
    id: ConnectionId,
    unanswered: HashMap<u16, Vec<u8>>,
    rest: Vec<u8>,
    has_left: bool,
}

fn run(steps: &[Step], limit: Option<u32>, proxy: bool) {
    let mut settings = DatagramSettings { servers_max: 8, ..dns_settings() };
    settings.max_outstanding = limit.map(Limit::Fixed);
    if proxy {
        settings.proxy_protocol = ProxyProtocol::Every;
    }
    let mut tcp = Tcp::with_connections(settings, 6, [1, 2, 4]);
    let mut askers: Vec<Asker> = vec![];
    let mut number = 0u16;
    let mut headers: HashSet<ConnectionId> = HashSet::new();
    for &step in steps {
        match step {
            Step::Connect => {
                number += 1;
                if let Some(id) = tcp.connect_from(client(number)) {
                    askers.push(Asker { id, unanswered: HashMap::new(), rest: vec![], has_left: false });
                }
            }
            Step::Ask { client, count, kind } => {
                let Some(asker) = askers.get_mut(client) else { continue };
                let kind = if kind == 0 { AXFR } else { 1 };
                for _ in 0..count {
                    number += 1;
                    let query = query_of(number, kind);
                    asker.rest.extend(framed(&query));
                    asker.unanswered.insert(number, query);
                }
                if !asker.has_left && tcp.streams.wants_bytes(asker.id) {
                    let bytes = std::mem::take(&mut asker.rest);
                    tcp.bytes(asker.id, &bytes);
                }
            }
            Step::Piece { client, len } => {
                let Some(asker) = askers.get_mut(client) else { continue };
                let piece: Vec<u8> = asker.rest.drain(..len.min(asker.rest.len())).collect();
                if !asker.has_left && tcp.streams.wants_bytes(asker.id) {
                    tcp.bytes(asker.id, &piece);
                } else {
                    asker.rest.splice(..0, piece);
                }
            }
            Step::Answer { nth, count } => {
                for _ in 0..count {
                    let open = tcp.open_to_servers();
                    let Some(&server) = open.get(nth % open.len().max(1)) else { break };
                    if proxy && headers.insert(server) {
                        tcp.peers.get_mut(&server).unwrap().received.consume(28);
                    }
                    let Some(query) = tcp.read(server) else { break };
                    let is_transfer = dns::query(&query).is_ok_and(|question| question.kind == AXFR);
                    let answer = if is_transfer { transfer_answer(&query, 2, 99) } else { answer_to(&query) };
                    tcp.bytes(server, &framed(&answer));
                }
            }
            Step::Break { nth } => {
                let open = tcp.open_to_servers();
                if let Some(&server) = open.get(nth % open.len().max(1)) {
                    tcp.end(server);
                }
            }
            Step::Leave { client, orderly } => {
                let Some(asker) = askers.get_mut(client) else { continue };
                if orderly {
                    asker.has_left = true;
                    tcp.end(asker.id);
                } else {
                    tcp.streams.on_failed(tcp.pool.now, asker.id);
                    tcp.carry_out();
                }
            }
            Step::Block { client } => {
                if let Some(asker) = askers.get(client) {
                    tcp.peers.get_mut(&asker.id).unwrap().is_blocked = true;
                }
            }
            Step::Unblock { client } => {
                if let Some(asker) = askers.get(client) {
                    tcp.unblock(asker.id);
                }
            }
            Step::Refuse { server: n, refuses } => {
                if refuses {
                    tcp.refusing.insert(server(n));
                } else {
                    tcp.refusing.remove(&server(n));
                }
            }
            Step::Udp => {
                number += 1;
                let sent = tcp.pool.ask(client(number), &query(number));
                let answers: Vec<In> = sent
                    .iter()
                    .filter(|sent| !tcp.pool.is_front(sent.socket))
                    .map(|sent| sent.answered(&answer_to(&sent.bytes)))
                    .collect();
                tcp.pool.turn(&answers);
            }
            Step::Pass { ms } => {
                tcp.pass(Duration::from_millis(ms));
                tcp.pool.turn(&[]);
            }
            Step::Order { server, order } => {
                let order = [Order::Enable, Order::Drain, Order::Disable][usize::from(order)];
                let _ = tcp.pool.workers[0].order(tcp.pool.now, server.into(), order); // there is no server 3
            }
        }
        // Each answer is to a query of this client, and comes once.
        for asker in &mut askers {
            while let Some(message) = tcp.read(asker.id) {
                let query = asker.unanswered.remove(&id(&message)).expect("it asked that, once");
                let same = |bytes: &[u8]| bytes[12..query.len()] == query[12..];
                assert!(message.len() >= query.len() && same(&message), "the answer to another question");
            }
            if tcp.is_closed(asker.id) {
                asker.unanswered.clear();
                asker.rest.clear();
            }
        }
        askers.retain(|asker| !tcp.is_closed(asker.id));
    }
    // All that is left is answered, refused or given up.
    for asker in &askers {
        tcp.unblock(asker.id);
    }
    for _ in 0..4 {
        tcp.pass(2 * TIMEOUT);
        tcp.pool.pass(2 * TIMEOUT);
    }
    for asker in &mut askers {
        while let Some(message) = tcp.read(asker.id) {
            asker.unanswered.remove(&id(&message)).expect("it asked that, once");
        }
        // Transfers last, and bytes that were never sent are no query.
        let is_done = |(_, query): (&u16, &Vec<u8>)| {
            dns::query(query).is_ok_and(|question| question.kind == AXFR)
                || asker.rest.windows(query.len()).any(|part| part[2..] == query[2..])
                || !asker.rest.is_empty()
        };
        assert!(tcp.is_closed(asker.id) || asker.unanswered.iter().all(is_done));
        tcp.streams.on_failed(tcp.pool.now, asker.id);
        tcp.carry_out();
    }
    tcp.tick();
    tcp.pool.pass(2 * TIMEOUT);
    tcp.tick();
    assert_eq!((tcp.total(), tcp.counters().in_flight.get()), (0, 0), "nothing is left in the tree");
    assert_eq!((tcp.pool.shared.tcp.open.get(), tcp.pool.shared.tcp.busy.get()), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn each_query_ends_once_whatever_happens(
        steps in proptest::collection::vec(step(), 1..120),
        limit in proptest::option::of(1u32..4),
        proxy in any::<bool>(),
    ) {
        run(&steps, limit, proxy);
    }

    #[test]
    fn random_bytes_do_no_harm(pieces in proptest::collection::vec(
        (any::<bool>(), proptest::collection::vec(any::<u8>(), 1..300)), 1..40,
    )) {
        let mut tcp = Tcp::new(dns_settings(), [1, 2]);
        let mut a = tcp.connect(1);
        for (to_server, mut bytes) in pieces {
            bytes[0] = 0; // short messages
            if to_server && let Some(&server) = tcp.open_to_servers().first() {
                tcp.bytes(server, &bytes);
            } else {
                if tcp.is_closed(a) {
                    a = tcp.connect(2);
                }
                tcp.bytes(a, &bytes);
            }
        }
    }
}
