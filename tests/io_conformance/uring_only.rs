//! What only io_uring can be asked: slots that the kernel picks, a ring that belongs to a thread, and its
//! absence.

#![allow(unsafe_code)] // calls that the standard library does not have

use std::io::{Read, Seek};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use lbd::base::batch::SocketId;
use lbd::io::IoChoice::{Auto, IoUring, Mio};
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{BackEnd, DatagramIo, IoChoice, IoOptions, UringIo};

use crate::backend::{Backend, Kernel, clock, collect, options, stage, take_turn};

const FIRST: SocketId = SocketId(0);

fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[test]
fn a_flood_that_takes_every_slot_loses_nothing_and_is_counted() {
    let Some(backend) = Kernel::v4(IoUring) else { return };
    let few = IoOptions { slots: 4, ..options() };
    let mut io = backend.open(&[backend.localhost(); 3], &few);
    let to: Vec<_> = (0..3).map(|s| io.local_addr(SocketId(s))).collect();
    let mut peers: Vec<_> = (0..40).map(|_| backend.one()).collect();
    for round in 0..5u8 {
        for (number, peer) in peers.iter_mut().enumerate() {
            for &to in &to {
                stage(peer, 0, to, &[round, number as u8]);
            }
            peer.flush().unwrap();
        }
    }
    let mut per_socket = [0; 3];
    for arrived in collect(&backend, &mut io, 3 * 5 * 40) {
        per_socket[usize::from(arrived.socket.0)] += 1;
    }
    assert_eq!(per_socket, [200; 3]);
    let counters = io.counters();
    assert!(counters.out_of_slots > 0, "{counters:?}");
    assert_eq!((counters.kernel_drops, counters.completions_delayed), (0, 0));
}

#[test]
fn a_back_end_goes_on_in_another_thread() {
    let Some(backend) = Kernel::v4(IoUring) else { return };
    let mut peer = backend.one();
    let mut io = backend.open(&[backend.localhost()], &IoOptions { slots: 4, ..options() });
    let to = io.local_addr(FIRST);
    let mut sent = 0..100u8;
    let mut send = |count: usize| {
        for number in sent.by_ref().take(count) {
            stage(&mut peer, 0, to, &[number; 8]);
            peer.flush().unwrap();
        }
    };
    send(20);
    let mut numbers = Vec::new();
    for _ in 0..3 {
        backend.wait(&mut io);
        io.receive().unwrap();
        // In the middle of a turn, which is seen to its end elsewhere.
        io = std::thread::spawn(move || {
            io.receive().unwrap();
            io
        })
        .join()
        .unwrap();
        numbers.extend(take_turn(&mut io).into_iter().map(|arrived| arrived.bytes[0]));
        send(10);
    }
    numbers.extend(collect(&backend, &mut io, 50 - numbers.len()).into_iter().map(|a| a.bytes[0]));
    assert_eq!(numbers, Vec::from_iter(0..50));
    // Dropped in a thread that is not its own.
    std::thread::spawn(move || drop(io)).join().unwrap();
}

#[test]
fn a_paused_socket_stays_paused_in_another_thread() {
    let Some(backend) = Kernel::v4(IoUring) else { return };
    let mut peer = backend.one();
    let mut io = backend.open(&[backend.localhost(); 2], &options());
    take_turn(&mut io); // the ring is this thread's
    io.pause(FIRST).unwrap();
    let to: Vec<_> = (0..2).map(|s| io.local_addr(SocketId(s))).collect();
    for number in 0..10u8 {
        to.iter().for_each(|&to| stage(&mut peer, 0, to, &[number]));
    }
    peer.flush().unwrap();
    let elsewhere = move || {
        let arrived = collect(&backend, &mut io, 10);
        assert!(arrived.iter().all(|a| a.socket == SocketId(1)), "{arrived:?}");
        assert_eq!(take_turn(&mut io), []);
        io.resume(FIRST).unwrap();
        let numbers = collect(&backend, &mut io, 10).into_iter().map(|a| a.bytes[0]);
        assert_eq!(Vec::from_iter(numbers), Vec::from_iter(0..10));
    };
    std::thread::spawn(elsewhere).join().unwrap();
}

