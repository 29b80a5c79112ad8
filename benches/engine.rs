//! The roles of the balancer over a batch, without sockets: the cost of all their work, and of its parts.
//! `cargo bench --bench engine`. Times are per request.
//!
//! The native pool (`servers_N/batch_N`):
//!
//! * `requests`: check, select, patch, cookie, account, collect per destination.
//! * `replies`: check, cookie, window, counters, estimate, tree, clear, collect.
//! * `both`: one after the other, as in service; `direct`: requests, and reports instead of replies.
//!
//! Datagram pools. A turn has the responses to the last turn's requests, new requests, and timers:
//!
//! * `dns`, `datagram`: each request comes from another client; `flows`: up to 400 clients whose flows live.
//!
//! `native_limit_1`, `dns_limit_1`, `datagram_limit_1`: every server has one request, and 256 are pending. In
//! each turn all servers answer, as many requests become pending, and as many leave the queue.
//!
//! Work and seeds are the same in each run. To compare two builds on a quiet machine, interleave their runs
//! and compare medians (`median` in `target/criterion/**/new/estimates.json`). On any machine, compare the
//! instructions of a row, which are the same in each run. `ENGINE_ROUNDS` is the number of its batches:
//!
//! ```text
//! ENGINE_ROUNDS=2000 valgrind --tool=callgrind --callgrind-out-file=/dev/null --collect-atstart=no \
//!     --toggle-collect='engine::timed*' target/release/deps/engine-* --test --exact \
//!     engine/dns/servers_16/batch_16
//! ```

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use lbd::role::Role;
use lbd::role::datagram::{Affinity, Protocol};
use lbd::role::server::Work;
use lbd::wire::{Frame, Header, Kind, ReplyPath};

#[path = "../tests/common/pipes.rs"]
#[allow(dead_code)] // it has other users too
mod pipes;
#[path = "../tests/common/relayed.rs"]
#[allow(dead_code)] // it has other users too
mod relayed;
use pipes::{End, FORMAT, Pool, client, front};
use relayed::{ASKED, Relayed, SERVERS, asker};

/// Pending requests between turns, where servers have a limit.
const PENDING: usize = 256;

/// Sends the same number of requests each turn and takes every answer.
struct Asker {
    requests: usize,
    sequence: u64,
}

impl Role for Asker {
    fn on_batch(
        &mut self,
        _: lbd::base::time::Instant,
        _: &mut lbd::base::batch::Rx,
        tx: &mut lbd::base::batch::Tx,
    ) {
        for _ in 0..self.requests {
            self.sequence += 1;
            let to = tx.destination(lbd::base::batch::SocketId(0), front(), None).expect("one destination");
            let bytes = tx.stage(to, FORMAT.size).expect("a turn has room");
            let mut header = Header::new(Kind::ClientRequest, FORMAT.size);
            header.attempt = 1;
            header.client_id.set(77);
            header.sequence.set(self.sequence);
            Frame::write(bytes, &header, &[5; 64]);
        }
    }
    fn on_timeout(&mut self, _: lbd::base::time::Instant, _: &mut lbd::base::batch::Tx) {}
    fn next_deadline(&self) -> Option<lbd::base::time::Instant> {
        None
    }
}

/// What is timed.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Requests,
    Replies,
    Both,
}

/// The time of the work that a row is about. Not inlined, so that a profiler can tell it from the rest.
#[inline(never)]
fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Rows with samples of equal length, so that their median is little affected by other processes.
fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(format!("engine/{name}"));
    group.throughput(Throughput::Elements(1)).sampling_mode(SamplingMode::Flat);
    group
}

/// A row: `run` does rounds of `batch` requests with what `make` has made, and gives their time.
fn row<P>(
    group: &mut BenchmarkGroup<WallTime>,
    servers: usize,
    batch: usize,
    make: impl Fn() -> P,
    run: impl Fn(&mut P, u64) -> Duration,
) {
    let fixed = std::env::var("ENGINE_ROUNDS").ok().map(|rounds| rounds.parse().expect("a number of rounds"));
    let mut made = None;
    let id = BenchmarkId::new(format!("servers_{servers}"), format!("batch_{batch}"));
    group.bench_function(id, |b| {
        let made = made.get_or_insert_with(&make);
        b.iter_custom(|requests| {
            let rounds = fixed.unwrap_or(requests.div_ceil(batch as u64));
            run(made, rounds).mul_f64(requests as f64 / (rounds * batch as u64) as f64)
        })
    });
}

/// Sends `rounds` batches through client, balancer, servers, balancer; gives the time of the part.
fn run(pool: &mut Pool, askers: &mut [End<Asker>], part: Part, rounds: u64) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..rounds {
        pool.now += Duration::from_micros(100);
        for asker in &mut *askers {
            asker.batch(pool.now);
            asker.carry_to(&mut pool.balancer);
            asker.clear();
        }
        if part == Part::Replies {
            pool.balancer.batch(pool.now);
        } else {
            took += timed(|| pool.balancer.batch(pool.now));
        }
        pool.deliver_to_servers();
        pool.balancer.clear();
        pool.turn_servers();
        pool.clear_servers();
        if part == Part::Requests {
            pool.balancer.batch(pool.now);
        } else {
            took += timed(|| pool.balancer.batch(pool.now));
        }
        pool.balancer.clear();
        // Timers, outside of the measurement.
        pool.balancer.turn(pool.now);
        pool.deliver_to_servers();
        pool.balancer.clear();
    }
    took
}

