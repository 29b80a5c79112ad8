//! What all workers of a pool have measured of its servers, brought to the primary's [`Delays`]: the same for all pools.

use crate::delay::Delays;
use crate::select::{PolicyKind, Slot};
use crate::stats::Served;
use crate::time::Instant;

/// Looks at what was measured at each slot, if it is time; whether leaves have to be written anew. `served` gives a worker's
/// measurements at a slot, `identity` says which server has it, if one has.
pub(super) fn look<'a>(
    delays: &mut Delays,
    now: Instant,
    workers: usize,
    served: impl Fn(usize, Slot) -> &'a Served,
    identity: impl Fn(Slot) -> Option<u64>,
) -> bool {
    if !delays.is_due(now) {
        return false;
    }
    let totals = |slot| (0..workers).map(|worker| served(worker, slot).totals()).sum();
    let has_changed = delays.look(now, identity, totals);
    for slot in delays.slots() {
        served(0, slot).show(delays.service(slot), delays.slowness(slot));
    }
    has_changed
}

/// Measures if this policy asks for it; `served` gives the primary's gauges of a slot.
pub(super) fn choose<'a>(delays: &mut Delays, policy: PolicyKind, served: impl Fn(Slot) -> &'a Served) {
    let is_on = policy == PolicyKind::ShortestDelay;
    delays.set_on(is_on);
    if !is_on {
        delays.slots().for_each(|slot| served(slot).show(None, 0));
    }
}
