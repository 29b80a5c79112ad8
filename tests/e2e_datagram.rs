//! Datagram pools: requests, flows and one-way traffic, before servers that know nothing of the balancer.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::fakes::{Asker, Fake, Seen, proxy_header, tagged, v4, v6};
use common::{Running, Site, assert_adds_up, wait_for};
use lbd::admin::status::PoolStatus;
use serde_json::{Value, json};

/// Of a PROXY header: IPv4 and UDP.
const DATAGRAM: u8 = 0x12;

/// Echo servers with the numbers 1, 2, ... on these ports of a site.
fn echoes(site: &Site, count: u8) -> Vec<Fake> {
    (1..=count).map(|n| Fake::echo(n, v4(site.port(n.into())))).collect()
}

/// A pool on port 0 of the site before the servers on these ports, with more keys.
fn pool(site: &Site, servers: u8, more: Value) -> Value {
    let servers: Vec<String> = (1..=servers).map(|n| v4(site.port(n.into())).to_string()).collect();
    let mut pool = json!({
        "listen": v4(site.port(0)).to_string(),
        "protocol": "datagram",
        "servers": servers,
        "workers": 1,
    });
    pool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!([pool])
}

/// A pool in front of `count` echo servers.
fn started(count: u8, more: Value) -> (Site, Vec<Fake>, Running) {
    let site = Site::new(json!({}));
    let servers = echoes(&site, count);
    let balancer = site.pools(pool(&site, count, more));
    (site, servers, balancer)
}

fn front(site: &Site) -> SocketAddr {
    v4(site.port(0))
}

/// The number of the server that gave this answer, which must be the right one.
#[track_caller]
fn number(request: &[u8], answer: &[u8]) -> u8 {
    assert_eq!(answer, tagged(answer[0], request), "the echo of the request");
    answer[0]
}

#[track_caller]
fn ask(client: &Asker, request: &[u8]) -> u8 {
    number(request, &client.ask(request))
}

fn has_seen(server: &Fake, count: usize) -> Vec<Seen> {
    wait_for(
        &format!("{count} datagrams at {}", server.addr()),
        || (server.count() >= count).then(|| server.seen()),
        || format!("{:?}", server.seen()),
    )
}

#[test]
fn many_clients_get_their_own_answers_and_no_others() {
    many_clients("mio");
}

#[test]
fn many_clients_get_their_own_answers_over_io_uring() {
    many_clients("io_uring");
}

