//! The counters of a running pool, of either kind, as the sampler reads them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use super::pool::{DatagramCounters, DatagramServer, NativeServer, PoolStatus, ServerStatus};
use super::{Scaling, millis_since};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::select::Slot;
use crate::pool::stats::{
    Counter, DatagramServerStats, DatagramStats, HasTotals, NativeServerStats, NativeStats, PoolTotals,
    ServerStats, ThreadTotals, WorkerStats,
};
use crate::role::datagram::DatagramShared;

/// The protocol of native pools.
pub(super) const NATIVE: &str = "native";

/// The counters of a running pool.
#[derive(Clone)]
pub enum PoolSource {
    /// A native pool.
    Native {
        /// The pool's name.
        name: String,
        /// By worker, the primary first; at least one.
        workers: Vec<Arc<NativeStats>>,
    },
    /// A datagram pool.
    Datagram(Arc<DatagramShared>),
}

impl PoolSource {
    /// Threads that count requests: the workers, and in a DNS pool the one that serves TCP.
    pub(super) fn thread_count(&self) -> usize {
        match self {
            PoolSource::Native { workers, .. } => workers.len(),
            PoolSource::Datagram(pool) => pool.stats.len(),
        }
    }

    /// The number of workers: the first of the threads that count requests.
    pub(super) fn worker_count(&self) -> usize {
        match self {
            PoolSource::Native { workers, .. } => workers.len(),
            PoolSource::Datagram(pool) => pool.worker_count(),
        }
    }

    /// Slots of servers.
    pub(super) fn slots(&self) -> usize {
        match self {
            PoolSource::Native { workers, .. } => workers[0].servers.len(),
            PoolSource::Datagram(pool) => pool.stats[0].servers.len(),
        }
    }

    fn worker(&self, worker: usize) -> &WorkerStats {
        match self {
            PoolSource::Native { workers, .. } => &workers[worker].common,
            PoolSource::Datagram(pool) => &pool.stats[worker].common,
        }
    }

    /// The counters that every pool has, by thread that counts; the primary's come first.
    pub(super) fn workers(&self) -> impl Iterator<Item = &WorkerStats> + Clone {
        (0..self.thread_count()).map(|worker| self.worker(worker))
    }

    /// The counters of a slot at a worker that every pool has.
    pub(super) fn server(&self, worker: usize, slot: usize) -> &ServerStats {
        match self {
            PoolSource::Native { workers, .. } => &workers[worker].servers[slot].common,
            PoolSource::Datagram(pool) => &pool.stats[worker].servers[slot].common,
        }
    }

    /// Whether servers report their queues.
    pub(super) fn has_reports(&self) -> bool {
        matches!(self, PoolSource::Native { .. })
    }

    /// Requests taken off the outstanding count as lost or timed out.
    pub(super) fn corrections(&self) -> u64 {
        match self {
            PoolSource::Native { workers, .. } => {
                let servers = workers.iter().flat_map(|stats| &stats.servers);
                servers.map(|server| server.lost.get()).sum()
            }
            PoolSource::Datagram(_) => self.workers().map(|stats| stats.decisions.given_up.get()).sum(),
        }
    }

    /// The totals of the pool, for a successor.
    pub fn totals(&self) -> PoolTotals {
        match self {
            PoolSource::Native { workers, .. } => {
                let addr = |(server, slot): (&NativeServerStats, u16)| Some((slot, server.addr()?));
                PoolTotals {
                    workers: workers.iter().map(|of| ThreadTotals::of(&**of, &of.servers)).collect(),
                    servers: workers[0].servers.iter().zip(0..).filter_map(addr).collect(),
                    ..PoolTotals::default()
                }
            }
            PoolSource::Datagram(pool) => {
                let mut threads: Vec<_> =
                    pool.stats.iter().map(|of| ThreadTotals::of(&**of, &of.servers)).collect();
                let streams = (threads.len() > pool.worker_count()).then(|| threads.pop()).flatten();
                let slots = 0..pool.stats[0].servers.len() as u16;
                let addr = |slot: u16| Some((slot, pool.server(Slot::new(usize::from(slot)))?));
                let servers = slots.filter_map(addr).collect();
                PoolTotals { workers: threads, streams, tcp: pool.tcp.totals(), servers }
            }
        }
    }

