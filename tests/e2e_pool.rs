//! A balancer, servers and clients as processes: sharing, failure, drain and restart.

mod common;

use common::{Finished, Running, Site, wait_for};
use serde_json::{Value, json};

/// The first attempt is the only one, so a request that is lost stays lost.
const NO_RETRIES: &str = r#"{"client": {"retries": 0, "timeout": "20s"}}"#;

fn changes(text: &str) -> Value {
    serde_json::from_str(text).expect("valid JSON")
}

/// What `lbd server --json` prints when it ends.
fn server_summary(finished: &Finished) -> Value {
    assert_eq!(finished.code, 0, "{finished:?}");
    serde_json::from_str(&finished.stdout).expect("a summary")
}

/// Repeats a round of requests until each server's share is within 5 % of even, at most five times.
///
/// Ties are broken by a hash, which is as uneven as drawing lots: of 2,000 requests a share of 500 varies by
/// 4 % (one standard deviation), of 30,000 by 1 %. A server that the machine lets wait gets less, and rightly
/// so: the most even of a few rounds counts.
fn assert_even_shares(balancer: &Running, requests: u64, mut round: impl FnMut()) {
    let mut rounds = vec![];
    while rounds.len() < 5 {
        let before = balancer.status();
        round();
        let status = balancer.wait_until("all is answered and the counts are zero", |status| {
            status.pools[0].answered - before.pools[0].answered == requests
                && status.pools[0].servers.iter().all(|s| s.queue == 0)
        });
        assert_eq!(
            (status.pools[0].dispatched, status.pools[0].refused["no_server"]),
            (status.pools[0].answered, 0),
            "{status:?}"
        );
        let shares: Vec<u64> = status.pools[0]
            .servers
            .iter()
            .zip(&before.pools[0].servers)
            .map(|(now, old)| now.answered - old.answered)
            .collect();
        let even = requests / shares.len() as u64;
        if shares.iter().all(|share| share.abs_diff(even) <= even / 20) {
            return;
        }
        rounds.push(shares);
    }
    panic!("no round within 5 % of even: {rounds:?}");
}

#[test]
fn four_servers_come_up_and_share_the_requests_evenly() {
    let site = Site::new(json!({}));
    let (balancer, _servers) = site.pool(4, &[]);
    let (code, summary) = site.ask(&["--requests", "2000"]);
    assert_eq!((code, summary.sent, summary.answered, summary.busy), (0, 2000, 2000, 0));
    assert_even_shares(&balancer, 30_000, || {
        let (code, summary) = site.ask(&["--requests", "30000", "--window", "64"]);
        assert_eq!((code, summary.answered), (0, 30_000));
    });
}

#[test]
fn without_a_server_every_request_is_refused_as_busy() {
    let site = Site::new(changes(NO_RETRIES));
    let balancer = site.balancer();
    let finished = site.start(&["client", "--requests", "50"]).finish();
    assert_eq!(finished.code, 1);
    assert!(
        finished.stdout.contains("50 sent, 0 answered, 0 retried, 0 refused, 50 busy, 0 lost"),
        "{finished:?}"
    );
    let status = balancer.status();
    assert_eq!(
        (status.pools[0].received, status.pools[0].refused["no_server"], status.pools[0].dispatched),
        (50, 50, 0)
    );
    // Refused, not timed out: BUSY ends a request that may not be retried, long before its timeout.
    let (code, summary) = site.ask(&["--requests", "50"]);
    assert_eq!((code, summary.busy, summary.first_failed), (1, 50, 0));
}

#[test]
fn a_killed_server_costs_retries_but_no_request_and_joins_again() {
    let site = Site::new(json!({"client": {"timeout": "100ms"}}));
    let service = ["--service", "fixed:2ms"];
    let (balancer, mut servers) = site.pool(4, &service);
    let client = site.client(&["--requests", "3000", "--window", "64"]);
    balancer.wait_for_server(2, "has work", |s| s.answered > 100 && s.queue > 4);
    servers[2].kill_now();
    balancer.wait_for_server(2, "down", |s| s.state == "down");
    let (code, summary) = client.summary();
    assert_eq!((code, summary.sent, summary.answered), (0, 3000, 3000));
    assert!(summary.retried > 0, "what it held was sent again: {summary:?}");

    servers[2] = site.server(2, &service);
    let status = balancer.wait_until_up(4);
    assert!(
        status.pools[0].servers.iter().all(|s| s.queue == 0),
        "what the dead one held is forgotten: {status:?}"
    );
    let before = status.pools[0].servers[2].answered;
    let (code, summary) = site.ask(&["--requests", "400", "--window", "64"]);
    assert_eq!((code, summary.answered), (0, 400));
    assert!(balancer.status().pools[0].servers[2].answered > before + 20, "it takes its share again");
}

