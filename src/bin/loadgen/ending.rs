//! Exit code and final message of the program.

use std::process::ExitCode;

use lbd::load::{LoadReport, RunVerdict};

use crate::output::Unwritten;

/// The results measure the generator, not the system.
const INVALID: u8 = 1;
/// A mistake in arguments, configuration or environment.
const ERROR: u8 = 2;
/// A condition on the results failed.
const CONDITION: u8 = 3;
/// A signal ended the run: the results are partial.
const INTERRUPTED: u8 = 4;

/// An exit code with its reasons.
#[derive(Debug, PartialEq, Eq)]
pub struct RunEnd {
    code: u8,
    /// Lines for the operator.
    pub reasons: Vec<String>,
}

impl RunEnd {
    /// Success.
    pub fn good() -> Self {
        RunEnd { code: 0, reasons: vec![] }
    }

    /// The run has no valid results.
    pub fn invalid(reason: String) -> Self {
        RunEnd { code: INVALID, reasons: vec![reason] }
    }

    /// The results fail a condition.
    pub fn condition(reasons: Vec<String>) -> Self {
        RunEnd { code: CONDITION, reasons }
    }

    /// A signal ended the run.
    pub fn interrupted(reason: String) -> Self {
        RunEnd { code: INTERRUPTED, reasons: vec![reason] }
    }

    /// The outcome of a run, from its report and the `--fail-if` conditions that hold. An interruption comes
    /// first, then an invalid run.
    pub fn of_run(report: &LoadReport, holding: Vec<String>) -> Self {
        match report.interruption() {
            Some(line) => RunEnd { code: INTERRUPTED, reasons: holding.into_iter().chain([line]).collect() },
            None => {
                let holding = report.aborted.iter().cloned().chain(holding).collect();
                RunEnd::of_whole_run(report.verdict(), holding)
            }
        }
    }

    fn of_whole_run(verdict: RunVerdict, holding: Vec<String>) -> Self {
        match (verdict, holding.is_empty()) {
            (RunVerdict::Valid, true) => RunEnd::good(),
            (RunVerdict::Valid, false) => RunEnd::condition(holding),
            (verdict, _) => {
                let reasons = holding.into_iter().chain([verdict.to_string()]).collect();
                RunEnd { code: INVALID, reasons }
            }
        }
    }

    /// The same end, unless an output could not be written, which outweighs the results.
    pub fn with(self, Unwritten(errors): Unwritten) -> Self {
        match errors.is_empty() {
            true => self,
            false => RunEnd { code: ERROR, reasons: self.reasons.into_iter().chain(errors).collect() },
        }
    }

    /// The exit code for `main`.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

#[cfg(test)]
mod tests {
    use lbd::load::Tolerance;

    use super::*;

    #[test]
    fn figures_that_say_nothing_outweigh_a_condition_on_them() {
        let held = || vec!["p99>5ms holds".to_owned()];
        assert_eq!(RunEnd::of_whole_run(RunVerdict::Valid, vec![]), RunEnd::good());
        assert_eq!(RunEnd::of_whole_run(RunVerdict::Valid, held()), RunEnd { code: 3, reasons: held() });
        let late = RunEnd::of_whole_run(RunVerdict::Late(0.5, Tolerance::default()), held());
        assert_eq!((late.code, late.reasons.len()), (1, 2));
        // What was cut off is no result, whatever its figures.
        let cut = RunEnd::of_run(&LoadReport { interrupted: true, ..LoadReport::default() }, held());
        assert_eq!((cut.code, cut.reasons.len()), (4, 2));
    }
}
