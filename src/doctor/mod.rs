//! `lbd doctor`: checks this machine's limits and settings, and names the commands that fix them.
//!
//! ```text
//! Config -> needs ┐
//!                 ├-> checks (pure) -> findings
//! /proc  -> facts ┘
//! ```

mod checks;
mod facts;
mod gather;
mod needs;
mod proc;

use serde::Serialize;

pub use checks::examine;
pub use facts::{Directory, Facts, FeatureTest, Held};
pub use gather::gather;
pub use needs::{Fixed, Needs};

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// No problem.
    Ok,
    /// lbd works, but with lower performance, or a later problem is possible.
    Note,
    /// A feature will not work, or datagrams will be lost.
    Problem,
}

impl Severity {
    /// The severity as a word.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Problem => "problem",
        }
    }
}

/// Result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check, in one or two words.
    pub check: &'static str,
    /// Severity.
    pub level: Severity,
    /// The observation and its consequence.
    pub found: String,
    /// Commands that fix the problem; empty if there is no problem or no command for it.
    #[serde(rename = "mend")]
    pub fix: Vec<String>,
}