/// Over this back end; without io_uring that is mio, and the balancer's log says so.
fn many_clients(io: &str) {
    let (site, servers, balancer) = started(3, json!({"workers": 2, "io": io}));
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let to = front(&site);
            std::thread::spawn(move || {
                let clients: Vec<Asker> = (0..8).map(|_| Asker::to(to)).collect();
                for round in 0..50 {
                    let request = |i: usize| format!("request {round} of client {i} of thread {thread}");
                    clients.iter().enumerate().for_each(|(i, client)| client.send(request(i).as_bytes()));
                    for (i, client) in clients.iter().enumerate() {
                        number(request(i).as_bytes(), &client.recv());
                    }
                }
                assert!(clients.iter().all(|client| !client.has_more()));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let last = balancer.stop();
    let pool = &last.pools[0];
    assert_eq!((pool.received, pool.answered, pool.datagram.unwrap().delivered), (3_200, 3_200, 3_200));
    assert!(servers.iter().all(|server| server.count() > 100), "{pool:?}");
    assert_adds_up(pool);
}

#[test]
fn a_pool_from_the_command_line_over_ipv6() {
    let site = Site::new(json!({}));
    let server = Fake::echo(1, v6(site.port(1)));
    let (listen, addr) = (v6(site.port(0)), server.addr().to_string());
    let words = [
        "balancer",
        "--listen",
        &listen.to_string(),
        "--protocol",
        "datagram",
        "--server",
        &addr,
        "--timeout",
        "9s",
    ];
    let balancer = site.start_bare(&words);
    balancer.wait_for_word("pool pool-1: datagram on ");
    let client = Asker::to(listen);
    assert_eq!(ask(&client, b"over IPv6"), 1);
    for len in [1, 1_472, 1_473, 4_096, 9_000, 30_000, 65_000] {
        assert_eq!(ask(&client, &vec![7; len]), 1, "{len} bytes");
    }
    let last = balancer.stop();
    assert_eq!(last.pools[0].answered, 8);
    assert_adds_up(&last.pools[0]);
}

#[test]
fn a_second_answer_to_one_request_reaches_nobody() {
    let site = Site::new(json!({}));
    let _server = Fake::start(v4(site.port(1)), |bytes, _| vec![tagged(1, bytes), tagged(1, bytes)]);
    let balancer = site.pools(pool(&site, 1, json!({})));
    let client = Asker::to(front(&site));
    assert_eq!(ask(&client, b"once"), 1);
    let dropped = |pool: &PoolStatus| pool.dropped.values().sum::<u64>() == 1;
    balancer.pool_when("the second is dropped", dropped);
    assert!(!client.has_more());
    assert_adds_up(&balancer.stop().pools[0]);
}

/// Answers at once, but to "slow", which is answered by hand.
fn slow_at_times(site: &Site) -> Fake {
    Fake::start(v4(site.port(1)), |bytes, _| match bytes {
        b"slow" => vec![],
        _ => vec![tagged(1, bytes)],
    })
}

#[test]
fn a_late_answer_reaches_its_client_while_the_port_rests() {
    let site = Site::new(json!({}));
    let server = slow_at_times(&site);
    let balancer = site.pools(pool(&site, 1, json!({"timeout": "2s"})));
    let client = Asker::to(front(&site));
    client.send(b"slow");
    let from = has_seen(&server, 1)[0].from;
    balancer.pool_when("it is given up", |pool| pool.datagram.unwrap().timed_out == 1);
    server.send(from, b"late"); // the port rests for 4 s
    assert_eq!(client.recv(), b"late");
    let last = balancer.stop();
    assert_eq!(
        (
            last.pools[0].datagram.unwrap().late,
            last.pools[0].datagram.unwrap().delivered,
            last.pools[0].answered
        ),
        (1, 1, 0)
    );
    assert_adds_up(&last.pools[0]);
}

#[test]
fn a_late_answer_reaches_nobody_when_the_port_is_somebody_elses() {
    let site = Site::new(json!({}));
    let server = slow_at_times(&site);
    let more = json!({"timeout": "50ms", "ports": 1, "hold": "0ms"});
    let balancer = site.pools(pool(&site, 1, more));
    let (slow, other) = (Asker::to(front(&site)), Asker::to(front(&site)));
    slow.send(b"slow");
    let from = has_seen(&server, 1)[0].from;
    balancer.pool_when("it is given up", |pool| pool.datagram.unwrap().timed_out == 1);
    // The only pair is in quarantine for two timeouts. Then the other client gets it.
    let look = || {
        other.send(b"quick");
        (balancer.status().pools[0].answered > 0).then_some(())
    };
    wait_for("the pair has rested", look, || balancer.stderr());
    while other.has_more() {}
    server.send(from, b"late");
    balancer.pool_when("it is dropped", |pool| pool.dropped.get("late") == Some(&1));
    assert!(!slow.has_more() && !other.has_more());
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn a_flow_stays_with_its_server_which_may_say_more_than_once_and_unasked() {
    let site = Site::new(json!({}));
    let start = |n: u8| {
        let answers = move |bytes: &[u8], _| vec![tagged(n, b"100 Trying"), tagged(n, bytes)];
        Fake::start(v4(site.port(n.into())), answers)
    };
    let servers: Vec<Fake> = (1..=3).map(start).collect();
    let balancer = site.pools(pool(&site, 3, json!({"affinity": "client"})));
    let clients: Vec<Asker> = (0..12).map(|_| Asker::to(front(&site))).collect();
    let mut homes = vec![];
    for round in 0..5 {
        for (i, client) in clients.iter().enumerate() {
            let request = format!("{round} of {i}");
            client.send(request.as_bytes());
            let trying = client.recv();
            let home = number(b"100 Trying", &trying);
            assert_eq!(number(request.as_bytes(), &client.recv()), home);
            match homes.get(i) {
                None => homes.push(home),
                Some(&known) => assert_eq!(home, known, "client {i}"),
            }
        }
    }
    for n in 1..=3 {
        assert_eq!(homes.iter().filter(|&&home| home == n).count(), 4, "the shortest queue: {homes:?}");
    }
    let pool = balancer
        .pool_when("the flows are queues", |pool| pool.servers.iter().all(|server| server.queue == 4));
    assert_eq!((pool.datagram.unwrap().flows, pool.datagram.unwrap().flows_opened), (12, 12));
    // A push to each client of the first server.
    let mut ways: Vec<SocketAddr> = servers[0].seen().iter().map(|seen| seen.from).collect();
    ways.sort_unstable();
    ways.dedup();
    assert_eq!(ways.len(), 4, "a way of its own for each client");
    ways.iter().for_each(|&way| servers[0].send(way, b"push"));
    for (client, home) in clients.iter().zip(homes) {
        match home {
            1 => assert_eq!(client.recv(), b"push"),
            _ => assert!(!client.has_more()),
        }
    }
    let last = balancer.stop();
    assert_eq!(
        (last.pools[0].datagram.unwrap().forwarded, last.pools[0].datagram.unwrap().delivered),
        (60, 124)
    );
    assert_adds_up(&last.pools[0]);
}

#[test]
fn an_idle_flow_ends_and_the_next_datagram_chooses_anew() {
    let more = json!({"affinity": "client", "idle_timeout": "50ms", "policy": "round_robin"});
    let (site, _servers, balancer) = started(2, more);
    let client = Asker::to(front(&site));
    let first = ask(&client, b"one");
    balancer.pool_when("it has ended", |pool| {
        pool.datagram.unwrap().flows == 0 && pool.datagram.unwrap().flows_opened >= 1
    });
    let second = ask(&client, b"two");
    assert_eq!(first + second, 1 + 2, "the other server");
    let last = balancer.stop();
    assert_eq!(last.pools[0].datagram.unwrap().flows_opened, 2);
    assert_adds_up(&last.pools[0]);
}

#[test]
fn a_flow_whose_server_is_gone_goes_to_another() {
    let more = json!({
        "affinity": "client",
        "timeout": "100ms",
        "health": {"check": "payload", "send": "ping", "interval": "50ms"},
    });
    let (site, mut servers, balancer) = started(2, more);
    let client = Asker::to(front(&site));
    let home = ask(&client, b"before");
    let place = usize::from(home - 1);
    drop(servers.remove(place));
    balancer.pool_when("it is down", |pool| pool.servers[place].state == "down");
    assert_eq!(ask(&client, b"after"), 3 - home);
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn one_way_traffic_spreads_and_is_counted() {
    let (site, servers, balancer) = started(3, json!({"replies": 0}));
    let client = Asker::to(front(&site));
    for n in 0..300 {
        client.send(format!("<14>line {n}").as_bytes());
        if n % 50 == 49 {
            balancer.pool_when("it is read", |pool| pool.received == n + 1); // else a buffer may be full
        }
    }
    let look = || (servers.iter().map(Fake::count).sum::<usize>() == 300).then_some(());
    wait_for("all has arrived", look, String::new);
    // No client waits for responses (replies: 0), so the echoes are dropped.
    balancer.pool_when("the echoes are dropped", |pool| pool.dropped.values().sum::<u64>() == 300);
    assert!(!client.has_more());
    let last = balancer.stop();
    let pool = &last.pools[0];
    assert_eq!(
        (pool.datagram.unwrap().forwarded, pool.answered, pool.datagram.unwrap().timed_out),
        (300, 0, 0)
    );
    assert!(pool.servers.iter().all(|server| server.datagram.unwrap().forwarded > 30), "{pool:?}");
    assert!(pool.servers.iter().all(|server| server.state == "up" && server.queue == 0), "{pool:?}");
    assert_adds_up(pool);
}

#[test]
fn a_proxy_header_names_the_client_in_every_datagram() {
    let site = Site::new(json!({}));
    let _server = Fake::start(v4(site.port(1)), |bytes, _| vec![bytes.to_vec()]);
    let listen = format!("0.0.0.0:{}", site.port(0));
    let balancer = site.pools(pool(&site, 1, json!({"proxy_protocol": "every", "listen": listen})));
    let asked = ([127, 0, 0, 5], site.port(0)).into();
    let client = Asker::from(([127, 0, 0, 9], 0).into(), asked);
    for text in ["one", "two"] {
        let expected = [proxy_header(DATAGRAM, client.addr(), asked), text.into()].concat();
        assert_eq!(client.ask(text.as_bytes()), expected);
    }
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn a_proxy_header_may_be_in_the_first_datagram_of_a_flow_only() {
    let site = Site::new(json!({}));
    let _server = Fake::start(v4(site.port(1)), |bytes, _| vec![bytes.to_vec()]);
    let more = json!({"proxy_protocol": "first", "affinity": "client"});
    let balancer = site.pools(pool(&site, 1, more));
    for _ in 0..2 {
        let client = Asker::to(front(&site));
        let header = proxy_header(DATAGRAM, client.addr(), front(&site));
        assert_eq!(client.ask(b"one"), [&header[..], b"one"].concat());
        assert_eq!(client.ask(b"two"), b"two");
    }
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn a_one_way_flow_stays_with_its_server_until_it_is_idle() {
    let more = json!({"affinity": "client", "replies": 0, "idle_timeout": "500ms"});
    let (site, servers, balancer) = started(2, more);
    let clients: Vec<Asker> = (0..2).map(|_| Asker::to(front(&site))).collect();
    for round in 0..10_u8 {
        clients.iter().zip(0..).for_each(|(client, n)| client.send(&[n, round]));
    }
    let look = || (servers.iter().map(Fake::count).sum::<usize>() == 20).then_some(());
    wait_for("all has arrived", look, || balancer.stderr());
    let pool = balancer.pool_when("both are idle", |pool| {
        pool.datagram.unwrap().flows == 0 && pool.datagram.unwrap().forwarded == 20
    });
    if pool.datagram.unwrap().flows_opened == 2 {
        // Neither was idle in between: each server has one client, whose source is its own.
        for server in &servers {
            let seen = server.seen();
            assert!(
                seen.iter().all(|s| (s.from, s.bytes[0]) == (seen[0].from, seen[0].bytes[0])),
                "{seen:?}"
            );
        }
    }
    balancer.pool_when("the echoes are dropped", |pool| pool.dropped.values().sum::<u64>() == 20);
    assert!(clients.iter().all(|client| !client.has_more()));
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn flows_are_shared_by_weight() {
    let site = Site::new(json!({}));
    let _servers = echoes(&site, 2);
    let servers = json!([
        {"address": v4(site.port(1)).to_string(), "id": 7},
        {"address": v4(site.port(2)).to_string(), "id": 8, "weight": 3},
    ]);
    let balancer = site.pools(pool(&site, 2, json!({"affinity": "client", "servers": servers})));
    let clients: Vec<Asker> = (0..8).map(|_| Asker::to(front(&site))).collect();
    clients.iter().for_each(|client| assert!(ask(client, b"hello") > 0));
    let pool = balancer.pool_when("eight flows", |pool| pool.datagram.unwrap().flows == 8);
    let by_id: Vec<_> =
        pool.servers.iter().map(|server| (server.id, server.datagram.unwrap().forwarded)).collect();
    assert_eq!(by_id, [(7, 2), (8, 6)]);
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn beyond_max_outstanding_requests_and_flows_are_refused_and_counted() {
    let site = Site::new(json!({}));
    let server = slow_at_times(&site);
    let balancer =
        site.pools(pool(&site, 1, json!({"max_outstanding": 2, "waiting_max": 0, "timeout": "1min"})));
    let clients: Vec<Asker> = (0..3).map(|_| Asker::to(front(&site))).collect();
    clients[..2].iter().for_each(|client| client.send(b"slow"));
    balancer.pool_when("two are in flight", |pool| pool.datagram.unwrap().in_flight == 2);
    clients[2].send(b"refused");
    balancer.pool_when("it is refused", |pool| pool.refused.get("servers_full") == Some(&1));
    for seen in has_seen(&server, 2) {
        server.send(seen.from, b"at last");
    }
    clients[..2].iter().for_each(|client| assert_eq!(client.recv(), b"at last"));
    assert_eq!(ask(&clients[2], b"again"), 1);
    assert_adds_up(&balancer.stop().pools[0]);

    let balancer = site.pools(pool(&site, 1, json!({"max_outstanding": 2, "affinity": "client"})));
    clients[..2].iter().for_each(|client| assert_eq!(ask(client, b"a flow"), 1));
    clients[2].send(b"refused");
    balancer.pool_when("it is refused", |pool| pool.refused.get("servers_full") == Some(&1));
    assert_eq!(ask(&clients[0], b"continues"), 1);
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn what_a_server_has_no_room_for_waits_and_is_served_in_order() {
    for io in ["mio", "io_uring"] {
        let site = Site::new(json!({}));
        let server = slow_at_times(&site);
        let more = json!({"max_outstanding": 1, "timeout": "1min", "io": io, "workers": 2});
        let balancer = site.pools(pool(&site, 1, more));
        let clients: Vec<Asker> = (0..4).map(|_| Asker::to(front(&site))).collect();
        for client in &clients {
            client.send(b"slow");
            balancer.pool_when("it has been read", |pool| pool.received > 0);
        }
        balancer.pool_when("all have been read", |pool| {
            pool.received == 4 && pool.datagram.unwrap().in_flight == 1
        });
        for n in 1..=4 {
            let seen = has_seen(&server, n);
            assert_eq!(seen.len(), n, "one at a time");
            server.send(seen[n - 1].from, format!("answer {n}").as_bytes());
        }
        let mut answers: Vec<Vec<u8>> = clients.iter().map(|client| client.recv().to_vec()).collect();
        answers.sort();
        assert_eq!(answers, [b"answer 1", b"answer 2", b"answer 3", b"answer 4"]);
        assert_adds_up(&balancer.stop().pools[0]);
    }
}

/// What `lbd` says when it may not do this.
const NO_CAPABILITY: &str = "IP_TRANSPARENT needs CAP_NET_ADMIN or CAP_NET_RAW";

#[test]
fn transparent_servers_see_the_clients_address() {
    for (io, affinity) in [("mio", "none"), ("io_uring", "none"), ("mio", "client")] {
        let site = Site::new(json!({}));
        let server = Fake::echo(1, v4(site.port(1)));
        let pools = pool(&site, 1, json!({"transparent": true, "io": io, "affinity": affinity}));
        let balancer = site.start_pools(&pools, &[]);
        let words = ["pool pool-1: datagram", NO_CAPABILITY];
        let look = || words.into_iter().find(|word| balancer.stderr().contains(word));
        if wait_for("it starts, or says why not", look, || balancer.stderr()) == NO_CAPABILITY {
            assert_eq!(balancer.finish().code, 2);
            eprintln!("skipped: this process has neither CAP_NET_ADMIN nor CAP_NET_RAW");
            return;
        }
        for last in [77, 78] {
            let client = Asker::from(([127, 0, 0, last], 0).into(), front(&site));
            assert_eq!(ask(&client, &[last]), 1);
            assert_eq!(ask(&client, b"again"), 1);
        }
        let seen: Vec<String> = server.seen().iter().map(|seen| seen.from.ip().to_string()).collect();
        assert_eq!(seen, ["127.0.0.77", "127.0.0.77", "127.0.0.78", "127.0.0.78"]);
        assert_adds_up(&balancer.stop().pools[0]);
    }
}

#[test]
fn without_the_capability_transparent_is_refused_with_exit_code_2() {
    let site = Site::new(json!({}));
    let pools = json!({ "pools": pool(&site, 1, json!({"transparent": true})) });
    let file = site.write("pools.json", &pools.to_string());
    let words = ["--bounding-set=-net_admin,-net_raw", "--inh-caps=-all", env!("CARGO_BIN_EXE_lbd")];
    let words = [&words[..], &["balancer", "--config", file.to_str().unwrap()]].concat();
    let Ok(version) = std::process::Command::new("setpriv").arg("--version").output() else {
        eprintln!("skipped: there is no setpriv on this machine");
        return;
    };
    assert!(version.status.success());
    let finished = Running::start("setpriv".as_ref(), &words, site.path()).finish();
    if finished.stderr.contains("setpriv:") {
        eprintln!("skipped: {}", finished.stderr);
        return;
    }
    assert!(finished.code == 2 && finished.stderr.contains(NO_CAPABILITY), "{finished:?}");
}

#[test]
fn a_server_that_is_not_there_disturbs_nobody_else() {
    let site = Site::new(json!({}));
    let _servers = echoes(&site, 2); // and the third port is closed
    let balancer = site.pools(pool(&site, 3, json!({})));
    let clients: Vec<Asker> = (0..16).map(|_| Asker::to(front(&site))).collect();
    let (mut asked, mut lost) = (0, 0);
    for round in 0..200 {
        let request = format!("round {round}");
        for client in &clients {
            asked += 1;
            client.send(request.as_bytes());
            match answer_or_loss(client, &balancer, lost) {
                Some(answer) => drop(number(request.as_bytes(), &answer)),
                None => lost += 1,
            }
        }
    }
    // The first, and one now and then for it to prove itself on, ever more rarely.
    assert!(lost <= 16, "{lost} of {asked}");
    let pool = balancer.stop().pools.remove(0);
    assert_eq!((pool.answered, pool.datagram.unwrap().timed_out), (asked - lost, lost));
    assert!(pool.servers[2].datagram.unwrap().errors > 0, "{pool:?}");
    assert!(
        pool.servers[..2]
            .iter()
            .all(|server| server.datagram.unwrap().timed_out == 0 && server.answered > 1_000)
    );
    assert_adds_up(&pool);
}

/// The answer, or nothing when the balancer has given up more requests than `lost`.
fn answer_or_loss(client: &Asker, balancer: &Running, lost: u64) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 64];
    client.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let look = || match client.0.recv(&mut buffer) {
        Ok(len) => Some(Some(buffer[..len].to_vec())),
        Err(_) => (balancer.status().pools[0].datagram.unwrap().timed_out > lost).then_some(None),
    };
    wait_for("an answer or a timeout", look, || balancer.stderr())
}

#[test]
fn a_client_that_is_gone_before_its_answer_disturbs_no_other() {
    let site = Site::new(json!({}));
    let server = slow_at_times(&site);
    let balancer = site.pools(pool(&site, 1, json!({})));
    let other = Asker::to(front(&site));
    for _ in 0..20 {
        let seen = server.count();
        let leaving = Asker::to(front(&site));
        leaving.send(b"slow");
        let way = has_seen(&server, seen + 1)[seen].from;
        drop(leaving);
        // The ICMP error arrives at the socket that also serves the other client.
        server.send(way, b"for no client");
        assert_eq!(ask(&other, b"still here"), 1);
    }
    let last = balancer.stop();
    assert_eq!((last.pools[0].answered, last.pools[0].datagram.unwrap().timed_out), (40, 0));
    assert_adds_up(&last.pools[0]);
}

#[test]
fn without_a_rested_pair_a_request_is_refused_and_counted() {
    let (site, servers, balancer) = started(1, json!({"ports": 1, "hold": "10min"}));
    let (first, second) = (Asker::to(front(&site)), Asker::to(front(&site)));
    assert_eq!(ask(&first, b"one"), 1);
    second.send(b"two");
    balancer.pool_when("it is refused", |pool| pool.refused.get("no_port") == Some(&1));
    assert_eq!(ask(&first, b"three"), 1, "its own pair need not rest");
    assert_eq!(servers[0].count(), 2);
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn a_flood_of_sources_takes_no_descriptors() {
    for affinity in ["none", "client"] {
        let (site, _servers, balancer) = started(2, json!({"affinity": affinity, "timeout": "200ms"}));
        let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", balancer.pid())).unwrap().count();
        let client = Asker::to(front(&site));
        assert!(ask(&client, b"before") > 0);
        let before = descriptors();
        for n in 0..3_000_u16 {
            let [high, low] = n.to_be_bytes();
            Asker::from(([127, 1 + high, low, 1], 0).into(), front(&site)).send(&n.to_be_bytes());
            if n % 100 == 99 {
                let sent = u64::from(n) + 2; // with the one before
                balancer.pool_when("it is read", |pool| pool.arrived == sent);
            }
        }
        assert_eq!(descriptors(), before, "affinity {affinity}");
        let look = || {
            client.send(b"after");
            client.0.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            client.0.recv(&mut [0; 16]).ok()
        };
        wait_for("it is served again", look, || balancer.stderr());
        assert_eq!(descriptors(), before, "affinity {affinity}");
        assert_adds_up(&balancer.stop().pools[0]);
    }
}
