//! Tests of a controller with strangers, forgers, a faulty balancer, failing servers, and timeouts.
//! (`tests/sim` tests scaling with a correct balancer in all four roles.)

use super::*;
use crate::base::batch::Received;
use crate::base::duration::exact;
use crate::supervise::servers::{Bounds, ReplicaAction, StartFailure};
use crate::wire::header::HEADER_LEN;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;
use zerocopy::FromBytes;

const FORMAT: FrameFormat = FrameFormat { size: 128, tagged: false };
const NOW: Instant = Instant::from_nanos(5_000_000_000);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const KEY: [u8; 16] = [5; 16];
const INSTANCE: u64 = 0xba1;

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn balancer() -> SocketAddr {
    addr(54_000)
}

fn settings() -> ControllerSettings {
    ControllerSettings { format: FORMAT, key: None, balancer: balancer(), seed: 1 }
}

/// Two servers at first, one to four later, and six ports for them.
fn bounds() -> Bounds {
    Bounds { count: 2, min: 1, max: 4, start_id: 1, ports: 50_000..50_006, leave: None }
}

/// A controller and the memory of its turns, without I/O.
struct Bench {
    controller: ControllerRole,
    /// The balancer's sealer, if frames are authenticated.
    sealer: Option<Sealer>,
    /// Number of the balancer's last request.
    number: u64,
    rx: Rx,
    tx: Tx,
    now: Instant,
}

impl Bench {
    /// A controller whose first servers run.
    fn new() -> Bench {
        let mut bench = Bench::of(bounds());
        assert_eq!(bench.run(), [(1, 50_000), (2, 50_001)]);
        bench
    }

    fn of(bounds: Bounds) -> Bench {
        Bench::from(settings(), bounds)
    }

    fn from(settings: ControllerSettings, bounds: Bounds) -> Bench {
        let mut replicas = Replicas::new(bounds);
        replicas.begin(NOW);
        Bench {
            sealer: settings.key.map(|key| Sealer::new(&key, 99)),
            controller: ControllerRole::new(settings, replicas),
            number: 0,
            rx: Rx::new(8, 2048),
            tx: Tx::new(16, 4096, 1),
            now: NOW,
        }
    }

    fn frame(&mut self, mut header: Header) -> Vec<u8> {
        let size = self.controller.settings.format.size;
        let mut bytes = vec![0; size];
        header.frame_size.set(size as u16);
        Frame::write(&mut bytes, &header, b"");
        if let Some(sealer) = &mut self.sealer {
            sealer.seal(&mut bytes);
        }
        bytes
    }

    /// The answer to one datagram: at most one frame of its size, and only to the sender.
    fn turn(&mut self, peer: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        let len = bytes.len() as u32;
        self.rx.slot_mut(0)[..bytes.len()].copy_from_slice(bytes);
        self.rx.push(Received { socket: SOCKET, peer, local_ip: None, slot: 0, start: 0, len, stride: len });
        self.controller.on_batch(self.now, &mut self.rx, &mut self.tx);
        let (rx, tx) = (&self.rx, &self.tx);
        assert!(tx.destinations().iter().all(|d| d.to == peer));
        let frames = tx.destinations().iter().flat_map(|d| tx.frames(d));
        let mut sent: Vec<_> = frames.map(|f| tx.bytes(rx, f).to_vec()).collect();
        assert!(sent.len() <= 1 && sent.iter().all(|s| s.len() == bytes.len()));
        self.tx.clear();
        self.rx.clear();
        sent.pop()
    }

    fn hear(&mut self, header: Header) -> Option<Header> {
        self.hear_from(balancer(), header)
    }

    fn hear_from(&mut self, peer: SocketAddr, header: Header) -> Option<Header> {
        let frame = self.frame(header);
        self.turn(peer, &frame).map(|bytes| self::header(&bytes))
    }

    /// A request with the nonce that the controller gives for it.
    fn with_nonce(&mut self, mut order: Header) -> Header {
        order.cookie.set(0);
        let challenge = self.hear(order).expect("a challenge");
        assert_eq!(op(&challenge), RequestOp::Challenge);
        order.cookie = challenge.cookie;
        order
    }

