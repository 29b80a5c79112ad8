//! What a configuration will run: the output of `lbd check`.

use std::fmt::Write;
use std::time::Duration;

use super::pools::{Affinity, Check, DatagramPool, PoolServer, Protocol, ProxyProtocol};
use super::target::Target;
use super::{Clients, Config, NativePool, NativeRun, Pool, PoolRun, Run, probe};
use crate::base::duration::exact;
use crate::io::IoChoice;
use crate::os::logging::LogTarget;
use crate::pool::autoscale::Policy;
use crate::pool::health::Rules;
use crate::pool::waiting::Limit;
use crate::role::datagram::flows_per_source;
use crate::wire::ReplyPath;

/// The least quarantine of a port and server pair, where the configuration does not set it (`pools[].hold`).
const HOLD_MIN: Duration = Duration::from_millis(50);

/// A short plan, one fact per line.
pub fn describe(config: &Config) -> String {
    let mut plan = PlanText(String::new());
    let source =
        config.source.as_ref().map_or("built-in defaults".to_owned(), |path| path.display().to_string());
    plan.line("config", format!("{source}: valid"));
    for pool in &config.pools {
        match pool {
            Pool::Native(pool) => {
                let is_first = config.native().is_some_and(|first| first.name == pool.name);
                native(pool, is_first.then_some(&config.client), &mut plan);
            }
            Pool::Datagram(pool) => datagram_pool(pool, &mut plan),
        }
    }
    let format = if config.logs.json { "JSON" } else { "text" };
    let (dir, level) = (config.logs.dir.display(), config.logs.level);
    let logs = match config.logs.target {
        LogTarget::Files => {
            format!("in {dir}, {format}, level {level}, {} bytes per file", config.logs.size_max)
        }
        LogTarget::Stderr => format!("on standard error, {format}, level {level}"),
        LogTarget::Journald => format!("to the journal, through standard error, {format}, level {level}"),
        LogTarget::Off => "off".to_owned(),
    };
    plan.line("logs", logs);
    if config.native().is_some() {
        let trust = if config.key.is_some() {
            "frames between components are authenticated"
        } else {
            "loopback only between components, no key"
        };
        plan.line("trust", trust.to_owned());
    }
    plan.0
}

/// Lines with a name in front.
struct PlanText(String);

impl PlanText {
    fn line(&mut self, name: &str, what: String) {
        writeln!(self.0, "{name:<11} {what}").expect("a string takes everything");
    }
}

/// A native pool; `clients` are given for the first one.
fn native(pool: &NativePool, clients: Option<&Clients>, plan: &mut PlanText) {
    let serving = &pool.serving;
    let mut line = |name: &str, what: String| plan.line(name, what);
    let limit = limit(pool.max_outstanding, "requests", pool.waiting_max);
    let (name, listen, server_side) = (&pool.name, pool.client_side, pool.server_side);
    line("pool", format!("{name}: native, clients on {listen}, servers on {server_side}"));
    line("", format!("{}, {limit}, capacity {} servers", pool.policy, pool.servers_max));
    let path = match pool.reply_path {
        ReplyPath::Balancer => "replies through the balancer",
        ReplyPath::Direct => "replies directly from server to client",
    };
    line("", format!("{path}, {}", threads(pool.workers, pool.pin, pool.io)));
    let trailer = if pool.format.tagged { " (32 of them for the tag)" } else { "" };
    let (size, payload, packed) = (pool.format.size, pool.format.payload_max(), pool.frames_per_datagram);
    line("frames", format!("{size} bytes{trailer}, {payload} for the payload, up to {packed} in a datagram"));
    line("health", rules(&pool.health));
    let serve = serving
        .service
        .map_or("echo at once".to_owned(), |service| format!("{service}, {} concurrently", serving.workers));
    let (queue, weight, report) = (serving.queue_capacity, serving.weight, exact(pool.interval));
    let works = format!("{serve}; queue of {queue}, weight {weight}, a report every {report}");
    match &pool.run {
        None => line("servers", works),
        Some(NativeRun { controller, run }) => {
            line("servers", servers(run));
            line("", format!("started by lbd controller as: {}", command(run)));
            line("", works);
            line("controller", format!("on {controller}"));
            let [when, how] = scaling(&run.scale);
            line("scaling", when);
            line("", how);
        }
    }
    let Some(clients) = clients else { return };
    let (timeout, deadline, retries) = (exact(clients.timeout), exact(clients.deadline), clients.retries);
    let retry = format!("retry after {timeout} or more, at most {retries} times, give up after {deadline}");
    if pool.run.is_none() {
        return line("clients", retry); // `lbd up`, which runs clients, needs replicas
    }
    let ports = format!("ports {} to {}", clients.ports.start, clients.ports.end - 1);
    let (count, start_id, rate) = (clients.count, clients.start_id, clients.rate);
    line("clients", format!("{count}, ids from {start_id}, {ports}, {rate} requests/s in total"));
    line("", retry);
}

