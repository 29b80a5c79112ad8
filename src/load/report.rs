//! The results of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::counts::Counts;
use super::dns_answers::DnsAnswers;
use super::histogram::{self, EncodedHistogram, Percentiles, SpectrumPoint};
use super::ledger::Account;
use super::network::{NetworkError, NetworkErrors};
use super::tolerance::Tolerance;
use crate::base::drop_reason::DropReason;

/// Maximum unmatched datagrams, as a share of the answers, where an answer carries no id.
const UNMATCHED_SHARE_MAX: f64 = 0.01;
/// [`SetUp::matching`] of payloads without an id.
pub(super) const BY_CLIENT: &str = "client";
/// Minimum share of the requested rate; below it, the generator could not keep up.
const RATE_SHARE_MIN: f64 = 0.99;

/// The results of a run without its warm-up. `sent = answered + busy + refused + lost`.
///
/// For a run in steps, the results are the sum of all steps, which ran one after another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Parameters of the measurement.
    #[serde(default)]
    pub setup: SetUp,
    /// Whether a signal ended the run early. Its results are those up to then; a run that was interrupted
    /// in its warm-up has none.
    #[serde(default)]
    pub interrupted: bool,
    /// The condition that ended the run early, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted: Option<String>,
    /// Counts of requests.
    #[serde(flatten)]
    pub counts: Counts,
    /// Requests sent per second.
    pub rate: f64,
    /// Requests answered per second.
    #[serde(default)]
    pub goodput: f64,
    /// Mean requested rate, in requests per second; `None` in a closed loop.
    pub rate_wanted: Option<f64>,
    /// Length of the measurement, in seconds.
    pub duration_s: f64,
    /// Latency from the scheduled moment, in microseconds. A lost request counts with its wait until it was
    /// sent plus the timeout; in conditions it is slower than any limit. BUSY and errors are excluded.
    pub latency_us: Percentiles,
    /// Latency from the moment of sending, in microseconds.
    pub latency_uncorrected_us: Percentiles,
    /// Send lag, the generator's own error: time from the scheduled to the actual send, in microseconds.
    #[serde(default)]
    pub pacing_us: Percentiles,
    /// Datagrams that the kernel did not accept for sending; they count as sent and lost.
    #[serde(default)]
    pub not_sent: u64,
    /// Responses that the kernel dropped because the generator did not read them in time; their requests
    /// count as lost.
    #[serde(default)]
    pub kernel_drops: u64,
    /// Errors that the network or this machine reported about requests, by kind: ICMP messages, and sends
    /// that the kernel rejected.
    #[serde(default)]
    pub network_errors: BTreeMap<String, u64>,
    /// With `--protocol dns`: what the responses said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsAnswers>,
    /// Frames that matched no open request, by reason.
    pub drops: BTreeMap<String, u64>,
    /// The percentile spectrum of `latency_us`.
    #[serde(default)]
    pub spectrum: Vec<SpectrumPoint>,
    /// The complete histograms behind the percentiles.
    #[serde(default)]
    pub histograms: Histograms,
    /// Results by second, in order; seconds without a scheduled request are left out.
    #[serde(default)]
    pub series: Vec<Second>,
    /// What a reader has to know about a merged report; empty for others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// The results of each step in order; empty for a run without steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<LoadReport>,
}

/// Parameters of a measurement, in the terms of the command line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SetUp {
    /// Version of `loadgen`.
    pub version: String,
    /// Start of the warm-up, in seconds since 1970.
    pub started_at_s: f64,
    /// Target of the requests.
    pub target: String,
    /// `native`, `dns` or `raw`.
    pub protocol: String,
    /// How an answer finds its request: `id`, or `client` if any datagram to a client answers its request.
    /// Empty in reports of older versions.
    pub matching: String,
    /// `poisson`, `constant`, `burst:N`, `trace:FILE`, or `window` for a closed loop.
    pub arrivals: String,
    /// The requested rate, `1000` or `1000..5000`; empty in a closed loop.
    pub rate: String,
    /// Sending threads.
    pub threads: u16,
    /// Clients: sockets, each with its own address.
    pub clients: u32,
    /// Addresses that the clients send from, as `127.0.9.0/24`; empty if the kernel selects them.
    pub bind: String,
    /// Maximum requests in flight; `None` is no limit.
    pub window: Option<u64>,
    /// Payload size in bytes, or the datagram size for protocols without frames.
    pub payload: u64,
    /// Time after which an unanswered request is lost, in seconds.
    pub timeout_s: f64,
    /// Time before the measurement, in seconds.
    pub warmup_s: f64,
    /// Planned length of the measurement, in seconds. 0 if only `requests` ends it, and in reports of older
    /// versions.
    pub duration_s: f64,
    /// Maximum requests of the measurement; `None` is no limit.
    pub requests: Option<u64>,
    /// How late requests may leave.
    pub tolerance: Tolerance,
    /// Seed of the schedule. In JSON a text: many readers keep numbers above 2^53 only roughly.
    #[serde(with = "exact_seed")]
    pub seed: u64,
    /// I/O back end.
    pub io: String,
}

