//! Histograms of latencies in nanoseconds, and their form in a report.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// Minimum range of a histogram; a longer time counts as the highest value.
const HIGHEST_MIN: Duration = Duration::from_secs(3600);

/// An empty histogram of nanoseconds with 1 to 5 significant digits. Its range is one hour, or twice
/// the timeout if that is longer.
pub fn empty(timeout: Duration, digits: u8) -> Histogram<u64> {
    let highest = nanos(timeout.saturating_mul(2).max(HIGHEST_MIN));
    let mut histogram = Histogram::new_with_bounds(1, highest, digits).expect("1 < highest, 1 to 5 digits");
    histogram.auto(false);
    histogram
}

/// Records a time.
pub fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(nanos(time).max(1));
}

/// Adds the counts of one histogram to another; their ranges may differ.
pub fn add(sum: &mut Histogram<u64>, part: &Histogram<u64>) {
    sum.auto(true);
    sum.add(part).expect("it grows as needed");
}

/// The value at a quantile from 0 to 1, in microseconds; 0 for an empty histogram.
pub fn micros_at(histogram: &Histogram<u64>, quantile: f64) -> u64 {
    micros(histogram.value_at_quantile(quantile))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// Converts nanoseconds to microseconds, rounded.
fn micros(nanos: u64) -> u64 {
    (nanos + 500) / 1_000
}

/// Percentiles and moments in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// The lowest value.
    #[serde(default)]
    pub min: u64,
    /// The mean, to three decimals.
    #[serde(default)]
    pub mean: f64,
    /// The standard deviation, to three decimals.
    #[serde(default)]
    pub stddev: f64,
    /// 50th percentile.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// 99.99th percentile.
    pub p9999: u64,
    /// The highest value.
    pub max: u64,
}

impl Percentiles {
    /// The percentiles of a histogram of nanoseconds; 0 for an empty histogram.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| micros_at(histogram, quantile);
        let rounded = |nanos: f64| nanos.round() / 1e3;
        let is_empty = histogram.is_empty();
        Percentiles {
            min: if is_empty { 0 } else { micros(histogram.min()) },
            mean: if is_empty { 0.0 } else { rounded(histogram.mean()) },
            stddev: if is_empty { 0.0 } else { rounded(histogram.stdev()) },
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: micros(histogram.max()),
        }
    }

    /// Name and value of each percentile.
    pub fn rows(&self) -> [(&'static str, u64); 6] {
        [
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p999),
            ("p99.99", self.p9999),
            ("max", self.max),
        ]
    }
}

/// A point of the percentile spectrum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpectrumPoint {
    /// Quantile, 0 to 1.
    pub quantile: f64,
    /// Value at the quantile, in microseconds.
    pub us: f64,
    /// Number of requests up to the quantile.
    pub count: u64,
}

/// The percentile spectrum of a histogram of nanoseconds. It has five points per halving of the distance
/// to 100 %, as HdrHistogram's own tools print it. An empty histogram has none.
pub fn spectrum(histogram: &Histogram<u64>) -> Vec<SpectrumPoint> {
    let point = |step: hdrhistogram::iterators::IterationValue<u64>| SpectrumPoint {
        quantile: step.quantile_iterated_to(),
        us: step.value_iterated_to() as f64 / 1_000.0,
        count: (step.quantile() * histogram.len() as f64).round() as u64,
    };
    if histogram.is_empty() { vec![] } else { histogram.iter_quantiles(5).map(point).collect() }
}

/// The percentile distribution in HdrHistogram's text format (`.hgrm`), in milliseconds: value, percentile,
/// count up to there, and 1 / (1 - percentile). Plotters of HdrHistogram read it.
pub fn write_hgrm(histogram: &Histogram<u64>) -> String {
    use std::fmt::Write;
    let ms = |nanos: f64| nanos / 1e6;
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for point in spectrum(histogram) {
        let (value, SpectrumPoint { quantile, count, .. }) = (point.us / 1e3, point);
        let _ = write!(text, "{value:>12.6} {quantile:>14.12} {count:>10}");
        let _ = match quantile < 1.0 {
            true => writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile)),
            false => writeln!(text),
        };
    }
    let moment = |value: f64| if histogram.is_empty() { 0.0 } else { ms(value) };
    let (mean, stddev) = (moment(histogram.mean()), moment(histogram.stdev()));
    let max = ms(histogram.max() as f64);
    let _ = writeln!(text, "#[Mean    = {mean:>12.6}, StdDeviation   = {stddev:>12.6}]");
    let _ = writeln!(text, "#[Max     = {max:>12.6}, Total count    = {:>12}]", histogram.len());
    let sub_buckets = 2 * 10u32.pow(histogram.sigfig().into()).next_power_of_two();
    let buckets = histogram.high().next_power_of_two().ilog2().saturating_sub(sub_buckets.ilog2()) + 1;
    let _ = writeln!(text, "#[Buckets = {buckets:>12}, SubBuckets     = {sub_buckets:>12}]");
    text
}

/// A histogram of nanoseconds as a report stores it: HdrHistogram's V2 format, deflated, in base64. An
/// empty text is an empty histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EncodedHistogram(String);

