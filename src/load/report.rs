//! What a run comes to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::counts::Counts;
use super::histogram::{self, EncodedHistogram, Percentiles, SpectrumPoint};
use super::ledger::Account;

/// More late sends than this share, and the generator could not keep up.
const LATE_SHARE_MAX: f64 = 0.01;
/// Less than this share of the rate, and the generator could not keep up.
const RATE_SHARE_MIN: f64 = 0.99;

/// The account of a run, warm-up excluded. `sent = answered + busy + refused + lost`.
///
/// Of a run in steps this is the sum of all of them, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was measured, and how.
    #[serde(default)]
    pub setup: SetUp,
    /// Requests that the plan had; more than `sent` if the generator could not keep up.
    pub planned: u64,
    /// Requests sent, each once.
    pub sent: u64,
    /// Requests answered with OK in time.
    pub answered: u64,
    /// Requests without any answer before the time-out.
    pub lost: u64,
    /// Requests answered with BUSY (of DNS: SERVFAIL).
    pub busy: u64,
    /// Requests answered with an error or after their deadline at the server.
    pub refused: u64,
    /// Requests that left more than 1 ms after their planned moment.
    pub late_sends: u64,
    /// Requests per second that were sent.
    pub rate: f64,
    /// Requests per second that were asked for, on average; `None` in a closed loop.
    pub rate_wanted: Option<f64>,
    /// Seconds of the measurement.
    pub duration_s: f64,
    /// Latency from the planned moment, in microseconds; a lost request counts as the time-out. BUSY and refusals are
    /// not in it.
    pub latency_us: Percentiles,
    /// The same from the moment of sending.
    pub latency_uncorrected_us: Percentiles,
    /// How long after its planned moment each request left: the generator's own error.
    #[serde(default)]
    pub pacing_us: Percentiles,
    /// Datagrams that the system did not take for sending: they count as sent, and are lost.
    #[serde(default)]
    pub not_sent: u64,
    /// Answers that the system dropped since the generator did not read them in time: their requests count as lost.
    #[serde(default)]
    pub kernel_drops: u64,
    /// Frames that were no answer to an open request, by reason.
    pub drops: BTreeMap<String, u64>,
    /// The percentile spectrum of `latency_us`.
    #[serde(default)]
    pub spectrum: Vec<SpectrumPoint>,
    /// The histograms behind the percentiles, whole.
    #[serde(default)]
    pub histograms: Histograms,
    /// Second by second, in order; seconds in which nothing was planned are left out.
    #[serde(default)]
    pub series: Vec<Second>,
    /// Of a run in steps: each by itself, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Report>,
}

/// What was measured, and how; in the words of the command line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SetUp {
    /// Of `loadgen`.
    pub version: String,
    /// When the warm-up began, in seconds since 1970.
    pub started_at_s: f64,
    /// Where the requests went.
    pub target: String,
    /// `native`, `dns` or `raw`.
    pub protocol: String,
    /// `poisson`, `constant`, `burst:N`, `trace:FILE`, or `window` for a closed loop.
    pub arrivals: String,
    /// The rate as it was asked for, `1000` or `1000..5000`; empty in a closed loop.
    pub rate: String,
    /// Threads that sent.
    pub threads: u16,
    /// Clients: sockets, each with an address of its own.
    pub clients: u32,
    /// Requests in flight at most.
    pub window: Option<u64>,
    /// Bytes of payload, or of a whole datagram where there are no frames.
    pub payload: u64,
    /// Seconds until a request without an answer is lost.
    pub timeout_s: f64,
    /// Seconds before the measurement.
    pub warmup_s: f64,
    /// Of the plan.
    pub seed: u64,
    /// The I/O back end.
    pub io: String,
}

/// The histograms of a run, each whole, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histograms {
    /// Behind [`Report::latency_us`].
    pub latency: EncodedHistogram,
    /// Behind [`Report::latency_uncorrected_us`].
    pub latency_uncorrected: EncodedHistogram,
    /// Behind [`Report::pacing_us`].
    pub pacing: EncodedHistogram,
}

/// The requests that were planned for one second, however late they ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Whole seconds from the beginning of the measurement to that of this one.
    pub at_s: u64,
    /// As in [`Report`].
    pub sent: u64,
    /// As in [`Report`].
    pub answered: u64,
    /// As in [`Report`].
    pub busy: u64,
    /// As in [`Report`].
    pub refused: u64,
    /// As in [`Report`].
    pub lost: u64,
    /// As in [`Report`].
    pub late_sends: u64,
    /// Of the latency from the planned moment, as in [`Report::latency_us`], to within 1 %.
    pub latency_us_p50: u64,
    /// See `latency_us_p50`.
    pub latency_us_p99: u64,
    /// See `latency_us_p50`.
    pub latency_us_max: u64,
    /// That latency whole, in nanoseconds, with two digits.
    pub histogram: EncodedHistogram,
}

