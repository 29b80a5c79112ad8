//! The life of a server at the balancer: one table, state x event.
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
//!      │       (another failure)      │ instead of UP, while its failures keep it away
//!      │ enable           drain                       disable
//!   DISABLED    any ──────────────> DRAINING    any ──────────> DISABLED
//!                                     │ silent or probe lost: stays, and is forgotten when it ends
//!                                     │ enable: JOINING
//! ```
//!
//! * Any valid frame of the server is proof of life. Probes alone would flap under loss: with 5 % loss
//!   a leg, three lost probes in a row eject a healthy idle server every two minutes.
//! * Slow is not dead: only the *lack* of frames counts, never a queue length or a BUSY.
//! * A suspect gets traffic only when nobody better is left (fail open), and is probed at every tick.
//! * Who has failed too often lately ([`Record`]) is *held*: it answers, and gets traffic only when nobody
//!   better is left. Where it is watched meanwhile ([`Limits::is_watched`]), to die is another failure; where
//!   it is not, it is held for longer at once. When the time is over it has to prove itself as any suspect
//!   has.
//! * If more than a share of the pool is down or held ([`Census::fails_open`]), all are used: better slow
//!   than nothing.
//! * A balancer that was itself away ([`Health::forgive`]) has no verdict to give.
//!
//! Pure: time is an argument.

mod record;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::record::Record;
use crate::base::time::Instant;
use crate::pool::select::LeafState;

/// What the balancer thinks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Registered; not yet proved alive often enough.
    Joining,
    /// Gets traffic.
    Up,
    /// Silent for too long: gets traffic only if nobody is up, and is probed.
    Suspect,
    /// Did not answer its probes: gets none.
    Down,
    /// Finishes what it has: gets none.
    Draining,
    /// Switched off by the operator.
    Disabled,
    /// Answers, but has failed too often lately: gets traffic only if nobody better is left.
    Held,
}

/// What can happen to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A valid frame of it arrived.
    Alive,
    /// Nothing arrived within the silence limit.
    Silent,
    /// A probe of a suspect stayed unanswered for an interval.
    ProbeLost,
    /// It, the controller or the operator asks to drain it.
    Drain,
    /// The operator takes it into service (again).
    Enable,
    /// The operator takes it out of service.
    Disable,
    /// The time is over for which it was held.
    HoldOver,
}

impl State {
    /// All states.
    pub const ALL: [State; 7] = [
        State::Joining,
        State::Up,
        State::Suspect,
        State::Down,
        State::Draining,
        State::Disabled,
        State::Held,
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
        }
    }

    /// Whether it answers, or did until now, but is not trusted: the next missing answers take it down.
    pub const fn is_doubtful(self) -> bool {
        matches!(self, State::Suspect | State::Held)
    }
}

impl Event {
    /// All events.
    pub const ALL: [Event; 7] = [
        Event::Alive,
        Event::Silent,
        Event::ProbeLost,
        Event::Drain,
        Event::Enable,
        Event::Disable,
        Event::HoldOver,
    ];
}

/// How the servers of a pool are judged, whatever they speak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Proofs of life in a row that bring a server back, 1 to 100.
    pub rise: u8,
    /// Unanswered probes, checks or requests in a row that take a suspect down, 1 to 100.
    pub fall: u8,
    /// If more than this share of the servers is down or held, while some are up, traffic goes to all (fail
    /// open); 0 to 1.
    pub down_max: f64,
    /// The longest time for which a server that fails again and again is kept away; 0: it is not.
    pub hold_down_max: Duration,
    /// How long a server that has come up takes to get its whole share; 0: it gets it at once.
    pub slow_start: Duration,
}

impl Default for Rules {
    /// Those of the native pool.
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

/// How many servers of a pool are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Up.
    pub up: u32,
    /// Suspected.
    pub suspect: u32,
    /// Held.
    pub held: u32,
    /// Down.
    pub down: u32,
}

impl Census {
    /// Counts these.
    pub fn of(states: impl Iterator<Item = State>) -> Self {
        let mut census = Census::default();
        states.for_each(|state| census.shift(None, Some(state)));
        census
    }

