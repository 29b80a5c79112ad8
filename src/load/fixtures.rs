//! Synthetic reports for tests of code that processes reports.

use std::time::Duration;

use super::histogram::{self, EncodedHistogram, Percentiles, record};
use super::{Counts, Histograms, LoadReport};

/// A run at `rate` with requests answered after the given microseconds, and `lost` requests with a
/// timeout of 1 s. Send lag is at most 10 us.
pub fn report(rate: f64, answered_us: &[u64], lost: u64) -> LoadReport {
    let empty = || histogram::empty(Duration::from_secs(1), 3);
    let (mut latency, mut pacing, mut late) = (empty(), empty(), empty());
    let lost_us = (0..lost).map(|_| 1_000_000);
    lost_us.clone().for_each(|us| record(&mut late, Duration::from_micros(us)));
    for us in answered_us.iter().copied().chain(lost_us) {
        record(&mut latency, Duration::from_micros(us));
        record(&mut pacing, Duration::from_micros(10));
    }
    let answered = answered_us.len() as u64;
    let encoded = EncodedHistogram::of(&latency);
    LoadReport {
        counts: Counts {
            planned: answered + lost,
            sent: answered + lost,
            answered,
            lost,
            ..Counts::default()
        },
        rate,
        goodput: rate * answered as f64 / (answered + lost).max(1) as f64,
        rate_wanted: Some(rate),
        duration_s: (answered + lost) as f64 / rate,
        latency_us: Percentiles::of(&latency),
        latency_uncorrected_us: Percentiles::of(&latency),
        pacing_us: Percentiles::of(&pacing),
        spectrum: histogram::spectrum(&latency),
        histograms: Histograms {
            latency: encoded.clone(),
            lost: EncodedHistogram::of(&late),
            latency_uncorrected: encoded,
            pacing: EncodedHistogram::of(&pacing),
        },
        ..LoadReport::default()
    }
}

/// The same run by a generator that could not keep up: every tenth request left late.
pub fn late(report: LoadReport) -> LoadReport {
    let late_sends = report.counts.sent.div_ceil(10);
    LoadReport { counts: Counts { late_sends, ..report.counts }, ..report }
}
