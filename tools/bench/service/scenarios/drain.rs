//! A server is drained and taken into service again, one after another.

use std::time::Duration;

use anyhow::Result;
use lbd::pool::order::Order;
use serde_json::json;

use super::site::{SERVERS, Site};
use super::speech::Speech;
use super::{Outcome, Setup, progress};

/// What the balancer shows is at most so old: so long after an order, it is what came of the order.
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
        idle += u32::from(at_first.dispatched == before); // it had no traffic before either: that proves nothing
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
