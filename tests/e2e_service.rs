//! The scenarios of `tools/bench/service`, small: few requests, few times, and no figure that is a time.

#[path = "../tools/bench/service/scenarios/mod.rs"]
mod scenarios;

use std::path::Path;
use std::time::Duration;

use scenarios::{Fault, Outcome, Scenario, Setup, Speech};

fn setup() -> Setup {
    Setup {
        bin_dir: Path::new(env!("CARGO_BIN_EXE_lbd")).parent().expect("it is in a folder").to_owned(),
        rate: 300.0,
        repeat: 3,
        // A slow machine costs time and not requests.
        patience: Duration::from_secs(15),
        pause: Duration::from_millis(50),
        reloads: 12,
        flap_for: Duration::from_secs(4),
    }
}

/// Runs it; every figure has to be as it has to be, but for those that are times.
#[track_caller]
fn prove(scenario: Scenario) {
    let outcome: Outcome = scenario.run(&setup()).unwrap_or_else(|error| panic!("{scenario:?}: {error:#}"));
    let fails: Vec<_> = outcome.checks.iter().filter(|c| !c.holds() && !c.what.starts_with("ms ")).collect();
    assert!(outcome.wrong == 0 && fails.is_empty(), "{fails:?}\n{outcome:?}");
    assert!(outcome.requests > 100, "{outcome:?}");
}

#[test]
fn a_server_is_drained_and_taken_back_without_a_lost_request() {
    prove(Scenario::Drain(Speech::Native));
    prove(Scenario::Drain(Speech::Datagram));
}
