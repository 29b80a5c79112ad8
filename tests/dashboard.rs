//! The dashboard in a real browser, before a balancer that is not there.

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use common::browser::Browser;
use common::fake_admin::{Canned, FakeAdmin};
use common::{Site, wait_for};
use lbd::admin::status::{
    DatagramCounters, DatagramServer, Decisions, Distribution, EventEntry, EventKind, NativeServer,
    Percentiles, PoolStatus, ServerStatus, Service, Status,
};
use serde_json::{Value, json};

const TOKEN: &str = "0123456789abcdef";
/// What a script would leave behind if a text became HTML.
const HOSTILE: &str = "<img src=x onerror=\"window.hacked = 1\"><b>bold</b>";

/// The page from the source file: a change of the page needs no build.
fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/dashboard.html");
    std::fs::read_to_string(path).unwrap()
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn status() -> Status {
    let recent = |p50, p99| Percentiles { p50, p99, ..Percentiles::default() };
    let native = |id: u32, state: &str, queue| ServerStatus {
        id,
        state: state.to_owned(),
        queue,
        rate: 1_500.0,
        latency_us_recent: recent(2_000, 9_000),
        native: Some(NativeServer::default()),
        ..ServerStatus::default()
    };
    let dns = |id: u32, state: &str, queue| ServerStatus {
        id,
        addr: format!("127.0.0.1:530{id}"),
        state: state.to_owned(),
        queue,
        weight: 1,
        service: Some(Service { time_us: 2_100, slowness: if id == 0 { 4.96 } else { 1.0 } }),
        rate: 100.0,
        latency_us_recent: recent(300, 2_100),
        datagram: Some(DatagramServer { timed_out: 7, ..DatagramServer::default() }),
        ..ServerStatus::default()
    };
    let of_native = PoolStatus {
        name: "native".to_owned(),
        protocol: "native".to_owned(),
        workers: vec![12_345],
        received: 12_345,
        answered: 12_300,
        refused: [("servers_full".to_owned(), 12)].into(),
        dropped: [("magic".to_owned(), 3)].into(),
        rate: 3_000.0,
        latency_us_recent: recent(2_000, 9_000),
        decisions: Decisions {
            regret_recent: Distribution { count: 9, mean: 0.111, p99: 1, ..Distribution::default() },
            age_us_recent: recent(3_000, 12_000),
            estimate_error_recent: Some(Distribution {
                count: 90,
                mean: 0.5,
                p99: 2,
                ..Distribution::default()
            }),
            waiting: 4,
            waiting_delay_us_recent: recent(250, 7_100),
            ..Decisions::default()
        },
        servers: vec![native(0, "up", 10), native(1, "up", 5), native(2, "draining", 0)],
        ..PoolStatus::default()
    };
    let of_dns = PoolStatus {
        name: "dns".to_owned(),
        protocol: "dns".to_owned(),
        received: 400,
        rate: 200.0,
        latency_us_recent: recent(300, 2_100),
        servers: vec![dns(0, "up", 40), dns(1, "down", 1)],
        datagram: Some(DatagramCounters::default()),
        ..PoolStatus::default()
    };
    Status {
        version: "0.1.0".to_owned(),
        uptime_s: 4000.5,
        pools: vec![of_native, of_dns],
        ..Status::default()
    }
}

fn entry(number: u64, ago_ms: u64, kind: EventKind, text: &str) -> Value {
    let entry = EventEntry {
        number,
        unix_ms: unix_ms() - ago_ms,
        kind,
        pool: "native".to_owned(),
        server: (kind == EventKind::Server).then_some(1),
        text: text.to_owned(),
    };
    serde_json::to_value(entry).unwrap()
}

fn history(seconds: u64) -> Value {
    let now = unix_ms();
    let point = |ago: u64| {
        json!({"unix_ms": now - 1000 * ago, "rate": 3000 + ago,
               "latency_us_p50": 2000, "latency_us_p99": 9000 + ago,
               "up": if ago > 60 { 2 } else { 3 }})
    };
    json!({ "seconds": (1..=seconds).rev().map(point).collect::<Vec<_>>() })
}