/// A seed as text; older reports have a number.
mod exact_seed {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
    }

    pub fn serialize<S: Serializer>(seed: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(seed)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        match Written::deserialize(from)? {
            Written::Number(seed) => Ok(seed),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

/// The complete histograms of a run, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histograms {
    /// Histogram of [`LoadReport::latency_us`].
    pub latency: EncodedHistogram,
    /// The part of `latency` that belongs to lost requests.
    #[serde(default)]
    pub lost: EncodedHistogram,
    /// Histogram of [`LoadReport::latency_uncorrected_us`].
    pub latency_uncorrected: EncodedHistogram,
    /// Histogram of [`LoadReport::pacing_us`].
    pub pacing: EncodedHistogram,
}

/// The requests that were scheduled for one second, even if they ended later.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Start of this second, in whole seconds after the start of the measurement.
    pub at_s: u64,
    /// Counts of requests.
    #[serde(flatten)]
    pub counts: Counts,
    /// Median latency from the scheduled moment, in microseconds, within 1 %.
    pub latency_us_p50: u64,
    /// 99th percentile of the latency from the scheduled moment, in microseconds, within 1 %.
    pub latency_us_p99: u64,
    /// Highest latency from the scheduled moment, in microseconds, within 1 %.
    pub latency_us_max: u64,
    /// Histogram of the latency from the scheduled moment, in nanoseconds, with two significant digits.
    pub histogram: EncodedHistogram,
}

/// Whether the results describe the system, or only the generator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RunVerdict {
    /// The schedule was kept.
    Valid,
    /// No response arrived.
    NothingAnswered(Silence),
    /// Answers carry no id, and this number of datagrams, which is too many, answered no open request.
    Unmatched(u64),
    /// Too many requests left late: their share, and what was tolerated.
    Late(f64, Tolerance),
    /// Too few requests left: the achieved share of the rate.
    TooSlow(f64),
}

/// What is known about a target that answers nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The network says why.
    Told(NetworkError),
    /// The requests are lbd's frames, whose size both sides must agree on.
    Native,
    /// Nothing is known.
    Unknown,
}

impl fmt::Display for RunVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunVerdict::Valid => f.write_str("the schedule was kept"),
            RunVerdict::NothingAnswered(silence) => {
                f.write_str("no request was answered; ")?;
                match silence {
                    Silence::Told(error) => f.write_str(error.text()),
                    Silence::Native => {
                        f.write_str("check that the balancer runs at --target with the same frame size")
                    }
                    Silence::Unknown => {
                        f.write_str("check that the server runs at --target and answers this")
                    }
                }
            }
            RunVerdict::Unmatched(datagrams) => write!(
                f,
                "{datagrams} datagrams answered no open request; without an id, a repeated answer can \
                 pass for that of the next request, so the latencies are invalid; put {{id}} into \
                 --payload if answers repeat it"
            ),
            RunVerdict::Late(share, tolerance) => write!(
                f,
                "{:.1} % of the requests left more than {} late, so the results measure this generator, not \
                 the system; use --spin 200us or real-time priority (chrt -f 5), give it more CPU, lower \
                 --rate, or allow more with --late-max and --late-share",
                share * 100.0,
                tolerance.late_max_text()
            ),
            RunVerdict::TooSlow(share) => write!(
                f,
                "only {:.1} % of the rate was reached, so the results measure this generator, not the \
                 system; lower --rate or give it more CPU",
                share * 100.0
            ),
        }
    }
}

