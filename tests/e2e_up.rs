//! Whole systems: `lbd up`, and the controller with its servers.

#![allow(unsafe_code)] // calls that the standard library does not have

mod common;

use std::net::UdpSocket;
use std::process::{Command, Stdio};

use common::{Finished, Running, Site, wait_for};
use serde_json::json;

const CONTROLLER_LOG: &str = "controller/controller.log";

/// The figures of the summary: sent, answered, retried, refused, busy, lost.
fn figures(finished: &Finished) -> [u64; 6] {
    let line = finished.stdout.lines().find(|line| line.starts_with("summary: "));
    let line = line.unwrap_or_else(|| panic!("no summary: {finished:?}"));
    let figures = line.split_once(" s: ").expect("clients and seconds come first").1;
    let names = ["requests sent", "answered", "retried", "refused", "busy", "lost"];
    let mut parts = figures.split(", ");
    names.map(|name| {
        let number = parts.next().and_then(|part| part.strip_suffix(name)).expect(name);
        number.trim().parse().expect(name)
    })
}

/// Everything was answered, and nothing else happened to any request.
fn assert_all_answered(finished: &Finished) {
    let [sent, answered, _, refused, busy, lost] = figures(finished);
    assert!(sent > 0 && answered == sent && (refused, busy, lost) == (0, 0, 0), "{finished:?}");
    assert_eq!(finished.code, 0, "{finished:?}");
}

/// Waits until a log holds a line with all of these parts after `from` bytes; gives that line.
fn wait_for_line(site: &Site, log: &str, from: usize, parts: &[&str]) -> String {
    let look = || {
        let text = site.log(log);
        let mut lines = text.get(from..)?.lines();
        lines.find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
    };
    wait_for(&format!("{parts:?} in {log}"), look, || site.log(log))
}

fn pid_in(line: &str) -> i32 {
    let number = line.rsplit_once("pid=").expect("a pid").1;
    number.trim().parse().expect("a number")
}

/// Starts `lbd up` and waits until its clients run.
fn start_up(site: &Site, more: &[&str]) -> Running {
    let up = site.start(&[&["up"], more].concat());
    wait_for_line(site, CONTROLLER_LOG, 0, &[" up clients="]);
    up
}

fn assert_nothing_left(site: &Site) {
    assert_eq!(site.processes(), Vec::<i32>::new(), "processes of this system still run");
}

#[test]
fn up_runs_for_its_time_and_shows_and_logs_every_part() {
    let site = Site::new(json!({"server": {"count": 2}, "client": {"count": 3}}));
    let finished = site.start(&["up", "--duration", "2s", "--rate", "200"]).finish();
    assert_all_answered(&finished);
    assert!(figures(&finished)[0] > 100, "about 400 were asked for: {finished:?}");
    assert!(finished.stdout.contains("summary: 3 clients, 2."), "{}", finished.stdout);
    let table: Vec<&str> = finished.stdout.split("\n\n").next().unwrap().lines().collect();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(table[0]), ["server", "state", "queue", "served", "per", "s", "p50", "p99"]);
    assert_eq!((&words(table[1])[..2], &words(table[2])[..2]), (&words("0 up")[..], &words("1 up")[..]));
    assert_eq!(words(table[3])[..3], ["all", "2", "up"]);
    assert!(table[4].contains("1s, 3 clients, ") && table[4].contains(" requests, 0 failed, 0 dropped"));
    assert_nothing_left(&site);
    for (log, line) in [
        ("balancer/balancer.log", "server joined pool=\"native\" server=0"),
        (CONTROLLER_LOG, "server started pool=\"native\" server=1"),
        ("servers/server_0.log", "registered"),
        ("servers/server_1.log", "stopped received="),
        ("clients/client_1000.log", "finished sent="),
        ("clients/client_1002.log", "finished sent="),
    ] {
        assert!(site.log(log).contains(line), "{line} in {log}: {}", site.log(log));
    }
}