fn canned() -> Canned {
    Canned {
        page: page(),
        status: serde_json::to_value(status()).unwrap(),
        history: history(300),
        entries: vec![
            entry(1, 200_000, EventKind::Server, HOSTILE),
            entry(2, 60_000, EventKind::Scaling, "scale up 2 -> 3: load 9.1 a server for 3s"),
        ],
        token: TOKEN.to_owned(),
        refusal: None,
    }
}

/// A page that shows the figures; `None` without a browser.
fn opened(fragment: &str) -> Option<(Site, FakeAdmin, Browser)> {
    let mut browser = Browser::start()?;
    let site = Site::new(json!({}));
    let fake = FakeAdmin::start(common::fakes::v4(site.port(0)), canned());
    browser.open(&format!("{}{fragment}", fake.url()));
    browser.wait_until("document.getElementById('link')?.textContent.includes('live')");
    browser.wait_until("document.querySelector('[data-points]')?.dataset.points >= 300");
    Some((site, fake, browser))
}

/// The page had no error and sent requests to no other host.
#[track_caller]
fn assert_clean(browser: &mut Browser, fake: &FakeAdmin) {
    assert_eq!(browser.eval("window.hacked"), Value::Null);
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
    let strange = |url: &&String| !url.starts_with(&fake.url()) && !url.starts_with("data:");
    let strangers: Vec<&String> = browser.requests.iter().filter(strange).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    assert!(!browser.requests.is_empty());
}

#[test]
fn the_page_is_small_and_whole() {
    let page = page();
    assert!(page.len() < 60_000, "{} bytes", page.len());
    let outside =
        ["http:", "https:", "src=", "@import", "url(", "innerHTML", "outerHTML", "document.write", "eval("];
    let without_namespaces = page.replace("http://www.w3.org/2000/svg", "");
    for word in outside {
        assert!(!without_namespaces.contains(word), "{word}");
    }
}