    /// The result of a new request.
    fn order(&mut self, what: RequestOp, target: u32) -> Status {
        self.number += 1;
        let order = self.with_nonce(order(what, target, self.number));
        acknowledged(self.hear(order))
    }

    fn actions(&mut self) -> Vec<ReplicaAction> {
        std::iter::from_fn(|| self.controller.replicas.poll_action()).collect()
    }

    /// Executes the actions as if every server could be started; returns the started servers.
    fn run(&mut self) -> Vec<(u32, u16)> {
        let actions = self.actions();
        let starts = actions.iter().filter_map(|action| match *action {
            ReplicaAction::Start { id, port } => Some((id, port)),
            _ => None,
        });
        let starts: Vec<_> = starts.collect();
        for &(id, _) in &starts {
            self.controller.replicas.on_started(self.now, id);
        }
        starts
    }

    /// The actions, except messages.
    fn deeds(&mut self) -> Vec<ReplicaAction> {
        let mut actions = self.actions();
        actions.retain(|action| !matches!(action, ReplicaAction::Tell(_) | ReplicaAction::ReportEnd { .. }));
        actions
    }

    fn tells(&mut self) -> Vec<String> {
        let told = self.actions().into_iter().filter_map(|action| match action {
            ReplicaAction::Tell(text) => Some(text),
            ReplicaAction::ReportEnd { id, how } => Some(format!("server {id} ended unexpectedly ({how})")),
            _ => None,
        });
        told.collect()
    }

    /// Advances the time, with a turn whenever something is due.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.controller.next_deadline().filter(|&at| at <= until) {
            self.now = self.now.max(at);
            self.controller.on_timeout(self.now, &mut self.tx);
        }
        self.now = until;
        self.controller.on_timeout(until, &mut self.tx);
    }

    /// A running server ends unexpectedly; returns the pause until its restart.
    fn crash(&mut self, id: u32) -> Duration {
        self.controller.replicas.on_exited(self.now, id, "a crash");
        self.controller.next_deadline().expect("it will start again").since(self.now)
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.controller.drops.get(reason)
    }
}

fn header(bytes: &[u8]) -> Header {
    Header::read_from_bytes(&bytes[..HEADER_LEN]).expect("a whole header")
}

fn op(header: &Header) -> RequestOp {
    RequestOp::from_wire(header.op).expect("a known operation")
}

fn order(what: RequestOp, target: u32, number: u64) -> Header {
    let mut header = Header::new(Kind::ControllerRequest, FORMAT.size);
    header.op = what as u8;
    header.client_id.set(INSTANCE);
    header.sequence.set(number);
    header.report.set(target);
    header.seq.set(2_500);
    header
}

fn acknowledged(answer: Option<Header>) -> Status {
    let answer = answer.expect("an answer");
    assert_eq!(op(&answer), RequestOp::Ack);
    Status::from_wire(answer.status).expect("a known status")
}

fn start(id: u32, port: u16) -> ReplicaAction {
    ReplicaAction::Start { id, port }
}

#[test]
fn an_order_without_a_nonce_is_challenged_and_has_no_effect() {
    let mut bench = Bench::new();
    let plain = order(RequestOp::Grow, 3, 7);
    let challenge = bench.hear(plain).expect("a challenge");
    assert_eq!((challenge.kind, op(&challenge)), (Kind::ControllerRequest as u8, RequestOp::Challenge));
    assert_eq!((challenge.client_id, challenge.sequence), (plain.client_id, plain.sequence));
    assert_ne!(challenge.cookie.get(), 0);
    assert_eq!((bench.actions(), bench.controller.replicas.wanted()), (vec![], 2));

    let mut forged = plain;
    for nonce in [1, challenge.cookie.get() ^ 1, u64::MAX] {
        forged.cookie.set(nonce);
        assert_eq!(bench.hear(forged), Some(challenge), "the right one, not a word about the wrong one");
    }
    forged.cookie = challenge.cookie;
    forged.client_id.set(INSTANCE + 1);
    assert_eq!(bench.hear(forged).map(|h| op(&h)), Some(RequestOp::Challenge), "another one's nonce");
    forged.client_id.set(INSTANCE);
    bench.pass(5 * SECOND);
    assert_eq!(bench.hear(forged).map(|h| op(&h)), Some(RequestOp::Challenge), "an old nonce");
    assert_eq!((bench.actions(), bench.controller.replicas.wanted()), (vec![], 2));
    assert_eq!(bench.controller.drops.total(), 0);
}

