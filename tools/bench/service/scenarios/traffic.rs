//! The clients: an open loop that sends each request once, at a rate independent of the system's behaviour,
//! and records the outcome of each request.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use lbd::base::batch::{Rx, SocketId, Tx};
use lbd::base::time::{Clock, Instant, earliest};
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{BackEnd, DatagramIo, IoChoice, IoOptions};
use lbd::role::Role;

use super::speech::{Answer, Name, Speech};

/// A sender that is further behind its schedule skips sends instead of catching up.
const LAG_MAX: Duration = Duration::from_millis(50);
/// Interval at which the clients' thread checks for another rate and for the end.
const LOOK: Duration = Duration::from_millis(5);
/// Requests of a run at most: the record of each takes 16 bytes.
const REQUESTS_MAX: usize = 50_000_000;
/// Requests per turn at most.
const TURN: usize = 1_024;

/// The plan of the clients.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Protocol of the requests.
    pub speech: Speech,
    /// Client-side address of the balancer.
    pub target: SocketAddr,
    /// Number of clients, each with its own socket.
    pub clients: u16,
    /// Requests per second of all clients at the start; [`Traffic::set_rate`] changes the rate.
    pub rate: f64,
    /// Time after which an unanswered request is lost.
    pub patience: Duration,
}

/// The outcome of the requests. `sent = answered + refused + lost`.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Requests sent, each once.
    pub sent: u64,
    /// Requests answered correctly and in time.
    pub answered: u64,
    /// Requests refused: no server, or no server below its limit.
    pub refused: u64,
    /// Requests without a timely answer.
    pub lost: u64,
    /// Answers other than the correct one to a request of the receiving client.
    pub wrong: u64,
    /// Second answers to a request.
    pub double: u64,
    /// Answers to requests that count in `lost`.
    pub late: u64,
    /// Scheduled requests that were not sent because this process was late.
    pub unsent: u64,
    /// Datagrams to the clients that the kernel dropped, and datagrams of the clients that could not be sent.
    pub own_drops: u64,
    /// Send times of lost and refused requests.
    pub failed_at: Vec<Instant>,
    /// Median latency of the answers.
    pub p50: Duration,
    /// 99th percentile of the latency of the answers.
    pub p99: Duration,
    /// Latency of the slowest answer.
    pub slowest: Duration,
}

/// State that the clients' thread shares with other threads.
#[derive(Default)]
struct Shared {
    /// Requests per second, as the bits of a float.
    rate: AtomicU64,
    is_over: AtomicBool,
    sent: AtomicU64,
    answered: AtomicU64,
    /// Nanoseconds: `first_answer` considers requests sent after this time only.
    watch_from: AtomicU64,
    /// Nanoseconds: arrival of the first such answer; 0 = none yet.
    first_answer: AtomicU64,
}

/// Running clients.
pub struct Traffic {
    shared: Arc<Shared>,
    clock: Clock,
    thread: Option<JoinHandle<Result<Account>>>,
    target: SocketAddr,
    patience: Duration,
}

impl Traffic {
    /// Starts the clients.
    pub fn start(plan: Plan, clock: Clock) -> Result<Traffic> {
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = SocketOptions::default();
        let sockets: Vec<_> = (0..plan.clients).map(|_| bind(from, &options)).collect::<Result<_, _>>()?;
        let packed = plan.speech.packed();
        let options = IoOptions {
            frames_max: TURN,
            staging_bytes: TURN * plan.speech.len(),
            frames_per_datagram: packed,
            slots: 256,
            prefault: true,
            ..IoOptions::default()
        };
        let io = BackEnd::open(IoChoice::Mio, sockets, &options, clock)?;
        let shared = Arc::new(Shared::default());
        shared.rate.store(plan.rate.to_bits(), Ordering::Relaxed);
        shared.watch_from.store(u64::MAX, Ordering::Relaxed);
        let clients = Clients::new(plan, Arc::clone(&shared), clock.now());
        let thread = std::thread::Builder::new().name("clients".into());
        let thread = thread.spawn(move || clients.run(io, clock))?;
        let (target, patience) = (plan.target, plan.patience);
        Ok(Traffic { shared, clock, thread: Some(thread), target, patience })
    }

    /// Changes the rate, in requests per second.
    pub fn set_rate(&self, rate: f64) {
        self.shared.rate.store(rate.to_bits(), Ordering::Relaxed);
    }

