//! The generator as a pure state machine: which request leaves when, and how each one ends.

use std::net::SocketAddr;
use std::time::Duration;

use super::counts::Counts;
use super::ledger::{Account, Ledger, SecondTally};
use super::protocol::{Protocol, Request};
use super::schedule::Schedule;
use crate::base::batch::{Rx, Tx};
use crate::base::time::{Instant, earliest};
use crate::role::Role;

/// A request that leaves this much after its planned moment is late.
pub const LATE: Duration = Duration::from_millis(1);

/// What one generator sends.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the requests go.
    pub target: SocketAddr,
    /// When they leave; `None` = a new request for each that ended.
    pub schedule: Option<Schedule>,
    /// Requests in flight at most. With a schedule, those that have to wait for room are late.
    pub window: Option<usize>,
    /// When the warm-up begins, of which nothing is counted.
    pub start: Instant,
    /// Time before the measurement.
    pub warmup: Duration,
    /// Time of the measurement.
    pub duration: Duration,
    /// How long after that requests may still leave that were due before; they are late. Zero: none does, and they are told as
    /// planned only.
    pub grace: Duration,
}

/// Sends what the plan says and accounts for every request of the measurement.
pub struct Generator<P> {
    protocol: P,
    target: SocketAddr,
    schedule: Option<Schedule>,
    window: usize,
    ledger: Ledger,
    measure_from: Instant,
    end: Instant,
    grace: Duration,
    /// The end has passed: even a request that was due before it leaves no more.
    ended: bool,
}

impl<P: Protocol> Generator<P> {
    /// A generator of these requests; they are booked in an empty ledger.
    pub fn new(plan: Plan, protocol: P, mut ledger: Ledger) -> Self {
        let measure_from = plan.start + plan.warmup;
        ledger.measure_from(measure_from);
        Generator {
            protocol,
            target: plan.target,
            schedule: plan.schedule,
            window: plan.window.unwrap_or(usize::MAX),
            ledger,
            measure_from,
            end: measure_from + plan.duration,
            grace: plan.grace,
            ended: false,
        }
    }

    /// Sends no more; what is in flight still counts.
    pub fn stop(&mut self, now: Instant) {
        self.end = self.end.min(now);
        self.grace = Duration::ZERO;
    }

    /// Counts everything in flight as lost.
    pub fn abandon(&mut self) {
        self.expire(Instant::from_nanos(u64::MAX));
    }

    /// Whether every request has ended and no more will be sent.
    pub fn is_finished(&self, now: Instant) -> bool {
        now >= self.last_send() && self.ledger.in_flight() == 0
    }

    /// What was counted so far.
    pub fn counts(&self) -> &Counts {
        self.ledger.counts()
    }

    /// Requests without an end yet, those of the warm-up included.
    pub fn in_flight(&self) -> usize {
        self.ledger.in_flight()
    }

    /// A second of the measurement of which all has ended, each once and in order.
    pub fn finished_second(&mut self, now: Instant) -> Option<SecondTally> {
        let planned_from = match self.ended {
            true => Instant::from_nanos(u64::MAX),
            false => self.schedule.as_ref().map_or(now, Schedule::next),
        };
        self.ledger.finished_second(planned_from)
    }

    /// The account of a finished run, and how long its measurement was.
    pub fn close(mut self) -> (Account, Duration) {
        // What was planned before the end but never left.
        if let Some(schedule) = &mut self.schedule {
            while schedule.next() < self.end {
                self.ledger.add_planned((schedule.next() >= self.measure_from).into());
                schedule.advance();
            }
        }
        (self.ledger.close(), self.end.since(self.measure_from))
    }

    /// No request leaves at this moment or later: the end, or for what was due before it some time more.
    fn last_send(&self) -> Instant {
        let is_behind = self.schedule.as_ref().is_some_and(|schedule| schedule.next() < self.end);
        if is_behind { self.end + self.grace } else { self.end }
    }

    /// When the next request should leave, if one may: a closed loop is always ready.
    fn next_send(&self, now: Instant) -> Option<Instant> {
        let span = self.ledger.span();
        let room = !self.ended
            && self.ledger.in_flight() < self.window
            && self.ledger.has_room()
            && span.end - span.start < self.protocol.span_max();
        let due = self.schedule.as_ref().map_or(now, Schedule::next);
        (room && due < self.end).then_some(due)
    }

    /// Sends a request; false if there is no room for it in this turn.
    fn send(&mut self, now: Instant, intended: Instant, tx: &mut Tx) -> bool {
        let span = self.ledger.span();
        let request = Request {
            number: span.end,
            incomplete: span.end - span.start,
            payload: self.schedule.as_ref().and_then(Schedule::next_payload),
        };
        let (socket, len) = self.protocol.plan(&request);
        let Some(bytes) = tx.destination(socket, self.target, None).and_then(|d| tx.stage(d, len)) else {
            return false;
        };
        self.protocol.write(&request, bytes);
        self.ledger.open(intended, now);
        true
    }

    fn expire(&mut self, now: Instant) {
        while let Some(number) = self.ledger.expired(now) {
            self.ledger.end(number, now, super::counts::Ending::Lost);
            self.protocol.lost(number, now);
        }
    }
}

impl<P: Protocol> Role for Generator<P> {
    fn on_batch(&mut self, now: Instant, rx: &mut Rx, _tx: &mut Tx) {
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            for datagram in bytes.chunks_mut(received.stride as usize) {
                self.protocol.read(now, &received, datagram, &mut self.ledger);
            }
        }
    }

    fn on_timeout(&mut self, now: Instant, tx: &mut Tx) {
        self.expire(now);
        self.protocol.tick(now);
        self.ended = now >= self.last_send();
        while let Some(due) = self.next_send(now).filter(|due| *due <= now) {
            let is_free = self.protocol.free_at().is_some_and(|at| at <= now);
            if !is_free || !self.send(now, due, tx) {
                break; // no client, or a full turn: the rest leaves later
            }
            if let Some(schedule) = &mut self.schedule {
                schedule.advance();
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let send =
            self.next_send(Instant::ZERO).zip(self.protocol.free_at()).map(|(due, free)| due.max(free));
        let end = (!self.ended).then(|| self.last_send());
        earliest(earliest(self.ledger.next_expiry(), send), end)
    }
}

#[cfg(test)]
mod tests;
