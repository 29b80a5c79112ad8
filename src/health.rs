//! The life of a server at the balancer: one table, state x event.
//!
//! ```text
//!                 alive x rise                  silent
//!   JOINING ─────────────────────> UP ────────────────────> SUSPECT
//!      ^  │ silent                 ^  <──────────────────────  │
//!      │  v                        │         alive             │ probe lost x fall
//!      │ DOWN <────────────────────┼───────────────────────────┘
//!      │  │ alive x rise           │
//!      │  └────────────────────────┘
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
//! * A balancer that was itself away ([`Health::forgive`]) has no verdict to give.
//!
//! Pure: time is an argument.

use std::time::Duration;

use crate::time::Instant;

/// What the balancer thinks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
}

impl State {
    /// All states.
    pub const ALL: [State; 6] =
        [State::Joining, State::Up, State::Suspect, State::Down, State::Draining, State::Disabled];

    /// The name in tables, logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            State::Joining => "joining",
            State::Up => "up",
            State::Suspect => "suspect",
            State::Down => "down",
            State::Draining => "draining",
            State::Disabled => "disabled",
        }
    }
}

impl Event {
    /// All events.
    pub const ALL: [Event; 6] =
        [Event::Alive, Event::Silent, Event::ProbeLost, Event::Drain, Event::Enable, Event::Disable];
}

/// How sure to be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Proofs of life in a row that take a joining or down server up.
    pub rise: u8,
    /// Lost probes in a row that take a suspect down.
    pub fall: u8,
    /// Silence that makes a suspect: `max(3 intervals, 100 ms)`.
    pub silence: Duration,
    /// Time between probes of a quiet server.
    pub probe: Duration,
}

impl Limits {
    /// Limits for servers that report every `interval`.
    pub fn for_interval(interval: Duration) -> Self {
        let silence = (interval * 3).max(Duration::from_millis(100));
        Limits { rise: 2, fall: 5, silence, probe: silence / 3 }
    }
}

/// One server's health.
#[derive(Clone, Debug)]
pub struct Health {
    state: State,
    /// Alive events in a row in Joining and Down, lost probes in a row in Suspect.
    streak: u8,
    last_alive: Instant,
    last_probe: Instant,
}

impl Health {
    /// A server that has just registered.
    pub fn joining(now: Instant) -> Self {
        Health { state: State::Joining, streak: 0, last_alive: now, last_probe: now }
    }

    /// A server in this state from now on.
    pub fn new(state: State, now: Instant) -> Self {
        Health { state, ..Health::joining(now) }
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
        if event == Event::Alive {
            self.last_alive = now;
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
            if event == Event::Silent {
                self.streak = 0;
            }
            return None;
        }
        self.streak = 0;
        self.state = next;
        Some(next)
    }

    /// The event that the passing of time means now, if any, and whether a probe should be sent.
    /// Called once a tick.
    pub fn on_tick(&mut self, now: Instant, limits: &Limits) -> (Option<Event>, bool) {
        let quiet = now.since(self.last_alive);
        let unanswered = self.last_probe > self.last_alive && now.since(self.last_probe) >= limits.probe / 3;
        let event = if self.state == State::Suspect {
            unanswered.then_some(Event::ProbeLost)
        } else {
            (quiet > limits.silence).then_some(Event::Silent)
        };
        let pause = if self.state == State::Suspect { limits.probe / 3 } else { limits.probe };
        let probe = quiet >= pause && now.since(self.last_probe) >= pause;
        if probe {
            self.last_probe = now;
        }
        (event, probe)
    }

    /// The balancer itself was away: silence until now proves nothing.
    pub fn forgive(&mut self, now: Instant) {
        self.last_alive = now;
        if self.state == State::Suspect {
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
        (Suspect, ProbeLost) => (Down, true),
        (Joining | Up | Suspect | Down | Disabled, Drain) => (Draining, false),
        (Draining | Disabled, Enable) => (Joining, false),
        (Joining | Up | Suspect | Down | Draining, Disable) => (Disabled, false),
        // Each of these on purpose: life and silence do not move who is draining, disabled or already there.
        (state, _) => (state, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { rise: 2, fall: 3, silence: Duration::from_millis(100), probe: Duration::from_millis(33) };

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn in_state(state: State) -> Health {
        Health { state, ..Health::joining(at(0)) }
    }

    /// How many of the event in a row it takes, and where they lead. Every pair is named.
    #[test]
    fn every_state_meets_every_event() {
        use Event::*;
        use State::*;
        let table: [(State, [(State, usize); 6]); 6] = [
            // Alive, Silent, ProbeLost, Drain, Enable, Disable
            (Joining, [(Up, 2), (Down, 1), (Joining, 1), (Draining, 1), (Joining, 1), (Disabled, 1)]),
            (Up, [(Up, 1), (Suspect, 1), (Up, 1), (Draining, 1), (Up, 1), (Disabled, 1)]),
            (Suspect, [(Up, 1), (Suspect, 1), (Down, 3), (Draining, 1), (Suspect, 1), (Disabled, 1)]),
            (Down, [(Up, 2), (Down, 1), (Down, 1), (Draining, 1), (Down, 1), (Disabled, 1)]),
            (
                Draining,
                [(Draining, 1), (Draining, 1), (Draining, 1), (Draining, 1), (Joining, 1), (Disabled, 1)],
            ),
            (
                Disabled,
                [(Disabled, 1), (Disabled, 1), (Disabled, 1), (Draining, 1), (Joining, 1), (Disabled, 1)],
            ),
        ];
        let events = [Alive, Silent, ProbeLost, Drain, Enable, Disable];
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
        assert_eq!(health.on_event(at(201), Event::ProbeLost, &LIMITS), None, "the count starts anew");
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
}
