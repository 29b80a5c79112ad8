//! Notifications to the service manager while the workers of a balancer make progress.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Instance;
use crate::admin::Control;
use crate::admin::status::{PoolStatus, Status};
use crate::os::notify;

/// Interval at which the status line is updated.
const EVERY: Duration = Duration::from_secs(5);

/// Notifies the service manager that this balancer serves, and then of its status. With `follows`, the
/// balancer took over from another process and is the main process now. The watchdog is pinged only while
/// every worker completes its turns.
pub fn begin(instance: &Arc<Instance>, follows: bool) -> io::Result<()> {
    if !notify::is_heard() {
        return Ok(());
    }
    notify::status(&in_words(&instance.status()));
    if follows {
        notify::main_pid(std::process::id());
    }
    notify::ready();
    let instance = Arc::clone(instance);
    let watchdog = notify::watchdog();
    // At a third of the watchdog's time, one missed ping does no harm.
    let every = watchdog.map_or(EVERY, |time| EVERY.min(time / 3));
    std::thread::Builder::new().name("service".into()).spawn(move || {
        loop {
            std::thread::sleep(every);
            if instance.has_successor.load(Ordering::Relaxed) {
                return; // the successor notifies
            }
            if instance.is_ending() {
                notify::ping(); // the end has a bound of its own
                continue;
            }
            if watchdog.is_some() && instance.is_turning() {
                notify::ping();
            }
            notify::status(&in_words(&instance.status()));
        }
    })?;
    Ok(())
}

impl Instance {
    /// Whether every worker completes a turn. Waits for the workers.
    fn is_turning(&self) -> bool {
        self.pools().iter().all(|pool| pool.is_turning())
    }
}

/// A line for `systemctl status`.
fn in_words(status: &Status) -> String {
    let part = |pool: &PoolStatus| {
        let (name, up, all, rate) = (&pool.name, pool.up(), pool.servers.len(), pool.rate);
        format!("{name}: {up} of {all} servers up, {rate:.0} answers/s")
    };
    status.pools.iter().map(part).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::ReadyInstance;
    use super::*;
    use crate::admin::status::ServerStatus;
    use crate::base::time::Clock;
    use crate::config::Config;
    use crate::daemon::handover::SocketSet;
    use crate::os::signals::Stop;

    #[test]
    fn workers_that_have_ended_do_not_come_round() {
        let free = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (front, back, pool) = (free(), free(), free());
        let port = |socket: &std::net::UdpSocket| socket.local_addr().unwrap().port();
        let text = format!(
            r#"{{"load_balancer": {{"client_side_port": {}, "server_side_port": {}, "workers": 2}},
                "pools": [{{"listen": "127.0.0.1:{}", "protocol": "datagram", "servers": ["127.0.0.1:9"]}}],
                "server": {{"port_range_start": 1100, "port_range_end": 1200}},
                "client": {{"port_range_start": 1200, "port_range_end": 1300}},
                "admin": {{"listen": "off"}}}}"#,
            port(&front),
            port(&back),
            port(&pool)
        );
        drop((front, back, pool));
        let ready =
            ReadyInstance::new(Config::parse(&text, None).unwrap(), Clock::start(), SocketSet::default());
        let stop = Stop::new(vec![]);
        let instance = ready.unwrap().start(stop.clone(), None).unwrap();
        assert!(instance.is_turning() && !instance.is_ending());
        let pools = instance.pools();
        assert_eq!(pools.iter().map(|pool| pool.name()).collect::<Vec<_>>(), ["native", "pool-1"]);
        pools[1].retire(&instance.process).unwrap();
        wait_until(|| !instance.is_turning(), "the pool's workers have ended");
        instance.current().pools.truncate(1);
        assert!(instance.is_turning(), "the native ones have not");
        stop.ask();
        instance.join().unwrap();
        assert!(!instance.is_turning() && instance.is_ending());
    }

    fn wait_until(mut is_so: impl FnMut() -> bool, what: &str) {
        let give_up = std::time::Instant::now() + Duration::from_secs(30);
        while !is_so() {
            assert!(std::time::Instant::now() < give_up, "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_line_tells_of_every_pool_that_runs() {
        let server = |state: &&str| ServerStatus { state: (*state).to_owned(), ..ServerStatus::default() };
        let pool = |name: &str, rate, states: &[&str]| PoolStatus {
            name: name.to_owned(),
            rate,
            servers: states.iter().map(server).collect(),
            ..PoolStatus::default()
        };
        let dns = pool("dns", 12.4, &["suspect", "up"]);
        let mut status = Status { pools: vec![dns.clone()], ..Status::default() };
        assert_eq!(in_words(&status), "dns: 1 of 2 servers up, 12 answers/s");
        status.pools = vec![pool("native", 0.0, &["up", "up", "down"]), dns];
        assert_eq!(
            in_words(&status),
            "native: 2 of 3 servers up, 0 answers/s; dns: 1 of 2 servers up, 12 answers/s"
        );
    }
}
