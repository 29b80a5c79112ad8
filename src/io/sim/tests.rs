use super::*;

const OPTIONS: IoOptions = IoOptions {
    slots: 64,
    slot_size: 2048,
    frames_max: 256,
    staging_bytes: 1 << 16,
    frames_per_datagram: 1,
    gso: true,
    prefault: false,
};

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

const MS: Duration = Duration::from_millis(1);

/// Sends frames of 16 bytes that begin with these numbers.
fn send(io: &mut SimIo, to: SocketAddr, numbers: impl IntoIterator<Item = u8>) {
    let (_, tx) = io.turn();
    let to = tx.destination(SocketId(0), to, None).unwrap();
    for number in numbers {
        tx.stage(to, 16).unwrap()[0] = number;
    }
    io.flush().unwrap();
}

/// The numbers of all frames that have arrived, and the number of filled slots.
fn receive(io: &mut SimIo) -> (Vec<u8>, usize) {
    let (mut numbers, mut slots) = (Vec::new(), 0);
    while io.is_readable() {
        io.receive().unwrap();
        let (rx, _) = io.turn();
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            numbers.extend(bytes.chunks(received.stride as usize).map(|frame| frame[0]));
            slots += 1;
        }
        io.flush().unwrap();
    }
    (numbers, slots)
}

/// Delivers all datagrams in flight.
fn settle(net: &SimNet) {
    while let Some(at) = net.next_event() {
        net.advance(at);
    }
}

#[test]
fn datagrams_arrive_when_the_driver_says_so() {
    let net = SimNet::new(1, Faults::none(MS));
    let mut a = net.attach(&[addr(1)], &OPTIONS).unwrap();
    let mut b = net.attach(&[addr(2)], &OPTIONS).unwrap();
    let start = net.now();
    send(&mut a, addr(2), [7]);
    assert_eq!(net.next_event(), Some(start + MS));
    net.advance(start + MS / 2);
    assert!(!b.is_readable());
    net.advance(start + MS);
    assert_eq!(receive(&mut b).0, [7]);
    assert_eq!(net.next_event(), None);
}

#[test]
fn a_seed_replays_a_run() {
    let run = |seed| {
        let faults = Faults { loss: 0.2, duplicate: 0.2, delay: (MS, 5 * MS), reorder: 0.2 };
        let net = SimNet::new(seed, faults);
        let mut a = net.attach(&[addr(1)], &OPTIONS).unwrap();
        let mut b = net.attach(&[addr(2)], &OPTIONS).unwrap();
        send(&mut a, addr(2), 0..200);
        settle(&net);
        (receive(&mut b), net.counters(), net.now())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let ((numbers, slots), counters, _) = run(1);
    assert!(counters.lost > 0 && counters.duplicated > 0 && counters.reordered > 0);
    assert_eq!(numbers.len() as u64, 200 - counters.lost + counters.duplicated);
    assert!(!numbers.is_sorted() && slots < numbers.len());
}

#[test]
fn a_link_keeps_the_order_whatever_the_delay() {
    let net = SimNet::new(3, Faults { delay: (Duration::ZERO, 50 * MS), ..Faults::none(MS) });
    let mut a = net.attach(&[addr(1)], &OPTIONS).unwrap();
    let mut b = net.attach(&[addr(2)], &OPTIONS).unwrap();
    send(&mut a, addr(2), 0..250);
    settle(&net);
    assert_eq!(receive(&mut b).0, (0..250).collect::<Vec<u8>>());
}

#[test]
fn a_link_that_is_cut_carries_nothing_until_it_is_mended() {
    let net = SimNet::new(1, Faults::none(MS));
    let mut a = net.attach(&[addr(1)], &OPTIONS).unwrap();
    let mut b = net.attach(&[addr(2)], &OPTIONS).unwrap();
    net.cut(addr(1), addr(2), true);
    send(&mut a, addr(2), [1]);
    send(&mut b, addr(1), [2]);
    net.cut(addr(1), addr(2), false);
    send(&mut a, addr(2), [3]);
    settle(&net);
    assert_eq!((receive(&mut a).0, receive(&mut b).0), (vec![2], vec![3]));
    assert_eq!(net.counters().lost, 1);
}

#[test]
fn a_link_may_have_faults_of_its_own() {
    let net = SimNet::new(1, Faults::none(MS));
    let mut a = net.attach(&[addr(1)], &OPTIONS).unwrap();
    let mut b = net.attach(&[addr(2)], &OPTIONS).unwrap();
    net.set_link_faults(addr(1), addr(2), Some(Faults { loss: 1.0, ..Faults::none(MS) }));
    send(&mut a, addr(2), [1]);
    net.set_link_faults(addr(1), addr(2), None);
    send(&mut a, addr(2), [2]);
    settle(&net);
    assert_eq!(receive(&mut b).0, [2]);
}

#[test]
fn a_killed_process_loses_everything_and_its_successor_starts_empty() {
    let net = SimNet::new(1, Faults::none(MS));
    let mut a = net.attach(&[addr(1)], &OPTIONS).unwrap();
    let mut killed = net.attach(&[addr(2)], &OPTIONS).unwrap();
    assert!(net.attach(&[addr(2)], &OPTIONS).is_err());
    send(&mut a, addr(2), [1]);
    settle(&net);
    net.detach(addr(2));
    send(&mut a, addr(2), [2]);
    settle(&net);
    let mut successor = net.attach(&[addr(2)], &OPTIONS).unwrap();
    send(&mut a, addr(2), [3]);
    settle(&net);
    send(&mut killed, addr(1), [4]);
    assert_eq!(killed.counters().send_failed, 1);
    assert!(receive(&mut killed).0.is_empty());
    drop(killed);
    assert_eq!(receive(&mut successor).0, [3]);
    assert_eq!(net.counters().unreachable, 1);
}

#[test]
fn a_full_receive_queue_counts_as_dropped_by_the_kernel() {
    let net = SimNet::new(1, Faults::none(MS));
    let mut a = net.attach(&[addr(1)], &OPTIONS).unwrap();
    let mut b = net.attach(&[addr(2)], &OPTIONS).unwrap();
    net.set_receive_queue(addr(2), 10);
    send(&mut a, addr(2), 0..25);
    settle(&net);
    assert_eq!(receive(&mut b).0, (0..10).collect::<Vec<u8>>());
    assert_eq!((b.counters().received, b.counters().kernel_drops), (10, 15));
}

#[test]
fn what_a_turn_has_left_of_a_paused_socket_stays_there() {
    let net = SimNet::new(1, Faults::none(MS));
    let mut to = net.attach(&[addr(9)], &IoOptions { slots: 2, ..OPTIONS }).unwrap();
    // From many peers, so that each takes a slot.
    let mut peers: Vec<_> = (1..7).map(|port| net.attach(&[addr(port)], &OPTIONS).unwrap()).collect();
    for (peer, number) in peers.iter_mut().zip(0..) {
        send(peer, addr(9), [number]);
    }
    settle(&net);
    to.receive().unwrap();
    assert_eq!(to.turn().0.len(), 2);
    to.flush().unwrap();
    to.pause(SocketId(0)).unwrap();
    assert!(!to.is_readable());
    to.receive().unwrap();
    assert_eq!(to.turn().0.len(), 0);
    to.resume(SocketId(0)).unwrap();
    assert_eq!(receive(&mut to), (vec![2, 3, 4, 5], 4));
}
