//! The scenarios of `tools/bench/service`, small: few requests, few times, and no figure that is a time.

#[path = "../tools/bench/service/scenarios/mod.rs"]
mod scenarios;

use std::path::Path;
use std::time::Duration;

use scenarios::{Outcome, Scenario, Setup, Speech};

/// Runs the scenario `repeat` times. Every verdict must hold, except those about times.
#[track_caller]
fn prove(scenario: Scenario, repeat: u32) {
    let setup = Setup {
        bin_dir: Path::new(env!("CARGO_BIN_EXE_lbd")).parent().expect("it is in a folder").to_owned(),
        rate: 300.0,
        repeat,
        // A slow machine costs time and not requests.
        patience: Duration::from_secs(15),
        pause: Duration::from_millis(50),
        reloads: 12,
        flap_for: Duration::from_secs(4),
    };
    let outcome: Outcome = scenario.run(&setup).unwrap_or_else(|error| panic!("{scenario:?}: {error:#}"));
    let fails: Vec<_> = outcome.checks.iter().filter(|c| !c.holds() && !c.what.starts_with("ms ")).collect();
    assert!(outcome.wrong == 0 && fails.is_empty(), "{fails:?}\n{outcome:?}");
    assert!(outcome.requests > 20, "{outcome:?}");
}

#[test]
fn servers_are_drained_and_taken_back_without_a_lost_request() {
    prove(Scenario::Drain(Speech::Native), 3);
    prove(Scenario::Drain(Speech::Datagram), 2);
    prove(Scenario::Drain(Speech::Dns), 2);
}

#[test]
fn the_native_pool_is_reloaded_again_and_again_without_a_lost_request() {
    prove(Scenario::Reload(Speech::Native), 2);
}

#[test]
fn datagram_pools_are_reloaded_again_and_again_without_a_lost_request() {
    prove(Scenario::Reload(Speech::Datagram), 2);
    prove(Scenario::Reload(Speech::Dns), 1);
}

#[test]
fn the_native_pool_is_taken_over_again_and_again_without_a_lost_request() {
    prove(Scenario::Takeover(Speech::Native, "mio"), 3);
    prove(Scenario::Takeover(Speech::Native, "io_uring"), 2);
}

#[test]
fn datagram_pools_are_taken_over_again_and_again_without_a_lost_request() {
    prove(Scenario::Takeover(Speech::Datagram, "mio"), 3);
    prove(Scenario::Takeover(Speech::Datagram, "io_uring"), 2);
    prove(Scenario::Takeover(Speech::Dns, "mio"), 2);
}

#[test]
fn one_server_becomes_six_and_one_again_without_a_lost_request() {
    prove(Scenario::Scale, 1);
}

#[test]
fn servers_outlive_their_controller_without_a_lost_request() {
    prove(Scenario::Controller, 2);
}

#[test]
fn a_crash_of_the_balancer_costs_what_was_under_way_and_nothing_after_retries() {
    prove(Scenario::Crash, 2);
}
