//! How each request of a run ended.

/// How a request ended, in eight bytes: runs have millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome(u64);

impl Outcome {
    /// The request has not ended.
    pub const OPEN: Outcome = Outcome(u64::MAX);
    /// The final reply was BUSY, or the deadline had passed.
    pub const REFUSED: Outcome = Outcome(u64::MAX - 1);
    /// The request can no longer end.
    pub const LOST: Outcome = Outcome(u64::MAX - 2);

    /// The request was answered after this many nanoseconds, fewer than 2^64 - 3.
    pub fn answered(latency: u64) -> Outcome {
        debug_assert!(latency < Outcome::LOST.0, "{latency} ns");
        Outcome(latency)
    }

    /// The latency of an answered request, in nanoseconds.
    pub fn latency(self) -> Option<u64> {
        (self.0 < Outcome::LOST.0).then_some(self.0)
    }
}
