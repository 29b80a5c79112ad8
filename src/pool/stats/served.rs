//! Service times that a worker measured. [`crate::pool::slowness`] draws the conclusions.

use std::time::Duration;

use super::Counter;

/// Service times of one server at one worker. The primary writes the gauges, for all workers together.
#[derive(Debug, Default)]
pub struct Served {
    count: Counter,
    micros: Counter,
    positions: Counter,
    /// The estimated service time, in microseconds; 0 without data (gauge).
    pub service_us: Counter,
    /// The service time relative to the fastest server, in [`crate::pool::select::AS_FAST`]; 0 unless the
    /// policy is shortest_delay (gauge).
    pub slowness: Counter,
}

/// Totals of [`Served`] at one moment, of one worker or several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServedTotals {
    /// Measured requests.
    pub count: u64,
    /// Sum of the measured times, in microseconds.
    pub micros: u64,
    /// Sum of the queue lengths at the end of each request, itself included; equals `count` if the measured
    /// times include no queueing.
    pub positions: u64,
}

/// Limit of a service time that a server reports, in microseconds.
const SERVICE_MAX: u32 = 60_000_000;

impl Served {
    /// Counts a report that `done` more requests are finished, with about `service_us` microseconds each. A
    /// report of 0 counts nothing.
    pub fn note_claim(&self, done: u32, service_us: u32) {
        if service_us > 0 {
            self.micros.add(u64::from(done) * u64::from(service_us.min(SERVICE_MAX)));
            self.positions.add(u64::from(done));
            self.count.add(u64::from(done));
        }
    }

    /// The totals since the start.
    pub fn totals(&self) -> ServedTotals {
        ServedTotals { count: self.count.get(), micros: self.micros.get(), positions: self.positions.get() }
    }

    /// Sets the gauges.
    pub fn show(&self, service: Option<Duration>, slowness: u32) {
        self.service_us.set(service.map_or(0, |service| service.as_micros() as u64));
        self.slowness.set(u64::from(slowness));
    }
}

impl std::iter::Sum for ServedTotals {
    fn sum<I: Iterator<Item = ServedTotals>>(totals: I) -> ServedTotals {
        totals.fold(ServedTotals::default(), |sum, one| ServedTotals {
            count: sum.count + one.count,
            micros: sum.micros + one.micros,
            positions: sum.positions + one.positions,
        })
    }
}

/// Responses of one server in one turn, before they are in the totals.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers {
    count: u32,
    micros: u64,
}

impl Answers {
    /// No responses.
    pub const NONE: Answers = Answers { count: 0, micros: 0 };

    /// Adds a response that took `micros` microseconds.
    pub fn add(&mut self, micros: u32) {
        self.count += 1;
        self.micros += u64::from(micros);
    }

    /// Adds the responses to the totals. `len` is the server's queue length including them.
    pub fn publish(&mut self, len: u32, served: &Served) {
        let Answers { count, micros } = std::mem::take(self);
        if count == 0 {
            return;
        }
        // Each response left a queue that was shorter by one than for the response before. The lengths known
        // to other workers may be a turn old.
        let (count, len) = (u64::from(count), u64::from(len.max(count)));
        served.micros.add(micros);
        served.positions.add(count * len - count * (count - 1) / 2);
        served.count.add(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_a_turn_have_left_a_shorter_queue_each() {
        let (served, mut answers) = (Served::default(), Answers::NONE);
        answers.publish(7, &served);
        assert_eq!(served.totals(), ServedTotals::default());
        (1..=3).for_each(|n| answers.add(n * 100));
        answers.publish(5, &served);
        assert_eq!(served.totals(), ServedTotals { count: 3, micros: 600, positions: 5 + 4 + 3 });
        answers.publish(5, &served);
        answers.add(40);
        answers.publish(0, &served);
        assert_eq!(served.totals(), ServedTotals { count: 4, micros: 640, positions: 13 }, "itself at least");
    }

    #[test]
    fn a_claim_counts_as_often_as_it_is_for_and_none_does_not() {
        let served = Served::default();
        served.note_claim(3, 500);
        served.note_claim(2, 0);
        assert_eq!(served.totals(), ServedTotals { count: 3, micros: 1_500, positions: 3 });
        served.note_claim(1, u32::MAX);
        assert_eq!(served.totals().micros, 1_500 + 60_000_000);
        let twice: ServedTotals = [served.totals(), served.totals()].into_iter().sum();
        assert_eq!((twice.count, twice.positions), (8, 8));
    }
}
