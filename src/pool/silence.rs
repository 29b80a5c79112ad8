//! Evidence that a server is silent, beside what its peers answer. For servers that give no signals but
//! answers.
//!
//! One unanswered request proves nothing: some requests have no answer (a name that no server resolves, a
//! datagram that servers discard on purpose), and any client can send them. So a server is silent only if it
//! has left several requests unanswered that it got since its last answer. Their number depends on its peers:
//! a share q of *their* requests has no answer. If the server is well, n requests in a row have none with the
//! probability q^n. From the n on for which q^n is at most `FALSE_ALARM` the server is silent:
//!
//! ```text
//! share q of the peers' requests without an answer    0.1 %   0.5 %   5 %   20 %   50 %   80 %   90 %
//! unanswered requests in a row that are evidence         2      3      5      9     20     62    132
//! ```
//!
//! If u of the peers' m requests have no answer, q is estimated as (u + 0.1) / (m + 1): as if one request
//! had been
//! sent before, with a tenth of it unanswered. So few requests of peers prove little.
//!
//! This is a sequential test in its simplest form: the likelihood ratio of Wald (1945) between a server that
//! answers nothing and one that is as its peers are. The workers count ([`Unanswered`]), and the primary
//! compares ([`AnswerShares`]). Without peers there is no evidence.

use std::time::Duration;

use crate::base::time::Instant;
use crate::pool::select::Slot;

/// The probability at which a row of unanswered requests is no accident.
const FALSE_ALARM: f64 = 1e-6;
/// Any request may be lost on its way: at least this share is expected to have no answer.
const SHARE_MIN: f64 = 1e-3;
/// One unanswered request is never evidence.
const ROW_MIN: f64 = 2.0;
/// Less than this is the rounding of a logarithm.
const ROUNDING: f64 = 1e-9;
/// What counts as sent, and as unanswered, before the first request.
const PRIOR: (f64, f64) = (1.0, 0.1);
/// The counts of requests and answers halve in this time.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// The counts of requests in a row at which [`Unanswered`] keeps the time.
const MARKS: [u32; 14] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];

/// The requests to one server since its last answer. It knows roughly how old they are.
#[derive(Clone, Debug)]
pub struct Unanswered {
    count: u32,
    /// Number of the [`MARKS`] that were reached, and when.
    marks: usize,
    at: [Instant; MARKS.len()],
    /// Requests that [`Unanswered::newly_before`] has returned.
    returned: u32,
}

impl Unanswered {
    /// No requests.
    pub const NONE: Unanswered =
        Unanswered { count: 0, marks: 0, at: [Instant::ZERO; MARKS.len()], returned: 0 };

    /// A request leaves.
    #[inline]
    pub fn ask(&mut self, now: Instant) {
        self.count = self.count.saturating_add(1);
        if MARKS.get(self.marks) == Some(&self.count) {
            self.at[self.marks] = now;
            self.marks += 1;
        }
    }

    /// The server has answered.
    #[inline]
    pub fn clear(&mut self) {
        (self.count, self.marks, self.returned) = (0, 0, 0);
    }

    /// The time of the first request; `None` without one.
    pub fn first(&self) -> Option<Instant> {
        (self.marks > 0).then_some(self.at[0])
    }

    /// The number of requests that left before this time, less those of the calls before. Rounded down to a
    /// mark, and 128 at most for all calls together.
    pub fn newly_before(&mut self, time: Instant) -> u32 {
        let reached = self.at[..self.marks].partition_point(|at| *at < time);
        let count = reached.checked_sub(1).map_or(0, |last| MARKS[last]);
        let new = count.saturating_sub(self.returned);
        self.returned += new;
        new
    }
}

/// Requests to servers, and their answers. The counts decay.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    asked: f64,
    answered: f64,
}

/// The counts of a pool's servers, by slot.
#[derive(Debug)]
pub struct AnswerShares {
    servers: Box<[Counts]>,
    /// The sum over the servers that count as peers.
    peers: Counts,
    /// The servers in that sum.
    is_peer: Box<[bool]>,
    at: Instant,
}

impl AnswerShares {
    /// The counts of a pool with this number of slots.
    pub fn new(slots: usize, now: Instant) -> Self {
        AnswerShares {
            servers: vec![Counts::default(); slots].into(),
            peers: Counts::default(),
            is_peer: vec![false; slots].into(),
            at: now,
        }
    }

    /// Another server has the slot.
    pub fn forget(&mut self, slot: Slot) {
        self.servers[slot.index()] = Counts::default();
    }

    /// Adds what has happened since the last call: by slot the requests and the answers, and whether the
    /// server
    /// is one that others are compared with.
    pub fn sample(&mut self, now: Instant, counts: impl Fn(Slot) -> (u32, u32, bool)) {
        let keeps = (-now.since(self.at).div_duration_f64(HALF_LIFE)).exp2();
        (self.at, self.peers) = (now, Counts::default());
        for (index, server) in self.servers.iter_mut().enumerate() {
            let (asked, answered, is_peer) = counts(Slot::new(index));
            server.asked = server.asked * keeps + f64::from(asked);
            server.answered = server.answered * keeps + f64::from(answered);
            self.is_peer[index] = is_peer;
            if is_peer {
                self.peers.asked += server.asked;
                self.peers.answered += server.answered;
            }
        }
    }

