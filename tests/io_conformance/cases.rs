//! The cases that every back end passes.

use std::net::SocketAddr;

use lbd::base::batch::{FrameRef, SocketId};
use lbd::io::{DatagramIo, IoOptions};

use crate::backend::{Arrived, Backend, collect, drain, options, stage, take_turn};

const FIRST: SocketId = SocketId(0);

/// A frame that tells what it is.
fn frame(number: usize, len: usize) -> Vec<u8> {
    let mut frame = vec![number as u8 ^ 0x5a; len];
    frame[..4].copy_from_slice(&(number as u32).to_be_bytes());
    frame
}

/// The frames of these numbers and lengths.
fn frames(lens: impl IntoIterator<Item = usize>) -> Vec<Vec<u8>> {
    lens.into_iter().enumerate().map(|(number, len)| frame(number, len)).collect()
}

pub fn a_frame_goes_each_way<B: Backend>(backend: B) {
    let (mut a, mut b) = (backend.one(), backend.one());
    let (at_a, at_b) = (a.local_addr(FIRST), b.local_addr(FIRST));

    stage(&mut a, 0, at_b, b"there");
    a.flush().unwrap();
    let there = collect(&backend, &mut b, 1);
    assert_eq!((there[0].peer, there[0].socket, &there[0].bytes[..]), (at_a, FIRST, &b"there"[..]));
    assert_eq!(there[0].local_ip, None, "the socket is not on a wildcard");

    stage(&mut b, 0, there[0].peer, b"and back");
    b.flush().unwrap();
    let back = collect(&backend, &mut a, 1);
    assert_eq!((back[0].peer, &back[0].bytes[..]), (at_b, &b"and back"[..]));

    for io in [a, b] {
        assert_eq!((io.counters().sent, io.counters().received), (1, 1));
    }
}

pub fn many_frames_reach_many_destinations_in_order<B: Backend>(backend: B) {
    let mut sender = backend.one();
    let mut peers: Vec<_> = (0..100).map(|_| backend.one()).collect();
    let frames = frames((0..20).map(|_| 256));
    for frame in &frames {
        for peer in &peers {
            stage(&mut sender, 0, peer.local_addr(FIRST), frame);
        }
    }
    sender.flush().unwrap();
    for peer in &mut peers {
        let bytes: Vec<_> = collect(&backend, peer, 20).into_iter().map(|a| a.bytes).collect();
        assert_eq!(bytes, frames);
    }
    assert_eq!(sender.counters().sent, 2000);
}

pub fn frames_share_datagrams_and_come_apart_at_the_stride<B: Backend>(backend: B) {
    let packed = IoOptions { frames_per_datagram: 5, ..options() };
    let (mut a, mut b) = (backend.open(&[backend.localhost()], &packed), backend.one());
    let frames = frames((0..403).map(|_| 256));
    for frame in &frames {
        stage(&mut a, 0, b.local_addr(FIRST), frame);
    }
    a.flush().unwrap();
    let datagrams = collect(&backend, &mut b, 81);
    assert!(datagrams[..80].iter().all(|d| d.bytes.len() == 5 * 256));
    let bytes: Vec<u8> = datagrams.into_iter().flat_map(|d| d.bytes).collect();
    assert_eq!(bytes, frames.concat());
    assert_eq!((a.counters().sent, b.counters().received), (81, 81));
}

pub fn frames_of_different_lengths_keep_their_order<B: Backend>(backend: B) {
    let (mut a, mut b) = (backend.one(), backend.one());
    let lens = [256, 256, 100, 100, 100, 1200, 4, 4, 700, 1200, 256, 256, 256, 255];
    let frames = frames(lens.into_iter().cycle().take(lens.len() * 5));
    for frame in &frames {
        stage(&mut a, 0, b.local_addr(FIRST), frame);
    }
    a.flush().unwrap();
    let arrived = collect(&backend, &mut b, frames.len());
    let bytes: Vec<_> = arrived.into_iter().map(|a| a.bytes).collect();
    assert_eq!(bytes, frames);
}

