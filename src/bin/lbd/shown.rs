//! The status of a balancer as text: the output of `lbd status`.

use std::fmt::Write;
use std::io::IsTerminal;

use lbd::admin::status::{Decisions, Distribution, PoolStatus, ServerStatus, Status};

use crate::units::{count, latency, span};

/// Newest events that are printed.
const EVENTS_SHOWN: usize = 10;

/// Whether standard output is a terminal that wants colours.
pub fn has_colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The balancer's pools, servers and newest events; `unix_ms` is the present time in milliseconds since 1970.
pub fn render(status: &Status, unix_ms: u64, colours: bool) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{}", text.trim_end()).expect("a string takes everything");
    let Status { version, pid, uptime_s, config, ready, .. } = status;
    let config = if config.is_empty() { "no configuration file" } else { config };
    let readiness = if *ready { "ready" } else { "NOT READY" };
    line(format!("lbd {version}, process {pid}, up for {}, {config}: {readiness}", span(Some(*uptime_s))));
    for pool in &status.pools {
        line(String::new());
        line(head(pool));
        if let Some(reason) = pool.unready() {
            line(format!("  NOT READY: {reason}"));
        } else {
            pool.problems.iter().for_each(|problem| line(format!("  problem: {}", problem.text)));
        }
        line(format!(
            "{:>8}  {:<9} {:>9} {:>7} {:>7} {:>9} {:>10} {:>10} {:>8}  {}",
            "server", "state", "for", "queue", "weight", "per s", "p50", "p99", "failed", "address"
        ));
        pool.servers.iter().for_each(|server| line(row(server, colours)));
        if pool.datagram.is_some_and(|datagram| datagram.checks_ignored) {
            line("  health checks ignored: no server passes them, though servers answer".to_owned());
        }
        if let Some(selection) = selection(&pool.decisions) {
            line(format!("  selection: {selection}"));
        }
        if let Some(scaling) = &pool.scaling {
            let (desired, min, max) = (scaling.wanted, scaling.min, scaling.max);
            line(format!("  scaling: {desired} servers desired of {min} to {max}: {}", scaling.reason));
        }
    }
    if !status.events.is_empty() {
        line(String::new());
    }
    for entry in &status.events[status.events.len().saturating_sub(EVENTS_SHOWN)..] {
        let ago = span(Some(unix_ms.saturating_sub(entry.unix_ms) as f64 / 1e3));
        let server = entry.server.map_or(String::new(), |id| format!("server {id}"));
        let text = entry.text.replace(|c: char| c.is_control(), " ");
        let about = [&entry.pool, &server].map(String::as_str).join(" ");
        let colon = if about.trim().is_empty() { "" } else { ": " };
        line(format!("{ago:>10} ago  {}{colon}{text}", about.trim()));
    }
    out
}

fn head(pool: &PoolStatus) -> String {
    let protocol = if pool.protocol == pool.name { String::new() } else { format!(" ({})", pool.protocol) };
    format!(
        "pool {}{protocol}: {} of {} up, {}/s, p50 {}, p99 {}; {} received, {} answered, {} failed, \
         {} dropped",
        pool.name,
        pool.up(),
        pool.servers.len(),
        count(pool.rate.max(0.0).round() as u64),
        latency(pool.latency_us_recent.p50),
        latency(pool.latency_us_recent.p99),
        count(pool.received),
        count(pool.answered),
        count(pool.failed()),
        count(pool.all_dropped())
    )
}

