//! `lbd doctor` on this machine, regardless of the rights and limits here.

mod common;

use std::net::UdpSocket;
use std::process::Command;

use common::{Finished, Site};
use serde_json::{Value, json};

/// What `lbd doctor --json` says with this site's configuration.
fn examined(site: &Site) -> (Finished, Value) {
    let finished = site.start(&["doctor", "--json"]).finish();
    let all: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:?}"));
    // The code says whether there is a problem, whichever it is on this machine.
    let problems = all["findings"].as_array().unwrap().iter().filter(|one| one["level"] == "problem").count();
    assert_eq!(all["problems"], problems);
    assert_eq!(finished.code, i32::from(problems > 0), "{finished:?}");
    (finished, all)
}

fn finding(all: &Value, check: &str) -> Value {
    let found = all["findings"].as_array().unwrap().iter().find(|one| one["check"] == check);
    found.unwrap_or_else(|| panic!("{check} is missing: {all}")).clone()
}

#[test]
fn every_respect_is_told_in_words_and_as_json() {
    let site = Site::new(json!({}));
    let (_, all) = examined(&site);
    let words = site.start(&["doctor"]).finish().stdout;
    assert!(!words.contains('\x1b'), "no colours without a terminal: {words:?}");
    for check in ["receive buffers", "UDP GSO", "UDP GRO", "io_uring", "descriptors", "addresses", "logs.dir"]
    {
        finding(&all, check);
        assert!(words.lines().any(|line| line.starts_with(check)), "{check}: {words}");
    }
    assert_eq!(finding(&all, "addresses")["level"], "ok", "{all}");
}

#[test]
fn a_taken_port_is_a_problem_that_names_its_holder_and_a_running_balancer_is_none() {
    let site = Site::new(json!({}));
    let taken = UdpSocket::bind(("127.0.0.1", site.client_side())).unwrap();
    let (finished, all) = examined(&site);
    let found = finding(&all, "addresses");
    assert_eq!((finished.code, &found["level"]), (1, &json!("problem")), "{found}");
    let text = found["found"].as_str().unwrap();
    assert!(text.contains(&format!("127.0.0.1:{}", site.client_side())), "{text}");
    assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
    assert!(found["mend"][0].as_str().unwrap().starts_with("ss -lnup"), "{found}");
    drop(taken);
    let _balancer = site.balancer();
    let found = finding(&examined(&site).1, "addresses");
    assert_eq!(found["level"], "note", "{found}");
    assert!(found["found"].as_str().unwrap().contains("lbd already runs"), "{found}");
}

#[test]
fn too_few_descriptors_are_found_before_lbd_needs_them() {
    let site = Site::new(json!({}));
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64 && exec \"$0\" doctor --json", env!("CARGO_BIN_EXE_lbd")]);
    let output = command.current_dir(site.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let found = finding(&serde_json::from_slice(&output.stdout).unwrap(), "descriptors");
    assert!(
        found["level"] == "problem" && found["found"].as_str().unwrap().contains("64 allowed"),
        "{found}"
    );
    assert!(found["mend"][0].as_str().unwrap().contains("LimitNOFILE="), "{found}");
}

#[test]
fn a_mistake_in_the_configuration_is_code_2() {
    let site = Site::new(json!({"server": {"count": "many"}}));
    let finished = site.start(&["doctor"]).finish();
    assert!(finished.code == 2 && finished.stderr.contains("server.count"), "{finished:?}");
}