    /// Adds a worker's totals to those of this worker. Only this worker's thread may, or no thread counts.
    pub fn add_to_worker(&self, worker: usize, totals: &ThreadTotals, slots: &BTreeMap<u16, u16>) {
        let slot_of = |slot: u16| slots.get(&slot).copied();
        match self {
            PoolSource::Native { workers, .. } => {
                let Some(of) = workers.get(worker) else { return };
                totals.add_to(&**of, &of.servers[..], slot_of);
            }
            PoolSource::Datagram(pool) => {
                let Some(of) = pool.stats.get(worker) else { return };
                totals.add_to(&**of, &of.servers[..], slot_of);
            }
        }
    }

    /// Adds the totals of a pool's TCP side. Only the thread that serves TCP may, or no thread counts.
    pub fn add_to_streams(&self, totals: &PoolTotals, slots: &BTreeMap<u16, u16>) {
        let PoolSource::Datagram(pool) = self else { return };
        pool.tcp.add_totals(&totals.tcp);
        if let Some(streams) = totals.streams.as_ref().filter(|_| pool.stats.len() > pool.worker_count()) {
            self.add_to_worker(pool.worker_count(), streams, slots);
        }
    }

    /// Adds what a predecessor has counted, while no thread counts. Returns the slot here of each of its
    /// slots.
    pub fn continue_from(&self, totals: &PoolTotals) -> BTreeMap<u16, u16> {
        let slots = self.slots_for(totals);
        for (number, of) in totals.workers.iter().enumerate() {
            self.add_to_worker(number % self.worker_count(), of, &slots);
        }
        self.add_to_streams(totals, &slots);
        slots
    }

    /// What is missing in these totals of a process that has died: its requests in flight have timed out.
    pub fn written_off(totals: &PoolTotals) -> PoolTotals {
        let slots = totals.workers.iter().chain(&totals.streams).flat_map(|thread| &thread.servers);
        let count = slots.map(|(slot, _)| usize::from(*slot) + 1).max().unwrap_or(0);
        let write_off = |thread: &ThreadTotals| {
            let (had, lost) = (DatagramStats::new(count), DatagramStats::new(count));
            thread.add_to(&had, &had.servers[..], Some);
            lost.timed_out.set(had.in_flight.get());
            lost.in_flight.set(had.in_flight.get().wrapping_neg());
            for (had, lost) in had.servers.iter().zip(&lost.servers) {
                let ended = had.common.answered.get() + had.timed_out.get() + had.forwarded.get();
                lost.timed_out.set(had.common.dispatched.get().saturating_sub(ended));
            }
            ThreadTotals::of(&lost, &lost.servers)
        };
        PoolTotals {
            workers: totals.workers.iter().map(write_off).collect(),
            streams: totals.streams.as_ref().map(write_off),
            ..PoolTotals::default()
        }
    }

    /// The slot in which each slot of a predecessor's totals continues: that of the same server, else a free
    /// one. A native pool has the slots of its predecessor. The totals of a slot without one are left out,
    /// which happens only if `servers_max` is lower now.
    fn slots_for(&self, totals: &PoolTotals) -> BTreeMap<u16, u16> {
        let count = self.slots() as u16;
        let PoolSource::Datagram(pool) = self else { return (0..count).map(|slot| (slot, slot)).collect() };
        let here = |slot: u16| pool.server(Slot::new(usize::from(slot)));
        let by_addr: HashMap<_, u16> = (0..count).filter_map(|slot| Some((here(slot)?, slot))).collect();
        let same = |(slot, addr): &(u16, SocketAddr)| Some((*slot, *by_addr.get(addr)?));
        let mut slots: BTreeMap<u16, u16> = totals.servers.iter().filter_map(same).collect();
        let mut free: BTreeSet<u16> = (0..count).filter(|&slot| here(slot).is_none()).collect();
        let threads = totals.workers.iter().chain(&totals.streams);
        for (slot, _) in threads.flat_map(|thread| &thread.servers) {
            if !slots.contains_key(slot)
                && let Some(place) = free.get(slot).or(free.first()).copied()
            {
                free.remove(&place);
                slots.insert(*slot, place);
            }
        }
        slots
    }

