//! After warm-up the roles allocate nothing: a million requests through client, balancer and server, load
//! generator included, and a million through a datagram pool, under a counting allocator. The same with a
//! limit of one request per server, so that requests are pending.

#[path = "common/counting.rs"]
mod counting;
#[path = "common/pipes.rs"]
#[allow(dead_code)] // it has other users too
mod pipes;
#[path = "common/relayed.rs"]
#[allow(dead_code)] // it has other users too
mod relayed;

use std::time::Duration;

use lbd::base::rng::Rng;
use lbd::base::service_time::ServiceTime;
use lbd::load::{Generator, GeneratorPlan, Native, NativeSettings, RequestLedger};
use lbd::pool::select::PolicyKind;
use lbd::role::client::{ClientRole, ClientSettings};
use lbd::role::datagram::{Affinity, DatagramSettings, Protocol};
use lbd::role::server::Work;
use lbd::wire::{Mode, ReplyPath};

use pipes::{End, FORMAT, Pool, client, front};
use relayed::{ASKED, Relayed, SERVERS, asker};

const REQUESTS: u64 = 1_000_000;
const WARM_UP: u64 = 20_000;
/// Requests in flight.
const WINDOW: usize = 256;

/// A turn of everybody, in the order in which a request goes.
fn turn<R: lbd::role::Role>(pool: &mut Pool, asker: &mut End<R>) {
    asker.carry_to(&mut pool.balancer);
    asker.clear();
    pool.balancer.turn(pool.now);
    pool.deliver_to_servers();
    pool.balancer.carry_to(asker);
    pool.balancer.clear();
    pool.turn_servers();
    for server in &pool.servers {
        server.carry_to(asker); // those that answer directly
    }
    pool.clear_servers();
    pool.now += Duration::from_micros(50);
}

/// Runs until enough requests were answered, and asserts that the last million allocated nothing.
fn run<R: lbd::role::Role>(
    pool: &mut Pool,
    mut asker: End<R>,
    mut ask: impl FnMut(&mut End<R>, lbd::base::time::Instant) -> u64,
) {
    let (mut answered, mut before) = (0, None);
    while answered < WARM_UP + REQUESTS {
        if before.is_none() && answered >= WARM_UP {
            before = Some(counting::allocations());
        }
        turn(pool, &mut asker);
        answered += ask(&mut asker, pool.now);
    }
    assert_eq!(counting::allocations() - before.expect("it was warm"), 0);
}

fn with_clients(pool: &mut Pool) {
    let settings = ClientSettings {
        format: FORMAT,
        target: front(),
        timeout: Duration::from_millis(500),
        deadline: Duration::from_secs(5),
        retries: 3,
        in_flight_max: WINDOW,
        servers: vec![],
        seed: 3,
    };
    let role = ClientRole::new(settings, lbd::base::time::Instant::from_nanos(1));
    run(pool, End::new(role, &[client(0)]), |end, now| {
        end.turn(now);
        let mut ended = 0;
        while let Some(outcome) = end.role.poll_outcome() {
            assert_eq!(outcome.payload, b"a question");
            ended += 1;
        }
        end.with_tx(|role, tx| while role.submit(now, Mode::Idempotent, b"a question", tx).is_ok() {});
        ended
    });
}

#[test]
fn clients_with_echo_servers() {
    with_clients(&mut Pool::new(16, Work::Echo, ReplyPath::Balancer));
}

#[test]
fn clients_with_servers_that_answer_directly() {
    with_clients(&mut Pool::new(16, Work::Echo, ReplyPath::Direct));
}

#[test]
fn clients_with_queues_and_service_times() {
    let service = ServiceTime::exponential(Duration::from_micros(500));
    with_clients(&mut Pool::new(16, Work::Timed { service, workers: 2 }, ReplyPath::Balancer));
}

