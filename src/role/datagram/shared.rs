//! The state that the workers of a pool share. The data path changes it through atomics only.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::loops::LoopMarks;
use super::pending;
use super::request::DatagramClient;
use super::settings::{Affinity, DatagramSettings, Protocol, ProxyProtocol};
use super::stream_link::StreamLink;
use crate::base::time::Instant;
use crate::pool::access::{Access, Gate, Sketch, SourceCounts};
use crate::pool::desired::DesiredServer;
use crate::pool::select::{Slot, Tree};
use crate::pool::shared::{PoolSettings, PoolShared};
use crate::pool::stats::{DatagramStats, TcpStats};
use crate::pool::waiting::Limit;

/// What a worker knows of a server besides its address and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramExtra {
    /// Whether flows may stay at the server: it is not down or disabled, and its drain is not over.
    pub keeps_flows: bool,
    /// Whether its flows and zone transfers end at once: it leaves, and its drain is over.
    pub is_over: bool,
}

pub(super) type DatagramMember = crate::pool::members::Member<DatagramExtra>;

/// The servers that a pool should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub servers: Vec<DesiredServer>,
    /// Addresses that host names have lost. The flows of these servers follow the names at once.
    pub moved: Vec<SocketAddr>,
}

/// The signals of a server that the workers note and the primary judges.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// The time of the last valid response, in nanoseconds.
    alive_at: AtomicU64,
    /// The time of the last answer to a client, in nanoseconds.
    answered_at: AtomicU64,
    /// The time of the last answer to a client that said that the server failed, in nanoseconds.
    failed_at: AtomicU64,
    /// Requests that have timed out since the primary last took the signals.
    lost: AtomicU32,
    /// Requests since the last valid response that are unanswered for far longer than any response took.
    unanswered: AtomicU32,
    /// Requests and their responses, since the primary last took the signals.
    asked: AtomicU32,
    answered: AtomicU32,
    /// Whether ICMP reported the server as absent.
    refused: AtomicBool,
    /// Whether a check of the server has come back.
    looped: AtomicBool,
}

/// The signals of a server since the primary last took them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Noticed {
    /// The last valid response; [`Instant::ZERO`] without one.
    pub alive_at: Instant,
    pub lost: u32,
    /// Requests since that response that are unanswered for far longer than any response took.
    pub unanswered: u32,
    pub refused: bool,
    pub looped: bool,
}

impl Signals {
    pub fn hear(&self, now: Instant) {
        self.alive_at.store(now.as_nanos(), Ordering::Relaxed);
    }

    pub fn alive_at(&self) -> Instant {
        Instant::from_nanos(self.alive_at.load(Ordering::Relaxed))
    }

    /// Notes answers to clients, and whether one of them said that the server failed.
    pub fn answer(&self, now: Instant, is_failed: bool) {
        let at = if is_failed { &self.failed_at } else { &self.answered_at };
        at.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// The last answer to a client, if it is not older than this and no answer said since that the server
    /// failed.
    pub fn answered_since(&self, now: Instant, age: Duration) -> Option<Instant> {
        let at = |at: &AtomicU64| {
            Some(Instant::from_nanos(at.load(Ordering::Relaxed))).filter(|&at| now < at + age)
        };
        at(&self.answered_at).filter(|_| at(&self.failed_at).is_none())
    }

    pub fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes more requests that are unanswered for too long.
    pub fn note_unanswered(&self, requests: u32) {
        self.unanswered.fetch_add(requests, Ordering::Relaxed);
    }

    /// Another server has the slot.
    pub fn forget_unanswered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }

    /// Notes requests and responses.
    pub fn count(&self, asked: u32, answered: u32) {
        self.asked.fetch_add(asked, Ordering::Relaxed);
        self.answered.fetch_add(answered, Ordering::Relaxed);
    }

    /// Takes the numbers of requests and responses since the last call.
    pub fn take_counts(&self) -> (u32, u32) {
        (take(&self.asked), take(&self.answered))
    }

    pub fn note_refusal(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub fn note_loop(&self) {
        self.looped.store(true, Ordering::Relaxed);
    }

    /// Takes the signals since the last call. `heard_at` is the last valid response of that call.
    pub fn take(&self, heard_at: Instant) -> Noticed {
        let take_flag =
            |flag: &AtomicBool| flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::Relaxed);
        let alive_at = self.alive_at();
        if alive_at > heard_at {
            self.forget_unanswered();
        }
        Noticed {
            alive_at,
            lost: take(&self.lost),
            unanswered: self.unanswered.load(Ordering::Relaxed),
            refused: take_flag(&self.refused),
            looped: take_flag(&self.looped),
        }
    }
}