#[test]
fn a_dead_pool_refuses_requests_and_is_forgotten() {
    let site = Site::new(changes(NO_RETRIES));
    let (balancer, mut servers) = site.pool(3, &["--service", "fixed:50ms"]);
    let mut client = site.client(&["--requests", "200", "--window", "64"]);
    balancer.wait_until("work for all", |status| {
        status.pools[0].servers.len() == 3 && status.pools[0].servers.iter().all(|s| s.queue > 3)
    });
    client.kill_now();
    servers.iter_mut().for_each(|server| server.kill_now());
    balancer.wait_until("all down", |status| status.pools[0].servers.iter().all(|s| s.state == "down"));
    let (code, summary) = site.ask(&["--requests", "20"]);
    assert_eq!((code, summary.busy, summary.first_failed), (1, 20, 0), "at once: {summary:?}");
    // The slots are free again, and with them goes what the dead servers held.
    balancer.wait_until("all forgotten", |status| status.pools[0].servers.is_empty());
    let _server = site.server(7, &[]);
    balancer.wait_for_server(7, "up", |s| s.state == "up" && s.queue == 0);
    let (code, summary) = site.ask(&["--requests", "20"]);
    assert_eq!((code, summary.answered), (0, 20));
}

#[test]
fn a_server_that_is_asked_to_stop_drains_and_loses_nothing() {
    let site = Site::new(changes(NO_RETRIES));
    let (balancer, mut servers) = site.pool(2, &["--service", "fixed:2ms"]);
    let client = site.client(&["--requests", "1000", "--window", "32"]);
    balancer.wait_for_server(0, "has work", |s| s.answered > 100 && s.queue > 4);
    let mut stopping = servers.remove(0);
    stopping.signal(libc::SIGTERM);
    let drained = server_summary(&stopping.finish());
    let (code, summary) = client.summary();
    assert_eq!((code, summary.answered, summary.retried, summary.lost), (0, 1000, 0, 0), "{summary:?}");
    assert_eq!((&drained["id"], &drained["left"], &drained["busy"]), (&json!(0), &json!(0), &json!(0)));
    assert_eq!(drained["received"], drained["served"]);
    let left = balancer.wait_until_up(1);
    assert_eq!(left.pools[0].servers[0].id, 1);
    assert!(site.log("balancer/balancer.log").contains("server left pool=\"native\" server=0"));

    // The same in words, without --json.
    let mut last = site.start(&["server", "--id", "9"]);
    balancer.wait_until_up(2);
    last.signal(libc::SIGTERM);
    let finished = last.finish();
    assert_eq!(finished.stdout, "server 9: 0 received, 0 served, 0 busy, 0 expired, longest queue 0\n");
}

