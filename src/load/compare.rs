//! Comparison of two targets under the same load, turn by turn. Pure: it selects the next target and
//! judges the reports.
//!
//! The turns of a pair follow each other as A B or B A in alternation (A B B A ...). A drift, such as a
//! machine that warms up or a noisy neighbour, therefore affects both targets alike. Each pair gives a
//! ratio. The median of the ratios has an interval ([`Interval`]) that assumes neither a distribution of
//! latencies nor a machine that stays the same for an hour.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::condition::{Comparand, Condition, Conditions, Metric, Operator, ReportMetrics};
use super::interval::{CONFIDENCE, Interval, null_if_infinite};
use super::search::number;
use super::{LoadReport, RunVerdict};
use crate::report::chart::Numbers;

pub use super::condition::Side;

/// Metrics compared as a ratio. Shares are compared as a difference, because they are often 0.
const RATIOS: [Metric; 5] = [
    Metric::Percentile(50.0),
    Metric::Percentile(99.0),
    Metric::Percentile(99.9),
    Metric::Rate,
    Metric::Goodput,
];
const SHARES: [Metric; 2] = [Metric::Loss, Metric::Errors];

/// Most pairs, invalid ones included, as a multiple of the pairs that are wanted.
const REPLACED_MAX: usize = 2;

/// A running comparison.
#[derive(Clone, Debug)]
pub struct Compare {
    pairs: usize,
    turns: Vec<ComparisonTurn>,
}

/// One run against one of the targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparisonTurn {
    /// The target of the run.
    pub side: Side,
    /// Whether its pair was left out as invalid; another pair replaced it.
    #[serde(default)]
    pub left_out: bool,
    /// The run's results.
    pub report: LoadReport,
}

/// A finished comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Metrics that both targets have, B relative to A.
    pub figures: Vec<Difference>,
    /// Valid pairs: the generator kept up in both turns, and both targets responded.
    pub pairs: usize,
    /// Pairs left out as invalid.
    pub pairs_unfit: usize,
    /// Whether a signal ended the comparison.
    #[serde(default)]
    pub interrupted: bool,
    /// Conditions on B and A, with what the pairs say about them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judged: Vec<JudgedCondition>,
    /// All turns in the order in which they ran.
    pub turns: Vec<ComparisonTurn>,
}

/// A condition on two targets, judged by the pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedCondition {
    /// The condition.
    pub condition: Conditions,
    /// Whether it holds, with [`CONFIDENCE`]. `None`: the pairs cannot tell.
    pub holds: Option<bool>,
    /// The metrics of B relative to A, as text.
    pub measured: String,
}

/// One metric of B relative to A.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Name of the metric, as in conditions.
    pub metric: String,
    /// Median of A's runs: microseconds, a share from 0 to 1, or requests per second.
    #[serde(with = "null_if_infinite")]
    pub a: f64,
    /// Median of B's runs, in the unit of `a`. `null` in JSON: a latency of lost requests.
    #[serde(with = "null_if_infinite")]
    pub b: f64,
    /// B / A, over the pairs in which A's value is not 0.
    pub ratio: Option<Interval>,
    /// B - A, for shares.
    pub difference: Option<Interval>,
}

impl Compare {
    /// A comparison of `pairs` pairs, at least 1.
    pub fn new(pairs: usize) -> Compare {
        assert!(pairs > 0);
        Compare { pairs, turns: vec![] }
    }

    /// The target of the next turn; `None` when the comparison is finished. An invalid pair is replaced by
    /// another one, until there are twice as many pairs as were wanted.
    pub fn next(&self) -> Option<Side> {
        let turn = self.turns.len();
        let (whole, is_between) = (self.turns.chunks_exact(2), turn.is_multiple_of(2));
        let valid = whole.filter(|pair| is_valid(pair)).count();
        let is_finished = is_between && (valid >= self.pairs || turn >= 2 * REPLACED_MAX * self.pairs);
        let is_a = matches!(turn % 4, 0 | 3);
        (!is_finished).then_some(if is_a { Side::A } else { Side::B })
    }

    /// Records the turn that [`Compare::next`] selected.
    pub fn record(&mut self, report: LoadReport) {
        let side = self.next().expect("the comparison is not finished");
        self.turns.push(ComparisonTurn { side, left_out: false, report });
    }

