//! A client: many requests in flight, timeouts, retries and deadlines. Each request ends in one
//! [`Outcome`].
//!
//! The role owns the open requests and the times of their retries. The caller gets at most one reply per
//! request. `retry.rs` has the rules: a timeout leads to a jittered back-off, BUSY delays the retry as
//! requested, and a budget bounds the load of retries.

mod retry;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use self::retry::{Budget, Timeout};
use crate::base::batch::{Rx, SocketId, Tx};
use crate::base::drop_reason::{DropCounters, DropReason};
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::role::Role;
use crate::wire::{Frame, FrameFormat, Header, Kind, Mode, Status};

/// The only socket of a client.
pub const SOCKET: SocketId = SocketId(0);

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Format of the frames. The client side is never authenticated, but a trailer reduces the payload.
    pub format: FrameFormat,
    /// The balancer's client-side address.
    pub target: SocketAddr,
    /// Minimum time to wait for a reply before a retry, also used until a latency was measured.
    pub timeout: Duration,
    /// Time from the first attempt after which a request is abandoned.
    pub deadline: Duration,
    /// Maximum retries of a request; 0 sends each request once.
    pub retries: u8,
    /// Maximum requests in flight, rounded up to a power of two.
    pub in_flight_max: usize,
    /// Sources of replies besides the target, for servers that reply directly. Empty: any source.
    pub servers: Vec<Source>,
    /// Seed of all random numbers: client id, jitter.
    pub seed: u64,
}

/// An allowed source of replies: an address, with one port or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    ip: IpAddr,
    port: Option<u16>,
}

impl Source {
    fn covers(&self, addr: SocketAddr) -> bool {
        self.ip == addr.ip() && self.port.is_none_or(|port| port == addr.port())
    }
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        Source { ip, port: None }
    }
}

impl From<SocketAddr> for Source {
    fn from(addr: SocketAddr) -> Self {
        Source { ip: addr.ip(), port: Some(addr.port()) }
    }
}

impl FromStr for Source {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let addr = text.parse::<SocketAddr>().map(Source::from);
        addr.or_else(|_| text.parse::<IpAddr>().map(Source::from))
            .map_err(|_| "is not an IP address; write one such as 10.0.0.7 or 10.0.0.7:50000")
    }
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Served; [`Outcome`] has the payload.
    Answered,
    /// Refused permanently by the server or the balancer, with this status.
    Refused(Status),
    /// The final reply before the deadline was BUSY.
    Busy,
    /// No reply before the deadline.
    Lost,
}

/// The end of one request. Its payload is borrowed from the role or owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome<P = Vec<u8>> {
    /// The number that [`ClientRole::submit`] returned.
    pub sequence: u64,
    /// The outcome.
    pub ending: Ending,
    /// Time from the first attempt to the end.
    pub latency: Duration,
    /// Number of attempts.
    pub attempts: u8,
    /// The reply's payload; empty unless the request was answered.
    pub payload: P,
}

impl Outcome<&[u8]> {
    /// Copies the payload.
    pub fn into_owned(self) -> Outcome {
        let Outcome { sequence, ending, latency, attempts, payload } = self;
        Outcome { sequence, ending, latency, attempts, payload: payload.to_vec() }
    }
}

/// Counters of a client. `sent = answered + refused + busy + lost + in flight`.
#[derive(Debug, Default)]
pub struct Totals {
    /// Requests submitted.
    pub sent: u64,
    /// Requests answered with OK.
    pub answered: u64,
    /// Requests refused permanently (UNKNOWN, ERROR, EXPIRED).
    pub refused: u64,
    /// Requests whose final reply was BUSY.
    pub busy: u64,
    /// Requests without a reply.
    pub lost: u64,
    /// Attempts after the first.
    pub retried: u64,
    /// First attempts without a reply in time.
    pub first_failed: u64,
    /// Retries postponed because the budget was empty.
    pub budget_empty: u64,
    /// Frames dropped, by reason.
    pub drops: DropCounters,
}

/// Too many requests are in flight, or have outcomes that were not fetched. Submit again after an
/// outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests in flight; fetch outcomes first")]
pub struct Full;

#[derive(Clone, Copy, Debug)]
struct Open {
    sequence: u64,
    mode: Mode,
    attempt: u8,
    /// Whether the request waits for its next attempt, not for a reply.
    pausing: bool,
    heard_busy: bool,
    first_sent: Instant,
    due: Instant,
    payload_len: u16,
}

