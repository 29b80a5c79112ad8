use super::*;
use crate::base::batch::{Received, SocketId};
use crate::base::rng::Rng;
use crate::load::histogram::Percentiles;
use crate::load::protocol::NativeSettings;
use crate::load::{
    DnsLoad, DnsQueries, Echo, LoadRate, LoadReport, Native, Payload, Plain, RunVerdict, Share, Trace,
};
use crate::wire::{Frame, FrameFormat, Header, Kind, Status};

const FORMAT: FrameFormat = FrameFormat { size: 128, tagged: false };
const START: Instant = Instant::from_nanos(5_000_000_000);
const TIMEOUT: Duration = ms(50);
const TARGET: &str = "127.0.0.1:54001";

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn target() -> SocketAddr {
    TARGET.parse().unwrap()
}

/// One request per millisecond, measured from the first one, for 100 ms.
fn open_loop() -> GeneratorPlan {
    GeneratorPlan {
        target: target(),
        // The first request is half a gap after the start of a schedule.
        schedule: Some(Schedule::bursts(LoadRate::flat(1000.0), 1, Share::WHOLE, START + ms(1) / 2)),
        window: None,
        start: START,
        warmup: ms(0),
        duration: ms(100),
        grace: ms(0),
    }
}

fn closed_loop(window: usize) -> GeneratorPlan {
    GeneratorPlan { schedule: None, window: Some(window), ..open_loop() }
}

fn native() -> Native {
    let settings = NativeSettings { format: FORMAT, clients: 3, deadline_us: 50_000 };
    Native::new(settings, &[(vec![7; 16], 16)], &mut Rng::new(1))
}

/// A generator and the memory of its turns, without I/O.
struct Bench<P> {
    generator: Generator<P>,
    rx: Rx,
    tx: Tx,
}

impl Bench<Native> {
    fn new(plan: GeneratorPlan) -> Self {
        Bench::of(plan, native())
    }
}

/// A datagram that a client receives: client, sender and bytes.
type Arrival<'a> = (SocketId, SocketAddr, &'a [u8]);

impl<P: LoadProtocol> Bench<P> {
    fn of(plan: GeneratorPlan, protocol: P) -> Self {
        let ledger = RequestLedger::new(1, TIMEOUT);
        let generator = Generator::new(plan, protocol, ledger);
        Bench { generator, rx: Rx::new(64, 512), tx: Tx::new(256, 32 << 10, 1) }
    }

    /// The report of a finished run.
    fn report(self) -> LoadReport {
        let (account, measured) = self.generator.close();
        LoadReport::of(&account, measured)
    }

    /// One turn at `START + at` with these datagrams from the target; returns the datagrams sent.
    fn turn(&mut self, at: Duration, datagrams: &[&[u8]]) -> Vec<Vec<u8>> {
        let arrivals: Vec<_> = datagrams.iter().map(|bytes| (SocketId(0), target(), *bytes)).collect();
        self.exchange(at, &arrivals).into_iter().map(|(_, bytes)| bytes).collect()
    }

