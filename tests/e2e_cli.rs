//! The command line: checking configurations, help, exit codes, keys, logs.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use common::{Finished, Site, wait_for};
use serde_json::{Value, json};

const LBD: &str = env!("CARGO_BIN_EXE_lbd");

fn lbd(args: &[&str]) -> Finished {
    Site::new(json!({})).start_bare(args).finish()
}

/// The whole of standard error, which is one line about one mistake.
fn one_error(finished: &Finished) -> &str {
    assert_eq!(finished.code, 2, "{finished:?}");
    assert_eq!(finished.stdout, "");
    let line = finished.stderr.strip_suffix('\n').expect("a line");
    assert!(line.starts_with("lbd: ") && !line.contains('\n'), "{line}");
    line
}

#[test]
fn check_describes_the_repositorys_configuration() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config.json");
    let finished = lbd(&["check", file]);
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""));
    for part in
        ["config.json: valid", "clients on 127.0.0.1:54001, servers on 127.0.0.1:54000", "on 127.0.0.1:55000"]
    {
        assert!(finished.stdout.contains(part), "{part} in {}", finished.stdout);
    }
}

#[test]
fn check_names_file_line_and_key_of_a_mistake() {
    let site = Site::new(json!({}));
    let cases = [
        ("{\n \"server\": {\"cuont\": 1}}", 2, "server.cuont", "count"),
        ("{\n\n \"server\": {\"count\": \"many\"}}", 3, "server.count", "\"many\" is not a whole number"),
        (
            "{\n \"load_balancer\": {\n  \"client_side_port\": 54000}}",
            3,
            "load_balancer.client_side_port",
            "127.0.0.1:54000 is taken twice",
        ),
        ("{\n \"load_balancer\": {\"io\": \"epoll\"}}", 2, "load_balancer.io", "use auto, mio or io_uring"),
        ("{\n \"load_balancer\": {\"workers\": 99}}", 2, "load_balancer.workers", "from 1 to 32"),
        (
            "{\n \"load_balancer\": {\"reply_path\": \"shortcut\"}}",
            2,
            "load_balancer.reply_path",
            "use balancer or direct",
        ),
        ("{\n \"pools\": []}", 2, "pools", "the list is empty"),
        ("{\n \"admin\": {\"listen\": \"0.0.0.0:1\"}}", 2, "admin.listen", "set admin.token_file"),
        (
            "{\"pools\": [\n \
             {\"listen\": \"*:5300\", \"protocol\": \"dns\", \"servers\": [\"192.0.2.1\"]},\n \
             {\"listen\": \"*:5301\", \"protocol\": \"dns\", \"servers\": [\"192.0.2.1\"],\n  \
             \"health\": {\"interval\": \"soon\"}}]}",
            4,
            "pools[1].health.interval",
            "\"soon\" is not a duration",
        ),
        (
            "{\"pools\": [{\"listen\": \"*:5300\", \"protocol\": \"dns\",\n \
             \"servers\": [\"127.0.0.1:5300\"]}]}",
            2,
            "pools[0].servers[0]",
            "127.0.0.1:5300 is where this pool itself listens; name a server",
        ),
        ("{\n \"controller\": {\"bind\": \"0.0.0.0\"}}", 2, "controller.bind", "set key_file"),
        ("{\n \"load_balancer\": {\"bind\": \"0.0.0.0\"}}", 2, "load_balancer.bind", "set key_file"),
    ];
    for (text, line, key, problem) in cases {
        let file = site.write("broken.json", text);
        let finished = site.start_bare(&["check", "broken.json"]).finish();
        let error = one_error(&finished);
        assert!(error.starts_with(&format!("lbd: broken.json:{line}: {key}: ")), "{error}");
        assert!(error.contains(problem), "{problem} in {error}");
        // All commands that read a configuration print the same error.
        let file = file.to_str().unwrap();
        for subcommand in ["up", "balancer", "controller", "server", "client"] {
            let finished = site.start_bare(&[subcommand, "--config", file]).finish();
            assert!(one_error(&finished).ends_with(error.strip_prefix("lbd: ").unwrap()), "{finished:?}");
        }
    }
    let finished = site.start_bare(&["check", "nowhere.json"]).finish();
    assert!(one_error(&finished).starts_with("lbd: nowhere.json: cannot read the file"), "{finished:?}");
    site.write("broken.json", "{\n\"server\": {,}}");
    let finished = site.start_bare(&["check", "broken.json"]).finish();
    assert!(one_error(&finished).starts_with("lbd: broken.json:2: not valid JSON"), "{finished:?}");
}

