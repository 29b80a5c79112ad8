//! Tests of a client with strangers, forgers, a faulty balancer, and timeouts. (`tests/sim` tests a
//! client with correct peers in all four roles.)

use super::*;
use crate::base::batch::Received;
use crate::wire::header::HEADER_LEN;
use proptest::prelude::*;
use zerocopy::FromBytes;

const FORMAT: FrameFormat = FrameFormat { size: 128, tagged: false };
const NOW: Instant = Instant::from_nanos(5_000_000_000);
const MS: Duration = Duration::from_millis(1);
const TIMEOUT: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_millis(500);

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn balancer() -> SocketAddr {
    addr(54_001)
}

fn settings(seed: u64) -> ClientSettings {
    ClientSettings {
        format: FORMAT,
        target: balancer(),
        timeout: TIMEOUT,
        deadline: DEADLINE,
        retries: 3,
        in_flight_max: 4,
        servers: vec![],
        seed,
    }
}

/// A client and the memory of its turns, without I/O.
struct Bench {
    client: ClientRole,
    rx: Rx,
    tx: Tx,
    now: Instant,
}

impl Bench {
    fn new() -> Bench {
        Bench::from(settings(1))
    }

    fn from(settings: ClientSettings) -> Bench {
        let places = settings.in_flight_max.next_power_of_two();
        Bench {
            client: ClientRole::new(settings, NOW),
            rx: Rx::new(8, 2048),
            tx: Tx::new(places, places * FORMAT.size, 1),
            now: NOW,
        }
    }

    /// Submits a request that is sent at once.
    fn submit(&mut self, mode: Mode) -> Header {
        let sequence = self.client.submit(self.now, mode, b"question", &mut self.tx).expect("room for it");
        let sent = self.sent();
        assert_eq!((sent.len(), sent[0].sequence.get(), sent[0].attempt), (1, sequence, 1));
        sent[0]
    }

    /// A client with one request in flight.
    fn asking(mode: Mode) -> (Bench, Header) {
        let mut bench = Bench::new();
        let request = bench.submit(mode);
        (bench, request)
    }

    /// Delivers one datagram. A client never answers one.
    fn turn(&mut self, peer: SocketAddr, bytes: &[u8]) -> Vec<Outcome> {
        let len = bytes.len() as u32;
        self.rx.slot_mut(0)[..bytes.len()].copy_from_slice(bytes);
        self.rx.push(Received { socket: SOCKET, peer, local_ip: None, slot: 0, start: 0, len, stride: len });
        self.client.on_batch(self.now, &mut self.rx, &mut self.tx);
        assert!(self.tx.is_empty(), "an answer was answered");
        self.rx.clear();
        self.outcomes()
    }

    fn hear(&mut self, answer: Header) -> Vec<Outcome> {
        self.turn(balancer(), &frame(answer))
    }

    fn outcomes(&mut self) -> Vec<Outcome> {
        std::iter::from_fn(|| self.client.poll_outcome().map(Outcome::into_owned)).collect()
    }

    /// The outcome of the only request.
    fn ending(&mut self) -> Option<Ending> {
        let outcomes = self.outcomes();
        assert!(outcomes.len() <= 1);
        outcomes.first().map(|o| o.ending)
    }

