//! The comparison as text and JSON. The output depends only on the seed, not on the simulation's run
//! time.

use lbd::lab::{Compared, InCase, Survival};
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
    names.map(table).collect::<Vec<_>>().join("\n")
}

/// The reference of a case: rate and response times of one queue.
pub fn heading(case: &InCase) -> String {
    let [p50, p99, p999] = case.ideal.all().map(time);
    format!("{:.0} requests/s; one queue for all servers: p50 {p50}, p99 {p99}, p99.9 {p999}", case.rate)
}

/// The table of a case.
pub fn cells(case: &InCase) -> Cells {
    let head = vec![
        "policy", "p50", "p99", "p99.9", "p50 x", "p99 x", "p99.9 x", "regret", "error", "longest",
        "refused", "lost",
    ];
    let row = |Compared { name, figures, ratios, .. }: &Compared| {
        let mut row = vec![name.clone()];
        row.extend(figures.latency.all().map(time));
        row.extend(ratios.map(|ratio| format!("{:.3}", ratio.median)));
        row.extend([figures.regret, figures.error].map(|mean| format!("{mean:.3}")));
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

/// Setup and results as one JSON object. Times are in nanoseconds.
pub fn json(plan: &StudyPlan, cases: &[InCase]) -> Value {
    let case = |(case, (_, value)): (&InCase, &(f64, String))| {
        let mut object = serde_json::to_value(case).expect("names and numbers");
        // A number becomes a JSON number, a time a string such as "10ms".
        object[plan.along.name] = value.parse::<f64>().map_or_else(|_| value.clone().into(), Value::from);
        object
    };
    let cases: Vec<Value> = cases.iter().zip(&plan.along.values).map(case).collect();
    json!({ "setup": setup(plan), "cases": cases })
}

/// Setup and results of an overload as one JSON object.
pub fn survival_json(plan: &StudyPlan, survivals: &[Survival]) -> Value {
    json!({ "setup": setup(plan), "overload": survivals })
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
