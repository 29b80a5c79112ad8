//! `loadgen` against a real balancer with real servers.

mod common;

use std::collections::HashSet;

use common::fake_dns::{self, FakeDns, Manner};
use common::fakes::{Fake, v4};
use common::{Finished, Running, Site};
use lbd::load::LoadReport;
use serde_json::{Value, json};

fn loadgen(site: &Site, args: &[&str]) -> Running {
    Running::start(env!("CARGO_BIN_EXE_loadgen").as_ref(), args, site.path())
}

fn report(finished: &Finished) -> LoadReport {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("no report ({e}): {finished:?}"))
}

fn assert_balanced(report: &LoadReport) {
    assert_eq!(
        report.counts.sent,
        report.counts.answered + report.counts.busy + report.counts.refused + report.counts.lost,
        "{report:?}"
    );
}

#[test]
fn a_run_at_a_rate_is_answered_and_told_in_full() {
    let site = Site::new(json!({}));
    let (balancer, _servers) = site.pool(2, &[]);
    let words = "--rate 2000 --duration 1500ms --warmup 200ms --timeout 20s --json -";
    let finished = loadgen(&site, &words.split(' ').collect::<Vec<_>>()).finish();
    let figures = report(&finished);
    assert_balanced(&figures);
    assert_eq!(
        (figures.counts.answered, figures.counts.lost, figures.counts.busy),
        (figures.counts.sent, 0, 0),
        "{finished:?}"
    );
    assert!(
        (2_500..3_500).contains(&figures.counts.sent) && figures.rate_wanted == Some(2000.0),
        "{figures:?}"
    );
    let warmup = balancer.status().pools[0].answered - figures.counts.answered;
    assert!((300..500).contains(&warmup), "the warm-up's {warmup} requests are not in the report");
    let latency = figures.latency_us;
    assert!(0 < latency.p50 && latency.p50 <= latency.p99 && latency.p99 <= latency.max, "{latency:?}");
    // The table goes to standard error, so that standard output stays JSON.
    for part in ["of 2 s: ", "from schedule (us)", "p99.99"] {
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
    let figures: LoadReport = serde_json::from_str(&text).unwrap();
    assert_balanced(&figures);
    // Eight share one server of 2 ms each: none waits for more than the others, none waits for less.
    assert!(figures.latency_us.p50 >= 8_000 && figures.rate_wanted.is_none(), "{figures:?}");
    assert!(figures.counts.answered > 8 && figures.counts.lost == 0, "{figures:?}");
}

#[test]
fn ctrl_c_ends_it_early_with_a_report() {
    let site = Site::new(json!({}));
    let (balancer, _servers) = site.pool(1, &[]);
    let words = "--rate 500 --duration 1h --warmup 0s --json - --quiet";
    let mut run = loadgen(&site, &words.split(' ').collect::<Vec<_>>());
    balancer.wait_until("requests are answered", |status| status.pools[0].answered > 100);
    run.signal(libc::SIGINT);
    let finished = run.finish();
    let figures = report(&finished);
    assert_balanced(&figures);
    assert!(figures.counts.answered > 100 && figures.duration_s < 60.0, "{figures:?}");
    assert!(
        !finished.stderr.contains("in flight") && !finished.stderr.contains("from schedule"),
        "{finished:?}"
    );
}

#[test]
fn without_a_balancer_everything_is_lost_and_said() {
    let site = Site::new(json!({}));
    let words = "--rate 500 --duration 300ms --warmup 0s --timeout 100ms --json - --quiet";
    let finished = loadgen(&site, &words.split(' ').collect::<Vec<_>>()).finish();
    assert_eq!(finished.code, 1);
    let figures = report(&finished);
    assert!(figures.counts.sent > 0 && figures.counts.lost == figures.counts.sent, "{figures:?}");
    assert!(finished.stderr.starts_with("loadgen: no request was answered"), "{}", finished.stderr);
}

#[test]
fn a_balancer_without_servers_answers_busy() {
    let site = Site::new(json!({}));
    let _balancer = site.balancer();
    let words = "--rate 500 --duration 300ms --warmup 0s --timeout 20s --json -";
    let finished = loadgen(&site, &words.split(' ').collect::<Vec<_>>()).finish();
    let figures = report(&finished);
    assert!(figures.counts.busy > 0 && figures.counts.busy == figures.counts.sent, "{figures:?}");
    assert_eq!(figures.latency_us.max, 0, "BUSY is no answer");
    assert_eq!(finished.code, 1, "and so no request was answered");
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
    assert!(figures.counts.answered > 0 && figures.counts.answered == figures.counts.sent, "{finished:?}");
}

#[test]
fn mistakes_are_exit_code_2_and_named() {
    let site = Site::new(json!({}));
    site.write("unsorted.txt", "1\n0.5\n");
    site.write("sized.txt", "0 10\n0.1 2000\n");
    site.write("names.txt", "example.com A\n-bad..name A\n");
    site.write("report.json", "{\"sent\": 1}\n");
    for (words, named) in [
        ("--duration 1s", "--rate <R>|--ramp"),
        ("--arrivals constant", "--arrivals needs a rate"),
        ("--rate 1 --arrivals trace:sized.txt", "remove --rate"),
        ("--arrivals trace:unsorted.txt", "unsorted.txt: line 2: 0.5 is earlier"),
        ("--arrivals trace:missing.txt", "missing.txt"),
        ("--arrivals trace:sized.txt", "2000 bytes in the trace: a frame of 256 bytes carries at most"),
        ("--arrivals trace:sized.txt --warmup 1s", "--warmup 1s: the trace ends after 100ms"),
        ("--arrivals trace:sized.txt --protocol dns --target 127.0.0.1:1", "sizes"),
        ("--arrivals trace:sized.txt --protocol raw --payload text:x --target 127.0.0.1:1", "--payload"),
        ("--rate 1 --protocol dns", "needs --target"),
        ("--rate 1 --protocol raw --payload 0 --target 127.0.0.1:1", "at least 1 byte"),
        (
            "--rate 1 --protocol raw --dns-name x --target 127.0.0.1:1",
            "--dns-name does not apply to --protocol raw",
        ),
        ("--rate 1 --protocol dns --frame 128 --target 127.0.0.1:1", "--frame does not apply"),
        ("--rate 1 --protocol dns --dns-names names.txt --target 127.0.0.1:1", "names.txt: line 2"),
        ("--rate 1 --protocol dns --dns-name a..b --target 127.0.0.1:1", "--dns-name: \"a..b\""),
        ("--rate 1 --threads 4 --clients 3", "--threads 4"),
        ("--window 1 --threads 2", "raise --window"),
        ("--rate 1 --json - --csv -", "only one of"),
        ("--rate 1 --hdr no/folder/x.hlog", "no/folder/x.hlog"),
        ("--merge missing.json", "missing.json"),
        ("--merge report.json", "report.json: not a report"),
        ("--rate fast", "--rate"),
        ("--rate 1 --think 1s", "--think needs a closed loop"),
        ("--rate 1 --requests 0", "--requests"),
        ("--rate 1 --expect text:x", "--expect does not apply to --protocol native"),
        ("--rate 1 --start-at soon", "--start-at"),
        ("--rate 1 --abort-if p50>5", "`p50` is a time"),
        (
            "--rate 1 --protocol raw --payload text:x --payload text:{id} --target 127.0.0.1:1",
            "either each payload has an {id}, or none",
        ),
        ("--rate 1 --frame 128 --payload 17", "--payload 17: a frame of 128 bytes carries at most 16"),
        ("--rate 1 --config missing.json", "missing.json"),
        ("--rate 1 --frame 128 --config config.json", "--config"),
        ("--rate 1 --json no/folder/out.json", "no/folder/out.json"),
        ("--rate 1 --target localhost", "has no port; write localhost:PORT"),
        ("--rate 1 --target [fe80::1]:9", "is a link-local address; write its interface"),
        ("--rate 1 --bind 127.0.0.1/33 --target 127.0.0.1:9", "`127.0.0.1/33` is no address"),
        (
            "--rate 1 --bind ::1 --target 127.0.0.1:9",
            "--bind ::1: the target 127.0.0.1:9 needs an IPv4 address",
        ),
    ] {
        let finished = loadgen(&site, &words.split(' ').collect::<Vec<_>>()).finish();
        assert_eq!(finished.code, 2, "{words}: {finished:?}");
        assert!(finished.stderr.contains(named) && finished.stdout.is_empty(), "{words}: {finished:?}");
    }
    let help = loadgen(&site, &["--help"]).finish();
    assert_eq!(help.code, 0);
    for flag in [
        "rate",
        "target",
        "duration",
        "warmup",
        "arrivals",
        "connections",
        "window",
        "payload",
        "json",
        "bind",
    ] {
        assert!(help.stdout.contains(&format!("--{flag}")), "{flag}");
    }
    for part in ["\nLoad:", "\nRequests:", "\nMachine:", "\nOutput:", "\nExamples:", "\nExit codes:"] {
        assert!(help.stdout.contains(part), "{part}");
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
    assert_eq!((figures.counts.lost, figures.counts.busy), (0, 0), "{figures:?}");
    assert!(figures.counts.answered > 64, "{figures:?}");
    let log = std::fs::read_to_string(site.path().join("logs/balancer/balancer.log")).unwrap();
    let says_which = |line: &str| line.contains("batch I/O") || line.contains("io_uring not available");
    assert!(log.lines().any(says_which), "{log}");
}

/// Runs it to its end with the report as JSON.
fn measured(site: &Site, words: &str) -> (LoadReport, Finished) {
    let words = format!("{words} --json -");
    let finished = loadgen(site, &words.split(' ').collect::<Vec<_>>()).finish();
    let report = report(&finished);
    assert_balanced(&report);
    (report, finished)
}

/// The report's parts say the same.
fn assert_whole(report: &LoadReport) {
    let sum = |figure: fn(&lbd::load::Second) -> u64| report.series.iter().map(figure).sum::<u64>();
    assert_eq!(sum(|s| s.counts.sent), report.counts.sent, "{report:?}");
    assert_eq!(sum(|s| s.counts.answered), report.counts.answered);
    assert_eq!(
        sum(|s| s.counts.lost + s.counts.busy + s.counts.refused),
        report.counts.lost + report.counts.busy + report.counts.refused
    );
    assert_eq!(sum(|s| s.counts.late_sends), report.counts.late_sends);
    let with_latency = report.counts.answered + report.counts.lost;
    assert_eq!(report.histograms.latency.decode().unwrap().len(), with_latency);
    assert_eq!(report.histograms.latency_uncorrected.decode().unwrap().len(), with_latency);
    assert_eq!(report.histograms.pacing.decode().unwrap().len(), report.counts.sent);
    let in_seconds: u64 = report.series.iter().map(|s| s.histogram.decode().unwrap().len()).sum();
    assert_eq!(in_seconds, with_latency);
    assert_eq!(report.spectrum.last().map_or(0, |point| point.count), with_latency);
}

#[test]
fn several_threads_keep_one_plan_and_give_one_report() {
    let site = Site::new(json!({}));
    let (balancer, _servers) = site.pool(2, &[]);
    let words = "--rate 1000 --arrivals constant --threads 3 --clients 7 --duration 2s --warmup 0s \
                 --timeout 20s --quiet";
    let (report, finished) = measured(&site, words);
    assert_eq!(report.counts.answered, report.counts.sent, "{finished:?}");
    // One plan: exactly what one thread would have planned, regardless of the machine's speed.
    assert_eq!(report.counts.planned, 2_000, "{finished:?}");
    assert_eq!((report.setup.threads, report.setup.clients), (3, 7));
    assert_whole(&report);
    assert!(balancer.status().pools[0].answered == report.counts.answered);
    let at: Vec<u64> = report.series.iter().map(|second| second.at_s).collect();
    assert_eq!(at, [0, 1]);
    let (closed, _) =
        measured(&site, "--window 7 --threads 2 --duration 300ms --warmup 0s --timeout 20s --quiet");
    assert!(closed.counts.answered > 7 && closed.counts.lost == 0, "{closed:?}");
    assert_whole(&closed);
}

#[test]
fn dns_queries_are_asked_and_answered() {
    let site = Site::new(json!({}));
    let server = FakeDns::start(1, v4(site.port(0)));
    site.write("names.txt", "# names\na.example A\nb.example AAAA ; more\n\nc{id}.example\n");
    let words = format!(
        "--rate 300 --duration 1s --warmup 0s --timeout 20s --protocol dns --target {} --threads 2",
        server.addr()
    );
    let (report, finished) =
        measured(&site, &format!("{words} --dns-names names.txt --dns-type TXT --dns-edns 1232"));
    assert!(report.counts.answered > 100 && report.counts.answered == report.counts.sent, "{finished:?}");
    assert_eq!((server.queries(), report.setup.protocol.as_str()), (report.counts.sent, "dns"));
    assert_whole(&report);
    // A second answer, or one to another question, is none.
    for (manner, reason) in [(Manner::Twice, "not_open"), (Manner::WrongQuestionFirst, "wrong_question")] {
        server.be(manner);
        let (report, finished) = measured(&site, &words);
        assert!(report.counts.answered > 100 && report.counts.answered == report.counts.sent, "{finished:?}");
        assert!(report.drops[reason] >= report.counts.answered - 50, "{finished:?}");
    }
}

#[test]
fn the_rcode_of_an_answer_is_how_its_query_ended() {
    let site = Site::new(json!({}));
    let server = Fake::start(v4(site.port(0)), |query, _| {
        let mut answer = fake_dns::answer(query, 1);
        answer[3] |= [0, fake_dns::SERVFAIL, 3, 5][usize::from(query[13] - b'a')];
        vec![answer]
    });
    site.write("names.txt", "a.example\nb.example\nc.example\nd.example\n");
    let words = format!(
        "--window 4 --duration 300ms --warmup 0s --timeout 20s --protocol dns --dns-names names.txt \
         --target {}",
        server.addr()
    );
    let (report, finished) = measured(&site, &words);
    assert!(report.counts.sent > 8, "{finished:?}");
    // Four names in turn, of which two are answered, one is busy and one refused.
    let quarter = report.counts.sent / 4;
    let near = |is: u64, expected: u64| is.abs_diff(expected) <= 1;
    assert!(
        near(report.counts.busy, quarter)
            && near(report.counts.refused, quarter)
            && near(report.counts.answered, 2 * quarter),
        "{report:?}"
    );
    let names: HashSet<u8> = server.seen().iter().map(|seen| seen.bytes[13]).collect();
    assert_eq!(names.len(), 4);
}

#[test]
fn raw_requests_are_the_payload_and_any_answer_is_one() {
    let site = Site::new(json!({}));
    let server = Fake::start(v4(site.port(0)), |_, _| vec![b"pong".to_vec()]);
    let words = format!(
        "--rate 500 --duration 500ms --warmup 0s --timeout 20s --protocol raw --target {}",
        server.addr()
    );
    let (report, finished) = measured(&site, &format!("{words} --payload text:ping --clients 50"));
    assert!(report.counts.answered > 100 && report.counts.answered == report.counts.sent, "{finished:?}");
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.bytes == b"ping"));
    let clients: HashSet<_> = seen.iter().map(|seen| seen.from).collect();
    assert_eq!(clients.len(), 50, "each has its turn");
    assert_whole(&report);
}

