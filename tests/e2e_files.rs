//! The files of a balancer: what it reads, what it writes, and what it leaves.

mod common;

use common::{Running, Site, wait_for};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

/// A balancer of this site that has printed the address of its dashboard.
fn started(site: &Site) -> Running {
    let balancer = site.start(&["balancer"]);
    let is_up = || balancer.stderr().contains("dashboard on").then_some(());
    wait_for("the address of the dashboard", is_up, || balancer.stderr());
    balancer
}

/// Files of the state directory with one of these endings.
fn state(site: &Site, endings: &[&str]) -> Vec<String> {
    let entries = site.path().join("state").read_dir().expect("the balancer has made it");
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| endings.iter().any(|ending| name.ends_with(ending))).collect()
}

#[test]
fn a_clean_end_leaves_neither_socket_nor_token() {
    let site = Site::new(json!({}));
    for _ in 0..2 {
        let mut balancer = started(&site);
        assert_eq!(state(&site, &[".sock", ".token"]).len(), 3, "for successors, for the owner, the token");
        balancer.signal(libc::SIGTERM);
        assert_eq!(balancer.finish().code, 0);
        assert_eq!(state(&site, &[".sock", ".token"]), [""; 0]);
    }
    // A crash leaves them: the next balancer has the same token.
    let mut balancer = started(&site);
    let token = site.path().join("state").join(&state(&site, &[".token"])[0]);
    let first = std::fs::read_to_string(&token).unwrap();
    balancer.kill_now();
    let _next = started(&site);
    assert_eq!(std::fs::read_to_string(&token).unwrap(), first);
}

#[test]
fn the_token_is_not_written_where_no_person_reads() {
    let site = Site::new(json!({}));
    let mut balancer = started(&site);
    let token = site.path().join("state").join(&state(&site, &[".token"])[0]);
    let token = std::fs::read_to_string(token).unwrap().trim().to_owned();
    assert_eq!(token.len(), 32);
    balancer.signal(libc::SIGTERM);
    let finished = balancer.finish();
    for output in [finished.stdout, finished.stderr, site.log("balancer/balancer.log")] {
        assert!(!output.contains(&token), "{output}");
    }
}

#[test]
fn a_log_that_was_renamed_is_continued_in_a_new_file_after_sighup() {
    let site = Site::new(json!({}));
    let mut balancer = started(&site);
    let log = site.path().join("logs/balancer/balancer.log");
    wait_for(
        "the first lines",
        || site.log("balancer/balancer.log").contains("admin interface").then_some(()),
        || balancer.stderr(),
    );
    std::fs::rename(&log, log.with_extension("old")).unwrap();
    balancer.signal(libc::SIGHUP);
    wait_for(
        "a line in the new file",
        || site.log("balancer/balancer.log").contains("configuration reloaded").then_some(()),
        || format!("{} {}", balancer.stderr(), site.log("balancer/balancer.old")),
    );
    assert!(!site.log("balancer/balancer.old").contains("configuration reloaded"));
}

#[test]
fn a_log_goes_where_logs_target_says() {
    let run = |target: &str| {
        let site = Site::new(json!({"logs": {"target": target}}));
        let mut balancer = started(&site);
        balancer.signal(libc::SIGTERM);
        let finished = balancer.finish();
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        assert!(!site.path().join("logs").exists(), "{target}");
        finished.stderr
    };
    let line = |text: &str| text.lines().find(|line| line.contains("admin interface")).map(str::to_owned);
    let stderr = line(&run("stderr")).expect("the log is on standard error");
    assert!(stderr.contains("INFO") && stderr.starts_with("20"), "{stderr}");
    let journald = line(&run("journald")).expect("the log is on standard error");
    assert!(journald.starts_with("<6>admin interface"), "{journald}");
    assert_eq!(line(&run("off")), None);
}

#[test]
fn a_fifo_as_configuration_stops_neither_a_reload_nor_the_end() {
    let site = Site::new(json!({}));
    let mut balancer = started(&site);
    let config = site.path().join("config.json");
    std::fs::remove_file(&config).unwrap();
    mknodat(CWD, &config, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    balancer.signal(libc::SIGHUP);
    let refusal = "config.json: cannot read the file (it is a FIFO, not a regular file)";
    let is_refused = || balancer.stderr().contains(refusal).then_some(());
    wait_for("the refusal", is_refused, || balancer.stderr());
    balancer.signal(libc::SIGTERM);
    assert_eq!(balancer.finish().code, 0);

    let check = site.start_bare(&["check", config.to_str().unwrap()]).finish();
    assert_eq!(check.code, 2, "{}", check.stderr);
}

#[test]
fn a_balancer_without_its_admin_port_does_not_start() {
    let site = Site::new(json!({}));
    let _other = std::net::TcpListener::bind(("127.0.0.1", site.admin_port())).unwrap();
    let finished = site.start(&["balancer"]).finish();
    assert_eq!(finished.code, 2, "{}", finished.stderr);
    assert!(finished.stderr.contains("admin.listen: "), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("set admin.listen to another address or to \"off\""),
        "{}",
        finished.stderr
    );
}
