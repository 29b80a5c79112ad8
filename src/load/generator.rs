//! The generator as a pure state machine: which request leaves when, and how each one ends.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::counts::Counts;
use super::dns_answers::DnsAnswers;
use super::ledger::{Account, RequestLedger, SecondTally};
use super::network::{NetworkError, NetworkErrors};
use super::protocol::{LoadProtocol, NextRequest};
use super::schedule::Schedule;
use crate::base::batch::{Rx, Tx};
use crate::base::time::{Instant, earliest};
use crate::role::Role;

/// What one generator sends.
#[derive(Clone, Debug)]
pub struct GeneratorPlan {
    /// Target of the requests.
    pub target: SocketAddr,
    /// Schedule of the requests; `None` is a closed loop, where a request leaves when another one ends.
    pub schedule: Option<Schedule>,
    /// Maximum requests in flight; `None` is no limit. With a schedule, requests that wait for the
    /// window are late.
    pub window: Option<usize>,
    /// Start of the warm-up, which does not count.
    pub start: Instant,
    /// Length of the warm-up.
    pub warmup: Duration,
    /// Length of the measurement.
    pub duration: Duration,
    /// Time after the measurement in which overdue requests may still leave, as late ones. With 0,
    /// overdue requests never leave and count only as planned.
    pub grace: Duration,
}

/// Sends the requests of a plan and accounts for each request of the measurement.
pub struct Generator<P> {
    protocol: P,
    target: SocketAddr,
    schedule: Option<Schedule>,
    window: usize,
    ledger: RequestLedger,
    measure_from: Instant,
    warming_up: bool,
    end: Instant,
    grace: Duration,
    /// The measurement is over: no request leaves any more, not even an overdue one.
    ended: bool,
    /// It was stopped before its end, or did not wait for all requests in flight.
    interrupted: bool,
    start: Instant,
    /// Requests of the measurement that may still leave.
    left: u64,
    /// Time from the end of a request to the next request of its place in the window.
    think: Duration,
    /// Places in the window that think, and until when.
    thinking: usize,
    thoughts: VecDeque<(Instant, usize)>,
    /// When a request ended last.
    last_end: Instant,
    /// Errors that the network reported, those of the warm-up included.
    errors: NetworkErrors,
    errors_of_warmup: NetworkErrors,
}

impl<P: LoadProtocol> Generator<P> {
    /// A generator for this plan; it records the requests in an empty ledger.
    pub fn new(plan: GeneratorPlan, protocol: P, mut ledger: RequestLedger) -> Self {
        let measure_from = plan.start + plan.warmup;
        ledger.measure_from(measure_from);
        Generator {
            protocol,
            target: plan.target,
            schedule: plan.schedule,
            window: plan.window.unwrap_or(usize::MAX),
            ledger,
            measure_from,
            warming_up: !plan.warmup.is_zero(),
            end: measure_from + plan.duration,
            grace: plan.grace,
            ended: false,
            interrupted: false,
            start: plan.start,
            left: u64::MAX,
            think: Duration::ZERO,
            thinking: 0,
            thoughts: VecDeque::new(),
            last_end: Instant::ZERO,
            errors: NetworkErrors::default(),
            errors_of_warmup: NetworkErrors::default(),
        }
    }

    /// Ends the measurement after this many requests, if not before.
    #[must_use]
    pub fn limited_to(self, requests: u64) -> Self {
        let end = if requests == 0 { self.measure_from } else { self.end };
        Generator { left: requests, end, ..self }
    }

    /// Lets each place in the window rest after a request has ended.
    #[must_use]
    pub fn thinking_for(self, think: Duration) -> Self {
        Generator { think, ..self }
    }

    /// Stops sending; requests in flight still count.
    pub fn stop(&mut self, now: Instant) {
        self.interrupted |= now < self.last_send();
        self.end = self.end.min(now);
        self.grace = Duration::ZERO;
    }

    /// Counts all requests in flight as lost.
    pub fn abandon(&mut self) {
        self.interrupted |= self.ledger.in_flight() > 0;
        self.expire(Instant::from_nanos(u64::MAX));
    }

    /// Whether every request has ended and no more will leave.
    pub fn is_finished(&self, now: Instant) -> bool {
        now >= self.last_send() && self.ledger.in_flight() == 0
    }

    /// Counts requests that this machine did not send.
    pub fn note_unsent(&mut self, errno: i32, count: u64) {
        self.errors.add(NetworkError::of(errno), count);
    }

    /// What the responses of the measurement said, if they are DNS.
    pub fn dns_answers(&self) -> Option<DnsAnswers> {
        self.protocol.dns_answers()
    }

    /// Errors that the network has reported so far, those of the warm-up included.
    pub fn errors(&self) -> NetworkErrors {
        self.errors
    }

    /// Errors that the network reported in the measurement.
    pub fn errors_of_measurement(&self) -> NetworkErrors {
        if self.warming_up { NetworkErrors::default() } else { self.errors - self.errors_of_warmup }
    }

    /// Whether no request of the measurement has left yet. The turn that ends the warm-up sends only overdue
    /// requests of the warm-up, so that what the kernel says about them does not count.
    pub fn is_warming_up(&self) -> bool {
        self.warming_up
    }