#[test]
fn ctrl_c_ends_up_with_a_summary_and_leaves_no_process() {
    let site = Site::new(json!({"server": {"count": 2}}));
    let mut up = start_up(&site, &["--quiet"]);
    assert_eq!(site.processes().len(), 1 + 1 + 2 + 4, "itself, a balancer, servers, clients");
    wait_for_line(
        &site,
        "balancer/balancer.log",
        0,
        &["state changed pool=\"native\" server=1", "state=\"up\""],
    );
    up.signal(libc::SIGINT);
    let finished = up.finish();
    assert_eq!(finished.code, 0, "{finished:?}");
    assert_eq!(
        (finished.stdout.lines().count(), finished.stderr.as_str()),
        (1, ""),
        "quiet except for the summary"
    );
    figures(&finished);
    assert_nothing_left(&site);
}

#[test]
fn up_ends_when_nobody_reads_its_table() {
    let site = Site::new(json!({"server": {"count": 1}, "client": {"count": 1}}));
    let config = site.path().join("config.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lbd"));
    command.arg("up").arg("--config").arg(config).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.current_dir(site.path()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    let status = wait_for("its end", || child.try_wait().unwrap(), || site.log(CONTROLLER_LOG));
    assert_eq!(status.code(), Some(0));
    assert!(site.log(CONTROLLER_LOG).contains("standard output closed"));
    assert_nothing_left(&site);
}

#[test]
fn a_crashed_server_is_started_again() {
    let site = Site::new(json!({"server": {"count": 2}, "client": {"timeout": "100ms"}}));
    let mut up = start_up(&site, &["--rate", "300"]);
    let pid = pid_in(&wait_for_line(&site, CONTROLLER_LOG, 0, &["server started", "server=1", "pid="]));
    let seen = site.log(CONTROLLER_LOG).len();
    assert!(site.processes().contains(&pid));
    send_signal(pid, libc::SIGKILL);
    wait_for_line(&site, CONTROLLER_LOG, seen, &["WARN", "server ended unexpectedly", "server=1", "SIGKILL"]);
    let again = pid_in(&wait_for_line(&site, CONTROLLER_LOG, seen, &["server started", "server=1", "pid="]));
    assert_ne!(again, pid);
    let log = "balancer/balancer.log";
    let joined = || (site.log(log).matches("joined pool=\"native\" server=1").count() == 2).then_some(());
    wait_for("it joins again", joined, || site.log(log));
    let told = || up.stdout().contains("server 1 ended unexpectedly (signal 9 SIGKILL)").then_some(());
    wait_for("the table reports it", told, || up.stdout());
    up.signal(libc::SIGINT);
    assert_all_answered(&up.finish());
    assert_nothing_left(&site);
}

fn send_signal(pid: i32, signal: i32) {
    // SAFETY: kill(2) touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}

#[test]
fn a_crashed_balancer_is_started_again() {
    let site = Site::new(json!({"server": {"count": 2}, "client": {"timeout": "100ms"}}));
    let mut up = start_up(&site, &["--rate", "300"]);
    let seen = site.log(CONTROLLER_LOG).len();
    send_signal(pid_in(&wait_for_line(&site, CONTROLLER_LOG, 0, &["balancer started"])), libc::SIGKILL);
    wait_for_line(&site, CONTROLLER_LOG, seen, &["balancer ended unexpectedly", "signal 9"]);
    wait_for_line(&site, CONTROLLER_LOG, seen, &["balancer started"]);
    let log = "balancer/balancer.log";
    let joined = || (site.log(log).matches("joined pool=\"native\" server=1").count() == 2).then_some(());
    wait_for("the servers join again", joined, || site.log(log));
    up.signal(libc::SIGINT);
    assert_all_answered(&up.finish());
    assert_nothing_left(&site);
}

#[test]
fn an_address_in_use_is_named_and_nothing_is_left_running() {
    let site = Site::new(json!({}));
    for port in [site.client_side(), site.server_side(), site.controller_port()] {
        let _taken = UdpSocket::bind(("127.0.0.1", port)).unwrap();
        let finished = site.start(&["up", "--duration", "1s"]).finish();
        assert_eq!(finished.code, 2, "{finished:?}");
        let named = format!("cannot bind 127.0.0.1:{port}: Address already in use");
        assert!(finished.stderr.contains(&named), "{finished:?}");
        // Servers that were asked to stop end on their own.
        wait_for("no process is left", || site.processes().is_empty().then_some(()), String::new);
    }
}

#[test]
fn a_client_that_cannot_run_is_a_failure_of_the_whole() {
    let site = Site::new(json!({"server": {"count": 1}, "client": {"count": 2}}));
    let port = site.client_port(1);
    let _taken = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    let finished = site.start(&["up", "--duration", "500ms"]).finish();
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stderr.contains(&format!("cannot bind 127.0.0.1:{port}")), "{finished:?}");
    assert!(finished.stderr.contains("client 1001 ended without a summary"), "{finished:?}");
    let [sent, answered, ..] = figures(&finished);
    assert!(sent > 0 && sent == answered, "the other one had its answers: {finished:?}");
}