/// Quality of the recent selections, and the pending queue; `None` without data.
fn selection(decisions: &Decisions) -> Option<String> {
    let Decisions { regret_recent: regret, age_us_recent: age, waiting, .. } = decisions;
    let (error, delay) = (&decisions.estimate_error_recent, &decisions.waiting_delay_us_recent);
    let times = |p50, p99| format!("{} (p99 {})", latency(p50), latency(p99));
    let numbers = |of: &Distribution| format!("{:.2} (p99 {})", of.mean, of.p99);
    let queued = |delay| {
        if delay > 0 {
            format!(" for {}", times(delay, decisions.waiting_delay_us_recent.p99))
        } else {
            String::new()
        }
    };
    let parts = [
        (regret.count > 0).then(|| format!("regret {}", numbers(regret))),
        (age.p50 > 0).then(|| format!("staleness {}", times(age.p50, age.p99))),
        error
            .as_ref()
            .filter(|error| error.count > 0)
            .map(|error| format!("estimate error {}", numbers(error))),
        (*waiting > 0 || delay.p99 > 0).then(|| format!("{} queued{}", count(*waiting), queued(delay.p50))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn row(server: &ServerStatus, colours: bool) -> String {
    let ServerStatus { id, state, weight, addr, .. } = server;
    let colour = match state.as_str() {
        "up" => "\x1b[32m",
        "down" => "\x1b[31m",
        "suspect" => "\x1b[33m",
        _ => "\x1b[36m",
    };
    let (on, off) = if colours { (colour, "\x1b[0m") } else { ("", "") };
    format!(
        "{id:>8}  {on}{state:<9}{off} {:>9} {:>7} {weight:>7} {:>9} {:>10} {:>10} {:>8}  {addr}",
        span(server.since_s),
        count(server.queue),
        count(server.rate.max(0.0).round() as u64),
        latency(server.latency_us_recent.p50),
        latency(server.latency_us_recent.p99),
        count(server.failed())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use lbd::admin::status::{
        DatagramCounters, DatagramServer, EventEntry, EventKind, Percentiles, Problem, Scaling,
    };

    fn status() -> Status {
        Status {
            version: "1.2.3".into(),
            pid: 77,
            uptime_s: 3_725.0,
            config: "/etc/lbd.json".into(),
            ready: true,
            pools: vec![
                PoolStatus {
                    name: "native".into(),
                    protocol: "native".into(),
                    received: 12_345,
                    answered: 8,
                    refused: [("servers_full".into(), 1)].into(),
                    rate: 104.4,
                    latency_us_recent: Percentiles { p50: 5_120, p99: 26_620, ..Default::default() },
                    decisions: Decisions {
                        regret_recent: Distribution { count: 9, mean: 0.111, p99: 1, ..Default::default() },
                        age_us_recent: Percentiles { p50: 3_000, p99: 12_000, ..Default::default() },
                        estimate_error_recent: Some(Distribution {
                            count: 90,
                            mean: 0.5,
                            p99: 2,
                            ..Default::default()
                        }),
                        waiting: 4,
                        waiting_delay_us_recent: Percentiles { p50: 250, p99: 7_100, ..Default::default() },
                        ..Default::default()
                    },
                    scaling: Some(Scaling {
                        wanted: 2,
                        min: 1,
                        max: 4,
                        reason: "at min = 1".into(),
                        ..Default::default()
                    }),
                    problems: vec![Problem {
                        kind: "frame_size".into(),
                        text: "server 127.0.0.1:53004 uses another frame_size".into(),
                    }],
                    servers: vec![ServerStatus {
                        id: 3,
                        state: "up".into(),
                        since_s: Some(90_000.0),
                        addr: "127.0.0.1:53003".into(),
                        weight: 5,
                        queue: 12,
                        ..Default::default()
                    }],
                    ..Default::default()
                },
                PoolStatus {
                    name: "web".into(),
                    protocol: "dns".into(),
                    servers: vec![ServerStatus {
                        id: 0,
                        state: "down".into(),
                        failed_answers: 3,
                        datagram: Some(DatagramServer { timed_out: 6, ..Default::default() }),
                        ..Default::default()
                    }],
                    datagram: Some(DatagramCounters { checks_ignored: true, ..Default::default() }),
                    ..Default::default()
                },
            ],
            events: vec![
                EventEntry {
                    unix_ms: 1_000,
                    kind: EventKind::Server,
                    pool: "web".into(),
                    server: Some(0),
                    text: "down\x1b[2J".into(),
                    ..Default::default()
                },
                EventEntry { unix_ms: 60_000, text: "reloaded".into(), ..Default::default() },
            ],
            ..Default::default()
        }
    }

    #[test]
    fn every_pool_and_server_has_its_line() {
        assert_eq!(
            render(&status(), 62_000, false),
            "\
lbd 1.2.3, process 77, up for 1h 2m, /etc/lbd.json: ready

pool native: 1 of 1 up, 104/s, p50 5.12 ms, p99 26.6 ms; 12.3k received, 8 answered, 1 failed, 0 dropped
  problem: server 127.0.0.1:53004 uses another frame_size
  server  state           for   queue  weight     per s        p50        p99   failed  address
       3  up            1d 1h      12       5         0          -          -        0  127.0.0.1:53003
  selection: regret 0.11 (p99 1), staleness 3.00 ms (p99 12.0 ms), estimate error 0.50 (p99 2), \
4 queued for 250 us (p99 7.10 ms)
  scaling: 2 servers desired of 1 to 4: at min = 1

pool web (dns): 0 of 1 up, 0/s, p50 -, p99 -; 0 received, 0 answered, 0 failed, 0 dropped
  NOT READY: no server is up (1 down)
  server  state           for   queue  weight     per s        p50        p99   failed  address
       0  down              -       0       0         0          -          -        9
  health checks ignored: no server passes them, though servers answer

     1m 1s ago  web server 0: down [2J
        2s ago  reloaded
"
        );
    }

    #[test]
    fn colours_are_only_where_they_are_wanted() {
        let text = render(&status(), 0, true);
        assert!(
            text.contains("\x1b[32mup       \x1b[0m") && text.contains("\x1b[31mdown     \x1b[0m"),
            "{text}"
        );
        assert!(!render(&status(), 0, false).contains('\x1b'));
    }
}
