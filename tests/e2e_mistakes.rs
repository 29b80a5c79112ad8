//! Mistakes of an operator: they stop nothing that can run, and are named where the operator looks.

mod common;

use common::{Finished, Site, wait_for};
use serde_json::json;

const BALANCER_LOG: &str = "balancer/balancer.log";

/// Waits until a log has a line with all of these words.
fn wait_for_line(site: &Site, log: &str, words: &[&str]) {
    let has_it = || site.log(log).lines().any(|line| words.iter().all(|word| line.contains(word)));
    wait_for(&format!("{words:?}"), || has_it().then_some(()), || site.log(log));
}

/// `lbd status`, when its output has these words.
fn status_with(site: &Site, config: &str, words: &str) -> Finished {
    let ask = || site.start_bare(&["status", "--config", config]).finish();
    let with_words = || Some(ask()).filter(|shown| shown.stdout.contains(words));
    wait_for(words, with_words, || format!("{:?}", ask()))
}

#[test]
fn a_name_without_an_address_does_not_stop_the_balancer() {
    let site = Site::new(json!({}));
    let pool = |name: &str, port, servers: &[&str]| {
        json!({
            "name": name, "listen": format!("127.0.0.1:{port}"), "protocol": "datagram", "servers": servers,
            "health": {"check": "none"},
        })
    };
    let unknown = "no-such-name.invalid:9";
    let mixed = pool("mixed", site.port(0), &[unknown, "127.0.0.1:9"]);
    let pools = json!([mixed, pool("empty", site.port(1), &[unknown])]);
    let balancer = site.start_pools(&pools, &["--status-every", "50ms"]);
    balancer.wait_until("the other server of the first pool is used", |status| {
        status.pools.iter().map(|pool| pool.servers.len()).eq([1, 0]) && status.pools[0].up() == 1
    });
    let shown = status_with(&site, "pools.json", "NOT READY: no server has an address; cannot find");
    assert_eq!(shown.code, 1, "{shown:?}");
    assert!(shown.stdout.contains("problem: cannot find an address of no-such-name.invalid"), "{shown:?}");
    wait_for_line(&site, BALANCER_LOG, &["WARN", "name lookup failed", "pool=\"empty\"", "no-such-name"]);
    balancer.stop();
}

#[test]
fn another_frame_size_is_named_by_the_server_and_by_the_balancer() {
    let site = Site::new(json!({}));
    let balancer = site.balancer();
    let text = std::fs::read_to_string(site.path().join("config.json")).unwrap();
    let text = text.replace("\"client_side_port\"", "\"frame_size\":512,\"client_side_port\"");
    site.write("other.json", &text);
    let server = site.start_bare(&["server", "--id", "3", "--config", "other.json"]);
    let reason = "it uses frame_size 256, this server 512";
    server.wait_for_word(reason);
    wait_for_line(&site, "servers/server_3.log", &["WARN", "no balancer registers server", reason]);
    balancer.wait_until("the problem in the status", |status| {
        status.pools[0].problems.iter().any(|problem| problem.kind == "frame_size")
    });
    let words = ["uses frame_size 512, this pool 256", "set the same frame_size"];
    wait_for_line(&site, BALANCER_LOG, &["WARN", "peer rejected repeatedly", words[0], words[1]]);
    wait_for_line(
        &site,
        BALANCER_LOG,
        &["INFO", "first drop of reason", "reason=\"frame_size\"", "meaning="],
    );
    let shown = status_with(&site, "config.json", words[0]);
    assert_eq!(shown.code, 1, "{shown:?}");
    assert!(shown.stdout.contains("NOT READY: no server has registered; server 127.0.0.1:"), "{shown:?}");
}

#[test]
fn a_server_without_a_balancer_says_so() {
    let site = Site::new(json!({}));
    let server = site.server(0, &[]);
    let reason = "no answer; check that the balancer runs";
    server.wait_for_word(reason);
    let addr = format!("addr=127.0.0.1:{}", site.server_side());
    let log = "servers/server_0.log";
    wait_for_line(&site, log, &["WARN", "no balancer registers server", &addr, reason]);
    let balancer = site.balancer();
    balancer.wait_until_up(1);
    wait_for_line(&site, log, &["INFO", "server registered"]);
}

#[test]
fn every_reason_is_a_metric_before_its_first_drop() {
    let site = Site::new(json!({}));
    let balancer = site.balancer();
    let metrics = {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", site.admin_port())).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    for reason in lbd::base::drop_reason::DropReason::ALL {
        for name in ["dropped_by_reason", "refused"] {
            let row = format!("lbd_{name}_total{{pool=\"native\",reason=\"{}\"}} 0\n", reason.name());
            assert!(metrics.contains(&row), "{row}{metrics}");
        }
    }
    drop(balancer);
}
