use super::*;
use crate::io::IoChoice;
use crate::role::client::Source;
use crate::wire::ReplyPath;
use proptest::prelude::*;

/// The native pool of a valid configuration.
fn native(config: &Config) -> &NativePool {
    config.native().unwrap()
}

/// Its replicas.
fn replicas(config: &Config) -> &Run {
    &native(config).run.as_ref().unwrap().run
}

const REPOSITORY: &str = include_str!("../../config.json");

/// The file of the specification: its keys and values.
const ORIGINAL: &str = r#"{
  "server": {"count": "1", "port_range_start": "50000", "port_range_end": "51000", "start_id": "0",
    "queue_update_interval": "10"},
  "client": {"count": "10", "port_range_start": "51000", "port_range_end": "52000", "start_id": "1000"},
  "load_balancer": {"server_side_port": "54000", "client_side_port": "54001",
    "server_scaling_threshold": "5"},
  "controller": {"port": "55000"}
}
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Some(Path::new("config.json"))).map_err(|e| e.to_string())
}

fn refused(text: &str) -> String {
    parse(text).expect_err(text)
}

#[test]
fn the_original_file_is_accepted_and_is_what_the_defaults_say() {
    let shown = |config: Config| format!("{:?}", Config { source: None, ..config });
    let original = parse(ORIGINAL).unwrap();
    assert_eq!(native(&original).interval, Duration::from_millis(10));
    assert_eq!(
        (replicas(&original).ports.clone(), original.client.ports.clone()),
        (50_000..51_000, 51_000..52_000)
    );
    assert_eq!(native(&original).client_side, "127.0.0.1:54001".parse().unwrap());
    assert_eq!(shown(original.clone()), shown(Config::default()));
    assert_eq!(shown(original), shown(parse(REPOSITORY).unwrap()));
}

