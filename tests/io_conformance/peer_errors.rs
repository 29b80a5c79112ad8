//! ICMP errors of peers: reported at sockets that request them, and harmless for other peers.

use lbd::base::batch::{PEER_ERRORS_MAX, PeerError, SocketId};
use lbd::io::socket::SocketOptions;
use lbd::io::{BackEnd, DatagramIo, IoOptions};

use crate::backend::{Arrived, Backend, Kernel, collect, drain, options, stage};

const FIRST: SocketId = SocketId(0);

/// A back end over `socket_count` sockets that report errors.
fn reporting(backend: &Kernel, socket_count: usize, options: &IoOptions) -> BackEnd {
    let report = SocketOptions { report_errors: true, ..SocketOptions::default() };
    backend.over((0..socket_count).map(|_| backend.socket(&report)).collect(), options)
}

/// Takes one turn and returns what it has received, and its errors.
fn take_turn(io: &mut BackEnd) -> (Vec<Arrived>, Vec<PeerError>) {
    io.receive().unwrap();
    let errors = io.turn().0.errors().to_vec();
    let arrived = drain(io);
    io.flush().unwrap();
    assert_eq!(io.turn().0.errors(), [], "they are of one turn");
    (arrived, errors)
}

pub fn a_dead_server_is_told_and_costs_the_others_nothing(backend: Kernel) {
    const ROUNDS: usize = 60;
    let mut io = reporting(&backend, 1, &options());
    let (_guard, dead) = backend.dead();
    let mut peers: Vec<_> = (0..5).map(|_| backend.one()).collect();
    let mut errors = Vec::new();
    for round in 0..ROUNDS {
        // Among the others, so that another one's datagrams meet the error: in the same turn, or in the next.
        let mut to: Vec<_> = peers.iter().map(|peer| peer.local_addr(FIRST)).collect();
        to.insert(round % 6, dead);
        for to in to {
            // A run that leaves as one message, where there is segmentation.
            for _ in 0..if to == dead { 1 } else { 3 } {
                stage(&mut io, 0, to, &[round as u8; 100]);
            }
        }
        io.flush().unwrap(); // the ICMP error has come before it returns
        // In some turns the errors are read before the next are sent, in others they are still pending.
        if round % 3 == 0 {
            backend.wait(&mut io);
            errors.extend(take_turn(&mut io).1);
        }
    }
    for peer in &mut peers {
        collect(&backend, peer, 3 * ROUNDS);
    }
    while errors.len() < ROUNDS {
        backend.wait(&mut io);
        errors.extend(take_turn(&mut io).1);
    }
    let refused = PeerError { socket: FIRST, peer: dead, errno: libc::ECONNREFUSED };
    assert!(errors.iter().all(|&error| error == refused), "{errors:?}");
    let counters = io.counters();
    assert_eq!(counters.peer_errors, errors.len() as u64);
    assert_eq!((counters.sent, counters.send_failed), (16 * ROUNDS as u64, 0));
    assert_eq!(counters.gso_off, 0, "no fault of segmentation");
}

pub fn each_socket_tells_of_its_own_peers(backend: Kernel) {
    const SOCKETS: u16 = 3;
    let mut io = reporting(&backend, SOCKETS.into(), &options());
    let dead: Vec<_> = (0..SOCKETS).map(|_| backend.dead()).collect();
    let mut peer = backend.one();
    let mut told = [false; SOCKETS as usize];
    while told.contains(&false) {
        for socket in 0..SOCKETS {
            stage(&mut io, socket, dead[usize::from(socket)].1, b"is anybody there?");
            stage(&mut io, socket, peer.local_addr(FIRST), b"a word");
        }
        io.flush().unwrap();
        collect(&backend, &mut peer, SOCKETS.into());
        backend.wait(&mut io);
        for PeerError { socket, peer, errno } in take_turn(&mut io).1 {
            assert_eq!((peer, errno), (dead[usize::from(socket.0)].1, libc::ECONNREFUSED));
            told[usize::from(socket.0)] = true;
        }
    }
    assert_eq!(io.counters().send_failed, 0);
}

