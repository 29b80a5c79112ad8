//! The simulation loop: runs the turns in order and applies their effects to the true queues and the
//! requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::addresses::Endpoint;
use super::contender::PolicyUnderTest;
use super::figures::SimLedger;
use super::lengths::Lengths;
use super::links::{DATAGRAM, Links, ParcelId, Transit};
use super::machine::{InService, ServerEnd, ServerMachine};
use super::setup::{FORMAT, Setup};
use super::speeds::Speeds;
use super::trace::RequestTrace;
use crate::base::batch::{Received, Rx, SocketId, Tx};
use crate::base::events::Events;
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::role::Role;
use crate::role::client::{self, ClientRole, Ending};
use crate::wire::Mode;

/// Content of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A request of the trace, by its number.
    Request(usize),
    /// A reply to a request.
    Reply {
        /// The request's number.
        request: usize,
        /// Whether the request was served.
        is_ok: bool,
    },
    /// Any other datagram.
    Other,
}

/// Parameters of a server end.
pub(super) struct NewEnd {
    /// Index of the balancer that knows the server.
    pub balancer: u32,
    /// Index of the server.
    pub server: usize,
    /// Weight of the server.
    pub weight: u16,
    /// Seed of the server's random numbers.
    pub seed: u64,
}

/// A kind of pool: its roles and its datagrams.
pub(super) trait PoolModel {
    /// A worker of a balancer.
    type Balancer: Role;
    /// A server as one balancer knows it.
    type End: ServerEnd;

    /// The balancer's client-side socket.
    const FRONT: SocketId;

    fn balancer(
        setup: &Setup,
        contender: PolicyUnderTest,
        number: u32,
        seed: u64,
        now: Instant,
    ) -> Self::Balancer;
    fn end(setup: &Setup, new: NewEnd, now: Instant) -> Self::End;
    /// Gives a balancer its servers with their weights, if servers of this kind do not register.
    fn take_servers(balancer: &mut Self::Balancer, now: Instant, servers: &[(SocketAddr, u16)]);
    /// Whether all servers of the balancer are eligible.
    fn is_ready(balancer: &Self::Balancer, servers: usize) -> bool;
    /// Writes a request of the trace, and returns its length.
    fn write_request(request: usize, bytes: &mut [u8; DATAGRAM]) -> usize;
    fn meaning(bytes: &[u8]) -> Meaning;
    /// The balancer's estimate for its `n`-th server, right after it sent these bytes to that server.
    fn believed(balancer: &Self::Balancer, n: usize, bytes: &[u8]) -> u32;
}

#[derive(Clone, Copy, Debug)]
enum SimEvent {
    /// A datagram arrives.
    Arrive(ParcelId),
    /// A role's deadline.
    Timer(Node),
    /// A server finishes the request in service.
    Done(u32),
}

/// A component with a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Balancer(u32),
    End(u32),
    Client(u32),
}

/// A role, and the deadline that is planned for it.
struct Timed<R> {
    role: R,
    due: Option<Instant>,
}

impl<R: Role> Timed<R> {
    fn new(role: R) -> Self {
        Timed { role, due: None }
    }

    /// Plans the role's deadline, if it has changed.
    fn plan(&mut self, now: Instant, node: Node, events: &mut Events<SimEvent>) {
        // An immediate deadline takes one microsecond, so that no error can stop the time.
        let next = self.role.next_deadline().map(|at| at.max(now + Duration::from_micros(1)));
        if let Some(next) = next.filter(|&next| self.due != Some(next)) {
            events.plan(next, SimEvent::Timer(node));
        }
        self.due = next;
    }

    /// Whether a planned deadline is still current.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due == Some(now);
        if is_due {
            self.due = None;
        }
        is_due
    }
}

/// Buffers of a turn; all turns share them, since turns run one after another.
struct TurnBuffers {
    rx: Rx,
    tx: Tx,
}

/// Maximum frames of a turn: a SYNC to each server, and some more.
const FRAMES: usize = 8_192;

impl TurnBuffers {
    fn new() -> Self {
        TurnBuffers { rx: Rx::new(1, DATAGRAM), tx: Tx::new(FRAMES, FRAMES * DATAGRAM, 1) }
    }

