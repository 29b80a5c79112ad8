//! Servers are drained and enabled again, one after the other.

use std::time::Duration;

use anyhow::Result;
use lbd::pool::order::Order;
use serde_json::json;

use super::site::{SERVERS, Site};
use super::speech::Speech;
use super::{Outcome, Setup, progress};

/// Greatest age of the balancer's status. After this time the status shows the effect of an order.
const AGE_MAX: Duration = Duration::from_millis(260);

pub fn run(setup: &Setup, speech: Speech) -> Result<Outcome> {
    let site = Site::running(setup, speech, json!({}))?;
    let traffic = site.traffic()?;
    let (mut strays, mut idle) = (0, 0);
    for round in 0..setup.repeat {
        let id = round % SERVERS;
        let before = site.server(id)?.dispatched;
        traffic.wait_for(1)?;
        site.order(id, Order::Drain)?;
        std::thread::sleep(AGE_MAX);
        let at_first = site.server(id)?;
        std::thread::sleep(AGE_MAX.max(setup.pause));
        let at_last = site.server(id)?;
        strays += at_last.dispatched - at_first.dispatched;
        idle += u32::from(at_first.dispatched == before); // without traffic before, the round proves nothing
        site.order(id, Order::Enable)?;
        site.wait_for_state(id, "up")?;
        std::thread::sleep(setup.pause);
        progress(format_args!("drain {}: {}/{}", speech.name(), round + 1, setup.repeat));
    }
    let mut outcome = Outcome::new(setup.repeat);
    outcome.add(&traffic.end()?);
    outcome.must_lose_nothing();
    outcome.at_most("requests to a drained server", strays as f64, 0.0);
    outcome.at_most("servers drained without traffic", f64::from(idle), 0.0);
    site.finish(&mut outcome)?;
    Ok(outcome)
}
