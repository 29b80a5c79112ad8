//! The concurrency limit: how many requests of this balancer a server may have.

use std::fmt;

/// Maximum outstanding requests per server; excess requests queue in the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// This number, at least 1.
    Fixed(u32),
    /// The lowest limit that keeps the servers busy, found by [`crate::pool::concurrency`].
    Auto,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Fixed(n) => write!(f, "{n}"),
            Limit::Auto => f.write_str("auto"),
        }
    }
}

/// The limit with which the search for the best limit begins.
pub const LIMIT_AT_FIRST: u32 = 16;

/// The initial cap of the selection tree; without a limit `u32::MAX`.
pub fn cap(limit: Option<Limit>) -> u32 {
    match limit {
        None => u32::MAX,
        Some(Limit::Fixed(n)) => n,
        Some(Limit::Auto) => LIMIT_AT_FIRST,
    }
}