    /// A server in state `before` is now in state `after`; `None`: it was, or is, not there.
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
            State::Joining | State::Draining | State::Disabled => None,
        }
    }

    /// Whether more servers are down or held than the pool may do without, while some are up.
    pub fn fails_open(&self, down_max: f64) -> bool {
        let out = self.down + self.held;
        self.up > 0 && f64::from(out) > down_max * f64::from(out + self.up + self.suspect)
    }
}

/// How sure to be of one server.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Proofs of life in a row that take a joining or down server up.
    pub rise: u8,
    /// Lost probes in a row that take a suspect down.
    pub fall: u8,
    /// Silence that makes a suspect: `max(3 intervals, 100 ms)`.
    pub silence: Duration,
    /// Time between probes of a quiet server.
    pub probe: Duration,
    /// The longest time for which it is held.
    pub hold_down_max: Duration,
    /// Whether it is noticed, quickly enough, when it dies and comes back while it is held: see [`sees`].
    pub is_watched: bool,
}

impl Limits {
    /// Limits for servers that report every `interval`.
    pub fn for_interval(interval: Duration, rules: &Rules) -> Self {
        let silence = (interval * 3).max(Duration::from_millis(100));
        let probe = silence / 3;
        let Rules { rise, fall, hold_down_max, .. } = *rules;
        let is_watched = sees(probe * rise.into(), probe + probe / 3 * fall.into());
        Limits { rise, fall, silence, probe, hold_down_max, is_watched }
    }
}

/// Whether one notices each life and death of a server that is up for a second and down for a second, if it
/// takes so long to believe that it has come, and that it has gone.
pub fn sees(come: Duration, gone: Duration) -> bool {
    come.max(gone) < Duration::from_secs(1)
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
    /// A server that nothing is known of, in this state from now on.
    pub fn new(state: State, now: Instant) -> Self {
        Health::with_record(state, Record::default(), now)
    }

    /// A server in this state from now on; if its failures keep it away, it is held instead of up.
    pub fn with_record(state: State, mut record: Record, now: Instant) -> Self {
        let held = state == State::Up && record.is_held(now);
        if state == State::Up && !held {
            record.enter(now, false);
        }
        let state = if held { State::Held } else { state };
        Health { state, streak: 0, last_alive: now, last_probe: now, record }
    }

    /// What is known of its failures.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Another process has taken its place without a word: if it was in service, or answered, that is a
    /// failure.
    pub fn crash(&mut self, now: Instant, limits: &Limits) {
        if self.state == State::Up {
            self.record.leave(now);
        }
        if self.state == State::Up || self.state.is_doubtful() {
            self.record.fail(now, limits);
        }
    }

    /// The present state.
    pub fn state(&self) -> State {
        self.state
    }

    /// The last proof of life.
    pub fn last_alive(&self) -> Instant {
        self.last_alive
    }

    /// Notes that it is there, without counting it as a step to another state.
    pub fn hear(&mut self, now: Instant) {
        self.last_alive = now;
    }

    /// Applies an event; gives the new state if it changed.
    pub fn on_event(&mut self, now: Instant, event: Event, limits: &Limits) -> Option<State> {
        match event {
            Event::Alive => self.last_alive = now,
            Event::Enable => self.record = Record::default(),
            _ => {}
        }
        let threshold = match event {
            Event::Alive => limits.rise,
            Event::ProbeLost => limits.fall,
            _ => 1,
        };
        let (next, counts) = transition(self.state, event);
        if counts {
            self.streak += 1;
            if self.streak < threshold {
                return None;
            }
        } else if next == self.state {
            if matches!(event, Event::Silent | Event::Alive) {
                self.streak = 0;
            }
            return None;
        }
        self.streak = 0;
        self.state = self.enter(now, next, limits);
        Some(self.state)
    }

    /// Keeps the record of a change of the state. Gives the state that it leads to: held instead of up,
    /// maybe.
    fn enter(&mut self, now: Instant, next: State, limits: &Limits) -> State {
        let was_suspected = self.state == State::Suspect;
        let record = &mut self.record;
        if self.state == State::Up {
            record.leave(now);
        }
        match next {
            State::Up => {}
            State::Down => {
                if self.state.is_doubtful() {
                    record.fail(now, limits);
                }
                return next;
            }
            State::Draining | State::Disabled => {
                record.excuse();
                return next;
            }
            State::Joining | State::Suspect | State::Held => return next,
        }
        if was_suspected {
            record.end_suspicion(now, limits);
        }
        if record.is_held(now) {
            record.answer(limits);
            return State::Held;
        }
        record.enter(now, was_suspected);
        next
    }

    /// The event that the passing of time means now, if any, and whether a probe should be sent.
    /// Called once a tick.
    pub fn on_tick(&mut self, now: Instant, limits: &Limits) -> (Option<Event>, bool) {
        let quiet = now.since(self.last_alive);
        let unanswered = self.last_probe > self.last_alive && now.since(self.last_probe) >= limits.probe / 3;
        let event = match self.state {
            State::Held if !self.record.is_held(now) => Some(Event::HoldOver),
            State::Suspect | State::Held => unanswered.then_some(Event::ProbeLost),
            _ => (quiet > limits.silence).then_some(Event::Silent),
        };
        let in_doubt = self.state == State::Suspect || self.state == State::Held && self.streak > 0;
        let pause = if in_doubt { limits.probe / 3 } else { limits.probe };
        let probe = quiet >= pause && now.since(self.last_probe) >= pause;
        if probe {
            self.last_probe = now;
        }
        (event, probe)
    }

    /// The balancer itself was away: silence until now proves nothing.
    pub fn forgive(&mut self, now: Instant) {
        self.last_alive = now;
        if self.state.is_doubtful() {
            self.streak = 0;
        }
    }
}