#[test]
fn a_mark_in_a_raw_request_lets_one_client_have_many_in_flight() {
    let site = Site::new(json!({}));
    let held = std::sync::Mutex::new(vec![]);
    // Answers ten at once, the last one first: the order does not show which request an answer belongs to.
    let server = Fake::start(v4(site.port(0)), move |request, _| {
        let mut held = held.lock().unwrap();
        held.push([b"you said ", request].concat());
        if held.len() == 10 { held.drain(..).rev().collect() } else { vec![] }
    });
    let to = server.addr().to_string();
    let words = [
        "--window",
        "10",
        "--duration",
        "300ms",
        "--warmup",
        "0s",
        "--timeout",
        "1s",
        "--clients",
        "1",
        "--protocol",
        "raw",
    ];
    let payload = ["--payload", "text:ping {id}!", "--target", &to, "--quiet", "--json", "-"];
    let finished = loadgen(&site, &[&words[..], &payload].concat()).finish();
    let report = report(&finished);
    assert_balanced(&report);
    // The last few may not make up ten.
    assert!(report.counts.answered >= 20 && report.counts.lost < 10, "{report:?}");
    assert!(report.drops.is_empty(), "{report:?}");
    let marks: HashSet<_> = server.seen().into_iter().map(|seen| seen.bytes).collect();
    assert!(marks.iter().all(|bytes| bytes.starts_with(b"ping ") && bytes.len() == 22), "{marks:?}");
    assert_eq!(marks.len() as u64, report.counts.sent);
}