    /// One turn with these arrivals; returns the datagrams sent, with their clients.
    fn exchange(&mut self, at: Duration, arrivals: &[Arrival<'_>]) -> Vec<(SocketId, Vec<u8>)> {
        self.rx.clear();
        for (slot, (socket, peer, bytes)) in arrivals.iter().enumerate() {
            self.rx.slot_mut(slot as u16)[..bytes.len()].copy_from_slice(bytes);
            let (socket, peer, len) = (*socket, *peer, bytes.len() as u32);
            self.rx.push(Received {
                socket,
                peer,
                local_ip: None,
                slot: slot as u16,
                start: 0,
                len,
                stride: len,
            });
        }
        self.tx.clear();
        self.generator.on_batch(START + at, &mut self.rx, &mut self.tx);
        self.generator.on_timeout(START + at, &mut self.tx);
        let (rx, tx) = (&self.rx, &self.tx);
        let sent = |d: &crate::base::batch::Destination| {
            assert_eq!(d.to, target());
            let socket = d.socket;
            tx.frames(d).map(move |f| (socket, tx.bytes(rx, f).to_vec())).collect::<Vec<_>>()
        };
        tx.destinations().iter().flat_map(sent).collect()
    }

    /// Turns without a response at every whole millisecond of the range; returns the datagrams sent.
    fn turns(&mut self, range: std::ops::RangeInclusive<u64>) -> Vec<Vec<u8>> {
        range.flat_map(|at| self.turn(ms(at), &[])).collect()
    }
}

/// A request of another run.
fn native_request() -> Vec<u8> {
    let mut header = Header::new(Kind::ClientRequest, FORMAT.size);
    header.client_id.set(7);
    let mut bytes = vec![0; FORMAT.size];
    Frame::write(&mut bytes, &header, &[]);
    bytes
}

/// The reply to a request.
fn answer(request: &[u8], status: Status) -> Vec<u8> {
    let mut bytes = request.to_vec();
    let mut frame = Frame::check(&mut bytes, &FORMAT).unwrap();
    let header = &mut frame.header;
    header.kind = Kind::ClientResponse as u8;
    header.status = status as u8;
    bytes
}

fn assert_balanced(report: &LoadReport) {
    let Counts { sent, answered, busy, refused, lost, .. } = report.counts;
    assert_eq!(sent, answered + busy + refused + lost, "{report:?}");
}

#[test]
fn an_open_loop_sends_at_the_planned_moments_and_ends() {
    let mut bench = Bench::new(open_loop());
    assert_eq!(bench.generator.next_deadline(), Some(START + ms(1)));
    let sent = bench.turns(0..=200);
    assert_eq!(sent.len(), 99, "one at each millisecond from 1 to 99");
    assert!(bench.generator.is_finished(START + ms(200)));
    let report = bench.report();
    assert_eq!(
        (report.counts.planned, report.counts.sent, report.counts.late_sends, report.counts.lost),
        (99, 99, 0, 99)
    );
    assert_eq!(report.latency_us.p50 / 1000, 50, "a lost request counts as the timeout");
    assert_balanced(&report);
}

#[test]
fn the_sockets_take_turns() {
    let mut bench = Bench::new(closed_loop(6));
    bench.turn(ms(0), &[]);
    let sockets: Vec<(u16, u32)> =
        bench.tx.destinations().iter().map(|d| (d.socket.0, bench.tx.frames(d).count() as u32)).collect();
    assert_eq!(sockets, [(1, 2), (2, 2), (0, 2)]);
}

#[test]
fn what_is_late_counts_from_its_planned_moment() {
    let mut bench = Bench::new(open_loop());
    let sent = bench.turn(ms(11), &[]); // planned for 1 to 11 ms
    assert_eq!(sent.len(), 11);
    let answers: Vec<_> = sent.iter().map(|request| answer(request, Status::Ok)).collect();
    bench.turn(ms(12), &answers.iter().map(Vec::as_slice).collect::<Vec<_>>());
    bench.generator.stop(START + ms(12));
    bench.turn(ms(70), &[]);
    let report = bench.report();
    assert_eq!(
        (report.counts.answered, report.counts.late_sends),
        (11, 9),
        "1 to 9 ms were late, 10 and 11 ms were not"
    );
    assert!(report.latency_us.p90 >= 10_000 && report.latency_us.p50 >= 5_000, "{report:?}");
    assert!(report.latency_uncorrected_us.p90 <= 1_001, "{report:?}");
}

#[test]
fn the_warm_up_is_outside_all_counts() {
    let mut bench = Bench::new(GeneratorPlan { warmup: ms(40), ..open_loop() });
    // The turn at its end sends nothing of the measurement.
    let stray = || answer(&native_request(), Status::Ok);
    assert_eq!(bench.turns(0..=38).len(), 38);
    assert_eq!(bench.turn(ms(39), &[&stray(), &stray()]).len(), 1);
    assert!(bench.turn(ms(40), &[]).is_empty() && !bench.generator.is_warming_up());
    assert_eq!(bench.turn(ms(41), &[&stray()]).len(), 2);
    assert_eq!(bench.turns(42..=200).len(), 98);
    let report = bench.report();
    assert_eq!((report.counts.planned, report.counts.sent, report.counts.lost), (100, 100, 100));
    assert_eq!((report.duration_s, report.rate), (0.1, 1000.0));
    assert_eq!(report.drops["not_open"], 1, "two came in the warm-up");
}

#[test]
fn a_closed_loop_sends_one_for_each_that_ended() {
    let mut bench = Bench::new(closed_loop(4));
    let first = bench.turn(ms(0), &[]);
    assert_eq!(first.len(), 4);
    assert_eq!(bench.turn(ms(1), &[]).len(), 0, "the window is full");
    assert_eq!(bench.generator.next_deadline(), Some(START + ms(50)), "the first time-out");
    assert_eq!(
        bench.turn(ms(2), &[&answer(&first[2], Status::Ok), &answer(&first[0], Status::Busy)]).len(),
        2
    );
    assert_eq!(bench.turn(ms(50), &[]).len(), 2, "two have timed out");
}

#[test]
fn a_number_of_requests_ends_the_measurement() {
    let plan = GeneratorPlan { warmup: ms(10), duration: ms(100_000), ..open_loop() };
    let mut bench = Bench::new(plan);
    bench.generator = bench.generator.limited_to(25);
    assert_eq!(bench.turns(0..=60).len(), 9 + 25);
    bench.turn(ms(90), &[]);
    assert!(bench.generator.is_finished(START + ms(90)) && !bench.generator.is_interrupted());
    let report = bench.report();
    assert_eq!((report.counts.planned, report.counts.sent), (25, 25));
    assert!((report.rate - 1_000.0).abs() < 50.0, "{report:?}");
    // A closed loop too; a share without a request sends none.
    for requests in [3, 0] {
        let mut bench = Bench::new(closed_loop(2));
        bench.generator = bench.generator.limited_to(requests);
        let sent = bench.turns(0..=200).len() as u64;
        assert_eq!(sent, requests);
        assert!(bench.generator.is_finished(START + ms(200)));
        // Three of two places, each lost after 50 ms.
        assert_eq!(bench.report().duration_s, if requests == 3 { 0.1 } else { 0.0 });
    }
    // The last one of a burst is the last one, although others were planned for the same moment.
    let schedule = Schedule::bursts(LoadRate::flat(1000.0), 10, Share::WHOLE, START);
    let mut bench = Bench::new(GeneratorPlan { schedule: Some(schedule), ..open_loop() });
    bench.generator = bench.generator.limited_to(25);
    assert_eq!(bench.turns(0..=200).len(), 25);
    let report = bench.report();
    assert_eq!((report.counts.planned, report.counts.sent), (25, 25));
}

#[test]
fn a_place_in_the_window_thinks_after_its_request() {
    let mut bench = Bench::new(GeneratorPlan { duration: ms(1_000), ..closed_loop(2) });
    bench.generator = bench.generator.thinking_for(ms(20));
    let first = bench.turn(ms(0), &[]);
    assert_eq!(bench.turn(ms(5), &[&answer(&first[0], Status::Ok)]).len(), 0);
    assert_eq!(bench.generator.next_deadline(), Some(START + ms(25)));
    assert_eq!(bench.turn(ms(24), &[]).len(), 0);
    assert_eq!(bench.turn(ms(25), &[]).len(), 1);
    // The other one is lost after 50 ms, and thinks too.
    assert_eq!(bench.turn(ms(50), &[]).len(), 0);
    assert_eq!(bench.turn(ms(70), &[]).len(), 1);
}

#[test]
fn a_closed_loop_begins_at_its_start() {
    let mut bench = Bench::new(GeneratorPlan { start: START + ms(7), ..closed_loop(2) });
    assert_eq!(bench.turn(ms(6), &[]).len(), 0);
    assert_eq!(bench.generator.next_deadline(), Some(START + ms(7)));
    assert_eq!(bench.turn(ms(7), &[]).len(), 2);
}

#[test]
fn after_the_end_it_only_waits_for_what_is_in_flight() {
    for plan in [closed_loop(4), GeneratorPlan { window: Some(1), ..open_loop() }] {
        let mut bench = Bench::new(plan);
        let last = bench.turn(ms(99), &[]);
        assert!(!last.is_empty());
        assert_eq!(bench.turn(ms(101), &[&answer(&last[0], Status::Ok)]).len(), 0);
        let waits = bench.generator.next_deadline();
        assert!(waits.is_none_or(|until| until > START + ms(101)), "no turn without a reason: {waits:?}");
        bench.turn(ms(150), &[]);
        assert!(bench.generator.is_finished(START + ms(150)));
        assert_balanced(&bench.report());
    }
}

#[test]
fn a_full_window_makes_a_rate_late_and_what_never_left_is_told() {
    let mut bench = Bench::new(GeneratorPlan { window: Some(5), duration: ms(45), ..open_loop() });
    assert_eq!(bench.turns(0..=49).len(), 5);
    bench.generator.abandon();
    let report = bench.report();
    assert_eq!((report.counts.planned, report.counts.sent, report.counts.lost), (44, 5, 5));
    assert!(matches!(report.verdict(), RunVerdict::NothingAnswered(_)));
}

#[test]
fn every_status_has_its_count_and_only_answers_have_a_latency() {
    let mut bench = Bench::new(closed_loop(5));
    let sent = bench.turn(ms(0), &[]);
    let statuses = [Status::Ok, Status::Busy, Status::Expired, Status::Error, Status::Unknown];
    let answers: Vec<_> =
        sent.iter().zip(statuses).map(|(request, status)| answer(request, status)).collect();
    bench.generator.stop(START);
    bench.turn(ms(7), &answers.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let report = bench.report();
    assert_eq!(
        (report.counts.answered, report.counts.busy, report.counts.refused, report.counts.lost),
        (1, 1, 3, 0)
    );
    assert_eq!(report.latency_us.max / 10, 700, "{report:?}");
    assert_balanced(&report);
}

#[test]
fn an_answer_counts_once_and_only_for_its_own_open_request() {
    let mut bench = Bench::new(closed_loop(2));
    let sent = bench.turn(ms(0), &[]);
    let good = answer(&sent[0], Status::Ok);
    let edit = |change: fn(&mut Header)| {
        let mut bytes = good.clone();
        change(&mut Frame::check(&mut bytes, &FORMAT).unwrap().header);
        bytes
    };
    let foreign = edit(|header| header.client_id.set(header.client_id.get() ^ 1));
    let future = edit(|header| header.sequence.set(77));
    let kind = edit(|header| header.kind = Kind::ClientRequest as u8);
    let status = edit(|header| header.status = 99);
    bench.turn(ms(1), &[&foreign, &future, &kind, &status, &good[..100], &good, &good]);
    bench.generator.abandon();
    let report = bench.report();
    assert_eq!(report.counts.answered, 1);
    let drops = [("kind", 1), ("length", 1), ("not_open", 3), ("unexpected", 1)];
    assert_eq!(report.drops, drops.map(|(reason, n)| (reason.to_owned(), n)).into());
}

#[test]
fn a_reply_after_the_time_out_is_lost_all_the_same() {
    let mut bench = Bench::new(closed_loop(1));
    let sent = bench.turn(ms(0), &[]);
    bench.turn(ms(60), &[]);
    bench.generator.abandon();
    bench.turn(ms(61), &[&answer(&sent[0], Status::Ok)]);
    assert_eq!((bench.generator.counts().answered, bench.generator.counts().lost), (0, 2));
}

#[test]
fn the_pacing_error_is_that_of_every_request_answered_or_not() {
    let mut bench = Bench::new(open_loop());
    bench.turn(ms(11), &[]); // planned for 1 to 11 ms: 0 to 10 ms late
    bench.generator.stop(START + ms(11));
    bench.turn(ms(70), &[]);
    let Percentiles { p50, max, .. } = bench.report().pacing_us;
    assert!(p50.abs_diff(5_000) <= 5 && max.abs_diff(10_000) <= 10, "{p50} {max}");
}

#[test]
fn seconds_are_given_once_all_of_them_has_ended() {
    let plan = GeneratorPlan { duration: ms(2_500), warmup: ms(500), ..open_loop() };
    let mut bench = Bench::new(plan);
    let mut seconds = vec![];
    for at in 0..=3_100 {
        bench.turn(ms(at), &[]);
        while let Some(second) = bench.generator.finished_second(START + ms(at)) {
            seconds.push((at, second.index, second.counts.sent, second.counts.lost));
        }
    }
    // The last request of a second is lost 50 ms after it.
    assert_eq!(seconds, [(1_549, 0, 1_000, 1_000), (2_549, 1, 1_000, 1_000), (3_049, 2, 500, 500)]);
}

#[test]
fn the_last_requests_of_a_trace_may_leave_late_for_a_while() {
    let trace = || std::sync::Arc::new(Trace::parse("0.01\n0.1\n").unwrap());
    let plan = |grace| GeneratorPlan {
        schedule: Some(Schedule::traced(trace(), Share::WHOLE, START)),
        duration: ms(100) + Duration::from_nanos(1),
        grace,
        ..open_loop()
    };
    let mut bench = Bench::new(plan(ms(30)));
    assert_eq!(bench.turns(0..=10).len(), 1);
    assert_eq!(bench.turn(ms(60), &[]).len(), 0);
    assert_eq!(bench.generator.next_deadline(), Some(START + ms(100)));
    assert!(!bench.generator.is_finished(START + ms(101)), "one is behind");
    assert_eq!(bench.turn(ms(129), &[]).len(), 1);
    bench.turn(ms(200), &[]);
    assert!(bench.generator.is_finished(START + ms(200)));
    assert_eq!(bench.report().counts.sent, 2);

    let mut bench = Bench::new(plan(ms(30)));
    bench.turns(0..=60);
    assert_eq!(bench.turn(ms(131), &[]).len(), 0, "too late");
    assert!(bench.generator.is_finished(START + ms(131)));
    let report = bench.report();
    assert_eq!((report.counts.planned, report.counts.sent), (2, 1));
}

#[test]
fn a_trace_gives_moments_and_sizes_and_its_end() {
    let trace = std::sync::Arc::new(Trace::parse("0.01 3\n0.02\n0.03 16\n").unwrap());
    let schedule = Some(Schedule::traced(trace, Share::WHOLE, START));
    let mut bench = Bench::new(GeneratorPlan { schedule, ..open_loop() });
    let mut sent = vec![];
    for at in 0..=200 {
        let requests = bench.turn(ms(at), &[]);
        sent.extend(
            requests
                .into_iter()
                .map(|mut bytes| (at, Frame::check(&mut bytes, &FORMAT).unwrap().header.payload_len.get())),
        );
    }
    assert_eq!(sent, [(10, 3), (20, 16), (30, 16)]);
    assert_eq!(bench.report().counts.planned, 3);
}

/// The response of a DNS server to a query.
fn dns_answer(query: &[u8], rcode: u8) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] |= 0x80;
    bytes[3] = rcode;
    bytes
}

