//! What a takeover continues: flows with their ports, counters, events, history, uptime; and what a
//! refused takeover says.

mod common;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::fakes::v4;
use common::{Running, Site, wait_for};
use lbd::admin::status::{History, Status};
use serde_json::{Value, json};

const FLOWS: usize = 12;

/// Servers that answer with their name and the port from which a datagram came.
fn start_server(addr: SocketAddr) {
    let socket = UdpSocket::bind(addr).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(format!("{} {}", addr.port(), peer.port()).as_bytes(), peer);
        }
    });
}

fn pool(site: &Site, more: &Value) -> Value {
    let mut pool = json!({
        "name": "games",
        "listen": v4(site.port(0)).to_string(),
        "protocol": "datagram",
        "affinity": "client",
        "servers": [v4(site.port(1)).to_string(), v4(site.port(2)).to_string()],
        "workers": 4,
        "ports": 64,
    });
    pool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    pool
}

/// Asks for each flow: the server and the port from which it heard.
fn ask(clients: &[UdpSocket]) -> Vec<String> {
    let ask = |client: &UdpSocket| {
        client.send(b"hello").unwrap();
        let mut bytes = [0; 64];
        let len = client.recv(&mut bytes).expect("nothing is lost");
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    clients.iter().map(ask).collect()
}

fn get(site: &Site, path: &str) -> String {
    let addr = v4(site.admin_port());
    let look = || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(addr).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    };
    wait_for(path, look, String::new)
}

fn status(site: &Site) -> Status {
    serde_json::from_str(&get(site, "/api/status")).unwrap()
}

/// The totals of /metrics, by name and labels.
fn totals(site: &Site) -> BTreeMap<String, f64> {
    let text = get(site, "/metrics");
    let is_total = |name: &str| ["_total", "_count", "_bucket"].iter().any(|end| name.ends_with(end));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let split = lines.filter_map(|line| line.rsplit_once(' '));
    split
        .filter(|(name, _)| is_total(name.split('{').next().unwrap()))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

fn take_over(site: &Site, old: Running, pools: &Value) -> Running {
    let new = site.start_pools(pools, &["--takeover"]);
    let ended = old.finish();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, ""), "no summary: {ended:?}");
    new.wait_for_word("pool games: datagram on ");
    new
}

/// Three takeovers in a row, with these changes of the pool, while flows run.
fn flows_keep_their_ports(changes: [Value; 4]) {
    let site = Site::new(json!({}));
    [1, 2].into_iter().for_each(|n| start_server(v4(site.port(n))));
    let clients: Vec<UdpSocket> = (0..FLOWS)
        .map(|_| {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(v4(site.port(0))).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            client
        })
        .collect();
    let [first, rest @ ..] = changes;
    let mut balancer = site.start_pools(&json!([pool(&site, &first)]), &[]);
    balancer.wait_for_word("pool games: datagram on ");
    let ways = ask(&clients);
    for (round, change) in (2..).zip(rest) {
        balancer = take_over(&site, balancer, &json!([pool(&site, &change)]));
        assert_eq!(ask(&clients), ways, "after {change}");
        let asked = round * FLOWS as u64;
        let adds_up = || {
            let pool = status(&site).pools.remove(0);
            let of = pool.datagram.unwrap();
            let is_so = (pool.received, of.delivered, of.flows) == (asked, asked, FLOWS as u64);
            (is_so && of.flows_opened == FLOWS as u64).then_some(())
        };
        wait_for("counters of all processes", adds_up, || format!("{:?}", status(&site).pools[0]));
    }
}

#[test]
fn flows_keep_server_and_port_over_three_takeovers() {
    flows_keep_their_ports([json!({}), json!({}), json!({}), json!({"idle_timeout": "5m"})]);
}

#[test]
fn flows_keep_server_and_port_with_io_uring() {
    flows_keep_their_ports([
        json!({"io": "auto"}),
        json!({"io": "mio"}),
        json!({"io": "auto"}),
        json!({"io": "auto"}),
    ]);
}

#[test]
fn flows_keep_server_and_port_with_fewer_workers_and_other_ports() {
    flows_keep_their_ports([
        json!({}),
        json!({"workers": 3, "ports": 16}),
        json!({"workers": 2, "ports": 200}),
        json!({"workers": 1}),
    ]);
}