#[test]
fn lost_requests_count_as_the_time_out_in_every_protocol() {
    let site = Site::new(json!({}));
    let server = Fake::silent(v4(site.port(0)));
    for protocol in ["native", "dns", "raw", "raw --payload text:{id}"] {
        let words = format!(
            "--rate 200 --duration 300ms --warmup 0s --timeout 150ms --clients 200 --quiet --target {} \
             --protocol {protocol}",
            server.addr()
        );
        let (report, finished) = measured(&site, &words);
        assert!(
            report.counts.sent > 20 && report.counts.lost == report.counts.sent && finished.code == 1,
            "{protocol}: {finished:?}"
        );
        let uncorrected = report.latency_uncorrected_us.p50;
        assert!(uncorrected.abs_diff(150_000) <= 150, "{protocol}: {uncorrected}");
        // From the schedule, the wait until the send is a part of it.
        let (latency, lag) = (report.latency_us, report.pacing_us);
        assert!(
            latency.p50 >= 149_850 && latency.max <= 150_300 + lag.max,
            "{protocol}: {latency:?} {lag:?}"
        );
        assert!(latency.max + 300 >= 150_000 + lag.max, "{protocol}: {latency:?} {lag:?}");
        assert_whole(&report);
    }
}

#[test]
fn a_trace_is_sent_request_for_request_and_ends_the_run() {
    let site = Site::new(json!({}));
    let server = Fake::echo(1, v4(site.port(0)));
    site.write("trace.txt", "# three\n0.0 5\n0.2 900\n0.2\n");
    let words = format!(
        "--arrivals trace:trace.txt --protocol raw --payload 64 --timeout 20s --target {}",
        server.addr()
    );
    let (report, finished) = measured(&site, &words);
    assert_eq!((report.counts.planned, report.counts.answered), (3, 3), "{finished:?}");
    let lens: Vec<usize> = server.seen().iter().map(|seen| seen.bytes.len()).collect();
    assert_eq!(lens, [5, 900, 64]);
    assert!((0.2..0.3).contains(&report.duration_s), "{report:?}");
    assert!(report.rate_wanted.is_some_and(|rate| (rate - 15.0).abs() < 0.1), "{report:?}");
    assert_eq!(report.setup.arrivals, "trace:trace.txt");
}

