//! Conditions on a report, as operators write them: `p99<2ms,loss<0.1%`. Pure.

use std::fmt;
use std::str::FromStr;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::LoadReport;
use crate::report::chart::Numbers;

/// Example in every error.
const EXAMPLE: &str = "p99<2ms,loss<0.1%";

/// Conditions that must hold together. A comma means *and*.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Conditions(Vec<Condition>);

/// One of two targets that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The first target, the reference.
    A,
    /// The second target, compared with the first.
    B,
}

impl Side {
    /// The other target.
    #[must_use]
    pub fn other(self) -> Side {
        if self == Side::A { Side::B } else { Side::A }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Side::A { "A" } else { "B" })
    }
}

/// What makes a condition one about two targets: `p50 B > 1.05 A`, `loss B > A + 0.1%`, `p99 B > 5ms`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparand {
    /// The target whose metric is on the left.
    pub side: Side,
    /// Factor of the other target's metric, which is added to the limit; 0 if it does not matter.
    pub factor: f64,
}

/// One metric and its limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    /// The metric.
    pub metric: Metric,
    /// For a comparison: whose metric, and what the limit adds to.
    pub of: Option<Comparand>,
    /// How the metric compares with the limit.
    pub operator: Operator,
    /// The limit as written.
    pub limit: ConditionLimit,
}

/// A metric of a report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// `p99.9`: latency from the scheduled moment at this percentile, above 0 and below 100. A lost
    /// request is slower than any limit.
    Percentile(f64),
    /// `max`: the highest latency; with a lost request, above any limit.
    Max,
    /// `mean`: the mean latency; with a lost request, above any limit.
    Mean,
    /// `loss`: share of requests without a response.
    Loss,
    /// `busy`: share of requests answered with BUSY.
    Busy,
    /// `refused`: share of requests answered with an error.
    Refused,
    /// `errors`: share of requests not answered with OK: lost, busy and refused.
    Errors,
    /// `late`: share of requests that left late, by `--late-max`.
    Late,
    /// `servfail`, `rcode5`: share of requests answered with this RCODE, 0 to 15 (DNS).
    Rcode(u8),
    /// `truncated`: share of requests answered with TC (DNS).
    Truncated,
    /// `empty`: share of requests answered with NOERROR and without an answer (DNS).
    Empty,
    /// `rate`: requests sent per second.
    Rate,
    /// `goodput`: requests answered per second.
    Goodput,
    /// `pacing`: 99th percentile of the send lag, the time from the scheduled to the actual send.
    Pacing,
}

/// How a metric compares with its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
}

/// A number and its unit, as written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConditionLimit {
    /// The number, at least 0.
    pub number: f64,
    /// The unit.
    pub unit: Unit,
}

/// Units of limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Microseconds.
    Us,
    /// Milliseconds.
    Ms,
    /// Seconds.
    S,
    /// Percent.
    Percent,
    /// No unit: for rates, and for 0.
    None,
}

/// An error in a condition and its position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`, character {at}: {what} (example: {EXAMPLE})")]
pub struct BadCondition {
    text: String,
    /// Position in characters, from 1.
    at: usize,
    what: String,
}

/// The metrics of a report, for conditions.
pub struct ReportMetrics<'a> {
    report: &'a LoadReport,
    /// Latencies of answered and lost requests.
    latency: Histogram<u64>,
    answered: Histogram<u64>,
    pacing: Histogram<u64>,
}

/// A value that was measured, as far as its histogram tells: it is from `low` to `high`. Both are infinite
/// for a latency that no limit is above.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Measured {
    low: f64,
    high: f64,
}

impl<'a> ReportMetrics<'a> {
    /// Unpacks a report; the error names the damaged histogram.
    pub fn of(report: &'a LoadReport) -> Result<Self, String> {
        let histograms = &report.histograms;
        let latency = histograms.latency.decode()?;
        let mut answered = latency.clone();
        let lost = histograms.lost.decode()?;
        answered.subtract(&lost).map_err(|why| format!("histograms.lost: {why}"))?;
        Ok(ReportMetrics { report, latency, answered, pacing: histograms.pacing.decode()? })
    }

