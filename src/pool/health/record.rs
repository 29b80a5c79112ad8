//! The failure record of a server: flap damping with a penalty that decays, after RFC 2439.
//!
//! ```text
//! time in service between failures    10 s   5 s    2 s    1 s    0.5 s
//! penalty after failure 2             1.2    1.4    1.7    1.8    1.9
//!                       3             1.2    1.6    2.2    2.5    2.8
//! held down for                       -      -     101 s   78 s   84 s    at 1.75 or more
//! ```
//!
//! Each failure adds 1 to the penalty. The penalty decays: its half-life is [`IN_SERVICE`] while the server
//! is in
//! service, and [`AWAY`] at any other time. (RFC 2439, 4.2, has two half-lives too.) From [`CUT_OFF`] on the
//! server is held down, until its penalty has decayed to [`REUSE`], and for `hold_down_max` at most. After
//! that
//! one more failure soon holds it down again.
//!
//! So only the time in service between failures decides, not their number. A server that serves for a second
//! between failures is held down at its second one, for more than a minute: where nothing asks a held server,
//! its third failure is not seen. A server that serves for 5 s or longer between restarts is never held down.
//! Time in service ends at the last liveness signal, not when its absence is noticed.
//!
//! A failure is to go down, or to be suspect for [`AWAY_MIN`] or longer. Each absence counts once. Each
//! death after an answer while held down counts too. A short suspicion is no failure: slow is not dead. A
//! graceful stop is none either.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Limits;
use crate::base::time::Instant;

/// A suspicion of at least this duration is a failure.
pub const AWAY_MIN: Duration = Duration::from_millis(250);
/// Half-life of the penalty while the server is in service.
const IN_SERVICE: Duration = Duration::from_secs(4);
/// Half-life of the penalty while the server is not in service.
const AWAY: Duration = Duration::from_secs(90);
/// From this penalty on a server is held down. It is above 1.73, the limit for failures with 5 s of service
/// between them, and below 1.83, the penalty of two failures with a second between them.
const CUT_OFF: f64 = 1.75;
/// A server is held down until its penalty is this, as after one failure. So one more failure soon after is
/// above the cut-off.
const REUSE: f64 = 1.0;
/// Below this penalty the failures before are forgotten: RFC 2439 forgets at half of the reuse limit.
const FORGET: f64 = REUSE / 2.0;

/// The failure record of one server. It outlives the server's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Failures since the penalty was last below [`FORGET`].
    failures: u32,
    /// The penalty at a time.
    penalty: f64,
    penalty_at: Instant,
    /// The hold-down time after the last failure, and its end.
    hold: Duration,
    held_until: Instant,
    /// Start of the present time in service. A short suspicion does not restart it.
    up_since: Instant,
    away: Option<Away>,
}

/// The time from leaving service to the return.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Away {
    since: Instant,
    verdict: AbsenceVerdict,
}

/// Whether an absence is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum AbsenceVerdict {
    /// The absence may become a failure.
    Open,
    /// The absence has been counted or excused: it is not counted again.
    Closed,
    /// The absence has been counted, but the server has answered since: dying is another failure.
    Answered,
}

impl Default for Record {
    fn default() -> Self {
        Record {
            failures: 0,
            penalty: 0.0,
            penalty_at: Instant::ZERO,
            hold: Duration::ZERO,
            held_until: Instant::ZERO,
            up_since: Instant::ZERO,
            away: None,
        }
    }
}

/// The time in which `from` decays to `to`, if it is larger.
fn decay_time(from: f64, to: f64, half_life: Duration) -> Duration {
    half_life.mul_f64((from / to).log2().max(0.0))
}

/// The penalty that decays to [`REUSE`] in the maximum hold-down time, and at least the cut-off: a larger one
/// would only make the server wait again.
fn ceiling(limits: &Limits) -> f64 {
    (REUSE * limits.hold_down_max.div_duration_f64(AWAY).exp2()).max(CUT_OFF)
}

impl Record {
    /// Number of failures that are not forgotten.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether the record has no failures.
    pub fn is_clean(&self) -> bool {
        self.failures == 0
    }

    /// Whether the server is held down.
    pub fn is_held(&self, now: Instant) -> bool {
        now < self.held_until
    }

    /// Start of the server's present time in service. Meaningful only while it is in service.
    pub fn up_since(&self) -> Instant {
        self.up_since
    }

