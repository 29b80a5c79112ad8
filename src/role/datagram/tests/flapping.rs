//! A server that is up for a second and down for a second, among three that are well: soon it gets next to
//! nothing.

use std::collections::VecDeque;

use super::bench::*;
use super::*;
use crate::pool::select::Slot;
use crate::wire::dns::name_to_wire;

const SECOND: Duration = Duration::from_secs(1);
/// Time between requests.
const GAP: Duration = Duration::from_millis(5);
/// The server that flaps.
const FLAPPING: u16 = 2;

/// What becomes of what a server gets while it is down.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Down {
    /// It is answered when the server continues (SIGCONT).
    Frozen,
    /// It is lost.
    Dead,
}

/// Clients that ask in turn. There is a port for each, so that none has to wait for another's to rest.
const CLIENTS: u16 = 100;

struct World {
    pool: Bench,
    down: Down,
    /// Answers that are due, by when the server is up.
    answers: VecDeque<Sent>,
    requests: u64,
    start: Instant,
}

impl World {
    fn new(seed: u64, settings: DatagramSettings, down: Down) -> World {
        let pool = Bench::with_seed(seed, settings, CLIENTS, [1, FLAPPING, 4, 5]);
        let start = pool.now;
        World { pool, down, answers: VecDeque::new(), requests: 0, start }
    }

    /// One request and all responses that are due; the flapping server is up or not.
    fn step(&mut self, is_up: bool) {
        self.pool.now += GAP;
        let mut arrived = vec![];
        for way in std::mem::take(&mut self.answers) {
            let lives = is_up || way.to != server(FLAPPING);
            match (lives, self.down) {
                (true, _) => {
                    let mut bytes = way.bytes.clone();
                    bytes[2] |= 0x80;
                    arrived.push(way.answered(&bytes));
                }
                (false, Down::Frozen) => self.answers.push_back(way),
                (false, Down::Dead) => {}
            }
        }
        let n = self.requests as u16;
        let mut query = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01".to_vec();
        query[..2].copy_from_slice(&n.to_be_bytes());
        arrived.push(In::new(0, client(n % CLIENTS), &query));
        self.requests += 1;
        let sent = self.pool.turn(&arrived);
        self.answers.extend(sent.into_iter().filter(|sent| !self.pool.is_front(sent.socket)));
    }

    fn slot(&self) -> Slot {
        self.pool.slot(FLAPPING).unwrap()
    }

    /// Requests of clients that the flapping server has got.
    fn touched(&self) -> u64 {
        self.pool.stats().servers[self.slot().index()].common.dispatched.get()
    }

    fn failures(&self) -> u32 {
        self.pool.workers[0].primary.as_ref().unwrap().failures(self.slot())
    }

    fn flap(&mut self) {
        let is_up = self.pool.now.since(self.start).as_secs().is_multiple_of(2);
        self.step(is_up);
    }
}

/// Every kind of pool, without checks, with checks that see it come and go, and with checks that are too slow
/// for that.
fn pools() -> Vec<DatagramSettings> {
    let mut pools = vec![];
    for protocol in Protocol::ALL {
        let check = match protocol {
            Protocol::Dns => Check::Dns { name: name_to_wire("a").unwrap(), kind: 1 },
            Protocol::Datagram => Check::Payload { send: b"0123".to_vec(), expect: vec![] },
        };
        let (quick, slow) = ((200 * MS, 100 * MS), (SECOND, SECOND));
        for (check, (interval, within)) in [(&Check::None, quick), (&check, quick), (&check, slow)] {
            for timeout in [TIMEOUT, 2 * SECOND] {
                let mut settings = DatagramSettings { timeout, ..settings(protocol) };
                settings.health.check = check.clone();
                (settings.health.interval, settings.health.timeout) = (interval, within);
                settings.health.rules.down_max = 0.5;
                pools.push(settings);
            }
        }
    }
    pools
}

#[test]
fn in_the_minute_after_its_third_failure_less_than_a_thousandth_of_the_requests_go_there() {
    for (seed, settings) in (1..).zip(pools()) {
        for down in [Down::Frozen, Down::Dead] {
            let what = format!("seed {seed}, {down:?}, {settings:?}");
            let mut world = World::new(seed, settings.clone(), down);
            // Up for the first second, so that it fails for the third time then even if no failure was seen.
            let third = world.start + 5 * SECOND;
            while world.pool.now < third {
                world.flap();
            }
            let (touched, requests) = (world.touched(), world.requests);
            while world.pool.now < third + 60 * SECOND {
                world.flap();
            }
            let (touched, requests) = (world.touched() - touched, world.requests - requests);
            assert!(touched * 1_000 < requests, "{what}: {touched} of {requests}");
        }
    }
}