    /// Whether the run ended before its plan did.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// The counts so far.
    pub fn counts(&self) -> &Counts {
        self.ledger.counts()
    }

    /// Requests in flight, those of the warm-up included.
    pub fn in_flight(&self) -> usize {
        self.ledger.in_flight()
    }

    /// Returns the next second of the measurement whose requests have all ended. Each second is returned
    /// once, in order.
    pub fn finished_second(&mut self, now: Instant) -> Option<SecondTally> {
        let planned_from = match self.ended {
            true => Instant::from_nanos(u64::MAX),
            false => self.schedule.as_ref().map_or(now, Schedule::next),
        };
        self.ledger.finished_second(planned_from)
    }

    /// The account of a finished run, and the length of its measurement.
    pub fn close(mut self) -> (Account, Duration) {
        // Requests that were scheduled before the end but never left.
        if let Some(schedule) = &mut self.schedule {
            while schedule.next() < self.end {
                self.ledger.add_planned((schedule.next() >= self.measure_from).into());
                schedule.advance();
            }
        }
        // A number of requests in a closed loop takes until the last one has ended.
        let is_counted = self.left == 0 && self.schedule.is_none();
        let end = if is_counted { self.end.max(self.last_end) } else { self.end };
        (self.ledger.close(), end.since(self.measure_from))
    }

    /// The moment from which no request leaves: the end of the measurement plus the grace time.
    fn last_send(&self) -> Instant {
        let is_behind = self.schedule.as_ref().is_some_and(|schedule| schedule.next() < self.end);
        if is_behind { self.end + self.grace } else { self.end }
    }

    /// The moment of the next send, if one is allowed; a closed loop is always ready.
    fn next_send(&self, now: Instant) -> Option<Instant> {
        let span = self.ledger.span();
        let room = !self.ended
            && self.ledger.in_flight() + self.thinking < self.window
            && self.ledger.has_room()
            && span.end - span.start < self.protocol.span_max();
        let due = self.schedule.as_ref().map_or(now.max(self.start), Schedule::next);
        (room && due < self.end).then_some(due)
    }

    /// Sends a request; false if this turn has no room for it.
    fn send(&mut self, now: Instant, intended: Instant, tx: &mut Tx) -> bool {
        let span = self.ledger.span();
        let request = NextRequest {
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

    /// Notes that requests have ended, whose places then think. `before`: requests in flight before.
    fn note_ends(&mut self, now: Instant, before: usize) {
        let ended = before - self.ledger.in_flight();
        if ended == 0 {
            return;
        }
        self.last_end = now;
        if !self.think.is_zero() {
            self.thinking += ended;
            self.thoughts.push_back((now + self.think, ended));
        }
    }

    /// Counts a request that has left; the last one ends the measurement.
    fn note_sent(&mut self, due: Instant) {
        if due >= self.measure_from {
            self.left -= 1;
            if self.left == 0 {
                // Others of the same moment do not leave.
                (self.end, self.grace) = (self.end.min(due), Duration::ZERO);
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(number) = self.ledger.expired(now) {
            self.ledger.end(number, now, super::counts::RequestEnd::Lost);
            self.protocol.lost(number, now);
        }
    }
}

impl<P: LoadProtocol> Role for Generator<P> {
    fn on_batch(&mut self, now: Instant, rx: &mut Rx, _tx: &mut Tx) {
        for error in rx.errors().iter().filter(|error| error.peer == self.target) {
            self.errors.add(NetworkError::of(error.errno), 1);
        }
        let before = self.ledger.in_flight();
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            for datagram in bytes.chunks_mut(received.stride as usize) {
                self.protocol.read(now, &received, datagram, &mut self.ledger);
            }
        }
        self.note_ends(now, before);
    }

    fn on_timeout(&mut self, now: Instant, tx: &mut Tx) {
        let before = self.ledger.in_flight();
        self.expire(now);
        self.note_ends(now, before);
        while let Some(&(until, places)) = self.thoughts.front()
            && until <= now
        {
            self.thinking -= places;
            self.thoughts.pop_front();
        }
        self.protocol.tick(now);
        self.ended = now >= self.last_send();
        let until = if self.warming_up { self.measure_from } else { Instant::from_nanos(u64::MAX) };
        if self.warming_up && now >= self.measure_from {
            (self.warming_up, self.errors_of_warmup) = (false, self.errors);
        }
        while let Some(due) = self.next_send(now).filter(|due| *due <= now && *due < until) {
            let is_free = self.protocol.free_at().is_some_and(|at| at <= now);
            if !is_free || !self.send(now, due, tx) {
                break; // no free client or a full turn: the other requests leave later
            }
            if let Some(schedule) = &mut self.schedule {
                schedule.advance();
            }
            self.note_sent(due);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let send =
            self.next_send(Instant::ZERO).zip(self.protocol.free_at()).map(|(due, free)| due.max(free));
        let end = (!self.ended).then(|| self.last_send());
        let thought = self.thoughts.front().map(|(until, _)| *until);
        earliest(earliest(earliest(self.ledger.next_expiry(), send), end), thought)
    }
}

#[cfg(test)]
mod tests;