/// A client's state machine.
pub struct ClientRole {
    settings: ClientSettings,
    client_id: u64,
    /// Open requests by sequence modulo the length, and their payloads for retries.
    open: Box<[Option<Open>]>,
    payloads: Box<[u8]>,
    /// Due times of requests. Entries that no longer match are stale, and are removed when they are due.
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    next_sequence: u64,
    first_incomplete: u64,
    in_flight: usize,
    timeout: Timeout,
    budget: Budget,
    outcomes: Outcomes,
    totals: Totals,
    rng: Rng,
}

/// Outcomes that were not fetched yet, and their payloads, in fixed memory.
struct Outcomes {
    /// Outcomes with the slot and the length of their payload.
    queue: VecDeque<Outcome<(usize, usize)>>,
    payloads: Box<[u8]>,
    payload_max: usize,
    next_place: usize,
}

impl Outcomes {
    fn new(places: usize, payload_max: usize) -> Self {
        let payloads = vec![0; places * payload_max].into_boxed_slice();
        Outcomes { queue: VecDeque::with_capacity(places), payloads, payload_max, next_place: 0 }
    }

    /// Adds an outcome; there are never more outcomes than slots.
    fn push(&mut self, outcome: Outcome<&[u8]>) {
        let Outcome { sequence, ending, latency, attempts, payload } = outcome;
        let from = self.next_place * self.payload_max;
        self.payloads[from..from + payload.len()].copy_from_slice(payload);
        self.queue.push_back(Outcome { sequence, ending, latency, attempts, payload: (from, payload.len()) });
        self.next_place = (self.next_place + 1) % self.places();
    }

    fn places(&self) -> usize {
        self.payloads.len() / self.payload_max
    }

    fn pop(&mut self) -> Option<Outcome<&[u8]>> {
        let Outcome { sequence, ending, latency, attempts, payload: (from, len) } = self.queue.pop_front()?;
        Some(Outcome { sequence, ending, latency, attempts, payload: &self.payloads[from..from + len] })
    }
}

impl ClientRole {
    /// A client without requests.
    pub fn new(settings: ClientSettings, now: Instant) -> Self {
        let mut rng = Rng::new(settings.seed);
        let places = settings.in_flight_max.max(1).next_power_of_two();
        ClientRole {
            client_id: rng.next_u64() | 1,
            open: vec![None; places].into_boxed_slice(),
            payloads: vec![0; places * settings.format.payload_max()].into_boxed_slice(),
            timers: BinaryHeap::with_capacity(4 * places),
            next_sequence: 1,
            first_incomplete: 1,
            in_flight: 0,
            timeout: Timeout::new(settings.timeout),
            budget: Budget::new(now),
            outcomes: Outcomes::new(places, settings.format.payload_max()),
            totals: Totals::default(),
            rng,
            settings,
        }
    }

    /// The counters so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Requests without an outcome.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The oldest outcome that was not fetched yet.
    pub fn poll_outcome(&mut self) -> Option<Outcome<&[u8]>> {
        self.outcomes.pop()
    }

    /// Sends a request in this turn and returns its number; the outcome has the same number. The payload
    /// must fit into a frame ([`FrameFormat::payload_max`]).
    pub fn submit(&mut self, now: Instant, mode: Mode, payload: &[u8], tx: &mut Tx) -> Result<u64, Full> {
        assert!(payload.len() <= self.settings.format.payload_max(), "the payload must fit into a frame");
        if self.in_flight + self.outcomes.queue.len() >= self.open.len() {
            return Err(Full);
        }
        // An old open request keeps its slot when the numbers wrap around, so this request takes the
        // next number with a free slot.
        while self.open[self.place(self.next_sequence)].is_some() {
            self.next_sequence += 1;
        }
        let sequence = self.next_sequence;
        let place = self.place(sequence);
        self.payload_mut(place)[..payload.len()].copy_from_slice(payload);
        self.open[place] = Some(Open {
            sequence,
            mode,
            attempt: 0,
            pausing: true,
            heard_busy: false,
            first_sent: now,
            due: now,
            payload_len: payload.len() as u16,
        });
        self.next_sequence += 1;
        self.in_flight += 1;
        self.totals.sent += 1;
        self.budget.earn();
        self.send_attempt(now, sequence, tx);
        Ok(sequence)
    }

