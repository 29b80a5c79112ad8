//! Merges several reports into one: of concurrent processes, or of consecutive steps.

use std::collections::BTreeMap;
use std::ops::Range;

use hdrhistogram::Histogram;

use super::histogram::add;
use super::report::{LoadReport, Second, SetUp};

/// Share of the longest run that all runs must share, or the sum has a remark.
const OVERLAP_MIN: f64 = 0.9;

impl LoadReport {
    /// Merges the reports of processes that ran at the same time. Counts and histograms are added, so
    /// percentiles are those of all requests together. Rates are those of the time from the first start to
    /// the last end. Each step is merged with the same step of the other reports. What differs, and is no
    /// reason to refuse, becomes a remark. `None` for no report; the error is the index of a report, from 0,
    /// and its problem.
    pub fn merge(reports: &[LoadReport]) -> Option<Result<LoadReport, (usize, String)>> {
        let (first, others) = reports.split_first()?;
        let mut sum = first.clone();
        for (other, index) in others.iter().zip(1..) {
            let earlier = &reports[..index];
            if let Err(why) = side_by_side(earlier, other).and_then(|()| sum.merge_one(other)) {
                return Some(Err((index, why)));
            }
        }
        sum.remarks.extend(remarks(reports));
        Some(sum.refresh(reports).map(|()| sum))
    }

    /// Merges consecutive steps; each step stays complete in [`LoadReport::steps`]. `None` for no step.
    pub fn in_steps(steps: Vec<LoadReport>) -> Option<LoadReport> {
        let mut sum = steps.first()?.clone();
        sum.series.clear();
        let mut at_s = 0;
        for (step, index) in steps.iter().zip(0..) {
            if index > 0 {
                sum.add_counts(step);
                sum.duration_s += step.duration_s;
            }
            sum.series.extend(
                step.series.iter().map(|second| Second { at_s: at_s + second.at_s, ..second.clone() }),
            );
            at_s += step.duration_s.ceil() as u64;
        }
        let weighted: Option<f64> = steps.iter().map(|step| Some(step.rate_wanted? * step.duration_s)).sum();
        sum.rate_wanted = weighted.filter(|_| sum.duration_s > 0.0).map(|sent| sent / sum.duration_s);
        sum.set_rates();
        sum.setup.rate = steps.iter().map(|step| step.setup.rate.as_str()).collect::<Vec<_>>().join(",");
        sum.refresh(&steps).expect("histograms that were made here");
        sum.steps = if sum.is_empty() { vec![] } else { steps };
        Some(sum)
    }

    fn merge_one(&mut self, other: &LoadReport) -> Result<(), String> {
        if self.steps.len() != other.steps.len() {
            return Err(format!(
                "it has {} steps, but the first report has {}",
                other.steps.len(),
                self.steps.len()
            ));
        }
        if self.setup.protocol != other.setup.protocol {
            let (this, first) = (&other.setup.protocol, &self.setup.protocol);
            return Err(format!("its protocol is `{this}`, but the first report has `{first}`"));
        }
        for (step, (own, others)) in (1..).zip(self.steps.iter_mut().zip(&other.steps)) {
            let merged = LoadReport::merge(&[own.clone(), others.clone()]).expect("two reports");
            *own = merged.map_err(|(_, why)| format!("step {step}: {why}"))?;
        }
        self.add_counts(other);
        let (own, others) = (self.span(), other.span());
        let begin = own.start.min(others.start);
        self.rate_wanted = self.rate_wanted.zip(other.rate_wanted).map(|(a, b)| a + b);
        self.duration_s = own.end.max(others.end) - begin;
        self.set_rates();
        self.setup.started_at_s = begin - self.setup.warmup_s;
        self.setup.duration_s = self.setup.duration_s.max(other.setup.duration_s);
        self.setup.threads = self.setup.threads.saturating_add(other.setup.threads);
        self.setup.clients = self.setup.clients.saturating_add(other.setup.clients);
        self.setup.window = self.setup.window.zip(other.setup.window).map(|(a, b)| a + b);
        let after = |start: f64| (start - begin).round() as u64;
        self.merge_series((after(own.start), after(others.start)), &other.series)
    }