    /// A metric: times in microseconds, shares from 0 to 1, rates in requests per second. Infinite for a
    /// latency of a lost request, `None` if nothing was measured.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.measured(metric).map(|measured| measured.high)
    }

    /// The same with a place on a chart for lost requests: they count with their wait plus the timeout.
    pub fn shown(&self, metric: Metric) -> Option<f64> {
        let value = self.get(metric)?;
        Some(match metric {
            _ if value.is_finite() => value,
            Metric::Percentile(percent) => self.latency.value_at_quantile(quantile(percent)) as f64 / 1e3,
            Metric::Mean => self.latency.mean() / 1e3,
            _ => self.latency.max() as f64 / 1e3,
        })
    }

    /// Median latency of the answered requests alone, in microseconds; `None` without one.
    pub fn median_answered(&self) -> Option<f64> {
        let middle = self.answered_in_ranks().div_ceil(2);
        (middle > 0).then(|| bucket(&self.answered, value_at_rank(&self.answered, middle)).high)
    }

    /// Number of answered requests in `answered`. A report of an older version does not say which latencies
    /// are those of lost requests: there the highest ones are.
    fn answered_in_ranks(&self) -> u64 {
        let lost = self.report.counts.lost;
        self.answered.len().min(self.latency.len().saturating_sub(lost))
    }

    /// The latency that as many requests stay within. The slowest ones are those that were lost.
    fn at_rank(&self, rank: u64) -> Measured {
        match rank <= self.answered_in_ranks() {
            true => bucket(&self.answered, value_at_rank(&self.answered, rank)),
            false => Measured { low: f64::INFINITY, high: f64::INFINITY },
        }
    }

    fn measured(&self, metric: Metric) -> Option<Measured> {
        let report = self.report;
        let exactly = |value: f64| Measured { low: value, high: value };
        let total = (!self.latency.is_empty()).then_some(self.latency.len());
        let share =
            |part: u64| (report.counts.sent > 0).then(|| exactly(part as f64 / report.counts.sent as f64));
        match metric {
            Metric::Percentile(percent) => total.map(|total| self.at_rank(rank(quantile(percent), total))),
            Metric::Max => total.map(|total| self.at_rank(total)),
            Metric::Mean => total.map(|total| match self.answered_in_ranks() < total {
                true => exactly(f64::INFINITY),
                false => exactly(self.answered.mean() / 1e3),
            }),
            Metric::Loss => share(report.counts.lost),
            Metric::Busy => share(report.counts.busy),
            Metric::Refused => share(report.counts.refused),
            Metric::Errors => share(report.counts.lost + report.counts.busy + report.counts.refused),
            Metric::Late => share(report.counts.late_sends),
            Metric::Rcode(rcode) => share(report.dns.as_ref()?.rcode(rcode)),
            Metric::Truncated => share(report.dns.as_ref()?.truncated),
            Metric::Empty => share(report.dns.as_ref()?.empty),
            Metric::Rate => Some(exactly(report.rate)),
            Metric::Goodput => Some(exactly(report.goodput)),
            Metric::Pacing => {
                (!self.pacing.is_empty()).then(|| bucket(&self.pacing, self.pacing.value_at_quantile(0.99)))
            }
        }
    }
}

/// The values that a histogram of nanoseconds counts together with this one, in microseconds.
fn bucket(histogram: &Histogram<u64>, value: u64) -> Measured {
    let us = |nanos: u64| nanos as f64 / 1e3;
    Measured { low: us(histogram.lowest_equivalent(value)), high: us(histogram.highest_equivalent(value)) }
}

/// Number of requests, of `total`, that are within a quantile. A product that is whole apart from the
/// rounding of floating-point numbers is that whole number.
fn rank(quantile: f64, total: u64) -> u64 {
    let exact = quantile * total as f64;
    let whole = exact.round();
    let is_whole = (exact - whole).abs() <= exact * 1e-12;
    (if is_whole { whole } else { exact.ceil() } as u64).clamp(1, total)
}

/// The value of the request with this rank, from 1 for the lowest; 0 for an empty histogram.
fn value_at_rank(histogram: &Histogram<u64>, rank: u64) -> u64 {
    let mut seen = 0;
    let mut steps = histogram.iter_recorded();
    let found = steps.find(|step| {
        seen += step.count_since_last_iteration();
        seen >= rank
    });
    found.map_or(0, |step| step.value_iterated_to())
}

