//! `loadgen` where a measurement goes wrong: lost requests, signals, outputs that fail, duplicates, lossy
//! targets.

mod common;

use std::collections::HashSet;
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
fn an_interrupted_run_is_marked_and_has_an_exit_code_of_its_own() {
    let site = Site::new(json!({}));
    let server = Fake::start(v4(site.port(0)), |request, _| vec![request.to_vec()]);
    let target = format!("{RAW} --target {} --timeout 5s", server.addr());
    let words = format!("--rate 300 --duration 1h --warmup 0s {target} --json cut.json --fail-if p99>20s");
    let mut run = start(&site, &words);
    wait_for("requests", || (server.count() > 100).then_some(()), || "too few requests".to_owned());
    run.signal(libc::SIGTERM);
    let finished = run.finish();
    assert_eq!(finished.code, 4, "{finished:?}");
    assert!(
        finished.stdout.contains("interrupted") && finished.stderr.contains("interrupted"),
        "{finished:?}"
    );
    let report = json_in(&site, "cut.json");
    assert_eq!(report["interrupted"], true, "{report}");
    assert!(report["answered"].as_u64() > Some(90), "{report}");
    assert_balanced(&report);

    let whole = loadgen(&site, &format!("--rate 50 --duration 100ms --warmup 0s {target} --json whole.json"));
    assert!(!whole.stdout.contains("interrupted"), "{whole:?}");
    assert_eq!(json_in(&site, "whole.json")["interrupted"], false);
}

#[test]
fn a_run_that_is_interrupted_in_its_warm_up_has_no_row() {
    let site = Site::new(json!({}));
    let server = Fake::start(v4(site.port(0)), |request, _| vec![request.to_vec()]);
    for load in ["--rate 300", "--steps 300,400"] {
        let before = server.count();
        let words = format!(
            "{load} --duration 1h --warmup 1h {RAW} --target {} --timeout 5s --json cut.json --csv cut.csv",
            server.addr()
        );
        let mut run = start(&site, &words);
        wait_for("requests", || (server.count() > before + 50).then_some(()), || "too few".to_owned());
        run.signal(libc::SIGINT);
        let finished = run.finish();
        assert_eq!(finished.code, 4, "{finished:?}");
        assert!(finished.stdout.contains("interrupted in the warm-up"), "{finished:?}");
        assert!(!finished.stdout.contains("p99"), "{finished:?}");
        let csv = std::fs::read_to_string(site.path().join("cut.csv")).unwrap();
        assert_eq!(csv.lines().count(), 1, "{csv}");
        let report = json_in(&site, "cut.json");
        assert_eq!((&report["interrupted"], &report["sent"]), (&json!(true), &json!(0)), "{report}");
    }
}

#[test]
fn trials_that_are_interrupted_say_so_too() {
    let site = Site::new(json!({}));
    let server = Fake::start(v4(site.port(0)), |request, _| vec![request.to_vec()]);
    let addr = server.addr();
    let target = format!("{RAW} --duration 300ms --warmup 0s --timeout 5s --json -");
    for (words, told) in [
        (format!("--search --slo p99<20s,late<=100% --from 100 {target} --target {addr}"), "trial 2: "),
        (format!("--compare {addr} {addr} --rate 100 {target}"), "pair 1 of 9, B: "),
    ] {
        let mut run = start(&site, &words);
        run.wait_for_word(told);
        run.signal(libc::SIGINT);
        let finished = run.finish();
        assert_eq!(finished.code, 4, "{finished:?}");
        assert_eq!(json_of(&finished)["interrupted"], true, "{finished:?}");
        assert!(finished.stderr.contains("interrupted"), "{finished:?}");
    }
}

#[test]
fn an_output_that_fails_spares_the_others() {
    let site = Site::new(json!({}));
    let server = Fake::start(v4(site.port(0)), |request, _| vec![request.to_vec()]);
    let run = format!("--window 2 --duration 100ms --warmup 0s {RAW} --target {}", server.addr());
    let finished = loadgen(&site, &format!("{run} --csv /dev/full --json beside.json --hdr beside.hlog"));
    assert_eq!(finished.code, 2, "{finished:?}");
    assert!(finished.stderr.contains("/dev/full") && finished.stdout.contains("p99"), "{finished:?}");
    assert!(json_in(&site, "beside.json")["answered"].as_u64() > Some(0));
    assert!(site.path().join("beside.hlog").exists());
}

