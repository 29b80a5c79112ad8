//! The output is read back by a strict parser, and by promtool where that is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::admin::status::{
    DatagramCounters, DatagramServer, Distribution, Latencies, NativeServer, Scaling, Service,
};

fn status() -> Status {
    let histogram = vec![(90, 5), (960, 3), (20_000_000, 2)];
    let latency_us = Latencies { histogram: histogram.clone(), ..Default::default() };
    let server = ServerStatus {
        id: 7,
        addr: "127.0.0.1:5300".into(),
        state: "up".into(),
        since_s: Some(1.5),
        weight: 5,
        queue: 12,
        heard_ms: Some(8),
        service: Some(Service { time_us: 2_500, slowness: 1.5 }),
        dispatched: 100,
        answered: 10,
        latency_us: latency_us.clone(),
        native: Some(NativeServer { lost: 1, estimate_error: 2, report_age_ms: Some(8) }),
        ..Default::default()
    };
    let quiet = ServerStatus {
        id: 8,
        state: "down".into(),
        native: Some(NativeServer::default()),
        ..Default::default()
    };
    let numbers = Distribution { sum: 9, histogram: vec![(0, 5), (9, 1)], ..Default::default() };
    let decisions = Decisions {
        regret: numbers.clone(),
        age_us: latency_us.clone(),
        estimate_error: Some(numbers.clone()),
        corrections: 3,
        waiting: 2,
        waited: 40,
        waiting_delay_us: Latencies { histogram: vec![(4_000, 40)], ..Default::default() },
        ..Default::default()
    };
    let native = PoolStatus {
        name: "native".into(),
        protocol: "native".into(),
        decisions: decisions.clone(),
        workers: vec![60, 40],
        received: 100,
        answered: 10,
        refused: [("no_server".to_owned(), 0), ("servers_full".to_owned(), 4)].into(),
        kernel_drops: 3,
        out_of_slots: 11,
        dropped: [("magic".to_owned(), 2), ("tag".to_owned(), 1)].into(),
        scaling: Some(Scaling { load: 2.25, wanted: 3, min: 1, max: 9, ..Default::default() }),
        servers: vec![server, quiet],
        latency_us: latency_us.clone(),
        ..Default::default()
    };
    let dns = PoolStatus {
        name: "dns\"\\\n".into(), // no name may be so, and still the output has to be right
        protocol: "dns".into(),
        workers: vec![9],
        refused: [("denied".to_owned(), 6)].into(),
        kernel_drops: 1,
        kernel_drops_back: 1,
        out_of_slots: 12,
        completions_delayed: 13,
        decisions: Decisions { estimate_error: None, corrections: 4, ..decisions },
        latency_us: latency_us.clone(),
        servers: vec![ServerStatus {
            id: 0,
            state: "suspect".into(),
            heard_ms: Some(250),
            latency_us,
            datagram: Some(DatagramServer { errors: 14, ..Default::default() }),
            ..Default::default()
        }],
        datagram: Some(DatagramCounters { timed_out: 15, ..Default::default() }),
        ..Default::default()
    };
    Status {
        version: "1.2.3".into(),
        started_unix_ms: 1_600_000_000_500,
        process_started_unix_ms: 1_700_000_000_500,
        predecessors_cpu_s: 1e6,
        ready: true,
        pools: vec![native, dns],
        ..Default::default()
    }
}

fn rendered(format: Format) -> String {
    let events = EventLog::default();
    events.note(EventKind::Scaling, "native", None, "grow");
    events.note(EventKind::Scaling, "native", None, "shrink");
    render(Arc::new(status()), &events, format)
}

/// Families by name: type, and samples by name and labels.
#[derive(Debug, Default)]
struct Parsed {
    types: BTreeMap<String, String>,
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

/// Reads the format as strictly as its specification is: each family once, with HELP and TYPE before its
/// samples, names and labels of the right letters, no sample twice, whole histograms.
fn parse(text: &str, format: Format) -> Parsed {
    let mut parsed = Parsed::default();
    let (mut family, mut helped) = (String::new(), BTreeSet::new());
    let mut lines: Vec<&str> = text.split('\n').collect();
    assert_eq!(lines.pop(), Some(""), "the last line ends");
    if format == Format::OpenMetrics {
        assert_eq!(lines.pop(), Some("# EOF"));
    }
    for line in lines {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect(line);
            assert!(helped.insert(name.to_owned()), "twice: {line}");
            assert!(words.len() > 5 && !words.ends_with('.') && !words.contains("how"), "{line}");
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let (name, kind) = of.split_once(' ').expect(line);
            assert!(helped.contains(name), "help first: {line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(parsed.types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            family = name.to_owned();
        } else if let Some(unit) = line.strip_prefix("# UNIT ") {
            let (name, unit) = unit.split_once(' ').expect(line);
            assert!(name == family && name.ends_with(&format!("_{unit}")), "{line}");
        } else {
            let (name, labels, value) = sample(line);
            let kind = parsed.types.get(&family).unwrap_or_else(|| panic!("no family: {line}")).as_str();
            let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} in {family}"));
            let expected: &[&str] = match (kind, format) {
                ("gauge", _) => &[""],
                ("counter", Format::OpenMetrics) => &["_total"],
                ("counter", Format::Prometheus) => &[""],
                _ => &["_sum", "_count", "_bucket"],
            };
            assert!(expected.contains(&suffix), "{line} in {family}");
            assert!(kind != "counter" || name.ends_with("_total"), "{line}");
            assert!(parsed.samples.insert((name.to_owned(), labels), value).is_none(), "twice: {line}");
        }
    }
    let types = parsed.types.clone();
    types
        .iter()
        .filter(|(_, kind)| *kind == "histogram")
        .for_each(|(name, _)| check_histograms(name, &parsed));
    parsed
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty()
}