#[test]
fn an_order_is_carried_out_once_however_often_it_comes() {
    let mut bench = Bench::new();
    let grow = bench.with_nonce(order(RequestOp::Grow, 3, 7));
    assert_eq!(acknowledged(bench.hear(grow)), Status::Ok);
    let told = ReplicaAction::Tell("scale up: 2 -> 3 servers, load 2.50".to_owned());
    assert_eq!(bench.actions(), [told, start(3, 50_002)]);
    let shrink = bench.with_nonce(order(RequestOp::Shrink, 3, 8));
    assert_eq!(acknowledged(bench.hear(shrink)), Status::Ok);
    assert_eq!(bench.deeds(), [ReplicaAction::Stop { id: 3 }]);
    for _ in 0..3 {
        assert_eq!(acknowledged(bench.hear(grow)), Status::Expired, "an older one");
        assert_eq!(acknowledged(bench.hear(shrink)), Status::Ok, "the same acknowledgement");
    }
    let unknown = bench.with_nonce(order(RequestOp::Shrink, 9, 9));
    for _ in 0..2 {
        assert_eq!(acknowledged(bench.hear(unknown)), Status::Unknown);
    }
    assert_eq!((bench.actions(), bench.controller.replicas.wanted()), (vec![], 2));
    let mut restarted = order(RequestOp::Grow, 3, 1);
    restarted.client_id.set(INSTANCE + 1);
    let restarted = bench.with_nonce(restarted);
    assert_eq!(acknowledged(bench.hear(restarted)), Status::Ok, "a restarted balancer counts from the start");
    assert_eq!(bench.deeds(), [start(4, 50_003)], "server 3 is still on its way out");
}

#[test]
fn an_order_from_elsewhere_has_no_effect_but_a_counter() {
    let mut bench = Bench::new();
    let grow = bench.with_nonce(order(RequestOp::Grow, 3, 7));
    for port in [54_001, 50_000, 1] {
        assert_eq!(bench.hear_from(addr(port), grow), None);
    }
    assert_eq!(bench.drops(DropReason::WrongSource), 3);
    assert_eq!((bench.actions(), bench.controller.replicas.wanted()), (vec![], 2));
}

#[test]
fn what_does_not_belong_here_is_never_answered() {
    let mut bench = Bench::new();
    let grow = bench.with_nonce(order(RequestOp::Grow, 3, 7));
    for kind in [Kind::ClientRequest, Kind::ClientResponse, Kind::ServerResponse] {
        let other = Header { kind: kind as u8, ..grow };
        assert_eq!(bench.hear(other), None);
    }
    for op in [RequestOp::Sync, RequestOp::Challenge, RequestOp::Ack] {
        let other = Header { op: op as u8, ..grow };
        assert_eq!(bench.hear(other), None);
    }
    assert_eq!(bench.drops(DropReason::Unexpected), 6);
    for op in [0, 6, 255] {
        let nonsense = Header { op, ..grow };
        assert_eq!(bench.hear(nonsense), None);
    }
    assert_eq!(bench.drops(DropReason::Kind), 3);
    let two = [bench.frame(grow), bench.frame(grow)].concat();
    assert_eq!(bench.turn(balancer(), &two), None, "orders come singly");
    assert_eq!(bench.drops(DropReason::Length), 1);
    assert_eq!((bench.actions(), bench.controller.replicas.wanted()), (vec![], 2));
}

