//! The drain of a server that leaves: a removal is a drain. Pure.
//!
//! ```text
//!              its name has moved, or it is dead        drain_timeout, or room is needed
//!   FLOWS ──────────────────────────────────> MOVING ──────────────────────────────────> OVER
//!     └──────────────────────────────────────────────────────────────────────────────────^
//! ```
//!
//! In each phase the server gets no new requests, and those in flight get their responses. A server leaves
//! its slot when nothing is in flight there; after the drain at the latest when each request has timed out.

use serde::{Deserialize, Serialize};

use crate::base::time::Instant;
use crate::pool::health::State;

/// What happens to the flows of a server that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum DrainPhase {
    /// Flows stay.
    Flows,
    /// A flow moves to another server at the next datagram of its client.
    Moving,
    /// Flows and zone transfers end.
    Over,
}

/// The drain of a server that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leaving {
    /// Start of the drain.
    pub since: Instant,
    pub phase: DrainPhase,
    /// Start of the last phase.
    pub over_since: Instant,
    /// Unanswered checks in a row.
    pub misses: u8,
    /// Whether clients of a predecessor's flows may come, which are in no table of servers yet.
    pub awaits_clients: bool,
}

impl Leaving {
    pub fn new(now: Instant, phase: DrainPhase) -> Self {
        Leaving { since: now, phase, over_since: now, misses: 0, awaits_clients: false }
    }

    /// The same drain at a successor.
    pub fn handed_over(self) -> Self {
        Leaving { awaits_clients: true, ..self }
    }

    /// Ends the drain.
    pub fn end(&mut self, now: Instant) {
        (self.phase, self.over_since) = (DrainPhase::Over, now);
    }
}

/// Whether a server may keep its flows when it leaves.
pub(super) fn is_serving(state: State) -> bool {
    match state {
        State::Joining | State::Up | State::Suspect | State::Held | State::Draining => true,
        State::Down | State::Disabled | State::Looping => false,
    }
}

/// Whether a server is checked, where servers are: also during a drain, so that its flows leave a dead one.
pub(super) fn is_checked(state: State, leaving: Option<Leaving>) -> bool {
    match state {
        State::Draining => leaving.is_some_and(|leaving| leaving.phase == DrainPhase::Flows),
        State::Disabled => false,
        _ => true,
    }
}