#[test]
fn clients_whose_requests_are_pending() {
    let mut pool = Pool::limited(16, Work::Echo, ReplyPath::Balancer);
    with_clients(&mut pool);
    // All but those that found the pool empty.
    let stats = pool.balancer.role.stats();
    let waited = stats.common.waited.get();
    let all: u64 = stats.servers.iter().map(|server| server.common.dispatched.get()).sum();
    assert!(waited >= REQUESTS && waited + 16 >= all, "{waited} of {all} requests were pending");
    assert_eq!((stats.common.refused.total(), stats.common.dropped.total()), (0, 0), "none was refused");
}

#[test]
fn the_load_generator() {
    let start = lbd::base::time::Instant::from_nanos(1);
    let plan = GeneratorPlan {
        target: front(),
        schedule: None,
        window: Some(WINDOW),
        start,
        warmup: Duration::ZERO,
        duration: Duration::from_secs(100_000),
        grace: Duration::ZERO,
    };
    let settings = NativeSettings { format: FORMAT, clients: 1, deadline_us: 1_000_000 };
    let protocol = Native::new(settings, &[(vec![7; 16], 16)], &mut Rng::new(5));
    let generator = Generator::new(plan, protocol, RequestLedger::new(WINDOW, Duration::from_secs(1)));
    let mut known = 0;
    let mut pool = Pool::new(16, Work::Echo, ReplyPath::Balancer);
    run(&mut pool, End::new(generator, &[client(0)]), |end, now| {
        end.turn(now);
        let answered = end.role.counts().answered;
        answered - std::mem::replace(&mut known, answered)
    });
}

/// Takes turns until clients have their responses, and shows that the last million allocate nothing.
fn relay(settings: DatagramSettings, mut turns: impl FnMut(&mut Relayed)) -> Relayed {
    let mut pool = Relayed::new(settings);
    let mut before = None;
    while pool.relay.stats().delivered.get() < WARM_UP + REQUESTS {
        if before.is_none() && pool.relay.stats().delivered.get() >= WARM_UP {
            before = Some(counting::allocations());
        }
        turns(&mut pool);
    }
    assert_eq!(counting::allocations() - before.expect("it was warm"), 0);
    let stats = pool.relay.stats();
    assert!(stats.common.refused.total() * 100 < stats.common.received.get(), "{:?}", stats.common.refused);
    assert!(stats.flows_opened.get() == 0 || stats.flows_opened.get() > stats.flows.get(), "flows end too");
    pool
}

/// A pool that measures its servers too.
fn measured(protocol: Protocol) -> DatagramSettings {
    DatagramSettings { policy: PolicyKind::ShortestDelay, ..relayed::settings(protocol, Affinity::None) }
}

#[test]
fn a_pool_of_dns_servers() {
    relay(measured(Protocol::Dns), |pool| pool.busy_turn(asker));
}

#[test]
fn a_pool_of_servers_that_are_told_apart_by_port() {
    relay(measured(Protocol::Datagram), |pool| pool.busy_turn(asker));
}

#[test]
fn a_pool_with_flows() {
    // Most flows continue, some end, some begin.
    let settings = relayed::settings(Protocol::Datagram, Affinity::Client);
    relay(settings, |pool| pool.busy_turn(|n| asker(n % 400 + n / 20_000)));
}

/// Clients ask in bursts, and the next burst comes when no request of the last one is pending.
fn relay_in_bursts(protocol: Protocol) {
    let pool = relay(relayed::limited(protocol), |pool| {
        pool.busy_turn(asker);
        while pool.relay.stats().common.waiting.get() > 0 {
            pool.turn(asker, 0);
        }
    });
    let stats = pool.relay.stats();
    // Of a burst, each server gets one request at once.
    let (waited, bursts) = (stats.common.waited.get(), stats.common.received.get() / ASKED as u64);
    assert_eq!(waited, bursts * (ASKED as u64 - u64::from(SERVERS)), "pending requests in {bursts} bursts");
    assert_eq!((stats.common.refused.total(), stats.timed_out.get()), (0, 0), "none was refused");
}

#[test]
fn a_pool_of_dns_servers_whose_requests_are_pending() {
    relay_in_bursts(Protocol::Dns);
}

#[test]
fn a_pool_of_servers_by_port_whose_requests_are_pending() {
    relay_in_bursts(Protocol::Datagram);
}
