//! How many requests of this instance a server may have.

use std::fmt;

/// At most so many requests at one server; the rest waits in the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// This number, at least 1.
    Fixed(u32),
    /// As few as keep the servers busy, found by [`crate::pool::concurrency`].
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

/// Where the search for the best limit begins.
pub const LIMIT_AT_FIRST: u32 = 16;

/// What a limit is to begin with; without one there is none.
pub fn cap(limit: Option<Limit>) -> u32 {
    match limit {
        None => u32::MAX,
        Some(Limit::Fixed(n)) => n,
        Some(Limit::Auto) => LIMIT_AT_FIRST,
    }
}
