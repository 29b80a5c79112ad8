//! Several pools in one process: two native pools and a DNS pool, each with servers of its own.

mod common;

use common::fake_dns::{self, FakeDns};
use common::fakes::{Asker, v4};
use common::{Finished, Running, Site, wait_for};
use lbd::admin::status::{PoolStatus, Status};
use serde_json::{Value, json};

/// The three pools on the ports of a site. Pool `a` has its addresses at 0 and 1, `b` at 2 and 3, `dns` at 4.
fn pools(site: &Site, policy_of_b: &str) -> Value {
    let native = |name: &str, at: u16| {
        json!({
            "name": name,
            "protocol": "native",
            "listen": v4(site.port(at)).to_string(),
            "server_side": v4(site.port(at + 1)).to_string(),
            "workers": 2,
        })
    };
    let (a, mut b) = (native("a", 0), native("b", 2));
    b["policy"] = policy_of_b.into();
    b["frame_size"] = 512.into();
    let dns = json!({
        "name": "dns",
        "protocol": "dns",
        "listen": v4(site.port(4)).to_string(),
        "servers": [v4(site.port(5)).to_string()],
        "workers": 1,
    });
    json!([a, b, dns])
}

/// A command of `lbd` with the configuration of the pools.
fn start(site: &Site, words: &[&str]) -> Running {
    site.start_bare(&[words, &["--config", "pools.json"]].concat())
}

fn server(site: &Site, pool: &str, id: &str) -> Running {
    start(site, &["server", "--json", "--pool", pool, "--id", id])
}

/// Runs a client of a native pool that sends 50 requests: each is answered, and at once.
#[track_caller]
fn assert_answers(site: &Site, pool: &str) {
    let client = start(site, &["client", "--json", "--pool", pool, "--requests", "50"]);
    let (code, summary) = client.summary();
    assert_eq!((code, summary.sent, summary.answered), (0, 50, 50), "pool {pool}");
}

fn order(site: &Site, words: &[&str]) -> Finished {
    start(site, words).finish()
}

/// The states of a pool's servers, by id.
fn states(status: &Status, pool: &str) -> Vec<(u32, String)> {
    let pool = status.pools.iter().find(|shown| shown.name == pool);
    let servers = pool.map_or(&[][..], |pool| &pool.servers[..]);
    servers.iter().map(|server| (server.id, server.state.clone())).collect()
}

fn up(ids: impl IntoIterator<Item = u32>) -> Vec<(u32, String)> {
    ids.into_iter().map(|id| (id, "up".to_owned())).collect()
}

#[test]
fn native_pools_and_a_datagram_pool_in_one_process_keep_apart_and_survive_reload_and_takeover() {
    let site = Site::new(json!({}));
    let balancer = site.start_pools(&pools(&site, "shortest_queue"), &["--status-every", "50ms"]);
    let _dns = FakeDns::start(7, v4(site.port(5)));
    // Both pools have a server 0.
    let servers = [server(&site, "a", "0"), server(&site, "a", "1"), server(&site, "b", "0")];
    let all_up = |status: &Status| {
        states(status, "a") == up([0, 1])
            && states(status, "b") == up([0])
            && states(status, "dns") == up([0])
    };
    let status = balancer.wait_until("the servers of all pools up", all_up);
    let names: Vec<&str> = status.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "dns"]);
    let asker = Asker::to(v4(site.port(4)));
    let assert_all_answer = || {
        assert_answers(&site, "a");
        assert_answers(&site, "b");
        assert_eq!(fake_dns::ask(&asker, 77), 7);
    };
    assert_all_answer();
    let count = |status: &Status, pool: &str| {
        let pool = status.pools.iter().find(|shown| shown.name == pool);
        pool.map_or(0, |pool: &PoolStatus| pool.answered)
    };
    balancer.wait_until("each pool counts its own requests", |status| {
        (count(status, "a"), count(status, "b"), count(status, "dns")) == (50, 50, 1)
    });

    // A pool without `run` leaves the port of a server to the system, and the server says which one it got.
    let said = servers[0].stderr();
    let port = said.split_once("server 0: on 127.0.0.1:").and_then(|(_, rest)| rest.split(' ').next());
    assert!(port.and_then(|port| port.parse::<u16>().ok()).is_some_and(|port| port > 0), "{said}");

    // An id that several pools have needs the pool's name.
    let ambiguous = order(&site, &["drain", "0"]);
    assert!(ambiguous.code == 2 && ambiguous.stderr.contains("name one of a, b, dns"), "{ambiguous:?}");
    assert_eq!(order(&site, &["drain", "1"]).code, 0, "only pool a has a server 1");
    let drained = |status: &Status| states(status, "a") == [(0, "up".to_owned()), (1, "draining".to_owned())];
    balancer.wait_until("server 1 of pool a drains", drained);
    assert_eq!(order(&site, &["weight", "0", "5", "--pool", "b"]).code, 0);
    let nowhere = order(&site, &["drain", "0", "--pool", "c"]);
    assert!(nowhere.code == 2 && nowhere.stderr.contains("there is no pool c"), "{nowhere:?}");

    // A reload changes one of them, and refuses what is fixed.
    site.write_pools(&pools(&site, "round_robin"));
    let reloaded = order(&site, &["reload"]);
    assert!(reloaded.code == 0 && reloaded.stdout.contains("pool b: other settings"), "{reloaded:?}");
    assert!(!reloaded.stdout.contains("pool a") && !reloaded.stdout.contains("dns"), "{reloaded:?}");
    let mut other_size = pools(&site, "round_robin");
    other_size[0]["frame_size"] = 1024.into();
    site.write_pools(&other_size);
    let refused = order(&site, &["reload"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("pools[0].frame_size: cannot change"),
        "{refused:?}"
    );
    site.write_pools(&pools(&site, "round_robin"));
    assert_all_answer();

    // A successor has all of them, with the orders of the operator, and no server registers again.
    let successor = start(&site, &["balancer", "--takeover", "--status-every", "50ms"]);
    assert_eq!(balancer.finish().code, 0);
    let status = successor.status();
    assert!(drained(&status), "{:?}", states(&status, "a"));
    assert_eq!((states(&status, "b"), states(&status, "dns")), (up([0]), up([0])));
    assert_all_answer();
    let log = site.log("balancer/balancer.log");
    let joined = |pool: &str| log.matches(&format!("joined pool=\"{pool}\"")).count();
    assert_eq!((joined("a"), joined("b")), (2, 1), "{log}");
}

