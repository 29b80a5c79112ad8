//! What `loadgen` makes of its figures: `--fail-if`, `--search`, `--compare`, `--report`, against real
//! balancers with real servers.

mod common;

use common::browser::Browser;
use common::{Finished, Running, Site};
use lbd::load::compare::{Comparison, Side};
use lbd::load::search::{Found, SearchEnd, TrialOutcome};
use serde_json::{Value, json};

fn loadgen(site: &Site, words: &str) -> Finished {
    let args: Vec<&str> = words.split_whitespace().collect();
    Running::start(env!("CARGO_BIN_EXE_loadgen").as_ref(), &args, site.path()).finish()
}

#[test]
fn a_condition_that_holds_is_exit_code_3_and_one_line_with_the_value() {
    let site = Site::new(json!({}));
    let (_balancer, _servers) = site.pool(1, &["--service", "fixed:3ms"]);
    // A closed loop has no plan that a slow machine could miss.
    let run = "--window 2 --duration 300ms --warmup 0s --timeout 20s --quiet";
    let good = loadgen(&site, &format!("{run} --fail-if p50<1ms --fail-if loss>0,p99<19s --fail-if max>19s"));
    assert_eq!((good.code, good.stderr.as_str()), (0, ""), "{good:?}");

    let bad = loadgen(&site, &format!("{run} --fail-if p50<1ms --fail-if p50>2ms,loss<=0"));
    assert_eq!(bad.code, 3, "{bad:?}");
    let line = bad.stderr.strip_prefix("loadgen: --fail-if p50>2ms,loss<=0 holds: p50 ").expect(&bad.stderr);
    assert!(line.ends_with(" ms, loss 0 %\n") && line.lines().count() == 1, "{line:?}");

    // Of what says nothing, that is said first.
    let words = "--rate 300 --duration 200ms --warmup 0s --timeout 100ms --quiet --fail-if loss>50%";
    let silent = loadgen(&site, &format!("{words} --target 127.0.0.1:{}", site.port(0)));
    assert_eq!(silent.code, 1, "{silent:?}");
    assert!(
        silent.stderr.contains("loss>50% holds: loss 100 %\nloadgen: no request was answered"),
        "{silent:?}"
    );
}

#[test]
fn the_conditions_of_steps_and_of_merged_reports_are_judged() {
    let site = Site::new(json!({}));
    let words = "--steps 100,300 --duration 200ms --warmup 0s --timeout 100ms --json one.json --quiet";
    let steps = loadgen(&site, &format!("{words} --fail-if loss>99%"));
    assert!(steps.stderr.contains("step 2 (300/s): --fail-if loss>99% holds: loss 100 %"), "{steps:?}");
    let merged = loadgen(&site, "--merge one.json --quiet --fail-if rate>1 --report merged.html");
    assert!(merged.stderr.contains("--fail-if rate>1 holds: rate "), "{merged:?}");
    assert!(std::fs::read_to_string(site.path().join("merged.html")).unwrap().contains("Latency by rate"));
}