    /// Advances the time, with a turn whenever something is due; returns the frames sent, with their
    /// times.
    fn pass(&mut self, time: Duration) -> Vec<(Instant, Header)> {
        let until = self.now + time;
        let mut sent = vec![];
        loop {
            self.client.on_timeout(self.now, &mut self.tx);
            let at = self.now;
            sent.extend(self.sent().into_iter().map(|header| (at, header)));
            match self.client.next_deadline() {
                Some(at) if at <= until => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = until;
        sent
    }

    fn sent(&mut self) -> Vec<Header> {
        let (rx, tx) = (&self.rx, &self.tx);
        let sent = tx.destinations().iter().flat_map(|d| {
            assert_eq!(d.to, balancer());
            tx.frames(d).map(|f| {
                let bytes = tx.bytes(rx, f);
                assert_eq!(
                    (bytes.len(), &bytes[HEADER_LEN..HEADER_LEN + 8]),
                    (FORMAT.size, &b"question"[..])
                );
                header(bytes)
            })
        });
        let sent = sent.collect();
        self.tx.clear();
        sent
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.client.totals.drops.get(reason)
    }

    /// Checks that every request counts exactly once.
    fn check_totals(&self) {
        let t = &self.client.totals;
        let ended = t.answered + t.refused + t.busy + t.lost;
        assert_eq!(t.sent, ended + self.client.in_flight() as u64);
    }
}

fn header(bytes: &[u8]) -> Header {
    Header::read_from_bytes(&bytes[..HEADER_LEN]).expect("a whole header")
}

fn frame(header: Header) -> Vec<u8> {
    let mut bytes = vec![0; FORMAT.size];
    Frame::write(&mut bytes, &header, b"answer");
    bytes
}

/// The reply to a request.
fn answer(request: &Header, status: Status) -> Header {
    let mut header = *request;
    header.kind = Kind::ClientResponse as u8;
    header.status = status as u8;
    header.incomplete.set(0);
    header
}

fn busy(request: &Header, retry_after: Duration) -> Header {
    let mut header = answer(request, Status::Busy);
    header.deadline_us.set(retry_after.as_micros() as u32);
    header
}

#[test]
fn an_answer_ends_its_request_once() {
    let (mut bench, request) = Bench::asking(Mode::Idempotent);
    bench.pass(3 * MS);
    let outcomes = bench.turn(addr(50_000), &frame(answer(&request, Status::Ok)));
    let expected = Outcome {
        sequence: request.sequence.get(),
        ending: Ending::Answered,
        latency: 3 * MS,
        attempts: 1,
        payload: b"answer".to_vec(),
    };
    assert_eq!(outcomes, [expected], "regardless of its address");
    for status in [Status::Ok, Status::Busy, Status::Error] {
        assert_eq!(bench.hear(answer(&request, status)), []);
    }
    assert_eq!(bench.drops(DropReason::NotOpen), 3);
    assert_eq!(bench.pass(2 * DEADLINE), [], "and it is not repeated");
    assert_eq!(bench.outcomes(), []);
    assert_eq!((bench.client.totals.answered, bench.client.in_flight()), (1, 0));
    bench.check_totals();
}

#[test]
fn an_answer_to_somebody_else_or_to_nothing_is_not_open() {
    let (mut bench, request) = Bench::asking(Mode::Idempotent);
    let mut forged = answer(&request, Status::Ok);
    for client_id in [0, request.client_id.get() ^ 1] {
        forged.client_id.set(client_id);
        assert_eq!(bench.hear(forged), []);
    }
    forged.client_id = request.client_id;
    // Five has the same slot as one.
    for sequence in [0, 2, 5, u64::MAX] {
        forged.sequence.set(sequence);
        assert_eq!(bench.hear(forged), []);
    }
    assert_eq!(bench.drops(DropReason::NotOpen), 6);
    assert_eq!(bench.client.in_flight(), 1);
    assert_eq!(bench.hear(answer(&request, Status::Ok)).len(), 1);
}

#[test]
fn what_is_no_answer_is_unexpected() {
    let (mut bench, request) = Bench::asking(Mode::Idempotent);
    for kind in [Kind::ClientRequest, Kind::ControllerRequest, Kind::ServerResponse] {
        let mut other = answer(&request, Status::Ok);
        other.kind = kind as u8;
        assert_eq!(bench.hear(other), []);
    }
    assert_eq!(bench.drops(DropReason::Unexpected), 3);
    let mut nonsense = answer(&request, Status::Ok);
    nonsense.status = 5;
    assert_eq!(bench.hear(nonsense), []);
    assert_eq!(bench.drops(DropReason::Kind), 1);
    assert_eq!(bench.client.in_flight(), 1);
}

#[test]
fn without_an_answer_it_asks_again_with_a_higher_attempt_and_less_time_left() {
    for seed in 0..50 {
        let mut bench = Bench::from(settings(seed));
        let first = bench.submit(Mode::Idempotent);
        assert_eq!(first.deadline_us.get(), 500_000);
        let repeated = bench.pass(DEADLINE - MS);
        let attempts: Vec<_> = repeated.iter().map(|(_, header)| header.attempt).collect();
        assert_eq!(attempts, [2, 3, 4], "as many as there are retries");
        let mut last = (NOW, TIMEOUT);
        for (at, header) in &repeated {
            let (before, timeout) = last;
            let pause = at.since(before);
            assert!((timeout..=timeout * 3 / 2).contains(&pause), "seed {seed}: {pause:?}");
            assert_eq!(header.deadline_us.get(), (NOW + DEADLINE).since(*at).as_micros() as u32);
            assert_eq!((header.client_id, header.sequence), (first.client_id, first.sequence));
            last = (*at, timeout * 2);
        }
        assert_eq!(bench.ending(), None);
        bench.pass(MS);
        let lost = Outcome {
            sequence: first.sequence.get(),
            ending: Ending::Lost,
            latency: DEADLINE,
            attempts: 4,
            payload: vec![],
        };
        assert_eq!(bench.outcomes(), [lost]);
        assert_eq!((bench.client.totals.retried, bench.client.totals.first_failed), (3, 1));
        assert_eq!(bench.hear(answer(&first, Status::Ok)), [], "too late");
        assert_eq!(bench.drops(DropReason::NotOpen), 1);
        bench.check_totals();
    }
}

#[test]
fn a_late_answer_to_an_earlier_attempt_is_good() {
    let (mut bench, request) = Bench::asking(Mode::Idempotent);
    let again = bench.pass(TIMEOUT * 3 / 2);
    assert_eq!(again.len(), 1);
    let outcomes = bench.hear(answer(&request, Status::Ok));
    assert_eq!((outcomes[0].ending, outcomes[0].attempts), (Ending::Answered, 2));
    assert_eq!(bench.hear(answer(&again[0].1, Status::Ok)), [], "the second answer");
}

#[test]
fn a_one_shot_request_is_never_repeated() {
    let (mut bench, _) = Bench::asking(Mode::OneShot);
    assert_eq!(bench.pass(DEADLINE), []);
    assert_eq!(bench.ending(), Some(Ending::Lost));
    assert_eq!(bench.client.totals.first_failed, 1);
    let (mut bench, request) = Bench::asking(Mode::OneShot);
    let outcomes = bench.hear(busy(&request, MS));
    assert_eq!((outcomes[0].ending, outcomes[0].attempts), (Ending::Busy, 1));
    assert_eq!(bench.pass(DEADLINE), []);
    bench.check_totals();
}

#[test]
fn busy_is_obeyed_and_repetitions_of_it_change_nothing() {
    for seed in 0..50 {
        let mut bench = Bench::from(ClientSettings { timeout: 100 * MS, ..settings(seed) });
        let request = bench.submit(Mode::Idempotent);
        assert_eq!(bench.hear(busy(&request, 50 * MS)), []);
        let due = bench.client.open_mut(1).expect("open").due;
        for retry_after in [50, 49, 1, 0] {
            assert_eq!(bench.hear(busy(&request, retry_after * MS)), []);
            assert_eq!(bench.client.open_mut(1).expect("open").due, due);
        }
        let sent = bench.pass(200 * MS);
        assert_eq!(sent.len(), 1, "seed {seed}");
        let pause = sent[0].0.since(NOW);
        assert!((50 * MS..100 * MS).contains(&pause), "seed {seed}: {pause:?}");
        assert_eq!(sent[0].1.attempt, 2);
        assert_eq!(bench.hear(answer(&request, Status::Ok)).len(), 1);
    }
}

#[test]
fn busy_that_comes_after_the_time_out_is_obeyed_too() {
    for seed in 0..50 {
        let mut bench = Bench::from(settings(seed));
        let request = bench.submit(Mode::Idempotent);
        bench.pass(TIMEOUT);
        let heard = bench.now;
        assert_eq!(bench.hear(busy(&request, 100 * MS)), []);
        let sent = bench.pass(DEADLINE - TIMEOUT - MS);
        assert!(sent[0].0.since(heard) >= 100 * MS, "seed {seed}: {:?}", sent[0].0.since(heard));
        bench.pass(MS);
        assert_eq!(bench.ending(), Some(Ending::Busy), "it was the last word");
    }
}

#[test]
fn busy_ends_the_request_if_the_deadline_comes_first() {
    let (mut bench, request) = Bench::asking(Mode::Idempotent);
    bench.pass(10 * MS);
    let outcomes = bench.hear(busy(&request, DEADLINE));
    assert_eq!((outcomes[0].ending, outcomes[0].latency), (Ending::Busy, 10 * MS), "no use in waiting");
    let (mut bench, request) = Bench::asking(Mode::Idempotent);
    bench.hear(busy(&request, MS));
    assert!(!bench.pass(DEADLINE).is_empty());
    assert_eq!(bench.ending(), Some(Ending::Busy), "silence after a BUSY");
    assert_eq!((bench.client.totals.busy, bench.client.totals.lost), (1, 0));
    bench.check_totals();
}

#[test]
fn busy_after_the_last_retry_ends_the_request() {
    let (mut bench, mut request) = Bench::asking(Mode::Idempotent);
    for attempt in 2..=4 {
        assert_eq!(bench.hear(busy(&request, MS)), []);
        request = bench.pass(2 * MS)[0].1;
        assert_eq!(request.attempt, attempt);
    }
    assert_eq!(bench.hear(busy(&request, MS)).first().map(|o| o.ending), Some(Ending::Busy));
}

#[test]
fn the_timers_of_answered_requests_do_not_pile_up() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        let request = bench.submit(Mode::Idempotent);
        assert_eq!(bench.hear(answer(&request, Status::Ok)).len(), 1);
        assert!(bench.client.timers.len() < 4 * 4);
    }
}

