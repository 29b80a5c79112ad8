//! Sockets go from one process to another, over a Unix socket and over a child's standard input, under
//! traffic.
//!
//! Each test is run a second time as the other process: this executable, with a word in its environment.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lbd::base::batch::SocketId;
use lbd::base::time::Clock;
use lbd::daemon::handover::{Error, HandoverPurpose, Holder, Label, Listener, Requester, SocketKind};
use lbd::io::{BackEnd, DatagramIo, IoChoice, IoOptions};

use common::Site;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(20);
const ROLE: &str = "LBD_TEST_HANDOVER";
const FRONT: SocketId = SocketId(0);

/// This executable, about to run this test as the other process.
fn other_process(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ROLE, role).stdout(Stdio::piped());
    command
}

/// What this process was started as, if it is the other one.
fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap())
}

fn label(worker: u16, addr: SocketAddr) -> Label {
    Label { pool: "native".into(), kind: SocketKind::Front, worker, addr }
}

fn io_over(socket: UdpSocket) -> BackEnd {
    let options = IoOptions { slots: 16, ..IoOptions::default() };
    BackEnd::open(IoChoice::Mio, vec![socket], &options, Clock::start()).unwrap()
}

/// Reads for a turn, which begins within this time, and notes the numbers that came.
fn read(io: &mut BackEnd, wait: Duration, numbers: &mut Vec<u32>) {
    let deadline = clock().now() + wait;
    io.wait(Some(deadline)).unwrap();
    io.receive().unwrap();
    let (rx, _) = io.turn();
    for index in 0..rx.len() {
        let (received, bytes) = rx.get_mut(index);
        let each = bytes.chunks(received.stride as usize);
        numbers.extend(each.map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())));
    }
    io.flush().unwrap();
}

/// Reads until this number has come.
fn read_until(io: &mut BackEnd, last: u32, numbers: &mut Vec<u32>) {
    let give_up = clock().now() + PATIENCE;
    while !numbers.contains(&last) {
        read(io, PATIENCE, numbers);
        assert!(clock().now() < give_up, "read only {numbers:?}");
    }
}

fn clock() -> Clock {
    static CLOCK: std::sync::OnceLock<Clock> = std::sync::OnceLock::new();
    *CLOCK.get_or_init(Clock::start)
}

/// Takes over and says what it reads, until it has read the last number.
fn successor(path: &Path, die_before: &str) {
    let mut wish = Requester::connect(path, HandoverPurpose::Takeover, PATIENCE).unwrap();
    let mut sockets = wish.sockets(PATIENCE).unwrap();
    let addr = sockets.labels().next().unwrap().addr;
    let socket = UdpSocket::from(sockets.take("native", SocketKind::Front, 0, addr).unwrap());
    if die_before == "ready" {
        #[expect(clippy::disallowed_methods, reason = "the child of a test ends before the harness reports")]
        std::process::exit(0);
    }
    let state = wish.ready(PATIENCE).unwrap();
    let last = u32::from_le_bytes(state.try_into().unwrap());
    let options = IoOptions { slots: 16, ..IoOptions::default() };
    let mut io = BackEnd::open(IoChoice::Mio, vec![socket], &options, clock()).unwrap();
    if die_before == "running" {
        #[expect(clippy::disallowed_methods, reason = "the child of a test ends before the harness reports")]
        std::process::exit(0);
    }
    wish.running(PATIENCE).unwrap();
    let mut numbers = Vec::new();
    read_until(&mut io, last, &mut numbers);
    println!("read {numbers:?}");
}

/// The numbers in a row, some at a time: so few that a receive buffer holds them all.
struct Sender {
    socket: UdpSocket,
    to: SocketAddr,
    next: u32,
}

impl Sender {
    const EACH: u32 = 40;

    fn send(&mut self) {
        for number in self.next..self.next + Self::EACH {
            self.socket.send_to(&number.to_le_bytes(), self.to).unwrap();
        }
        self.next += Self::EACH;
    }
}

