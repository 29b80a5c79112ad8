//! Another configuration while the balancer runs: what changes, what stays, and that nothing is lost by it.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::fakes::{Asker, Fake, tagged, v4};
use common::{Running, Site, assert_adds_up, wait_for};
use serde_json::{Value, json};

/// A datagram pool on this port of a site before servers on these ports, with more keys.
fn pool(site: &Site, name: &str, listen: u16, servers: &[u16], more: Value) -> Value {
    let servers: Vec<Value> =
        servers.iter().map(|&n| json!({"address": v4(site.port(n)).to_string(), "id": n})).collect();
    let mut pool = json!({
        "name": name,
        "listen": v4(site.port(listen)).to_string(),
        "protocol": "datagram",
        "servers": servers,
        "workers": 2,
    });
    pool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    pool
}

fn echo(site: &Site, n: u16) -> Fake {
    Fake::echo(n as u8, v4(site.port(n)))
}

/// Reloads, and waits until the balancer has said what came of it.
fn reload(balancer: &mut Running) -> String {
    let before = balancer.stderr();
    balancer.signal(libc::SIGHUP);
    wait_for(
        "what came of a reload",
        || {
            let now = balancer.stderr();
            let new = now[before.len()..].to_owned();
            (new.contains("configuration re") && new.ends_with('\n')).then_some(new)
        },
        || balancer.stderr(),
    )
}

