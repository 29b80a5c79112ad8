//! How good a worker's choices of servers were, by what it knew.

use super::{CountHistogram, Counter, LatencyHistogram};

/// Figures of one worker. The choices that are looked at are one in 64, at random distances.
#[derive(Debug, Default)]
pub struct DecisionStats {
    /// By how many requests the queue of the chosen server was longer than the shortest that might have been
    /// chosen.
    pub regret: CountHistogram,
    /// How long before the choice the chosen server had last been heard of.
    pub age: LatencyHistogram,
    /// Of each report, by how many requests the queue that was believed, with what is under way, differed
    /// from it. Only where servers report.
    pub estimate_error: CountHistogram,
    /// Requests that stayed unanswered, and were taken off the count of their server. Only where servers do
    /// not report.
    pub given_up: Counter,
}
