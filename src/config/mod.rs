//! Configuration: `config.json` as written ([`raw`]) becomes one validated, immutable [`Config`].
//!
//! Everything is checked before anything runs; a mistake is one line with file, line, key and remedy. Inside,
//! everything is a pool: the four original sections are another way of writing the native one.

mod describe;
mod error;
mod key;
mod raw;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

pub use describe::describe;
pub use error::ConfigError;
pub use key::Key;
use raw::{Bind, Raw, Text, Words};

use crate::logging;
use crate::select::PolicyKind;
use crate::service::ServiceTime;
use crate::wire::FrameFormat;
use crate::wire::header::{FRAME_SIZE_MAX, FRAME_SIZE_MIN, FRAME_SIZE_MIN_TAGGED};

/// What a pool speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The frame protocol of `docs/PROTOCOL.md`.
    Native,
}

/// One pool of servers behind the balancer.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its name in logs and figures.
    pub name: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where clients ask.
    pub client_side: SocketAddr,
    /// Where servers and the controller are talked to.
    pub server_side: SocketAddr,
    /// Size and trailer of the frames.
    pub format: FrameFormat,
    /// How a server is chosen.
    pub policy: PolicyKind,
    /// At most so many requests at one server.
    pub max_outstanding: Option<u32>,
    /// Room for so many servers.
    pub servers_max: usize,
    /// Requests per server that are thought to be too many.
    pub scaling_threshold: f64,
}

/// The servers that the controller runs.
#[derive(Clone, Debug)]
pub struct Servers {
    /// To begin with.
    pub count: u32,
    /// Their ports.
    pub ports: Range<u16>,
    /// The id of the first.
    pub start_id: u32,
    /// How often they report.
    pub interval: Duration,
    /// What is started; `None` = `lbd server`.
    pub command: Option<Vec<String>>,
    /// Never fewer.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// Their share relative to others.
    pub weight: u16,
    /// Drawn service times; `None` = echo at once.
    pub service: Option<ServiceTime>,
    /// Requests that each holds.
    pub queue_capacity: usize,
    /// Requests that each serves at a time.
    pub workers: usize,
    /// How long the load must be high before servers are added.
    pub grow_after: Duration,
    /// How long it must be low before one is stopped.
    pub shrink_after: Duration,
    /// The least time between two scaling decisions.
    pub cool_down: Duration,
}

/// The clients that `lbd up` runs, and the defaults of `lbd client`.
#[derive(Clone, Debug)]
pub struct Clients {
    /// How many.
    pub count: u32,
    /// Their ports.
    pub ports: Range<u16>,
    /// The id of the first.
    pub start_id: u32,
    /// Requests per second of all together.
    pub rate: f64,
    /// The least time to wait for an answer before a retry.
    pub timeout: Duration,
    /// When a request is given up.
    pub deadline: Duration,
    /// Retries of one request at most.
    pub retries: u8,
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pools; the first is the native one.
    pub pools: Vec<Pool>,
    /// The servers of the native pool.
    pub server: Servers,
    /// Its clients.
    pub client: Clients,
    /// Where the controller takes orders.
    pub controller: SocketAddr,
    /// Where logs go.
    pub logs: logging::Settings,
    /// Authenticates the frames between components.
    pub key: Option<Key>,
    /// The file that it was read from.
    pub source: Option<PathBuf>,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError {
            file: Some(path.to_owned()),
            line: None,
            key: String::new(),
            problem: format!("cannot read the file ({e}): give its path with --config"),
        })?;
        Config::parse(&text, Some(path))
    }

    /// Checks a configuration that is written in `text`; `file` is named in errors.
    pub fn parse(text: &str, file: Option<&Path>) -> Result<Config, ConfigError> {
        let reader = Reader { text, file };
        let raw: Raw = serde_json::from_str(text).map_err(|e| reader.syntax(&e))?;
        reader.config(&raw)
    }

    /// The native pool.
    pub fn native(&self) -> &Pool {
        &self.pools[0]
    }

    /// The shared key's bytes.
    pub fn key_bytes(&self) -> Option<[u8; 16]> {
        self.key.map(|key| key.bytes())
    }

    /// Where a server or the controller on this machine reaches the balancer.
    pub fn balancer_for_servers(&self) -> SocketAddr {
        reachable(self.native().server_side)
    }

    /// Where a client on this machine reaches the balancer.
    pub fn balancer_for_clients(&self) -> SocketAddr {
        reachable(self.native().client_side)
    }
}