#[test]
fn a_search_finds_what_one_server_can_do() {
    let site = Site::new(json!({}));
    let (_balancer, _servers) = site.pool(1, &["--service", "fixed:4ms"]); // 250 a second and no more
    let words = "--search --slo p99<60ms,loss<1% --from 50 --to 3200 --arrivals constant --repeats 1 \
                 --precision 25% --duration 600ms --warmup 0s --timeout 20s --json - --report search.html \
                 --seed 1";
    let finished = loadgen(&site, words);
    let found: Found = serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:?}"));
    // At 330/s the last of 0.6 s waits 0.15 s. A machine that is busy with something else finds less, or that
    // the generator cannot keep up, but never more.
    let rate = found.rate.unwrap_or(0.0);
    assert!(rate < 330.0, "{finished:?}");
    match found.end {
        SearchEnd::Found => {
            assert_eq!(finished.code, 0, "{finished:?}");
            assert!(rate >= 50.0 && found.missed_at.unwrap() / rate <= 1.25, "{finished:?}");
            assert!(found.low.is_some_and(|low| low <= rate) && found.high.is_some_and(|high| high >= rate));
        }
        SearchEnd::Generator => {
            assert_eq!(finished.code, 1, "{finished:?}");
            assert!(found.trials.iter().any(|trial| trial.outcome == TrialOutcome::Unfit));
        }
        SearchEnd::Lowest => assert_eq!(finished.code, 3, "{finished:?}"),
        other => panic!("{other:?}: {finished:?}"),
    }
    assert_eq!(found.trials[0].rate, 50.0);
    // Each trial is reported when it is over, and the result in words.
    let told = |number: usize| finished.stderr.contains(&format!("trial {number}: "));
    assert!(told(1) && told(found.trials.len()) && !told(found.trials.len() + 1), "{}", finished.stderr);
    assert!(finished.stderr.contains(&found.to_string()), "{}", finished.stderr);
    let page = std::fs::read_to_string(site.path().join("search.html")).unwrap();
    assert!(
        page.contains("p99 of each trial") && page.contains("--slo &#39;p99&lt;60ms,loss&lt;1%&#39;"),
        "{page}"
    );
}

#[test]
fn a_search_says_when_nothing_meets_the_slo_and_when_nobody_answers() {
    let site = Site::new(json!({}));
    let (balancer, servers) = site.pool(1, &["--service", "fixed:2ms"]);
    let words =
        "--search --slo max<1us --from 20 --duration 200ms --warmup 0s --timeout 20s --repeats 1 --quiet";
    let none = loadgen(&site, words);
    // A machine that is busy with something else cannot keep up.
    assert!([3, 1].contains(&none.code), "{none:?}");
    let reason =
        if none.code == 3 { "not even 20/s meets max<1us" } else { "this generator could not keep up" };
    assert!(none.stderr.contains(reason), "{none:?}");
    drop((balancer, servers));
    let silent = loadgen(&site, "--search --slo p99<1s --timeout 100ms --quiet");
    assert_eq!(silent.code, 1, "{silent:?}");
    assert!(silent.stderr.contains(" does not respond: of "), "{silent:?}");
}

#[test]
fn a_search_that_is_ended_shows_what_it_has() {
    let site = Site::new(json!({}));
    let (_balancer, _servers) = site.pool(1, &[]);
    let words =
        "--search --slo p99<20s,late<=100% --from 100 --duration 300ms --warmup 0s --timeout 20s --json -";
    let args: Vec<&str> = words.split_whitespace().collect();
    let mut run = Running::start(env!("CARGO_BIN_EXE_loadgen").as_ref(), &args, site.path());
    run.wait_for_word("trial 2: ");
    run.signal(libc::SIGINT);
    let finished = run.finish();
    let found: Found = serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:?}"));
    assert!(found.end == SearchEnd::Stopped && found.trials.len() >= 2, "{finished:?}");
    assert!(finished.stderr.contains("the search was stopped early"), "{finished:?}");
}

