//! Quality of a worker's selections, measured by what the worker knew.

use super::{CountHistogram, Counter, LatencyHistogram};

/// Counters of one worker. One selection in 64 is sampled, at random distances.
#[derive(Debug, Default)]
pub struct DecisionStats {
    /// Regret: excess of the selected server's queue over the shortest eligible queue, in requests.
    pub regret: CountHistogram,
    /// Staleness: age of the newest information about the selected server, in microseconds.
    pub age: LatencyHistogram,
    /// Absolute error of the queue estimate at each report, requests in transit included. Only where servers
    /// report.
    pub estimate_error: CountHistogram,
    /// Unanswered requests that were taken off their server's outstanding count. Only where servers do not
    /// report.
    pub given_up: Counter,
}
