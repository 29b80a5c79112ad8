//! One worker of a pool of either kind: serves until the worker retires, then finishes the requests in
//! flight. A thread drives it, alone or with others ([`super::worker_threads`]).

use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::time::Duration;

use super::inbox::Inbox;
use super::pool_log::PoolLog;
use super::worker_threads::Runnable;
use super::{turn_after, turn_until};
use crate::base::batch::SocketId;
use crate::base::drop_reason::DropReason;
use crate::base::time::{Clock, Instant, earliest};
use crate::io::{BackEnd, DatagramIo, IoCounters, Waker};
use crate::os::signals::{Stop, Woken};
use crate::pool::event::Event;
use crate::pool::part::Part;
use crate::pool::stats::{DatagramStats, WorkerStats};
use crate::role::Role;

/// A role between clients and servers.
pub trait Balancing: Role {
    /// The client-side sockets.
    fn fronts(&self) -> Range<u16>;

    /// The server-side sockets that a successor reads too, if it continues the requests of this worker.
    fn backs(&self) -> Range<u16>;

    /// Before the first worker of the pool exports: no request leaves the pending queue from now on.
    fn stop_waiting(&mut self);

    /// The successor has given up.
    fn wait_again(&mut self);

    /// The state for a successor that continues exactly. All workers of the pool have stopped.
    fn export(&mut self, now: Instant) -> Part;

    /// Takes no new requests from now on.
    fn retire(&mut self, now: Instant);

    /// Whether no request is in flight.
    fn is_idle(&self, now: Instant) -> bool;

    /// Whether a server takes traffic.
    fn can_serve(&self) -> bool;

    /// A number that rises in a turn after which the pool's other workers must take one, too.
    fn shared_version(&self) -> u64;

    /// The oldest event that no log has yet.
    fn poll_event(&mut self) -> Option<Event>;

    /// The worker's counters that every pool has.
    fn counters(&self) -> &WorkerStats;

    /// The worker's counters that only a datagram pool has.
    fn datagram_counters(&self) -> Option<&DatagramStats>;

    /// Counts datagrams of clients that no role sees: empty ones, and those that were cut.
    fn count_unusable(&self, count: u64);
}

/// The part of the I/O layer's counters that is in the pool's counters already.
#[derive(Debug, Default)]
struct Accounted {
    counters: IoCounters,
    /// Unusable datagrams of clients.
    unusable: u64,
    /// Datagrams of clients that the kernel dropped.
    front_drops: u64,
}

/// The phase of a worker's life.
#[derive(Debug)]
enum Life {
    /// The client-side sockets are not read until a server is up, or until this time.
    Waiting {
        until: Instant,
    },
    Serving,
    /// The client-side sockets are paused; requests in flight finish, until this time.
    Retiring {
        until: Instant,
    },
    Over,
    Failed(io::Error),
}

/// Maximum time between two looks of a worker that waits for servers, or for its requests in flight: another
/// worker can end either.
const LOOK: Duration = Duration::from_millis(5);

/// What a worker does that takes no turns: called after each wake-up, with whether the time is over. False
/// ends it.
pub type Hold<R, I> = Box<dyn FnMut(&mut Worker<R, I>, bool) -> bool + Send>;

/// Maximum number of turns for datagrams that were read before a pause.
const SETTLE_TURNS: usize = 16;

/// A role with its sockets.
pub struct Worker<R, I> {
    /// The worker's role.
    pub role: R,
    /// The worker's sockets.
    pub io: I,
    /// Number of sockets.
    sockets: u16,
    /// The CPU that the worker is pinned to; `None` if it is not pinned.
    processor: Option<usize>,
    /// Maximum time for requests in flight when the worker retires.
    patience: Duration,
    life: Life,
    /// The worker takes no turns, at most until this time.
    hold: Option<(Instant, Hold<R, I>)>,
    /// The end of the last turn.
    last_turn: Instant,
    accounted: Accounted,
    /// Wake the pool's other workers.
    others: Vec<Waker>,
    /// The role's version at which they were last woken.
    shown: u64,
}