    /// Runs a turn with one datagram or none.
    fn run<R: Role>(&mut self, role: &mut R, now: Instant, arrived: Option<(SocketId, SocketAddr, &[u8])>) {
        self.rx.clear();
        self.tx.clear();
        if let Some((socket, peer, bytes)) = arrived {
            let len = bytes.len() as u32;
            self.rx.slot_mut(0)[..bytes.len()].copy_from_slice(bytes);
            self.rx.push(Received { socket, peer, local_ip: None, slot: 0, start: 0, len, stride: len });
        }
        role.on_batch(now, &mut self.rx, &mut self.tx);
        role.on_timeout(now, &mut self.tx);
    }

    /// The datagrams sent in the turn: socket, destination and bytes.
    fn sent(&self) -> impl Iterator<Item = (SocketId, Endpoint, &[u8])> {
        let (rx, tx) = (&self.rx, &self.tx);
        tx.destinations().iter().flat_map(move |destination| {
            let (socket, to) = (destination.socket, Endpoint::from(destination.to));
            tx.frames(destination).map(move |frame| (socket, to, tx.bytes(rx, frame)))
        })
    }
}

/// A balancer has fewer servers than it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not all servers have registered after {0:?} of virtual time; use a lower --loss or a lower --rtt")]
pub struct NotReady(Duration);

/// Maximum virtual time for all servers to register.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first moment; not zero, so that earlier moments exist.
const BEGINS: Instant = Instant::from_nanos(5_000_000_000);
/// If no request ends for this long after the last request, none will.
const QUIET: Duration = Duration::from_secs(4);

/// The simulated system: roles, network, true queues and requests.
pub(super) struct World<'a, P: PoolModel> {
    setup: &'a Setup,
    trace: &'a RequestTrace,
    speeds: Speeds,
    now: Instant,
    /// Start of the trace.
    origin: Instant,
    events: Events<SimEvent>,
    links: Links,
    turn: TurnBuffers,
    balancers: Vec<Timed<P::Balancer>>,
    /// Server ends, balancer by balancer.
    ends: Vec<Timed<P::End>>,
    ends_of_one: usize,
    machines: Vec<ServerMachine<<P::End as ServerEnd>::Job>>,
    clients: Vec<Timed<ClientRole>>,
    /// Numbers in the trace of the clients' requests.
    numbers: HashMap<(u32, u64), usize>,
    truth: Lengths,
    ledger: SimLedger,
}

/// Source of all requests that belong to no retrying client.
const ONE_CLIENT: Endpoint = Endpoint::Client(0);

impl<'a, P: PoolModel> World<'a, P> {
    /// A system in which all servers have registered, before the first request.
    pub fn new(
        setup: &'a Setup,
        contender: PolicyUnderTest,
        trace: &'a RequestTrace,
        seed: u64,
    ) -> Result<Self, NotReady> {
        let mut rng = Rng::new(seed);
        let speeds = setup.speeds();
        let ends_of_one = setup.servers_of_one();
        let mut world = World {
            setup,
            trace,
            now: BEGINS,
            origin: BEGINS,
            events: Events::new(),
            links: Links::new(setup.rtt / 2, setup.jitter, setup.loss, rng.next_u64()),
            turn: TurnBuffers::new(),
            balancers: vec![],
            ends: vec![],
            ends_of_one,
            machines: (0..setup.servers).map(|_| ServerMachine::new()).collect(),
            clients: vec![],
            numbers: HashMap::new(),
            truth: Lengths::new(setup.servers),
            ledger: SimLedger::new(trace.requests().len()),
            speeds,
        };
        world.people(contender, &mut rng);
        world.wait_until_ready()?;
        Ok(world)
    }

