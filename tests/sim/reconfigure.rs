//! Changes of settings under load lose no request.

use std::time::Duration;

use lbd::base::service_time::ServiceTime;
use lbd::pool::autoscale;
use lbd::pool::select::PolicyKind;
use lbd::pool::waiting::Limit;
use lbd::role::client::Ending;
use lbd::wire::ReplyPath;

use crate::world::*;
use crate::{faults, seeds, traffic};

#[test]
fn settings_that_change_every_few_requests_lose_nothing() {
    for seed in seeds(6) {
        let mut world = World::new(seed, faults(0.0, 0.0, 0.0));
        world.workers = 1 + seed as usize % 3;
        let mut world = crate::fill(world, 4, Some(ServiceTime::exponential(MS)));
        traffic(&mut world, 2_000, 2.0, |w, number| {
            if number % 10 != 0 {
                return;
            }
            let mut settings = w.settings();
            let n = number / 10;
            settings.policy = PolicyKind::ALL[n as usize % PolicyKind::ALL.len()];
            settings.max_outstanding = [None, Some(Limit::Fixed(2)), Some(Limit::Auto)][n as usize % 3];
            settings.interval = MS * (5 + n as u32 % 20);
            settings.reply_path = if n % 2 == 0 { ReplyPath::Direct } else { ReplyPath::Balancer };
            settings.scale.threshold = 2.0 + n as f64;
            settings.health.rise = 1 + n as u8 % 3;
            settings.health.down_max = n as f64 % 3.0 / 2.0;
            settings.health.slow_start = MS * 100 * (n as u32 % 3);
            let worker = n as usize % w.workers;
            w.balancer[worker].role.reconfigure(settings).unwrap();
        });
        assert_eq!(world.up().len(), 4, "seed {seed}");
        world.reply_path = ReplyPath::Direct; // both paths were used: the answered count is not exact
        world.check_at_rest();
        let failed: u64 = world.clients.iter().map(|c| c.node.role.totals().first_failed).sum();
        let answered: usize = world.clients.iter().map(|c| c.count(Ending::Answered)).sum();
        assert_eq!((failed, answered), (0, 2_000), "seed {seed}");
    }
}

#[test]
fn each_setting_counts_for_every_worker() {
    for seed in seeds(2) {
        let mut world = World::new(seed, faults(0.0, 0.0, 0.0));
        world.workers = 2;
        let mut world = crate::fill(world, 2, None);
        let mut settings = world.settings();
        settings.max_outstanding = Some(Limit::Fixed(3));
        world.balancer[1].role.reconfigure(settings).unwrap();
        world.frozen.extend([0, 1]);
        for n in 0..30 {
            let now = world.now();
            world.clients[n % 3].submit(now, n as u64);
        }
        world.run(MS);
        assert_eq!(world.counted(), 6, "seed {seed}");
        world.frozen.clear();
        world.check_at_rest();

        let mut settings = world.settings();
        settings.health.fall = 100;
        settings.scale.threshold = 0.01;
        settings.scale.grow_after = MS * 20;
        settings.controller = Some("10.0.0.1:55001".parse().unwrap());
        world.balancer[0].role.reconfigure(settings).unwrap();
        world.kill_server(1);
        world.run(Duration::from_millis(500));
        let state =
            world.primary().registry().unwrap().iter().find(|(_, s)| s.id == 1).unwrap().1.health.state();
        assert_eq!(state, lbd::pool::health::State::Suspect, "seed {seed}: a higher fall keeps it suspect");
        world.frozen.insert(0);
        let now = world.now();
        world.clients[0].submit(now, 99);
        world.run(Duration::from_millis(90));
        let is_reported = |world: &World, text: &str| {
            world.events.iter().any(|(_, event)| format!("{event:?}").contains(text))
        };
        assert!(is_reported(&world, "grow to"), "seed {seed}: {:?}", world.events);
        world.run(Duration::from_secs(6));
        assert!(is_reported(&world, "no response from the controller at 10.0.0.1:55001"), "seed {seed}");
    }
}

#[test]
fn a_setting_that_requires_a_restart_is_refused_with_its_key() {
    let world = crate::pool(1, faults(0.0, 0.0, 0.0), 1, None);
    let refused = |change: &dyn Fn(&mut lbd::role::native::NativePoolSettings)| {
        let mut settings = world.settings();
        change(&mut settings);
        settings.max_outstanding = Some(Limit::Fixed(1));
        world.balancer[0].role.reconfigure(settings).unwrap_err()
    };
    assert_eq!(refused(&|s| s.format.size = 256), "load_balancer.frame_size");
    assert_eq!(refused(&|s| s.key = Some([1; 16])), "key_file");
    assert_eq!(refused(&|s| s.workers = 2), "load_balancer.workers");
    assert_eq!(refused(&|s| s.servers_max = 17), "load_balancer.servers_max");
    let mut settings = world.settings();
    (settings.secret, settings.seed, settings.own) = ([0; 16], 0, vec![]);
    settings.scale = autoscale::Policy { max: 3, ..settings.scale };
    assert_eq!(
        world.balancer[0].role.reconfigure(settings),
        Ok(()),
        "random numbers are not from a configuration"
    );
}
