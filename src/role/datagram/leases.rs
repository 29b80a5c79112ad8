//! Leases: the client of each port and server. Pure.
//!
//! Only the server and the port tell a server's datagram apart, so at any time a *pair* of port and server
//! belongs to one client. When its lease ends, the pair is in quarantine (it rests), and still belongs to
//! that client: a late datagram reaches that client or is dropped. Another client can get the pair only
//! afterwards.
//!
//! ```text
//!   FRESH ──take──> BUSY ──rest──> RESTING ──time──> free to take, the longest rested first
//!                     ^               │                │
//!                     └── retake ─────┴────────────────┘   (by the same client, at any time)
//! ```
//!
//! Of the pairs that have rested, those of returning clients are taken last, unless they are more than half:
//! a flood of new clients does not displace returning ones.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::request::DatagramClient;
use crate::base::batch::SocketId;
use crate::base::time::Instant;
use crate::pool::select::Slot;

/// A port and a server, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair(u32);

impl Pair {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The owner of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub client: DatagramClient,
    /// The server: a client has one pair for each. `None` with affinity: a client has one pair in all.
    pub slot: Option<Slot>,
}

/// The end of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseEnd {
    /// All requests were answered.
    Answered,
    /// A request was not answered.
    Unanswered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeaseState {
    Fresh,
    Busy,
    Resting,
}

/// The queues of resting pairs, per server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PairRow {
    /// Answered; the client has not returned.
    Once,
    /// Unanswered.
    Unanswered,
    /// Answered; the client has returned before.
    Returning,
}

impl PairRow {
    const ALL: [PairRow; 3] = [PairRow::Once, PairRow::Unanswered, PairRow::Returning];
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    owner: Option<Owner>,
    state: LeaseState,
    row: PairRow,
    /// The end of the quarantine.
    until: Instant,
    returns: u32,
    next: u32,
    previous: u32,
}

/// The state of a pair for a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PairRecord {
    pub owner: Owner,
    /// The number of times for which its owner has taken it again.
    pub returns: u32,
    /// The row in which it rests, and until when; `None` while it has a lease.
    pub rest: Option<(PairRow, Instant)>,
}

const NONE: u32 = u32::MAX;

/// Pairs in the order in which they have rested.
#[derive(Clone, Copy, Debug)]
struct PairList {
    first: u32,
    last: u32,
    len: u32,
}

/// The fresh and the resting pairs of one server.
#[derive(Clone, Copy, Debug)]
struct ServerPairs {
    /// The number of fresh pairs taken in order, from the first port on.
    fresh: u32,
    busy: u32,
    lines: [PairList; 3],
}

/// The time after its quarantine for which the pair of a returning client is kept for that client.
const RETURNING_KEEP: Duration = Duration::from_secs(10);

/// The table.
pub(super) struct Leases {
    leases: Box<[Lease]>,
    lanes: Box<[ServerPairs]>,
    ports: u32,
    /// The port of the first lease: unknown to clients, since it depends on the key.
    first_port: u32,
    owners: HashMap<Owner, Pair, Keyed>,
}

impl Leases {
    /// A table for `ports` ports (per address family) and `slots` servers. `key` is random.
    pub fn new(ports: usize, slots: usize, key: [u8; 16]) -> Self {
        let lease = Lease {
            owner: None,
            state: LeaseState::Fresh,
            row: PairRow::Once,
            until: Instant::ZERO,
            returns: 0,
            next: NONE,
            previous: NONE,
        };
        let line = PairList { first: NONE, last: NONE, len: 0 };
        let pairs = ports * slots;
        Leases {
            leases: vec![lease; pairs].into(),
            lanes: vec![ServerPairs { fresh: 0, busy: 0, lines: [line; 3] }; slots].into(),
            ports: ports as u32,
            first_port: u32::from(u16::from_le_bytes([key[0], key[1]])) % (ports as u32).max(1),
            owners: owners(pairs, key),
        }
    }

    /// The present or last pair of this owner.
    pub fn of(&self, owner: &Owner) -> Option<Pair> {
        self.owners.get(owner).copied()
    }

    /// The pair of a port (by its number, from 0) and a server.
    pub fn pair(&self, port: u16, slot: Slot) -> Pair {
        Pair(slot.index() as u32 * self.ports + u32::from(port))
    }

