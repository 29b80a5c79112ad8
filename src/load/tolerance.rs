//! How late a generator may be until its results describe itself instead of the system.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of lateness. A run that exceeds them is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tolerance {
    /// A request that leaves more than this after its scheduled moment is late, in seconds (default 0.001).
    pub late_max_s: f64,
    /// Maximum share of late requests, 0 to 1 (default 0.01).
    pub late_share: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Tolerance { late_max_s: 0.001, late_share: 0.01 }
    }
}

impl Tolerance {
    /// The time after its scheduled moment from which a request is late.
    pub fn late_max(&self) -> Duration {
        Duration::try_from_secs_f64(self.late_max_s).unwrap_or(Duration::MAX)
    }

    /// The same as text, such as `1 ms`.
    pub fn late_max_text(&self) -> String {
        crate::report::chart::Numbers::Micros.write(self.late_max_s * 1e6)
    }
}
