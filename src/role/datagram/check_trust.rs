//! What health checks are worth: a check that no server answers says nothing about any of them. Pure.
//!
//! Some servers answer every query of a client and never the check (tinydns and `. NS`, for example), or they
//! refuse it. If the checks decided, all servers of such a pool would be down. So the checks of a pool are
//! *ignored* as soon as every server has failed them and one of these servers has answered something since.
//! From then on the servers are judged as without checks, until one of them answers a check again. A server
//! without a check so far delays that by the time in which each server is usually checked.
//!
//! Before that, a server that is down stays a last resort while only its checks speak against it
//! ([`CheckRecord::is_accused`]).

use std::time::Duration;

use crate::base::time::Instant;
use crate::wire::dns;

/// The results of one server's checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckRecord {
    /// Checks in a row without an answer that means alive.
    failed: u8,
    /// The RCODE of such an answer, until another one means alive.
    rcode: Option<u16>,
    /// Whether an answer with such an RCODE has arrived that the primary has not judged.
    is_new: bool,
    has_passed: bool,
    /// Since when it counts as failing its checks.
    failing_since: Option<Instant>,
    /// Whether it was up before its first check.
    was_up: bool,
    /// Whether an ICMP error or an unanswered request speaks against the server since it was last heard.
    pub is_accused: bool,
}

impl CheckRecord {
    /// The record of a server without a check so far.
    pub fn new(is_accused: bool) -> CheckRecord {
        CheckRecord {
            failed: 0,
            rcode: None,
            is_new: false,
            has_passed: false,
            failing_since: None,
            was_up: false,
            is_accused,
        }
    }

    /// The same record without results: the check has changed.
    pub fn restarted(&self) -> CheckRecord {
        CheckRecord::new(self.is_accused)
    }

    /// The server was up in a predecessor.
    pub fn note_up(&mut self) {
        self.was_up = true;
    }

    /// A check was answered. `failure` is the RCODE of an answer that does not mean alive.
    pub fn take(&mut self, now: Instant, failure: Option<u16>, fall: u8) {
        match failure {
            None => *self = CheckRecord { has_passed: true, ..self.restarted() },
            Some(_) => {
                (self.rcode, self.is_new) = (failure, true);
                self.fail(now, fall);
            }
        }
    }

    /// A check was not answered in time, or not with an answer that means alive.
    pub fn fail(&mut self, now: Instant, fall: u8) {
        self.failed = self.failed.saturating_add(1);
        // One answer is enough at first, so that a pool whose servers all refuse the check is ready at once.
        if self.failed >= fall || self.rcode.is_some() && !self.has_passed {
            self.failing_since.get_or_insert(now);
        }
    }

    /// Whether the answers to checks say that the server does not serve.
    pub fn is_refused(&self) -> bool {
        self.rcode.is_some()
    }

    /// The reason for a state change, if a check was answered since the last call and does not mean alive.
    pub fn take_reason(&mut self) -> Option<&'static str> {
        let rcode = self.rcode.filter(|_| std::mem::take(&mut self.is_new))?;
        Some(match u8::try_from(rcode) {
            Ok(dns::FORMERR) => "checks answered with FORMERR",
            Ok(dns::SERVFAIL) => "checks answered with SERVFAIL",
            Ok(dns::NOTIMP) => "checks answered with NOTIMP",
            Ok(dns::REFUSED) => "checks answered with REFUSED",
            _ => "checks answered with another RCODE than those of health.rcodes",
        })
    }

    fn passes(&self) -> bool {
        self.has_passed && self.failing_since.is_none()
    }

    /// Whether it has answered something since it counts as failing its checks.
    fn is_contradicted(&self, heard_at: Instant) -> bool {
        self.failing_since.is_some_and(|since| heard_at >= since || self.was_up && !self.has_passed)
    }
}

/// Whether a pool's checks count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CheckTrust {
    /// Whether checks are ignored.
    pub is_ignored: bool,
    /// Whether servers fail their checks and none passes them.
    none_passes: bool,
}

impl CheckTrust {
    /// Judges the checks by the records of the servers in service, each with the time at which the server was
    /// last heard. Within `patience` each server is usually checked.
    pub fn judged(
        self,
        now: Instant,
        patience: Duration,
        records: impl Iterator<Item = (CheckRecord, Instant)>,
    ) -> CheckTrust {
        let (mut count, mut failing, mut any_passes, mut any_contradicted) = (0, 0, false, false);
        let mut first = now;
        for (record, heard_at) in records {
            count += 1;
            any_passes |= record.passes();
            any_contradicted |= record.is_contradicted(heard_at) && !record.is_accused;
            if let Some(since) = record.failing_since {
                failing += 1;
                first = first.min(since);
            }
        }
        let all_known = failing == count || now.since(first) >= patience;
        let none_passes = failing > 0 && !any_passes && all_known;
        let is_ignored = match self.is_ignored {
            true => count > 0 && !any_passes,
            false => none_passes && any_contradicted,
        };
        CheckTrust { is_ignored, none_passes }
    }

    /// Whether a server needs trial requests: it gets no others (`is_barred`), and its checks cannot show
    /// that it serves.
    pub fn needs_trials(self, is_barred: bool) -> bool {
        self.is_ignored || self.none_passes && is_barred
    }

