//! Search for the highest rate that meets an SLO. Pure: it selects the next rate and records the trial's
//! result.
//!
//! The search doubles or halves the first rate until one rate meets the SLO and a higher one does not. Then
//! it halves that interval until it is small enough. Each rate gets trials until the majority is certain.
//! Afterwards the two remaining rates, and some further away, get trials until there is an interval. Every
//! decision uses all trials, so a disturbed trial misleads only temporarily. Shares of trials that met the
//! SLO are first made to fall with the rate (isotonic regression); the majority is judged by these shares.
//!
//! The interval is a sign test. If the limit were below a rate, trials at or above that rate would meet
//! the SLO less often than a coin shows heads. If they meet the SLO so often that a coin does so in at
//! most 2.5 % of all cases, the limit is not below that rate. The test from above works alike. A test
//! takes the nearest six or more trials. Its only assumption is that a higher rate is never easier.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::condition::{Conditions, Operator, ReportMetrics};
use super::interval::{CONFIDENCE, coins_at_most};
use super::{LoadReport, RunVerdict};

/// Minimum trials for a test with [`CONFIDENCE`]: six of six heads have a probability of 1/64.
const TEST_TRIALS: usize = 6;

/// Trials in which the generator could not keep up that put a rate beyond it, if they outnumber the
/// others. A single one is often caused by other work on the machine.
const UNFIT_MAX: usize = 4;

/// Goal and limits of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchPlan {
    /// Conditions that a rate must meet.
    pub slo: Conditions,
    /// First rate in requests per second, from `lowest` to `highest`.
    pub start: f64,
    /// Lowest rate to try, in requests per second.
    pub lowest: f64,
    /// Highest rate to try, in requests per second.
    pub highest: f64,
    /// Trials per rate, at least 1; the majority decides.
    pub repeats: usize,
    /// Maximum relative difference at the end between the rate that meets the SLO and the one that does
    /// not. Above 0.
    pub precision: f64,
    /// Maximum trials in total.
    pub trials_max: usize,
}

/// Result of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialOutcome {
    /// The SLO was met.
    Met,
    /// The SLO was missed.
    Missed,
    /// The generator could not keep up and the SLO was missed. The result says nothing about the target,
    /// so the trial is repeated.
    Unfit,
}

/// One run at one rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchTrial {
    /// Requested rate, in requests per second.
    pub rate: f64,
    /// Result of the trial.
    pub outcome: TrialOutcome,
    /// Values of the SLO's metrics as text.
    pub measured: String,
    /// Complete results.
    pub report: LoadReport,
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchEnd {
    /// The limit is known within the precision.
    Found,
    /// The highest allowed rate still meets the SLO.
    Highest,
    /// The lowest allowed rate does not meet the SLO.
    Lowest,
    /// The generator could not keep up at the next higher rate.
    Generator,
    /// The number of trials reached its maximum, or the operator stopped the search.
    Stopped,
}

/// A running search.
#[derive(Clone, Debug)]
pub struct CapacitySearch {
    plan: SearchPlan,
    trials: Vec<SearchTrial>,
}

/// A finished search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Goal and limits of the search.
    pub plan: SearchPlan,
    /// Why the search ended.
    pub end: SearchEnd,
    /// The highest rate that met the SLO in most trials; a lower bound unless `end` is `found`. `None`:
    /// no rate met it.
    pub rate: Option<f64>,
    /// The next higher rate that was tried.
    pub missed_at: Option<f64>,
    /// The limit is not below this, with `confidence`. `None`: shown for no rate.
    pub low: Option<f64>,
    /// The limit is not above this, with `confidence`. `None`: shown for no rate.
    pub high: Option<f64>,
    /// Confidence of `low` and `high` together.
    pub confidence: f64,
    /// Whether a signal ended the search.
    #[serde(default)]
    pub interrupted: bool,
    /// All trials in the order in which they ran.
    pub trials: Vec<SearchTrial>,
}

/// The trials of one rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct RateLevel {
    rate: f64,
    met: usize,
    missed: usize,
    unfit: usize,
}

impl RateLevel {
    /// Number of trials that say something about the target.
    fn valid(&self) -> usize {
        self.met + self.missed
    }

    /// Whether more trials cannot change the majority.
    fn is_decided(&self, repeats: usize) -> bool {
        let total = self.valid().max(repeats);
        let rest = total - self.valid();
        2 * self.met >= total || 2 * (self.met + rest) < total
    }

