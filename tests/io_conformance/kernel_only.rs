//! What only a back end over the kernel can be asked: waiting, waking, merging, ICMP.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use lbd::base::batch::SocketId;
use lbd::base::rng::Rng;
use lbd::io::socket::{SocketOptions, bind, receive_buffer};
use lbd::io::{BackEnd, DatagramIo, IoOptions};

use crate::backend::{Arrived, Backend, Kernel, clock, collect, options, stage, take_turn};

const FIRST: SocketId = SocketId(0);

fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub fn a_wait_ends_at_its_deadline_and_not_before(backend: Kernel) {
    let clock = clock();
    let mut io = backend.one();
    for micros in [0, 1, 50, 300, 1_999, 2_000, 2_500, 7_300, 100] {
        let deadline = clock.now() + Duration::from_micros(micros);
        io.wait(Some(deadline)).unwrap();
        assert!(clock.now() >= deadline, "{micros} us");
    }
}

pub fn a_deadline_that_was_reached_by_traffic_does_not_shorten_the_next_wait(backend: Kernel) {
    let clock = clock();
    let mut io = backend.one();
    let peer = UdpSocket::bind(localhost()).unwrap();
    let early = clock.now() + Duration::from_micros(1_500);
    peer.send_to(b"traffic", io.local_addr(FIRST)).unwrap();
    io.wait(Some(early)).unwrap();
    assert_eq!(take_turn(&mut io).len(), 1);
    let late = clock.now() + Duration::from_micros(1_900);
    io.wait(Some(late)).unwrap();
    assert!(clock.now() >= late);
}

pub fn the_waker_ends_a_wait_again_and_again(backend: Kernel) {
    let mut io = backend.one();
    let waker = io.waker();
    let (ask, asked) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || asked.iter().for_each(|()| waker.wake()));
    for _ in 0..20 {
        ask.send(()).unwrap();
        io.wait(None).unwrap();
    }
    drop(ask);
    thread.join().unwrap();
    io.waker().wake();
    io.waker().wake();
    io.wait(None).unwrap();
}

pub fn offload_carries_many_datagrams_in_few_slots(backend: Kernel) {
    let (mut a, mut b) = (backend.one(), backend.one());
    for _ in 0..256 {
        stage(&mut a, 0, b.local_addr(FIRST), &[7; 256]);
    }
    a.flush().unwrap();
    backend.wait(&mut b);
    b.receive().unwrap();
    let rx = b.turn().0;
    let strides: Vec<_> = (0..rx.len()).map(|i| (rx.get_mut(i).0.len, rx.get_mut(i).0.stride)).collect();
    // 128 segments a message, or 64 where the kernel takes no more.
    assert!(strides == [(128 * 256, 256); 2] || strides == [(64 * 256, 256); 4], "{strides:?}");
    assert_eq!(a.counters().gso_off, 0);
}

pub fn a_datagram_without_a_byte_is_counted_and_does_no_harm(backend: Kernel) {
    let mut io = backend.one();
    let peer = UdpSocket::bind(localhost()).unwrap();
    for bytes in [&b"before"[..], b"", b"", b"after"] {
        peer.send_to(bytes, io.local_addr(FIRST)).unwrap();
    }
    let arrived: Vec<_> = collect(&backend, &mut io, 2).into_iter().map(|a| a.bytes).collect();
    assert_eq!(arrived, [&b"before"[..], b"after"]);
    assert_eq!((io.counters().empty, io.counters().received), (2, 2));
}

pub fn turns_full_of_empty_datagrams_pass(backend: Kernel) {
    let mut io = backend.one();
    let peer = UdpSocket::bind(localhost()).unwrap();
    for _ in 0..50 {
        peer.send_to(b"", io.local_addr(FIRST)).unwrap();
    }
    peer.send_to(b"at last", io.local_addr(FIRST)).unwrap();
    collect(&backend, &mut io, 1);
    assert_eq!(io.counters().empty, 50);
}

pub fn an_icmp_error_on_a_connected_socket_neither_stops_nor_hides_anything(backend: Kernel) {
    let gone = UdpSocket::bind(localhost()).unwrap();
    let socket = bind(localhost(), &SocketOptions::default()).unwrap();
    let (at_gone, at_socket) = (gone.local_addr().unwrap(), socket.local_addr().unwrap());
    socket.connect(at_gone).unwrap();
    let mut io = backend.over(vec![socket], &options());
    for _ in 0..3 {
        gone.send_to(b"word", at_socket).unwrap();
    }
    drop(gone);
    stage(&mut io, 0, at_gone, b"is anybody there?");
    io.flush().unwrap(); // answered by an ICMP error before it returns
    let arrived: Vec<Arrived> = collect(&backend, &mut io, 3);
    assert!(arrived.iter().all(|a| a.bytes == b"word"));
}

