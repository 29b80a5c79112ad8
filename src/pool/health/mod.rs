//! The health of one server: a table of states and events.
//!
//! ```text
//!                 alive x rise                  silent
//!   JOINING ─────────────────────> UP ────────────────────> SUSPECT
//!      ^  │ silent                 ^  <──────────────────────  │ ^
//!      │  v                        │         alive             │ │ hold over, enable
//!      │ DOWN <────────────────────┼───────────────────────────┘ │
//!      │  │ ^      alive x rise    │        probe lost x fall    │
//!      │  └─┼──────────────────────┘                             │
//!      │    └─────────────────────── HELD ───────────────────────┘
//!      │       probe lost x fall      ^
//!      │       (another failure)      │ instead of UP, during its hold-down time
//!      │ enable           drain                       disable
//!   DISABLED    any ──────────────> DRAINING    any ──────────> DISABLED
//!
//!   any but DRAINING and DISABLED ── loop ──> LOOPING ── hold over, enable ──> DOWN
//!                                     │ silent or probe lost: stays until the pool removes it
//!                                     │ enable: JOINING
//! ```
//!
//! * Any valid frame of the server is a liveness signal. Probes alone would flap under loss: with 5 % loss
//!   in each direction, three lost probes in a row eject a healthy idle server every two minutes.
//! * Slow is not dead: only the *lack* of frames counts, never a queue length or a BUSY.
//! * A suspect gets traffic only as a last resort, and is probed more often.
//! * A server with too many recent failures ([`Record`]) is *held down*: it answers, and gets traffic only as
//!   a last resort. Dying meanwhile is another failure. When the time is over, the server is suspect.
//! * A server that leads back to this balancer is *looping*: requests would run in circles, so it is barred
//!   even if the pool fails open.
//! * If more than a share of the pool is down or held down ([`Census::fails_open`]), the pool uses all
//!   servers (fail open).
//! * After an event-loop stall of the balancer, silence during the stall does not count
//!   ([`Health::forgive`]).
//!
//! Pure: time is an argument.

mod record;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::record::Record;
use crate::base::time::Instant;
use crate::pool::select::LeafState;

/// The state of a server at the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// The server has joined, and has not yet given enough liveness signals.
    Joining,
    /// The server gets traffic.
    Up,
    /// The server is silent for too long: it is probed, and gets traffic only as a last resort.
    Suspect,
    /// The server did not answer its probes: it gets no traffic.
    Down,
    /// The server finishes its requests, and gets no new ones.
    Draining,
    /// The operator has disabled the server: it gets no traffic.
    Disabled,
    /// The server answers and is held down for its recent failures: it gets traffic only as a last resort.
    Held,
    /// The server leads back to this balancer: it gets no traffic.
    Looping,
}

/// An event in a server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HealthEvent {
    /// A liveness signal: a valid frame of the server arrived.
    Alive,
    /// No frame arrived within the silence limit.
    Silent,
    /// A probe was not answered in time.
    ProbeLost,
    /// The server is about to stop, or an operator drains it.
    Drain,
    /// The operator enables the server.
    Enable,
    /// The operator disables the server.
    Disable,
    /// The hold-down time is over, or no loop has been seen for long enough.
    HoldOver,
    /// The server has been seen to lead back to this balancer.
    Loop,
}

impl State {
    /// All states.
    pub const ALL: [State; 8] = [
        State::Joining,
        State::Up,
        State::Suspect,
        State::Down,
        State::Draining,
        State::Disabled,
        State::Held,
        State::Looping,
    ];

    /// The name in tables, logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            State::Joining => "joining",
            State::Up => "up",
            State::Suspect => "suspect",
            State::Down => "down",
            State::Draining => "draining",
            State::Disabled => "disabled",
            State::Held => "held",
            State::Looping => "looping",
        }
    }

    /// Whether lost probes take the server down.
    pub const fn is_doubtful(self) -> bool {
        matches!(self, State::Suspect | State::Held)
    }
}

