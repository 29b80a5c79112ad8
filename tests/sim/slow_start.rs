//! A server that comes up gets a tenth of its share at first.

use std::time::Duration;

use crate::world::*;
use crate::{faults, seeds};

const SECOND: Duration = Duration::from_secs(1);

fn pool(seed: u64) -> World {
    let mut world = World::new(seed, faults(0.0, 0.0, 0.0));
    world.workers = 1 + seed as usize % 2;
    world.health.slow_start = 10 * SECOND;
    crate::fill(world, 2, None)
}

/// Sends 42 requests and returns how many go to servers 0, 1 and 2. They are answered afterwards.
fn spread(world: &mut World) -> [u32; 3] {
    assert_eq!(world.up().len(), 3, "seed {}", world.seed);
    world.frozen.extend(0..3);
    for n in 0..42 {
        let now = world.now();
        world.clients[n % 3].submit(now, n as u64);
    }
    world.run(MS);
    let spread = [0, 1, 2].map(|id| world.len_of(id));
    world.frozen.clear();
    assert!(world.run_until(SECOND, |w| w.counted() == 0));
    spread
}

#[test]
fn servers_that_come_up_with_the_balancer_have_their_share_at_once() {
    for seed in seeds(4) {
        let mut world = pool(seed);
        world.run(3 * SECOND);
        world.start_server(2);
        world.run(SECOND);
        assert_eq!(spread(&mut world), [14; 3], "seed {seed}");
    }
}

#[test]
fn a_later_or_returning_server_gets_a_tenth_then_more_then_its_share() {
    for seed in seeds(4) {
        let mut world = pool(seed);
        world.run(6 * SECOND);
        for _ in 0..2 {
            world.start_server(2);
            assert!(world.run_until(SECOND, |w| w.up().len() == 3), "seed {seed}");
            assert!((1..=2).contains(&spread(&mut world)[2]), "seed {seed}");
            world.run(5 * SECOND);
            let half = spread(&mut world)[2];
            assert!((8..=10).contains(&half), "seed {seed}: {half}");
            world.run(5 * SECOND);
            assert_eq!(spread(&mut world), [14; 3], "seed {seed}");
            // A short suspicion causes no slow start.
            world.frozen.insert(2);
            world.run(MS * 115);
            assert!(!world.up().contains(&2), "seed {seed}");
            world.frozen.clear();
            assert!(world.run_until(MS * 20, |w| w.up().len() == 3), "seed {seed}");
            assert_eq!(spread(&mut world), [14; 3], "seed {seed}");
            world.kill_server(2);
            world.run(SECOND);
        }
    }
}

#[test]
fn gauges_show_the_start_of_the_state_and_the_error_of_the_last_report() {
    for seed in seeds(2) {
        let mut world = pool(seed);
        let start = world.now();
        world.run(SECOND);
        world.start_server(2);
        world.run(SECOND);
        let gauges =
            |w: &World| w.stats[0].servers.iter().map(|s| s.common.id_plus_one.get()).collect::<Vec<_>>();
        let slot = gauges(&world).iter().position(|&id| id == 3).unwrap();
        let stats = &world.stats[0].servers[slot];
        assert_eq!(stats.common.weight.get(), 1);
        let since = stats.common.since.get();
        assert!((start + SECOND).as_nanos() < since && since < world.now().as_nanos(), "seed {seed}");
        let age = world.now().as_nanos() - stats.reported.get();
        assert!(age <= 101_000_000, "seed {seed}: an idle server reports ten times a second: {age} ns");
        assert_eq!(stats.estimate_error.get(), 0, "seed {seed}");
        assert!(world.events.iter().any(|(_, event)| format!("{event:?}").contains("response received")));
    }
}
