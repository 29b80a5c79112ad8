//! `lbd sim` as a program: the same bytes for the same seed, its pages and charts, its mistakes, and the
//! commands that docs/POLICIES.md gives.

mod common;

use common::{Finished, Site};
use serde_json::{Value, json};

fn lbd(args: &[&str]) -> Finished {
    Site::new(json!({})).start_bare(args).finish()
}

/// `lbd sim` with these arguments and few requests; what it printed.
fn sim(args: &[&str]) -> String {
    let few: &[&str] = if args.contains(&"--requests") { &[] } else { &["--requests", "2000"] };
    let finished = lbd(&[&["sim"], few, args].concat());
    assert_eq!(finished.code, 0, "{finished:?}");
    finished.stdout
}

#[test]
fn a_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let of = |threads, seed, form| {
        let policy = ["--servers", "8", "--policy", "bounded:1,two_choices", "--loss", "0,0.05"];
        sim(&[&policy[..], &["--repeats", "2", "--threads", threads, "--seed", seed, form]].concat())
    };
    let first = of("1", "4", "--json");
    assert_eq!(first, of("1", "4", "--json"));
    assert_eq!(first, of("3", "4", "--json"));
    assert_ne!(first, of("1", "5", "--json"));
    assert_eq!(of("1", "4", "--quiet"), of("2", "4", "--quiet"));
}

