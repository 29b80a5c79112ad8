//! The failure record of a server: its recent failures, and the hold-down time that they cause.
//!
//! ```text
//! failures in memory         1    2      3         4
//! held down for, watched     0    4 s    64 s      17 min    (at most hold_down_max)
//!            not watched     0    64 s   17 min    4.6 h
//! ```
//!
//! A first failure is an accident. After the third in a row the server must get almost no requests for a
//! minute. If a held-down server is watched ([`Limits::is_watched`]), dying then is another failure, so
//! the third is seen whenever it happens. If it is not watched, it may have failed again unseen: the
//! second failure already holds it down for that long.
//!
//! A failure is to go down, or to be suspect for [`AWAY_MIN`] or longer. Each absence counts once. Each
//! death after an answer while held down counts too. A short suspicion is no failure: slow is not dead. A
//! graceful stop is none either. The record is cleared when the server has been in service for a minute, or
//! for its last hold-down time if that is longer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Limits;
use crate::base::time::Instant;

/// A suspicion of at least this duration is a failure.
pub const AWAY_MIN: Duration = Duration::from_millis(250);
/// Time in service after which a server's failures are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Hold-down time after the second failure of a watched server.
const HOLD: Duration = Duration::from_secs(4);
/// Each further failure multiplies the hold-down time by this factor.
const HOLD_FACTOR: u32 = 16;

/// The failure record of one server. It outlives the server's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    failures: u32,
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
            hold: Duration::ZERO,
            held_until: Instant::ZERO,
            up_since: Instant::ZERO,
            away: None,
        }
    }
}

/// Hold-down time after the `n`-th failure.
fn hold_after(failures: u32, limits: &Limits) -> Duration {
    let steps = match failures {
        0 | 1 => return Duration::ZERO,
        // Five factors exceed any limit.
        n => (n - 2).min(4) + u32::from(!limits.is_watched),
    };
    (HOLD * HOLD_FACTOR.pow(steps)).min(limits.hold_down_max)
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

    /// The server leaves service, for any reason.
    pub(super) fn leave(&mut self, now: Instant) {
        if now.since(self.up_since) >= FORGET_AFTER.max(self.hold) {
            (self.failures, self.hold) = (0, Duration::ZERO);
        }
        self.away = Some(Away { since: now, verdict: AbsenceVerdict::Open });
    }

    /// The server is down, or its process has died. That is a failure if the present absence has not been
    /// counted yet, or if the server has answered since.
    pub(super) fn fail(&mut self, now: Instant, limits: &Limits) {
        let Some(away) = &mut self.away else { return };
        if std::mem::replace(&mut away.verdict, AbsenceVerdict::Closed) != AbsenceVerdict::Closed {
            self.failures = self.failures.saturating_add(1);
            self.hold = hold_after(self.failures, limits);
            self.held_until = now + self.hold;
        }
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
    pub(super) fn answer(&mut self, limits: &Limits) {
        self.judge(if limits.is_watched { AbsenceVerdict::Answered } else { AbsenceVerdict::Closed });
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
    use super::*;

    const WATCHED: Limits = Limits {
        rise: 2,
        fall: 3,
        silence: Duration::from_millis(100),
        probe: Duration::from_millis(33),
        hold_down_max: Duration::from_secs(300),
        is_watched: true,
    };
    const UNWATCHED: Limits = Limits { is_watched: false, ..WATCHED };

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// A server that fails after `up_ms` in service and returns as soon as it may. Returns its hold-down
    /// time in seconds, and when it returned.
    fn fail(record: &mut Record, from_ms: u64, up_ms: u64, limits: &Limits) -> (u64, u64) {
        record.enter(at(from_ms), false);
        let down = from_ms + up_ms;
        record.leave(at(down));
        record.fail(at(down), limits);
        record.fail(at(down + 1), limits);
        let back = (down..).step_by(1_000).find(|&ms| !record.is_held(at(ms))).unwrap();
        ((back - down) / 1_000, back)
    }

    #[test]
    fn each_failure_holds_it_down_for_longer_until_the_limit() {
        for (limits, expected) in [(&WATCHED, [0, 4, 64, 300, 300]), (&UNWATCHED, [0, 64, 300, 300, 300])] {
            let (mut record, mut now, mut holds) = (Record::default(), 1_000, vec![]);
            for _ in 0..5 {
                let (hold, back) = fail(&mut record, now, 1_000, limits);
                holds.push(hold);
                now = back;
            }
            assert_eq!(holds, expected);
            assert_eq!(record.to_string(), "failed 5 times, held for 300 s");
            assert_eq!(hold_after(u32::MAX, limits), limits.hold_down_max);
            for hold_down_max in [Duration::from_secs(3), Duration::ZERO] {
                assert_eq!(hold_after(2, &Limits { hold_down_max, ..*limits }), hold_down_max);
            }
        }
    }

    #[test]
    fn each_death_after_an_answer_is_a_failure_while_it_is_held_down_and_watched() {
        for (limits, expected) in [(&WATCHED, [2, 3, 4]), (&UNWATCHED, [2, 2, 2])] {
            let mut record = Record::default();
            let (_, back) = fail(&mut record, 1_000, 1_000, limits);
            fail(&mut record, back, 1_000, limits);
            let failures = [10_000, 12_000, 14_000].map(|ms| {
                record.fail(at(ms), limits);
                record.answer(limits);
                record.end_suspicion(at(ms + 1_000), limits);
                record.failures()
            });
            assert_eq!(failures, expected);
            record.excuse();
            record.fail(at(16_000), limits);
            assert_eq!(record.failures(), expected[2], "the absence is excused");
        }
    }

    #[test]
    fn failures_are_forgotten_after_a_minute_in_service_or_the_hold_down_time() {
        let holds = |service: [u64; 4]| {
            let (mut record, mut now) = (Record::default(), 1_000);
            service.map(|up_ms| {
                let (hold, back) = fail(&mut record, now, up_ms, &WATCHED);
                now = back;
                hold
            })
        };
        assert_eq!(holds([1_000, 59_999, 59_999, 1_000]), [0, 4, 64, 300]);
        assert_eq!(holds([1_000, 60_000, 1_000, 1_000]), [0, 0, 4, 64]);
        assert_eq!(holds([1_000, 1_000, 1_000, 63_999]), [0, 4, 64, 300]);
        assert_eq!(holds([1_000, 1_000, 1_000, 64_000]), [0, 4, 64, 0]);
    }

    #[test]
    fn a_short_suspicion_is_no_failure_and_a_long_one_is_one() {
        let mut record = Record::default();
        record.enter(at(1_000), true);
        for (start, ms, failures) in [(2_000, 249, 0), (3_000, 250, 1), (4_000, 10_000, 2)] {
            record.leave(at(start));
            record.end_suspicion(at(start + ms), &WATCHED);
            record.end_suspicion(at(start + ms), &WATCHED);
            assert_eq!(record.failures, failures, "{ms} ms");
            let before = record.up_since();
            record.enter(at(start + ms), true);
            assert_eq!(record.up_since() == before, failures == 0, "a short one changes nothing");
        }
    }
}