/// Workers and their I/O.
fn threads(workers: usize, pin: bool, io: IoChoice) -> String {
    let pinned = if pin { ", each pinned to a CPU" } else { "" };
    format!("workers: {workers}{pinned}, I/O: {io}")
}

fn servers(run: &Run) -> String {
    let Policy { min, max, .. } = run.scale;
    let ports = format!("ports {} to {}", run.ports.start, run.ports.end - 1);
    format!("{} at the start ({min} to {max}), ids from {}, {ports}", run.count, run.start_id)
}

fn command(run: &Run) -> String {
    run.command.as_ref().map_or("lbd server".to_owned(), |words| words.join(" "))
}

/// When servers are added and stopped, and how many.
fn scaling(policy: &Policy) -> [String; 2] {
    let Policy { threshold, shrink_max, .. } = *policy;
    let grow_max = policy.grow_max.map_or("as many as there are".to_owned(), |n| n.to_string());
    let when = format!(
        "up above {:.2} requests per server for {}, down below {:.2} with one server less for {}",
        0.9 * threshold,
        exact(policy.grow_after),
        0.5 * threshold,
        exact(policy.shrink_after)
    );
    let how = format!(
        "adds at most {grow_max}, {} after the last decision; stops at most {shrink_max}, {} after it",
        exact(policy.grow_cool_down),
        exact(policy.shrink_cool_down)
    );
    [when, how]
}

/// The concurrency limit of a server, and what happens to requests or flows above it.
fn limit(max_outstanding: Option<Limit>, what: &str, waiting_max: usize) -> String {
    let rest = match (what, waiting_max) {
        ("flows", _) | (_, 0) => "more are refused".to_owned(),
        _ => format!("up to {waiting_max} more are queued"),
    };
    match max_outstanding {
        None => format!("no limit of {what} per server"),
        Some(Limit::Fixed(n)) => format!("at most {n} {what} per server ({rest})"),
        Some(Limit::Auto) => format!("the fewest {what} per server that keep it busy ({rest})"),
    }
}

fn datagram_pool(pool: &DatagramPool, plan: &mut PlanText) {
    let flows = pool.settings.affinity == Affinity::Client;
    let mut line = |name: &str, what: String| plan.line(name, what);
    let tcp = match pool.tcp_connections {
        0 => String::new(),
        n => format!(
            ", up to {n} TCP connections, {} from one source, idle for {} at most",
            pool.settings.tcp_connections_per_source,
            exact(pool.settings.tcp_idle_timeout)
        ),
    };
    line(
        "pool",
        format!("{}: {} on {}{tcp}", pool.settings.name, pool.settings.protocol.name(), list(&pool.listen)),
    );
    let what = if flows { "flows" } else { "requests" };
    let limit = limit(pool.settings.max_outstanding, what, pool.settings.waiting_max);
    line("", format!("{}, {limit}, capacity {} addresses", pool.settings.policy, pool.settings.servers_max));
    let timeout = exact(pool.settings.timeout);
    line(
        "",
        match pool.settings.replies {
            Some(0) => "one-way: no response is expected".to_owned(),
            Some(1) => format!("one response per datagram, within {timeout}"),
            Some(n) => format!("up to {n} responses per datagram, the first within {timeout}"),
            None => format!("any number of responses per datagram, the first within {timeout}"),
        },
    );
    if flows {
        let idle = exact(pool.settings.idle_timeout);
        line(
            "",
            format!("all datagrams of a client go to one server; a flow ends after {idle} without datagrams"),
        );
        let drain = exact(pool.settings.drain_timeout);
        line("", format!("a removed server keeps its flows for up to {drain}"));
    }
    for part in ports(pool) {
        line("", part);
    }
    line("", threads(pool.settings.workers, pool.pin, pool.io));
    for (i, server) in pool.servers.iter().enumerate() {
        let PoolServer { target, weight, id } = server;
        let looked_up = match target {
            Target::Name { .. } => format!(", looked up every {}", exact(pool.resolve_interval)),
            Target::Addr(_) => String::new(),
        };
        line(if i == 0 { "servers" } else { "" }, format!("{target}, id {id}, weight {weight}{looked_up}"));
    }
    if let Some(PoolRun { address, run }) = &pool.run {
        line(if pool.servers.is_empty() { "servers" } else { "" }, format!("{} of {address}", servers(run)));
        line("", format!("started by lbd controller as: {}", command(run)));
        let [when, how] = scaling(&run.scale);
        line("scaling", when);
        line("", how);
    }
    line("health", health(pool));
    let senders =
        if pool.settings.allow.is_empty() { "every source".to_owned() } else { list(&pool.settings.allow) };
    let denied = if pool.settings.deny.is_empty() {
        String::new()
    } else {
        format!(" except {}", list(&pool.settings.deny))
    };
    let rate = pool
        .settings
        .rate_per_source
        .map_or(String::new(), |rate| format!(", at most {rate} datagrams/s per source"));
    let truncated = match (pool.settings.rate_per_source, pool.settings.rate_limit_truncate) {
        (Some(_), n @ 1..) if pool.settings.protocol == Protocol::Dns => {
            format!(", 1 in {n} above that answered with TC")
        }
        _ => String::new(),
    };
    line("senders", format!("{senders}{denied}{rate}{truncated}"));
    let header = match pool.settings.proxy_protocol {
        ProxyProtocol::Off => None,
        ProxyProtocol::First => Some("in a PROXY header of the first datagram of a flow"),
        ProxyProtocol::Every => Some("in a PROXY header of every datagram"),
    };
    let source = pool.settings.transparent.then_some("as the source address");
    let told: Vec<&str> = header.into_iter().chain(source).collect();
    if !told.is_empty() {
        line("", format!("servers see the client's address {}", told.join(" and ")));
    }
}

