//! The free slots of a datagram pool, and their last servers.

use std::net::SocketAddr;
use std::time::Duration;

use super::settings::{ANSWER_LATEST, DatagramSettings};
use crate::base::time::Instant;
use crate::pool::registry::Registry;
use crate::pool::select::Slot;

/// The last server of a slot. Late datagrams of that server may still arrive, so no other server gets the
/// slot before `until`. A server that returns gets its own slot, so that its late datagrams arrive at their
/// own pair.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub addr: SocketAddr,
    pub until: Instant,
}

/// The last servers of the slots, and the time for which a slot rests.
pub(super) struct Slots {
    pub left: Box<[Option<Left>]>,
    /// Servers that had left a predecessor, and until when datagrams of their time may arrive.
    pub former: Vec<(SocketAddr, Instant)>,
    pub rest: Duration,
    pub last_generation: u32,
}

impl Slots {
    pub fn new(settings: &DatagramSettings) -> Self {
        Slots {
            left: vec![None; settings.servers_max].into(),
            former: vec![],
            rest: rest_of(settings),
            last_generation: 0,
        }
    }

    pub fn adopt(&mut self, settings: &DatagramSettings) {
        self.rest = rest_of(settings);
    }

    /// Whether datagrams of this server may still arrive at ports that a predecessor used for it. It had left
    /// the predecessor, so which client they are for is not known.
    pub fn may_hear_of_former(&self, now: Instant, addr: SocketAddr) -> bool {
        self.former.iter().any(|&(former, until)| former == addr && until > now)
    }

    /// A free slot: the last one of this server, else one that has rested and has nothing in flight.
    pub fn find<X>(
        &self,
        now: Instant,
        addr: SocketAddr,
        registry: &Registry<X>,
        is_empty: impl Fn(Slot) -> bool,
    ) -> Option<Slot> {
        let left = |slot: &Slot| self.left[slot.index()];
        let has_rested = |slot: &Slot| left(slot).is_none_or(|left| left.until <= now && is_empty(*slot));
        let was_its_own = |slot: &Slot| left(slot).is_some_and(|left| left.addr == addr);
        registry.free().find(was_its_own).or_else(|| registry.free().find(has_rested))
    }
}

/// The rest of a slot after its server has left: the time for which late datagrams may arrive.
fn rest_of(settings: &DatagramSettings) -> Duration {
    (settings.timeout * ANSWER_LATEST).max(settings.hold.unwrap_or_default())
}
