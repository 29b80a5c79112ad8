//! A whole system in virtual time: the real roles, a seeded lossy network, processes that die and return.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lbd::base::batch::{Rx, Tx};
use lbd::base::drop_reason::DropReason;
use lbd::base::service_time::ServiceTime;
use lbd::base::time::{Instant, earliest};
use lbd::io::{DatagramIo, Faults, IoOptions, SimIo, SimNet};
use lbd::pool::autoscale;
use lbd::pool::event::Event;
use lbd::pool::health::Rules;
use lbd::pool::part::Part;
use lbd::pool::select::{PolicyKind, Slot};
use lbd::pool::stats::{Counter, NativeStats, WorkerStats};
use lbd::pool::waiting::Limit;
use lbd::role::Role;
use lbd::role::client::{self, ClientRole, Ending, Outcome};
use lbd::role::controller::{self, ControllerRole};
use lbd::role::native::{self, NativeRole};
use lbd::role::server::{self, ServerRole, Work};
use lbd::supervise::servers::{Bounds, ReplicaAction, Replicas};
use lbd::wire::{FrameFormat, Mode, ReplyPath};

pub const INTERVAL: Duration = Duration::from_millis(10);
pub const MS: Duration = Duration::from_millis(1);

/// A worker's client-side address: the simulated network has no shared ports.
pub fn front_of(worker: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 54_001 + 100 * worker as u16))
}
pub fn back() -> SocketAddr {
    "10.0.0.1:54000".parse().unwrap()
}
pub fn back_of(worker: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 54_000 + 100 * worker as u16))
}
pub fn controller_addr() -> SocketAddr {
    "10.0.0.1:55000".parse().unwrap()
}
pub fn server_addr(id: u32) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, 1], 50_000 + id as u16))
}
pub fn client_addr(id: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 2, 1], 51_000 + id as u16))
}

/// A role and its sockets.
pub struct Node<R> {
    pub role: R,
    pub io: SimIo,
}

/// Which frames are answered in the turn in which they arrive: (frame, answer to its sender).
#[derive(Debug, Default)]
pub struct Answers {
    pub pairs: BTreeSet<(&'static str, &'static str)>,
    arrived: BTreeMap<SocketAddr, BTreeSet<&'static str>>,
}

/// The name of a frame's kind and operation in docs/PROTOCOL.md.
fn name_of(frame: &[u8]) -> &'static str {
    match (frame[3], frame[11]) {
        (1, _) => "request",
        (2, _) => "response",
        (3, 1) => "SYNC",
        (3, 2) => "CHALLENGE",
        (3, 3) => "GROW",
        (3, 4) => "SHRINK",
        (3, 5) => "ACK",
        (4, 0) => "REPLY",
        (4, 1) => "REPORT",
        (4, 2) => "REGISTER",
        other => panic!("no such frame: {other:?}"),
    }
}

impl Answers {
    fn note_arrivals(&mut self, rx: &mut Rx) {
        self.arrived.clear();
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            let frame_size = usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
            let names = self.arrived.entry(received.peer).or_default();
            names.extend(bytes.chunks(frame_size).map(name_of));
        }
    }

    /// Only a peer of one kind of frame shows what is an answer to what.
    fn note_answers(&mut self, rx: &Rx, tx: &Tx) {
        for destination in tx.destinations() {
            let Some(names) = self.arrived.get(&destination.to).filter(|names| names.len() == 1) else {
                continue;
            };
            let frame = *names.first().expect("it has one");
            self.pairs.extend(tx.frames(destination).map(|at| (frame, name_of(tx.bytes(rx, at)))));
        }
    }
}

impl<R: Role> Node<R> {
    /// Takes a turn if a deadline is due or a datagram has arrived. Returns whether it did.
    pub fn turn_if_due(&mut self, now: Instant) -> bool {
        self.watched_turn(now, None)
    }

    /// The same; `answers` notes what the frames of the turn are answered with.
    fn watched_turn(&mut self, now: Instant, mut answers: Option<&mut Answers>) -> bool {
        let due = self.role.next_deadline().is_some_and(|at| at <= now);
        if !due && !self.io.is_readable() {
            return false;
        }
        self.io.receive().unwrap();
        let (rx, tx) = self.io.turn();
        if let Some(answers) = &mut answers {
            answers.note_arrivals(rx);
        }
        self.role.on_batch(now, rx, tx);
        if let Some(answers) = &mut answers {
            answers.note_answers(rx, tx);
        }
        self.role.on_timeout(now, tx);
        self.io.flush().unwrap();
        true
    }
}