impl HealthEvent {
    /// All events.
    pub const ALL: [HealthEvent; 8] = [
        HealthEvent::Alive,
        HealthEvent::Silent,
        HealthEvent::ProbeLost,
        HealthEvent::Drain,
        HealthEvent::Enable,
        HealthEvent::Disable,
        HealthEvent::HoldOver,
        HealthEvent::Loop,
    ];
}

/// Rules for the health of a pool's servers, regardless of the pool's protocol.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Liveness signals in a row that take a joining or down server up, 1 to 100.
    pub rise: u8,
    /// Unanswered probes, checks or requests in a row that take a suspect down, 1 to 100.
    pub fall: u8,
    /// If more than this share of the servers is down or held, while some are up, traffic goes to all (fail
    /// open); 0 to 1.
    pub down_max: f64,
    /// Maximum hold-down time of a server that fails repeatedly; 0: no hold-down.
    pub hold_down_max: Duration,
    /// Duration of the slow start; 0: a server that comes up gets its whole share at once.
    pub slow_start: Duration,
}

impl Default for Rules {
    /// The rules of the native pool.
    fn default() -> Self {
        Rules {
            rise: 2,
            fall: 5,
            down_max: 0.5,
            hold_down_max: Duration::from_secs(300),
            slow_start: Duration::ZERO,
        }
    }
}

/// Numbers of a pool's servers by state. Joining, draining and disabled servers do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Servers up.
    pub up: u32,
    /// Suspect servers.
    pub suspect: u32,
    /// Servers held down.
    pub held: u32,
    /// Servers down.
    pub down: u32,
}

impl Census {
    /// The census of these states.
    pub fn of(states: impl Iterator<Item = State>) -> Self {
        let mut census = Census::default();
        states.for_each(|state| census.shift(None, Some(state)));
        census
    }

    /// Counts a server that changes from state `before` to `after`; `None`: not in the pool.
    pub fn shift(&mut self, before: Option<State>, after: Option<State>) {
        if let Some(count) = before.and_then(|state| self.count_of(state)) {
            *count -= 1;
        }
        if let Some(count) = after.and_then(|state| self.count_of(state)) {
            *count += 1;
        }
    }

    fn count_of(&mut self, state: State) -> Option<&mut u32> {
        match state {
            State::Up => Some(&mut self.up),
            State::Suspect => Some(&mut self.suspect),
            State::Held => Some(&mut self.held),
            State::Down => Some(&mut self.down),
            State::Joining | State::Draining | State::Disabled | State::Looping => None,
        }
    }

    /// Whether the share of servers down or held down exceeds `down_max` while at least one server is up.
    pub fn fails_open(&self, down_max: f64) -> bool {
        let out = self.down + self.held;
        self.up > 0 && f64::from(out) > down_max * f64::from(out + self.up + self.suspect)
    }
}

/// The limits of one server: when it counts as up, suspect or down.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Liveness signals in a row that take a joining or down server up.
    pub rise: u8,
    /// Lost probes in a row that take a suspect down.
    pub fall: u8,
    /// Silence after which a server is suspect: `max(3 intervals, 100 ms)`.
    pub silence: Duration,
    /// Time between probes of a quiet server.
    pub probe: Duration,
    /// Maximum hold-down time.
    pub hold_down_max: Duration,
}

impl Limits {
    /// Limits for servers that report every `interval`.
    pub fn for_interval(interval: Duration, rules: &Rules) -> Self {
        let silence = (interval * 3).max(Duration::from_millis(100));
        let Rules { rise, fall, hold_down_max, .. } = *rules;
        Limits { rise, fall, silence, probe: silence / 3, hold_down_max }
    }
}

/// One server's health.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Health {
    state: State,
    /// Alive events in a row in Joining and Down, lost probes in a row in Suspect and Held.
    streak: u8,
    last_alive: Instant,
    last_probe: Instant,
    record: Record,
}

