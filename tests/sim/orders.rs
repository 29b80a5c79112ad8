//! An operator's orders to a pool under load lose no request.

use std::time::Duration;

use lbd::base::service_time::ServiceTime;
use lbd::pool::health::State;
use lbd::pool::order::{Order, Refused};
use lbd::role::client::Ending;

use crate::world::*;
use crate::{faults, pool, seeds, traffic};

fn order(world: &mut World, id: u32, order: Order) -> Result<(), Refused> {
    let now = world.now();
    world.balancer[0].role.order(now, id, order)
}

fn state(world: &World, id: u32) -> Option<State> {
    let registry = world.primary().registry().unwrap();
    Some(registry.get(registry.slot_of(id)?)?.health.state())
}

fn served(world: &World, id: u32) -> u64 {
    world.servers[&id].role.totals().served
}

fn check_nothing_failed(world: &mut World, requests: usize) {
    world.check_at_rest();
    let failed: u64 = world.clients.iter().map(|c| c.node.role.totals().first_failed).sum();
    let answered: usize = world.clients.iter().map(|c| c.count(Ending::Answered)).sum();
    assert_eq!((failed, answered), (0, requests), "seed {}", world.seed);
}

#[test]
fn draining_disabling_and_enabling_servers_under_load_fails_no_request() {
    for seed in seeds(8) {
        let mut world = World::new(seed, faults(0.0, 0.0, 0.0));
        world.workers = 1 + seed as usize % 3;
        let mut world = crate::fill(world, 4, Some(ServiceTime::exponential(MS)));
        let mut before = 0;
        traffic(&mut world, 3_000, 2.0, |w, number| match number % 600 {
            100 => {
                let halt = if number % 1200 < 600 { Order::Drain } else { Order::Disable };
                order(w, 2, halt).unwrap();
            }
            150 => before = served(w, 2),
            300 => {
                assert_eq!(served(w, 2), before, "seed {seed}: it finished its requests before");
                assert!(!w.up().contains(&2) && w.servers.contains_key(&2), "seed {seed}: it stays");
                order(w, 2, Order::Enable).unwrap();
            }
            400 => assert!(w.up().contains(&2) && served(w, 2) > before, "seed {seed}"),
            _ => {}
        });
        check_nothing_failed(&mut world, 3_000);
    }
}

/// After a draining SYNC the server would exit with requests in transit, since it was enabled again.
#[test]
fn a_server_that_stops_after_it_was_drained_and_enabled_loses_nothing() {
    for seed in seeds(3) {
        let mut world = pool(seed, faults(0.0, 0.0, 0.0), 3, None);
        let mut number = 0;
        for round in 0..30 {
            order(&mut world, 2, Order::Drain).unwrap();
            world.run(MS * 200);
            order(&mut world, 2, Order::Enable).unwrap();
            assert!(world.run_until(MS * 100, |w| w.up().len() == 3), "seed {seed}, round {round}");
            for _ in 0..6 {
                let now = world.now();
                world.clients[number as usize % 3].submit(now, number);
                number += 1;
            }
            world.run(Duration::from_micros(round * 10));
            let now = world.now();
            world.servers.get_mut(&2).unwrap().role.drain(now);
            assert!(world.run_until(MS * 500, |w| w.servers[&2].role.is_finished()), "seed {seed}");
            world.kill_server(2);
            world.start_server(2);
            assert!(world.run_until(MS * 500, |w| w.up().len() == 3), "seed {seed}, round {round}");
        }
        check_nothing_failed(&mut world, number as usize);
    }
}

#[test]
fn orders_hold_when_a_server_restarts() {
    for seed in seeds(3) {
        for (word, expected) in [(Order::Drain, State::Draining), (Order::Disable, State::Disabled)] {
            let mut world = pool(seed, faults(0.0, 0.0, 0.0), 3, None);
            order(&mut world, 1, word).unwrap();
            order(&mut world, 0, Order::Weight(7)).unwrap();
            for away in [Duration::ZERO, Duration::from_secs(20)] {
                for id in [0, 1] {
                    world.kill_server(id);
                }
                world.run(away);
                assert_eq!(state(&world, 1).is_none(), away > Duration::ZERO, "seed {seed}");
                for id in [0, 1] {
                    world.start_server(id);
                }
                world.run(Duration::from_secs(6)); // long enough that the next failure holds no server down
                assert_eq!(state(&world, 1), Some(expected), "seed {seed}, away for {away:?}");
                let mut weights = world.primary().registry().unwrap().iter().map(|(_, s)| (s.id, s.weight));
                assert!(weights.any(|s| s == (0, 7)), "seed {seed}, away for {away:?}");
                assert!(world.up().contains(&0));
            }
            world.kill_server(1);
            world.run(Duration::from_secs(20));
            assert_eq!(order(&mut world, 1, Order::Enable), Ok(()), "for a departed server");
            assert_eq!(order(&mut world, 9, Order::Enable), Err(Refused::UnknownServer));
            world.start_server(1);
            world.run(Duration::from_secs(1));
            assert_eq!(world.up().len(), 3, "seed {seed}");
        }
    }
}

#[test]
fn a_weight_takes_effect_at_once() {
    for seed in seeds(4) {
        let mut world = pool(seed, faults(0.0, 0.0, 0.0), 2, Some(ServiceTime::exponential(MS)));
        order(&mut world, 1, Order::Weight(4)).unwrap();
        assert_eq!(order(&mut world, 1, Order::Weight(101)), Err(Refused::Weight));
        // The pool is mostly idle, so the server with weight 4 is selected until it has four requests.
        traffic(&mut world, 500, 0.5, |_, _| {});
        let [light, heavy] = [0, 1].map(|id| served(&world, id));
        assert!(heavy > 8 * light, "seed {seed}: {light} and {heavy}");
        check_nothing_failed(&mut world, 500);
    }
}