#[test]
fn an_old_result_survives_a_run_that_cannot_start() {
    let site = Site::new(json!({}));
    let server = Fake::start(v4(site.port(0)), |request, _| vec![request.to_vec()]);
    let run = format!("--window 2 --duration 100ms --warmup 0s {RAW} --target {}", server.addr());
    site.write("old.json", "old");
    let old = || std::fs::read_to_string(site.path().join("old.json")).unwrap();
    std::os::unix::fs::symlink("old.json", site.path().join("link.json")).unwrap();
    for (outputs, named) in [
        ("--json old.json --report missing/page.html", "missing/page.html"),
        ("--json old.json --csv .", "cannot write ."),
        ("--json old.json --csv ./old.json", "old.json"),
        ("--json old.json --csv link.json", "link.json"),
        ("--json new.json --csv ./new.json", "new.json"),
    ] {
        let finished = loadgen(&site, &format!("{run} {outputs}"));
        assert_eq!(finished.code, 2, "{outputs}: {finished:?}");
        assert!(finished.stderr.contains(named) && finished.stdout.is_empty(), "{outputs}: {finished:?}");
        assert_eq!(old(), "old", "{outputs}");
    }
    // What works replaces it, also behind a link, and leaves no other file.
    let finished = loadgen(&site, &format!("{run} --json link.json"));
    assert_eq!(finished.code, 0, "{finished:?}");
    assert!(old().contains("answered"));
    assert!(site.path().join("link.json").is_symlink());
    let has_unfinished = |dir: &Path| {
        std::fs::read_dir(dir)
            .unwrap()
            .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with('.'))
    };
    assert!(!has_unfinished(site.path()));
}

#[test]
fn the_warm_up_is_outside_all_counts() {
    let site = Site::new(json!({}));
    let twice = Fake::start(v4(site.port(0)), |request, _| vec![request.to_vec(); 2]);
    let words = format!(
        "--rate 300 --arrivals constant --warmup 1s --duration 200ms --timeout 5s --quiet --json - {RAW} \
         --target {}",
        twice.addr()
    );
    let report = json_of(&loadgen(&site, &words));
    let (sent, repeats) = (report["sent"].as_u64().unwrap(), report["drops"]["not_open"].as_u64().unwrap());
    // Some repeats of the warm-up may arrive after it.
    assert!(repeats >= sent / 2 && repeats <= sent + 100, "{repeats} of {sent}");
}

#[test]
fn answers_that_cannot_be_matched_make_a_run_invalid() {
    let site = Site::new(json!({}));
    let twice = Fake::start(v4(site.port(0)), |request, _| vec![request.to_vec(); 2]);
    let run = format!("--duration 300ms --warmup 0s --timeout 5s --quiet --json - --target {}", twice.addr());
    let plain = format!("--window 1 --clients 1 --protocol raw --payload text:hello {run}");
    let finished = loadgen(&site, &plain);
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stderr.contains("{id}"), "{finished:?}");
    // An id shows which answer is the second one.
    let marked = loadgen(&site, &format!("--window 1 --clients 1 {RAW} {run}"));
    assert_eq!(marked.code, 0, "{marked:?}");
}

#[test]
fn a_search_and_a_comparison_work_on_a_lossy_target() {
    let site = Site::new(json!({}));
    let server = lossy(&site, 6);
    let addr = server.addr();
    let run = format!("{RAW} --duration 200ms --warmup 0s --timeout 50ms --json -");
    let words = format!(
        "--search --slo p50<1s,loss<30% --from 100 --to 200 --repeats 1 --max-trials 12 {run} --target {addr}"
    );
    let finished = loadgen(&site, &words);
    assert!(!finished.stderr.contains("does not respond"), "{finished:?}");
    assert!(json_of(&finished)["rate"].as_f64().is_some_and(|rate| rate >= 100.0), "{finished:?}");
    let words = format!("--compare {addr} {addr} --window 2 --repeats 2 {run}");
    let finished = loadgen(&site, &words);
    assert_eq!(json_of(&finished)["pairs"], 2, "{finished:?}");
}