    /// Creates balancers, servers and clients. They start at random moments within an interval, so that
    /// their timers are not in step.
    fn people(&mut self, contender: PolicyUnderTest, rng: &mut Rng) {
        let interval = self.setup.staleness.as_nanos() as u64;
        for number in 0..self.setup.balancers as u32 {
            let at = self.now + Duration::from_nanos(rng.below(interval));
            let mut balancer = P::balancer(self.setup, contender, number, rng.next_u64(), at);
            let mut servers = vec![];
            for n in 0..self.ends_of_one {
                let end = self.ends.len() as u32;
                let server = self.setup.server_of(number as usize, n);
                let weight = self.setup.weight(self.speeds.at(server, Instant::ZERO));
                let at = self.now + Duration::from_nanos(rng.below(interval));
                servers.push((Endpoint::End(end).into(), weight));
                let new = NewEnd { balancer: number, server, weight, seed: rng.next_u64() };
                let role = P::end(self.setup, new, at);
                self.ends.push(Timed::new(role));
                self.ends[end as usize].plan(at, Node::End(end), &mut self.events);
            }
            P::take_servers(&mut balancer, at, &servers);
            self.balancers.push(Timed::new(balancer));
            self.balancers[number as usize].plan(at, Node::Balancer(number), &mut self.events);
        }
        for number in 0..self.setup.clients as u32 {
            let target = Endpoint::Balancer(number % self.setup.balancers as u32, P::FRONT);
            let settings = client::ClientSettings {
                format: FORMAT,
                target: target.into(),
                timeout: CLIENT_TIMEOUT,
                deadline: CLIENT_DEADLINE,
                retries: CLIENT_RETRIES,
                in_flight_max: CLIENT_IN_FLIGHT,
                servers: vec![],
                seed: rng.next_u64(),
            };
            self.clients.push(Timed::new(ClientRole::new(settings, self.now)));
        }
    }

    fn wait_until_ready(&mut self) -> Result<(), NotReady> {
        let is_ready = |world: &Self| {
            world.balancers.iter().all(|balancer| P::is_ready(&balancer.role, world.ends_of_one))
        };
        // Checked rarely, because the check visits every server of every balancer.
        for _ in 0..PATIENCE.as_nanos() / LOOK.as_nanos() {
            if is_ready(self) {
                self.origin = self.now;
                return Ok(());
            }
            let until = self.now + LOOK;
            while let Some(at) = self.events.next_at().filter(|&at| at <= until) {
                self.step(at);
            }
            self.now = until;
        }
        Err(NotReady(PATIENCE))
    }

    /// Runs the trace to its end.
    pub fn run(mut self) -> SimLedger {
        let trace = self.trace;
        for (number, request) in trace.requests().iter().enumerate() {
            let at = self.origin + request.at.since(Instant::ZERO);
            while let Some(next) = self.events.next_at().filter(|&next| next <= at) {
                self.step(next);
            }
            self.now = at;
            self.ask(number, request.balancer);
        }
        let patience = QUIET.max(self.setup.service.mean() * 100);
        let (mut open, mut until) = (usize::MAX, self.now);
        while self.ledger.open() > 0 {
            if self.ledger.open() < open {
                (open, until) = (self.ledger.open(), self.now + patience);
            }
            let Some(next) = self.events.next_at().filter(|&next| next <= until) else { break };
            self.step(next);
        }
        self.ledger.close()
    }

    /// Processes the next event, which is at this moment.
    fn step(&mut self, at: Instant) {
        self.now = at;
        let Some((_, event)) = self.events.pop() else { return };
        match event {
            SimEvent::Arrive(parcel) => self.arrive(parcel),
            SimEvent::Done(server) => self.done(server),
            SimEvent::Timer(Node::Balancer(number)) => {
                if self.balancers[number as usize].is_due(at) {
                    self.turn_balancer(number, None);
                }
            }
            SimEvent::Timer(Node::End(end)) => {
                if self.ends[end as usize].is_due(at) {
                    self.turn_end(end, None);
                }
            }
            SimEvent::Timer(Node::Client(number)) => {
                if self.clients[number as usize].is_due(at) {
                    self.turn_client(number, None);
                }
            }
        }
    }

    /// Processes the arrival of a request of the trace.
    fn ask(&mut self, number: usize, balancer: u32) {
        self.ledger.arrive(self.now, number);
        if self.clients.is_empty() {
            let mut bytes = [0; DATAGRAM];
            let len = P::write_request(number, &mut bytes) as u16;
            let to = Endpoint::Balancer(balancer, P::FRONT);
            return self
                .turn_balancer(balancer, Some((P::FRONT, &Transit { from: ONE_CLIENT, to, len, bytes })));
        }
        let client = (number % self.clients.len()) as u32;
        self.turn.rx.clear();
        self.turn.tx.clear();
        let role = &mut self.clients[client as usize].role;
        let payload = (number as u64).to_le_bytes();
        match role.submit(self.now, Mode::Idempotent, &payload, &mut self.turn.tx) {
            Ok(sequence) => drop(self.numbers.insert((client, sequence), number)),
            Err(client::Full) => self.ledger.refuse(number),
        }
        self.send_of_client(client);
    }

