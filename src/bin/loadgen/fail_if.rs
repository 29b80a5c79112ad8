//! `--fail-if`: conditions that make a run a failure.

use anyhow::{Result, anyhow};
use lbd::load::search::per_second;
use lbd::load::{Conditions, LoadReport, ReportMetrics};

/// The conditions that hold, each with the measured value. With `--steps`, each step is judged.
pub fn holding(conditions: &[Conditions], report: &LoadReport) -> Result<Vec<String>> {
    let mut lines = vec![];
    let runs = if report.steps.is_empty() { std::slice::from_ref(report) } else { &report.steps };
    for (run, number) in runs.iter().zip(1..) {
        let figures = ReportMetrics::of(run).map_err(|why| anyhow!("the report is damaged: {why}"))?;
        for condition in conditions.iter().filter(|condition| condition.hold(&figures)) {
            let step = match report.steps.is_empty() {
                true => String::new(),
                false => {
                    format!("step {number} ({}): ", per_second(run.rate_wanted.unwrap_or(run.rate)))
                }
            };
            lines.push(format!("{step}--fail-if {condition} holds: {}", condition.measured(&figures)));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use lbd::load::Counts;

    use super::*;

    fn report(sent: u64, lost: u64, rate_wanted: f64) -> LoadReport {
        let counts = Counts { sent, lost, ..Counts::default() };
        LoadReport { counts, rate_wanted: Some(rate_wanted), ..LoadReport::default() }
    }

    fn conditions(texts: &[&str]) -> Vec<Conditions> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn each_that_holds_is_named_with_its_value() {
        let conditions = conditions(&["loss>1%", "loss>5%", "busy>0", "loss>=3%,busy<1%"]);
        let lines = holding(&conditions, &report(100, 3, 50.0)).unwrap();
        assert_eq!(
            lines,
            ["--fail-if loss>1% holds: loss 3 %", "--fail-if loss>=3%,busy<1% holds: loss 3 %, busy 0 %"]
        );
    }

    #[test]
    fn of_steps_the_one_is_named() {
        let steps = vec![report(1000, 0, 500.0), report(1000, 20, 12_000.0)];
        let whole = LoadReport { steps, ..report(2000, 20, 6_250.0) };
        let lines = holding(&conditions(&["loss>1.5%"]), &whole).unwrap();
        assert_eq!(lines, ["step 2 (12,000/s): --fail-if loss>1.5% holds: loss 2 %"]);
    }
}