/// `name{label="value",...} number`.
fn sample(line: &str) -> (&str, BTreeMap<String, String>, f64) {
    let end = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name) && name.starts_with("lbd_"), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").expect(line);
            assert!(is_name(label), "{line}");
            let (mut value, mut chars) = (String::new(), after.char_indices());
            rest = loop {
                match chars.next().expect(line) {
                    (at, '"') => break &after[at + 1..],
                    (_, '\\') => match chars.next().expect(line).1 {
                        'n' => value.push('\n'),
                        c @ ('"' | '\\') => value.push(c),
                        c => panic!("escaped {c}: {line}"),
                    },
                    (_, c) => value.push(c),
                }
            };
            if label == "le" && value != "+Inf" {
                value = value.parse::<f64>().expect(line).to_string(); // 1 and 1.0 are one bound
            }
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').expect(line).parse().unwrap_or_else(|e| panic!("{e}: {line}"));
    (name, labels, value)
}

/// Each histogram of a family has its sum and its count, and buckets that only grow, up to the count at +Inf.
fn check_histograms(family: &str, parsed: &Parsed) {
    let count_of = format!("{family}_count");
    let mut seen = 0;
    for ((_, labels), &count) in parsed.samples.iter().filter(|((name, _), _)| *name == count_of) {
        seen += 1;
        assert!(
            parsed.samples.contains_key(&(format!("{family}_sum"), labels.clone())),
            "{family} {labels:?}"
        );
        let mut buckets: Vec<(f64, f64)> = vec![];
        for ((name, of), &n) in &parsed.samples {
            let mut others = of.clone();
            if *name == format!("{family}_bucket")
                && let Some(le) = others.remove("le")
                && others == *labels
            {
                buckets.push((if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() }, n));
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.is_sorted_by_key(|(_, n)| *n) && buckets.len() > 10, "{buckets:?}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{family} {labels:?}");
    }
    assert!(seen > 0, "{family}");
}

fn value(parsed: &Parsed, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    parsed.samples.get(&(name.to_owned(), labels)).copied()
}

