//! What a configuration will run, in words: `lbd check`.

use std::fmt::Write;
use std::time::Duration;

use super::pools::{Affinity, Check, DatagramPool, PoolServer, Protocol, ProxyProtocol};
use super::target::Target;
use super::{Clients, Config, NativePool, NativeRun, Pool, PoolRun, Run, probe};
use crate::pool::autoscale::Policy;
use crate::pool::health::Rules;
use crate::pool::waiting::Limit;
use crate::wire::ReplyPath;

/// The rest of a port and a server that the configuration does not state, at least (`pools[].hold`).
const HOLD_MIN: Duration = Duration::from_millis(50);

/// A short plan, one line a fact.
pub fn describe(config: &Config) -> String {
    let mut plan = Plan(String::new());
    let source =
        config.source.as_ref().map_or("built-in defaults".to_owned(), |path| path.display().to_string());
    plan.line("config", format!("{source}: valid"));
    for pool in &config.pools {
        match pool {
            Pool::Native(pool) => native(pool, &config.client, &mut plan),
            Pool::Datagram(pool) => datagram_pool(pool, &mut plan),
        }
    }
    let format = if config.logs.json { "JSON" } else { "text" };
    plan.line(
        "logs",
        format!(
            "in {}, {format}, level {}, {} bytes a file",
            config.logs.dir.display(),
            config.logs.level,
            config.logs.size_max
        ),
    );
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
struct Plan(String);

impl Plan {
    fn line(&mut self, name: &str, what: String) {
        writeln!(self.0, "{name:<11} {what}").expect("a string takes everything");
    }
}

/// The pool with lbd's own frames, and its components.
fn native(pool: &NativePool, client: &Clients, plan: &mut Plan) {
    let serving = &pool.serving;
    let mut line = |name: &str, what: String| plan.line(name, what);
    let limit = limit(pool.max_outstanding, "requests", pool.waiting_max);
    line("balancer", format!("clients on {}, servers on {}", pool.client_side, pool.server_side));
    line("", format!("{}, {limit}, room for {} servers", pool.policy, pool.servers_max));
    let path = match pool.reply_path {
        ReplyPath::Balancer => "replies by way of the balancer",
        ReplyPath::Direct => "replies direct from server to client",
    };
    let pinned = if pool.pin { ", each on a processor of its own" } else { "" };
    line("", format!("{path}, workers: {}{pinned}, I/O: {}", pool.workers, pool.io));
    let trailer = if pool.format.tagged { ", 32 of them authenticate it" } else { "" };
    let payload = pool.format.payload_max();
    let packed = pool.frames_per_datagram;
    line(
        "frames",
        format!(
            "{} bytes{trailer}, {payload} for the payload, up to {packed} in a datagram",
            pool.format.size
        ),
    );
    line("health", rules(&pool.health));
    if let Some(NativeRun { controller, run }) = &pool.run {
        line("controller", format!("on {controller}"));
        line("servers", servers(run));
        line("", format!("started as: {}", command(run)));
    }
    let serve =
        serving.service.map_or("echo at once".to_owned(), |s| format!("{s}, {} at a time", serving.workers));
    let report = humantime::format_duration(pool.interval);
    line(
        "",
        format!(
            "{serve}; queue of {}, weight {}, a report every {report}",
            serving.queue_capacity, serving.weight
        ),
    );
    if let Some(NativeRun { run, .. }) = &pool.run {
        let [when, how] = scaling(&run.scale);
        line("scaling", when);
        line("", how);
    }
    let ports = format!("ports {} to {}", client.ports.start, client.ports.end - 1);
    line(
        "clients",
        format!("{}, ids from {}, {ports}, {} requests/s in all", client.count, client.start_id, client.rate),
    );
    let (timeout, deadline) =
        (humantime::format_duration(client.timeout), humantime::format_duration(client.deadline));
    line(
        "",
        format!("retry after {timeout} or more, {} times at most, give up after {deadline}", client.retries),
    );
}

fn servers(run: &Run) -> String {
    let Policy { min, max, .. } = run.scale;
    let ports = format!("ports {} to {}", run.ports.start, run.ports.end - 1);
    format!("{} to begin with ({min} to {max}), ids from {}, {ports}", run.count, run.start_id)
}

fn command(run: &Run) -> String {
    run.command.as_ref().map_or("lbd server".to_owned(), |words| words.join(" "))
}

/// When servers are added and stopped, and how fast.
fn scaling(policy: &Policy) -> [String; 2] {
    let time = humantime::format_duration;
    let Policy { threshold, shrink_max, .. } = *policy;
    let grow_max = policy.grow_max.map_or("as many as there are".to_owned(), |n| n.to_string());
    let when = format!(
        "up above {:.2} requests a server for {}, down below {:.2} on fewer for {}",
        0.9 * threshold,
        time(policy.grow_after),
        0.5 * threshold,
        time(policy.shrink_after)
    );
    let how = format!(
        "{grow_max} more at a time, {} after the last decision; {shrink_max} fewer, after {}",
        time(policy.grow_cool_down),
        time(policy.shrink_cool_down)
    );
    [when, how]
}

/// How many requests, or flows, a server may have, and what becomes of the others.
fn limit(max_outstanding: Option<Limit>, what: &str, waiting_max: usize) -> String {
    let rest = match (what, waiting_max) {
        ("flows", _) | (_, 0) => "the rest is refused".to_owned(),
        _ => format!("up to {waiting_max} wait"),
    };
    match max_outstanding {
        None => format!("any number of {what} at one server"),
        Some(Limit::Fixed(n)) => format!("at most {n} {what} at one server ({rest})"),
        Some(Limit::Auto) => format!("as few {what} at one server as keep it busy ({rest})"),
    }
}

fn datagram_pool(pool: &DatagramPool, plan: &mut Plan) {
    let time = humantime::format_duration;
    let flows = pool.settings.affinity == Affinity::Client;
    let mut line = |name: &str, what: String| plan.line(name, what);
    let tcp = match pool.tcp_connections {
        0 => String::new(),
        n => format!(", there up to {n} TCP connections"),
    };
    line(
        "pool",
        format!("{}: {} on {}{tcp}", pool.settings.name, pool.settings.protocol.name(), list(&pool.listen)),
    );
    let what = if flows { "flows" } else { "requests" };
    let limit = limit(pool.settings.max_outstanding, what, pool.settings.waiting_max);
    line("", format!("{}, {limit}, room for {} addresses", pool.settings.policy, pool.settings.servers_max));
    let timeout = time(pool.settings.timeout);
    line(
        "",
        match pool.settings.replies {
            Some(0) => "one-way: no answer is waited for".to_owned(),
            Some(1) => format!("one answer to a datagram, within {timeout}"),
            Some(n) => format!("up to {n} answers to a datagram, the first within {timeout}"),
            None => format!("any number of answers to a datagram, the first within {timeout}"),
        },
    );
    if flows {
        let idle = time(pool.settings.idle_timeout);
        line(
            "",
            format!("a client's datagrams go to one server; its flow ends after {idle} without datagrams"),
        );
    }
    for part in ports(pool) {
        line("", part);
    }
    let pinned = if pool.pin { ", each on a processor of its own" } else { "" };
    line("", format!("workers: {}{pinned}, I/O: {}", pool.settings.workers, pool.io));
    for (i, server) in pool.servers.iter().enumerate() {
        let PoolServer { target, weight, id } = server;
        let looked_up = match target {
            Target::Name { .. } => format!(", looked up every {}", time(pool.resolve_interval)),
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
        if pool.settings.allow.is_empty() { "everybody".to_owned() } else { list(&pool.settings.allow) };
    let denied = if pool.settings.deny.is_empty() {
        String::new()
    } else {
        format!(", but not {}", list(&pool.settings.deny))
    };
    let rate = pool
        .settings
        .rate_per_source
        .map_or(String::new(), |rate| format!(", {rate} datagrams/s from one source"));
    line("senders", format!("{senders}{denied}{rate}"));
    let header = match pool.settings.proxy_protocol {
        ProxyProtocol::Off => None,
        ProxyProtocol::First => Some("by a PROXY header in the first datagram of a flow"),
        ProxyProtocol::Every => Some("by a PROXY header in every datagram"),
    };
    let source = pool.settings.transparent.then_some("as the source address");
    let told: Vec<&str> = header.into_iter().chain(source).collect();
    if !told.is_empty() {
        line("", format!("servers learn the client's address {}", told.join(" and ")));
    }
}

/// The local ports of a pool, and what they allow.
fn ports(pool: &DatagramPool) -> Vec<String> {
    let started = pool.run.as_ref().map_or(0, |of_pool| of_pool.run.scale.max as usize);
    let (ports, servers) = (pool.ports, pool.servers.len() + started);
    if pool.settings.protocol == Protocol::Dns {
        return vec![format!("{ports} ports towards the servers, each with many requests at a time")];
    }
    let pairs = ports * servers;
    let many = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let factors = [many(ports, "port"), many(servers, "server")].join(" x ");
    let shown = format!("{factors} = {}", many(pairs, "port-and-server pair"));
    let hold = pool.settings.hold.unwrap_or(HOLD_MIN);
    let rest = match pool.settings.hold {
        Some(hold) => humantime::format_duration(hold).to_string(),
        None => format!("{} (or twice the p99 if that is longer)", humantime::format_duration(HOLD_MIN)),
    };
    let rate = |taken: Duration| {
        let rate = pairs as f64 / taken.as_secs_f64();
        if rate < 10.0 { format!("{rate:.2}") } else { format!("{rate:.0}") }
    };
    let allowed = match pool.settings.affinity {
        Affinity::None if hold.is_zero() => return vec![format!("{shown}, which do not rest")],
        Affinity::None => format!("they allow about {} requests a second", rate(hold)),
        Affinity::Client => format!(
            "they allow {pairs} flows at a time, and about {} flows a second",
            rate(pool.settings.idle_timeout + hold)
        ),
    };
    vec![
        format!("{shown}; at a rest of {rest} {allowed} from ever new clients"),
        "a client that comes back takes its own pair at once".to_owned(),
    ]
}

fn health(pool: &DatagramPool) -> String {
    let time = humantime::format_duration;
    let health = &pool.settings.health;
    let what = match &health.check {
        Check::None => None,
        Check::Dns { name, kind } => {
            Some(format!("DNS query {} {}", probe::shown_name(name), probe::kind_name(*kind)))
        }
        Check::Payload { send, expect } => {
            let sent = format!("payload of {} bytes", send.len());
            Some(match expect.len() {
                0 => format!("{sent}, any answer"),
                len => format!("{sent}, an answer that begins with {len} given bytes"),
            })
        }
    };
    let asked = what.map_or("only requests tell".to_owned(), |what| {
        format!("{what}, every {}, answered within {}", time(health.interval), time(health.timeout))
    });
    format!("{asked}; {}", rules(&health.rules))
}

/// How servers are judged.
fn rules(rules: &Rules) -> String {
    let time = humantime::format_duration;
    let Rules { rise, fall, down_max, hold_down_max, slow_start } = *rules;
    let held = match hold_down_max {
        Duration::ZERO => String::new(),
        longest => format!("; who fails often is kept away for up to {}", time(longest)),
    };
    let slowly = match slow_start {
        Duration::ZERO => String::new(),
        span => format!("; whole share after {}", time(span)),
    };
    format!(
        "down after {fall} unanswered, up after {rise} answered; with more than {:.0} % down, to all{held}{slowly}",
        100.0 * down_max
    )
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
