//! The comparison as text and JSON. The output depends only on the seed, not on the simulation's run
//! time.

use lbd::lab::{Compared, Figures, InCase, Interval, Spread, Survival};
use serde_json::{Value, json};

use super::plan::StudyPlan;
use super::words;
use crate::units;

/// A table: header and rows.
type Cells = (Vec<&'static str>, Vec<Vec<String>>);

/// One table per case.
pub fn render(plan: &StudyPlan, cases: &[InCase]) -> String {
    let names = cases.iter().zip(&plan.along.values);
    let table = |(case, (_, value)): (&InCase, &(f64, String))| {
        format!("{} {value}: {}\n{}", plan.along.name, heading(case), aligned(cells(case)))
    };
    names.map(table).collect::<Vec<_>>().join("\n") + "\n" + LEGEND + "\n"
}

/// The reference of a case: rate and response times of one queue, and what counts.
pub fn heading(case: &InCase) -> String {
    let times = percentiles(case.ideal.all(), &case.ideal_intervals, case.requests - case.warmup);
    let [p50, p99, p999] = times;
    let counted = format!("{} requests a run, the first {} do not count", case.requests, case.warmup);
    let end = if case.is_steady {
        String::new()
    } else if case.load >= 1.0 {
        "; with a load of 1 or more there is no steady state: longer runs have longer response times"
            .to_owned()
    } else {
        "; the runs are too short to be steady: raise --requests".to_owned()
    };
    format!(
        "{:.0} requests/s; one queue for all servers: p50 {p50}, p99 {p99}, p99.9 {p999}; {counted}{end}",
        case.rate
    )
}

/// What the signs in the tables mean.
pub const LEGEND: &str = "x: relative to one queue for all servers. \u{b1}: the true value lies within, with \
     a confidence of 95 % (larger side).";

/// Percentiles with their uncertainty; `-` for one that the number of answers does not support.
fn percentiles(values: [u64; 3], intervals: &[Option<Interval>; 3], answered: usize) -> [String; 3] {
    let known = Figures::known_of(values, answered as u64);
    [0, 1, 2].map(|n| match (known[n], intervals[n]) {
        (None, _) => "-".to_owned(),
        (Some(value), None) => time(value),
        (Some(value), Some(interval)) => {
            let percent = side(value as f64, interval) / value.max(1) as f64 * 100.0;
            format!("{} \u{b1}{percent:.*}%", time(value), usize::from(percent < 9.95))
        }
    })
}

/// The larger side of an interval.
fn side(value: f64, interval: Interval) -> f64 {
    (value - interval.low).max(interval.high - value).max(0.0)
}

/// The table of a case.
pub fn cells(case: &InCase) -> Cells {
    let head = vec![
        "policy", "p50", "p99", "p99.9", "p50 x", "p99 x", "p99.9 x", "regret", "error", "longest",
        "refused", "lost",
    ];
    let with = |value: f64, interval: Option<Interval>| match interval {
        Some(interval) => format!("{value:.3} \u{b1}{:.3}", side(value, interval)),
        None => format!("{value:.3}"),
    };
    let row = |Compared { name, figures, ratios, intervals, .. }: &Compared| {
        let mut row = vec![name.clone()];
        row.extend(percentiles(figures.latency.all(), &intervals.latency, figures.answered as usize));
        let known = figures.known();
        row.extend([0, 1, 2].map(|n| match known[n] {
            Some(_) => with(ratios[n].median, intervals.ratios[n]),
            None => "-".to_owned(),
        }));
        row.extend([with(figures.regret, intervals.regret), with(figures.error, intervals.error)]);
        row.extend([figures.queue_max.into(), figures.refused, figures.lost].map(|n: u64| n.to_string()));
        row
    };
    (head, case.compared.iter().map(row).collect())
}

/// The table of an overload.
pub fn survival_cells(survivals: &[Survival]) -> Cells {
    let row = |survival: &Survival| {
        vec![
            survival.name.clone(),
            format!("{:.1} %", survival.during * 100.0),
            format!("{:.2} s", survival.back_after),
            survival.requests.to_string(),
            survival.answered.to_string(),
        ]
    };
    (
        vec!["policy", "served during overload", "recovered after", "requests", "answered"],
        survivals.iter().map(row).collect(),
    )
}

/// The table of an overload as text.
pub fn survivals(survivals: &[Survival]) -> String {
    aligned(survival_cells(survivals))
}

/// Aligns the first column to the left and the others to the right.
fn aligned((head, rows): Cells) -> String {
    let head: Vec<String> = head.into_iter().map(str::to_owned).collect();
    let all = || std::iter::once(&head).chain(&rows);
    let width = |column: usize| all().map(|row| row[column].len()).max().unwrap_or(0);
    let line = |row: &Vec<String>| {
        let cell = |(column, cell): (usize, &String)| match column {
            0 => format!("{cell:<width$}", width = width(0)),
            _ => format!("{cell:>width$}", width = width(column)),
        };
        row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ") + "\n"
    };
    all().map(line).collect()
}

fn time(nanos: u64) -> String {
    match nanos {
        1_000_000..100_000_000 => format!("{:.2} ms", nanos as f64 / 1e6),
        _ => units::latency(nanos / 1_000),
    }
}

/// Setup and results as one JSON object. Keys end with their unit; counts and shares have none.
pub fn json(plan: &StudyPlan, cases: &[InCase]) -> Value {
    let cases: Vec<Value> = cases
        .iter()
        .zip(&plan.along.values)
        .map(|(case, (_, value))| {
            let mut object = case_json(case);
            // A number becomes a JSON number, a time a string such as "10ms".
            object[plan.along.name] = value.parse::<f64>().map_or_else(|_| value.clone().into(), Value::from);
            object
        })
        .collect();
    json!({ "setup": setup(plan), "cases": cases })
}

fn case_json(case: &InCase) -> Value {
    let ideal = Figures::known_of(case.ideal.all(), (case.requests - case.warmup) as u64);
    let compared: Vec<Value> = case.compared.iter().map(compared_json).collect();
    json!({
        "load": case.load,
        "rate_per_s": case.rate,
        "requests": case.requests,
        "warmup_requests": case.warmup,
        "is_steady": case.is_steady,
        "ideal_ns": percentiles_json(ideal, &case.ideal_intervals),
        "compared": compared,
    })
}

fn compared_json(Compared { name, figures, ratios, intervals, .. }: &Compared) -> Value {
    let known = figures.known();
    let ratio = |n: usize| {
        let Spread { median, least, most } = ratios[n];
        let mut object = estimate(median, intervals.ratios[n]);
        object["min"] = least.into();
        object["max"] = most.into();
        known[n].map(|_| object)
    };
    json!({
        "name": name,
        "figures": {
            "latency_ns": percentiles_json(known, &intervals.latency),
            "requests": figures.requests,
            "answered": figures.answered,
            "refused": figures.refused,
            "lost": figures.lost,
            "regret_requests": estimate(figures.regret, intervals.regret),
            "error_requests": estimate(figures.error, intervals.error),
            "queue_max_requests": figures.queue_max,
        },
        "ratios": { "p50": ratio(0), "p99": ratio(1), "p999": ratio(2) },
    })
}

/// Percentiles with their intervals; `null` for one that the number of answers does not support.
fn percentiles_json(values: [Option<u64>; 3], intervals: &[Option<Interval>; 3]) -> Value {
    let one = |n: usize| values[n].map(|value| estimate(value as f64, intervals[n]));
    json!({ "p50": one(0), "p99": one(1), "p999": one(2) })
}

/// A value with the ends of its interval, which are `null` if they are unknown.
fn estimate(value: f64, interval: Option<Interval>) -> Value {
    json!({ "value": value, "low": interval.map(|one| one.low), "high": interval.map(|one| one.high) })
}

/// Setup and results of an overload as one JSON object.
pub fn survival_json(plan: &StudyPlan, survivals: &[Survival]) -> Value {
    let one = |survival: &Survival| {
        json!({
            "name": survival.name,
            "during_share": survival.during,
            "back_after_s": survival.back_after,
            "requests": survival.requests,
            "answered": survival.answered,
            "goodput_share": survival.goodput,
        })
    };
    json!({ "setup": setup(plan), "overload": survivals.iter().map(one).collect::<Vec<_>>() })
}

fn setup(plan: &StudyPlan) -> Value {
    words::of_plan(plan).into_iter().map(|(word, value)| (word.to_owned(), Value::from(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows =
            vec![vec!["long name".to_owned(), "1".to_owned()], vec!["x".to_owned(), "12.5 ms".to_owned()]];
        let text = aligned((vec!["policy", "p50"], rows));
        assert_eq!(text, "policy         p50\nlong name        1\nx          12.5 ms\n");
    }
}