/// One client with the outcomes of its requests so far.
pub struct Caller {
    pub node: Node<ClientRole>,
    pub id: usize,
    /// Open requests by sequence number: the payload of the expected response.
    pub open: BTreeMap<u64, Vec<u8>>,
    pub endings: Vec<Ending>,
    pub attempts: u64,
}

impl Caller {
    pub fn submit(&mut self, now: Instant, number: u64) {
        let payload = [(self.id as u64).to_le_bytes(), number.to_le_bytes()].concat();
        let (_, tx) = self.node.io.turn();
        let sequence =
            self.node.role.submit(now, Mode::Idempotent, &payload, tx).expect("room for the request");
        self.node.io.flush().unwrap();
        assert!(self.open.insert(sequence, payload).is_none());
    }

    fn collect(&mut self, seed: u64) {
        while let Some(Outcome { sequence, ending, payload, attempts, .. }) = self.node.role.poll_outcome() {
            let expected = self.open.remove(&sequence).expect("one outcome to a request");
            if ending == Ending::Answered {
                assert_eq!(payload, expected, "seed {seed}: the answer to another request");
            }
            self.endings.push(ending);
            self.attempts += u64::from(attempts);
        }
    }

    pub fn count(&self, ending: Ending) -> usize {
        self.endings.iter().filter(|&&e| e == ending).count()
    }
}

pub struct World {
    pub seed: u64,
    pub net: SimNet,
    /// The balancer's workers, the primary first; empty while the balancer is dead.
    pub balancer: Vec<Node<NativeRole>>,
    pub workers: usize,
    /// Whether the client-side sockets are bound to a wildcard; clients reach them at [`front_of`].
    pub wildcard: bool,
    pub reply_path: ReplyPath,
    pub stats: Vec<Arc<NativeStats>>,
    pub servers: BTreeMap<u32, Node<ServerRole>>,
    /// Stopped servers (SIGSTOP): datagrams to them wait.
    pub frozen: BTreeSet<u32>,
    pub clients: Vec<Caller>,
    pub controller: Option<Node<ControllerRole>>,
    pub max_outstanding: Option<Limit>,
    pub waiting_max: usize,
    pub servers_max: usize,
    pub health: Rules,
    /// `None`: frames are not authenticated.
    pub key: Option<[u8; 16]>,
    pub service: Option<ServiceTime>,
    pub scale: autoscale::Policy,
    /// (virtual milliseconds, event) of the balancer.
    pub events: Vec<(u64, Event)>,
    /// Log lines of the controller.
    pub log: Vec<String>,
    pub answers: Answers,
    incarnations: u64,
}