#[test]
fn a_slower_target_is_found_to_be_slower_and_no_other_difference_is_shown() {
    let (quick, slow) = (Site::new(json!({})), Site::new(json!({})));
    let (_a, _servers_a) = quick.pool(1, &["--service", "fixed:2ms"]);
    let (_b, _servers_b) = slow.pool(1, &["--service", "fixed:10ms"]);
    let words = format!(
        "--compare 127.0.0.1:{} 127.0.0.1:{} --window 1 --duration 250ms --warmup 0s --timeout 20s \
         --repeats 7 --json - --report compare.html",
        quick.client_side(),
        slow.client_side()
    );
    let finished = loadgen(&quick, &words);
    assert_eq!(finished.code, 0, "{finished:?}");
    let compared: Comparison = serde_json::from_str(&finished.stdout).unwrap();
    let sides: String =
        compared.turns.iter().map(|turn| if turn.side == Side::A { 'A' } else { 'B' }).collect();
    assert_eq!((sides.as_str(), compared.pairs), ("ABBAABBAABBAAB", 7));
    let figure = |name: &str| compared.figures.iter().find(|figure| figure.metric == name).unwrap();
    let ratio = figure("p50").ratio.unwrap();
    assert!(ratio.median > 1.5 && ratio.low > 1.0 && figure("p50").is_shown(), "{finished:?}");
    assert!(figure("rate").ratio.unwrap().high < 1.0, "a closed loop is slower there");
    assert!(!figure("loss").is_shown() && finished.stderr.contains("B's loss: "), "{finished:?}");
    assert!(finished.stderr.contains(&format!("B's p50 is {:.2} x A's (", ratio.median)), "{finished:?}");
    let seeds: Vec<u64> = compared.turns.iter().map(|turn| turn.report.setup.seed).collect();
    assert!(seeds.chunks(2).all(|pair| pair.len() < 2 || pair[0] == pair[1]) && seeds[0] != seeds[2]);
    let page = std::fs::read_to_string(quick.path().join("compare.html")).unwrap();
    assert!(page.contains("B / A by pair"), "{page}");
}

#[test]
fn mistakes_are_exit_code_2_and_named() {
    let site = Site::new(json!({}));
    for (words, named) in [
        (
            "--rate 1 --fail-if p99",
            "`p99`, character 4: `p99` needs <, <=, > or >= and a limit (example: p99<2ms,loss<0.1%)",
        ),
        ("--search", "--slo"),
        ("--rate 1 --slo p99<2ms", "--search"),
        ("--search --slo p99>2ms", "--slo: `p99>2ms` is easier to meet at a higher rate"),
        ("--search --slo p99<2ms --window 5", "--window"),
        ("--search --slo p99<2ms --steps 1,2", "--steps"),
        ("--search --slo p99<2ms --fail-if p99>2ms", "--fail-if"),
        ("--search --slo p99<2ms --precision 2", "`2` must be above 0 % and at most 100 %, such as 2%"),
        ("--search --slo p99<2ms --from 9 --to 8", "--from 9 is above --to 8"),
        ("--search --slo p99<2ms --arrivals trace:f", "--arrivals trace:"),
        ("--search --slo p99<2ms --report no/folder/out.html", "no/folder/out.html"),
        ("--compare 127.0.0.1:1 --rate 5", "2 values required"),
        ("--compare 127.0.0.1:1 here --rate 5", "`here` has no port"),
        ("--compare 127.0.0.1:1 127.0.0.1:2", "--rate <R>"),
        ("--compare 127.0.0.1:1 127.0.0.1:2 --rate 5 --target 127.0.0.1:3", "--target"),
        ("--compare 127.0.0.1:1 127.0.0.1:2 --rate 5 --repeats 0", "--repeats"),
        ("--rate 5 --json - --report -", "only one of --json, --csv, --hdr, --hgrm and --report can be `-`"),
    ] {
        let finished = loadgen(&site, words);
        assert_eq!(finished.code, 2, "{words}: {finished:?}");
        assert!(finished.stderr.contains(named) && finished.stdout.is_empty(), "{words}: {finished:?}");
    }
    let help = loadgen(&site, "--help").stdout;
    for part in [
        "Judgement:",
        "--fail-if <CONDITION>",
        "--slo <CONDITIONS>",
        "--compare <A> <B>",
        "--report <FILE>",
        "3 a condition of",
    ] {
        assert!(help.contains(part), "{part} in {help}");
    }
}

