//! One turn there and back between two back ends on loopback, in one thread: `cargo bench --bench io`.
//!
//! Named by what varies: the back end, whether segments are merged (`gso`) or each datagram is on its own
//! (`plain`), and how many datagrams of 256 bytes a turn has. `many_sockets`: they are spread over 16 sockets
//! a side.

use std::net::{Ipv4Addr, SocketAddr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lbd::base::batch::{FrameRef, SocketId};
use lbd::base::time::Clock;
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{BackEnd, DatagramIo, IoChoice, IoOptions};

const FRAME_SIZE: usize = 256;

/// How a pair of back ends is opened.
#[derive(Clone, Copy)]
struct Set {
    name: &'static str,
    gso: bool,
    sockets: u16,
}

const SETS: [Set; 3] = [
    Set { name: "gso", gso: true, sockets: 1 },
    Set { name: "plain", gso: false, sockets: 1 },
    Set { name: "plain_many_sockets", gso: false, sockets: 16 },
];

/// `None` where there is no such back end.
fn open(choice: IoChoice, set: Set, clock: Clock) -> Option<BackEnd> {
    let localhost = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sockets = (0..set.sockets).map(|_| bind(localhost, &SocketOptions::default()).unwrap());
    let options = IoOptions::for_frames(FRAME_SIZE, 1);
    // Merging needs slots for the longest datagram.
    let slot_size = if set.gso { options.slot_size } else { 2048 };
    let options = IoOptions { gso: set.gso, slot_size, ..options };
    let io = BackEnd::open(choice, sockets.collect(), &options, clock).unwrap();
    (io.name() == choice.name()).then_some(io)
}

/// Waits and sends everything back; returns how many datagrams that were.
fn answer(io: &mut BackEnd) -> usize {
    let mut count = 0;
    io.wait(None).unwrap();
    io.receive().unwrap();
    let (rx, tx) = io.turn();
    for index in 0..rx.len() {
        let r = rx.get_mut(index).0;
        let to = tx.destination(r.socket, r.peer, r.local_ip).unwrap();
        for offset in (r.start..r.start + r.len).step_by(FRAME_SIZE) {
            assert!(tx.push(to, FrameRef { slot: r.slot, len: FRAME_SIZE as u16, offset }));
            count += 1;
        }
    }
    io.flush().unwrap();
    count
}

/// Waits until `count` datagrams have arrived, and reads each.
fn collect(io: &mut BackEnd, count: usize) {
    let mut left = count;
    while left > 0 {
        io.wait(None).unwrap();
        io.receive().unwrap();
        let rx = io.turn().0;
        for index in 0..rx.len() {
            let (r, bytes) = rx.get_mut(index);
            left -= bytes.chunks(r.stride as usize).filter(|datagram| datagram[0] == 7).count();
        }
        io.flush().unwrap();
    }
}

fn echo(c: &mut Criterion) {
    let clock = Clock::start();
    for set in SETS {
        let mut group = c.benchmark_group(format!("io_{}", set.name));
        for count in [1, 2, 4, 16, 64] {
            group.throughput(Throughput::Elements(2 * count as u64));
            for choice in [IoChoice::Mio, IoChoice::IoUring] {
                let pair = open(choice, set, clock).zip(open(choice, set, clock));
                let Some((mut a, mut b)) = pair else { continue };
                let to: Vec<_> = (0..set.sockets).map(|s| b.local_addr(SocketId(s))).collect();
                group.bench_function(BenchmarkId::new(choice.name(), count), |bencher| {
                    bencher.iter(|| {
                        let tx = a.turn().1;
                        for number in 0..count {
                            let socket = number as u16 % set.sockets;
                            let to = tx.destination(SocketId(socket), to[usize::from(socket)], None).unwrap();
                            tx.stage(to, FRAME_SIZE).unwrap()[0] = 7;
                        }
                        a.flush().unwrap();
                        let mut answered = 0;
                        while answered < count {
                            answered += answer(&mut b);
                        }
                        collect(&mut a, count);
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, echo);
criterion_main!(benches);