    /// All pairs.
    pub fn pairs(&self) -> impl Iterator<Item = Pair> + use<> {
        (0..self.leases.len() as u32).map(Pair)
    }

    pub fn port(&self, pair: Pair) -> u16 {
        (pair.0 % self.ports) as u16
    }

    pub fn slot(&self, pair: Pair) -> Slot {
        Slot::new((pair.0 / self.ports) as usize)
    }

    /// The owner of a pair: of its lease, or of its last lease during the quarantine.
    pub fn owner(&self, now: Instant, pair: Pair) -> Option<&Owner> {
        let lease = &self.leases[pair.0 as usize];
        let is_owned =
            lease.state == LeaseState::Busy || (lease.state == LeaseState::Resting && now < lease.until);
        lease.owner.as_ref().filter(|_| is_owned)
    }

    pub fn is_busy(&self, pair: Pair) -> bool {
        self.leases[pair.0 as usize].state == LeaseState::Busy
    }

    /// Takes the owner's own pair again, even in its quarantine.
    pub fn retake(&mut self, pair: Pair) {
        let lease = &mut self.leases[pair.0 as usize];
        if lease.state == LeaseState::Busy {
            return;
        }
        lease.returns = lease.returns.saturating_add(1);
        self.unlink(pair.0);
        self.leases[pair.0 as usize].state = LeaseState::Busy;
        self.lanes[(pair.0 / self.ports) as usize].busy += 1;
    }

    /// Takes a pair of this server that is fresh or has rested: the pair of the port `hint` if it is free.
    /// `None` if there is no such pair.
    pub fn take(&mut self, now: Instant, owner: Owner, slot: Slot, hint: Option<u16>) -> Option<Pair> {
        let hinted = hint.map(|port| self.pair(port, slot)).filter(|&pair| self.is_free(now, pair));
        let pair = hinted.or_else(|| self.fresh(slot)).or_else(|| self.rested(now, slot))?;
        let lease = &mut self.leases[pair.0 as usize];
        if let Some(former) = lease.owner.replace(owner)
            && self.owners.get(&former) == Some(&pair)
        {
            self.owners.remove(&former); // else the former owner has another pair
        }
        let was = std::mem::replace(&mut lease.state, LeaseState::Busy);
        lease.returns = 0;
        if was == LeaseState::Resting {
            self.unlink(pair.0);
        }
        self.lanes[slot.index()].busy += 1;
        self.owners.insert(owner, pair);
        Some(pair)
    }

    /// Ends a lease: the pair is in quarantine for `rest`.
    pub fn rest(&mut self, now: Instant, pair: Pair, ended: LeaseEnd, rest: Duration) {
        let lease = &mut self.leases[pair.0 as usize];
        debug_assert_eq!(lease.state, LeaseState::Busy);
        lease.state = LeaseState::Resting;
        lease.row = match ended {
            LeaseEnd::Unanswered => PairRow::Unanswered,
            LeaseEnd::Answered if lease.returns > 0 => PairRow::Returning,
            LeaseEnd::Answered => PairRow::Once,
        };
        lease.until = now + rest;
        self.lanes[(pair.0 / self.ports) as usize].busy -= 1;
        self.link(pair.0);
    }

    /// The state of a pair for a successor: `None` if it is free.
    pub fn record(&self, now: Instant, pair: Pair) -> Option<PairRecord> {
        let lease = &self.leases[pair.index()];
        let owner = *self.owner(now, pair)?;
        let rest = (lease.state == LeaseState::Resting).then_some((lease.row, lease.until));
        Some(PairRecord { owner, returns: lease.returns, rest })
    }

    /// Continues a pair of a predecessor. False if it is not fresh, or if its owner has another pair. Of
    /// resting pairs, those that rest longer must come later.
    pub fn restore(&mut self, pair: Pair, record: &PairRecord) -> bool {
        let PairRecord { owner, returns, rest } = *record;
        let is_fresh = self.leases[pair.index()].state == LeaseState::Fresh;
        let is_known = self.owners.contains_key(&owner);
        if !is_fresh || is_known && rest.is_none() {
            return false;
        }
        if !is_known {
            self.owners.insert(owner, pair);
        }
        let lease = &mut self.leases[pair.index()];
        (lease.owner, lease.returns) = (Some(owner), returns);
        match rest {
            None => {
                lease.state = LeaseState::Busy;
                self.lanes[(pair.0 / self.ports) as usize].busy += 1;
            }
            Some((row, until)) => {
                (lease.state, lease.row, lease.until) = (LeaseState::Resting, row, until);
                self.link(pair.0);
            }
        }
        true
    }

