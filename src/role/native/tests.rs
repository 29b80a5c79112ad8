//! Frames of unknown, forging and broken peers are counted by reason, are never answered, and cause no panic.
//! `tests/sim` tests the balancer with honest peers, in all four roles.

use std::sync::atomic::Ordering;

use super::*;
use crate::pool::health::Rules;
use crate::pool::order::{Order, Refused};
use crate::pool::outstanding::OUTSTANDING_MAX;
use crate::pool::waiting::Limit;
use crate::wire::header::HEADER_LEN;
use crate::wire::message::{Message, Registration};
use crate::wire::{Frame, Header, Kind, RequestOp, ServerOp, ServerState, Status};
use proptest::prelude::*;
use zerocopy::FromBytes;

const FORMAT: FrameFormat = FrameFormat { size: 128, tagged: false };
pub(super) const NOW: Instant = Instant::from_nanos(5_000_000_000);

pub(super) fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A balancer of one worker and the memory of its turns.
pub(super) struct Bench {
    pub(super) balancer: NativeRole,
    pub(super) stats: Arc<NativeStats>,
    rx: Rx,
    tx: Tx,
    pub(super) now: Instant,
}

impl Bench {
    pub(super) fn settings(key: Option<[u8; 16]>) -> NativePoolSettings {
        let format = if key.is_some() { FrameFormat::tagged(160) } else { FORMAT };
        NativePoolSettings {
            format,
            key,
            policy: PolicyKind::ShortestQueue,
            servers_max: 4,
            max_outstanding: None,
            waiting_max: 64,
            interval: Duration::from_millis(10),
            controller: Some(addr(55_000)),
            scale: autoscale::Policy {
                threshold: 5.0,
                grow_after: Duration::from_secs(1),
                shrink_after: Duration::from_secs(1),
                grow_cool_down: Duration::from_secs(1),
                shrink_cool_down: Duration::from_secs(1),
                grow_max: None,
                shrink_max: 1,
                min: 1,
                max: 4,
            },
            health: Rules::default(),
            own: vec![addr(54_001), addr(54_000)],
            secret: [9; 16],
            workers: 1,
            reply_path: ReplyPath::Balancer,
            seed: 1,
        }
    }

    pub(super) fn new(key: Option<[u8; 16]>) -> Bench {
        Bench::over(NativeRole::workers(Bench::settings(key), NOW).remove(0), NOW)
    }

    pub(super) fn over(balancer: NativeRole, now: Instant) -> Bench {
        let stats = Arc::clone(balancer.stats());
        Bench { balancer, stats, rx: Rx::new(8, 2048), tx: Tx::new(256, 4096, 1), now }
    }

    /// One turn with one datagram. Returns the sent frames with their destinations.
    pub(super) fn turn(
        &mut self,
        socket: SocketId,
        peer: SocketAddr,
        bytes: &[u8],
    ) -> Vec<(SocketAddr, Vec<u8>)> {
        let sent = self.turn_unchecked(socket, peer, bytes);
        self.balancer.check_invariants();
        sent
    }

    /// The same for a balancer whose state may be damaged.
    pub(super) fn turn_unchecked(
        &mut self,
        socket: SocketId,
        peer: SocketAddr,
        bytes: &[u8],
    ) -> Vec<(SocketAddr, Vec<u8>)> {
        receive(&mut self.rx, socket, peer, bytes);
        self.balancer.on_batch(self.now, &mut self.rx, &mut self.tx);
        take_sent(&mut self.rx, &mut self.tx)
    }

    /// A turn without a datagram, at whose end the timers run. Returns the sent frames.
    pub(super) fn tick(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        self.balancer.on_batch(self.now, &mut self.rx, &mut self.tx);
        self.balancer.on_timeout(self.now, &mut self.tx);
        let sent = take_sent(&mut self.rx, &mut self.tx);
        self.balancer.check_invariants();
        sent
    }

    /// The SYNC that the timers send to a server.
    pub(super) fn sync_to(&mut self, to: SocketAddr) -> Header {
        let sent = self.tick();
        let syncs = sent.iter().map(|(to, bytes)| (*to, header(bytes)));
        let mut syncs = syncs.filter(|(_, header)| header.op == RequestOp::Sync as u8);
        syncs.find(|(server, _)| *server == to).expect("the server needs a SYNC").1
    }

    pub(super) fn drops(&self, reason: DropReason) -> u64 {
        self.stats.common.dropped.get(reason)
    }

    /// Registers a server with id 1 at port 50000, and brings it up.
    pub(super) fn with_server(mut self) -> Bench {
        let sent = self.turn(BACK, addr(50_000), &registration(77, 0));
        let cookie = header(&sent[0].1).cookie.get();
        assert_eq!(self.turn(BACK, addr(50_000), &registration(77, cookie)), []);
        let sync = self.sync_to(addr(50_000));
        self.turn(BACK, addr(50_000), &report(&sync, 1, 0));
        assert_eq!(self.balancer.shared.pool.usable.load(Ordering::Relaxed), 1);
        self
    }

    /// A request of a client at port 40000, as the server sees it.
    pub(super) fn dispatched(&mut self) -> Vec<u8> {
        let sent = self.turn(FRONT, addr(40_000), &request());
        assert_eq!((sent.len(), sent[0].0), (1, addr(50_000)));
        sent.into_iter().next().unwrap().1
    }
}

/// Puts a datagram into the memory of a turn; none if `bytes` is empty.
fn receive(rx: &mut Rx, socket: SocketId, peer: SocketAddr, bytes: &[u8]) {
    rx.slot_mut(0)[..bytes.len()].copy_from_slice(bytes);
    if !bytes.is_empty() {
        let len = bytes.len() as u32;
        rx.push(Received { socket, peer, local_ip: None, slot: 0, start: 0, len, stride: len });
    }
}

/// Ends a turn. Returns the sent frames with their destinations.
fn take_sent(rx: &mut Rx, tx: &mut Tx) -> Vec<(SocketAddr, Vec<u8>)> {
    let frames = |d| tx.frames(d).map(|f| tx.bytes(rx, f).to_vec());
    let sent = tx.destinations().iter().flat_map(|d| frames(d).map(|bytes| (d.to, bytes))).collect();
    tx.clear();
    rx.clear();
    sent
}

pub(super) fn header(bytes: &[u8]) -> Header {
    Header::read_from_bytes(&bytes[..HEADER_LEN]).unwrap()
}