#[test]
fn check_describes_pools_and_what_their_ports_allow() {
    let site = Site::new(json!({}));
    site.write(
        "pools.json",
        r#"{"pools": [
            {"listen": "127.0.0.1:5300", "protocol": "dns",
             "servers": ["192.0.2.1", {"address": "192.0.2.2", "weight": 2}]},
            {"listen": "127.0.0.1:5400", "protocol": "datagram",
             "servers": ["192.0.2.1:7"], "hold": "1s"}]}"#,
    );
    let finished = site.start_bare(&["check", "pools.json"]).finish();
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""));
    for part in [
        "pools.json: valid",
        "pool-1: dns on 127.0.0.1:5300",
        "192.0.2.2:53, id 1, weight 2",
        "pool-2: datagram on 127.0.0.1:5400",
        "256 ports x 1 server = 256 port-and-server pairs; with a quarantine of 1s: \
         about 256 requests per second",
    ] {
        assert!(finished.stdout.contains(part), "{part} in {}", finished.stdout);
    }
    assert!(!finished.stdout.contains("54001"), "there is no native pool: {}", finished.stdout);
}

#[test]
fn what_is_native_is_refused_where_there_are_pools_only() {
    let site = Site::new(json!({}));
    let text = r#"{"pools": [{"listen": "127.0.0.1:5300", "protocol": "dns", "servers": ["192.0.2.1"]}]}"#;
    site.write("pools.json", text);
    for subcommand in ["up", "controller", "server", "client"] {
        let finished = site.start_bare(&[subcommand, "--config", "pools.json"]).finish();
        let expected = format!(
            "lbd: pools.json: the configuration has datagram pools only; \
             add a native section such as \"load_balancer\": {{}} to run lbd {subcommand}{}",
            if subcommand == "controller" { ", or \"run\" to a pool" } else { "" }
        );
        assert_eq!(one_error(&finished), expected);
    }
}

#[test]
fn a_pool_without_a_file_is_checked_like_one_in_a_file() {
    let site = Site::new(json!({}));
    let pool =
        ["balancer", "--listen", "127.0.0.1:5300", "--protocol", "datagram", "--server", "127.0.0.1:5301"];
    let refused = |more: &[&str]| {
        let finished = site.start_bare(&[&pool[..], more].concat()).finish();
        one_error(&finished).to_owned()
    };
    for (more, says) in [
        (&["--server", "127.0.0.1:5300"][..], "--server: 127.0.0.1:5300 is where this pool itself listens"),
        (&["--server", "127.0.0.1:5301"], "--server: 127.0.0.1:5301 is listed twice"),
        (&["--listen", "*:5300"], "--listen: 0.0.0.0:5300 is taken twice"),
        (&["--affinity", "server"], "--affinity: \"server\" is unknown; use none or client"),
        (&["--policy", "best"], "--policy: unknown policy \"best\""),
        (&["--replies", "2"], "--replies: more than one response needs affinity: client"),
        (&["--timeout", "soon"], "--timeout: \"soon\" is not a duration"),
    ] {
        let error = refused(more);
        assert!(error.starts_with(&format!("lbd: {says}")), "{error}");
    }
    let cases: [(&[&str], &str); 6] = [
        (&["--listen", "127.0.0.1:5300"], "--protocol"),
        (&["--listen", "127.0.0.1:5300", "--protocol", "dns"], "--server"),
        (&["--protocol", "dns", "--server", "192.0.2.1"], "--listen"),
        (&["--server", "192.0.2.1"], "--listen"),
        (&["--timeout", "1s"], "--listen"),
        (
            &["--config", "config.json", "--listen", "*:1", "--protocol", "dns", "--server", "a"],
            "cannot be used with",
        ),
    ];
    for (args, named) in cases {
        let finished = site.start_bare(&[&["balancer"], args].concat()).finish();
        assert_eq!((finished.code, finished.stdout.as_str()), (2, ""), "{args:?}: {finished:?}");
        assert!(finished.stderr.contains(named), "{args:?}: {finished:?}");
    }
}

