//! A datagram pool: sends each datagram to the server with the shortest queue, and what comes back to whom it
//! is for. The servers know nothing of lbd.
//!
//! One [`DatagramRole`] is one *worker*: it has a front socket for each address that the pool listens on,
//! ports of its own towards the servers, and a table of its own of what is under way. Workers share the
//! selection tree, the members, and who may send how much. Worker 0 is the *primary*: it alone judges the
//! servers' health and checks them.
//!
//! Never touches a socket, a clock or a log: what is worth telling comes out of [`DatagramRole::poll_event`],
//! what is worth counting goes to [`DatagramStats`].
//!
//! | file | a change there is about |
//! |---|---|
//! | `settings.rs` | what a pool is made from |
//! | `shared.rs` | what the workers share |
//! | `forward.rs` | choosing a server, sending to it, keeping count |
//! | `front.rs` | who may send |
//! | `pending.rs`, `waiting.rs` | requests that wait for a server below its limit |
//! | `request.rs` | datagrams of a turn, and their client |
//! | `matching.rs` | the two ways of matching, as the rest sees them |
//! | `dns.rs`, `queries.rs` | matching DNS answers with queries |
//! | `by_port.rs`, `leases.rs` | matching by port and server |
//! | `membership.rs`, `slots.rs` | which servers the pool has (primary) |
//! | `health.rs`, `checks.rs` | which servers are up (primary) |
//! | `handover.rs`, `adopted_flows.rs` | what a successor is given, and how it goes on |

mod adopted_flows;
mod by_port;
mod checks;
mod dns;
mod forward;
mod front;
mod handover;
mod health;
mod leases;
mod matching;
mod membership;
mod pending;
mod queries;
mod request;
mod settings;
mod shared;
mod slots;
#[cfg(test)]
mod tests;
mod waiting;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::forward::Forwarder;
use self::health::{LOOK, Primary};
use self::matching::Matching;
use self::request::{Response, datagrams};
use crate::base::batch::{Received, Rx, SocketId, Tx};
use crate::base::rng::Rng;
use crate::base::time::{Instant, earliest};
use crate::pool::event::Event;
use crate::pool::order::{Order, Refused};
use crate::pool::stall::StallDetector;
use crate::pool::stats::DatagramStats;
use crate::role::{Role, TwoSided};

pub use self::handover::Flow;
pub use self::settings::{Affinity, Chance, Check, HealthCheck, Protocol, ProxyProtocol, Settings, Sockets};
pub use self::shared::Shared;

/// A worker's sockets.
#[derive(Clone, Debug)]
pub struct WorkerSockets {
    /// Which is what.
    pub sockets: Sockets,
    /// Their addresses, by their numbers.
    pub addrs: Vec<SocketAddr>,
}

/// One worker's state machine.
pub struct DatagramRole {
    core: Forwarder,
    matching: Matching,
    primary: Option<Box<Primary>>,
    next_tick: Instant,
    next_measure: Instant,
    stalls: StallDetector,
    /// Until then nothing is overdue: this process was away.
    grace: Instant,
    /// Since when it takes nothing of clients any more.
    retired: Option<Instant>,
    /// Whether queued requests remain that the turn had no room for.
    has_more: bool,
}

/// Timers are looked at this often.
const TICK: Duration = Duration::from_millis(10);
/// While something is awaited there is a tick every [`TICK`]; a gap as long as this is a pause of our own.
const PAUSE: Duration = Duration::from_millis(100);
/// Of a worker that retires: a flow without a datagram for so long is not waited for.
const FLOW_QUIET: Duration = Duration::from_secs(1);
/// How often the rest of answered pairs is measured.
const MEASURE: Duration = Duration::from_secs(1);

impl DatagramRole {
    /// The workers of a pool without servers, one for each set of sockets; the first is the primary. Servers
    /// come by [`Shared::want`].
    pub fn workers(
        settings: Settings,
        chance: Chance,
        sockets: &[WorkerSockets],
        now: Instant,
    ) -> (Arc<Shared>, Vec<DatagramRole>) {
        let Chance { secret, seed } = chance;
        let mut rng = Rng::new(seed);
        // Each use of the secret has a key of its own.
        let key = |purpose: u8| {
            let mut key = secret;
            key[0] ^= purpose;
            key
        };
        let shared = Arc::new(Shared::new(settings, seed, key(1)));
        let own: Vec<_> = sockets.iter().flat_map(|worker| worker.addrs.iter().copied()).collect();
        let worker = |(number, of): (usize, &WorkerSockets)| {
            let core = Forwarder::new(&shared, number, of.sockets.clone(), &of.addrs, &own, &mut rng);
            let matching = Matching::new(&core, key(2), key(3));
            let primary = (number == 0).then(|| Box::new(Primary::new(&core, key(4), now)));
            DatagramRole {
                core,
                matching,
                primary,
                next_tick: now,
                next_measure: now + MEASURE,
                stalls: StallDetector::default(),
                grace: now,
                retired: None,
                has_more: false,
            }
        };
        let workers = sockets.iter().enumerate().map(worker).collect();
        (shared, workers)
    }

    /// Takes the servers in that are wanted, without waiting for a turn: then the first datagram finds them.
    /// For the primary.
    pub fn take_servers(&mut self, now: Instant) {
        if let Some(primary) = &mut self.primary
            && let Some(wanted) = self.core.shared.take_wanted()
        {
            primary.set_servers(&mut self.core, now, wanted);
        }
    }

    /// Carries out an operator's order about the server with this id, also about one that has left. Only the
    /// primary can.
    pub fn order(&mut self, now: Instant, id: u32, order: Order) -> Result<(), Refused> {
        let primary = self.primary.as_mut().ok_or(Refused::UnknownServer)?;
        primary.order(&mut self.core, now, id, order)
    }

