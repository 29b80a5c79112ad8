//! What servers that know nothing of a balancer need: answers of any length, and the addresses of others.

#![allow(unsafe_code)] // calls that the standard library does not have

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use lbd::base::batch::SocketId;
use lbd::io::DatagramIo;
use lbd::io::socket::{SocketOptions, bind};

use crate::backend::{Backend, Kernel, collect, options, stage};

const FIRST: SocketId = SocketId(0);

/// Runs a case in a network of its own, in which the longest packet is that of an Ethernet. Says so where
/// that is not allowed.
fn where_packets_are_short(case: impl FnOnce() + Send + 'static) {
    let run = || match enter_network_of_short_packets() {
        Ok(()) => case(),
        Err(error) => eprintln!("skipped: no network of its own, which takes CAP_SYS_ADMIN ({error})"),
    };
    std::thread::spawn(run).join().unwrap();
}

/// Gives this thread a network that has a loopback interface only (unshare(2), netdevice(7)).
fn enter_network_of_short_packets() -> std::io::Result<()> {
    let check = |result: i32| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: takes no pointer, and concerns this thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: a C structure of integers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
    for (call, value) in [(libc::SIOCSIFMTU, 1_500), (libc::SIOCSIFFLAGS, libc::IFF_UP)] {
        match call {
            libc::SIOCSIFMTU => request.ifr_ifru.ifru_mtu = value,
            _ => request.ifr_ifru.ifru_flags = value as _,
        }
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        // SAFETY: the request is live, and holds what the call reads.
        check(unsafe { libc::ioctl(fd, call as _, &raw const request) })?;
    }
    Ok(())
}

/// Sends runs of datagrams of these lengths to a peer, one run a turn, and returns what was sent and not
/// sent.
fn send_runs(backend: Kernel, sender: &SocketOptions, lens: &[usize]) -> lbd::io::IoCounters {
    const RUN: usize = 12;
    let mut peer = backend.one();
    let mut io = backend.over(vec![backend.socket(sender)], &options());
    for &len in lens {
        let before = io.counters().sent;
        for number in 0..RUN {
            stage(&mut io, 0, peer.local_addr(FIRST), &vec![number as u8; len]);
        }
        io.flush().unwrap();
        let count = (io.counters().sent - before) as usize;
        for (number, arrived) in collect(&backend, &mut peer, count).iter().enumerate() {
            assert_eq!(arrived.bytes, vec![number as u8; len]);
        }
    }
    io.counters()
}

pub fn a_long_answer_passes_in_fragments_and_segmentation_goes_on(backend: Kernel) {
    where_packets_are_short(move || {
        let fragments = SocketOptions { fragments: true, ..SocketOptions::default() };
        let counters = send_runs(backend, &fragments, &[4_096, 100, 1_472, 1_473, 1_452, 30_000, 100]);
        assert_eq!((counters.sent, counters.send_failed, counters.gso_off), (7 * 12, 0, 0));
    });
}

pub fn without_fragments_a_long_datagram_is_refused(backend: Kernel) {
    where_packets_are_short(move || {
        let counters = send_runs(backend, &SocketOptions::default(), &[100, 4_096, 1_452]);
        assert_eq!((counters.sent, counters.send_too_large, counters.gso_off), (2 * 12, 12, 0));
        assert_eq!(counters.send_failed, 0);
    });
}

pub fn frames_that_do_not_fit_together_leave_at_once_in_shorter_datagrams(backend: Kernel) {
    where_packets_are_short(move || {
        let mut peer = backend.one();
        let packed = lbd::io::IoOptions { frames_per_datagram: 5, ..options() };
        let mut io = backend.over(vec![backend.socket(&SocketOptions::default())], &packed);
        for _ in 0..3 {
            for number in 0..30 {
                stage(&mut io, 0, peer.local_addr(FIRST), &[number; 512]);
            }
            io.flush().unwrap();
            let mut numbers = vec![];
            while numbers.len() < 30 {
                backend.wait(&mut peer);
                for arrived in crate::backend::take_turn(&mut peer) {
                    assert!(arrived.bytes.len() <= 1_024, "{} bytes", arrived.bytes.len());
                    numbers.extend(arrived.bytes.chunks(512).map(|frame| frame[0]));
                }
            }
            assert_eq!(numbers, Vec::from_iter(0..30), "nothing is lost, and the order is kept");
        }
        let counters = io.counters();
        assert_eq!((counters.send_failed, counters.send_too_large, counters.gso_off), (0, 0, 0));
        assert_eq!(io.poll_too_large(), None);
    });
}

pub fn a_datagram_that_does_not_fit_is_reported_once(backend: Kernel) {
    where_packets_are_short(move || {
        let peer = backend.one();
        let mut io = backend.over(vec![backend.socket(&SocketOptions::default())], &options());
        for _ in 0..2 {
            stage(&mut io, 0, peer.local_addr(FIRST), &[7; 2_000]);
            io.flush().unwrap();
        }
        assert_eq!(io.counters().send_too_large, 2);
        let report = lbd::io::TooLarge { to: backend.localhost(), len: 2_000 };
        assert_eq!((io.poll_too_large(), io.poll_too_large()), (Some(report), None));
    });
}

/// An address that is not this host's: one of those that are only for documents (RFC 5737, RFC 3849).
fn foreign(backend: &Kernel) -> IpAddr {
    match backend.localhost() {
        IpAddr::V4(_) => [192, 0, 2, 7].into(),
        IpAddr::V6(_) => "2001:db8::7".parse().unwrap(),
    }
}

pub fn a_transparent_socket_sends_from_addresses_of_others(backend: Kernel) {
    let transparent = SocketOptions { transparent: true, ..SocketOptions::default() };
    let socket = match bind(SocketAddr::new(backend.localhost(), 0), &transparent) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return eprintln!("skipped: {error}"),
        result => result.unwrap(),
    };
    let mut io = backend.over(vec![socket], &options());
    let (mut peer, port) = (backend.one(), io.local_addr(FIRST).port());
    let sources = match backend.localhost() {
        IpAddr::V4(_) => vec![[127, 0, 0, 9].into(), foreign(&backend)],
        IpAddr::V6(_) => vec![foreign(&backend)],
    };
    for source_ip in sources {
        let tx = io.turn().1;
        let to = tx.destination(FIRST, peer.local_addr(FIRST), Some(source_ip)).unwrap();
        for _ in 0..10 {
            tx.stage(to, 100).unwrap();
        }
        io.flush().unwrap();
        let source = SocketAddr::new(source_ip, port);
        assert!(collect(&backend, &mut peer, 10).iter().all(|arrived| arrived.peer == source));
    }
    stage(&mut peer, 0, io.local_addr(FIRST), b"a question");
    peer.flush().unwrap();
    assert_eq!(collect(&backend, &mut io, 1)[0].local_ip, Some(backend.localhost()));
    assert_eq!((io.counters().send_failed, io.counters().gso_off), (0, 0));
}

pub fn other_sockets_do_not_send_from_addresses_of_others(backend: Kernel) {
    let (mut io, mut peer) = (backend.one(), backend.one());
    let tx = io.turn().1;
    let to = tx.destination(FIRST, peer.local_addr(FIRST), Some(foreign(&backend))).unwrap();
    for _ in 0..3 {
        tx.stage(to, 100).unwrap();
    }
    stage(&mut io, 0, peer.local_addr(FIRST), b"from here");
    io.flush().unwrap();
    assert_eq!(collect(&backend, &mut peer, 1)[0].bytes, b"from here");
    assert_eq!((io.counters().sent, io.counters().send_failed, io.counters().gso_off), (1, 3, 0));
}
