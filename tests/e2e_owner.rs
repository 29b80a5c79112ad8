//! The socket for commands of the balancer's owner, in the life of real processes.

mod common;

use std::net::TcpStream;

use common::{Finished, Running, Site, wait_for};
use serde_json::json;

/// The output of a command with the site's configuration.
fn command(site: &Site, words: &[&str]) -> Finished {
    site.start(words).finish()
}

/// Waits until `lbd status` names the balancer with this process id.
fn wait_for_answer_of(site: &Site, pid: i32) {
    let of = format!("process {pid}, ");
    let answers = || command(site, &["status"]).stdout.contains(&of).then_some(());
    wait_for("a status of the balancer", answers, || format!("{:?}", command(site, &["status"])));
}

fn sockets(site: &Site) -> Vec<String> {
    let entries = site.path().join("state").read_dir().expect("the balancer has made it");
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("admin-") && name.ends_with(".sock")).collect()
}

#[test]
fn commands_reach_the_balancer_without_http_in_each_of_its_lives() {
    let site = Site::new(json!({"admin": {"listen": "off"}}));
    let mut killed = site.balancer();
    wait_for_answer_of(&site, killed.pid());
    let _server = site.server(0, &[]);
    killed.wait_until_up(1);
    assert_eq!(command(&site, &["drain", "0", "--wait"]).code, 0);
    assert_eq!(command(&site, &["enable", "0"]).code, 0);

    // A killed balancer leaves a dead file, which says nothing of the next one.
    killed.kill_now();
    assert_eq!(sockets(&site).len(), 1);
    let away = command(&site, &["status"]);
    assert_eq!(away.code, 2, "{away:?}");
    assert!(away.stderr.contains("no response from state/admin-"), "{away:?}");
    let old = site.balancer();
    wait_for_answer_of(&site, old.pid());

    // A successor takes the path over, and the end of its predecessor does not remove it.
    let new = site.start(&["balancer", "--takeover", "--status-every", "50ms"]);
    assert_eq!(old.finish().code, 0);
    wait_for_answer_of(&site, new.pid());
    assert_eq!(sockets(&site).len(), 1);
    new.stop();
    assert_eq!(sockets(&site), [""; 0]);
}

#[test]
fn two_balancers_with_one_state_directory_have_a_socket_each() {
    let (one, other) = (Site::new(json!({})), Site::new(json!({})));
    let state = one.path().join("state").display().to_string();
    let text = std::fs::read_to_string(other.path().join("config.json")).unwrap();
    let text = text.replace("\"state_dir\":\"state\"", &format!("\"state_dir\":\"{state}\""));
    assert!(text.contains(&state), "{text}");
    other.write("config.json", &text);
    let balancers: [Running; 2] = [one.balancer(), other.balancer()];
    assert_eq!(sockets(&one).len(), 2);
    for (site, balancer) in [&one, &other].into_iter().zip(&balancers) {
        wait_for_answer_of(site, balancer.pid());
    }
}

#[test]
fn a_crowd_at_the_http_port_does_not_lock_the_owner_out() {
    let site = Site::new(json!({}));
    let balancer = site.balancer();
    let _server = site.server(0, &[]);
    balancer.wait_until_up(1);
    let ready = || (command(&site, &["status"]).code == 0).then_some(());
    wait_for("lbd status says that it is ready", ready, || format!("{:?}", command(&site, &["status"])));
    let admin = ("127.0.0.1", site.admin_port());
    let crowd: Vec<_> = (0..260).map(|_| TcpStream::connect(admin).unwrap()).collect();
    for words in [&["status"][..], &["drain", "0"], &["enable", "0"], &["reload"]] {
        let done = command(&site, words);
        assert_eq!(done.code, 0, "{words:?}: {done:?}");
    }
    let over_http = command(&site, &["status", "--admin", &format!("127.0.0.1:{}", site.admin_port())]);
    assert_eq!(over_http.code, 0, "{over_http:?}");
    drop(crowd);
}
