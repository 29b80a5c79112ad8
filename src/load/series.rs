//! The seconds of a run: merged over several loops, and as CSV.

use std::collections::BTreeMap;
use std::fmt::Write;

use hdrhistogram::Histogram;

use super::counts::Counts;
use super::histogram::{EncodedHistogram, Percentiles, add, micros_at};
use super::ledger::SecondTally;
use super::report::{LoadReport, Second};

/// Merges the seconds of concurrent loops.
#[derive(Debug)]
pub struct Seconds {
    loops: usize,
    /// Seconds that some loops have not finished, with the number of loops that have.
    open: BTreeMap<u64, (SecondTally, usize)>,
    finished: Vec<Second>,
}

impl Seconds {
    /// For this number of loops.
    pub fn new(loops: usize) -> Self {
        Seconds { loops, open: BTreeMap::new(), finished: vec![] }
    }

    /// Number of seconds that all loops have finished.
    pub fn finished(&self) -> usize {
        self.finished.len()
    }

    /// Median and 99th percentile of the last finished second, in microseconds.
    pub fn last_latency(&self) -> Option<(u64, u64)> {
        self.finished.last().map(|second| (second.latency_us_p50, second.latency_us_p99))
    }

    /// A report of the last seconds, at most `count`: their counts, rates and latencies.
    pub fn recent(&self, count: usize) -> LoadReport {
        let recent = &self.finished[self.finished.len().saturating_sub(count)..];
        let mut report = LoadReport { duration_s: recent.len() as f64, ..LoadReport::default() };
        let mut latency = EncodedHistogram::default().decode().expect("an empty one");
        for second in recent {
            report.counts += second.counts;
            add(&mut latency, &second.histogram.decode().expect("it was encoded here"));
        }
        report.set_rates();
        report.histograms.latency = EncodedHistogram::of(&latency);
        report
    }

    /// Adds a second of one loop.
    pub fn add(&mut self, tally: SecondTally) {
        let index = tally.index;
        let count = match self.open.get_mut(&index) {
            None => self.open.entry(index).or_insert((tally, 1)).1,
            Some((sum, count)) => {
                sum.counts += tally.counts;
                add(&mut sum.latency, &tally.latency);
                *count += 1;
                *count
            }
        };
        // A complete second is stored as text: a histogram takes 30 KiB, its text hardly one.
        if count == self.loops
            && let Some((sum, _)) = self.open.remove(&index)
        {
            self.finished.extend(second(&sum));
        }
    }

    /// All seconds in order, when the loops have ended.
    pub fn finish(mut self) -> Vec<Second> {
        self.finished.extend(self.open.values().filter_map(|(sum, _)| second(sum)));
        self.finished.sort_by_key(|second| second.at_s);
        self.finished
    }
}

/// A second for a report; `None` if it has no request.
fn second(tally: &SecondTally) -> Option<Second> {
    (tally.counts.sent > 0).then(|| Second::of(tally.index, tally.counts, &tally.latency))
}

impl Second {
    fn of(at_s: u64, counts: Counts, latency: &Histogram<u64>) -> Self {
        Second {
            at_s,
            counts,
            latency_us_p50: micros_at(latency, 0.5),
            latency_us_p99: micros_at(latency, 0.99),
            latency_us_max: Percentiles::of(latency).max,
            histogram: EncodedHistogram::of(latency),
        }
    }

    /// Adds the same second of another process; the error names the damaged histogram.
    pub(super) fn add(&mut self, other: &Second) -> Result<(), String> {
        let mut latency = self.histogram.decode()?;
        add(&mut latency, &other.histogram.decode()?);
        self.counts += other.counts;
        *self = Second::of(self.at_s, self.counts, &latency);
        Ok(())
    }
}

/// The seconds as CSV: a header line, then one line per second.
pub fn write_csv(series: &[Second]) -> String {
    let mut text =
        "at_s,sent,answered,busy,refused,lost,late_sends,latency_us_p50,latency_us_p99,latency_us_max\n"
            .to_owned();
    for second in series {
        let Second { at_s, counts, latency_us_p50, latency_us_p99, latency_us_max, .. } = second;
        let Counts { sent, answered, busy, refused, lost, late_sends, .. } = counts;
        let _ = writeln!(
            text,
            "{at_s},{sent},{answered},{busy},{refused},{lost},{late_sends},{latency_us_p50},{latency_us_p99},\
             {latency_us_max}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::counts::Counts;
    use super::super::histogram::{empty, record};
    use super::*;

    fn tally(index: u64, times: &[u64]) -> SecondTally {
        let mut latency = empty(Duration::from_secs(1), 2);
        times.iter().for_each(|ms| record(&mut latency, Duration::from_millis(*ms)));
        let n = times.len() as u64;
        SecondTally { index, counts: Counts { sent: n, answered: n, ..Counts::default() }, latency }
    }

    #[test]
    fn seconds_of_several_loops_are_added_in_whatever_order_they_come() {
        let mut seconds = Seconds::new(2);
        for tally in [tally(0, &[1, 1]), tally(1, &[5]), tally(2, &[]), tally(0, &[9, 9, 9]), tally(3, &[7])]
        {
            seconds.add(tally);
        }
        assert_eq!((seconds.finished.len(), seconds.open.len()), (1, 3));
        let series = seconds.finish();
        let shown: Vec<_> = series.iter().map(|s| (s.at_s, s.counts.sent, s.latency_us_p50 / 1000)).collect();
        assert_eq!(shown, [(0, 5, 9), (1, 1, 5), (3, 1, 7)], "a second without a request is left out");
    }

    #[test]
    fn the_same_second_of_two_processes_is_one_as_if_it_had_been_one() {
        let (a, b) = (tally(4, &[1, 2, 3]), tally(4, &[50, 60]));
        let mut sum = second(&a).unwrap();
        sum.add(&second(&b).unwrap()).unwrap();
        let mut seconds = Seconds::new(2);
        seconds.add(a);
        seconds.add(b);
        assert_eq!(seconds.finish(), [sum]);
    }

    #[test]
    fn the_last_seconds_are_a_report() {
        let mut seconds = Seconds::new(1);
        [tally(0, &[1; 50]), tally(1, &[2; 10]), tally(2, &[3; 30])]
            .into_iter()
            .for_each(|tally| seconds.add(tally));
        let recent = seconds.recent(2);
        assert_eq!((recent.counts.answered, recent.goodput, recent.duration_s), (40, 20.0, 2.0));
        assert_eq!(recent.histograms.latency.decode().unwrap().len(), 40);
        assert_eq!((seconds.recent(9).counts.answered, seconds.finished()), (90, 3));
        assert!(seconds.last_latency().is_some_and(|(p50, _)| p50 / 100 == 30));
    }

    #[test]
    fn csv_has_a_line_for_each_second() {
        let series = [second(&tally(0, &[10])).unwrap(), second(&tally(7, &[20, 20])).unwrap()];
        let text = write_csv(&series);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!((lines[0][0], lines[0][9], lines.len()), ("at_s", "latency_us_max", 3));
        assert_eq!(lines[2][..7], ["7", "2", "2", "0", "0", "0", "0"]);
        assert!(lines.iter().all(|line| line.len() == 10) && lines[2][8].starts_with("20"));
    }
}