fn dns(names: &[&str], clients: u16) -> DnsLoad {
    let mut queries = DnsQueries::default();
    names.iter().for_each(|name| queries.add(name, 1, None).unwrap());
    DnsLoad::new(target(), clients, queries, Share::WHOLE, &mut Rng::new(9))
}

#[test]
fn dns_answers_find_their_queries_by_client_id_and_question() {
    let mut bench = Bench::of(closed_loop(8), dns(&["a.example", "b.example"], 2));
    let sent = bench.exchange(ms(0), &[]);
    let asked: Vec<_> =
        sent.iter().map(|(_, bytes)| crate::wire::dns::query(bytes).unwrap().name[1]).collect();
    assert_eq!(asked.iter().filter(|name| **name == b'a').count(), 4, "names take turns");
    let answers: Vec<_> = sent.iter().map(|(client, bytes)| (*client, dns_answer(bytes, 0))).collect();
    let (client, good) = &answers[0];
    let other = SocketId(1 - client.0);
    let mut id = good.clone();
    id[0] ^= 0x55;
    let mut name = good.clone();
    name[13] ^= 1;
    let mut case = good.clone();
    case[13] ^= 0x20;
    let stranger = "127.0.0.1:99".parse().unwrap();
    bench.generator.stop(START);
    bench.exchange(
        ms(1),
        &[
            (*client, stranger, good),
            (other, target(), good),
            (*client, target(), &id),
            (*client, target(), &name),
            (*client, target(), &sent[0].1),
            (*client, target(), &good[..20]),
            (*client, target(), &case),
            (*client, target(), good),
        ],
    );
    assert_eq!(bench.generator.in_flight(), 7, "case is ignored in names");
    for ((client, answer), rcode) in answers[1..].iter().zip([0, 3, 2, 5, 1, 4, 0]) {
        let mut answer = answer.clone();
        answer[3] = rcode;
        bench.exchange(ms(2), &[(*client, target(), &answer)]);
    }
    let report = bench.report();
    assert_eq!((report.counts.answered, report.counts.busy, report.counts.refused), (4, 1, 3), "{report:?}");
    assert_balanced(&report);
    assert_eq!(report.drops["malformed"] + report.drops["not_open"], 5, "{report:?}");
    assert_eq!((report.drops["wrong_source"], report.drops["wrong_question"]), (1, 1));
}