    /// Abandons all requests in flight.
    pub fn abandon(&mut self, now: Instant) {
        for place in 0..self.open.len() {
            if let Some(open) = self.open[place] {
                self.give_up(now, open);
            }
        }
    }

    fn place(&self, sequence: u64) -> usize {
        sequence as usize & (self.open.len() - 1)
    }

    fn payload_mut(&mut self, place: usize) -> &mut [u8] {
        let size = self.settings.format.payload_max();
        &mut self.payloads[place * size..(place + 1) * size]
    }

    fn open_mut(&mut self, sequence: u64) -> Option<&mut Open> {
        let place = self.place(sequence);
        self.open[place].as_mut().filter(|open| open.sequence == sequence)
    }

    /// Sends the next attempt and sets its timer. If the turn is full, the next turn sends it.
    fn send_attempt(&mut self, now: Instant, sequence: u64, tx: &mut Tx) {
        let Some(open) = self.open_mut(sequence) else { return };
        let attempt = open.attempt.saturating_add(1);
        let (mode, len, deadline) = (open.mode, usize::from(open.payload_len), open.first_sent);
        let size = self.settings.format.size;
        let deadline = deadline + self.settings.deadline;
        let bytes = tx.destination(SOCKET, self.settings.target, None).and_then(|d| tx.stage(d, size));
        let Some(bytes) = bytes else {
            self.set_timer(sequence, now, true);
            return;
        };
        let mut header = Header::new(Kind::ClientRequest, size);
        header.mode = mode as u8;
        header.attempt = attempt;
        header.deadline_us.set(deadline.since(now).as_micros().clamp(1, u128::from(u32::MAX)) as u32);
        header.client_id.set(self.client_id);
        header.sequence.set(sequence);
        let incomplete = sequence.saturating_sub(self.first_incomplete);
        header.incomplete.set(incomplete.min(u64::from(u16::MAX)) as u16);
        let place = self.place(sequence);
        let payload_max = self.settings.format.payload_max();
        let payload = &self.payloads[place * payload_max..place * payload_max + len];
        Frame::write(bytes, &header, payload);
        if attempt > 1 {
            self.totals.retried += 1;
        }
        let due = (now + self.timeout.for_attempt(attempt)).min(deadline);
        self.open_mut(sequence).expect("found above").attempt = attempt;
        self.set_timer(sequence, due, false);
    }

    fn set_timer(&mut self, sequence: u64, due: Instant, pausing: bool) {
        if let Some(open) = self.open_mut(sequence) {
            (open.due, open.pausing) = (due, pausing);
            self.timers.push(Reverse((due, sequence)));
        }
        // Timers of answered requests stay until due; remove them before they accumulate.
        if self.timers.len() >= 4 * self.open.len() {
            let mut timers = std::mem::take(&mut self.timers);
            let mask = self.open.len() - 1;
            let open = &self.open;
            timers.retain(|&Reverse((due, s))| {
                open[s as usize & mask].is_some_and(|o| o.sequence == s && o.due == due)
            });
            self.timers = timers;
        }
    }

    fn may_answer(&self, peer: SocketAddr) -> bool {
        let servers = &self.settings.servers;
        servers.is_empty() || peer == self.settings.target || servers.iter().any(|s| s.covers(peer))
    }

    fn on_response(&mut self, now: Instant, frame: Frame<'_>) -> Result<(), DropReason> {
        if frame.kind() != Kind::ClientResponse {
            return Err(DropReason::Unexpected);
        }
        let status = Status::from_wire(frame.header.status).ok_or(DropReason::Kind)?;
        let sequence = frame.header.sequence.get();
        if frame.header.client_id.get() != self.client_id {
            return Err(DropReason::NotOpen);
        }
        let open = *self.open_mut(sequence).ok_or(DropReason::NotOpen)?;
        match status {
            Status::Ok => {
                // The reply names its attempt, so the latency is known even after a premature retry.
                // Without such samples, timeouts would stay too short while there is a queue.
                if frame.header.attempt == 1 {
                    self.timeout.observe(now.since(open.first_sent));
                }
                self.totals.answered += 1;
                self.close(now, open, Ending::Answered, frame.payload());
            }
            Status::Busy => {
                self.on_busy(now, open, Duration::from_micros(frame.header.deadline_us.get().into()))
            }
            // An expired attempt does not end later attempts; the deadline of the request decides.
            Status::Expired if open.first_sent + self.settings.deadline > now => {}
            Status::Expired | Status::Unknown | Status::Error => {
                self.totals.refused += 1;
                self.close(now, open, Ending::Refused(status), &[]);
            }
        }
        Ok(())
    }