#[test]
fn runs_that_were_not_side_by_side_are_not_merged() {
    let site = Site::new(json!({}));
    let server = Fake::start(v4(site.port(0)), |request, _| vec![request.to_vec()]);
    let run = |name: &str, more: &str| {
        let words = format!(
            "--window 2 --duration 100ms --warmup 0s --quiet {RAW} --target {} --json {name} {more}",
            server.addr()
        );
        start(&site, &words)
    };
    for (name, more) in [("one.json", ""), ("two.json", "")] {
        assert_eq!(run(name, more).finish().code, 0);
    }
    let both = [run("short.json", "--timeout 100ms"), run("long.json", "--timeout 5s")];
    both.into_iter().for_each(|run| assert_eq!(run.finish().code, 0));
    std::fs::copy(site.path().join("one.json"), site.path().join("copy.json")).unwrap();
    for (files, named) in [
        ("one.json two.json", "two.json: it began "),
        ("one.json one.json", "one.json: the same file twice"),
        ("one.json ./one.json", "one.json: the same file twice"),
        ("one.json copy.json", "copy.json: it is the same run"),
        ("short.json long.json", "long.json: its timeout is 5 s"),
    ] {
        let finished = loadgen(&site, &format!("--merge {files} --json - --quiet"));
        assert_eq!(finished.code, 2, "{files}: {finished:?}");
        assert!(finished.stderr.contains(named), "{files}: {finished:?}");
    }
}

#[test]
fn equal_gaps_send_as_many_requests_as_the_rate_says() {
    let site = Site::new(json!({}));
    let server = Fake::start(v4(site.port(0)), |request, _| vec![request.to_vec()]);
    for (arrivals, warmup) in [("constant", "0s"), ("burst:10", "0s"), ("constant", "100ms")] {
        let words = format!(
            "--rate 500 --arrivals {arrivals} --duration 400ms --warmup {warmup} --timeout 5s --quiet \
             --json - {RAW} --target {}",
            server.addr()
        );
        assert_eq!(json_of(&loadgen(&site, &words))["planned"], 200, "{arrivals} {warmup}");
    }
}

#[test]
fn a_lack_of_descriptors_is_told_once() {
    let site = Site::new(json!({}));
    let program = env!("CARGO_BIN_EXE_loadgen");
    let words = format!("ulimit -n 100 && exec {program} --rate 1 --clients 5000 --target 127.0.0.1:9");
    let finished = Running::start("/bin/sh".as_ref(), &["-c", &words], site.path()).finish();
    assert_eq!(finished.code, 2, "{finished:?}");
    assert_eq!(finished.stderr.matches("cannot open").count(), 1, "{finished:?}");
}

#[test]
fn clients_send_from_the_addresses_of_a_network_to_a_name() {
    let site = Site::new(json!({}));
    let server = Fake::start(v4(site.port(0)), |request, _| vec![request.to_vec()]);
    let words = format!(
        "--window 40 --clients 40 --bind 127.0.9.0/27 --threads 2 --duration 300ms --warmup 0s --timeout 5s \
         --quiet --json - {RAW} --target localhost:{}",
        server.addr().port()
    );
    let finished = loadgen(&site, &words);
    assert_eq!(finished.code, 0, "{finished:?}");
    let hosts: HashSet<_> = server.seen().iter().map(|seen| seen.from.ip()).collect();
    assert_eq!(hosts.len(), 30, "{hosts:?}");
    assert_eq!(json_of(&finished)["setup"]["bind"], "127.0.9.0/27");
}