#[test]
fn dns_answers_are_counted_by_what_they_say_and_without_the_warm_up() {
    let plan = GeneratorPlan { warmup: ms(10), ..closed_loop(6) };
    let mut bench = Bench::of(plan, dns(&["a.example"], 1));
    let first = bench.exchange(ms(0), &[]);
    let reply = |bytes: Vec<u8>| (SocketId(0), target(), bytes);
    let warm: Vec<_> = first.iter().map(|(_, query)| reply(dns_answer(query, 2))).collect();
    fn arrivals(all: &[(SocketId, SocketAddr, Vec<u8>)]) -> Vec<Arrival<'_>> {
        all.iter().map(|(client, peer, bytes)| (*client, *peer, &bytes[..])).collect()
    }
    // The turn that ends the warm-up sends nothing.
    bench.exchange(ms(10), &arrivals(&warm));
    let sent = bench.exchange(ms(11), &[]);
    assert_eq!(sent.len(), 6);
    let mut truncated = dns_answer(&sent[0].1, 0);
    truncated[2] |= 2;
    let mut full = dns_answer(&sent[1].1, 0);
    full[7] = 1;
    // Without the question, only the id tells which query an error answers.
    let mut bare = dns_answer(&sent[2].1, 1);
    bare[5] = 0;
    bare.truncate(12);
    let mut bare_noerror = dns_answer(&sent[5].1, 0);
    bare_noerror[5] = 0;
    let all = [truncated, full, bare, dns_answer(&sent[3].1, 0), dns_answer(&sent[4].1, 3), bare_noerror];
    bench.generator.stop(START + ms(11));
    bench.exchange(ms(12), &arrivals(&all.map(reply)));
    let answers = bench.generator.dns_answers().unwrap();
    assert_eq!((answers.truncated, answers.empty), (1, 1));
    assert_eq!([0, 1, 2, 3].map(|rcode| answers.rcode(rcode)), [3, 1, 0, 1]);
    assert_eq!(answers.rcodes.len(), 6, "the usual ones are told even if there is none: {answers}");
}

