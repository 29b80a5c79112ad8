//! Exit code and final message of the program.

use std::process::ExitCode;

use lbd::load::RunVerdict;

/// The results measure the generator, not the system.
const INVALID: u8 = 1;
/// A condition on the results failed.
const CONDITION: u8 = 3;

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

    /// The outcome of a run, from its verdict and the `--fail-if` conditions that hold. An invalid run
    /// comes first.
    pub fn of_run(verdict: RunVerdict, holding: Vec<String>) -> Self {
        match (verdict, holding.is_empty()) {
            (RunVerdict::Valid, true) => RunEnd::good(),
            (RunVerdict::Valid, false) => RunEnd::condition(holding),
            (verdict, _) => {
                let reasons = holding.into_iter().chain([verdict.to_string()]).collect();
                RunEnd { code: INVALID, reasons }
            }
        }
    }

    /// The exit code for `main`.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_say_nothing_outweigh_a_condition_on_them() {
        let held = || vec!["p99>5ms holds".to_owned()];
        assert_eq!(RunEnd::of_run(RunVerdict::Valid, vec![]), RunEnd::good());
        assert_eq!(RunEnd::of_run(RunVerdict::Valid, held()), RunEnd { code: 3, reasons: held() });
        let late = RunEnd::of_run(RunVerdict::Late(0.5), held());
        assert_eq!((late.code, late.reasons.len()), (1, 2));
    }
}
