//! The configuration changes ten times a second: servers, pools, weights, policies, limits and the log level.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::site::{OTHER_FRONT, PATIENCE, SERVERS, Site, merge};
use super::speech::Speech;
use super::{Beat, Outcome, Setup, progress, wait_until};

const EVERY: Duration = Duration::from_millis(100);
/// One native server is replaced per this number of reloads.
const SERVER_EVERY: u32 = 10;
/// Least share of reloads done. Signals that arrive during a reload merge, so a slow machine reloads less
/// often.
const DONE_LEAST: f64 = 0.5;
const RELOADED: &str = "configuration reloaded";
const REFUSED: &str = "configuration refused";

pub fn run(setup: &Setup, speech: Speech) -> Result<Outcome> {
    let mut site = Site::running(setup, speech, json!({}))?;
    let mut outcome = Outcome::new(setup.repeat);
    let (mut asked, mut next_id) = (0, SERVERS);
    for repeat in 0..setup.repeat {
        let traffic = site.traffic()?;
        let mut beat = Beat::new(EVERY);
        for round in 0..setup.reloads {
            let config = match speech {
                Speech::Native => native(site.config(), round),
                Speech::Datagram | Speech::Dns => pools(&site, round),
            };
            site.write(&config)?;
            site.balancer().signal(Signal::HUP);
            asked += 1;
            if speech == Speech::Native && round % SERVER_EVERY == SERVER_EVERY / 2 {
                replace_server(&mut site, next_id)?;
                next_id += 1;
            }
            beat.wait();
        }
        // Wait for the last reload too: several signals may have merged.
        let before = count(&site, RELOADED) + count(&site, REFUSED);
        site.balancer().signal(Signal::HUP);
        wait_until("the last reload", PATIENCE, || {
            Ok(count(&site, RELOADED) + count(&site, REFUSED) > before)
        })?;
        site.balancer().must_run()?;
        outcome.add(&traffic.end()?);
        progress(format_args!("reload {}: {}/{}", speech.name(), repeat + 1, setup.repeat));
    }
    let (done, refused) = (count(&site, RELOADED), count(&site, REFUSED));
    let said = site.balancer().stderr();
    for line in said.lines().filter(|line| line.contains(REFUSED)).take(3) {
        progress(format_args!("reload {}: {line}", speech.name()));
    }
    outcome.must_lose_nothing();
    outcome.at_most("reloads refused", refused as f64, 0.0);
    outcome.at_least("share of requested reloads done", done as f64 / f64::from(asked), DONE_LEAST);
    site.finish(&mut outcome)?;
    Ok(outcome)
}

/// Number of times that the balancer has logged these words.
fn count(site: &Site, words: &str) -> usize {
    site.balancer.as_ref().map_or(0, |balancer| balancer.stderr().matches(words).count())
}

/// The configuration of a round: other settings of the native pool each time.
fn native(first: &Value, round: u32) -> Value {
    let pick = |words: &[&'static str]| words[round as usize % words.len()];
    let mut config = first.clone();
    merge(
        &mut config,
        json!({
            "load_balancer": {
                "policy": pick(&["shortest_queue", "shortest_delay", "two_choices", "round_robin", "random"]),
                "max_outstanding": 50_000 + round % 7,
                "health": {"fall": 5 + round % 3, "slow_start": pick(&["0ms", "500ms"])},
            },
            "logs": {"level": pick(&["info", "debug"])},
        }),
    );
    config
}

/// The configuration of a round: other servers, weights and policies of a datagram pool, and a second pool in
/// every third round. In some rounds the number of ports changes, so that the pool is recreated.
fn pools(site: &Site, round: u32) -> Value {
    let ids: Vec<u32> = match round % 4 {
        0 => vec![0, 1, 2, 3],
        1 => vec![1, 2, 3],
        2 => vec![1, 2, 3, 4, 5],
        _ => vec![0, 3, 5],
    };
    let mut pool = site.pool("pool", Site::main_front(), ids);
    let changes = match round % 6 {
        0 => json!({"policy": if round.is_multiple_of(12) { "round_robin" } else { "shortest_delay" }}),
        1 => json!({"max_outstanding": 20_000}),
        2 => json!({"health": {"fall": 4}}),
        3 => json!({"ports": 300 + round % 5}),
        4 => json!({"timeout": "3s"}),
        _ => json!({"rate_per_source": 10_000_000}),
    };
    merge(&mut pool, changes);
    pool["servers"][0]["weight"] = json!(1 + round % 3);
    let mut config = site.config().clone();
    config["pools"] = match round % 3 {
        0 => json!([pool, site.pool("other", OTHER_FRONT, [6, 7])]),
        _ => json!([pool]),
    };
    config["logs"]["level"] = json!(if round.is_multiple_of(2) { "info" } else { "debug" });
    config
}

/// Starts a native server, then ends the oldest one.
fn replace_server(site: &mut Site, id: u32) -> Result<()> {
    site.add_server(id)?;
    let (_, mut oldest) = site.servers.remove(0);
    oldest.signal(Signal::TERM);
    oldest.wait_for_good_end(PATIENCE)
}
