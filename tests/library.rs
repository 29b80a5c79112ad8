//! The public library over real sockets: servers with handlers, clients, and a balancer in this process.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lbd::admin::status::EventLog;
use lbd::base::drop_reason::DropReason;
use lbd::base::time::Clock;
use lbd::daemon::inbox::inbox;
use lbd::daemon::pool_log::PoolLog;
use lbd::daemon::worker::{Worker, WorkerLoop};
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{DatagramIo, IoOptions, MmsgIo, Waker};
use lbd::os::signals::Stop;
use lbd::pool::health::State;
use lbd::pool::stats::{NativeServerStats, NativeStats};
use lbd::pool::{autoscale, select};
use lbd::role::client::Ending;
use lbd::role::native::{BACK, FRONT, NativePoolSettings, NativeRole};
use lbd::wire::{FrameFormat, Mode, ReplyPath};
use lbd::{Client, Server, client};

const PATIENCE: Duration = Duration::from_secs(20);

/// A balancer on free ports in a thread of this process.
struct TestBalancer {
    front: SocketAddr,
    back: SocketAddr,
    stats: Arc<NativeStats>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl TestBalancer {
    fn start(key: Option<[u8; 16]>) -> Self {
        Self::with_reply_path(key, ReplyPath::Balancer)
    }

    fn with_reply_path(key: Option<[u8; 16]>, reply_path: ReplyPath) -> Self {
        let format = if key.is_some() { FrameFormat::tagged(256) } else { FrameFormat::plain(256) };
        let any = "127.0.0.1:0".parse().unwrap();
        let sockets = vec![
            bind(any, &SocketOptions::default()).unwrap(),
            bind(any, &SocketOptions::default()).unwrap(),
        ];
        let clock = Clock::start();
        let io = MmsgIo::new(sockets, &IoOptions::for_frames(256, 5), clock).unwrap();
        let (front, back) = (io.local_addr(FRONT), io.local_addr(BACK));
        let settings = NativePoolSettings {
            format,
            key,
            policy: select::PolicyKind::ShortestQueue,
            servers_max: 8,
            max_outstanding: None,
            waiting_max: 0,
            interval: Duration::from_millis(10),
            controller: Some("127.0.0.1:9".parse().unwrap()),
            scale: autoscale::Policy {
                threshold: 1e9,
                grow_after: Duration::from_secs(1),
                shrink_after: Duration::from_secs(1000),
                grow_cool_down: Duration::from_secs(1),
                shrink_cool_down: Duration::from_secs(1),
                grow_max: None,
                shrink_max: 1,
                min: 1,
                max: 8,
            },
            health: lbd::pool::health::Rules::default(),
            own: vec![front, back],
            secret: [3; 16],
            workers: 1,
            reply_path,
            seed: 7,
        };
        let role = NativeRole::workers(settings, clock.now()).remove(0);
        let stats = Arc::clone(role.stats());
        let stop = Stop::new(vec![io.waker()]);
        let thread_stop = stop.clone();
        let thread = std::thread::spawn(move || {
            let worker = Worker::new(role, io, 2, None, Duration::ZERO);
            let (inbox, _post) = inbox(Waker::default());
            let log = PoolLog::new("native", 0, Arc::new(EventLog::default()));
            WorkerLoop::new(worker, inbox, log, clock, thread_stop).run().unwrap();
        });
        TestBalancer { front, back, stats, stop, thread: Some(thread) }
    }

    /// Requests sent to servers.
    fn dispatched(&self) -> u64 {
        self.stats.servers.iter().map(|server| server.common.dispatched.get()).sum()
    }

    /// Waits until `servers` servers take traffic.
    fn wait_for(&self, servers: usize) {
        let until = std::time::Instant::now() + PATIENCE;
        let is_up = |s: &&NativeServerStats| {
            s.common.id_plus_one.get() > 0 && s.common.state.get() == State::Up as u64
        };
        while self.stats.servers.iter().filter(is_up).count() != servers {
            assert!(std::time::Instant::now() < until, "{servers} servers never came up");
            std::thread::yield_now();
        }
    }
}

impl Drop for TestBalancer {
    fn drop(&mut self) {
        self.stop.ask();
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_handler_answers_a_call() {
    let balancer = TestBalancer::start(None);
    let server = Server::builder(balancer.back)
        .workers(2)
        .start(|request, reply| reply.extend(request.iter().rev()))
        .unwrap();
    assert!(server.wait_until_registered(PATIENCE));
    balancer.wait_for(1);
    let mut client = Client::builder().deadline(PATIENCE).retries(100).connect(balancer.front).unwrap();
    assert_eq!(client.call(b"stressed").unwrap(), b"desserts");
    assert_eq!(client.call(b"").unwrap(), b"");
    let longest = vec![7; FrameFormat::plain(256).payload_max()];
    assert_eq!(client.call(&longest).unwrap(), longest);
    let error = client.call(&[0; 145]).unwrap_err();
    assert!(matches!(error, client::CallError::TooLong { len: 145, max: 144 }), "{error}");
    assert_eq!(server.stop().received, 3);
}

#[test]
fn a_server_that_answers_directly_is_believed_if_it_is_expected() {
    for key in [None, Some([7; 16])] {
        let balancer = TestBalancer::with_reply_path(key, ReplyPath::Direct);
        let builder = Server::builder(balancer.back);
        let builder = key.into_iter().fold(builder, |builder, key| builder.key(key));
        let server = builder.start(|request, reply| reply.extend(request.iter().rev())).unwrap();
        balancer.wait_for(1);
        let client = || Client::builder().keyed_deployment(key.is_some());
        assert_eq!(client().connect(balancer.front).unwrap().call(b"abc").unwrap(), b"cba");
        let mut expecting = client().server(server.local_addr()).connect(balancer.front).unwrap();
        assert_eq!(expecting.call(b"abc").unwrap(), b"cba");
        let elsewhere = IpAddr::from([127, 0, 0, 99]);
        let patience = Duration::from_millis(300);
        let mut suspicious =
            client().server(elsewhere).deadline(patience).timeout(patience).connect(balancer.front).unwrap();
        assert!(matches!(suspicious.call(b"abc"), Err(client::CallError::Lost)));
        assert!(suspicious.totals().drops.get(DropReason::WrongSource) > 0);
        // The balancer has learnt of every completion by the server's counters.
        let until = std::time::Instant::now() + PATIENCE;
        while balancer.stats.common.answered.get() != balancer.dispatched() {
            assert!(std::time::Instant::now() < until, "completions are missing");
            std::thread::yield_now();
        }
    }
}

#[test]
fn many_calls_in_flight_each_get_their_own_answer() {
    let balancer = TestBalancer::start(None);
    let servers: Vec<_> = (0..3)
        .map(|id| {
            Server::builder(balancer.back).id(id).workers(2).start(|q, r| r.extend_from_slice(q)).unwrap()
        })
        .collect();
    balancer.wait_for(3);
    let mut client = Client::builder().deadline(PATIENCE).retries(100).connect(balancer.front).unwrap();
    let mut open = std::collections::HashMap::new();
    let mut answered = 0;
    for i in 0..3000u32 {
        let sequence = client.submit(&i.to_le_bytes(), Mode::Idempotent).unwrap();
        open.insert(sequence, i);
        while client.in_flight() >= 100 {
            if let Some(outcome) = client.poll(PATIENCE).unwrap() {
                assert_eq!(outcome.ending, Ending::Answered);
                let expected = open.remove(&outcome.sequence).expect("one outcome a request");
                assert_eq!(outcome.payload, expected.to_le_bytes());
                answered += 1;
            }
        }
    }
    while client.in_flight() > 0 || answered < 3000 {
        let outcome = client.poll(PATIENCE).unwrap().expect("an outcome for every request");
        assert_eq!(outcome.payload, open.remove(&outcome.sequence).unwrap().to_le_bytes());
        answered += 1;
    }
    assert!(open.is_empty());
    let served: Vec<u64> = servers.into_iter().map(|s| s.stop().served).collect();
    assert!(served.iter().sum::<u64>() >= 3000 && served.iter().all(|&n| n > 300), "{served:?}");
}

#[test]
fn a_stopping_server_finishes_its_queue_and_loses_nothing() {
    let balancer = TestBalancer::start(None);
    let slow = |q: &[u8], r: &mut Vec<u8>| {
        std::thread::sleep(Duration::from_millis(2)); // the work itself
        r.extend_from_slice(q);
    };
    let first = Server::builder(balancer.back).id(1).start(slow).unwrap();
    balancer.wait_for(1);
    let mut client = Client::builder().deadline(PATIENCE).timeout(PATIENCE).connect(balancer.front).unwrap();
    for i in 0..50u8 {
        client.submit(&[i], Mode::OneShot).unwrap();
    }
    let mut endings = vec![];
    while endings.len() < 5 {
        endings.extend(client.poll(PATIENCE).unwrap().map(|o| o.ending));
    }
    let totals = first.stop();
    while client.in_flight() > 0 || endings.len() < 50 {
        endings.extend(client.poll(PATIENCE).unwrap().map(|o| o.ending));
    }
    assert_eq!(totals.served, 50);
    assert!(endings.iter().all(|&e| e == Ending::Answered), "{endings:?}");
}

#[test]
fn a_handler_that_panics_is_an_error_and_nothing_more() {
    let balancer = TestBalancer::start(None);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let server = Server::builder(balancer.back)
        .start(move |q, r| {
            counted.fetch_add(1, Ordering::Relaxed);
            assert_ne!(q, b"boom", "as asked");
            r.extend_from_slice(q);
        })
        .unwrap();
    assert!(server.wait_until_registered(PATIENCE));
    balancer.wait_for(1);
    let mut client = Client::builder().deadline(PATIENCE).timeout(PATIENCE).connect(balancer.front).unwrap();
    let error = client.call(b"boom").unwrap_err();
    assert!(matches!(error, client::CallError::Refused(lbd::wire::Status::Error)), "{error}");
    assert_eq!(client.call(b"fine").unwrap(), b"fine");
    assert_eq!((server.stop().failed, calls.load(Ordering::Relaxed)), (1, 2));
}

#[test]
fn without_servers_the_answer_is_busy() {
    let balancer = TestBalancer::start(None);
    let mut client = Client::builder().deadline(Duration::from_millis(300)).connect(balancer.front).unwrap();
    let error = client.call(b"anybody?").unwrap_err();
    assert!(matches!(error, client::CallError::Busy), "{error}");
    assert!(balancer.stats.common.refused.get(DropReason::NoServer) > 0);
}

#[test]
fn with_a_key_only_those_who_have_it_join() {
    let balancer = TestBalancer::start(Some([7; 16]));
    let stranger = Server::builder(balancer.back).id(1).key([8; 16]).start(|_, _| ()).unwrap();
    let server =
        Server::builder(balancer.back).id(2).key([7; 16]).start(|q, r| r.extend_from_slice(q)).unwrap();
    assert!(server.wait_until_registered(PATIENCE));
    balancer.wait_for(1);
    let mut client = Client::builder()
        .keyed_deployment(true)
        .deadline(PATIENCE)
        .retries(100)
        .connect(balancer.front)
        .unwrap();
    for _ in 0..20 {
        assert_eq!(client.call(b"secret").unwrap(), b"secret");
    }
    assert!(!stranger.is_registered());
    assert!(balancer.stats.common.dropped.get(lbd::base::drop_reason::DropReason::Tag) > 0);
    assert!(server.stop().served >= 20);
}

#[test]
fn a_server_beyond_the_loopback_needs_a_key() {
    let balancer = "192.0.2.1:54000".parse().unwrap();
    let error = Server::builder(balancer).start(|_, _| ()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("needs a key"), "{error}");
}