    /// The part of the pool's status that only this kind of pool has.
    pub(super) fn describe(&self) -> PoolStatus {
        match self {
            PoolSource::Native { name, workers } => {
                let scaling = *workers[0].scaling.lock().expect("no panic while it is held");
                // These reasons are always shown, so that metrics exist before the first refusal.
                let reasons = [DropReason::NoServer, DropReason::ServersFull, DropReason::Mode];
                PoolStatus {
                    name: name.clone(),
                    protocol: NATIVE.to_owned(),
                    refused: reasons.map(|reason| (reason.name().to_owned(), 0)).into(),
                    scaling: scaling.map(Scaling::from),
                    ..PoolStatus::default()
                }
            }
            PoolSource::Datagram(pool) => PoolStatus {
                name: pool.name().to_owned(),
                protocol: pool.protocol().name().to_owned(),
                datagram: Some(datagram_counters(pool)),
                ..PoolStatus::default()
            },
        }
    }

    /// The part of a server's status that only this kind of pool has. `in_flight` is missing.
    pub(super) fn describe_server(&self, now: Instant, slot: usize) -> ServerStatus {
        match self {
            PoolSource::Native { workers, .. } => {
                let of_slot = || workers.iter().map(|stats| &stats.servers[slot]);
                let primary = &workers[0].servers[slot];
                let reported = of_slot().map(|server| server.reported.get()).max().unwrap_or(0);
                let report_age_ms = millis_since(now, reported);
                ServerStatus {
                    addr: primary.addr().map_or(String::new(), |addr| addr.to_string()),
                    queue: primary.outstanding.get(),
                    heard_ms: report_age_ms,
                    native: Some(NativeServer {
                        lost: of_slot().map(|server| server.lost.get()).sum(),
                        estimate_error: primary.estimate_error.get(),
                        report_age_ms,
                    }),
                    ..ServerStatus::default()
                }
            }
            PoolSource::Datagram(pool) => {
                let sum = |counter: fn(&DatagramServerStats) -> &Counter| -> u64 {
                    pool.stats.iter().map(|stats| counter(&stats.servers[slot]).get()).sum()
                };
                let slot = Slot::new(slot);
                ServerStatus {
                    addr: pool.server(slot).map_or(String::new(), |addr| addr.to_string()),
                    queue: u64::from(pool.queue(slot)),
                    heard_ms: millis_since(now, pool.heard_at(slot).as_nanos()),
                    datagram: Some(DatagramServer {
                        timed_out: sum(|server| &server.timed_out),
                        forwarded: sum(|server| &server.forwarded),
                        in_flight: 0,
                        delivered: sum(|server| &server.delivered),
                        errors: sum(|server| &server.errors),
                    }),
                    ..ServerStatus::default()
                }
            }
        }
    }
}

fn datagram_counters(pool: &DatagramShared) -> DatagramCounters {
    let sum = |counter: fn(&DatagramStats) -> &Counter| -> u64 {
        pool.stats.iter().map(|stats| counter(stats).get()).sum()
    };
    DatagramCounters {
        timed_out: sum(|stats| &stats.timed_out),
        forwarded: sum(|stats| &stats.forwarded),
        in_flight: sum(|stats| &stats.in_flight),
        servfail: sum(|stats| &stats.servfail),
        delivered: sum(|stats| &stats.delivered),
        late: sum(|stats| &stats.late),
        flows: sum(|stats| &stats.flows),
        flows_opened: sum(|stats| &stats.flows_opened),
        tcp_open: pool.tcp.open.get(),
        tcp_opened: pool.tcp.opened.get(),
        tcp_refused: pool.tcp.refused.get(),
        tcp_queries: pool
            .stats
            .iter()
            .skip(pool.worker_count())
            .map(|stats| stats.common.received.get())
            .sum(),
        checks_ignored: pool.stats[0].checks_ignored.get() > 0,
    }
}