    /// Whether the generator, not the target, limits this rate.
    fn is_beyond(&self, repeats: usize) -> bool {
        !self.is_decided(repeats) && self.unfit >= UNFIT_MAX && self.unfit > self.valid()
    }
}

impl CapacitySearch {
    /// A new search; the error describes the problem with the SLO.
    pub fn new(plan: SearchPlan) -> Result<CapacitySearch, String> {
        if !plan.slo.are_of_one() {
            return Err("a condition on A and B needs --compare and --fail-if".to_owned());
        }
        for condition in plan.slo.each() {
            if matches!(condition.operator, Operator::Above | Operator::AtLeast) {
                return Err(format!(
                    "`{condition}` is easier to meet at a higher rate, so there is no highest one; use < or \
                     <= in an SLO"
                ));
            }
        }
        assert!(
            plan.repeats > 0 && plan.precision > 0.0 && (plan.lowest..=plan.highest).contains(&plan.start)
        );
        Ok(CapacitySearch { plan, trials: vec![] })
    }

    /// The rate to try next; `None` when the search is finished.
    pub fn next(&self) -> Option<f64> {
        let Some(last) = self.trials.last() else { return Some(self.plan.start) };
        if self.trials.len() >= self.plan.trials_max {
            return None;
        }
        let levels = self.levels();
        let current = levels.iter().find(|level| level.rate == last.rate).expect("it was tried");
        let is_beyond = |level: &RateLevel| level.is_beyond(self.plan.repeats);
        if !current.is_decided(self.plan.repeats) && !is_beyond(current) {
            return Some(current.rate);
        }
        let (met, missed) = self.boundary(&levels);
        match (met, missed) {
            (None, Some(missed)) if is_beyond(&missed) => (missed.unfit < TEST_TRIALS).then_some(missed.rate),
            (None, Some(missed)) if missed.rate > self.plan.lowest => {
                Some((missed.rate / 2.0).max(self.plan.lowest))
            }
            (Some(met), None) if met.rate < self.plan.highest => {
                Some((met.rate * 2.0).min(self.plan.highest))
            }
            (Some(met), Some(missed)) if missed.rate / met.rate > 1.0 + self.plan.precision => {
                Some(between(met.rate, missed.rate))
            }
            (met, missed) => {
                let (low, high) = limits(&levels);
                let down = met.and_then(|met| {
                    let is_shown = |rate: f64| low.is_some_and(|low| low >= rate);
                    self.rung(&levels, met.rate, Direction::Down, is_shown)
                });
                let up = missed.and_then(|missed| {
                    let is_shown = |rate: f64| high.is_some_and(|high| high <= rate);
                    self.rung(&levels, missed.rate, Direction::Up, is_shown)
                });
                // The side with fewer trials.
                let trials = |rate: &f64| level_at(&levels, *rate).map_or(0, RateLevel::valid);
                [down, up].into_iter().flatten().min_by_key(trials)
            }
        }
    }

    /// The next rate to try for the interval on one side of the limit, or `None` if that side is done.
    /// Rates move further away until one shows that the limit is on its other side.
    fn rung(
        &self,
        levels: &[RateLevel],
        base: f64,
        way: Direction,
        is_shown: impl Fn(f64) -> bool,
    ) -> Option<f64> {
        let is_open = |rate: f64| {
            level_at(levels, rate).is_none_or(|level| {
                let against = if way == Direction::Down { level.missed } else { level.met };
                let is_full = level.valid() >= TEST_TRIALS || level.unfit >= TEST_TRIALS;
                !is_full && (against == 0 || rate == base)
            })
        };
        let (mut rate, mut away) = (base, self.plan.precision);
        loop {
            let is_beyond = level_at(levels, rate).is_some_and(|level| level.is_beyond(self.plan.repeats));
            if is_shown(rate) {
                return None;
            }
            if is_beyond && way == Direction::Up {
                return (rate == base && is_open(rate)).then_some(rate);
            }
            if is_open(rate) && !is_beyond {
                return Some(rate);
            }
            let end = if way == Direction::Down { self.plan.lowest } else { self.plan.highest };
            if rate == end {
                return None;
            }
            // Prefers a rate near there that was already tried.
            let (near, far) = (way.from(base, away), way.from(base, 2.0 * away));
            let is_about = |level: &&RateLevel| {
                (near.min(far)..=near.max(far)).contains(&level.rate) && level.rate != rate
            };
            let tried = levels.iter().filter(is_about).max_by_key(|level| level.valid());
            rate = tried.map_or(near.clamp(self.plan.lowest, self.plan.highest), |level| level.rate);
            away *= 2.0;
        }
    }

