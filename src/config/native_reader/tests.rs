use std::path::Path;

use serde_json::{Value, json};

use crate::config::{Config, NativePool, Pool, describe, schema};

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Some(Path::new("config.json"))).map_err(|e| e.to_string())
}

/// A native pool as small as it can be, with these keys changed (or removed, where they are null).
fn pool(changes: Value) -> Value {
    let mut pool =
        json!({"protocol": "native", "listen": "127.0.0.1:54001", "server_side": "127.0.0.1:54000"});
    let of_pool = pool.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        of_pool.insert(key.clone(), value.clone());
        if value.is_null() {
            of_pool.remove(key);
        }
    }
    pool
}

fn with(pools: &[Value], mut file: Value) -> Result<Config, String> {
    file["pools"] = pools.into();
    parse(&file.to_string())
}

fn accepted(pools: &[Value]) -> Config {
    with(pools, json!({})).unwrap()
}

fn refused(pools: &[Value]) -> String {
    let error = with(pools, json!({})).unwrap_err();
    error.strip_prefix("config.json:1: ").unwrap_or_else(|| panic!("{error}")).to_owned()
}

fn one(pool: Value) -> NativePool {
    accepted(&[pool]).native().unwrap().clone()
}

/// Replicas and the controller's address, as small as they can be.
fn run(changes: Value) -> Value {
    let mut run = json!({"port_range_start": 50_000, "port_range_end": 51_000});
    run.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    json!({"run": run, "controller": "127.0.0.1:55000"})
}

#[test]
fn the_item_says_all_that_the_sections_say() {
    let sections = json!({
        "server": {
            "count": 3, "port_range_start": 6000, "port_range_end": 6100, "start_id": 7, "command": "serve \
             {port}",
            "queue_update_interval": "20ms", "min": 2, "max": 9, "weight": 5, "service": "fixed:2ms",
            "queue_capacity": 100, "workers": 4, "grow_after": "200ms", "shrink_after": "50ms",
            "cool_down": "2s", "grow_cool_down": "3s", "grow_max": 2, "shrink_max": 3,
        },
        "load_balancer": {
            "server_side_port": 7000, "client_side_port": 7001, "server_scaling_threshold": 2.5,
            "bind": {"client_side": "0.0.0.0", "server_side": "127.0.0.2"}, "frame_size": 1024,
            "frames_per_datagram": 3, "workers": 29, "pin": true, "io": "mio", "reply_path": "direct",
            "policy": "two_choices", "max_outstanding": "auto", "waiting_max": 10, "servers_max": 20,
            "health": {"rise": 3, "fall": 4, "down_max": 0.25, "hold_down_max": "1m", "slow_start": "10s"},
        },
        "controller": {"port": 7002, "bind": "127.0.0.3"},
        "client": {"deadline": "5s"},
    });
    let item = json!({
        "name": "native", "protocol": "native", "listen": "0.0.0.0:7001", "server_side": "127.0.0.2:7000",
        "controller": "127.0.0.3:7002", "queue_update_interval": 20,
        "frame_size": 1024, "frames_per_datagram": 3, "workers": 29, "pin": true, "io": "mio",
        "reply_path": "direct",
        "policy": "two_choices", "max_outstanding": "auto", "waiting_max": 10, "servers_max": 20,
        "health": {"rise": 3, "fall": 4, "down_max": 0.25, "hold_down_max": "1m", "slow_start": "10s"},
        "run": {
            "count": 3, "port_range_start": 6000, "port_range_end": 6100, "start_id": 7,
            "command": ["serve", "{port}"], "min": 2, "max": 9, "weight": 5, "service": "fixed:2ms",
            "queue_capacity": 100, "workers": 4, "grow_after": "200ms", "shrink_after": "50ms",
            "cool_down": "2s", "grow_cool_down": "3s", "grow_max": 2, "shrink_max": 3, "threshold": 2.5,
        },
    });
    let short = parse(&sections.to_string()).unwrap();
    let long = with(std::slice::from_ref(&item), json!({"client": {"deadline": "5s"}})).unwrap();
    assert_eq!(short.pools, long.pools);
    // So does each single key: without it, the two differ.
    let schema = schema();
    let of_item = schema["properties"]["pools"]["items"]["properties"].as_object().unwrap();
    let written = item.as_object().unwrap();
    let of_others = "affinity servers timeout replies hold idle_timeout drain_timeout ports proxy_protocol \
        transparent allow deny rate_per_source rate_limit_truncate notify flows_per_source resolve_interval \
        tcp_connections tcp_connections_per_source tcp_idle_timeout";
    for key in of_item.keys() {
        assert!(written.contains_key(key) != of_others.split_whitespace().any(|other| other == key), "{key}");
    }
    for key in ["frame_size", "workers", "policy", "waiting_max", "queue_update_interval", "health"] {
        let mut less = item.clone();
        less.as_object_mut().unwrap().remove(key);
        let less = with(&[less], json!({"client": {"deadline": "5s"}}));
        assert_ne!(less.map(|config| config.pools).ok(), Some(short.pools.clone()), "{key}");
    }
}