#[test]
fn a_stopped_back_end_leaves_nothing_under_way_and_frees_its_ports() {
    let Some(backend) = Kernel::v4(IoUring) else { return };
    for round in 0..20 {
        let mut io = backend.open(&[backend.localhost(); 3], &options());
        let addrs: Vec<_> = (0..3).map(|s| io.local_addr(SocketId(s))).collect();
        let peer = UdpSocket::bind(localhost()).unwrap();
        if round % 2 == 0 {
            take_turn(&mut io); // starts to receive
        }
        for to in addrs.iter().cycle().take(30) {
            peer.send_to(&[0; 100], to).unwrap();
        }
        for number in 0..60 {
            stage(&mut io, number % 3, peer.local_addr().unwrap(), &[number as u8; 50]);
        }
        io.flush().unwrap();
        stage(&mut io, 0, addrs[1], b"never sent");
        if round % 3 == 0 {
            io.receive().unwrap();
        }
        drop(io);
        for addr in addrs {
            UdpSocket::bind(addr).unwrap();
        }
    }
}

#[test]
#[should_panic(expected = "the receive slots belong to the back end")]
fn slots_that_were_exchanged_are_not_filled() {
    let Some(backend) = Kernel::v4(IoUring) else { panic!("the receive slots belong to the back end") };
    let mut io = backend.one();
    let mut other = backend.one();
    take_turn(&mut io);
    std::mem::swap(io.turn().0, other.turn().0);
    take_turn(&mut io);
}

/// Makes io_uring_setup(2) fail in this thread, as in a container (seccomp(2)).
fn forbid_io_uring(errno: i32) {
    let nr = libc::SYS_io_uring_setup as u32;
    let stmt = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ) as u16, jt: 0, jf: 1, k: nr };
    let mut filter = [
        stmt(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0), // the number of the call
        jump,
        stmt(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | errno as u32),
        stmt(libc::BPF_RET, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter are live during the calls, which copy them.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Opens a back end of this choice where there is no io_uring. Gives its name and what was logged.
fn open_without_io_uring(choice: IoChoice, errno: i32) -> (&'static str, String) {
    let open = move || {
        forbid_io_uring(errno);
        let mut log = tempfile::tempfile().unwrap();
        let writer = Arc::new(log.try_clone().unwrap());
        let subscriber = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).finish();
        let socket = bind(localhost(), &SocketOptions::default()).unwrap();
        let addr = socket.local_addr().unwrap();
        let io = tracing::subscriber::with_default(subscriber, || {
            BackEnd::open(choice, vec![socket], &options(), clock()).unwrap()
        });
        assert_eq!(io.local_addr(FIRST), addr, "the sockets are not lost");
        let mut text = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut text).unwrap();
        (io.name(), text)
    };
    std::thread::spawn(open).join().unwrap()
}

#[test]
fn without_io_uring_it_is_mio_and_the_log_says_so_once() {
    for (errno, why) in [(libc::EPERM, "forbids it"), (libc::ENOSYS, "built without it")] {
        let (name, log) = open_without_io_uring(IoUring, errno);
        assert_eq!(name, Mio.name());
        assert!(log.contains("WARN") && log.contains(why), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    }
    for choice in [Auto, Mio] {
        let (name, log) = open_without_io_uring(choice, libc::EPERM);
        assert_eq!(name, Mio.name());
        assert!(!log.contains("WARN"), "a warning without a cause: {log}");
    }
}

#[test]
fn asked_for_by_name_it_fails_with_the_reason() {
    let open = || {
        forbid_io_uring(libc::EPERM);
        UringIo::new(vec![], &options(), clock()).map(drop).unwrap_err()
    };
    let error = std::thread::spawn(open).join().unwrap();
    assert!(error.to_string().contains("kernel.io_uring_disabled"), "{error}");
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
}