#[test]
fn an_attempt_that_expired_is_no_verdict_before_the_deadline() {
    let (mut bench, request) = Bench::asking(Mode::Idempotent);
    assert_eq!(bench.hear(answer(&request, Status::Expired)), []);
    assert_eq!(bench.pass(TIMEOUT * 3 / 2).len(), 1, "the next attempt comes in its time");
    bench.now = NOW + DEADLINE;
    let outcomes = bench.hear(answer(&request, Status::Expired));
    assert_eq!(outcomes[0].ending, Ending::Refused(Status::Expired));
    bench.check_totals();
}

#[test]
fn unknown_and_error_are_for_good() {
    for status in [Status::Unknown, Status::Error] {
        let (mut bench, request) = Bench::asking(Mode::Idempotent);
        let outcomes = bench.hear(answer(&request, status));
        assert_eq!(outcomes[0].ending, Ending::Refused(status));
        assert_eq!(outcomes[0].payload, [0; 0], "only an answer has a payload");
        assert_eq!(bench.pass(DEADLINE), []);
        assert_eq!(bench.client.totals.refused, 1);
        bench.check_totals();
    }
}

#[test]
fn a_storm_of_retries_is_held_to_the_budget() {
    let deadline = Duration::from_secs(1);
    let mut bench = Bench::from(ClientSettings {
        retries: 255,
        in_flight_max: 1024,
        timeout: MS,
        deadline,
        ..settings(1)
    });
    for _ in 0..1000 {
        bench.submit(Mode::Idempotent);
    }
    let retried = bench.pass(deadline).len() as u64;
    assert_eq!(bench.client.totals.retried, retried);
    // 100 saved, the maximum, and 10 earned in a second.
    assert!((105..=111).contains(&retried), "{retried}");
    assert!(bench.client.totals.budget_empty > 0);
    assert_eq!((bench.client.totals.lost, bench.client.in_flight()), (1000, 0));

    let mut bench =
        Bench::from(ClientSettings { in_flight_max: 64, deadline: 10 * MS, timeout: MS, ..settings(1) });
    let mut retried = 0;
    for _ in 0..2_000 {
        bench.submit(Mode::Idempotent);
        retried += bench.pass(MS).len();
        bench.outcomes();
    }
    // 100 saved, a fifth of 2,000, 10 per second for 2 seconds.
    assert!((500..=520).contains(&retried), "{retried}");
}

