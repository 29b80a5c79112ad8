//! What the workers of a pool share. On the data path it is changed through atomics only.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_utils::CachePadded;

use super::pending;
use super::request::Client;
use super::settings::{Protocol, ProxyProtocol, Settings};
use crate::base::time::Instant;
use crate::pool::access::{Access, Gate, Sketch};
use crate::pool::desired::DesiredServer;
use crate::pool::select::{Chooser, Slot, Tree};
use crate::pool::shared::{PoolSettings, PoolShared};
use crate::pool::stats::{DatagramStats, TcpStats};
use crate::pool::waiting::Limit;

/// What a worker must know of a server beside its address and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extra {
    /// Whether flows may stay at the server: it is neither down nor disabled, nor about to leave.
    pub keeps_flows: bool,
}

pub(super) type Member = crate::pool::members::Member<Extra>;

/// What the workers have noticed of a server, for the primary to judge.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Nanoseconds of the last valid answer.
    alive_at: AtomicU64,
    /// Requests that stayed unanswered since the primary last looked.
    lost: AtomicU32,
    /// It owes answers and is silent for far longer than any answer took.
    silent: AtomicBool,
    /// The network says that it is not there.
    refused: AtomicBool,
}

/// What the primary finds in [`Signals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Noticed {
    pub lost: u32,
    pub silent: bool,
    pub refused: bool,
}

impl Signals {
    pub fn hear(&self, now: Instant) {
        self.alive_at.store(now.as_nanos(), Ordering::Relaxed);
    }

    pub fn alive_at(&self) -> Instant {
        Instant::from_nanos(self.alive_at.load(Ordering::Relaxed))
    }

    pub fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    pub fn note_silence(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    pub fn note_refusal(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// What was noticed since the last call.
    pub fn take(&self) -> Noticed {
        let take = |flag: &AtomicBool| flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::Relaxed);
        let lost =
            if self.lost.load(Ordering::Relaxed) > 0 { self.lost.swap(0, Ordering::Relaxed) } else { 0 };
        Noticed { lost, silent: take(&self.silent), refused: take(&self.refused) }
    }
}

/// What may be replaced while the pool goes on.
#[derive(Debug)]
pub struct Current {
    pub settings: Arc<Settings>,
    pub gate: Gate,
}

impl Current {
    fn new(settings: Settings, key: [u8; 16]) -> Self {
        let sketch = settings.rate_per_source.map(|rate| sketch(rate, key));
        Current { gate: Gate { access: access(&settings), sketch }, settings: Arc::new(settings) }
    }

    /// What follows with other settings. What sources have used up stays used up, unless the rate is another.
    fn followed_by(&self, settings: Settings, key: [u8; 16]) -> Self {
        let (old, new) = (self.settings.rate_per_source, settings.rate_per_source);
        let sketch = if old == new { self.gate.sketch.clone() } else { new.map(|rate| sketch(rate, key)) };
        Current { gate: Gate { access: access(&settings), sketch }, settings: Arc::new(settings) }
    }
}

fn access(settings: &Settings) -> Arc<Access> {
    Arc::new(Access::new(&settings.allow, &settings.deny))
}

fn sketch(rate: f64, key: [u8; 16]) -> Arc<Sketch> {
    Arc::new(Sketch::per_second(rate, key))
}

impl PoolSettings for Current {
    fn servers_max(&self) -> usize {
        self.settings.servers_max
    }

    fn workers(&self) -> usize {
        self.settings.workers
    }

    fn max_outstanding(&self) -> Option<Limit> {
        self.settings.max_outstanding
    }
}

/// One for all workers of a datagram pool, and for its TCP side.
pub struct Shared {
    /// What a pool of any kind has.
    pub(super) pool: PoolShared<Extra, Client, Current>,
    /// Key of the sketches of sources.
    key: [u8; 16],
    pub(super) seed: u64,
    name: String,
    protocol: Protocol,
    tells_client: bool,
    /// For whoever opens connections.
    chooser: Mutex<Chooser>,
    pub(super) signals: Box<[CachePadded<Signals>]>,
    /// The slot of a server that waits for a request to prove itself on, plus one.
    trial: AtomicU32,
    /// The servers that the pool should have, until the primary has seen to it.
    wanted: Mutex<Option<Vec<DesiredServer>>>,
    /// By worker; the gauges are in the primary's.
    pub stats: Box<[Arc<DatagramStats>]>,
    /// Of its TCP side.
    pub tcp: TcpStats,
}

impl Shared {
    /// The selection tree, for inspection.
    pub fn tree(&self) -> &Tree {
        &self.pool.tree
    }

    pub(super) fn new(settings: Settings, seed: u64, key: [u8; 16]) -> Self {
        let slots = settings.servers_max;
        Shared {
            signals: (0..slots).map(|_| CachePadded::default()).collect(),
            key,
            name: settings.name.clone(),
            protocol: settings.protocol,
            tells_client: settings.proxy_protocol != ProxyProtocol::Off,
            chooser: Mutex::new(Chooser::new(settings.policy, seed ^ 2)),
            trial: AtomicU32::new(0),
            wanted: Mutex::new(None),
            tcp: TcpStats::default(),
            stats: (0..settings.workers).map(|_| Arc::new(DatagramStats::new(slots))).collect(),
            pool: {
                let pending = pending::pending_queue(&settings);
                PoolShared::new(Current::new(settings, key), pending)
            },
            seed,
        }
    }

