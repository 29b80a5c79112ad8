use super::*;
use crate::batch::Received;

const FORMAT: FrameFormat = FrameFormat { size: 128, tagged: false };
const START: Instant = Instant::from_nanos(5_000_000_000);
const TARGET: &str = "127.0.0.1:54001";

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A request a millisecond, measured from the first one, for 100 ms.
fn open_loop() -> Plan {
    Plan {
        format: FORMAT,
        target: TARGET.parse().unwrap(),
        connections: 3,
        rate: Some(1000.0),
        arrivals: Arrivals::Constant,
        window: None,
        payload: 16,
        timeout: ms(50),
        warmup: ms(0),
        duration: ms(100),
        seed: 1,
    }
}

fn closed_loop(window: usize) -> Plan {
    Plan { rate: None, window: Some(window), ..open_loop() }
}

/// A generator and the memory of its turns, fed by hand.
struct Bench {
    generator: Generator,
    rx: Rx,
    tx: Tx,
}

impl Bench {
    fn new(plan: Plan) -> Bench {
        Bench { generator: Generator::new(plan, START), rx: Rx::new(64, 512), tx: Tx::new(256, 32 << 10, 1) }
    }

    /// One turn at `START + at` with these datagrams; gives what was sent.
    fn turn(&mut self, at: Duration, datagrams: &[&[u8]]) -> Vec<Vec<u8>> {
        self.rx.clear();
        for (slot, bytes) in datagrams.iter().enumerate() {
            self.rx.slot_mut(slot as u16)[..bytes.len()].copy_from_slice(bytes);
            let (socket, peer, len) = (SocketId(0), TARGET.parse().unwrap(), bytes.len() as u32);
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
        tx.destinations().iter().flat_map(|d| tx.frames(d).map(|f| tx.bytes(rx, f).to_vec())).collect()
    }

    /// Turns without an answer at every whole millisecond of the range; gives what was sent.
    fn turns(&mut self, range: std::ops::RangeInclusive<u64>) -> Vec<Vec<u8>> {
        range.flat_map(|at| self.turn(ms(at), &[])).collect()
    }
}

/// The answer to a request.
fn answer(request: &[u8], status: Status) -> Vec<u8> {
    let mut bytes = request.to_vec();
    let header = Frame::check(&mut bytes, &FORMAT).unwrap().header;
    header.kind = Kind::ClientResponse as u8;
    header.status = status as u8;
    bytes
}

fn assert_balanced(report: &Report) {
    let Report { sent, answered, busy, refused, lost, .. } = *report;
    assert_eq!(sent, answered + busy + refused + lost, "{report:?}");
}

#[test]
fn an_open_loop_sends_at_the_planned_moments_and_ends() {
    let mut bench = Bench::new(open_loop());
    assert_eq!(bench.generator.next_deadline(), Some(START + ms(1)));
    let sent = bench.turns(0..=200);
    assert_eq!(sent.len(), 99, "one at each millisecond from 1 to 99");
    assert!(bench.generator.is_finished(START + ms(200)));
    let report = bench.generator.report();
    assert_eq!((report.planned, report.sent, report.late_sends, report.lost), (99, 99, 0, 99));
    assert_eq!(report.latency_us.p50 / 1000, 50, "a lost request counts as the time-out");
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
    let report = bench.generator.report();
    assert_eq!((report.answered, report.late_sends), (11, 9), "1 to 9 ms were late, 10 and 11 ms were not");
    assert!(report.latency_us.p90 >= 10_000 && report.latency_us.p50 >= 5_000, "{report:?}");
    assert!(report.latency_uncorrected_us.p90 <= 1_001, "{report:?}");
}

#[test]
fn the_warm_up_is_outside_all_counts() {
    let mut bench = Bench::new(Plan { warmup: ms(40), ..open_loop() });
    assert_eq!(bench.turns(0..=200).len(), 139);
    let report = bench.generator.report();
    assert_eq!((report.planned, report.sent, report.lost), (100, 100, 100));
    assert_eq!((report.duration_s, report.rate), (0.1, 1000.0));
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
fn after_the_end_it_only_waits_for_what_is_in_flight() {
    for plan in [closed_loop(4), Plan { window: Some(1), ..open_loop() }] {
        let mut bench = Bench::new(plan);
        let last = bench.turn(ms(99), &[]);
        assert!(!last.is_empty());
        assert_eq!(bench.turn(ms(101), &[&answer(&last[0], Status::Ok)]).len(), 0);
        let waits = bench.generator.next_deadline();
        assert!(waits.is_none_or(|until| until > START + ms(101)), "no turn without a reason: {waits:?}");
        bench.turn(ms(150), &[]);
        assert!(bench.generator.is_finished(START + ms(150)));
        assert_balanced(&bench.generator.report());
    }
}

#[test]
fn a_full_window_makes_a_rate_late_and_what_never_left_is_told() {
    let mut bench = Bench::new(Plan { window: Some(5), timeout: ms(1000), ..open_loop() });
    assert_eq!(bench.turns(0..=200).len(), 5);
    bench.generator.abandon();
    let report = bench.generator.report();
    assert_eq!((report.planned, report.sent, report.lost), (99, 5, 5));
    assert!(matches!(report.verdict(), super::super::Verdict::NothingAnswered));
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
    let report = bench.generator.report();
    assert_eq!((report.answered, report.busy, report.refused, report.lost), (1, 1, 3, 0));
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
        change(Frame::check(&mut bytes, &FORMAT).unwrap().header);
        bytes
    };
    let foreign = edit(|header| header.client_id.set(header.client_id.get() ^ 1));
    let future = edit(|header| header.sequence.set(77));
    let kind = edit(|header| header.kind = Kind::ClientRequest as u8);
    let status = edit(|header| header.status = 99);
    bench.turn(ms(1), &[&foreign, &future, &kind, &status, &good[..100], &good, &good]);
    bench.generator.abandon();
    let report = bench.generator.report();
    assert_eq!(report.answered, 1);
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
