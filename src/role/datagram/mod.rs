//! A datagram pool: sends each datagram to the server with the shortest queue, and each response to its
//! client. The servers are unmodified.
//!
//! One [`DatagramRole`] is one *worker*: it has a client-side socket for each address on which the pool
//! listens, server-side ports of its own, and a table of its own requests in flight. Workers share the
//! selection tree, the members and the admission gate. Worker 0 is the *primary*: it alone judges the
//! servers' health and checks them.
//!
//! A role never touches a socket, a clock or a log: it reports events through [`DatagramRole::poll_event`]
//! and counts in [`DatagramStats`].
//!
//! | file | content |
//! |---|---|
//! | `settings.rs` | settings of a pool |
//! | `shared.rs` | state that the workers share |
//! | `forward.rs` | selection, sending, accounting |
//! | `front.rs` | admission of clients' datagrams |
//! | `pending.rs`, `waiting.rs` | the pending queue |
//! | `request.rs` | datagrams of a turn, and their client |
//! | `matching.rs` | the two kinds of matching, behind one interface |
//! | `dns.rs`, `queries.rs` | matching of DNS responses and queries |
//! | `late.rs` | DNS queries that have timed out |
//! | `loops.rs` | servers that lead back to the pool |
//! | `own_answers.rs` | the balancer's own answers to DNS queries |
//! | `by_port.rs`, `leases.rs` | matching by port and server |
//! | `in_flight.rs` | counts of the tables, to check them |
//! | `membership.rs`, `slots.rs` | members of the pool (primary) |
//! | `leaving.rs`, `drain.rs` | servers that leave (primary) |
//! | `health.rs`, `checks.rs` | health of the servers (primary) |
//! | `check_trust.rs` | results of checks, and whether they count (primary) |
//! | `check_places.rs` | when a server is checked, and the place of a check in its queue (primary) |
//! | `streams/`, `stream_link.rs` | the TCP side of a DNS pool, and what it shares with the workers |
//! | `handover.rs`, `adopted_flows.rs` | state for a successor, and its adoption |

mod adopted_flows;
mod by_port;
mod check_places;
mod check_trust;
mod checks;
mod dns;
mod drain;
mod forward;
mod front;
mod handover;
mod health;
mod in_flight;
mod late;
mod leases;
mod leaving;
mod loops;
mod matching;
mod membership;
mod own_answers;
mod pending;
mod queries;
mod request;
mod settings;
mod shared;
mod slots;
mod stream_link;
pub mod streams;
#[cfg(test)]
mod tests;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use self::forward::Forwarder;
use self::health::{DatagramPrimary, LOOK};
use self::in_flight::InFlight;
use self::matching::Matching;
use self::request::{Response, datagrams};
use crate::base::batch::{Received, Rx, SocketId, Tx};
use crate::base::rng::{Rng, SecretRng};
use crate::base::time::{Instant, earliest};
use crate::pool::event::Event;
use crate::pool::order::{Order, Refused};
use crate::pool::stall::StallDetector;
use crate::pool::stats::DatagramStats;
use crate::role::{Role, TwoSided};

pub use self::handover::{Flow, FlowLease, PortOrigin, SocketOrigins};
pub use self::settings::{
    Affinity, Chance, Check, DatagramSettings, HealthCheck, Protocol, ProxyProtocol, Sockets, WorkerSockets,
    flows_per_source,
};
pub use self::shared::DatagramShared;
pub use self::stream_link::StreamLink;

/// One worker's state machine.
pub struct DatagramRole {
    core: Forwarder,
    matching: Matching,
    primary: Option<Box<DatagramPrimary>>,
    next_tick: Instant,
    next_measure: Instant,
    stalls: StallDetector,
    /// Until this time nothing counts as overdue, after an event-loop stall.
    grace: Instant,
    /// The time at which the worker retired: it reads no client datagrams since. `None` before.
    retired: Option<Instant>,
    /// Whether queued requests remain for which the turn had no room.
    has_more: bool,
}

/// Time between two ticks, at which timers are checked.
const TICK: Duration = Duration::from_millis(10);
/// With responses owed there is a tick every [`TICK`]; a gap of this length is an event-loop stall.
const PAUSE: Duration = Duration::from_millis(100);
/// A retiring worker does not wait for flows without a datagram for this time.
const FLOW_QUIET: Duration = Duration::from_secs(1);
/// Time between two measurements of the quarantine of answered pairs.
const MEASURE: Duration = Duration::from_secs(1);