pub fn nothing_is_left_unread_beside_errors(backend: Kernel) {
    // Slots for fewer datagrams than arrive, so that every turn leaves some behind.
    let few = IoOptions { slots: 2, slot_size: 2048, ..options() };
    let mut io = reporting(&backend, 2, &few);
    let ((_guard, dead), mut peer) = (backend.dead(), backend.one());
    for _ in 0..50 {
        for socket in 0..2 {
            for number in 0..10 {
                stage(&mut peer, 0, io.local_addr(SocketId(socket)), &[number; 100]);
            }
            peer.flush().unwrap();
            stage(&mut io, socket, dead, b"is anybody there?");
        }
        io.flush().unwrap();
        collect(&backend, &mut io, 20);
    }
}

pub fn more_errors_than_a_turn_lists_are_left_for_the_next(backend: Kernel) {
    const COUNT: usize = 3 * PEER_ERRORS_MAX + 1;
    let mut io = reporting(&backend, 2, &IoOptions { gso: false, ..options() });
    let ((_guard, dead), mut peer) = (backend.dead(), backend.one());
    for number in 0..COUNT {
        stage(&mut io, number as u16 % 2, dead, b"is anybody there?");
    }
    io.flush().unwrap();
    let mut count = 0;
    while count < COUNT {
        backend.wait(&mut io);
        let (_, errors) = take_turn(&mut io);
        assert!(errors.len() <= PEER_ERRORS_MAX);
        count += errors.len();
        // Also while some are pending.
        stage(&mut io, 0, peer.local_addr(FIRST), b"a word");
        io.flush().unwrap();
        collect(&backend, &mut peer, 1);
    }
    assert_eq!((count, io.counters().peer_errors), (COUNT, COUNT as u64));
    assert_eq!(io.counters().send_failed, 0);
}

pub fn clients_that_are_gone_do_not_disturb_a_socket_that_reports_no_errors(backend: Kernel) {
    let (mut io, mut peer) = (backend.one(), backend.one());
    let ((_guard, dead), at_io) = (backend.dead(), io.local_addr(FIRST));
    for _ in 0..100 {
        stage(&mut io, 0, dead, b"an answer");
        stage(&mut io, 0, peer.local_addr(FIRST), b"an answer");
        io.flush().unwrap();
        collect(&backend, &mut peer, 1);
        stage(&mut peer, 0, at_io, b"a question");
        peer.flush().unwrap();
        backend.wait(&mut io);
        let (arrived, errors) = take_turn(&mut io);
        assert_eq!((arrived.len(), errors), (1, vec![]));
    }
    let counters = io.counters();
    assert_eq!((counters.sent, counters.send_failed, counters.peer_errors), (200, 0, 0));
}

pub fn errors_of_a_paused_socket_are_told_when_it_is_resumed(backend: Kernel) {
    let mut io = reporting(&backend, 2, &options());
    let (_guard, dead) = backend.dead();
    let ask = |io: &mut BackEnd| {
        stage(io, 0, dead, b"is anybody there?");
        io.flush().unwrap();
    };
    for round in 0..10 {
        // Known of, and not read.
        ask(&mut io);
        if round % 2 == 0 {
            backend.wait(&mut io);
        }
        io.pause(FIRST).unwrap();
        ask(&mut io);
        assert_eq!(take_turn(&mut io).1, []);
        assert_eq!(take_turn(&mut io).1, []);
        io.resume(FIRST).unwrap();
        let mut count = 0;
        while count < 2 {
            backend.wait(&mut io);
            count += take_turn(&mut io).1.len();
        }
        assert_eq!(count, 2);
    }
    assert_eq!((io.counters().peer_errors, io.counters().send_failed), (20, 0));
}