/// Hands over while datagrams come, at every step.
fn hand_over(
    mut offer: Holder,
    io: &mut BackEnd,
    sender: &mut Sender,
    last: u32,
    numbers: &mut Vec<u32>,
) -> Result<(), Error> {
    let duplicate = io.sockets()[0].try_clone().unwrap();
    offer.give(&[(label(0, io.local_addr(FRONT)), duplicate.as_fd())], PATIENCE)?;
    drop(duplicate);
    sender.send();
    read(io, Duration::ZERO, numbers);
    sender.send();
    offer.wait_until_ready(PATIENCE)?;
    io.pause(FRONT).unwrap();
    sender.send();
    read(io, Duration::ZERO, numbers);
    offer.give_state(last.to_le_bytes().to_vec(), PATIENCE)?;
    offer.conclude(PATIENCE)
}

#[test]
fn of_a_stream_of_datagrams_each_is_read_once_whether_the_takeover_succeeds_or_not() {
    if let Some(role) = role() {
        let (die_before, path) = role.split_once(' ').unwrap();
        return successor(Path::new(path), die_before);
    }
    let test = "of_a_stream_of_datagrams_each_is_read_once_whether_the_takeover_succeeds_or_not";
    for die_before in ["ready", "running", "nothing"] {
        let folder = tempfile::tempdir().unwrap();
        let path: PathBuf = folder.path().join("state/lbd.sock");
        let listener = Listener::bind(&path).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = socket.local_addr().unwrap();
        let mut sender = Sender { socket: UdpSocket::bind("127.0.0.1:0").unwrap(), to, next: 0 };
        let mut io = io_over(socket);
        let mut child = other_process(test, &format!("{die_before} {}", path.display())).spawn().unwrap();
        let mut numbers = Vec::new();
        let stream = listener.accept(PATIENCE).unwrap().expect("the other process comes");
        let offer = Holder::accept(stream, PATIENCE).unwrap();
        assert_eq!(offer.pid(), child.id());
        sender.send();
        let last = 5 * Sender::EACH - 1;
        let handed_over = hand_over(offer, &mut io, &mut sender, last, &mut numbers);
        while sender.next <= last {
            sender.send();
        }
        if die_before == "nothing" {
            handed_over.unwrap();
            read(&mut io, Duration::ZERO, &mut numbers);
            drop(io);
            // All lines: the process fails if its last lines have no reader.
            let said: Vec<String> = lines(&mut child).collect();
            let theirs = said.iter().find_map(|line| Some(line.split_once("read [")?.1));
            let theirs = theirs.expect("it says what it has read");
            numbers.extend(theirs.trim_end_matches(']').split(", ").map(|n| n.parse::<u32>().unwrap()));
        } else {
            assert!(matches!(handed_over, Err(Error::Gone)), "{handed_over:?}");
            io.resume(FRONT).unwrap();
            read_until(&mut io, last, &mut numbers);
        }
        assert!(child.wait().unwrap().success());
        assert_eq!(numbers, Vec::from_iter(0..=last), "before {die_before}");
    }
}

#[test]
fn a_child_gets_600_sockets_over_its_standard_input_without_asking() {
    const COUNT: u16 = 600;
    if role().is_some() {
        let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
        let mut sockets = Requester::pushed(stream, PATIENCE).unwrap();
        assert_eq!(sockets.len(), usize::from(COUNT));
        let labels: Vec<Label> = sockets.labels().cloned().collect();
        for label in labels.iter().filter(|label| label.worker % 2 == 1) {
            let socket = sockets.take("native", label.kind, label.worker, label.addr).unwrap();
            let mut bytes = [0; 2];
            let socket = UdpSocket::from(socket);
            socket.recv(&mut bytes).unwrap();
            assert_eq!(u16::from_le_bytes(bytes), label.worker);
        }
        assert_eq!(sockets.len(), usize::from(COUNT / 2));
        drop(sockets);
        println!("all there");
        std::io::stdout().flush().unwrap();
        return;
    }
    let test = "a_child_gets_600_sockets_over_its_standard_input_without_asking";
    let (limits, resource) = (rustix::process::getrlimit, rustix::process::Resource::Nofile);
    if limits(resource).current.is_some_and(|limit| limit < 2 * u64::from(COUNT)) {
        let raised = rustix::process::Rlimit { current: limits(resource).maximum, ..limits(resource) };
        rustix::process::setrlimit(resource, raised).unwrap();
    }
    let bind = |worker| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        (label(worker, socket.local_addr().unwrap()), socket)
    };
    let sockets: Vec<(Label, UdpSocket)> = (0..COUNT).map(bind).collect();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (label, _) in &sockets {
        sender.send_to(&label.worker.to_le_bytes(), label.addr).unwrap();
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let borrowed: Vec<_> = sockets.iter().map(|(label, socket)| (label.clone(), socket.as_fd())).collect();
    // Before the child exists: it need not answer.
    Holder::push(ours, &borrowed, PATIENCE).unwrap();
    let mut child = other_process(test, "child").stdin(OwnedFd::from(theirs)).spawn().unwrap();
    let said: Vec<String> = lines(&mut child).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    assert!(said.iter().any(|line| line.contains("all there")), "{said:?}");
}