#[test]
fn a_server_port_in_use_is_passed_over() {
    let site = Site::new(json!({"server": {"count": 2}}));
    let _taken = UdpSocket::bind(("127.0.0.1", site.server_port(0))).unwrap();
    let finished = site.start(&["up", "--duration", "500ms"]).finish();
    assert_all_answered(&finished);
    let log = site.log(CONTROLLER_LOG);
    assert!(log.contains(&format!(
        "port in use, trying the next pool=\"native\" server=0 port={}",
        site.server_port(0)
    )));
    let mut ports: Vec<u16> = log
        .lines()
        .filter_map(|line| {
            line.split_once(" server started ")?.1.split("port=").nth(1)?.split(' ').next()?.parse().ok()
        })
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [site.server_port(1), site.server_port(2)], "{log}");
}

#[test]
fn servers_are_added_under_load_and_removed_after_it_and_no_request_is_lost() {
    // One server serves 200 requests/s of the 500, so only three keep the queues short.
    let site = Site::new(json!({
        "server": {
            "service": "fixed:5ms", "min": 1, "max": 5,
            "grow_after": "200ms", "shrink_after": "400ms", "cool_down": "300ms",
        },
        "client": {"retries": 0, "timeout": "20s"},
    }));
    let balancer = site.balancer();
    let mut controller = site.start(&["controller"]);
    balancer.wait_until_up(1);
    let client = site.client(&["--rate", "500", "--requests", "2000"]);
    let load = |status: &lbd::admin::status::Status| {
        let queued: u64 = status.pools[0].servers.iter().map(|s| s.queue).sum();
        queued as f64 / status.pools[0].servers.len() as f64
    };
    balancer.wait_until("the load is too high for one server", |status| load(status) > 5.0);
    balancer.wait_until("servers are added until the load is below the threshold", |status| {
        status.pools[0].servers.iter().filter(|s| s.state == "up").count() >= 3 && load(status) < 5.0
    });
    let (code, summary) = client.summary();
    assert_eq!((code, summary.answered, summary.retried, summary.lost), (0, 2000, 0, 0), "{summary:?}");
    balancer.wait_until("one server is left", |status| {
        status.pools[0].servers.len() == 1 && status.pools[0].servers[0].state == "up"
    });
    let (code, summary) = site.ask(&["--requests", "20"]);
    assert_eq!((code, summary.answered), (0, 20), "the one that is left serves");

    let log = site.log(CONTROLLER_LOG);
    let stopped = || (site.log(CONTROLLER_LOG).matches(" has stopped").count() >= 2).then_some(());
    wait_for("the controller sees the others end", stopped, || site.log(CONTROLLER_LOG));
    assert!(log.contains("scale up: 1 -> ") && log.contains("scale down: 2 -> 1 servers"), "{log}");
    let stopped = site.log("servers/server_1.log");
    assert!(stopped.contains("draining") && stopped.contains("left=0"), "{stopped}");
    let balancer_log = site.log("balancer/balancer.log");
    assert!(
        balancer_log.contains(" above 4.50 for 200ms at 1 server: grow to 2")
            && balancer_log.contains(" below 2.50 on 1 server for 400ms: shrink to 1"),
        "{balancer_log}"
    );
    controller.signal(libc::SIGTERM);
    let finished = controller.finish();
    assert_eq!(finished.code, 0);
    assert!(
        finished.stderr.contains("controller: pool native: scale up: 1 -> "),
        "it tells: {}",
        finished.stderr
    );
    balancer.wait_until("no server is left", |status| status.pools[0].servers.is_empty());
}