#[test]
fn the_page_of_a_run_reads_well_in_a_browser_and_asks_for_nothing() {
    let site = Site::new(json!({}));
    let (_balancer, _servers) = site.pool(2, &["--service", "exp:1ms"]);
    let words =
        "--rate 500 --duration 2500ms --warmup 200ms --timeout 20s --quiet --report out.html --fail-if p50>0";
    let finished = loadgen(&site, words);
    assert!([1, 3].contains(&finished.code), "3, or 1 of a busy machine: {finished:?}");
    let Some(mut browser) = Browser::start() else { return };
    browser.open(&format!("file://{}", site.path().join("out.html").display()));
    browser.wait_until("document.readyState === 'complete' && document.querySelectorAll('svg').length === 5");
    for (text, wanted) in [
        ("document.querySelector('h1').textContent", format!("Load on 127.0.0.1:{}", site.client_side())),
        (
            "document.querySelector('pre').textContent",
            format!("loadgen {}", words.replace("p50>0", "'p50>0'")),
        ),
    ] {
        assert_eq!(browser.eval(text), wanted);
    }
    let lines =
        browser.eval("[...document.querySelectorAll('.result')].map(line => line.textContent).join('\\n')");
    assert!(lines.as_str().unwrap().contains("--fail-if p50>0 holds: p50 "), "{lines}");
    // Every curve is inside of its chart and has a length.
    let outside = browser.eval(
        "[...document.querySelectorAll('svg > .s:not(.key) > .curve')].filter(curve => { \
           const box = curve.getBBox(); \
           return curve.getTotalLength() === 0 || box.x < 69 || box.x + box.width > 703 \
             || box.y < 40 || box.y + box.height > 277; \
         }).map(curve => curve.getAttribute('d').slice(0, 80))",
    );
    assert_eq!(outside, json!([]));
    // Labels of an axis do not lie on each other.
    let overlapping = browser.eval(
        "[...document.querySelectorAll('svg')].flatMap(svg => { \
           const boxes = [...svg.querySelectorAll('text')] \
             .map(text => [text.textContent, text.getBoundingClientRect()]); \
           return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([, q]) => \
             p.left < q.right && q.left < p.right && p.top < q.bottom - 3 && q.top < p.bottom - 3) \
             .map(([b]) => a + ' / ' + b)); \
         })",
    );
    assert_eq!(overlapping, json!([]));
    let mut looks: Vec<Value> = vec![];
    for scheme in ["light", "dark"] {
        browser.scheme(scheme);
        let look = browser.eval(
            "[['main', 'color'], ['section', 'backgroundColor'], ['.chart .s1 .curve', 'stroke'], \
              ['.chart text', 'fill']] \
             .map(([selector, what]) => getComputedStyle(document.querySelector(selector))[what])",
        );
        let (ink, paper) = (brightness(&look[0]), brightness(&look[1]));
        assert!((ink - paper).abs() > 150.0 && (ink < paper) == (scheme == "light"), "{scheme}: {look}");
        for part in [2, 3] {
            assert!((brightness(&look[part]) - paper).abs() > 60.0, "{scheme}: {look}");
        }
        looks.push(look);
    }
    assert_ne!(looks[0], looks[1]);
    // On a phone only charts and tables move sideways.
    browser.resize(390, 844, true);
    browser.wait_until("document.documentElement.scrollWidth <= 390 && innerWidth === 390");
    let pdf = browser.call("Page.printToPDF", json!({}));
    assert!(pdf["data"].as_str().is_some_and(|data| data.len() > 10_000));
    assert_eq!(browser.errors, Vec::<String>::new());
    assert!(browser.requests.iter().all(|url| url.starts_with("file://")), "{:?}", browser.requests);
}

/// Of a colour in `rgb(r, g, b)`, from 0 to 255.
fn brightness(colour: &Value) -> f64 {
    let text = colour.as_str().expect("a colour");
    let parts = text.trim_start_matches("rgb(").trim_end_matches(')').split(", ");
    let parts: Vec<f64> = parts.map(|part| part.parse().unwrap_or_else(|e| panic!("{text}: {e}"))).collect();
    0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
}