/// Whether the figures say something about the system, or only about the generator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// The plan was kept.
    Valid,
    /// Not one answer came.
    NothingAnswered,
    /// Too many requests left late: the share.
    Late(f64),
    /// Too few requests left: the share of the rate that was reached.
    TooSlow(f64),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Valid => f.write_str("the plan was kept"),
            Verdict::NothingAnswered => f.write_str(
                "nothing was answered: is the balancer running at --target, with the same frame size?",
            ),
            Verdict::Late(share) => write!(
                f,
                "{:.1} % of the requests left more than 1 ms late: the figures show this generator, not the system; \
                 lower --rate or give it more CPU",
                share * 100.0
            ),
            Verdict::TooSlow(share) => write!(
                f,
                "only {:.1} % of the rate was reached: the figures show this generator, not the system; lower --rate \
                 or give it more CPU",
                share * 100.0
            ),
        }
    }
}

impl Report {
    /// The report of an account, for a measurement of this length.
    pub fn of(account: &Account, measured: Duration) -> Self {
        let Counts { planned, sent, answered, lost, busy, refused, late_sends } = account.counts;
        let duration_s = measured.as_secs_f64();
        let mut report = Report {
            planned,
            sent,
            answered,
            lost,
            busy,
            refused,
            late_sends,
            rate: if duration_s > 0.0 { sent as f64 / duration_s } else { 0.0 },
            duration_s,
            drops: account.drops.nonzero().map(|(reason, n)| (reason.name().to_owned(), n)).collect(),
            ..Report::default()
        };
        report.set_histograms(&account.latency, &account.latency_uncorrected, &account.pacing);
        report
    }

    /// Sets the histograms, and what follows from them.
    pub(super) fn set_histograms(
        &mut self,
        latency: &Histogram<u64>,
        latency_uncorrected: &Histogram<u64>,
        pacing: &Histogram<u64>,
    ) {
        self.latency_us = Percentiles::of(latency);
        self.latency_uncorrected_us = Percentiles::of(latency_uncorrected);
        self.pacing_us = Percentiles::of(pacing);
        self.spectrum = histogram::spectrum(latency);
        self.histograms = Histograms {
            latency: EncodedHistogram::of(latency),
            latency_uncorrected: EncodedHistogram::of(latency_uncorrected),
            pacing: EncodedHistogram::of(pacing),
        };
    }

    /// Judges the run; a closed loop has no plan to miss. A run in steps is as good as its worst step.
    pub fn verdict(&self) -> Verdict {
        let worst = self.steps.iter().map(Report::verdict).max_by_key(|verdict| verdict.rank());
        worst.unwrap_or_else(|| self.own_verdict())
    }

    fn own_verdict(&self) -> Verdict {
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        if self.answered == 0 {
            return Verdict::NothingAnswered;
        }
        if self.rate_wanted.is_some() && share(self.sent, self.planned) < RATE_SHARE_MIN {
            return Verdict::TooSlow(share(self.sent, self.planned));
        }
        match share(self.late_sends, self.sent) {
            late if late > LATE_SHARE_MAX => Verdict::Late(late),
            _ => Verdict::Valid,
        }
    }
}

impl Verdict {
    /// The higher the worse.
    fn rank(&self) -> u8 {
        match self {
            Verdict::Valid => 0,
            Verdict::Late(_) => 1,
            Verdict::TooSlow(_) => 2,
            Verdict::NothingAnswered => 3,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { sent, answered, lost, busy, refused, late_sends, rate, duration_s, .. } = self;
        writeln!(f, "{sent} sent in {duration_s:.1} s ({rate:.0}/s), {late_sends} late")?;
        writeln!(f, "{answered} answered, {busy} busy, {refused} refused, {lost} lost")?;
        if self.not_sent + self.kernel_drops > 0 {
            let Report { not_sent, kernel_drops, .. } = self;
            writeln!(
                f,
                "of the lost ones, this machine: {not_sent} datagrams not sent, {kernel_drops} answers not read in time"
            )?;
        }
        writeln!(f)?;
        if self.steps.is_empty() { self.write_percentiles(f) } else { self.write_steps(f) }
    }
}

impl Report {
    fn write_percentiles(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["latency", "from plan (us)", "from sending (us)", "pacing error (us)"];
        writeln!(f, "{:<8} {:>14} {:>18} {:>18}", heads[0], heads[1], heads[2], heads[3])?;
        let (uncorrected, pacing) = (self.latency_uncorrected_us.rows(), self.pacing_us.rows());
        let rows = self.latency_us.rows().into_iter().zip(uncorrected).zip(pacing);
        for (((name, corrected), (_, uncorrected)), (_, pacing)) in rows {
            writeln!(f, "{name:<8} {corrected:>14} {uncorrected:>18} {pacing:>18}")?;
        }
        Ok(())
    }