    /// Has all fresh pairs of a server rest without an owner: datagrams for former owners may still arrive.
    pub fn rest_all(&mut self, slot: Slot, until: Instant) {
        for port in 0..self.ports {
            let pair = self.pair(port as u16, slot);
            let lease = &mut self.leases[pair.index()];
            if lease.state == LeaseState::Fresh {
                (lease.state, lease.row, lease.until) = (LeaseState::Resting, PairRow::Unanswered, until);
                self.link(pair.0);
            }
        }
    }

    /// The number of a server's pairs that rest unanswered.
    pub fn unanswered(&mut self, now: Instant, slot: Slot) -> usize {
        loop {
            let line = self.lanes[slot.index()].lines[PairRow::Unanswered as usize];
            match self.leases.get(line.first as usize) {
                Some(lease) if lease.until <= now => {
                    self.unlink(line.first);
                    self.leases[line.first as usize].row = PairRow::Once;
                    self.link(line.first);
                }
                _ => return line.len as usize,
            }
        }
    }

    /// The number of a server's pairs that have a lease.
    pub fn busy(&self, slot: Slot) -> usize {
        self.lanes[slot.index()].busy as usize
    }

    /// The number of a server's pairs whose lease has ended, in quarantine or after it.
    pub fn resting(&self, slot: Slot) -> usize {
        self.lanes[slot.index()].lines.iter().map(|line| line.len as usize).sum()
    }

    /// The owner of a pair that has a lease.
    pub fn busy_owner(&self, pair: Pair) -> Option<&Owner> {
        let lease = &self.leases[pair.0 as usize];
        lease.owner.as_ref().filter(|_| lease.state == LeaseState::Busy)
    }

    /// The number of pairs of one server.
    pub fn ports(&self) -> usize {
        self.ports as usize
    }

    /// Panics, with the numbers, unless each resting pair is in the one row of its server that it names, rows
    /// are in the order of their rest, each owner's newest pair is its own, and a busy pair is the newest of
    /// its owner.
    pub fn check_invariants(&self) {
        for (slot, lane) in self.lanes.iter().enumerate() {
            let mut linked = 0;
            for row in PairRow::ALL {
                let line = &lane.lines[row as usize];
                let (mut at, mut previous, mut until, mut len) = (line.first, NONE, Instant::ZERO, 0);
                while let Some(lease) = self.leases.get(at as usize) {
                    let is_here = (lease.state, lease.row) == (LeaseState::Resting, row);
                    assert!(
                        is_here,
                        "pair {at} of slot {slot} in row {row:?}: {:?}, {:?}",
                        lease.state, lease.row
                    );
                    assert_eq!(lease.previous, previous, "pair {at} of slot {slot} follows {previous}");
                    assert!(
                        lease.until >= until,
                        "pair {at} of slot {slot} has rested before the pair before it"
                    );
                    len += 1;
                    assert!(len <= line.len, "row {row:?} of slot {slot} has more than {} pairs", line.len);
                    (previous, at, until) = (at, lease.next, lease.until);
                }
                assert_eq!(
                    (line.last, line.len),
                    (previous, len),
                    "last and length of row {row:?} of slot {slot}"
                );
                linked += len;
            }
            let pairs = &self.leases[slot * self.ports as usize..][..self.ports as usize];
            let resting = pairs.iter().filter(|lease| lease.state == LeaseState::Resting).count();
            assert_eq!(linked as usize, resting, "{linked} pairs of slot {slot} in rows, {resting} resting");
            let busy = pairs.iter().filter(|lease| lease.state == LeaseState::Busy).count();
            assert_eq!(lane.busy as usize, busy, "busy pairs of slot {slot}");
        }
        for (owner, pair) in &self.owners {
            let of = &self.leases[pair.index()].owner;
            assert_eq!(of.as_ref(), Some(owner), "pair {} is {owner:?}'s by the index", pair.index());
        }
        for pair in self.pairs().filter(|&pair| self.is_busy(pair)) {
            let owner = self.leases[pair.index()].owner;
            let indexed = owner.and_then(|owner| self.of(&owner));
            assert_eq!(indexed, Some(pair), "the pair of {owner:?}, which has pair {}", pair.index());
        }
    }