fn frame(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; FORMAT.size];
    Frame::write(&mut bytes, header, payload);
    bytes
}

fn request() -> Vec<u8> {
    let mut header = Header::new(Kind::ClientRequest, FORMAT.size);
    header.attempt = 1;
    header.client_id.set(9);
    header.sequence.set(1);
    frame(&header, b"question")
}

fn registration(instance: u64, cookie: u64) -> Vec<u8> {
    let mut header = Header::new(Kind::ServerResponse, FORMAT.size);
    header.op = ServerOp::Register as u8;
    header.client_id.set(instance);
    header.sequence.set(4711);
    header.server_epoch.set(3);
    header.cookie.set(cookie);
    let registration = Registration {
        server_id: 1,
        queue_capacity: 64,
        report_interval_us: 10_000,
        weight: 1,
        reserved: [0; 2],
    };
    frame(&header, &registration.to_bytes())
}

pub(super) fn report(sync: &Header, number: u32, received: u32) -> Vec<u8> {
    let mut header = *sync;
    header.kind = Kind::ServerResponse as u8;
    header.op = ServerOp::Report as u8;
    header.report.set(number);
    header.seq.set(sync.dispatch_seq.get());
    header.received.set(received);
    header.done.set(received);
    frame(&header, &[])
}

/// The reply of an honest server to a request.
pub(super) fn reply(request: &[u8], number: u32) -> Vec<u8> {
    let mut header = header(request);
    header.kind = Kind::ServerResponse as u8;
    header.op = ServerOp::Reply as u8;
    header.status = Status::Ok as u8;
    header.report.set(number);
    header.seq.set(header.dispatch_seq.get());
    header.received.set(number - 1);
    header.done.set(number - 1);
    frame(&header, b"answer")
}

#[test]
fn port_0_is_never_answered() {
    let mut bench = Bench::new(None);
    assert_eq!(bench.turn(BACK, addr(0), &registration(77, 0)), []);
    assert_eq!(bench.turn(FRONT, addr(0), &request()), []);
    assert_eq!(bench.drops(DropReason::SourcePort), 2);
}

#[test]
fn an_honest_reply_reaches_its_client_once_without_internal_fields() {
    let mut bench = Bench::new(None).with_server();
    let request = bench.dispatched();
    assert_eq!(bench.balancer.tree().total(), 1);
    let sent = bench.turn(BACK, addr(50_000), &reply(&request, 2));
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, addr(40_000));
    let answer = header(&sent[0].1);
    assert_eq!(
        (answer.kind, answer.client_id.get(), answer.sequence.get()),
        (Kind::ClientResponse as u8, 9, 1)
    );
    assert!(sent[0].1[Header::INTERNAL].iter().all(|&b| b == 0));
    assert_eq!(bench.balancer.tree().total(), 0);
    assert_eq!(bench.turn(BACK, addr(50_000), &reply(&request, 3)), [], "the second time");
    assert_eq!(bench.drops(DropReason::Duplicate), 1);
}

#[test]
fn a_forged_reply_has_no_effect_but_a_counter() {
    let mut bench = Bench::new(None).with_server();
    let request = bench.dispatched();
    let honest = reply(&request, 2);
    assert_eq!(bench.turn(BACK, addr(50_001), &honest), [], "from another address");
    assert_eq!(bench.drops(DropReason::WrongSource), 1);
    for at in Header::COOKIE_COVERS.chain(72..80) {
        let mut forged = honest.clone();
        forged[at] ^= 1;
        assert_eq!(bench.turn(BACK, addr(50_000), &forged), [], "byte {at}");
    }
    let refused = bench.drops(DropReason::Cookie) + bench.drops(DropReason::WrongSource);
    assert_eq!(refused, 1 + 64);
    assert_eq!(bench.balancer.tree().total(), 1, "the request is still outstanding");
    assert_eq!(bench.turn(BACK, addr(50_000), &honest).len(), 1);
}

#[test]
fn a_forged_registration_gets_a_challenge_of_its_own_size_and_nothing_else() {
    let mut bench = Bench::new(None);
    let sent = bench.turn(BACK, addr(50_000), &registration(77, 0x1234));
    assert_eq!(sent.len(), 1);
    assert_eq!(header(&sent[0].1).op, RequestOp::Challenge as u8);
    assert_eq!(sent[0].1.len(), FORMAT.size);
    assert_eq!(bench.drops(DropReason::Nonce), 1);
    let nonce = header(&sent[0].1).cookie.get();
    let stolen = bench.turn(BACK, addr(50_001), &registration(77, nonce));
    assert_eq!(header(&stolen[0].1).op, RequestOp::Challenge as u8, "a nonce belongs to its address");
    assert_eq!(bench.balancer.registry().unwrap().iter().count(), 0);
    bench.now += Duration::from_secs(6);
    bench.turn(BACK, addr(50_000), &registration(77, nonce));
    assert_eq!(bench.balancer.registry().unwrap().iter().count(), 0, "and ages");
}

#[test]
fn an_answer_is_never_answered_and_no_peer_is_mistaken_for_a_client() {
    let mut bench = Bench::new(None).with_server();
    let mut answer = header(&request());
    answer.kind = Kind::ClientResponse as u8;
    assert_eq!(bench.turn(FRONT, addr(40_000), &frame(&answer, b"")), []);
    assert_eq!(bench.turn(BACK, addr(40_000), &frame(&answer, b"")), []);
    assert_eq!(bench.turn(BACK, addr(40_000), &request()), []);
    assert_eq!(bench.drops(DropReason::Unexpected), 3);
    assert_eq!(bench.turn(FRONT, addr(0), &request()), []);
    assert_eq!(bench.drops(DropReason::SourcePort), 1);
    for port in [54_001, 54_000, 50_000] {
        assert_eq!(bench.turn(FRONT, addr(port), &request()), []);
    }
    assert_eq!(bench.drops(DropReason::NotAClient), 3);
}

#[test]
fn the_balancer_recognises_itself_behind_a_wildcard() {
    let wildcard = SocketAddr::from(([0, 0, 0, 0], 54_001));
    let settings = NativePoolSettings { own: vec![wildcard, addr(54_000)], ..Bench::settings(None) };
    let mut bench = Bench::over(NativeRole::workers(settings, NOW).remove(0), NOW).with_server();
    assert_eq!(bench.turn(FRONT, addr(54_001), &request()), []);
    assert_eq!((bench.drops(DropReason::NotAClient), bench.stats.common.received.get()), (1, 0));
}

