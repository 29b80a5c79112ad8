//! The Python client and server, an implementation of the protocol of its own, with the real programs.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Running, Site};
use serde_json::json;

/// python3, or `None` and a word about it.
fn python() -> Option<PathBuf> {
    let found = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("skipped: there is no python3 on this machine");
    }
    found.then(|| "python3".into())
}

fn tool(name: &str) -> String {
    format!("{}/tools/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn start(python: &Path, site: &Site, name: &str, args: &[&str]) -> Running {
    let script = tool(name);
    // -B: no compiled files beside the sources.
    Running::start(python, &[&["-B", script.as_str()], args].concat(), site.path())
}

fn server(python: &Path, site: &Site, id: u16, more: &[&str]) -> Running {
    let balancer = format!("127.0.0.1:{}", site.server_side());
    let (id, port) = (id.to_string(), site.server_port(id).to_string());
    start(
        python,
        site,
        "lbd_server.py",
        &[&["--balancer", &balancer, "--id", &id, "--port", &port], more].concat(),
    )
}

#[test]
fn the_python_codec_holds_the_vectors_of_the_protocol() {
    let Some(python) = python() else { return };
    let site = Site::new(json!({}));
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PROTOCOL.md");
    let finished = start(&python, &site, "lbd_frame.py", &["--check", document]).finish();
    assert_eq!((finished.code, finished.stdout.as_str()), (0, "16 vectors hold\n"), "{finished:?}");
}

#[test]
fn a_python_client_is_answered_by_a_rust_server() {
    let Some(python) = python() else { return };
    let site = Site::new(json!({}));
    let (balancer, _servers) = site.pool(1, &[]);
    let to = format!("127.0.0.1:{}", site.client_side());
    let words = ["--to", &to, "--requests", "50", "--timeout", "20", "--deadline", "20"];
    let finished = start(&python, &site, "lbd_client.py", &words).finish();
    assert_eq!(finished.code, 0, "{finished:?}");
    assert_eq!(finished.stdout, "50 sent, 50 answered, 0 retried, 0 lost\n");
    assert_eq!(balancer.status().pools[0].answered, 50);
}

#[test]
fn a_python_client_says_when_it_was_not_answered() {
    let Some(python) = python() else { return };
    let site = Site::new(json!({}));
    let balancer = site.balancer();
    let to = format!("127.0.0.1:{}", site.client_side());
    let words = ["--to", &to, "--requests", "2", "--deadline", "0.2"];
    let finished = start(&python, &site, "lbd_client.py", &words).finish();
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stdout.starts_with("2 sent, 0 answered, "), "{finished:?}");
    assert!(balancer.status().pools[0].refused["no_server"] > 2, "the client retries after BUSY");
    let finished = start(&python, &site, "lbd_client.py", &["--to", "nowhere"]).finish();
    assert_eq!(finished.code, 2);
    assert!(finished.stderr.contains("argument --to: 'nowhere' is not an address"), "{finished:?}");
}

#[test]
fn a_python_server_joins_serves_and_leaves_without_a_loss() {
    let Some(python) = python() else { return };
    let site = Site::new(json!({"client": {"retries": 0, "timeout": "20s"}}));
    let (balancer, _servers) = site.pool(1, &["--service", "fixed:1ms"]);
    let mut other = server(&python, &site, 7, &["--service-ms", "1"]);
    balancer.wait_until_up(2);
    let client = site.client(&["--requests", "1500", "--window", "16"]);
    balancer.wait_for_server(7, "has work", |s| s.answered > 50 && s.queue > 1);
    other.signal(libc::SIGTERM);
    let finished = other.finish();
    assert_eq!(finished.code, 0, "{finished:?}");
    let (code, summary) = client.summary();
    assert_eq!((code, summary.answered, summary.retried, summary.lost), (0, 1500, 0, 0), "{summary:?}");
    let status = balancer.wait_until_up(1);
    assert_eq!((status.pools[0].dropped.len(), status.pools[0].servers[0].id), (0, 0), "{status:?}");
    assert!(site.log("balancer/balancer.log").contains("server left pool=\"native\" server=7"));
}

#[test]
fn python_speaks_of_direct_replies_with_two_workers() {
    let Some(python) = python() else { return };
    let site = Site::new(json!({"load_balancer": {"reply_path": "direct", "workers": 2}}));
    let balancer = site.balancer();
    let _server = server(&python, &site, 3, &[]);
    balancer.wait_until_up(1);
    let to = format!("127.0.0.1:{}", site.client_side());
    let finished = start(&python, &site, "lbd_client.py", &["--to", &to, "--requests", "50"]).finish();
    assert!(finished.stdout.starts_with("50 sent, 50 answered, "), "{finished:?}");
    let (code, summary) = site.ask(&["--requests", "100"]);
    assert_eq!((code, summary.answered), (0, 100));
    balancer.wait_until("every completion is known", |status| status.pools[0].answered == 150);
}

#[test]
fn a_python_server_finds_a_restarted_balancer() {
    let Some(python) = python() else { return };
    let site = Site::new(json!({}));
    let mut balancer = site.balancer();
    let _server = server(&python, &site, 3, &[]);
    balancer.wait_until_up(1);
    balancer.kill_now();
    let balancer = site.balancer();
    balancer.wait_until_up(1);
    let (code, summary) = site.ask(&["--requests", "100"]);
    assert_eq!((code, summary.answered), (0, 100));
    assert_eq!(balancer.status().pools[0].servers[0].queue, 0);
}
