//! A server that alternates between one second up and one second down, beside three healthy servers: after
//! some failures it gets almost no requests.

use std::time::Duration;

use lbd::pool::health::State;
use lbd::pool::select::Slot;

use crate::world::*;
use crate::{faults, pool, seeds};

const SECOND: Duration = Duration::from_secs(1);
/// The server that flaps.
const FLAPPING: u32 = 2;

/// How the server is down.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Down {
    /// The process is stopped (SIGSTOP).
    Frozen,
    /// The process is killed; later another process has its id.
    Dead,
}

fn set_up(world: &mut World, down: Down, is_up: bool) {
    match (down, is_up) {
        (Down::Frozen, true) => assert!(world.frozen.remove(&FLAPPING)),
        (Down::Frozen, false) => assert!(world.frozen.insert(FLAPPING)),
        (Down::Dead, true) => world.start_server(FLAPPING),
        (Down::Dead, false) => world.kill_server(FLAPPING),
    }
}

fn slot(world: &World) -> Option<Slot> {
    world.primary().registry().unwrap().slot_of(FLAPPING)
}

fn state(world: &World) -> Option<State> {
    Some(world.primary().registry().unwrap().get(slot(world)?)?.health.state())
}

fn failures(world: &World) -> u32 {
    let registry = world.primary().registry().unwrap();
    slot(world).map_or(0, |slot| registry.get(slot).unwrap().health.record().failures())
}

/// Sends about 200 requests of all clients within one second. Returns how many went to the flapping server,
/// and to all servers.
fn second(world: &mut World, number: &mut u64) -> (u64, u64) {
    let touched =
        |w: &World| slot(w).map_or(0, |slot| w.stats[0].servers[slot.index()].common.dispatched.get());
    let before = (touched(world), world.dispatched());
    let end = world.now() + SECOND;
    while world.now() < end {
        world.run(MS * 5);
        let now = world.now();
        let client = *number as usize % world.clients.len();
        world.clients[client].submit(now, *number);
        *number += 1;
    }
    (touched(world) - before.0, world.dispatched() - before.1)
}

#[test]
fn in_the_minute_after_its_third_failure_less_than_a_thousandth_of_the_requests_go_there() {
    for seed in seeds(2) {
        for down in [Down::Frozen, Down::Dead] {
            let mut world = pool(seed, faults(0.0, 0.0, 0.0), 4, None);
            let (mut number, mut is_up) = (0, true);
            let (mut touched, mut requests) = (0, 0);
            for seconds in 0..65 {
                let counts = second(&mut world, &mut number);
                // The server is up in the first second, so its third failure is now.
                if seconds >= 5 {
                    (touched, requests) = (touched + counts.0, requests + counts.1);
                }
                is_up = !is_up;
                set_up(&mut world, down, is_up);
            }
            assert!(requests > 10_000 && touched * 1_000 < requests, "seed {seed}: {touched} of {requests}");
            if !is_up {
                set_up(&mut world, down, true);
            }
            world.check_at_rest();
        }
    }
}

#[test]
fn one_failure_causes_no_hold_down_time_and_a_graceful_restart_is_no_failure() {
    for seed in seeds(4) {
        for down in [Down::Frozen, Down::Dead] {
            let back = [Duration::ZERO, 300 * SECOND].map(|hold_down_max| {
                let mut world = World::new(seed, faults(0.0, 0.0, 0.0));
                world.health.hold_down_max = hold_down_max;
                let mut world = crate::fill(world, 4, None);
                for _ in 0..4 {
                    let now = world.now();
                    world.servers.get_mut(&FLAPPING).unwrap().role.drain(now);
                    assert!(world.run_until(SECOND, |w| w.servers[&FLAPPING].role.is_finished()));
                    world.kill_server(FLAPPING);
                    world.run(MS * 500);
                    assert_eq!(slot(&world), None, "seed {seed}: it has left");
                    world.start_server(FLAPPING);
                    assert!(world.run_until(SECOND / 2, |w| w.up().len() == 4), "seed {seed}");
                }
                set_up(&mut world, down, false);
                world.run(SECOND);
                assert_eq!(state(&world), Some(State::Down), "seed {seed}");
                set_up(&mut world, down, true);
                let start = world.now();
                assert!(world.run_until(SECOND, |w| w.up().len() == 4), "seed {seed}, {down:?}");
                world.now().since(start)
            });
            assert_eq!(back[0], back[1], "seed {seed}, {down:?}");
            assert!(back[1] < SECOND / 2, "seed {seed}: {back:?}");
        }
    }
}

