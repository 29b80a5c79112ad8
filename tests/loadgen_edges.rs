//! `loadgen` where a measurement goes wrong: lost requests, signals, outputs that fail, duplicates, lossy targets.

mod common;

use std::path::Path;

use common::fakes::{Fake, v4};
use common::{Finished, Running, Site, wait_for};
use serde_json::{Value, json};

/// Requests whose answers repeat their id.
const RAW: &str = "--protocol raw --payload text:q{id}";

fn start(site: &Site, words: &str) -> Running {
    let args: Vec<&str> = words.split_whitespace().collect();
    Running::start(env!("CARGO_BIN_EXE_loadgen").as_ref(), &args, site.path())
}

fn loadgen(site: &Site, words: &str) -> Finished {
    start(site, words).finish()
}

fn json_of(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("no report ({e}): {finished:?}"))
}

fn json_in(site: &Site, name: &str) -> Value {
    let text = std::fs::read_to_string(site.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}: {text}"))
}

fn assert_balanced(report: &Value) {
    let count = |key: &str| report[key].as_u64().unwrap();
    let parts = count("answered") + count("busy") + count("refused") + count("lost");
    assert_eq!(count("sent"), parts, "{report}");
}

/// Answers all requests but every `nth`.
fn lossy(site: &Site, nth: usize) -> Fake {
    let mut count = 0;
    Fake::start(v4(site.port(0)), move |request, _| {
        count += 1;
        if count % nth == 0 { vec![] } else { vec![request.to_vec()] }
    })
}

#[test]
fn a_lost_request_is_slower_than_any_limit() {
    let site = Site::new(json!({}));
    let server = lossy(&site, 2);
    let run = format!(
        "--window 4 --duration 400ms --warmup 0s --timeout 50ms --quiet {RAW} --target {}",
        server.addr()
    );
    for condition in ["p99>50ms", "p99>3600s", "p90>=7200s", "max>3600s", "mean>3600s"] {
        let finished = loadgen(&site, &format!("{run} --fail-if {condition}"));
        assert_eq!(finished.code, 3, "{condition}: {finished:?}");
        assert!(finished.stderr.contains(" lost\n"), "{condition}: {finished:?}");
    }
    for condition in ["p40>20s", "p99<3600s", "max<=3600s", "mean<3600s"] {
        let finished = loadgen(&site, &format!("{run} --fail-if {condition}"));
        assert_eq!(finished.code, 0, "{condition}: {finished:?}");
    }
}

#[test]
fn equal_gaps_send_as_many_requests_as_the_rate_says() {
    let site = Site::new(json!({}));
    let server = Fake::start(v4(site.port(0)), |request, _| vec![request.to_vec()]);
    for (arrivals, warmup) in [("constant", "0s"), ("burst:10", "0s"), ("constant", "100ms")] {
        let words = format!(
            "--rate 500 --arrivals {arrivals} --duration 400ms --warmup {warmup} --timeout 5s --quiet --json - \
             {RAW} --target {}",
            server.addr()
        );
        assert_eq!(json_of(&loadgen(&site, &words))["planned"], 200, "{arrivals} {warmup}");
    }
}
