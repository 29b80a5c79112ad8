//! A server that registers: a stranger proves its address first, and only a valid payload makes it a server.
//!
//! Input: a selector, then fields of the header, then the payload.
#![no_main]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use lbd::pool::autoscale;
use lbd::pool::event::Event;
use lbd::pool::health::Rules;
use lbd::pool::select::PolicyKind;
use lbd::role::native::{BACK, NativePoolSettings, NativeRole};
use lbd::wire::message::{Message, Registration};
use lbd::wire::{FrameFormat, Kind, ReplyPath, RequestOp, ServerOp, ServerState};
use lbd_fuzz::{Sent, Turns};
use libfuzzer_sys::fuzz_target;

const FORMAT: FrameFormat = FrameFormat { size: 128, tagged: false };
/// The first registration has this cookie instead of none. No host can guess a nonce.
const GUESSED: u8 = 1;
/// The second registration comes from another address.
const MOVED: u8 = 2;
/// Any odd number.
const SCRAMBLE: u64 = 0x9e37_79b9_7f4a_7c15;
/// Inputs until a new role takes its place: it remembers servers that have left.
const FRESH_AFTER: u32 = 1 << 16;

struct Bench {
    role: NativeRole,
    turns: Turns,
    inputs: u32,
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

fn server() -> SocketAddr {
    SocketAddr::from(([10, 1, 0, 1], 50_000))
}

impl Bench {
    fn new() -> Bench {
        let turns = Turns::default();
        Bench { role: NativeRole::workers(settings(), turns.now).remove(0), turns, inputs: 0 }
    }

    fn turn(&mut self, peer: SocketAddr, frame: &[u8]) -> Vec<Sent> {
        self.turns.turn(&mut self.role, BACK.0, peer, frame)
    }

    /// The ids of servers that have joined and left since the last call.
    fn changes(&mut self) -> (Vec<u32>, Vec<u32>) {
        let (mut joined, mut left) = (vec![], vec![]);
        while let Some(event) = self.role.poll_event() {
            match event {
                Event::Joined { id, .. } => joined.push(id),
                Event::Left { id, .. } => left.push(id),
                _ => {}
            }
        }
        (joined, left)
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&[selector, listener, worker, status], rest)) = data.split_first_chunk() else { return };
    let Some((instance, rest)) = rest.split_first_chunk::<8>() else { return };
    let Some((cookie, payload)) = rest.split_first_chunk::<8>() else { return };
    let payload = &payload[..payload.len().min(FORMAT.payload_max())];
    let mut message = Message::new(Kind::ServerResponse, u64::from_le_bytes(*instance), 4_711);
    message.op = ServerOp::Register as u8;
    message.status = status;
    message.route.listener = listener;
    message.route.worker = worker;
    message.route.server_epoch = 3;
    if selector & GUESSED != 0 {
        // libFuzzer sees what is compared, and would put the right nonce into its input.
        message.route.cookie = u64::from_le_bytes(*cookie).wrapping_mul(SCRAMBLE).rotate_left(23);
    }
    let registration = Registration::from_bytes(payload);
    assert_eq!(registration.is_some(), payload.len() == Registration::LEN);
    assert!(registration.is_none_or(|registration| registration.to_bytes() == payload));
    BENCH.with_borrow_mut(|bench| {
        bench.inputs += 1;
        if bench.inputs > FRESH_AFTER {
            *bench = Bench::new();
        }
        run(bench, selector, message, payload);
    });
});

fn run(bench: &mut Bench, selector: u8, mut message: Message, payload: &[u8]) {
    let mut frame = [0; FORMAT.size];
    bench.turns.now += Duration::from_millis(20);
    message.encode(payload, &FORMAT, &mut frame);
    let answers = bench.turn(server(), &frame);
    assert_eq!(bench.changes(), (vec![], vec![]), "no server without a nonce");
    let registration = Registration::from_bytes(payload);
    let [challenge] = &answers[..] else {
        assert!(answers.is_empty() && registration.is_none(), "{answers:?}");
        return;
    };
    assert_eq!(
        (challenge.to, challenge.bytes.len()),
        (server(), frame.len()),
        "not longer than the question"
    );
    let mut bytes = challenge.bytes.clone();
    let (challenge, rest) = Message::decode(&mut bytes, &FORMAT).expect("a frame of lbd");
    assert!(challenge.op == RequestOp::Challenge as u8 && rest.is_empty() && challenge.sequence == 4_711);

    message.route.cookie = challenge.route.cookie;
    let from = if selector & MOVED == 0 { server() } else { SocketAddr::from(([10, 1, 0, 2], 50_000)) };
    message.encode(payload, &FORMAT, &mut frame);
    let sent = bench.turn(from, &frame);
    let (joined, left) = bench.changes();
    assert!(left.is_empty(), "{left:?}");
    assert!(sent.iter().all(|sent| sent.to == from && sent.bytes.len() == frame.len()), "{sent:?}");
    let Some(registration) = registration else { panic!("a challenge without a registration") };
    if selector & MOVED != 0 {
        return assert!(joined.is_empty(), "a nonce proves one address");
    }
    assert_eq!(joined, [registration.server_id]);

    // The server leaves, so that the next input finds none.
    message.op = ServerOp::Report as u8;
    message.route.slot = 0;
    message.route.worker = 0;
    message.route.balancer_epoch = challenge.route.balancer_epoch;
    message.report.report = 1;
    message.report.server_state = ServerState::Stopped as u8;
    message.encode(&[], &FORMAT, &mut frame);
    bench.turn(from, &frame);
    let (_, left) = bench.changes();
    assert_eq!(left, [registration.server_id]);
}

fn settings() -> NativePoolSettings {
    NativePoolSettings {
        format: FORMAT,
        key: None,
        policy: PolicyKind::ShortestQueue,
        servers_max: 1,
        max_outstanding: None,
        waiting_max: 0,
        interval: Duration::from_millis(10),
        controller: None,
        scale: autoscale::Policy {
            threshold: 5.0,
            grow_after: Duration::from_secs(1),
            shrink_after: Duration::from_secs(1),
            grow_cool_down: Duration::from_secs(1),
            shrink_cool_down: Duration::from_secs(1),
            grow_max: None,
            shrink_max: 1,
            min: 1,
            max: 1,
        },
        health: Rules::default(),
        own: vec![SocketAddr::from(([192, 0, 2, 53], 54_001)), SocketAddr::from(([192, 0, 2, 53], 54_000))],
        secret: [9; 16],
        workers: 1,
        reply_path: ReplyPath::Balancer,
        seed: 1,
    }
}
