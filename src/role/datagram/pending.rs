//! What a request that waits is to the pool's room.

use super::request::Client;
use super::settings::{Affinity, Settings};
use crate::pool::waiting::Room;

/// The longest datagram that can wait, in bytes.
pub(super) const DATAGRAM_MAX: usize = 2_048;

/// The room of a pool, without places.
pub(super) fn room(settings: &Settings) -> Room<Client> {
    // A flow lasts: nobody waits for its end.
    let places = if settings.affinity == Affinity::None { settings.waiting_max } else { 0 };
    Room::new(places, DATAGRAM_MAX)
}