    /// Whether a server is in service when its checks begin to be ignored: it was heard, or nothing at all
    /// speaks for or against it. `any_refused`: a server has answered its checks, so silence is a sign.
    pub fn restores(record: &CheckRecord, heard_at: Instant, any_refused: bool) -> bool {
        let is_unknown = !record.has_passed && !any_refused;
        !record.is_accused && (is_unknown || record.is_contradicted(heard_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FALL: u8 = 3;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    /// A server whose checks end with these results, 100 ms apart.
    fn after(results: &[Result<(), Option<u16>>]) -> CheckRecord {
        let mut record = CheckRecord::new(false);
        for (n, result) in results.iter().enumerate() {
            match *result {
                Ok(()) => record.take(at(100 * n as u64), None, FALL),
                Err(Some(rcode)) => record.take(at(100 * n as u64), Some(rcode), FALL),
                Err(None) => record.fail(at(100 * n as u64), FALL),
            }
        }
        record
    }

    fn judged(before: CheckTrust, records: &[(CheckRecord, Instant)]) -> CheckTrust {
        before.judged(at(300), Duration::from_secs(1), records.iter().copied())
    }

    #[test]
    fn checks_are_ignored_when_all_servers_fail_them_and_one_answers_something() {
        let (silent, fine, new) = (after(&[Err(None); 3]), after(&[Ok(())]), after(&[]));
        let never = Instant::ZERO;
        for (records, none_passes, is_ignored) in [
            (&[(silent, never), (silent, never)][..], true, false),
            (&[(silent, never), (silent, at(200))], true, true),
            (&[(silent, at(199)), (silent, never)], true, false),
            (&[(silent, at(300)), (fine, at(300))], false, false),
            (&[(silent, at(300)), (new, at(300))], false, false),
            (&[(silent, at(300)), (after(&[Ok(()), Err(None)]), at(300))], false, false),
            (&[(after(&[Err(None); 2]), at(300))], false, false),
            (&[], false, false),
        ] {
            let trust = judged(CheckTrust::default(), records);
            assert_eq!((trust.none_passes, trust.is_ignored), (none_passes, is_ignored), "{records:?}");
        }
    }

    #[test]
    fn a_server_without_a_check_delays_the_verdict_for_a_while() {
        let (silent, new) = (after(&[Err(None); 3]), after(&[]));
        let verdict = |ms: u64| {
            let records = [(silent, at(250)), (new, at(250))];
            CheckTrust::default().judged(at(ms), Duration::from_secs(1), records.into_iter())
        };
        assert_eq!([1_199, 1_200].map(|ms| verdict(ms).is_ignored), [false, true]);
    }

    #[test]
    fn ignored_checks_count_again_when_a_server_passes_and_not_when_one_joins() {
        let ignored = CheckTrust { is_ignored: true, none_passes: true };
        let (silent, new) = (after(&[Err(None); 3]), after(&[]));
        assert!(judged(ignored, &[(silent, at(1)), (new, at(1))]).is_ignored);
        let passed = after(&[Err(None), Err(None), Err(None), Ok(())]);
        assert!(!judged(ignored, &[(silent, at(1)), (passed, at(1))]).is_ignored);
        assert!(!judged(ignored, &[]).is_ignored);
    }

    #[test]
    fn the_first_refusal_decides_and_later_ones_need_as_many_as_lost_checks() {
        let refused = Err(Some(5));
        for (results, is_failing) in [
            (&[refused][..], true),
            (&[Ok(()), refused, refused], false),
            (&[Ok(()), refused, Err(None), refused], true),
            (&[refused, Ok(())], false),
            (&[Err(None), refused], true),
        ] {
            let record = after(results);
            assert_eq!(record.failing_since.is_some(), is_failing, "{results:?}");
        }
    }

    #[test]
    fn a_refusal_is_reported_once_and_holds_until_a_check_passes() {
        let mut record = after(&[Err(Some(5))]);
        assert_eq!(record.take_reason(), Some("checks answered with REFUSED"));
        assert_eq!((record.take_reason(), record.is_refused()), (None, true));
        record.fail(at(500), FALL);
        assert_eq!((record.take_reason(), record.is_refused()), (None, true));
        record.take(at(600), Some(9), FALL);
        assert!(record.take_reason().is_some_and(|reason| reason.contains("health.rcodes")));
        record.take(at(700), None, FALL);
        assert!(!record.is_refused());
    }

    #[test]
    fn only_servers_that_may_live_are_in_service_when_checks_are_ignored() {
        let (blind, lost) = (after(&[Err(None); 3]), after(&[Ok(()), Err(None), Err(None), Err(None)]));
        let accused = CheckRecord { is_accused: true, ..blind };
        let of_predecessor = CheckRecord { was_up: true, ..blind };
        for (record, heard_at, any_refused, expected) in [
            (blind, Instant::ZERO, false, true),
            (blind, Instant::ZERO, true, false),
            (blind, at(400), true, true),
            (lost, at(0), false, false),
            (lost, at(400), false, true),
            (accused, at(400), false, false),
            (of_predecessor, Instant::ZERO, true, true),
        ] {
            let restores = CheckTrust::restores(&record, heard_at, any_refused);
            assert_eq!(restores, expected, "{record:?}, heard at {heard_at:?}, {any_refused}");
        }
    }
}