/// The table: the state that the event leads to, and whether it takes several in a row.
fn transition(state: State, event: Event) -> (State, bool) {
    use Event::*;
    use State::*;
    match (state, event) {
        (Joining | Down, Alive) => (Up, true),
        (Suspect, Alive) => (Up, false),
        (Joining, Silent) => (Down, false),
        (Up, Silent) => (Suspect, false),
        (Suspect | Held, ProbeLost) => (Down, true),
        (Held, HoldOver | Enable) => (Suspect, false),
        (Joining | Up | Suspect | Down | Held | Disabled, Drain) => (Draining, false),
        (Draining | Disabled, Enable) => (Joining, false),
        (Joining | Up | Suspect | Down | Held | Draining, Disable) => (Disabled, false),
        // Each of these on purpose: life and silence do not move who is draining, disabled or already there.
        (state, _) => (state, false),
    }
}

/// Whether a server in this state may be chosen; `fails_open` if too many are down or held.
pub fn leaf_of(state: State, fails_open: bool) -> LeafState {
    match state {
        State::Up => LeafState::Eligible,
        State::Suspect | State::Held | State::Down if fails_open => LeafState::Eligible,
        State::Suspect | State::Held => LeafState::LastResort,
        State::Joining | State::Down | State::Draining | State::Disabled => LeafState::Barred,
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
        is_watched: true,
    };

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn in_state(state: State) -> Health {
        Health::new(state, at(0))
    }

    /// How many of the event in a row it takes, and where they lead. Every pair is named.
    #[test]
    fn every_state_meets_every_event() {
        use State::*;
        // Alive, Silent, ProbeLost, Drain, Enable, Disable, HoldOver
        let table = [
            (
                Joining,
                [(Up, 2), (Down, 1), (Joining, 1), (Draining, 1), (Joining, 1), (Disabled, 1), (Joining, 1)],
            ),
            (Up, [(Up, 1), (Suspect, 1), (Up, 1), (Draining, 1), (Up, 1), (Disabled, 1), (Up, 1)]),
            (
                Suspect,
                [(Up, 1), (Suspect, 1), (Down, 3), (Draining, 1), (Suspect, 1), (Disabled, 1), (Suspect, 1)],
            ),
            (Down, [(Up, 2), (Down, 1), (Down, 1), (Draining, 1), (Down, 1), (Disabled, 1), (Down, 1)]),
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
                ],
            ),
            (
                Held,
                [(Held, 1), (Held, 1), (Down, 3), (Draining, 1), (Suspect, 1), (Disabled, 1), (Suspect, 1)],
            ),
        ];
        assert_eq!(table.map(|(state, _)| state), State::ALL);
        let events = Event::ALL;
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
    fn a_proof_of_life_between_lost_probes_saves_the_suspect() {
        let mut health = in_state(State::Suspect);
        health.on_event(at(1), Event::ProbeLost, &LIMITS);
        health.on_event(at(2), Event::ProbeLost, &LIMITS);
        assert_eq!(health.on_event(at(3), Event::Alive, &LIMITS), Some(State::Up));
        health.on_event(at(200), Event::Silent, &LIMITS);
        assert_eq!(health.on_event(at(201), Event::ProbeLost, &LIMITS), None, "the count restarts");
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
                health.on_event(at(ms), Event::Alive, &LIMITS);
            }
        }
    }

    #[test]
    fn the_balancers_own_pause_is_no_silence_of_the_server() {
        let mut health = in_state(State::Up);
        health.forgive(at(10_000));
        assert_eq!(health.on_tick(at(10_001), &LIMITS).0, None);
        assert_eq!(health.on_tick(at(10_101), &LIMITS).0, Some(Event::Silent));
    }

    /// Runs a server that lives or not, tick by tick; gives what it became when.
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
            let answer = (lives(ms) && (probe || ms % 50 == 0)).then_some(Event::Alive);
            let changes = [event, answer].map(|e| health.on_event(at(ms), e?, limits));
            states.extend(changes.into_iter().flatten().map(|state| (ms, state)));
        }
        states
    }

    /// When a server that lives every other second is up, and when it is down.
    fn flap(health: &mut Health, limits: &Limits) -> [Vec<u64>; 2] {
        let states = run(health, limits, 0, 70_000, |ms| ms / 1_000 % 2 == 0);
        [State::Up, State::Down].map(|which| {
            states.iter().filter(|(_, state)| *state == which).map(|(ms, _)| *ms).collect::<Vec<_>>()
        })
    }

    #[test]
    fn what_a_held_server_does_is_another_failure_each_time_where_it_is_watched() {
        let mut health = Health::new(State::Joining, at(0));
        let [up, down] = flap(&mut health, &LIMITS);
        assert_eq!(up.len(), 2, "{up:?}");
        assert!((2_000..2_200).contains(&up[1]), "after the first failure as soon as it answers: {up:?}");
        assert_eq!((down.len(), health.record().failures()), (35, 35), "{down:?}");
        assert!(health.record().is_held(at(360_000)), "since the last one");
        assert_eq!(health.on_event(at(70_000), Event::Enable, &LIMITS), None, "it is down");
        assert!(health.record().is_clean());
        run(&mut health, &LIMITS, 70_000, 70_200, |_| true);
        assert_eq!(health.state(), State::Up);
    }

    #[test]
    fn where_it_is_not_watched_it_is_held_for_longer_at_once() {
        let mut health = Health::new(State::Joining, at(0));
        let [up, down] = flap(&mut health, &Limits { is_watched: false, ..LIMITS });
        assert_eq!(up.len(), 3, "{up:?}");
        assert!((67_000..69_100).contains(&up[2]), "{up:?}");
        assert!(down.len() > 30, "what it does meanwhile is seen, and no failure more: {down:?}");
        assert_eq!(health.record().to_string(), "failed 3 times, held for 300 s");
    }

    /// Two failures, and it answers again: held.
    fn held() -> Health {
        let mut health = Health::new(State::Joining, at(0));
        run(&mut health, &LIMITS, 0, 4_500, |ms| ms / 1_000 % 2 == 0);
        assert_eq!((health.state(), health.record().failures()), (State::Held, 2));
        health
    }

    #[test]
    fn whoever_leaves_while_it_is_held_has_failed_if_it_says_nothing_and_else_has_not() {
        let mut crashed = held();
        crashed.crash(at(4_500), &LIMITS);
        crashed.crash(at(4_501), &LIMITS);
        assert_eq!(crashed.record().failures(), 3, "once");
        for word in [Event::Drain, Event::Disable] {
            let mut told = held();
            told.on_event(at(4_500), word, &LIMITS);
            told.crash(at(4_600), &LIMITS);
            let mut next = Health::with_record(State::Suspect, told.record().clone(), at(5_000));
            run(&mut next, &LIMITS, 5_000, 6_000, |_| false);
            assert_eq!((next.state(), next.record().failures()), (State::Down, 2), "{word:?}");
        }
    }

    #[test]
    fn who_dies_as_its_time_ends_has_failed_and_who_only_takes_long_to_prove_itself_has_not() {
        let (mut dead, mut slow) = (held(), held());
        let over = 7_200;
        for health in [&mut dead, &mut slow] {
            assert_eq!(health.on_event(at(over), Event::HoldOver, &LIMITS), Some(State::Suspect));
        }
        for _ in 0..LIMITS.fall {
            dead.on_event(at(over + 50), Event::ProbeLost, &LIMITS);
        }
        assert_eq!(dead.record().to_string(), "failed 3 times, held for 64 s");
        assert_eq!(slow.on_event(at(over + 1_000), Event::Alive, &LIMITS), Some(State::Up));
        assert_eq!(slow.record().failures(), 2);
        let mut replaced = held();
        replaced.on_event(at(over + 70_000), Event::HoldOver, &LIMITS);
        replaced.crash(at(over + 70_000), &LIMITS);
        assert_eq!(replaced.record().failures(), 3, "to be held is not to be in service");
    }

    #[test]
    fn who_reports_seldom_is_not_watched() {
        let watched = |ms| Limits::for_interval(Duration::from_millis(ms), &Rules::default()).is_watched;
        assert_eq!([10, 333, 400, 10_000].map(watched), [true, true, false, false]);
    }

    #[test]
    fn to_be_told_to_stop_is_no_failure_however_long_it_is_away() {
        let mut health = in_state(State::Up);
        health.on_event(at(1), Event::Drain, &LIMITS);
        let mut next = Health::with_record(State::Suspect, health.record().clone(), at(5_000));
        assert_eq!(next.on_event(at(6_000), Event::Alive, &LIMITS), Some(State::Up));
        assert!(next.record().is_clean());
    }

    #[test]
    fn a_graceful_stop_is_no_failure_and_a_crash_is_one() {
        let (mut stopped, mut crashed) = (in_state(State::Up), in_state(State::Up));
        stopped.on_event(at(1), Event::Drain, &LIMITS);
        stopped.crash(at(2), &LIMITS);
        assert!(stopped.record().is_clean());
        crashed.on_event(at(1), Event::Silent, &LIMITS);
        for n in 2..10 {
            crashed.crash(at(n), &LIMITS);
        }
        assert_eq!(crashed.record().to_string(), "failed 1 times, held for 0 s");
        let mut next = Health::with_record(State::Joining, crashed.record().clone(), at(20));
        next.on_event(at(21), Event::Alive, &LIMITS);
        assert_eq!(next.on_event(at(22), Event::Alive, &LIMITS), Some(State::Up), "as quickly as ever");
        next.crash(at(23), &LIMITS);
        let mut third = Health::with_record(State::Up, next.record().clone(), at(24));
        assert_eq!(third.state(), State::Held);
        assert_eq!(third.on_event(at(25), Event::Enable, &LIMITS), Some(State::Suspect));
        assert_eq!(third.on_event(at(26), Event::Alive, &LIMITS), Some(State::Up));
    }

    #[test]
    fn a_pool_fails_open_when_too_many_are_down_or_held_and_somebody_is_up() {
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
    fn who_never_was_up_has_not_failed() {
        let mut health = Health::new(State::Suspect, at(0));
        run(&mut health, &LIMITS, 0, 1_000, |_| false);
        assert_eq!((health.state(), health.record().failures()), (State::Down, 0));
        run(&mut health, &LIMITS, 1_000, 1_200, |_| true);
        assert_eq!(health.state(), State::Up);
    }
}