#[test]
fn numbers_may_be_numbers_and_durations_may_have_units() {
    let config = parse(
        r#"{"server": {"count": 3, "queue_update_interval": "500us", "service": "exp:2ms"},
            "client": {"rate": 12.5}}"#,
    );
    let config = config.map_err(|e| assert!(e.contains("queue_update_interval"), "{e}"));
    assert!(config.is_err(), "500 us is below the range");
    let text = r#"{"server": {"count": 3, "queue_update_interval": "1s 500ms"},
        "client": {"rate": 12.5, "deadline": 250}}"#;
    let config = parse(text).unwrap();
    assert_eq!((replicas(&config).count, native(&config).interval), (3, Duration::from_millis(1500)));
    assert_eq!((config.client.rate, config.client.deadline), (12.5, Duration::from_millis(250)));
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_one() {
    let error = refused("{\n  \"server\": {\n    \"port_range_strat\": 1}}");
    assert_eq!(
        error,
        "config.json:3: server.port_range_strat: unknown key; did you mean \"port_range_start\"?"
    );
    let error = refused(r#"{"loadbalancer": {}}"#);
    assert!(error.contains("did you mean \"load_balancer\""), "{error}");
    let error = refused(r#"{"xyz": {}}"#);
    assert!(error.contains("use one of") && error.contains("controller"), "{error}");
}

#[test]
fn an_unknown_back_end_is_refused_with_those_there_are() {
    assert!(
        refused(r#"{"load_balancer": {"io": "epol"}}"#)
            .contains("\"epol\" is unknown; use auto, mio or io_uring")
    );
}

#[test]
fn workers_reply_path_and_sources_are_read() {
    assert!(refused(r#"{"load_balancer": {"workers": "0"}}"#).contains("not a whole number from 1 to 32"));
    let error = refused(r#"{"load_balancer": {"reply_path": "dirct"}}"#);
    assert!(error.contains("\"dirct\" is unknown; use balancer or direct"), "{error}");
    let error = refused("{\"client\": {\n\"servers\": [\"10.0.0.1\", \"here\"]}}");
    assert!(error.starts_with("config.json:2: client.servers: \"here\" is not an IP address"), "{error}");
    let config = parse(
        r#"{"load_balancer": {"workers": 3, "pin": true, "io": "mio", "reply_path": "direct"},
            "client": {"servers": ["10.0.0.1", "[::1]:50000"]}}"#,
    )
    .unwrap();
    let pool = native(&config);
    assert_eq!((pool.workers, pool.pin, pool.reply_path), (3, true, ReplyPath::Direct));
    let sources: [Source; 2] =
        [IpAddr::from([10, 0, 0, 1]).into(), "[::1]:50000".parse::<SocketAddr>().unwrap().into()];
    assert_eq!(config.client.servers, sources);
    let error = refused(r#"{"load_balancer": {"frame_size": 1200, "frames_per_datagram": 60}}"#);
    assert!(error.contains("\"60\" is not a whole number from 1 to 54"), "{error}");
    let packed = |text| native(&parse(text).unwrap()).io_options().frames_per_datagram;
    assert_eq!(packed("{}"), 5);
    assert_eq!(
        packed(r#"{"load_balancer": {"bind": {"client_side": "::1"}}}"#),
        4,
        "what every IPv6 path takes"
    );
    assert_eq!(packed(r#"{"load_balancer": {"frames_per_datagram": 100}}"#), 100);
    let pool = native(&parse("{}").unwrap()).clone();
    assert!((1..=32).contains(&pool.workers) && !pool.pin && pool.reply_path == ReplyPath::Balancer);
}

#[test]
fn every_back_end_can_be_asked_for() {
    assert_eq!(native(&Config::default()).io, IoChoice::Auto);
    for choice in IoChoice::ALL {
        let config = parse(&format!(r#"{{"load_balancer": {{"io": "{choice}"}}}}"#)).unwrap();
        assert_eq!(native(&config).io, choice);
        assert!(describe(&config).contains(&format!("I/O: {choice}\n")));
    }
}

#[test]
fn values_outside_their_range_are_refused_with_the_range() {
    for (text, says) in [
        (r#"{"server": {"count": "-1"}}"#, "server.count: \"-1\" is not a whole number from 0 to 4096"),
        (r#"{"server": {"count": "12x"}}"#, "\"12x\" is not a whole number"),
        (r#"{"server": {"count": 1.5}}"#, "\"1.5\" is not a whole number"),
        (r#"{"server": {"count": 1e300}}"#, "...\" is not a whole number"),
        (r#"{"server": {"count": 99999999999999999999}}"#, "is not a whole number"),
        (r#"{"server": {"count": ""}}"#, "\"\" is not a whole number"),
        (r#"{"server": {"queue_update_interval": -5}}"#, "from 1ms to 10s"),
        (r#"{"server": {"queue_update_interval": 1e999}}"#, "not valid JSON"),
        (r#"{"server": {"queue_update_interval": "NaN"}}"#, "from 1ms to 10s"),
        (r#"{"server": {"queue_update_interval": "11s"}}"#, "from 1ms to 10s"),
        (r#"{"client": {"rate": "-1"}}"#, "\"-1\" is not a number from 0.001"),
        (r#"{"client": {"retries": 101}}"#, "0 to 100"),
        (r#"{"server": {"workers": 0}}"#, "1 to 1024"),
        (r#"{"load_balancer": {"servers_max": 4097}}"#, "1 to 4096"),
        (r#"{"server": {"count": 5, "max": 4}}"#, "server.max: server.count = 5 is not within"),
        (r#"{"server": {"min": 3, "max": 2}}"#, "server.min = 3 is more than server.max"),
        (r#"{"server": {"weight": 101}}"#, "1 to 100"),
        (r#"{"server": {"service": "exp"}}"#, "such as exp:5ms"),
        (r#"{"server": {"queue_capacity": 0}}"#, "1 to 1048576"),
        (r#"{"server": {"queue_update_interval": "soon"}}"#, "10ms"),
        (r#"{"server": {"queue_update_interval": "0"}}"#, "from 1ms to 10s"),
        (r#"{"server": {"command": ""}}"#, "no program"),
        (r#"{"server": {"command": []}}"#, "no program"),
        (r#"{"server": {"command": ["serve", "{port}", "{cofnig}"]}}"#, "{cofnig} is no placeholder"),
        (r#"{"server": {"command": "serve --fast"}}"#, "{port} is missing"),
        (r#"{"server": {"max": 100}}"#, "servers_max"),
        (r#"{"load_balancer": {"frame_size": 127}}"#, "128 to 1200"),
        (r#"{"load_balancer": {"policy": "best"}}"#, "shortest_queue"),
        (
            r#"{"load_balancer": {"max_outstanding": 0}}"#,
            "neither a whole number from 1 to 1000000 nor \"auto\"",
        ),
        (r#"{"load_balancer": {"waiting_max": -1}}"#, "0 to 1048576"),
        (r#"{"load_balancer": {"server_scaling_threshold": "NaN"}}"#, "server_scaling_threshold"),
        (r#"{"load_balancer": {"bind": "localhost"}}"#, "not an IP address"),
        (r#"{"client": {"count": 1001}}"#, "0 to 1000"),
        (
            r#"{"client": {"deadline": 50, "timeout": 60}}"#,
            "client.timeout = 60ms is longer than client.deadline = 50ms",
        ),
        (r#"{"controller": {"port": 0}}"#, "1 to 65535"),
        (r#"{"controller": {"port": 70000}}"#, "1 to 65535"),
        (r#"{"logs": {"level": "loud"}}"#, "use info or error or warn or debug or trace"),
        (r#"{"logs": {"level": ""}}"#, "use info or"),
        (r#"{"logs": {"level": "3"}}"#, "use info or"),
        (r#"{"logs": {"dir": ""}}"#, "names no directory"),
        (r#"{"logs": {"format": "xml"}}"#, "text or json"),
        (r#"{"logs": {"size_max": "99999999999999999999MB"}}"#, "10MB"),
        (r#"{"logs": {"size_max": "10 elephants"}}"#, "10MB"),
        (r#"{"server": {"count": [1]}}"#, "a number or a string"),
        (r#"{"server": {"count": 1, "count": 2}}"#, "server.count: this key stands here twice"),
        (r#"{"server": {}, "server": {}}"#, "server: this key stands here twice"),
        (r#"{"server": {"count": null}}"#, "server.count: null is no value"),
        (r#"{"server": 5}"#, "server: must be an object in { }, not 5"),
        (r#"{"load_balancer": {"bind": {"clientside": "::1"}}}"#, "did you mean \"client_side\"?"),
        (
            r#"{"load_balancer": {"bind": {"client_side": "x"}}}"#,
            "load_balancer.bind.client_side: \"x\" is not an IP",
        ),
    ] {
        let error = refused(text);
        assert!(error.contains(says) && error.starts_with("config.json:1: "), "{text}: {error}");
    }
}

#[test]
fn ranges_are_half_open_and_must_not_clash() {
    let error = refused(r#"{"server": {"port_range_start": 50000, "port_range_end": 51001}}"#);
    assert!(
        error.contains("server.port_range_end: port 51000 is taken twice, by server.port_range_start"),
        "{error}"
    );
    let error = refused(r#"{"controller": {"port": 54000}}"#);
    assert!(
        error.contains("controller.port: 127.0.0.1:54000 is taken twice, by load_balancer.server_side_port"),
        "{error}"
    );
    let error = refused(r#"{"load_balancer": {"client_side_port": 50500}}"#);
    assert!(
        error.contains(
            "load_balancer.client_side_port: 127.0.0.1:50500 is taken twice, by server.port_range_start"
        ),
        "{error}"
    );
    let error = refused(r#"{"server": {"port_range_start": 50000, "port_range_end": 50000}}"#);
    assert!(error.contains("is empty"), "{error}");
    let error = refused(r#"{"server": {"port_range_start": 50000, "port_range_end": 50010, "max": 11}}"#);
    assert!(error.contains("do not fit into 10 ports"), "{error}");
}

#[test]
fn beyond_the_loopback_a_key_is_needed() {
    let error = refused(r#"{"load_balancer": {"bind": "0.0.0.0"}}"#);
    assert!(
        error.contains("load_balancer.bind: 0.0.0.0 is not a loopback address") && error.contains("key_file"),
        "{error}"
    );
    let error = refused("{\"load_balancer\": {\"bind\": {\n\"server_side\": \"192.0.2.1\"}}}");
    assert!(error.starts_with("config.json:2: load_balancer.bind.server_side: 192.0.2.1 is not"), "{error}");
    let mapped = parse(r#"{"load_balancer": {"bind": "::ffff:127.0.0.1"}}"#).unwrap();
    assert_eq!(native(&mapped).server_side, "127.0.0.1:54000".parse().unwrap());
    assert!(refused(r#"{"load_balancer": {"bind": "::ffff:192.0.2.1"}}"#).contains("key_file"));
    let error = refused(r#"{"controller": {"bind": "192.0.2.1"}}"#);
    assert!(error.contains("controller.bind: 192.0.2.1") && error.contains("key_file"), "{error}");
    let open = parse(r#"{"load_balancer": {"bind": {"client_side": "0.0.0.0"}}}"#).unwrap();
    assert_eq!(native(&open).balancer_for_clients(), "127.0.0.1:54001".parse().unwrap());
    let key = tempfile::NamedTempFile::new().unwrap(); // made with mode 0600
    std::fs::write(key.path(), "000102030405060708090a0b0c0d0e0f").unwrap();
    let with_key = |rest: &str| format!(r#"{{"key_file": "{}", {rest}}}"#, key.path().display());
    let config = parse(&with_key(r#""load_balancer": {"bind": "::"}"#)).unwrap();
    assert!(native(&config).format.tagged && config.key.is_some());
    assert!(refused(&with_key(r#""load_balancer": {"frame_size": 159}"#)).contains("use 160 or more"));
    assert!(refused(r#"{"key_file": "/nowhere/key"}"#).contains("key_file: cannot read /nowhere/key"));
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nowhere/config.json")).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/config.json: cannot read"), "{error}");
}

#[test]
fn the_plan_names_every_component_and_address() {
    let text = describe(&Config::default());
    for part in [
        "127.0.0.1:54000",
        "127.0.0.1:54001",
        "127.0.0.1:55000",
        "50000 to 50999",
        "51000 to 51999",
        "shortest_queue",
        "echo at once",
        "no limit of requests per server",
        "1s after the last decision",
        "in logs, text, level info",
        "built-in defaults: valid",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

/// Every key that the schema knows, with its definition; sections too.
fn schema_keys() -> Vec<(String, serde_json::Value)> {
    fn walk(prefix: &str, node: &serde_json::Value, keys: &mut Vec<(String, serde_json::Value)>) {
        let choices = node["anyOf"].as_array().into_iter().flatten();
        for node in std::iter::once(node).chain(choices) {
            if let Some(items) = node.get("items") {
                walk(&format!("{}[].", prefix.trim_end_matches('.')), items, keys);
            }
            for (name, child) in node["properties"].as_object().into_iter().flatten() {
                let key = format!("{prefix}{name}");
                walk(&format!("{key}."), child, keys);
                keys.push((key, child.clone()));
            }
        }
    }
    let mut keys = vec![];
    walk("", schema(), &mut keys);
    keys
}

#[test]
fn the_schema_has_every_key_of_the_specification_and_no_other() {
    let mut expected: Vec<String> = vec!["key_file".to_owned(), "$schema".to_owned()];
    for (section, keys) in [
        (
            "server",
            "count port_range_start port_range_end start_id queue_update_interval command min max weight \
             service queue_capacity workers grow_after shrink_after cool_down grow_cool_down \
             shrink_cool_down grow_max shrink_max",
        ),
        ("client", "count port_range_start port_range_end start_id rate timeout deadline retries servers"),
        (
            "load_balancer",
            "server_side_port client_side_port server_scaling_threshold bind bind.client_side \
             bind.server_side frame_size frames_per_datagram workers pin io reply_path policy \
             max_outstanding waiting_max servers_max health health.rise health.fall health.down_max \
             health.hold_down_max health.slow_start",
        ),
        ("controller", "port bind"),
        ("logs", "target dir level format size_max"),
        ("admin", "listen token_file"),
        ("state_dir", ""),
        ("pools", ""),
    ] {
        expected.push(section.to_owned());
        expected.extend(keys.split_whitespace().map(|key| format!("{section}.{key}")));
    }
    let of_pool = "name listen protocol server_side controller queue_update_interval frame_size \
        frames_per_datagram reply_path affinity servers servers[].address servers[].weight servers[].id \
        servers_max policy max_outstanding waiting_max timeout replies hold idle_timeout \
        drain_timeout ports \
        proxy_protocol transparent allow deny rate_per_source rate_limit_truncate notify \
        flows_per_source health health.check health.query health.rcodes health.send \
        health.expect health.interval health.timeout health.rise health.fall health.down_max \
        health.hold_down_max health.slow_start resolve_interval tcp_connections \
        tcp_connections_per_source tcp_idle_timeout workers pin io run";
    expected.extend(of_pool.split_whitespace().map(|key| format!("pools[].{key}")));
    let of_run = "command address port_range_start port_range_end start_id count min max threshold \
        grow_after shrink_after cool_down grow_cool_down shrink_cool_down grow_max shrink_max weight service \
        queue_capacity workers";
    expected.extend(of_run.split_whitespace().map(|key| format!("pools[].run.{key}")));
    expected.sort();
    let mut known: Vec<String> = schema_keys().into_iter().map(|(key, _)| key).collect();
    known.sort();
    assert_eq!(known, expected);
}

#[test]
fn every_key_in_the_schema_is_described_and_takes_some_kind_of_value() {
    for (key, node) in schema_keys() {
        assert!(node["description"].as_str().is_some_and(|text| text.len() > 4), "{key}: {node}");
        assert!(
            node["type"].is_string() || node["type"].is_array() || node["anyOf"].is_array(),
            "{key}: {node}"
        );
    }
    let text = schema().to_string();
    assert!(!text.contains("null") && !text.contains("$ref"), "{text}");
}

#[test]
fn the_defaults_in_the_schema_are_the_defaults() {
    let mut file = serde_json::json!({});
    for (key, node) in schema_keys() {
        // Those of pools go with other keys: `pool_reader` has their test.
        if let (Some(default), Some((section, key))) = (node.get("default"), key.split_once('.'))
            && section != "pools[]"
        {
            let place = key.split('.').fold(&mut file[section], |node, name| &mut node[name]);
            *place = default.clone();
        }
    }
    assert_eq!(file["client"].as_object().unwrap().len(), 8, "{file}");
    let mut config = parse(&file.to_string()).unwrap();
    assert!(std::mem::replace(&mut config.admin.is_written, false));
    assert_eq!(format!("{:?}", Config { source: None, ..config }), format!("{:?}", Config::default()));
}

#[test]
fn a_default_makes_room_for_what_is_written() {
    for (text, count, min, max) in [
        (r#"{"server": {"count": 20}}"#, 20, 1, 20),
        (r#"{"server": {"min": 3}}"#, 3, 3, 16),
        (r#"{"server": {"count": 0}}"#, 0, 0, 16),
        (r#"{"server": {"port_range_end": 50010}}"#, 1, 1, 10),
        (r#"{"load_balancer": {"servers_max": 8}}"#, 1, 1, 8),
    ] {
        let config = parse(text).unwrap();
        let run = replicas(&config);
        assert_eq!((run.count, run.scale.min, run.scale.max), (count, min, max), "{text}");
    }
    assert_eq!(replicas(&Config::default()).scale, run::POLICY);
    let client = parse(r#"{"client": {"deadline": 50}}"#).unwrap().client;
    assert_eq!(client.timeout, Duration::from_millis(50));
    assert!(
        refused(r#"{"server": {"count": 65}}"#).contains("server.count: 65 servers do not fit into load_")
    );
}

#[test]
fn an_error_stands_at_the_last_of_the_keys_it_concerns() {
    let error = refused("{\"controller\": {\n\"port\": 50001},\n\"server\": {\n\"start_id\": 1}}");
    assert!(error.starts_with("config.json:2: controller.port: 127.0.0.1:50001"), "{error}");
    let error = refused("{\"server\": {\n\"max\": 2,\n\"min\": 3}}");
    assert!(error.starts_with("config.json:3: server.min: "), "{error}");
}

#[test]
fn ids_of_servers_and_clients_do_not_overlap() {
    let error = refused(r#"{"server": {"start_id": 990}}"#);
    assert!(
        error.contains("server.start_id: ids of servers (990 to 1005) and clients (1000 to 1009)"),
        "{error}"
    );
    parse(r#"{"server": {"start_id": 984}}"#).unwrap();
    parse(r#"{"server": {"start_id": 1000}, "client": {"count": 0}}"#).unwrap();
}

#[test]
fn sizes_may_have_units() {
    for (text, bytes) in
        [("20000", 20_000), ("\"512KiB\"", 512 << 10), ("\"10 MB\"", 10_000_000), ("\"12kB\"", 12_000)]
    {
        let config = parse(&format!(r#"{{"logs": {{"size_max": {text}}}}}"#)).unwrap();
        assert_eq!(config.logs.size_max, bytes, "{text}");
    }
}

#[test]
fn a_command_is_a_list_or_one_line() {
    for text in [r#""serve -p {port} -c {config}""#, r#"["serve", "-p", "{port}", "-c", "{config}"]"#] {
        let config = parse(&format!(r#"{{"server": {{"command": {text}}}}}"#)).unwrap();
        assert_eq!(replicas(&config).command.clone().unwrap(), ["serve", "-p", "{port}", "-c", "{config}"]);
    }
    parse(r#"{"server": {"command": ["serve", "{port}", "{\"a\": 1}", "${HOME}", "{}"]}}"#).unwrap();
}

#[test]
fn a_cool_down_for_both_ways_is_the_default_of_each() {
    let ms = Duration::from_millis;
    for (text, grow, shrink) in [
        ("{}", 1_000, 1_000),
        (r#"{"server": {"cool_down": 50}}"#, 50, 50),
        (r#"{"server": {"cool_down": 50, "shrink_cool_down": "2s"}}"#, 50, 2_000),
        (r#"{"server": {"grow_cool_down": 20}}"#, 20, 1_000),
    ] {
        let scale = replicas(&parse(text).unwrap()).scale;
        assert_eq!((scale.grow_cool_down, scale.shrink_cool_down), (ms(grow), ms(shrink)), "{text}");
    }
    let scale = replicas(&parse(r#"{"server": {"grow_max": 2, "shrink_max": 3}}"#).unwrap()).scale;
    assert_eq!((scale.grow_max, scale.shrink_max), (Some(2), 3));
}

#[test]
fn comments_move_no_line() {
    let text = "// servers\n{\n  \"$schema\": \"lbd.schema.json\", /* two\n lines */\n  \"server\": \
        {\"count\": 2, },\n}";
    assert_eq!(replicas(&parse(text).unwrap()).count, 2);
    let error = refused(&text.replace("2,", "-2,"));
    assert!(error.starts_with("config.json:5: server.count: \"-2\" is not a whole number"), "{error}");
}

#[test]
fn what_is_not_json_is_refused_with_line_and_column() {
    for (text, says) in [
        ("", "config.json:1: the file is empty; write {} for the defaults"),
        (" \n", "config.json:2: the file is empty"),
        ("// {}\n\n", "config.json:3: the file is empty"),
        ("{\n\"server\" {}}", "config.json:2: not valid JSON: expected colon after the string"),
        ("{} {}", "config.json:1: not valid JSON: text cannot contain more than one JSON value at column 4"),
        ("[]", "config.json:1: must be an object"),
        ("5", "config.json:1: must be an object"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(says), "{error}");
    }
    let deep = "[".repeat(100_000);
    assert!(refused(&deep).contains("not valid JSON: maximum nesting depth exceeded"));
    parse("\u{feff}{}").unwrap();
}

#[test]
fn a_file_that_is_no_configuration_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let refused = || Config::load(file.path()).unwrap_err().to_string();
    std::fs::write(file.path(), [0xff, 0xfe]).unwrap();
    assert!(refused().contains("cannot read the file"), "{}", refused());
    std::fs::write(file.path(), " ".repeat(1 << 21)).unwrap();
    assert!(refused().contains("larger than 1048576 bytes"), "{}", refused());
    let endless = Config::load(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(endless.contains("it is a device, not a regular file"), "{endless}");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn no_json_makes_it_panic_and_every_refusal_is_one_short_line(
        section in "server|client|load_balancer|controller|logs|key_file|.*",
        key in "count|min|max|bind|command|size_max|service|timeout|deadline|start_id|port_range_end|.*",
        text in "[0-9]{1,6}|\\PC*|[0-9.]+[a-zA-Z ]*|(.|\n)*",
        as_text in any::<bool>(),
    ) {
        let number = text.parse::<f64>().ok().filter(|_| !as_text);
        let value = number.map_or(text.clone().into(), serde_json::Value::from);
        let file = serde_json::json!({ section: { key: value } }).to_string();
        if let Err(error) = parse(&file) {
            prop_assert!(!error.chars().any(char::is_control), "{error:?}");
            prop_assert!(error.len() < 600, "{error}");
        }
    }

    #[test]
    fn a_swap_of_two_pieces_never_makes_it_panic(cuts in proptest::collection::vec(0..ORIGINAL.len(), 4)) {
        let mut cuts = cuts;
        cuts.sort_unstable();
        let [a, b, c, d] = cuts[..] else { unreachable!() };
        let pieces = [&ORIGINAL[..a], &ORIGINAL[c..d], &ORIGINAL[b..c], &ORIGINAL[a..b], &ORIGINAL[d..]];
        let _ = parse(&pieces.concat());
    }

    #[test]
    fn no_change_of_one_byte_makes_it_panic(at in 0usize..ORIGINAL.len(), byte in 0u8..128) {
        let mut bytes = ORIGINAL.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = parse(std::str::from_utf8(&bytes).unwrap());
    }
}

#[test]
fn a_file_that_is_cut_off_is_an_error_wherever_it_is_cut() {
    for len in 0..ORIGINAL.trim_end().len() {
        let error = refused(&ORIGINAL[..len]);
        assert!(error.starts_with("config.json:"), "{error}");
    }
}

#[test]
fn the_admin_interface_stays_on_the_loopback_unless_a_token_is_set() {
    let admin = parse("{}").unwrap().admin;
    assert_eq!((admin.listen, admin.is_written), (Some("127.0.0.1:55080".parse().unwrap()), false));
    let admin = parse(r#"{"admin": {"listen": "off"}}"#).unwrap().admin;
    assert_eq!((admin.listen, admin.is_written), (None, true));
    let error = refused("{\"admin\": {\n\"listen\": \"0.0.0.0:55080\"}}");
    assert!(error.starts_with("config.json:2: admin.listen: 0.0.0.0 is not a loopback"), "{error}");
    assert!(error.contains("set admin.token_file"), "{error}");
    assert!(
        refused(r#"{"admin": {"listen": "here"}}"#).contains("write IP:PORT such as 127.0.0.1:55080, or off")
    );

    let file = tempfile::NamedTempFile::new().unwrap();
    let text = serde_json::json!({"admin": {"listen": "0.0.0.0:1", "token_file": file.path()}}).to_string();
    assert!(refused(&text).contains("admin.token_file: ") && refused(&text).contains("openssl rand"));
    std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
    let token = parse(&text).unwrap().admin.token.unwrap();
    assert_eq!((token.as_str(), format!("{token:?}").as_str()), ("0123456789abcdef", "Token(..)"));
}

#[test]
fn state_has_a_directory_of_this_user() {
    let dir = parse(r#"{"state_dir": "/run/somewhere"}"#).unwrap().state_dir;
    assert_eq!(dir, Path::new("/run/somewhere"));
    assert!(parse("{}").unwrap().state_dir.is_absolute());
}
