//! What this machine grants to lbd, what is missing, and the command that mends it: `lbd doctor`.
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
pub use facts::{Facts, Folder, Held, Trial};
pub use gather::gather;
pub use needs::{Fixed, Needs};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but could be better, or may be a surprise one day.
    Note,
    /// Something will not work, or lose datagrams.
    Problem,
}

impl Level {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Problem => "problem",
        }
    }
}

/// What was found in one respect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The respect, in a word or two.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What is the case, and what that means.
    pub found: String,
    /// The commands that mend it, one each; empty if there is nothing to mend, or no command for it.
    pub mend: Vec<String>,
}
