//! What an idle balancer costs, as Linux counts it in /proc: wake-ups, threads, resident memory.

mod common;

use std::time::{Duration, Instant};

use common::fakes::v4;
use common::{Running, Site, wait_for};
use serde_json::{Value, json};

/// The time over which wake-ups are counted.
const SPAN: Duration = Duration::from_secs(2);

/// The values of a field in the status of each thread.
fn of_threads(process: &Running, field: &str) -> Vec<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid())).expect("it runs");
    let value = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.trim().parse().ok()
    };
    // A thread may end meanwhile.
    let statuses =
        tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    statuses.filter_map(value).collect()
}

/// A thread that sleeps gives its CPU up voluntarily, so that counts wake-ups.
fn wake_ups(process: &Running) -> u64 {
    of_threads(process, "voluntary_ctxt_switches").iter().sum()
}

/// Waits until a span has at most so many wake-ups a second.
#[track_caller]
fn assert_quiet(process: &Running, per_second: u64) {
    let (mut began, mut before) = (Instant::now(), wake_ups(process));
    let last = std::cell::Cell::new(0);
    wait_for(
        &format!("at most {per_second} wake-ups a second"),
        || {
            if began.elapsed() < SPAN {
                return None;
            }
            let now = wake_ups(process);
            last.set((now - before) * 1_000 / began.elapsed().as_millis() as u64);
            (began, before) = (Instant::now(), now);
            (last.get() <= per_second).then_some(())
        },
        || format!("{} in the last one", last.get()),
    );
}

#[test]
fn a_native_balancer_sleeps_without_traffic_and_after_it() {
    let site = Site::new(json!({"load_balancer": {"workers": 2}}));
    let balancer = site.start(&["balancer"]);
    // The primary looks 5 times a second, the status is made 4 times, the history 1 to 2 times: 11 and a
    // margin. With a timer for each quarter of an interval it was 1,500.
    assert_quiet(&balancer, 20);
    let server = site.server(0, &[]);
    assert_eq!(site.ask(&["--requests", "200"]).0, 0);
    // The server's probes and their answers are due 30 times a second each, its reports 10 times for each of
    // two workers. It was 1,600, and 200 at the server.
    assert_quiet(&balancer, 150);
    assert_quiet(&server, 80);
}

#[test]
fn sixteen_pools_share_their_threads_and_take_memory_only_for_what_they_do() {
    let site = Site::new(json!({}));
    let pool = |number: u16| {
        json!({
            "name": format!("p{number}"),
            "protocol": "datagram",
            "listen": v4(site.port(number)).to_string(),
            "servers": [v4(site.port(20)).to_string()],
            "workers": 2,
        })
    };
    let balancer = site.pools(Value::Array((0..16).map(pool).collect()));
    let cpus = std::thread::available_parallelism().unwrap().get();
    let threads = of_threads(&balancer, "Pid").len();
    assert!(threads <= 2 * cpus + 8, "{threads} threads with {cpus} CPUs; it was 40 with two");
    let resident = balancer.memory_kib();
    assert!(resident <= 64 << 10, "{resident} KiB; it was 262,000");
}