    /// BUSY: retries after the requested time plus a random share of it.
    fn on_busy(&mut self, now: Instant, open: Open, retry_after: Duration) {
        if let Some(open) = self.open_mut(open.sequence) {
            open.heard_busy = true;
        }
        if open.pausing && now + retry_after <= open.due {
            return; // the planned retry is not earlier
        }
        let again = now + retry_after + retry_after.mul_f64(self.rng.unit_f64());
        if !self.may_retry(&open) || again >= open.first_sent + self.settings.deadline {
            self.totals.busy += 1;
            self.close(now, open, Ending::Busy, &[]);
            return;
        }
        self.set_timer(open.sequence, again, true);
    }

    fn may_retry(&self, open: &Open) -> bool {
        open.mode != Mode::OneShot && open.attempt <= self.settings.retries
    }

    fn on_timer(&mut self, now: Instant, open: Open, tx: &mut Tx) {
        let deadline = open.first_sent + self.settings.deadline;
        if now >= deadline {
            self.give_up(now, open);
        } else if open.pausing && (open.attempt == 0 || self.budget.spend(now)) {
            self.send_attempt(now, open.sequence, tx);
        } else if open.pausing {
            self.totals.budget_empty += 1;
            let pause = self.timeout.for_attempt(1).mul_f64(0.5 + self.rng.unit_f64());
            self.set_timer(open.sequence, (now + pause).min(deadline), true);
        } else {
            if open.attempt == 1 {
                self.totals.first_failed += 1;
            }
            if self.may_retry(&open) {
                let pause = self.timeout.backoff(open.attempt, &mut self.rng);
                self.set_timer(open.sequence, (now + pause).min(deadline), true);
            } else {
                self.set_timer(open.sequence, deadline, false);
            }
        }
    }

    fn give_up(&mut self, now: Instant, open: Open) {
        let ending = if open.heard_busy { Ending::Busy } else { Ending::Lost };
        match ending {
            Ending::Busy => self.totals.busy += 1,
            _ => self.totals.lost += 1,
        }
        self.close(now, open, ending, &[]);
    }

    fn close(&mut self, now: Instant, open: Open, ending: Ending, payload: &[u8]) {
        let place = self.place(open.sequence);
        self.open[place] = None;
        self.in_flight -= 1;
        while self.first_incomplete < self.next_sequence && self.open_mut(self.first_incomplete).is_none() {
            self.first_incomplete += 1;
        }
        self.outcomes.push(Outcome {
            sequence: open.sequence,
            ending,
            latency: now.since(open.first_sent),
            attempts: open.attempt,
            payload,
        });
    }
}

impl Role for ClientRole {
    fn on_batch(&mut self, now: Instant, rx: &mut Rx, _tx: &mut Tx) {
        let format = self.settings.format;
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            if !self.may_answer(received.peer) {
                let frames = bytes.len().div_ceil(received.stride as usize);
                self.totals.drops.add(DropReason::WrongSource, frames as u64);
                continue;
            }
            for datagram in bytes.chunks_mut(received.stride as usize) {
                if !format.divides(datagram.len()) {
                    self.totals.drops.add(DropReason::Length, 1);
                    continue;
                }
                for frame in datagram.chunks_exact_mut(format.size) {
                    let outcome = Frame::check(frame, &format).and_then(|f| self.on_response(now, f));
                    if let Err(reason) = outcome {
                        self.totals.drops.add(reason, 1);
                    }
                }
            }
        }
    }

    fn on_timeout(&mut self, now: Instant, tx: &mut Tx) {
        while let Some(&Reverse((due, sequence))) = self.timers.peek() {
            let live = self.open_mut(sequence).is_some_and(|open| open.due == due);
            if live && due > now {
                break;
            }
            if live && !tx.can_stage(self.settings.format.size) {
                break; // a full turn: the other requests stay due
            }
            self.timers.pop();
            if live {
                let open = *self.open_mut(sequence).expect("live");
                self.on_timer(now, open, tx);
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.timers.peek().map(|&Reverse((due, _))| due)
    }
}

#[cfg(test)]
mod tests;