/// When a server that has failed once is up again, after having been down for this long.
fn back(settings: DatagramSettings, seed: u64, down: Down, away: Duration) -> Duration {
    let mut world = World::new(seed, settings, down);
    let run = |world: &mut World, span: Duration, is_up: bool| {
        let end = world.pool.now + span;
        while world.pool.now < end {
            world.step(is_up);
        }
    };
    run(&mut world, 2 * SECOND, true);
    assert_eq!(world.pool.state(FLAPPING), "up");
    run(&mut world, away, false);
    assert_ne!(world.pool.state(FLAPPING), "up");
    let alive = world.pool.now;
    while world.pool.state(FLAPPING) != "up" {
        world.step(true);
        assert!(world.pool.now < alive + 120 * SECOND);
    }
    world.pool.now.since(alive)
}

#[test]
fn one_failure_makes_nobody_wait() {
    for (seed, settings) in (1..).zip(pools()) {
        for away in [SECOND, 5 * SECOND] {
            let mut never_held = settings.clone();
            never_held.health.rules.hold_down_max = Duration::ZERO;
            let [with, without] =
                [settings.clone(), never_held].map(|settings| back(settings, seed, Down::Dead, away));
            assert_eq!(with, without, "seed {seed}, {away:?}, {settings:?}");
        }
    }
}

#[test]
fn who_is_held_is_used_when_nobody_better_is_left_and_is_up_again_in_the_end() {
    for (seed, settings) in (1..).zip(pools()) {
        let mut world = World::new(seed, settings.clone(), Down::Dead);
        while world.failures() < 2 {
            world.flap();
            assert!(world.requests < 12_000, "{settings:?}");
        }
        let mut held = vec![];
        let second = world.pool.now;
        while world.pool.state(FLAPPING) != "up" {
            world.step(true);
            held.push(world.pool.state(FLAPPING));
            assert!(world.pool.now < second + 120 * SECOND, "{settings:?}");
        }
        let is_checked = settings.health.check != Check::None;
        let hold = 70 * SECOND;
        let waited = world.pool.now.since(second);
        assert!(waited >= hold, "{waited:?} after {:?}: {settings:?}", second.since(world.start));
        assert!(!is_checked || held.contains(&"held"), "a check shows that it answers: {settings:?}");
        let end = world.pool.now + 60 * SECOND;
        while world.pool.now < end && world.failures() < 3 {
            world.flap();
        }
        if !is_checked {
            continue;
        }
        while world.pool.now < end && world.pool.state(FLAPPING) != "held" {
            world.step(true);
        }
        assert_eq!(world.pool.state(FLAPPING), "held", "{settings:?}");
        world.pool.want(wanted([FLAPPING]));
        let before = world.touched();
        (0..10).for_each(|_| world.step(true));
        assert_eq!(world.touched() - before, 10, "there is no other server: {settings:?}");
        let why: Vec<_> = std::iter::from_fn(|| world.pool.workers[0].poll_event())
            .filter_map(|event| if let Event::State { reason, .. } = event { Some(reason) } else { None })
            .collect();
        assert!(why.iter().any(|why| why.starts_with("failed 3 times, held for ")), "{why:?}");
    }
}

/// A server that is gone for a second now and then, ten seconds apart, is in service again within five
/// seconds
/// of its return, each time.
#[test]
fn restarts_ten_seconds_apart_hold_no_server_down() {
    for (seed, settings) in (1..).zip(pools()) {
        let mut world = World::new(seed, settings.clone(), Down::Dead);
        for restart in 0..5 {
            let back = world.pool.now;
            let mut service = Duration::ZERO;
            while world.pool.now < back + 10 * SECOND {
                world.step(true);
                match world.pool.state(FLAPPING) {
                    "up" => service += GAP,
                    state => assert!(
                        world.pool.now < back + 5 * SECOND,
                        "{state} after restart {restart}, seed {seed}: {settings:?}"
                    ),
                }
            }
            assert!(service >= 5 * SECOND, "{service:?} after restart {restart}, seed {seed}: {settings:?}");
            let gone = world.pool.now;
            while world.pool.now < gone + SECOND {
                world.step(false);
            }
        }
    }
}
