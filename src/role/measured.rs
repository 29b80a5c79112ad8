//! What all workers of a pool have measured of its servers, brought to the primary's [`Delays`]: the same for all pools.

use crate::base::time::Instant;
use crate::pool::select::{PolicyKind, Slot};
use crate::pool::slowness::Delays;
use crate::pool::stats::Served;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::select::AS_FAST;
    use std::time::Duration;

    #[test]
    fn what_any_worker_has_measured_counts_and_the_primary_shows_it() {
        let served: [[Served; 3]; 2] = Default::default();
        let of = |worker: usize, slot: Slot| &served[worker][slot.index()];
        let mut delays = Delays::new(3);
        let mut now = Instant::from_nanos(1_000_000_000);
        let mut step = |delays: &mut Delays| {
            // The first worker has the fast servers' answers, and the second one those of the slow one.
            (0..2).for_each(|slot| served[0][slot].note_claim(10, 1_000));
            served[1][2].note_claim(10, 8_000);
            now += Duration::from_millis(20);
            look(delays, now, 2, of, |_| Some(1))
        };
        choose(&mut delays, PolicyKind::ShortestQueue, |slot| of(0, slot));
        assert!((0..10).all(|_| !step(&mut delays)));
        assert_eq!(served[0][2].slowness.get(), 0);
        choose(&mut delays, PolicyKind::ShortestDelay, |slot| of(0, slot));
        let changes = (0..10).filter(|_| step(&mut delays)).count();
        assert!((1..=4).contains(&changes), "{changes}");
        let shown = (served[0][2].service_us.get(), served[0][2].slowness.get());
        assert!((7_900..=8_100).contains(&shown.0) && (7_000..=8_000).contains(&shown.1), "{shown:?}");
        assert_eq!(served[0][0].slowness.get(), u64::from(AS_FAST));
        choose(&mut delays, PolicyKind::Random, |slot| of(0, slot));
        assert_eq!((served[0][2].service_us.get(), served[0][2].slowness.get()), (0, 0));
        assert_eq!(delays.slowness(Slot::new(2)), AS_FAST);
    }
}