    /// Requests sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Waits for this number of further answers.
    pub fn wait_for(&self, more: u64) -> Result<()> {
        let wanted = self.answered() + more;
        let what = format!("{more} more answers from {}", self.target);
        super::wait_until(&what, self.patience * 10, || Ok(self.answered() >= wanted))
    }

    /// Begins to watch for the first answer to a request that is sent from now on. Returns the present time.
    pub fn watch(&self) -> Instant {
        let now = self.clock.now();
        self.shared.first_answer.store(0, Ordering::Relaxed);
        self.shared.watch_from.store(now.as_nanos(), Ordering::Release);
        now
    }

    /// Time from [`Traffic::watch`] to the first answer to a later request; `None` before that answer.
    pub fn first_answer(&self) -> Option<Duration> {
        let first = self.shared.first_answer.load(Ordering::Relaxed);
        let from = Instant::from_nanos(self.shared.watch_from.load(Ordering::Relaxed));
        (first != 0).then(|| Instant::from_nanos(first).since(from))
    }

    /// Stops sending, waits for requests in flight, and returns the account.
    pub fn end(mut self) -> Result<Account> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("ended once");
        let account = thread.join().map_err(|_| anyhow!("the clients' thread has panicked"))??;
        ensure!(account.sent > 0, "no request was sent");
        Ok(account)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // the caller already reports an error
        }
    }
}

/// The outcome of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Answered,
    Refused,
    Lost,
}

struct Asked {
    at: Instant,
    client: u16,
    end: End,
}

/// The clients as a state machine.
struct Clients {
    plan: Plan,
    run: u64,
    shared: Arc<Shared>,
    /// All requests, by number.
    asked: Vec<Asked>,
    /// All requests before this index have ended.
    oldest: usize,
    next_due: Instant,
    is_over: bool,
    account: Account,
    latency: Histogram<u64>,
}

impl Clients {
    fn new(plan: Plan, shared: Arc<Shared>, now: Instant) -> Clients {
        Clients {
            // The last bits hold the number of the client.
            run: rand::random::<u64>() & !0xffff,
            asked: Vec::with_capacity(1 << 20),
            oldest: 0,
            next_due: now,
            is_over: false,
            account: Account::default(),
            latency: Histogram::new_with_bounds(1, 600_000_000, 3).expect("fixed bounds are valid"),
            plan,
            shared,
        }
    }

    fn run(mut self, mut io: BackEnd, clock: Clock) -> Result<Account> {
        while !(self.is_over && self.oldest == self.asked.len()) {
            let look = clock.now() + LOOK;
            io.wait(earliest(self.next_deadline(), Some(look))).context("the clients cannot wait")?;
            io.receive().context("the clients cannot receive")?;
            let now = clock.now();
            self.is_over = self.shared.is_over.load(Ordering::Relaxed);
            let (rx, tx) = io.turn();
            self.on_batch(now, rx, tx);
            self.on_timeout(now, tx);
            io.flush().context("the clients cannot send")?;
            self.shared.sent.store(self.account.sent, Ordering::Relaxed);
            self.shared.answered.store(self.account.answered, Ordering::Relaxed);
        }
        io.recount_drops();
        let counted = io.counters();
        let not_sent = counted.send_full + counted.send_failed + counted.send_too_large;
        self.account.own_drops = counted.kernel_drops + not_sent;
        let micros = Duration::from_micros;
        self.account.p50 = micros(self.latency.value_at_quantile(0.5));
        self.account.p99 = micros(self.latency.value_at_quantile(0.99));
        self.account.slowest = micros(self.latency.max());
        Ok(self.account)
    }

    fn on_answer(&mut self, now: Instant, client: u16, answer: Option<Answer>) {
        let (name, end) = match answer {
            Some(Answer::Served(name)) => (name, End::Answered),
            Some(Answer::Refused(name)) => (name, End::Refused),
            None => return self.account.wrong += 1,
        };
        let asked = self.asked.get_mut(name.number as usize);
        let Some(asked) =
            asked.filter(|asked| name.run == self.run && name.client == client && asked.client == client)
        else {
            self.account.wrong += 1;
            return;
        };
        match asked.end {
            End::Answered | End::Refused => self.account.double += 1,
            End::Lost => {
                self.account.late += 1;
                asked.end = end; // a further answer counts as a second one
            }
            End::Open => {
                asked.end = end;
                let at = asked.at;
                if end == End::Refused {
                    self.account.refused += 1;
                    self.account.failed_at.push(at);
                    return;
                }
                self.account.answered += 1;
                self.latency.saturating_record((now.since(at).as_micros() as u64).max(1));
                if at.as_nanos() > self.shared.watch_from.load(Ordering::Acquire)
                    && self.shared.first_answer.load(Ordering::Relaxed) == 0
                {
                    self.shared.first_answer.store(now.as_nanos(), Ordering::Relaxed);
                }
            }
        }
    }

