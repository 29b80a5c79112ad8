//! The pending queue of a datagram pool.

use super::request::DatagramClient;
use super::settings::{Affinity, DatagramSettings};
use crate::pool::waiting::PendingQueue;

/// The longest datagram that can be queued, in bytes.
pub(super) const DATAGRAM_MAX: usize = 2_048;

/// The pending queue of a pool, without entries.
pub(super) fn pending_queue(settings: &DatagramSettings) -> PendingQueue<DatagramClient> {
    // No request waits for the end of a flow, which may last for any time.
    let entries = if settings.affinity == Affinity::None { settings.waiting_max } else { 0 };
    PendingQueue::new(entries, DATAGRAM_MAX, DatagramClient::NONE)
}