    /// Results of all complete pairs; the error is that a report is damaged.
    pub fn finish(mut self) -> Result<Comparison, String> {
        let mut pairs_unfit = 0;
        for turns in self.turns.chunks_exact_mut(2).filter(|turns| !is_valid(turns)) {
            pairs_unfit += 1;
            turns.iter_mut().for_each(|turn| turn.left_out = true);
        }
        let pairs = metrics_of_pairs(&self.turns)?;
        let figures =
            RATIOS.into_iter().chain(SHARES).filter_map(|metric| difference(metric, &pairs)).collect();
        let pairs = pairs.len();
        Ok(Comparison { figures, pairs, pairs_unfit, interrupted: false, judged: vec![], turns: self.turns })
    }
}

impl Comparison {
    /// Judges conditions on two targets; the error is that a report is damaged.
    pub fn judge(&self, all: &[Conditions]) -> Result<Vec<JudgedCondition>, String> {
        let pairs = metrics_of_pairs(&self.turns)?;
        let judged = |conditions: &Conditions| {
            let each: Vec<Option<bool>> =
                conditions.each().iter().map(|condition| holds(condition, &pairs)).collect();
            let measured = conditions.each().iter().map(|condition| {
                let metric = condition.metric;
                let relative = difference(metric, &pairs).map(|difference| difference.write_interval());
                format!("{metric} {}", relative.unwrap_or_else(|| "not measured".to_owned()))
            });
            JudgedCondition {
                condition: conditions.clone(),
                holds: match () {
                    () if each.contains(&Some(false)) => Some(false),
                    () if each.contains(&None) => None,
                    () => Some(true),
                },
                measured: measured.collect::<Vec<_>>().join(", "),
            }
        };
        Ok(all.iter().map(judged).collect())
    }
}

/// The metrics of A and B in each pair that counts.
type PairMetrics<'a> = (ReportMetrics<'a>, ReportMetrics<'a>);

fn metrics_of_pairs(turns: &[ComparisonTurn]) -> Result<Vec<PairMetrics<'_>>, String> {
    let mut pairs = vec![];
    for pair in turns.chunks_exact(2).filter(|pair| is_valid(pair)) {
        let (a, b) = if pair[0].side == Side::A { (0, 1) } else { (1, 0) };
        pairs.push((ReportMetrics::of(&pair[a].report)?, ReportMetrics::of(&pair[b].report)?));
    }
    Ok(pairs)
}

/// Whether a condition holds for the median pair; `None` if the pairs cannot tell. Each pair has a distance
/// from the limit, and the interval of the median distance is above 0, below 0 or around it.
fn holds(condition: &Condition, pairs: &[PairMetrics]) -> Option<bool> {
    let Comparand { side, factor } = condition.of?;
    let distance = |(a, b): &PairMetrics| {
        let (own, other) = if side == Side::A { (a, b) } else { (b, a) };
        let other = if factor > 0.0 { factor * other.get(condition.metric)? } else { 0.0 };
        let distance = own.get(condition.metric)? - other - condition.limit.value();
        Some(if distance.is_nan() { 0.0 } else { distance }) // both lost the request at that percentile
    };
    let distances: Vec<f64> = pairs.iter().filter_map(distance).collect();
    let Interval { low, high, .. } =
        Interval::of_median(&distances).filter(|interval| interval.confidence >= CONFIDENCE)?;
    match condition.operator {
        Operator::Above if low > 0.0 => Some(true),
        Operator::Above if high <= 0.0 => Some(false),
        Operator::AtLeast if low >= 0.0 => Some(true),
        Operator::AtLeast if high < 0.0 => Some(false),
        Operator::Below if high < 0.0 => Some(true),
        Operator::Below if low >= 0.0 => Some(false),
        Operator::AtMost if high <= 0.0 => Some(true),
        Operator::AtMost if low > 0.0 => Some(false),
        _ => None,
    }
}

/// Whether both turns of a pair say something about their targets.
fn is_valid(pair: &[ComparisonTurn]) -> bool {
    pair.iter().all(|turn| turn.report.verdict() == RunVerdict::Valid)
}