#[test]
fn a_refusal_is_no_longer_than_the_request_and_carries_no_payload() {
    let mut bench = Bench::new(None);
    let sent = bench.turn(FRONT, addr(40_000), &request());
    let (to, bytes) = &sent[0];
    assert_eq!((*to, bytes.len()), (addr(40_000), FORMAT.size));
    let busy = header(bytes);
    assert_eq!(
        (busy.kind, busy.status, busy.payload_len.get()),
        (Kind::ClientResponse as u8, Status::Busy as u8, 0)
    );
    assert!(busy.deadline_us.get() > 0, "when to repeat the request");
    assert!(bytes[HEADER_LEN..].iter().all(|&b| b == 0));
    assert_eq!(bench.stats.common.refused.get(DropReason::NoServer), 1);
    let mut at_most_once = header(&request());
    at_most_once.mode = 2;
    let sent = bench.turn(FRONT, addr(40_000), &frame(&at_most_once, b""));
    assert_eq!(header(&sent[0].1).status, Status::Error as u8);
}

/// A balancer that limits each server to one request and queues at most `waiting_max` requests.
fn bounded(waiting_max: usize) -> Bench {
    let settings =
        NativePoolSettings { max_outstanding: Some(Limit::Fixed(1)), waiting_max, ..Bench::settings(None) };
    Bench::over(NativeRole::workers(settings, NOW).remove(0), NOW).with_server()
}