impl<R: Balancing, I: DatagramIo> Worker<R, I> {
    /// A worker that serves, with `sockets` sockets.
    pub fn new(role: R, io: I, sockets: usize, processor: Option<usize>, patience: Duration) -> Self {
        let (sockets, accounted) = (sockets as u16, Accounted::default());
        let (life, others, shown) = (Life::Serving, vec![], 0);
        let (hold, last_turn) = (None, Instant::ZERO);
        Worker { role, io, sockets, processor, patience, life, hold, last_turn, accounted, others, shown }
    }

    /// Makes the worker wake the pool's other workers when they must take a turn.
    pub fn wake_others(&mut self, others: Vec<Waker>) {
        self.others = others;
    }

    /// Leaves datagrams of clients in the sockets' buffers until a server is up, at most until this time: for
    /// a process that took over its sockets, so that they may hold requests already.
    pub fn wait_for_servers(&mut self, until: Instant) -> io::Result<()> {
        self.life = Life::Waiting { until };
        self.each_front(I::pause)
    }

    /// Stops reading clients; the loop ends when the requests in flight are finished.
    pub fn retire(&mut self, now: Instant) -> io::Result<()> {
        if matches!(self.life, Life::Waiting { .. } | Life::Serving) {
            self.life = Life::Retiring { until: now + self.patience };
            self.role.retire(now);
            self.each_front(I::pause)?;
        }
        Ok(())
    }

    /// Leaves datagrams of clients in the sockets' buffers.
    pub fn pause_fronts(&mut self) -> io::Result<()> {
        self.each_front(I::pause)
    }

