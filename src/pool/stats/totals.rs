//! The totals of a pool, so that a successor continues to count from them.
//!
//! A total has a position: that of the field that holds it, in the order in which [`HasTotals::each`] names
//! the fields. So the bytes are those of one version of this program, and a new field is a new version of a
//! takeover's state. Gauges are not included: their writer sets them again. The exceptions are gauges that
//! their writer only adds to and subtracts from, such as requests in flight.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{
    CountHistogram, Counter, DatagramServerStats, DatagramStats, DecisionStats, LatencyHistogram,
    NativeServerStats, NativeStats, ServerStats, TcpStats, WorkerStats,
};
use crate::base::drop_reason::{DropCounters, DropReason};

/// A field that holds totals.
pub enum Field<'a> {
    /// One total.
    Counter(&'a Counter),
    /// A total for each reason.
    Reasons(&'a DropCounters),
    /// A total for each bucket.
    Latencies(&'a LatencyHistogram),
    /// A total for each bucket, and their sum.
    Numbers(&'a CountHistogram),
}

impl Field<'_> {
    fn len(&self) -> usize {
        match self {
            Field::Counter(_) => 1,
            Field::Reasons(_) => DropReason::ALL.len(),
            Field::Latencies(_) => LatencyHistogram::BUCKETS,
            Field::Numbers(_) => LatencyHistogram::BUCKETS + 1,
        }
    }

    fn get(&self, place: usize) -> u64 {
        match self {
            Field::Counter(counter) => counter.get(),
            Field::Reasons(reasons) => reasons.get(DropReason::ALL[place]),
            Field::Latencies(latencies) => latencies.bucket(place),
            Field::Numbers(numbers) => numbers.total(place),
        }
    }

    fn add(&self, place: usize, n: u64) {
        match self {
            Field::Counter(counter) => counter.set(counter.get().wrapping_add(n)),
            Field::Reasons(reasons) => reasons.add(DropReason::ALL[place], n),
            Field::Latencies(latencies) => latencies.add(place, n),
            Field::Numbers(numbers) => numbers.add(place, n),
        }
    }
}

/// Counters of one writer.
pub trait HasTotals {
    /// Calls `visit` for each field that holds totals, always in the same order.
    fn each<'a>(&'a self, visit: &mut dyn FnMut(Field<'a>));

    /// The totals now.
    fn totals(&self) -> Totals {
        let (mut totals, mut at) = (Totals::default(), 0);
        self.each(&mut |field| {
            let values = (0..field.len()).map(|place| field.get(place)).zip(at..);
            totals.0.extend(values.filter(|&(value, _)| value > 0).map(|(value, at)| (at, value)));
            at += field.len() as u32;
        });
        totals
    }

    /// Adds totals. Only the writer of these counters may, or no thread writes them.
    fn add_totals(&self, totals: &Totals) {
        let (mut rest, mut at) = (&totals.0[..], 0);
        self.each(&mut |field| {
            let end = at + field.len() as u32;
            while let Some((&(place, value), others)) = rest.split_first()
                && place < end
            {
                field.add((place - at) as usize, value);
                rest = others;
            }
            at = end;
        });
    }
}

/// The totals that are not 0, each with its position, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals(Vec<(u32, u64)>);

impl Totals {
    /// What was counted since `earlier`. A gauge that has fallen gives a number that wraps when it is added.
    pub fn since(&self, earlier: &Totals) -> Totals {
        let mut all: std::collections::BTreeMap<u32, u64> = self.0.iter().copied().collect();
        for &(at, value) in &earlier.0 {
            let now = all.entry(at).or_default();
            *now = now.wrapping_sub(value);
        }
        Totals(all.into_iter().filter(|&(_, value)| value > 0).collect())
    }
}

/// The totals of a thread that counts the requests of a pool, with those of each slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadTotals {
    /// What it counts for the pool.
    pub own: Totals,
    /// What it counts for each slot that was ever used.
    pub servers: Vec<(u16, Totals)>,
}

/// The totals of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolTotals {
    /// Of the workers; those of the primary come first.
    pub workers: Vec<ThreadTotals>,
    /// Of a DNS pool's TCP side.
    pub streams: Option<ThreadTotals>,
    /// Of the TCP side's connections.
    pub tcp: Totals,
    /// The address of the server in each slot that has one.
    pub servers: Vec<(u16, SocketAddr)>,
}

impl ThreadTotals {
    /// Of these counters of a thread and of its slots.
    pub fn of<'a, S: HasTotals + 'a>(
        own: &impl HasTotals,
        servers: impl IntoIterator<Item = &'a S>,
    ) -> ThreadTotals {
        let servers = servers.into_iter().map(HasTotals::totals).zip(0..);
        let used = servers.filter(|(totals, _)| !totals.0.is_empty());
        ThreadTotals { own: own.totals(), servers: used.map(|(totals, slot)| (slot, totals)).collect() }
    }

    /// Adds these totals to the counters of a thread; `slot_of` gives the present slot of a former one. Only
    /// that thread may, or no thread writes the counters.
    pub fn add_to<S: HasTotals>(
        &self,
        own: &impl HasTotals,
        servers: &[S],
        slot_of: impl Fn(u16) -> Option<u16>,
    ) {
        own.add_totals(&self.own);
        for (slot, totals) in &self.servers {
            if let Some(server) = slot_of(*slot).and_then(|slot| servers.get(usize::from(slot))) {
                server.add_totals(totals);
            }
        }
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &ThreadTotals) -> ThreadTotals {
        let none = Totals::default();
        let before = |slot| earlier.servers.iter().find(|(other, _)| *other == slot).map(|(_, of)| of);
        let servers =
            self.servers.iter().map(|(slot, now)| (*slot, now.since(before(*slot).unwrap_or(&none))));
        ThreadTotals { own: self.own.since(&earlier.own), servers: servers.collect() }
    }
}

impl PoolTotals {
    /// What was counted since `earlier`, which has the same threads.
    pub fn since(&self, earlier: &PoolTotals) -> PoolTotals {
        let none = ThreadTotals::default();
        let of =
            |(number, now): (usize, &ThreadTotals)| now.since(earlier.workers.get(number).unwrap_or(&none));
        let streams = self.streams.as_ref();
        PoolTotals {
            workers: self.workers.iter().enumerate().map(of).collect(),
            streams: streams.map(|now| now.since(earlier.streams.as_ref().unwrap_or(&none))),
            tcp: self.tcp.since(&earlier.tcp),
            servers: self.servers.clone(),
        }
    }
}

impl HasTotals for WorkerStats {
    fn each<'a>(&'a self, visit: &mut dyn FnMut(Field<'a>)) {
        let WorkerStats {
            received,
            answered,
            waiting: _,
            waited,
            waiting_delay,
            decisions: DecisionStats { regret, age, estimate_error, given_up },
            refused,
            dropped,
            select_fallback,
            kernel_drops,
            kernel_drops_back,
            send_drops,
            gso_off: _,
            out_of_slots,
            completions_delayed,
        } = self;
        for counter in [
            received,
            answered,
            waited,
            given_up,
            select_fallback,
            kernel_drops,
            kernel_drops_back,
            send_drops,
            out_of_slots,
            completions_delayed,
        ] {
            visit(Field::Counter(counter));
        }
        for reasons in [refused, dropped] {
            visit(Field::Reasons(reasons));
        }
        for latencies in [waiting_delay, age] {
            visit(Field::Latencies(latencies));
        }
        for numbers in [regret, estimate_error] {
            visit(Field::Numbers(numbers));
        }
    }
}

impl HasTotals for ServerStats {
    /// Service times are left out: the primary compares them with those that it has seen.
    fn each<'a>(&'a self, visit: &mut dyn FnMut(Field<'a>)) {
        let ServerStats {
            id_plus_one: _,
            state: _,
            weight: _,
            since: _,
            dispatched,
            answered,
            failed_answers,
            latency,
            served: _,
        } = self;
        for counter in [dispatched, answered, failed_answers] {
            visit(Field::Counter(counter));
        }
        visit(Field::Latencies(latency));
    }
}

impl HasTotals for NativeServerStats {
    fn each<'a>(&'a self, visit: &mut dyn FnMut(Field<'a>)) {
        self.common.each(visit);
        visit(Field::Counter(&self.lost));
    }
}

impl HasTotals for NativeStats {
    fn each<'a>(&'a self, visit: &mut dyn FnMut(Field<'a>)) {
        self.common.each(visit);
    }
}

impl HasTotals for DatagramServerStats {
    fn each<'a>(&'a self, visit: &mut dyn FnMut(Field<'a>)) {
        let DatagramServerStats { common, timed_out, forwarded, delivered, errors } = self;
        common.each(visit);
        for counter in [timed_out, forwarded, delivered, errors] {
            visit(Field::Counter(counter));
        }
    }
}

impl HasTotals for DatagramStats {
    /// Requests in flight are included, since the process before finishes them. Flows are not: the worker
    /// that continues a flow counts it.
    fn each<'a>(&'a self, visit: &mut dyn FnMut(Field<'a>)) {
        let DatagramStats {
            common,
            timed_out,
            forwarded,
            in_flight,
            servfail,
            late,
            delivered,
            flows_opened,
            flows: _,
            checks_ignored: _,
            servers: _,
        } = self;
        common.each(visit);
        for counter in [timed_out, forwarded, in_flight, servfail, late, delivered, flows_opened] {
            visit(Field::Counter(counter));
        }
    }
}

impl HasTotals for TcpStats {
    fn each<'a>(&'a self, visit: &mut dyn FnMut(Field<'a>)) {
        let TcpStats { opened, refused, open: _, busy: _ } = self;
        visit(Field::Counter(opened));
        visit(Field::Counter(refused));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_totals_continue_and_what_was_counted_afterwards_is_added() {
        let old = DatagramStats::new(4);
        old.common.received.add(10);
        old.common.answered.add(7);
        old.common.waiting.set(3);
        old.common.gso_off.set(1);
        old.common.dropped.add(DropReason::Late, 5);
        old.common.decisions.regret.record(3);
        old.common.decisions.age.record(1_000);
        old.in_flight.add(3);
        old.servers[2].common.dispatched.add(10);
        old.servers[2].common.latency.record(70);
        old.servers[2].errors.add(1);
        let before = ThreadTotals::of(&old, &old.servers);

        let new = DatagramStats::new(2);
        new.common.received.add(100);
        let slot_of = |slot: u16| (slot == 2).then_some(1);
        before.add_to(&new, &new.servers[..], slot_of);
        let common = &new.common;
        assert_eq!((common.received.get(), common.answered.get(), new.in_flight.get()), (110, 7, 3));
        assert_eq!((common.waiting.get(), common.gso_off.get()), (0, 0), "gauges");
        assert_eq!(common.dropped.get(DropReason::Late), 5);
        assert_eq!(common.decisions.regret.snapshot(), old.common.decisions.regret.snapshot());
        assert_eq!(common.decisions.age.snapshot(), old.common.decisions.age.snapshot());
        let server = &new.servers[1];
        assert_eq!((server.common.dispatched.get(), server.errors.get()), (10, 1));
        assert_eq!(server.common.latency.snapshot(), old.servers[2].common.latency.snapshot());

        // The old process answers what was in flight.
        old.in_flight.set(0);
        old.common.answered.add(3);
        old.servers[2].common.answered.add(3);
        let since = ThreadTotals::of(&old, &old.servers).since(&before);
        since.add_to(&new, &new.servers[..], slot_of);
        assert_eq!((common.received.get(), common.answered.get(), new.in_flight.get()), (110, 10, 0));
        assert_eq!(new.servers[1].common.answered.get(), 3);
        let bytes = postcard::to_allocvec(&before).unwrap();
        assert_eq!(postcard::from_bytes::<ThreadTotals>(&bytes).unwrap(), before);
    }
}