    /// Records the result at the rate that [`CapacitySearch::next`] selected; the error is that the report is
    /// damaged.
    pub fn record(&mut self, rate: f64, report: LoadReport) -> Result<&SearchTrial, String> {
        let (outcome, measured) = self.judge(&report)?;
        self.trials.push(SearchTrial { rate, outcome, measured, report });
        Ok(self.trials.last().expect("it was added"))
    }

    /// The result of a trial, and its metrics as text.
    fn judge(&self, report: &LoadReport) -> Result<(TrialOutcome, String), String> {
        let figures = ReportMetrics::of(report)?;
        let outcome = match (report.verdict(), self.plan.slo.hold(&figures)) {
            (RunVerdict::TooSlow(_), _) | (RunVerdict::Late(..), false) => TrialOutcome::Unfit,
            // A run without an answer meets nothing, not even `loss<=100%`.
            (RunVerdict::NothingAnswered(_) | RunVerdict::Unmatched(_), _) => TrialOutcome::Missed,
            // Latency counts from the schedule, so a trial that met the SLO with late sends would also
            // meet it without them.
            (_, true) => TrialOutcome::Met,
            (RunVerdict::Valid, false) => TrialOutcome::Missed,
        };
        Ok((outcome, self.plan.slo.measured(&figures)))
    }

    /// The bounds of the limit so far: a rate that meets the SLO, and the next one that does not.
    pub fn bracket(&self) -> (Option<f64>, Option<f64>) {
        let (met, missed) = self.boundary(&self.levels());
        (met.map(|level| level.rate), missed.map(|level| level.rate))
    }

    /// The result of all trials.
    pub fn finish(self) -> Found {
        let levels = self.levels();
        let (met, missed) = self.boundary(&levels);
        let end = match (met, missed) {
            _ if self.next().is_some() => SearchEnd::Stopped,
            (_, Some(missed)) if missed.is_beyond(self.plan.repeats) => SearchEnd::Generator,
            (Some(met), Some(missed)) if missed.rate / met.rate <= 1.0 + self.plan.precision => {
                SearchEnd::Found
            }
            (Some(met), None) if met.rate >= self.plan.highest => SearchEnd::Highest,
            (None, Some(missed)) if missed.rate <= self.plan.lowest => SearchEnd::Lowest,
            _ => SearchEnd::Stopped,
        };
        let (low, high) = limits(&levels);
        let rate = met.map(|level| level.rate);
        Found {
            end,
            rate,
            missed_at: missed.map(|level| level.rate),
            low: low.map(|low| rate.map_or(low, |rate| low.min(rate))),
            high: high.map(|high| rate.map_or(high, |rate| high.max(rate))),
            confidence: CONFIDENCE,
            plan: self.plan,
            interrupted: false,
            trials: self.trials,
        }
    }

    /// The highest rate that meets the SLO, and the next one.
    ///
    /// A rate meets the SLO if half of its trials do. Shares that rise with the rate are pooled first
    /// ("pool adjacent violators").
    fn boundary(&self, levels: &[RateLevel]) -> (Option<RateLevel>, Option<RateLevel>) {
        let is_beyond = |level: &RateLevel| level.is_beyond(self.plan.repeats);
        let known: Vec<RateLevel> =
            levels.iter().copied().filter(|level| level.valid() > 0 || is_beyond(level)).collect();
        // (met, trials, levels) of each pool.
        let mut pools: Vec<(usize, usize, usize)> = vec![];
        for level in &known {
            // A rate beyond the generator counts as a miss, so that a higher rate that met the SLO can
            // outweigh it.
            pools.push(match is_beyond(level) {
                true => (0, level.valid().max(1), 1),
                false => (level.met, level.valid(), 1),
            });
            while let [.., before, last] = pools[..]
                && last.0 * before.1 > before.0 * last.1
            {
                pools.pop();
                *pools.last_mut().expect("there were two") =
                    (before.0 + last.0, before.1 + last.1, before.2 + last.2);
            }
        }
        let above: usize =
            pools.iter().take_while(|(met, trials, _)| 2 * met >= *trials).map(|(_, _, levels)| levels).sum();
        (above.checked_sub(1).map(|index| known[index]), known.get(above).copied())
    }