pub fn received_frames_can_be_sent_on_from_their_slots<B: Backend>(backend: B) {
    let (mut source, mut middle, mut target) = (backend.one(), backend.one(), backend.one());
    let to = target.local_addr(FIRST);
    let frames = frames((0..300).map(|_| 256));
    for chunk in frames.chunks(30) {
        for frame in chunk {
            stage(&mut source, 0, middle.local_addr(FIRST), frame);
        }
        source.flush().unwrap();
    }
    let mut forwarded = 0;
    while forwarded < frames.len() {
        backend.wait(&mut middle);
        middle.receive().unwrap();
        let (rx, tx) = middle.turn();
        for index in 0..rx.len() {
            let (r, bytes) = rx.get_mut(index);
            bytes.iter_mut().for_each(|byte| *byte = !*byte);
            let to = tx.destination(FIRST, to, None).unwrap();
            for offset in (r.start..r.start + r.len).step_by(256) {
                assert!(tx.push(to, FrameRef { slot: r.slot, len: 256, offset }));
                forwarded += 1;
            }
        }
        middle.flush().unwrap();
    }
    let arrived = collect(&backend, &mut target, frames.len());
    for (arrived, frame) in arrived.iter().zip(&frames) {
        assert!(arrived.bytes.iter().zip(frame).all(|(got, sent)| *got == !sent));
    }
}

pub fn a_wildcard_socket_tells_and_keeps_the_address_that_was_asked<B: Backend>(backend: B) {
    let Some((second, wildcard)) = backend.second_and_wildcard() else { return };
    let mut client = backend.one();
    let mut server = backend.open(&[wildcard], &options());
    let asked = SocketAddr::new(second, server.local_addr(FIRST).port());
    stage(&mut client, 0, asked, b"question");
    client.flush().unwrap();

    let question = &collect(&backend, &mut server, 1)[0];
    assert_eq!(question.local_ip, Some(second));
    let (_, tx) = server.turn();
    let to = tx.destination(FIRST, question.peer, question.local_ip).unwrap();
    for _ in 0..3 {
        tx.stage(to, 6).unwrap().copy_from_slice(b"answer");
    }
    server.flush().unwrap();
    assert!(collect(&backend, &mut client, 3).iter().all(|answer| answer.peer == asked));
}

pub fn each_socket_sends_from_its_own_address<B: Backend>(backend: B) {
    let mut many = backend.open(&[backend.localhost(); 3], &options());
    let mut peer = backend.one();
    for (number, socket) in [2, 0, 1, 0, 2].into_iter().enumerate() {
        stage(&mut many, socket, peer.local_addr(FIRST), &frame(number, 100 + socket as usize));
    }
    many.flush().unwrap();
    for arrived in collect(&backend, &mut peer, 5) {
        let socket = arrived.bytes.len() as u16 - 100;
        assert_eq!(arrived.peer, many.local_addr(SocketId(socket)));
        stage(&mut peer, 0, arrived.peer, &arrived.bytes);
    }
    peer.flush().unwrap();
    for arrived in collect(&backend, &mut many, 5) {
        assert_eq!(usize::from(arrived.socket.0), arrived.bytes.len() - 100);
    }
}

pub fn a_full_turn_leaves_the_rest_for_the_next<B: Backend>(backend: B) {
    let mut receiver = backend.open(&[backend.localhost()], &IoOptions { slots: 4, ..options() });
    let mut senders: Vec<_> = (0..100).map(|_| backend.one()).collect();
    for (number, sender) in senders.iter_mut().enumerate() {
        stage(sender, 0, receiver.local_addr(FIRST), &frame(number, 64));
        sender.flush().unwrap();
    }
    let mut seen = [false; 100];
    let slot_count = receiver.turn().0.slot_count();
    while seen.contains(&false) {
        backend.wait(&mut receiver);
        receiver.receive().unwrap();
        assert!(receiver.turn().0.len() <= slot_count);
        for arrived in drain(&mut receiver) {
            let number = u32::from_be_bytes(arrived.bytes[..4].try_into().unwrap());
            assert!(!std::mem::replace(&mut seen[number as usize], true), "{number} arrived twice");
        }
        receiver.flush().unwrap();
    }
}