/// A percentage as a quantile, rounded once: 99.9 / 100 is slightly above 0.999 and could select the
/// next request.
fn quantile(percent: f64) -> f64 {
    format!("{percent}e-2").parse().expect("a number with an exponent")
}

impl Conditions {
    /// The conditions in written order.
    pub fn each(&self) -> &[Condition] {
        &self.0
    }

    /// Whether each condition is about two targets.
    pub fn compare(&self) -> bool {
        self.0.iter().all(|condition| condition.of.is_some())
    }

    /// Whether no condition is about two targets.
    pub fn are_of_one(&self) -> bool {
        self.0.iter().all(|condition| condition.of.is_none())
    }

    /// Whether all conditions hold. A condition whose metric was not measured does not hold.
    pub fn hold(&self, figures: &ReportMetrics) -> bool {
        self.0.iter().all(|condition| condition.holds(figures))
    }

    /// The first metric that is not known of single seconds of a run, but only at its end.
    pub fn known_late(&self) -> Option<Metric> {
        self.0.iter().map(|condition| condition.metric).find(|metric| {
            matches!(metric, Metric::Pacing | Metric::Rcode(_) | Metric::Truncated | Metric::Empty)
        })
    }

    /// Share of lost requests, from 0 to 1, above which the conditions cannot hold.
    pub fn loss_allowed(&self) -> f64 {
        let allows = |condition: &Condition| match (condition.operator, condition.metric) {
            (Operator::Above | Operator::AtLeast, _) => 1.0,
            (_, Metric::Percentile(percent)) => 1.0 - quantile(percent),
            (_, Metric::Max | Metric::Mean) => 0.0,
            (_, Metric::Loss | Metric::Errors) => condition.limit.value().min(1.0),
            _ => 1.0,
        };
        self.0.iter().map(allows).fold(1.0, f64::min)
    }

    /// The measured values as text, as in `p99 1.5 ms, loss 0 %`.
    pub fn measured(&self, figures: &ReportMetrics) -> String {
        let words: Vec<String> =
            self.0.iter().map(|condition| condition.metric.measured(figures.get(condition.metric))).collect();
        words.join(", ")
    }
}

impl Condition {
    /// Whether the condition holds. It does not hold if its metric was not measured. A limit among the values
    /// that the histogram does not tell apart is neither above nor below the metric.
    pub fn holds(&self, figures: &ReportMetrics) -> bool {
        let limit = self.limit.value();
        let of_one = if self.of.is_none() { figures.measured(self.metric) } else { None };
        of_one.is_some_and(|Measured { low, high }| match self.operator {
            Operator::Below => high < limit,
            Operator::AtMost => low <= limit,
            Operator::Above => low > limit,
            Operator::AtLeast => high >= limit,
        })
    }
}

impl ConditionLimit {
    /// The limit in microseconds, as a share from 0 to 1, or as a plain number.
    pub fn value(&self) -> f64 {
        match self.unit {
            Unit::Us | Unit::None => self.number,
            Unit::Ms => self.number * 1e3,
            Unit::S => self.number * 1e6,
            Unit::Percent => self.number / 100.0,
        }
    }
}

/// Metrics with a fixed name.
const NAMED: [(&str, Metric); 17] = [
    ("max", Metric::Max),
    ("mean", Metric::Mean),
    ("loss", Metric::Loss),
    ("busy", Metric::Busy),
    ("refused", Metric::Refused),
    ("errors", Metric::Errors),
    ("late", Metric::Late),
    ("rate", Metric::Rate),
    ("goodput", Metric::Goodput),
    ("pacing", Metric::Pacing),
    // REFUSED is rcode5, since `refused` includes all errors of all protocols.
    ("noerror", Metric::Rcode(0)),
    ("formerr", Metric::Rcode(1)),
    ("servfail", Metric::Rcode(2)),
    ("nxdomain", Metric::Rcode(3)),
    ("notimp", Metric::Rcode(4)),
    ("truncated", Metric::Truncated),
    ("empty", Metric::Empty),
];
/// Longer operators come first, since the first match wins.
const OPERATORS: [(&str, Operator); 4] =
    [("<=", Operator::AtMost), (">=", Operator::AtLeast), ("<", Operator::Below), (">", Operator::Above)];