impl LoadReport {
    /// The report of an account, for a measurement of this length.
    pub fn of(account: &Account, measured: Duration) -> Self {
        let (counts, duration_s) = (account.counts, measured.as_secs_f64());
        let mut report = LoadReport {
            counts,
            duration_s,
            drops: account.drops.nonzero().map(|(reason, n)| (reason.name().to_owned(), n)).collect(),
            ..LoadReport::default()
        };
        report.set_rates();
        report.set_histograms([
            &account.latency,
            &account.lost,
            &account.latency_uncorrected,
            &account.pacing,
        ]);
        report
    }

    /// Sets the rates by counts and duration.
    pub(super) fn set_rates(&mut self) {
        let rate = |count: u64| if self.duration_s > 0.0 { count as f64 / self.duration_s } else { 0.0 };
        (self.rate, self.goodput) = (rate(self.counts.sent), rate(self.counts.answered));
    }

    /// Sets the histograms and the values derived from them: latency, its part of lost requests, latency
    /// from the moment of sending, send lag.
    pub(super) fn set_histograms(
        &mut self,
        [latency, lost, latency_uncorrected, pacing]: [&Histogram<u64>; 4],
    ) {
        self.latency_us = Percentiles::of(latency);
        self.latency_uncorrected_us = Percentiles::of(latency_uncorrected);
        self.pacing_us = Percentiles::of(pacing);
        self.spectrum = histogram::spectrum(latency);
        self.histograms = Histograms {
            latency: EncodedHistogram::of(latency),
            lost: EncodedHistogram::of(lost),
            latency_uncorrected: EncodedHistogram::of(latency_uncorrected),
            pacing: EncodedHistogram::of(pacing),
        };
    }

    /// Judges the run. A closed loop has no schedule to miss. A run in steps has the verdict of its
    /// worst step.
    pub fn verdict(&self) -> RunVerdict {
        let worst = self.steps.iter().map(LoadReport::verdict).max_by_key(|verdict| verdict.rank());
        worst.unwrap_or_else(|| self.own_verdict())
    }

    fn own_verdict(&self) -> RunVerdict {
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let Counts { planned, sent, answered, late_sends, .. } = self.counts;
        if answered == 0 {
            let error = NetworkErrors::main_of(&self.network_errors);
            return RunVerdict::NothingAnswered(match error {
                Some(error) => Silence::Told(error),
                None if self.setup.protocol == "native" => Silence::Native,
                None => Silence::Unknown,
            });
        }
        let unmatched = self.drops.get(DropReason::NotOpen.name()).copied().unwrap_or(0);
        if self.setup.matching == BY_CLIENT && share(unmatched, answered) > UNMATCHED_SHARE_MAX {
            return RunVerdict::Unmatched(unmatched);
        }
        if self.rate_wanted.is_some() && share(sent, planned) < RATE_SHARE_MIN {
            return RunVerdict::TooSlow(share(sent, planned));
        }
        match share(late_sends, sent) {
            late if late > self.setup.tolerance.late_share => RunVerdict::Late(late, self.setup.tolerance),
            _ => RunVerdict::Valid,
        }
    }
}

impl RunVerdict {
    /// Severity: a higher rank is worse.
    fn rank(&self) -> u8 {
        match self {
            RunVerdict::Valid => 0,
            RunVerdict::Late(..) => 1,
            RunVerdict::TooSlow(_) => 2,
            RunVerdict::Unmatched(_) => 3,
            RunVerdict::NothingAnswered(_) => 4,
        }
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.interruption() {
            writeln!(f, "{line}")?;
        }
        if self.is_empty() {
            return Ok(());
        }
        if let Some(aborted) = &self.aborted {
            writeln!(f, "ended after {:.1} s: {aborted}", self.duration_s)?;
        }
        let LoadReport { rate, goodput, duration_s, not_sent, kernel_drops, .. } = self;
        let Counts { sent, answered, lost, busy, refused, late_sends, .. } = self.counts;
        writeln!(
            f,
            "{sent} sent in {duration_s:.1} s ({rate:.0}/s), goodput {goodput:.0}/s, {late_sends} late"
        )?;
        writeln!(f, "{answered} answered, {busy} busy, {refused} refused, {lost} lost")?;
        if not_sent + kernel_drops > 0 {
            writeln!(
                f,
                "lost on this machine: {not_sent} datagrams not sent, {kernel_drops} responses not read in \
                 time"
            )?;
        }
        if let Some(dns) = &self.dns {
            writeln!(f, "{dns}")?;
        }
        if !self.network_errors.is_empty() {
            let errors =
                self.network_errors.iter().map(|(name, n)| format!("{n} {}", name.replace('_', " ")));
            writeln!(f, "errors from the network: {}", errors.collect::<Vec<_>>().join(", "))?;
        }
        writeln!(f)?;
        if self.steps.is_empty() { self.write_percentiles(f) } else { self.write_steps(f) }
    }
}

