//! What the workers of a pool share. On the data path it is changed through atomics only.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_utils::CachePadded;
use serde::{Deserialize, Serialize};

use super::members::{Member, Members};
use super::settings::{ProxyProtocol, Settings, Speaks};
use crate::access::{Access, Sketch};
use crate::select::{Chooser, Slot, Tree};
use crate::stats::{RelayStats, TcpStats};
use crate::time::Instant;

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

/// A server that the pool shall have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Where it is.
    pub addr: SocketAddr,
    /// Its id in logs and figures.
    pub id: u32,
    /// Its share relative to others, 1 to 100.
    #[serde(default = "usual_weight")]
    pub weight: u16,
}

fn usual_weight() -> u16 {
    1
}

/// One for all workers of a pool, and for its TCP side.
pub struct Shared {
    pub(super) settings: Settings,
    pub(super) seed: u64,
    pub(super) tree: Tree,
    pub(super) members: Members,
    pub(super) signals: Box<[CachePadded<Signals>]>,
    /// Who may send.
    pub access: Access,
    /// How much a source may send.
    pub sketch: Option<Sketch>,
    /// The slot of a server that waits for a request to prove itself on, plus one.
    trial: AtomicU32,
    /// The servers that the pool shall have, until the primary has seen to it.
    wanted: Mutex<Option<Vec<Wanted>>>,
    /// Servers that may be chosen, suspects included.
    pub(super) usable: AtomicU32,
    /// By worker; the gauges are in the primary's.
    pub stats: Box<[Arc<RelayStats>]>,
    /// Of its TCP side.
    pub tcp: TcpStats,
}

impl Shared {
    pub(super) fn new(settings: Settings, seed: u64, key: [u8; 16]) -> Self {
        let slots = settings.servers_max;
        Shared {
            tree: Tree::new(slots, settings.max_outstanding.unwrap_or(u32::MAX)),
            members: Members::new(slots),
            signals: (0..slots).map(|_| CachePadded::default()).collect(),
            access: Access::new(&settings.allow, &settings.deny),
            sketch: settings.rate_per_source.map(|rate| Sketch::per_second(rate, key)),
            trial: AtomicU32::new(0),
            wanted: Mutex::new(None),
            usable: AtomicU32::new(0),
            tcp: TcpStats::default(),
            stats: (0..settings.workers).map(|_| Arc::new(RelayStats::new(slots))).collect(),
            settings,
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

    /// Says which servers the pool shall have from now on. The primary sees to it within 200 ms.
    pub fn want(&self, servers: Vec<Wanted>) {
        *self.wanted.lock().expect("no panic while it is held") = Some(servers);
    }

    /// Keeps a wish that cannot be met yet, unless there is a newer one.
    pub(super) fn want_still(&self, servers: Vec<Wanted>) {
        self.wanted.lock().expect("no panic while it is held").get_or_insert(servers);
    }

    pub(super) fn take_wanted(&self) -> Option<Vec<Wanted>> {
        self.wanted.lock().expect("no panic while it is held").take()
    }

    /// Counts a connection up at a server that is chosen as a datagram's would be.
    pub fn open(&self, chooser: &mut Chooser) -> Option<(Slot, SocketAddr)> {
        self.opened(chooser.reserve(&self.tree).ok()?.slot)
    }

    /// The same at another server than these, whatever the policy: that with the shortest queue.
    pub fn open_elsewhere(&self, than: &[Slot]) -> Option<(Slot, SocketAddr)> {
        let tree = &self.tree;
        let others = (0..tree.slot_count()).map(Slot::new);
        let slot = others
            .filter(|slot| !than.contains(slot) && tree.is_choosable(*slot))
            .min_by_key(|&slot| (!tree.is_eligible(slot), tree.len(slot)))?;
        self.opened(tree.reserve_shorter(slot, slot).ok()?)
    }

    fn opened(&self, slot: Slot) -> Option<(Slot, SocketAddr)> {
        match self.members.get(slot) {
            Some(Member { addr, .. }) => Some((slot, addr)),
            None => {
                self.close(slot);
                None
            }
        }
    }

    /// Counts it down again.
    pub fn close(&self, slot: Slot) {
        self.tree.adjust(slot, -1);
    }

    /// A policy of the pool for whoever opens connections.
    pub fn chooser(&self) -> Chooser {
        Chooser::new(self.settings.policy, self.seed ^ 2)
    }

    /// Where the server of a slot is.
    pub fn server(&self, slot: Slot) -> Option<SocketAddr> {
        Some(self.members.get(slot)?.addr)
    }

    /// Requests or flows at the server of a slot, and TCP connections.
    pub fn queue(&self, slot: Slot) -> u32 {
        self.tree.len(slot)
    }

    /// Whether some server may be chosen, be it as a last resort.
    pub fn can_serve(&self) -> bool {
        self.usable.load(Ordering::Relaxed) > 0
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What it speaks.
    pub fn protocol(&self) -> Speaks {
        self.settings.protocol
    }

    /// Whether servers are told who the client is.
    pub fn tells_client(&self) -> bool {
        self.settings.proxy_protocol != ProxyProtocol::Off
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
        let shared = Shared::new(settings(Speaks::Dns), 1, [1; 16]);
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
        let shared = Shared::new(settings(Speaks::Dns), 1, [1; 16]);
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