impl Health {
    /// The health of a server without a past, in this state from now on.
    pub fn new(state: State, now: Instant) -> Self {
        Health::with_record(state, Record::default(), now)
    }

    /// The health of a server in this state from now on; during its hold-down time held instead of up.
    pub fn with_record(state: State, mut record: Record, now: Instant) -> Self {
        let held = state == State::Up && record.is_held(now);
        if state == State::Up && !held {
            record.enter(now, false);
        }
        let state = if held { State::Held } else { state };
        Health { state, streak: 0, last_alive: now, last_probe: now, record }
    }

    /// The server's failure record.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Another process has taken the server's place without a graceful stop. That is a failure if the server
    /// was in service or held down.
    pub fn crash(&mut self, now: Instant, limits: &Limits) {
        if self.state == State::Up {
            self.record.leave(now, self.last_alive);
        }
        if self.state == State::Up || self.state.is_doubtful() {
            self.record.fail(now, limits);
        }
    }

    /// The present state.
    pub fn state(&self) -> State {
        self.state
    }

    /// The time of the last liveness signal.
    pub fn last_alive(&self) -> Instant {
        self.last_alive
    }

    /// Notes a liveness signal without counting it as a step to another state.
    pub fn hear(&mut self, now: Instant) {
        self.last_alive = now;
    }

    /// Applies an event; returns the new state if it changed.
    pub fn on_event(&mut self, now: Instant, event: HealthEvent, limits: &Limits) -> Option<State> {
        match event {
            HealthEvent::Alive => self.last_alive = now,
            HealthEvent::Enable => self.record = Record::default(),
            _ => {}
        }
        let threshold = match event {
            HealthEvent::Alive => limits.rise,
            HealthEvent::ProbeLost => limits.fall,
            _ => 1,
        };
        let (next, counts) = transition(self.state, event);
        if counts {
            self.streak += 1;
            if self.streak < threshold {
                return None;
            }
        } else if next == self.state {
            if matches!(event, HealthEvent::Silent | HealthEvent::Alive) {
                self.streak = 0;
            }
            return None;
        }
        self.streak = 0;
        self.state = self.enter(now, next, limits);
        Some(self.state)
    }

    /// Updates the failure record for a change to state `next`. Returns the new state: `next`, or held
    /// instead of up.
    fn enter(&mut self, now: Instant, next: State, limits: &Limits) -> State {
        let was_suspected = self.state == State::Suspect;
        let record = &mut self.record;
        if self.state == State::Up {
            record.leave(now, self.last_alive);
        }
        match next {
            State::Up => {}
            State::Down => {
                if self.state.is_doubtful() {
                    record.fail(now, limits);
                }
                return next;
            }
            State::Draining | State::Disabled | State::Looping => {
                record.excuse();
                return next;
            }
            State::Joining | State::Suspect | State::Held => return next,
        }
        if was_suspected {
            record.end_suspicion(now, limits);
        }
        if record.is_held(now) {
            record.answer();
            return State::Held;
        }
        record.enter(now, was_suspected);
        next
    }

    /// The event that follows from the passing of time, if any, and whether a probe is due. Called at each
    /// tick.
    pub fn on_tick(&mut self, now: Instant, limits: &Limits) -> (Option<HealthEvent>, bool) {
        let quiet = now.since(self.last_alive);
        let unanswered = self.last_probe > self.last_alive && now.since(self.last_probe) >= limits.probe / 3;
        let event = match self.state {
            State::Held if !self.record.is_held(now) => Some(HealthEvent::HoldOver),
            State::Suspect | State::Held => unanswered.then_some(HealthEvent::ProbeLost),
            _ => (quiet > limits.silence).then_some(HealthEvent::Silent),
        };
        let pause = self.probe_pause(limits);
        let probe = quiet >= pause && now.since(self.last_probe) >= pause;
        if probe {
            self.last_probe = now;
        }
        (event, probe)
    }