fn difference(metric: Metric, pairs: &[PairMetrics]) -> Option<Difference> {
    let both: Vec<(f64, f64)> =
        pairs.iter().filter_map(|(a, b)| Some((a.get(metric)?, b.get(metric)?))).collect();
    let of = |value: fn(&(f64, f64)) -> f64| {
        Interval::of_median(&both.iter().map(value).filter(|value| !value.is_nan()).collect::<Vec<_>>())
    };
    let is_share = metric.numbers() == Numbers::Percent;
    Some(Difference {
        metric: metric.to_string(),
        a: of(|(a, _)| *a)?.median,
        b: of(|(_, b)| *b)?.median,
        ratio: if is_share { None } else { of(|(a, b)| if *a > 0.0 { b / a } else { f64::NAN }) },
        difference: if is_share { of(|(a, b)| b - a) } else { None },
    })
}

impl Difference {
    /// Whether the pairs show that B differs from A.
    pub fn is_shown(&self) -> bool {
        self.ratio.is_some_and(|ratio| ratio.excludes(1.0))
            || self.difference.is_some_and(|difference| difference.excludes(0.0))
    }

    /// A value of the metric as text.
    pub fn write(&self, value: f64) -> String {
        match Metric::parse(&self.metric) {
            _ if value.is_infinite() => "lost".to_owned(),
            Some(Metric::Rate | Metric::Goodput) => number(value) + "/s",
            Some(metric) => metric.numbers().write(value),
            None => value.to_string(),
        }
    }