    /// Takes new settings over, if there are any.
    fn adopt(&mut self, now: Instant) {
        if !self.core.adopt() {
            return;
        }
        self.matching.adopt(&self.core);
        if let Some(primary) = &mut self.primary {
            primary.adopt(&mut self.core, now);
        }
    }

    /// From now on another process takes what clients send, and judges the servers. Answers still go to their
    /// clients, and so does a datagram of a client to its server that was read already.
    pub fn retire(&mut self, now: Instant) {
        self.retired.get_or_insert(now);
        self.stop_waiting();
    }

    /// Whether nothing is awaited any more: no server owes an answer, and no flow has had a datagram lately.
    /// Flows of a worker that has retired are waited for as long as an answer may take, at most.
    pub fn is_idle(&self, now: Instant) -> bool {
        let flows_are_quiet = self.matching.last_flow().is_none_or(|used| {
            let timeout = self.core.settings.timeout;
            let quiet = now.since(used) >= FLOW_QUIET.min(timeout);
            quiet || self.retired.is_some_and(|retired| now.since(retired) >= timeout)
        });
        !self.core.owes() && self.core.shared.pool.pending.is_empty() && flows_are_quiet
    }

    /// The oldest event that was not fetched yet.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.primary.as_mut()?.poll_event()
    }

    /// Panics, with the numbers, if what must hold between two turns does not. For tests.
    pub fn check_invariants(&self) {
        if let Some(primary) = &self.primary {
            primary.pool.check_invariants(&self.core.view);
        }
    }

    /// What this worker counts.
    pub fn stats(&self) -> &Arc<DatagramStats> {
        &self.core.stats
    }

    /// What the workers share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.core.shared
    }

    /// Which of its sockets is what.
    pub fn sockets(&self) -> &Sockets {
        &self.core.sockets
    }

    /// Reports an event-loop stall. Nothing is overdue for a while: the answers may be there already. A turn
    /// comes with every tick while answers are owed, and otherwise with each [`LOOK`] of the primary.
    fn notice_stall(&mut self, now: Instant) {
        let judges = self.primary.is_some() && self.retired.is_none();
        let longest = match self.core.owes() {
            true => PAUSE,
            false if judges => LOOK + PAUSE,
            false => Duration::MAX,
        };
        let Some(gap) = self.stalls.on_turn(now, longest) else { return };
        self.grace = now + PAUSE;
        if let Some(primary) = &mut self.primary {
            primary.on_stall(gap);
        }
    }

    /// What the network says of servers: that one is not there makes it a suspect, and nothing more. Anybody
    /// can forge such a message (RFC 5927).
    fn on_errors(&mut self, rx: &Rx) {
        let says_absent =
            |errno| matches!(errno, libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH);
        for error in rx.errors().iter().filter(|error| says_absent(error.errno)) {
            if let Some(slot) = self.core.view.slot_of(error.peer) {
                self.core.stats.servers[slot.index()].errors.add(1);
                self.core.shared.signals[slot.index()].note_refusal();
            }
        }
    }
}

impl TwoSided for DatagramRole {
    fn faces_clients(&self, socket: SocketId) -> bool {
        self.core.sockets.fronts.contains(&socket.0)
    }

    fn on_front(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx) {
        self.on_requests(now, received, bytes, tx);
    }

    fn on_back(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx) {
        let DatagramRole { core, matching, primary, .. } = self;
        let (peer, socket) = (received.peer, received.socket);
        let mut last = None;
        for (at, bytes) in datagrams(received, bytes) {
            let outcome = match primary {
                Some(primary) if core.sockets.is_for_checks(socket.0) => {
                    primary.on_check_answer(core, now, peer, bytes)
                }
                _ => matching.on_server(core, Response { peer, socket, bytes, at, now }, &mut last, tx),
            };
            if let Err(reason) = outcome {
                core.stats.common.dropped.add(reason, 1);
            }
        }
    }

    fn publish(&mut self, now: Instant) {
        self.core.publish(now);
    }
}

impl Role for DatagramRole {
    fn on_batch(&mut self, now: Instant, rx: &mut Rx, tx: &mut Tx) {
        self.core.begin_turn(now);
        self.adopt(now);
        self.core.refresh();
        self.notice_stall(now);
        self.matching.begin(&mut self.core);
        self.on_errors(rx);
        self.on_both_sides(now, rx, tx);
        self.serve_pending(now, tx);
    }

    fn on_timeout(&mut self, now: Instant, tx: &mut Tx) {
        let has_verdict = now >= self.grace;
        if has_verdict {
            self.matching.expire(&mut self.core, now);
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            if has_verdict {
                self.core.look_for_silence(now);
            }
            if let Some(primary) = self.primary.as_mut().filter(|_| self.retired.is_none()) {
                primary.on_tick(&mut self.core, now, tx);
            }
        }
        if now >= self.next_measure {
            self.next_measure = now + MEASURE;
            self.matching.measure(&self.core);
        }
        self.core.publish(now);
        self.serve_pending(now, tx);
        if self.primary.is_some() {
            self.core.stats.common.waiting.set(self.core.shared.pool.pending.len());
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.has_more {
            return Some(Instant::ZERO);
        }
        let overdue = self.matching.next_deadline(&self.core);
        // A server may have got room elsewhere: by TCP, or since it has come up.
        let is_awaited = self.core.owes() || !self.core.shared.pool.pending.is_empty();
        let tick = is_awaited.then_some(self.next_tick);
        let due = earliest(overdue.map(|at| at.max(self.grace)), tick);
        let judge = self.primary.as_ref().filter(|_| self.retired.is_none());
        earliest(due, judge.map(|primary| primary.next_deadline().max(self.next_tick)))
    }
}
