use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::message::{HandoverMessage, PREFACE_LEN, preface};
use super::*;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// For who is stalled on purpose.
const SHORT: Duration = Duration::from_millis(30);

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

fn udp() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

fn label(kind: SocketKind, worker: u16, addr: SocketAddr) -> Label {
    Label { pool: "native".into(), kind, worker, addr }
}

/// UDP sockets as client-side sockets of one worker each.
fn fronts(count: u16) -> Vec<(Label, UdpSocket)> {
    let front = |worker| {
        let socket = udp();
        (label(SocketKind::Front, worker, socket.local_addr().unwrap()), socket)
    };
    (0..count).map(front).collect()
}

fn borrowed<S: AsFd>(sockets: &[(Label, S)]) -> Vec<(Label, BorrowedFd<'_>)> {
    sockets.iter().map(|(label, socket)| (label.clone(), socket.as_fd())).collect()
}

/// What a message is on the wire.
fn bytes_of(message: &HandoverMessage) -> Vec<u8> {
    let body = postcard::to_allocvec(message).unwrap();
    [&(body.len() as u32).to_le_bytes()[..], &body].concat()
}

/// A folder that is this user's alone.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

fn whole_takeover(sockets: &[(Label, UdpSocket)], state: &[u8]) -> (Vec<Label>, Vec<u8>) {
    let (ours, theirs) = pair();
    thread::scope(|scope| {
        let successor = scope.spawn(move || {
            let mut wish = Requester::over(theirs, HandoverPurpose::Takeover, PATIENCE).unwrap();
            assert_eq!(wish.pid(), std::process::id());
            let set = wish.sockets(PATIENCE).unwrap();
            let state = wish.ready(PATIENCE).unwrap();
            wish.running(PATIENCE).unwrap();
            (set.labels().cloned().collect(), state)
        });
        let mut offer = Holder::accept(ours, PATIENCE).unwrap();
        assert_eq!((offer.purpose(), offer.pid()), (HandoverPurpose::Takeover, std::process::id()));
        offer.give(&borrowed(sockets), PATIENCE).unwrap();
        offer.wait_until_ready(PATIENCE).unwrap();
        offer.give_state(state.to_vec(), PATIENCE).unwrap();
        offer.conclude(PATIENCE).unwrap();
        successor.join().unwrap()
    })
}

#[test]
fn a_takeover_goes_step_by_step_with_states_of_any_size() {
    for (count, size) in [(0, 0), (3, 1), (2, 64 << 10), (1, 3_000_001)] {
        let sockets = fronts(count);
        let state: Vec<u8> = (0..size).map(|n| n as u8).collect();
        let (labels, got) = whole_takeover(&sockets, &state);
        assert_eq!(labels, Vec::from_iter(sockets.iter().map(|(label, _)| label.clone())));
        assert!(got == state, "{} bytes of {size}", got.len());
    }
}

#[test]
fn sockets_that_came_are_the_same_sockets() {
    let (ours, theirs) = pair();
    let socket = udp();
    let addr = socket.local_addr().unwrap();
    udp().send_to(b"before", addr).unwrap();
    Holder::push(ours, &[(label(SocketKind::Front, 0, addr), socket.as_fd())], PATIENCE).unwrap();
    let mut set = Requester::pushed(theirs, PATIENCE).unwrap();
    let same = set.take("native", SocketKind::Front, 0, addr).unwrap();
    assert!(set.is_empty());
    let flags = rustix::io::fcntl_getfd(&same).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "no child inherits it by accident");
    let same = UdpSocket::from(same);
    drop(socket);
    let mut bytes = [0; 16];
    assert_eq!((same.recv(&mut bytes).unwrap(), &bytes[..6]), (6, &b"before"[..]));
}

