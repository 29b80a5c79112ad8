//! The primary worker's part of a pool, the same for every kind: servers by slot, health events, an
//! operator's orders, departed servers, the selection tree's leaves with their costs, slow start, the
//! adaptive limit and events.
//!
//! A role senses how its servers live (reports and probes; checks, timeouts and ICMP) and which servers
//! there are (registrations; the configuration). It gives the primary health events, and servers that join
//! and leave. What the primary publishes goes to the pool's shared state, a [`Pool`]. It never sees a frame,
//! a datagram, a socket or a clock.

mod comparison;

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::time::Instant;
use crate::pool::concurrency::AdaptiveLimit;
use crate::pool::departed::Identity;
use crate::pool::event::{Event, EventQueue};
use crate::pool::health::{self, Census, Health, Limits, Rules, State, leaf_of};
use crate::pool::members::{Member, View};
use crate::pool::order::{Order, Refused};
use crate::pool::outlier::{Outliers, Verdict};
use crate::pool::registry::{Registry, Server};
use crate::pool::select::{LeafState, PolicyKind, SHARE_ALL, Slot, cost_of};
use crate::pool::shared::{PoolSettings, PoolShared, is_selectable};
use crate::pool::slow_start::{self, SlowStart};
use crate::pool::slowness::{self, Slowness};
use crate::pool::stats::ServerStats;
use crate::pool::waiting::Limit;

/// Why a server's state changes when an operator orders it.
const ORDERED: &str = "order of an operator";

/// The shortest time between two reports that a server is suspect. A suspicion may come and go many times a
/// second, and any client can cause one.
const SUSPICION_PAUSE: Duration = Duration::from_secs(10);

/// What was reported of the state of a slot's server.
#[derive(Clone, Debug, Default)]
struct Reported {
    /// The state that was reported last. Meaningful only with `reason`.
    state: Option<State>,
    /// The reason of a state that was not reported.
    reason: Option<Cow<'static, str>>,
    /// The time from which on a suspicion may be reported.
    suspicion_at: Instant,
}

/// The shared state of one kind of pool, and what that kind has besides the common part.
pub trait Pool {
    /// What only this kind of pool knows of a server.
    type Extra;
    /// What its workers must know of a member besides address and epoch.
    type Member: Copy + PartialEq + Debug;
    /// The client of a queued request.
    type Client: Copy;
    /// The pool's settings.
    type Settings: PoolSettings;

    /// What a pool of any kind has.
    fn shared(&self) -> &PoolShared<Self::Member, Self::Client, Self::Settings>;

    /// A worker's counters of a slot. The gauges are in the primary's.
    fn stats(&self, worker: usize, slot: Slot) -> &ServerStats;

    /// Tells the server from those that had its slot before.
    fn epoch(extra: &Self::Extra) -> u32;

    /// What the workers must know of a server whose leaf has this state.
    fn member(server: &Server<Self::Extra>, leaf: LeafState) -> Self::Member;

    /// Whether a server that is down may still serve: only its health checks speak against it. Such a server
    /// is used when no better one is left.
    fn may_serve(server: &Server<Self::Extra>) -> bool {
        let _ = server;
        false
    }

    /// A slot has another server, or none, or its server has changed.
    fn on_server(&self, slot: Slot, server: Option<&Server<Self::Extra>>) {
        let _ = (slot, server);
    }

    /// A server's state has changed.
    fn on_state(&self, now: Instant, slot: Slot, server: &mut Server<Self::Extra>) {
        let _ = (now, slot, server);
    }
}

/// Settings of a primary. They may change between two turns.
#[derive(Clone, Copy, Debug)]
pub struct PrimarySettings {
    /// How servers are judged.
    pub rules: Rules,
    /// How a server is selected.
    pub policy: PolicyKind,
    /// Maximum outstanding requests per server; `None`: no limit.
    pub max_outstanding: Option<Limit>,
    /// The state of a server that joins, or is enabled.
    pub first_state: State,
    /// Whether servers that are down are used when no other server is left: the pool cannot refuse a request.
    pub cannot_refuse: bool,
}

/// Which servers are used besides those that are up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    /// All servers: more than `down_max` are down or held.
    fails_open: bool,
    /// As a last resort, those that are down.
    down_is_left: bool,
    /// As a last resort, those that are down and may still serve ([`Pool::may_serve`]).
    unproven_is_left: bool,
}

impl Usage {
    /// The leaf of a server in this state. `may_serve`: nothing but checks speaks against it.
    fn leaf(self, state: State, may_serve: bool) -> LeafState {
        match state {
            State::Down if self.down_is_left || self.unproven_is_left && may_serve => LeafState::LastResort,
            state => leaf_of(state, self.fails_open),
        }
    }
}