#[test]
fn grow_is_capped_by_the_most_and_shrink_by_the_fewest() {
    let mut bench = Bench::new();
    assert_eq!(bench.order(RequestOp::Grow, 2), Status::Ok, "it is so already");
    assert_eq!(bench.actions(), []);
    assert_eq!(bench.order(RequestOp::Grow, u32::MAX), Status::Ok, "as many as there may be");
    assert_eq!(bench.run(), [(3, 50_002), (4, 50_003)]);
    assert_eq!(bench.order(RequestOp::Grow, 5), Status::Busy);
    assert_eq!(bench.order(RequestOp::Shrink, 77), Status::Unknown);
    assert_eq!(bench.actions(), []);
    for id in [4, 2, 1] {
        assert_eq!(bench.order(RequestOp::Shrink, id), Status::Ok);
        assert_eq!(bench.deeds(), [ReplicaAction::Stop { id }]);
    }
    assert_eq!(bench.order(RequestOp::Shrink, 3), Status::Busy, "the last one stays");
    assert_eq!(bench.order(RequestOp::Shrink, 1), Status::Ok, "it is stopping already");
    assert_eq!(bench.actions(), []);
    for id in [4, 2, 1] {
        bench.controller.replicas.on_exited(bench.now, id, "exit status: 0");
    }
    assert_eq!(bench.order(RequestOp::Shrink, 1), Status::Unknown, "it is gone");
    assert_eq!((bench.controller.replicas.wanted(), bench.controller.next_deadline()), (1, None));
    bench.actions();
    assert_eq!(bench.order(RequestOp::Grow, 2), Status::Ok);
    assert_eq!(bench.deeds(), [start(1, 50_004)], "the lowest free id, the next free port");
}

#[test]
fn more_servers_than_ports_are_an_error_and_no_port_is_given_twice() {
    let mut bench = Bench::of(Bounds { count: 0, ports: 50_000..50_003, ..bounds() });
    assert_eq!(bench.order(RequestOp::Grow, 4), Status::Error);
    assert_eq!(bench.run(), [(1, 50_000), (2, 50_001), (3, 50_002)]);
    assert_eq!(bench.order(RequestOp::Shrink, 2), Status::Ok);
    assert_eq!(bench.order(RequestOp::Grow, 3), Status::Error, "it has its port until it is gone");
    bench.controller.replicas.on_exited(bench.now, 2, "exit status: 0");
    bench.actions();
    assert_eq!(bench.order(RequestOp::Grow, 3), Status::Ok);
    assert_eq!(bench.run(), [(2, 50_001)]);
}

#[test]
fn a_port_in_use_is_passed_over_for_the_next_one() {
    let mut bench = Bench::of(bounds());
    assert_eq!(bench.actions(), [start(1, 50_000), start(2, 50_001)]);
    for port in 50_002..50_005 {
        bench.controller.replicas.on_start_failed(bench.now, 1, StartFailure::PortInUse);
        assert_eq!(bench.actions(), [start(1, port)], "at once");
    }
    bench.controller.replicas.on_started(bench.now, 1);
    assert_eq!(bench.crash(1), 100 * MS);
    bench.pass(SECOND);
    assert_eq!(bench.deeds(), [start(1, 50_004)], "it keeps the port that it got");
}

#[test]
fn that_no_port_is_left_is_told_and_they_are_tried_again_later() {
    for ports in 1..=4 {
        let ports = 50_000..50_000 + ports;
        let mut bench = Bench::of(Bounds { count: 1, ports: ports.clone(), ..bounds() });
        for pause in [100 * MS, 200 * MS, 400 * MS] {
            let mut tried = BTreeSet::new();
            let told = loop {
                match bench.controller.replicas.poll_action().expect("a port to try, or the end of them") {
                    ReplicaAction::Start { id: 1, port } => {
                        assert!(tried.insert(port), "{port} is still in use");
                        bench.controller.replicas.on_start_failed(bench.now, 1, StartFailure::PortInUse);
                    }
                    other => break other,
                }
            };
            assert_eq!(told, ReplicaAction::Tell("no free port left for server 1".to_owned()));
            assert_eq!(tried, BTreeSet::from_iter(ports.clone()), "every port was tried");
            assert_eq!(bench.deeds(), []);
            assert_eq!(bench.controller.next_deadline(), Some(bench.now + pause));
            bench.pass(pause);
        }
    }
}

