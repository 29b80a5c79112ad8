//! DNS over TCP: a client's stream in different pieces, and a server that answers anything.
//!
//! Input: the size of the pieces, then the stream.
#![no_main]

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use lbd::role::datagram::streams::{Action, ConnectionId, Streams};
use lbd::role::datagram::{Protocol, ProxyProtocol};
use lbd::wire::dns;
use lbd::wire::dns::stream::{ByteQueue, LENGTH_LEN, first_message};
use lbd_fuzz::{Pool, client};
use libfuzzer_sys::fuzz_target;

/// A query for `a.`.
const USUAL: [u8; 19] = *b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
/// Between two inputs.
const STEP: Duration = Duration::from_millis(1);

struct Tcp {
    pool: Pool,
    streams: Streams,
    /// What the pool has sent on each open connection.
    sent: HashMap<ConnectionId, ByteQueue>,
    /// Connections to the server, in the order of their opening.
    to_server: Vec<ConnectionId>,
}

thread_local! {
    static TCP: RefCell<Tcp> = RefCell::new({
        let pool = Pool::new(Protocol::Dns, ProxyProtocol::Off);
        let streams = Streams::new(&pool.shared, 4, [3; 16], 5);
        Tcp { pool, streams, sent: HashMap::new(), to_server: vec![] }
    });
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, stream)) = data.split_first() else { return };
    TCP.with_borrow_mut(|tcp| {
        tcp.pool.turns.now += STEP;
        tcp.streams.on_tick(tcp.pool.turns.now);
        tcp.carry_out();
        let whole = tcp.client(stream, stream.len());
        let cut = tcp.client(stream, usize::from(size) + 1);
        assert_eq!(whole, cut, "pieces of {} bytes", usize::from(size) + 1);
        tcp.odd_server(stream, usize::from(size) + 1);
        assert_eq!(tcp.pool.shared.tree().total(), 0, "queries in flight at rest");
    });
});

/// What became of a client's stream. Queries that use several connections to the server have no order.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Queries at the server, without their ids.
    asked: Vec<Vec<u8>>,
    /// Answers to the client.
    answers: Vec<Vec<u8>>,
    /// Whether the pool has closed the connection before its end.
    is_closed: bool,
}

impl Tcp {
    fn carry_out(&mut self) {
        let now = self.pool.turns.now;
        while let Some(action) = self.streams.poll_action() {
            match action {
                Action::Connect(id, _) => {
                    self.sent.insert(id, ByteQueue::default());
                    self.to_server.push(id);
                    self.streams.on_connected(now, id);
                }
                Action::Send(id) => {
                    let bytes = self.streams.unsent(id);
                    let count = bytes.len();
                    if let Some(sent) = self.sent.get_mut(&id) {
                        sent.append(bytes);
                        self.streams.on_sent(now, id, count);
                    }
                }
                Action::Resume(_) => {}
                Action::Close(id) => {
                    assert!(self.sent.remove(&id).is_some(), "closed twice");
                    self.to_server.retain(|open| *open != id);
                }
            }
        }
    }

    fn bytes(&mut self, id: ConnectionId, bytes: &[u8], size: usize) {
        for piece in bytes.chunks(size.max(1)) {
            self.streams.on_bytes(self.pool.turns.now, id, piece);
            self.carry_out();
        }
    }

    fn read(&mut self, id: ConnectionId) -> Option<Vec<u8>> {
        let sent = self.sent.get_mut(&id)?;
        let message = first_message(sent.bytes())?.to_vec();
        sent.consume(LENGTH_LEN + message.len());
        Some(message)
    }

    /// The next query at the server.
    fn query(&mut self) -> Option<(ConnectionId, Vec<u8>)> {
        let ids = self.to_server.clone();
        ids.into_iter().find_map(|id| self.read(id).map(|query| (id, query)))
    }

    fn accept(&mut self) -> ConnectionId {
        let local = ([192, 0, 2, 53], 53).into();
        let id = self.streams.accept(self.pool.turns.now, client(), local).expect("there is room");
        self.sent.insert(id, ByteQueue::default());
        id
    }

    /// A client sends this stream in pieces of this size, and the server answers each query.
    fn client(&mut self, stream: &[u8], size: usize) -> Outcome {
        let now = self.pool.turns.now;
        let id = self.accept();
        self.bytes(id, stream, size);
        let is_closed = !self.sent.contains_key(&id);
        let mut asked = vec![];
        while let Some((server, query)) = self.query() {
            asked.push(query[2..].to_vec());
            let mut answer = query;
            answer[2] |= 0x80;
            self.bytes(server, &framed(&answer), size);
        }
        let mut answers: Vec<_> = std::iter::from_fn(|| self.read(id)).collect();
        assert!(is_closed || answers.len() >= asked.len(), "each query has an answer");
        asked.sort_unstable();
        answers.sort_unstable();
        self.streams.on_failed(now, id);
        self.carry_out();
        assert!(!self.sent.contains_key(&id));
        Outcome { asked, answers, is_closed }
    }

    /// A server sends this stream in place of an answer, and then the answer.
    fn odd_server(&mut self, stream: &[u8], size: usize) {
        let now = self.pool.turns.now;
        let id = self.accept();
        self.bytes(id, &framed(&USUAL), usize::MAX);
        let (server, mut answer) = self.query().expect("a usual query reaches the server");
        answer[2] |= 0x80;
        self.bytes(server, stream, size);
        self.bytes(server, &framed(&answer), size);
        let answers: Vec<_> = std::iter::from_fn(|| self.read(id)).collect();
        assert!(answers.len() <= 1, "one query, one answer");
        for answer in &answers {
            assert!(dns::id(answer) == 0x1234 && answer[2] & 0x80 != 0);
        }
        // The client first: a query whose client is there would go to the server again.
        self.streams.on_failed(now, id);
        self.streams.on_end(now, server);
        self.carry_out();
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut stream = ByteQueue::default();
    stream.append_message(dns::id(message), message);
    stream.bytes().to_vec()
}