fn request_of(client: u64, deadline: Duration) -> Vec<u8> {
    let mut header = header(&request());
    header.client_id.set(client);
    header.deadline_us.set(deadline.as_micros() as u32);
    frame(&header, b"question")
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn excess_requests_are_queued_and_leave_in_order_with_the_rest_of_their_deadlines() {
    let mut bench = bounded(8);
    let first = bench.dispatched();
    for client in 1..4 {
        assert_eq!(bench.turn(FRONT, addr(40_000 + client), &request_of(client.into(), SECOND)), []);
    }
    let mut at_server = first;
    for (client, number) in [(1u16, 2), (2, 3), (3, 4)] {
        bench.now += Duration::from_millis(10);
        let sent = bench.turn(BACK, addr(50_000), &reply(&at_server, number));
        let [(_, answered), (to, next)] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(header(answered).kind, Kind::ClientResponse as u8);
        assert_eq!((*to, header(next).client_id.get()), (addr(50_000), client.into()));
        assert_eq!(header(next).client_port.get(), 40_000 + client);
        assert_eq!(header(next).deadline_us.get(), 1_000_000 - 10_000 * u32::from(client));
        assert_eq!(&next[HEADER_LEN..HEADER_LEN + 8], b"question");
        at_server = next.clone();
    }
    let sent = bench.turn(BACK, addr(50_000), &reply(&at_server, 5));
    assert_eq!((sent.len(), sent[0].0), (1, addr(40_003)), "its cookie is valid");
    assert_eq!(
        (bench.stats.common.waited.get(), bench.stats.common.waiting_delay.snapshot().count()),
        (3, 3)
    );
    assert!(bench.balancer.is_idle());
}

#[test]
fn a_full_queue_refuses_with_the_expected_wait_and_expired_requests_are_dropped() {
    let mut bench = bounded(2);
    let first = bench.dispatched();
    assert_eq!(bench.turn(FRONT, addr(40_001), &request_of(1, 5 * SECOND)), []);
    assert_eq!(bench.turn(FRONT, addr(40_002), &request_of(2, SECOND)), []);
    let refused = bench.turn(FRONT, addr(40_003), &request_of(3, SECOND));
    let busy = header(&refused[0].1);
    assert_eq!((busy.status, busy.deadline_us.get()), (Status::Busy as u8, 20_000), "nothing is known yet");
    bench.now += 4 * SECOND;
    let sent = bench.turn(BACK, addr(50_000), &reply(&first, 2));
    assert_eq!((sent.len(), header(&sent[1].1).client_id.get()), (2, 1));
    // The wait of four seconds raises the expected wait of later requests.
    assert_eq!(bench.drops(DropReason::Expired), 1, "the second one leaves its entry");
    for client in [4, 5] {
        assert_eq!(bench.turn(FRONT, addr(40_004), &request_of(client, 60 * SECOND)), []);
    }
    let refused = bench.turn(FRONT, addr(40_006), &request_of(6, 60 * SECOND));
    assert_eq!(header(&refused[0].1).deadline_us.get(), 718_750, "two positions of 359 ms");
    bench.now += SECOND;
    bench.turn(BACK, addr(50_000), &reply(&sent[1].1, 3));
    assert_eq!(
        (bench.drops(DropReason::Expired), bench.stats.common.refused.get(DropReason::ServersFull)),
        (1, 2)
    );
}

#[test]
fn a_request_that_is_repeated_while_it_waits_is_served_once() {
    let mut bench = bounded(8);
    let first = bench.dispatched();
    let again = |client| {
        let mut header = header(&request_of(client, SECOND));
        header.attempt = 2;
        frame(&header, b"question")
    };
    for bytes in [request_of(1, SECOND), again(1), again(1), again(2), again(2), again(3)] {
        assert_eq!(bench.turn(FRONT, addr(40_001), &bytes), []);
    }
    assert_eq!((bench.balancer.waiting(), bench.drops(DropReason::StillWaits)), (3, 3));
    let mut at_server = first;
    for number in 2..5 {
        at_server = bench.turn(BACK, addr(50_000), &reply(&at_server, number)).remove(1).1;
    }
    // The first request is no longer queued.
    assert_eq!(bench.turn(FRONT, addr(40_001), &again(1)), []);
    assert_eq!((bench.balancer.waiting(), bench.drops(DropReason::StillWaits)), (1, 3));
}

#[test]
fn queued_requests_are_refused_when_no_server_is_left() {
    let mut bench = bounded(4);
    bench.dispatched();
    assert_eq!(bench.turn(FRONT, addr(40_001), &request_of(1, SECOND)), []);
    let now = bench.now;
    bench.balancer.order(now, 1, Order::Disable).unwrap();
    let sent = bench.turn(FRONT, addr(40_009), &[]);
    assert_eq!((sent.len(), sent[0].0, header(&sent[0].1).status), (1, addr(40_001), Status::Busy as u8));
    assert_eq!((bench.stats.common.refused.get(DropReason::NoServer), bench.balancer.waiting()), (1, 0));
}

#[test]
fn a_lifted_limit_sends_all_queued_requests_and_can_be_restored() {
    let mut bench = bounded(4);
    bench.dispatched();
    for client in 1..4 {
        assert_eq!(bench.turn(FRONT, addr(40_001), &request_of(client, SECOND)), []);
    }
    assert!(!bench.balancer.is_idle());
    bench.balancer.stop_waiting();
    assert_eq!(bench.turn(FRONT, addr(40_001), &[]).len(), 3);
    bench.balancer.wait_again();
    assert_eq!(bench.turn(FRONT, addr(40_001), &request_of(9, SECOND)), []);
    assert_eq!(bench.balancer.waiting(), 1);
}

#[test]
fn acknowledgements_are_accepted_from_the_controllers_address_only() {
    let mut bench = Bench::new(None);
    let mut ack = Header::new(Kind::ControllerRequest, FORMAT.size);
    ack.op = RequestOp::Ack as u8;
    assert_eq!(bench.turn(BACK, addr(55_001), &frame(&ack, b"")), []);
    assert_eq!(bench.drops(DropReason::WrongSource), 1);
    assert_eq!(bench.turn(BACK, addr(55_000), &frame(&ack, b"")), []);
    assert_eq!(bench.drops(DropReason::NotOpen), 1, "no request is open");
}

#[test]
fn with_a_key_every_changed_bit_and_every_replay_is_refused() {
    let key = [5; 16];
    let mut bench = Bench::new(Some(key));
    let mut sealer = Sealer::new(&key, 99);
    let mut sealed = |cookie| {
        let plain = registration(77, cookie);
        let mut bytes = vec![0; 160];
        let mut header = header(&plain);
        header.frame_size.set(160);
        Frame::write(&mut bytes, &header, &plain[HEADER_LEN..]);
        sealer.seal(&mut bytes);
        bytes
    };
    let challenge = bench.turn(BACK, addr(50_000), &sealed(0));
    assert!(Opener::new(&key).open(&challenge[0].1).is_ok(), "the answer is sealed too");
    let join = sealed(header(&challenge[0].1).cookie.get());
    for bit in 0..join.len() * 8 {
        let mut changed = join.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(bench.turn(BACK, addr(50_000), &changed), [], "bit {bit}");
    }
    assert_eq!(bench.drops(DropReason::Tag), 1280);
    bench.turn(BACK, addr(50_000), &join);
    assert_eq!(bench.sync_to(addr(50_000)).sequence.get(), 4711, "it is admitted");
    assert_eq!(bench.turn(BACK, addr(50_000), &join), [], "a replay");
    assert_eq!(bench.drops(DropReason::Replay), 1);
    let unsealed = bench.turn(FRONT, addr(40_000), &[0; 160]);
    assert_eq!(unsealed, []);
}

#[test]
fn every_truncation_and_every_flipped_bit_is_counted_or_harmless() {
    let mut bench = Bench::new(None).with_server();
    let request = request();
    let mut register = registration(77, 0);
    register[0] ^= 0xff; // so that no challenge is due
    for (socket, whole) in [(FRONT, &request), (BACK, &register)] {
        for len in 1..whole.len() {
            assert_eq!(bench.turn(socket, addr(40_000), &whole[..len]), [], "{len} bytes");
        }
    }
    assert_eq!(bench.drops(DropReason::Length), 2 * 127);
    // The first eight bytes and the mode decide whether a frame is a request; the rest is the client's own.
    for bit in (0..64).chain(72..80) {
        let mut flipped = request.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let before = bench.stats.common.dropped.total();
        let sent = bench.turn(FRONT, addr(40_000), &flipped);
        let counted = bench.stats.common.dropped.total() - before;
        let still_valid =
            Frame::check(&mut flipped, &FORMAT).is_ok_and(|f| f.header.kind == 1 && f.header.mode < 3);
        assert_eq!((sent.len() as u64, counted), if still_valid { (1, 0) } else { (0, 1) }, "bit {bit}");
    }
}

proptest! {
    #[test]
    fn random_bytes_are_never_answered_and_always_counted(
        bytes in prop::collection::vec(any::<u8>(), 1..600),
        front in any::<bool>(),
        port in 1u16..,
    ) {
        let mut bench = Bench::new(None);
        let socket = if front { FRONT } else { BACK };
        prop_assume!(!bytes.starts_with(b"lb"));
        prop_assert_eq!(bench.turn(socket, addr(port), &bytes), []);
        let frames = if bytes.len().is_multiple_of(FORMAT.size) { bytes.len() / FORMAT.size } else { 1 };
        prop_assert_eq!(bench.stats.common.dropped.total(), frames as u64);
    }

    /// The counts stay within the requests sent, regardless of the server's reports.
    #[test]
    fn a_lying_server_cannot_break_the_counts(lies in prop::collection::vec(any::<[u32; 6]>(), 1..20)) {
        let mut bench = Bench::new(None).with_server();
        for (i, [number, seq, received, done, queue, foreign]) in lies.into_iter().enumerate() {
            let request = bench.dispatched();
            let mut lie = header(&request);
            lie.kind = Kind::ServerResponse as u8;
            lie.op = ServerOp::Report as u8;
            lie.report.set(if i % 2 == 0 { i as u32 + 2 } else { number });
            lie.seq.set(seq % 64);
            lie.received.set(received);
            lie.done.set(done % received.max(1));
            lie.queue.set(queue);
            lie.foreign.set(foreign);
            bench.turn(BACK, addr(50_000), &frame(&lie, b""));
            prop_assert!(bench.balancer.tree().total() <= 2 * u64::from(OUTSTANDING_MAX) + 20);
        }
    }
}

#[test]
fn a_report_of_an_unknown_server_is_challenged_so_that_a_restarted_balancer_finds_its_pool() {
    let mut bench = Bench::new(None);
    let mut response = Message::new(Kind::ServerResponse, 5, 4712);
    response.op = ServerOp::Report as u8;
    response.route.server_epoch = 8;
    let mut bytes = vec![0; 128];
    response.encode(b"", &FORMAT, &mut bytes);
    let sent = bench.turn(BACK, addr(50_000), &bytes);
    let challenge = header(&sent[0].1);
    assert_eq!(
        (challenge.op, challenge.sequence.get()),
        (RequestOp::Challenge as u8, 4712),
        "with the server's own nonce"
    );
}

/// Two workers of one balancer; worker 1 has a server-side address of its own.
struct Workers {
    roles: Vec<NativeRole>,
    rx: Rx,
    tx: Tx,
    now: Instant,
}

const BACKS: [u16; 2] = [54_000, 54_100];

impl Workers {
    fn turn(
        &mut self,
        worker: usize,
        socket: SocketId,
        peer: SocketAddr,
        bytes: &[u8],
    ) -> Vec<(SocketAddr, Vec<u8>)> {
        receive(&mut self.rx, socket, peer, bytes);
        self.roles[worker].on_batch(self.now, &mut self.rx, &mut self.tx);
        self.roles[worker].check_invariants();
        self.sent()
    }

    /// The frames that a worker's timers send after some time without datagrams.
    fn tick(&mut self, worker: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        self.now += Duration::from_millis(20);
        self.roles[worker].on_batch(self.now, &mut self.rx, &mut self.tx);
        self.roles[worker].on_timeout(self.now, &mut self.tx);
        self.roles[worker].check_invariants();
        self.sent()
    }

    /// Takes the frames that a turn has queued for sending.
    fn sent(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        take_sent(&mut self.rx, &mut self.tx)
    }

    /// Two workers with a server of id 1 at port 50000, which both have confirmed.
    fn with_server() -> Workers {
        let settings = NativePoolSettings {
            workers: 2,
            own: vec![addr(54_001), addr(BACKS[0]), addr(BACKS[1])],
            ..(*Bench::new(None).balancer.settings).clone()
        };
        let roles = NativeRole::workers(settings, NOW);
        let (rx, tx, now) = (Rx::new(8, 2048), Tx::new(256, 4096, 1), NOW);
        let mut workers = Workers { roles, rx, tx, now };
        workers.roles[0].on_timeout(NOW, &mut workers.tx); // without it no gap is a stall
        let sent = workers.turn(0, BACK, addr(50_000), &registration(77, 0));
        let cookie = header(&sent[0].1).cookie.get();
        assert_eq!(workers.turn(0, BACK, addr(50_000), &registration(77, cookie)), []);
        let sent = workers.tick(0);
        let answer = report(&header(&sent[0].1), 1, 0);
        workers.turn(0, BACK, addr(50_000), &answer);
        assert_eq!(workers.usable(), 0, "worker 1 is not known to the server yet");
        workers.turn(1, BACK, addr(50_000), &[]);
        let sync = header(&workers.tick(1)[0].1);
        assert_eq!((sync.op, sync.worker, sync.sequence.get()), (RequestOp::Sync as u8, 1, 4711));
        workers.turn(1, BACK, addr(50_000), &report(&sync, 1, 0));
        workers.tick(0);
        assert_eq!(workers.usable(), 1, "now both workers can select the server");
        workers
    }

    fn usable(&self) -> u32 {
        self.roles[0].shared.pool.usable.load(Ordering::Relaxed)
    }

    fn drops(&self, worker: usize, reason: DropReason) -> u64 {
        self.roles[worker].stats().common.dropped.get(reason)
    }
}

#[test]
fn a_reply_at_another_worker_is_delivered_once_and_counted_only_by_its_own_worker() {
    let mut workers = Workers::with_server();
    let sent = workers.turn(1, FRONT, addr(40_000), &request());
    assert_eq!((sent.len(), sent[0].0), (1, addr(50_000)));
    let dispatched = sent.into_iter().next().unwrap().1;
    assert_eq!((header(&dispatched).worker, workers.roles[0].tree().total()), (1, 1));
    let answer = reply(&dispatched, 2);
    let delivered = workers.turn(0, BACK, addr(50_000), &answer);
    assert_eq!((delivered.len(), delivered[0].0), (1, addr(40_000)));
    assert_eq!(workers.roles[0].tree().total(), 1, "the counters are worker 1's");
    for worker in [0, 1] {
        assert_eq!(workers.turn(worker, BACK, addr(50_000), &answer), []);
        assert_eq!(workers.drops(worker, DropReason::Duplicate), 1);
    }
    let mut counted = header(&dispatched);
    counted.sequence.set(4712);
    let counted = report(&counted, 3, 1);
    workers.turn(0, BACK, addr(50_000), &counted);
    assert_eq!((workers.roles[0].tree().total(), workers.drops(0, DropReason::Stale)), (1, 1));
    workers.turn(1, BACK, addr(50_000), &counted);
    assert_eq!(workers.roles[0].tree().total(), 0);
}

#[test]
fn only_the_primary_registers_servers_and_handles_frames_of_the_controller() {
    let mut workers = Workers::with_server();
    assert_eq!(workers.turn(1, BACK, addr(50_001), &registration(78, 0)), []);
    let mut unknown = header(&request());
    unknown.slot.set(9);
    assert_eq!(workers.turn(1, BACK, addr(50_001), &report(&unknown, 1, 0)), []);
    assert_eq!(workers.drops(1, DropReason::WrongSource), 2);
    let mut ack = Header::new(Kind::ControllerRequest, FORMAT.size);
    ack.op = RequestOp::Ack as u8;
    assert_eq!(workers.turn(1, BACK, addr(55_000), &frame(&ack, b"")), []);
    assert_eq!(workers.drops(1, DropReason::Unexpected), 1);
    for worker in [0, 1] {
        for port in [54_001, BACKS[0], BACKS[1], 50_000] {
            assert_eq!(workers.turn(worker, FRONT, addr(port), &request()), [], "port {port}");
        }
        assert_eq!(workers.drops(worker, DropReason::NotAClient), 4);
    }
}

#[test]
fn the_primary_publishes_the_address_of_a_server() {
    let workers = Workers::with_server();
    let shown = |worker: usize| workers.roles[worker].stats().servers[0].addr();
    assert_eq!((shown(0), shown(1)), (Some(addr(50_000)), None));
}

#[test]
fn each_worker_sends_a_draining_sync_once_the_primary_has_published_the_drain() {
    let mut workers = Workers::with_server();
    let draining = |workers: &Workers, worker: u8, number| {
        let mut header = header(&registration(77, 0));
        header.balancer_epoch.set(workers.roles[0].shared.epoch);
        let mut header = Header::read_from_bytes(&report(&header, number, 0)[..HEADER_LEN]).unwrap();
        (header.worker, header.server_state) = (worker, ServerState::Draining as u8);
        frame(&header, b"")
    };
    let is_draining = |sent: Vec<(SocketAddr, Vec<u8>)>| {
        let sync = header(&sent[0].1);
        assert_eq!((sent[0].0, sync.op), (addr(50_000), RequestOp::Sync as u8));
        sync.server_state == ServerState::Draining as u8
    };
    let early = draining(&workers, 1, 7);
    assert_eq!(workers.turn(1, BACK, addr(50_000), &early), [], "not at once");
    assert!(!is_draining(workers.tick(1)), "worker 1 can still select it");
    assert_eq!(workers.turn(1, FRONT, addr(40_000), &request())[0].0, addr(50_000));
    let heard = draining(&workers, 0, 7);
    workers.turn(0, BACK, addr(50_000), &heard);
    assert!(is_draining(workers.tick(0)));
    let later = draining(&workers, 1, 8);
    workers.turn(1, BACK, addr(50_000), &later);
    assert!(is_draining(workers.tick(1)));
    let refused = workers.turn(1, FRONT, addr(40_000), &request());
    assert_eq!((refused[0].0, header(&refused[0].1).status), (addr(40_000), Status::Busy as u8));
}

#[test]
fn a_server_that_left_gets_nothing_from_any_worker() {
    let mut workers = Workers::with_server();
    let mut stopped = header(&registration(77, 0));
    stopped.balancer_epoch.set(workers.roles[0].shared.epoch);
    let mut stopped = header(&report(&stopped, 7, 0));
    stopped.server_state = 2;
    workers.turn(0, BACK, addr(50_000), &frame(&stopped, b""));
    for worker in [1, 0] {
        let sent = workers.turn(worker, FRONT, addr(40_000), &request());
        assert_eq!((sent[0].0, header(&sent[0].1).status), (addr(40_000), Status::Busy as u8));
        assert_eq!(workers.roles[worker].stats().common.refused.get(DropReason::NoServer), 1);
    }
}

/// A server's report of its state, to a worker.
fn state_report(workers: &Workers, worker: u8, number: u32, state: ServerState) -> Vec<u8> {
    let mut request = header(&registration(77, 0));
    request.balancer_epoch.set(workers.roles[0].shared.epoch);
    let mut report = header(&report(&request, number, 0));
    (report.worker, report.server_state) = (worker, state as u8);
    frame(&report, b"")
}

/// A draining SYNC is for a server that stops. A server that an operator has drained may get requests again,
/// and would exit too early after a draining SYNC.
#[test]
fn a_server_that_an_operator_has_drained_gets_a_draining_sync_only_when_it_stops() {
    let mut workers = Workers::with_server();
    assert_eq!(workers.roles[1].order(NOW, 1, Order::Drain), Err(Refused::UnknownServer), "not the primary");
    assert_eq!(workers.roles[0].order(NOW, 1, Order::Drain), Ok(()));
    for worker in [0, 1] {
        let refused = workers.turn(worker, FRONT, addr(40_000), &request());
        assert_eq!(header(&refused[0].1).status, Status::Busy as u8);
    }
    let is_draining = |sent: Vec<(SocketAddr, Vec<u8>)>| {
        sent.iter().any(|(_, bytes)| header(bytes).server_state == ServerState::Draining as u8)
    };
    let ready = state_report(&workers, 0, 6, ServerState::Ready);
    assert!(!is_draining(workers.turn(0, BACK, addr(50_000), &ready)));
    let mut probes = vec![];
    for _ in 0..60 {
        workers.turn(0, BACK, addr(50_000), &[]);
        workers.now += Duration::from_millis(1);
        workers.roles[0].on_timeout(workers.now, &mut workers.tx);
        probes.extend(workers.sent());
    }
    assert!(!probes.is_empty() && !is_draining(probes));
    for worker in [0, 1] {
        let stops = state_report(&workers, worker, 7, ServerState::Draining);
        workers.turn(worker.into(), BACK, addr(50_000), &stops);
        assert!(is_draining(workers.tick(worker.into())), "worker {worker}");
    }
    workers.roles[0].order(NOW, 1, Order::Enable).unwrap();
    workers.tick(0);
    assert_eq!(workers.usable(), 0, "the server is about to stop");
}

#[test]
fn the_estimate_error_is_the_difference_between_report_and_estimate() {
    let mut bench = Bench::new(None).with_server();
    let first = header(&bench.dispatched());
    bench.dispatched();
    let error = |bench: &Bench| bench.stats.servers[0].estimate_error.get();
    assert_eq!((bench.balancer.tree().total(), error(&bench)), (2, 0));
    for (number, queue, expected) in [(2, 5, 3), (3, 2, 0), (4, 0, 2)] {
        bench.now += Duration::from_millis(1);
        let mut request = first;
        request.sequence.set(4711);
        let mut report = header(&report(&request, number, 0));
        report.seq.set(0);
        report.queue.set(queue);
        bench.turn(BACK, addr(50_000), &frame(&report, &[]));
        assert_eq!(error(&bench), expected, "report {number}");
    }
}

#[test]
fn a_worker_is_idle_when_none_of_its_requests_is_outstanding() {
    let mut workers = Workers::with_server();
    let sent = workers.turn(1, FRONT, addr(40_000), &request());
    assert_eq!(workers.roles.iter().map(NativeRole::is_idle).collect::<Vec<_>>(), [true, false]);
    workers.turn(1, BACK, addr(50_000), &reply(&sent[0].1, 2));
    assert!(workers.roles[1].is_idle());
}

/// A server that answers everything at once, as no server should: a report to each SYNC, a SYNC wanted.
#[test]
fn a_server_that_answers_everything_at_once_causes_no_storm() {
    let mut bench = Bench::new(None).with_server();
    let report_of = |bench: &Bench, number: u32| {
        let mut request = header(&registration(77, 0));
        request.balancer_epoch.set(bench.balancer.shared.epoch);
        let mut report = header(&report(&request, number, 0));
        report.server_state = ServerState::Draining as u8;
        frame(&report, b"")
    };
    let mut count = 0;
    let mut answers: Vec<Vec<u8>> = vec![report_of(&bench, 2)];
    for step in 0..10_000_u32 {
        bench.now += Duration::from_micros(100);
        for answer in std::mem::take(&mut answers) {
            assert_eq!(bench.turn(BACK, addr(50_000), &answer), [], "a report is not answered at once");
        }
        let syncs = bench.tick().iter().filter(|(to, _)| *to == addr(50_000)).count();
        count += syncs;
        answers = (0..syncs).map(|_| report_of(&bench, 3 + step)).collect();
    }
    assert!((50..=105).contains(&count), "{count} SYNCs in a second of 100 intervals");
}

/// With challenges to every order, the balancer repeats its order after its own pauses only.
#[test]
fn a_controller_that_challenges_every_order_causes_no_storm() {
    let mut bench = Bench::new(None).with_server();
    let primary = bench.balancer.primary.as_mut().expect("worker 0");
    assert!(primary.orders.place(NOW, RequestOp::Grow, 3, 7.0, 1));
    let mut orders = 0;
    for _ in 0..10_000 {
        bench.now += Duration::from_micros(100);
        for (to, bytes) in bench.tick() {
            if to == addr(55_000) {
                orders += 1;
                let mut challenge = header(&bytes);
                (challenge.op, challenge.cookie) = (RequestOp::Challenge as u8, orders.into());
                assert_eq!(bench.turn(BACK, to, &frame(&challenge, b"")), []);
            }
        }
    }
    assert!((4..=7).contains(&orders), "{orders} orders in a second");
}

/// A REGISTER with the key, as a recorder has it.
fn sealed_registration(sealer: &mut Sealer, instance: u64, cookie: u64) -> Vec<u8> {
    let plain = registration(instance, cookie);
    let mut bytes = vec![0; 160];
    let mut header = header(&plain);
    header.frame_size.set(160);
    Frame::write(&mut bytes, &header, &plain[HEADER_LEN..]);
    sealer.seal(&mut bytes);
    bytes
}

#[test]
fn a_recorded_registration_brings_no_server_back() {
    let key = [5; 16];
    let mut bench = Bench::new(Some(key));
    let mut sealer = Sealer::new(&key, 99);
    let first = sealed_registration(&mut sealer, 77, 0);
    let cookie = header(&bench.turn(BACK, addr(50_000), &first)[0].1).cookie.get();
    let never_arrived = sealed_registration(&mut sealer, 77, cookie);
    let join = sealed_registration(&mut sealer, 77, cookie);
    bench.turn(BACK, addr(50_000), &join);
    let mut stopped = header(&report(&bench.sync_to(addr(50_000)), 1, 0));
    (stopped.server_state, stopped.worker) = (ServerState::Stopped as u8, 0);
    let mut bytes = vec![0; 160];
    Frame::write(&mut bytes, &stopped, &[]);
    sealer.seal(&mut bytes);
    bench.turn(BACK, addr(50_000), &bytes);
    let servers = |bench: &Bench| bench.balancer.registry().expect("the primary").iter().count();
    assert_eq!(servers(&bench), 0, "it has left");
    for step in 0..50 {
        for recorded in [&first, &never_arrived, &join, &bytes] {
            bench.turn(BACK, addr(50_000), recorded);
            assert_eq!(servers(&bench), 0, "step {step}");
        }
        bench.now += Duration::from_millis(100);
    }
    assert!(bench.drops(DropReason::Replay) > 0);
    // The same process may come back.
    let again = sealed_registration(&mut sealer, 77, 0);
    let cookie = header(&bench.turn(BACK, addr(50_000), &again)[0].1).cookie.get();
    let again = sealed_registration(&mut sealer, 77, cookie);
    bench.turn(BACK, addr(50_000), &again);
    assert_eq!(servers(&bench), 1);
}

#[test]
fn a_recorded_registration_of_an_earlier_process_does_not_replace_the_present_one() {
    let key = [5; 16];
    let mut bench = Bench::new(Some(key));
    let mut old = Sealer::new(&key, 99);
    let first = sealed_registration(&mut old, 77, 0);
    let cookie = header(&bench.turn(BACK, addr(50_000), &first)[0].1).cookie.get();
    let recorded = sealed_registration(&mut old, 77, cookie);
    bench.turn(BACK, addr(50_000), &recorded);
    let mut new = Sealer::new(&key, 100);
    let first = sealed_registration(&mut new, 78, 0);
    let cookie = header(&bench.turn(BACK, addr(50_000), &first)[0].1).cookie.get();
    let restarted = sealed_registration(&mut new, 78, cookie);
    bench.turn(BACK, addr(50_000), &restarted);
    let instance = |bench: &Bench| {
        let registry = bench.balancer.registry().expect("the primary");
        registry.iter().map(|(_, server)| server.extra.instance).collect::<Vec<_>>()
    };
    assert_eq!(instance(&bench), [78]);
    bench.turn(BACK, addr(50_000), &recorded);
    assert_eq!((instance(&bench), bench.drops(DropReason::Replay)), (vec![78], 1));
}

/// How a server accounts for a request that it will never serve.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// It has received and finished it.
    Finished,
    /// It never received it.
    NeverReceived,
    /// It has finished it, with a reply that reports an error.
    Error,
}