impl LoadReport {
    /// Whether the run was interrupted in its warm-up, so that nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.interrupted && self.duration_s <= 0.0
    }

    /// How the run was interrupted, in words.
    pub fn interruption(&self) -> Option<String> {
        let after = format!("interrupted after {:.1} s", self.duration_s);
        match self.setup.duration_s {
            _ if !self.interrupted => None,
            _ if self.is_empty() => Some("interrupted in the warm-up: nothing was measured".to_owned()),
            whole if whole > 0.0 && self.steps.is_empty() => {
                Some(format!("{after} of {whole:.1} s: the results are partial"))
            }
            _ => Some(format!("{after}: the results are partial")),
        }
    }

    fn write_percentiles(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["latency", "from schedule (us)", "from sending (us)", "send lag (us)"];
        writeln!(f, "{:<8} {:>18} {:>18} {:>18}", heads[0], heads[1], heads[2], heads[3])?;
        let (uncorrected, pacing) = (self.latency_uncorrected_us.rows(), self.pacing_us.rows());
        let rows = self.latency_us.rows().into_iter().zip(uncorrected).zip(pacing);
        for (((name, corrected), (_, uncorrected)), (_, pacing)) in rows {
            writeln!(f, "{name:<8} {corrected:>18} {uncorrected:>18} {pacing:>18}")?;
        }
        Ok(())
    }

    fn write_steps(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = [
            "target/s",
            "sent/s",
            "goodput/s",
            "answered",
            "busy",
            "refused",
            "lost",
            "p50 (us)",
            "p99 (us)",
            "p99.9 (us)",
        ];
        for head in heads {
            write!(f, "{head:>11}")?;
        }
        writeln!(f, "  schedule kept")?;
        for step in &self.steps {
            let Percentiles { p50, p99, p999, .. } = step.latency_us;
            let Counts { answered, busy, refused, lost, .. } = step.counts;
            let wanted = step.rate_wanted.unwrap_or(step.rate);
            write!(f, "{wanted:>11.0}{:>11.0}{:>11.0}", step.rate, step.goodput)?;
            for figure in [answered, busy, refused, lost, p50, p99, p999] {
                write!(f, "{figure:>11}")?;
            }
            let verdict = match step.verdict() {
                _ if step.interrupted => "interrupted".to_owned(),
                RunVerdict::Valid => "yes".to_owned(),
                RunVerdict::NothingAnswered(_) => "no response".to_owned(),
                RunVerdict::Unmatched(_) => "answers repeated".to_owned(),
                RunVerdict::Late(share, _) => format!("{:.1} % late", share * 100.0),
                RunVerdict::TooSlow(share) => format!("{:.1} % sent", share * 100.0),
            };
            writeln!(f, "  {verdict}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(planned: u64, sent: u64, late_sends: u64) -> LoadReport {
        LoadReport {
            counts: Counts { planned, sent, late_sends, answered: sent, ..Counts::default() },
            rate_wanted: Some(1.0),
            ..LoadReport::default()
        }
    }

    #[test]
    fn a_generator_that_cannot_keep_up_says_so() {
        assert_eq!(report(1000, 1000, 10).verdict(), RunVerdict::Valid);
        assert_eq!(report(1000, 1000, 11).verdict(), RunVerdict::Late(0.011, Tolerance::default()));
        let mut patient = report(1000, 1000, 300);
        patient.setup.tolerance.late_share = 0.3;
        assert_eq!(patient.verdict(), RunVerdict::Valid);
        assert_eq!(report(1000, 990, 0).verdict(), RunVerdict::Valid);
        assert_eq!(report(1000, 989, 0).verdict(), RunVerdict::TooSlow(0.989));
        assert_eq!(LoadReport::default().verdict(), RunVerdict::NothingAnswered(Silence::Unknown));
    }

    #[test]
    fn silence_is_explained_by_the_network_and_else_by_what_may_be_wrong() {
        let mut silent = LoadReport::default();
        assert!(!silent.verdict().to_string().contains("frame"));
        silent.setup.protocol = "native".to_owned();
        assert!(silent.verdict().to_string().contains("the same frame size"));
        silent.network_errors.insert("connection_refused".to_owned(), 3);
        assert_eq!(silent.verdict(), RunVerdict::NothingAnswered(Silence::Told(NetworkError::Refused)));
        assert!(silent.to_string().contains("errors from the network: 3 connection refused"), "{silent}");
    }

    #[test]
    fn repeated_answers_count_only_where_they_cannot_be_told_apart() {
        let mut repeated = report(1000, 1000, 0);
        repeated.drops.insert("not_open".to_owned(), 11);
        assert_eq!(repeated.verdict(), RunVerdict::Valid);
        repeated.setup.matching = BY_CLIENT.to_owned();
        assert_eq!(repeated.verdict(), RunVerdict::Unmatched(11));
        repeated.drops.insert("not_open".to_owned(), 10);
        assert_eq!(repeated.verdict(), RunVerdict::Valid);
    }

    #[test]
    fn the_json_has_the_keys_that_scripts_read() {
        let json = serde_json::to_value(LoadReport::default()).unwrap();
        for key in ["sent", "answered", "lost", "busy", "late_sends", "rate", "goodput", "duration_s"] {
            assert!(json[key].is_number(), "{key}");
        }
        for group in ["latency_us", "latency_uncorrected_us"] {
            for key in ["p50", "p90", "p99", "p999", "p9999", "max", "min", "mean", "stddev"] {
                assert!(json[group][key].is_number(), "{group}.{key}");
            }
        }
    }

    #[test]
    fn the_table_shows_every_percentile_of_all_three() {
        let latency_us = Percentiles {
            p50: 111,
            p90: 222,
            p99: 333,
            p999: 444,
            p9999: 555,
            max: 666,
            ..Percentiles::default()
        };
        let latency_uncorrected_us =
            Percentiles { p50: 11, p90: 22, p99: 33, p999: 44, p9999: 55, max: 66, ..Percentiles::default() };
        let pacing_us =
            Percentiles { p50: 1, p90: 2, p99: 3, p999: 4, p9999: 5, max: 6, ..Percentiles::default() };
        let text =
            LoadReport { latency_us, latency_uncorrected_us, pacing_us, ..LoadReport::default() }.to_string();
        for row in [["p50", "111", "11", "1"], ["p99.99", "555", "55", "5"], ["max", "666", "66", "6"]] {
            assert!(text.lines().any(|line| line.split_whitespace().eq(row)), "{row:?} in\n{text}");
        }
        assert!(!text.contains("this machine"), "{text}");
        let text = LoadReport { kernel_drops: 7, ..LoadReport::default() }.to_string();
        assert!(text.contains("0 datagrams not sent, 7 responses not read"), "{text}");
    }

    #[test]
    fn steps_are_a_table_and_the_worst_of_them_is_the_verdict() {
        let latency_us = Percentiles { p50: 111, p99: 333, p999: 444, ..Percentiles::default() };
        let good = LoadReport { rate: 10.0, goodput: 9.0, latency_us, ..report(1000, 1000, 0) };
        let mut slow = report(1000, 900, 900);
        slow.counts.lost = 3;
        let steps = vec![good.clone(), slow, report(1000, 1000, 100)];
        let whole = LoadReport { steps, counts: good.counts, ..LoadReport::default() };
        assert_eq!(whole.verdict(), RunVerdict::TooSlow(0.9));
        let text = whole.to_string();
        let row = ["1", "10", "9", "1000", "0", "0", "0", "111", "333", "444", "yes"];
        assert!(text.lines().any(|line| line.split_whitespace().eq(row)), "{text}");
        assert!(
            text.contains("90.0 % sent") && text.contains("10.0 % late") && !text.contains("pacing"),
            "{text}"
        );
        assert_eq!(LoadReport { steps: vec![good], ..LoadReport::default() }.verdict(), RunVerdict::Valid);
    }
}