    /// The number of unanswered requests in a row that show that this server is silent; `None` without peers
    /// that were asked.
    pub fn row_of_evidence(&self, slot: Slot) -> Option<u32> {
        let Counts { mut asked, mut answered } = self.peers;
        if self.is_peer[slot.index()] {
            asked -= self.servers[slot.index()].asked;
            answered -= self.servers[slot.index()].answered;
        }
        if asked < 1.0 {
            return None;
        }
        let unanswered = (asked - answered).max(0.0);
        let share = ((unanswered + PRIOR.1) / (asked + PRIOR.0)).max(SHARE_MIN);
        let row = (FALSE_ALARM.ln() / share.ln() - ROUNDING).ceil().max(ROW_MIN);
        Some(row as u32) // saturates where all requests are unanswered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000 * ms)
    }

    #[test]
    fn requests_count_from_their_age_on_and_each_once() {
        let mut unanswered = Unanswered::NONE;
        assert_eq!((unanswered.first(), unanswered.newly_before(at(9))), (None, 0));
        (1..=200).for_each(|ms| unanswered.ask(at(ms)));
        assert_eq!(unanswered.first(), Some(at(1)));
        let counts = [1, 2, 3, 6, 49, 50, 1_000].map(|ms| unanswered.newly_before(at(ms)));
        assert_eq!(counts, [0, 1, 1, 2, 44, 0, 80], "0, 1, 2, 4, 48, 48, and 128 altogether");
        unanswered.clear();
        assert_eq!((unanswered.first(), unanswered.newly_before(at(2_000))), (None, 0));
        unanswered.ask(at(2_000));
        assert_eq!(unanswered.newly_before(at(2_001)), 1);
    }

    /// Shares of three servers, of which the first two have these counts.
    fn shares(first: (u32, u32), second: (u32, u32)) -> AnswerShares {
        let mut shares = AnswerShares::new(3, at(0));
        shares.sample(at(0), |slot| match slot.index() {
            0 => (first.0, first.1, true),
            1 => (second.0, second.1, true),
            _ => (0, 0, false),
        });
        shares
    }

    #[test]
    fn the_less_peers_answer_the_more_requests_it_takes() {
        for (asked, answered, row) in [
            (10_000, 10_000, 2),
            (10_000, 9_951, 3),
            (10_000, 9_501, 5),
            (10_000, 8_001, 9),
            (10_000, 5_001, 20),
            (10_000, 2_001, 62),
            (10_000, 1_001, 131),
            (100, 100, 2),
            (10, 10, 3),
            (1, 1, 5),
        ] {
            let shares = shares((7, 0), (asked, answered));
            assert_eq!(shares.row_of_evidence(Slot::new(0)), Some(row), "{answered} of {asked}");
        }
        let none_answers = shares((7, 7), (10_000, 0)).row_of_evidence(Slot::new(0)).unwrap();
        assert!(none_answers > 100_000, "{none_answers}");
        assert_eq!(shares((7, 7), (0, 0)).row_of_evidence(Slot::new(0)), None, "no peer was asked");
        assert!(shares((7, 7), (0, 0)).row_of_evidence(Slot::new(2)).is_some(), "one that is no peer itself");
    }

    #[test]
    fn counts_decay_and_those_of_another_server_are_forgotten() {
        let mut shares = shares((10_000, 5_001), (0, 0));
        assert_eq!(shares.row_of_evidence(Slot::new(1)), Some(20));
        shares.sample(at(20_000), |slot| if slot.index() == 0 { (7_500, 7_500, true) } else { (0, 0, true) });
        assert_eq!(shares.row_of_evidence(Slot::new(1)), Some(7), "8,750 of 10,000");
        shares.forget(Slot::new(0));
        shares.sample(at(20_000), |_| (0, 0, true));
        assert_eq!(shares.row_of_evidence(Slot::new(1)), None);
    }

    /// Servers that are alike and leave some requests unanswered, for a quarter of an hour: no false alarm.
    /// Then
    /// one of them falls silent, and there is an alarm after a row of the expected length.
    #[test]
    fn equal_servers_cause_no_alarm_and_a_silent_one_does() {
        for (seed, lost) in (1..).zip([0.0, 0.01, 0.1, 0.5, 0.7]) {
            let mut pool =
                Pool { rng: Rng::new(seed), now: 0, shares: AnswerShares::new(4, at(0)), rows: [0; 4] };
            (0..100).for_each(|_| _ = pool.step(lost, None));
            for _ in 0..90_000 {
                let alarm = pool.step(lost, None);
                assert_eq!(alarm, None, "{lost} unanswered, at {} ms: {:?}", pool.now, pool.rows);
            }
            let alarm = (0..5_000).find_map(|_| pool.step(lost, Some(1)));
            assert_eq!(alarm, Some(1), "{lost} unanswered");
            assert!(pool.rows[1] <= 64, "{lost} unanswered: {:?}", pool.rows);
        }
    }

    /// Four servers that get 100 requests/s.
    struct Pool {
        rng: Rng,
        now: u64,
        shares: AnswerShares,
        rows: [u32; 4],
    }

    impl Pool {
        /// A request; gives a server whose row is evidence.
        fn step(&mut self, lost: f64, silent: Option<usize>) -> Option<usize> {
            self.now += 10;
            let server = self.rng.below(4) as usize;
            let is_answered = silent != Some(server) && self.rng.unit_f64() >= lost;
            self.rows[server] = if is_answered { 0 } else { self.rows[server] + 1 };
            self.shares.sample(at(self.now), |slot| match slot.index() == server {
                true => (1, u32::from(is_answered), true),
                false => (0, 0, true),
            });
            let row = |n| self.shares.row_of_evidence(Slot::new(n));
            (0..4).find(|&n| row(n).is_some_and(|row| self.rows[n] >= row))
        }
    }
}