#[test]
fn it_says_how_far_behind_its_first_incomplete_request_is() {
    let mut bench = Bench::new();
    let [first, second, third] = [1, 2, 3].map(|_| bench.submit(Mode::Idempotent));
    assert_eq!([first, second, third].map(|h| h.incomplete.get()), [0, 1, 2]);
    bench.hear(answer(&second, Status::Ok));
    let fourth = bench.submit(Mode::Idempotent);
    assert_eq!(fourth.incomplete.get(), 3, "the first is still open");
    bench.hear(answer(&first, Status::Ok));
    let fifth = bench.submit(Mode::Idempotent);
    assert_eq!(fifth.incomplete.get(), 2, "the third is the first now");
    for request in [third, fourth, fifth] {
        bench.hear(answer(&request, Status::Ok));
    }
    assert_eq!(bench.submit(Mode::Idempotent).incomplete.get(), 0);
}

#[test]
fn a_straggler_keeps_its_number_and_the_others_pass_it() {
    let mut bench = Bench::from(ClientSettings { in_flight_max: 2, ..settings(1) });
    let straggler = bench.submit(Mode::Idempotent);
    let mut numbers = vec![];
    for _ in 0..33_000 {
        let request = bench.submit(Mode::Idempotent);
        numbers.push(request.sequence.get());
        assert_eq!(u64::from(request.incomplete.get()), (numbers[numbers.len() - 1] - 1).min(65_535));
        assert_eq!(bench.hear(answer(&request, Status::Ok)).len(), 1);
    }
    assert!(numbers.iter().zip(1..).all(|(&number, i)| number == 2 * i), "the odd ones have its place");
    assert_eq!(bench.hear(answer(&straggler, Status::Ok))[0].sequence, 1);
    assert_eq!(bench.submit(Mode::Idempotent).incomplete.get(), 0);
}