    fn arrive(&mut self, id: ParcelId) {
        let parcel = *self.links.take(id);
        match parcel.to {
            Endpoint::Balancer(number, socket) => self.turn_balancer(number, Some((socket, &parcel))),
            Endpoint::End(end) => self.turn_end(end, Some(&parcel)),
            Endpoint::Client(number) if self.clients.is_empty() => {
                debug_assert_eq!(Endpoint::Client(number), ONE_CLIENT);
                self.end_request(&parcel.bytes[..usize::from(parcel.len)]);
            }
            Endpoint::Client(number) => self.turn_client(number, Some(&parcel)),
            Endpoint::Outside => {}
        }
    }

    /// Processes a reply to a client that sends each request once.
    fn end_request(&mut self, bytes: &[u8]) {
        match P::meaning(bytes) {
            Meaning::Reply { request, is_ok: true } => self.ledger.answer(self.now, request),
            Meaning::Reply { request, is_ok: false } => self.ledger.refuse(request),
            Meaning::Request(_) | Meaning::Other => {}
        }
    }

    fn turn_balancer(&mut self, number: u32, arrived: Option<(SocketId, &Transit)>) {
        let balancer = &mut self.balancers[number as usize];
        let arrived = arrived.map(|(socket, parcel)| (socket, parcel.from.into(), bytes_of(parcel)));
        self.turn.run(&mut balancer.role, self.now, arrived);
        balancer.plan(self.now, Node::Balancer(number), &mut self.events);
        let World { turn, links, events, truth, ledger, setup, clients, .. } = self;
        for (socket, to, bytes) in turn.sent() {
            let from = Endpoint::Balancer(number, socket);
            let (delay, request) = match (to, P::meaning(bytes)) {
                // Clients have no delay to the balancers.
                (Endpoint::Client(_), Meaning::Reply { request, is_ok }) if clients.is_empty() => {
                    if is_ok {
                        ledger.answer(self.now, request);
                    } else {
                        ledger.refuse(request);
                    }
                    continue;
                }
                (Endpoint::Client(_), _) => (Some(Duration::ZERO), None),
                (Endpoint::End(end), Meaning::Request(request)) => {
                    let n = end as usize % self.ends_of_one;
                    let server = setup.server_of(number as usize, n);
                    let believed = P::believed(&balancer.role, n, bytes).saturating_sub(1);
                    ledger.decide(request, truth.of(server), truth.least(), believed);
                    let delay = links.draw();
                    if delay.is_some() {
                        truth.add(server);
                    }
                    (delay, Some(request))
                }
                _ => (links.draw(), None),
            };
            send(links, events, self.now, delay, Packet { from, to, bytes });
            if let (None, Some(request), true) = (delay, request, clients.is_empty()) {
                ledger.lose(request);
            }
        }
    }

    fn server_of(&self, end: u32) -> usize {
        let (balancer, n) = (end as usize / self.ends_of_one, end as usize % self.ends_of_one);
        self.setup.server_of(balancer, n)
    }

    fn turn_end(&mut self, end: u32, arrived: Option<&Transit>) {
        let server = self.server_of(end);
        let machine = &mut self.machines[server];
        let node = &mut self.ends[end as usize];
        let held = node.role.held();
        node.role.set_elsewhere((machine.held - held) as u32);
        let arrived = arrived.map(|parcel| (SocketId(0), parcel.from.into(), bytes_of(parcel)));
        self.turn.run(&mut node.role, self.now, arrived);
        node.plan(self.now, Node::End(end), &mut self.events);
        if node.role.held() > held {
            machine.held += 1;
            machine.waiting.push_back(end);
        }
        let World { turn, links, events, truth, ledger, clients, .. } = self;
        for (socket, to, bytes) in turn.sent() {
            debug_assert_eq!(socket, SocketId(0));
            let delay = links.draw();
            if let Meaning::Reply { request, .. } = P::meaning(bytes) {
                truth.take(server);
                if delay.is_none() && clients.is_empty() {
                    ledger.lose(request);
                }
            }
            send(links, events, self.now, delay, Packet { from: Endpoint::End(end), to, bytes });
        }
        self.serve(server);
    }

