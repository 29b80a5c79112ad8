//! Runs that are judged together: the trials of a search, the turns of a comparison.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lbd::load::{
    Counts, Load, LoadRate, LoadReport, Measurement, NetworkErrors, ReportMetrics, RunVerdict, Silence,
};
use lbd::os::signals::Stop;
use lbd::os::terminal::tell;

use crate::progress::ProgressLine;

/// Maximum time until the target responds again after a trial.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rate of the check that the target responds, in requests per second.
const CALM_RATE: f64 = 100.0;
const CALM_TIME: Duration = Duration::from_millis(200);
/// A recovered target may take twice its first median response time plus this, in microseconds.
const CALM_SLACK_US: f64 = 1_000.0;
/// Checks before the first trial until a target that loses requests counts as silent.
const FIRST_CHECKS: u32 = 5;

/// Runs trials, and waits before each until the target has recovered.
pub struct Trials<'a> {
    job: Measurement,
    stop: &'a Stop,
    quiet: bool,
    /// Share of the requests that a target at rest answers at least.
    least: f64,
    /// Each target's median response time at its first check, in microseconds.
    at_rest: Vec<(SocketAddr, f64)>,
}

impl<'a> Trials<'a> {
    /// Trials of this job; each has its own rate and target. `least`: share of the requests, 0 to 1, that a
    /// target without load must answer; any answer is enough with 0.
    pub fn new(job: Measurement, stop: &'a Stop, quiet: bool, least: f64) -> Self {
        Trials { job, stop, quiet, least, at_rest: vec![] }
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
        let mut line = is_shown.then(|| ProgressLine::new(job.target, job.warmup, job.measured()));
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
            requests: None,
            think: Duration::ZERO,
            threads: 1,
            spin: Duration::ZERO,
            ..job.clone()
        };
        let first = self.at_rest.iter().find(|(target, _)| *target == job.target).map(|(_, us)| *us);
        let give_up = Instant::now() + PATIENCE;
        for check in 1.. {
            let report = calm.measure(self.stop, |_| {})?;
            if self.stop.is_asked() {
                return Ok(false);
            }
            let half = ReportMetrics::of(&report).map_err(anyhow::Error::msg)?.median_answered();
            if let Some(half) = half.filter(|half| is_at_rest(&report.counts, self.least, *half, first)) {
                if first.is_none() {
                    self.at_rest.push((job.target, half));
                }
                return Ok(true);
            }
            let is_told = matches!(report.verdict(), RunVerdict::NothingAnswered(Silence::Told(_)));
            if (first.is_none() && (is_told || check >= FIRST_CHECKS)) || Instant::now() >= give_up {
                bail!("{}", silence(job.target, &report, half, first.is_some()));
            }
        }
        unreachable!("the patience has an end")
    }
}

/// Why no trial can begin. `half`: median latency of the answered requests, in microseconds.
fn silence(target: SocketAddr, report: &LoadReport, half: Option<f64>, answered_before: bool) -> String {
    let Counts { sent, answered, busy, refused, lost, .. } = report.counts;
    let why = NetworkErrors::main_of(&report.network_errors).map_or("", |error| error.text());
    let why = if why.is_empty() { String::new() } else { format!("; {why}") };
    let again = match answered_before {
        true => format!(" again within {} s", PATIENCE.as_secs()),
        false => String::new(),
    };
    let half = half.map_or(String::new(), |us| format!(", half of the answers within {us:.0} us"));
    format!(
        "{target} does not respond{again}: of {sent} requests at {CALM_RATE}/s {answered} were answered, \
         {busy} busy, {refused} refused, {lost} lost{half}{why}"
    )
}

/// Whether the target has recovered, by a run at a low rate: it answers at least this share of the requests,
/// half of the answers within `half` microseconds. `first`: the same of the first check.
fn is_at_rest(counts: &Counts, least: f64, half: f64, first: Option<f64>) -> bool {
    let is_answered = counts.answered > 0 && counts.answered as f64 >= counts.sent as f64 * least;
    is_answered && first.is_none_or(|us| half <= 2.0 * us + CALM_SLACK_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_at_rest_when_it_answers_what_the_objective_needs_and_about_as_fast_as_at_first() {
        let at_rest = |answered, least, half, first| {
            is_at_rest(&Counts { sent: 20, answered, ..Counts::default() }, least, half, first)
        };
        assert!(at_rest(18, 0.9, 5_000.0, None) && !at_rest(17, 0.9, 5_000.0, None));
        assert!(at_rest(14, 0.7, 5_000.0, None) && !at_rest(13, 0.7, 5_000.0, None));
        assert!(at_rest(1, 0.0, 5_000.0, None) && !at_rest(0, 0.0, 5_000.0, None));
        assert!(at_rest(20, 0.9, 1_500.0, Some(250.0)) && !at_rest(20, 0.9, 1_501.0, Some(250.0)));
    }
}
