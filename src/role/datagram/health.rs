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
//! Where servers are not checked, a suspect gets a request now and then to prove itself on, at growing
//! intervals (of DNS, a copy of one). Where they do not answer either (`replies: 0`), no news is good news.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::checks::{Asked, Checker};
use super::forward::Forwarder;
use super::request::Client;
use super::settings::{Check, HealthCheck, Protocol, Settings};
use super::shared::{Current, Extra, Noticed, Shared};
use super::slots::Slots;
use crate::base::batch::{SocketId, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::departed::Identity;
use crate::pool::event::Event;
use crate::pool::health::{self, Limits, Rules, State};
use crate::pool::order::{Order, Refused};
use crate::pool::primary::{self, Pool};
use crate::pool::registry;
use crate::pool::select::{LeafState, Slot};
use crate::pool::shared::{PoolShared, is_selectable};
use crate::pool::stats::ServerStats;

/// The longest time between two requests that a suspect may prove itself on.
const TRIAL_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A suspect is checked so many times as often.
const SUSPECT_FACTOR: u32 = 3;
/// The primary takes a turn at least this often.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// What only a datagram pool knows of a server: how its life is sensed.
#[derive(Clone, Debug)]
pub struct Sensed {
    /// Tells the server from those that had its slot before.
    pub(super) generation: u32,
    /// The last liveness signal that was judged.
    pub(super) heard_at: Instant,
    pub(super) next_check: Instant,
    /// The check that waits for its answer.
    pub(super) asked: Option<Asked>,
    pub(super) next_trial: Instant,
    pub(super) trial_pause: Duration,
    /// Since when the server has been up.
    pub(super) up_since: Instant,
}

/// A server of a datagram pool as the primary knows it.
pub type Server = registry::Server<Sensed>;

/// What only worker 0 has.
pub(super) struct Primary {
    pub pool: primary::Primary<Shared>,
    pub slots: Slots,
    checker: Checker,
    settings: HealthCheck,
    is_one_way: bool,
    pub next_look: Instant,
}

impl Primary {
    pub fn new(core: &Forwarder, secret: [u8; 16], now: Instant) -> Self {
        let settings = &core.settings;
        let health = &settings.health;
        let shared = Arc::clone(&core.shared);
        Primary {
            pool: primary::Primary::new(shared, pool_settings(settings), Identity::Address, now),
            slots: Slots::new(settings),
            checker: Checker::new(
                health.check.clone(),
                settings.proxy_protocol,
                secret,
                core.shared.seed ^ 1,
            ),
            settings: health.clone(),
            is_one_way: settings.replies == Some(0),
            next_look: now,
        }
    }

    /// There are new settings.
    pub fn adopt(&mut self, core: &mut Forwarder, now: Instant) {
        let settings = &core.settings;
        if settings.health.check != self.settings.check {
            self.checker.set_check(settings.health.check.clone());
            self.forgive(); // an answer to the old check answers nothing now
        }
        self.settings = settings.health.clone();
        self.slots.adopt(settings);
        self.is_one_way = settings.replies == Some(0);
        let next_check = now + self.settings.interval;
        for (_, server) in self.pool.registry_mut().iter_mut() {
            server.extra.next_check = server.extra.next_check.min(next_check);
        }
        let limits = limits_of(&self.settings);
        self.pool.adopt(now, pool_settings(settings), |_| limits);
        core.refresh();
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.pool.poll_event()
    }

    /// How often the server of a slot has failed of late.
    #[cfg(test)]
    pub fn failures(&self, slot: Slot) -> u32 {
        self.pool.registry().get(slot).map_or(0, |server| server.health.record().failures())
    }

    /// Carries out an operator's order about the server with this id, also about one that has left.
    pub fn order(
        &mut self,
        core: &mut Forwarder,
        now: Instant,
        id: u32,
        order: Order,
    ) -> Result<(), Refused> {
        let outcome = self.pool.order(now, id, order);
        core.refresh();
        outcome
    }

    /// What a new server begins with. It may have had the slot before.
    pub fn sensed(&self, core: &Forwarder, now: Instant, slot: Slot, generation: u32) -> Sensed {
        Sensed {
            generation,
            heard_at: core.shared.signals[slot.index()].alive_at(),
            next_check: now,
            asked: None,
            next_trial: now,
            trial_pause: self.settings.interval,
            up_since: now,
        }
    }

    /// The limits of every server.
    pub fn limits(&self) -> Limits {
        limits_of(&self.settings)
    }

    /// When there is something to do without a datagram.
    pub fn next_deadline(&self) -> Instant {
        let checks = self.pool.registry().iter().filter(|_| self.checker.is_active());
        let due = checks.map(|(_, server)| match server.extra.asked {
            Some(asked) => asked.sent + self.settings.timeout,
            None => server.extra.next_check,
        });
        due.fold(self.next_look, Instant::min)
    }

    /// Judges every server by what was noticed since the last tick, and asks those whose time has come.
    pub fn on_tick(&mut self, core: &mut Forwarder, now: Instant, tx: &mut Tx) {
        if now >= self.next_look {
            self.next_look = now + LOOK;
            if let Some(desired) = core.shared.take_wanted() {
                self.set_servers(core, now, desired);
            }
        }
        self.pool.on_tick(now);
        for slot in self.pool.registry().slots() {
            let noticed = core.shared.signals[slot.index()].take();
            let alive_at = core.shared.signals[slot.index()].alive_at();
            if self.pool.registry().get(slot).is_some() {
                self.judge(core, now, slot, noticed, alive_at);
                self.look_after(core, now, slot, tx);
            }
        }
    }

    fn judge(&mut self, core: &mut Forwarder, now: Instant, slot: Slot, noticed: Noticed, alive_at: Instant) {
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        let state = server.health.state();
        let is_doubtful = state.is_doubtful();
        if state == State::Held && !server.health.record().is_held(now) {
            return self.apply(core, now, slot, health::HealthEvent::HoldOver, "hold-down time over");
        }
        if alive_at > server.extra.heard_at {
            server.extra.heard_at = alive_at;
            if state == State::Down {
                // It needs more answers, and is likely to give them.
                server.extra.trial_pause = self.settings.interval;
                server.extra.next_trial = now + server.extra.trial_pause;
            }
            return self.apply(core, now, slot, health::HealthEvent::Alive, "response received");
        }
        let overdue = server.extra.asked.filter(|asked| asked.sent + self.settings.timeout <= now);
        if overdue.is_some() {
            server.extra.asked = None;
        }
        let timeout = core.settings.timeout;
        let is_quiet = |for_: Duration| now.since(alive_at) >= for_;
        let reason = match noticed {
            _ if overdue.is_some_and(|asked| alive_at < asked.sent) => "no response to checks",
            Noticed { lost: 1.., .. } if is_quiet(timeout) => "no response to requests",
            Noticed { silent: true, .. } if !is_doubtful => "early silence",
            Noticed { refused: true, .. } if state == State::Up => "ICMP errors",
            _ => return,
        };
        let event = if is_doubtful { health::HealthEvent::ProbeLost } else { health::HealthEvent::Silent };
        self.apply(core, now, slot, event, reason);
    }

    /// Checks a server whose time has come, or asks for a trial request; removes a leaving one without
    /// requests.
    fn look_after(&mut self, core: &mut Forwarder, now: Instant, slot: Slot, tx: &mut Tx) {
        let is_another_up = self.pool.registry().iter().any(|(_, server)| server.health.state() == State::Up);
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        if server.is_leaving {
            if core.shared.pool.tree.len(slot) == 0 {
                self.remove(core, now, slot);
            }
            return;
        }
        let state = server.health.state();
        let is_held = server.health.record().is_held(now);
        let sensed = &mut server.extra;
        match state {
            State::Draining | State::Disabled => {}
            _ if self.checker.is_active() => {
                if sensed.asked.is_none() && now >= sensed.next_check {
                    self.check(core, now, slot, tx);
                }
            }
            State::Joining | State::Up => {
                if now.since(sensed.up_since) > sensed.trial_pause * 2 {
                    sensed.trial_pause = self.settings.interval;
                }
            }
            // It may not be used anyhow; unless there is no other server, and then it is.
            State::Held => {}
            State::Down if is_held && is_another_up => {}
            State::Suspect | State::Down => {
                // While another server waits for a request, the next tick asks again.
                if now >= sensed.next_trial && (self.is_one_way || core.shared.ask_for_trial(slot)) {
                    sensed.next_trial = now + sensed.trial_pause;
                    sensed.trial_pause = (sensed.trial_pause * 2).min(TRIAL_PAUSE_MAX);
                    if self.is_one_way {
                        self.apply(
                            core,
                            now,
                            slot,
                            health::HealthEvent::Alive,
                            "no error since the last trial",
                        );
                    }
                }
            }
        }
    }

    fn check(&mut self, core: &Forwarder, now: Instant, slot: Slot, tx: &mut Tx) {
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        let is_suspect = server.health.state() == State::Suspect;
        let pause = if is_suspect { self.settings.interval / SUSPECT_FACTOR } else { self.settings.interval };
        server.extra.next_check = now + pause;
        let from = if server.addr.is_ipv4() { core.sockets.check_v4 } else { core.sockets.check_v6 };
        let Some(from) = from else { return };
        let destination = tx.destination(SocketId(from), server.addr, None);
        let staged = destination.and_then(|destination| tx.stage(destination, self.checker.len()));
        // A full turn is no loss: the next tick asks.
        match staged {
            Some(bytes) => server.extra.asked = Some(self.checker.ask(now, bytes)),
            None => server.extra.next_check = now,
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
        let server = self.pool.registry_mut().get_mut(slot).ok_or(DropReason::WrongSource)?;
        let asked = server.extra.asked.ok_or(DropReason::NotOpen)?;
        if !self.checker.is_answer(&asked, bytes) {
            return Err(DropReason::WrongQuestion);
        }
        server.extra.asked = None;
        self.next_look = now; // so that it is judged at the next tick
        core.hear(now, slot);
        Ok(())
    }

    /// An overdue check proves nothing: the event loop stalled, or checks are others now.
    pub fn forgive(&mut self) {
        self.pool.registry_mut().iter_mut().for_each(|(_, server)| server.extra.asked = None);
    }

    /// The event loop stalled for this time. The primary draws no conclusion from the silence meanwhile.
    pub fn on_stall(&mut self, gap: Duration) {
        self.forgive();
        self.pool.report(Event::Stalled(gap));
    }

    fn apply(
        &mut self,
        core: &mut Forwarder,
        now: Instant,
        slot: Slot,
        event: health::HealthEvent,
        reason: &'static str,
    ) {
        self.pool.apply(now, slot, event, reason);
        core.refresh();
    }
}

impl Pool for Shared {
    type Extra = Sensed;
    type Member = Extra;
    type Client = Client;
    type Settings = Current;

    fn shared(&self) -> &PoolShared<Extra, Client, Current> {
        &self.pool
    }

    fn stats(&self, worker: usize, slot: Slot) -> &ServerStats {
        &self.stats[worker].servers[slot.index()].common
    }

    fn epoch(sensed: &Sensed) -> u32 {
        sensed.generation
    }

    /// A drained server keeps its flows; a server that is leaving does not.
    fn member(server: &Server, leaf: LeafState) -> Extra {
        let finishes_flows = server.health.state() == State::Draining && !server.is_leaving;
        Extra { keeps_flows: is_selectable(leaf) || finishes_flows }
    }

    fn on_state(&self, now: Instant, slot: Slot, server: &mut Server) {
        let sensed = &mut server.extra;
        match server.health.state() {
            State::Up => sensed.up_since = now,
            State::Suspect => {
                sensed.next_check = now;
                sensed.next_trial = now + sensed.trial_pause;
            }
            State::Draining | State::Disabled => self.cancel_trial(slot),
            State::Joining | State::Down | State::Held => {}
        }
    }
}

fn pool_settings(settings: &Settings) -> primary::PrimarySettings {
    let is_checked = settings.health.check != Check::None;
    primary::PrimarySettings {
        rules: settings.health.rules,
        policy: settings.policy,
        max_outstanding: settings.max_outstanding,
        // Where servers are checked, a new one has to prove itself first, unless there is no other. Where
        // they are not, only traffic shows whether a server lives.
        first_state: if is_checked { State::Suspect } else { State::Up },
        cannot_refuse: settings.protocol == Protocol::Datagram,
    }
}

/// How sure to be of a server. Where nobody asks, only traffic shows whether it lives, and who is held gets
/// none.
fn limits_of(health: &HealthCheck) -> Limits {
    let Rules { rise, fall, hold_down_max, .. } = health.rules;
    let (interval, is_asked) = (health.interval, health.check != Check::None);
    let is_watched =
        is_asked && health::sees(interval * rise.into(), interval * fall.into() + health.timeout);
    Limits { rise, fall, silence: interval, probe: interval, hold_down_max, is_watched }
}