#[test]
fn servers_and_pools_come_and_go_without_a_lost_request() {
    let site = Site::new(json!({}));
    let _servers: Vec<Fake> = (1..=3).map(|n| echo(&site, n)).collect();
    let first = json!([pool(&site, "a", 0, &[1, 2], json!({}))]);
    let mut balancer = site.pools(first.clone());
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|n| {
            let (to, is_over) = (v4(site.port(0)), Arc::clone(&is_over));
            std::thread::spawn(move || {
                let (client, mut asked) = (Asker::to(to), 0);
                while !is_over.load(Ordering::Relaxed) {
                    let request = format!("request {asked} of client {n}");
                    let answer = client.ask(request.as_bytes());
                    assert_eq!(answer, tagged(answer[0], request.as_bytes()), "its own answer");
                    asked += 1;
                }
                assert!(!client.has_more());
                asked
            })
        })
        .collect();
    for round in 0..10 {
        // Another server; the pool recreated with other ports; another pool beside it; back.
        for pools in [
            json!([pool(&site, "a", 0, &[2, 3], json!({}))]),
            json!([pool(&site, "a", 0, &[2, 3], json!({"ports": 300 + round}))]),
            json!([pool(&site, "a", 0, &[2, 3], json!({})), pool(&site, "b", 4, &[1], json!({}))]),
            json!([pool(&site, "renamed", 0, &[1, 2], json!({"policy": "round_robin"}))]),
            first.clone(),
        ] {
            site.write_pools(&pools);
            let said = reload(&mut balancer);
            assert!(said.contains("configuration reloaded: ") && said.contains("pool "), "{said}");
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let asked: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(asked > 100, "{asked} requests");
    let last = balancer.stop();
    assert_eq!(last.pools.len(), 1);
    assert_eq!(
        (last.pools[0].datagram.unwrap().timed_out, last.pools[0].datagram.unwrap().in_flight),
        (0, 0)
    );
    assert_adds_up(&last.pools[0]);
}

#[test]
fn a_configuration_that_is_wrong_or_cannot_run_changes_nothing_and_says_why() {
    let site = Site::new(json!({}));
    let server = echo(&site, 1);
    let good = json!([pool(&site, "a", 0, &[1], json!({}))]);
    let mut balancer = site.pools(good.clone());
    let client = Asker::to(v4(site.port(0)));
    client.ask(b"before");
    let taken = std::net::UdpSocket::bind(v4(site.port(5))).unwrap();

    site.write("pools.json", "{\"pools\":\n [,]}");
    let said = reload(&mut balancer);
    assert!(
        said.contains("refused, nothing has changed") && said.contains("pools.json:2: not valid JSON"),
        "{said}"
    );
    site.write_pools(&json!([pool(&site, "a", 0, &[1], json!({"polcy": "random"}))]));
    let said = reload(&mut balancer);
    assert!(said.contains("polcy: unknown key; did you mean \"policy\"?"), "{said}");
    let two = json!([pool(&site, "a", 6, &[1], json!({})), pool(&site, "b", 5, &[1], json!({}))]);
    site.write_pools(&two);
    let said = reload(&mut balancer);
    assert!(said.contains("nothing has changed: pool b: cannot bind") && said.contains("in use"), "{said}");
    site.write_pools(&json!([pool(&site, "a", 0, &[1], json!({"workers": 1}))]));
    let said = reload(&mut balancer);
    assert!(said.contains("workers cannot change"), "{said}");
    let file = site.path().join("pools.json");
    std::fs::remove_file(&file).unwrap();
    let said = reload(&mut balancer);
    assert!(said.contains("pools.json: cannot read the file"), "{said}");

    client.ask(b"still there");
    site.write_pools(&good);
    assert!(reload(&mut balancer).contains("nothing has changed"));
    drop(taken);
    site.write_pools(&two);
    assert!(reload(&mut balancer).contains("pool b begun"));
    assert_eq!(Asker::to(v4(site.port(5))).ask(b"b"), tagged(1, b"b"));
    assert_eq!(server.count(), 3);
    balancer.stop();
}

#[test]
fn without_a_file_there_is_nothing_to_reload() {
    let site = Site::new(json!({}));
    let server = echo(&site, 1);
    let (listen, addr) = (v4(site.port(0)).to_string(), server.addr().to_string());
    let mut balancer =
        site.start_bare(&["balancer", "--listen", &listen, "--protocol", "datagram", "--server", &addr]);
    balancer.wait_for_word("pool pool-1: datagram on ");
    assert!(reload(&mut balancer).contains("has no configuration file to reload"));
    assert_eq!(Asker::to(v4(site.port(0))).ask(b"x"), tagged(1, b"x"));
}

#[test]
fn a_successor_that_cannot_start_leaves_the_old_one_serving() {
    let site = Site::new(json!({"load_balancer": {"workers": 2}}));
    let (balancer, _servers) = site.pool(2, &[]);
    let text = std::fs::read_to_string(site.path().join("config.json")).unwrap();
    for (from, to, why) in [
        ("\"workers\":2", "\"workers\":3", "workers: the running balancer has 2, this configuration 3"),
        ("\"workers\":2", "\"workers\":\"many\"", "load_balancer.workers: \"many\" is not a whole number"),
    ] {
        assert!(text.contains(from), "{text}");
        site.write("config.json", &text.replace(from, to));
        let takeover = format!("--takeover={}", site.takeover_socket().display());
        let refused = site.start(&["balancer", &takeover]).finish();
        assert!(refused.code == 2 && refused.stderr.contains(why), "{refused:?}");
        site.write("config.json", &text);
        let (code, summary) = site.ask(&["--requests", "50"]);
        assert_eq!((code, summary.answered, summary.retried), (0, 50, 0));
    }
    // What a successor needs beside the sockets is tried before it has them: here, a folder for its token.
    let socket = site.takeover_socket();
    site.write("taken", "a file");
    site.write("config.json", &text.replace("\"state_dir\":\"state\"", "\"state_dir\":\"taken\""));
    let refused = site.start(&["balancer", &format!("--takeover={}", socket.display())]).finish();
    assert!(refused.code == 2 && refused.stderr.contains("taken"), "{refused:?}");
    site.write("config.json", &text);
    let (code, summary) = site.ask(&["--requests", "50"]);
    assert_eq!((code, summary.answered, summary.retried), (0, 50, 0));

    let successor = site.start(&["balancer", "--takeover", "--status-every", "50ms"]);
    assert_eq!(balancer.finish().code, 0);
    assert_eq!(successor.status().pools[0].servers.len(), 2, "no server had to register again");
    let (code, summary) = site.ask(&["--requests", "50"]);
    assert_eq!((code, summary.answered, summary.retried), (0, 50, 0));
    let refused = site.start(&["balancer", "--takeover=/nowhere/at.all"]).finish();
    assert!(
        refused.code == 2
            && refused.stderr.contains("no balancer of this configuration listens at /nowhere/at.all"),
        "{refused:?}"
    );
}

/// The server at which each client's flow is.
fn servers_of(clients: &[Asker]) -> Vec<u8> {
    clients.iter().map(|client| client.ask(b"more")[0]).collect()
}

#[test]
fn a_removed_server_keeps_its_flows_through_reloads_and_in_a_pool_that_is_made_anew() {
    let site = Site::new(json!({}));
    let _servers: Vec<Fake> = (1..=2).map(|n| echo(&site, n)).collect();
    let flows = json!({"affinity": "client", "drain_timeout": "1h"});
    let mut balancer = site.pools(json!([pool(&site, "a", 0, &[1, 2], flows.clone())]));
    let clients: Vec<Asker> = (0..6).map(|_| Asker::to(v4(site.port(0)))).collect();
    let first = servers_of(&clients);
    assert!(first.contains(&1) && first.contains(&2), "{first:?}");
    site.write_pools(&json!([pool(&site, "a", 0, &[2], flows.clone())]));
    reload(&mut balancer);
    let is_draining = |status: &lbd::admin::status::Status| {
        status.pools[0].servers.iter().any(|server| (server.id, server.state.as_str()) == (1, "draining"))
    };
    balancer.wait_until("the removed server drains", is_draining);
    assert_eq!(servers_of(&clients), first);
    let fresh: Vec<Asker> = (0..4).map(|_| Asker::to(v4(site.port(0)))).collect();
    assert_eq!(servers_of(&fresh), [2; 4]);
    // The pool is made anew.
    site.write_pools(&json!([pool(&site, "a", 0, &[2], {
        let mut more = flows.clone();
        more["ports"] = json!(300);
        more
    })]));
    assert!(reload(&mut balancer).contains("pool a ended; pool a begun"));
    balancer.wait_until("the removed server drains still", is_draining);
    assert_eq!(servers_of(&clients), first);
    // It returns.
    let short = json!({"affinity": "client", "drain_timeout": "1s"});
    site.write_pools(&json!([pool(&site, "a", 0, &[1, 2], short.clone())]));
    reload(&mut balancer);
    balancer.wait_until("the server is back", |status| status.pools[0].up() == 2);
    assert_eq!(servers_of(&clients), first);
    // It is removed again, and the drain ends.
    site.write_pools(&json!([pool(&site, "a", 0, &[2], short)]));
    reload(&mut balancer);
    balancer.wait_until("the server is gone", |status| status.pools[0].servers.len() == 1);
    assert_eq!(servers_of(&clients), [2; 6]);
    balancer.stop();
}

#[test]
fn a_pool_that_is_made_anew_knows_what_an_operator_has_ordered() {
    let site = Site::new(json!({}));
    let servers: Vec<Fake> = (1..=2).map(|n| echo(&site, n)).collect();
    let mut balancer = site.pools(json!([pool(&site, "a", 0, &[1, 2], json!({}))]));
    let drained = site.start_bare(&["drain", "1", "--config", "pools.json"]).finish();
    assert_eq!(drained.code, 0, "{drained:?}");
    site.write_pools(&json!([pool(&site, "a", 0, &[1, 2], json!({"ports": 300}))]));
    assert!(reload(&mut balancer).contains("pool a ended; pool a begun"));
    balancer.wait_until("the server is still draining", |status| {
        status.pools[0].servers.iter().any(|server| (server.id, server.state.as_str()) == (1, "draining"))
    });
    let client = Asker::to(v4(site.port(0)));
    (0..20).for_each(|n| drop(client.ask(format!("{n}").as_bytes())));
    assert_eq!((servers[0].count(), servers[1].count()), (0, 20));
}