#[test]
fn the_table_and_the_json_have_the_same_figures() {
    let args =
        ["--load", "0.5,0.9", "--policy", "round_robin", "--service", "bimodal:2ms", "--warmup", "200"];
    let text = sim(&args);
    let found: Value = serde_json::from_str(&sim(&[&args[..], &["--json"]].concat())).unwrap();
    assert_eq!(found["setup"]["service"], "bimodal:2ms");
    let cases = found["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    assert!(cases[0]["rate_per_s"].as_f64().unwrap() < cases[1]["rate_per_s"].as_f64().unwrap());
    for case in cases {
        assert!(text.contains(&format!(
            "load {}: {:.0} requests/s",
            case["load"],
            case["rate_per_s"].as_f64().unwrap()
        )));
        let names: Vec<_> =
            case["compared"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["exact", "round_robin"]);
        assert_eq!((&case["requests"], &case["warmup_requests"]), (&json!(2_000), &json!(200)));
        let row = &case["compared"][1];
        assert_eq!((&row["figures"]["requests"], &row["figures"]["lost"]), (&json!(1800), &json!(0)));
        assert_eq!(row["figures"]["latency_ns"]["p999"], Value::Null, "two requests are slower");
        let shown = |estimate: &Value| format!("{:.3}", estimate["value"].as_f64().unwrap());
        for estimate in [&row["ratios"]["p99"], &row["figures"]["regret_requests"]] {
            assert!(text.contains(&shown(estimate)), "{row} in {text}");
        }
    }
}

/// The first case of a study with these arguments.
fn case(args: &[&str]) -> Value {
    let finished = lbd(&[&["sim", "--json", "--rtt", "0s"], args].concat());
    assert_eq!(finished.code, 0, "{finished:?}");
    serde_json::from_str::<Value>(&finished.stdout).unwrap()["cases"][0].take()
}

/// Whether the interval of an estimate holds a value.
fn holds(estimate: &Value, value: f64) -> bool {
    let end = |name: &str| estimate[name].as_f64().unwrap_or_else(|| panic!("{name} of {estimate}"));
    (end("low")..=end("high")).contains(&value)
}

/// One server with exponential gaps and work (M/M/1): the latency is exponential with a mean of
/// work / (1 - load).
#[test]
fn intervals_hold_what_theory_says() {
    for load in [0.5, 0.9] {
        let right = |share: f64| -(1.0 - share).ln() * 5e6 / (1.0 - load);
        let mut held = 0;
        for seed in ["1", "2", "3", "4"] {
            let load = load.to_string();
            let args = ["--servers", "1", "--policy", "random", "--load", &load, "--seed", seed];
            let case = case(&[&args[..], &["--requests", "60000"]].concat());
            let latency = &case["compared"][1]["figures"]["latency_ns"];
            held += usize::from(holds(&latency["p50"], right(0.5)))
                + usize::from(holds(&latency["p99"], right(0.99)));
        }
        assert!(held >= 6, "{held} of 8 at load {load}");
    }
}

#[test]
fn the_warm_up_is_found_and_what_is_never_steady_has_no_interval() {
    let policy = ["--policy", "shortest_queue", "--requests", "20000"];
    let steady = case(&policy);
    assert_eq!(steady["is_steady"], true);
    assert!(steady["warmup_requests"].as_u64().unwrap() < 5_000, "{steady}");
    let growing = case(&[&policy[..], &["--load", "1.1"]].concat());
    assert_eq!(growing["is_steady"], false);
    assert_eq!(growing["compared"][1]["figures"]["latency_ns"]["p99"]["low"], Value::Null);
    let text = sim(&["--policy", "random", "--load", "1.1"]);
    assert!(text.contains("no steady state"), "{text}");
    let text = sim(&["--policy", "random", "--requests", "50"]);
    assert!(!text.contains("p99.9 0") && text.contains("p99 -"), "{text}");
}

#[test]
fn gaps_and_work_can_be_those_of_files() {
    let site = Site::new(json!({}));
    let work = site.write("work", "0.004\n0.006\n");
    let trace = site.write("trace", "0\n0.001\n0.001\n0.004\n");
    let [service, arrivals] =
        [("file", &work), ("trace", &trace)].map(|(kind, file)| format!("{kind}:{}", file.display()));
    let args = ["--policy", "random", "--servers", "2", "--requests", "20000", "--load", "0.5"];
    let case = case(&[&args[..], &["--service", &service, "--arrivals", &arrivals]].concat());
    assert_eq!(case["rate_per_s"].as_f64(), Some(200.0), "2 servers, 5 ms of work on average");
    let p50 = case["ideal_ns"]["p50"]["value"].as_f64().unwrap();
    assert!((4e6..8e6).contains(&p50), "{case}");
    let text = sim(&["--arrivals", "burst:20", "--service", "pareto:5ms", "--policy", "random"]);
    assert!(text.contains("arrivals burst:20, service pareto:5ms"), "{text}");
    let finished = lbd(&["sim", "--service", "file:no/such/file"]);
    assert!(finished.code == 2 && finished.stderr.contains("cannot read no/such/file"), "{finished:?}");
}

#[test]
fn it_writes_a_page_and_charts() {
    let site = Site::new(json!({}));
    let (page, svg) = (site.write("page.html", ""), site.write("chart.svg", ""));
    let files = ["--report", page.to_str().unwrap(), "--svg", svg.to_str().unwrap()];
    sim(&[
        &[
            "--staleness",
            "5ms,20ms",
            "--balancers",
            "3",
            "--policy",
            "two_choices,random",
            "--svg-of",
            "regret",
        ],
        &files[..],
    ]
    .concat());
    let read = |path| std::fs::read_to_string(path).unwrap();
    let (html, chart) = (read(&page), read(&svg));
    for part in
        ["<h2>By staleness</h2>", "<h2>staleness 20ms</h2>", "two_choices", "lbd sim --requests 2000", "<svg"]
    {
        assert!(html.contains(part), "{part} in {html}");
    }
    assert!(
        chart.starts_with("<svg") && chart.contains("Mean regret") && chart.contains("random: 20 ms"),
        "{chart}"
    );
    assert!(!chart.contains("exact"), "exact knowledge regrets nothing: {chart}");

    sim(&[&["--overload", "3x0.3s", "--servers", "4", "--policy", "bounded:1"], &files[..]].concat());
    let (html, chart) = (read(&page), read(&svg));
    assert!(
        html.contains("<h1>Overload</h1>") && chart.contains(">overload<") && chart.contains("bounded:1"),
        "{chart}"
    );
}

#[test]
fn an_overload_says_what_was_served() {
    let args = ["--overload", "3x0.3s", "--servers", "4", "--policy", "bounded:1,random"];
    let text = sim(&args);
    assert!(text.contains("served during overload") && text.contains("clients that try again 64"), "{text}");
    let found: Value = serde_json::from_str(&sim(&[&args[..], &["--json"]].concat())).unwrap();
    let survivals = found["overload"].as_array().unwrap();
    assert_eq!(survivals.len(), 2);
    let goodput = survivals[0]["goodput_share"].as_array().unwrap();
    assert_eq!(goodput.len(), 63, "slices of 100 ms in 6.3 s");
    let most = goodput.iter().map(|share| share.as_f64().unwrap()).fold(0.0, f64::max);
    assert!((0.8..2.0).contains(&most), "{goodput:?}");
}

#[test]
fn its_mistakes_are_named_with_their_remedy() {
    let cases: [(&[&str], &str); 17] = [
        (&["--servers", "0"], "--servers"),
        (&["--load", "fast"], "0.5..0.95/10"),
        (&["--service", "slow"], "exp:5ms"),
        (&["--policy", "shortest"], "bounded:1"),
        (&["--speeds", "fast"], "4x2"),
        (&["--slow", "1x5@4s..2s"], "1x5@2s..4s"),
        (&["--loss", "0.9"], "from 0 to 0.5"),
        (&["--staleness", "0s"], "from 1ms to 1m"),
        (&["--rtt", "2s"], "up to 1s"),
        (&["--overload", "2"], "2x5s"),
        (&["--load", "0.5,0.8", "--balancers", "1,2"], "vary only one"),
        (&["--overload", "2x1s", "--load", "0.5,0.8"], "give --load a single value"),
        (&["--pool", "datagram", "--reply-path", "direct"], "--pool native"),
        (&["--pool", "datagram", "--overload", "2x1s"], "--pool native"),
        (&["--requests", "10", "--warmup", "10"], "leaves no request"),
        (&["--slow", "17x5"], "name 17 servers, but --servers is 16"),
        (&["--subset", "4", "--balancers", "2"], "raise --balancers or --subset"),
    ];
    for (args, named) in cases {
        let finished = lbd(&[&["sim"], args].concat());
        assert_eq!((finished.code, finished.stdout.as_str()), (2, ""), "{args:?}: {finished:?}");
        assert!(finished.stderr.contains(named), "{args:?}: {}", finished.stderr);
    }
    let finished = lbd(&["sim", "--requests", "100", "--svg", "/nowhere/x.svg"]);
    assert!(finished.code == 2 && finished.stderr.contains("cannot write /nowhere/x.svg"), "{finished:?}");
}

/// Every command of the page is one, writes the chart that stands beside it, and no chart is there that no
/// command makes.
#[test]
fn the_commands_of_the_policies_page_are_commands() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/");
    let text = std::fs::read_to_string(format!("{root}POLICIES.md")).unwrap();
    let commands: Vec<&str> = text.lines().filter(|line| line.starts_with("lbd sim ")).collect();
    assert!(commands.len() >= 7, "{commands:?}");
    let mut made = vec![];
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().skip(1).collect();
        let finished = lbd(&[&words[..], &["--check"]].concat());
        assert_eq!((finished.code, finished.stderr.as_str()), (0, ""), "{command}: {finished:?}");
        let file = words.iter().position(|&word| word == "--svg").map(|at| words[at + 1]);
        made.extend(file.map(|file| file.strip_prefix("docs/").expect("below docs")));
    }
    let mut shown: Vec<&str> =
        text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(file, _)| file).collect();
    shown.retain(|file| file.ends_with(".svg"));
    let entries = std::fs::read_dir(format!("{root}policies")).unwrap();
    let mut there: Vec<String> =
        entries.map(|entry| format!("policies/{}", entry.unwrap().file_name().to_str().unwrap())).collect();
    [&mut made, &mut shown].into_iter().for_each(|list| list.sort_unstable());
    there.sort_unstable();
    assert_eq!(made, shown, "what commands make, and what is shown");
    assert_eq!(made, there, "what commands make, and what is there");
    let size: u64 = there.iter().map(|file| std::fs::metadata(format!("{root}{file}")).unwrap().len()).sum();
    assert!(size < 300 * 1024, "{size} bytes");
}
