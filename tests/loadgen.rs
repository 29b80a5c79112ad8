//! `loadgen` against a real balancer with real servers.

mod common;

use common::{Finished, Running, Site};
use lbd::load::Report;
use serde_json::{Value, json};

fn loadgen(site: &Site, args: &[&str]) -> Running {
    Running::start(env!("CARGO_BIN_EXE_loadgen").as_ref(), args, site.path())
}

fn report(finished: &Finished) -> Report {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("no report ({e}): {finished:?}"))
}

fn assert_balanced(report: &Report) {
    assert_eq!(report.sent, report.answered + report.busy + report.refused + report.lost, "{report:?}");
}

#[test]
fn a_run_at_a_rate_is_answered_and_told_in_full() {
    let site = Site::new(json!({}));
    let (balancer, _servers) = site.pool(2, &[]);
    let words = "--rate 2000 --duration 1500ms --warmup 200ms --timeout 20s --json -";
    let finished = loadgen(&site, &words.split(' ').collect::<Vec<_>>()).finish();
    let figures = report(&finished);
    assert_balanced(&figures);
    assert_eq!((figures.answered, figures.lost, figures.busy), (figures.sent, 0, 0), "{finished:?}");
    assert!((2_500..3_500).contains(&figures.sent) && figures.rate_wanted == Some(2000.0), "{figures:?}");
    let warmup = balancer.status().answered - figures.answered;
    assert!((300..500).contains(&warmup), "the warm-up's {warmup} requests are not in the report");
    let latency = figures.latency_us;
    assert!(0 < latency.p50 && latency.p50 <= latency.p99 && latency.p99 <= latency.max, "{latency:?}");
    // The table goes to standard error, so that standard output stays JSON.
    for part in ["of 2 s: ", "from plan (us)", "p99.99"] {
        assert!(finished.stderr.contains(part), "{part} in {}", finished.stderr);
    }
}

#[test]
fn a_closed_loop_keeps_its_window_and_writes_its_report_to_a_file() {
    let site = Site::new(json!({"load_balancer": {"frame_size": 128}}));
    let (_balancer, _servers) = site.pool(1, &["--service", "fixed:2ms"]);
    let to = format!("127.0.0.1:{}", site.client_side());
    let words = ["--window", "8", "--duration", "500ms", "--warmup", "0s", "--target", &to, "--frame", "128"];
    let finished = loadgen(&site, &[&words[..], &["--json", "out.json"]].concat()).finish();
    assert_eq!(finished.code, 0, "{finished:?}");
    assert!(finished.stdout.contains(" answered, 0 busy, 0 refused, 0 lost"), "{}", finished.stdout);
    let text = std::fs::read_to_string(site.path().join("out.json")).unwrap();
    let figures: Report = serde_json::from_str(&text).unwrap();
    assert_balanced(&figures);
    // Eight share one server of 2 ms each: none waits for more than the others, none waits for less.
    assert!(figures.latency_us.p50 >= 8_000 && figures.rate_wanted.is_none(), "{figures:?}");
    assert!(figures.answered > 8 && figures.lost == 0, "{figures:?}");
}

#[test]
fn ctrl_c_ends_it_early_with_a_report() {
    let site = Site::new(json!({}));
    let (balancer, _servers) = site.pool(1, &[]);
    let words = "--rate 500 --duration 1h --warmup 0s --json - --quiet";
    let mut run = loadgen(&site, &words.split(' ').collect::<Vec<_>>());
    balancer.wait_until("requests are answered", |status| status.answered > 100);
    run.signal(libc::SIGINT);
    let finished = run.finish();
    let figures = report(&finished);
    assert_balanced(&figures);
    assert!(figures.answered > 100 && figures.duration_s < 60.0, "{figures:?}");
    assert!(!finished.stderr.contains("in flight") && !finished.stderr.contains("from plan"), "{finished:?}");
}

#[test]
fn without_a_balancer_everything_is_lost_and_said() {
    let site = Site::new(json!({}));
    let words = "--rate 500 --duration 300ms --warmup 0s --timeout 100ms --json - --quiet";
    let finished = loadgen(&site, &words.split(' ').collect::<Vec<_>>()).finish();
    assert_eq!(finished.code, 1);
    let figures = report(&finished);
    assert!(figures.sent > 0 && figures.lost == figures.sent, "{figures:?}");
    assert!(finished.stderr.starts_with("loadgen: nothing was answered"), "{}", finished.stderr);
}