/// The local ports of a pool, and the load that they allow.
fn ports(pool: &DatagramPool) -> Vec<String> {
    let started = pool.run.as_ref().map_or(0, |of_pool| of_pool.run.scale.max as usize);
    let (ports, servers) = (pool.ports, pool.servers.len() + started);
    if pool.settings.protocol == Protocol::Dns {
        return vec![format!("{ports} ports towards the servers, each for many concurrent requests")];
    }
    let pairs = ports * servers;
    let many = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let factors = [many(ports, "port"), many(servers, "server")].join(" x ");
    let shown = format!("{factors} = {}", many(pairs, "port-and-server pair"));
    let hold = pool.settings.hold.unwrap_or(HOLD_MIN);
    let rest = match pool.settings.hold {
        Some(hold) => exact(hold).to_string(),
        None => format!("{} (or twice the p99 if that is longer)", exact(HOLD_MIN)),
    };
    let rate = |taken: Duration| {
        let rate = pairs as f64 / taken.as_secs_f64();
        if rate < 10.0 { format!("{rate:.2}") } else { format!("{rate:.0}") }
    };
    let allowed = match pool.settings.affinity {
        Affinity::None if hold.is_zero() => return vec![format!("{shown}, without quarantine")],
        Affinity::None => format!("about {} requests per second", rate(hold)),
        Affinity::Client => format!(
            "{pairs} concurrent flows, about {} new flows per second",
            rate(pool.settings.idle_timeout + hold)
        ),
    };
    let of_source = (pool.settings.affinity == Affinity::Client).then(|| {
        let most = pool.settings.flows_per_source.unwrap_or_else(|| flows_per_source(pairs));
        format!("at most {} per source", many(most as usize, "flow"))
    });
    [
        format!("{shown}; with a quarantine of {rest}: {allowed}, all from new clients"),
        "a returning client takes its own pair at once".to_owned(),
    ]
    .into_iter()
    .chain(of_source)
    .collect()
}

fn health(pool: &DatagramPool) -> String {
    let health = &pool.settings.health;
    let what = match &health.check {
        Check::None => None,
        Check::Dns { name, kind } => {
            let alive: Vec<String> = health.rcodes.iter().map(|rcode| probe::rcode_name(*rcode)).collect();
            let (name, kind) = (probe::shown_name(name), probe::kind_name(*kind));
            Some(format!("DNS query {name} {kind} (alive: {})", alive.join(", ")))
        }
        Check::Payload { send, expect } => {
            let sent = format!("payload of {} bytes", send.len());
            Some(match expect.len() {
                0 => format!("{sent}, any response"),
                len => format!("{sent}, response begins with {len} given bytes"),
            })
        }
    };
    let asked = what.map_or("passive signals only".to_owned(), |what| {
        format!("{what}, every {}, response within {}", exact(health.interval), exact(health.timeout))
    });
    format!("{asked}; {}", rules(&health.rules))
}

/// Thresholds and times of health.
fn rules(rules: &Rules) -> String {
    let Rules { rise, fall, down_max, hold_down_max, slow_start } = *rules;
    let held = match hold_down_max {
        Duration::ZERO => String::new(),
        longest => format!("; held down for up to {} after repeated failures", exact(longest)),
    };
    let slowly = match slow_start {
        Duration::ZERO => String::new(),
        span => format!("; full share {} after it comes up", exact(span)),
    };
    format!(
        "down after {fall} unanswered, up after {rise} answered; fail-open above {:.0} % down{held}{slowly}",
        100.0 * down_max
    )
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