pub fn datagrams_that_the_kernel_dropped_are_accounted_for(backend: Kernel) {
    let small = SocketOptions { receive_buffer: 8 << 10, ..SocketOptions::default() };
    let socket = bind(localhost(), &small).unwrap();
    assert!(receive_buffer(&socket) <= 16 << 10);
    let to = socket.local_addr().unwrap();
    let peer = UdpSocket::bind(localhost()).unwrap();
    let send = |count: usize| {
        for _ in 0..count {
            peer.send_to(&[1; 200], to).unwrap();
        }
    };
    send(500);
    // What was dropped before is not counted.
    let mut io = backend.over(vec![socket], &options());
    io.wait(None).unwrap();
    let mut received = take_turn(&mut io).len();
    let before = received;
    send(400);
    while received < before + 2 {
        backend.wait(&mut io);
        received += take_turn(&mut io).len();
    }
    loop {
        let more = take_turn(&mut io).len();
        received += more;
        if more == 0 {
            break;
        }
    }
    // The kernel tells of its drops with the next datagram that it takes.
    send(1);
    received += collect(&backend, &mut io, 1).len();
    let counters = io.counters();
    assert_eq!(counters.received, received as u64);
    assert_eq!((received - before) as u64 + counters.kernel_drops, 401);
}

pub fn no_wake_up_is_lost_between_two_threads(backend: Kernel) {
    const ROUND_TRIPS: usize = 5_000;
    // Slots for fewer datagrams than arrive, so that every turn may leave some behind.
    let few = IoOptions { slots: 2, slot_size: 2048, ..options() };
    let open = || backend.open(&[backend.localhost(); 3], &few);
    let (mut ping, mut pong) = (open(), open());
    let to: Vec<_> = (0..3).map(|s| pong.local_addr(SocketId(s))).collect();
    let answering = std::thread::spawn(move || {
        let mut answered = 0;
        while answered < 3 * ROUND_TRIPS {
            backend.wait(&mut pong);
            for arrived in take_turn(&mut pong) {
                stage(&mut pong, arrived.socket.0, arrived.peer, &arrived.bytes);
                pong.flush().unwrap();
                answered += 1;
            }
        }
    });
    for _ in 0..ROUND_TRIPS {
        for (socket, &to) in (0..3).zip(&to) {
            stage(&mut ping, socket, to, b"ping");
        }
        ping.flush().unwrap();
        collect(&backend, &mut ping, 3);
    }
    answering.join().unwrap();
}

pub fn sockets_survive_a_hand_over(backend: Kernel) {
    let io = backend.one();
    let addr = io.local_addr(FIRST);
    let peer = UdpSocket::bind(localhost()).unwrap();
    peer.send_to(b"for the successor", addr).unwrap();
    let inherited = io.sockets()[0].try_clone().unwrap();
    drop(io);
    let mut successor = backend.over(vec![inherited], &options());
    assert_eq!(successor.local_addr(FIRST), addr);
    assert_eq!(collect(&backend, &mut successor, 1)[0].bytes, b"for the successor");
}

pub fn a_back_end_can_move_to_its_thread(backend: Kernel) {
    fn movable<T: Send>(_: &T) {}
    movable(&backend.one());
}

pub fn what_comes_to_a_paused_socket_is_read_by_who_shares_it(backend: Kernel) {
    let mut io = backend.one();
    let to = io.local_addr(FIRST);
    let peer = UdpSocket::bind(localhost()).unwrap();
    let send = |numbers: std::ops::Range<u8>| {
        numbers.for_each(|number| assert_eq!(peer.send_to(&[number], to).unwrap(), 1));
    };
    let numbers = |arrived: Vec<Arrived>| arrived.into_iter().map(|a| a.bytes[0]).collect::<Vec<_>>();
    send(0..5);
    assert_eq!(numbers(collect(&backend, &mut io, 5)), Vec::from_iter(0..5));
    for _ in 0..10 {
        io.pause(FIRST).unwrap();
        send(10..20);
        assert_eq!(take_turn(&mut io), []);
        let inherited = io.sockets()[0].try_clone().unwrap();
        let mut successor = backend.over(vec![inherited], &options());
        assert_eq!(numbers(collect(&backend, &mut successor, 10)), Vec::from_iter(10..20));
        send(20..30);
        assert_eq!(take_turn(&mut io), []);
        assert_eq!(numbers(collect(&backend, &mut successor, 10)), Vec::from_iter(20..30));
        // The successor gives up, and the first process continues.
        successor.pause(FIRST).unwrap();
        send(30..40);
        drop(successor);
        io.resume(FIRST).unwrap();
        send(40..45);
        assert_eq!(numbers(collect(&backend, &mut io, 15)), Vec::from_iter(30..45));
    }
    assert_eq!(take_turn(&mut io), []);
}