#[test]
fn a_crash_is_followed_by_a_restart_after_twice_as_long_each_time() {
    let mut bench = Bench::new();
    for pause in [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000].map(|ms| ms * MS) {
        assert_eq!(bench.crash(2), pause);
        let told = [
            "server 2 ended unexpectedly (a crash)".to_owned(),
            format!("server 2 starts again in {}", exact(pause)),
        ];
        assert_eq!(bench.tells(), told);
        bench.pass(pause - MS);
        assert_eq!(bench.actions(), []);
        bench.pass(MS);
        assert_eq!(bench.run(), [(2, 50_001)]);
        bench.pass(10 * SECOND - MS);
    }
    assert_eq!(bench.crash(1), 100 * MS, "each server has its own record");
    bench.pass(100 * MS);
    assert_eq!(bench.run(), [(1, 50_000)]);
}

#[test]
fn a_server_that_ran_for_ten_seconds_has_a_clean_record() {
    let mut bench = Bench::new();
    for pause in [100, 200].map(|ms| ms * MS) {
        assert_eq!(bench.crash(1), pause);
        bench.pass(pause);
        assert_eq!(bench.run(), [(1, 50_000)]);
    }
    bench.pass(10 * SECOND);
    assert_eq!(bench.crash(1), 100 * MS);
}

#[test]
fn a_server_that_cannot_be_started_is_tried_again_with_back_off() {
    let mut bench = Bench::of(Bounds { count: 1, ..bounds() });
    for pause in [100, 200, 400].map(|ms| ms * MS) {
        assert_eq!(bench.deeds(), [start(1, 50_000)]);
        bench.controller.replicas.on_start_failed(bench.now, 1, StartFailure::Other);
        assert_eq!(bench.controller.next_deadline(), Some(bench.now + pause));
        bench.pass(pause);
    }
    assert_eq!(bench.controller.replicas.wanted(), 1);
}

#[test]
fn a_server_that_does_not_stop_is_killed_after_its_patience() {
    let mut bench = Bench::new();
    bench.order(RequestOp::Shrink, 2);
    assert_eq!(bench.deeds(), [ReplicaAction::Stop { id: 2 }]);
    bench.pass(35 * SECOND - MS);
    assert_eq!(bench.actions(), []);
    bench.pass(MS);
    assert_eq!(bench.actions(), [ReplicaAction::Kill { id: 2 }]);
    bench.pass(35 * SECOND);
    assert_eq!(bench.actions(), [ReplicaAction::Kill { id: 2 }], "and again, should it have survived");
    bench.controller.replicas.on_exited(bench.now, 2, "signal: 9");
    assert_eq!(bench.tells(), ["server 2 has stopped"]);
    bench.pass(100 * SECOND);
    assert_eq!((bench.actions(), bench.controller.replicas.wanted()), (vec![], 1));
}

#[test]
fn a_server_that_waits_for_its_restart_is_stopped_by_not_starting_it() {
    let mut bench = Bench::new();
    bench.crash(2);
    assert_eq!(bench.order(RequestOp::Shrink, 2), Status::Ok);
    assert_eq!(bench.deeds(), []);
    bench.pass(SECOND);
    assert_eq!((bench.actions(), bench.controller.replicas.wanted()), (vec![], 1));
}