#[test]
fn figures_charts_events_and_reasons_are_shown() {
    let Some((_site, fake, mut browser)) = opened("") else { return };
    let rows = "[...document.querySelectorAll('tr[data-server]')].map(row => \
        [row.closest('[data-pool]').dataset.pool, \
                row.dataset.server, row.querySelector('.state').textContent.split(' ')[1], \
                row.querySelector('.queue').textContent])";
    let expected = json!([
        ["native", "0", "up", "10"],
        ["native", "1", "up", "5"],
        ["native", "2", "draining", "0"],
        ["dns", "0", "up", "40"],
        ["dns", "1", "down", "1"]
    ]);
    assert_eq!(browser.eval(rows), expected);
    let bars = "[...document.querySelectorAll('.bar i')].map(bar => bar.style.width)";
    assert_eq!(browser.eval(bars), json!(["100%", "50%", "0%", "100%", "2.5%"]));
    let tiles = "Object.fromEntries([...document.querySelectorAll('#tiles div')].map(tile => \
                 [tile.firstChild.textContent, tile.lastChild.textContent]))";
    let tiles = browser.eval(tiles);
    for (name, text) in [
        ("answers per second", "3,200"),
        ("p50", "2.00 ms"),
        ("p99", "9.00 ms"),
        ("servers up", "3 of 5"),
        ("queue length", "56"),
        ("failed, dropped", "15"),
    ] {
        assert_eq!(tiles[name], text, "{tiles}");
    }
    let about = browser.eval("document.getElementById('about').textContent");
    assert_eq!(about, "version 0.1.0 · up for 1 h 6 min");

    // Quality of the selections, where there is data; and service times.
    let selection = "[...document.querySelectorAll('[data-pool]')].map(pool => { const box = \
        pool.querySelector('.selection'); \
                   return box.hidden ? '' : box.textContent; })";
    let said = "Selection: regret 0.11 (p99 1), staleness 3.00 ms (p99 12.0 ms), estimate error 0.50 (p99 \
        2), \
                4 queued for 250 µs (p99 7.10 ms)";
    assert_eq!(browser.eval(selection), json!([said, ""]));
    let weights = "[...document.querySelectorAll('[data-pool=dns] [data-name=weight]')].map(cell => \
        [cell.textContent, cell.title])";
    let expected = json!([["1, ×5.0 slow", "service time 2.10 ms"], ["1", "service time 2.10 ms"]]);
    assert_eq!(browser.eval(weights), expected);

    // A line with a point for each second, in each chart, inside of it.
    let points = "[...document.querySelectorAll('[data-points]')].map(line => +line.dataset.points)";
    let points = browser.eval(points);
    assert!(points.as_array().unwrap().iter().all(|n| n.as_u64() >= Some(300)), "{points}");
    assert_eq!(points.as_array().unwrap().len(), 4);
    let inside = "[...document.querySelectorAll('svg path.a, svg path.b')].every(line => { const box = \
        line.getBBox(); \
                  return box.width > 100 && box.x >= 40 && box.y >= 0 && box.y + box.height <= 151; })";
    assert_eq!(browser.eval(inside), true);

    // The scaling event is marked where it was, and says its reason to pointer and keyboard.
    let reason = "scale up 2 -> 3: load 9.1 a server for 3s";
    assert_eq!(browser.eval("document.querySelectorAll('.mark').length"), 1);
    let at = browser.eval(
        "document.querySelector('.mark').getAttribute('transform').match(/[0-9.]+/)[0] / \
                           document.querySelector('#chart-servers svg').clientWidth",
    );
    assert!((0.85..0.95).contains(&at.as_f64().unwrap()), "{at}");
    let tip = "!document.querySelector('#chart-servers .tip').hidden && \
        document.querySelector('#chart-servers .tip').textContent";
    browser.point_at("#chart-servers .mark rect");
    assert!(browser.eval(tip).as_str().unwrap().ends_with(reason), "{tip}");
    browser.point_at("h1");
    assert_eq!(browser.eval(tip), false);
    browser.eval("document.querySelector('.mark').focus()");
    assert!(browser.eval(tip).as_str().unwrap().ends_with(reason));
    let label = browser.eval("document.querySelector('.mark').getAttribute('aria-label')");
    assert!(label.as_str().unwrap().ends_with(reason));

    // Events are texts, the newest first.
    let events =
        browser.eval("[...document.querySelectorAll('#events .what')].map(what => what.textContent)");
    assert_eq!(events, json!([format!("native: {reason}"), format!("native, server 1: {HOSTILE}")]));
    fake.change(|canned| {
        canned.entries.push(entry(3, 0, EventKind::Server, "suspect -> down"));
        canned.status["pools"][0]["servers"][1]["state"] = json!("down");
        canned.status["pools"][0]["servers"].as_array_mut().unwrap().remove(2);
    });
    browser
        .wait_until("document.querySelector('#spoken').textContent === 'native, server 1: suspect -> down'");
    browser.wait_until("document.querySelectorAll('[data-pool=native] tr[data-server]').length === 2");
    browser.wait_until(
        "document.querySelector('[data-pool=native] [data-server=\"1\"] .state').classList.contains('down')",
    );
    browser.wait_until("document.title === 'lbd: 2 of 4 up'");
    assert_clean(&mut browser, &fake);
}

#[test]
fn figures_that_are_missing_or_odd_break_nothing() {
    let Some((_site, fake, mut browser)) = opened("") else { return };
    fake.change(|canned| {
        let odd = json!({"text": {"a": 1}, "unix_ms": "x"});
        canned.entries = vec![json!({"kind": "scaling"}), json!(7), odd];
        canned.status = json!({
            "pools": [null, {
                "name": "native",
                "servers": [{
                    "id": 0, "state": HOSTILE, "queue": -1, "rate": "fast", "latency_us_recent": 5,
                    "service": "slow",
                }],
                "decisions": {"regret_recent": 5, "age_us_recent": {"p50": "old"}, "waiting": "many"},
            }, {"name": HOSTILE, "servers": null, "refused": 3}, {"name": "new", "scaling": {"load": 0.5}}],
        });
    });
    browser.wait_until("document.querySelectorAll('[data-pool]').length === 3");
    browser.wait_until("document.querySelector('.state').classList.contains('unknown')");
    let title = browser.eval("document.querySelectorAll('[data-pool] h2')[1].textContent");
    assert!(title.as_str().unwrap().contains(HOSTILE), "{title}");
    assert_clean(&mut browser, &fake);
}

