//! The controller is killed and started again; its servers keep serving.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::site::{PATIENCE, SERVERS, Site};
use super::speech::Speech;
use super::{Outcome, Setup, progress, wait_until};

pub fn run(setup: &Setup) -> Result<Outcome> {
    // A fixed number of servers: a lull in the load must not stop one.
    let changes = json!({"server": {"count": SERVERS, "min": SERVERS, "max": SERVERS}});
    let mut site = Site::new(setup, Speech::Native, changes)?;
    let mut controller = site.start(&["controller"])?;
    site.balancer = Some(site.start(&["balancer"])?);
    site.wait_until_up(SERVERS as usize)?;
    let pids = known(&site)?;
    let traffic = site.traffic()?;
    let mut outcome = Outcome::new(setup.repeat);
    let (mut changed, mut doubles) = (0, 0);
    for round in 0..setup.repeat {
        controller.kill()?;
        traffic.wait_for(10)?;
        std::thread::sleep(setup.pause);
        controller = site.start(&["controller"])?;
        wait_until("servers adopted", PATIENCE, || {
            controller.must_run()?;
            Ok(controller.stderr().matches("adopted").count() >= SERVERS as usize)
        })?;
        std::thread::sleep(setup.pause);
        changed += u32::from(known(&site)? != pids);
        doubles += site.processes("server").len().abs_diff(SERVERS as usize);
        progress(format_args!("controller: {}/{}", round + 1, setup.repeat));
    }
    outcome.add(&traffic.end()?);
    outcome.must_lose_nothing();
    outcome.at_most("restarts after which a server was another process", f64::from(changed), 0.0);
    outcome.at_most("servers too many or too few", doubles as f64, 0.0);
    let joined = site.log("balancer/balancer.log").matches("joined").count();
    outcome.at_most("registrations", joined as f64, f64::from(SERVERS));
    controller.signal(Signal::TERM);
    controller.wait_for_good_end(PATIENCE)?;
    site.finish(&mut outcome)?;
    Ok(outcome)
}

/// The process ids of the servers by server id, from the controller's ledger.
fn known(site: &Site) -> Result<BTreeMap<u64, u64>> {
    let path = site.path().join(format!("state/controller-{}.json", site.controller_port()));
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let state: Value = serde_json::from_str(&text)?;
    let servers = state["servers"].as_array().context("no list of servers")?;
    let pair = |server: &Value| Some((server["id"].as_u64()?, server["process"]["pid"].as_u64()?));
    Ok(servers.iter().filter_map(pair).collect())
}
