//! A successor takes over from the running balancer, which then ends without a signal. The totals of the last
//! balancer are those of all.

use anyhow::Result;
use serde_json::json;

use super::site::{PATIENCE, SERVERS, Site};
use super::speech::Speech;
use super::{Outcome, Setup, progress};

pub fn run(setup: &Setup, speech: Speech, io: &str) -> Result<Outcome> {
    let section = if speech == Speech::Native { "load_balancer" } else { "pool" };
    let changes = json!({section: {"io": io}});
    let mut site = Site::running(setup, speech, changes)?;
    let traffic = site.traffic()?;
    let mut outcome = Outcome::new(setup.repeat);
    for round in 0..setup.repeat {
        let successor = site.start(&["balancer", "--takeover"])?;
        let mut old = site.balancer.replace(successor).expect("it runs");
        old.wait_for_good_end(PATIENCE)?;
        site.balancer().must_run()?;
        site.wait_until_up(SERVERS as usize)?;
        traffic.wait_for(10)?;
        std::thread::sleep(setup.pause);
        progress(format_args!("takeover {} {io}: {}/{}", speech.name(), round + 1, setup.repeat));
    }
    outcome.add(&traffic.end()?);
    outcome.must_lose_nothing();
    site.finish(&mut outcome)?;
    Ok(outcome)
}