#[test]
fn dns_ids_of_a_client_are_distinct_while_all_are_under_way_and_then_it_waits() {
    let plan = GeneratorPlan { duration: ms(1_000_000), ..closed_loop(1 << 20) };
    let protocol = dns(&["a.example"], 2);
    let span = protocol.span_max();
    assert_eq!(span, 2 * 65_535);
    let ledger = RequestLedger::new(1 << 18, ms(1_000_000));
    let mut bench =
        Bench { generator: Generator::new(plan, protocol, ledger), ..Bench::of(open_loop(), dns(&["a"], 2)) };
    let mut sent = vec![];
    while sent.len() < span as usize {
        let more = bench.exchange(ms(0), &[]);
        assert!(!more.is_empty());
        sent.extend(more.into_iter().map(|(client, bytes)| (client.0, crate::wire::dns::id(&bytes))));
    }
    assert!(bench.exchange(ms(0), &[]).is_empty(), "no id is left that would be unmistakable");
    let ids: std::collections::HashSet<_> = sent.iter().copied().collect();
    assert_eq!(ids.len(), sent.len());
    let risen = sent.windows(3).filter(|w| w[2].1 == w[0].1.wrapping_add(1)).count();
    assert!(risen < 20, "ids are not guessed from those before: {risen}");
}