#[test]
fn shut_down_stops_all_and_starts_nothing() {
    let mut bench = Bench::of(Bounds { count: 4, ..bounds() });
    bench.actions();
    for id in [1, 2, 4] {
        bench.controller.replicas.on_started(bench.now, id);
    }
    bench.crash(2);
    bench.actions();
    bench.controller.replicas.shut_down(bench.now);
    let stops = [1, 3, 4].map(|id| ReplicaAction::Stop { id });
    assert_eq!(bench.actions(), stops, "server 2 waits, server 3 is being started");
    bench.controller.replicas.shut_down(bench.now);
    assert_eq!(bench.actions(), [], "once is enough");
    assert_eq!(bench.order(RequestOp::Grow, 4), Status::Busy);
    assert_eq!(bench.order(RequestOp::Shrink, 1), Status::Busy);
    bench.controller.replicas.on_started(bench.now, 3);
    bench.pass(SECOND);
    assert_eq!(bench.actions(), []);
    for id in [1, 3, 4] {
        assert!(!bench.controller.replicas.is_empty());
        bench.controller.replicas.on_exited(bench.now, id, "exit status: 1");
        assert_eq!(bench.tells(), [format!("server {id} has stopped")]);
    }
    bench.pass(100 * SECOND);
    assert_eq!(bench.actions(), []);
    assert!(bench.controller.replicas.is_empty());
}

#[test]
fn a_start_that_fails_after_the_server_was_told_to_stop_is_not_tried_again() {
    for why in [StartFailure::PortInUse, StartFailure::Other] {
        let mut bench = Bench::of(bounds());
        bench.controller.replicas.shut_down(bench.now);
        bench.actions();
        for id in [1, 2] {
            bench.controller.replicas.on_start_failed(bench.now, id, why);
        }
        bench.pass(100 * SECOND);
        assert_eq!(bench.deeds(), [], "{why:?}");
        assert!(bench.controller.replicas.is_empty(), "{why:?}");
    }
}

#[test]
fn news_of_a_server_that_it_does_not_have_changes_nothing() {
    let mut bench = Bench::new();
    bench.controller.replicas.on_started(bench.now, 9);
    bench.controller.replicas.on_exited(bench.now, 9, "exit status: 0");
    bench.controller.replicas.on_start_failed(bench.now, 9, StartFailure::Other);
    bench.controller.replicas.on_start_failed(bench.now, 9, StartFailure::PortInUse);
    assert_eq!((bench.actions(), bench.controller.next_deadline()), (vec![], None));
}

#[test]
fn with_a_key_what_is_unsealed_or_changed_is_refused_and_a_replay_has_no_second_effect() {
    let mut bench = Bench::from(
        ControllerSettings { format: FrameFormat::tagged(160), key: Some(KEY), ..settings() },
        bounds(),
    );
    bench.run();
    let grow = bench.with_nonce(order(RequestOp::Grow, 3, 7));
    let sealed = bench.frame(grow);
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(bench.turn(balancer(), &changed), None, "bit {bit}");
    }
    let mut unsealed = sealed.clone();
    unsealed[128..].fill(0);
    assert_eq!(bench.turn(balancer(), &unsealed), None);
    assert_eq!(bench.drops(DropReason::Tag), 160 * 8 + 1);
    for len in 1..sealed.len() {
        assert_eq!(bench.turn(balancer(), &sealed[..len]), None);
    }
    assert_eq!(bench.drops(DropReason::Length), 159);
    assert_eq!((bench.actions(), bench.controller.replicas.wanted()), (vec![], 2));

    let ack = bench.turn(balancer(), &sealed).expect("an acknowledgement");
    assert!(Opener::new(&KEY).open(&ack).is_ok(), "sealed too");
    assert_eq!(bench.deeds(), [start(3, 50_002)]);
    bench.number = 7;
    let again = bench.turn(balancer(), &sealed).expect("the same");
    assert_eq!(acknowledged(Some(header(&again))), Status::Ok);
    bench.order(RequestOp::Shrink, 3);
    assert_eq!(bench.deeds(), [ReplicaAction::Stop { id: 3 }]);
    bench.pass(5 * SECOND);
    let later = bench.turn(balancer(), &sealed).expect("a challenge");
    assert_eq!(op(&header(&later)), RequestOp::Challenge, "its nonce has aged");
    assert_eq!((bench.actions(), bench.controller.replicas.wanted()), (vec![], 2));
}

