//! All requests in flight, and the account of those that have ended.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::counts::{Counts, RequestEnd};
use super::histogram::{self, add, record};
use super::tolerance::Tolerance;
use crate::base::drop_reason::{DropCounters, DropReason};
use crate::base::time::Instant;

/// Maximum requests in flight that can be distinguished.
const PLACES_MAX: usize = 1 << 22;
const PLACES_MIN: usize = 1024;
/// Significant digits of a run's histograms and of a second's histograms.
const DIGITS: u8 = 3;
const DIGITS_OF_A_SECOND: u8 = 2;
/// Send time of an entry that is not open. No clock returns it.
const CLOSED: Instant = Instant::ZERO;

#[derive(Clone, Copy, Default)]
struct LedgerEntry {
    intended: Instant,
    /// Send time, or [`CLOSED`].
    sent: Instant,
}

/// Outcomes of the requests that were scheduled for one second of the measurement.
#[derive(Clone, Debug)]
pub struct SecondTally {
    /// Index of the second, from 0.
    pub index: u64,
    /// Counts of the second; all requests have ended.
    pub counts: Counts,
    /// Latency from the scheduled moment, in nanoseconds.
    pub latency: Histogram<u64>,
}

/// The account of a run, or of several concurrent runs.
#[derive(Debug)]
pub struct Account {
    /// Counts of the measurement.
    pub counts: Counts,
    /// Latency from the scheduled moment to the end, of answered and lost requests.
    pub latency: Histogram<u64>,
    /// The part of `latency` that belongs to lost requests: each waited, and then its timeout passed.
    pub lost: Histogram<u64>,
    /// Latency from the moment of sending.
    pub latency_uncorrected: Histogram<u64>,
    /// Send lag: time from the scheduled moment to the moment of sending.
    pub pacing: Histogram<u64>,
    /// Datagrams and frames that matched no open request.
    pub drops: DropCounters,
}

impl Account {
    /// An empty account.
    pub fn new(timeout: Duration) -> Self {
        let empty = || histogram::empty(timeout, DIGITS);
        Account {
            counts: Counts::default(),
            latency: empty(),
            lost: empty(),
            latency_uncorrected: empty(),
            pacing: empty(),
            drops: DropCounters::default(),
        }
    }

    /// Adds another account exactly.
    pub fn add(&mut self, other: &Account) {
        self.counts += other.counts;
        add(&mut self.latency, &other.latency);
        add(&mut self.lost, &other.lost);
        add(&mut self.latency_uncorrected, &other.latency_uncorrected);
        add(&mut self.pacing, &other.pacing);
        other.drops.nonzero().for_each(|(reason, n)| self.drops.add(reason, n));
    }
}

/// Open requests by number, and the account of the measurement.
pub struct RequestLedger {
    timeout: Duration,
    /// Time after its scheduled moment from which a request is late.
    late_max: Duration,
    measure_from: Instant,
    /// Open requests by number modulo the length. Requests with numbers below `oldest` have ended.
    places: Box<[LedgerEntry]>,
    oldest: u64,
    next: u64,
    in_flight: usize,
    account: Account,
    /// Seconds that are not over or not returned yet; the first one's index is `first_second`.
    seconds: VecDeque<SecondTally>,
    first_second: u64,
}

impl RequestLedger {
    /// A ledger for about `room` requests in flight. All memory is allocated now.
    pub fn new(room: usize, timeout: Duration) -> Self {
        let places = room.clamp(PLACES_MIN, PLACES_MAX).next_power_of_two();
        let mut places = vec![LedgerEntry::default(); places].into_boxed_slice();
        fault_in(&mut places);
        RequestLedger {
            timeout,
            late_max: Tolerance::default().late_max(),
            measure_from: Instant::ZERO,
            places,
            oldest: 1,
            next: 1,
            in_flight: 0,
            account: Account::new(timeout),
            seconds: VecDeque::with_capacity(16),
            first_second: 0,
        }
    }

    /// Sets which requests are late.
    #[must_use]
    pub fn tolerate(self, tolerance: Tolerance) -> Self {
        RequestLedger { late_max: tolerance.late_max(), ..self }
    }

    /// Sets the start of the measurement: requests scheduled before it do not count. Call it before the
    /// first request.
    pub fn measure_from(&mut self, at: Instant) {
        self.measure_from = at;
    }

    /// Range of numbers that open requests may have; its end is the number of the next request.
    pub fn span(&self) -> Range<u64> {
        self.oldest..self.next
    }

    /// Whether another request fits.
    pub fn has_room(&self) -> bool {
        self.next - self.oldest < self.places.len() as u64
    }

    /// Requests in flight, those of the warm-up included.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The counts so far.
    pub fn counts(&self) -> &Counts {
        &self.account.counts
    }

    /// Counts a datagram or frame that matched no open request, unless it came in the warm-up.
    pub fn drop(&self, reason: DropReason, now: Instant) {
        if now >= self.measure_from {
            self.account.drops.add(reason, 1);
        }
    }