    /// The ratio or the difference with its interval, as in `0.93 x (0.90..0.97 at 96 %)`.
    pub fn write_interval(&self) -> String {
        let text = |of: &Interval, write: &dyn Fn(f64) -> String| {
            let (low, high, confidence) = (write(of.low), write(of.high), of.confidence * 100.0);
            match of.repeats {
                1 => "(one pair: no interval)".to_owned(),
                _ => format!("({low}..{high} at {confidence:.0} %)"),
            }
        };
        match (&self.ratio, &self.difference) {
            (Some(ratio), _) => {
                let write = |value: f64| format!("{value:.2}");
                format!("{} x {}", write(ratio.median), text(ratio, &write))
            }
            (None, Some(difference)) => {
                let write = |value: f64| format!("{:+.3}", value * 100.0);
                format!("{} points {}", write(difference.median), text(difference, &write))
            }
            (None, None) => "not comparable".to_owned(),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { metric, ratio, difference, .. } = self;
        match (ratio, difference) {
            (Some(ratio), _) => {
                let text = self.write_interval();
                let (median, interval) = text.split_once(" x ").unwrap_or((&text, ""));
                let pairs = ratio.repeats;
                write!(f, "B's {metric} is {median} x A's {interval}, {pairs} pairs")?;
            }
            _ => write!(f, "B's {metric}: {} relative to A's", self.write_interval())?,
        }
        f.write_str(if self.is_shown() { "" } else { ": no difference shown" })
    }
}

impl fmt::Display for JudgedCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = match self.holds {
            Some(true) => "holds",
            Some(false) => "does not hold",
            None => "cannot be told",
        };
        write!(f, "{} {holds}: {}", self.condition, self.measured)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.interrupted {
            writeln!(f, "interrupted after {} pairs: the results are partial", self.pairs)?;
        }
        if self.figures.is_empty() {
            return Ok(());
        }
        writeln!(f, "{:<8} {:>14} {:>14}   B relative to A", "", "A", "B")?;
        for figure in &self.figures {
            let (a, b) = (figure.write(figure.a), figure.write(figure.b));
            writeln!(f, "{:<8} {a:>14} {b:>14}   {}", figure.metric, figure.write_interval())?;
        }
        writeln!(f)?;
        for figure in &self.figures {
            writeln!(f, "{figure}")?;
        }
        for judged in &self.judged {
            writeln!(f, "{judged}")?;
        }
        if self.pairs_unfit > 0 {
            writeln!(
                f,
                "{} of {} pairs are left out and replaced: the generator could not keep up, or no response \
                 arrived",
                self.pairs_unfit,
                self.pairs + self.pairs_unfit
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use crate::load::fixtures;

    /// Reports with exponential latencies of a machine that slows down: each turn adds `drift` to the mean.
    fn compared(pairs: usize, a_us: f64, b_us: f64, drift: f64, seed: u64) -> Comparison {
        let mut rng = Rng::new(seed);
        let mut compare = Compare::new(pairs);
        let mut turn = 0.0;
        while let Some(side) = compare.next() {
            let mean = if side == Side::A { a_us } else { b_us } * (1.0 + drift * turn);
            let times: Vec<u64> =
                (0..400).map(|_| (mean * (0.5 - (1.0 - rng.unit_f64()).ln())) as u64 + 1).collect();
            compare.record(fixtures::report(1_000.0, &times, 0));
            turn += 1.0;
        }
        compare.finish().unwrap()
    }

    fn ratio(compared: &Comparison, metric: &str) -> Interval {
        let figure = compared.figures.iter().find(|figure| figure.metric == metric);
        figure.unwrap().ratio.unwrap()
    }

    #[test]
    fn the_turns_are_a_b_b_a() {
        let mut compare = Compare::new(3);
        let mut order = String::new();
        while let Some(side) = compare.next() {
            order += if side == Side::A { "A" } else { "B" };
            compare.record(fixtures::report(1.0, &[1], 0));
        }
        assert_eq!(order, "ABBAAB");
        let compared = compare.finish().unwrap();
        assert_eq!(compared.pairs, 3);
        let sides: Vec<Side> = compared.turns.iter().map(|turn| turn.side).collect();
        assert_eq!(sides, [Side::A, Side::B, Side::B, Side::A, Side::A, Side::B]);
    }

    #[test]
    fn b_is_measured_against_a_and_not_the_other_way() {
        let compared = compared(9, 1_000.0, 800.0, 0.0, 1);
        let p50 = ratio(&compared, "p50");
        assert!((p50.median - 0.8).abs() < 0.05 && p50.high < 1.0 && p50.low > 0.6, "{p50:?}");
        let text = compared.to_string();
        let line = text.lines().find(|line| line.starts_with("B's p50 is 0.")).unwrap();
        assert!(line.contains(" x A's (0.") && line.ends_with(" at 96 %), 9 pairs"), "{line}");
        assert!(
            text.contains("B's rate is 1.00 x A's (1.00..1.00 at 96 %), 9 pairs: no difference shown"),
            "{text}"
        );
        assert!(
            text.contains(
                "B's loss: +0.000 points (+0.000..+0.000 at 96 %) relative to A's: no difference shown"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_machine_that_gets_slower_meets_both_alike() {
        // 40 % from the first turn to the last. The order A B A B would find B slower by one turn's
        // drift in each pair.
        let of = compared(20, 1_000.0, 1_000.0, 0.01, 2);
        let p50 = ratio(&of, "p50");
        assert!((p50.median - 1.0).abs() < 0.02 && !p50.excludes(1.0), "{p50:?}");
    }

    #[test]
    fn equal_targets_differ_seldom_and_unequal_ones_nearly_always() {
        let shown = |b_us: f64| {
            (0..20).filter(|seed| ratio(&compared(9, 1_000.0, b_us, 0.0, *seed), "p50").excludes(1.0)).count()
        };
        let (equal, unequal) = (shown(1_000.0), shown(1_200.0));
        assert!(equal <= 3, "{equal} of 20 differences are none");
        assert!(unequal >= 18, "only {unequal} of 20 were seen");
    }

    #[test]
    fn a_condition_holds_does_not_hold_or_cannot_be_told() {
        let few = compared(5, 1_000.0, 5_000.0, 0.0, 3);
        let compared = compared(9, 1_000.0, 1_200.0, 0.0, 1);
        let judged = |text: &str| compared.judge(&[text.parse().unwrap()]).unwrap()[0].holds;
        for (text, holds) in [
            ("p50 B > A", Some(true)),
            ("p50 B >= 1.05 A", Some(true)),
            ("p50 B > 1.5 A", Some(false)),
            ("p50 B < A", Some(false)),
            ("p50 B <= 1.5 A", Some(true)),
            ("p50 B > 1.2 A", None),
            ("p50 A < B", Some(true)),
            ("p50 B > A + 10s", Some(false)),
            ("p50 B > 0.1ms", Some(true)),
            ("loss B > A", Some(false)),
            ("loss B >= A", Some(true)),
            ("p50 B > A,loss B > A", Some(false)),
            ("p50 B > A,p50 B > 1.2 A", None),
            ("servfail B > A", None),
        ] {
            assert_eq!(judged(text), holds, "{text}");
        }
        let judged = compared.judge(&["p50 B > A".parse().unwrap()]).unwrap();
        assert!(
            judged[0].measured.starts_with("p50 1.") && judged[0].measured.contains(" x (1."),
            "{judged:?}"
        );
        assert_eq!(few.judge(&["p50 B > A".parse().unwrap()]).unwrap()[0].holds, None, "too few pairs");
    }

    #[test]
    fn lost_requests_make_a_target_slower_than_any_other() {
        let mut compare = Compare::new(6);
        while let Some(side) = compare.next() {
            let (answered, lost) = if side == Side::A { (100, 0) } else { (95, 5) };
            compare.record(fixtures::report(1_000.0, &vec![100; answered], lost));
        }
        let compared = compare.finish().unwrap();
        assert_eq!(compared.judge(&["p99 B > 1000 A".parse().unwrap()]).unwrap()[0].holds, Some(true));
        assert_eq!(compared.judge(&["p90 B > 1.1 A".parse().unwrap()]).unwrap()[0].holds, Some(false));
        let text = compared.to_string();
        assert!(text.lines().any(|line| line.starts_with("p99 ") && line.contains(" lost ")), "{text}");
        let json = serde_json::to_string(&compared).unwrap();
        assert_eq!(serde_json::from_str::<Comparison>(&json).unwrap().to_string(), text);
    }

    #[test]
    fn few_pairs_show_no_difference() {
        let compared = compared(5, 1_000.0, 5_000.0, 0.0, 3);
        assert!(compared.figures.iter().all(|figure| !figure.is_shown()));
        assert!(compared.to_string().contains(" at 94 %), 5 pairs: no difference shown"), "{compared}");
    }

    #[test]
    fn loss_is_compared_in_points_since_it_is_often_none() {
        let mut compare = Compare::new(6);
        while let Some(side) = compare.next() {
            let lost = if side == Side::A { 0 } else { 2 };
            compare.record(fixtures::report(1_000.0, &[100; 98], lost));
        }
        let compared = compare.finish().unwrap();
        let loss = compared.figures.iter().find(|figure| figure.metric == "loss").unwrap();
        assert_eq!((loss.a, loss.b, loss.ratio), (0.0, 0.02, None));
        assert!(loss.is_shown());
        assert_eq!(loss.to_string(), "B's loss: +2.000 points (+2.000..+2.000 at 97 %) relative to A's");
    }

    #[test]
    fn pairs_of_which_one_says_nothing_are_left_out_and_counted() {
        let mut compare = Compare::new(4);
        for (n, _) in [(); 7].iter().enumerate() {
            let report = fixtures::report(1_000.0, &[100; 50], 0);
            compare.record(match n {
                1 => fixtures::late(report),
                2 => fixtures::report(1_000.0, &[], 50),
                _ => report,
            });
        }
        let compared = compare.finish().unwrap(); // stopped early: half a pair does not count
        assert_eq!((compared.pairs, compared.pairs_unfit, compared.turns.len()), (1, 2, 7));
        let text = compared.to_string();
        let left_out: Vec<bool> = compared.turns.iter().map(|turn| turn.left_out).collect();
        assert_eq!(left_out, [true, true, true, true, false, false, false]);
        assert!(
            text.contains("2 of 3 pairs are left out") && text.contains("one pair: no interval"),
            "{text}"
        );
    }

    #[test]
    fn an_invalid_pair_is_replaced_and_the_replacements_have_an_end() {
        let turns = |is_late: fn(usize) -> bool| {
            let mut compare = Compare::new(3);
            let mut turn = 0;
            while compare.next().is_some() {
                let report = fixtures::report(1_000.0, &[100; 50], 0);
                compare.record(if is_late(turn) { fixtures::late(report) } else { report });
                turn += 1;
            }
            let compared = compare.finish().unwrap();
            (compared.pairs, compared.pairs_unfit, turn)
        };
        assert_eq!(turns(|_| false), (3, 0, 6));
        assert_eq!(turns(|turn| turn == 2), (3, 1, 8));
        assert_eq!(turns(|_| true), (0, 6, 12));
    }

    #[test]
    fn it_comes_back_from_json() {
        let compared = compared(2, 1_000.0, 900.0, 0.0, 4);
        let json = serde_json::to_string(&compared).unwrap();
        assert!(json.contains(r#""side":"b""#));
        let back: Comparison = serde_json::from_str(&json).unwrap();
        assert_eq!((back.to_string(), back.turns.len()), (compared.to_string(), 4));
    }
}
