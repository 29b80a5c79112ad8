//! What a configuration will run, in words: `lbd check`.

use std::fmt::Write;

use super::Config;
use crate::wire::ReplyPath;

/// A short plan, one line a component.
pub fn describe(config: &Config) -> String {
    let (pool, server, client) = (config.native(), &config.server, &config.client);
    let mut text = String::new();
    let source =
        config.source.as_ref().map_or("built-in defaults".to_owned(), |path| path.display().to_string());
    let mut line =
        |name: &str, what: String| writeln!(text, "{name:<11} {what}").expect("a string takes everything");
    let limit = pool.max_outstanding.map_or("any number of".to_owned(), |n| format!("at most {n}"));
    line("config", format!("{source}: valid"));
    line("balancer", format!("clients on {}, servers on {}", pool.client_side, pool.server_side));
    line(
        "",
        format!("{}, {limit} requests at one server, room for {} servers", pool.policy, pool.servers_max),
    );
    let path = match pool.reply_path {
        ReplyPath::Balancer => "replies by way of the balancer",
        ReplyPath::Direct => "replies direct from server to client",
    };
    let pinned = if pool.pin { ", each on a processor of its own" } else { "" };
    line("", format!("{path}, workers: {}{pinned}, I/O: {}", pool.workers, config.io));
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
    line("controller", format!("on {}", config.controller));
    let ports = format!("ports {} to {}", server.ports.start, server.ports.end - 1);
    line(
        "servers",
        format!(
            "{} to begin with ({} to {}), ids from {}, {ports}",
            server.count, server.min, server.max, server.start_id
        ),
    );
    let serve =
        server.service.map_or("echo at once".to_owned(), |s| format!("{s}, {} at a time", server.workers));
    let command = server.command.as_ref().map_or("lbd server".to_owned(), |words| words.join(" "));
    line("", format!("started as: {command}"));
    let report = humantime::format_duration(server.interval);
    line(
        "",
        format!(
            "{serve}; queue of {}, weight {}, a report every {report}",
            server.queue_capacity, server.weight
        ),
    );
    let t = pool.scaling_threshold;
    let (grow, shrink) =
        (humantime::format_duration(server.grow_after), humantime::format_duration(server.shrink_after));
    let pause = humantime::format_duration(server.cool_down);
    line(
        "scaling",
        format!(
            "up above {:.2} requests a server for {grow}, down below {:.2} on one fewer for {shrink}, \
             {pause} between decisions",
            0.9 * t,
            0.5 * t
        ),
    );
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
    let format = if config.logs.json { "JSON" } else { "text" };
    line(
        "logs",
        format!(
            "in {}, {format}, level {}, {} bytes a file",
            config.logs.dir.display(),
            config.logs.level,
            config.logs.size_max
        ),
    );
    let trust = if config.key.is_some() {
        "frames between components are authenticated"
    } else {
        "loopback only between components, no key"
    };
    line("trust", trust.to_owned());
    text
}