#[test]
fn steps_have_a_report_each_and_a_table() {
    let site = Site::new(json!({}));
    let server = FakeDns::start(1, v4(site.port(0)));
    let words = format!(
        "--steps 50..250/3 --arrivals constant --duration 400ms --warmup 0s --timeout 20s --protocol dns \
         --target {}",
        server.addr()
    );
    let (report, finished) = measured(&site, &words);
    let planned: Vec<(Option<f64>, u64)> =
        report.steps.iter().map(|step| (step.rate_wanted, step.counts.planned)).collect();
    assert_eq!(planned, [(Some(50.0), 20), (Some(150.0), 60), (Some(250.0), 100)]);
    assert_eq!(
        (report.counts.planned, report.counts.answered, server.queries()),
        (180, 180, 180),
        "{finished:?}"
    );
    report.steps.iter().for_each(assert_whole);
    assert_whole(&report);
    assert_eq!(report.setup.rate, "50,150,250");
    for part in ["step 2 of 3", "target/s", "schedule kept"] {
        assert!(finished.stderr.contains(part), "{part}: {finished:?}");
    }
}

#[test]
fn a_ramp_grows_over_the_measurement() {
    let site = Site::new(json!({}));
    let server = FakeDns::start(1, v4(site.port(0)));
    let words = format!(
        "--ramp 100..500 --arrivals burst:5 --duration 2s --warmup 200ms --timeout 20s --protocol dns \
         --quiet --target {}",
        server.addr()
    );
    let (report, finished) = measured(&site, &words);
    let sent: Vec<u64> = report.series.iter().map(|second| second.counts.sent).collect();
    assert_eq!(sent.len(), 2, "{finished:?}");
    // 100 to 300, then 300 to 500, give or take a burst.
    assert!(sent[0].abs_diff(200) <= 5 && sent[1].abs_diff(400) <= 5, "{sent:?}");
    assert_eq!((report.rate_wanted, report.setup.rate.as_str()), (Some(300.0), "100..500"));
    assert_eq!(report.setup.arrivals, "burst:5");
}