pub fn options() -> IoOptions {
    IoOptions {
        slots: 64,
        slot_size: 8192,
        frames_max: 4096,
        staging_bytes: 256 * 128,
        frames_per_datagram: 5,
        gso: true,
        prefault: false,
    }
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> World {
        World {
            seed,
            net: SimNet::new(seed, faults),
            balancer: vec![],
            workers: 1,
            wildcard: false,
            reply_path: ReplyPath::Balancer,
            stats: vec![],
            servers: BTreeMap::new(),
            frozen: BTreeSet::new(),
            clients: vec![],
            controller: None,
            max_outstanding: None,
            waiting_max: 0,
            servers_max: 16,
            health: Rules::default(),
            key: None,
            service: None,
            scale: autoscale::Policy {
                threshold: 5.0,
                grow_after: 200 * MS,
                shrink_after: 1000 * MS,
                grow_cool_down: 300 * MS,
                shrink_cool_down: 300 * MS,
                grow_max: None,
                shrink_max: 1,
                min: 1,
                max: 8,
            },
            events: vec![],
            log: vec![],
            answers: Answers::default(),
            incarnations: 0,
        }
    }

    pub fn now(&self) -> Instant {
        self.net.now()
    }

    fn next_seed(&mut self) -> u64 {
        self.incarnations += 1;
        self.seed.wrapping_mul(1_000_003) + self.incarnations
    }

    fn format(&self) -> FrameFormat {
        match self.key {
            None => FrameFormat { size: 128, tagged: false },
            Some(_) => FrameFormat { size: 160, tagged: true },
        }
    }

    /// Settings of a new balancer process, with a secret and a seed of its own.
    fn balancer_settings(&mut self, policy: PolicyKind) -> native::NativePoolSettings {
        let seed = self.next_seed();
        native::NativePoolSettings { policy, secret: [seed as u8; 16], seed, ..self.settings() }
    }

    pub fn start_balancer(&mut self, policy: PolicyKind) {
        let settings = self.balancer_settings(policy);
        let workers = NativeRole::workers(settings, self.now());
        self.stats = workers.iter().map(|role| Arc::clone(role.stats())).collect();
        let attach = |w| self.net.attach(&[self.bound_front(w), back_of(w)], &options()).unwrap();
        self.balancer =
            workers.into_iter().enumerate().map(|(w, role)| Node { role, io: attach(w) }).collect();
    }

    fn bound_front(&self, worker: usize) -> SocketAddr {
        let mut front = front_of(worker);
        if self.wildcard {
            front.set_ip(Ipv4Addr::UNSPECIFIED.into());
        }
        front
    }

    /// The balancer's settings.
    pub fn settings(&self) -> native::NativePoolSettings {
        native::NativePoolSettings {
            format: self.format(),
            key: self.key,
            policy: PolicyKind::ShortestQueue,
            servers_max: self.servers_max,
            max_outstanding: self.max_outstanding,
            waiting_max: self.waiting_max,
            interval: INTERVAL,
            controller: Some(controller_addr()),
            scale: self.scale,
            health: self.health,
            own: (0..self.workers).flat_map(|w| [self.bound_front(w), back_of(w)]).collect(),
            secret: [self.seed as u8; 16],
            workers: self.workers,
            reply_path: self.reply_path,
            seed: 0,
        }
    }

    /// A counter of all workers together.
    pub fn total(&self, counter: fn(&WorkerStats) -> &Counter) -> u64 {
        self.stats.iter().map(|stats| counter(&stats.common).get()).sum()
    }

    /// Requests sent to servers.
    pub fn dispatched(&self) -> u64 {
        let servers = self.stats.iter().flat_map(|stats| &stats.servers);
        servers.map(|server| server.common.dispatched.get()).sum()
    }

    /// Requests refused for any reason.
    pub fn refused(&self) -> u64 {
        self.stats.iter().map(|stats| stats.common.refused.total()).sum()
    }

    /// The primary worker's role.
    pub fn primary(&self) -> &NativeRole {
        &self.balancer.first().expect("it runs").role
    }

    /// The state that the balancer exports for a successor.
    pub fn export_balancer(&mut self) -> Vec<u8> {
        let now = self.now();
        let parts: Vec<Part> = self.balancer.iter_mut().map(|node| node.role.export(now)).collect();
        postcard::to_allocvec(&parts).unwrap()
    }

    /// Another process takes over the balancer's sockets, with this exported state.
    pub fn hand_over(&mut self, bytes: &[u8]) {
        let settings = self.balancer_settings(PolicyKind::ShortestQueue);
        let parts: Vec<Part> = postcard::from_bytes(bytes).unwrap();
        let workers = NativeRole::workers_from(settings, parts, self.now()).unwrap();
        self.stats.extend(workers.iter().map(|role| Arc::clone(role.stats())));
        for (node, role) in self.balancer.iter_mut().zip(workers) {
            node.role = role;
        }
    }

    /// kill -9.
    pub fn kill_balancer(&mut self) {
        for worker in 0..self.balancer.drain(..).count() {
            self.net.detach(self.bound_front(worker));
            self.net.detach(back_of(worker));
        }
    }

    pub fn start_server(&mut self, id: u32) {
        self.start_server_as(id, id);
    }

    /// Starts a server with this id at the address of server `key`.
    pub fn start_server_as(&mut self, key: u32, id: u32) {
        let work = match self.service {
            Some(service) => Work::Timed { service, workers: 1 },
            None => Work::Echo,
        };
        let settings = server::ServerSettings {
            format: self.format(),
            key: self.key,
            id,
            weight: 1,
            queue_capacity: 256,
            interval: INTERVAL,
            balancer: back(),
            work,
            seed: self.next_seed(),
        };
        let io = self.net.attach(&[server_addr(key)], &options()).unwrap();
        self.servers.insert(key, Node { role: ServerRole::new(settings, self.now()), io });
    }

    /// kill -9.
    pub fn kill_server(&mut self, id: u32) {
        self.servers.remove(&id).expect("it runs");
        self.net.detach(server_addr(id));
    }

    pub fn start_clients(&mut self, count: usize, deadline: Duration) {
        (0..count).for_each(|id| self.start_client(client_addr(id), deadline));
    }

    /// Starts a client with this address.
    pub fn start_client(&mut self, addr: SocketAddr, deadline: Duration) {
        let id = self.clients.len();
        let settings = client::ClientSettings {
            format: self.format(),
            target: front_of(id % self.workers),
            timeout: 100 * MS,
            deadline,
            retries: 100,
            in_flight_max: 1024,
            servers: vec![],
            seed: self.next_seed(),
        };
        let io = self.net.attach(&[addr], &options()).unwrap();
        let node = Node { role: ClientRole::new(settings, self.now()), io };
        self.clients.push(Caller { node, id, open: BTreeMap::new(), endings: vec![], attempts: 0 });
    }

    pub fn start_controller(&mut self, count: u32) {
        let settings = controller::ControllerSettings {
            format: self.format(),
            key: self.key,
            balancer: back(),
            seed: self.next_seed(),
        };
        let bounds = Bounds { count, min: 1, max: 8, start_id: 0, ports: 50_000..50_100, leave: None };
        let mut replicas = Replicas::new(bounds);
        replicas.begin(self.now());
        let io = self.net.attach(&[controller_addr()], &options()).unwrap();
        self.controller = Some(Node { role: ControllerRole::new(settings, replicas), io });
    }

    /// Runs the world for this time.
    pub fn run(&mut self, span: Duration) {
        let until = self.now() + span;
        self.run_until(span, |w| w.now() >= until);
    }

    /// Runs the world until the fact holds, at most for this time. Returns whether the fact holds.
    pub fn run_until(&mut self, at_most: Duration, fact: impl Fn(&World) -> bool) -> bool {
        let end = self.now() + at_most;
        loop {
            self.take_turns();
            if fact(self) {
                return true;
            }
            if self.now() >= end {
                return false;
            }
            let mut next = earliest(self.net.next_event(), Some(end));
            for deadline in self.deadlines() {
                next = earliest(next, deadline);
            }
            // Even a deadline that is due takes a microsecond, so that time advances in spite of a bug.
            let soonest = self.now() + Duration::from_micros(1);
            self.net.advance(next.unwrap().max(soonest).min(end.max(soonest)));
        }
    }

    fn deadlines(&self) -> Vec<Option<Instant>> {
        let mut deadlines = vec![self.controller.as_ref().and_then(|n| n.role.next_deadline())];
        deadlines.extend(self.balancer.iter().map(|n| n.role.next_deadline()));
        let moving = self.servers.iter().filter(|(id, _)| !self.frozen.contains(id));
        deadlines.extend(moving.map(|(_, n)| n.role.next_deadline()));
        deadlines.extend(self.clients.iter().map(|c| c.node.role.next_deadline()));
        deadlines
    }

    fn take_turns(&mut self) {
        let now = self.now();
        for node in &mut self.balancer {
            if node.watched_turn(now, Some(&mut self.answers)) {
                node.role.check_invariants();
            }
            while let Some(event) = node.role.poll_event() {
                self.events.push((now.as_nanos() / 1_000_000, event));
            }
        }
        for (id, node) in &mut self.servers {
            if !self.frozen.contains(id) {
                node.watched_turn(now, Some(&mut self.answers));
            }
        }
        for caller in &mut self.clients {
            caller.node.watched_turn(now, Some(&mut self.answers));
            caller.collect(self.seed);
        }
        self.control(now);
    }

    /// Does the work of the controller's daemon: starts and stops simulated processes.
    fn control(&mut self, now: Instant) {
        let Some(mut node) = self.controller.take() else { return };
        node.watched_turn(now, Some(&mut self.answers));
        while let Some(action) = node.role.replicas_mut().poll_action() {
            match action {
                ReplicaAction::Start { id, .. } => {
                    self.start_server(id);
                    node.role.replicas_mut().on_started(now, id);
                }
                ReplicaAction::Stop { id } => self.servers.get_mut(&id).expect("it runs").role.drain(now),
                ReplicaAction::Kill { id } => self.kill_server(id),
                ReplicaAction::Tell(text) => self.log.push(text),
                ReplicaAction::ReportEnd { id, how } => {
                    self.log.push(format!("server {id} ended unexpectedly ({how})"));
                }
            }
        }
        let finished: Vec<u32> =
            self.servers.iter().filter(|(_, n)| n.role.is_finished()).map(|(&id, _)| id).collect();
        for id in finished {
            assert_eq!(
                self.servers[&id].role.queue_len(),
                0,
                "seed {}: a server exited with requests in its queue",
                self.seed
            );
            self.kill_server(id);
            node.role.replicas_mut().on_exited(now, id, "exit code 0");
        }
        self.controller = Some(node);
    }

    /// Ids of the servers that take traffic.
    pub fn up(&self) -> Vec<u32> {
        let Some(node) = self.balancer.first() else { return vec![] };
        let up = |s: &native::NativeServer| s.health.state() == lbd::pool::health::State::Up;
        node.role.registry().expect("the primary").iter().filter(|(_, s)| up(s)).map(|(_, s)| s.id).collect()
    }

    /// The sum of all counts in the selection tree.
    pub fn counted(&self) -> u64 {
        self.balancer.first().map_or(0, |n| n.role.tree().total())
    }

    pub fn in_flight(&self) -> usize {
        self.clients.iter().map(|c| c.open.len()).sum()
    }

    /// Checks the invariants that must hold when no request is in flight.
    pub fn check_at_rest(&mut self) {
        let seed = self.seed;
        assert!(
            self.run_until(Duration::from_secs(30), |w| w.in_flight() == 0),
            "seed {seed}: requests without an end"
        );
        let zero = self.run_until(Duration::from_secs(10), |w| w.counted() == 0);
        let tree = self.balancer.first().map(|n| format!("{:?}", n.role.tree()));
        assert!(zero, "seed {seed}: counts at rest: {tree:?}");
        // A repetition that the network made can arrive after the request has ended.
        let is_idle = |w: &Self| w.servers.values().all(|server| server.role.queue_len() == 0);
        assert!(self.run_until(Duration::from_secs(1), is_idle), "seed {seed}: a server still has a request");
        // A worker may send a request that another worker has received.
        let expired: u64 = self
            .stats
            .iter()
            .map(|s| s.common.dropped.get(DropReason::Expired) + s.common.dropped.get(DropReason::StillWaits))
            .sum();
        let accounted = self.dispatched() + self.refused() + expired;
        let requests = self.total(|s| &s.received);
        assert_eq!(requests, accounted, "seed {seed}: requests = dispatched + refused + expired");
        let waiting = self.balancer.first().map_or(0, |n| n.role.waiting());
        assert_eq!(waiting, 0, "seed {seed}: requests are still queued");
        // With direct replies, a request that the network doubles is finished twice and sent once.
        let (answered, dispatched) = (self.total(|s| &s.answered), self.dispatched());
        let exact = self.reply_path == ReplyPath::Balancer;
        assert!(!exact || answered <= dispatched, "seed {seed}: at most one reply to an attempt");
        for caller in &self.clients {
            let t = caller.node.role.totals();
            assert_eq!(t.sent, t.answered + t.refused + t.busy + t.lost, "seed {seed}: {t:?}");
            assert_eq!(t.sent, caller.endings.len() as u64, "seed {seed}");
        }
    }

    /// The queue length of a server in the selection tree; 0 without a slot.
    pub fn len_of(&self, id: u32) -> u32 {
        let primary = self.primary();
        let slot = primary.registry().expect("the primary").slot_of(id);
        slot.map_or(0, |slot: Slot| primary.tree().len(slot))
    }
}