    /// Merges the seconds of two reports, which began at these seconds of the sum.
    fn merge_series(&mut self, (own, other): (u64, u64), others: &[Second]) -> Result<(), String> {
        let at = |second: &Second, begin: u64| second.at_s + begin;
        let mut seconds: BTreeMap<u64, Second> =
            self.series.drain(..).map(|s| (at(&s, own), Second { at_s: at(&s, own), ..s })).collect();
        for second in others {
            let at_s = at(second, other);
            match seconds.get_mut(&at_s) {
                Some(sum) => sum.add(second).map_err(|why| format!("second {}: {why}", second.at_s))?,
                None => drop(seconds.insert(at_s, Second { at_s, ..second.clone() })),
            }
        }
        self.series = seconds.into_values().collect();
        Ok(())
    }

    /// Start and end of the measurement, in seconds since 1970.
    fn span(&self) -> Range<f64> {
        let start = self.setup.started_at_s + self.setup.warmup_s;
        start..start + self.duration_s
    }

    fn add_counts(&mut self, other: &LoadReport) {
        self.counts += other.counts;
        self.interrupted |= other.interrupted;
        self.aborted = self.aborted.take().or_else(|| other.aborted.clone());
        self.not_sent += other.not_sent;
        self.kernel_drops += other.kernel_drops;
        match (&mut self.dns, &other.dns) {
            (Some(own), Some(others)) => *own += others,
            (own, others) => *own = own.take().or_else(|| others.clone()),
        }
        for (own, others) in
            [(&mut self.drops, &other.drops), (&mut self.network_errors, &other.network_errors)]
        {
            others.iter().for_each(|(name, n)| *own.entry(name.clone()).or_default() += n);
        }
    }

    /// Sums the histograms of all parts, and recomputes the values derived from them.
    fn refresh(&mut self, parts: &[LoadReport]) -> Result<(), (usize, String)> {
        let mut sums: [Histogram<u64>; 4] =
            std::array::from_fn(|_| Histogram::new(3).expect("3 digits are valid"));
        for (part, index) in parts.iter().zip(0..) {
            let histograms = &part.histograms;
            let each = [
                ("latency", &histograms.latency),
                ("lost", &histograms.lost),
                ("latency_uncorrected", &histograms.latency_uncorrected),
                ("pacing", &histograms.pacing),
            ];
            for ((name, encoded), sum) in each.into_iter().zip(&mut sums) {
                let decoded = encoded.decode().map_err(|why| (index, format!("histograms.{name}: {why}")))?;
                add(sum, &decoded);
            }
            // An older program wrote no histograms, and percentiles cannot be added.
            if part.histograms.latency.is_empty() && part.counts.answered + part.counts.lost > 0 {
                return Err((
                    index,
                    "it has no histograms; measure again with this version of loadgen".to_owned(),
                ));
            }
        }
        self.set_histograms(sums.each_ref());
        Ok(())
    }
}

/// Refuses a report that does not belong to these earlier ones: the same run again, another timeout, or
/// another time.
fn side_by_side(earlier: &[LoadReport], other: &LoadReport) -> Result<(), String> {
    let SetUp { started_at_s, seed, timeout_s, .. } = &other.setup;
    let is_same = |report: &LoadReport| {
        (report.setup.started_at_s, report.setup.seed, report.counts) == (*started_at_s, *seed, other.counts)
    };
    if *started_at_s > 0.0 && earlier.iter().any(is_same) {
        return Err("it is the same run as an earlier file".to_owned());
    }
    let first = &earlier[0].setup;
    if first.timeout_s != *timeout_s {
        return Err(format!(
            "its timeout is {timeout_s} s, but that of the first report is {} s",
            first.timeout_s
        ));
    }
    let (span, common) = (other.span(), common(earlier));
    let sides = "; --merge adds up runs that were side by side";
    if span.start >= common.end && span.start > common.start {
        return Err(format!(
            "it began {:.1} s after an earlier run had ended{sides}",
            span.start - common.end
        ));
    }
    if span.end <= common.start && span.end < common.end {
        return Err(format!("it ended {:.1} s before an earlier run began{sides}", common.start - span.end));
    }
    Ok(())
}