    /// Ends lost requests. All requests have the same time limit, so the oldest is lost first.
    fn expire(&mut self, now: Instant) {
        while let Some(asked) = self.asked.get_mut(self.oldest) {
            if asked.end == End::Open {
                if asked.at + self.plan.patience > now {
                    break;
                }
                asked.end = End::Lost;
                self.account.lost += 1;
                self.account.failed_at.push(asked.at);
            }
            self.oldest += 1;
        }
    }

    fn ask(&mut self, now: Instant, tx: &mut Tx) -> bool {
        let number = self.asked.len();
        let client = (number % usize::from(self.plan.clients)) as u16;
        let destination = tx.destination(SocketId(client), self.plan.target, None);
        let Some(bytes) = destination.and_then(|to| tx.stage(to, self.plan.speech.len())) else {
            return false; // the rest leaves with the next turn
        };
        let name = Name { run: self.run, client, number: number as u32 };
        let deadline_us = self.plan.patience.as_micros().min(u128::from(u32::MAX)) as u32;
        self.plan.speech.write(bytes, name, deadline_us);
        self.asked.push(Asked { at: now, client, end: End::Open });
        self.account.sent += 1;
        true
    }
}

impl Role for Clients {
    fn on_batch(&mut self, now: Instant, rx: &mut Rx, _: &mut Tx) {
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            let client = received.socket.0;
            for datagram in bytes.chunks_mut(received.stride as usize) {
                let is_known = received.peer == self.plan.target;
                let piece =
                    if self.plan.speech == Speech::Native { self.plan.speech.len() } else { datagram.len() };
                for message in datagram.chunks_mut(piece) {
                    let answer = if is_known { self.plan.speech.read(message) } else { None };
                    self.on_answer(now, client, answer);
                }
            }
        }
    }

    fn on_timeout(&mut self, now: Instant, tx: &mut Tx) {
        self.expire(now);
        let gap = Duration::from_secs_f64(1.0 / f64::from_bits(self.shared.rate.load(Ordering::Relaxed)));
        while self.next_due + LAG_MAX < now {
            self.next_due += gap;
            self.account.unsent += u64::from(!self.is_over);
        }
        while self.next_due <= now && !self.is_over && self.asked.len() < REQUESTS_MAX {
            if !self.ask(now, tx) {
                break;
            }
            self.next_due += gap;
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        (!self.is_over).then_some(self.next_due)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// Of ten requests, one each is answered: never, twice, with a changed byte, by a stranger, to another
    /// client.
    #[test]
    fn whatever_is_not_the_one_right_answer_is_seen() {
        let [server, stranger] = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let plan = Plan {
            speech: Speech::Datagram,
            target: server.local_addr().unwrap(),
            clients: 4,
            rate: 1_000.0,
            patience: Duration::from_secs(1),
        };
        let traffic = Traffic::start(plan, Clock::start()).unwrap();
        let (mut bytes, mut before) = ([0; 64], None);
        let mut kinds = [0; 5];
        for n in 0..200 {
            let (len, client) = server.recv_from(&mut bytes).unwrap();
            let answer = &mut bytes[..len];
            kinds.get_mut(n % 10).into_iter().for_each(|kind| *kind += 1);
            match n % 10 {
                0 => {}
                1 => {
                    for _ in 0..2 {
                        server.send_to(answer, client).unwrap();
                    }
                }
                2 => {
                    answer[3] ^= 1;
                    server.send_to(answer, client).unwrap();
                }
                3 => drop(stranger.send_to(answer, client).unwrap()),
                4 => drop(server.send_to(answer, before.expect("not the first")).unwrap()),
                _ => drop(server.send_to(answer, client).unwrap()),
            }
            before = Some(client);
        }
        traffic.shared.is_over.store(true, Ordering::Relaxed);
        server.set_nonblocking(true).unwrap();
        let account = traffic.end().unwrap();
        let unserved = account.sent - 200; // requests after the last answer
        assert_eq!(kinds, [20; 5]);
        assert_eq!((account.double, account.wrong), (20, 60), "{account:?}");
        assert_eq!((account.answered, account.lost), (120, 80 + unserved), "{account:?}");
        assert_eq!(account.failed_at.len() as u64, account.lost);
    }
}