/// Takes a number.
fn take(number: &AtomicU32) -> u32 {
    if number.load(Ordering::Relaxed) > 0 { number.swap(0, Ordering::Relaxed) } else { 0 }
}

/// The part of a pool that a reload can replace.
#[derive(Debug)]
pub struct CurrentSettings {
    pub settings: Arc<DatagramSettings>,
    pub gate: Gate,
}

impl CurrentSettings {
    fn new(settings: DatagramSettings, key: [u8; 16]) -> Self {
        let sketch = settings.rate_per_source.map(|rate| sketch(rate, key));
        CurrentSettings { gate: Gate { access: access(&settings), sketch }, settings: Arc::new(settings) }
    }

    /// The successor with other settings. The rate limit of each source continues, unless the rate changes.
    fn followed_by(&self, settings: DatagramSettings, key: [u8; 16]) -> Self {
        let (old, new) = (self.settings.rate_per_source, settings.rate_per_source);
        let sketch = if old == new { self.gate.sketch.clone() } else { new.map(|rate| sketch(rate, key)) };
        CurrentSettings { gate: Gate { access: access(&settings), sketch }, settings: Arc::new(settings) }
    }
}

fn access(settings: &DatagramSettings) -> Arc<Access> {
    Arc::new(Access::new(&settings.allow, &settings.deny))
}

fn sketch(rate: f64, key: [u8; 16]) -> Arc<Sketch> {
    Arc::new(Sketch::per_second(rate, key))
}

impl PoolSettings for CurrentSettings {
    fn servers_max(&self) -> usize {
        self.settings.servers_max
    }

    fn workers(&self) -> usize {
        self.settings.workers
    }

    fn max_outstanding(&self) -> Option<Limit> {
        self.settings.max_outstanding
    }

    fn counting_threads(&self) -> usize {
        counting_threads(&self.settings)
    }
}

/// Threads that count requests: the workers, and in a DNS pool the one that serves TCP.
fn counting_threads(settings: &DatagramSettings) -> usize {
    settings.workers + usize::from(settings.protocol == Protocol::Dns)
}

/// The state of a datagram pool that its workers and its TCP side share.
pub struct DatagramShared {
    /// The state that pools of both kinds have.
    pub(super) pool: PoolShared<DatagramExtra, DatagramClient, CurrentSettings>,
    /// The key of the per-source rate limit.
    key: [u8; 16],
    pub(super) seed: u64,
    name: String,
    protocol: Protocol,
    tells_client: bool,
    worker_count: usize,
    pub(super) signals: Box<[CachePadded<Signals>]>,
    /// The marks of checks.
    pub(super) loops: LoopMarks,
    /// The last time at which a client's datagram was equal to the payload of the checks, in nanoseconds.
    echoed_at: AtomicU64,
    /// The flows of each source at all workers; `None` without affinity.
    pub(super) flow_sources: Option<SourceCounts>,
    /// The slot of the server that waits for a trial request, plus one; 0 without one.
    trial: AtomicU32,
    /// The error of the last look-up of host names; `None` after a success.
    unresolved: Mutex<Option<String>>,
    /// The desired servers, until the primary takes them.
    wanted: Mutex<Option<Wish>>,
    /// The counters, by worker, and in a DNS pool those of the TCP side at the end. The primary's have the
    /// gauges of servers.
    pub stats: Box<[Arc<DatagramStats>]>,
    /// The connections of the TCP side.
    pub tcp: TcpStats,
    /// What the workers and the TCP side share.
    pub streams: StreamLink,
}

impl DatagramShared {
    /// The error of the last look-up of the servers' host names; `None` if it succeeded.
    pub fn unresolved(&self) -> Option<String> {
        self.unresolved.lock().expect("no panic while it is held").clone()
    }

    /// Sets the result of the last look-up of the servers' host names.
    pub fn set_unresolved(&self, error: Option<String>) {
        *self.unresolved.lock().expect("no panic while it is held") = error;
    }