/// Requests of a client, one each millisecond, to an honest server and to one that serves nothing. Returns
/// for each request whether the liar got it.
fn requests_beside_a_liar(bench: &mut Bench, lie: Lie, received: &mut [u32; 2], count: u32) -> Vec<bool> {
    let (honest, liar) = (addr(50_000), addr(50_001));
    let mut to_liar = vec![];
    let mut last = [0, 1].map(|slot| {
        let mut of_server = header(&registration(77, 0));
        of_server.slot.set(slot);
        of_server.server_epoch.set(3 + u32::from(slot));
        of_server.balancer_epoch.set(bench.balancer.shared.epoch);
        of_server.dispatch_seq.set(bench.balancer.lanes[Slot::new(slot.into())].window.sent());
        of_server
    });
    let claim = |lie: Lie, received: u32| if matches!(lie, Lie::NeverReceived) { 0 } else { received };
    for step in 0..count {
        bench.now += Duration::from_millis(1);
        let number = 2 * (bench.now.as_nanos() / 1_000_000) as u32;
        if step % 10 == 0 {
            bench.turn(BACK, honest, &report(&last[0], number, received[0]));
            bench.turn(BACK, liar, &report(&last[1], number, claim(lie, received[1])));
        }
        let number = number + 1;
        let sent = bench.turn(FRONT, addr(40_000), &request());
        let (to, request) = &sent[0];
        let index = usize::from(*to == liar);
        assert!(*to == honest || *to == liar, "{to}");
        to_liar.push(*to == liar);
        received[index] += 1;
        last[index].dispatch_seq = header(request).dispatch_seq;
        if *to == honest || matches!(lie, Lie::Error) {
            let mut answer = header(&reply(request, number));
            answer.status = if *to == honest { Status::Ok } else { Status::Error } as u8;
            answer.received.set(received[index]);
            answer.done.set(received[index]);
            assert_eq!(bench.turn(BACK, *to, &frame(&answer, b"answer")).len(), 1);
        } else {
            bench.turn(BACK, liar, &report(&last[1], number, claim(lie, received[1])));
        }
        bench.tick();
    }
    to_liar
}