#[test]
fn both_formats_are_right_and_say_the_same() {
    let [prometheus, openmetrics] =
        [Format::Prometheus, Format::OpenMetrics].map(|format| parse(&rendered(format), format));
    let names = |parsed: &Parsed| parsed.samples.keys().cloned().collect::<Vec<_>>();
    assert!(names(&prometheus) == names(&openmetrics), "both have the same");
    let odd = "dns\"\\\n";
    for (name, labels, expected) in [
        ("lbd_build_info", &[("version", "1.2.3")][..], 1.0),
        ("lbd_ready", &[], 1.0),
        ("lbd_start_time_seconds", &[], 1_600_000_000.5),
        ("lbd_process_start_time_seconds", &[], 1_700_000_000.5),
        ("lbd_events_total", &[("kind", "scaling")], 2.0),
        ("lbd_events_total", &[("kind", "reload")], 0.0),
        ("lbd_requests_total", &[("pool", "native"), ("worker", "1")], 40.0),
        ("lbd_requests_total", &[("pool", odd), ("worker", "0")], 9.0),
        ("lbd_answered_total", &[("pool", "native")], 10.0),
        ("lbd_refused_total", &[("pool", "native"), ("reason", "servers_full")], 4.0),
        ("lbd_refused_total", &[("pool", odd), ("reason", "denied")], 6.0),
        ("lbd_dropped_total", &[("pool", "native")], 3.0),
        ("lbd_dropped_total", &[("pool", odd)], 0.0),
        ("lbd_dropped_by_reason_total", &[("pool", "native"), ("reason", "magic")], 2.0),
        ("lbd_dropped_by_reason_total", &[("pool", "native"), ("reason", "cookie")], 0.0),
        ("lbd_dropped_by_reason_total", &[("pool", odd), ("reason", "malformed")], 0.0),
        ("lbd_refused_total", &[("pool", odd), ("reason", "servers_full")], 0.0),
        ("lbd_kernel_dropped_total", &[("pool", odd)], 2.0),
        ("lbd_servers", &[("pool", "native"), ("state", "up")], 1.0),
        ("lbd_servers", &[("pool", "native"), ("state", "draining")], 0.0),
        ("lbd_servers", &[("pool", odd), ("state", "suspect")], 1.0),
        ("lbd_refused_total", &[("pool", "native"), ("reason", "no_server")], 0.0),
        ("lbd_out_of_slots_total", &[("pool", "native")], 11.0),
        ("lbd_out_of_slots_total", &[("pool", odd)], 12.0),
        ("lbd_completions_delayed_total", &[("pool", odd)], 13.0),
        ("lbd_server_icmp_errors_total", &[("pool", odd), ("server", "0")], 14.0),
        ("lbd_timed_out_total", &[("pool", odd)], 15.0),
        ("lbd_scaling_load", &[("pool", "native")], 2.25),
        ("lbd_scaling_wanted_servers", &[("pool", "native")], 3.0),
        ("lbd_server_up", &[("pool", "native"), ("server", "7")], 1.0),
        ("lbd_server_up", &[("pool", odd), ("server", "0")], 0.0),
        ("lbd_server_queue", &[("pool", "native"), ("server", "7")], 12.0),
        ("lbd_server_report_age_seconds", &[("pool", "native"), ("server", "7")], 0.008),
        ("lbd_server_estimate_error", &[("pool", "native"), ("server", "7")], 2.0),
        ("lbd_server_lost_total", &[("pool", "native"), ("server", "7")], 1.0),
        (
            "lbd_server_info",
            &[("pool", "native"), ("server", "7"), ("state", "up"), ("addr", "127.0.0.1:5300")],
            1.0,
        ),
        ("lbd_server_answer_age_seconds", &[("pool", odd), ("server", "0")], 0.25),
        ("lbd_server_service_time_seconds", &[("pool", "native"), ("server", "7")], 0.0025),
        ("lbd_server_slowness", &[("pool", "native"), ("server", "7")], 1.5),
        ("lbd_regret_requests_sum", &[("pool", "native")], 9.0),
        ("lbd_regret_requests_count", &[("pool", odd)], 6.0),
        ("lbd_regret_requests_bucket", &[("pool", "native"), ("le", "7")], 5.0),
        ("lbd_estimate_error_requests_sum", &[("pool", "native")], 9.0),
        ("lbd_decision_age_seconds_count", &[("pool", odd)], 10.0),
        ("lbd_count_corrections_total", &[("pool", odd)], 4.0),
        ("lbd_waiting", &[("pool", "native")], 2.0),
        ("lbd_waited_total", &[("pool", odd)], 40.0),
        ("lbd_waiting_delay_seconds_bucket", &[("pool", "native"), ("le", "0.005")], 40.0),
        ("lbd_latency_seconds_bucket", &[("pool", "native"), ("le", "0.0001")], 5.0),
        ("lbd_latency_seconds_bucket", &[("pool", "native"), ("le", "0.001")], 8.0),
        ("lbd_latency_seconds_bucket", &[("pool", "native"), ("le", "10")], 8.0),
        ("lbd_server_latency_seconds_count", &[("pool", odd), ("server", "0")], 10.0),
        ("lbd_server_latency_seconds_count", &[("pool", "native"), ("server", "8")], 0.0),
    ] {
        for parsed in [&prometheus, &openmetrics] {
            assert_eq!(value(parsed, name, labels), Some(expected), "{name} {labels:?}");
        }
    }
    let nothing = [
        ("lbd_scaling_load", &[("pool", odd)][..]),
        ("lbd_timed_out_total", &[("pool", "native")]),
        ("lbd_estimate_error_requests_count", &[("pool", odd)]),
        ("lbd_server_slowness", &[("pool", odd), ("server", "0")]),
        ("lbd_server_report_age_seconds", &[("pool", "native"), ("server", "8")]),
        ("lbd_server_report_age_seconds", &[("pool", odd), ("server", "0")]),
        ("lbd_server_icmp_errors_total", &[("pool", "native"), ("server", "7")]),
    ];
    for (name, labels) in nothing {
        assert_eq!(value(&prometheus, name, labels), None, "{name} {labels:?}");
    }
    assert!(value(&prometheus, "lbd_process_cpu_seconds_total", &[]).is_some_and(|s| s > 0.0));
    assert!(
        value(&prometheus, "lbd_process_resident_memory_bytes", &[]).is_some_and(|bytes| bytes > 100_000.0)
    );
}

#[test]
fn without_pools_there_is_still_the_process() {
    let text = render(Arc::default(), &EventLog::default(), Format::Prometheus);
    let parsed = parse(&text, Format::Prometheus);
    assert_eq!(value(&parsed, "lbd_ready", &[]), Some(0.0));
    assert!(!text.contains("native"), "{text}");
}

#[test]
fn a_reader_gets_the_format_that_it_asks_for() {
    let of_prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    assert_eq!(Format::wanted(of_prometheus), Format::OpenMetrics);
    assert_eq!(Format::wanted("*/*"), Format::Prometheus);
    assert_eq!(Format::wanted(""), Format::Prometheus);
}

#[test]
fn promtool_finds_nothing_to_say() {
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else {
        println!("skipped: promtool is not installed");
        return;
    };
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(rendered(Format::Prometheus).as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