pub fn a_flooded_socket_does_not_starve_another<B: Backend>(backend: B) {
    let slots = IoOptions { slots: 8, ..options() };
    let mut receiver = backend.open(&[backend.localhost(); 2], &slots);
    let (flooded, quiet) = (receiver.local_addr(SocketId(0)), receiver.local_addr(SocketId(1)));
    // From many peers, so that not all of it fits in a slot.
    let mut peers: Vec<_> = (0..300).map(|_| backend.one()).collect();
    for peer in &mut peers {
        stage(peer, 0, flooded, b"flood");
        peer.flush().unwrap();
    }
    stage(&mut peers[0], 0, quiet, b"a quiet word");
    peers[0].flush().unwrap();

    let mut arrived = Vec::new();
    while !arrived.iter().any(|(socket, _)| *socket == SocketId(1)) {
        backend.wait(&mut receiver);
        arrived.extend(take_turn(&mut receiver).into_iter().map(|a| (a.socket, a.bytes)));
    }
    assert!(arrived.len() < 300, "the flood was read to its end first");
}

pub fn a_datagram_longer_than_a_slot_is_counted_and_does_no_harm<B: Backend>(backend: B) {
    let small = IoOptions { slot_size: 512, ..options() };
    let mut receiver = backend.open(&[backend.localhost()], &small);
    let mut sender = backend.one();
    let to = receiver.local_addr(FIRST);
    for frame in frames([100, 513, 512, 1400, 200]) {
        stage(&mut sender, 0, to, &frame);
    }
    sender.flush().unwrap();
    let arrived = collect(&backend, &mut receiver, 3);
    assert_eq!(arrived.iter().map(|a| a.bytes.len()).collect::<Vec<_>>(), [100, 512, 200]);
    assert_eq!((receiver.counters().truncated, receiver.counters().received), (2, 3));
}

pub fn what_cannot_be_sent_is_counted_and_the_rest_goes_out<B: Backend>(backend: B) {
    let (mut sender, mut receiver) = (backend.one(), backend.one());
    let to = receiver.local_addr(FIRST);
    let nowhere = SocketAddr::new(to.ip(), 0);
    stage(&mut sender, 0, to, &frame(0, 300));
    stage(&mut sender, 0, nowhere, &frame(1, 300));
    stage(&mut sender, 0, nowhere, &frame(2, 300));
    stage(&mut sender, 0, to, &vec![0; 65_530]);
    stage(&mut sender, 0, to, &frame(3, 300));
    sender.flush().unwrap();
    assert_eq!(collect(&backend, &mut receiver, 2)[1].bytes, frame(3, 300));
    let counters = sender.counters();
    assert_eq!((counters.sent, counters.send_failed, counters.send_full), (2, 2, 0));
    assert_eq!(counters.send_too_large, 1);
    assert_eq!(counters.gso_off, 0, "no fault of segmentation");
}

pub fn a_peer_that_is_gone_does_not_stop_the_loop<B: Backend>(backend: B) {
    let (mut io, mut peer) = (backend.one(), backend.one());
    let gone = {
        let gone = backend.one();
        gone.local_addr(FIRST)
    };
    for number in 0..20 {
        stage(&mut io, 0, gone, &frame(number, 64));
        stage(&mut io, 0, peer.local_addr(FIRST), &frame(number, 64));
        io.flush().unwrap();
    }
    for arrived in collect(&backend, &mut peer, 20) {
        stage(&mut peer, 0, arrived.peer, &arrived.bytes);
    }
    peer.flush().unwrap();
    collect(&backend, &mut io, 20);
}