#[test]
fn drain_and_enable_are_sent_with_the_token_of_the_address() {
    let Some((_site, fake, mut browser)) = opened(&format!("#token={TOKEN}")) else { return };
    assert_eq!(browser.eval("location.href"), fake.url(), "the token is not left in the address bar");
    browser.click("[data-pool=native] [data-server=\"1\"] button");
    let posts =
        |n: usize| wait_for("a change", || Some(fake.posts()).filter(|posts| posts.len() == n), String::new);
    let first = posts(1).remove(0);
    assert_eq!(first.path, "/api/servers/1/drain?pool=native");
    assert_eq!(first.authorization, format!("Bearer {TOKEN}"));
    browser.wait_until(
        "document.getElementById('note').textContent.startsWith('Server 1 of native: drain accepted')",
    );

    // The token lasts as long as the tab; buttons that make no sense are off.
    browser.call("Page.reload", json!({}));
    browser.wait_until(
        "document.querySelector('[data-pool=native] [data-server=\"2\"] \
        button:disabled')?.textContent === 'Drain'",
    );
    browser.click("[data-pool=native] [data-server=\"2\"] button:not(:disabled)");
    assert_eq!(posts(2)[1].path, "/api/servers/2/enable?pool=native");

    fake.change(|canned| canned.refusal = Some((409, format!("no such thing {HOSTILE}"))));
    browser.click("[data-pool=native] [data-server=\"0\"] button");
    browser.wait_until(
        "document.querySelector('#note.error')?.textContent.includes('drain refused: no such thing <img')",
    );
    assert_eq!(browser.eval("window.hacked"), Value::Null);
}

#[test]
fn without_a_token_it_is_asked_for_and_a_wrong_one_is_said() {
    let Some((_site, fake, mut browser)) = opened("") else { return };
    browser.click("[data-pool=native] [data-server=\"1\"] button");
    browser.wait_until("document.getElementById('ask').open && document.activeElement.id === 'ask-token'");
    assert!(fake.posts().is_empty(), "nothing is sent without a token");
    browser.type_text("wrong-wrong-wrong");
    browser.click("#ask button.main");
    browser.wait_until(
        "document.getElementById('ask').open && \
        document.getElementById('ask-why').textContent.includes('refused')",
    );
    browser.type_text(TOKEN);
    browser.click("#ask button.main");
    browser.wait_until("document.getElementById('note').textContent.includes('accepted')");
    let sent: Vec<String> = fake.posts().into_iter().map(|asked| asked.authorization).collect();
    assert_eq!(sent, ["Bearer wrong-wrong-wrong".to_owned(), format!("Bearer {TOKEN}")]);

    // The last server of a pool is drained after a second question only.
    browser.eval("window.asked = 0; window.confirm = () => { window.asked += 1; return false; }");
    browser.click("[data-pool=dns] [data-server=\"0\"] button");
    browser.wait_until("window.asked === 1");
    browser.click("[data-pool=native] [data-server=\"0\"] button");
    wait_for("the next change", || (fake.posts().len() == 3).then_some(()), String::new);
    assert_eq!(fake.posts()[2].path, "/api/servers/0/drain?pool=native");
}

