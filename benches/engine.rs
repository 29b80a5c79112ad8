//! The balancer's role over a batch, without sockets: what all of its work costs, and which part costs what.
//! `cargo bench --bench engine`. Times are per request.
//!
//! * `requests`: check, select, patch, cookie, account, collect per destination.
//! * `replies`: check, cookie, window, counters, estimate, tree, clear, collect.
//! * `both`: one after the other, as in service; `direct`: requests, and reports instead of replies.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lbd::role::Role;
use lbd::role::server::Work;
use lbd::wire::{Frame, Header, Kind, ReplyPath};

#[path = "../tests/common/pipes.rs"]
#[allow(dead_code)] // it has other users too
mod pipes;
use pipes::{End, FORMAT, Pool, client, front};

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

/// So many rounds of a batch through client, balancer, servers, balancer; gives the time of the part.
fn run(pool: &mut Pool, askers: &mut [End<Asker>], part: Part, rounds: u64) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..rounds {
        pool.now += Duration::from_micros(100);
        for asker in &mut *askers {
            asker.batch(pool.now);
            asker.carry_to(&mut pool.balancer);
            asker.clear();
        }
        let start = Instant::now();
        pool.balancer.batch(pool.now);
        if part != Part::Replies {
            took += start.elapsed();
        }
        pool.deliver_to_servers();
        pool.balancer.clear();
        pool.turn_servers();
        pool.clear_servers();
        let start = Instant::now();
        pool.balancer.batch(pool.now);
        if part != Part::Requests {
            took += start.elapsed();
        }
        pool.balancer.clear();
        // Timers, outside of the measurement.
        pool.balancer.turn(pool.now);
        pool.deliver_to_servers();
        pool.balancer.clear();
    }
    took
}

fn engine(c: &mut Criterion) {
    for (name, path, part) in [
        ("requests", ReplyPath::Balancer, Part::Requests),
        ("replies", ReplyPath::Balancer, Part::Replies),
        ("both", ReplyPath::Balancer, Part::Both),
        ("direct", ReplyPath::Direct, Part::Both),
    ] {
        let mut group = c.benchmark_group(format!("engine/{name}"));
        group.throughput(Throughput::Elements(1));
        for servers in [4, 16, 64] {
            for batch in [1, 16, 256] {
                let mut pool = Pool::new(servers, Work::Echo, path);
                // Four clients, as far as the batch goes.
                let clients = batch.min(4);
                let asker =
                    |n| End::new(Asker { requests: batch / clients, sequence: 0 }, &[client(n as u16)]);
                let mut askers: Vec<_> = (0..clients).map(asker).collect();
                group.bench_function(
                    BenchmarkId::new(format!("servers_{servers}"), format!("batch_{batch}")),
                    |b| {
                        b.iter_custom(|requests| {
                            let rounds = requests.div_ceil(batch as u64);
                            let took = run(&mut pool, &mut askers, part, rounds);
                            took.mul_f64(requests as f64 / (rounds * batch as u64) as f64)
                        })
                    },
                );
            }
        }
    }
}

criterion_group!(benches, engine);
criterion_main!(benches);