#[test]
fn a_marked_name_is_another_one_for_each_query_and_found_again() {
    let mut bench = Bench::of(closed_loop(4), dns(&["x{id}.example"], 1));
    let sent = bench.exchange(ms(0), &[]);
    let names: std::collections::HashSet<_> = sent.iter().map(|(_, bytes)| bytes[13..30].to_vec()).collect();
    assert!(names.len() == 4 && names.iter().all(|name| name[0] == b'x'), "{names:?}");
    let (mut wrong, right) = (dns_answer(&sent[0].1, 0), dns_answer(&sent[1].1, 0));
    wrong[13..30].copy_from_slice(&right[13..30]);
    bench.generator.stop(START);
    bench.turn(ms(1), &[&wrong, &right]);
    bench.generator.abandon();
    let report = bench.report();
    assert_eq!((report.counts.answered, report.counts.lost, report.drops["wrong_question"]), (1, 3, 1));
}

#[test]
fn a_mark_in_the_payload_finds_the_request_of_any_echo() {
    let payload: Payload = "text:call {id}, again {id}!".parse().unwrap();
    let echo = Echo::new(target(), 2, &[payload.bytes(0, &mut Rng::new(1))], &mut Rng::new(1));
    let mut bench = Bench::of(closed_loop(6), echo);
    let sent = bench.exchange(ms(0), &[]);
    let text = String::from_utf8(sent[0].1.clone()).unwrap();
    let [mark, again] = [&text[5..21], &text[29..45]];
    assert!(mark == again && text.starts_with("call ") && text.ends_with('!') && text.len() == 46, "{text}");
    let client = sent[0].0;
    let good = format!("OK, you said {mark}");
    bench.generator.stop(START);
    let stranger = "127.0.0.1:99".parse().unwrap();
    bench.exchange(
        ms(1),
        &[
            (client, stranger, good.as_bytes()),
            (SocketId(1 - client.0), target(), good.as_bytes()),
            (client, target(), b"no mark"),
            (client, target(), good.as_bytes()),
            (client, target(), good.as_bytes()),
        ],
    );
    bench.generator.abandon();
    let report = bench.report();
    assert_eq!((report.counts.answered, report.counts.lost), (1, 5));
    let drops = [("malformed", 1), ("not_open", 2), ("wrong_source", 1)];
    assert_eq!(report.drops, drops.map(|(reason, n)| (reason.to_owned(), n)).into());
}