#[test]
fn descriptors_come_in_batches_and_each_under_its_label() {
    for count in [1, 252, 253, 254, 506, 600] {
        // Duplicates of a few sockets, so that little is asked of the machine.
        let few = fronts(5);
        let all: Vec<(Label, BorrowedFd<'_>)> = (0..count)
            .map(|worker| {
                let (label, socket) = &few[usize::from(worker) % 5];
                (Label { worker, ..label.clone() }, socket.as_fd())
            })
            .collect();
        let (ours, theirs) = pair();
        // The peer does not read yet.
        Holder::push(ours, &all, PATIENCE).unwrap();
        let mut set = Requester::pushed(theirs, PATIENCE).unwrap();
        assert_eq!(set.len(), usize::from(count));
        for (label, _) in &all {
            let taken = set.take("native", SocketKind::Front, label.worker, label.addr);
            assert_eq!(UdpSocket::from(taken.unwrap()).local_addr().unwrap(), label.addr);
        }
    }
}

#[test]
fn only_a_socket_that_is_what_is_wanted_is_taken() {
    let (udp, tcp) = (udp(), TcpListener::bind("127.0.0.1:0").unwrap());
    let connected = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let (at_udp, at_tcp) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let at_connected = connected.local_addr().unwrap();
    let elsewhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let file = std::fs::File::open("/dev/null").unwrap();
    let same = |socket: BorrowedFd<'_>| socket.try_clone_to_owned().unwrap();
    let set = || -> SocketSet {
        [
            (label(SocketKind::Front, 0, elsewhere), same(udp.as_fd())), // its label lies
            (label(SocketKind::Back, 0, at_tcp), same(tcp.as_fd())),
            (label(SocketKind::Back, 1, at_udp), same(file.as_fd())),
            (label(SocketKind::Tcp, 1, at_udp), same(udp.as_fd())),
            (label(SocketKind::Tcp, 2, at_connected), same(connected.as_fd())),
            (label(SocketKind::Front, 7, at_udp), same(udp.as_fd())),
            (label(SocketKind::Tcp, 3, at_tcp), same(tcp.as_fd())),
        ]
        .into_iter()
        .collect()
    };
    use SocketKind::*;
    for (pool, kind, worker, addr) in [
        ("native", Front, 0, elsewhere),
        ("native", Front, 0, at_udp),
        ("native", Back, 0, at_tcp),
        ("native", Back, 1, at_udp),
        ("native", Tcp, 1, at_udp),
        ("native", Tcp, 2, at_connected),
        ("other", Front, 7, at_udp),
        ("native", Back, 7, at_udp),
        ("native", Front, 6, at_udp),
        ("native", Front, 7, at_tcp),
        ("native", Front, 7, SocketAddr::from(([127, 0, 0, 2], at_udp.port()))),
        ("native", Admin, 3, at_tcp),
    ] {
        assert!(set().take(pool, kind, worker, addr).is_none(), "{pool} {kind:?} {worker} {addr}");
    }
    let mut all = set();
    let front = all.take("native", Front, 7, any_port).unwrap();
    assert_eq!(UdpSocket::from(front).local_addr().unwrap(), at_udp);
    assert!(all.take("native", Front, 7, at_udp).is_none(), "each of them once");
    let listener = all.take("native", Tcp, 3, at_tcp).unwrap();
    assert_eq!(TcpListener::from(listener).local_addr().unwrap(), at_tcp);
    assert_eq!(all.len(), 5);
}

#[test]
fn what_nobody_takes_is_closed_with_the_set() {
    let (ours, theirs) = pair();
    let socket = udp();
    let addr = socket.local_addr().unwrap();
    Holder::push(ours, &[(label(SocketKind::Front, 0, addr), socket.as_fd())], PATIENCE).unwrap();
    drop(socket);
    let set = Requester::pushed(theirs, PATIENCE).unwrap();
    UdpSocket::bind(addr).unwrap_err();
    drop(set);
    UdpSocket::bind(addr).unwrap();
}

#[test]
fn whoever_has_the_sockets_learns_that_the_other_has_gone_at_every_step() {
    let sockets = fronts(2);
    for steps in 0..5 {
        let (ours, theirs) = pair();
        let successor = thread::spawn(move || {
            if steps == 0 {
                return;
            }
            let mut wish = Requester::over(theirs, HandoverPurpose::Takeover, PATIENCE).unwrap();
            if steps > 1 {
                wish.sockets(PATIENCE).unwrap();
            }
            if steps > 2 {
                wish.ready(PATIENCE).unwrap();
            }
            if steps > 3 {
                wish.running(PATIENCE).unwrap();
            }
        });
        let offered = (|| {
            let mut offer = Holder::accept(ours, PATIENCE)?;
            offer.give(&borrowed(&sockets), PATIENCE)?;
            offer.wait_until_ready(PATIENCE)?;
            offer.give_state(vec![1; 1 << 20], PATIENCE)?;
            offer.conclude(PATIENCE)
        })();
        successor.join().unwrap();
        match offered {
            Ok(()) => assert_eq!(steps, 4),
            Err(Error::Gone) => assert!(steps < 4),
            Err(other) => panic!("after {steps} steps: {other}"),
        }
    }
}

#[test]
fn whoever_wants_the_sockets_learns_that_the_other_has_gone_at_every_step() {
    let sockets = fronts(2);
    for steps in 0..5 {
        let (ours, theirs) = pair();
        thread::scope(|scope| {
            let sockets = &sockets;
            scope.spawn(move || {
                if steps == 0 {
                    return;
                }
                let mut offer = Holder::accept(ours, PATIENCE).unwrap();
                if steps > 1 {
                    offer.give(&borrowed(sockets), PATIENCE).unwrap();
                }
                if steps > 2 {
                    offer.wait_until_ready(PATIENCE).unwrap();
                    offer.give_state(vec![1], PATIENCE).unwrap();
                }
                if steps > 3 {
                    offer.conclude(PATIENCE).unwrap();
                }
            });
            let wished = (|| {
                let mut wish = Requester::over(theirs, HandoverPurpose::Takeover, PATIENCE)?;
                wish.sockets(PATIENCE)?;
                wish.ready(PATIENCE)?;
                wish.running(PATIENCE)
            })();
            match wished {
                Ok(()) => assert_eq!(steps, 4),
                Err(Error::Gone) => assert!(steps < 4),
                Err(other) => panic!("after {steps} steps: {other}"),
            }
        });
    }
}

#[test]
fn no_step_waits_for_ever() {
    let sockets = fronts(1);
    // The peer sends nothing.
    let (ours, _theirs) = pair();
    assert!(matches!(Holder::accept(ours, SHORT), Err(Error::Stalled("its greeting"))));
    let (ours, _theirs) = pair();
    let mut wish = Requester::over(ours, HandoverPurpose::Copy, SHORT).unwrap();
    assert!(matches!(wish.sockets(SHORT), Err(Error::Stalled("its sockets"))));
    assert!(matches!(wish.ready(SHORT), Err(Error::Stalled("its state"))));
    assert!(matches!(wish.running(SHORT), Err(Error::Stalled("its final message"))));
    // The peer does not read.
    let (ours, mut theirs) = pair();
    theirs
        .write_all(&[&preface()[..], &bytes_of(&HandoverMessage::Hello(HandoverPurpose::Takeover))].concat())
        .unwrap();
    let mut offer = Holder::accept(ours, SHORT).unwrap();
    assert!(matches!(offer.wait_until_ready(SHORT), Err(Error::Stalled("\"ready\""))));
    assert!(matches!(offer.give_state(vec![0; 2 << 20], SHORT), Err(Error::Deaf)));
    assert!(matches!(offer.conclude(SHORT), Err(Error::Stalled("\"running\""))));
    // Labels without descriptors.
    let (ours, mut theirs) = pair();
    let labels = HandoverMessage::Sockets(vec![sockets[0].0.clone()]);
    theirs.write_all(&[&preface()[..], &bytes_of(&labels)].concat()).unwrap();
    assert!(matches!(Requester::pushed(ours, SHORT), Err(Error::Stalled("its descriptors"))));
}

#[test]
fn a_peer_that_sends_a_byte_now_and_then_does_not_stretch_the_wait() {
    let (ours, mut theirs) = pair();
    let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(0);
    let dribble = thread::spawn(move || {
        let bytes = [&preface()[..], &1_000_u32.to_le_bytes(), &[0; 900]].concat();
        for byte in bytes {
            let _ = theirs.write_all(&[byte]);
            if stopped.recv_timeout(Duration::from_millis(2)).is_ok() {
                return;
            }
        }
    });
    assert!(matches!(Holder::accept(ours, Duration::from_millis(100)), Err(Error::Stalled(_))));
    stop.send(()).unwrap();
    dribble.join().unwrap();
}

#[test]
fn another_version_is_named_at_both_ends() {
    let (ours, mut theirs) = pair();
    let mut other = preface();
    other[8..].copy_from_slice(&7u32.to_le_bytes());
    theirs.write_all(&[&other[..], b"a body of version 7"].concat()).unwrap();
    let error = Holder::accept(ours, PATIENCE).err().unwrap();
    assert!(matches!(error, Error::Version(7)), "{error}");
    assert!(error.to_string().contains("version 7") && error.to_string().contains("without --takeover"));
    let mut answer = [0; PREFACE_LEN];
    theirs.read_exact(&mut answer).unwrap();
    assert_eq!(answer, preface(), "so that the other end can say it, too");
}

#[test]
fn what_is_not_lbd_is_refused() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], &[0; 64], b"lbd-hane\x01\0\0\0"] {
        let (ours, mut theirs) = pair();
        theirs.write_all(bytes).unwrap();
        assert!(matches!(Holder::accept(ours, PATIENCE), Err(Error::NotLbd)));
    }
}