/// The primary worker's state of a pool.
pub struct Primary<P: Pool> {
    pool: Arc<P>,
    settings: PrimarySettings,
    registry: Registry<P::Extra>,
    events: EventQueue,
    reported: Box<[Reported]>,
    census: Census,
    usage: Usage,
    slow_start: SlowStart,
    limit: AdaptiveLimit,
    slowness: Slowness,
    outliers: Outliers,
    /// Memory for their verdicts.
    verdicts: Vec<(Slot, Verdict)>,
    /// Servers, by slot, that get requests only if no better server is left, since theirs fail.
    avoided: Box<[bool]>,
}

impl<P: Pool> Primary<P> {
    /// The primary of a pool without servers. `identity` makes a returning server the same one.
    pub fn new(pool: Arc<P>, settings: PrimarySettings, identity: Identity, now: Instant) -> Self {
        let slots = pool.shared().tree.slot_count();
        let mut slowness = Slowness::new(slots);
        slowness::choose(&mut slowness, settings.policy, |slot| &pool.stats(0, slot).served);
        Primary {
            registry: Registry::new(slots, identity),
            events: EventQueue::default(),
            reported: vec![Reported::default(); slots].into(),
            census: Census::default(),
            usage: Usage::default(),
            slow_start: SlowStart::default(),
            limit: AdaptiveLimit::of(now, settings.max_outstanding),
            slowness,
            outliers: Outliers::new(slots),
            verdicts: Vec::with_capacity(slots),
            avoided: vec![false; slots].into(),
            settings,
            pool,
        }
    }

    /// Adopts other settings. `limits` gives those of a server.
    pub fn adopt(&mut self, now: Instant, settings: PrimarySettings, limits: impl Fn(&P::Extra) -> Limits) {
        self.settings = settings;
        self.limit.set(now, settings.max_outstanding);
        let pool = &self.pool;
        slowness::choose(&mut self.slowness, settings.policy, |slot| &pool.stats(0, slot).served);
        for (_, server) in self.registry.iter_mut() {
            server.limits = limits(&server.extra);
        }
        self.publish_all(now); // another share of them may be down now, and slow for another time
    }

    /// The present settings.
    pub fn settings(&self) -> &PrimarySettings {
        &self.settings
    }

    /// The servers.
    pub fn registry(&self) -> &Registry<P::Extra> {
        &self.registry
    }

    /// The servers. [`Primary::publish_all`] must follow a change of a state, a weight or what workers must
    /// know.
    pub fn registry_mut(&mut self) -> &mut Registry<P::Extra> {
        &mut self.registry
    }

    /// The adaptive limit at present, if `max_outstanding` is `auto`.
    pub fn limit(&self) -> Option<u32> {
        self.limit.limit()
    }