#[test]
fn payloads_take_turns_and_an_answer_without_the_pattern_is_refused() {
    let payloads = [b"\x01{id:8}".to_vec(), b"two {id}".to_vec()];
    let echo = Echo::new(target(), 1, &payloads, &mut Rng::new(1)).expecting(Some(b"good"));
    let mut bench = Bench::of(closed_loop(4), echo);
    let sent = bench.exchange(ms(0), &[]);
    assert_eq!(sent.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [20, 9, 20, 9]);
    let replies: Vec<Vec<u8>> = [&b"good "[..], b"good ", b"bad ", b"bad "]
        .iter()
        .zip(&sent)
        .map(|(word, (_, bytes))| [word, &bytes[..]].concat())
        .collect();
    bench.generator.stop(START);
    let arrivals: Vec<Arrival> = replies.iter().map(|bytes| (SocketId(0), target(), &bytes[..])).collect();
    bench.exchange(ms(1), &arrivals);
    let report = bench.report();
    assert_eq!((report.counts.answered, report.counts.refused, report.counts.lost), (2, 2, 0));

    let payloads = vec![(vec![1, 1], 2), (vec![2], 1)];
    let plain = Plain::new(target(), 2, payloads, TIMEOUT).expecting(Some(b"good"));
    let mut bench = Bench::of(closed_loop(2), plain);
    let sent = bench.exchange(ms(0), &[]);
    assert_eq!(sent.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [1, 2]);
    bench.generator.stop(START);
    bench.exchange(ms(1), &[(SocketId(0), target(), b"good"), (SocketId(1), target(), b"?")]);
    let report = bench.report();
    assert_eq!((report.counts.answered, report.counts.refused), (1, 1));
}

fn plain(clients: u16) -> Plain {
    Plain::new(target(), clients, vec![(vec![1, 2, 3, 4], 3)], TIMEOUT)
}