    /// Time between two probes.
    fn probe_pause(&self, limits: &Limits) -> Duration {
        let in_doubt = self.state == State::Suspect || self.state == State::Held && self.streak > 0;
        if in_doubt { limits.probe / 3 } else { limits.probe }
    }

    /// The time from which on [`Health::on_tick`] can have an event or a probe, if no signal arrives before.
    /// The end of a hold-down time is not included.
    pub fn next_tick(&self, limits: &Limits) -> Instant {
        let probe = self.last_alive.max(self.last_probe) + self.probe_pause(limits);
        match self.state {
            State::Joining | State::Up => probe.min(self.last_alive + limits.silence),
            State::Suspect | State::Held if self.last_probe > self.last_alive => {
                probe.min(self.last_probe + limits.probe / 3)
            }
            _ => probe,
        }
    }

    /// Ignores the silence until now, after an event-loop stall.
    pub fn forgive(&mut self, now: Instant) {
        self.last_alive = now;
        if self.state.is_doubtful() {
            self.streak = 0;
        }
    }
}

/// The table: the next state, and whether several events in a row are needed.
fn transition(state: State, event: HealthEvent) -> (State, bool) {
    use HealthEvent::*;
    use State::*;
    match (state, event) {
        (Joining | Down, Alive) => (Up, true),
        (Suspect, Alive) => (Up, false),
        (Joining, Silent) => (Down, false),
        (Up, Silent) => (Suspect, false),
        (Suspect | Held, ProbeLost) => (Down, true),
        (Held, HoldOver | Enable) => (Suspect, false),
        (Joining | Up | Suspect | Down | Held, Loop) => (Looping, false),
        (Looping, HoldOver | Enable) => (Down, false),
        (Joining | Up | Suspect | Down | Held | Disabled | Looping, Drain) => (Draining, false),
        (Draining | Disabled, Enable) => (Joining, false),
        (Joining | Up | Suspect | Down | Held | Draining | Looping, Disable) => (Disabled, false),
        // On purpose: signals and silence do not move a server that is draining, disabled or already there.
        (state, _) => (state, false),
    }
}