#[test]
fn the_schema_is_json_and_knows_every_section() {
    let finished = lbd(&["schema"]);
    assert_eq!(finished.code, 0);
    let schema: Value = serde_json::from_str(&finished.stdout).expect("valid JSON");
    for section in ["server", "client", "load_balancer", "controller", "logs", "key_file", "pools"] {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
}

/// Runs a component whose standard output or error has no reader.
fn with_closed_pipe(site: &Site, args: &[&str], close_stderr: bool) -> (Option<i32>, String) {
    let mut command = Command::new(LBD);
    command.args(args).current_dir(site.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    if close_stderr {
        drop(child.stderr.take());
    } else {
        drop(child.stdout.take());
    }
    let code = wait_for("its end", || child.try_wait().unwrap(), || format!("{args:?}")).code();
    let output = child.wait_with_output().unwrap();
    (code, String::from_utf8_lossy(if close_stderr { &output.stdout } else { &output.stderr }).into_owned())
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    let site = Site::new(json!({"client": {"deadline": "100ms", "timeout": "50ms"}}));
    assert_eq!(with_closed_pipe(&site, &["schema"], false), (Some(0), String::new()));
    assert_eq!(with_closed_pipe(&site, &["check"], false), (Some(0), String::new()));
    // No balancer answers, and this is the only reason for exit code 1.
    assert_eq!(with_closed_pipe(&site, &["client", "--requests", "1"], false), (Some(1), String::new()));
    assert_eq!(with_closed_pipe(&site, &["check", "nowhere.json"], true), (Some(2), String::new()));
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(LBD).arg("schema").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("lbd: cannot write to standard output: No space left"), "{stderr}");
}

#[test]
fn every_subcommand_explains_itself() {
    let finished = lbd(&["--help"]);
    assert_eq!(finished.code, 0);
    assert!(finished.stdout.contains("Exit codes: 0 success; 1 a request was lost or refused"));
    let options: [(&str, &[&str]); 8] = [
        ("up", &["--config", "--duration", "--servers", "--clients", "--rate", "--service", "--quiet"]),
        (
            "balancer",
            &[
                "--config",
                "--status-every",
                "--quiet",
                "--listen",
                "--protocol",
                "--server",
                "--affinity",
                "--policy",
                "--replies",
                "--timeout",
            ],
        ),
        ("controller", &["--config", "--quiet"]),
        (
            "server",
            &["--config", "--port", "--id", "--bind", "--balancer", "--service", "--workers", "--json"],
        ),
        ("client", &["--config", "--requests", "--rate", "--to", "--id", "--window", "--payload", "--json"]),
        (
            "sim",
            &[
                "--servers",
                "--balancers",
                "--policy",
                "--load",
                "--service",
                "--staleness",
                "--loss",
                "--overload",
                "--seed",
                "--report",
            ],
        ),
        ("check", &["[FILE]"]),
        ("schema", &[]),
    ];
    for (subcommand, words) in options {
        assert!(finished.stdout.contains(&format!("\n  {subcommand}")), "{subcommand} in the list");
        let help = lbd(&[subcommand, "--help"]);
        assert_eq!((help.code, help.stderr.as_str()), (0, ""), "{subcommand}");
        assert!(words.iter().all(|word| help.stdout.contains(word)), "{subcommand}: {}", help.stdout);
    }
}

#[test]
fn bad_arguments_are_exit_code_2_and_are_named() {
    let cases: [(&[&str], &str); 12] = [
        (&[], "Usage"),
        (&["fly"], "fly"),
        (&["client", "--requests", "many"], "--requests"),
        (&["client", "--rate", "0"], "--rate must be greater than 0"),
        (&["client", "--rate", "inf"], "--rate must be greater than 0"),
        (&["client", "--window", "0"], "--window"),
        (&["server", "--service", "slow"], "--service"),
        (&["server", "--bind", "0.0.0.0"], "set key_file"),
        (&["balancer", "--status-every", "often"], "--status-every"),
        (&["up", "--servers", "0"], "--servers 0"),
        (&["up", "--clients", "4000"], "--clients 4000"),
        (&["up", "--duration", "soon"], "--duration"),
    ];
    for (args, named) in cases {
        let finished = lbd(args);
        assert_eq!(finished.code, 2, "{args:?}: {finished:?}");
        assert!(finished.stderr.contains(named) && finished.stdout.is_empty(), "{args:?}: {finished:?}");
    }
    let long = "x".repeat(145);
    let finished = lbd(&["client", "--payload", &long]);
    assert!(one_error(&finished).contains("145 bytes, but a frame carries at most 144"));
}

fn write_key(site: &Site, name: &str, digits: &str, mode: u32) {
    let path = site.write(name, digits);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn with_a_key_only_servers_that_have_it_join() {
    let site = Site::new(json!({"key_file": "key"}));
    write_key(&site, "key", "000102030405060708090a0b0c0d0e0f", 0o600);
    write_key(&site, "other", "ff0102030405060708090a0b0c0d0e0f", 0o600);
    let config = std::fs::read_to_string(site.path().join("config.json")).unwrap();
    site.write("other.json", &config.replace("\"key\"", "\"other\""));
    site.write(
        "none.json",
        &config.replace("\"key_file\":\"key\",", "").replace(",\"key_file\":\"key\"", ""),
    );

    let (balancer, servers) = site.pool(2, &[]);
    let _with_another = site.start_bare(&["server", "--id", "2", "--config", "other.json"]);
    let seen = balancer.wait_until("the other key is refused", |s| s.pools[0].dropped.get("tag") > Some(&2));
    let _without = site.start_bare(&["server", "--id", "3", "--config", "none.json"]);
    let tags = seen.pools[0].dropped["tag"];
    balancer.wait_until("no key is refused as well", |s| s.pools[0].dropped["tag"] > tags + 2);
    let (code, summary) = site.ask(&["--requests", "500"]);
    assert_eq!((code, summary.answered), (0, 500));
    let status = balancer.wait_until_up(2);
    assert_eq!(status.pools[0].servers.iter().map(|s| s.id).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(status.pools[0].dropped.keys().collect::<Vec<_>>(), ["tag"]);
    assert_eq!(servers.len(), 2);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let site = Site::new(json!({"key_file": "key"}));
    write_key(&site, "key", "000102030405060708090a0b0c0d0e0f", 0o644);
    let finished = site.start(&["balancer"]).finish();
    assert!(
        one_error(&finished).contains("key_file: key can be read by others (mode 644); run chmod 600 key")
    );
    assert!(!finished.stderr.contains("0a0b"), "it does not repeat the key");
}

#[test]
fn a_log_in_json_has_one_object_a_line() {
    let site = Site::new(json!({"logs": {"format": "json"}, "load_balancer": {"workers": 1}}));
    let (mut balancer, _servers) = site.pool(1, &[]);
    balancer.signal(libc::SIGTERM);
    assert_eq!(balancer.finish().code, 0);
    let log = site.log("balancer/balancer.log");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let messages: Vec<&str> = lines.iter().filter_map(|line| line["fields"]["message"].as_str()).collect();
    let expected = ["listening", "listening", "batch I/O", "admin interface"];
    assert_eq!(messages[..4], expected);
    assert_eq!(messages[4..], ["server joined", "server state changed", "worker stopped"]);
    let of_pool = |line: &&Value| line["fields"]["message"] != "admin interface";
    assert!(lines.iter().filter(of_pool).all(|line| line["fields"]["pool"] == "native"), "{log}");
    assert!(lines.iter().all(|line| line["timestamp"].is_string() && line["level"] == "INFO"), "{log}");
}

#[test]
fn a_log_leaves_out_what_is_below_its_level() {
    let site = Site::new(json!({"logs": {"level": "warn"}}));
    let (balancer, mut servers) = site.pool(1, &[]);
    servers[0].kill_now();
    balancer.wait_for_server(0, "down", |s| s.state == "down");
    let look = || site.log("balancer/balancer.log").contains("state=\"down\"").then_some(());
    wait_for("the warning", look, || site.log("balancer/balancer.log"));
    let log = site.log("balancer/balancer.log");
    assert!(log.lines().all(|line| line.contains(" WARN ")), "{log}");
    assert_eq!(site.log("servers/server_0.log"), "", "there was nothing to warn of");
}

#[test]
fn a_log_is_set_aside_when_it_is_full() {
    let site = Site::new(json!({"logs": {"size_max": "10kB"}}));
    let folder = site.path().join("logs/balancer");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("balancer.log"), "old line\n".repeat(1_100)).unwrap();
    let mut balancer = site.balancer();
    let server = site.server(0, &[]);
    balancer.wait_until_up(1);
    balancer.signal(libc::SIGTERM);
    assert_eq!(balancer.finish().code, 0);
    drop(server);
    let (new, old) = (site.log("balancer/balancer.log"), site.log("balancer/balancer.log.1"));
    assert!(old.starts_with("old line\n") && old.len() <= 10_000, "{} bytes", old.len());
    assert!(new.len() <= 10_000 && new.contains("stopped") && !new.contains("old line"), "{new}");
}
