//! What was compared, as text and as JSON. Nothing here depends on how long it took: a seed gives the same bytes.

use std::fmt::Write;

use lbd::lab::{AtLoad, Compared, Results, Study};
use serde_json::{Value, json};

use super::words;
use crate::units;

/// A table for each load.
pub fn render(results: &Results) -> String {
    let mut out = String::new();
    for at_load in &results.loads {
        if !out.is_empty() {
            out.push('\n');
        }
        render_load(at_load, &mut out);
    }
    out
}

fn render_load(at_load: &AtLoad, out: &mut String) {
    let mut line =
        |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("a string takes everything");
    let [p50, p99, p999] = at_load.ideal.all().map(time);
    line(format_args!(
        "load {}: {:.0} requests/s; one queue for all: p50 {p50}, p99 {p99}, p99.9 {p999}",
        at_load.load, at_load.rate
    ));
    let width = at_load.compared.iter().map(|row| row.name.len()).max().unwrap_or(0).max("policy".len());
    line(format_args!(
        "{:<width$} {:>9} {:>9} {:>9} {:>7} {:>7} {:>7} {:>8} {:>7} {:>8} {:>8} {:>8}",
        "policy",
        "p50",
        "p99",
        "p99.9",
        "p50 x",
        "p99 x",
        "p99.9 x",
        "regret",
        "error",
        "longest",
        "refused",
        "lost"
    ));
    for Compared { name, figures, ratios, .. } in &at_load.compared {
        let [p50, p99, p999] = figures.latency.all().map(time);
        let [x50, x99, x999] = ratios.map(|ratio| ratio.median);
        line(format_args!(
            "{name:<width$} {p50:>9} {p99:>9} {p999:>9} {x50:>7.3} {x99:>7.3} {x999:>7.3} {:>8.3} {:>7.3} {:>8} {:>8} {:>8}",
            figures.regret, figures.error, figures.queue_max, figures.refused, figures.lost
        ));
    }
}

fn time(nanos: u64) -> String {
    match nanos {
        1_000_000..100_000_000 => format!("{:.2} ms", nanos as f64 / 1e6),
        _ => units::latency(nanos / 1_000),
    }
}

/// The same as one JSON object, with what was simulated. Times are in nanoseconds.
pub fn json(study: &Study, results: &Results) -> Value {
    let setup: serde_json::Map<String, Value> =
        words::of(&study.setup).into_iter().map(|(word, value)| (word.to_owned(), value.into())).collect();
    json!({ "setup": setup, "seed": study.seed, "repeats": study.repeats, "loads": results.loads })
}