const UNITS: [(&str, Unit); 5] =
    [("us", Unit::Us), ("ms", Unit::Ms), ("s", Unit::S), ("%", Unit::Percent), ("", Unit::None)];

impl Metric {
    /// How to print the metric's values.
    pub fn numbers(self) -> Numbers {
        match self {
            Metric::Percentile(_) | Metric::Max | Metric::Mean | Metric::Pacing => Numbers::Micros,
            Metric::Rate | Metric::Goodput => Numbers::Plain,
            _ => Numbers::Percent,
        }
    }

    /// A value of the metric as text.
    pub fn measured(self, value: Option<f64>) -> String {
        match value {
            Some(value) if value.is_infinite() => format!("{self} lost"),
            Some(value) => format!("{self} {}", self.numbers().write(value)),
            None => format!("{self} not measured"),
        }
    }

    /// The metric with this name.
    pub(super) fn parse(name: &str) -> Option<Metric> {
        if let Some((_, metric)) = NAMED.into_iter().find(|(known, _)| *known == name) {
            return Some(metric);
        }
        if let Some(rcode) = name.strip_prefix("rcode") {
            return rcode.parse().ok().filter(|rcode| *rcode < 16).map(Metric::Rcode);
        }
        let percent = number(name.strip_prefix('p')?)?;
        (percent > 0.0 && percent < 100.0).then_some(Metric::Percentile(percent))
    }

    /// Checks the unit of a limit. Zero needs no unit.
    fn takes(self, ConditionLimit { number, unit }: ConditionLimit) -> Result<(), &'static str> {
        match (self.numbers(), unit) {
            (Numbers::Plain, Unit::None) | (Numbers::Percent, Unit::Percent) => Ok(()),
            (Numbers::Micros, Unit::Us | Unit::Ms | Unit::S) => Ok(()),
            (_, Unit::None) if number == 0.0 => Ok(()),
            (Numbers::Plain, _) => Err("is in requests per second; write it without a unit"),
            (Numbers::Percent, _) => Err("is a share; its unit is %"),
            (Numbers::Micros, _) => Err("is a time; its unit is us, ms or s"),
        }
    }
}

/// Parses digits with an optional fraction, without sign or exponent.
fn number(text: &str) -> Option<f64> {
    let is_plain = text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.parse().ok().filter(|number: &f64| is_plain && number.is_finite())
}

impl FromStr for Conditions {
    type Err = BadCondition;

    fn from_str(text: &str) -> Result<Self, BadCondition> {
        let mut at = 0;
        let mut conditions = vec![];
        for part in text.split(',') {
            let wrong = |(offset, what): (usize, String)| BadCondition {
                text: text.to_owned(),
                at: text[..at + offset].chars().count() + 1,
                what,
            };
            conditions.push(condition(part).map_err(wrong)?);
            at += part.len() + 1;
        }
        Ok(Conditions(conditions))
    }
}