    /// The oldest event that was not fetched yet.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// Appends an event.
    pub fn report(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Samples what changes with time: the adaptive limit, service times, slow starts. Called at every tick.
    pub fn on_tick(&mut self, now: Instant) {
        for slot in self.registry.slots() {
            self.report_state(now, slot);
        }
        let Primary { pool, registry, slowness, .. } = self;
        let PoolShared { tree, finished, pending, .. } = pool.shared();
        self.limit.sample(now, tree, finished.iter(), !pending.is_empty());
        let served = |worker: usize, slot: Slot| &pool.stats(worker, slot).served;
        let identity = |slot| registry.get(slot).map(|server| P::epoch(&server.extra).into());
        if slowness::sample(slowness, now, finished.len(), served, identity) {
            self.registry.slots().for_each(|slot| self.write_leaf(now, slot));
        } else {
            for slot in self.registry.slots() {
                if self.registry.get(slot).is_some_and(|server| server.slow_since.is_some()) {
                    self.write_leaf(now, slot);
                }
            }
        }
    }

    /// A server joins. It may have taken the slot of another registration.
    pub fn join(&mut self, now: Instant, slot: Slot, server: Server<P::Extra>) {
        let (id, addr) = (server.id, server.addr);
        let before = self.state(slot);
        self.registry.put(slot, server);
        self.avoided[slot.index()] = false;
        self.reported[slot.index()] = Reported::default();
        self.census.shift(before, self.state(slot));
        self.begin_slowly(now, slot);
        self.events.push(Event::Joined { id, addr });
        self.publish(now, slot);
    }

    /// A server is about to leave: it gets no more requests, and finishes those that it has.
    pub fn leave(&mut self, now: Instant, slot: Slot, reason: &'static str) {
        let Some(server) = self.registry.get_mut(slot) else { return };
        if !std::mem::replace(&mut server.is_leaving, true) {
            self.apply(now, slot, health::HealthEvent::Drain, reason);
            self.publish(now, slot); // also if the operator had drained it before
        }
    }

    /// A server that was about to leave stays. It is like one that has returned.
    pub fn stay(&mut self, now: Instant, slot: Slot, reason: &'static str) {
        let first = self.settings.first_state;
        let Some(server) = self.registry.get_mut(slot) else { return };
        if std::mem::take(&mut server.is_leaving) {
            let health = server.past().health(first, now);
            self.set_health(now, slot, health, reason);
        }
    }

    /// Removes a server from its slot. Its failures and orders are kept.
    pub fn remove(&mut self, now: Instant, slot: Slot, reason: &'static str) -> Option<Server<P::Extra>> {
        let server = self.registry.remove(slot)?;
        self.reported[slot.index()] = Reported::default();
        self.census.shift(Some(server.state()), None);
        self.events.push(Event::Left { id: server.id, addr: server.addr, reason });
        self.publish(now, slot);
        Some(server)
    }

    /// The pool has had servers before, in another process: those that come up now begin slowly.
    pub fn had_servers(&mut self) {
        self.slow_start.begin(Instant::ZERO, Duration::ZERO);
    }

    /// Applies an event to a server's health. Publishes the server if its state changes.
    pub fn apply(&mut self, now: Instant, slot: Slot, event: health::HealthEvent, reason: &'static str) {
        let Some(server) = self.registry.get_mut(slot) else { return };
        let (before, limits) = (server.state(), server.limits);
        server.health.on_event(now, event, &limits);
        if server.state() != before {
            self.on_state(now, slot, before, reason);
        }
    }

    /// Carries out an operator's order about the server with this id. The order is kept for a server that has
    /// left; an id that never was in the pool is refused.
    pub fn order(&mut self, now: Instant, id: u32, order: Order) -> Result<(), Refused> {
        let order = order.check()?;
        let first = self.settings.first_state;
        let Some(slot) = self.registry.slot_of(id) else { return self.registry.departed.order(id, order) };
        let server = self.registry.get_mut(slot).expect("it was found there");
        server.admin.note(order);
        let event = match order {
            Order::Weight(weight) => {
                server.weight = weight;
                self.publish(now, slot);
                return Ok(());
            }
            Order::Enable
                if !server.is_leaving
                    && matches!(server.health.state(), State::Draining | State::Disabled) =>
            {
                self.set_health(now, slot, Health::new(first, now), ORDERED);
                return Ok(());
            }
            Order::Enable if server.is_leaving => health::HealthEvent::Drain,
            Order::Enable => health::HealthEvent::Enable,
            Order::Drain => health::HealthEvent::Drain,
            Order::Disable => health::HealthEvent::Disable,
        };
        self.apply(now, slot, event, ORDERED);
        Ok(())
    }

    fn set_health(&mut self, now: Instant, slot: Slot, health: Health, reason: &'static str) {
        let Some(server) = self.registry.get_mut(slot) else { return };
        let before = server.state();
        (server.health, server.is_doubted) = (health, false);
        self.avoided[slot.index()] = false;
        self.outliers.forget(slot);
        self.on_state(now, slot, before, reason);
    }

    /// What took some servers out of service no longer counts: they are up, unless they are held down. All of
    /// them change before any is published, so that the pool does not fail open in between.
    pub fn restore(
        &mut self,
        now: Instant,
        reason: &'static str,
        is_one: impl Fn(Slot, &Server<P::Extra>) -> bool,
    ) {
        for slot in self.registry.slots() {
            let Some(server) = self.registry.get_mut(slot).filter(|server| is_one(slot, server)) else {
                continue;
            };
            let before = server.state();
            server.health = Health::with_record(State::Up, server.health.record().clone(), now);
            self.pool.on_state(now, slot, server);
            self.report_change(now, slot, before, reason.into());
            self.begin_slowly(now, slot);
        }
        self.publish_all(now);
    }

    /// Notes whether a server's requests fail far more often than those of its peers.
    pub fn doubt(&mut self, now: Instant, slot: Slot, is_doubted: bool, reason: String) {
        let Some(server) = self.registry.get_mut(slot) else { return };
        let before = server.state();
        server.is_doubted = is_doubted;
        if server.state() != before {
            self.on_state(now, slot, before, reason);
        }
    }

    /// A server has another state: reports and publishes it.
    fn on_state(&mut self, now: Instant, slot: Slot, before: State, reason: impl Into<Cow<'static, str>>) {
        self.census.shift(Some(before), self.state(slot));
        self.begin_slowly(now, slot);
        let Some(server) = self.registry.get_mut(slot) else { return };
        self.pool.on_state(now, slot, server);
        let reason = match server.state() {
            State::Held => server.health.record().to_string().into(),
            _ => reason.into(),
        };
        self.report_change(now, slot, before, reason);
        self.publish(now, slot);
    }

    /// Reports that the state of a server was another one.
    fn report_change(&mut self, now: Instant, slot: Slot, before: State, reason: Cow<'static, str>) {
        let reported = &mut self.reported[slot.index()];
        if reported.reason.replace(reason).is_none() {
            reported.state = Some(before);
        }
        self.report_state(now, slot);
    }

    /// Reports the state of a server if it is another one than was reported. A suspicion waits, if one was
    /// reported in the last ten seconds.
    fn report_state(&mut self, now: Instant, slot: Slot) {
        let (reported, Some(server)) = (&mut self.reported[slot.index()], self.registry.get(slot)) else {
            return;
        };
        let (id, addr, state) = (server.id, server.addr, server.state());
        let is_new = reported.state != Some(state);
        if is_new && state == State::Suspect && now < reported.suspicion_at {
            return;
        }
        let Some(reason) = reported.reason.take().filter(|_| is_new) else { return };
        if state == State::Suspect {
            reported.suspicion_at = now + SUSPICION_PAUSE;
        }
        self.events.push(Event::State { id, addr, state, reason });
    }

    /// Begins the slow start of a server that has been up since this moment.
    fn begin_slowly(&mut self, now: Instant, slot: Slot) {
        let span = self.settings.rules.slow_start;
        let Some(server) = self.registry.get_mut(slot) else { return };
        if server.health.state() == State::Up && server.health.record().up_since() == now {
            server.slow_since = self.slow_start.begin(now, span);
        }
    }

    fn state(&self, slot: Slot) -> Option<State> {
        self.registry.get(slot).map(Server::state)
    }

    fn recount(&self) -> Census {
        Census::of(self.registry.iter().map(|(_, server)| server.state()))
    }

    fn usage_now(&self) -> Usage {
        let Census { up, suspect, held, down } = self.census;
        Usage {
            fails_open: self.census.fails_open(self.settings.rules.down_max),
            down_is_left: self.settings.cannot_refuse && up + suspect + held == 0,
            unproven_is_left: up + suspect + held == 0 && down > 0,
        }
    }

    /// Publishes a server whose state, weight, address or [`Pool::may_serve`] has changed. It may change
    /// which of the others are used.
    pub fn publish(&mut self, now: Instant, slot: Slot) {
        if self.settle_usage() {
            self.registry.slots().for_each(|slot| self.write(now, slot));
        } else {
            self.write(now, slot);
        }
        self.publish_usable();
    }

    /// Publishes all servers.
    pub fn publish_all(&mut self, now: Instant) {
        self.census = self.recount();
        self.settle_usage();
        self.registry.slots().for_each(|slot| self.write(now, slot));
        self.publish_usable();
    }

    /// Whether other servers are used now.
    fn settle_usage(&mut self) -> bool {
        let usage = self.usage_now();
        let before = std::mem::replace(&mut self.usage, usage);
        if before.fails_open != usage.fails_open {
            self.events.push(Event::FailOpen(usage.fails_open));
        }
        before != usage
    }

    fn publish_usable(&self) {
        self.pool.shared().usable.store(self.usable(), Ordering::Relaxed);
    }

    /// Servers that may be selected, last resorts included.
    fn usable(&self) -> u32 {
        let Census { up, suspect, held, down } = self.census;
        let Usage { fails_open, down_is_left, unproven_is_left } = self.usage;
        let usable_down = match fails_open || down_is_left {
            true => down,
            false if unproven_is_left => self.unproven(),
            false => 0,
        };
        up + suspect + held + usable_down
    }

    /// Servers that are down and may still serve.
    fn unproven(&self) -> u32 {
        let is_unproven = |server: &Server<P::Extra>| server.state() == State::Down && P::may_serve(server);
        self.registry.iter().filter(|(_, server)| is_unproven(server)).count() as u32
    }

    /// Writes the leaf of a slot, its member and its gauges.
    fn write(&mut self, now: Instant, slot: Slot) {
        let (leaf, cost) = self.leaf(now, slot);
        let server = self.registry.get(slot);
        let pool = &self.pool;
        pool.shared().set_member(slot, server.map(|server| member_of::<P>(server, leaf)), leaf, cost);
        pool.on_server(slot, server);
        let (id_plus_one, state) =
            server.map_or((0, 0), |server| (u64::from(server.id) + 1, server.state() as u64));
        let gauges = pool.stats(0, slot);
        if (gauges.id_plus_one.get(), gauges.state.get()) != (id_plus_one, state) {
            gauges.since.set(now.as_nanos());
        }
        gauges.id_plus_one.set(id_plus_one);
        gauges.state.set(state);
        gauges.weight.set(server.map_or(0, |server| u64::from(server.weight)));
    }

    /// Writes the leaf of a server whose cost has changed, and nothing else.
    fn write_leaf(&mut self, now: Instant, slot: Slot) {
        let (leaf, cost) = self.leaf(now, slot);
        self.pool.shared().tree.set(slot, leaf, cost);
    }

    /// State and cost of a slot's leaf. Ends a slow start whose time is over.
    fn leaf(&mut self, now: Instant, slot: Slot) -> (LeafState, u16) {
        let span = self.settings.rules.slow_start;
        let Some(server) = self.registry.get_mut(slot) else { return (LeafState::Absent, 1) };
        let share = server.slow_since.and_then(|since| slow_start::share(since, now, span));
        if share.is_none() {
            server.slow_since = None;
        }
        let cost = cost_of(server.weight, share.unwrap_or(SHARE_ALL), self.slowness.slowness(slot));
        (leaf_state::<P>(self.usage, server, self.avoided[slot.index()]), cost)
    }

    /// Panics, with the numbers, if what must hold between two turns does not. `view` is the primary's.
    pub fn check_invariants(&self, view: &View<P::Member>) {
        self.registry.check_invariants();
        let shared = self.pool.shared();
        shared.tree.check_invariants();
        shared.pending.check_invariants();
        let (census, usage) = (self.recount(), self.usage);
        assert_eq!(self.census, census, "servers by state");
        assert_eq!(usage, self.usage_now(), "{census:?}");
        let leaves = self.registry.slots().map(|slot| shared.tree.state_and_cost(slot).0);
        let usable = leaves.filter(|leaf| is_selectable(*leaf)).count() as u32;
        let counted = (self.usable(), shared.usable.load(Ordering::Relaxed));
        assert_eq!(counted, (usable, usable), "usable servers, {census:?}, {usage:?}");
        for slot in self.registry.slots() {
            let (leaf, cost) = shared.tree.state_and_cost(slot);
            let gauges = self.pool.stats(0, slot);
            let shown = [gauges.id_plus_one.get(), gauges.state.get(), gauges.weight.get()];
            let (published, copied) = (shared.members.get(slot), view.get(slot).copied());
            let member = self.registry.get(slot).map(|server| member_of::<P>(server, leaf));
            assert_eq!((published, copied), (member, member), "slot {}: the member", slot.index());
            let Some(server) = self.registry.get(slot) else {
                assert_eq!((leaf, shown), (LeafState::Absent, [0; 3]), "slot {} is free", slot.index());
                continue;
            };
            let Server { id, weight, slow_since, .. } = *server;
            let state = server.state();
            let at = format!("slot {}: server {id}, {state:?}, {usage:?}", slot.index());
            let is_avoided = self.avoided[slot.index()];
            assert_eq!(
                leaf,
                leaf_state::<P>(usage, server, is_avoided),
                "{at}, avoided {is_avoided}: the leaf"
            );
            assert_eq!(shown, [u64::from(id) + 1, state as u64, u64::from(weight)], "{at}: the gauges");
            let whole = cost_of(weight, SHARE_ALL, self.slowness.slowness(slot));
            let fits = if slow_since.is_some() { cost >= whole } else { cost == whole };
            assert!(fits, "{at}: costs {cost}, with its whole share {whole}, slow since {slow_since:?}");
        }
    }
}

/// The state of a server's leaf.
fn leaf_state<P: Pool>(usage: Usage, server: &Server<P::Extra>, is_avoided: bool) -> LeafState {
    match usage.leaf(server.state(), P::may_serve(server)) {
        LeafState::Eligible if is_avoided => LeafState::LastResort,
        leaf => leaf,
    }
}

/// A server whose leaf has this state, as the workers know it.
pub fn member_of<P: Pool>(server: &Server<P::Extra>, leaf: LeafState) -> Member<P::Member> {
    Member { addr: server.addr, epoch: P::epoch(&server.extra), extra: P::member(server, leaf) }
}

#[cfg(test)]
mod tests;
