//! Servers of different speeds under policy shortest_delay: their reported service times decide.

use std::time::Duration;

use lbd::base::service_time::ServiceTime;
use lbd::pool::select::{PolicyKind, Slot};
use lbd::wire::ReplyPath;

use crate::world::*;
use crate::{faults, seeds, traffic};

/// Four servers, of which server 0 takes five times as long, on an imperfect network.
fn pool(seed: u64, policy: PolicyKind) -> World {
    let mut world = World::new(seed, faults(0.005, 0.01, 0.01));
    world.workers = 1 + seed as usize % 2;
    world.reply_path = if seed.is_multiple_of(3) { ReplyPath::Direct } else { ReplyPath::Balancer };
    world.start_balancer(policy);
    for id in 0..4 {
        let mean = if id == 0 { MS * 10 } else { MS * 2 };
        world.service = Some(ServiceTime::exponential(mean));
        world.start_server(id);
    }
    world.start_clients(4, Duration::from_secs(20));
    assert!(world.run_until(Duration::from_secs(20), |w| w.up().len() == 4), "seed {seed}");
    world
}

fn served(world: &World) -> Vec<u64> {
    world.servers.values().map(|server| server.role.totals().served).collect()
}

/// The share of 2,500 requests that server 0 gets at 90 % of the pool's capacity.
fn share_of_the_slow_one(world: &mut World) -> f64 {
    let before = served(world);
    traffic(world, 2_500, 0.9 * 1.6, |_, _| {});
    let of = |id: usize| (served(world)[id] - before[id]) as f64;
    of(0) / (0..4).map(of).sum::<f64>()
}

/// The measured slowness of server 0; 1 is as fast as the fastest.
fn slowness(world: &World) -> f64 {
    let slot: Slot = world.primary().registry().expect("the primary").slot_of(0).expect("it is up");
    world.stats[0].servers[slot.index()].common.served.slowness.get() as f64
        / f64::from(lbd::pool::select::AS_FAST)
}

#[test]
fn a_server_that_takes_five_times_as_long_gets_no_more_than_its_capacity() {
    for seed in seeds(3) {
        let mut world = pool(seed, PolicyKind::ShortestDelay);
        traffic(&mut world, 1_000, 0.9 * 1.6, |_, _| {});
        let share = share_of_the_slow_one(&mut world);
        // Its capacity is a sixteenth of the pool's.
        assert!((0.005..0.065).contains(&share), "seed {seed}: {share}");
        let slow = slowness(&world);
        assert!((3.0..8.0).contains(&slow), "seed {seed}: {slow}");
        let mut plain = pool(seed, PolicyKind::ShortestQueue);
        let plain = share_of_the_slow_one(&mut plain);
        assert!(plain > 1.15 * share, "seed {seed}: {plain} {share}");
        world.check_at_rest();
    }
}

#[test]
fn the_policy_changes_at_run_time_and_a_successor_measures_again() {
    for seed in seeds(2) {
        let mut world = pool(seed, PolicyKind::ShortestQueue);
        traffic(&mut world, 500, 1.4, |_, _| {});
        assert_eq!(slowness(&world), 0.0, "seed {seed}: this policy does not measure");
        let mut settings = world.settings();
        settings.policy = PolicyKind::ShortestDelay;
        world.balancer[0].role.reconfigure(settings.clone()).unwrap();
        traffic(&mut world, 2_000, 1.4, |_, _| {});
        assert!(slowness(&world) > 2.0, "seed {seed}: {}", slowness(&world));
        settings.policy = PolicyKind::RoundRobin;
        world.balancer[0].role.reconfigure(settings.clone()).unwrap();
        world.run(MS * 20);
        assert_eq!(slowness(&world), 0.0, "seed {seed}");
        let bytes = world.export_balancer();
        world.hand_over(&bytes);
        world.stats.drain(..world.workers);
        settings.policy = PolicyKind::ShortestDelay;
        world.balancer[0].role.reconfigure(settings).unwrap();
        traffic(&mut world, 2_000, 1.4, |_, _| {});
        assert!(slowness(&world) > 2.0, "seed {seed}: {}", slowness(&world));
    }
}

#[test]
fn equal_servers_have_equal_shares() {
    for seed in seeds(2) {
        let mut world = World::new(seed, faults(0.0, 0.0, 0.0));
        world.service = Some(ServiceTime::exponential(MS * 2));
        world.start_balancer(PolicyKind::ShortestDelay);
        (0..4).for_each(|id| world.start_server(id));
        world.start_clients(4, Duration::from_secs(20));
        assert!(world.run_until(Duration::from_secs(20), |w| w.up().len() == 4), "seed {seed}");
        traffic(&mut world, 4_000, 1.4, |_, _| {});
        let served = served(&world);
        assert!(served.iter().all(|n| (850..=1_150).contains(n)), "seed {seed}: {served:?}");
        let regret = world.stats[0].common.decisions.regret.snapshot();
        assert!(regret.count() > 40 && regret.mean() < 0.3, "seed {seed}: {regret:?}");
        world.check_at_rest();
    }
}

/// Decision quality when reports may be lost or late.
#[test]
fn decision_quality_shows_how_well_queues_are_known() {
    for (seed, loss) in [(1, 0.0), (2, 0.2)] {
        let mut world = World::new(seed, faults(loss, 0.0, 0.0));
        let mut world = {
            world.reply_path = ReplyPath::Direct;
            crate::fill(world, 4, Some(ServiceTime::exponential(MS * 2)))
        };
        traffic(&mut world, 4_000, 1.4, |_, _| {});
        let decisions = &world.stats[0].common.decisions;
        let (age, error) = (decisions.age.snapshot(), decisions.estimate_error.snapshot());
        assert!(age.count() > 40, "{age:?}");
        let p50 = age.quantile(0.5).unwrap();
        assert!(p50 < MS * 8, "loss {loss}: {p50:?}");
        assert!(error.count() > 1_000, "each report: {}", error.count());
        // Requests in transit are not at the server yet, and finished requests are not there any more.
        assert!(error.mean() < if loss == 0.0 { 1.2 } else { 3.0 }, "loss {loss}: {}", error.mean());
        assert!(error.mean() > 0.0);
    }
}

#[test]
fn a_fast_server_in_the_slot_of_a_slow_one_has_its_whole_share() {
    for seed in seeds(2) {
        let mut world = pool(seed, PolicyKind::ShortestDelay);
        traffic(&mut world, 1_500, 1.4, |_, _| {});
        assert!(slowness(&world) > 2.0, "seed {seed}: {}", slowness(&world));
        world.check_at_rest();
        world.kill_server(0);
        world.service = Some(ServiceTime::exponential(MS * 2));
        world.start_server(0);
        world.run(MS * 200);
        assert!(world.run_until(Duration::from_secs(20), |w| w.up().len() == 4), "seed {seed}");
        world.run(MS * 50);
        world.frozen.extend(0..4);
        for n in 0..40 {
            let now = world.now();
            world.clients[n % 4].submit(now, 10_000 + n as u64);
        }
        world.run(MS);
        let spread: Vec<u32> = (0..4).map(|id| world.len_of(id)).collect();
        assert!(spread.iter().all(|n| (8..=12).contains(n)), "seed {seed}: {spread:?}");
        world.frozen.clear();
        world.check_at_rest();
    }
}
