//! The health of servers: the primary's part of a pool, on the table of [`crate::pool::health`].
//!
//! - A valid response to a client or to a check is a liveness signal: the server is up (from down, after
//!   `rise` signals in a row).
//! - A server becomes a suspect, which is used only if no server is up, in three cases: it is silent beside
//!   its peers ([`crate::pool::silence`]); checks are overdue; ICMP reports it. One unanswered request, or
//!   one overdue check, proves nothing.
//! - A suspect that leaves `fall` checks or requests in a row unanswered is down: not used.
//! - A server that was down or a suspect several times recently is held down: it is used only if no server
//!   is up. Going down meanwhile counts.
//! - If more than `down_max` of the servers are down or held down and some are up, the pool fails open: all
//!   are used.
//! - With the protocol `datagram`, servers that are down are used if no server is up, suspect or held down:
//!   the protocol has no refusal.
//!
//! - A check that no server answers, while one of them answers something else, is ignored
//!   ([`super::check_trust`]). Until then a server that is down is used if no better one is left, unless ICMP
//!   errors or unanswered requests speak against it.
//! - In DNS, a server whose queries fail far more often than those of its peers is as a suspect
//!   ([`crate::pool::outlier`]).
//!
//! Where servers are not checked, a suspect gets trial requests at growing intervals (in DNS, shadow
//! queries). One-way servers (`replies: 0`) send no signals, so a suspect is up again after that interval.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::check_trust::{CheckRecord, CheckTrust};
use super::checks::{Checker, OpenCheck};
use super::drain::{DrainPhase, Leaving, is_checked};
use super::forward::Forwarder;
use super::request::{DatagramClient, Handled};
use super::settings::{Affinity, Check, DatagramSettings, HealthCheck, Protocol};
use super::shared::{CurrentSettings, DatagramExtra, DatagramShared, Noticed};
use super::slots::Slots;
use crate::base::batch::{SocketId, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::departed::Identity;
use crate::pool::event::Event;
use crate::pool::health::{self, Limits, Rules, State};
use crate::pool::order::{Order, Refused};
use crate::pool::outlier::Outcomes;
use crate::pool::primary::{self, Pool};
use crate::pool::registry;
use crate::pool::select::{LeafState, Slot};
use crate::pool::shared::{PoolShared, is_selectable};
use crate::pool::silence::AnswerShares;
use crate::pool::stats::ServerStats;

/// The longest time between two trial requests to one server.
const TRIAL_PAUSE_MAX: Duration = Duration::from_secs(60);
/// The time for which a server that leads back is barred; twice as long each time, up to the maximum.
const LOOP_PAUSE: Duration = Duration::from_secs(60);
const LOOP_PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// Checks in a row without a response that are evidence against a server.
const CHECKS_LOST_MIN: u32 = 2;
/// DNS: requests in a row that have timed out and are evidence, if no server of the pool answers anything.
const LOST_ALONE: u32 = 3;
/// Factor by which a suspect is checked more often than other servers.
const SUSPECT_FACTOR: u32 = 3;
/// The primary takes a turn at least this often.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// What only a datagram pool knows of a server: its liveness signals, checks and trial requests.
#[derive(Clone, Debug)]
pub struct Sensed {
    /// Tells the server from those that had its slot before.
    pub(super) generation: u32,
    /// The last liveness signal that was judged.
    pub(super) heard_at: Instant,
    pub(super) next_check: Instant,
    /// The check in flight.
    pub(super) asked: Option<OpenCheck>,
    pub(super) next_trial: Instant,
    pub(super) trial_pause: Duration,
    /// Since when the server has been up.
    pub(super) up_since: Instant,
    /// Whether its checks carry a mark: until it has refused EDNS.
    pub(super) is_marked: bool,
    /// Checks without a response in a row whose payload came back.
    pub(super) echoes: u8,
    /// Overdue checks since its last liveness signal.
    pub(super) checks_lost: u32,
    /// Requests that have timed out since that.
    pub(super) requests_lost: u32,
    /// Unanswered requests for which a trial request was asked, since that.
    pub(super) tried: u32,
    /// Since when it has had a queue without giving a liveness signal, as ticks saw it.
    pub(super) waits_since: Instant,
    /// The end of the time for which it is barred since it was last seen to lead back.
    pub(super) loop_until: Instant,
    pub(super) loop_pause: Duration,
    /// The results of its checks.
    pub(super) checks: CheckRecord,
    /// Its drain, if it leaves.
    pub(super) leaving: Option<Leaving>,
    /// Until when the check in flight has a place in the server's queue; `None`: it has none.
    pub(super) place_until: Option<Instant>,
    /// The usual response time of the server's checks; zero before the first response.
    pub(super) check_time: Duration,
}

/// What a tick knows of the pool.
struct PoolSigns {
    /// The timeout of a request.
    timeout: Duration,
    /// The last time at which a client sent the payload of the checks.
    echoed_at: Instant,
    /// The last liveness signal of any server.
    newest: Instant,
}

/// A server of a datagram pool as the primary knows it.
pub type DatagramServer = registry::Server<Sensed>;

/// The state of the primary, worker 0.
pub(super) struct DatagramPrimary {
    pub pool: primary::Primary<DatagramShared>,
    pub slots: Slots,
    checker: Checker,
    shares: AnswerShares,
    settings: HealthCheck,
    is_one_way: bool,
    trust: CheckTrust,
    pub next_look: Instant,
    /// Servers at which a check has a place.
    pub places: usize,
}

impl DatagramPrimary {
    pub fn new(core: &Forwarder, secret: [u8; 16], now: Instant) -> Self {
        let settings = &core.settings;
        let health = &settings.health;
        let shared = Arc::clone(&core.shared);
        DatagramPrimary {
            pool: primary::Primary::new(shared, pool_settings(settings), Identity::Address, now),
            slots: Slots::new(settings),
            checker: Checker::new(
                health.check.clone(),
                settings.proxy_protocol,
                secret,
                core.shared.seed ^ 1,
            ),
            shares: AnswerShares::new(settings.servers_max, now),
            settings: health.clone(),
            is_one_way: settings.replies == Some(0),
            trust: CheckTrust::default(),
            next_look: now,
            places: 0,
        }
    }

    /// Adopts new settings of the pool.
    pub fn adopt(&mut self, core: &mut Forwarder, now: Instant) {
        let settings = &core.settings;
        if settings.health.check != self.settings.check {
            self.checker.set_check(settings.health.check.clone());
            self.forgive(); // a response to the old check proves nothing
        }
        if settings.health.check != self.settings.check || settings.health.rcodes != self.settings.rcodes {
            for (_, server) in self.pool.registry_mut().iter_mut() {
                server.extra.checks = server.extra.checks.restarted();
            }
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

    /// The recent failures of the server of a slot.
    #[cfg(test)]
    pub fn failures(&self, slot: Slot) -> u32 {
        self.pool.registry().get(slot).map_or(0, |server| server.health.record().failures())
    }

    /// Applies an operator's order to the server with this id, even if the server has left.
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

    /// The initial state of a server that joins. It may have had the slot before.
    pub fn sensed(&mut self, core: &Forwarder, now: Instant, slot: Slot, generation: u32) -> Sensed {
        core.shared.signals[slot.index()].forget_unanswered();
        self.shares.forget(slot);
        Sensed {
            generation,
            heard_at: core.shared.signals[slot.index()].alive_at(),
            next_check: now,
            asked: None,
            next_trial: now,
            trial_pause: self.settings.interval,
            up_since: now,
            is_marked: true,
            echoes: 0,
            checks_lost: 0,
            requests_lost: 0,
            tried: 0,
            waits_since: now,
            loop_until: Instant::ZERO,
            loop_pause: Duration::ZERO,
            checks: CheckRecord::new(!self.checker.is_active()),
            leaving: None,
            place_until: None,
            check_time: Duration::ZERO,
        }
    }

    /// The limits of every server.
    pub fn limits(&self) -> Limits {
        limits_of(&self.settings)
    }

    /// The time at which the primary has something to do even without a datagram.
    pub fn next_deadline(&self) -> Instant {
        let checks = self.pool.registry().iter();
        let checks = checks.filter(|(_, server)| {
            self.checker.is_active() && is_checked(server.health.state(), server.extra.leaving)
        });
        let due = checks.map(|(_, server)| match server.extra.asked {
            Some(asked) => asked.sent + self.settings.timeout,
            None => server.extra.next_check,
        });
        due.fold(self.next_look, Instant::min)
    }

    /// Judges every server by the signals since the last tick, and sends the checks that are due.
    pub fn on_tick(&mut self, core: &mut Forwarder, now: Instant, tx: &mut Tx) {
        if now >= self.next_look {
            self.next_look = now.next_multiple(LOOK);
            if let Some(wish) = core.shared.take_wanted() {
                self.set_servers(core, now, wish);
            }
        }
        self.pool.on_tick(now);
        self.compare(core, now);
        self.sample_answers(core, now);
        self.judge_checks(core, now);
        let pool = PoolSigns {
            timeout: core.settings.timeout,
            echoed_at: core.shared.echoed_at(),
            newest: core.newest_signal(),
        };
        for slot in self.pool.registry().slots() {
            let heard_at = self.pool.registry().get(slot).map_or(Instant::ZERO, |s| s.extra.heard_at);
            let noticed = core.shared.signals[slot.index()].take(heard_at);
            if self.pool.registry().get(slot).is_some() {
                self.watch_leaving(now, slot, &noticed, pool.timeout);
                self.judge(now, slot, noticed, &pool);
                self.look_closer(core, now, slot, noticed);
                self.look_after(core, now, slot, tx);
                self.settle_place(core, now, slot);
            }
        }
        core.refresh();
    }

    /// Compares the servers of a DNS pool by their queries that fail or time out.
    fn compare(&mut self, core: &Forwarder, now: Instant) {
        if core.shared.protocol() != Protocol::Dns {
            return;
        }
        self.pool.compare(now, "no answer, SERVFAIL or REFUSED", |slot, _| {
            let of_threads = core.shared.stats.iter().map(|stats| &stats.servers[slot.index()]);
            Some(of_threads.fold(Outcomes::default(), |Outcomes { ended, failed }, stats| {
                let (common, timed_out) = (&stats.common, stats.timed_out.get());
                Outcomes {
                    ended: ended + common.answered.get() + timed_out,
                    failed: failed + common.failed_answers.get() + timed_out,
                }
            }))
        });
    }

    /// Judges what the checks are worth.
    fn judge_checks(&mut self, core: &Forwarder, now: Instant) {
        if !self.checker.is_active() {
            return;
        }
        let heard_at = |slot: Slot| core.shared.signals[slot.index()].alive_at();
        let is_in_service = |server: &DatagramServer| {
            use State::*;
            !server.is_leaving && matches!(server.health.state(), Joining | Up | Suspect | Down | Held)
        };
        let servers = self.pool.registry().iter().filter(|(_, server)| is_in_service(server));
        let records = servers.map(|(slot, server)| (server.extra.checks, heard_at(slot)));
        let trust = self.trust.judged(now, self.settings.interval, records);
        let before = std::mem::replace(&mut self.trust, trust);
        if before.is_ignored == trust.is_ignored {
            return;
        }
        core.stats.checks_ignored.set(trust.is_ignored.into());
        self.pool.report(Event::ChecksIgnored(trust.is_ignored));
        if !trust.is_ignored {
            return;
        }
        let any_refused = self.pool.registry().iter().any(|(_, server)| server.extra.checks.is_refused());
        self.pool.restore(now, "health checks ignored", |slot, server| {
            let is_out = matches!(server.health.state(), State::Joining | State::Suspect | State::Down);
            let checks = &server.extra.checks;
            is_out && !server.is_leaving && CheckTrust::restores(checks, heard_at(slot), any_refused)
        });
    }

    /// Takes the numbers of requests and answers of all servers.
    fn sample_answers(&mut self, core: &Forwarder, now: Instant) {
        let (registry, signals) = (self.pool.registry(), &core.shared.signals);
        self.shares.sample(now, |slot| {
            let (asked, answered) = signals[slot.index()].take_counts();
            let is_up = registry.get(slot).is_some_and(|server| server.health.state() == State::Up);
            (asked, answered, is_up)
        });
    }

    /// Asks for a trial request to a server that is up and has left requests unanswered: too few for a
    /// verdict. With its queue it might not get another request for long. What it owes since an earlier
    /// failure keeps requests away as well, so one with a queue is also tried while it is silent and others
    /// are not.
    fn look_closer(&mut self, core: &Forwarder, now: Instant, slot: Slot, noticed: Noticed) {
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        if server.health.state() != State::Up || self.is_one_way {
            return;
        }
        let sensed = &mut server.extra;
        let tree = &core.shared.pool.tree;
        let is_new = noticed.unanswered > sensed.tried;
        let has_queue = core.settings.affinity == Affinity::None && tree.len(slot) > 0;
        if !has_queue || sensed.heard_at > sensed.waits_since {
            sensed.waits_since = now;
        }
        let is_passed_over = has_queue && now >= sensed.next_trial && {
            let newest = core.newest_signal();
            now.since(newest) < LOOK && now.since(sensed.waits_since) >= core.silence_limit().max(LOOK * 2)
        };
        if (is_new || is_passed_over) && tree.is_choosable(slot) && core.shared.ask_for_trial(slot) {
            sensed.tried = noticed.unanswered;
            sensed.next_trial = now + LOOK;
        }
    }

    /// A server leads back to this pool: bars it, for longer each time.
    fn on_loop(&mut self, now: Instant, slot: Slot) {
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        let is_known = server.health.state() == State::Looping;
        let sensed = &mut server.extra;
        (sensed.asked, sensed.echoes) = (None, 0);
        sensed.checks.is_accused = true; // it is no last resort either
        if !is_known {
            let is_again = now.since(sensed.loop_until) < LOOP_PAUSE_MAX;
            let longer = (sensed.loop_pause * 2).clamp(LOOP_PAUSE, LOOP_PAUSE_MAX);
            sensed.loop_pause = if is_again { longer } else { LOOP_PAUSE };
        }
        sensed.loop_until = now + sensed.loop_pause;
        self.pool.apply(now, slot, health::HealthEvent::Loop, "loop: its checks come back to this pool");
    }

    /// Judges a server by its signals.
    fn judge(&mut self, now: Instant, slot: Slot, noticed: Noticed, pool: &PoolSigns) {
        let alive_at = noticed.alive_at;
        if noticed.looped {
            return self.on_loop(now, slot);
        }
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        let state = server.health.state();
        let is_doubtful = state.is_doubtful();
        if state == State::Looping && now >= server.extra.loop_until {
            return self.pool.apply(now, slot, health::HealthEvent::HoldOver, "no loop seen for a while");
        }
        if state == State::Held && !server.health.record().is_held(now) {
            return self.pool.apply(now, slot, health::HealthEvent::HoldOver, "hold-down time over");
        }
        let is_heard = alive_at > server.extra.heard_at;
        let sensed = &mut server.extra;
        if is_heard {
            sensed.heard_at = alive_at;
            (sensed.echoes, sensed.checks_lost, sensed.requests_lost, sensed.tried) = (0, 0, 0, 0);
        } else {
            sensed.requests_lost = sensed.requests_lost.saturating_add(noticed.lost);
        }
        let is_silent = match self.shares.row_of_evidence(slot) {
            _ if pool.newest + pool.timeout <= now => sensed.requests_lost >= LOST_ALONE,
            Some(row) => noticed.unanswered >= row,
            None => false,
        };
        let is_unanswered = noticed.lost > 0 && now.since(alive_at) >= pool.timeout;
        let was_accused = sensed.checks.is_accused;
        sensed.checks.is_accused =
            !is_heard && (was_accused || is_unanswered || is_silent || noticed.refused);
        if state == State::Down && sensed.checks.is_accused != was_accused {
            self.pool.publish(now, slot);
        }
        let Some(is_check_lost) = self.end_overdue_check(now, slot, alive_at, pool.echoed_at) else { return };
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        let sensed = &mut server.extra;
        if is_heard && (self.trust.is_ignored || !sensed.checks.is_refused()) {
            if state == State::Down {
                // It needs more signals, and trial requests are likely to give them.
                sensed.trial_pause = self.settings.interval;
                sensed.next_trial = now + sensed.trial_pause;
            }
            return self.pool.apply(now, slot, health::HealthEvent::Alive, "response received");
        }
        let refusal = sensed.checks.take_reason().filter(|_| !self.trust.is_ignored);
        let are_checks_lost = is_check_lost && (is_doubtful || sensed.checks_lost >= CHECKS_LOST_MIN);
        let reason = match (state, refusal) {
            _ if are_checks_lost => "no response to checks",
            (_, Some(refusal)) => refusal,
            _ if is_unanswered && is_silent => "no response to requests",
            (State::Up | State::Joining, _) if is_silent => "early silence",
            (State::Up, _) if noticed.refused => "ICMP errors",
            _ => return,
        };
        let event = if is_doubtful { health::HealthEvent::ProbeLost } else { health::HealthEvent::Silent };
        self.pool.apply(now, slot, event, reason);
    }

    /// Ends a check that is overdue. Returns whether the server has left it unanswered and checks count;
    /// `None` if the server leads back, which has been dealt with.
    fn end_overdue_check(
        &mut self,
        now: Instant,
        slot: Slot,
        alive_at: Instant,
        echoed_at: Instant,
    ) -> Option<bool> {
        let HealthCheck { timeout, rules, .. } = self.settings;
        let sensed = &mut self.pool.registry_mut().get_mut(slot)?.extra;
        let overdue = sensed.asked.filter(|asked| asked.sent + timeout <= now);
        let Some(asked) = overdue else { return Some(false) };
        sensed.asked = None;
        sensed.checks.fail(now, rules.fall);
        let is_lost = alive_at < asked.sent;
        let is_echo = is_lost && echoed_at >= asked.sent;
        sensed.echoes = if is_echo { sensed.echoes.saturating_add(1) } else { 0 };
        if sensed.echoes >= rules.fall {
            self.on_loop(now, slot);
            return None;
        }
        let counts = is_lost && !self.trust.is_ignored;
        if counts {
            sensed.checks_lost = sensed.checks_lost.saturating_add(1);
            if sensed.checks_lost < CHECKS_LOST_MIN {
                sensed.next_check = now; // one may be lost on its way
            }
        }
        Some(counts)
    }

    /// Whether servers are checked.
    pub fn checks_servers(&self) -> bool {
        self.checker.is_active()
    }

    /// The interval of checks.
    pub fn check_interval(&self) -> Duration {
        self.settings.interval
    }

    /// The timeout of a check.
    pub fn check_timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Sends a check that is due, or asks for a trial request.
    fn look_after(&mut self, core: &mut Forwarder, now: Instant, slot: Slot, tx: &mut Tx) {
        let is_another_up = self.pool.registry().iter().any(|(_, server)| server.health.state() == State::Up);
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        if server.is_leaving {
            return self.look_after_leaving(core, now, slot, tx);
        }
        let state = server.health.state();
        let is_held = server.health.record().is_held(now);
        let is_in_service = !matches!(state, State::Draining | State::Disabled);
        if is_in_service {
            self.check_if_due(core, now, slot, tx);
        }
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        let sensed = &mut server.extra;
        let is_barred = !is_selectable(core.shared.pool.tree.state_and_cost(slot).0);
        let is_blind = self.trust.needs_trials(is_barred) && !self.is_one_way;
        let needs_trials = !self.checker.is_active() || is_blind;
        match state {
            State::Draining | State::Disabled => {}
            _ if !needs_trials => {}
            State::Joining | State::Up => {
                if now.since(sensed.up_since) > sensed.trial_pause * 2 {
                    sensed.trial_pause = self.settings.interval;
                }
            }
            State::Looping => {}
            // Trial requests would change nothing: it is barred until the hold-down time ends.
            State::Held => {}
            State::Down if is_held && is_another_up => {}
            State::Suspect | State::Down => {
                // If another server waits for its trial request, the next tick asks again.
                if now >= sensed.next_trial && (self.is_one_way || core.shared.ask_for_trial(slot)) {
                    sensed.next_trial = now + sensed.trial_pause;
                    sensed.trial_pause = (sensed.trial_pause * 2).min(TRIAL_PAUSE_MAX);
                    if self.is_one_way {
                        self.pool.apply(
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

    /// Sends a check, unless the turn is full.
    pub(super) fn check(&mut self, core: &Forwarder, now: Instant, slot: Slot, tx: &mut Tx) {
        let has_marks = self.checker.has_marks();
        let Some(server) = self.pool.registry_mut().get_mut(slot) else { return };
        let is_suspect = server.health.state() == State::Suspect;
        let pause = if is_suspect { self.settings.interval / SUSPECT_FACTOR } else { self.settings.interval };
        server.extra.next_check = now + pause;
        let from = if server.addr.is_ipv4() { core.sockets.check_v4 } else { core.sockets.check_v6 };
        let Some(from) = from else { return };
        let sensed = &server.extra;
        let mark = (has_marks && sensed.is_marked).then(|| core.shared.loops.mark(slot, sensed.generation));
        let destination = tx.destination(SocketId(from), server.addr, None);
        let len = self.checker.len(mark.is_some());
        let staged = destination.and_then(|destination| tx.stage(destination, len));
        // In a full turn nothing is lost: the next tick checks.
        match staged {
            Some(bytes) => server.extra.asked = Some(self.checker.ask(now, mark.as_ref(), bytes)),
            None => server.extra.next_check = now,
        }
    }

    /// Handles a datagram that arrived at a socket for checks.
    pub fn on_check_answer(
        &mut self,
        core: &mut Forwarder,
        now: Instant,
        peer: SocketAddr,
        bytes: &[u8],
    ) -> Handled {
        let slot = core.view.slot_of(peer).ok_or(DropReason::WrongSource)?;
        let server = self.pool.registry_mut().get_mut(slot).ok_or(DropReason::WrongSource)?;
        let asked = server.extra.asked.ok_or(DropReason::NotOpen)?;
        if !self.checker.is_answer(&asked, bytes) {
            return Err(DropReason::WrongQuestion);
        }
        self.time_check(now, slot);
        if let Some(server) = self.pool.registry_mut().get_mut(slot) {
            server.extra.asked = None;
        }
        self.settle_place(core, now, slot);
        let server = self.pool.registry_mut().get_mut(slot).ok_or(DropReason::WrongSource)?;
        self.next_look = now; // the next tick judges the server
        if server.extra.is_marked && self.checker.refuses_edns(bytes) {
            server.extra.is_marked = false;
            server.extra.next_check = now; // a check without a mark says how it is
            return Ok(());
        }
        let failure = self.checker.failure(bytes, &self.settings.rcodes);
        server.extra.checks.take(now, failure, self.settings.rules.fall);
        core.hear(slot);
        Ok(())
    }

    /// Forgets the checks in flight. Called when an overdue check proves nothing: after an event-loop stall,
    /// or when the check has changed.
    pub fn forgive(&mut self) {
        self.pool.registry_mut().iter_mut().for_each(|(_, server)| server.extra.asked = None);
    }

    /// Reports an event-loop stall of this length. Silence during the stall proves nothing.
    pub fn on_stall(&mut self, gap: Duration) {
        self.forgive();
        self.pool.report(Event::Stalled(gap));
    }
}

impl Pool for DatagramShared {
    type Extra = Sensed;
    type Member = DatagramExtra;
    type Client = DatagramClient;
    type Settings = CurrentSettings;

    fn shared(&self) -> &PoolShared<DatagramExtra, DatagramClient, CurrentSettings> {
        &self.pool
    }

    fn stats(&self, worker: usize, slot: Slot) -> &ServerStats {
        &self.stats[worker].servers[slot.index()].common
    }

    fn epoch(sensed: &Sensed) -> u32 {
        sensed.generation
    }

    fn may_serve(server: &DatagramServer) -> bool {
        !server.extra.checks.is_accused
    }

    /// A drained server keeps its flows, and so does a server that leaves, until its drain is over.
    fn member(server: &DatagramServer, leaf: LeafState) -> DatagramExtra {
        let phase = server.extra.leaving.map(|leaving| leaving.phase);
        let is_draining = server.health.state() == State::Draining;
        let finishes_flows = is_draining && phase.is_none_or(|phase| phase == DrainPhase::Flows);
        DatagramExtra {
            keeps_flows: is_selectable(leaf) || finishes_flows,
            is_over: phase == Some(DrainPhase::Over),
        }
    }

    fn on_state(&self, now: Instant, slot: Slot, server: &mut DatagramServer) {
        let sensed = &mut server.extra;
        match server.health.state() {
            State::Up => (sensed.up_since, sensed.next_trial) = (now, now),
            State::Suspect => {
                sensed.next_check = now;
                sensed.next_trial = now + sensed.trial_pause;
            }
            State::Draining | State::Disabled | State::Looping => self.cancel_trial(slot),
            State::Joining | State::Down | State::Held => {}
        }
    }
}

fn pool_settings(settings: &DatagramSettings) -> primary::PrimarySettings {
    let is_checked = settings.health.check != Check::None;
    primary::PrimarySettings {
        rules: settings.health.rules,
        policy: settings.policy,
        max_outstanding: settings.max_outstanding,
        // Where servers are checked, a new server must respond first, unless it is the only one. Where they
        // are not, only traffic gives signals.
        first_state: if is_checked { State::Suspect } else { State::Up },
        cannot_refuse: settings.protocol == Protocol::Datagram,
    }
}

/// The limits for each server.
fn limits_of(health: &HealthCheck) -> Limits {
    let Rules { rise, fall, hold_down_max, .. } = health.rules;
    Limits { rise, fall, silence: health.interval, probe: health.interval, hold_down_max }
}