#[test]
fn a_plain_client_has_one_request_in_flight_and_anything_answers_it() {
    let mut bench = Bench::of(closed_loop(9), plain(2));
    let sent = bench.exchange(ms(0), &[]);
    assert_eq!(sent, [(SocketId(0), vec![1, 2, 3]), (SocketId(1), vec![1, 2, 3])]);
    let next = bench.exchange(ms(1), &[(SocketId(1), target(), b"?"), (SocketId(1), target(), b"twice")]);
    assert_eq!(next, [(SocketId(1), vec![1, 2, 3])], "the one that is free again");
    let stranger = "127.0.0.1:99".parse().unwrap();
    assert_eq!(bench.exchange(ms(2), &[(SocketId(0), stranger, b"?")]), []);
    assert_eq!(bench.generator.next_deadline(), Some(START + ms(50)), "nothing to do before the time-out");
    bench.generator.stop(START + ms(2));
    bench.generator.abandon();
    let report = bench.report();
    assert_eq!((report.counts.answered, report.counts.lost), (1, 2));
    assert_eq!((report.drops["not_open"], report.drops["wrong_source"]), (1, 1));
}

#[test]
fn a_plain_client_that_lost_a_request_takes_no_late_answer_for_the_next_one() {
    let mut bench = Bench::of(GeneratorPlan { duration: ms(1_000), ..closed_loop(1) }, plain(1));
    assert_eq!(bench.exchange(ms(0), &[]).len(), 1);
    assert_eq!(bench.exchange(ms(50), &[]), [], "lost: it rests");
    assert_eq!(bench.generator.next_deadline(), Some(START + ms(100)));
    assert_eq!(bench.exchange(ms(60), &[(SocketId(0), target(), b"late")]), []);
    assert_eq!(bench.exchange(ms(100), &[]).len(), 1, "rested");
    bench.exchange(ms(101), &[(SocketId(0), target(), b"in time")]);
    bench.generator.stop(START + ms(101));
    bench.generator.abandon();
    let report = bench.report();
    assert_eq!((report.counts.answered, report.drops["late"]), (1, 1), "{report:?}");
    let fastest = report.histograms.latency.decode().unwrap().min();
    assert_eq!(fastest / 1_000, 999, "a millisecond, to three digits: the answer's own time");
}

#[test]
fn plain_clients_lose_and_answer_in_whatever_order() {
    let mut bench = Bench::of(GeneratorPlan { duration: ms(10_000), ..closed_loop(4) }, plain(4));
    let mut rng = Rng::new(3);
    let mut open = vec![];
    for at in 0..9_000 {
        let answered = (rng.below(4) == 0 && !open.is_empty())
            .then(|| open.swap_remove(rng.below(open.len() as u64) as usize));
        let arrivals: Vec<Arrival> = answered.iter().map(|client| (*client, target(), &b"!"[..])).collect();
        let sent = bench.exchange(ms(at), &arrivals);
        open.retain(|client| !sent.iter().any(|(sender, _)| sender == client));
        open.extend(sent.iter().map(|(client, _)| *client));
        assert!(bench.generator.in_flight() <= 4);
    }
    bench.generator.stop(START + ms(9_000));
    bench.generator.abandon();
    let report = bench.report();
    assert!(report.counts.answered > 500 && report.counts.lost > 50, "{report:?}");
    assert_balanced(&report);
}

#[test]
fn lost_requests_count_as_the_time_out_whatever_the_protocol() {
    fn lost<P: LoadProtocol>(protocol: P) -> LoadReport {
        let mut bench = Bench::of(closed_loop(2), protocol);
        let sent = bench.exchange(ms(0), &[]).len();
        assert_eq!(sent, 2);
        bench.generator.stop(START);
        bench.exchange(ms(50), &[]);
        assert!(bench.generator.is_finished(START + ms(50)));
        bench.report()
    }
    let echo = Echo::new(target(), 2, &[b"{id}".to_vec()], &mut Rng::new(1));
    for report in [lost(native()), lost(dns(&["a.example"], 2)), lost(plain(2)), lost(echo)] {
        let times = [report.latency_us.p50, report.latency_uncorrected_us.max].map(|us| us / 100);
        assert_eq!((report.counts.lost, times), (2, [500, 500]));
    }
}
