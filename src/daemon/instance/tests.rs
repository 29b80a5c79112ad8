//! Two native pools and a datagram pool as one process: what concerns all of them, and nothing that one has
//! alone.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::Duration;

use super::paused::PausedWorkers;
use super::*;
use crate::admin::Refusal;
use crate::config::Pool;
use crate::daemon::handover::Listener;
use crate::pool::order::Order;

const PATIENCE: Duration = Duration::from_secs(30);

/// A free port of the loopback, as far as that can be known.
fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The pools "native", "other" and "echo", with two workers each.
fn config(state_dir: &std::path::Path) -> Config {
    let ports: BTreeSet<u16> = (0..64).map(|_| free_port()).collect();
    let mut ports = ports.into_iter();
    let mut port = || ports.next().expect("five ports that differ");
    let text = format!(
        r#"{{"load_balancer": {{"client_side_port": {}, "server_side_port": {}, "workers": 2}},
            "pools": [{{"name": "echo", "listen": "127.0.0.1:{}", "protocol": "datagram", "workers": 2,
                        "servers": ["127.0.0.1:9"]}}],
            "server": {{"port_range_start": 1100, "port_range_end": 1200}},
            "client": {{"port_range_start": 1200, "port_range_end": 1300}},
            "controller": {{"port": 1300}},
            "admin": {{"listen": "off"}}, "state_dir": "{}"}}"#,
        port(),
        port(),
        port(),
        state_dir.display()
    );
    let mut config = Config::parse(&text, None).unwrap();
    let mut other = config.native().unwrap().clone();
    other.name = "other".to_owned();
    other.client_side.set_port(port());
    other.server_side.set_port(port());
    config.pools.insert(1, Pool::Native(other));
    config
}

fn start(config: &Config) -> (Arc<Instance>, Stop) {
    let stop = Stop::new(vec![]);
    let ready = ReadyInstance::new(config.clone(), Clock::start(), SocketSet::default()).unwrap();
    (ready.start(stop.clone(), None).unwrap(), stop)
}

fn names(instance: &Instance) -> Vec<String> {
    instance.pools().iter().map(|pool| pool.name().to_owned()).collect()
}

fn all_turn(instance: &Instance) -> bool {
    instance.pools().iter().all(|pool| pool.is_turning())
}

#[test]
fn every_pool_is_handed_over_and_its_sockets_carry_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    let config = config(&state_dir);
    let (old, _stop) = start(&config);
    let path = takeover_path(&config);
    old.listen_for_successors(Listener::bind(&path).unwrap()).unwrap();

    let (takeover, sockets) = Takeover::begin(&path).unwrap();
    let mut counts = std::collections::BTreeMap::new();
    sockets.labels().for_each(|label| *counts.entry(label.pool.clone()).or_insert(0) += 1);
    // Both sides of a native pool's two workers, the client side of a datagram pool's.
    assert_eq!(
        Vec::from_iter(&counts),
        [(&"echo".to_owned(), &2), (&"native".to_owned(), &4), (&"other".to_owned(), &4)]
    );
    let stop = Stop::new(vec![]);
    let ready = ReadyInstance::new(config.clone(), Clock::start(), sockets).unwrap();
    let new = ready.start(stop.clone(), Some(takeover)).unwrap();
    old.join().unwrap();
    assert!(!old.pools().iter().any(|pool| pool.is_alive()), "all old workers have ended");
    assert_eq!(names(&new), ["native", "other", "echo"]);
    assert!(all_turn(&new));
    stop.ask();
    new.join().unwrap();
}

#[test]
fn all_pools_resume_after_a_pause_that_reached_some_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let (instance, stop) = start(&config(dir.path()));
    let pools = instance.pools();
    // Nothing reads until the pause is over.
    let mut paused = PausedWorkers::default();
    let states = instance.pause(&mut paused, &[]).unwrap();
    let order: Vec<&str> = states.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(order, ["echo", "native", "other"], "those that keep working first");
    drop(paused);
    instance.resume().unwrap();
    assert!(all_turn(&instance));

    // One that cannot pause, since its workers have ended, leaves no other one paused.
    pools[1].retire(&instance.process).unwrap();
    let give_up = std::time::Instant::now() + PATIENCE;
    while pools[1].is_alive() {
        assert!(std::time::Instant::now() < give_up);
        std::thread::yield_now();
    }
    let mut paused = PausedWorkers::default();
    assert!(instance.pause(&mut paused, &[]).is_err());
    drop(paused);
    assert!(instance.resume().is_err(), "of the one that has ended");
    assert!(pools[0].is_turning() && pools[2].is_turning());
    stop.ask();
    instance.join().unwrap();
}

#[test]
fn an_order_goes_to_the_pool_that_is_named_and_servers_are_set_for_datagram_pools_only() {
    use crate::admin::Control;
    let dir = tempfile::tempdir().unwrap();
    let (instance, stop) = start(&config(dir.path()));
    let refused = |refusal: Result<(), Refusal>| refusal.unwrap_err().to_string();
    let nowhere = refused(Control::order(&*instance, Some("none"), 0, Order::Drain));
    assert_eq!(nowhere, "there is no pool none");
    Control::order(&*instance, Some("echo"), 0, Order::Drain).unwrap();
    let unknown = refused(Control::order(&*instance, Some("echo"), 7, Order::Drain));
    assert_eq!(unknown, "pool echo has no server 7");
    let native = refused(Control::set_servers(&*instance, "other", vec![]));
    assert_eq!(native, "pool other is native: its servers register themselves");
    Control::set_servers(&*instance, "echo", vec![]).unwrap();
    stop.ask();
    instance.join().unwrap();
}
