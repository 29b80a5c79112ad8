//! After start-up a turn of the back end allocates nothing.

#[path = "common/counting.rs"]
mod counting;

use std::net::SocketAddr;
use std::time::Duration;

use lbd::base::batch::{FrameRef, SocketId};
use lbd::base::time::Clock;
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{BackEnd, DatagramIo, IoChoice, IoOptions};

#[test]
fn a_turn_over_mio_allocates_nothing() {
    a_turn_allocates_nothing(IoChoice::Mio);
}

#[test]
fn a_turn_over_io_uring_allocates_nothing() {
    a_turn_allocates_nothing(IoChoice::IoUring);
}

fn a_turn_allocates_nothing(choice: IoChoice) {
    let clock = Clock::start();
    let localhost = SocketAddr::from(([127, 0, 0, 1], 0));
    let sockets = (0..3).map(|_| bind(localhost, &SocketOptions::default()).unwrap()).collect();
    let mut io = BackEnd::open(choice, sockets, &IoOptions::default(), clock).unwrap();
    if io.name() != choice.name() {
        return eprintln!("skipped: there is no {choice} here");
    }
    let addrs: Vec<_> = (0..3).map(|s| io.local_addr(SocketId(s))).collect();
    let mut targets = addrs.clone();
    targets.push(SocketAddr::new(localhost.ip(), 0)); // where nothing can be sent

    let before = counting::allocations();
    for turn in 0..100u32 {
        io.wait(Some(clock.now() + Duration::from_micros(50))).unwrap();
        io.receive().unwrap();
        let (rx, tx) = io.turn();
        // Forwards each received datagram in parts, sends new datagrams of many lengths, and causes an error.
        for index in 0..rx.len() {
            let (r, _) = rx.get_mut(index);
            for offset in (0..r.len).step_by(r.stride as usize).take(8) {
                let to = addrs[(turn + offset) as usize % 3];
                let to = tx.destination(SocketId(0), to, None).unwrap();
                let len = r.stride.min(r.len - offset) as u16;
                assert!(tx.push(to, FrameRef { slot: r.slot, len, offset: r.start + offset }));
            }
        }
        for (len, &to) in (0..50).zip(targets.iter().cycle()) {
            let to = tx.destination(SocketId(1), to, None).unwrap();
            tx.stage(to, 100 + len / 7).unwrap();
        }
        io.flush().unwrap();
    }
    assert_eq!(counting::allocations() - before, 0);
    let counters = io.counters();
    assert!(counters.received > 1_000 && counters.send_failed > 100, "{counters:?}");
}