impl DatagramRole {
    /// The workers of a pool without servers, one for each set of sockets; the first is the primary.
    /// [`DatagramShared::want`] sets the servers.
    pub fn workers(
        settings: DatagramSettings,
        chance: Chance,
        sockets: &[WorkerSockets],
        now: Instant,
    ) -> (Arc<DatagramShared>, Vec<DatagramRole>) {
        let Chance { secret, seed } = chance;
        let mut rng = Rng::new(seed);
        // Each use of the secret has its own key.
        let key = |purpose: u8| {
            let mut key = secret;
            key[0] ^= purpose;
            key
        };
        let shared = Arc::new(DatagramShared::new(settings, seed, key(1)));
        let own: Vec<_> = sockets.iter().flat_map(|worker| worker.addrs.iter().copied()).collect();
        let worker = |(number, of): (usize, &WorkerSockets)| {
            let secret_rng = SecretRng::new(&key(5), seed, number as u64);
            let core = Forwarder::new(&shared, number, of, &own, &mut rng, secret_rng);
            let matching = Matching::new(&core, key(2), key(3));
            let primary = (number == 0).then(|| Box::new(DatagramPrimary::new(&core, key(4), now)));
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

    /// Touches the memory of the tables now, so that a flood causes no page faults. Call it before the first
    /// turn. Without it, memory becomes resident when requests need it.
    pub fn fault_in(&mut self) {
        self.matching.fault_in();
    }

    /// Makes the desired servers members at once, so that the first datagram finds them. Only the primary
    /// does.
    pub fn take_servers(&mut self, now: Instant) {
        if let Some(primary) = &mut self.primary
            && let Some(wanted) = self.core.shared.take_wanted()
        {
            primary.set_servers(&mut self.core, now, wanted);
        }
    }

    /// Applies an operator's order to the server with this id, even if the server has left. Only the primary
    /// can.
    pub fn order(&mut self, now: Instant, id: u32, order: Order) -> Result<(), Refused> {
        let primary = self.primary.as_mut().ok_or(Refused::UnknownServer)?;
        primary.order(&mut self.core, now, id, order)
    }

    /// Adopts new settings, if there are any.
    fn adopt(&mut self, now: Instant) {
        if !self.core.adopt() {
            return;
        }
        self.matching.adopt(&self.core);
        if let Some(primary) = &mut self.primary {
            primary.adopt(&mut self.core, now);
        }
    }

    /// Retires the worker: from now on another process reads the client-side sockets and judges the servers.
    /// Responses still reach their clients, and datagrams that were read already still reach servers.
    pub fn retire(&mut self, now: Instant) {
        self.retired.get_or_insert(now);
        self.stop_waiting();
        self.core.shared.streams.retire();
    }

    /// Whether nothing is in flight: no server owes a response, no request is queued, and no flow had a
    /// datagram in the last second (or within the timeout, if that is shorter). A retired worker waits for
    /// flows at most for the timeout.
    pub fn is_idle(&self, now: Instant) -> bool {
        let flows_are_quiet = self.matching.last_flow().is_none_or(|used| {
            let timeout = self.core.settings.timeout;
            let quiet = now.since(used) >= FLOW_QUIET.min(timeout);
            quiet || self.retired.is_some_and(|retired| now.since(retired) >= timeout)
        });
        let streams_are_quiet = self.core.shared.tcp.busy.get() == 0;
        !self.core.owes() && self.core.shared.pool.pending.is_empty() && flows_are_quiet && streams_are_quiet
    }

    /// Takes the oldest event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.primary.as_mut()?.poll_event()
    }

    /// Panics, with the numbers, if what must hold between two turns does not. For tests.
    pub fn check_invariants(&self) {
        self.checked();
    }

    /// The same; counts what is in flight.
    fn checked(&self) -> InFlight {
        if let Some(primary) = &self.primary {
            primary.pool.check_invariants(&self.core.view);
        }
        let mut in_flight = self.matching.check_invariants(self.core.settings.servers_max);
        if let Some(primary) = &self.primary {
            primary.places().for_each(|slot| in_flight.held[slot.index()] += 1);
            assert_eq!(primary.places, primary.places().count(), "places of checks");
        }
        self.core.check_invariants(&in_flight);
        in_flight
    }

    /// The counters of this worker.
    pub fn stats(&self) -> &Arc<DatagramStats> {
        &self.core.stats
    }

    /// The state that the workers share.
    pub fn shared(&self) -> &Arc<DatagramShared> {
        &self.core.shared
    }

    /// The use of each of its sockets.
    pub fn sockets(&self) -> &Sockets {
        &self.core.sockets
    }

    /// Reports an event-loop stall. Nothing counts as overdue for [`PAUSE`] afterwards: responses may be in
    /// the sockets. Turns follow each tick while responses are owed, and otherwise each [`LOOK`] of the
    /// primary.
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

    /// Handles ICMP errors: an absent server becomes a suspect, and nothing more. Any sender can forge such a
    /// message (RFC 5927).
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
    const ANSWERS_FIRST: bool = true;

    fn faces_clients(&self, socket: SocketId) -> bool {
        self.core.sockets.fronts.contains(&socket.0)
    }

    fn on_front(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx) {
        self.on_requests(now, received, bytes, tx);
    }

    fn on_back(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx) {
        let DatagramRole { core, matching, primary, .. } = self;
        let (peer, socket) = (received.peer, received.socket);
        for (at, bytes) in datagrams(received, bytes) {
            let outcome = match primary {
                Some(primary) if core.sockets.is_for_checks(socket.0) => {
                    primary.on_check_answer(core, now, peer, bytes)
                }
                _ => matching.on_server(core, Response { peer, socket, bytes, at, now }, tx),
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
        // A server can get room without a datagram here: by TCP, or when it is up. It can fail by TCP, too.
        let has_streams = self.primary.is_some() && self.core.shared.tcp.busy.get() > 0;
        let is_awaited = self.core.owes() || !self.core.shared.pool.pending.is_empty() || has_streams;
        let tick = is_awaited.then_some(self.next_tick);
        let due = earliest(overdue.map(|at| at.max(self.grace)), tick);
        let judge = self.primary.as_ref().filter(|_| self.retired.is_none());
        earliest(due, judge.map(|primary| primary.next_deadline().max(self.next_tick)))
    }
}