#[test]
fn a_reload_adds_and_removes_native_pools() {
    let site = Site::new(json!({}));
    let all = pools(&site, "shortest_queue");
    let balancer = site.start_pools(&json!([all[0]]), &["--status-every", "50ms"]);
    let _servers = [server(&site, "a", "0")];
    balancer.wait_until("the server of pool a up", |status| states(status, "a") == up([0]));
    assert_answers(&site, "a");

    site.write_pools(&json!([all[0], all[1]]));
    let reloaded = order(&site, &["reload"]);
    assert!(reloaded.code == 0 && reloaded.stdout.contains("pool b begun"), "{reloaded:?}");
    let _more = [server(&site, "b", "0")];
    balancer.wait_until("the server of pool b up", |status| states(status, "b") == up([0]));
    assert_answers(&site, "b");

    // Under another name it would be another pool on the same addresses.
    let mut renamed = all[1].clone();
    renamed["name"] = "c".into();
    site.write_pools(&json!([all[0], renamed]));
    let refused = order(&site, &["reload"]);
    assert!(refused.code != 0 && refused.stderr.contains("pool c: pool b has 127.0.0.1:"), "{refused:?}");

    site.write_pools(&json!([all[0]]));
    let reloaded = order(&site, &["reload"]);
    assert!(reloaded.code == 0 && reloaded.stdout.contains("pool b ended"), "{reloaded:?}");
    balancer.wait_until("pool a alone", |status| status.pools.len() == 1);
    assert_answers(&site, "a");

    // As soon as its last request is finished, its addresses are free for it again.
    site.write_pools(&json!([all[0], all[1]]));
    let reload = || (order(&site, &["reload"]).code == 0).then_some(());
    wait_for("pool b again", reload, || site.log("balancer/balancer.log"));
    balancer.wait_until("the server of pool b up again", |status| states(status, "b") == up([0]));
    assert_answers(&site, "b");
}

#[test]
fn a_controller_runs_and_scales_the_servers_of_each_pool() {
    let site = Site::new(json!({}));
    let mut all = pools(&site, "shortest_queue");
    for (index, controller, first) in [(0, 6, 8), (1, 7, 14)] {
        all[index]["controller"] = v4(site.port(controller)).to_string().into();
        all[index]["run"] = json!({
            "count": 2,
            "min": 2,
            "max": 3,
            "port_range_start": site.port(first),
            "port_range_end": site.port(first + 6),
        });
    }
    let native = json!([all[0], all[1]]);
    let balancer = site.start_pools(&native, &["--status-every", "50ms"]);
    let mut controller = start(&site, &["controller"]);
    let both_up = |status: &Status| states(status, "a") == up([0, 1]) && states(status, "b") == up([0, 1]);
    balancer.wait_until("two servers of each pool up", both_up);
    assert_answers(&site, "a");
    assert_answers(&site, "b");

    // Killed, it leaves the servers; the next one adopts those of each pool.
    controller.kill_now();
    let mut controller = start(&site, &["controller"]);
    for pool in ["a", "b"] {
        controller.wait_for_word(&format!("pool {pool}: server 0 runs already (process "));
        controller.wait_for_word(&format!("pool {pool}: server 1 runs already (process "));
    }
    balancer.wait_until("all servers still up", both_up);
    controller.signal(libc::SIGTERM);
    assert_eq!(controller.finish().code, 0);
    balancer.wait_until("no server left", |status| {
        states(status, "a").is_empty() && states(status, "b").is_empty()
    });
    drop(balancer);

    // `lbd up` runs them too, with clients of the first pool.
    let up = start(&site, &["up", "--duration", "300ms", "--clients", "1", "--rate", "50"]).finish();
    assert_eq!(up.code, 0, "{up:?}");
    assert!(up.stdout.contains("summary: 1 clients"), "{up:?}");
}