#[test]
fn too_many_in_flight_is_an_ordinary_result() {
    let mut bench = Bench::new();
    let first = bench.submit(Mode::Idempotent);
    for _ in 1..4 {
        bench.submit(Mode::Idempotent);
    }
    assert_eq!(bench.client.submit(bench.now, Mode::Idempotent, b"", &mut bench.tx), Err(Full));
    assert_eq!((bench.sent(), bench.client.totals.sent), (vec![], 4));
    bench.hear(answer(&first, Status::Ok));
    assert_eq!(bench.submit(Mode::Idempotent).sequence.get(), 5);
    bench.client.abandon(bench.now);
    assert_eq!((bench.outcomes().len(), bench.client.in_flight(), bench.client.totals.lost), (4, 0, 4));
    bench.check_totals();
}

#[test]
fn what_does_not_fit_a_turn_is_sent_in_the_next() {
    let mut bench = Bench::new();
    bench.tx = Tx::new(2, 2 * FORMAT.size, 1);
    for _ in 0..4 {
        let submitted = bench.client.submit(bench.now, Mode::OneShot, b"question", &mut bench.tx);
        assert!(submitted.is_ok());
    }
    let sequences =
        |sent: Vec<Header>| sent.iter().map(|h| (h.sequence.get(), h.attempt)).collect::<Vec<_>>();
    assert_eq!(sequences(bench.sent()), [(1, 1), (2, 1)]);
    assert_eq!(bench.client.next_deadline(), Some(bench.now), "at once");
    bench.client.on_timeout(bench.now, &mut bench.tx);
    assert_eq!(sequences(bench.sent()), [(3, 1), (4, 1)]);
    assert_eq!(bench.client.totals.retried, 0);
}

