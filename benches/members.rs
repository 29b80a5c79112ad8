//! A worker's view of the members, which is read for each datagram. `cargo bench --bench members`.
//!
//! `is_inside`: whether a datagram's source is the balancer or a server. 4,096 servers on as many hosts have
//! the same port. Sources:
//!
//! * `other_port`: a client whose port no server has.
//! * `same_port`: a client whose port is that of the servers, but not its address.
//! * `server`: a server, over all slots.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lbd::pool::members::{Member, Members, View};
use lbd::pool::select::Slot;

const SERVERS: usize = 4_096;
const PORT: u16 = 7_000;
/// Sources of datagrams, in turn; a power of two.
const SOURCES: usize = 1_024;

/// The address of the `n`-th host of this network.
fn host(network: u8, n: usize, port: u16) -> SocketAddr {
    SocketAddr::from(([10, network, (n >> 8) as u8, n as u8], port))
}

fn view() -> View<()> {
    let (members, own) = (Members::new(SERVERS, 1), [54_000, 54_001].map(|port| host(0, 1, port)));
    for n in 0..SERVERS {
        let member = Member { addr: host(1, n, PORT), epoch: n as u32, extra: () };
        members.publish(Slot::new(n), Some(member));
    }
    let mut view = View::new(SERVERS, &own);
    view.refresh(&members, |_, _| {});
    view
}

fn is_inside(c: &mut Criterion) {
    let view = view();
    let mut group = c.benchmark_group("is_inside");
    group.throughput(Throughput::Elements(1));
    for (name, network, port, expected) in
        [("other_port", 2, 1_024, false), ("same_port", 2, PORT, false), ("server", 1, PORT, true)]
    {
        // An odd factor reaches slots all over the view.
        let sources: Vec<_> = (0..SOURCES).map(|n| host(network, n * 1_021 % SERVERS, port)).collect();
        assert!(sources.iter().all(|&source| view.is_inside(source, None) == expected));
        let mut next = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                next = (next + 1) % SOURCES;
                view.is_inside(black_box(sources[next]), None)
            })
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = is_inside
}
criterion_main!(benches);