    /// Takes turns until all datagrams that were read before a pause are handled.
    pub fn settle(&mut self, clock: &Clock) -> io::Result<()> {
        for _ in 0..SETTLE_TURNS {
            let (_, is_settled) = turn_until(Some(clock.now()), &mut self.io, &mut self.role, clock)?;
            if is_settled {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes no turns until `hold` returns false, at most until this time. Tasks from other threads are
    /// executed meanwhile.
    pub fn hold(&mut self, until: Instant, hold: Hold<R, I>) {
        self.hold = Some((until, hold));
    }

    /// Ends the loop after this turn: another process has taken over all requests in flight.
    pub fn end(&mut self) {
        self.life = Life::Over;
    }

    /// Leaves all datagrams in the sockets' buffers.
    pub fn pause_all(&mut self) -> io::Result<()> {
        self.each(0..self.sockets, I::pause)
    }

    /// Reads all sockets again. A worker that cannot ends with the error.
    pub fn resume_all(&mut self) {
        if let Err(error) = self.each(0..self.sockets, I::resume) {
            self.life = Life::Failed(error);
        }
    }

    fn each_front(&mut self, act: fn(&mut I, SocketId) -> io::Result<()>) -> io::Result<()> {
        self.each(self.role.fronts(), act)
    }

    fn each(&mut self, sockets: Range<u16>, act: fn(&mut I, SocketId) -> io::Result<()>) -> io::Result<()> {
        sockets.map(SocketId).try_for_each(|socket| act(&mut self.io, socket))
    }

    /// Advances to the next phase if it is time; true at the end.
    fn live(&mut self, now: Instant) -> io::Result<bool> {
        match &self.life {
            &Life::Waiting { until } => {
                if now >= until || self.role.can_serve() {
                    self.life = Life::Serving;
                    self.each_front(I::resume)?;
                }
                Ok(false)
            }
            Life::Serving => Ok(false),
            &Life::Retiring { until } => Ok(now >= until || self.role.is_idle(now)),
            Life::Over => Ok(true),
            Life::Failed(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }

    /// When the worker must take a turn without news.
    fn deadline(&self) -> Option<Instant> {
        if let Some((until, _)) = self.hold {
            return Some(until);
        }
        match self.life {
            Life::Waiting { until } | Life::Retiring { until } => {
                earliest(self.role.next_deadline(), Some(until.min(self.last_turn + LOOK)))
            }
            Life::Serving => self.role.next_deadline(),
            Life::Over | Life::Failed(_) => Some(Instant::ZERO),
        }
    }

    /// Takes a turn. `sleeps`: first waits for news or the deadline.
    fn turn(&mut self, clock: &Clock, sleeps: bool) -> io::Result<Instant> {
        let deadline = if sleeps { self.deadline() } else { Some(Instant::ZERO) };
        if let Some((until, mut hold)) = self.hold.take() {
            self.io.wait(deadline)?;
            let now = clock.now();
            if hold(self, now >= until) {
                self.hold = Some((until, hold));
            }
            return Ok(now);
        }
        let (now, _) = turn_after(deadline, &mut self.io, &mut self.role, clock)?;
        self.last_turn = now;
        let version = self.role.shared_version();
        if std::mem::replace(&mut self.shown, version) != version {
            self.others.iter().for_each(Waker::wake);
        }
        Ok(now)
    }

    /// Writes the role's events to the logs.
    fn log_events(&mut self, log: &PoolLog) {
        while let Some(event) = self.role.poll_event() {
            log.event(&event);
        }
    }

    /// Brings the counters of the I/O layer into the pool's counters.
    fn account(&mut self, log: &PoolLog) {
        let (now, seen) = (self.io.counters(), &mut self.accounted);
        if now == seen.counters {
            return;
        }
        let (io, stats) = (&mut self.io, self.role.counters());
        let fronts = || self.role.fronts().map(SocketId);
        let unusable = fronts().map(|front| io.unusable(front)).sum();
        self.role.count_unusable(unusable - seen.unusable);
        let front_drops: u64 = fronts().map(|front| io.kernel_drops(front)).sum();
        // Added, not set: the pool's counters may continue those of a predecessor.
        let before = &seen.counters;
        let back_drops = now.kernel_drops - front_drops - (before.kernel_drops - seen.front_drops);
        stats.kernel_drops.add(front_drops - seen.front_drops);
        stats.kernel_drops_back.add(back_drops);
        let unsent = |counters: &IoCounters| counters.send_full + counters.send_failed;
        stats.send_drops.add(unsent(&now) - unsent(before));
        stats.dropped.add(DropReason::TooLarge, now.send_too_large - before.send_too_large);
        stats.gso_off.set(now.gso_off);
        stats.out_of_slots.add(now.out_of_slots - before.out_of_slots);
        stats.completions_delayed.add(now.completions_delayed - before.completions_delayed);
        if now.gso_off != seen.counters.gso_off {
            log.segmentation_refused();
        }
        while let Some(datagram) = self.io.poll_too_large() {
            log.too_large(&datagram);
        }
        *seen = Accounted { counters: now, unusable, front_drops };
    }
}

/// A worker with its inbox and its logs.
pub struct WorkerLoop<R, I> {
    worker: Worker<R, I>,
    inbox: Inbox<Worker<R, I>>,
    log: PoolLog,
    clock: Clock,
    stop: Stop,
    woken: Option<Woken>,
}

impl<R: Balancing, I: DatagramIo> WorkerLoop<R, I> {
    /// The loop of a worker that retires when `stop` asks for it.
    pub fn new(
        worker: Worker<R, I>,
        inbox: Inbox<Worker<R, I>>,
        log: PoolLog,
        clock: Clock,
        stop: Stop,
    ) -> WorkerLoop<R, I> {
        WorkerLoop { worker, inbox, log, clock, stop, woken: None }
    }

    /// Takes turns in this thread until the worker has retired.
    pub fn run(mut self) -> io::Result<()> {
        let result = loop {
            match self.turn(true) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.end();
        result
    }

    /// Takes a turn; false if the worker has retired. `sleeps`: first waits for news or the deadline.
    fn turn(&mut self, sleeps: bool) -> io::Result<bool> {
        let WorkerLoop { worker, inbox, log, clock, stop, .. } = self;
        let now = worker.turn(clock, sleeps)?;
        worker.log_events(log);
        worker.account(log);
        inbox.serve(worker, now);
        if stop.is_asked() {
            worker.retire(now)?;
        }
        Ok(!worker.live(now)? && !stop.is_asked_twice())
    }

    /// Writes the last counters and events.
    fn end(&mut self) {
        let WorkerLoop { worker, log, .. } = self;
        worker.io.recount_drops();
        worker.account(log);
        worker.log_events(log);
        log.stopped(worker.role.counters(), worker.role.datagram_counters());
    }
}

impl<R: Balancing> WorkerLoop<R, BackEnd> {
    /// Makes `stop` wake the worker as long as the loop exists.
    pub fn woken_by_stop(mut self) -> Self {
        self.woken = Some(self.stop.wake_also(self.worker.io.waker()));
        self
    }
}

impl<R: Balancing + Send> Runnable for WorkerLoop<R, BackEnd> {
    fn descriptor(&self) -> Option<RawFd> {
        self.worker.io.descriptor()
    }

    fn waker(&self) -> Waker {
        self.worker.io.waker()
    }

    fn processor(&self) -> Option<usize> {
        self.worker.processor
    }

    fn deadline(&self) -> Option<Instant> {
        if self.worker.io.has_more() && self.worker.hold.is_none() {
            return Some(Instant::ZERO);
        }
        self.worker.deadline()
    }

    fn turn(&mut self, sleeps: bool) -> io::Result<bool> {
        WorkerLoop::turn(self, sleeps)
    }

    fn end(&mut self) {
        WorkerLoop::end(self);
    }

    fn not_pinned(&self, cpu: usize, error: &io::Error) {
        self.log.not_pinned(cpu, error);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::base::batch::{Rx, Tx};
    use crate::config::Config;
    use crate::io::IoOptions;
    use crate::role::datagram::{Chance, DatagramRole, Sockets, WorkerSockets};

    /// An I/O layer of one client-side and one server-side socket that has counted this.
    struct Counted {
        counters: IoCounters,
        unusable: u64,
        turn: (Rx, Tx),
    }

    impl DatagramIo for Counted {
        fn wait(&mut self, _: Option<Instant>) -> io::Result<()> {
            Ok(())
        }

        fn receive(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn turn(&mut self) -> (&mut Rx, &mut Tx) {
            (&mut self.turn.0, &mut self.turn.1)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn local_addr(&self, _: SocketId) -> SocketAddr {
            ([127, 0, 0, 1], 1).into()
        }

        fn counters(&self) -> IoCounters {
            self.counters
        }

        fn kernel_drops(&self, socket: SocketId) -> u64 {
            [3, 4][usize::from(socket.0)]
        }

        fn unusable(&self, socket: SocketId) -> u64 {
            if socket.0 == 0 { self.unusable } else { 0 }
        }

        fn recount_drops(&mut self) {}

        fn pause(&mut self, _: SocketId) -> io::Result<()> {
            Ok(())
        }

        fn resume(&mut self, _: SocketId) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_datagram_pool_has_all_counters_of_the_io_layer() {
        let text =
            r#"{"pools": [{"listen": "127.0.0.1:1", "protocol": "datagram", "servers": ["127.0.0.1:2"]}]}"#;
        let config = Config::parse(text, None).unwrap();
        let settings = config.datagram_pools().next().unwrap().settings.clone();
        let sockets = Sockets { fronts: 0..1, v4: 1..2, v6: 0..0, check_v4: None, check_v6: None };
        let addrs = vec![([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 3).into()];
        let layout = [WorkerSockets { sockets, addrs }];
        let chance = Chance { secret: [7; 16], seed: 7 };
        let (_, mut roles) = DatagramRole::workers(settings, chance, &layout, Instant::ZERO);
        let counters = IoCounters {
            received: 9,
            kernel_drops: 7,
            send_full: 1,
            send_failed: 2,
            send_too_large: 4,
            gso_off: 1,
            out_of_slots: 5,
            completions_delayed: 6,
            ..IoCounters::default()
        };
        let io = Counted { counters, unusable: 2, turn: IoOptions::default().memory() };
        let mut worker = Worker::new(roles.remove(0), io, 2, None, Duration::ZERO);
        let log = PoolLog::new("raw", 0, std::sync::Arc::default());
        worker.account(&log);
        worker.account(&log);
        let stats = worker.role.counters();
        assert_eq!((stats.out_of_slots.get(), stats.completions_delayed.get()), (5, 6));
        assert_eq!((stats.kernel_drops.get(), stats.kernel_drops_back.get()), (3, 4));
        assert_eq!((stats.send_drops.get(), stats.gso_off.get()), (3, 1));
        assert_eq!(stats.dropped.get(DropReason::TooLarge), 4, "counted once");
        assert_eq!((stats.received.get(), stats.refused.get(DropReason::Length)), (2, 2));
        worker.io.unusable = 5;
        worker.io.counters.received += 3;
        worker.account(&log);
        assert_eq!(
            worker.role.counters().refused.get(DropReason::Length),
            5,
            "unusable datagrams count once"
        );
    }
}