    /// Asks for a request that this server may prove itself on. False while another server waits for one.
    pub(super) fn ask_for_trial(&self, slot: Slot) -> bool {
        let asked = slot.index() as u32 + 1;
        self.trial.compare_exchange(0, asked, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A server does not want one any more.
    pub(super) fn cancel_trial(&self, slot: Slot) {
        let asked = slot.index() as u32 + 1;
        let _ = self.trial.compare_exchange(asked, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The server that waits for a request; whoever gets it is the only one.
    pub(super) fn take_trial(&self) -> Option<Slot> {
        if self.trial.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let slot = self.trial.swap(0, Ordering::Relaxed).checked_sub(1)?;
        Some(Slot::new(slot as usize))
    }

    /// Sets the desired servers. The primary sees to it within 200 ms.
    pub fn want(&self, servers: Vec<DesiredServer>) {
        *self.wanted.lock().expect("no panic while it is held") = Some(servers);
    }

    /// Keeps a wish that cannot be met yet, unless there is a newer one.
    pub(super) fn want_still(&self, servers: Vec<DesiredServer>) {
        self.wanted.lock().expect("no panic while it is held").get_or_insert(servers);
    }

    pub(super) fn take_wanted(&self) -> Option<Vec<DesiredServer>> {
        self.wanted.lock().expect("no panic while it is held").take()
    }

    /// Counts a connection up at a server that is chosen as a datagram's would be.
    pub fn open(&self) -> Option<(Slot, SocketAddr)> {
        let reserved = self.chooser.lock().expect("no panic while it is held").reserve(&self.pool.tree);
        self.opened(reserved.ok()?.slot)
    }

    /// The same at another server than these, whatever the policy: that with the shortest queue.
    pub fn open_elsewhere(&self, than: &[Slot]) -> Option<(Slot, SocketAddr)> {
        let tree = &self.pool.tree;
        let others = (0..tree.slot_count()).map(Slot::new);
        let slot = others
            .filter(|slot| !than.contains(slot) && tree.is_choosable(*slot))
            .min_by_key(|&slot| (!tree.is_eligible(slot), tree.len(slot)))?;
        self.opened(tree.reserve_shorter(slot, slot).ok()?)
    }

    fn opened(&self, slot: Slot) -> Option<(Slot, SocketAddr)> {
        match self.pool.members.get(slot) {
            Some(Member { addr, .. }) => Some((slot, addr)),
            None => {
                self.close(slot);
                None
            }
        }
    }

    /// Counts it down again.
    pub fn close(&self, slot: Slot) {
        self.pool.release(slot);
    }

    /// The settings of the pool at present.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.pool.settings().settings)
    }

    /// Who is let in at present.
    pub fn gate(&self) -> Gate {
        self.pool.settings().gate.clone()
    }

    /// Goes on with these settings, which all workers find at their next turn. Refuses, with the key of the
    /// configuration within the pool, what takes a new pool.
    pub fn reconfigure(&self, new: Settings) -> Result<(), &'static str> {
        let changed = |old: &Current| match old.settings.fixed_difference(&new) {
            Some(key) => Err(key),
            None => Ok(old.followed_by(new.clone(), self.key)),
        };
        let current = self.pool.reconfigure(changed)?;
        self.chooser.lock().expect("no panic while it is held").set_policy(current.settings.policy);
        Ok(())
    }

    /// Where the server of a slot is.
    pub fn server(&self, slot: Slot) -> Option<SocketAddr> {
        Some(self.pool.members.get(slot)?.addr)
    }

    /// Requests or flows at the server of a slot, and TCP connections.
    pub fn queue(&self, slot: Slot) -> u32 {
        self.pool.tree.len(slot)
    }

    /// When the server of a slot was last heard of; [`Instant::ZERO`] if never.
    pub fn heard_at(&self, slot: Slot) -> Instant {
        self.signals[slot.index()].alive_at()
    }

    /// Whether some server may be chosen, be it as a last resort.
    pub fn can_serve(&self) -> bool {
        self.pool.can_serve()
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether servers are told who the client is.
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
        assert_eq!(signals.take(), Noticed::default());
        signals.lose();
        signals.lose();
        signals.note_silence();
        signals.note_refusal();
        assert_eq!(signals.take(), Noticed { lost: 2, silent: true, refused: true });
        assert_eq!(signals.take(), Noticed::default());
    }

    #[test]
    fn one_server_at_a_time_waits_for_a_trial_and_one_request_takes_it() {
        let shared = Shared::new(settings(Protocol::Dns), 1, [1; 16]);
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
        let shared = Shared::new(settings(Protocol::Dns), 1, [1; 16]);
        shared.want(wanted([1]));
        shared.want(wanted([2]));
        assert_eq!(shared.take_wanted(), Some(wanted([2])));
        shared.want_still(wanted([2]));
        assert_eq!(shared.take_wanted(), Some(wanted([2])));
        shared.want(wanted([3]));
        shared.want_still(wanted([2]));
        assert_eq!((shared.take_wanted(), shared.take_wanted()), (Some(wanted([3])), None));
    }
}