/// Parses one condition; the error is an offset in bytes and the problem there.
fn condition(text: &str) -> Result<Condition, (usize, String)> {
    let start = text.len() - text.trim_start().len();
    let sign = text.find(['<', '>', '=']).unwrap_or(text.len());
    let left = text[..sign].trim();
    if left.is_empty() {
        return Err((start, "the metric is missing".to_owned()));
    }
    let (name, side) = match left.rsplit_once(char::is_whitespace) {
        Some((name, "A")) => (name.trim_end(), Some(Side::A)),
        Some((name, "B")) => (name.trim_end(), Some(Side::B)),
        _ => (left, None),
    };
    let metric = Metric::parse(name).ok_or_else(|| {
        let names: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
        (
            start,
            format!("unknown metric `{name}`; use p50, p99, p99.9 (any below p100), {}", names.join(", ")),
        )
    })?;
    let signs = text[sign..].chars().take_while(|c| matches!(c, '<' | '>' | '=')).count();
    let found = &text[sign..sign + signs];
    let (_, operator) =
        OPERATORS.into_iter().find(|(known, _)| *known == found).ok_or_else(|| match found {
            "" => (sign, format!("`{name}` needs <, <=, > or >= and a limit")),
            _ => (sign, format!("unknown operator `{found}`; use <, <=, > or >=")),
        })?;
    let after = &text[sign + signs..];
    let limit_at = sign + signs + (after.len() - after.trim_start().len());
    let words = after.trim();
    let (factor, words, limit_at) = match words.find(['A', 'B']) {
        Some(at) => {
            let (factor, rest) = other_side(words, at, side).map_err(|why| (limit_at, why))?;
            (factor, rest, limit_at + words.len() - rest.len())
        }
        None => (0.0, words, limit_at),
    };
    let of = side.map(|side| Comparand { side, factor });
    if factor > 0.0 && words.is_empty() {
        let limit = ConditionLimit { number: 0.0, unit: Unit::None };
        return Ok(Condition { metric, of, operator, limit });
    }
    let digits = words.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(words.len());
    let number = number(&words[..digits]).ok_or_else(|| {
        (limit_at, format!("`{words}` is no limit; write a number of at least 0 and a unit"))
    })?;
    let word = words[digits..].trim_start();
    let unit_at = limit_at + words.len() - word.len();
    let (_, unit) = UNITS
        .into_iter()
        .find(|(known, _)| *known == word)
        .ok_or_else(|| (unit_at, format!("unknown unit `{word}`; use us, ms, s or %")))?;
    let limit = ConditionLimit { number, unit };
    metric.takes(limit).map_err(|why| (unit_at, format!("`{name}` {why}")))?;
    Ok(Condition { metric, of, operator, limit })
}

/// The factor of the other target in `1.05 A + 1ms`, whose name is at this offset, and the limit after the
/// sign.
fn other_side(words: &str, at: usize, side: Option<Side>) -> Result<(f64, &str), String> {
    let other = if words[at..].starts_with('A') { Side::A } else { Side::B };
    if side.is_none_or(|side| side == other) {
        return Err(format!("`{words}` needs the other target on the left, as in 'p99 B > 1.05 A'"));
    }
    let text = words[..at].trim().trim_end_matches('*').trim_end();
    let factor = if text.is_empty() { Some(1.0) } else { number(text).filter(|factor| *factor > 0.0) };
    let factor = factor.ok_or_else(|| format!("`{text}` is no factor; write a number above 0"))?;
    let rest = words[at + 1..].trim_start();
    match rest.strip_prefix('+') {
        Some(limit) => Ok((factor, limit.trim_start())),
        None if rest.is_empty() => Ok((factor, rest)),
        None => Err(format!("`{rest}` after {other}; write + and a limit, or nothing")),
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, condition) in self.0.iter().enumerate() {
            write!(f, "{}{condition}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |table: &[(&'static str, Operator)]| {
            table.iter().find(|(_, operator)| *operator == self.operator).expect("all are there").0
        };
        let operator = name(&OPERATORS);
        let Some(Comparand { side, factor }) = self.of else {
            return write!(f, "{}{operator}{}", self.metric, self.limit);
        };
        write!(f, "{} {side}{operator}", self.metric)?;
        let other = side.other();
        if factor == 1.0 {
            write!(f, "{other}")?;
        } else if factor > 0.0 {
            write!(f, "{factor} {other}")?;
        }
        match (factor > 0.0, self.limit.number > 0.0) {
            (true, true) => write!(f, "+{}", self.limit),
            (true, false) => Ok(()),
            (false, _) => write!(f, "{}", self.limit),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Metric::Percentile(percent) => write!(f, "p{percent}"),
            metric => match (NAMED.iter().find(|(_, known)| known == metric), metric) {
                (Some((name, _)), _) => f.write_str(name),
                (None, Metric::Rcode(rcode)) => write!(f, "rcode{rcode}"),
                (None, _) => unreachable!("all others have a name"),
            },
        }
    }
}

impl fmt::Display for ConditionLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, unit)| *unit == self.unit).expect("all are there").0;
        write!(f, "{}{unit}", self.number)
    }
}

impl TryFrom<String> for Conditions {
    type Error = BadCondition;
    fn try_from(text: String) -> Result<Self, BadCondition> {
        text.parse()
    }
}

impl From<Conditions> for String {
    fn from(conditions: Conditions) -> String {
        conditions.to_string()
    }
}

#[cfg(test)]
mod tests;