/// A pool of an honest server at port 50000, and another one at port 50001.
fn two_servers(settings: NativePoolSettings) -> Bench {
    let mut bench = Bench::over(NativeRole::workers(settings, NOW).remove(0), NOW).with_server();
    let register = |cookie| {
        let mut second = header(&registration(78, cookie));
        second.sequence.set(4811);
        second.server_epoch.set(4);
        let registration = Registration {
            server_id: 2,
            queue_capacity: 64,
            report_interval_us: 10_000,
            weight: 1,
            reserved: [0; 2],
        };
        frame(&second, &registration.to_bytes())
    };
    let sent = bench.turn(BACK, addr(50_001), &register(0));
    let cookie = header(&sent[0].1).cookie.get();
    bench.turn(BACK, addr(50_001), &register(cookie));
    let sync = bench.sync_to(addr(50_001));
    bench.turn(BACK, addr(50_001), &report(&sync, 1, 0));
    assert_eq!(bench.balancer.shared.pool.usable.load(Ordering::Relaxed), 2);
    bench
}

fn states(bench: &Bench) -> Vec<crate::pool::health::State> {
    bench.balancer.registry().expect("the primary").iter().map(|(_, server)| server.state()).collect()
}

#[test]
fn a_server_that_accounts_for_every_request_and_serves_none_is_as_a_suspect() {
    use crate::pool::health::State;
    for lie in [Lie::Finished, Lie::NeverReceived, Lie::Error] {
        let (mut bench, mut received) = (two_servers(Bench::settings(None)), [0; 2]);
        let first = requests_beside_a_liar(&mut bench, lie, &mut received, 1_000);
        let taken = first.iter().filter(|&&taken| taken).count();
        assert!((4..50).contains(&taken), "{lie:?}: {taken} of 1,000");
        assert!(first[300..].iter().all(|&taken| !taken), "{lie:?}: it is found out");
        assert_eq!(states(&bench), [State::Up, State::Suspect]);
        let events: Vec<_> = std::iter::from_fn(|| bench.balancer.poll_event()).collect();
        let names_it = |event: &crate::pool::event::Event| {
            format!("{event:?}").contains("requests failed (no reply, or an error)")
        };
        assert_eq!(events.iter().filter(|event| names_it(event)).count(), 1, "{events:?}");
        let later = requests_beside_a_liar(&mut bench, lie, &mut received, 25_000);
        let taken = later.iter().filter(|&&taken| taken).count();
        assert!(taken < 150, "{lie:?}: {taken} of 25,000, in trials");
    }
}

