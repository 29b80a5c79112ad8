//! The status of a balancer for people: what `lbd status` prints.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use lbd::admin::status::{Decisions, Numbers, PoolView, ServerView, Status};

/// Events that are shown.
const EVENTS_SHOWN: usize = 10;

/// Whether standard output is a terminal that wants colours.
pub fn has_colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The balancer's pools, servers and newest events, at a time in milliseconds since 1970.
pub fn render(status: &Status, unix_ms: u64, colours: bool) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{}", text.trim_end()).expect("a string takes everything");
    let Status { version, pid, uptime_s, config, ready, .. } = status;
    let config = if config.is_empty() { "no configuration file" } else { config };
    let readiness = if *ready { "ready" } else { "NOT READY" };
    line(format!("lbd {version}, process {pid}, up for {}, {config}: {readiness}", span(Some(*uptime_s))));
    for pool in status.all_pools() {
        line(String::new());
        line(head(&pool));
        line(format!(
            "{:>8}  {:<9} {:>9} {:>7} {:>7} {:>9} {:>10} {:>10} {:>8}  {}",
            "server", "state", "for", "queue", "weight", "per s", "p50", "p99", "failed", "address"
        ));
        pool.servers.iter().for_each(|server| line(row(server, colours)));
        if let Some(choices) = choices(pool.decisions) {
            line(format!("  choices: {choices}"));
        }
        if let Some(scaling) = pool.scaling {
            let (wanted, min, max) = (scaling.wanted, scaling.min, scaling.max);
            line(format!("  scaling: {wanted} wanted of {min} to {max}: {}", scaling.reason));
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

fn head(pool: &PoolView<'_>) -> String {
    let protocol = if pool.protocol == pool.name { String::new() } else { format!(" ({})", pool.protocol) };
    format!(
        "pool {}{protocol}: {} of {} up, {:.0}/s, p50 {}, p99 {}; {} received, {} answered, {} failed, {} dropped",
        pool.name,
        pool.up(),
        pool.servers.len(),
        pool.rate,
        milliseconds(pool.latency_us.p50),
        milliseconds(pool.latency_us.p99),
        pool.received,
        pool.answered,
        pool.failed,
        pool.dropped
    )
}

/// How good the choices of servers were lately, and who waits for one; `None` if there is nothing to say.
fn choices(decisions: &Decisions) -> Option<String> {
    let Decisions { regret_recent: regret, age_us_recent: age, waiting, .. } = decisions;
    let (error, delay) = (&decisions.estimate_error_recent, &decisions.waiting_delay_us_recent);
    let pair = |p50, p99| format!("{} (99 %: {})", milliseconds(p50), milliseconds(p99));
    let numbers = |of: &Numbers| format!("{:.2} (99 %: {})", of.mean, of.p99);
    let parts = [
        (regret.count > 0).then(|| format!("longer than the shortest queue by {}", numbers(regret))),
        (age.p50 > 0).then(|| format!("known for {}", pair(age.p50, age.p99))),
        error.as_ref().filter(|error| error.count > 0).map(|error| format!("wrong by {}", numbers(error))),
        (*waiting > 0 || delay.p99 > 0)
            .then(|| format!("{waiting} waiting here, half for {}", pair(delay.p50, delay.p99))),
    ];
    let said: Vec<String> = parts.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join(", "))
}

fn row(server: &ServerView<'_>, colours: bool) -> String {
    let ServerView { id, state, queue, weight, rate, failed, addr, .. } = server;
    let colour = match *state {
        "up" => "\x1b[32m",
        "down" => "\x1b[31m",
        "suspect" => "\x1b[33m",
        _ => "\x1b[36m",
    };
    let (on, off) = if colours { (colour, "\x1b[0m") } else { ("", "") };
    format!(
        "{id:>8}  {on}{state:<9}{off} {:>9} {queue:>7} {weight:>7} {rate:>9.0} {:>10} {:>10} {failed:>8}  {addr}",
        span(server.since_s),
        milliseconds(server.latency_us.p50),
        milliseconds(server.latency_us.p99)
    )
}

fn milliseconds(micros: u64) -> String {
    if micros == 0 { "-".to_owned() } else { format!("{:.2} ms", micros as f64 / 1e3) }
}

/// A time in its two largest units.
fn span(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) else {
        return "-".to_owned();
    };
    let s = seconds.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m {}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h {}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d {}h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lbd::admin::status::{Entry, Kind, Percentiles, PoolServerStatus, PoolStatus, Scaling, ServerStatus};

    fn status() -> Status {
        Status {
            version: "1.2.3".into(),
            pid: 77,
            uptime_s: 3_725.0,
            config: "/etc/lbd.json".into(),
            ready: true,
            workers: vec![9],
            requests: 9,
            answered: 8,
            busy_shed: 1,
            rate: 104.4,
            latency_us_recent: Percentiles { p50: 5_120, p99: 26_620, ..Default::default() },
            decisions: Decisions {
                regret_recent: Numbers { count: 9, mean: 0.111, p99: 1, ..Default::default() },
                age_us_recent: Percentiles { p50: 3_000, p99: 12_000, ..Default::default() },
                estimate_error_recent: Some(Numbers { count: 90, mean: 0.5, p99: 2, ..Default::default() }),
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
            servers: vec![ServerStatus {
                id: 3,
                state: "up".into(),
                since_s: Some(90_000.0),
                addr: "127.0.0.1:53003".into(),
                weight: 5,
                queue: 12,
                ..Default::default()
            }],
            pools: vec![PoolStatus {
                name: "web".into(),
                protocol: "dns".into(),
                servers: vec![PoolServerStatus {
                    id: 0,
                    state: "down".into(),
                    timed_out: 6,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            events: vec![
                Entry {
                    unix_ms: 1_000,
                    kind: Kind::Server,
                    pool: "web".into(),
                    server: Some(0),
                    text: "down\x1b[2J".into(),
                    ..Default::default()
                },
                Entry { unix_ms: 60_000, text: "reloaded".into(), ..Default::default() },
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

pool native: 1 of 1 up, 104/s, p50 5.12 ms, p99 26.62 ms; 9 received, 8 answered, 1 failed, 0 dropped
  server  state           for   queue  weight     per s        p50        p99   failed  address
       3  up            1d 1h      12       5         0          -          -        0  127.0.0.1:53003
  choices: longer than the shortest queue by 0.11 (99 %: 1), known for 3.00 ms (99 %: 12.00 ms), \
wrong by 0.50 (99 %: 2), 4 waiting here, half for 0.25 ms (99 %: 7.10 ms)
  scaling: 2 wanted of 1 to 4: at min = 1

pool web (dns): 0 of 1 up, 0/s, p50 -, p99 -; 0 received, 0 answered, 0 failed, 0 dropped
  server  state           for   queue  weight     per s        p50        p99   failed  address
       0  down              -       0       0         0          -          -        6

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
