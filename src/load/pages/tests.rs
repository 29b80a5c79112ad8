use super::*;
use crate::load::compare::Compare;
use crate::load::search::{CapacitySearch, SearchPlan};
use crate::load::{Counts, fixtures};

fn machine() -> MachineInfo {
    MachineInfo { command: "loadgen --rate '1 < 2'".to_owned(), kernel: "6.1.0".to_owned(), cpus: 2 }
}

/// A run of two and a half seconds.
fn run(rate: f64, us: u64) -> LoadReport {
    let second = |at_s: u64, sent: u64, lost: u64| Second {
        at_s,
        counts: Counts { sent, answered: sent - lost, lost, ..Counts::default() },
        latency_us_p50: us,
        latency_us_p99: 2 * us,
        latency_us_max: 3 * us,
        ..Second::default()
    };
    let setup = SetUp { version: "1.2".to_owned(), target: "127.0.0.1:54001".to_owned(), ..SetUp::default() };
    LoadReport {
        setup: SetUp { protocol: "native".to_owned(), rate: rate.to_string(), started_at_s: 1.8e9, ..setup },
        series: vec![second(0, 400, 0), second(1, 400, 100), second(2, 200, 0)],
        duration_s: 2.5,
        ..fixtures::report(rate, &(us..us + 900).collect::<Vec<_>>(), 100)
    }
}

#[track_caller]
fn assert_has(html: &str, parts: &[&str]) {
    for part in parts {
        assert!(html.contains(part), "{part} in\n{html}");
    }
    assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
}

#[test]
fn a_run_has_its_figures_its_charts_and_its_set_up() {
    let report = run(400.0, 500);
    let judged = ["p99>5ms holds: p99 1 s".to_owned()];
    let html = of_run(&report, &judged, &machine()).unwrap().to_html();
    assert_has(
        &html,
        &[
            "<h1>Load on 127.0.0.1:54001</h1>",
            "1,000 sent in 2.5 s, 10 % lost: half within 999 us, 99 % within 1 s, 99.9 % within 1 s",
            "p99&gt;5ms holds: p99 1 s",
            "<dt>sent</dt><dd>400/s of 400/s</dd>",
            "<dt>lost</dt><dd>100</dd>",
            "<th scope=\"row\">p99.9</th>",
            "aria-label=\"Latency by percentile\"",
            ">from sending</text>",
            "aria-label=\"Send lag by percentile\"",
            "aria-label=\"Latency by scheduled second\"",
            "aria-label=\"Requests per second\"",
            "aria-label=\"Errors and late sends, per second\"",
            "<pre>loadgen --rate &#39;1 &lt; 2&#39;</pre>",
            "<dt>kernel</dt><dd>6.1.0</dd>",
            "<dt>CPUs</dt><dd>2</dd>",
            "<dt>begun</dt><dd>2027-01-15T08:00:00Z</dd>",
        ],
    );
    assert!(
        !html.contains("aria-label=\"Latency by rate\"")
            && !html.contains("left more than 1 ms late, so the results")
    );
}

#[test]
fn half_a_second_is_shown_at_its_full_rate() {
    let [_, rate, errors] = over_time(&run(400.0, 500));
    assert_eq!(rate.series[0].points, [(0.0, 400.0), (1.0, 400.0), (2.0, 400.0)]);
    assert_eq!(rate.series[1].points[1], (1.0, 300.0));
    assert_eq!(errors.series[0].points[1], (1.0, 100.0));
}

#[test]
fn a_run_without_answers_is_a_page_too() {
    let nothing = LoadReport { setup: SetUp::default(), ..fixtures::report(100.0, &[], 50) };
    let html = of_run(&nothing, &[], &MachineInfo::default()).unwrap().to_html();
    assert_has(&html, &["no request was answered", "100 % lost"]);
    assert!(of_run(&LoadReport::default(), &[], &MachineInfo::default()).is_ok());
}