#[test]
fn replies_that_the_balancer_does_not_see_are_no_evidence() {
    let settings = NativePoolSettings { reply_path: ReplyPath::Direct, ..Bench::settings(None) };
    let mut bench = two_servers(settings);
    for number in 0..500 {
        bench.now += Duration::from_millis(1);
        let sent = bench.turn(FRONT, addr(40_000), &request());
        let (to, request) = &sent[0];
        let counted = header(request).dispatch_seq.get();
        bench.turn(BACK, *to, &report(&header(request), 10 + number, counted));
        bench.tick();
    }
    assert_eq!(states(&bench), [crate::pool::health::State::Up; 2]);
}

/// A frame of this size and operation, from a server.
fn of_size(size: usize, op: ServerOp) -> Vec<u8> {
    let mut header = Header::new(Kind::ServerResponse, size);
    header.op = op as u8;
    header.sequence.set(4711);
    let mut bytes = vec![0; size];
    Frame::write(&mut bytes, &header, &[0; 16]);
    bytes
}

#[test]
fn a_server_of_another_frame_size_gets_this_size_and_is_noted() {
    for size in [160, 256, 512] {
        let mut bench = Bench::new(None);
        let register = of_size(size, ServerOp::Register);
        let sent = bench.turn(BACK, addr(50_000), &register);
        let [(to, answer)] = &sent[..] else { panic!("one answer: {sent:?}") };
        assert!(*to == addr(50_000) && answer.len() <= size, "no amplification");
        assert_eq!((stated_size(answer), header(answer).op), (Some(128), RequestOp::Challenge as u8));
        assert_eq!(bench.drops(DropReason::FrameSize), 1);
        assert_eq!(bench.stats.rejected_servers.lasting(bench.now), None, "one frame is no mistake yet");
        bench.now += Duration::from_secs(2);
        bench.turn(BACK, addr(50_000), &register);
        let noted = bench.stats.rejected_servers.lasting(bench.now).expect("it repeats");
        assert_eq!((noted.peer, noted.their_size, noted.our_size), (addr(50_000), size as u16, 128));
        assert_eq!(bench.turn(BACK, addr(50_000), &of_size(size, ServerOp::Report)), [], "no registration");
        assert_eq!(bench.turn(BACK, addr(54_001), &register), [], "the pool itself");
        assert_eq!(
            Bench::new(Some([7; 16])).turn(BACK, addr(50_000), &of_size(size + 1, ServerOp::Register)),
            []
        );
    }
    let mut bench = Bench::new(None);
    for _ in 0..2 {
        assert_eq!(bench.turn(FRONT, addr(40_000), &of_size(256, ServerOp::Register)), []);
        bench.now += Duration::from_secs(2);
    }
    assert_eq!(bench.drops(DropReason::FrameSize), 2);
    assert_eq!(bench.stats.rejected_clients.lasting(bench.now).expect("it repeats").their_size, 256);
}