#[test]
fn a_process_with_too_few_descriptors_is_told_which_limit_to_raise() {
    if role().is_some() {
        let resource = rustix::process::Resource::Nofile;
        let few = rustix::process::Rlimit { current: Some(40), maximum: Some(40) };
        rustix::process::setrlimit(resource, few).unwrap();
        let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
        println!("error: {}", Requester::pushed(stream, PATIENCE).unwrap_err());
        return;
    }
    let test = "a_process_with_too_few_descriptors_is_told_which_limit_to_raise";
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let many: Vec<_> = (0..100).map(|worker| (label(worker, addr), socket.as_fd())).collect();
    let (ours, theirs) = UnixStream::pair().unwrap();
    Holder::push(ours, &many, PATIENCE).unwrap();
    let mut child = other_process(test, "child").stdin(OwnedFd::from(theirs)).spawn().unwrap();
    let said: Vec<String> = lines(&mut child).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    assert!(said.iter().any(|l| l.contains("of 100 descriptors") && l.contains("ulimit -n")), "{said:?}");
}

/// The words with which a process refuses the state of another version.
const OTHER_VERSION: &str =
    "cannot take over: the running balancer uses another state version; restart without --takeover";

#[test]
fn a_balancer_of_the_previous_release_keeps_serving_since_its_state_has_another_version() {
    let site = Site::new(json!({"load_balancer": {"workers": 1}}));
    let path = site.path().join("previous/lbd.sock");
    let listener = Listener::bind(&path).unwrap();
    // What the previous release gave: a native pool with no worker's part, and no datagram pool.
    let state = vec![1, 0, 0];
    let takeover = format!("--takeover={}", path.display());
    let successor = site.start(&["balancer", &takeover]);
    let stream = listener.accept(PATIENCE).unwrap().expect("the successor comes");
    let mut previous = Holder::accept(stream, PATIENCE).unwrap();
    previous.give(&[], PATIENCE).unwrap();
    previous.wait_until_ready(PATIENCE).unwrap();
    previous.give_state(state, PATIENCE).unwrap();
    let reason = previous.conclude(PATIENCE).unwrap_err();
    assert!(matches!(&reason, Error::Refused(why) if why == OTHER_VERSION), "{reason:?}");
    let refused = successor.finish();
    assert!(refused.code == 2 && refused.stderr.contains(OTHER_VERSION), "{refused:?}");
}

#[test]
fn a_process_that_cannot_read_the_state_leaves_the_balancer_serving() {
    let site = Site::new(json!({"load_balancer": {"workers": 2}}));
    let (mut balancer, _servers) = site.pool(2, &[]);
    let path = site.takeover_socket();
    for reason in [None, Some("another version")] {
        let mut previous = Requester::connect(&path, HandoverPurpose::Takeover, PATIENCE).unwrap();
        let sockets = previous.sockets(PATIENCE).unwrap();
        let kinds =
            |kind| sockets.labels().filter(|label| label.pool == "native" && label.kind == kind).count();
        assert_eq!((kinds(SocketKind::Front), kinds(SocketKind::Back)), (2, 2));
        let state = previous.ready(PATIENCE).unwrap();
        // The previous release read 0 or 1 first: whether there is a native pool.
        assert_eq!((&state[..8], state[8]), (&b"lbdstate"[..], 4));
        match reason {
            Some(why) => previous.refuse(why, PATIENCE).unwrap(),
            None => drop(previous),
        }
        let (code, summary) = site.ask(&["--requests", "50"]);
        assert_eq!((code, summary.answered, summary.retried), (0, 50, 0));
    }
    let log = || site.log("balancer/balancer.log");
    let has_reason = || log().contains("the peer process refused: another version").then_some(());
    common::wait_for("the reason in the log", has_reason, log);
    balancer.signal(libc::SIGTERM);
    assert_eq!(balancer.finish().code, 0);
}