#[test]
fn seconds_are_written_as_csv_and_as_a_log_that_hdrhistogram_reads() {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    let site = Site::new(json!({}));
    let server = FakeDns::start(1, v4(site.port(0)));
    let words = format!(
        "--rate 200 --duration 1500ms --warmup 0s --timeout 20s --protocol dns --csv s.csv --hdr s.hlog \
         --target {}",
        server.addr()
    );
    let (report, _) = measured(&site, &words);
    let csv = std::fs::read_to_string(site.path().join("s.csv")).unwrap();
    let rows: Vec<Vec<u64>> = csv
        .lines()
        .skip(1)
        .map(|line| line.split(',').map(|figure| figure.parse().unwrap()).collect())
        .collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), [0, 1], "{csv}");
    assert_eq!(rows.iter().map(|row| row[1]).sum::<u64>(), report.counts.sent);
    let log = std::fs::read(site.path().join("s.hlog")).unwrap();
    let lengths: Vec<f64> = IntervalLogIterator::new(&log)
        .filter_map(|entry| match entry.unwrap() {
            LogEntry::Interval(interval) => Some(interval.duration().as_secs_f64()),
            _ => None,
        })
        .collect();
    assert_eq!(lengths, [1.0, 0.5]);
}

#[test]
fn reports_of_processes_that_ran_side_by_side_are_one() {
    let site = Site::new(json!({}));
    let server = FakeDns::start(1, v4(site.port(0)));
    let run = |seed: &str| {
        let to = server.addr().to_string();
        let words =
            ["--rate", "200", "--duration", "1s", "--warmup", "0s", "--timeout", "20s", "--protocol", "dns"];
        let json = format!("{seed}.json");
        loadgen(&site, &[&words[..], &["--target", &to, "--seed", seed, "--quiet", "--json", &json]].concat())
    };
    let both = [run("1"), run("2")];
    both.into_iter().for_each(|run| assert_ne!(run.finish().code, 2));
    let part = |name: &str| -> LoadReport {
        serde_json::from_str(&std::fs::read_to_string(site.path().join(name)).unwrap()).unwrap()
    };
    let (one, two) = (part("1.json"), part("2.json"));
    let finished =
        loadgen(&site, &["--merge", "1.json", "2.json", "--json", "-", "--csv", "both.csv"]).finish();
    let merged = report(&finished);
    assert_eq!(
        (merged.counts.sent, merged.counts.answered),
        (one.counts.sent + two.counts.sent, one.counts.answered + two.counts.answered)
    );
    assert_eq!((merged.rate_wanted, merged.setup.clients), (Some(400.0), 32));
    assert_whole(&merged);
    let [mut sum, part] = [&one, &two].map(|report| report.histograms.latency.decode().unwrap());
    sum.auto(true);
    sum.add(part).unwrap();
    assert_eq!(merged.latency_us.p99, (sum.value_at_quantile(0.99) + 500) / 1000);
    // A table of one report is its report.
    let again = report(&loadgen(&site, &["--merge", "1.json", "--json", "-", "--quiet"]).finish());
    assert_eq!(again, one);
}