#[test]
fn a_step_out_of_turn_is_named() {
    let (ours, mut theirs) = pair();
    theirs.write_all(&[&preface()[..], &bytes_of(&HandoverMessage::Running)].concat()).unwrap();
    let error = Holder::accept(ours, PATIENCE).err().unwrap();
    let text = "the peer process sent \"running\" instead of its greeting";
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_refusal_is_told_with_its_reason() {
    let (ours, theirs) = pair();
    let mut wish = Requester::over(theirs, HandoverPurpose::Takeover, PATIENCE).unwrap();
    Holder::accept(ours, PATIENCE).unwrap().refuse("another takeover is in progress", PATIENCE).unwrap();
    let error = wish.sockets(PATIENCE).unwrap_err();
    assert!(error.to_string().ends_with("another takeover is in progress"), "{error}");
}

#[test]
fn sizes_are_bounded_both_ways() {
    let (ours, mut theirs) = pair();
    theirs.write_all(&[&preface()[..], &u32::MAX.to_le_bytes()].concat()).unwrap();
    assert!(matches!(Holder::accept(ours, PATIENCE), Err(Error::TooLong(_))));
    let (ours, mut theirs) = pair();
    theirs
        .write_all(&[&preface()[..], &bytes_of(&HandoverMessage::Hello(HandoverPurpose::Takeover))].concat())
        .unwrap();
    let mut offer = Holder::accept(ours, PATIENCE).unwrap();
    assert!(matches!(offer.give_state(vec![0; MESSAGE_MAX], PATIENCE), Err(Error::TooLong(_))));
}

/// Sends labels and these descriptors with these counts beside them.
fn pushed_by_hand(labels: usize, batches: &[(u8, usize)]) -> Result<SocketSet, Error> {
    let (ours, mut theirs) = pair();
    let socket = udp();
    let label = label(SocketKind::Front, 0, socket.local_addr().unwrap());
    let message = HandoverMessage::Sockets(vec![label; labels]);
    theirs.write_all(&[&preface()[..], &bytes_of(&message)].concat()).unwrap();
    for &(said, count) in batches {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = vec![socket.as_fd(); count];
        assert!(count == 0 || control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(&theirs, &[std::io::IoSlice::new(&[said])], &mut control, SendFlags::NOSIGNAL).unwrap();
    }
    let addr = socket.local_addr().unwrap();
    drop((theirs, socket));
    Requester::pushed(ours, PATIENCE).inspect_err(|_| drop(UdpSocket::bind(addr).expect("all were closed")))
}

#[test]
fn descriptors_that_do_not_add_up_are_refused_and_closed() {
    assert_eq!(pushed_by_hand(3, &[(2, 2), (1, 1)]).unwrap().len(), 3);
    for (said, count) in [(3, 2), (1, 2), (0, 0), (2, 0), (0, 1)] {
        let error = pushed_by_hand(2, &[(said, count)]).unwrap_err();
        let expected = usize::from(said);
        assert!(
            matches!(error, Error::Descriptors { expected: e, got } if (e, got) == (expected, count)),
            "{error}"
        );
    }
    assert!(matches!(pushed_by_hand(2, &[(3, 3)]), Err(Error::Garbled)));
    assert!(matches!(pushed_by_hand(2, &[(1, 1)]), Err(Error::Gone)));
}

proptest! {
    #[test]
    fn garbage_is_an_error_and_nothing_worse(
        body in prop::collection::vec(any::<u8>(), 0..200),
        cut in 0usize..220,
        framed in any::<bool>(),
    ) {
        let mut bytes = preface().to_vec();
        if framed {
            bytes.extend((body.len() as u32).to_le_bytes());
        }
        bytes.extend(&body);
        bytes.truncate(cut);
        let is_hello = framed && cut >= bytes.len() && postcard::from_bytes::<HandoverMessage>(&body)
            .is_ok_and(|message| matches!(message, HandoverMessage::Hello(_)));
        let (ours, mut theirs) = pair();
        theirs.write_all(&bytes).unwrap();
        drop(theirs);
        let offer = Holder::accept(ours, PATIENCE);
        prop_assert!(offer.is_err() || is_hello);
    }

    #[test]
    fn messages_survive_the_round_trip(
            state in prop::collection::vec(any::<u8>(), 0..2_000),
            port in any::<u16>(),
            worker in any::<u16>(),
        ) {
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        for message in [
            HandoverMessage::Hello(HandoverPurpose::Copy),
            HandoverMessage::Sockets(vec![label(SocketKind::Admin, worker, addr)]),
            HandoverMessage::State(state),
            HandoverMessage::Refused("no".into()),
        ] {
            let bytes = postcard::to_allocvec(&message).unwrap();
            prop_assert_eq!(postcard::from_bytes::<HandoverMessage>(&bytes).unwrap(), message);
        }
    }
}

fn connect(path: &Path) -> Result<Requester, Error> {
    Requester::connect(path, HandoverPurpose::Takeover, PATIENCE)
}

#[test]
fn a_dead_process_socket_is_replaced_and_a_live_one_is_not() {
    let folder = folder();
    let path = folder.path().join("lbd.sock");
    assert!(matches!(connect(&path), Err(Error::NoListener(_))));
    drop(UnixListener::bind(&path).unwrap()); // leaves its file
    assert!(matches!(connect(&path), Err(Error::NoListener(_))));
    let listener = Listener::bind(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(listener.accept(SHORT).unwrap().is_none(), "no process has come");
    let error = Listener::bind(&path).unwrap_err();
    assert!(matches!(error, Error::InUse(_)) && error.to_string().contains("--takeover"), "{error}");
    let mut wish = connect(&path).unwrap();
    // The first is the attempt to bind, which looks whether anybody is there.
    assert!(Holder::accept(listener.accept(PATIENCE).unwrap().unwrap(), PATIENCE).is_err());
    let mut offer = Holder::accept(listener.accept(PATIENCE).unwrap().unwrap(), PATIENCE).unwrap();
    offer.refuse("not today", PATIENCE).unwrap();
    assert!(matches!(wish.sockets(PATIENCE), Err(Error::Refused(_))));
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn a_successor_takes_the_place_and_keeps_it_when_the_predecessor_ends() {
    let folder = folder();
    let path = folder.path().join("lbd.sock");
    let old = Listener::bind(&path).unwrap();
    let new = Listener::replace(&path).unwrap();
    drop(old);
    let _wish = connect(&path).unwrap();
    assert!(new.accept(PATIENCE).unwrap().is_some());
    assert_eq!(new.path(), path);
    drop(new);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn of_two_that_bind_at_once_one_is_told_so() {
    let folder = folder();
    for round in 0..20 {
        let path = folder.path().join(format!("{round}.sock"));
        drop(UnixListener::bind(&path).unwrap());
        let (listening, refused) = thread::scope(|scope| {
            let attempts: Vec<_> = (0..4).map(|_| scope.spawn(|| Listener::bind(&path))).collect();
            let all = attempts.into_iter().map(|attempt| attempt.join().unwrap());
            all.partition::<Vec<_>, _>(Result::is_ok)
        });
        assert_eq!((listening.len(), refused.len()), (1, 3));
        assert!(refused.into_iter().all(|error| matches!(error, Err(Error::InUse(_)))));
    }
}

#[test]
fn the_folder_is_made_for_its_user_alone_and_refused_if_it_is_not() {
    let folder = folder();
    let inside = folder.path().join("a/b");
    let listener = Listener::bind(&inside.join("lbd.sock")).unwrap();
    assert_eq!(std::fs::metadata(&inside).unwrap().permissions().mode() & 0o777, 0o700);
    drop(listener);
    std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o750)).unwrap();
    let error = Listener::bind(&inside.join("lbd.sock")).unwrap_err().to_string();
    assert!(error.contains("750") && error.contains(&format!("chmod 700 {}", inside.display())), "{error}");
}

#[test]
fn something_else_in_its_place_is_left_alone() {
    let folder = folder();
    let path = folder.path().join("lbd.sock");
    std::fs::write(&path, "notes of another program").unwrap();
    assert!(matches!(Listener::bind(&path), Err(Error::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "notes of another program");
}

#[test]
fn a_listener_that_never_accepts_delays_nobody_for_long() {
    let folder = folder();
    let path = folder.path().join("lbd.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let wishes: Vec<_> = (0..3).map(|_| Requester::connect(&path, HandoverPurpose::Copy, SHORT)).collect();
    assert!(wishes.iter().any(|wish| matches!(wish, Err(Error::Deaf))), "the row is full");
}