#[test]
fn a_balancer_without_servers_answers_busy() {
    let site = Site::new(json!({}));
    let _balancer = site.balancer();
    let words = "--rate 500 --duration 300ms --warmup 0s --timeout 20s --json -";
    let finished = loadgen(&site, &words.split(' ').collect::<Vec<_>>()).finish();
    let figures = report(&finished);
    assert!(figures.busy > 0 && figures.busy == figures.sent, "{figures:?}");
    assert_eq!(figures.latency_us.max, 0, "BUSY is no answer");
    assert_eq!(finished.code, 1, "and so nothing was answered");
}

#[test]
fn frame_size_and_key_come_from_the_configuration() {
    let site = Site::new(json!({"load_balancer": {"frame_size": 256}, "key_file": "key"}));
    site.write("key", "000102030405060708090a0b0c0d0e0f\n");
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(site.path().join("key"), mode).unwrap();
    let (_balancer, _servers) = site.pool(1, &[]);
    let words = "--rate 500 --duration 300ms --warmup 0s --timeout 20s --payload 112 --json -";
    let finished = loadgen(&site, &words.split(' ').collect::<Vec<_>>()).finish();
    let figures = report(&finished);
    assert!(figures.answered > 0 && figures.answered == figures.sent, "{finished:?}");
}

#[test]
fn mistakes_are_exit_code_2_and_named() {
    let site = Site::new(json!({}));
    for (words, named) in [
        ("--duration 1s", "--rate <R>|--window <W>"),
        ("--rate fast", "--rate"),
        ("--rate 1 --frame 128 --payload 17", "--payload 17: a frame of 128 bytes carries at most 16"),
        ("--rate 1 --config missing.json", "missing.json"),
        ("--rate 1 --frame 128 --config config.json", "--config"),
        ("--rate 1 --json no/folder/out.json", "no/folder/out.json"),
        ("--rate 1 --target localhost", "--target"),
    ] {
        let finished = loadgen(&site, &words.split(' ').collect::<Vec<_>>()).finish();
        assert_eq!(finished.code, 2, "{words}: {finished:?}");
        assert!(finished.stderr.contains(named) && finished.stdout.is_empty(), "{words}: {finished:?}");
    }
    let help = loadgen(&site, &["--help"]).finish();
    assert_eq!(help.code, 0);
    for flag in
        ["rate", "target", "duration", "warmup", "arrivals", "connections", "window", "payload", "json"]
    {
        assert!(help.stdout.contains(&format!("--{flag}")), "{flag}");
    }
}

#[test]
fn the_report_has_the_keys_that_scripts_read() {
    let site = Site::new(json!({}));
    let (_balancer, _servers) = site.pool(1, &[]);
    let words = "--window 1 --duration 100ms --warmup 0s --json - --quiet";
    let finished = loadgen(&site, &words.split(' ').collect::<Vec<_>>()).finish();
    let json: Value = serde_json::from_str(&finished.stdout).unwrap();
    for key in ["sent", "answered", "lost", "busy", "late_sends", "rate", "duration_s"] {
        assert!(json[key].is_number(), "{key}");
    }
    for group in ["latency_us", "latency_uncorrected_us"] {
        for key in ["p50", "p90", "p99", "p999", "p9999", "max"] {
            assert!(json[group][key].is_u64(), "{group}.{key}");
        }
    }
}

#[test]
fn everything_runs_over_io_uring_too() {
    // Where there is none it runs over mio: either way every request is answered.
    let site = Site::new(json!({"load_balancer": {"io": "io_uring"}}));
    let (_balancer, _servers) = site.pool(3, &[]);
    let words = "--window 64 --duration 500ms --warmup 0s --timeout 20s --io io_uring --json -";
    let figures = report(&loadgen(&site, &words.split(' ').collect::<Vec<_>>()).finish());
    assert_balanced(&figures);
    assert_eq!((figures.lost, figures.busy), (0, 0), "{figures:?}");
    assert!(figures.answered > 64, "{figures:?}");
    let log = std::fs::read_to_string(site.path().join("logs/balancer/balancer.log")).unwrap();
    let says_which = |line: &str| line.contains("batch I/O") || line.contains("running over mio instead");
    assert!(log.lines().any(says_which), "{log}");
}
