//! The examples in `tools/examples`, with the real servers, where those are there.

mod common;

use common::{Running, Site};
use serde_json::json;

/// What an example exits with when a program is missing.
const SKIPPED: i32 = 77;

/// Runs an example; what it shows must have these parts.
fn run(name: &str, parts: &[&str]) {
    let site = Site::new(json!({}));
    let script = format!("{}/tools/examples/{name}/run", env!("CARGO_MANIFEST_DIR"));
    let (lbd, folder) = (env!("CARGO_BIN_EXE_lbd"), site.path().to_str().expect("a plain path"));
    let (lbd, folder) = (format!("LBD={lbd}"), format!("TMPDIR={folder}"));
    let words = [lbd.as_str(), &folder, &script, &site.port(0).to_string()];
    let finished = Running::start("env".as_ref(), &words, site.path()).finish();
    if finished.code == SKIPPED {
        assert!(finished.stdout.starts_with("skipped: there is no "), "{finished:?}");
        eprintln!("{name}: {}", finished.stdout.trim());
        return;
    }
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    for part in parts {
        assert!(finished.stdout.contains(part), "{part} in {finished:?}");
    }
    assert_eq!(site.processes(), Vec::<i32>::new(), "all that it has started is ended");
    let left: Vec<_> = std::fs::read_dir(site.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["config.json"], "and its folder is gone");
}

#[test]
fn dns() {
    run(
        "dns",
        &["www.example.test is 192.0.2.10, over TCP 2001:db8::10", "\"dns-1\"", "\"dns-2\"", "pool dns: "],
    );
}

#[test]
fn radius() {
    run("radius", &["\"radius-1\"", "\"radius-2\"", "a wrong password is rejected", "pool radius: "]);
}

#[test]
fn sip() {
    run("sip", &["40 calls were answered and ended", "pool sip: "]);
}

#[test]
fn syslog() {
    run("syslog", &["lines of 40 at each server: ", "pool syslog: "]);
}
