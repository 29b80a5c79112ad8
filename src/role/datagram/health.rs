//! Which servers are up: the primary's part of a pool, on the table of [`crate::pool::health`].
//!
//! | what is noticed | what it means |
//! |---|---|
//! | a valid answer, to a client or to a check | proof of life: up (from down: `rise` in a row) |
//! | it owes answers and is silent for far longer than any took; an answer or a check is overdue; ICMP | a suspect: used if nobody better is left |
//! | a suspect leaves a check or a request unanswered, `fall` times in a row | down: not used |
//! | it was down or a suspect several times lately | held: used if nobody better is left, for longer each time; to go down then counts, where it is checked |
//! | more than `down_max` of the servers are down or held, some are up | fail open: all are used |
//! | no server is up, suspect or held, protocol `datagram` | those that are down are used: there is no other way to say no |
//!
//! Where servers are not checked, a suspect gets a request now and then to prove itself on, at growing intervals (of
//! DNS, a copy of one). Where they do not answer either (`replies: 0`), no news is good news.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::by_port::ANSWER_LATEST;
use super::checks::{Asked, Checker};
use super::forward::Forwarder;
use super::handover::{Known, KnownServer};
use super::settings::{Check, HealthCheck, Protocol, Settings};
use super::shared::{Extra, Member, Noticed};
use crate::base::batch::{SocketId, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::concurrency::AdaptiveLimit;
use crate::pool::departed::{Departed, PastRecord};
use crate::pool::desired::DesiredServer;
use crate::pool::event::{Event, EventQueue};
use crate::pool::health::leaf_of;
use crate::pool::health::{self, Census, Health, Limits, Rules, State};
use crate::pool::order::{AdminMode, AdminState, Order, Refused};
use crate::pool::select::{LeafState, SHARE_ALL, Slot, cost_of};
use crate::pool::shared::PoolShared;
use crate::pool::slow_start::{self, SlowStart};
use crate::pool::slowness;
use crate::pool::slowness::Slowness;

/// The longest time between two requests that a suspect may prove itself on.
const TRIAL_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A suspect is checked so many times as often.
const SUSPECT_FACTOR: u32 = 3;
/// So many servers that have left are remembered for each slot.
const REMEMBERED_PER_SLOT: usize = 4;
/// How often wishes for other servers are looked at, at least.
const LOOK: Duration = Duration::from_millis(200);

/// A server as the primary knows it.
struct Server {
    id: u32,
    addr: SocketAddr,
    weight: u16,
    generation: u32,
    health: Health,
    /// The last proof of life that was judged.
    heard_at: Instant,
    next_check: Instant,
    asked: Option<Asked>,
    next_trial: Instant,
    trial_pause: Duration,
    /// Since when it is up.
    up_since: Instant,
    /// Whether the pool shall have it. One that it shall not leaves when it has nothing more to do.
    is_wanted: bool,
    /// What an operator has said of it.
    standing: AdminState,
    /// Since when it has been getting less than its share, if it does: it has just come up.
    slow_since: Option<Instant>,
}

impl Server {
    /// What a request costs there: more than its weight says, as long as it has just come up, or if it takes longer than others.
    fn cost(&mut self, now: Instant, slow_start: Duration, slowness: u32) -> u16 {
        let share = self.slow_since.and_then(|since| slow_start::share(since, now, slow_start));
        if share.is_none() {
            self.slow_since = None;
        }
        cost_of(self.weight, share.unwrap_or(SHARE_ALL), slowness)
    }

    /// What shall be known of it when it comes back.
    fn kept(&self) -> PastRecord {
        PastRecord { standing: self.standing, record: self.health.record().clone() }
    }
}

/// Who had a slot last. Its ports may bring something late yet, so nobody else gets the slot before `until`; and so that
/// nothing late comes by what looks like another pair, the same server gets the same slot.
#[derive(Clone, Copy)]
struct Left {
    addr: SocketAddr,
    until: Instant,
}

/// What only worker 0 has.
pub(super) struct Primary {
    servers: Box<[Option<Server>]>,
    left: Box<[Option<Left>]>,
    /// What is known of servers that have left.
    remembered: Departed<SocketAddr>,
    /// How long a slot rests after its server has left.
    rest: Duration,
    checker: Checker,
    limits: Limits,
    settings: HealthCheck,
    is_one_way: bool,
    events: EventQueue,
    fails_open: bool,
    slow_start: SlowStart,
    /// The limit, where it is to be found.
    auto: AdaptiveLimit,
    delays: Slowness,
    last_generation: u32,
    next_look: Instant,
}

impl Primary {
    pub fn new(core: &Forwarder, secret: [u8; 16], now: Instant) -> Self {
        let settings = &core.settings;
        let check = settings.health.check.clone();
        let health = &settings.health;
        let mut delays = Slowness::new(settings.servers_max);
        slowness::choose(&mut delays, settings.policy, |slot| {
            &core.stats.servers[slot.index()].common.served
        });
        Primary {
            servers: (0..settings.servers_max).map(|_| None).collect(),
            left: vec![None; settings.servers_max].into(),
            remembered: Departed::new(settings.servers_max * REMEMBERED_PER_SLOT),
            rest: rest_of(settings),
            checker: Checker::new(check, settings.proxy_protocol, secret, core.shared.seed ^ 1),
            limits: limits_of(health),
            settings: health.clone(),
            is_one_way: settings.replies == Some(0),
            events: EventQueue::default(),
            fails_open: false,
            slow_start: SlowStart::default(),
            delays,
            last_generation: 0,
            auto: AdaptiveLimit::of(now, settings.max_outstanding),
            next_look: now,
        }
    }

    /// There are new settings.
    pub fn adopt(&mut self, core: &mut Forwarder, now: Instant) {
        let settings = &core.settings;
        if settings.health.check != self.settings.check {
            self.checker.set_check(settings.health.check.clone());
            self.forgive(); // what answers the old question answers nothing now
        }
        self.auto.set(now, settings.max_outstanding);
        slowness::choose(&mut self.delays, settings.policy, |slot| {
            &core.stats.servers[slot.index()].common.served
        });
        self.settings = settings.health.clone();
        self.limits = limits_of(&self.settings);
        self.rest = rest_of(settings);
        self.is_one_way = settings.replies == Some(0);
        for server in self.servers.iter_mut().flatten() {
            server.next_check = server.next_check.min(now + self.settings.interval);
        }
        self.publish(core, now); // another share of them may be down now
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// How often the server of a slot has failed of late.
    #[cfg(test)]
    pub fn failures(&self, slot: Slot) -> u32 {
        self.servers[slot.index()].as_ref().map_or(0, |server| server.health.record().failures())
    }

    /// When there is something to do without a datagram.
    pub fn next_deadline(&self) -> Instant {
        let checks = self.servers.iter().flatten().filter(|_| self.checker.is_active());
        let due = checks.map(|server| match server.asked {
            Some(asked) => asked.sent + self.settings.timeout,
            None => server.next_check,
        });
        due.fold(self.next_look, Instant::min)
    }

    /// Judges every server by what was noticed since the last tick, and asks those whose time has come.
    pub fn on_tick(&mut self, core: &mut Forwarder, now: Instant, tx: &mut Tx) {
        let PoolShared { tree, finished, pending, .. } = &core.shared.pool;
        self.auto.look(now, tree, finished.iter(), !pending.is_empty());
        if now >= self.next_look {
            self.next_look = now + LOOK;
            if let Some(wanted) = core.shared.take_wanted() {
                self.set_servers(core, now, wanted);
            }
        }
        if self.look_at_delays(core, now) || self.servers.iter().flatten().any(|s| s.slow_since.is_some()) {
            self.publish(core, now); // some get a little more, or less
        }
        for index in 0..self.servers.len() {
            let slot = Slot::new(index);
            let noticed = core.shared.signals[index].take();
            let alive_at = core.shared.signals[index].alive_at();
            if self.servers[index].is_none() {
                continue;
            }
            self.judge(core, now, slot, noticed, alive_at);
            self.look_after(core, now, slot, tx);
        }
    }

    /// Whether some server's cost is another now.
    fn look_at_delays(&mut self, core: &Forwarder, now: Instant) -> bool {
        let Primary { delays, servers, .. } = self;
        let stats = &core.shared.stats;
        let generation = |slot: Slot| Some(servers[slot.index()].as_ref()?.generation.into());
        slowness::look(
            delays,
            now,
            stats.len(),
            |worker, slot| &stats[worker].servers[slot.index()].common.served,
            generation,
        )
    }

    fn judge(&mut self, core: &mut Forwarder, now: Instant, slot: Slot, noticed: Noticed, alive_at: Instant) {
        let Some(server) = &mut self.servers[slot.index()] else { return };
        let state = server.health.state();
        let is_doubtful = state.is_doubtful();
        if state == State::Held && !server.health.record().is_held(now) {
            return self.apply(core, now, slot, health::Event::HoldOver, "it was held for long enough");
        }
        if alive_at > server.heard_at {
            server.heard_at = alive_at;
            if state == State::Down {
                // It needs more answers, and is likely to give them.
                server.trial_pause = self.settings.interval;
                server.next_trial = now + server.trial_pause;
            }
            return self.apply(core, now, slot, health::Event::Alive, "it answers");
        }
        let overdue = server.asked.filter(|asked| asked.sent + self.settings.timeout <= now);
        if overdue.is_some() {
            server.asked = None;
        }
        let timeout = core.settings.timeout;
        let is_quiet = |for_: Duration| now.since(alive_at) >= for_;
        let why = match noticed {
            _ if overdue.is_some_and(|asked| alive_at < asked.sent) => "it does not answer checks",
            Noticed { lost: 1.., .. } if is_quiet(timeout) => "it does not answer requests",
            Noticed { silent: true, .. } if !is_doubtful => "it owes answers and is silent",
            Noticed { refused: true, .. } if state == State::Up => "the network says that it is not there",
            _ => return,
        };
        let event = if is_doubtful { health::Event::ProbeLost } else { health::Event::Silent };
        self.apply(core, now, slot, event, why);
    }

    /// Asks a server whose time has come, or has it tried; forgets one that was taken out and has nothing left.
    fn look_after(&mut self, core: &mut Forwarder, now: Instant, slot: Slot, tx: &mut Tx) {
        let somebody_is_up = self.servers.iter().flatten().any(|s| s.health.state() == State::Up);
        let Some(server) = &mut self.servers[slot.index()] else { return };
        match server.health.state() {
            State::Draining => {
                if !server.is_wanted && core.shared.pool.tree.len(slot) == 0 {
                    self.remove(core, now, slot);
                }
            }
            State::Disabled => {}
            _ if self.checker.is_active() => {
                if server.asked.is_none() && now >= server.next_check {
                    self.check(core, now, slot, tx);
                }
            }
            State::Joining | State::Up => {
                if now.since(server.up_since) > server.trial_pause * 2 {
                    server.trial_pause = self.settings.interval;
                }
            }
            // It may not be used anyhow; unless there is nobody else, and then it is.
            State::Held => {}
            State::Down if server.health.record().is_held(now) && somebody_is_up => {}
            State::Suspect | State::Down => {
                // Where another server waits for a request, the next tick asks again.
                if now >= server.next_trial && (self.is_one_way || core.shared.ask_for_trial(slot)) {
                    server.next_trial = now + server.trial_pause;
                    server.trial_pause = (server.trial_pause * 2).min(TRIAL_PAUSE_MAX);
                    if self.is_one_way {
                        self.apply(core, now, slot, health::Event::Alive, "no news is good news");
                    }
                }
            }
        }
    }

    fn check(&mut self, core: &Forwarder, now: Instant, slot: Slot, tx: &mut Tx) {
        let Some(server) = &mut self.servers[slot.index()] else { return };
        let is_suspect = server.health.state() == State::Suspect;
        let pause = if is_suspect { self.settings.interval / SUSPECT_FACTOR } else { self.settings.interval };
        server.next_check = now + pause;
        let from = if server.addr.is_ipv4() { core.sockets.check_v4 } else { core.sockets.check_v6 };
        let Some(from) = from else { return };
        let destination = tx.destination(SocketId(from), server.addr, None);
        let staged = destination.and_then(|destination| tx.stage(destination, self.checker.len()));
        // A full turn is no loss: the next tick asks.
        match staged {
            Some(bytes) => server.asked = Some(self.checker.ask(now, bytes)),
            None => server.next_check = now,
        }
    }

    /// A datagram that came where checks are answered.
    pub fn on_check_answer(
        &mut self,
        core: &mut Forwarder,
        now: Instant,
        peer: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let slot = core.view.slot_of(peer).ok_or(DropReason::WrongSource)?;
        let server = self.servers[slot.index()].as_mut().ok_or(DropReason::WrongSource)?;
        let asked = server.asked.ok_or(DropReason::NotOpen)?;
        if !self.checker.is_answer(&asked, bytes) {
            return Err(DropReason::WrongQuestion);
        }
        server.asked = None;
        self.next_look = now; // so that it is judged at the next tick
        core.hear(now, slot);
        Ok(())
    }

    /// The balancer itself was away: what is overdue proves nothing.
    pub fn forgive(&mut self) {
        for server in self.servers.iter_mut().flatten() {
            server.asked = None;
        }
    }

    fn apply(
        &mut self,
        core: &mut Forwarder,
        now: Instant,
        slot: Slot,
        event: health::Event,
        why: &'static str,
    ) {
        let Some(server) = &mut self.servers[slot.index()] else { return };
        let Some(state) = server.health.on_event(now, event, &self.limits) else { return };
        match state {
            State::Up => server.up_since = now,
            State::Suspect => {
                server.next_check = now;
                server.next_trial = now + server.trial_pause;
            }
            _ => {}
        }
        let (id, addr) = (server.id, server.addr);
        let reason = match state {
            State::Held => server.health.record().to_string().into(),
            _ => why.into(),
        };
        self.come_up(now, slot);
        self.events.push(Event::State { id, addr, state, reason });
        self.publish(core, now);
    }

    /// A server's state has changed: if it is in service since this moment, it begins slowly.
    fn come_up(&mut self, now: Instant, slot: Slot) {
        let Some(server) = &mut self.servers[slot.index()] else { return };
        if server.health.state() == State::Up && server.health.record().up_since() == now {
            server.slow_since = self.slow_start.begin(now, self.settings.rules.slow_start);
        }
    }

    /// Brings the members to what is wanted: who is new comes in, who is not wanted any more finishes what it has.
    pub fn set_servers(&mut self, core: &mut Forwarder, now: Instant, wanted: Vec<DesiredServer>) {
        for (index, server) in self.servers.iter_mut().enumerate() {
            let Some(server) = server else { continue };
            match wanted.iter().find(|wanted| wanted.addr == server.addr) {
                Some(wanted) => {
                    server.id = wanted.id;
                    server.weight = server.standing.weight.unwrap_or(wanted.weight);
                    if !std::mem::replace(&mut server.is_wanted, true) {
                        server.health = first_health(&server.kept(), &self.checker, now);
                    }
                }
                None => {
                    core.shared.cancel_trial(Slot::new(index));
                    server.is_wanted = false;
                    server.health.on_event(now, health::Event::Drain, &self.limits);
                }
            }
        }
        (0..self.servers.len()).for_each(|index| self.come_up(now, Slot::new(index)));
        let mut has_to_wait = false;
        for wanted in &wanted {
            if self.servers.iter().flatten().any(|server| server.addr == wanted.addr) {
                continue;
            }
            if core.ports_to(wanted.addr).is_empty() {
                self.events.push(Event::NoPort { addr: wanted.addr });
                continue;
            }
            let Some(slot) = self.slot_for(now, wanted.addr) else {
                let will_be_free =
                    |server: &Option<Server>| server.as_ref().is_none_or(|server| !server.is_wanted);
                if self.servers.iter().any(will_be_free) {
                    has_to_wait = true;
                } else {
                    self.events.push(Event::NoRoom { addr: wanted.addr });
                }
                continue;
            };
            self.last_generation = self.last_generation.wrapping_add(1);
            let kept = self.remembered.take(&wanted.addr);
            self.servers[slot] = Some(Server {
                id: wanted.id,
                addr: wanted.addr,
                weight: kept.standing.weight.unwrap_or(wanted.weight),
                generation: self.last_generation,
                health: first_health(&kept, &self.checker, now),
                heard_at: core.shared.signals[slot].alive_at(),
                next_check: now,
                asked: None,
                next_trial: now,
                trial_pause: self.settings.interval,
                up_since: now,
                is_wanted: true,
                standing: kept.standing,
                slow_since: None,
            });
            self.come_up(now, Slot::new(slot));
            self.events.push(Event::Joined { id: wanted.id, addr: wanted.addr });
        }
        if has_to_wait {
            core.shared.want_still(wanted);
        }
        self.publish(core, now);
    }

    /// What a successor needs to know of the servers.
    pub fn known(&self) -> Known {
        let known = |server: &Server| KnownServer {
            addr: server.addr,
            health: server.health.clone(),
            standing: server.standing,
            slow_since: server.slow_since,
        };
        let wanted = self.servers.iter().flatten().filter(|server| server.is_wanted);
        Known { servers: wanted.map(known).collect(), away: self.remembered.entries().to_vec() }
    }

    /// Goes on from what a predecessor knew. Servers that are not wanted (yet) are remembered.
    pub fn go_on_from(&mut self, core: &mut Forwarder, now: Instant, known: &Known) {
        for (addr, kept) in &known.away {
            self.remembered.keep(*addr, kept.clone());
        }
        if !known.servers.is_empty() {
            self.slow_start.begin(Instant::ZERO, Duration::ZERO); // those that come now are not the first
        }
        for KnownServer { addr, health, standing, slow_since } in &known.servers {
            let found =
                self.servers.iter().position(|server| server.as_ref().is_some_and(|s| s.addr == *addr));
            let Some(index) = found else {
                self.remembered
                    .keep(*addr, PastRecord { standing: *standing, record: health.record().clone() });
                continue;
            };
            let server = self.servers[index].as_mut().expect("it was found there");
            server.health = health.clone();
            (server.standing, server.slow_since) = (*standing, *slow_since);
            server.weight = standing.weight.unwrap_or(server.weight);
            server.next_trial = now + server.trial_pause;
            server.heard_at = health.last_alive();
            core.shared.signals[index].hear(server.heard_at);
        }
        self.publish(core, now);
    }

    /// Carries out what an operator asks of the server with this id.
    pub fn order(
        &mut self,
        core: &mut Forwarder,
        now: Instant,
        id: u32,
        order: Order,
    ) -> Result<(), Refused> {
        let has_id = |server: &Option<Server>| server.as_ref().is_some_and(|s| s.id == id && s.is_wanted);
        let index = self.servers.iter().position(has_id).ok_or(Refused::UnknownServer)?;
        let (slot, server) = (Slot::new(index), self.servers[index].as_mut().expect("it was found there"));
        server.standing.note(order);
        let event = match order {
            Order::Weight(weight) => {
                server.weight = weight;
                self.publish(core, now);
                return Ok(());
            }
            Order::Drain => health::Event::Drain,
            Order::Disable => health::Event::Disable,
            Order::Enable if matches!(server.health.state(), State::Draining | State::Disabled) => {
                // As if it were new: where it is not asked, only traffic shows whether it lives.
                let state = self.checker.first_state();
                server.health = Health::new(state, now);
                (server.next_check, server.up_since) = (now, now);
                let (id, addr) = (server.id, server.addr);
                self.come_up(now, slot);
                self.events.push(Event::State { id, addr, state, reason: ASKED.into() });
                self.publish(core, now);
                return Ok(());
            }
            Order::Enable => health::Event::Enable,
        };
        if event != health::Event::Enable {
            core.shared.cancel_trial(slot);
        }
        self.apply(core, now, slot, event, ASKED);
        Ok(())
    }

    /// The slot that this server had last, or one that has rested.
    fn slot_for(&self, now: Instant, addr: SocketAddr) -> Option<usize> {
        let free = || (0..self.servers.len()).filter(|&slot| self.servers[slot].is_none());
        let has_rested = |&slot: &usize| self.left[slot].is_none_or(|left| left.until <= now);
        let was_its_own = |&slot: &usize| self.left[slot].is_some_and(|left| left.addr == addr);
        free().find(was_its_own).or_else(|| free().find(has_rested))
    }

    fn remove(&mut self, core: &mut Forwarder, now: Instant, slot: Slot) {
        if let Some(server) = self.servers[slot.index()].take() {
            self.left[slot.index()] = Some(Left { addr: server.addr, until: now + self.rest });
            self.remembered.keep(server.addr, server.kept());
            self.events.push(Event::Left { id: server.id, addr: server.addr, reason: NOT_DESIRED });
            self.publish(core, now);
        }
    }

    /// Writes what the states mean into the tree, and tells the workers.
    fn publish(&mut self, core: &mut Forwarder, now: Instant) {
        let census = Census::of(self.servers.iter().flatten().map(|server| server.health.state()));
        let fails_open = census.fails_open(self.settings.rules.down_max);
        let nobody = census.up + census.suspect + census.held == 0;
        let is_last_way = nobody && core.settings.protocol == Protocol::Datagram;
        let mut usable = 0;
        let span = self.settings.rules.slow_start;
        for (index, server) in self.servers.iter_mut().enumerate() {
            let slot = Slot::new(index);
            let state = server.as_ref().map(|server| server.health.state());
            let leaf = match state {
                None => LeafState::Absent,
                Some(State::Down) if is_last_way => LeafState::LastResort,
                Some(state) => leaf_of(state, fails_open),
            };
            let is_usable = matches!(leaf, LeafState::Eligible | LeafState::LastResort);
            // Who was drained by an operator finishes its flows; who is not wanted any more is about to go.
            let finishes = state == Some(State::Draining) && server.as_ref().is_some_and(|s| s.is_wanted);
            usable += u32::from(is_usable);
            let member = server.as_ref().map(|server| Member {
                addr: server.addr,
                epoch: server.generation,
                extra: Extra { keeps_flows: is_usable || finishes },
            });
            // Known before it may be chosen.
            core.shared.pool.members.publish(slot, member);
            let slowness = self.delays.slowness(slot);
            let cost = server.as_mut().map_or(1, |server| server.cost(now, span, slowness));
            core.shared.pool.tree.set(slot, leaf, cost);
            let stats = &core.stats.servers[index].common;
            let id_plus_one = server.as_ref().map_or(0, |server| u64::from(server.id) + 1);
            let state = state.map_or(0, |state| state as u64);
            if (stats.id_plus_one.get(), stats.state.get()) != (id_plus_one, state) {
                stats.since.set(now.as_nanos());
            }
            stats.id_plus_one.set(id_plus_one);
            stats.state.set(state);
            stats.weight.set(server.as_ref().map_or(0, |server| u64::from(server.weight)));
        }
        core.shared.pool.usable.store(usable, Ordering::Relaxed);
        core.refresh();
        if fails_open != self.fails_open {
            self.fails_open = fails_open;
            self.events.push(Event::FailOpen(fails_open));
        }
    }
}

/// Why a server leaves.
const NOT_DESIRED: &str = "no longer desired";
/// Why a server's state changes when an operator says so.
const ASKED: &str = "an operator asked for it";

/// The health of a server that was added, or is wanted again.
fn first_health(kept: &PastRecord, checker: &Checker, now: Instant) -> Health {
    let state = match kept.standing.switch {
        AdminMode::On => checker.first_state(),
        AdminMode::Drained => State::Draining,
        AdminMode::Off => State::Disabled,
    };
    Health::with_record(state, kept.record.clone(), now)
}

/// How long a slot rests after its server has left: as long as something late may come by its ports.
fn rest_of(settings: &Settings) -> Duration {
    (settings.timeout * ANSWER_LATEST).max(settings.hold.unwrap_or_default())
}

/// How sure to be of a server. Where nobody asks, only traffic shows whether it lives, and who is held gets none.
fn limits_of(health: &HealthCheck) -> Limits {
    let Rules { rise, fall, hold_down_max, .. } = health.rules;
    let (interval, is_asked) = (health.interval, health.check != Check::None);
    let is_watched =
        is_asked && health::sees(interval * rise.into(), interval * fall.into() + health.timeout);
    Limits { rise, fall, silence: interval, probe: interval, hold_down_max, is_watched }
}
