//! `lbd ping` through real balancers.

mod common;

use std::net::SocketAddr;

use common::fake_dns::FakeDns;
use common::fakes::{Fake, v4};
use common::{Finished, Site, wait_for};
use serde_json::{Value, json};

/// Pings with this site's configuration to the end.
fn ping(site: &Site, args: &[&str]) -> Finished {
    site.start(&[&["ping", "--interval", "1ms", "--timeout", "20s"], args].concat()).finish()
}

/// The lines of `--json`.
fn values(finished: &Finished) -> Vec<Value> {
    finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn frames_go_through_the_native_pool_of_the_configuration() {
    let site = Site::new(json!({}));
    let _pool = site.pool(1, &[]);
    let finished = ping(&site, &["--count", "3"]);
    assert_eq!(finished.code, 0, "{finished:?}");
    let to = format!("127.0.0.1:{}", site.client_side());
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert_eq!(lines.len(), 3 + 3, "{finished:?}");
    for (seq, line) in (1..=3).zip(&lines) {
        assert!(line.starts_with(&format!("256 bytes from {to}: seq={seq} time=")), "{line}");
    }
    assert_eq!(lines[4], "3 sent, 3 answered, 0 lost (0.0 %)");
    assert!(lines[5].starts_with("min/avg/max/mdev = "), "{finished:?}");

    let finished = ping(&site, &["--count", "2", "--json", &to, "--payload", "hex:00ff"]);
    let values = values(&finished);
    assert_eq!((values[0]["seq"].as_u64(), values[1]["status"].as_str()), (Some(1), Some("OK")));
    assert_eq!(values[2]["summary"]["answered"], 2, "{finished:?}");
}

#[test]
fn a_balancer_without_servers_says_busy_and_that_is_an_answer() {
    let site = Site::new(json!({}));
    let _balancer = site.balancer();
    let finished = ping(&site, &["--count", "2"]);
    assert!(finished.stdout.contains("seq=2 BUSY time="), "{finished:?}");
    assert!(finished.stdout.contains("2 sent, 0 answered, 2 BUSY, 0 lost (0.0 %)"), "{finished:?}");
    assert_eq!(finished.code, 0);
}

#[test]
fn nobody_there_is_a_loss_and_code_1() {
    let site = Site::new(json!({}));
    let unused = v4(site.port(0)).to_string();
    let finished =
        site.start(&["ping", "--count", "2", "--timeout", "20ms", "--interval", "0s", &unused]).finish();
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stdout.contains("2 sent, 0 answered, 2 lost (100.0 %)"), "{finished:?}");
    let raw = ["ping", "--count", "1", "--protocol", "raw", &unused];
    let finished = site.start(&raw).finish();
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stdout.starts_with(&format!("unreachable {unused}: seq=1")), "{finished:?}");
}

#[test]
fn datagram_pools_are_asked_in_their_protocol() {
    let site = Site::new(json!({}));
    let dns = FakeDns::start(1, v4(site.port(2)));
    let echo = Fake::echo(7, v4(site.port(3)));
    let pool = |name: &str, port: u16, protocol: &str, server: SocketAddr| {
        json!({"name": name, "listen": v4(port).to_string(), "protocol": protocol,
               "servers": [server.to_string()]})
    };
    let pools = json!([
        pool("names", site.port(0), "dns", dns.addr()),
        pool("echo", site.port(1), "datagram", echo.addr()),
    ]);
    let _balancer = site.pools(pools);
    let run = |args: &[&str]| {
        let base = ["ping", "--config", "pools.json", "--count", "1", "--timeout", "20s"];
        site.start_bare(&[&base, args].concat()).finish()
    };
    // The first pool is the default; its address says what it speaks.
    let finished = run(&[]);
    assert!(finished.stderr.contains(&format!("{}: dns", v4(site.port(0)))), "{finished:?}");
    assert!(finished.code == 0 && finished.stdout.contains("1 sent, 1 answered"), "{finished:?}");
    let finished = run(&["--protocol", "raw", "--payload", "hello"]);
    assert!(
        finished.stdout.contains(&format!("6 bytes from {}: seq=1 time=", v4(site.port(1)))),
        "{finished:?}"
    );
    assert_eq!(echo.seen().last().unwrap().bytes, b"hello");
    let finished = run(&[&v4(site.port(1)).to_string()]);
    assert!(finished.stderr.contains(": raw, 4 bytes"), "{finished:?}");
}

#[test]
fn ctrl_c_ends_with_the_summary() {
    let site = Site::new(json!({}));
    let _pool = site.pool(1, &[]);
    let mut running = site.start(&["ping", "--interval", "1h", "--timeout", "20s"]);
    wait_for("the first answer", || running.stdout().contains("seq=1").then_some(()), || running.stderr());
    running.signal(libc::SIGINT);
    let finished = running.finish();
    assert_eq!(finished.code, 0, "{finished:?}");
    assert!(finished.stdout.contains("1 sent, 1 answered, 0 lost"), "{finished:?}");
}

#[test]
fn mistakes_name_the_argument_and_the_remedy() {
    let site = Site::new(json!({}));
    let long = "x".repeat(300);
    for (args, says) in [
        (&["nowhere"][..], "use IP:PORT or NAME:PORT"),
        (&["--protocol", "dns"], "the configuration has no pool for dns"),
        (&["--query", "a A"], "--query applies only to dns"),
        (&["127.0.0.1:1", "--protocol", "dns", "--payload", "a"], "--payload does not apply to dns"),
        (&["127.0.0.1:1", "--protocol", "dns", "--query", "a"], "such as \"example.com A\""),
        (&["--payload", "hex:0"], "pairs of hex digits"),
        (&["--payload", &long], "a frame carries at most"),
        (&["--timeout", "2h"], "a time from 1ms to 1m"),
        (&["--count", "0"], "--count"),
    ] {
        let finished = site.start(&[&["ping"], args].concat()).finish();
        assert!(finished.code == 2 && finished.stderr.contains(says), "{args:?}: {finished:?}");
        assert!(finished.stdout.is_empty(), "{finished:?}");
    }
}