fn native(c: &mut Criterion) {
    for (name, path, part) in [
        ("requests", ReplyPath::Balancer, Part::Requests),
        ("replies", ReplyPath::Balancer, Part::Replies),
        ("both", ReplyPath::Balancer, Part::Both),
        ("direct", ReplyPath::Direct, Part::Both),
    ] {
        let mut group = group(c, name);
        for servers in [4, 16, 64] {
            for batch in [1, 16, 256] {
                let make = || {
                    // Four clients, as far as the batch goes.
                    let clients = batch.min(4);
                    let asker =
                        |n| End::new(Asker { requests: batch / clients, sequence: 0 }, &[client(n as u16)]);
                    (Pool::new(servers, Work::Echo, path), (0..clients).map(asker).collect::<Vec<_>>())
                };
                row(&mut group, servers, batch, make, |(pool, askers), rounds| {
                    run(pool, askers, part, rounds)
                });
            }
        }
    }
}

/// Has each server answer a request and get a pending one, `rounds` times; gives the balancer's time.
fn run_limited(pool: &mut Pool, asker: &mut End<Asker>, rounds: u64) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..rounds {
        pool.now += Duration::from_micros(100);
        // After the replies of the last round.
        asker.batch(pool.now);
        asker.carry_to(&mut pool.balancer);
        asker.clear();
        took += timed(|| pool.balancer.batch(pool.now));
        pool.deliver_to_servers();
        pool.balancer.clear();
        // Timers, outside of the measurement.
        pool.balancer.turn(pool.now);
        pool.deliver_to_servers();
        pool.balancer.clear();
        pool.turn_servers();
        pool.clear_servers();
    }
    took
}

fn native_with_a_limit(c: &mut Criterion) {
    let mut group = group(c, "native_limit_1");
    for servers in [4, 16, 64] {
        let make = || {
            let mut pool = Pool::limited(servers, Work::Echo, ReplyPath::Balancer);
            let mut asker = End::new(Asker { requests: servers + PENDING, sequence: 0 }, &[client(0)]);
            let _ = run_limited(&mut pool, &mut asker, 1);
            asker.role.requests = servers;
            (pool, asker)
        };
        row(&mut group, servers, servers, make, |(pool, asker), rounds| {
            let before = pool.balancer.role.stats().common.waited.get();
            let took = run_limited(pool, asker, rounds);
            let role = &pool.balancer.role;
            assert_eq!(role.stats().common.waited.get() - before, rounds * servers as u64);
            assert_eq!(role.waiting(), PENDING as u64);
            took
        });
    }
}

/// Takes turns of a datagram pool with `batch` requests each; gives the time of its role.
fn run_relayed(pool: &mut Relayed, client: impl Fn(u64) -> SocketAddr, batch: usize, turns: u64) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..turns {
        pool.ask(&client, batch);
        took += timed(|| pool.handle());
        pool.answer();
    }
    let stats = pool.relay.stats();
    assert_eq!((stats.common.refused.total(), stats.timed_out.get()), (0, 0), "{:?}", stats.common.refused);
    took
}

fn datagrams(c: &mut Criterion) {
    for (name, protocol, affinity) in [
        ("dns", Protocol::Dns, Affinity::None),
        ("datagram", Protocol::Datagram, Affinity::None),
        ("flows", Protocol::Datagram, Affinity::Client),
    ] {
        let mut group = group(c, name);
        for batch in [1, 16, ASKED] {
            // Few enough that no flow is idle before its client's next datagram. One datagram in
            // 20,000 comes from a client without a flow.
            let clients = (25 * batch as u64).min(400);
            let client = |n: u64| match affinity {
                Affinity::None => asker(n),
                Affinity::Client => asker(n % clients + n / 20_000),
            };
            let make = || Relayed::new(relayed::settings(protocol, affinity));
            row(&mut group, SERVERS.into(), batch, make, |pool, turns| {
                run_relayed(pool, client, batch, turns)
            });
        }
    }
}

fn datagrams_with_a_limit(c: &mut Criterion) {
    let servers = usize::from(SERVERS);
    for (name, protocol) in [("dns_limit_1", Protocol::Dns), ("datagram_limit_1", Protocol::Datagram)] {
        let make = || {
            let mut pool = Relayed::new(relayed::limited(protocol));
            pool.turn(asker, servers + PENDING);
            pool
        };
        row(&mut group(c, name), servers, servers, make, |pool, turns| {
            let before = pool.relay.stats().common.waited.get();
            let took = run_relayed(pool, asker, servers, turns);
            let stats = pool.relay.stats();
            assert_eq!(stats.common.waited.get() - before, turns * servers as u64);
            assert_eq!(stats.common.waiting.get(), PENDING as u64);
            took
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_500))
        .nresamples(20_000)
        .without_plots();
    targets = native, native_with_a_limit, datagrams, datagrams_with_a_limit
}
criterion_main!(benches);
