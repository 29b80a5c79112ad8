//! Tests of a server with strangers, forgers, a faulty balancer, and timeouts. (`tests/sim` tests a
//! server with correct peers in all four roles.)

use super::*;
use crate::base::batch::Received;
use crate::wire::RequestOp;
use crate::wire::frame::pack_addr;
use crate::wire::header::HEADER_LEN;
use crate::wire::message::Registration;
use proptest::prelude::*;
use zerocopy::FromBytes;

const FORMAT: FrameFormat = FrameFormat { size: 128, tagged: false };
const NOW: Instant = Instant::from_nanos(5_000_000_000);
const MS: Duration = Duration::from_millis(1);
const INTERVAL: Duration = Duration::from_millis(10);
const CAPACITY: usize = 4;
const KEY: [u8; 16] = [5; 16];
const BALANCER_EPOCH: u32 = 0xb0b;
const SLOT: u16 = 2;
const COOKIE: u64 = 0xc00c1e;

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn balancer() -> SocketAddr {
    addr(54_000)
}

/// A frame that was sent: destination, time and bytes.
#[derive(Debug, PartialEq)]
struct Sent {
    at: Instant,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl Sent {
    fn header(&self) -> Header {
        Header::read_from_bytes(&self.bytes[..HEADER_LEN]).expect("a whole header")
    }
}

/// A server and the memory of its turns, without I/O.
struct Bench {
    server: ServerRole,
    /// The balancer's sealer, if frames are authenticated.
    sealer: Option<Sealer>,
    /// The REGISTER of the current registration.
    register: Header,
    rx: Rx,
    tx: Tx,
    now: Instant,
}

impl Bench {
    fn new(work: Work) -> Bench {
        Bench::from(ServerSettings {
            format: FORMAT,
            key: None,
            id: 7,
            weight: 3,
            queue_capacity: CAPACITY,
            interval: INTERVAL,
            balancer: balancer(),
            work,
            seed: 1,
        })
    }

    fn from(settings: ServerSettings) -> Bench {
        Bench {
            sealer: settings.key.map(|key| Sealer::new(&key, 99)),
            server: ServerRole::new(settings, NOW),
            register: Header::new(Kind::ServerResponse, FORMAT.size),
            rx: Rx::new(8, 2048),
            tx: Tx::new(256, 1 << 16, 1),
            now: NOW,
        }
    }

    fn with_key(work: Work) -> Bench {
        let settings = Bench::new(work).server.settings;
        Bench::from(ServerSettings { format: FrameFormat::tagged(160), key: Some(KEY), ..settings })
    }

    /// A server that serves requests one after another, `service` each.
    fn timed(service: Duration) -> Bench {
        Bench::new(Work::Timed { service: ServiceTime::fixed(service), workers: 1 })
    }

    /// Registers the server; the balancer has sent no request yet. Returns the first report.
    fn join(&mut self) -> Header {
        self.ask();
        self.hear(challenge(self.register.sequence.get()));
        let sent = self.hear(sync(&self.register, 0));
        assert_eq!((sent.len(), self.server.is_registered()), (1, true));
        sent[0].header()
    }

    /// Lets the server ask for registration.
    fn ask(&mut self) {
        let sent = self.pass(Duration::ZERO);
        self.register = sent[0].header();
        assert_eq!((sent.len(), self.register.op), (1, ServerOp::Register as u8));
    }

    fn joined(mut self) -> Bench {
        self.join();
        self
    }

    /// A request that this registration counts.
    fn request(&self, number: u32) -> Header {
        let mut header = Header::new(Kind::ClientRequest, FORMAT.size);
        header.attempt = 1;
        header.client_id.set(9);
        header.sequence.set(number.into());
        header.client_port.set(40_000);
        header.balancer_epoch.set(BALANCER_EPOCH);
        header.server_epoch = self.register.server_epoch;
        header.slot.set(SLOT);
        header.dispatch_seq.set(number);
        header.cookie.set(COOKIE);
        header
    }

    fn frame(&mut self, mut header: Header, payload: &[u8]) -> Vec<u8> {
        let size = self.server.settings.format.size;
        let mut bytes = vec![0; size];
        header.frame_size.set(size as u16);
        Frame::write(&mut bytes, &header, payload);
        if let Some(sealer) = &mut self.sealer {
            sealer.seal(&mut bytes);
        }
        bytes
    }

    /// The server's answers to one datagram: never more bytes than received, and only to the sender, or
    /// with direct replies to the client. A frame of the balancer is not answered at once: then the time
    /// advances to what it calls for.
    fn turn(&mut self, peer: SocketAddr, bytes: &[u8]) -> Vec<Sent> {
        let len = bytes.len() as u32;
        self.rx.slot_mut(0)[..bytes.len()].copy_from_slice(bytes);
        self.rx.push(Received { socket: SOCKET, peer, local_ip: None, slot: 0, start: 0, len, stride: len });
        self.server.on_batch(self.now, &mut self.rx, &mut self.tx);
        let sent = self.sent();
        assert!(sent.iter().map(|s| s.bytes.len()).sum::<usize>() <= bytes.len());
        let asked = bytes.get(..HEADER_LEN).map(|head| Header::read_from_bytes(head).expect("112 bytes"));
        let direct = asked.filter(|h| h.op == ReplyPath::Direct as u8);
        let client = direct.map(|h| unpack_addr(h.client_ip, h.client_port.get()));
        assert!(sent.iter().all(|s| s.to == peer || Some(s.to) == client));
        if asked.is_none_or(|h| h.kind != Kind::ControllerRequest as u8) {
            return sent;
        }
        assert_eq!(sent, [], "answered at once");
        let Some(at) = self.server.membership.owed_at(self.server.pause()) else { return sent };
        self.now = self.now.max(at);
        self.server.on_timeout(self.now, &mut self.tx);
        self.sent()
    }

