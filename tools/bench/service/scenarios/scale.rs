//! A pool grows from one server to six and shrinks to one again, by load.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::site::{PATIENCE, Site};
use super::speech::Speech;
use super::traffic::Traffic;
use super::{Outcome, Setup, progress, wait_until};

const SERVERS_MOST: usize = 6;
/// Shares of the full rate: a load that one server serves easily, and the step of the increase.
const LITTLE: f64 = 0.05;
const STEP: f64 = 0.02;
const STEP_TIME: Duration = Duration::from_millis(150);

pub fn run(setup: &Setup) -> Result<Outcome> {
    // The full rate is a tenth too much for five servers; six are enough.
    let service = Duration::from_secs_f64(5.5 / setup.rate);
    let changes = json!({
        "server": {
            "count": 1, "min": 1, "max": SERVERS_MOST,
            "grow_after": "100ms", "shrink_after": "500ms", "cool_down": "150ms",
            "queue_capacity": 65_536,
            "service": format!("fixed:{}us", service.as_micros().max(1)),
        },
    });
    let mut site = Site::new(setup, Speech::Native, changes)?;
    let mut controller = site.start(&["controller"])?;
    site.balancer = Some(site.start(&["balancer"])?);
    site.wait_until_up(1)?;
    let traffic = site.traffic_at(setup.rate * LITTLE)?;
    let mut outcome = Outcome::new(setup.repeat);
    let (mut most, mut least_after) = (0, usize::MAX);
    for round in 0..setup.repeat {
        let up = rise(&site, &traffic)?;
        most = most.max(up);
        traffic.set_rate(setup.rate * LITTLE);
        wait_until("one server again", PATIENCE * 2, || Ok(site.up() == 1))?;
        least_after = 1;
        progress(format_args!("scale: {}/{}", round + 1, setup.repeat));
    }
    outcome.add(&traffic.end()?);
    outcome.must_lose_nothing();
    outcome.at_least("servers at the full rate", most as f64, SERVERS_MOST as f64);
    outcome.at_most("servers at a twentieth of it", least_after as f64, 1.0);
    controller.must_run()?;
    controller.signal(rustix::process::Signal::TERM);
    controller.wait_for_good_end(PATIENCE)?;
    site.finish(&mut outcome)?;
    Ok(outcome)
}

/// Increases the load until there are six servers. Returns the number of servers.
fn rise(site: &Site, traffic: &Traffic) -> Result<usize> {
    let mut share = LITTLE;
    wait_until("six servers", PATIENCE * 2, || {
        share = (share + STEP).min(1.0);
        traffic.set_rate(site.setup.rate * share);
        std::thread::sleep(STEP_TIME);
        Ok(site.up() == SERVERS_MOST)
    })?;
    Ok(site.up())
}
