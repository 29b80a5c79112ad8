//! The generator as a pure state machine: which request leaves when, and how each one ends.

use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::histogram::{self, EncodedHistogram, Percentiles, record};
use super::report::{Histograms, Report};
use super::schedule::{Arrivals, Schedule};
use crate::batch::{Rx, SocketId, Tx};
use crate::drop_reason::{DropCounters, DropReason};
use crate::role::Role;
use crate::time::{Instant, earliest};
use crate::wire::{Frame, FrameFormat, Header, Kind, Mode, Status};

/// A request that leaves this much after its planned moment is late.
pub const LATE: Duration = Duration::from_millis(1);
/// Requests in flight that can be told apart, at most.
const PLACES_MAX: usize = 1 << 22;

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Size of the frames.
    pub format: FrameFormat,
    /// The balancer's client side.
    pub target: SocketAddr,
    /// Sockets to send from, in turn.
    pub connections: u16,
    /// Requests per second; `None` = a new request for each that ended.
    pub rate: Option<f64>,
    /// How the gaps are distributed, with a rate.
    pub arrivals: Arrivals,
    /// Requests in flight at most. With a rate, those that have to wait for room are late.
    pub window: Option<usize>,
    /// Bytes of payload; must fit a frame.
    pub payload: usize,
    /// When a request without an answer is lost.
    pub timeout: Duration,
    /// Time before the measurement, outside all counts.
    pub warmup: Duration,
    /// Time of the measurement.
    pub duration: Duration,
    /// Seed of schedule and client id.
    pub seed: u64,
}

#[derive(Clone, Copy, Default)]
struct Place {
    intended: Instant,
    sent: Instant,
    open: bool,
}

/// Sends what the plan says and accounts for every request of the measurement.
pub struct Generator {
    plan: Plan,
    client_id: u64,
    /// One request, but for its number: copied and numbered for each.
    template: Box<[u8]>,
    schedule: Option<Schedule>,
    /// Open requests by number modulo their count. Numbers below `oldest` have ended.
    places: Box<[Place]>,
    oldest: u64,
    next: u64,
    in_flight: usize,
    measure_from: Instant,
    end: Instant,
    /// The end has passed: even a request that was due before it leaves no more.
    ended: bool,
    counts: Report,
    corrected: Histogram<u64>,
    uncorrected: Histogram<u64>,
    pacing: Histogram<u64>,
    drops: DropCounters,
}

impl Generator {
    /// A generator whose warm-up begins now.
    pub fn new(plan: Plan, now: Instant) -> Self {
        let mut rng = crate::rng::Rng::new(plan.seed);
        let client_id = rng.next_u64() | 1;
        let mut header = Header::new(Kind::ClientRequest, plan.format.size);
        header.mode = Mode::Idempotent as u8;
        header.attempt = 1;
        header.client_id.set(client_id);
        header.deadline_us.set(plan.timeout.as_micros().clamp(1, u128::from(u32::MAX)) as u32);
        let payload: Vec<u8> = (0..plan.payload).map(|_| rng.next_u64() as u8).collect();
        let mut template = vec![0; plan.format.size].into_boxed_slice();
        Frame::write(&mut template, &header, &payload);
        let schedule = plan.rate.map(|rate| Schedule::new(rate, plan.arrivals, now, rng.next_u64()));
        // Twice what is in flight if nothing is answered, so that only a generator that stalls runs out.
        let by_rate = plan.rate.map_or(0.0, |rate| 2.0 * rate * plan.timeout.as_secs_f64()) as usize;
        let places = by_rate.max(plan.window.unwrap_or(0)).clamp(1024, PLACES_MAX).next_power_of_two();
        let histogram = || histogram::empty(plan.timeout, 3);
        let measure_from = now + plan.warmup;
        Generator {
            client_id,
            template,
            schedule,
            places: vec![Place::default(); places].into_boxed_slice(),
            oldest: 1,
            next: 1,
            in_flight: 0,
            measure_from,
            end: measure_from + plan.duration,
            ended: false,
            counts: Report::default(),
            corrected: histogram(),
            uncorrected: histogram(),
            pacing: histogram(),
            drops: DropCounters::default(),
            plan,
        }
    }

    /// Sends no more; what is in flight still counts.
    pub fn stop(&mut self, now: Instant) {
        self.end = self.end.min(now);
    }

    /// Counts everything in flight as lost.
    pub fn abandon(&mut self) {
        self.expire(Instant::from_nanos(u64::MAX));
    }

    /// Whether every request has ended and no more will be sent.
    pub fn is_finished(&self, now: Instant) -> bool {
        now >= self.end && self.in_flight == 0
    }

    /// What was counted so far, without rates and percentiles.
    pub fn counts(&self) -> &Report {
        &self.counts
    }