    /// Whether a request is open.
    pub fn is_open(&self, number: u64) -> bool {
        self.span().contains(&number) && self.place(number).sent != CLOSED
    }

    /// Whether an open request belongs to the measurement, not to its warm-up.
    pub fn is_measured(&self, number: u64) -> bool {
        self.place(number).intended >= self.measure_from
    }

    fn place(&self, number: u64) -> &LedgerEntry {
        &self.places[number as usize & (self.places.len() - 1)]
    }

    fn place_mut(&mut self, number: u64) -> &mut LedgerEntry {
        &mut self.places[number as usize & (self.places.len() - 1)]
    }

    /// Opens the next request, which leaves now.
    pub fn open(&mut self, intended: Instant, now: Instant) {
        debug_assert!(self.has_room());
        *self.place_mut(self.next) = LedgerEntry { intended, sent: now };
        self.next += 1;
        self.in_flight += 1;
        if intended >= self.measure_from {
            let sent = Counts {
                planned: 1,
                sent: 1,
                late_sends: (now.since(intended) > self.late_max).into(),
                ..Counts::default()
            };
            self.account.counts += sent;
            record(&mut self.account.pacing, now.since(intended));
            self.second_of(intended).counts += sent;
        }
    }

    /// Counts requests that were scheduled but never left.
    pub fn add_planned(&mut self, count: u64) {
        self.account.counts.planned += count;
    }

    /// Ends an open request; false if it is not open.
    pub fn end(&mut self, number: u64, now: Instant, ending: RequestEnd) -> bool {
        if !self.is_open(number) {
            return false;
        }
        let place = std::mem::take(self.place_mut(number));
        self.in_flight -= 1;
        while self.oldest < self.next && self.place(self.oldest).sent == CLOSED {
            self.oldest += 1;
        }
        if place.intended >= self.measure_from {
            self.count_end(place, now, ending);
        }
        true
    }

    fn count_end(&mut self, place: LedgerEntry, now: Instant, ending: RequestEnd) {
        let times = match ending {
            RequestEnd::Answered => Some((now.since(place.intended), now.since(place.sent))),
            // Like an answered request, it has waited from its scheduled moment.
            RequestEnd::Lost => Some((place.sent.since(place.intended) + self.timeout, self.timeout)),
            RequestEnd::Busy | RequestEnd::Refused => None,
        };
        self.account.counts.end(ending);
        if let Some((corrected, uncorrected)) = times {
            record(&mut self.account.latency, corrected);
            record(&mut self.account.latency_uncorrected, uncorrected);
            if ending == RequestEnd::Lost {
                record(&mut self.account.lost, corrected);
            }
        }
        let second = self.second_of(place.intended);
        second.counts.end(ending);
        if let Some((corrected, _)) = times {
            record(&mut second.latency, corrected);
        }
    }

    /// A request whose timeout has passed. All requests have the same timeout and leave in order of
    /// their numbers, so the oldest one is lost first.
    pub fn expired(&self, now: Instant) -> Option<u64> {
        self.next_expiry().filter(|at| *at <= now).map(|_| self.oldest)
    }

    /// When the oldest request is lost if no response arrives.
    pub fn next_expiry(&self) -> Option<Instant> {
        (self.in_flight > 0).then(|| self.place(self.oldest).sent + self.timeout)
    }

    /// Scheduled moment of the oldest open request.
    fn oldest_intended(&self) -> Option<Instant> {
        (self.in_flight > 0).then(|| self.place(self.oldest).intended)
    }

    fn second_of(&mut self, intended: Instant) -> &mut SecondTally {
        let index = intended.since(self.measure_from).as_secs() - self.first_second;
        // Rarely more than one: a new second has begun.
        while self.seconds.len() as u64 <= index {
            self.seconds.push_back(SecondTally {
                index: self.first_second + self.seconds.len() as u64,
                counts: Counts::default(),
                latency: histogram::empty(self.timeout, DIGITS_OF_A_SECOND),
            });
        }
        &mut self.seconds[index as usize]
    }

    /// Returns the next second whose requests have all ended, once each and in order. No request may be
    /// scheduled before `planned_from` later.
    pub fn finished_second(&mut self, planned_from: Instant) -> Option<SecondTally> {
        let open_from = self.oldest_intended().map_or(planned_from, |oldest| oldest.min(planned_from));
        let ends = self.measure_from + Duration::from_secs(self.first_second + 1);
        if self.seconds.is_empty() || open_from < ends {
            return None;
        }
        self.first_second += 1;
        self.seconds.pop_front()
    }

    /// The account, when all requests have ended.
    pub fn close(self) -> Account {
        self.account
    }
}