    /// Starts the oldest queued request if none is in service.
    fn serve(&mut self, server: usize) {
        let machine = &mut self.machines[server];
        while let Some(end) = machine.next_end() {
            let role = &mut self.ends[end as usize].role;
            let held = role.held();
            let taken = role.take(self.now);
            // A turn of the role answers the requests that it dropped meanwhile.
            let given_up = held - role.held();
            machine.held -= given_up;
            if given_up > 0 {
                self.ends[end as usize].plan(self.now, Node::End(end), &mut self.events);
            }
            if let Some((job, request)) = taken {
                let work = self.trace.requests()[request].work;
                let since = Instant::ZERO + self.now.since(self.origin);
                let took = Duration::from_nanos(self.speeds.time_for(server, work, since));
                machine.in_service = Some(InService { end, job, took });
                self.events.plan(self.now + took, SimEvent::Done(server as u32));
            }
        }
    }

    fn done(&mut self, server: u32) {
        let machine = &mut self.machines[server as usize];
        let InService { end, job, took } =
            machine.in_service.take().expect("the event was planned when the service began");
        machine.held -= 1;
        self.ends[end as usize].role.finish(job, took);
        self.turn_end(end, None);
    }

    fn turn_client(&mut self, number: u32, arrived: Option<&Transit>) {
        let node = &mut self.clients[number as usize];
        let arrived = arrived.map(|parcel| (client::SOCKET, parcel.from.into(), bytes_of(parcel)));
        self.turn.run(&mut node.role, self.now, arrived);
        self.send_of_client(number);
    }

    /// Sends a client's requests of this turn, and records the ended ones.
    fn send_of_client(&mut self, number: u32) {
        let World { turn, links, events, ledger, clients, numbers, .. } = self;
        for (socket, to, bytes) in turn.sent() {
            debug_assert_eq!(socket, client::SOCKET);
            let packet = Packet { from: Endpoint::Client(number), to, bytes };
            send(links, events, self.now, Some(Duration::ZERO), packet);
        }
        let node = &mut clients[number as usize];
        while let Some(outcome) = node.role.poll_outcome() {
            let request = numbers
                .remove(&(number, outcome.sequence))
                .expect("the number was stored when the request was sent");
            match outcome.ending {
                Ending::Answered => ledger.answer(self.now, request),
                Ending::Refused(_) | Ending::Busy => ledger.refuse(request),
                Ending::Lost => ledger.lose(request),
            }
        }
        node.plan(self.now, Node::Client(number), events);
    }
}

/// Timeout of retrying clients: the default of the configuration.
const CLIENT_TIMEOUT: Duration = Duration::from_millis(100);
const CLIENT_DEADLINE: Duration = Duration::from_secs(2);
const CLIENT_RETRIES: u8 = 5;
const CLIENT_IN_FLIGHT: usize = 4_096;
/// Interval of the check whether all servers have registered.
const LOOK: Duration = Duration::from_millis(5);

fn bytes_of(parcel: &Transit) -> &[u8] {
    &parcel.bytes[..usize::from(parcel.len)]
}

/// A datagram to send.
struct Packet<'a> {
    from: Endpoint,
    to: Endpoint,
    bytes: &'a [u8],
}

/// Sends a datagram over the network, unless it is lost.
fn send(
    links: &mut Links,
    events: &mut Events<SimEvent>,
    now: Instant,
    delay: Option<Duration>,
    packet: Packet<'_>,
) {
    let Packet { from, to, bytes } = packet;
    let Some(delay) = delay.filter(|_| to != Endpoint::Outside) else { return };
    let parcel = SimEvent::Arrive(links.put(from, to, bytes));
    match links.keeps_order() && !delay.is_zero() {
        true => events.plan_in_row(now + delay, parcel),
        false => events.plan(now + delay, parcel),
    }
}