pub fn an_empty_turn_is_harmless<B: Backend>(backend: B) {
    let (mut a, mut b) = (backend.one(), backend.one());
    for _ in 0..3 {
        assert_eq!(take_turn(&mut a), []);
    }
    stage(&mut b, 0, a.local_addr(FIRST), b"still here");
    b.flush().unwrap();
    collect(&backend, &mut a, 1);
}

pub fn what_comes_to_a_paused_socket_is_there_when_it_is_resumed<B: Backend>(backend: B) {
    let mut io = backend.open(&[backend.localhost(); 2], &options());
    let mut peer = backend.one();
    let (paused, other) = (SocketId(0), SocketId(1));
    let at = [paused, other].map(|socket| io.local_addr(socket));
    let mut send = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            at.iter().for_each(|&to| stage(&mut peer, 0, to, &frame(number, 64)));
        }
        peer.flush().unwrap();
    };
    let bytes = |arrived: &[Arrived]| arrived.iter().map(|a| a.bytes.clone()).collect::<Vec<_>>();
    let expected = |numbers: std::ops::Range<usize>| numbers.map(|n| frame(n, 64)).collect::<Vec<_>>();
    send(0..3);
    collect(&backend, &mut io, 6);
    for round in 1..4 {
        for _ in 0..round {
            io.pause(paused).unwrap();
        }
        send(10..15);
        let arrived = collect(&backend, &mut io, 5);
        assert!(arrived.iter().all(|a| a.socket == other), "round {round}: {arrived:?}");
        assert_eq!(bytes(&arrived), expected(10..15));
        assert_eq!(take_turn(&mut io), []);

        // It sends all the same.
        let mut receiver = backend.one();
        for socket in [paused, other] {
            stage(&mut io, socket.0, receiver.local_addr(FIRST), b"a word");
        }
        io.flush().unwrap();
        let mut peers = collect(&backend, &mut receiver, 2).into_iter().map(|a| a.peer).collect::<Vec<_>>();
        peers.sort_unstable();
        let mut expected_peers = at.to_vec();
        expected_peers.sort_unstable();
        assert_eq!(peers, expected_peers);

        for _ in 0..round {
            io.resume(paused).unwrap();
        }
        let arrived = collect(&backend, &mut io, 5);
        assert!(arrived.iter().all(|a| a.socket == paused), "round {round}: {arrived:?}");
        assert_eq!(bytes(&arrived), expected(10..15));
        send(20..24);
        assert_eq!(collect(&backend, &mut io, 8).len(), 8);
    }
    assert_eq!(take_turn(&mut io), []);
}

pub fn a_pause_in_the_middle_of_a_turn_keeps_what_was_read_and_leaves_the_rest<B: Backend>(backend: B) {
    let few = IoOptions { slots: 4, ..options() };
    let mut io = backend.open(&[backend.localhost()], &few);
    // From many peers, so that not all of it fits in the slots of a turn.
    let mut senders: Vec<_> = (0..100).map(|_| backend.one()).collect();
    for (number, sender) in senders.iter_mut().enumerate() {
        stage(sender, 0, io.local_addr(FIRST), &frame(number, 64));
        sender.flush().unwrap();
    }
    let mut arrived = Vec::new();
    while arrived.len() < 100 {
        backend.wait(&mut io);
        io.receive().unwrap();
        io.pause(FIRST).unwrap();
        arrived.extend(drain(&mut io));
        io.flush().unwrap();
        // What the back end had read before the pause may come in this turn; then nothing more does.
        arrived.extend(take_turn(&mut io));
        let count = arrived.len();
        for _ in 0..3 {
            arrived.extend(take_turn(&mut io));
        }
        assert_eq!(arrived.len(), count, "a paused socket was read");
        io.resume(FIRST).unwrap();
    }
    let mut numbers: Vec<_> = arrived.into_iter().map(|a| a.bytes).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, frames((0..100).map(|_| 64)), "each of them once");
}