    /// Requests without an end yet, those of the warm-up included.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The account of a finished run.
    pub fn report(mut self) -> Report {
        // What was planned before the end but never left.
        if let Some(schedule) = &mut self.schedule {
            while schedule.next() < self.end {
                self.counts.planned += u64::from(schedule.next() >= self.measure_from);
                schedule.advance();
            }
        }
        let seconds = self.end.since(self.measure_from).as_secs_f64();
        Report {
            duration_s: seconds,
            rate: if seconds > 0.0 { self.counts.sent as f64 / seconds } else { 0.0 },
            rate_wanted: self.plan.rate,
            latency_us: Percentiles::of(&self.corrected),
            latency_uncorrected_us: Percentiles::of(&self.uncorrected),
            pacing_us: Percentiles::of(&self.pacing),
            spectrum: histogram::spectrum(&self.corrected),
            histograms: Histograms {
                latency: EncodedHistogram::of(&self.corrected),
                latency_uncorrected: EncodedHistogram::of(&self.uncorrected),
                pacing: EncodedHistogram::of(&self.pacing),
            },
            drops: self.drops.nonzero().map(|(reason, n)| (reason.name().to_owned(), n)).collect(),
            ..self.counts
        }
    }

    fn index(&self, number: u64) -> usize {
        number as usize & (self.places.len() - 1)
    }

    /// When the next request should leave, if one may: a closed loop is always ready.
    fn next_send(&self, now: Instant) -> Option<Instant> {
        let room = !self.ended
            && self.in_flight < self.plan.window.unwrap_or(usize::MAX)
            && self.next - self.oldest < self.places.len() as u64;
        let due = self.schedule.as_ref().map_or(now, Schedule::next);
        (room && due < self.end).then_some(due)
    }

    fn send(&mut self, now: Instant, intended: Instant, tx: &mut Tx) -> bool {
        let socket = SocketId((self.next % u64::from(self.plan.connections)) as u16);
        let size = self.plan.format.size;
        let Some(bytes) = tx.destination(socket, self.plan.target, None).and_then(|d| tx.stage(d, size))
        else {
            return false; // a full turn: the rest leaves with the next one
        };
        bytes.copy_from_slice(&self.template);
        let frame = Frame::check(bytes, &self.plan.format).expect("the template is a frame");
        frame.header.sequence.set(self.next);
        frame.header.incomplete.set((self.next - self.oldest).min(u64::from(u16::MAX)) as u16);
        let index = self.index(self.next);
        self.places[index] = Place { intended, sent: now, open: true };
        self.next += 1;
        self.in_flight += 1;
        if intended >= self.measure_from {
            self.counts.planned += 1;
            self.counts.sent += 1;
            self.counts.late_sends += u64::from(now.since(intended) > LATE);
            record(&mut self.pacing, now.since(intended));
        }
        true
    }

    /// Ends an open request and gives its times if it belongs to the measurement.
    fn close(&mut self, number: u64) -> Option<Place> {
        let index = self.index(number);
        let place = self.places[index];
        self.places[index].open = false;
        self.in_flight -= 1;
        while self.oldest < self.next && !self.places[self.index(self.oldest)].open {
            self.oldest += 1;
        }
        (place.intended >= self.measure_from).then_some(place)
    }

    fn on_response(&mut self, now: Instant, bytes: &mut [u8]) -> Result<(), DropReason> {
        let frame = Frame::check(bytes, &self.plan.format)?;
        if frame.kind() != Kind::ClientResponse {
            return Err(DropReason::Unexpected);
        }
        let number = frame.header.sequence.get();
        let status = Status::from_wire(frame.header.status).ok_or(DropReason::Kind)?;
        let known = frame.header.client_id.get() == self.client_id
            && (self.oldest..self.next).contains(&number)
            && self.places[self.index(number)].open;
        if !known {
            return Err(DropReason::NotOpen);
        }
        let Some(place) = self.close(number) else { return Ok(()) };
        match status {
            Status::Ok => {
                self.counts.answered += 1;
                record(&mut self.corrected, now.since(place.intended));
                record(&mut self.uncorrected, now.since(place.sent));
            }
            Status::Busy => self.counts.busy += 1,
            Status::Expired | Status::Unknown | Status::Error => self.counts.refused += 1,
        }
        Ok(())
    }

    /// Requests leave in the order of their numbers and all have the same time-out, so the oldest is lost first.
    fn expire(&mut self, now: Instant) {
        while self.in_flight > 0 && self.places[self.index(self.oldest)].sent + self.plan.timeout <= now {
            if self.close(self.oldest).is_some() {
                self.counts.lost += 1;
                record(&mut self.corrected, self.plan.timeout);
                record(&mut self.uncorrected, self.plan.timeout);
            }
        }
    }
}

impl Role for Generator {
    fn on_batch(&mut self, now: Instant, rx: &mut Rx, _tx: &mut Tx) {
        let format = self.plan.format;
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            for datagram in bytes.chunks_mut(received.stride as usize) {
                if !format.divides(datagram.len()) {
                    self.drops.add(DropReason::Length, 1);
                    continue;
                }
                for frame in datagram.chunks_exact_mut(format.size) {
                    if let Err(reason) = self.on_response(now, frame) {
                        self.drops.add(reason, 1);
                    }
                }
            }
        }
    }

    fn on_timeout(&mut self, now: Instant, tx: &mut Tx) {
        self.expire(now);
        self.ended = now >= self.end;
        while let Some(due) = self.next_send(now).filter(|due| *due <= now) {
            if !self.send(now, due, tx) {
                break;
            }
            if let Some(schedule) = &mut self.schedule {
                schedule.advance();
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let expiry =
            (self.in_flight > 0).then(|| self.places[self.index(self.oldest)].sent + self.plan.timeout);
        let send = self.next_send(Instant::ZERO);
        earliest(earliest(expiry, send), (!self.ended).then_some(self.end))
    }
}

#[cfg(test)]
mod tests;