/// The time that all of these runs share; its end is before its start if there is none.
fn common(reports: &[LoadReport]) -> Range<f64> {
    reports
        .iter()
        .map(LoadReport::span)
        .fold(f64::NEG_INFINITY..f64::INFINITY, |all, span| all.start.max(span.start)..all.end.min(span.end))
}

/// A parameter's name, and its value in a set-up.
type Fact = (&'static str, fn(&SetUp) -> String);

/// What a reader of the sum has to know: differences between the runs.
fn remarks(reports: &[LoadReport]) -> Vec<String> {
    let mut remarks = vec![];
    let (shared, longest) =
        (common(reports), reports.iter().map(|report| report.duration_s).fold(0.0, f64::max));
    let shared = (shared.end - shared.start).max(0.0);
    if shared < longest * OVERLAP_MIN {
        remarks.push(format!(
            "the runs overlap for {shared:.1} of {longest:.1} s; rates are those from the first start to \
             the last end"
        ));
    }
    let facts: [Fact; 5] = [
        ("target", |setup| setup.target.clone()),
        ("payload", |setup| format!("{} bytes", setup.payload)),
        ("arrivals", |setup| setup.arrivals.clone()),
        ("warm-up", |setup| format!("{} s", setup.warmup_s)),
        ("version", |setup| setup.version.clone()),
    ];
    for (name, fact) in facts {
        let mut values: Vec<String> = reports.iter().map(|report| fact(&report.setup)).collect();
        values.sort_unstable();
        values.dedup();
        if values.len() > 1 {
            remarks.push(format!("the runs differ in {name}: {}", values.join(", ")));
        }
    }
    remarks
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::EncodedHistogram;
    use super::super::counts::Counts;
    use super::super::histogram::{Percentiles, record};
    use super::super::ledger::{Account, SecondTally};
    use super::super::series::Seconds;
    use super::*;
    use crate::base::drop_reason::DropReason;

    const TIMEOUT: Duration = Duration::from_secs(1);

    /// A report of requests with these latencies in milliseconds, all in one second.
    fn report(second: u64, ms: &[u64]) -> LoadReport {
        let mut account = Account::new(TIMEOUT);
        let mut latency = super::super::histogram::empty(TIMEOUT, 2);
        let n = ms.len() as u64;
        account.counts = Counts { planned: n, sent: n, answered: n, ..Counts::default() };
        for time in ms.iter().map(|ms| Duration::from_millis(*ms)) {
            record(&mut account.latency, time);
            record(&mut account.latency_uncorrected, time);
            record(&mut account.pacing, time / 100);
            record(&mut latency, time);
        }
        account.drops.add(DropReason::NotOpen, n);
        let mut series = Seconds::new(1);
        series.add(SecondTally { index: second, counts: account.counts, latency });
        LoadReport {
            setup: SetUp { clients: 4, threads: 1, rate: n.to_string(), ..SetUp::default() },
            rate_wanted: Some(n as f64),
            series: series.finish(),
            ..LoadReport::of(&account, Duration::from_secs(2))
        }
    }

    fn figures(report: &LoadReport) -> (u64, Percentiles, Percentiles, &EncodedHistogram, Option<&u64>) {
        let LoadReport { counts: Counts { answered, .. }, latency_us, pacing_us, histograms, .. } = report;
        (*answered, *latency_us, *pacing_us, &histograms.latency, report.drops.get("not_open"))
    }

    #[test]
    fn merged_processes_are_as_if_they_had_been_one() {
        let parts = [report(0, &[1, 1, 1]), report(0, &[9; 20]), report(3, &[5, 50])];
        let merged = LoadReport::merge(&parts).unwrap().unwrap();
        let all = [&[1, 1, 1][..], &[9; 20], &[5, 50]].concat();
        let one = report(0, &all);
        assert_eq!(figures(&merged), figures(&one));
        assert_eq!((merged.rate, merged.rate_wanted, merged.duration_s), (12.5, Some(25.0), 2.0));
        assert_eq!((merged.setup.clients, merged.setup.threads), (12, 3));
        let series: Vec<_> =
            merged.series.iter().map(|s| (s.at_s, s.counts.answered, s.latency_us_p50 / 1000)).collect();
        assert_eq!(series, [(0, 23, 9), (3, 2, 5)]);
        assert!(LoadReport::merge(&[]).is_none());
        assert_eq!(LoadReport::merge(&parts[..1]).unwrap().unwrap(), parts[0]);
    }

    #[test]
    fn runs_that_overlap_in_part_have_the_rate_of_the_whole_time_and_a_remark() {
        let at = |started_at_s: f64, second: u64| {
            let mut report = report(second, &[1; 6]);
            (report.setup.started_at_s, report.setup.warmup_s) = (started_at_s, 1.0);
            report
        };
        let merged = LoadReport::merge(&[at(101.0, 0), at(100.0, 0)]).unwrap().unwrap();
        assert_eq!((merged.duration_s, merged.rate, merged.setup.started_at_s), (3.0, 4.0, 100.0));
        let series: Vec<_> = merged.series.iter().map(|s| (s.at_s, s.counts.sent)).collect();
        assert_eq!(series, [(0, 6), (1, 6)], "each where it was");
        assert_eq!(merged.remarks.len(), 1, "{:?}", merged.remarks);
        assert!(merged.remarks[0].starts_with("the runs overlap for 1.0 of 2.0 s"), "{:?}", merged.remarks);
        let refused = |a, b| LoadReport::merge(&[at(a, 0), at(b, 0)]).unwrap().unwrap_err();
        assert!(refused(100.0, 102.5).1.starts_with("it began 0.5 s after"), "{:?}", refused(100.0, 102.5));
        assert!(refused(102.5, 100.0).1.starts_with("it ended 0.5 s before"));
        assert!(refused(100.0, 100.0).1.starts_with("it is the same run"));
        let mut other = at(100.1, 0);
        other.setup.target = "b".to_owned();
        let merged = LoadReport::merge(&[at(100.0, 0), other]).unwrap().unwrap();
        assert_eq!(merged.remarks, ["the runs differ in target: , b"]);
    }

    #[test]
    fn steps_come_one_after_the_other_and_stay() {
        let steps = vec![report(1, &[1, 1]), report(0, &[9; 6])];
        let whole = LoadReport::in_steps(steps.clone()).unwrap();
        assert_eq!(figures(&whole), figures(&report(0, &[1, 1, 9, 9, 9, 9, 9, 9])));
        assert_eq!((whole.rate, whole.rate_wanted, whole.duration_s), (2.0, Some(4.0), 4.0));
        let series: Vec<_> = whole.series.iter().map(|s| (s.at_s, s.counts.answered)).collect();
        assert_eq!((series, whole.setup.rate.as_str()), (vec![(1, 2), (2, 6)], "2,6"));
        assert_eq!(whole.steps, steps);
        assert!(LoadReport::in_steps(vec![]).is_none());

        let merged = LoadReport::merge(&[whole.clone(), whole]).unwrap().unwrap();
        assert_eq!(
            (merged.counts.answered, merged.steps[0].counts.answered, merged.steps[1].counts.answered),
            (16, 4, 12)
        );
        assert_eq!(figures(&merged.steps[1]), figures(&report(0, &[9; 12])));
    }

    #[test]
    fn what_cannot_be_merged_is_named() {
        let good = report(0, &[1]);
        let mut dns = good.clone();
        dns.setup.protocol = "dns".to_owned();
        let mut bare = good.clone();
        bare.histograms = Default::default();
        let mut bad = good.clone();
        bad.histograms.pacing = serde_json::from_str("\"AAAA\"").unwrap();
        let steps = LoadReport::in_steps(vec![good.clone()]).unwrap();
        for (other, named) in [
            (dns, "its protocol is `dns`"),
            (bare, "no histograms"),
            (bad, "histograms.pacing: not a histogram"),
            (steps, "1 steps, but the first report has 0"),
        ] {
            let (index, why) = LoadReport::merge(&[good.clone(), other]).unwrap().unwrap_err();
            assert!(index == 1 && why.contains(named), "{named}: {why}");
        }
    }
}
