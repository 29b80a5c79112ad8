//! What a server's state means for the selection tree: the same for all pools.

use crate::pool::health::State;
use crate::pool::select::LeafState;

/// Whether a server in this state may be chosen; `fails_open` if too many are down or held.
pub(super) fn leaf_of(state: State, fails_open: bool) -> LeafState {
    match state {
        State::Up => LeafState::Eligible,
        State::Suspect | State::Held | State::Down if fails_open => LeafState::Eligible,
        State::Suspect | State::Held => LeafState::LastResort,
        State::Joining | State::Down | State::Draining | State::Disabled => LeafState::Barred,
    }
}