/// Gone for a second each time, ten seconds apart.
#[test]
fn restarts_hold_no_server_down() {
    for seed in seeds(2) {
        for down in [Down::Frozen, Down::Dead] {
            let mut world = pool(seed, faults(0.0, 0.0, 0.0), 4, None);
            let mut number = 0;
            for restart in 1..=5 {
                (0..9).for_each(|_| _ = second(&mut world, &mut number));
                set_up(&mut world, down, false);
                second(&mut world, &mut number);
                set_up(&mut world, down, true);
                let is_back = world.run_until(5 * SECOND, |w| w.up().len() == 4);
                assert!(is_back, "seed {seed}, {down:?}, restart {restart}: {:?}", state(&world));
            }
            world.check_at_rest();
        }
    }
}

/// The server dies and returns before the balancer notices its silence.
#[test]
fn unnoticed_crashes_count_as_failures_and_an_absence_does_not_clear_them() {
    for seed in seeds(3) {
        let mut world = pool(seed, faults(0.0, 0.0, 0.0), 4, None);
        for n in 1..=3 {
            world.kill_server(FLAPPING);
            world.run(MS * 20);
            world.start_server(FLAPPING);
            world.run(SECOND / 2);
            assert_eq!(failures(&world), n, "seed {seed}");
            let expected = if n == 1 { State::Up } else { State::Held };
            assert_eq!(state(&world), Some(expected), "seed {seed}, {n}");
            world.run(SECOND);
        }
        // An absence that frees the slot.
        world.kill_server(FLAPPING);
        world.run(20 * SECOND);
        assert_eq!(slot(&world), None);
        world.start_server(FLAPPING);
        world.run(SECOND);
        assert_eq!(
            (state(&world), failures(&world)),
            (Some(State::Held), 4),
            "seed {seed}: it was held down when it died"
        );
        let now = world.now();
        world.balancer[0].role.order(now, FLAPPING, lbd::pool::order::Order::Enable).unwrap();
        assert!(
            world.run_until(SECOND, |w| w.up().len() == 4),
            "seed {seed}: an order to enable clears the failures"
        );
        assert_eq!(failures(&world), 0);
        // No other server is left.
        for _ in 0..3 {
            world.kill_server(FLAPPING);
            world.run(MS * 20);
            world.start_server(FLAPPING);
            world.run(SECOND / 2);
        }
        assert_eq!(state(&world), Some(State::Held), "seed {seed}");
        for id in [0, 1, 3] {
            world.kill_server(id);
        }
        world.run(SECOND);
        assert!(second(&mut world, &mut 0).0 > 190, "seed {seed}: a held-down server is the last resort");
        let why: Vec<_> = world.events.iter().map(|(_, event)| format!("{event:?}")).collect();
        assert!(why.iter().any(|event| event.contains("failed 3 times, held for 1")), "above 100 s: {why:?}");
    }
}

#[test]
fn when_too_many_are_down_all_are_used_and_the_change_is_reported() {
    for seed in seeds(3) {
        for (down_max, expected) in [(0.5, true), (1.0, false)] {
            let mut world = World::new(seed, faults(0.0, 0.0, 0.0));
            world.health.down_max = down_max;
            let mut world = crate::fill(world, 4, None);
            for id in 1..4 {
                world.frozen.insert(id);
            }
            world.run(SECOND);
            let tree = world.primary().tree();
            let open = (0..4).filter(|&i| tree.is_eligible(Slot::new(i))).count();
            assert_eq!(open, if expected { 4 } else { 1 }, "seed {seed}, {down_max}");
            second(&mut world, &mut 0);
            world.frozen.clear();
            assert!(world.run_until(SECOND, |w| w.up().len() == 4), "seed {seed}");
            let reported: Vec<_> = world
                .events
                .iter()
                .filter_map(|(_, event)| match event {
                    lbd::pool::event::Event::FailOpen(on) => Some(*on),
                    _ => None,
                })
                .collect();
            assert_eq!(reported, if expected { vec![true, false] } else { vec![] }, "seed {seed}");
            world.check_at_rest();
        }
    }
}