#[test]
fn the_smallest_item_has_the_defaults_of_the_sections() {
    let mut item = pool(run(json!({})));
    item["name"] = "native".into();
    assert_eq!(accepted(&[item]).pools, Config::default().pools);
    let alone = one(pool(json!({})));
    assert_eq!((alone.name.as_str(), &alone.run), ("pool-1", &None));
    assert_eq!(
        NativePool {
            name: "native".to_owned(),
            run: Config::default().native().unwrap().run.clone(),
            ..alone
        },
        *Config::default().native().unwrap()
    );
}

#[test]
fn native_pools_stand_beside_each_other_and_beside_datagram_pools() {
    let second = pool(json!({"name": "b", "listen": "127.0.0.1:6001", "server_side": "127.0.0.1:6000"}));
    let dns = json!({"listen": "*:5300", "protocol": "dns", "servers": ["192.0.2.1"]});
    let config = with(&[dns, second], json!({"load_balancer": {}})).unwrap();
    let names: Vec<(&str, bool)> = config.pools.iter().map(|pool| (pool.name(), pool.is_native())).collect();
    assert_eq!(names, [("native", true), ("pool-1", false), ("b", true)]);
    assert_eq!(config.native().unwrap().name, "native");
    assert!(matches!(config.pool("b"), Some(Pool::Native(pool)) if pool.client_side.port() == 6001));
    let text = describe(&config);
    for part in ["clients on 127.0.0.1:54001", "clients on 127.0.0.1:6001", "pool        pool-1: dns"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn the_section_client_is_of_the_first_native_pool_of_the_list() {
    let config = with(&[pool(json!({}))], json!({"client": {"deadline": "7s"}})).unwrap();
    assert_eq!(config.pools.len(), 1);
    assert_eq!(config.native().unwrap().deadline, std::time::Duration::from_secs(7));
}

#[test]
fn the_ports_of_clients_are_taken_where_lbd_up_runs_clients() {
    // Without replicas `lbd up` is refused, so these ports are free, even if the section `client` is written.
    let alone = pool(json!({"listen": "127.0.0.1:51000"}));
    for more in [json!({}), json!({"client": {}})] {
        let text = describe(&with(std::slice::from_ref(&alone), more).unwrap());
        assert!(!text.contains("51000 to 51999") && text.contains("clients     retry after 100ms"), "{text}");
    }
    let mut both = run(json!({}));
    both["listen"] = "127.0.0.1:51000".into();
    for more in [json!({}), json!({"client": {}})] {
        let error = with(&[pool(both.clone())], more).unwrap_err();
        assert!(
            error.contains("127.0.0.1:51000 is taken twice, by client.port_range_start to client.port_"),
            "{error}"
        );
    }
    both["listen"] = "127.0.0.1:54001".into();
    let text = describe(&accepted(&[pool(both)]));
    assert!(text.contains("10, ids from 1000, ports 51000 to 51999, 300 requests/s in total"), "{text}");
}

#[test]
fn both_forms_of_one_name_are_refused() {
    let named = pool(json!({"name": "native", "listen": "127.0.0.1:6001", "server_side": "127.0.0.1:6000"}));
    for section in ["load_balancer", "server", "controller"] {
        let error = with(std::slice::from_ref(&named), json!({section: {}})).unwrap_err();
        let says = format!(
            "config.json:1: pools[0].name: \"native\" is the pool of the section \"{section}\" already; \
             write one of the two, or give this pool another name"
        );
        assert_eq!(error, says);
    }
    accepted(&[named]);
}

#[test]
fn a_mistake_is_refused_with_its_key_and_the_remedy() {
    for (changes, says) in [
        (json!({"listen": null}), "listen: is missing; write the client-side address"),
        (
            json!({"listen": ["127.0.0.1:1", "127.0.0.1:2"]}),
            "listen: a native pool listens on one address; write one",
        ),
        (json!({"listen": "*:1"}), "listen: a native pool listens on one address; write one IP:PORT"),
        (json!({"server_side": null}), "server_side: is missing; write IP:PORT, such as 127.0.0.1:54000"),
        (
            json!({"server_side": "here"}),
            "server_side: \"here\" is not an address with a port; write IP:PORT or [IPV6]:PORT",
        ),
        (
            json!({"server_side": "*:x"}),
            "server_side: \"*:x\" is not an address with a port; write IP:PORT or [IPV6]:PORT",
        ),
        (
            json!({"server_side": "*:54000"}),
            "server_side: \"*:54000\" is more than one address; write one IP:PORT",
        ),
        (
            json!({"server_side": "192.0.2.1:1"}),
            "server_side: 192.0.2.1 is not a loopback address, so frames",
        ),
        (
            json!({"server_side": "127.0.0.1:54001"}),
            "is taken twice, by pools[0].server_side and by pools[0].listen",
        ),
        (
            json!({"controller": "127.0.0.1:55000"}),
            "controller: goes with \"run\", which says what the controller",
        ),
        (
            json!({"run": run(json!({}))["run"]}),
            "controller: is missing; write IP:PORT, such as 127.0.0.1:55000",
        ),
        (run(json!({"port_range_start": 52_000})), "run.port_range_end: port range 52000..51000 is empty"),
        (run(json!({"max": 65})), "run.max: 65 servers do not fit into pools[0].servers_max = 64"),
        (
            run(json!({"start_id": 995})),
            "run.start_id: ids of servers (995 to 1010) and clients (1000 to 1009)",
        ),
        (
            run(json!({"address": "127.0.0.1"})),
            "run.address: does not go with protocol native; remove the key",
        ),
        (
            json!({"run": {"command": "serve {port}"}, "controller": "127.0.0.1:55000"}),
            "run.port_range_start: is missing; write the first port",
        ),
        (json!({"frame_size": 100}), "frame_size: \"100\" is not a whole number from 128 to 1200"),
        (json!({"reply_path": "back"}), "reply_path: \"back\" is unknown; use balancer or direct"),
        (
            json!({"queue_update_interval": 0}),
            "queue_update_interval: \"0\" is not a duration from 1ms to 10s",
        ),
        (
            json!({"servers": ["127.0.0.1:1"]}),
            "servers: does not go with protocol native; remove the key, or use protocol dns or datagram",
        ),
        (json!({"affinity": "client"}), "affinity: does not go with protocol native"),
        (json!({"health": {"check": "none"}}), "health.check: does not go with protocol native"),
        (
            json!({"protocol": "dns", "servers": ["192.0.2.1"]}),
            "server_side: does not go with protocol dns; remove the key, or use protocol native",
        ),
    ] {
        let error = refused(&[pool(changes)]);
        assert!(error.starts_with("pools[0].") && error.contains(says), "{says}\n{error}");
    }
    let datagram = json!({"listen": "127.0.0.1:1", "protocol": "datagram", "servers": ["127.0.0.1:54000"]});
    let error = refused(&[datagram, pool(json!({}))]);
    assert_eq!(
        error,
        "pools[0].servers[0]: 127.0.0.1:54000 is where pools[1].server_side takes lbd's own frames; name a \
         server"
    );
    let twin = pool(json!({"listen": "127.0.0.1:6001"}));
    assert!(refused(&[pool(json!({})), twin]).contains(
        "pools[1].server_side: 127.0.0.1:54000 is taken twice, by pools[0].server_side and by \
         pools[1].server_side"
    ));
}

#[test]
fn one_key_file_is_for_all_native_pools() {
    let key = tempfile::NamedTempFile::new().unwrap(); // made with mode 0600
    std::fs::write(key.path(), "000102030405060708090a0b0c0d0e0f").unwrap();
    let second = pool(json!({"listen": "127.0.0.1:6001", "server_side": "192.0.2.1:6000"}));
    let config = with(&[pool(json!({})), second], json!({"key_file": key.path()})).unwrap();
    assert!(config.native_pools().all(|pool| pool.format.tagged && pool.key.is_some()));
}