#[test]
fn every_truncation_and_every_flipped_bit_is_counted_once_or_a_valid_answer() {
    let (mut bench, request) = Bench::asking(Mode::Idempotent);
    let mut answered = answer(&request, Status::Ok);
    answered.deadline_us.set(1_000); // a BUSY that can be obeyed, should it become one
    let whole = frame(answered);
    for len in 1..whole.len() {
        assert_eq!(bench.turn(balancer(), &whole[..len]), [], "{len} bytes");
    }
    assert_eq!(bench.drops(DropReason::Length), 127);
    for bit in 0..whole.len() * 8 {
        let (mut bench, _) = Bench::asking(Mode::Idempotent);
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let outcomes = bench.turn(balancer(), &flipped);
        let checked = Frame::check(&mut flipped, &FORMAT).map(|f| f.header);
        let valid = checked.is_ok_and(|h| {
            let its = (h.client_id, h.sequence) == (request.client_id, request.sequence);
            h.kind == Kind::ClientResponse as u8 && its && Status::from_wire(h.status).is_some()
        });
        assert_eq!(bench.client.totals.drops.total(), u64::from(!valid), "bit {bit}");
        if let Err(reason) = checked {
            assert_eq!(bench.drops(reason), 1, "bit {bit}");
        }
        let ends = valid && ![1, 2].contains(&flipped[8]);
        assert_eq!(outcomes.len(), usize::from(ends), "bit {bit}: BUSY and EXPIRED are no end yet");
        bench.pass(DEADLINE);
        bench.check_totals();
    }
}

#[test]
fn a_broken_frame_costs_its_neighbours_nothing() {
    let mut bench = Bench::new();
    let requests = [1, 2, 3].map(|_| bench.submit(Mode::Idempotent));
    let mut datagram = requests.map(|request| frame(answer(&request, Status::Ok))).concat();
    datagram[FORMAT.size] ^= 1;
    let ended: Vec<_> = bench.turn(balancer(), &datagram).iter().map(|o| o.sequence).collect();
    assert_eq!((ended, bench.drops(DropReason::Magic)), (vec![1, 3], 1));
}

proptest! {
    #[test]
    fn random_bytes_are_never_answered_and_always_counted(
        bytes in prop::collection::vec(any::<u8>(), 1..600),
        port in 1u16..,
    ) {
        prop_assume!(!bytes.starts_with(b"lb"));
        let (mut bench, _) = Bench::asking(Mode::Idempotent);
        prop_assert_eq!(bench.turn(addr(port), &bytes), []);
        let frames = if bytes.len().is_multiple_of(FORMAT.size) { bytes.len() / FORMAT.size } else { 1 };
        prop_assert_eq!(bench.client.totals.drops.total(), frames as u64);
        prop_assert_eq!(bench.client.in_flight(), 1);
    }

    /// For any replies at any time, each request has one outcome, at its deadline at the latest.
    #[test]
    fn each_request_has_one_outcome_whatever_is_answered(
        seed in any::<u64>(),
        steps in prop::collection::vec((0u32..40, 0u64..6, 0u8..6, 0u32..100_000, any::<bool>()), 1..60),
    ) {
        let mut bench = Bench::from(settings(seed));
        let (mut open, mut due, mut last) = (std::collections::BTreeMap::new(), NOW, 0);
        for (pause, back, status, deadline_us, one_shot) in steps {
            let mode = if one_shot { Mode::OneShot } else { Mode::Idempotent };
            let submitted = bench.client.submit(bench.now, mode, b"question", &mut bench.tx);
            prop_assert_eq!(submitted.is_err(), open.len() == 4);
            if let Ok(sequence) = submitted {
                prop_assert!(sequence > last);
                open.insert(sequence, bench.now);
                (last, due) = (sequence, bench.now + DEADLINE);
            }
            let mut answer = Header::new(Kind::ClientResponse, FORMAT.size);
            answer.status = status;
            answer.client_id.set(bench.client.client_id);
            answer.sequence.set(last.saturating_sub(back));
            answer.deadline_us.set(deadline_us);
            bench.sent();
            let mut outcomes = bench.hear(answer);
            bench.pass(pause * MS);
            outcomes.extend(bench.outcomes());
            for outcome in outcomes {
                let since = open.remove(&outcome.sequence);
                prop_assert!(since.is_some(), "a second outcome of {}", outcome.sequence);
                prop_assert!(outcome.latency <= DEADLINE && outcome.attempts <= 4);
            }
            prop_assert!(open.values().all(|&since| bench.now < since + DEADLINE));
            bench.check_totals();
        }
        bench.pass(due.since(bench.now));
        prop_assert_eq!((bench.outcomes().len(), bench.client.in_flight()), (open.len(), 0));
        bench.check_totals();
    }
}