#[test]
fn every_truncation_and_every_flipped_bit_is_counted_once_or_answered_once() {
    for what in [RequestOp::Grow, RequestOp::Shrink] {
        let mut bench = Bench::new();
        let honest = bench.with_nonce(order(what, 2, 7));
        let whole = bench.frame(honest);
        for len in 1..whole.len() {
            assert_eq!(bench.turn(balancer(), &whole[..len]), None, "{len} bytes");
        }
        assert_eq!(bench.drops(DropReason::Length), 127);
        for bit in 0..whole.len() * 8 {
            let mut bench = Bench::new();
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let answer = bench.turn(balancer(), &flipped).map(|bytes| header(&bytes));
            let drops = &bench.controller.drops;
            assert_eq!(u64::from(answer.is_some()) + drops.total(), 1, "{what:?}, bit {bit}");
            if let Err(reason) = Frame::check(&mut flipped, &FORMAT) {
                assert_eq!(drops.get(reason), 1, "{what:?}, bit {bit}");
            }
            // The instance and the nonce.
            let challenged = (16..24).contains(&(bit / 8)) || (72..80).contains(&(bit / 8));
            let expected = if challenged { RequestOp::Challenge } else { RequestOp::Ack };
            assert!(answer.is_none_or(|h| op(&h) == expected), "{what:?}, bit {bit}");
            if answer.is_none() || challenged {
                assert_eq!(bench.actions(), [], "{what:?}, bit {bit}");
            }
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_are_never_answered_and_counted_once(
        bytes in prop::collection::vec(any::<u8>(), 1..600),
        port in prop_oneof![Just(54_000), 1u16..],
    ) {
        prop_assume!(!bytes.starts_with(b"lb"));
        let mut bench = Bench::new();
        prop_assert_eq!(bench.turn(addr(port), &bytes), None);
        prop_assert_eq!((bench.actions(), bench.controller.drops.total()), (vec![], 1));
    }

    /// For any requests and any server failures, the number of servers stays within its bounds, and no
    /// two servers have the same port.
    #[test]
    fn the_servers_stay_within_their_bounds(
        steps in prop::collection::vec((0u8..6, 0u32..8, 0u32..20_000), 1..80),
    ) {
        let mut bench = Bench::new();
        let mut alive = std::collections::BTreeMap::from([(1, 50_000), (2, 50_001)]);
        for (what, id, ms) in steps {
            match what {
                0 => drop(bench.order(RequestOp::Grow, id)),
                1 => drop(bench.order(RequestOp::Shrink, id)),
                2 if alive.remove(&id).is_some() => {
                    bench.controller.replicas.on_exited(bench.now, id, "a crash");
                }
                _ => bench.pass(ms * MS),
            }
            while let Some(action) = bench.controller.replicas.poll_action() {
                match action {
                    ReplicaAction::Start { id, port } if port % 3 == ms as u16 % 3 => {
                        let why = if what < 4 { StartFailure::PortInUse } else { StartFailure::Other };
                        prop_assert!(!alive.contains_key(&id));
                        bench.controller.replicas.on_start_failed(bench.now, id, why);
                    }
                    ReplicaAction::Start { id, port } => {
                        prop_assert!(alive.values().all(|&other| other != port), "port {} is taken", port);
                        prop_assert!(bounds().ports.contains(&port));
                        prop_assert_eq!(alive.insert(id, port), None, "server {} runs already", id);
                        bench.controller.replicas.on_started(bench.now, id);
                    }
                    ReplicaAction::Stop { id } | ReplicaAction::Kill { id } => {
                        prop_assert!(alive.contains_key(&id));
                    }
                    ReplicaAction::Tell(_) | ReplicaAction::ReportEnd { .. } => {}
                }
            }
            prop_assert!((1..=4).contains(&bench.controller.replicas.wanted()));
        }
        bench.controller.replicas.shut_down(bench.now);
        for action in bench.deeds() {
            prop_assert!(matches!(action, ReplicaAction::Stop { .. }), "{:?}", action);
        }
        for &id in alive.keys() {
            bench.controller.replicas.on_exited(bench.now, id, "exit status: 0");
        }
        prop_assert!(bench.controller.replicas.is_empty());
    }
}
