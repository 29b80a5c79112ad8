use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::config::{
    Affinity, Check, Config, DatagramPool, HealthCheck, PoolRun, PoolServer, Protocol, ProxyProtocol, Target,
    describe, schema,
};
use crate::io::IoChoice;
use crate::pool::health::Rules;
use crate::pool::select::PolicyKind;
use crate::pool::waiting::Limit;
use crate::role::datagram::DatagramSettings;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Some(Path::new("config.json"))).map_err(|e| e.to_string())
}

/// A pool as small as it can be, with these keys changed (or removed, where they are null).
fn pool(changes: Value) -> Value {
    let mut pool = json!({"listen": "127.0.0.1:5300", "protocol": "datagram", "servers": ["127.0.0.1:5301"]});
    let of_pool = pool.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        of_pool.insert(key.clone(), value.clone());
        if value.is_null() {
            of_pool.remove(key);
        }
    }
    pool
}

fn dns(changes: Value) -> Value {
    let mut changes = changes;
    changes["protocol"] = "dns".into();
    pool(changes)
}

fn flows(changes: Value) -> Value {
    let mut changes = changes;
    changes["affinity"] = "client".into();
    pool(changes)
}

fn accepted(pools: &[Value]) -> Config {
    let text = json!({ "pools": pools }).to_string();
    parse(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn one(pool: Value) -> DatagramPool {
    accepted(&[pool]).datagram_pools().next().unwrap().clone()
}

/// The error, without the file and the line that all of these texts have in common.
fn refused(pools: &[Value]) -> String {
    refused_beside(pools, json!({}))
}

fn refused_beside(pools: &[Value], mut file: Value) -> String {
    file["pools"] = pools.into();
    let text = file.to_string();
    let error = parse(&text).expect_err(&text);
    error.strip_prefix("config.json:1: ").unwrap_or_else(|| panic!("{error}")).to_owned()
}

#[test]
fn the_smallest_pools_have_the_defaults() {
    let second = Duration::from_secs(1);
    let datagram = one(pool(json!({"workers": 2})));
    let settings = DatagramSettings {
        name: "pool-1".to_owned(),
        protocol: Protocol::Datagram,
        affinity: Affinity::None,
        workers: 2,
        servers_max: 16,
        policy: PolicyKind::ShortestQueue,
        max_outstanding: None,
        waiting_max: 4_096,
        timeout: 2 * second,
        replies: Some(1),
        hold: None,
        idle_timeout: 120 * second,
        drain_timeout: 30 * second,
        proxy_protocol: ProxyProtocol::Off,
        transparent: false,
        allow: vec![],
        deny: vec![],
        rate_per_source: None,
        rate_limit_truncate: 2,
        notify_all: false,
        flows_per_source: None,
        tcp_connections_per_source: 16,
        tcp_idle_timeout: 30 * second,
        health: HealthCheck {
            check: Check::None,
            interval: second,
            timeout: second,
            rcodes: vec![0, 3],
            rules: Rules {
                rise: 2,
                fall: 3,
                down_max: 0.5,
                hold_down_max: 300 * second,
                slow_start: Duration::ZERO,
            },
        },
    };
    let expected = DatagramPool {
        settings,
        listen: vec!["127.0.0.1:5300".parse().unwrap()],
        servers: vec![PoolServer {
            target: Target::Addr("127.0.0.1:5301".parse().unwrap()),
            weight: 1,
            id: 0,
        }],
        run: None,
        ports: 256,
        resolve_interval: 30 * second,
        tcp_connections: 0,
        pin: false,
        io: IoChoice::Auto,
    };
    assert_eq!(datagram, expected);
    let check = Check::Dns { name: vec![0], kind: 2 };
    let health = HealthCheck { check, ..expected.settings.health.clone() };
    let settings = DatagramSettings {
        protocol: Protocol::Dns,
        health,
        tcp_connections_per_source: 256,
        ..expected.settings.clone()
    };
    let dns = one(dns(json!({"workers": 2})));
    let expected = DatagramPool { settings, ports: 32, tcp_connections: 1_024, ..expected };
    assert_eq!(dns, expected);
    let flows = one(flows(json!({})));
    assert_eq!((flows.ports, flows.settings.replies), (1_024, None));
    let workers = one(pool(json!({}))).settings.workers;
    assert_eq!(workers, Config::default().native().unwrap().workers);
}

#[test]
fn every_key_is_read() {
    let written = json!({
        "name": "sip.a_b-1", "listen": ["0.0.0.0:5060", "10.0.0.1:5061"], "affinity": "client",
        "policy": "two_choices", "servers_max": "100",
        "servers": ["a.example:5060", {"address": "10.0.0.2:5062", "weight": "7", "id": 9}],
        "max_outstanding": 50, "timeout": 500, "replies": 20, "hold": 0, "idle_timeout": "1h",
        "drain_timeout": "7s", "ports": 500,
        "proxy_protocol": "first", "transparent": true,
        "allow": ["10.1.2.3/8", "::1"], "deny": ["::ffff:10.0.0.9"],
        "rate_per_source": "0.5", "flows_per_source": 7,
        "resolve_interval": "1m", "workers": 3, "pin": true, "io": "mio",
        "health": {"check": "payload", "send": "hex:00ff", "expect": "ok", "interval": "2s", "timeout": 300,
                   "rise": 4, "fall": 5, "down_max": 1, "hold_down_max": 0, "slow_start": "30s"},
    });
    let seconds = Duration::from_secs;
    let pool = one(pool(written));
    let listen: Vec<String> = pool.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:5060", "10.0.0.1:5061"]);
    let servers: Vec<_> = pool.servers.iter().map(|s| (s.target.to_string(), s.weight, s.id)).collect();
    assert_eq!(servers, [("a.example:5060".to_owned(), 1, 0), ("10.0.0.2:5062".to_owned(), 7, 9)]);
    assert_eq!((pool.settings.name.as_str(), pool.settings.affinity), ("sip.a_b-1", Affinity::Client));
    assert_eq!(
        (pool.settings.policy, pool.settings.servers_max, pool.settings.max_outstanding),
        (PolicyKind::TwoChoices, 100, Some(Limit::Fixed(50)))
    );
    assert_eq!(
        (pool.settings.timeout, pool.settings.replies, pool.settings.hold),
        (Duration::from_millis(500), Some(20), Some(seconds(0)))
    );
    assert_eq!((pool.settings.idle_timeout, pool.ports), (seconds(3_600), 500));
    assert_eq!(pool.settings.drain_timeout, seconds(7));
    assert_eq!((pool.settings.proxy_protocol, pool.settings.transparent), (ProxyProtocol::First, true));
    assert_eq!(pool.settings.allow, ["10.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap()));
    assert_eq!(pool.settings.deny, ["10.0.0.9/32".parse().unwrap()]);
    assert_eq!((pool.settings.rate_per_source, pool.resolve_interval), (Some(0.5), seconds(60)));
    assert_eq!(pool.settings.flows_per_source, Some(7));
    assert_eq!((pool.settings.workers, pool.pin, pool.io), (3, true, IoChoice::Mio));
    let check = Check::Payload { send: vec![0, 255], expect: b"ok".to_vec() };
    let (interval, timeout) = (seconds(2), Duration::from_millis(300));
    let rules =
        Rules { rise: 4, fall: 5, down_max: 1.0, hold_down_max: Duration::ZERO, slow_start: seconds(30) };
    let rcodes = vec![0, 3];
    assert_eq!(pool.settings.health, HealthCheck { check, interval, timeout, rcodes, rules });
}

#[test]
fn a_server_that_leaves_keeps_its_flows_for_their_idle_timeout() {
    for (keys, seconds) in [
        (json!({}), 30),
        (json!({"affinity": "client"}), 120),
        (json!({"affinity": "client", "idle_timeout": "5s"}), 5),
        (json!({"affinity": "client", "idle_timeout": "1h"}), 300),
        (json!({"affinity": "client", "idle_timeout": "1h", "drain_timeout": "2h"}), 7_200),
        (json!({"drain_timeout": 0}), 0),
    ] {
        let shown = keys.to_string();
        assert_eq!(one(pool(keys)).settings.drain_timeout, Duration::from_secs(seconds), "{shown}");
    }
}

#[test]
fn a_dns_pool_reads_what_is_its_own() {
    let written = json!({"servers": ["192.0.2.1", "dns.example"], "tcp_connections": 0, "affinity": "none",
                         "proxy_protocol": "every", "transparent": true, "notify": "all",
                         "rate_per_source": 5, "rate_limit_truncate": "3",
                         "health": {"query": "example.com aaaa", "rcodes": ["refused", "NOERROR"]}});
    let read = one(dns(written));
    let servers: Vec<_> = read.servers.iter().map(|s| s.target.to_string()).collect();
    assert_eq!(servers, ["192.0.2.1:53", "dns.example:53"]);
    assert_eq!((read.tcp_connections, read.settings.proxy_protocol), (0, ProxyProtocol::Every));
    let tcp = json!({"tcp_connections": 100, "tcp_connections_per_source": 7, "tcp_idle_timeout": "5s"});
    let read_tcp = one(dns(tcp)).settings;
    assert_eq!((read_tcp.tcp_connections_per_source, read_tcp.tcp_idle_timeout), (7, Duration::from_secs(5)));
    for (connections, per_source) in [(2, 16), (100, 25), (10_000, 2_500)] {
        let read = one(dns(json!({"tcp_connections": connections}))).settings;
        assert_eq!(read.tcp_connections_per_source, per_source);
    }
    assert_eq!(read.settings.health.check, Check::Dns { name: b"\x07example\x03com\0".to_vec(), kind: 28 });
    assert_eq!(read.settings.health.rcodes, [5, 0]);
    let check = one(pool(json!({"health": {"check": "dns"}}))).settings.health.check;
    assert_eq!(check, Check::Dns { name: vec![0], kind: 2 }, "a datagram pool may be DNS");
    assert_eq!(one(dns(json!({"health": {"check": "none"}}))).settings.health.check, Check::None);
    assert_eq!(one(pool(json!({"replies": 0}))).settings.replies, Some(0));
}

#[test]
fn the_defaults_in_the_schema_are_the_defaults() {
    let properties = &schema()["properties"]["pools"]["items"]["properties"];
    let defaults = |properties: &Value| -> Value {
        let with_default = properties.as_object().unwrap().iter().filter_map(|(key, node)| {
            // Two keys go with a check by DNS only; the keys of native pools have a test of their own.
            let is_native = node["description"].as_str().unwrap().starts_with("Native: ");
            let is_of_dns = ["query", "rcodes"].contains(&&**key);
            let default = node.get("default").filter(|_| !is_of_dns && !is_native)?;
            Some((key.clone(), default.clone()))
        });
        Value::Object(with_default.collect())
    };
    let mut written = defaults(properties);
    written["health"] = defaults(&properties["health"]["properties"]);
    let mut run = json!({"command": "serve {port}", "port_range_start": 5310, "port_range_end": 5400});
    let least = one(pool(json!({"run": run})));
    run.as_object_mut()
        .unwrap()
        .extend(defaults(&properties["run"]["properties"]).as_object().unwrap().clone());
    assert!(run.as_object().unwrap().len() > 10, "{run}");
    assert_eq!(one(pool(json!({"run": run}))), least);
    let mut take = |key: &str| written.as_object_mut().unwrap().remove(key).unwrap();
    let (idle_timeout, notify, truncate) =
        (take("idle_timeout"), take("notify"), take("rate_limit_truncate"));
    assert_eq!(one(dns(json!({"notify": notify}))), one(dns(json!({}))));
    let truncated = json!({"rate_per_source": 5, "rate_limit_truncate": truncate});
    assert_eq!(one(dns(truncated)), one(dns(json!({"rate_per_source": 5}))));
    let tcp_idle_timeout = take("tcp_idle_timeout");
    assert_eq!(one(dns(json!({"tcp_idle_timeout": tcp_idle_timeout}))), one(dns(json!({}))));
    assert_eq!(written.as_object().unwrap().len(), 10, "{written}");
    assert_eq!(one(pool(written)), one(pool(json!({}))));
    assert_eq!(one(flows(json!({"idle_timeout": idle_timeout}))), one(flows(json!({}))));
    let [query, rcodes] = ["query", "rcodes"].map(|key| &properties["health"]["properties"][key]["default"]);
    assert_eq!(one(dns(json!({"health": {"query": query, "rcodes": rcodes}}))), one(dns(json!({}))));
    let weight = properties["servers"]["items"]["anyOf"][1]["properties"]["weight"]["default"].clone();
    let server = json!([{"address": "127.0.0.1:5301", "weight": weight}]);
    assert_eq!(one(pool(json!({"servers": server}))), one(pool(json!({}))));
}

#[test]
fn a_mistake_is_refused_with_its_key_and_the_remedy() {
    let many = |n: usize| (0..n).map(|i| format!("h{i}:1")).collect::<Vec<_>>();
    for (pool, says) in [
        (pool(json!({"listen": null})), "listen: is missing; write the client-side address"),
        (pool(json!({"listen": []})), "listen: is missing; write the client-side address"),
        (
            pool(json!({"listen": "here"})),
            "listen: \"here\" is not an address with a port; write IP:PORT, [IPV6]:PORT or *:PORT",
        ),
        (pool(json!({"listen": ["*:1", "*:0"]})), "listen[1]: \"*:0\" has port 0; write a port"),
        (pool(json!({"listen": vec!["*:1"; 65]})), "listen: 65 addresses are too many; 64"),
        (pool(json!({"listen": 53})), "listen: must be a string or a list of strings, not 53"),
        (pool(json!({"protocol": null})), "protocol: is missing; write native or dns or datagram"),
        (pool(json!({"protocol": "tcp"})), "protocol: \"tcp\" is unknown; use native or dns or datagram"),
        (pool(json!({"servers": null})), "servers: there is none; list at least one"),
        (pool(json!({"servers": []})), "servers: there is none; list at least one"),
        (pool(json!({"servers": "127.0.0.1:1"})), "servers: must be a list of strings or objects, not"),
        (pool(json!({"servers": many(4_097)})), "servers: 4097 servers are too many; 4096"),
        (pool(json!({"servers": ["a:1", "b"]})), "servers[1]: \"b\" has no port; write b:PORT"),
        (pool(json!({"servers": [{"weight": 1}]})), "servers[0].address: is missing; write IP:PORT"),
        (
            pool(json!({"servers": [{"address": "127.0.0.1:0"}]})),
            "servers[0].address: \"127.0.0.1:0\" has port 0",
        ),
        (pool(json!({"servers": ["0.0.0.0:1"]})), "servers[0]: \"0.0.0.0:1\" is every address and no server"),
        (
            pool(json!({"servers": ["224.0.0.1:1"]})),
            "servers[0]: \"224.0.0.1:1\" is a multicast or broadcast address",
        ),
        (pool(json!({"servers": ["255.255.255.255:1"]})), "is a multicast or broadcast address"),
        (pool(json!({"servers": [{"address": "a:1", "weight": 101}]})), "servers[0].weight: \"101\" is not"),
        (
            pool(json!({"servers": [{"address": "a:1", "id": -1}]})),
            "servers[0].id: \"-1\" is not a whole number",
        ),
        (
            pool(json!({"servers": ["a:1", "b:1", "A:1"]})),
            "servers[2]: a:1 is listed twice, at positions 0 and 2",
        ),
        (
            pool(json!({"servers": ["127.0.0.1:1", {"address": "[::ffff:127.0.0.1]:1"}]})),
            "servers[1].address: 127.0.0.1:1 is listed twice, at positions 0 and 1 from 0; remove one",
        ),
        (
            pool(json!({"servers": [{"address": "a:1", "id": 1}, "b:1"]})),
            "servers[0].id: id 1 is taken twice, by the servers at positions 0 and 1 from 0; give each its \
             own",
        ),
        (pool(json!({"servers_max": 0})), "servers_max: \"0\" is not a whole number from 1 to 4096"),
        (
            pool(json!({"servers": ["a:1", "b:1"], "servers_max": 1})),
            "servers_max: 1 leaves no room for 2 servers; raise it",
        ),
        (pool(json!({"name": ""})), "name: \"\" is not a name; use 1 to 32 letters"),
        (pool(json!({"name": "a b"})), "name: \"a b\" is not a name"),
        (pool(json!({"name": "x".repeat(33)})), "is not a name; use 1 to 32"),
        (pool(json!({"name": "native"})), "name: \"native\" is the name of a native pool; choose another"),
        (pool(json!({"affinity": "server"})), "affinity: \"server\" is unknown; use none or client"),
        (pool(json!({"policy": "best"})), "policy: unknown policy \"best\": use shortest_queue"),
        (
            flows(json!({"policy": "shortest_delay"})),
            "policy: policy shortest_delay needs response times, and affinity: client waits for no response",
        ),
        (
            pool(json!({"policy": "shortest_delay", "replies": 0})),
            "and replies: 0 waits for no response; use shortest_queue",
        ),
        (pool(json!({"io": "epoll"})), "io: \"epoll\" is unknown; use auto, mio or io_uring"),
        (
            pool(json!({"protocol": "datagram", "replies": 0, "max_outstanding": 1})),
            "max_outstanding: no request is outstanding without responses (replies: 0)",
        ),
        (
            pool(json!({"max_outstanding": 0})),
            "max_outstanding: \"0\" is neither a whole number from 1 to 1000000 nor \"auto\"",
        ),
        (pool(json!({"timeout": "61s"})), "timeout: \"61s\" is not a duration from 1ms to 1m"),
        (pool(json!({"timeout": 0})), "timeout: \"0\" is not a duration from 1ms to 1m"),
        (pool(json!({"replies": 1_000_001})), "replies: \"1000001\" is not a whole number from 0 to 1000000"),
        (pool(json!({"replies": 2})), "replies: more than one response needs affinity: client"),
        (
            pool(json!({"flows_per_source": 7})),
            "flows_per_source: needs affinity: client; add that, or remove the key",
        ),
        (
            flows(json!({"flows_per_source": 0})),
            "flows_per_source: \"0\" is not a whole number from 1 to 1000000",
        ),
        (pool(json!({"notify": "all"})), "notify: does not go with protocol datagram; remove the key"),
        (dns(json!({"notify": "some"})), "notify: \"some\" is unknown; use one or all"),
        (
            dns(json!({"rate_limit_truncate": 2})),
            "rate_limit_truncate: needs rate_per_source; add that, or remove the key",
        ),
        (
            dns(json!({"rate_per_source": 5, "rate_limit_truncate": 1_001})),
            "rate_limit_truncate: \"1001\" is not a whole number from 0 to 1000",
        ),
        (pool(json!({"hold": "11m"})), "hold: \"11m\" is not a duration from 0s to 10m"),
        (pool(json!({"idle_timeout": 1_000})), "idle_timeout: needs affinity: client; add that, or remove"),
        (flows(json!({"idle_timeout": 9})), "idle_timeout: \"9\" is not a duration from 10ms to 1day"),
        (
            dns(json!({"replies": 1})),
            "replies: does not go with protocol dns; remove the key, or use protocol datagram",
        ),
        (dns(json!({"hold": 1})), "hold: does not go with protocol dns"),
        (dns(json!({"idle_timeout": 1})), "idle_timeout: does not go with protocol dns"),
        (dns(json!({"affinity": "client"})), "affinity: does not go with protocol dns"),
        (
            pool(json!({"tcp_connections": 0})),
            "tcp_connections: does not go with protocol datagram; remove the key, or use protocol dns",
        ),
        (
            pool(json!({"tcp_idle_timeout": "1s"})),
            "tcp_idle_timeout: does not go with protocol datagram; remove the key, or use protocol dns",
        ),
        (dns(json!({"tcp_idle_timeout": 0})), "tcp_idle_timeout: \"0\" is not"),
        (
            dns(json!({"tcp_connections_per_source": 0})),
            "tcp_connections_per_source: \"0\" is not a whole number",
        ),
        (dns(json!({"tcp_connections": 100_001})), "tcp_connections: \"100001\" is not a whole number"),
        (pool(json!({"ports": 0})), "ports: \"0\" is not a whole number from 1 to 32768"),
        (pool(json!({"ports": 32_769})), "ports: \"32769\" is not a whole number from 1 to 32768"),
        (pool(json!({"workers": 33})), "workers: \"33\" is not a whole number from 1 to 32"),
        (pool(json!({"ports": 2, "workers": 3})), "workers: ports = 2 is less than workers = 3, and each"),
        (
            pool(json!({"proxy_protocol": "v2"})),
            "proxy_protocol: \"v2\" is unknown; use off or first or every",
        ),
        (
            pool(json!({"proxy_protocol": "first"})),
            "proxy_protocol: first needs affinity: client; add that, or use every",
        ),
        (pool(json!({"transparent": "yes"})), "transparent: must be true or false, not \"yes\""),
        (
            pool(json!({"allow": ["10.0.0.0/8", "10.0.0.0/33"]})),
            "allow[1]: \"10.0.0.0/33\" is no address and no network",
        ),
        (
            pool(json!({"deny": []})),
            "deny: the list is empty; write addresses or networks, or remove the key",
        ),
        (pool(json!({"allow": "10.0.0.0/8"})), "allow: must be a list of strings, not"),
        (
            pool(json!({"rate_per_source": 0})),
            "rate_per_source: \"0\" is not a number from 0.001 to 10000000",
        ),
        (
            pool(json!({"resolve_interval": 999})),
            "resolve_interval: \"999\" is not a duration from 1s to 1day",
        ),
        (pool(json!({"health": "dns"})), "health: must be an object in { }, not \"dns\""),
        (
            pool(json!({"health": {"check": "ping"}})),
            "health.check: \"ping\" is unknown; use none or dns or payload",
        ),
        (
            pool(json!({"health": {"query": ". NS"}})),
            "health.query: goes with check: dns only, and this is none",
        ),
        (
            dns(json!({"health": {"query": "example.com"}})),
            "health.query: \"example.com\" is not a name and a type",
        ),
        (
            dns(json!({"health": {"rcodes": ["NOERROR", "OK"]}})),
            "health.rcodes[1]: \"OK\" is an unknown RCODE; use NOERROR, FORMERR",
        ),
        (dns(json!({"health": {"rcodes": []}})), "health.rcodes: the list is empty; write names"),
        (
            pool(json!({"health": {"rcodes": ["NOERROR"]}})),
            "health.rcodes: goes with check: dns only, and this is none",
        ),
        (
            dns(json!({"health": {"send": "x"}})),
            "health.send: goes with check: payload only, and this is dns",
        ),
        (dns(json!({"health": {"expect": "x"}})), "health.expect: goes with check: payload only"),
        (
            dns(json!({"health": {"check": "payload", "query": "a A", "send": "x"}})),
            "health.query: goes with check: dns",
        ),
        (pool(json!({"health": {"check": "payload"}})), "health.send: is missing; write what to send"),
        (
            pool(json!({"health": {"check": "payload", "send": "hex:0"}})),
            "health.send: \"hex:0\" does not hold pairs",
        ),
        (
            pool(json!({"health": {"check": "payload", "send": "x", "expect": ""}})),
            "health.expect: \"\" is empty",
        ),
        (
            pool(json!({"health": {"interval": 9}})),
            "health.interval: \"9\" is not a duration from 10ms to 1h",
        ),
        (pool(json!({"health": {"timeout": 0}})), "health.timeout: \"0\" is not a duration"),
        (
            pool(json!({"health": {"timeout": "2s"}})),
            "health.timeout: health.timeout = 2s is longer than health.interval = 1s; lower it, or raise",
        ),
        (pool(json!({"health": {"rise": 0}})), "health.rise: \"0\" is not a whole number from 1 to 100"),
        (pool(json!({"health": {"fall": 101}})), "health.fall: \"101\" is not a whole number from 1 to 100"),
        (pool(json!({"health": {"slow_start": "11m"}})), "health.slow_start: \"11m\" is not a duration"),
        (pool(json!({"health": {"hold_down_max": "2d"}})), "health.hold_down_max: \"2d\" is not a duration"),
        (pool(json!({"health": {"down_max": 1.1}})), "health.down_max: \"1.1\" is not a number from 0 to 1"),
        (pool(json!({"prots": 5})), "prots: unknown key; did you mean \"ports\"?"),
        (
            pool(json!({"health": {"intervall": 5}})),
            "health.intervall: unknown key; did you mean \"interval\"?",
        ),
        (
            pool(json!({"servers": [{"adress": "a:1"}]})),
            "servers[0].adress: unknown key; did you mean \"address\"?",
        ),
    ] {
        let error = refused(&[pool]);
        assert!(error.starts_with("pools[0].") && error.contains(says), "{says}\n{error}");
    }
}

#[test]
fn a_mistake_of_the_list_is_refused() {
    assert_eq!(refused(&[]), "pools: the list is empty; list a pool, or remove the key");
    assert_eq!(refused(&vec![pool(json!({})); 65]), "pools: 65 pools are too many; 64 are the most");
    assert_eq!(refused(&[json!(5)]), "pools[0]: must be an object in { }, not 5");
    assert!(
        parse(r#"{"pools": {}}"#).unwrap_err().contains("pools: must be a list of objects, not an object")
    );
    assert!(parse(r#"{"pools": null}"#).unwrap_err().contains("pools: null is no value; remove the key"));
    let elsewhere = json!({"name": "pool-1", "listen": "127.0.0.1:5310"});
    let error = refused(&[pool(json!({})), pool(elsewhere)]);
    assert_eq!(error, "pools[1].name: two pools have the name \"pool-1\"; give each its own");
}

#[test]
fn an_error_has_the_line_of_its_key_or_of_what_is_around_it() {
    let text = r#"{
"pools": [
  {"listen": "*:5300", "protocol": "dns", "servers": ["192.0.2.1"]},
  {
    "listen": [
      "127.0.0.1:5301",
      "127.0.0.1:5302"
    ],
    "protocol": "datagram",
    "servers": [
      "192.0.2.1:1",
      {"address": "192.0.2.2:1",
       "weight": 1}
    ],
    "health": {
      "interval": "1s"
    }
  }
]}"#;
    parse(text).unwrap();
    for (from, to, error) in [
        ("\"1s\"", "1", "16: pools[1].health.interval: \"1\" is not a duration from 10ms"),
        ("interval", "intervel", "16: pools[1].health.intervel: unknown key; did you mean \"interval\"?"),
        ("\"weight\": 1", "\"weight\": 0", "13: pools[1].servers[1].weight: \"0\" is not"),
        ("\"weight\": 1", "\"address\": 1", "13: pools[1].servers[1].address: this key stands here twice"),
        ("\"192.0.2.1:1\"", "\"192.0.2.1\"", "11: pools[1].servers[0]: \"192.0.2.1\" has no port"),
        ("\"127.0.0.1:5302\"", "\"127.0.0.1:5300\"", "7: pools[1].listen[1]: 127.0.0.1:5300 is taken twice"),
        ("\"protocol\": \"datagram\",", "", "4: pools[1].protocol: is missing"),
    ] {
        let error_of = parse(&text.replacen(from, to, 1)).unwrap_err();
        assert!(error_of.starts_with(&format!("config.json:{error}")), "{error_of}");
    }
}

#[test]
fn what_runs_is_what_has_a_section() {
    for (file, native, pools) in [
        (json!({}), true, 0),
        (json!({"logs": {}}), true, 0),
        (json!({"pools": [pool(json!({}))]}), false, 1),
        (json!({"pools": [pool(json!({}))], "logs": {}}), false, 1),
        (json!({"pools": [pool(json!({}))], "load_balancer": {}}), true, 1),
        (json!({"pools": [pool(json!({}))], "server": {}}), true, 1),
        (json!({"pools": [pool(json!({}))], "client": {"count": 1}}), true, 1),
        (json!({"pools": [pool(json!({}))], "controller": {}}), true, 1),
    ] {
        let config = parse(&file.to_string()).unwrap();
        assert_eq!((config.native().is_some(), config.datagram_pools().count()), (native, pools), "{file}");
        assert_eq!(config.require_native("lbd up").is_ok(), native);
    }
    let error = accepted(&[pool(json!({}))]).require_native("lbd up").unwrap_err();
    assert_eq!(
        error.to_string(),
        "config.json: the configuration has datagram pools only; add a native section such as \
         \"load_balancer\": {} to run lbd up"
    );
}

#[test]
fn an_address_is_taken_once() {
    let listen = |addrs: Value| pool(json!({"listen": addrs, "name": "x"}));
    for (addrs, says) in [
        (
            json!(["127.0.0.1:1", "127.0.0.1:1"]),
            "listen[1]: 127.0.0.1:1 is taken twice, by pools[0].listen[0] and",
        ),
        (json!(["127.0.0.1:1", "*:1"]), "listen[1]: 0.0.0.0:1 is taken twice"),
        (json!(["*:1", "[::1]:1"]), "listen[1]: [::1]:1 is taken twice, by pools[0].listen[0] and by"),
        (json!(["[::ffff:127.0.0.1]:1", "127.0.0.1:1"]), "listen[1]: 127.0.0.1:1 is taken twice"),
    ] {
        let error = refused(&[listen(addrs)]);
        assert!(error.contains(says), "{error}");
    }
    one(listen(json!(["127.0.0.1:1", "127.0.0.2:1", "[::]:1", "127.0.0.1:2"])));
    let error = refused(&[pool(json!({})), listen(json!("*:5300"))]);
    assert!(
        error.starts_with(
            "pools[1].listen: 0.0.0.0:5300 is taken twice, by pools[0].listen and by pools[1].listen;"
        ),
        "{error}"
    );
    let native = json!({"load_balancer": {}});
    for (addr, says) in [
        (
            "127.0.0.1:54001",
            "127.0.0.1:54001 is taken twice, by load_balancer.client_side_port and by pools[0].listen",
        ),
        ("127.0.0.1:54000", "by load_balancer.server_side_port and"),
        ("*:55000", "0.0.0.0:55000 is taken twice, by controller.port and"),
        ("127.0.0.1:50999", "by server.port_range_start to server.port_range_end and"),
        ("127.0.0.1:51000", "by client.port_range_start to client.port_range_end and"),
    ] {
        let error = refused_beside(&[listen(json!(addr))], native.clone());
        assert!(error.contains(says) && error.ends_with("choose addresses that do not overlap"), "{error}");
        one(listen(json!(addr))); // without the native pool it is free
    }
    let free = listen(json!(["127.0.0.2:54001", "[::1]:54001", "127.0.0.1:52000"]));
    let beside = json!({"load_balancer": {}, "pools": [free]});
    parse(&beside.to_string()).unwrap();
}

/// Pools that each listen on one port of the loopback, and whose servers are on others.
fn chain(of: &[(u16, &[u16])]) -> Vec<Value> {
    let addr = |port: &u16| format!("127.0.0.1:{port}");
    let pool = |(listen, servers): &(u16, &[u16])| {
        let servers: Vec<String> = servers.iter().map(addr).collect();
        pool(json!({"listen": addr(listen), "servers": servers}))
    };
    of.iter().map(pool).collect()
}

#[test]
fn a_pool_that_points_at_itself_is_refused() {
    let to = |listen: &str, server: &str| pool(json!({"listen": listen, "servers": ["192.0.2.1:1", server]}));
    for (listen, server) in [
        ("127.0.0.1:5300", "127.0.0.1:5300"),
        ("*:5300", "127.0.0.1:5300"),
        ("0.0.0.0:5300", "127.0.0.7:5300"),
        ("127.0.0.1:5300", "[::ffff:127.0.0.1]:5300"),
    ] {
        let error = refused(&[to(listen, server)]);
        assert!(error.starts_with("pools[0].servers[1]: 127.0.0."), "{error}");
        assert!(error.ends_with(":5300 is where this pool itself listens; name a server"), "{error}");
    }
    for (listen, name) in
        [("127.0.0.1:5300", "localhost"), ("[::1]:5300", "LocalHost."), ("*:5300", "dns.localhost")]
    {
        let error = refused(&[to(listen, &format!("{name}:5300"))]);
        let name = name.to_lowercase();
        let expected =
            format!("pools[0].servers[1]: {name}:5300 is where this pool itself listens; name a server");
        assert_eq!(error, expected);
        one(to(listen, &format!("{name}:5301")));
        one(to(listen, &format!("{}.example:5300", name.trim_end_matches('.'))));
    }
    // An address of TEST-NET-3: not this machine's.
    for (listen, server) in
        [("*:5300", "203.0.113.7:5300"), ("*:5300", "127.0.0.1:5301"), ("127.0.0.1:5300", "[::1]:5300")]
    {
        one(to(listen, server));
    }
    let object = pool(json!({"servers": [{"address": "127.0.0.1:5300"}]}));
    assert!(refused(&[object]).starts_with("pools[0].servers[0].address: 127.0.0.1:5300 is where"));
}

#[test]
fn pools_in_a_circle_are_refused_and_in_a_row_are_not() {
    let error = refused(&chain(&[(1, &[9, 2]), (2, &[8, 1])]));
    assert_eq!(
        error,
        "pools[0].servers[1]: 127.0.0.1:2 leads back to this pool through pool-2; name a server"
    );
    let error = refused(&chain(&[(1, &[2]), (2, &[3]), (3, &[4]), (4, &[2])]));
    assert_eq!(
        error,
        "pools[1].servers[0]: 127.0.0.1:3 leads back to this pool through pool-3; name a server"
    );
    accepted(&chain(&[(1, &[2, 3]), (2, &[4]), (3, &[4]), (4, &[5])]));
    let mut by_name = chain(&[(1, &[2]), (2, &[1])]);
    by_name[0]["servers"] = json!(["localhost:2"]);
    let error = refused(&by_name);
    assert_eq!(
        error,
        "pools[0].servers[0]: localhost:2 leads back to this pool through pool-2; name a server"
    );
}

#[test]
fn a_transparent_pool_has_one_address_family() {
    let of = |listen: Value, servers: Value| {
        pool(json!({"listen": listen, "servers": servers, "transparent": true}))
    };
    for (listen, servers, key, first, other) in [
        (json!("127.0.0.1:1"), json!(["127.0.0.1:2", "[::1]:2"]), "servers[1]", "127.0.0.1", "::1"),
        (json!("[::1]:1"), json!([{"address": "127.0.0.1:2"}]), "servers[0].address", "::1", "127.0.0.1"),
        (json!("*:1"), json!(["127.0.0.1:2"]), "listen", "0.0.0.0", "::"),
        (json!(["127.0.0.1:1", "[::1]:1"]), json!(["a.example:2"]), "listen[1]", "127.0.0.1", "::1"),
    ] {
        let error = refused(&[of(listen, servers)]);
        let key = format!("{other} (pools[0].{key}) differ");
        assert!(error.contains("transparent needs clients and servers of one address family"), "{error}");
        assert!(error.contains(&key) && error.contains(&format!("{first} (pools[0].listen")), "{error}");
    }
    one(of(json!("[::1]:1"), json!(["[::1]:2", "a.example:3"])));
    one(pool(json!({"listen": "*:1", "servers": ["127.0.0.1:2", "[::1]:2"]})));
}

#[test]
fn a_pool_does_not_lead_to_where_lbds_own_frames_go() {
    let native = json!({"load_balancer": {"client_side_port": 4001}});
    for (port, key) in [
        (4_001, "load_balancer.client_side_port"),
        (54_000, "load_balancer.server_side_port"),
        (55_000, "controller.port"),
    ] {
        let error = refused_beside(&chain(&[(1, &[port])]), native.clone());
        let expected = format!(
            "pools[0].servers[0]: 127.0.0.1:{port} is where {key} takes lbd's own frames; name a server"
        );
        assert_eq!(error, expected);
        accepted(&chain(&[(1, &[port])]));
    }
}

#[test]
fn the_plan_tells_what_a_pool_does() {
    let of_dns = dns(json!({"listen": ["0.0.0.0:5300", "127.0.0.9:5301"],
        "servers": ["192.0.2.1", {"address": "dns.example", "weight": 3, "id": 7}],
        "ports": 64, "workers": 4, "allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16", "10.2.0.1"],
        "rate_per_source": 20,
        "proxy_protocol": "every", "transparent": true, "max_outstanding": 9}));
    let of_sip = pool(
        json!({"name": "sip", "listen": "127.0.0.1:5060", "affinity": "client", "pin": true, "workers": 1,
        "hold": "5s", "idle_timeout": "55s", "ports": 300, "servers": ["a.example:1", "b.example:1"],
        "proxy_protocol": "first",
        "health": {"check": "payload", "send": "ping", "expect": "pong", "timeout": "500ms",
                   "down_max": 0.25}}),
    );
    let text = describe(&accepted(&[of_dns, of_sip]));
    for part in [
        "config      config.json: valid\n",
        "pool        pool-1: dns on 0.0.0.0:5300, 127.0.0.9:5301, up to 1024 TCP connections, 256 from one \
         source, idle for 30s at most\n",
        "shortest_queue, at most 9 requests per server (up to 4096 more are queued), capacity 16 addresses\n",
        "one response per datagram, within 2s\n",
        "64 ports towards the servers, each for many concurrent requests\n",
        "workers: 4, I/O: auto\n",
        "servers     192.0.2.1:53, id 0, weight 1\n",
        "dns.example:53, id 7, weight 3, looked up every 30s\n",
        "health      DNS query . NS (alive: NOERROR, NXDOMAIN), every 1s, response within 1s; down after 3 \
         unanswered, up after 2 answered; fail-open above 50 % down; held down for up to 5m after repeated \
         failures\n",
        "senders     10.0.0.0/8 except 10.1.0.0/16, 10.2.0.1/32, at most 20 datagrams/s per source, 1 in 2 \
         above that answered with TC\n",
        "servers see the client's address in a PROXY header of every datagram and as the source address\n",
        "pool        sip: datagram on 127.0.0.1:5060\n",
        "shortest_queue, no limit of flows per server",
        "any number of responses per datagram, the first within 2s\n",
        "all datagrams of a client go to one server; a flow ends after 55s without datagrams\n",
        "a removed server keeps its flows for up to 55s\n",
        "300 ports x 2 servers = 600 port-and-server pairs; with a quarantine of 5s: 600 concurrent flows, \
         about 10 new flows per second, all from new clients\n",
        "at most 60 flows per source\n",
        "a returning client takes its own pair at once\n",
        "workers: 1, each pinned to a CPU, I/O: auto\n",
        "health      payload of 4 bytes, response begins with 4 given bytes, every 1s, response within \
         500ms;",
        "senders     every source\n",
        "in a PROXY header of the first datagram of a flow\n",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    for native in ["controller", "54001", "clients on", "frames", "trust", "scaling"] {
        assert!(!text.contains(native), "{native} in\n{text}");
    }
    let datagram = |changes: Value| describe(&accepted(&[pool(changes)]));
    let text = datagram(json!({"servers": ["a:1", "b:1"]}));
    let says = "256 ports x 2 servers = 512 port-and-server pairs; with a quarantine of 50ms (or twice the \
        p99 if that is longer): about 10240 requests per second, all from new clients\n";
    assert!(text.contains(says), "{text}");
    assert!(text.contains("health      passive signals only; down after 3"), "{text}");
    assert!(datagram(json!({"hold": "10m"})).contains("about 0.43 requests per second"));
    assert!(
        datagram(json!({"hold": 0}))
            .contains("256 ports x 1 server = 256 port-and-server pairs, without quarantine\n")
    );
    assert!(datagram(json!({"replies": 0})).contains("one-way: no response is expected\n"));
    let both = json!({"pools": [pool(json!({}))], "load_balancer": {}}).to_string();
    let text = describe(&parse(&both).unwrap());
    assert!(text.contains("pool        pool-1") && text.contains("clients on 127.0.0.1:54001"), "{text}");
}

/// A word that could stand in a pool, or any text.
fn word() -> impl Strategy<Value = Value> {
    prop_oneof![
        "dns|datagram|client|none|payload|every|first|native|hex:[0-9a-f]{0,6}|[a-z.]{1,9} (A|NS|7)"
            .prop_map(Value::from),
        "(127\\.0\\.0\\.1|\\*|\\[::1\\]|[a-z]{1,3}|10\\.0\\.0\\.0)[:/][0-9]{1,5}".prop_map(Value::from),
        "\\PC{0,60}|[0-9.]{1,6}[a-z]{0,2}".prop_map(Value::from),
        (0u32..100_000).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ]
}

fn object(keys: HashMap<String, Value>) -> Value {
    Value::Object(keys.into_iter().collect())
}

/// A value of a key: a word, or words in lists and objects.
fn value() -> impl Strategy<Value = Value> {
    let key = "address|weight|id|check|query|send|expect|interval|timeout|rise|.{0,50}";
    prop_oneof![
        3 => word(),
        1 => proptest::collection::vec(word(), 0..4).prop_map(Value::from),
        1 => proptest::collection::hash_map(key, word(), 0..4).prop_map(object),
        1 => proptest::collection::hash_map(key, word(), 0..4).prop_map(|map| json!([object(map)])),
    ]
}

proptest! {
    #[test]
    fn no_pool_makes_it_panic_and_every_refusal_is_one_short_line(
        changes in proptest::collection::hash_map(
            "name|listen|protocol|affinity|servers|servers_max|policy|max_outstanding|waiting_max|timeout|\
             replies|hold|idle_timeout|drain_timeout|ports|proxy_protocol|transparent|allow|deny|\
             rate_per_source|rate_limit_truncate|notify|flows_per_source|health|\
             resolve_interval|server_side|controller|frame_size|queue_update_interval|run|\
             tcp_connections|tcp_connections_per_source|tcp_idle_timeout|workers|pin|io|.{0,50}",
            value(),
            0..4,
        ),
        twice in any::<bool>(),
    ) {
        let one = pool(Value::Object(changes.into_iter().collect()));
        let pools = if twice { vec![one.clone(), one] } else { vec![one] };
        match parse(&json!({ "pools": pools }).to_string()) {
            Ok(config) => {
                let text = describe(&config);
                prop_assert!(config.pools.iter().all(|pool| text.contains(pool.name())));
            }
            Err(error) => {
                prop_assert!(!error.chars().any(char::is_control), "{error:?}");
                prop_assert!(error.len() < 800, "{error}"); // the keys of a pool alone are 520
            }
        }
    }

    #[test]
    fn no_change_of_one_byte_makes_it_panic(at in 0usize..SMALL.len(), byte in 0u8..128) {
        let mut bytes = SMALL.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = parse(std::str::from_utf8(&bytes).unwrap());
    }
}

const SMALL: &str = r#"{"pools": [{"listen": ["*:5300"], "protocol": "dns", "servers": [
    {"address": "192.0.2.1", "id": 5}, "::1"], "allow": ["10.0.0.0/8"], 
    "health": {"query": "example.com A", "interval": "1s"}}]}"#;

#[test]
fn a_file_that_is_cut_off_is_an_error_wherever_it_is_cut() {
    parse(SMALL).unwrap();
    for len in 0..SMALL.len() {
        parse(&SMALL[..len]).unwrap_err();
    }
}

fn run(changes: Value) -> Value {
    let mut run = json!({"command": "serve {port}", "port_range_start": 5310, "port_range_end": 5330});
    for (key, value) in changes.as_object().unwrap() {
        run[key] = value.clone();
        if value.is_null() {
            run.as_object_mut().unwrap().remove(key);
        }
    }
    json!({"servers": null, "run": run})
}

#[test]
fn servers_that_lbd_runs_have_the_keys_of_those_of_the_native_pool() {
    let written = json!({
        "command": ["serve", "{id}", "{port}"], "address": "::1",
        "count": 2, "min": 2, "max": 10, "start_id": 7,
        "threshold": 2.5, "grow_after": 1100, "shrink_after": "1s", "grow_cool_down": "2s",
        "shrink_cool_down": "3s", "grow_max": 3, "shrink_max": 4,
    });
    let pool_of = one(pool(run(written)));
    let PoolRun { address, run: of_pool } = pool_of.run.unwrap();
    let ms = Duration::from_millis;
    assert_eq!(address, "::1".parse::<IpAddr>().unwrap());
    assert_eq!((of_pool.count, of_pool.start_id, of_pool.ports), (2, 7, 5310..5330));
    assert_eq!(of_pool.command.unwrap(), ["serve", "{id}", "{port}"]);
    let scale = crate::pool::autoscale::Policy {
        threshold: 2.5,
        grow_after: ms(1_100),
        shrink_after: ms(1_000),
        grow_cool_down: ms(2_000),
        shrink_cool_down: ms(3_000),
        grow_max: Some(3),
        shrink_max: 4,
        min: 2,
        max: 10,
    };
    assert_eq!(of_pool.scale, scale);
    assert_eq!(pool_of.settings.servers_max, 20, "those on their way out need room too");
    assert_eq!(pool_of.servers, []);

    let beside = one(pool(json!({"servers": ["127.0.0.1:5301"], "run": run(json!({}))["run"]})));
    assert_eq!((beside.servers.len(), beside.run.unwrap().run.start_id), (1, 1_000));
}

#[test]
fn mistakes_about_servers_that_lbd_runs_are_told_with_the_remedy() {
    for (changes, says) in [
        (json!({"command": null}), "command: is missing; write the program, such as"),
        (json!({"command": "serve"}), "command: {port} is missing"),
        (json!({"port_range_start": null}), "port_range_start: is missing; write the first port, such as"),
        (json!({"port_range_end": null}), "port_range_end: is missing; write the port after the last one"),
        (json!({"port_range_end": 5310}), "port_range_end: port range 5310..5310 is empty"),
        (json!({"address": "0.0.0.0"}), "address: 0.0.0.0 is no address of a server; write the IP"),
        (json!({"count": 3, "max": 2}), "max: pools[0].run.count = 3 is not within pools[0].run.min = 1"),
        (json!({"max": 40}), "port_range_end: 40 servers do not fit into 20 ports"),
        (json!({"threshold": 0}), "threshold: \"0\" is not a number from 0.01"),
        (json!({"shrink_max": 0}), "shrink_max: \"0\" is not a whole number from 1"),
        (json!({"grow_after": 500}), "grow_after: \"500\" is not a duration from 1s to 1day"),
        (json!({"grow_cool_down": 1}), "grow_cool_down: \"1\" is not a duration from 10ms"),
    ] {
        let error = refused(&[pool(run(changes))]);
        let error = error.strip_prefix("pools[0].run.").unwrap_or_else(|| panic!("{error}"));
        assert!(error.starts_with(says), "{error}");
    }
    let mut taken = pool(json!({"servers": ["127.0.0.1:5301"], "run": run(json!({"start_id": 0}))["run"]}));
    assert!(refused(&[taken.clone()]).contains("run.start_id: 0 is not above the ids of the servers"));
    taken["run"] = run(json!({"port_range_start": 5300}))["run"].clone();
    let error = refused(&[taken]);
    assert!(
        error.contains("port 5300 is taken twice, by pools[0].listen and by pools[0].run.port_"),
        "{error}"
    );
    let mut small = pool(run(json!({"max": 10})));
    small["servers_max"] = json!(9);
    assert!(refused(&[small]).contains("servers_max: 9 leaves no room for 10 servers"));
    let off = refused_beside(&[pool(run(json!({})))], json!({"admin": {"listen": "off"}}));
    assert!(
        off.starts_with("admin.listen: is off, but the controller reports the servers of pools[].run"),
        "{off}"
    );
    let both =
        [pool(run(json!({}))), pool(json!({"listen": "127.0.0.1:6000", "run": run(json!({}))["run"]}))];
    assert!(
        refused(&both).contains("port 5310 is taken twice, by pools[0].run.port_range_start to pools[0].run")
    );
}

#[test]
fn a_plan_says_what_lbd_runs() {
    let config = accepted(&[pool(run(json!({"max": 4, "grow_max": 2})))]);
    let plan = describe(&config);
    for line in [
        "servers     1 at the start (1 to 4), ids from 0, ports 5310 to 5329 of 127.0.0.1\n",
        "            started by lbd controller as: serve {port}\n",
        "scaling     up above 4.50 requests per server for 1s, down below 2.50 with one server less for 3s\n",
        "            adds at most 2, 1s after the last decision; stops at most 1, 1s after it\n",
        "256 ports x 4 servers",
    ] {
        assert!(plan.contains(line), "{line}: {plan}");
    }
}