#[test]
fn why_a_target_is_silent_is_told_at_once_and_a_condition_ends_the_run() {
    let site = Site::new(json!({}));
    let run = format!("--rate 100 {RAW} --target 127.0.0.1:{} --timeout 100ms --warmup 0s", site.port(0));
    let silent = loadgen(&site, &format!("{run} --duration 300ms"));
    assert_eq!(silent.code, 1, "{silent:?}");
    let named = silent.stderr.find("connection refused").expect(&silent.stderr);
    assert!(named < silent.stderr.find("no request was answered").expect(&silent.stderr), "{silent:?}");
    assert!(!silent.stderr.contains("frame"), "{silent:?}");
    // What this machine does not send is told too.
    let unsent = loadgen(
        &site,
        &format!(
            "--rate 100 {RAW} --bind 127.0.0.1 --target 192.0.2.1:9 --timeout 100ms --warmup 300ms \
             --duration 200ms --json - --quiet"
        ),
    );
    let report = json_of(&unsent);
    assert!(report["not_sent"].as_u64() <= report["lost"].as_u64(), "{report}");
    assert!(report["network_errors"].as_object().is_some_and(|errors| !errors.is_empty()), "{report}");

    let aborted = loadgen(&site, &format!("{run} --duration 1h --abort-if loss>50% --json - --quiet"));
    assert!([1, 3].contains(&aborted.code), "{aborted:?}");
    let report = json_of(&aborted);
    assert!(report["aborted"].as_str().is_some_and(|text| text.contains("loss>50%")), "{report}");
    assert_eq!(report["interrupted"], false);
    let one = loadgen(&site, &format!("{run} --abort-if pacing>1ms"));
    assert!(one.code == 2 && one.stderr.contains("known only at the end"), "{one:?}");
}

#[test]
fn lateness_is_what_the_user_says_it_is() {
    let site = Site::new(json!({}));
    let server = Fake::start(v4(site.port(0)), |request, _| vec![request.to_vec()]);
    // A window of one makes every request of a burst but the first late.
    let run = format!(
        "--rate 200 --arrivals burst:50 --window 1 --duration 500ms --warmup 0s --timeout 5s --quiet \
         --json - {RAW} --target {}",
        server.addr()
    );
    let late = loadgen(&site, &format!("{run} --late-max 0ms"));
    assert_eq!(late.code, 1, "{late:?}");
    assert!(late.stderr.contains("--spin") && late.stderr.contains("real-time priority"), "{late:?}");
    assert!(json_of(&late)["late_sends"].as_u64() > Some(50));
    assert_eq!(loadgen(&site, &format!("{run} --late-max 0ms --late-share 100%")).code, 0);
    assert_eq!(loadgen(&site, &format!("{run} --late-max 1h")).code, 0);
}

#[test]
fn a_comparison_decides() {
    let site = Site::new(json!({}));
    let delayed = |port: u16, ms: u64| {
        Fake::start(v4(port), move |request, _| {
            let until = std::time::Instant::now() + std::time::Duration::from_millis(ms);
            while std::time::Instant::now() < until {
                std::hint::spin_loop(); // the service time
            }
            vec![request.to_vec()]
        })
    };
    let (quick, slow) = (delayed(site.port(0), 1), delayed(site.port(1), 4));
    let run = format!("--window 1 --duration 60ms --warmup 0s --timeout 5s --repeats 6 --quiet {RAW}");
    let start = |words: &str, condition: &str| {
        let args: Vec<&str> = words.split_whitespace().chain(["--fail-if", condition]).collect();
        Running::start(env!("CARGO_BIN_EXE_loadgen").as_ref(), &args, site.path()).finish()
    };
    let compare = |a: &Fake, b: &Fake, condition: &str| {
        start(&format!("{run} --json - --compare {} {}", a.addr(), b.addr()), condition)
    };
    let worse = compare(&quick, &slow, "p50 B > 1.05 A");
    assert_eq!(worse.code, 3, "{worse:?}");
    assert_eq!(json_of(&worse)["judged"][0]["holds"], true);
    let better = compare(&slow, &quick, "p50 B > 1.05 A");
    assert_eq!(better.code, 0, "{better:?}");
    assert_eq!(compare(&slow, &quick, "p50>5ms").code, 2);
    let alone = start(&format!("--rate 1 {RAW} --target 127.0.0.1:9"), "p50 B > A");
    assert!(alone.code == 2 && alone.stderr.contains("it needs --compare"), "{alone:?}");
}