#[test]
fn a_number_of_requests_with_binary_ids_is_sent_and_answers_are_checked() {
    let site = Site::new(json!({}));
    let server = Fake::echo(1, v4(site.port(0)));
    let words = format!(
        "--window 5 --requests 30 --warmup 0s --timeout 20s --protocol raw --payload hex:0001{{id:8}}ff \
         --payload hex:02{{id:4}} --threads 2 --clients 4 --hgrm out.hgrm --csv out.csv --target {}",
        server.addr()
    );
    let (report, finished) = measured(&site, &words);
    assert_eq!((report.counts.sent, report.counts.answered), (30, 30), "{finished:?}");
    assert!((report.goodput * report.duration_s - 30.0).abs() < 0.01, "{report:?}");
    assert!(report.latency_us.mean > 0.0 && report.latency_us.min <= report.latency_us.p50, "{report:?}");
    let seen: HashSet<Vec<u8>> = server.seen().into_iter().map(|seen| seen.bytes).collect();
    assert_eq!(seen.len(), 30, "each has its own id");
    let is_one = |bytes: &Vec<u8>| match bytes.len() {
        11 => bytes.starts_with(&[0, 1]) && bytes.ends_with(&[0xff]),
        len => len == 5 && bytes[0] == 2,
    };
    assert!(seen.iter().all(is_one) && seen.iter().any(|bytes| bytes.len() == 5), "{seen:?}");
    let distribution = std::fs::read_to_string(site.path().join("out.hgrm")).unwrap();
    assert!(distribution.contains("#[Mean ") && distribution.contains("Total count    =           30]"));

    let words = format!(
        "--window 1 --requests 6 --warmup 0s --timeout 20s --protocol raw --payload text:a{{id}} \
         --payload text:b{{id}} --expect text:a --quiet --target {}",
        server.addr()
    );
    let (report, finished) = measured(&site, &words);
    // The ids are digits, some of which are letters from a to f, so an answer to `b` may have an `a` too.
    assert!(
        report.counts.answered >= 3 && report.counts.answered + report.counts.refused == 6,
        "{finished:?}"
    );
    assert_eq!(finished.code, 0, "{finished:?}");
}

#[test]
fn a_common_start_is_kept_and_thinking_slows_a_closed_loop() {
    let site = Site::new(json!({}));
    let server = Fake::echo(1, v4(site.port(0)));
    let at = std::time::SystemTime::now() + std::time::Duration::from_millis(700);
    let words = format!(
        "--window 2 --think 100ms --duration 500ms --warmup 0s --timeout 20s --protocol raw \
         --payload text:{{id}} --start-at {} --target {}",
        humantime::format_rfc3339_nanos(at),
        server.addr()
    );
    let (report, finished) = measured(&site, &words);
    let begin = at.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((report.setup.started_at_s - begin).abs() < 1e-3, "{report:?}");
    // Two places, and at most five requests of each in half a second.
    assert!((2..=10).contains(&report.counts.sent), "{finished:?}");
    assert!(finished.stderr.contains("starts at "), "{finished:?}");
}
