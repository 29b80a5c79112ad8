//! The seconds of a run as an HdrHistogram interval log, for HistogramLogAnalyzer, HistogramLogProcessor
//! and other readers.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use super::LoadReport;

/// Nanoseconds per unit of the log's maximum column; the readers show milliseconds.
const NANOS_PER_MILLI: f64 = 1e6;

/// Writes the latencies of each second, in nanoseconds. Latency counts from the scheduled moment; lost
/// requests count with their wait plus the timeout.
pub fn write_interval_log(report: &LoadReport, to: &mut impl Write) -> io::Result<()> {
    let setup = &report.setup;
    // An invalid time can only come from a report that was edited.
    let begin = Duration::try_from_secs_f64(setup.started_at_s + setup.warmup_s).unwrap_or_default();
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(&format!(
            "[Logged with loadgen {}: {} at {}]",
            setup.version, setup.protocol, setup.target
        ))
        .add_comment("[Histogram log format version 1.3]")
        .with_start_time(UNIX_EPOCH + begin)
        .with_base_time(UNIX_EPOCH + begin)
        .with_max_value_divisor(NANOS_PER_MILLI)
        .begin_log_with(to, &mut serializer)?;
    for second in &report.series {
        let latency = second.histogram.decode().map_err(|why| {
            io::Error::new(io::ErrorKind::InvalidData, format!("second {} of the report: {why}", second.at_s))
        })?;
        let at = Duration::from_secs(second.at_s);
        let left = Duration::from_secs_f64(report.duration_s.max(0.0)).saturating_sub(at);
        let length = left.min(Duration::from_secs(1));
        log.write_histogram(&latency, at, length, None).map_err(io::Error::other)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::super::histogram::{EncodedHistogram, empty, record};
    use super::super::{Second, SetUp};
    use super::*;

    #[test]
    fn a_reader_finds_each_second_with_all_of_its_latencies() {
        let second = |at_s, ms: &[u64]| {
            let mut latency = empty(Duration::from_secs(1), 2);
            ms.iter().for_each(|ms| record(&mut latency, Duration::from_millis(*ms)));
            Second { at_s, histogram: EncodedHistogram::of(&latency), ..Second::default() }
        };
        let report = LoadReport {
            setup: SetUp { started_at_s: 1_700_000_000.5, warmup_s: 1.0, ..SetUp::default() },
            duration_s: 3.25,
            series: vec![second(0, &[1, 2, 100]), second(1, &[]), second(3, &[7])],
            ..LoadReport::default()
        };
        let mut bytes = vec![];
        write_interval_log(&report, &mut bytes).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains("\n#[Histogram log format version 1.3]\n"), "{text}");
        let entries: Vec<_> = IntervalLogIterator::new(&bytes).map(Result::unwrap).collect();
        let [LogEntry::StartTime(start), LogEntry::BaseTime(base), intervals @ ..] = &entries[..] else {
            panic!("{text}")
        };
        assert_eq!((start.as_secs_f64(), base.as_secs_f64()), (1_700_000_001.5, 1_700_000_001.5));
        let intervals: Vec<_> = intervals
            .iter()
            .map(|entry| {
                let LogEntry::Interval(interval) = entry else { panic!("{text}") };
                let (at, length) = (interval.start_timestamp().as_secs(), interval.duration().as_secs_f64());
                assert!(interval.encoded_histogram().starts_with("HISTF"), "V2, deflated: {text}");
                (at, length, interval.max().round())
            })
            .collect();
        assert_eq!(intervals, [(0, 1.0, 100.0), (1, 1.0, 0.0), (3, 0.25, 7.0)]);
    }

    #[test]
    fn what_is_no_histogram_is_named() {
        let second: Second = serde_json::from_value(serde_json::json!({
            "at_s": 5, "sent": 1, "answered": 1, "busy": 0, "refused": 0, "lost": 0, "late_sends": 0,
            "latency_us_p50": 1, "latency_us_p99": 1, "latency_us_max": 1, "histogram": "AAAA",
        }))
        .unwrap();
        let report = LoadReport { series: vec![second], ..LoadReport::default() };
        let error = write_interval_log(&report, &mut vec![]).unwrap_err().to_string();
        assert!(error.starts_with("second 5 of the report: not a histogram"), "{error}");
    }
}
