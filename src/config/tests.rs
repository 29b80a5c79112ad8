use super::*;
use proptest::prelude::*;

const REPOSITORY: &str = include_str!("../../config.json");

/// The file of the specification, exactly as it stands there.
const ORIGINAL: &str = r#"{
  "server": {"count": "1", "port_range_start": "50000", "port_range_end": "51000", "start_id": "0", "queue_update_interval": "10"},
  "client": {"count": "10", "port_range_start": "51000", "port_range_end": "52000", "start_id": "1000"},
  "load_balancer": {"server_side_port": "54000", "client_side_port": "54001", "server_scaling_threshold": "5"},
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
    assert_eq!(original.server.interval, Duration::from_millis(10));
    assert_eq!(
        (original.server.ports.clone(), original.client.ports.clone()),
        (50_000..51_000, 51_000..52_000)
    );
    assert_eq!(original.native().client_side, "127.0.0.1:54001".parse().unwrap());
    assert_eq!(shown(original.clone()), shown(Config::default()));
    assert_eq!(shown(original), shown(parse(REPOSITORY).unwrap()));
}

#[test]
fn numbers_may_be_numbers_and_durations_may_have_units() {
    let config = parse(
        r#"{"server": {"count": 3, "queue_update_interval": "500us", "service": "exp:2ms"}, "client": {"rate": 12.5}}"#,
    );
    let config = config.map_err(|e| assert!(e.contains("queue_update_interval"), "{e}"));
    assert!(config.is_err(), "500 us is below the range");
    let config = parse(r#"{"server": {"count": 3, "queue_update_interval": "1s 500ms"}, "client": {"rate": 12.5, "deadline": 250}}"#).unwrap();
    assert_eq!((config.server.count, config.server.interval), (3, Duration::from_millis(1500)));
    assert_eq!((config.client.rate, config.client.deadline), (12.5, Duration::from_millis(250)));
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_one() {
    let error = refused("{\n  \"server\": {\n    \"port_range_strat\": 1}}");
    assert_eq!(error, "config.json:3: unknown key \"port_range_strat\": did you mean \"port_range_start\"?");
    let error = refused(r#"{"loadbalancer": {}}"#);
    assert!(error.contains("did you mean \"load_balancer\""), "{error}");
    let error = refused(r#"{"xyz": {}}"#);
    assert!(error.contains("use one of") && error.contains("controller"), "{error}");
}

#[test]
fn what_is_not_implemented_yet_is_refused_in_those_words() {
    for (text, key) in [
        (r#"{"pools": []}"#, "pools"),
        (r#"{"admin": {"listen": "127.0.0.1:1"}}"#, "admin"),
        (r#"{"load_balancer": {"waiting_max": 10}}"#, "load_balancer.waiting_max"),
        (r#"{"load_balancer": {"workers": 2}}"#, "load_balancer.workers"),
        (r#"{"load_balancer": {"io": "io_uring"}}"#, "load_balancer.io"),
        (r#"{"load_balancer": {"reply_path": "direct"}}"#, "load_balancer.reply_path"),
        (r#"{"client": {"servers": []}}"#, "client.servers"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(&format!("config.json:1: {key}: ")), "{error}");
        assert!(error.contains("not implemented yet"), "{error}");
    }
    assert!(refused(r#"{"load_balancer": {"io": "epol"}}"#).contains("\"epol\" is unknown: use auto or mio"));
    assert!(refused(r#"{"load_balancer": {"workers": "0"}}"#).contains("unknown: use 1"));
    parse(r#"{"load_balancer": {"workers": 1, "io": "mio", "reply_path": "balancer"}}"#).unwrap();
}

#[test]
fn values_outside_their_range_are_refused_with_the_range() {
    for (text, says) in [
        (r#"{"server": {"count": "-1"}}"#, "server.count: \"-1\" is not a number from 0 to 4096"),
        (r#"{"server": {"count": "12x"}}"#, "\"12x\" is not a number"),
        (r#"{"server": {"count": 5, "max": 4}}"#, "server.count: 5 is not within"),
        (r#"{"server": {"min": 3, "max": 2}}"#, "server.min: 3 is more than server.max"),
        (r#"{"server": {"weight": 101}}"#, "1 to 100"),
        (r#"{"server": {"service": "exp"}}"#, "such as exp:5ms"),
        (r#"{"server": {"queue_capacity": 0}}"#, "1 to 1048576"),
        (r#"{"server": {"queue_update_interval": "soon"}}"#, "10ms"),
        (r#"{"server": {"queue_update_interval": "0"}}"#, "from 1ms to 10s"),
        (r#"{"server": {"command": ""}}"#, "no program"),
        (r#"{"server": {"command": "serve --fast"}}"#, "{port} is missing"),
        (r#"{"server": {"max": 100}}"#, "servers_max"),
        (r#"{"load_balancer": {"frame_size": 127}}"#, "128 to 1200"),
        (r#"{"load_balancer": {"policy": "best"}}"#, "shortest_queue"),
        (r#"{"load_balancer": {"max_outstanding": 0}}"#, "1 to 1000000"),
        (r#"{"load_balancer": {"server_scaling_threshold": "NaN"}}"#, "server_scaling_threshold"),
        (r#"{"load_balancer": {"bind": "localhost"}}"#, "not an IP address"),
        (r#"{"client": {"count": 1001}}"#, "0 to 1000"),
        (r#"{"client": {"deadline": 50}}"#, "client.deadline"),
        (r#"{"controller": {"port": 0}}"#, "1 to 65535"),
        (r#"{"controller": {"port": 70000}}"#, "1 to 65535"),
        (r#"{"logs": {"level": "loud"}}"#, "one of error, warn"),
        (r#"{"logs": {"format": "xml"}}"#, "text or json"),
        (r#"{"logs": {"size_max": "10 elephants"}}"#, "10MB"),
        (r#"{"server": {"count": [1]}}"#, "a number or a string"),
        (r#"{"server": {"count": 1, "count": 2}}"#, "stands here twice"),
    ] {
        let error = refused(text);
        assert!(error.contains(says) && error.starts_with("config.json:1: "), "{text}: {error}");
    }
}

#[test]
fn ranges_are_half_open_and_must_not_clash() {
    let error = refused(r#"{"server": {"port_range_start": 50000, "port_range_end": 51001}}"#);
    assert!(error.contains("port 51000 is also taken by server.port_range_start"), "{error}");
    let error = refused(r#"{"controller": {"port": 54000}}"#);
    assert!(
        error.contains("controller.port: port 54000 is also taken by load_balancer.server_side_port"),
        "{error}"
    );
    let error = refused(r#"{"load_balancer": {"client_side_port": 50500}}"#);
    assert!(error.contains("also taken by server.port_range_start"), "{error}");
    let error = refused(r#"{"server": {"port_range_start": 50000, "port_range_end": 50000}}"#);
    assert!(error.contains("is empty"), "{error}");
    let error = refused(r#"{"server": {"port_range_start": 50000, "port_range_end": 50010}}"#);
    assert!(error.contains("do not fit into 10 ports"), "{error}");
}

#[test]
fn beyond_the_loopback_a_key_is_needed() {
    let error = refused(r#"{"load_balancer": {"bind": "0.0.0.0"}}"#);
    assert!(
        error.contains("load_balancer.bind: 0.0.0.0 is not a loopback address") && error.contains("key_file"),
        "{error}"
    );
    let error = refused(r#"{"controller": {"bind": "192.0.2.1"}}"#);
    assert!(error.contains("controller.bind: 192.0.2.1") && error.contains("key_file"), "{error}");
    let open = parse(r#"{"load_balancer": {"bind": {"client_side": "0.0.0.0"}}}"#).unwrap();
    assert_eq!(open.balancer_for_clients(), "127.0.0.1:54001".parse().unwrap());
    let key = tempfile::NamedTempFile::new().unwrap(); // made with mode 0600
    std::fs::write(key.path(), "000102030405060708090a0b0c0d0e0f").unwrap();
    let with_key = |rest: &str| format!(r#"{{"key_file": "{}", {rest}}}"#, key.path().display());
    let config = parse(&with_key(r#""load_balancer": {"bind": "::"}"#)).unwrap();
    assert!(config.native().format.tagged && config.key.is_some());
    assert!(refused(&with_key(r#""load_balancer": {"frame_size": 159}"#)).contains("160 to 1200"));
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
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn the_schema_knows_the_same_keys_as_the_parser() {
    let schema = schema();
    let sections = schema["properties"].as_object().unwrap();
    let file: serde_json::Value = serde_json::from_str(ORIGINAL).unwrap();
    for (section, keys) in file.as_object().unwrap() {
        assert!(sections.contains_key(section));
        for key in keys.as_object().unwrap().keys() {
            assert!(schema.to_string().contains(&format!("\"{key}\"")), "{section}.{key}");
        }
    }
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        for (key, property) in definition["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{name}.{key} has no description");
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _ = parse(&text);
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