    fn is_free(&self, now: Instant, pair: Pair) -> bool {
        let lease = &self.leases[pair.0 as usize];
        match lease.state {
            LeaseState::Fresh => true,
            LeaseState::Busy => false,
            LeaseState::Resting => lease.until <= now && lease.row != PairRow::Returning,
        }
    }

    /// The next fresh pair of the server.
    fn fresh(&mut self, slot: Slot) -> Option<Pair> {
        loop {
            let lane = &mut self.lanes[slot.index()];
            if lane.fresh == self.ports {
                return None;
            }
            let port = (self.first_port + lane.fresh) % self.ports;
            lane.fresh += 1;
            let pair = self.pair(port as u16, slot);
            if self.leases[pair.0 as usize].state == LeaseState::Fresh {
                return Some(pair); // else a hint took it
            }
        }
    }

    /// The pair of the server that has rested longest; a returning client's only if there is no other.
    fn rested(&self, now: Instant, slot: Slot) -> Option<Pair> {
        let lane = &self.lanes[slot.index()];
        PairRow::ALL.into_iter().find_map(|row| {
            let line = &lane.lines[row as usize];
            let first = self.leases.get(line.first as usize)?;
            let keep = if row == PairRow::Returning && line.len <= self.ports / 2 {
                RETURNING_KEEP
            } else {
                Duration::ZERO
            };
            (first.until + keep <= now).then_some(Pair(line.first))
        })
    }

    /// Appends a resting pair to its row. It rests at least as long as those before it.
    fn link(&mut self, index: u32) {
        let row = self.leases[index as usize].row;
        let line = &mut self.lanes[(index / self.ports) as usize].lines[row as usize];
        line.len += 1;
        let previous = std::mem::replace(&mut line.last, index);
        let mut earliest = Instant::ZERO;
        match self.leases.get_mut(previous as usize) {
            None => line.first = index,
            Some(previous) => {
                previous.next = index;
                earliest = previous.until;
            }
        }
        let lease = &mut self.leases[index as usize];
        lease.until = lease.until.max(earliest);
        (lease.previous, lease.next) = (previous, NONE);
    }

    /// Removes a resting pair from its row.
    fn unlink(&mut self, index: u32) {
        let Lease { row, next, previous, .. } = self.leases[index as usize];
        let line = &mut self.lanes[(index / self.ports) as usize].lines[row as usize];
        line.len -= 1;
        match previous {
            NONE => line.first = next,
            previous => self.leases[previous as usize].next = next,
        }
        match next {
            NONE => line.last = previous,
            next => self.leases[next as usize].previous = previous,
        }
    }
}

/// A map with twice as many entries as there are pairs, all faulted in: it never grows.
fn owners(pairs: usize, key: [u8; 16]) -> HashMap<Owner, Pair, Keyed> {
    let mut owners = HashMap::with_capacity_and_hasher(2 * pairs, Keyed(key));
    let owner = |number: usize| {
        let addr = SocketAddr::from((Ipv6Addr::from(number as u128), 0));
        Owner { client: DatagramClient { addr, front: SocketId(0), local: 0 }, slot: None }
    };
    for number in 0..owners.capacity() {
        owners.insert(owner(number), Pair(0));
    }
    owners.clear();
    owners
}

