//! What a service manager hears: the real programs with a socket in `NOTIFY_SOCKET`.

mod common;

use std::ffi::OsStr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use common::{Running, Site, wait_for};
use serde_json::json;

/// A service manager that writes down what it hears.
struct Manager {
    path: PathBuf,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn at(site: &Site) -> Manager {
        let path = site.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let shared = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len) = socket.recv(&mut bytes) {
                let text = std::str::from_utf8(&bytes[..len]).expect("text");
                shared.lock().unwrap().extend(text.lines().map(str::to_owned));
            }
        });
        Manager { path, heard }
    }

    /// Starts `lbd` as its service: by env(1), which becomes it.
    fn start(&self, site: &Site, more: &[&str], words: &[&str]) -> Running {
        let config = site.path().join("config.json");
        let socket = format!("NOTIFY_SOCKET={}", self.path.display());
        let mut all = vec![socket.as_str()];
        all.extend(more);
        all.push(env!("CARGO_BIN_EXE_lbd"));
        all.extend(words);
        all.extend(["--config", config.to_str().unwrap()]);
        Running::start(OsStr::new("env").as_ref(), &all, site.path())
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    fn count(&self, line: &str) -> usize {
        self.heard().iter().filter(|heard| *heard == line).count()
    }

    /// Waits until it has heard this line `count` times, and returns all lines.
    #[track_caller]
    fn wait_for(&self, line: &str, count: usize) -> Vec<String> {
        wait_for(
            &format!("{count} times {line}"),
            || (self.count(line) >= count).then(|| self.heard()),
            || format!("heard: {:?}", self.heard()),
        )
    }
}

#[test]
fn a_balancer_tells_when_it_serves_reloads_lives_and_ends() {
    let site = Site::new(json!({"load_balancer": {"workers": 2}}));
    let manager = Manager::at(&site);
    let mut balancer = manager.start(&site, &["WATCHDOG_USEC=300000"], &["balancer"]);
    let heard = manager.wait_for("READY=1", 1);
    assert_eq!(heard[..2], ["STATUS=native: 0 of 0 servers up, 0 answers/s", "READY=1"]);
    let client = site.start(&["client", "--requests", "1", "--json"]);
    let _server = site.start(&["server", "--id", "0"]);
    assert_eq!(client.summary().0, 0, "it serves");
    manager.wait_for("WATCHDOG=1", 3);
    wait_for(
        "a server in the status",
        || manager.heard().iter().any(|line| line.starts_with("STATUS=native: 1 of 1")).then_some(()),
        || format!("heard: {:?}", manager.heard()),
    );

    balancer.signal(libc::SIGHUP);
    let heard = manager.wait_for("READY=1", 2);
    let at = heard.iter().position(|line| line == "RELOADING=1").expect("sent before READY=1");
    let time = heard[at + 1].strip_prefix("MONOTONIC_USEC=").expect("the time with it");
    assert!(time.parse::<u64>().is_ok_and(|time| time > 0), "{time}");

    site.write("config.json", "{");
    balancer.signal(libc::SIGHUP);
    manager.wait_for("READY=1", 3);
    balancer.wait_for_word("configuration refused");

    assert_eq!(manager.count("STOPPING=1"), 0);
    balancer.signal(libc::SIGTERM);
    manager.wait_for("STOPPING=1", 1);
    assert_eq!(balancer.finish().code, 0);
    assert!(!manager.heard().iter().any(|line| line.starts_with("MAINPID=")));
}

#[test]
fn without_a_watchdog_nobody_is_pinged_and_a_manager_that_is_gone_does_no_harm() {
    let site = Site::new(json!({}));
    let manager = Manager::at(&site);
    std::fs::remove_file(&manager.path).unwrap();
    let mut balancer = manager.start(&site, &[], &["balancer", "--status-every", "50ms"]);
    balancer.status();
    let said = || site.log("balancer/balancer.log");
    wait_for("a word of it", || said().contains("cannot notify the service manager").then_some(()), said);
    balancer.signal(libc::SIGTERM);
    assert_eq!(balancer.finish().code, 0);
    assert_eq!(manager.heard(), Vec::<String>::new());

    let site = Site::new(json!({}));
    let manager = Manager::at(&site);
    let mut balancer = manager.start(&site, &[], &["balancer"]);
    manager.wait_for("READY=1", 1);
    balancer.signal(libc::SIGTERM);
    manager.wait_for("STOPPING=1", 1);
    assert_eq!(balancer.finish().code, 0);
    assert_eq!(manager.count("WATCHDOG=1"), 0);
}

