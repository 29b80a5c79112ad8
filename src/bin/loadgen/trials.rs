//! Runs that are judged together: the trials of a search, the turns of a comparison.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lbd::load::{Counts, Load, LoadRate, LoadReport, Measurement, RunVerdict};
use lbd::os::signals::Stop;
use lbd::os::terminal::tell;

use crate::progress::ProgressLine;

/// Maximum time until the target responds again after a trial.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rate of the check that the target responds, in requests per second.
const CALM_RATE: f64 = 100.0;
const CALM_TIME: Duration = Duration::from_millis(200);
/// A recovered target may take twice its first median response time plus this, in microseconds.
const CALM_SLACK_US: u64 = 1_000;
/// Required responses of ten requests.
const CALM_SHARE: u64 = 9;

/// Runs trials, and waits before each until the target has recovered.
pub struct Trials<'a> {
    job: Measurement,
    stop: &'a Stop,
    quiet: bool,
    /// Each target's median response time at its first check, in microseconds.
    at_rest: Vec<(SocketAddr, u64)>,
}

impl<'a> Trials<'a> {
    /// Trials of this job; each has its own rate and target.
    pub fn new(job: Measurement, stop: &'a Stop, quiet: bool) -> Self {
        Trials { job, stop, quiet, at_rest: vec![] }
    }

    /// The job without a trial's changes.
    pub fn job(&self) -> &Measurement {
        &self.job
    }

    /// Prints a message for the operator while trials run.
    pub fn say(&self, text: std::fmt::Arguments<'_>) {
        if !self.quiet {
            tell(text);
        }
    }

    /// Runs one trial of the job with `change` applied; `None` if the operator stops it. The error is
    /// that the trial cannot run, or that the target does not respond even at a low rate.
    pub fn run(&mut self, change: impl FnOnce(&mut Measurement)) -> Result<Option<LoadReport>> {
        let mut job = self.job.clone();
        change(&mut job);
        if !self.await_rest(&job)? {
            return Ok(None);
        }
        let is_shown = !self.quiet && std::io::stderr().is_terminal();
        let mut line = is_shown.then(|| ProgressLine::new(job.warmup, job.measured()));
        let report = job.measure(self.stop, |live| {
            if let Some(line) = &mut line {
                line.show(live);
            }
        })?;
        if let invalid @ RunVerdict::Unmatched(_) = report.verdict() {
            bail!("{invalid}"); // a property of the target, which another trial has too
        }
        Ok((!self.stop.is_asked()).then_some(report))
    }

    /// Waits until the target answers a few requests about as quickly as at first, which means that its
    /// queue is empty.
    fn await_rest(&mut self, job: &Measurement) -> Result<bool> {
        let calm = Measurement {
            load: Load::Bursts(LoadRate::flat(CALM_RATE), 1),
            window: None,
            warmup: Duration::ZERO,
            duration: CALM_TIME,
            threads: 1,
            spin: Duration::ZERO,
            ..job.clone()
        };
        let first = self.at_rest.iter().find(|(target, _)| *target == job.target).map(|(_, us)| *us);
        let give_up = Instant::now() + PATIENCE;
        loop {
            let report = calm.measure(self.stop, |_| {})?;
            if self.stop.is_asked() {
                return Ok(false);
            }
            let half = report.latency_us.p50;
            if is_at_rest(&report, first) {
                if first.is_none() {
                    self.at_rest.push((job.target, half));
                }
                return Ok(true);
            }
            if first.is_none() || Instant::now() >= give_up {
                let Counts { sent, answered, busy, refused, lost, .. } = report.counts;
                bail!(
                    "{} does not respond{}: of {sent} requests at {CALM_RATE}/s {answered} were answered, \
                     {busy} busy, {refused} refused, {lost} lost, half within {half} us",
                    job.target,
                    if first.is_some() {
                        format!(" again within {} s", PATIENCE.as_secs())
                    } else {
                        String::new()
                    },
                );
            }
        }
    }
}

/// Whether the target has recovered, by a run at a low rate. `first`: its median response time at the
/// first check, in microseconds.
fn is_at_rest(report: &LoadReport, first: Option<u64>) -> bool {
    let is_answered =
        report.counts.answered > 0 && report.counts.answered * 10 >= report.counts.sent * CALM_SHARE;
    is_answered && first.is_none_or(|us| report.latency_us.p50 <= 2 * us + CALM_SLACK_US)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lbd::load::Percentiles;

    #[test]
    fn a_target_is_at_rest_when_it_answers_nearly_all_and_about_as_fast_as_at_first() {
        let report = |answered: u64, p50: u64| LoadReport {
            counts: Counts { sent: 20, answered, ..Counts::default() },
            latency_us: Percentiles { p50, ..Percentiles::default() },
            ..LoadReport::default()
        };
        assert!(is_at_rest(&report(18, 5_000), None) && !is_at_rest(&report(17, 5_000), None));
        assert!(!is_at_rest(&LoadReport::default(), None), "no request was sent");
        assert!(is_at_rest(&report(20, 1_500), Some(250)) && !is_at_rest(&report(20, 1_501), Some(250)));
        assert!(!is_at_rest(&report(10, 100), Some(250)));
    }
}