    /// The selection tree, for inspection.
    pub fn tree(&self) -> &Tree {
        &self.pool.tree
    }

    pub(super) fn new(settings: DatagramSettings, seed: u64, key: [u8; 16]) -> Self {
        let slots = settings.servers_max;
        DatagramShared {
            signals: (0..slots).map(|_| CachePadded::default()).collect(),
            key,
            name: settings.name.clone(),
            protocol: settings.protocol,
            worker_count: settings.workers,
            tells_client: settings.proxy_protocol != ProxyProtocol::Off,
            flow_sources: (settings.affinity == Affinity::Client).then(|| SourceCounts::new(key)),
            loops: LoopMarks::new(key.map(|byte| byte ^ 0x6c)),
            echoed_at: AtomicU64::new(0),
            trial: AtomicU32::new(0),
            unresolved: Mutex::default(),
            wanted: Mutex::new(None),
            tcp: TcpStats::default(),
            streams: StreamLink::default(),
            stats: (0..counting_threads(&settings)).map(|_| Arc::new(DatagramStats::new(slots))).collect(),
            pool: {
                let pending = pending::pending_queue(&settings);
                PoolShared::new(CurrentSettings::new(settings, key), pending)
            },
            seed,
        }
    }

    /// Notes a client's datagram that is equal to the payload of the checks.
    pub(super) fn note_echo(&self, now: Instant) {
        self.echoed_at.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// The time of the last such datagram.
    pub(super) fn echoed_at(&self) -> Instant {
        Instant::from_nanos(self.echoed_at.load(Ordering::Relaxed))
    }

    /// The number of flows of a source, at all workers.
    pub(super) fn flows_of(&self, source: IpAddr) -> u32 {
        self.flow_sources.as_ref().map_or(0, |sources| sources.get(source))
    }

    /// Asks for a trial request to this server. False while another server waits for one.
    pub(super) fn ask_for_trial(&self, slot: Slot) -> bool {
        let asked = slot.index() as u32 + 1;
        self.trial.compare_exchange(0, asked, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Withdraws the wait of this server for a trial request.
    pub(super) fn cancel_trial(&self, slot: Slot) {
        let asked = slot.index() as u32 + 1;
        let _ = self.trial.compare_exchange(asked, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Takes the server that waits for a trial request; only one caller gets it.
    pub(super) fn take_trial(&self) -> Option<Slot> {
        if self.trial.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let slot = self.trial.swap(0, Ordering::Relaxed).checked_sub(1)?;
        Some(Slot::new(slot as usize))
    }

    /// Sets the desired servers. The primary applies them within 200 ms. Other servers leave: they finish
    /// what they have, and keep their flows for the drain timeout.
    pub fn want(&self, servers: Vec<DesiredServer>) {
        self.want_moved(servers, &[]);
    }

    /// Sets the desired servers. Host names have lost the addresses `moved`: the flows of these servers move
    /// at the next datagram of their clients.
    pub fn want_moved(&self, servers: Vec<DesiredServer>, moved: &[SocketAddr]) {
        let mut wanted = self.wanted.lock().expect("no panic while the lock is held");
        let mut moved_before = wanted.take().unwrap_or_default().moved;
        moved_before.extend(moved);
        *wanted = Some(Wish { servers, moved: moved_before });
    }

    /// Keeps desired servers that cannot all join yet, unless there are newer ones.
    pub(super) fn want_still(&self, servers: Vec<DesiredServer>) {
        let mut wanted = self.wanted.lock().expect("no panic while the lock is held");
        wanted.get_or_insert(Wish { servers, moved: vec![] });
    }

    pub(super) fn take_wanted(&self) -> Option<Wish> {
        self.wanted.lock().expect("no panic while the lock is held").take()
    }

    /// The present settings.
    pub fn settings(&self) -> Arc<DatagramSettings> {
        Arc::clone(&self.pool.settings().settings)
    }

    /// The present admission gate.
    pub fn gate(&self) -> Gate {
        self.pool.settings().gate.clone()
    }

    /// Publishes new settings, which each worker adopts at its next turn.
    ///
    /// # Errors
    /// The configuration key within the pool whose change needs a new pool.
    pub fn reconfigure(&self, new: DatagramSettings) -> Result<(), &'static str> {
        let changed = |old: &CurrentSettings| match old.settings.fixed_difference(&new) {
            Some(key) => Err(key),
            None => Ok(old.followed_by(new.clone(), self.key)),
        };
        self.pool.reconfigure(changed)?;
        Ok(())
    }

    /// The address of the server of a slot.
    pub fn server(&self, slot: Slot) -> Option<SocketAddr> {
        Some(self.pool.members.get(slot)?.addr)
    }

    /// The queue length of the server of a slot: requests or flows.
    pub fn queue(&self, slot: Slot) -> u32 {
        self.pool.tree.len(slot)
    }

    /// The last liveness signal of the server of a slot; [`Instant::ZERO`] without one.
    pub fn heard_at(&self, slot: Slot) -> Instant {
        self.signals[slot.index()].alive_at()
    }

    /// Whether a server can be selected, even if only as a last resort.
    pub fn can_serve(&self) -> bool {
        self.pool.can_serve()
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pool's protocol.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The number of worker threads.
    pub fn worker_count(&self) -> usize {
        self.worker_count
    }

    /// Whether datagrams to servers carry the client's address in a header.
    pub fn tells_client(&self) -> bool {
        self.tells_client
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::bench::{settings, wanted};
    use super::*;

    #[test]
    fn what_was_noticed_is_told_once() {
        let signals = Signals::default();
        let take = || signals.take(Instant::ZERO);
        assert_eq!(take(), Noticed::default());
        signals.lose();
        signals.lose();
        signals.note_refusal();
        signals.note_loop();
        signals.count(3, 2);
        let noticed = Noticed { lost: 2, refused: true, looped: true, ..Noticed::default() };
        assert_eq!((take(), signals.take_counts()), (noticed, (3, 2)));
        assert_eq!((take(), signals.take_counts()), (Noticed::default(), (0, 0)));
    }

    #[test]
    fn unanswered_requests_add_up_until_the_server_answers() {
        let (signals, now) = (Signals::default(), Instant::from_nanos(5));
        signals.note_unanswered(1);
        assert_eq!(signals.take(Instant::ZERO).unanswered, 1);
        signals.note_unanswered(2);
        assert_eq!(signals.take(Instant::ZERO).unanswered, 3);
        signals.hear(now);
        assert_eq!(signals.take(Instant::ZERO), Noticed { alive_at: now, ..Noticed::default() });
        signals.note_unanswered(1);
        assert_eq!(signals.take(now).unanswered, 1);
    }

    #[test]
    fn one_server_at_a_time_waits_for_a_trial_and_one_request_takes_it() {
        let shared = DatagramShared::new(settings(Protocol::Dns), 1, [1; 16]);
        let [a, b] = [0, 3].map(Slot::new);
        assert_eq!(shared.take_trial(), None);
        assert!(shared.ask_for_trial(a) && !shared.ask_for_trial(b));
        shared.cancel_trial(b);
        assert_eq!((shared.take_trial(), shared.take_trial()), (Some(a), None));
        assert!(shared.ask_for_trial(b));
        shared.cancel_trial(b);
        assert_eq!(shared.take_trial(), None);
    }

    #[test]
    fn the_newest_wish_counts() {
        let shared = DatagramShared::new(settings(Protocol::Dns), 1, [1; 16]);
        let wish = |server: u16| Some(Wish { servers: wanted([server]), moved: vec![] });
        shared.want(wanted([1]));
        shared.want(wanted([2]));
        assert_eq!(shared.take_wanted(), wish(2));
        shared.want_still(wanted([2]));
        assert_eq!(shared.take_wanted(), wish(2));
        shared.want(wanted([3]));
        shared.want_still(wanted([2]));
        assert_eq!((shared.take_wanted(), shared.take_wanted()), (wish(3), None));
    }

    #[test]
    fn what_has_moved_is_told_with_the_next_wish_that_is_taken() {
        let shared = DatagramShared::new(settings(Protocol::Dns), 1, [1; 16]);
        let addr = |server: u16| wanted([server])[0].addr;
        shared.want_moved(wanted([2]), &[addr(1)]);
        shared.want_moved(wanted([3]), &[addr(2)]);
        shared.want(wanted([3]));
        let moved = vec![addr(1), addr(2)];
        assert_eq!(shared.take_wanted(), Some(Wish { servers: wanted([3]), moved }));
        shared.want(wanted([3]));
        assert_eq!(shared.take_wanted().map(|wish| wish.moved), Some(vec![]));
    }
}