impl EncodedHistogram {
    /// Encodes a histogram.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return EncodedHistogram::default();
        }
        // The range fits the values, so that equal counts give equal texts.
        let mut tight = Histogram::new(histogram.sigfig()).expect("digits of a histogram");
        add(&mut tight, histogram);
        let mut bytes = vec![];
        V2DeflateSerializer::new().serialize(&tight, &mut bytes).expect("a vector takes all");
        EncodedHistogram(STANDARD.encode(bytes))
    }

    /// Decodes the histogram; the error describes the problem with the text.
    pub fn decode(&self) -> Result<Histogram<u64>, String> {
        let not_one = |why: &dyn std::fmt::Display| {
            format!("not a histogram in HdrHistogram's V2 format, deflated, in base64: {why}")
        };
        if self.0.is_empty() {
            return Ok(Histogram::new(3).expect("3 digits are valid"));
        }
        let bytes = STANDARD.decode(&self.0).map_err(|error| not_one(&error))?;
        Deserializer::new().deserialize(&mut &bytes[..]).map_err(|error| not_one(&error))
    }

    /// Whether the histogram is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(times: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = empty(Duration::from_secs(1), 3);
        times.into_iter().for_each(|us| record(&mut histogram, Duration::from_micros(us)));
        histogram
    }

    #[test]
    fn percentiles_are_microseconds_to_three_digits() {
        let percentiles = Percentiles::of(&some(1..=10_000));
        let near = |is: u64, exact: u64| is.abs_diff(exact) * 1_000 <= exact;
        for ((name, is), exact) in
            percentiles.rows().into_iter().zip([5_000, 9_000, 9_900, 9_990, 9_999, 10_000])
        {
            assert!(near(is, exact), "{name}: {is} for {exact}");
        }
        let near = |is: f64, exact: f64| (is / exact - 1.0).abs() < 1e-3;
        assert!(near(percentiles.mean, 5_000.5) && near(percentiles.stddev, 2_886.8), "{percentiles:?}");
        assert_eq!(percentiles.min, 1);
        assert_eq!(Percentiles::of(&some([])), Percentiles::default());
        let mut rounded = some([]);
        record(&mut rounded, Duration::from_nanos(1_600));
        assert_eq!(micros_at(&rounded, 0.5), 2);
    }

    #[test]
    fn what_is_encoded_comes_back_count_for_count() {
        let histogram = some((1..5_000).map(|n| n * n));
        let text = serde_json::to_string(&EncodedHistogram::of(&histogram)).unwrap();
        let back: EncodedHistogram = serde_json::from_str(&text).unwrap();
        assert_eq!(back.decode().unwrap(), histogram);
        assert!(EncodedHistogram::of(&some([])).is_empty());
        assert!(EncodedHistogram::default().decode().unwrap().is_empty());
    }

    #[test]
    fn what_is_no_histogram_is_refused() {
        for text in ["?", "AAAA", "bm8gaGlzdG9ncmFt"] {
            let error = EncodedHistogram(text.to_owned()).decode().unwrap_err();
            assert!(error.starts_with("not a histogram"), "{error}");
        }
    }

    #[test]
    fn the_sum_of_two_has_the_counts_of_both_whatever_their_ranges() {
        let mut long = empty(Duration::from_secs(100), 3);
        record(&mut long, Duration::from_secs(150));
        let mut sum = some([10, 20]);
        add(&mut sum, &long);
        assert_eq!(sum.len(), 3);
        assert_eq!(Percentiles::of(&sum).max / 1_000_000, 150);
    }

    #[test]
    fn the_distribution_as_text_has_columns_that_plotters_read() {
        let text = write_hgrm(&some((1..=1_000).map(|n| n * 1_000)));
        let rows: Vec<Vec<f64>> = text
            .lines()
            .filter(|line| line.starts_with(' ') && !line.contains("Value"))
            .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
            .collect();
        let half = rows.iter().find(|row| row[1] == 0.5).unwrap();
        assert!((half[0] - 500.0).abs() < 1.0 && half[2] == 500.0 && half[3] == 2.0, "{half:?}");
        let last = rows.last().unwrap();
        assert!(last.len() == 3 && last[1] == 1.0 && last[2] == 1_000.0, "{last:?}");
        let footer: Vec<&str> = text.lines().filter(|line| line.starts_with("#[")).collect();
        assert!(
            footer.len() == 3 && footer[0].contains("Mean    =   500.") && footer[1].ends_with("1000]"),
            "{text}"
        );
        assert!(write_hgrm(&some([])).contains("#[Mean    =     0.000000"));
    }

    #[test]
    fn the_spectrum_rises_to_all_of_the_requests() {
        let points = spectrum(&some(1..=1_000));
        assert!(points.windows(2).all(|w| w[0].us <= w[1].us && w[0].quantile <= w[1].quantile));
        let last = points.last().unwrap();
        assert_eq!((last.quantile, last.count, (last.us / 10.0).round()), (1.0, 1_000, 100.0));
        assert!(points.iter().any(|p| (p.quantile - 0.5).abs() < 0.01 && (p.us - 500.0).abs() < 2.0));
        assert_eq!(spectrum(&some([])), []);
    }
}
