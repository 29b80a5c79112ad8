use lbd::daemon::{self, relay, signals::Stop};
use lbd::role::relay::*;
use lbd::time::Clock;
use std::time::Duration;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let (proto, n, ports): (&str, u16, usize) = (&a[1], a[2].parse().unwrap(), a[3].parse().unwrap());
    let io = match a.get(4).map(String::as_str) { Some("uring") => lbd::io::IoChoice::IoUring, _ => lbd::io::IoChoice::Mio };
    let clock = Clock::start();
    let plan = relay::Plan { listen: vec!["127.0.0.1:7000".parse().unwrap()], workers: 1, ports, v4: Some("127.0.0.1".parse().unwrap()), v6: None, checks: false, transparent: false };
    let (socks, layouts): (Vec<_>, Vec<_>) = plan.open().unwrap().into_iter().unzip();
    let s = Settings { name: "hack".into(), protocol: if proto == "dns" { Speaks::Dns } else { Speaks::Datagram }, affinity: if proto == "flow" { Affinity::Client } else { Affinity::None }, workers: 1, servers_max: 64,
        policy: Default::default(), max_outstanding: None, timeout: Duration::from_secs(2), replies: if proto=="flow" {None} else {Some(1)}, hold: None, idle_timeout: Duration::from_secs(120), proxy_protocol: ProxyProtocol::Off,
        transparent: false, allow: vec![], deny: vec![], rate_per_source: None, health: HealthCheck { check: Check::None, interval: Duration::from_secs(1), timeout: Duration::from_secs(1), rise: 2, fall: 3, down_max: 0.5 },
        secret: rand::random(), seed: 7 };
    let (shared, roles) = Relay::workers(s, &layouts, clock.now());
    shared.want((0..n).map(|i| Wanted { addr: ([127,0,0,1], 7100 + i).into(), id: i.into(), weight: 1 }).collect());
    let mut ws = vec![];
    for (role, sockets) in roles.into_iter().zip(socks) {
        let io = daemon::back_end(io, sockets, &relay::io_options(ProxyProtocol::Off), clock).unwrap();
        ws.push(relay::Worker { role, io, processor: None });
    }
    let stop = Stop::on_signals(ws.iter().map(|w| w.io.waker()).collect()).unwrap();
    let jobs = ws.into_iter().enumerate().map(|(i, w)| w.job(i, clock, &stop)).collect();
    daemon::threads::run(jobs, &stop).unwrap();
    let mut s = lbd::status::PoolSampler::new(shared);
    eprintln!("{}", serde_json::to_string(&s.sample()).unwrap());
}