pub fn a_paused_socket_ends_no_wait(backend: Kernel) {
    let mut io = backend.one();
    let peer = UdpSocket::bind(localhost()).unwrap();
    let to = io.local_addr(FIRST);
    let send = || peer.send_to(b"for later", to).unwrap();
    send();
    io.wait(None).unwrap();
    io.pause(FIRST).unwrap();
    take_turn(&mut io);
    send();
    // The end of a receive may end one wait.
    io.wait(Some(clock().now() + Duration::from_millis(1))).unwrap();
    let deadline = clock().now() + Duration::from_millis(30);
    io.wait(Some(deadline)).unwrap();
    assert!(clock().now() >= deadline);
}

pub fn whatever_is_paused_and_resumed_each_datagram_is_read_once(backend: Kernel) {
    const SOCKETS: u16 = 3;
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let few = IoOptions { slots: 4, slot_size: 2048, ..options() };
        let mut io = backend.open(&vec![backend.localhost(); SOCKETS.into()], &few);
        let peer = UdpSocket::bind(localhost()).unwrap();
        let mut is_paused = [false; SOCKETS as usize];
        let (mut sent, mut read) = ([0u32; SOCKETS as usize], [0u32; SOCKETS as usize]);
        // What may still come of a paused socket: what the back end had read before.
        let mut may_come = [0u32; SOCKETS as usize];
        let mut take = |io: &mut BackEnd, may_come: &mut [u32], is_paused: &[bool]| {
            for arrived in take_turn(io) {
                let socket = usize::from(arrived.socket.0);
                assert_eq!(arrived.bytes, read[socket].to_be_bytes(), "seed {seed}, socket {socket}");
                read[socket] += 1;
                if is_paused[socket] {
                    assert!(may_come[socket] > 0, "seed {seed}: read of socket {socket} while paused");
                    may_come[socket] -= 1;
                }
            }
            read
        };
        for _ in 0..300 {
            let socket = rng.below(SOCKETS.into()) as usize;
            let id = SocketId(socket as u16);
            match rng.below(6) {
                0 => {
                    let read = take(&mut io, &mut may_come, &is_paused);
                    if !std::mem::replace(&mut is_paused[socket], true) {
                        may_come[socket] = sent[socket] - read[socket];
                    }
                    io.pause(id).unwrap();
                }
                1 => {
                    is_paused[socket] = false;
                    io.resume(id).unwrap();
                }
                2 => {
                    io.wait(Some(clock().now())).unwrap();
                    take(&mut io, &mut may_come, &is_paused);
                }
                _ => {
                    for _ in 0..rng.below(8) {
                        peer.send_to(&sent[socket].to_be_bytes(), io.local_addr(id)).unwrap();
                        sent[socket] += 1;
                    }
                }
            }
        }
        (0..SOCKETS).for_each(|socket| io.resume(SocketId(socket)).unwrap());
        is_paused.fill(false);
        while take(&mut io, &mut may_come, &is_paused) != sent {
            backend.wait(&mut io);
        }
        let counters = io.counters();
        assert_eq!((counters.received, counters.kernel_drops), (sent.iter().sum::<u32>().into(), 0));
    }
}

pub fn drops_are_counted_by_who_reads(backend: Kernel) {
    let small = SocketOptions { receive_buffer: 8 << 10, ..SocketOptions::default() };
    let mut io = backend.over(vec![bind(localhost(), &small).unwrap()], &options());
    let peer = UdpSocket::bind(localhost()).unwrap();
    let to = io.local_addr(FIRST);
    let send = |count: usize| (0..count).for_each(|_| assert_eq!(peer.send_to(&[1; 200], to).unwrap(), 200));
    let read_dry = |io: &mut BackEnd| {
        let mut read = 0;
        loop {
            io.wait(Some(clock().now())).unwrap();
            match take_turn(io).len() {
                0 => return read,
                more => read += more,
            }
        }
    };
    let counted = |io: &mut BackEnd| {
        io.recount_drops();
        assert_eq!(io.counters().kernel_drops, io.kernel_drops(FIRST));
        io.kernel_drops(FIRST) as usize
    };
    send(300);
    io.pause(FIRST).unwrap();
    let before = counted(&mut io);
    assert!(before > 0, "dropped before the pause, and counted by it");
    let mut successor = backend.over(vec![io.sockets()[0].try_clone().unwrap()], &options());
    send(300);
    let read = read_dry(&mut successor);
    let by_successor = counted(&mut successor);
    assert_eq!(before + by_successor + read, 600);
    assert_eq!(counted(&mut io), before, "the other's drops");
    drop(successor);

    // Without a successor they are its own.
    io.resume(FIRST).unwrap();
    let again = counted(&mut io);
    assert_eq!(again, before + by_successor);
    io.pause(FIRST).unwrap();
    send(300);
    assert_eq!(counted(&mut io), again);
    io.resume(FIRST).unwrap();
    let read = read_dry(&mut io);
    assert_eq!(counted(&mut io) - again + read, 300);
}