/// Hashes under a key, so that no sender can choose owners that collide.
#[derive(Clone, Copy)]
struct Keyed([u8; 16]);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::batch::SocketId;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const SLOTS: usize = 2;
    const MS: Duration = Duration::from_millis(1);
    const START: Instant = Instant::from_nanos(5_000_000_000);

    fn client(n: u16) -> DatagramClient {
        DatagramClient { addr: ([10, 0, 0, 1], 1_000 + n).into(), front: SocketId(0), local: 0 }
    }

    fn owner(n: u16, slot: usize) -> Owner {
        Owner { client: client(n), slot: Some(Slot::new(slot)) }
    }

    #[test]
    fn a_pair_is_its_port_and_its_server() {
        let leases = Leases::new(5, 3, [9; 16]);
        for slot in 0..3 {
            for port in 0..5 {
                let pair = leases.pair(port, Slot::new(slot));
                assert_eq!((leases.port(pair), leases.slot(pair)), (port, Slot::new(slot)));
            }
        }
    }

    #[test]
    fn without_ports_there_is_nothing_to_take() {
        let mut leases = Leases::new(0, 3, [9; 16]);
        assert_eq!(leases.take(START, owner(1, 2), Slot::new(2), None), None);
    }

    #[test]
    fn fresh_pairs_begin_at_a_port_that_the_key_decides() {
        let first = |key: u8| {
            let mut leases = Leases::new(64, 1, [key; 16]);
            let pair = leases.take(START, owner(1, 0), Slot::new(0), None).unwrap();
            leases.port(pair)
        };
        assert_ne!(first(1), first(2));
    }

    #[test]
    fn the_hint_is_followed_where_that_port_is_free() {
        let mut leases = Leases::new(4, 1, [0; 16]);
        let slot = Slot::new(0);
        let mut take = |n, hint| leases.take(START, owner(n, 0), slot, hint).map(|pair| leases.port(pair));
        assert_eq!(
            [take(1, Some(2)), take(2, Some(2)), take(3, None), take(4, None)],
            [2, 0, 1, 3].map(Some)
        );
        assert_eq!(take(5, Some(2)), None);
    }

    #[test]
    fn an_owner_with_a_newer_pair_keeps_that() {
        let mut leases = Leases::new(2, 1, [0; 16]);
        let flow = Owner { client: client(1), slot: None };
        let old = leases.take(START, flow, Slot::new(0), None).unwrap();
        leases.rest(START, old, LeaseEnd::Answered, MS);
        let new = leases.take(START, flow, Slot::new(0), None).unwrap();
        assert_eq!((leases.of(&flow), leases.owner(START, old)), (Some(new), Some(&flow)));
        let taken = leases.take(START + MS, owner(2, 0), Slot::new(0), None);
        assert_eq!((taken, leases.of(&flow)), (Some(old), Some(new)));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Take { client: u16, slot: usize, hint: Option<u16> },
        Rest { pair: usize, is_answered: bool },
        Unanswered(usize),
        Wait(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..6u16, 0..SLOTS, prop::option::of(0..2u16))
                .prop_map(|(client, slot, hint)| Op::Take { client, slot, hint }),
            4 => (any::<usize>(), any::<bool>())
                .prop_map(|(pair, is_answered)| Op::Rest { pair, is_answered }),
            1 => (0..SLOTS).prop_map(Op::Unanswered),
            3 => prop_oneof![8 => 0..60u64, 1 => 9_000..12_000u64].prop_map(Op::Wait),
        ]
    }

    /// A pair in the plainest form.
    #[derive(Clone, Copy, Default)]
    struct PlainPair {
        owner: Option<Owner>,
        is_busy: bool,
        until: Instant,
        returns: u32,
    }

    /// The rows of a server as queues: once, unanswered, returning.
    type PlainRows = [VecDeque<usize>; 3];

    fn join(plain: &mut [PlainPair], row: &mut VecDeque<usize>, pair: usize) {
        if let Some(&last) = row.back() {
            plain[pair].until = plain[pair].until.max(plain[last].until);
        }
        row.push_back(pair);
    }

    fn leave(rows: &mut PlainRows, pair: usize) {
        rows.iter_mut().for_each(|row| row.retain(|&other| other != pair));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// The table gives the pairs that queues would give; a busy or resting pair never has another owner.
        #[test]
        fn behaves_as_queues_of_pairs(ops in vec(op(), 1..120), ports in 1..5usize, key: [u8; 16]) {
            let mut leases = Leases::new(ports, SLOTS, key);
            let mut plain = vec![PlainPair::default(); ports * SLOTS];
            let mut rows: [PlainRows; SLOTS] = Default::default();
            let mut fresh: [VecDeque<usize>; SLOTS] = std::array::from_fn(|slot| {
                let first = usize::from(u16::from_le_bytes([key[0], key[1]]));
                (0..ports).map(|n| slot * ports + (first + n) % ports).collect()
            });
            let mut owners: HashMap<Owner, usize> = HashMap::new();
            let mut now = START;
            for (number, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Take { client, slot, hint } => {
                        let owner = owner(client, slot);
                        let own = owners.get(&owner).copied();
                        prop_assert_eq!(leases.of(&owner).map(Pair::index), own, "step {}", number);
                        if let Some(own) = own {
                            leases.retake(leases.of(&owner).unwrap());
                            if !plain[own].is_busy {
                                plain[own].returns += 1;
                                leave(&mut rows[slot], own);
                            }
                            plain[own].is_busy = true;
                            continue;
                        }
                        let rested = |pair: usize, keep: Duration| plain[pair].until + keep <= now;
                        let is_hintable = |pair: &usize| {
                            let is_returning = rows[slot][2].contains(pair);
                            fresh[slot].contains(pair)
                                || !plain[*pair].is_busy && rested(*pair, Duration::ZERO) && !is_returning
                        };
                        let hinted =
                            hint.map(|port| slot * ports + usize::from(port) % ports).filter(is_hintable);
                        let hint = hint.map(|port| port % ports as u16);
                        let of_rows = || {
                            let is_kept = rows[slot][2].len() <= ports / 2;
                            let keep = if is_kept { RETURNING_KEEP } else { Duration::ZERO };
                            let keeps = [Duration::ZERO, Duration::ZERO, keep];
                            let first = |(row, keep): (&VecDeque<usize>, Duration)| {
                                row.front().copied().filter(|&pair| rested(pair, keep))
                            };
                            rows[slot].iter().zip(keeps).find_map(first)
                        };
                        let expected = hinted.or_else(|| fresh[slot].front().copied()).or_else(of_rows);
                        let taken = leases.take(now, owner, Slot::new(slot), hint);
                        prop_assert_eq!(taken.map(Pair::index), expected, "step {}", number);
                        let Some(pair) = expected else { continue };
                        fresh[slot].retain(|&other| other != pair);
                        leave(&mut rows[slot], pair);
                        owners.retain(|_, other| *other != pair);
                        owners.insert(owner, pair);
                        plain[pair] = PlainPair { owner: Some(owner), is_busy: true, until: now, returns: 0 };
                    }
                    Op::Rest { pair, is_answered } => {
                        let pair = pair % plain.len();
                        if !plain[pair].is_busy {
                            continue;
                        }
                        let (ended, rest) = match is_answered {
                            true => (LeaseEnd::Answered, 20 * MS),
                            false => (LeaseEnd::Unanswered, 100 * MS),
                        };
                        leases.rest(now, Pair(pair as u32), ended, rest);
                        (plain[pair].is_busy, plain[pair].until) = (false, now + rest);
                        let row = if !is_answered { 1 } else { 2 * usize::from(plain[pair].returns > 0) };
                        join(&mut plain, &mut rows[pair / ports][row], pair);
                    }
                    Op::Unanswered(slot) => {
                        let has_rested = |plain: &[PlainPair], pair: usize| plain[pair].until <= now;
                        while rows[slot][1].front().is_some_and(|&pair| has_rested(&plain, pair)) {
                            let pair = rows[slot][1][0];
                            rows[slot][1].pop_front();
                            join(&mut plain, &mut rows[slot][0], pair);
                        }
                        let count = leases.unanswered(now, Slot::new(slot));
                        prop_assert_eq!(count, rows[slot][1].len(), "step {}", number);
                    }
                    Op::Wait(ms) => now += MS * ms as u32,
                }
                leases.check_invariants();
                for (pair, plain) in plain.iter().enumerate() {
                    let owner = plain.owner.filter(|_| plain.is_busy || now < plain.until);
                    prop_assert_eq!(leases.owner(now, Pair(pair as u32)), owner.as_ref(), "step {}", number);
                    prop_assert_eq!(leases.is_busy(Pair(pair as u32)), plain.is_busy, "step {}", number);
                }
            }
        }
    }
}