#[test]
fn a_restart_of_the_balancer_is_told_and_made_up_for() {
    let Some((_site, mut fake, mut browser)) = opened("") else { return };
    assert_clean(&mut browser, &fake);
    fake.go();
    browser.wait_until("document.getElementById('link').textContent.includes('reconnecting')");
    assert_eq!(
        browser.eval("document.querySelectorAll('tr[data-server]').length"),
        5,
        "the last figures stay"
    );
    fake.change(|canned| {
        canned.history = history(450);
        // The server has dropped the first entry, and sends the second one again.
        canned.entries.remove(0);
        canned.entries.push(entry(3, 0, EventKind::Notice, "restarted"));
    });
    fake.come_back();
    browser.wait_until("document.getElementById('link').textContent.includes('live')");
    browser.wait_until("document.querySelector('[data-points]').dataset.points >= 450");
    browser.wait_until("document.querySelector('#events .what').textContent === 'native: restarted'");
    let kept = browser.eval("document.querySelectorAll('#events li').length");
    assert_eq!(kept, 3, "what happened before is still there, and nothing twice");
    assert_eq!(browser.eval("document.querySelectorAll('.mark').length"), 1);
}

#[test]
fn it_fits_a_phone_and_the_dark() {
    let Some((_site, fake, mut browser)) = opened("") else { return };
    let overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
    // Every element that ends beyond the page.
    let beyond = "[...document.querySelectorAll('main *, header *')].filter(one => \
                  one.getBoundingClientRect().right > document.documentElement.clientWidth + 1 && \
                  !one.closest('.hidden, thead')).map(one => one.outerHTML.slice(0, 80))";
    fake.change(|canned| {
        canned.status["pools"][1]["servers"][0]["addr"] =
            json!("[2001:db8:1111:2222:3333:4444:5555:6666]:65535");
        canned.status["pools"][1]["name"] =
            json!("a-name-that-is-as-long-as-names-of-pools-may-ever-be-in-here");
        canned.entries.push(entry(9, 0, EventKind::Notice, &"word".repeat(60)));
    });
    browser.wait_until("document.querySelectorAll('#events li').length === 3");
    for (width, mobile) in [(360, true), (320, true), (700, false), (961, false), (1200, false)] {
        browser.resize(width, 740, mobile);
        browser.wait_until(&format!("innerWidth === {width}"));
        assert_eq!(browser.eval(overflow), 0, "{width}: {}", browser.eval(beyond));
        assert_eq!(browser.eval(beyond), json!([]), "{width}");
    }
    browser.resize(360, 740, true);
    let small =
        "[...document.querySelectorAll('.act button')].filter(button => button.offsetHeight < 40).length";
    assert_eq!(browser.eval(small), 0, "buttons for thumbs");

    // Contrast of every colour of text with what it stands on (WCAG 2: 4.5), in both schemes.
    let contrasts = "(() => { const style = getComputedStyle(document.documentElement); \
        const light = name => { const hex = style.getPropertyValue(name).trim().replace(/^#(.)(.)(.)$/, \
        '#$1$1$2$2$3$3'); \
          const [r, g, b] = [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16) / 255) \
            .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * \
            g + 0.0722 * b; }; \
        const of = (a, b) => { const [low, high] = [light(a), light(b)].sort((x, y) => x - y); return (high \
        + 0.05) / (low + 0.05); }; \
        return ['--ink', '--soft', '--a', '--b', '--mark', '--ok', '--warn', '--bad'].flatMap(name => \
          ['--card', '--page'].map(ground => [name, ground, of(name, ground)])); })()";
    let ground = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number).reduce((a, b) \
        => a + b)";
    for (scheme, is_dark) in [("light", false), ("dark", true)] {
        browser.scheme(scheme);
        browser.wait_until(&format!("matchMedia('(prefers-color-scheme: {scheme})').matches"));
        assert_eq!(browser.eval(ground).as_u64().unwrap() < 200, is_dark, "{scheme}");
        let contrasts = browser.eval(contrasts);
        for one in contrasts.as_array().unwrap() {
            assert!(one[2].as_f64().unwrap() >= 4.5, "{scheme}: {one}");
        }
    }
    let unnamed = "[...document.querySelectorAll('button, [role=button], svg')].filter(one => \
                   !(one.getAttribute('aria-label') || one.getAttribute('aria-labelledby') || \
                   one.textContent.trim())).length";
    assert_eq!(browser.eval(unnamed), 0);
    assert_clean(&mut browser, &fake);
}
