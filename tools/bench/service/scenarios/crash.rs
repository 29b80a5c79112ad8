//! The balancer is killed under its supervisor: measures the time until it serves again, and lost requests.

use std::time::Duration;

use anyhow::{Context, Result};
use lbd::base::time::Instant;
use lbd::daemon::client::Summary;
use rustix::process::Signal;
use serde_json::json;

use super::processes;
use super::site::{PATIENCE, SERVERS, Site};
use super::speech::Speech;
use super::traffic::Account;
use super::{Outcome, Setup, progress, wait_until};

/// Greatest time until a new request is answered.
const BACK_WITHIN_MS: f64 = 200.0;
/// The supervisor delays the restart of a balancer that ends within a second of its start. This is longer.
const RUNS_WELL: Duration = Duration::from_millis(1_500);
/// A failed request was in flight at a balancer's death if it was sent at most this time before.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// Share of the rate that comes from clients with retries.
const PATIENT_SHARE: f64 = 0.1;

pub fn run(setup: &Setup) -> Result<Outcome> {
    let mut site = Site::new(setup, Speech::Native, json!({"server": {"min": SERVERS, "max": SERVERS}}))?;
    let words = ["up", "--servers", "4", "--clients", "0", "--service", "fixed:10us", "--quiet"];
    let mut supervisor = site.start(&words)?;
    site.wait_until_up(SERVERS as usize)?;
    let traffic = site.traffic_at(setup.rate * (1.0 - PATIENT_SHARE))?;
    traffic.wait_for(10)?;
    let rate = (setup.rate * PATIENT_SHARE).to_string();
    let mut patient = site.start(&["client", "--rate", &rate, "--json"])?;
    let mut outcome = Outcome::new(setup.repeat);
    let (mut deaths, mut back) = (vec![], vec![]);
    for round in 0..setup.repeat {
        std::thread::sleep(RUNS_WELL);
        let before = balancer(&site)?;
        processes::signal(before, Signal::KILL);
        deaths.push(traffic.watch());
        wait_until("an answer after the balancer's death", PATIENCE, || {
            Ok(traffic.first_answer().is_some())
        })?;
        back.push(traffic.first_answer().context("just seen")?.as_secs_f64() * 1e3);
        supervisor.must_run()?;
        progress(format_args!(
            "crash: {}/{}, back after {:.0} ms",
            round + 1,
            setup.repeat,
            back[back.len() - 1]
        ));
    }
    site.wait_until_up(SERVERS as usize)?;
    let account = traffic.end()?;
    outcome.add(&account);
    patient.signal(Signal::TERM);
    wait_until("the end of the client", PATIENCE, || Ok(patient.exit().is_some()))?;
    let summary: Summary =
        serde_json::from_str(&patient.stdout()).context("the client has printed no summary")?;
    outcome.requests += summary.sent;
    outcome.note("first attempts lost or refused", (account.lost + account.refused) as f64);
    outcome.at_most("of these, not in flight at a death", not_under_way(&account, &deaths) as f64, 0.0);
    let given_up = summary.lost + summary.busy + summary.refused;
    outcome.at_most("lost or refused after retries", given_up as f64, 0.0);
    outcome.at_least("requests of clients that retry", summary.answered as f64, 1.0);
    back.sort_by(f64::total_cmp);
    outcome.note("ms until served again, median", back[back.len() / 2]);
    outcome.at_most("ms until served again, at worst", back[back.len() - 1], BACK_WITHIN_MS);
    supervisor.signal(Signal::TERM);
    wait_until("the end of the system", PATIENCE, || Ok(supervisor.exit().is_some()))?;
    Ok(outcome)
}

/// The process id of the running balancer.
fn balancer(site: &Site) -> Result<i32> {
    Ok(site.processes("balancer").first().context("no balancer runs")?.pid)
}

/// Failed requests that were not in flight at a balancer's death.
fn not_under_way(account: &Account, deaths: &[Instant]) -> usize {
    let was_under_way =
        |sent: &&Instant| deaths.iter().any(|&death| **sent <= death && death.since(**sent) <= UNDER_WAY);
    account.failed_at.len() - account.failed_at.iter().filter(was_under_way).count()
}