#[test]
fn steps_are_a_chart_and_a_table() {
    let steps = vec![run(400.0, 500), fixtures::late(run(800.0, 900))];
    let html = of_run(&LoadReport { steps, ..run(600.0, 700) }, &[], &machine()).unwrap().to_html();
    assert_has(
        &html,
        &["aria-label=\"Latency by rate\"", "<th scope=\"row\">800/s</th>", ">yes</td>", ">no</td>"],
    );
}

#[test]
fn a_search_shows_every_trial_and_its_limits() {
    let plan = SearchPlan {
        slo: "p99<2ms,loss<0.1%".parse().unwrap(),
        start: 1_000.0,
        lowest: 10.0,
        highest: 1e6,
        repeats: 1,
        precision: 0.5,
        trials_max: 9,
    };
    let mut search = CapacitySearch::new(plan).unwrap();
    while let Some(rate) = search.next() {
        let us = if rate < 3_000.0 { 400 } else { 9_000 };
        let report = LoadReport { setup: run(rate, us).setup, ..fixtures::report(rate, &[us; 10], 0) };
        search.record(rate, if rate < 8_000.0 { report } else { fixtures::late(report) }).unwrap();
    }
    // A trial at the found rate that missed the SLO is not on the curve below the headline.
    let (rate, _) = search.bracket();
    search.record(rate.unwrap(), fixtures::report(rate.unwrap(), &[777_000; 10], 0)).unwrap();
    let found = search.finish();
    let html = of_search(&found, &machine()).unwrap().to_html();
    let rate = per_second(found.rate.unwrap());
    assert_has(
        &html,
        &[
            "<h1>Capacity of 127.0.0.1:54001</h1>",
            "p99&lt;2ms,loss&lt;0.1% is ",
            "aria-label=\"p99 of each trial\"",
            "aria-label=\"loss of each trial\"",
            ">p99&lt;2ms</text>",
            &format!(">{rate}</text>"),
            ">missed</text>",
            &format!(">at {rate}</text>"),
            "<th scope=\"row\">9</th>",
        ],
    );
    let curve = html.split("aria-label=\"Latency at the found rate\"").nth(1).unwrap();
    assert!(!curve.split("</svg>").next().unwrap().contains("100 ms"), "{curve}");
    assert_has(curve, &["trials at this rate that met the SLO, of "]);
    assert_eq!(html.matches(">met</td>").count() + html.matches(">missed</td>").count(), found.trials.len());
}

#[test]
fn a_comparison_names_both_and_shows_each_pair() {
    let mut compare = Compare::new(3);
    let mut turn = 0;
    while let Some(side) = compare.next() {
        let mut report = run(400.0, if side == Side::A { 500 } else { 1_000 });
        turn += 1;
        if turn == 3 {
            report = fixtures::late(run(400.0, 90_000));
        }
        if side == Side::B {
            report.setup.target = "127.0.0.1:9".to_owned();
        }
        compare.record(report);
    }
    let html = of_comparison(&compare.finish().unwrap(), &machine()).unwrap().to_html();
    assert_has(
        &html,
        &[
            "<h1>B (127.0.0.1:9) relative to A (127.0.0.1:54001)</h1>",
            "B&#39;s p50 is 1.5",
            "aria-label=\"B / A by pair\"",
            "p99.9: 4, 1",
            "left out: 2, ",
            "1 pairs were left out and replaced",
            "left out: 10.0 % of the requests left more than 1 ms late",
            ">no difference</text>",
            ">B</text>",
        ],
    );
}

#[test]
fn a_damaged_report_is_an_error() {
    let json = serde_json::to_string(&run(1.0, 1)).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&json).unwrap();
    value["histograms"]["pacing"] = "?".into();
    let report: LoadReport = serde_json::from_value(value).unwrap();
    assert!(of_run(&report, &[], &machine()).is_err_and(|error| error.contains("not a histogram")));
}