#[test]
fn a_pool_that_comes_and_one_that_goes_change_no_flow_of_another() {
    let site = Site::new(json!({}));
    [1, 2].into_iter().for_each(|n| start_server(v4(site.port(n))));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(v4(site.port(0))).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let clients = [client];
    let other = |n: u16| {
        json!({"name": "other", "listen": v4(site.port(n)).to_string(), "protocol": "datagram",
        "servers": [v4(site.port(1)).to_string()]})
    };
    let games = || pool(&site, &json!({}));
    let mut balancer = site.start_pools(&json!([games(), other(5)]), &[]);
    balancer.wait_for_word("pool games: datagram on ");
    let ways = ask(&clients);
    for pools in [json!([games()]), json!([games(), other(6)]), json!([games(), other(6)])] {
        balancer = take_over(&site, balancer, &pools);
        assert_eq!(ask(&clients), ways);
    }
    drop(balancer);
}

#[test]
fn counters_events_history_and_uptime_go_on() {
    let site = Site::new(json!({}));
    let (mut balancer, _servers) = site.pool(2, &[]);
    let (code, _) = site.ask(&["--requests", "200"]);
    assert_eq!(code, 0);
    let two_points = || {
        let history: History = serde_json::from_str(&get(&site, "/api/history")).unwrap();
        (history.seconds.len() > 1).then_some(history)
    };
    let received = || (status(&site).native()?.received >= 200).then_some(());
    wait_for("the requests in the status", received, String::new);
    let history = wait_for("two points of the history", two_points, String::new);
    for round in 0..3 {
        let (before, old) = (totals(&site), status(&site));
        let successor = site.start(&["balancer", "--takeover", "--quiet"]);
        assert_eq!(balancer.finish().code, 0);
        balancer = successor;
        let (after, new) = (totals(&site), status(&site));
        for (name, value) in &before {
            let now = after.get(name);
            assert!(now.is_some_and(|now| now >= value), "round {round}: {name}: {value}, then {now:?}");
        }
        assert_ne!(new.pid, old.pid);
        assert_eq!(new.started_unix_ms, old.started_unix_ms);
        assert!(new.uptime_s >= old.uptime_s && new.process_started_unix_ms > old.process_started_unix_ms);
        assert!(new.predecessors_cpu_s > old.predecessors_cpu_s);
        let first = &old.events[0];
        assert!(new.events.contains(first), "{first:?} in {:?}", new.events);
        let numbers: Vec<u64> = new.events.iter().map(|event| event.number).collect();
        assert!(numbers.is_sorted_by(|one, next| one + 1 == *next), "{numbers:?}");
        let now: History = serde_json::from_str(&get(&site, "/api/history")).unwrap();
        assert_eq!(now.seconds[0], history.seconds[0]);
    }
}

#[test]
fn each_refusal_names_file_line_and_key_and_a_way_that_works() {
    let site = Site::new(json!({"load_balancer": {"workers": 1}}));
    let (mut balancer, _servers) = site.pool(1, &[]);
    let text = std::fs::read_to_string(site.path().join("config.json")).unwrap();
    let pid = balancer.pid();
    let reload = || {
        let refused = site.start(&["reload"]).finish();
        assert_ne!(refused.code, 0);
        refused.stderr
    };
    let restart = "restart the balancer, since requests in flight depend on it";
    let takeover = format!("let a new process take over: kill -USR2 {pid}");
    for (key, value, named, way) in [
        ("workers", json!(2), "load_balancer.workers", restart),
        ("frame_size", json!(512), "load_balancer.frame_size", restart),
        ("pin", json!(true), "load_balancer.pin", &takeover),
    ] {
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["load_balancer"][key] = value;
        let lines = serde_json::to_string_pretty(&config).unwrap();
        let line = lines.lines().position(|line| line.contains(&format!("\"{key}\""))).unwrap() + 1;
        site.write("config.json", &lines);
        let said = reload();
        let expected = format!("config.json:{line}: {named}: cannot change while the balancer runs; {way}");
        assert!(said.contains(&expected), "{said}");
        if way == restart {
            let refused = site.start(&["balancer", "--takeover"]).finish();
            let expected = format!("config.json:{line}: {named}: the running balancer has ");
            assert!(refused.code == 2 && refused.stderr.contains(&expected), "{refused:?}");
            assert!(refused.stderr.trim_end().ends_with("restart without --takeover"), "{refused:?}");
            let log = || site.log("balancer/balancer.log");
            for event in ["handover failed, still serving", "takeover failed"] {
                let is_logged =
                    || log().lines().any(|line| line.contains(event) && line.contains(named)).then_some(());
                wait_for(event, is_logged, log);
            }
        }
    }
    // What the advice says does work.
    balancer.signal(libc::SIGUSR2);
    let has_followed = || (status(&site).pid != pid as u32).then_some(());
    wait_for("the new process", has_followed, || balancer.stderr());
    let (code, summary) = site.ask(&["--requests", "50"]);
    assert_eq!((code, summary.answered, summary.retried), (0, 50, 0));
}