    fn write_steps(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = [
            "wanted/s",
            "sent/s",
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
        writeln!(f, "  plan kept")?;
        for step in &self.steps {
            let Percentiles { p50, p99, p999, .. } = step.latency_us;
            let wanted = step.rate_wanted.unwrap_or(step.rate);
            write!(f, "{wanted:>11.0}{:>11.0}", step.rate)?;
            for figure in [step.answered, step.busy, step.refused, step.lost, p50, p99, p999] {
                write!(f, "{figure:>11}")?;
            }
            let verdict = match step.verdict() {
                Verdict::Valid => "yes".to_owned(),
                Verdict::NothingAnswered => "nothing answered".to_owned(),
                Verdict::Late(share) => format!("{:.1} % late", share * 100.0),
                Verdict::TooSlow(share) => format!("{:.1} % sent", share * 100.0),
            };
            writeln!(f, "  {verdict}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(planned: u64, sent: u64, late_sends: u64) -> Report {
        Report { planned, sent, late_sends, answered: sent, rate_wanted: Some(1.0), ..Report::default() }
    }

    #[test]
    fn a_generator_that_cannot_keep_up_says_so() {
        assert_eq!(report(1000, 1000, 10).verdict(), Verdict::Valid);
        assert_eq!(report(1000, 1000, 11).verdict(), Verdict::Late(0.011));
        assert_eq!(report(1000, 990, 0).verdict(), Verdict::Valid);
        assert_eq!(report(1000, 989, 0).verdict(), Verdict::TooSlow(0.989));
        assert_eq!(Report::default().verdict(), Verdict::NothingAnswered);
    }

    #[test]
    fn the_json_has_the_keys_that_scripts_read() {
        let json = serde_json::to_value(Report::default()).unwrap();
        for key in ["sent", "answered", "lost", "busy", "late_sends", "rate", "duration_s"] {
            assert!(json[key].is_number(), "{key}");
        }
        for group in ["latency_us", "latency_uncorrected_us"] {
            for key in ["p50", "p90", "p99", "p999", "p9999", "max"] {
                assert!(json[group][key].is_number(), "{group}.{key}");
            }
        }
    }

    #[test]
    fn the_table_shows_every_percentile_of_all_three() {
        let latency_us = Percentiles { p50: 111, p90: 222, p99: 333, p999: 444, p9999: 555, max: 666 };
        let latency_uncorrected_us = Percentiles { p50: 11, p90: 22, p99: 33, p999: 44, p9999: 55, max: 66 };
        let pacing_us = Percentiles { p50: 1, p90: 2, p99: 3, p999: 4, p9999: 5, max: 6 };
        let text = Report { latency_us, latency_uncorrected_us, pacing_us, ..Report::default() }.to_string();
        for row in [["p50", "111", "11", "1"], ["p99.99", "555", "55", "5"], ["max", "666", "66", "6"]] {
            assert!(text.lines().any(|line| line.split_whitespace().eq(row)), "{row:?} in\n{text}");
        }
        assert!(!text.contains("this machine"), "{text}");
        let text = Report { kernel_drops: 7, ..Report::default() }.to_string();
        assert!(text.contains("0 datagrams not sent, 7 answers not read"), "{text}");
    }

    #[test]
    fn steps_are_a_table_and_the_worst_of_them_is_the_verdict() {
        let latency_us = Percentiles { p50: 111, p99: 333, p999: 444, ..Percentiles::default() };
        let good = Report { rate: 10.0, latency_us, ..report(1000, 1000, 0) };
        let steps = vec![good.clone(), Report { lost: 3, ..report(1000, 900, 900) }, report(1000, 1000, 100)];
        let whole = Report { steps, answered: 1, ..Report::default() };
        assert_eq!(whole.verdict(), Verdict::TooSlow(0.9));
        let text = whole.to_string();
        let row = ["1", "10", "1000", "0", "0", "0", "111", "333", "444", "yes"];
        assert!(text.lines().any(|line| line.split_whitespace().eq(row)), "{text}");
        assert!(
            text.contains("90.0 % sent") && text.contains("10.0 % late") && !text.contains("pacing"),
            "{text}"
        );
        assert_eq!(Report { steps: vec![good], ..Report::default() }.verdict(), Verdict::Valid);
    }
}