impl Default for Config {
    /// What an empty file means: the values of the repository's `config.json`.
    fn default() -> Self {
        Config::parse("{}", None).expect("the defaults are valid")
    }
}

/// The JSON schema of the file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Raw).to_value()
}

/// A wildcard address is reached by way of the loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// A text and where it came from: makes values, and errors that say where.
struct Reader<'a> {
    text: &'a str,
    file: Option<&'a Path>,
}

type Read<T> = Result<T, ConfigError>;

impl Reader<'_> {
    fn error(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file.map(Path::to_owned),
            line: error::line_of(self.text, key),
            key: key.to_owned(),
            problem: problem.into(),
        }
    }

    /// What serde_json says, with the nearest known key for an unknown one.
    fn syntax(&self, error: &serde_json::Error) -> ConfigError {
        let message = error.to_string();
        // It ends with " at line L column C", which we say in front.
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(m, _)| m);
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let problem = match (message.split_once('`'), quoted.split_first()) {
            (Some(("unknown field ", _)), Some((unknown, known))) => {
                let nearest = known.iter().max_by(|a, b| {
                    strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown))
                });
                match nearest.filter(|n| strsim::jaro_winkler(n, unknown) > 0.7) {
                    Some(nearest) => format!("unknown key \"{unknown}\": did you mean \"{nearest}\"?"),
                    None => {
                        format!("unknown key \"{unknown}\": remove it, or use one of {}", known.join(", "))
                    }
                }
            }
            (Some(("duplicate field ", _)), Some((twice, _))) => {
                format!("the key \"{twice}\" stands here twice: remove one")
            }
            _ => format!("not a valid configuration: {message}"),
        };
        ConfigError {
            file: self.file.map(Path::to_owned),
            line: Some(error.line()),
            key: String::new(),
            problem,
        }
    }

    fn parsed<T: FromStr>(&self, key: &str, value: &Option<Text>, default: T, what: &str) -> Read<T> {
        let Some(Text(text)) = value else { return Ok(default) };
        text.parse().map_err(|_| self.error(key, format!("\"{text}\" is not {what}")))
    }

    fn number<T>(&self, key: &str, value: &Option<Text>, default: T, range: RangeInclusive<T>) -> Read<T>
    where
        T: FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        let what = format!("a number from {} to {}", range.start(), range.end());
        let number = self.parsed(key, value, default, &what)?;
        if range.contains(&number) {
            Ok(number)
        } else {
            Err(self.error(key, format!("{number} is not {what}")))
        }
    }

    /// Milliseconds, or a duration with its unit.
    fn duration(
        &self,
        key: &str,
        value: &Option<Text>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Read<Duration> {
        let Some(Text(text)) = value else { return Ok(default) };
        let bare = text.parse::<f64>().ok().filter(|ms| (0.0..1e12).contains(ms));
        let duration = match bare {
            Some(ms) => Some(Duration::from_secs_f64(ms / 1e3)),
            None => humantime::parse_duration(text).ok(),
        };
        let (from, to) =
            (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
        duration.filter(|d| range.contains(d)).ok_or_else(|| {
            self.error(key, format!("\"{text}\" is not a duration from {from} to {to}: write milliseconds, or a unit as in 10ms"))
        })
    }

    fn named<T>(&self, key: &str, value: &Option<Text>, default: T) -> Read<T>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let Some(Text(text)) = value else { return Ok(default) };
        text.parse().map_err(|e: T::Err| self.error(key, e.to_string()))
    }

    fn ip(&self, key: &str, value: &Option<String>) -> Read<IpAddr> {
        let Some(text) = value else { return Ok(Ipv4Addr::LOCALHOST.into()) };
        text.parse().map_err(|_| {
            self.error(key, format!("\"{text}\" is not an IP address, such as 127.0.0.1 or ::1"))
        })
    }

    fn ports(
        &self,
        section: &str,
        start: &Option<Text>,
        end: &Option<Text>,
        default: Range<u16>,
    ) -> Read<Range<u16>> {
        let first = self.number(&format!("{section}.port_range_start"), start, default.start, 1..=65_535)?;
        let end_key = format!("{section}.port_range_end");
        let end = self.number(&end_key, end, default.end, 1..=65_535)?;
        if end <= first {
            return Err(self.error(
                &end_key,
                format!("the range {first} to {end} is empty: the end is the port after the last one"),
            ));
        }
        Ok(first..end)
    }

    fn not_yet(&self, key: &str, present: bool) -> Read<()> {
        if present { Err(self.error(key, "not implemented yet: remove the key")) } else { Ok(()) }
    }

    /// A key of which only some values are implemented.
    fn only(&self, key: &str, value: &Option<Text>, implemented: &[&str], later: &[&str]) -> Read<()> {
        let Some(Text(text)) = value else { return Ok(()) };
        let use_these = implemented.join(" or ");
        if implemented.contains(&text.as_str()) {
            Ok(())
        } else if later.contains(&text.as_str())
            || later.is_empty() && text.parse::<u16>().is_ok_and(|n| n > 0)
        {
            Err(self.error(key, format!("{text} is not implemented yet: use {use_these}, or remove the key")))
        } else {
            Err(self.error(key, format!("\"{text}\" is unknown: use {use_these}, or remove the key")))
        }
    }

    fn config(&self, raw: &Raw) -> Read<Config> {
        self.not_yet("pools", raw.pools.is_some())?;
        self.not_yet("admin", raw.admin.is_some())?;
        let key = match &raw.key_file {
            None => None,
            Some(path) => {
                Some(Key::read(Path::new(path)).map_err(|problem| self.error("key_file", problem))?)
            }
        };
        let server = self.servers(raw)?;
        let pool = self.native_pool(raw, key.is_some())?;
        let config = Config {
            client: self.clients(raw)?,
            controller: self.controller(raw)?,
            logs: self.logs(raw)?,
            pools: vec![pool],
            server,
            key,
            source: self.file.map(Path::to_owned),
        };
        self.check_trust(&config)?;
        self.check_ports(&config)?;
        if config.server.max as usize > config.native().servers_max {
            let problem = format!(
                "{} servers do not fit into load_balancer.servers_max = {}: raise that, or lower server.max",
                config.server.max,
                config.native().servers_max
            );
            return Err(self.error("server.max", problem));
        }
        Ok(config)
    }

    fn native_pool(&self, raw: &Raw, keyed: bool) -> Read<Pool> {
        let raw = raw.load_balancer.clone().unwrap_or_default();
        self.not_yet("load_balancer.waiting_max", raw.waiting_max.is_some())?;
        self.only("load_balancer.workers", &raw.workers, &["1"], &[])?;
        self.only("load_balancer.io", &raw.io, &["auto", "mio"], &["io_uring"])?;
        self.only("load_balancer.reply_path", &raw.reply_path, &["balancer"], &["direct"])?;
        let (client_ip, server_ip) = match &raw.bind {
            None => (None, None),
            Some(Bind::Both(ip)) => (Some(ip.clone()), Some(ip.clone())),
            Some(Bind::Each { client_side, server_side }) => (client_side.clone(), server_side.clone()),
        };
        let client_ip = self.ip("load_balancer.bind", &client_ip)?;
        let server_ip = self.ip("load_balancer.bind", &server_ip)?;
        let client_port =
            self.number("load_balancer.client_side_port", &raw.client_side_port, 54_001, 1..=65_535)?;
        let server_port =
            self.number("load_balancer.server_side_port", &raw.server_side_port, 54_000, 1..=65_535)?;
        let least = if keyed { FRAME_SIZE_MIN_TAGGED } else { FRAME_SIZE_MIN };
        let size = self.number("load_balancer.frame_size", &raw.frame_size, 256, least..=FRAME_SIZE_MAX)?;
        let limit = self.number("load_balancer.max_outstanding", &raw.max_outstanding, 0, 1..=1_000_000);
        let threshold_key = "load_balancer.server_scaling_threshold";
        Ok(Pool {
            name: "native".to_owned(),
            protocol: Protocol::Native,
            client_side: SocketAddr::new(client_ip, client_port),
            server_side: SocketAddr::new(server_ip, server_port),
            format: if keyed { FrameFormat::tagged(size) } else { FrameFormat::plain(size) },
            policy: self.named("load_balancer.policy", &raw.policy, PolicyKind::default())?,
            max_outstanding: if raw.max_outstanding.is_some() { Some(limit?) } else { None },
            servers_max: self.number("load_balancer.servers_max", &raw.servers_max, 64, 1..=4_096)?,
            scaling_threshold: self.number(threshold_key, &raw.server_scaling_threshold, 5.0, 0.01..=1e6)?,
        })
    }

    fn servers(&self, raw: &Raw) -> Read<Servers> {
        let raw = raw.server.clone().unwrap_or_default();
        let ms = Duration::from_millis;
        let count = self.number("server.count", &raw.count, 1, 0..=4_096)?;
        let min = self.number("server.min", &raw.min, count.min(1), 0..=4_096)?;
        let max = self.number("server.max", &raw.max, count.max(min).max(16), 1..=4_096)?;
        if min > max {
            return Err(self.error("server.min", format!("{min} is more than server.max = {max}: lower it")));
        }
        if !(min..=max).contains(&count) {
            return Err(self.error(
                "server.count",
                format!("{count} is not within server.min = {min} and server.max = {max}"),
            ));
        }
        let ports = self.ports("server", &raw.port_range_start, &raw.port_range_end, 50_000..51_000)?;
        if max as usize > ports.len() {
            return Err(self.error(
                "server.max",
                format!("{max} servers do not fit into {} ports: widen the range, or lower it", ports.len()),
            ));
        }
        let interval = self.duration(
            "server.queue_update_interval",
            &raw.queue_update_interval,
            ms(10),
            ms(1)..=ms(10_000),
        )?;
        let window = |key, value, default| self.duration(key, value, default, ms(10)..=ms(86_400_000));
        Ok(Servers {
            count,
            ports,
            start_id: self.number("server.start_id", &raw.start_id, 0, 0..=u32::MAX / 2)?,
            interval,
            command: self.command(&raw.command)?,
            min,
            max,
            weight: self.number("server.weight", &raw.weight, 1, 1..=100)?,
            service: match raw.service {
                None => None,
                Some(Text(text)) => {
                    Some(text.parse().map_err(|e| self.error("server.service", format!("{e}")))?)
                }
            },
            queue_capacity: self.number("server.queue_capacity", &raw.queue_capacity, 4_096, 1..=1 << 20)?,
            workers: self.number("server.workers", &raw.workers, 1, 1..=1_024)?,
            grow_after: window("server.grow_after", &raw.grow_after, ms(500))?,
            shrink_after: window("server.shrink_after", &raw.shrink_after, ms(3_000))?,
            cool_down: window("server.cool_down", &raw.cool_down, ms(1_000))?,
        })
    }

    fn command(&self, raw: &Option<Words>) -> Read<Option<Vec<String>>> {
        let words = match raw {
            None => return Ok(None),
            Some(Words::Line(line)) => line.split_whitespace().map(str::to_owned).collect(),
            Some(Words::List(words)) => words.clone(),
        };
        if words.first().is_none_or(String::is_empty) {
            return Err(
                self.error("server.command", "there is no program in it: remove the key, or name one")
            );
        }
        if !words.iter().any(|word| word.contains("{port}")) {
            return Err(self.error(
                "server.command",
                "{port} is missing: without it every server would take the same port",
            ));
        }
        Ok(Some(words))
    }

    fn clients(&self, raw: &Raw) -> Read<Clients> {
        let raw = raw.client.clone().unwrap_or_default();
        self.not_yet("client.servers", raw.servers.is_some())?;
        let ms = Duration::from_millis;
        let ports = self.ports("client", &raw.port_range_start, &raw.port_range_end, 51_000..52_000)?;
        let count = self.number("client.count", &raw.count, 10, 0..=1_000)?;
        if count as usize > ports.len() {
            return Err(self.error(
                "client.count",
                format!(
                    "{count} clients do not fit into {} ports: widen the range, or lower it",
                    ports.len()
                ),
            ));
        }
        let timeout = self.duration("client.timeout", &raw.timeout, ms(100), ms(1)..=ms(60_000))?;
        Ok(Clients {
            count,
            ports,
            start_id: self.number("client.start_id", &raw.start_id, 1_000, 0..=u32::MAX / 2)?,
            rate: self.number("client.rate", &raw.rate, 300.0, 0.001..=1e7)?,
            timeout,
            deadline: self.duration(
                "client.deadline",
                &raw.deadline,
                ms(2_000).max(timeout),
                timeout..=ms(3_600_000),
            )?,
            retries: self.number("client.retries", &raw.retries, 5, 0..=100)?,
        })
    }

    fn controller(&self, raw: &Raw) -> Read<SocketAddr> {
        let raw = raw.controller.clone().unwrap_or_default();
        let ip = self.ip("controller.bind", &raw.bind)?;
        Ok(SocketAddr::new(ip, self.number("controller.port", &raw.port, 55_000, 1..=65_535)?))
    }

    fn logs(&self, raw: &Raw) -> Read<logging::Settings> {
        let raw = raw.logs.clone().unwrap_or_default();
        let level = "one of error, warn, info, debug, trace";
        let format = raw.format.as_ref().map_or("text", |Text(text)| text);
        if !["text", "json"].contains(&format) {
            return Err(self.error("logs.format", format!("\"{format}\" is not text or json")));
        }
        Ok(logging::Settings {
            dir: raw.dir.unwrap_or_else(|| "logs".to_owned()).into(),
            level: self.parsed("logs.level", &raw.level, LevelFilter::INFO, level)?,
            json: format == "json",
            size_max: self.bytes("logs.size_max", &raw.size_max, 10_000_000)?,
        })
    }

    fn bytes(&self, key: &str, value: &Option<Text>, default: u64) -> Read<u64> {
        let Some(Text(text)) = value else { return Ok(default) };
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim();
        let unit = match text[digits.len()..].trim() {
            "" | "B" => Some(1),
            "kB" | "KB" => Some(1_000),
            "MB" => Some(1_000_000),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            _ => None,
        };
        let bytes = digits.parse::<u64>().ok().zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
        bytes.filter(|n| (10_000..=10_000_000_000).contains(n)).ok_or_else(|| {
            self.error(
                key,
                format!("\"{text}\" is not a size from 10kB to 10000MB: write bytes, or a unit as in 10MB"),
            )
        })
    }

    /// Who can reach the server side can answer for servers; who can reach the controller can stop them.
    fn check_trust(&self, config: &Config) -> Read<()> {
        let sides =
            [("load_balancer.bind", config.native().server_side), ("controller.bind", config.controller)];
        for (key, addr) in sides {
            if !addr.ip().is_loopback() && config.key.is_none() {
                let problem = format!(
                    "{} is not a loopback address, so frames between components must be authenticated: set key_file, \
                     or keep this side on 127.0.0.1",
                    addr.ip()
                );
                return Err(self.error(key, problem));
            }
        }
        Ok(())
    }

    fn check_ports(&self, config: &Config) -> Read<()> {
        let one = |port: u16| u32::from(port)..u32::from(port) + 1;
        let many = |ports: &Range<u16>| u32::from(ports.start)..u32::from(ports.end);
        let taken = [
            ("server.port_range_start", many(&config.server.ports)),
            ("client.port_range_start", many(&config.client.ports)),
            ("load_balancer.server_side_port", one(config.native().server_side.port())),
            ("load_balancer.client_side_port", one(config.native().client_side.port())),
            ("controller.port", one(config.controller.port())),
        ];
        for (i, (key, ports)) in taken.iter().enumerate() {
            for (other, others) in &taken[..i] {
                if ports.start < others.end && others.start < ports.end {
                    let clash = ports.start.max(others.start);
                    return Err(self.error(
                        key,
                        format!("port {clash} is also taken by {other}: choose ports that do not overlap"),
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