    /// The server leaves service, for any reason. It gave its last liveness signal at `last_alive`.
    pub(super) fn leave(&mut self, now: Instant, last_alive: Instant) {
        self.decay(last_alive.min(now), IN_SERVICE);
        self.decay(now, AWAY);
        self.away = Some(Away { since: now, verdict: AbsenceVerdict::Open });
    }

    /// The penalty decays until this time.
    fn decay(&mut self, until: Instant, half_life: Duration) {
        if until > self.penalty_at {
            self.penalty *= (-until.since(self.penalty_at).div_duration_f64(half_life)).exp2();
            self.penalty_at = until;
        }
        if self.penalty < FORGET {
            (self.failures, self.hold) = (0, Duration::ZERO);
        }
    }

    /// The server is down, or its process has died. That is a failure if the present absence has not been
    /// counted yet, or if the server has answered since.
    pub(super) fn fail(&mut self, now: Instant, limits: &Limits) {
        let Some(away) = &mut self.away else { return };
        if std::mem::replace(&mut away.verdict, AbsenceVerdict::Closed) == AbsenceVerdict::Closed {
            return;
        }
        self.decay(now, AWAY);
        self.failures = self.failures.saturating_add(1);
        self.penalty = (self.penalty + 1.0).min(ceiling(limits));
        self.hold = match self.penalty >= CUT_OFF {
            true => decay_time(self.penalty, REUSE, AWAY).min(limits.hold_down_max),
            false => Duration::ZERO,
        };
        self.held_until = now + self.hold;
    }

    /// A suspect server has given a liveness signal.
    pub(super) fn end_suspicion(&mut self, now: Instant, limits: &Limits) {
        if self
            .away
            .is_some_and(|away| away.verdict == AbsenceVerdict::Open && now.since(away.since) >= AWAY_MIN)
        {
            self.fail(now, limits);
        }
    }

    /// The server answers while it is held down.
    pub(super) fn answer(&mut self) {
        self.judge(AbsenceVerdict::Answered);
    }

    /// The server is drained or disabled: the present absence is no failure.
    pub(super) fn excuse(&mut self) {
        self.judge(AbsenceVerdict::Closed);
    }

    fn judge(&mut self, verdict: AbsenceVerdict) {
        if let Some(away) = &mut self.away {
            away.verdict = verdict;
        }
    }

    /// The server is in service (again). If it was only suspect, and not counted as failed, its time in
    /// service continues.
    pub(super) fn enter(&mut self, now: Instant, was_suspected: bool) {
        self.decay(now, AWAY);
        let away = self.away.take();
        if !(was_suspected && away.is_some_and(|away| away.verdict == AbsenceVerdict::Open)) {
            self.up_since = now;
        }
    }
}

impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "failed {} times, held for {} s", self.failures, self.hold.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        rise: 2,
        fall: 3,
        silence: Duration::from_millis(100),
        probe: Duration::from_millis(33),
        hold_down_max: Duration::from_secs(300),
    };

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// A server that fails after `up_ms` in service; its absence is noticed `late_ms` later. It returns as
    /// soon
    /// as it may, but not before `gone_ms`. Returns its hold-down time, and when it is in service again.
    fn fail(record: &mut Record, from_ms: u64, [up_ms, late_ms, gone_ms]: [u64; 3]) -> (Duration, u64) {
        record.enter(at(from_ms), false);
        let end = from_ms + up_ms;
        let noticed = end + late_ms;
        record.leave(at(noticed), at(end));
        record.fail(at(noticed), &LIMITS);
        record.fail(at(noticed + 1), &LIMITS);
        let hold = record.held_until.since(at(noticed));
        (hold, (noticed + hold.as_millis() as u64 + 1).max(end + gone_ms))
    }

    /// The hold-down times, in seconds, of a server that fails this often.
    fn holds(count: usize, times: [u64; 3]) -> Vec<u64> {
        let (mut record, mut now) = (Record::default(), 1_000);
        (0..count)
            .map(|_| {
                let (hold, back) = fail(&mut record, now, times);
                now = back;
                hold.as_secs()
            })
            .collect()
    }

    #[test]
    fn a_server_that_serves_for_a_second_between_failures_is_held_down_from_the_second_on() {
        assert_eq!(holds(5, [1_000, 0, 1_000]), [0, 78, 79, 79, 79]);
        assert_eq!(holds(3, [1_000, 1_000, 1_000]), [0, 78, 78], "also if its absence is noticed late");
        assert_eq!(holds(3, [2_000, 0, 2_000]), [0, 0, 101]);
    }

    #[test]
    fn restarts_with_five_seconds_of_service_between_them_hold_no_server_down() {
        for (up, gone) in [(9_000, 1_000), (8_000, 2_000), (5_000, 300), (60_000, 60_000)] {
            assert_eq!(holds(50, [up, 100, gone]), [0; 50], "{up} ms up, {gone} ms gone");
        }
    }

    #[test]
    fn more_failures_hold_for_longer_up_to_the_limit() {
        let mut record = Record::default();
        let (_, back) = fail(&mut record, 1_000, [1_000, 0, 1_000]);
        record.enter(at(back), false);
        record.leave(at(back + 1_000), at(back + 1_000));
        let times: Vec<u64> = (0..40)
            .map(|n| {
                let now = at(back + 1_000 + 2_000 * n);
                record.fail(now, &LIMITS);
                record.answer();
                record.end_suspicion(now + Duration::from_secs(1), &LIMITS);
                record.held_until.since(now).as_secs()
            })
            .collect();
        assert_eq!((times[0], times[1], times[39]), (78, 133, 300));
        assert!(times.is_sorted(), "{times:?}");
        assert_eq!(record.failures(), 41);
        assert_eq!(record.to_string(), "failed 41 times, held for 300 s");
        record.excuse();
        record.fail(at(200_000), &LIMITS);
        assert_eq!(record.failures(), 41, "the absence is excused");
    }

    #[test]
    fn a_short_limit_is_the_hold_down_time_and_zero_holds_nothing() {
        for max in [Duration::ZERO, Duration::from_secs(3), Duration::from_secs(60)] {
            let limits = Limits { hold_down_max: max, ..LIMITS };
            let mut record = Record::default();
            for n in 0..5 {
                let now = at(1_000 + 4_000 * n);
                record.enter(now, false);
                record.leave(now + Duration::from_secs(1), now + Duration::from_secs(1));
                record.fail(now + Duration::from_secs(1), &limits);
                assert_eq!(record.hold, if n == 0 { Duration::ZERO } else { max }, "failure {n}");
            }
        }
    }

    #[test]
    fn failures_are_forgotten_in_service_within_seconds_and_elsewhere_within_minutes() {
        let mut record = Record::default();
        let (_, back) = fail(&mut record, 1_000, [1_000, 0, 1_000]);
        record.enter(at(back), false);
        let mut served = record.clone();
        served.leave(at(back + 5_000), at(back + 5_000));
        assert!(served.is_clean());
        let mut idle = record.clone();
        idle.leave(at(back + 60_000), at(back));
        assert_eq!(idle.failures(), 1, "silent time is no service");
        idle.enter(at(back + 200_000), false);
        assert!(idle.is_clean());
    }

    #[test]
    fn a_short_suspicion_is_no_failure_and_a_long_one_is_one() {
        let mut record = Record::default();
        record.enter(at(1_000), true);
        for (start, ms, failures) in [(2_000, 249, 0), (3_000, 250, 1), (4_000, 10_000, 2)] {
            record.leave(at(start), at(start));
            record.end_suspicion(at(start + ms), &LIMITS);
            record.end_suspicion(at(start + ms), &LIMITS);
            assert_eq!(record.failures, failures, "{ms} ms");
            let before = record.up_since();
            record.enter(at(start + ms), true);
            assert_eq!(record.up_since() == before, failures == 0, "a short one changes nothing");
        }
    }

    proptest! {
        /// Whatever happened before: two failures with at most a second of service between them hold a server
        /// down for more than a minute, and no hold-down time exceeds the limit.
        #[test]
        fn quick_failures_are_held_and_the_limit_is_kept(
            past in prop::collection::vec((1..30_000u64, 0..2_000u64, 0..60_000u64), 0..12),
            up in 0..=1_000u64,
            gone in 0..3_000u64,
        ) {
            let (mut record, mut now) = (Record::default(), 1_000);
            for (up, late, gone) in past {
                let (hold, back) = fail(&mut record, now, [up, late, gone]);
                prop_assert!(hold <= LIMITS.hold_down_max);
                prop_assert!(hold.is_zero() || hold > Duration::from_secs(70));
                now = back;
            }
            now += 60_000;
            let (_, back) = fail(&mut record, now, [60_000, 0, gone]);
            let (hold, _) = fail(&mut record, back, [up, 0, gone]);
            prop_assert!(hold > Duration::from_secs(70), "{:?}", hold);
        }
    }
}