/// The leaf of a server in this state. `fails_open`: too many servers are down or held down.
pub fn leaf_of(state: State, fails_open: bool) -> LeafState {
    match state {
        State::Up => LeafState::Eligible,
        State::Suspect | State::Held | State::Down if fails_open => LeafState::Eligible,
        State::Suspect | State::Held => LeafState::LastResort,
        State::Joining | State::Down | State::Draining | State::Disabled | State::Looping => {
            LeafState::Barred
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        rise: 2,
        fall: 3,
        silence: Duration::from_millis(100),
        probe: Duration::from_millis(33),
        hold_down_max: Duration::from_secs(300),
    };

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn in_state(state: State) -> Health {
        Health::new(state, at(0))
    }

    /// Every pair of state and event: the next state, and the number of events in a row that lead there.
    #[test]
    fn every_state_meets_every_event() {
        use State::*;
        // Alive, Silent, ProbeLost, Drain, Enable, Disable, HoldOver, Loop
        let table = [
            (
                Joining,
                [
                    (Up, 2),
                    (Down, 1),
                    (Joining, 1),
                    (Draining, 1),
                    (Joining, 1),
                    (Disabled, 1),
                    (Joining, 1),
                    (Looping, 1),
                ],
            ),
            (
                Up,
                [
                    (Up, 1),
                    (Suspect, 1),
                    (Up, 1),
                    (Draining, 1),
                    (Up, 1),
                    (Disabled, 1),
                    (Up, 1),
                    (Looping, 1),
                ],
            ),
            (
                Suspect,
                [
                    (Up, 1),
                    (Suspect, 1),
                    (Down, 3),
                    (Draining, 1),
                    (Suspect, 1),
                    (Disabled, 1),
                    (Suspect, 1),
                    (Looping, 1),
                ],
            ),
            (
                Down,
                [
                    (Up, 2),
                    (Down, 1),
                    (Down, 1),
                    (Draining, 1),
                    (Down, 1),
                    (Disabled, 1),
                    (Down, 1),
                    (Looping, 1),
                ],
            ),
            (
                Draining,
                [
                    (Draining, 1),
                    (Draining, 1),
                    (Draining, 1),
                    (Draining, 1),
                    (Joining, 1),
                    (Disabled, 1),
                    (Draining, 1),
                    (Draining, 1),
                ],
            ),
            (
                Disabled,
                [
                    (Disabled, 1),
                    (Disabled, 1),
                    (Disabled, 1),
                    (Draining, 1),
                    (Joining, 1),
                    (Disabled, 1),
                    (Disabled, 1),
                    (Disabled, 1),
                ],
            ),
            (
                Held,
                [
                    (Held, 1),
                    (Held, 1),
                    (Down, 3),
                    (Draining, 1),
                    (Suspect, 1),
                    (Disabled, 1),
                    (Suspect, 1),
                    (Looping, 1),
                ],
            ),
            (
                Looping,
                [
                    (Looping, 1),
                    (Looping, 1),
                    (Looping, 1),
                    (Draining, 1),
                    (Down, 1),
                    (Disabled, 1),
                    (Down, 1),
                    (Looping, 1),
                ],
            ),
        ];
        assert_eq!(table.map(|(state, _)| state), State::ALL);
        let events = HealthEvent::ALL;
        for (state, row) in table {
            for (event, (next, needed)) in events.into_iter().zip(row) {
                let mut health = in_state(state);
                for n in 1..=needed {
                    let changed = health.on_event(at(1), event, &LIMITS);
                    let expected = (n == needed && next != state).then_some(next);
                    assert_eq!(changed, expected, "{state:?} {event:?} number {n}");
                }
                assert_eq!(health.state(), next, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn a_liveness_signal_between_lost_probes_saves_the_suspect() {
        let mut health = in_state(State::Suspect);
        health.on_event(at(1), HealthEvent::ProbeLost, &LIMITS);
        health.on_event(at(2), HealthEvent::ProbeLost, &LIMITS);
        assert_eq!(health.on_event(at(3), HealthEvent::Alive, &LIMITS), Some(State::Up));
        health.on_event(at(200), HealthEvent::Silent, &LIMITS);
        assert_eq!(health.on_event(at(201), HealthEvent::ProbeLost, &LIMITS), None, "the count restarts");
    }

    #[test]
    fn a_quiet_server_is_probed_then_suspected_then_down() {
        let mut health = in_state(State::Up);
        let (mut probes, mut states) = (0, vec![]);
        for ms in 0..300 {
            let (event, probe) = health.on_tick(at(ms), &LIMITS);
            probes += u32::from(probe);
            if let Some(state) = event.and_then(|e| health.on_event(at(ms), e, &LIMITS)) {
                states.push((state, ms));
            }
        }
        assert_eq!(states.iter().map(|s| s.0).collect::<Vec<_>>(), [State::Suspect, State::Down]);
        assert_eq!(states[0].1, 101, "suspected just after the silence limit");
        assert!(states[1].1 < 200, "down soon after: {states:?}");
        assert!(probes > 5);
    }

    #[test]
    fn a_server_that_answers_its_probes_stays_up() {
        let mut health = in_state(State::Up);
        for ms in 0..1000 {
            let (event, probe) = health.on_tick(at(ms), &LIMITS);
            assert_eq!(event, None, "at {ms} ms");
            if probe {
                health.on_event(at(ms), HealthEvent::Alive, &LIMITS);
            }
        }
    }

    #[test]
    fn a_stall_of_the_balancer_is_no_silence_of_the_server() {
        let mut health = in_state(State::Up);
        health.forgive(at(10_000));
        assert_eq!(health.on_tick(at(10_001), &LIMITS).0, None);
        assert_eq!(health.on_tick(at(10_101), &LIMITS).0, Some(HealthEvent::Silent));
    }

    /// Runs a server tick by tick. Returns its changes of state with their times in milliseconds.
    fn run(
        health: &mut Health,
        limits: &Limits,
        from: u64,
        to: u64,
        mut lives: impl FnMut(u64) -> bool,
    ) -> Vec<(u64, State)> {
        let mut states = vec![];
        for ms in (from..to).step_by(5) {
            let (event, probe) = health.on_tick(at(ms), limits);
            let answer = (lives(ms) && (probe || ms % 50 == 0)).then_some(HealthEvent::Alive);
            let changes = [event, answer].map(|e| health.on_event(at(ms), e?, limits));
            states.extend(changes.into_iter().flatten().map(|state| (ms, state)));
        }
        states
    }

    /// Times at which a server that lives every other second comes up, and goes down.
    fn flap(health: &mut Health, limits: &Limits) -> [Vec<u64>; 2] {
        let states = run(health, limits, 0, 70_000, |ms| ms / 1_000 % 2 == 0);
        [State::Up, State::Down].map(|which| {
            states.iter().filter(|(_, state)| *state == which).map(|(ms, _)| *ms).collect::<Vec<_>>()
        })
    }

    #[test]
    fn each_death_is_another_failure_while_a_server_is_held_down() {
        let mut health = Health::new(State::Joining, at(0));
        let [up, down] = flap(&mut health, &LIMITS);
        assert_eq!(up.len(), 2, "{up:?}");
        assert!((2_000..2_200).contains(&up[1]), "after the first failure as soon as it answers: {up:?}");
        assert_eq!((down.len(), health.record().failures()), (35, 35), "{down:?}");
        assert!(health.record().is_held(at(360_000)), "since the last one");
        assert_eq!(health.on_event(at(70_000), HealthEvent::Enable, &LIMITS), None, "it is down");
        assert!(health.record().is_clean());
        run(&mut health, &LIMITS, 70_000, 70_200, |_| true);
        assert_eq!(health.state(), State::Up);
    }

    #[test]
    fn restarts_ten_seconds_apart_cause_no_hold_down_time() {
        let mut health = Health::new(State::Joining, at(0));
        let states = run(&mut health, &LIMITS, 0, 110_000, |ms| ms % 11_000 < 10_000);
        let came: Vec<u64> =
            states.iter().filter(|(_, state)| *state == State::Up).map(|(ms, _)| ms % 11_000).collect();
        assert_eq!(came.len(), 10, "{states:?}");
        assert!(came.iter().all(|&ms| ms < 200), "each time as soon as it answers: {came:?}");
    }

    /// A server held down after two failures.
    fn held() -> Health {
        let mut health = Health::new(State::Joining, at(0));
        run(&mut health, &LIMITS, 0, 4_500, |ms| ms / 1_000 % 2 == 0);
        assert_eq!((health.state(), health.record().failures()), (State::Held, 2));
        health
    }

    #[test]
    fn a_crash_while_held_down_is_a_failure_and_a_graceful_stop_is_none() {
        let mut crashed = held();
        crashed.crash(at(4_500), &LIMITS);
        crashed.crash(at(4_501), &LIMITS);
        assert_eq!(crashed.record().failures(), 3, "once");
        for event in [HealthEvent::Drain, HealthEvent::Disable] {
            let mut stopped = held();
            stopped.on_event(at(4_500), event, &LIMITS);
            stopped.crash(at(4_600), &LIMITS);
            let mut next = Health::with_record(State::Suspect, stopped.record().clone(), at(5_000));
            run(&mut next, &LIMITS, 5_000, 6_000, |_| false);
            assert_eq!((next.state(), next.record().failures()), (State::Down, 2), "{event:?}");
        }
    }

    #[test]
    fn after_its_hold_down_time_a_dead_server_has_failed_and_a_slow_one_has_not() {
        let (mut dead, mut slow) = (held(), held());
        let over = 90_000;
        for health in [&mut dead, &mut slow] {
            assert_eq!(health.on_event(at(over), HealthEvent::HoldOver, &LIMITS), Some(State::Suspect));
        }
        for _ in 0..LIMITS.fall {
            dead.on_event(at(over + 50), HealthEvent::ProbeLost, &LIMITS);
        }
        assert_eq!(dead.record().to_string(), "failed 3 times, held for 86 s");
        assert_eq!(slow.on_event(at(over + 1_000), HealthEvent::Alive, &LIMITS), Some(State::Up));
        assert_eq!(slow.record().failures(), 2);
        let mut replaced = held();
        replaced.on_event(at(over + 50_000), HealthEvent::HoldOver, &LIMITS);
        replaced.crash(at(over + 50_000), &LIMITS);
        assert_eq!(replaced.record().failures(), 3, "time held down is no time in service");
    }

    #[test]
    fn a_drained_server_has_not_failed_regardless_of_its_absence() {
        let mut health = in_state(State::Up);
        health.on_event(at(1), HealthEvent::Drain, &LIMITS);
        let mut next = Health::with_record(State::Suspect, health.record().clone(), at(5_000));
        assert_eq!(next.on_event(at(6_000), HealthEvent::Alive, &LIMITS), Some(State::Up));
        assert!(next.record().is_clean());
    }

    #[test]
    fn a_graceful_stop_is_no_failure_and_a_crash_is_one() {
        let (mut stopped, mut crashed) = (in_state(State::Up), in_state(State::Up));
        stopped.on_event(at(1), HealthEvent::Drain, &LIMITS);
        stopped.crash(at(2), &LIMITS);
        assert!(stopped.record().is_clean());
        crashed.on_event(at(1), HealthEvent::Silent, &LIMITS);
        for n in 2..10 {
            crashed.crash(at(n), &LIMITS);
        }
        assert_eq!(crashed.record().to_string(), "failed 1 times, held for 0 s");
        let mut next = Health::with_record(State::Joining, crashed.record().clone(), at(20));
        next.on_event(at(21), HealthEvent::Alive, &LIMITS);
        assert_eq!(next.on_event(at(22), HealthEvent::Alive, &LIMITS), Some(State::Up), "as quickly as ever");
        next.crash(at(23), &LIMITS);
        let mut third = Health::with_record(State::Up, next.record().clone(), at(24));
        assert_eq!(third.state(), State::Held);
        assert_eq!(third.on_event(at(25), HealthEvent::Enable, &LIMITS), Some(State::Suspect));
        assert_eq!(third.on_event(at(26), HealthEvent::Alive, &LIMITS), Some(State::Up));
    }

    #[test]
    fn a_pool_fails_open_if_too_many_servers_are_down_or_held_and_one_is_up() {
        use State::*;
        for (states, down_max, expected) in [
            (&[Up, Down][..], 0.5, false),
            (&[Up, Down, Held], 0.5, true),
            (&[Up, Suspect, Down, Held], 0.5, false),
            (&[Suspect, Down, Held], 0.5, false),
            (&[Up, Down, Down, Down], 1.0, false),
            (&[Up, Up, Up, Held], 0.0, true),
            (&[Up, Draining, Disabled, Joining], 0.0, false),
        ] {
            let census = Census::of(states.iter().copied());
            assert_eq!(census.fails_open(down_max), expected, "{states:?}, {down_max}");
        }
    }

    #[test]
    fn a_server_that_never_was_up_has_not_failed() {
        let mut health = Health::new(State::Suspect, at(0));
        run(&mut health, &LIMITS, 0, 1_000, |_| false);
        assert_eq!((health.state(), health.record().failures()), (State::Down, 0));
        run(&mut health, &LIMITS, 1_000, 1_200, |_| true);
        assert_eq!(health.state(), State::Up);
    }
}