/// A process that is not a child of the test, and ends with it.
struct Stray(i32);

impl Drop for Stray {
    fn drop(&mut self) {
        common::send_signal(self.0, libc::SIGTERM);
    }
}

#[test]
fn a_successor_is_started_by_a_signal_and_becomes_the_main_process() {
    let site = Site::new(json!({}));
    let manager = Manager::at(&site);
    let mut old = manager.start(&site, &["WATCHDOG_USEC=300000"], &["balancer"]);
    manager.wait_for("READY=1", 1);
    let _server = site.start(&["server", "--id", "0"]);
    assert_eq!(site.start(&["client", "--requests", "1", "--json"]).summary().0, 0);

    old.signal(libc::SIGUSR2);
    let heard = manager.wait_for("READY=1", 2);
    let new = heard.iter().find_map(|line| line.strip_prefix("MAINPID=")).expect("the successor's");
    let new = Stray(new.parse().unwrap());
    assert_ne!(new.0, old.pid());
    let at = heard.iter().position(|line| line.starts_with("MAINPID=")).unwrap();
    assert_eq!(heard[at + 1], "READY=1", "in its own name");
    let said = || site.log("balancer/balancer.log");
    wait_for("the end of the old one", || said().contains("stopped").then_some(()), said);
    assert_eq!(manager.count("STOPPING=1"), 0, "the service continues");
    let pings = manager.count("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1", pings + 3);
    assert_eq!(site.start(&["client", "--requests", "1", "--json"]).summary().0, 0);
    drop(new);
    manager.wait_for("STOPPING=1", 1);
    assert_eq!(old.finish().code, 0); // its output is the successor's too
}

#[test]
fn a_balancer_whose_successor_cannot_start_goes_on() {
    let site = Site::new(json!({}));
    let manager = Manager::at(&site);
    let mut balancer = manager.start(&site, &[], &["balancer"]);
    manager.wait_for("READY=1", 1);
    let good = std::fs::read_to_string(site.path().join("config.json")).unwrap();
    site.write("config.json", "{");
    balancer.signal(libc::SIGUSR2);
    let said = || site.log("balancer/balancer.log");
    let end = "successor ended exit=\"exit code 2\" effect=\"still serving\"";
    wait_for("the end of the successor", || said().contains(end).then_some(()), said);

    site.write("config.json", &good);
    let _server = site.start(&["server", "--id", "0"]);
    assert_eq!(site.start(&["client", "--requests", "1", "--json"]).summary().0, 0);
    assert_eq!(manager.count("STOPPING=1"), 0);
    balancer.signal(libc::SIGTERM);
    assert_eq!(balancer.finish().code, 0);
}

#[test]
fn a_server_serves_before_there_is_a_balancer_and_says_so() {
    let site = Site::new(json!({}));
    let manager = Manager::at(&site);
    let mut server = manager.start(&site, &[], &["server", "--id", "0"]);
    assert_eq!(manager.wait_for("READY=1", 1)[..2], ["STATUS=registering", "READY=1"]);
    let balancer = site.balancer();
    manager.wait_for("STATUS=registered", 1);
    balancer.stop();
    server.signal(libc::SIGTERM);
    manager.wait_for("STOPPING=1", 1);
    manager.wait_for("STATUS=draining", 1);
    assert_eq!(server.finish().code, 0);
}

#[test]
fn a_controller_speaks_for_itself_and_its_children_do_not() {
    let site = Site::new(json!({"server": {"count": 2}}));
    let manager = Manager::at(&site);
    let mut controller = manager.start(&site, &[], &["controller"]);
    manager.wait_for("READY=1", 1);
    let balancer = site.balancer();
    balancer.wait_until_up(2);
    controller.signal(libc::SIGTERM);
    assert_eq!(controller.finish().code, 0);
    assert_eq!(manager.wait_for("STOPPING=1", 1), ["READY=1", "STOPPING=1"]);
}

#[test]
fn up_is_ready_when_its_servers_are() {
    let site = Site::new(json!({"server": {"count": 2}}));
    let manager = Manager::at(&site);
    let mut up = manager.start(&site, &[], &["up", "--quiet", "--rate", "50"]);
    manager.wait_for("READY=1", 1);
    for id in 0..2 {
        assert!(site.log(&format!("servers/server_{id}.log")).contains("registered"));
    }
    up.signal(libc::SIGTERM);
    assert_eq!(up.finish().code, 0);
    assert_eq!(manager.wait_for("STOPPING=1", 1), ["READY=1", "STOPPING=1"]);
}