/// Touches the memory now, so that the kernel does not allocate pages during the run.
fn fault_in(places: &mut [LedgerEntry]) {
    const STEP: usize = 4096 / size_of::<LedgerEntry>();
    for place in std::hint::black_box(places).iter_mut().step_by(STEP) {
        place.sent = CLOSED;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Instant = Instant::from_nanos(3_000_000_000);
    const TIMEOUT: Duration = Duration::from_millis(700);

    /// A request as the test's oracle remembers it.
    #[derive(Clone, Copy, Debug)]
    struct Known {
        intended: Instant,
        sent: Instant,
        ended: Option<(RequestEnd, Instant)>,
    }

    fn endings() -> impl Strategy<Value = RequestEnd> {
        prop_oneof![Just(RequestEnd::Answered), Just(RequestEnd::Busy), Just(RequestEnd::Refused)]
    }

    fn expected(known: &[Known], of: impl Fn(&Known) -> bool) -> (Counts, Histogram<u64>) {
        let (mut counts, mut latency) = (Counts::default(), histogram::empty(TIMEOUT, 2));
        for known in known.iter().filter(|known| of(known)) {
            let late = known.sent.since(known.intended) > Duration::from_millis(1);
            counts += Counts { planned: 1, sent: 1, late_sends: late.into(), ..Counts::default() };
            let (ending, at) = known.ended.expect("all have ended");
            counts.end(ending);
            match ending {
                RequestEnd::Answered => record(&mut latency, at.since(known.intended)),
                RequestEnd::Lost => record(&mut latency, known.sent.since(known.intended) + TIMEOUT),
                _ => {}
            }
        }
        (counts, latency)
    }

    proptest! {
        #[test]
        fn the_account_is_that_of_whoever_keeps_everything(
            steps in prop::collection::vec((0u64..400, 0u64..3, 0u64..30, endings(), 0usize..8), 1..300),
        ) {
            let from = START + Duration::from_millis(500);
            let mut ledger = RequestLedger::new(1, TIMEOUT);
            ledger.measure_from(from);
            let (mut known, mut seconds): (Vec<Known>, Vec<SecondTally>) = (vec![], vec![]);
            let mut now = START;
            for (pause, sends, late, ending, which) in steps {
                now += Duration::from_millis(pause);
                while let Some(number) = ledger.expired(now) {
                    assert!(ledger.end(number, now, RequestEnd::Lost));
                    known[number as usize - 1].ended = Some((RequestEnd::Lost, now));
                }
                for _ in 0..sends {
                    let last = known.last().map_or(START, |known| known.intended);
                    let intended = (now - Duration::from_millis(late)).max(last);
                    assert_eq!(ledger.span().end, known.len() as u64 + 1);
                    ledger.open(intended, now);
                    known.push(Known { intended, sent: now, ended: None });
                }
                let open: Vec<_> = (1..=known.len()).filter(|n| known[n - 1].ended.is_none()).collect();
                assert_eq!(ledger.in_flight(), open.len());
                assert_eq!(ledger.next_expiry(), open.first().map(|n| known[n - 1].sent + TIMEOUT));
                if let Some(number) = open.get(which) {
                    known[number - 1].ended = Some((ending, now));
                    assert!(ledger.end(*number as u64, now, ending));
                    assert!(!ledger.end(*number as u64, now, ending), "once");
                }
                // A later request is not scheduled before an earlier one.
                let planned_from = known.last().map_or(START, |known| known.intended);
                seconds.extend(std::iter::from_fn(|| ledger.finished_second(planned_from)));
            }
            while let Some(number) = ledger.expired(now + TIMEOUT) {
                assert!(ledger.end(number, now + TIMEOUT, RequestEnd::Lost));
                known[number as usize - 1].ended = Some((RequestEnd::Lost, now + TIMEOUT));
            }
            seconds.extend(std::iter::from_fn(|| ledger.finished_second(Instant::from_nanos(u64::MAX))));
            for (tally, index) in seconds.iter().zip(0..) {
                let begins = from + Duration::from_secs(index);
                let within = begins..begins + Duration::from_secs(1);
                let (counts, latency) = expected(&known, |known| within.contains(&known.intended));
                assert_eq!((tally.index, tally.counts), (index, counts));
                assert_eq!(tally.latency, latency);
            }
            let (counts, latency) = expected(&known, |known| known.intended >= from);
            let account = ledger.close();
            assert_eq!(account.counts, counts);
            assert_eq!(account.latency.len(), latency.len());
            assert_eq!(account.lost.len(), counts.lost);
            assert_eq!(account.pacing.len(), counts.sent);
            let in_seconds = seconds.iter().fold(Counts::default(), |mut sum, tally| {
                sum += tally.counts;
                sum
            });
            assert_eq!(in_seconds, counts, "no second is missing");
        }
    }

    #[test]
    fn the_sum_of_two_accounts_has_the_counts_of_both() {
        let account = |latency: u64| {
            let mut ledger = RequestLedger::new(1, TIMEOUT);
            ledger.open(START, START);
            ledger.end(1, START + Duration::from_micros(latency), RequestEnd::Answered);
            ledger.drop(DropReason::NotOpen, START);
            ledger.close()
        };
        let mut sum = account(100);
        sum.add(&account(3_000));
        assert_eq!((sum.counts.answered, sum.latency.len(), sum.pacing.len()), (2, 2, 2));
        assert_eq!(sum.latency.max() / 1_000_000, 3);
        assert_eq!(sum.drops.get(DropReason::NotOpen), 2);
    }
}