#[test]
fn a_restarted_balancer_finds_its_servers_again() {
    let site = Site::new(json!({"client": {"timeout": "100ms"}}));
    let (mut balancer, mut servers) = site.pool(3, &[]);
    assert_eq!(site.ask(&["--requests", "100"]).0, 0);
    balancer.kill_now();
    let balancer = site.balancer();
    balancer.wait_until_up(3);
    let (code, summary) = site.ask(&["--requests", "300"]);
    assert_eq!((code, summary.answered), (0, 300));
    let status = balancer.status();
    assert_eq!(status.pools[0].servers.iter().map(|s| s.id).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(status.pools[0].servers.iter().all(|s| s.answered > 0 && s.queue == 0), "{status:?}");
    for server in &mut servers {
        assert!(server.stderr().contains("for the balancer at"), "the process is the one of the beginning");
        server.signal(libc::SIGTERM);
    }
    for server in servers {
        server_summary(&server.finish());
    }
}

#[test]
fn a_live_server_keeps_its_id_and_a_second_one_with_it_waits_until_the_first_is_gone() {
    let site = Site::new(json!({"client": {"timeout": "100ms"}}));
    let (balancer, mut servers) = site.pool(1, &[]);
    let port = site.server_port(5).to_string();
    let second = site.server(0, &["--port", &port]);
    balancer
        .wait_until("the second one is refused", |status| status.pools[0].dropped.get("id_taken") > Some(&1));
    let (code, summary) = site.ask(&["--requests", "200"]);
    assert_eq!((code, summary.answered), (0, 200));
    let status = balancer.status();
    assert_eq!(status.pools[0].servers.len(), 1);
    assert_eq!((status.pools[0].servers[0].state.as_str(), status.pools[0].servers[0].answered), ("up", 200));

    servers[0].kill_now();
    let joined = format!("server joined pool=\"native\" server=0 addr=127.0.0.1:{port}");
    let look = || site.log("balancer/balancer.log").contains(&joined).then_some(());
    wait_for("the second one takes the place", look, || second.stderr());
    balancer.wait_until_up(1);
    let (code, summary) = site.ask(&["--requests", "200"]);
    assert_eq!((code, summary.answered), (0, 200));
}

#[test]
fn ctrl_c_ends_every_component_with_exit_code_0() {
    let site = Site::new(json!({"server": {"count": 1}}));
    let balancer = site.balancer();
    let controller = site.start(&["controller"]);
    let server = site.server(7, &[]);
    balancer.wait_until_up(2);
    let client = site.client(&["--rate", "200"]);
    balancer.wait_until("requests are answered", |status| status.pools[0].answered > 50);
    // Each component stops before those that it uses. Requests in flight still get their replies.
    for (name, mut component) in
        [("client", client), ("server", server), ("controller", controller), ("balancer", balancer)]
    {
        component.signal(libc::SIGINT);
        let finished = component.finish();
        assert_eq!(finished.code, 0, "{name}: {finished:?}");
        assert!(!finished.stderr.contains("panicked"), "{name}: {finished:?}");
    }
    assert_eq!(site.processes(), Vec::<i32>::new(), "the controller's own server has ended with it");
}

#[test]
fn four_workers_keep_exact_counts_and_share_evenly() {
    let site = Site::new(json!({"load_balancer": {"workers": 4, "pin": true}}));
    let (balancer, _servers) = site.pool(4, &["--service", "fixed:50us"]);
    assert_even_shares(&balancer, 24_000, || {
        // Each client has a port of its own, and the kernel spreads ports over the workers.
        let clients: Vec<_> =
            (0..24).map(|_| site.client(&["--requests", "1000", "--window", "8"])).collect();
        for client in clients {
            let (code, summary) = client.summary();
            assert_eq!((code, summary.answered, summary.busy), (0, 1000, 0), "{summary:?}");
        }
    });
    let status = balancer.status();
    assert_eq!(
        status.pools[0].dropped.get("wrong_source"),
        None,
        "every server knows every worker: {status:?}"
    );
    assert_eq!(
        (status.pools[0].workers.len(), status.pools[0].workers.iter().sum::<u64>()),
        (4, status.pools[0].received)
    );
    assert!(status.pools[0].workers.iter().all(|&requests| requests > 0), "{:?}", status.pools[0].workers);
}

#[test]
fn direct_replies_come_from_the_servers_and_are_counted() {
    let site = Site::new(json!({"load_balancer": {"reply_path": "direct", "workers": 2}}));
    let (balancer, servers) = site.pool(2, &[]);
    let (code, summary) = site.ask(&["--requests", "5000", "--window", "64"]);
    assert_eq!((code, summary.answered, summary.retried), (0, 5000, 0), "{summary:?}");
    let status = balancer.wait_until("every completion is known", |status| status.pools[0].answered == 5000);
    assert!(status.pools[0].servers.iter().all(|s| s.answered > 1000), "{status:?}");
    balancer.wait_until("zero at rest", |status| status.pools[0].servers.iter().all(|s| s.queue == 0));
    for mut server in servers {
        server.signal(libc::SIGTERM);
        let drained = server_summary(&server.finish());
        assert_eq!(drained["received"], drained["served"]);
    }
}

#[test]
fn a_second_balancer_on_the_same_ports_is_refused() {
    for workers in [1, 3] {
        let site = Site::new(json!({"load_balancer": {"workers": workers}}));
        let (_balancer, _servers) = site.pool(1, &[]);
        let second = site.start(&["balancer"]).finish();
        let says = format!("cannot bind 127.0.0.1:{}: Address already in use", site.client_side());
        assert!(second.code == 2 && second.stderr.contains(&says), "{second:?}");
        assert_eq!(site.ask(&["--requests", "20"]).0, 0);
    }
}
