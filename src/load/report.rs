//! What a run comes to.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::histogram::{EncodedHistogram, Percentiles, SpectrumPoint};

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
    /// Judges the run; a closed loop has no plan to miss.
    pub fn verdict(&self) -> Verdict {
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { sent, answered, lost, busy, refused, late_sends, rate, duration_s, .. } = self;
        writeln!(f, "{sent} sent in {duration_s:.1} s ({rate:.0}/s), {late_sends} late")?;
        writeln!(f, "{answered} answered, {busy} busy, {refused} refused, {lost} lost")?;
        writeln!(f)?;
        writeln!(f, "{:<8} {:>14} {:>18}", "latency", "from plan (us)", "from sending (us)")?;
        let uncorrected = self.latency_uncorrected_us.rows();
        for ((name, corrected), (_, uncorrected)) in self.latency_us.rows().into_iter().zip(uncorrected) {
            writeln!(f, "{name:<8} {corrected:>14} {uncorrected:>18}")?;
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
    fn the_table_shows_every_percentile_twice() {
        let latency_us = Percentiles { p50: 111, p90: 222, p99: 333, p999: 444, p9999: 555, max: 666 };
        let latency_uncorrected_us = Percentiles { p50: 11, p90: 22, p99: 33, p999: 44, p9999: 55, max: 66 };
        let text = Report { latency_us, latency_uncorrected_us, ..Report::default() }.to_string();
        for row in [["p50", "111", "11"], ["p99.99", "555", "55"], ["max", "666", "66"]] {
            assert!(text.lines().any(|line| line.split_whitespace().eq(row)), "{row:?} in\n{text}");
        }
    }
}