    /// The trials by rate, in ascending order.
    fn levels(&self) -> Vec<RateLevel> {
        let mut levels: Vec<RateLevel> = vec![];
        for trial in &self.trials {
            let at = levels.partition_point(|level| level.rate < trial.rate);
            if levels.get(at).is_none_or(|level| level.rate != trial.rate) {
                levels.insert(at, RateLevel { rate: trial.rate, ..RateLevel::default() });
            }
            match trial.outcome {
                TrialOutcome::Met => levels[at].met += 1,
                TrialOutcome::Missed => levels[at].missed += 1,
                TrialOutcome::Unfit => levels[at].unfit += 1,
            }
        }
        levels
    }
}

/// Direction: to lower or to higher rates.
#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Down,
    Up,
}

impl Direction {
    /// The rate at a relative distance from this one.
    fn from(self, rate: f64, away: f64) -> f64 {
        if self == Direction::Down { rate / (1.0 + away) } else { rate * (1.0 + away) }
    }
}

fn level_at(levels: &[RateLevel], rate: f64) -> Option<&RateLevel> {
    levels.iter().find(|level| level.rate == rate)
}

/// The rates that the limit is not below and not above, with [`CONFIDENCE`] together.
fn limits(levels: &[RateLevel]) -> (Option<f64>, Option<f64>) {
    let chance_max = (1.0 - CONFIDENCE) / 2.0;
    // The nearest trials in this direction: (met, missed). Trials in which the generator could not keep
    // up are skipped.
    let nearest = |levels: &mut dyn Iterator<Item = &RateLevel>| {
        let mut sum = (0, 0);
        while sum.0 + sum.1 < TEST_TRIALS {
            let Some(level) = levels.next() else { break };
            sum = (sum.0 + level.met, sum.1 + level.missed);
        }
        sum
    };
    let is_not_below = |index: &usize| {
        let (met, missed) = nearest(&mut levels[*index..].iter());
        coins_at_most(missed, met + missed) <= chance_max
    };
    let is_not_above = |index: &usize| {
        let (met, missed) = nearest(&mut levels[..=*index].iter().rev());
        coins_at_most(met, met + missed) <= chance_max
    };
    let low = (0..levels.len()).rfind(is_not_below).map(|index| levels[index].rate);
    let high = (0..levels.len()).find(is_not_above).map(|index| levels[index].rate);
    (low, high)
}

/// About the geometric mean, with three significant digits if such a number is between the two.
fn between(low: f64, high: f64) -> f64 {
    let mean = (low * high).sqrt();
    let unit = 10f64.powf(mean.log10().floor() - 2.0);
    let round = (mean / unit).round() * unit;
    if low < round && round < high { round } else { mean }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slo = &self.plan.slo;
        let trials = self.trials.len();
        match (self.end, self.rate) {
            (SearchEnd::Lowest, _) => write!(f, "not even {} meets {slo}", per_second(self.plan.lowest))?,
            (_, None) => write!(f, "no rate met {slo}")?,
            (SearchEnd::Found, Some(rate)) => {
                write!(f, "the highest rate that meets {slo} is {}", per_second(rate))?
            }
            (_, Some(rate)) => {
                write!(f, "the highest rate that meets {slo} is at least {}", per_second(rate))?;
            }
        }
        match (self.low, self.high) {
            _ if self.end == SearchEnd::Lowest => write!(f, " ({trials} trials)")?,
            (None, None) => write!(f, " ({trials} trials, too few for an interval)")?,
            (low, high) => write!(
                f,
                " ({}..{} at {:.0} %, {trials} trials)",
                low.map(number).unwrap_or_default(),
                high.map(number).unwrap_or_default(),
                self.confidence * 100.0
            )?,
        }
        match self.end {
            SearchEnd::Found | SearchEnd::Lowest => Ok(()),
            SearchEnd::Highest => write!(f, ": no higher rate was allowed"),
            SearchEnd::Generator => {
                let (at, rate) = (per_second(self.missed_at.unwrap_or(self.plan.start)), self.rate);
                write!(f, ": at {at} this generator could not keep up; give it more CPU or threads")?;
                f.write_str(if rate.is_none() { ", or start with a lower --rate" } else { "" })
            }
            SearchEnd::Stopped => {
                f.write_str(": the search was stopped early")?;
                f.write_str(if self.interrupted { " (interrupted)" } else { "" })
            }
        }
    }
}

/// A rate as text: `12,400/s`.
pub fn per_second(rate: f64) -> String {
    number(rate) + "/s"
}

/// A number with digits in groups of three; small numbers have three significant digits.
pub fn number(value: f64) -> String {
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { grouped } else { format!("{grouped}.{fraction}") }
}

#[cfg(test)]
mod tests;