    fn hear(&mut self, header: Header) -> Vec<Sent> {
        self.hear_from(balancer(), header)
    }

    fn hear_from(&mut self, peer: SocketAddr, header: Header) -> Vec<Sent> {
        let frame = self.frame(header, b"question");
        self.turn(peer, &frame)
    }

    /// Advances the time, with a turn whenever something is due; returns the frames sent.
    fn pass(&mut self, time: Duration) -> Vec<Sent> {
        let until = self.now + time;
        let mut sent = vec![];
        loop {
            self.server.on_timeout(self.now, &mut self.tx);
            sent.extend(self.sent());
            match self.server.next_deadline() {
                Some(at) if at <= until => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = until;
        sent
    }

    /// Advances the time; returns the replies: time, request and status.
    fn replies(&mut self, time: Duration) -> Vec<(Duration, u64, Status)> {
        let sent = self.pass(time);
        let replies = sent.iter().filter(|s| s.header().op == ServerOp::Reply as u8);
        replies.map(|s| (s.at.since(NOW), s.header().sequence.get(), status(&s.header()))).collect()
    }

    fn sent(&mut self) -> Vec<Sent> {
        let (rx, tx, at) = (&self.rx, &self.tx, self.now);
        let frames = tx.destinations().iter().flat_map(|d| tx.frames(d).map(|f| (d.to, f)));
        let sent = frames.map(|(to, f)| Sent { at, to, bytes: tx.bytes(rx, f).to_vec() }).collect();
        self.tx.clear();
        self.rx.clear();
        sent
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.server.totals.drops.get(reason)
    }
}

fn status(header: &Header) -> Status {
    Status::from_wire(header.status).expect("a known status")
}

/// seq, received, done, queue, foreign.
fn counters(header: &Header) -> [u32; 5] {
    [header.seq, header.received, header.done, header.queue, header.foreign].map(|n| n.get())
}

fn order(op: RequestOp) -> Header {
    let mut header = Header::new(Kind::ControllerRequest, FORMAT.size);
    header.op = op as u8;
    header
}

fn challenge(nonce: u64) -> Header {
    let mut header = order(RequestOp::Challenge);
    header.sequence.set(nonce);
    header.cookie.set(COOKIE);
    header
}

fn sync(register: &Header, sent: u32) -> Header {
    let mut header = order(RequestOp::Sync);
    header.sequence = register.sequence;
    header.server_epoch = register.server_epoch;
    header.balancer_epoch.set(BALANCER_EPOCH);
    header.slot.set(SLOT);
    header.dispatch_seq.set(sent);
    header
}

/// Announces that the balancer sends nothing more.
fn last_sync(register: &Header, sent: u32) -> Header {
    let mut header = sync(register, sent);
    header.server_state = ServerState::Draining as u8;
    header
}

#[test]
fn it_asks_proves_its_address_and_is_a_member_with_the_first_sync() {
    let mut bench = Bench::new(Work::Echo);
    let asked = bench.pass(Duration::ZERO);
    let register = asked[0].header();
    assert_eq!((asked.len(), asked[0].to), (1, balancer()));
    assert_eq!((register.kind, register.op), (Kind::ServerResponse as u8, ServerOp::Register as u8));
    assert_eq!(register.cookie.get(), 0);
    assert!(register.sequence.get() != 0 && register.server_epoch.get() != 0);
    let expected = Registration {
        server_id: 7,
        queue_capacity: 4,
        report_interval_us: 10_000,
        weight: 3,
        reserved: [0; 2],
    };
    assert_eq!(asked[0].bytes[HEADER_LEN..], expected.to_bytes());

    let proof = bench.hear(challenge(register.sequence.get()));
    let mut with_cookie = register;
    with_cookie.cookie.set(COOKIE);
    assert_eq!((proof.len(), proof[0].header()), (1, with_cookie), "the same registration");
    assert!(!bench.server.is_registered());

    let report = bench.hear(sync(&register, 41))[0].header();
    assert!(bench.server.is_registered());
    assert_eq!((report.op, report.server_epoch), (ServerOp::Report as u8, register.server_epoch));
    assert_eq!((report.slot.get(), report.balancer_epoch.get()), (SLOT, BALANCER_EPOCH));
    assert_ne!(report.sequence, register.sequence, "reports have a nonce of their own");
    assert_eq!((report.report.get(), counters(&report)), (1, [41, 0, 0, 0, 0]));
    assert_eq!(bench.server.totals.drops.total(), 0);
}

#[test]
fn it_goes_on_asking_less_and_less_often() {
    let mut bench = Bench::new(Work::Echo);
    let asked = bench.pass(Duration::from_secs(2));
    let pauses: Vec<_> = asked.windows(2).map(|s| s[1].at.since(s[0].at).as_millis()).collect();
    assert_eq!(pauses, [20, 40, 80, 160, 320, 500, 500]);
    assert!(asked.iter().all(|s| s.bytes == asked[0].bytes), "one registration");
}

#[test]
fn a_challenge_with_another_nonce_or_from_elsewhere_has_no_effect_but_a_counter() {
    let mut bench = Bench::new(Work::Echo);
    bench.ask();
    let nonce = bench.register.sequence.get();
    for forged in [0, nonce ^ 1, nonce + 1, COOKIE] {
        assert_eq!(bench.hear(challenge(forged)), []);
    }
    assert_eq!(bench.drops(DropReason::Nonce), 4);
    assert_eq!(bench.hear_from(addr(54_001), challenge(nonce)), []);
    assert_eq!(bench.drops(DropReason::WrongSource), 1);
    bench.hear(challenge(nonce));
    let report = bench.hear(sync(&bench.register, 0))[0].header();
    let epoch = bench.server.membership.epoch();
    assert_eq!(bench.hear(challenge(nonce)), [], "a member has no registration to prove");
    assert_eq!(bench.drops(DropReason::Nonce), 5);
    assert_eq!(bench.hear_from(addr(54_001), challenge(report.sequence.get())), []);
    assert_eq!(bench.drops(DropReason::WrongSource), 2);
    assert_eq!((bench.server.is_registered(), bench.server.membership.epoch()), (true, epoch));
}

#[test]
fn a_sync_that_answers_no_registration_of_this_server_has_no_effect_but_a_counter() {
    let mut bench = Bench::new(Work::Echo);
    bench.ask();
    let honest = sync(&bench.register, 9);
    let (mut other_nonce, mut other_epoch) = (honest, honest);
    other_nonce.sequence.set(honest.sequence.get() ^ 1);
    other_epoch.server_epoch.set(honest.server_epoch.get() ^ 1);
    for forged in [other_nonce, other_epoch] {
        assert_eq!(bench.hear(forged), []);
    }
    assert_eq!(bench.drops(DropReason::Nonce), 2);
    assert_eq!(bench.hear_from(addr(54_001), honest), [], "a stranger");
    assert_eq!(bench.drops(DropReason::WrongSource), 1);
    assert!(!bench.server.is_registered());

    bench.hear(honest);
    let (mut other_slot, mut other_balancer) = (sync(&bench.register, 99), sync(&bench.register, 99));
    other_slot.slot.set(SLOT + 1);
    other_balancer.balancer_epoch.set(BALANCER_EPOCH + 1);
    for forged in [other_slot, other_balancer] {
        assert_eq!(bench.hear(forged), []);
    }
    assert_eq!(bench.drops(DropReason::Stale), 2);
    assert_eq!(bench.hear_from(addr(54_001), sync(&bench.register, 99)), [], "a stranger as worker 0");
    assert_eq!(bench.drops(DropReason::WrongSource), 2);
    let report = bench.hear(honest)[0].header();
    assert_eq!((report.report.get(), counters(&report)), (2, [9, 0, 0, 0, 0]), "nothing was raised");
}

#[test]
fn a_request_from_who_is_no_worker_is_not_served() {
    let mut bench = Bench::new(Work::Echo);
    bench.ask();
    assert_eq!(bench.hear(bench.request(1)), [], "before the first SYNC");
    let mut bench = Bench::new(Work::Echo).joined();
    assert_eq!(bench.hear_from(addr(54_001), bench.request(1)), []);
    let mut other_worker = bench.request(1);
    for worker in [1, 255] {
        other_worker.worker = worker;
        assert_eq!(bench.hear(other_worker), []);
    }
    assert_eq!(bench.drops(DropReason::WrongSource), 3);
    assert_eq!(bench.server.totals.received, 0);
    assert_eq!(counters(&bench.hear(bench.request(1))[0].header()), [1, 1, 1, 0, 0]);
}

#[test]
fn each_worker_has_its_own_address_and_counters_up_to_the_highest_number() {
    let mut bench = Bench::new(Work::Echo).joined();
    let mut other = sync(&bench.register, 70);
    other.worker = 255;
    assert_eq!(counters(&bench.hear_from(addr(54_255), other)[0].header()), [70, 0, 0, 0, 0]);
    let mut request = bench.request(71);
    request.worker = 255;
    assert_eq!(bench.hear(request), [], "worker 255 has another address");
    assert_eq!(counters(&bench.hear_from(addr(54_255), request)[0].header()), [71, 1, 1, 0, 0]);
    assert_eq!(counters(&bench.hear(bench.request(1))[0].header()), [1, 1, 1, 0, 0]);
    let reports = bench.pass(10 * INTERVAL + MS * 20);
    let mut told: Vec<_> = reports.iter().map(|s| (s.to.port(), s.header().worker)).collect();
    told.dedup();
    assert_eq!(told, [(54_000, 0), (54_255, 255)], "all are told in an idle interval");
}

#[test]
fn a_reply_is_its_request_with_counters_and_a_report_number_that_goes_up() {
    let mut bench = Bench::new(Work::Echo).joined();
    for number in 1..=5 {
        let request = bench.request(number);
        let sent = bench.hear(request);
        let (asked, answer) = (bench.frame(request, b"question"), &sent[0].bytes);
        assert_eq!(answer[9..11], asked[9..11]);
        assert_eq!(answer[12..80], asked[12..80], "whose it is, and its way");
        assert_eq!(answer[HEADER_LEN..], asked[HEADER_LEN..], "an echo");
        let header = sent[0].header();
        assert_eq!((header.kind, header.op), (Kind::ServerResponse as u8, ServerOp::Reply as u8));
        assert_eq!(header.report.get(), number + 1, "the first was the answer to SYNC");
        assert_eq!(counters(&header), [number, number, number, 0, 0]);
    }
    bench.hear(bench.request(3));
    let late = bench.hear(sync(&bench.register, 4))[0].header();
    assert_eq!((late.report.get(), counters(&late)), (8, [5, 6, 6, 0, 0]), "seq never goes down");
    let ahead = bench.hear(sync(&bench.register, 8))[0].header();
    assert_eq!(counters(&ahead), [8, 6, 6, 0, 0], "what was lost on the way is known to have been sent");
}

#[test]
fn requests_of_another_epoch_are_served_but_not_counted() {
    let mut bench = Bench::new(Work::Handlers).joined();
    let (mut old_server, mut old_balancer) = (bench.request(50), bench.request(51));
    old_server.server_epoch.set(bench.register.server_epoch.get() ^ 1);
    old_balancer.balancer_epoch.set(BALANCER_EPOCH ^ 1);
    for request in [old_server, old_balancer, bench.request(1)] {
        assert_eq!(bench.hear(request), []);
    }
    let report = bench.hear(sync(&bench.register, 1))[0].header();
    assert_eq!(counters(&report), [1, 1, 0, 3, 2]);
    for (sequence, expected) in [(50, [1, 1, 0, 2, 1]), (51, [1, 1, 0, 1, 0]), (1, [1, 1, 1, 0, 0])] {
        let job = bench.server.take_job(bench.now).expect("in the queue");
        bench.server.finish(job, Status::Ok, b"answer", MS);
        let reply = bench.pass(Duration::ZERO)[0].header();
        assert_eq!((reply.sequence.get(), status(&reply)), (sequence, Status::Ok));
        assert_eq!(counters(&reply), expected);
    }
    assert_eq!((bench.server.totals.received, bench.server.totals.served), (3, 3));
}

#[test]
fn a_server_that_was_forgotten_registers_anew_and_finishes_what_it_has() {
    let mut bench = Bench::new(Work::Handlers);
    let report = bench.join();
    let (first, request) = (bench.register, bench.request(1));
    bench.hear(request);
    let renewed = bench.hear(challenge(report.sequence.get()))[0].header();
    assert_eq!(
        (renewed.op, renewed.cookie.get()),
        (ServerOp::Register as u8, COOKIE),
        "the nonce is good at once"
    );
    assert_ne!(renewed.sequence, first.sequence);
    assert_ne!(renewed.server_epoch, first.server_epoch);
    assert!(!bench.server.is_registered());
    assert_eq!(bench.hear(challenge(report.sequence.get())), [], "a repetition");
    assert_eq!(bench.hear(sync(&first, 1)), [], "nothing of the old registration is good any more");
    assert_eq!(bench.drops(DropReason::Nonce), 2);
    let report = bench.hear(sync(&renewed, 0))[0].header();
    assert_eq!(counters(&report), [0, 0, 0, 1, 1], "the queue is not of this registration");
    bench.register = renewed;
    bench.hear(bench.request(1));
    assert_eq!(counters(&bench.hear(sync(&renewed, 1))[0].header()), [1, 1, 0, 2, 1]);
    for (epoch, expected) in [(first.server_epoch, [1, 1, 0, 1, 0]), (renewed.server_epoch, [1, 1, 1, 0, 0])]
    {
        let job = bench.server.take_job(bench.now).expect("still in the queue");
        bench.server.finish(job, Status::Ok, b"answer", MS);
        let reply = bench.pass(Duration::ZERO)[0].header();
        assert_eq!((reply.server_epoch, counters(&reply)), (epoch, expected));
    }
}

#[test]
fn a_full_queue_answers_busy_and_when_to_come_back() {
    let mut bench = Bench::timed(20 * MS).joined();
    for number in 1..=CAPACITY as u32 {
        assert_eq!(bench.hear(bench.request(number)), []);
    }
    let early = bench.hear(bench.request(5))[0].header();
    assert_eq!((status(&early), early.deadline_us.get()), (Status::Busy, 1_000), "nothing is known yet");
    bench.pass(Duration::ZERO);
    let busy = bench.hear(bench.request(6))[0].header();
    assert_eq!((status(&busy), busy.deadline_us.get()), (Status::Busy, 80_000), "four of 20 ms are waiting");
    assert_eq!(counters(&busy), [6, 6, 2, 4, 0], "a refusal is done");
    assert_eq!((bench.server.totals.busy, bench.server.totals.queue_max), (2, CAPACITY));
    bench.pass(20 * MS);
    assert_eq!(bench.hear(bench.request(7)), [], "there is room again");

    let mut slow = Bench::timed(Duration::from_secs(2)).joined();
    for number in 1..=CAPACITY as u32 {
        slow.hear(slow.request(number));
    }
    slow.pass(Duration::ZERO);
    let busy = slow.hear(slow.request(5))[0].header();
    assert_eq!(busy.deadline_us.get(), 1_000_000, "a second at most");
}

#[test]
fn an_expired_request_is_answered_unserved() {
    let mut bench = Bench::new(Work::Handlers).joined();
    for (number, deadline_us) in [(1, 5_000), (2, 0), (3, 10_000)] {
        let mut request = bench.request(number);
        request.deadline_us.set(deadline_us);
        bench.hear(request);
    }
    bench.now += 10 * MS;
    let second = bench.server.take_job(bench.now).expect("without a deadline");
    let third = bench.server.take_job(bench.now).expect("at its deadline, not after it");
    for (job, answer) in [(second, &[7; 16]), (third, &[8; 16])] {
        bench.server.finish(job, Status::Ok, answer, MS);
    }
    let sent = bench.pass(Duration::ZERO);
    let replies = sent.iter().filter(|s| s.header().op == ServerOp::Reply as u8);
    let replies: Vec<_> = replies.map(|s| (s.header().sequence.get(), status(&s.header()))).collect();
    assert_eq!(replies, [(1, Status::Expired), (2, Status::Ok), (3, Status::Ok)]);
    assert!(sent[0].bytes[HEADER_LEN..].iter().all(|&b| b == 0), "nothing was served");
    assert_eq!(sent[1].bytes[HEADER_LEN..], [7; 16]);
    assert_eq!((bench.server.totals.expired, bench.server.totals.served), (1, 2));
}

#[test]
fn a_handlers_answer_is_cut_to_the_frame_and_leaves_nothing_of_the_question() {
    let mut bench = Bench::new(Work::Handlers).joined();
    for answer in [&b"a"[..], &[7; 40]] {
        bench.hear(bench.request(1));
        let job = bench.server.take_job(bench.now).expect("in the queue");
        assert_eq!(bench.server.payload(job), b"question");
        bench.server.finish(job, Status::Error, answer, MS);
        let sent = bench.pass(Duration::ZERO);
        let mut expected = answer[..answer.len().min(16)].to_vec();
        assert_eq!(usize::from(sent[0].header().payload_len.get()), expected.len());
        expected.resize(16, 0);
        assert_eq!(sent[0].bytes[HEADER_LEN..], expected);
        assert_eq!(status(&sent[0].header()), Status::Error);
    }
    assert_eq!(bench.server.totals.failed, 2);
}

#[test]
fn timed_work_is_served_one_by_one_at_the_moment_the_one_before_ended() {
    let mut bench = Bench::timed(10 * MS).joined();
    bench.hear(bench.request(1));
    assert_eq!(bench.replies(4 * MS), []);
    bench.hear(bench.request(2));
    bench.hear(bench.request(3));
    let ok = |ms: u32, sequence| (ms * MS, sequence, Status::Ok);
    assert_eq!(bench.replies(30 * MS), [ok(10, 1), ok(20, 2), ok(30, 3)]);
    bench.hear(bench.request(4));
    assert_eq!(bench.replies(10 * MS), [ok(44, 4)], "it was idle in between");
}

#[test]
fn timed_work_behind_an_expired_request_waits_for_its_turn() {
    let mut bench = Bench::timed(10 * MS).joined();
    for (number, deadline_us) in [(1, 0), (2, 5_000), (3, 0)] {
        let mut request = bench.request(number);
        request.deadline_us.set(deadline_us);
        bench.hear(request);
    }
    let expected = [(10, 1, Status::Ok), (10, 2, Status::Expired), (20, 3, Status::Ok)];
    assert_eq!(bench.replies(40 * MS), expected.map(|(ms, sequence, status)| (ms * MS, sequence, status)));
    assert_eq!((bench.server.totals.expired, bench.server.totals.served), (1, 2));
}

/// Expected time and status of the answers to these requests (arrival, deadline in milliseconds, 0 =
/// none): a simple FIFO in front of `workers`, 10 ms per request.
fn fifo(requests: &[(Instant, u32)], workers: usize) -> Vec<(Instant, u64, Status)> {
    let mut free = vec![Instant::ZERO; workers];
    let answers = requests.iter().zip(1..).map(|(&(arrived, deadline), sequence)| {
        let worker = free.iter_mut().min().expect("at least one");
        let start = arrived.max(*worker);
        if deadline > 0 && start.since(arrived) > deadline * MS {
            return (start, sequence, Status::Expired);
        }
        *worker = start + 10 * MS;
        (*worker, sequence, Status::Ok)
    });
    answers.collect()
}

proptest! {
    /// Timed work does not depend on whether turns are on time.
    #[test]
    fn timed_work_agrees_with_a_plain_fifo(
        arrivals in prop::collection::vec((0u32..25, 0u32..40), 1..40),
        workers in 1usize..4,
        late in any::<bool>(),
    ) {
        let work = Work::Timed { service: ServiceTime::fixed(10 * MS), workers };
        let settings = Bench::new(work).server.settings;
        let mut bench = Bench::from(ServerSettings { queue_capacity: 64, ..settings }).joined();
        let (mut requests, mut replies) = (vec![], vec![]);
        for (number, (gap, deadline)) in (1..).zip(arrivals) {
            if late {
                bench.now += gap * MS;
            } else {
                replies.extend(bench.replies(gap * MS));
            }
            let mut request = bench.request(number);
            request.deadline_us.set(deadline * 1_000);
            bench.hear(request);
            requests.push((bench.now, deadline));
            replies.extend(bench.replies(Duration::ZERO));
            let is_due = |answer: &&(Instant, u64, Status)| answer.0 <= bench.now;
            let expected = fifo(&requests, workers);
            prop_assert_eq!(replies.len(), expected.iter().filter(is_due).count());
        }
        replies.extend(bench.replies(Duration::from_secs(1)));
        replies.sort_by_key(|&(_, sequence, _)| sequence);
        for (reply, expected) in replies.iter().zip(fifo(&requests, workers)) {
            prop_assert_eq!((reply.1, reply.2), (expected.1, expected.2));
            prop_assert!(late || NOW + reply.0 == expected.0, "{:?} {:?}", reply, expected);
        }
        prop_assert_eq!((replies.len(), bench.server.queue_len()), (requests.len(), 0));
    }
}

#[test]
fn it_reports_what_has_changed_each_interval_and_else_every_tenth() {
    let mut bench = Bench::timed(15 * MS).joined();
    bench.pass(100 * INTERVAL);
    let idle = bench.pass(Duration::from_secs(1));
    assert_eq!(idle.len(), 10);
    assert!(idle.windows(2).all(|s| s[1].at.since(s[0].at) == 10 * INTERVAL));
    bench.hear(bench.request(1));
    let busy = bench.pass(5 * INTERVAL);
    let told: Vec<_> = busy.iter().map(|s| (s.header().op, counters(&s.header()))).collect();
    let (report, reply) = (ServerOp::Report as u8, ServerOp::Reply as u8);
    let expected = [(report, [1, 1, 0, 1, 0]), (reply, [1, 1, 1, 0, 0]), (report, [1, 1, 1, 0, 0])];
    assert_eq!(told, expected, "once each: the last because the queue of the first is no longer true");
}

#[test]
fn a_draining_server_finishes_its_queue_and_leaves_after_a_quiet_interval() {
    let mut bench = Bench::timed(30 * MS).joined();
    bench.hear(bench.request(1));
    bench.hear(bench.request(2));
    bench.pass(5 * MS);
    bench.server.drain(bench.now);
    let told = bench.pass(Duration::ZERO)[0].header();
    assert_eq!((told.op, told.server_state), (ServerOp::Report as u8, ServerState::Draining as u8));
    assert_eq!(bench.hear(bench.request(3)), [], "it was in transit, so it is not refused");
    assert_eq!(bench.hear(last_sync(&bench.register, 3)), [], "a draining SYNC is an answer itself");
    let sent = bench.pass(Duration::from_secs(1));
    let replies: Vec<_> = sent.iter().filter(|s| s.header().op == ServerOp::Reply as u8).collect();
    let answered: Vec<_> = replies.iter().map(|s| s.header().sequence.get()).collect();
    assert_eq!(answered, [1, 2, 3], "nothing is lost");
    let last = sent.last().expect("the last report").header();
    assert_eq!((last.op, last.server_state), (ServerOp::Report as u8, ServerState::Stopped as u8));
    assert_eq!(counters(&last), [3, 3, 3, 0, 0]);
    assert_eq!(sent.last().map(|s| s.at), replies.last().map(|s| s.at), "the interval was over by then");
    assert_eq!((bench.server.is_finished(), bench.server.next_deadline()), (true, None));
}

#[test]
fn a_draining_server_waits_an_interval_behind_the_last_request_and_until_the_balancer_has_told_the_end() {
    let mut bench = Bench::new(Work::Echo).joined();
    bench.server.drain(bench.now);
    bench.pass(5 * INTERVAL);
    assert!(!bench.server.is_finished(), "requests may be in transit");
    bench.hear(last_sync(&bench.register, 1));
    bench.hear(bench.request(1));
    bench.pass(INTERVAL - MS);
    assert!(!bench.server.is_finished());
    bench.hear(sync(&bench.register, 1));
    bench.pass(2 * INTERVAL);
    assert!(!bench.server.is_finished(), "the end was taken back");
    bench.hear(last_sync(&bench.register, 1));
    bench.pass(Duration::ZERO);
    assert!(bench.server.is_finished());
}

#[test]
fn a_draining_server_whose_balancer_is_silent_leaves_and_one_that_nobody_knows_at_once() {
    let mut bench = Bench::new(Work::Echo).joined();
    bench.server.drain(bench.now);
    let told = bench.pass(Duration::from_millis(999));
    assert!(told.iter().all(|s| s.header().server_state == ServerState::Draining as u8));
    assert!(told.len() >= 99, "it says so in each interval");
    assert!(!bench.server.is_finished());
    bench.pass(INTERVAL);
    assert!(bench.server.is_finished());

    let mut unknown = Bench::new(Work::Echo);
    unknown.pass(INTERVAL);
    unknown.server.drain(unknown.now);
    assert_eq!(unknown.pass(INTERVAL), [], "no balancer to report to");
    assert!(unknown.server.is_finished());
}

#[test]
fn a_draining_server_leaves_after_thirty_seconds_whatever_it_still_has() {
    let mut bench = Bench::new(Work::Handlers).joined();
    bench.hear(bench.request(1));
    bench.server.take_job(bench.now).expect("in the queue");
    bench.server.drain(bench.now);
    bench.hear(last_sync(&bench.register, 1));
    bench.pass(Duration::from_millis(29_999));
    assert!(!bench.server.is_finished());
    let told = bench.pass(INTERVAL);
    assert!(bench.server.is_finished());
    let last = told.last().expect("the last report").header();
    assert_eq!((last.server_state, counters(&last)), (ServerState::Stopped as u8, [1, 1, 0, 1, 0]));
}

#[test]
fn what_does_not_belong_here_is_never_answered() {
    let mut bench = Bench::new(Work::Echo).joined();
    for kind in [Kind::ClientResponse, Kind::ServerResponse] {
        let mut answer = bench.request(1);
        answer.kind = kind as u8;
        assert_eq!(bench.hear(answer), []);
    }
    for op in [RequestOp::Grow, RequestOp::Shrink, RequestOp::Ack] {
        let mut order = sync(&bench.register, 0);
        order.op = op as u8;
        assert_eq!(bench.hear(order), []);
    }
    assert_eq!(bench.drops(DropReason::Unexpected), 5);
    let mut nonsense = sync(&bench.register, 0);
    for op in [0, 6, 255] {
        nonsense.op = op;
        assert_eq!(bench.hear(nonsense), []);
    }
    assert_eq!(bench.drops(DropReason::Kind), 3);
}

#[test]
fn a_broken_frame_costs_its_neighbours_nothing() {
    let mut bench = Bench::new(Work::Echo).joined();
    let mut datagram = vec![];
    for number in 1..=3 {
        datagram.extend(bench.frame(bench.request(number), b"question"));
    }
    datagram[FORMAT.size] ^= 1;
    let sent = bench.turn(balancer(), &datagram);
    let answered: Vec<_> = sent.iter().map(|s| s.header().sequence.get()).collect();
    assert_eq!((answered, bench.drops(DropReason::Magic)), (vec![1, 3], 1));
}

#[test]
fn with_a_key_what_is_unsealed_changed_or_replayed_is_refused() {
    let mut bench = Bench::with_key(Work::Echo);
    let asked = bench.pass(Duration::ZERO);
    assert!(Opener::new(&KEY).open(&asked[0].bytes).is_ok(), "the server's frames are sealed too");
    bench.register = asked[0].header();
    let challenge = bench.frame(challenge(bench.register.sequence.get()), b"");
    let join = bench.frame(sync(&bench.register, 0), b"");
    let request = bench.frame(bench.request(1), b"question");
    let mut changed = 0;
    for honest in [&challenge, &join, &request] {
        for bit in 0..honest.len() * 8 {
            let mut forged = honest.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(bench.turn(balancer(), &forged), [], "bit {bit}");
            changed += 1;
            assert_eq!(bench.drops(DropReason::Tag), changed);
        }
        let mut unsealed = honest.clone();
        unsealed[128..].fill(0);
        assert_eq!(bench.turn(balancer(), &unsealed), []);
        changed += 1;
        let sent = bench.turn(balancer(), honest);
        assert!(Opener::new(&KEY).open(&sent[0].bytes).is_ok());
    }
    assert_eq!(bench.server.totals.received, 1);
    for replayed in [&join, &request] {
        assert_eq!(bench.turn(balancer(), replayed), []);
    }
    assert_eq!(bench.drops(DropReason::Replay), 2);
    bench.sealer = Some(Sealer::new(&KEY, 100));
    assert_eq!(bench.hear(bench.request(2)), [], "of a process that has not proved that it is there");
    assert_eq!(bench.drops(DropReason::Replay), 3);
    assert_eq!(bench.hear(sync(&bench.register, 1)).len(), 1, "the nonce proves it");
    let reply = bench.hear(bench.request(2))[0].header();
    assert_eq!(counters(&reply), [2, 2, 2, 0, 0]);
}

/// Name of a frame that a server accepts, and a function that makes the frame and a server that expects
/// it.
type Accepted = (&'static str, fn() -> (Bench, Vec<u8>));

/// All servers have the same seed.
const ACCEPTED: [Accepted; 5] = [
    ("challenge", || {
        let mut bench = Bench::new(Work::Echo);
        bench.ask();
        let frame = bench.frame(challenge(bench.register.sequence.get()), b"");
        (bench, frame)
    }),
    ("first SYNC", || {
        let mut bench = Bench::new(Work::Echo);
        bench.ask();
        let frame = bench.frame(sync(&bench.register, 0), b"");
        (bench, frame)
    }),
    ("challenge of a member", || {
        let mut bench = Bench::new(Work::Echo);
        let report = bench.join();
        let frame = bench.frame(challenge(report.sequence.get()), b"");
        (bench, frame)
    }),
    ("SYNC of a member", || {
        let mut bench = Bench::new(Work::Echo).joined();
        let frame = bench.frame(sync(&bench.register, 1), b"");
        (bench, frame)
    }),
    ("request", || {
        let mut bench = Bench::new(Work::Echo).joined();
        let frame = bench.frame(bench.request(1), b"question");
        (bench, frame)
    }),
];

#[test]
fn a_direct_reply_goes_to_its_client_and_the_counters_follow_at_the_end_of_the_turn() {
    let mut bench = Bench::new(Work::Echo).joined();
    let direct = |bench: &Bench, number| {
        let mut header = bench.request(number);
        header.op = ReplyPath::Direct as u8;
        (header.client_ip, _) = pack_addr(addr(40_000));
        header
    };
    for number in 1..=2 {
        let request = direct(&bench, number);
        let answers = bench.hear(request);
        assert_eq!((answers.len(), answers[0].to), (1, addr(40_000)));
        let answer = answers[0].header();
        assert_eq!(
            (answer.kind, answer.op, answer.sequence.get()),
            (Kind::ClientResponse as u8, 0, number.into())
        );
        assert!(answers[0].bytes[Header::INTERNAL].iter().all(|&byte| byte == 0), "nothing of the inside");
        let reports = bench.pass(Duration::ZERO);
        assert_eq!((reports.len(), reports[0].to), (1, balancer()));
        assert_eq!(counters(&reports[0].header()), [number, number, number, 0, 0]);
    }
    assert_eq!(bench.pass(Duration::ZERO), [], "said once");
    let nowhere = Header { client_port: 0.into(), ..direct(&bench, 3) };
    assert_eq!(bench.hear(nowhere), []);
    assert_eq!(bench.drops(DropReason::SourcePort), 1);
}

#[test]
fn where_reports_come_at_the_interval_only_a_direct_reply_is_followed_by_none() {
    let mut bench = Bench::new(Work::Echo).joined();
    bench.server.report_at_intervals_only();
    let mut request = bench.request(1);
    request.op = ReplyPath::Direct as u8;
    (request.client_ip, _) = pack_addr(addr(40_000));
    assert_eq!(bench.hear(request).len(), 1);
    assert_eq!(bench.pass(Duration::ZERO), []);
    let reports = bench.pass(3 * INTERVAL);
    assert_eq!((reports.len(), counters(&reports[0].header())), (1, [1, 1, 1, 0, 0]));
}

#[test]
fn what_its_process_holds_for_other_balancers_is_foreign_in_reports_and_replies() {
    let mut bench = Bench::new(Work::Handlers).joined();
    let request = bench.request(1);
    bench.hear(request);
    bench.server.set_elsewhere(3);
    let queue_and_foreign = |sent: &[Sent]| {
        let header = sent.last().expect("something is sent").header();
        (header.queue.get(), header.foreign.get())
    };
    assert_eq!(queue_and_foreign(&bench.pass(3 * INTERVAL)), (4, 3));
    assert_eq!(bench.pass(3 * INTERVAL), [], "said once");
    bench.server.set_elsewhere(5);
    assert_eq!(queue_and_foreign(&bench.pass(3 * INTERVAL)), (6, 5), "a change elsewhere is worth a report");
    let job = bench.server.take_job(bench.now).unwrap();
    bench.server.finish(job, Status::Ok, b"answer", MS);
    assert_eq!(queue_and_foreign(&bench.pass(Duration::ZERO)), (5, 5));
}

/// Whether a frame is a SYNC that is not answered.
fn is_last_sync(frame: &[u8]) -> bool {
    let header = Header::read_from_bytes(&frame[..HEADER_LEN]).expect("a whole header");
    (header.op, header.server_state) == (RequestOp::Sync as u8, ServerState::Draining as u8)
}

/// A balancer that answers everything at once, as none should: a SYNC to each report, a challenge to each
/// REGISTER.
#[test]
fn a_balancer_that_answers_everything_at_once_causes_no_storm() {
    let mut bench = Bench::new(Work::Echo);
    let (mut registers, mut reports) = (0, 0);
    let mut join = |bench: &mut Bench, until: Instant, answer: &dyn Fn(&Header) -> Option<Header>| {
        while bench.now < until {
            for sent in bench.pass(Duration::from_micros(100)) {
                let header = sent.header();
                match header.op == ServerOp::Register as u8 {
                    true => registers += 1,
                    false => reports += 1,
                }
                let Some(answer) = answer(&header) else { continue };
                let frame = bench.frame(answer, b"");
                let len = frame.len() as u32;
                bench.rx.slot_mut(0)[..frame.len()].copy_from_slice(&frame);
                let (socket, peer) = (SOCKET, balancer());
                let received = Received { socket, peer, local_ip: None, slot: 0, start: 0, len, stride: len };
                bench.rx.push(received);
                bench.server.on_batch(bench.now, &mut bench.rx, &mut bench.tx);
                assert_eq!(bench.sent(), [], "not at once");
            }
        }
    };
    join(&mut bench, NOW + Duration::from_secs(1), &|register| Some(challenge(register.sequence.get())));
    bench.register = bench.pass(Duration::from_secs(1)).last().expect("it asks again").header();
    let register = bench.register;
    bench.hear(sync(&register, 0));
    let second = bench.now + Duration::from_secs(1);
    join(&mut bench, second, &|_| Some(sync(&register, 0)));
    assert!((50..=110).contains(&registers), "{registers} REGISTERs in a second of 100 intervals");
    assert!((50..=110).contains(&reports), "{reports} REPORTs in a second of 100 intervals");
}

#[test]
fn every_truncation_and_every_flipped_bit_is_counted_once_or_answered_once() {
    for (name, accepted) in ACCEPTED {
        let (mut bench, whole) = accepted();
        for len in 1..whole.len() {
            assert_eq!(bench.turn(balancer(), &whole[..len]), [], "{name}, {len} bytes");
        }
        assert_eq!(bench.drops(DropReason::Length), 127);
        assert_eq!(bench.turn(balancer(), &whole).len(), 1, "{name}: nothing has changed");
        for bit in 0..whole.len() * 8 {
            let (mut bench, mut flipped) = accepted();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let sent = bench.turn(balancer(), &flipped);
            let drops = &bench.server.totals.drops;
            let expected = u64::from(!is_last_sync(&flipped));
            assert_eq!(sent.len() as u64 + drops.total(), expected, "{name}, bit {bit}");
            if let Err(reason) = Frame::check(&mut flipped, &FORMAT) {
                assert_eq!(drops.get(reason), 1, "{name}, bit {bit}");
            }
            bench.pass(10 * INTERVAL);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_are_never_answered_and_always_counted(
        bytes in prop::collection::vec(any::<u8>(), 1..600),
        member in any::<bool>(),
        port in prop_oneof![Just(54_000), 1u16..],
    ) {
        prop_assume!(!bytes.starts_with(b"lb"));
        let mut bench = Bench::new(Work::Echo);
        if member {
            bench.join();
        }
        prop_assert_eq!(bench.turn(addr(port), &bytes), []);
        let frames = if bytes.len().is_multiple_of(FORMAT.size) { bytes.len() / FORMAT.size } else { 1 };
        prop_assert_eq!(bench.server.totals.drops.total(), frames as u64);
    }

    /// A balancer that writes nonsense into its frames breaks nothing: each frame is answered or
    /// counted.
    #[test]
    fn a_scribbling_balancer_cannot_break_a_server(
        scribbles in prop::collection::vec(
            (0usize..5, prop::collection::vec((8usize..128, any::<u8>()), 1..6)),
            1..20,
        ),
    ) {
        let mut bench = Bench::new(Work::Echo).joined();
        for (which, places) in scribbles {
            let (_, accepted) = ACCEPTED[which];
            let (_, mut bytes) = accepted();
            for (at, byte) in places {
                bytes[at] = byte;
            }
            let before = bench.server.totals.drops.total();
            let sent = bench.turn(balancer(), &bytes);
            let dropped = bench.server.totals.drops.total() - before;
            prop_assert!(dropped <= 1);
            prop_assert!(dropped == 1 || !sent.is_empty() || is_last_sync(&bytes));
            bench.pass(INTERVAL);
            prop_assert_eq!(bench.server.queue_len(), 0);
        }
    }
}

#[test]
fn a_server_that_no_balancer_registers_knows_why() {
    let mut bench = Bench::timed(MS);
    bench.ask();
    bench.pass(1_999 * MS);
    assert_eq!(bench.server.unregistered(bench.now), None, "a balancer may restart");
    bench.pass(MS);
    assert_eq!(bench.server.unregistered(bench.now), Some(Unregistered::Silence));
    let mut other = vec![0; 256];
    let mut header = challenge(bench.register.sequence.get());
    header.frame_size.set(256);
    Frame::write(&mut other, &header, &[]);
    for len in [256, 160] {
        assert_eq!(bench.turn(addr(9), &other[..len]), []);
    }
    assert_eq!(bench.server.unregistered(bench.now), Some(Unregistered::Silence), "a stranger's frame");
    assert_eq!(bench.turn(balancer(), &other[..160]), []);
    assert_eq!(bench.drops(DropReason::FrameSize), 3);
    assert_eq!(bench.server.unregistered(bench.now), Some(Unregistered::FrameSize(256)));
    bench.hear(challenge(bench.register.sequence.get()));
    assert_eq!(bench.server.unregistered(bench.now), Some(Unregistered::Silence), "the size is right now");
    bench.hear(sync(&bench.register, 0));
    assert_eq!(bench.server.unregistered(bench.now + Duration::from_secs(9)), None);
}
