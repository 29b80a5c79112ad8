//! Configuration: `config.json` as written (`raw.rs`) becomes one validated, immutable [`Config`].
//!
//! Everything is checked before anything runs; a mistake is one line with file, line, key and remedy. Inside,
//! everything is a pool: the four original sections are another way of writing the native one.

mod address;
mod admin;
mod arguments;
mod describe;
mod document;
mod error;
mod key;
mod pool_reader;
mod pools;
pub mod probe;
mod raw;
mod rules;
mod run;
mod target;

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

pub use admin::{Admin, Token};
pub use arguments::PoolArguments;
pub use describe::describe;
use document::{Document, Mistake, shortened};
pub use error::ConfigError;
pub use key::Key;
pub use pools::{
    Affinity, Check, DatagramPool, HealthCheck, NativePool, NativeRun, Pool, PoolRun, PoolServer, Protocol,
    ProxyProtocol, Serving,
};
pub use raw::schema;
use raw::{Bind, Raw, RawClient, RawLogs, RawServer, Text};
pub use run::Run;
pub use target::Target;

use crate::io::{IoChoice, PAYLOAD_MAX};
use crate::os::logging;
use crate::pool::health::Rules;
use crate::pool::members::WORKERS_MAX;
use crate::pool::select::PolicyKind;
use crate::pool::waiting::{self, Limit};
use crate::role::client::Source;
use crate::wire::header::{DATAGRAM_MAX, FRAME_SIZE_MAX, FRAME_SIZE_MIN, FRAME_SIZE_MIN_TAGGED};
use crate::wire::{FrameFormat, ReplyPath};

/// Bytes that a configuration file may have: far more than one needs, far less than a wrong path may lead to.
const FILE_SIZE_MAX: u64 = 1 << 20;
/// The greatest limit of requests at one server.
const OUTSTANDING_MAX: u32 = 1_000_000;
/// Default capacity of the pending queue, in requests.
const WAITING_MAX: usize = 4_096;
/// Default size of a frame, in bytes.
const FRAME_SIZE: usize = 256;
/// The name of the pool of the native sections.
const NATIVE: &str = "native";

/// The sections with which a configuration that has pools runs the native one too.
const NATIVE_SECTIONS: [&str; 4] = ["server", "client", "load_balancer", "controller"];

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
    /// Where answers may come from besides the balancer; empty = anywhere.
    pub servers: Vec<Source>,
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pools: the one of the native sections first, then those of `pools` in their order. At least one.
    pub pools: Vec<Pool>,
    /// The clients of the first native pool.
    pub client: Clients,
    /// Where logs go.
    pub logs: logging::LogSettings,
    /// The admin interface of the balancer.
    pub admin: Admin,
    /// Where running processes leave what their successors need.
    pub state_dir: PathBuf,
    /// Authenticates the frames between components.
    pub key: Option<Key>,
    /// The file that it was read from.
    pub source: Option<PathBuf>,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let fail = |problem: String| ConfigError {
            file: Some(path.to_owned()),
            line: None,
            key: String::new(),
            problem,
        };
        let unreadable = |e| fail(format!("cannot read the file ({e}); give its path with --config"));
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut text = String::new();
        file.take(FILE_SIZE_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > FILE_SIZE_MAX {
            return Err(fail(format!("the file is larger than {FILE_SIZE_MAX} bytes; is it the right one?")));
        }
        Config::parse(&text, Some(path))
    }

    /// Reads the file that was named, or ./config.json, or gives the defaults if there is none.
    pub fn load_or_default(named: Option<&Path>) -> Result<Config, ConfigError> {
        let local = Path::new("config.json");
        match named {
            Some(path) => Config::load(path),
            None if local.exists() => Config::load(local),
            None => Ok(Config::default()),
        }
    }

    /// Checks a configuration that is written in `text`; `file` is named in errors.
    pub fn parse(text: &str, file: Option<&Path>) -> Result<Config, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let bad = |Mistake { key, line, problem }| ConfigError {
            file: file.map(Path::to_owned),
            line: Some(line),
            key,
            problem,
        };
        let document = Document::parse(text).map_err(bad)?;
        let value = document.value(&schema()).map_err(bad)?;
        let unfit =
            |e: serde_json::Error| bad(Mistake { key: String::new(), line: 1, problem: e.to_string() });
        let raw = serde_json::from_value(value).map_err(unfit)?;
        Reader { file, document: Some(document) }.config(raw)
    }

    /// The native pools, in their order.
    pub fn native_pools(&self) -> impl Iterator<Item = &NativePool> {
        self.pools.iter().filter_map(Pool::as_native)
    }

    /// The datagram pools, in their order.
    pub fn datagram_pools(&self) -> impl Iterator<Item = &DatagramPool> {
        self.pools.iter().filter_map(Pool::as_datagram)
    }

    /// The datagram pools with replicas that the controller runs.
    pub fn run_pools(&self) -> impl Iterator<Item = (&DatagramPool, &PoolRun)> {
        self.datagram_pools().filter_map(|pool| Some((pool, pool.run.as_ref()?)))
    }

    /// The first native pool, if there is one.
    pub fn native(&self) -> Option<&NativePool> {
        self.native_pools().next()
    }

    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name() == name)
    }

    /// The format of frames: the first native pool's, else the default one.
    pub fn frame_format(&self) -> FrameFormat {
        let default = if self.key.is_some() { FrameFormat::tagged } else { FrameFormat::plain };
        self.native().map_or(default(FRAME_SIZE), |pool| pool.format)
    }

    /// Where the admin interface is reached from this machine.
    pub fn admin_for_controller(&self) -> Option<SocketAddr> {
        self.admin.listen.map(reachable)
    }

    /// The first native pool; an error that names `component`, which takes part in one, if there is none.
    pub fn require_native(&self, component: &str) -> Result<&NativePool, ConfigError> {
        self.native().ok_or_else(|| ConfigError {
            file: self.source.clone(),
            line: None,
            key: String::new(),
            problem: format!(
                "the configuration has datagram pools only; add a native section such as \"load_balancer\": {{}} \
                 to run {component}"
            ),
        })
    }
}

impl Default for Config {
    /// What an empty file means: the values of the repository's `config.json`.
    fn default() -> Self {
        Config::parse("{}", None).expect("the defaults are valid")
    }
}

/// Where state goes unless it is said: what a service manager gives, else the user's runtime folder, else one of this user
/// among the temporary files.
fn default_state_dir() -> PathBuf {
    let folder = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    folder("RUNTIME_DIRECTORY")
        .or_else(|| folder("XDG_RUNTIME_DIR").map(|dir| dir.join("lbd")))
        .unwrap_or_else(|| std::env::temp_dir().join(format!("lbd-{}", rustix::process::getuid().as_raw())))
}

/// A wildcard address is reached by way of the loopback.
pub fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// Where a text came from and where its keys are: makes values, and errors that say where.
struct Reader<'a> {
    file: Option<&'a Path>,
    /// The text; `None` = the one pool comes from arguments.
    document: Option<Document<'a>>,
}

type Read<T> = Result<T, ConfigError>;

impl Reader<'_> {
    /// An error at a key, or where it would stand.
    fn error(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file.map(Path::to_owned),
            line: self.document.as_ref().and_then(|document| document.line_around(key)),
            key: self.named(key),
            problem: problem.into(),
        }
    }

    /// The line of a key; `None` if it is not written.
    fn line(&self, key: &str) -> Option<usize> {
        self.document.as_ref()?.line(key)
    }

    /// A key as its writer knows it.
    fn named(&self, key: &str) -> String {
        if self.document.is_none() { arguments::name_of(key) } else { key.to_owned() }
    }

    /// An error that concerns several keys: it stands at the last of them that is written in the file.
    fn error_among(&self, keys: &[&str], problem: impl Into<String>) -> ConfigError {
        let last = keys.iter().max_by_key(|key| self.line(key));
        self.error(last.unwrap_or(&""), problem)
    }

    fn number<T>(&self, key: &str, value: &Option<Text>, default: T, range: RangeInclusive<T>) -> Read<T>
    where
        T: FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        let Some(Text(text)) = value else { return Ok(default) };
        text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
            let whole = if "0.5".parse::<T>().is_ok() { "" } else { "whole " };
            let (text, from, to) = (shortened(text), range.start(), range.end());
            self.error(key, format!("\"{text}\" is not a {whole}number from {from} to {to}"))
        })
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
        let duration = match text.parse::<f64>() {
            Ok(ms) => Duration::try_from_secs_f64(ms / 1e3).ok(),
            Err(_) => humantime::parse_duration(text).ok(),
        };
        duration.filter(|duration| range.contains(duration)).ok_or_else(|| {
            let (from, to) =
                (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
            let text = shortened(text);
            self.error(
                key,
                format!(
                    "\"{text}\" is not a duration from {from} to {to}; write milliseconds, or a unit as in 10ms"
                ),
            )
        })
    }

    /// A size in bytes, or with a unit.
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
            let text = shortened(text);
            self.error(
                key,
                format!("\"{text}\" is not a size from 10kB to 10000MB; write bytes, or a unit as in 10MB"),
            )
        })
    }

    /// One of a few names.
    fn one_of<'t>(&self, key: &str, value: &'t Option<String>, names: &[&'t str]) -> Read<&'t str> {
        let value = value.as_deref().unwrap_or(names[0]);
        if names.contains(&value) {
            return Ok(value);
        }
        Err(self.error(key, format!("\"{}\" is unknown; use {}", shortened(value), names.join(" or "))))
    }

    fn ip(&self, key: &str, value: &Option<String>) -> Read<IpAddr> {
        let Some(text) = value else { return Ok(Ipv4Addr::LOCALHOST.into()) };
        text.trim().parse().map_err(|_| {
            let text = shortened(text);
            self.error(key, format!("\"{text}\" is not an IP address; write one such as 127.0.0.1 or ::1"))
        })
    }

    fn port(&self, key: &str, value: &Option<Text>, default: u16) -> Read<u16> {
        self.number(key, value, default, 1..=65_535)
    }

    fn ports(
        &self,
        section: &str,
        start: &Option<Text>,
        end: &Option<Text>,
        default: Range<u16>,
    ) -> Read<Range<u16>> {
        let [start_key, end_key] = range_keys(section);
        let first = self.port(&start_key, start, default.start)?;
        let end = self.port(&end_key, end, default.end)?;
        if end <= first {
            let problem = format!(
                "the range from {first} up to, but without, {end} is empty; the end is the port after the last one"
            );
            return Err(self.error_among(&[&start_key, &end_key], problem));
        }
        Ok(first..end)
    }

    fn config(&self, raw: Raw) -> Read<Config> {
        let key = match &raw.key_file {
            None => None,
            Some(path) => {
                Some(Key::read(Path::new(path)).map_err(|problem| self.error("key_file", problem))?)
            }
        };
        let client = self.clients(&raw.client)?;
        let has_native = NATIVE_SECTIONS.iter().any(|section| self.line(section).is_some());
        let mut pools = vec![];
        if has_native || raw.pools.is_none() {
            pools.push(Pool::Native(self.native_pool(&raw, key, client.deadline)?));
        }
        if let Some(written) = &raw.pools {
            pools.extend(self.datagram_pools(written)?.into_iter().map(Pool::Datagram));
        }
        let raw_pools = raw.pools.as_deref().unwrap_or_default();
        let config = Config {
            pools,
            client,
            logs: self.logs(raw.logs)?,
            admin: self.admin(&raw.admin)?,
            state_dir: raw.state_dir.map_or_else(default_state_dir, PathBuf::from),
            key,
            source: self.file.map(Path::to_owned),
        };
        for pool in config.native_pools() {
            self.check_trust(pool)?;
            self.check_ports(pool, &config.client)?;
            self.check_ids(pool, &config.client)?;
        }
        self.check_listen(raw_pools, &config)?;
        self.check_loops(raw_pools, &config)?;
        self.check_runs(&config)?;
        Ok(config)
    }

    fn workers(&self, key: &str, value: &Option<Text>) -> Read<usize> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        self.number(key, value, processors, 1..=WORKERS_MAX)
    }

    fn policy(&self, key: &str, value: &Option<String>) -> Read<PolicyKind> {
        let Some(name) = value else { return Ok(PolicyKind::default()) };
        shortened(name.trim()).parse().map_err(|e| self.error(key, format!("{e}")))
    }

    /// At most so many requests at one server.
    fn limit(&self, key: &str, value: &Option<Text>) -> Read<Option<Limit>> {
        match value {
            None => Ok(None),
            Some(Text(text)) if text == "auto" => Ok(Some(Limit::Auto)),
            Some(Text(text)) => match text.parse() {
                Ok(n @ 1..=OUTSTANDING_MAX) => Ok(Some(Limit::Fixed(n))),
                _ => {
                    let text = shortened(text);
                    let range = format!("a whole number from 1 to {OUTSTANDING_MAX}");
                    Err(self.error(key, format!("\"{text}\" is neither {range} nor \"auto\"")))
                }
            },
        }
    }

    fn waiting_max(&self, key: &str, value: &Option<Text>) -> Read<usize> {
        self.number(key, value, WAITING_MAX, 0..=waiting::PENDING_MAX)
    }

    fn io(&self, key: &str, value: &Option<String>) -> Read<IoChoice> {
        let Some(name) = value else { return Ok(IoChoice::default()) };
        name.parse()
            .map_err(|remedy| self.error(key, format!("\"{}\" is unknown; {remedy}", shortened(name))))
    }

    /// The native pool of the four sections.
    fn native_pool(&self, raw: &Raw, key: Option<Key>, deadline: Duration) -> Read<NativePool> {
        let (keyed, server, controller, raw) =
            (key.is_some(), &raw.server, &raw.controller, &raw.load_balancer);
        let workers = self.workers("load_balancer.workers", &raw.workers)?;
        let reply_path =
            match self.one_of("load_balancer.reply_path", &raw.reply_path, &["balancer", "direct"])? {
                "direct" => ReplyPath::Direct,
                _ => ReplyPath::Balancer,
            };
        let (client_ip, server_ip) = match &raw.bind {
            None => (self.ip("", &None)?, self.ip("", &None)?),
            Some(Bind::Both(ip)) => {
                let ip = self.ip("load_balancer.bind", &Some(ip.clone()))?;
                (ip, ip)
            }
            Some(Bind::Each { client_side, server_side }) => (
                self.ip("load_balancer.bind.client_side", client_side)?,
                self.ip("load_balancer.bind.server_side", server_side)?,
            ),
        };
        let client_port = self.port("load_balancer.client_side_port", &raw.client_side_port, 54_001)?;
        let server_port = self.port("load_balancer.server_side_port", &raw.server_side_port, 54_000)?;
        let frame_key = "load_balancer.frame_size";
        let size = self.number(frame_key, &raw.frame_size, FRAME_SIZE, FRAME_SIZE_MIN..=FRAME_SIZE_MAX)?;
        if keyed && size < FRAME_SIZE_MIN_TAGGED {
            let problem =
                format!("{size} leaves no room for the tag of key_file; use {FRAME_SIZE_MIN_TAGGED} or more");
            return Err(self.error(frame_key, problem));
        }
        let packed_key = "load_balancer.frames_per_datagram";
        let packed_max = PAYLOAD_MAX / size;
        let packed =
            self.number(packed_key, &raw.frames_per_datagram, DATAGRAM_MAX / size, 1..=packed_max)?;
        let servers_max = self.number("load_balancer.servers_max", &raw.servers_max, 64, 1..=4_096)?;
        let ms = Duration::from_millis;
        let interval_key = "server.queue_update_interval";
        Ok(NativePool {
            name: NATIVE.to_owned(),
            client_side: SocketAddr::new(client_ip, client_port),
            server_side: SocketAddr::new(server_ip, server_port),
            format: if keyed { FrameFormat::tagged(size) } else { FrameFormat::plain(size) },
            key,
            frames_per_datagram: packed,
            workers,
            pin: raw.pin.unwrap_or(false),
            io: self.io("load_balancer.io", &raw.io)?,
            reply_path,
            policy: self.policy("load_balancer.policy", &raw.policy)?,
            max_outstanding: self.limit("load_balancer.max_outstanding", &raw.max_outstanding)?,
            waiting_max: self.waiting_max("load_balancer.waiting_max", &raw.waiting_max)?,
            servers_max,
            health: self.rules("load_balancer.health", &raw.health, Rules::default())?,
            interval: self.duration(
                interval_key,
                &server.queue_update_interval,
                ms(10),
                ms(1)..=ms(10_000),
            )?,
            serving: self.serving(server)?,
            run: Some(NativeRun {
                controller: SocketAddr::new(
                    self.ip("controller.bind", &controller.bind)?,
                    self.port("controller.port", &controller.port, 55_000)?,
                ),
                run: self.native_run(server, &raw.server_scaling_threshold, servers_max)?,
            }),
            deadline,
        })
    }

    fn serving(&self, raw: &RawServer) -> Read<Serving> {
        Ok(Serving {
            weight: self.number("server.weight", &raw.weight, 1, 1..=100)?,
            service: match &raw.service {
                None => None,
                Some(text) => {
                    let text = shortened(text.trim());
                    Some(text.parse().map_err(|e| self.error("server.service", format!("{e}")))?)
                }
            },
            queue_capacity: self.number("server.queue_capacity", &raw.queue_capacity, 4_096, 1..=1 << 20)?,
            workers: self.number("server.workers", &raw.workers, 1, 1..=1_024)?,
        })
    }

    fn native_run(&self, raw: &RawServer, threshold: &Option<Text>, servers_max: usize) -> Read<Run> {
        let ms = Duration::from_millis;
        let room = (servers_max as u32, "load_balancer.servers_max");
        let defaults =
            run::Defaults { ports: 50_000..51_000, start_id: 0, room, grow_after: [ms(500), ms(10)] };
        self.run(&run::Written::server(raw, threshold), defaults)
    }

    fn clients(&self, raw: &RawClient) -> Read<Clients> {
        let ms = Duration::from_millis;
        let ports = self.ports("client", &raw.port_range_start, &raw.port_range_end, 51_000..52_000)?;
        let room = ports.len().min(1_000) as u32;
        let count = self.number("client.count", &raw.count, room.min(10), 0..=1_000)?;
        if count as usize > ports.len() {
            let n = ports.len();
            let problem =
                format!("{count} clients do not fit into {n} ports; widen the range, or lower the number");
            let [start, end] = range_keys("client");
            return Err(self.error_among(&["client.count", &start, &end], problem));
        }
        let deadline_max = ms(3_600_000);
        let timeout = self.duration("client.timeout", &raw.timeout, ms(100), ms(1)..=ms(60_000))?;
        let deadline =
            self.duration("client.deadline", &raw.deadline, ms(2_000).max(timeout), ms(1)..=deadline_max)?;
        if raw.timeout.is_some() && timeout > deadline {
            let (timeout, deadline) =
                (humantime::format_duration(timeout), humantime::format_duration(deadline));
            let problem = format!(
                "client.timeout = {timeout} is longer than client.deadline = {deadline}; lower it, or raise that"
            );
            return Err(self.error_among(&["client.timeout", "client.deadline"], problem));
        }
        Ok(Clients {
            count,
            ports,
            start_id: self.number("client.start_id", &raw.start_id, 1_000, 0..=u32::MAX / 2)?,
            rate: self.number("client.rate", &raw.rate, 300.0, 0.001..=1e7)?,
            timeout: timeout.min(deadline),
            deadline,
            retries: self.number("client.retries", &raw.retries, 5, 0..=100)?,
            servers: self.sources("client.servers", raw.servers.as_deref().unwrap_or_default())?,
        })
    }

    fn sources(&self, key: &str, written: &[String]) -> Read<Vec<Source>> {
        let source = |text: &String| {
            text.trim()
                .parse()
                .map_err(|problem| self.error(key, format!("\"{}\" {problem}", shortened(text))))
        };
        written.iter().map(source).collect()
    }

    fn logs(&self, raw: RawLogs) -> Read<logging::LogSettings> {
        let level =
            match self.one_of("logs.level", &raw.level, &["info", "error", "warn", "debug", "trace"])? {
                "error" => LevelFilter::ERROR,
                "warn" => LevelFilter::WARN,
                "debug" => LevelFilter::DEBUG,
                "trace" => LevelFilter::TRACE,
                _ => LevelFilter::INFO,
            };
        if raw.dir.as_deref() == Some("") {
            return Err(self.error("logs.dir", "names no folder; use \".\" for the working directory"));
        }
        Ok(logging::LogSettings {
            level,
            json: self.one_of("logs.format", &raw.format, &["text", "json"])? == "json",
            size_max: self.bytes("logs.size_max", &raw.size_max, 10_000_000)?,
            dir: raw.dir.unwrap_or_else(|| "logs".to_owned()).into(),
        })
    }

    /// Who can reach the server side can answer for servers; who can reach the controller can stop them.
    fn check_trust(&self, pool: &NativePool) -> Read<()> {
        let server_side: (&[&str], SocketAddr) =
            (&["load_balancer.bind", "load_balancer.bind.server_side"], pool.server_side);
        let controller = pool.run.iter().map(|run| (&["controller.bind"][..], run.controller));
        let sides = std::iter::once(server_side).chain(controller);
        for (keys, addr) in sides {
            if !addr.ip().is_loopback() && pool.key.is_none() {
                let problem = format!(
                    "{} is not a loopback address, so frames between components must be authenticated; set key_file, \
                     or keep this side on 127.0.0.1",
                    addr.ip()
                );
                return Err(self.error_among(keys, problem));
            }
        }
        Ok(())
    }

    fn check_ports(&self, pool: &NativePool, client: &Clients) -> Read<()> {
        let one = |port: u16| u32::from(port)..u32::from(port) + 1;
        let many = |ports: &Range<u16>| u32::from(ports.start)..u32::from(ports.end);
        let single = |key: &str| vec![key.to_owned()];
        let mut taken = vec![];
        if let Some(run) = &pool.run {
            taken.push((range_keys("server").to_vec(), many(&run.run.ports)));
        }
        taken.push((range_keys("client").to_vec(), many(&client.ports)));
        taken.push((single("load_balancer.server_side_port"), one(pool.server_side.port())));
        taken.push((single("load_balancer.client_side_port"), one(pool.client_side.port())));
        if let Some(run) = &pool.run {
            taken.push((single("controller.port"), one(run.controller.port())));
        }
        for (i, (keys, ports)) in taken.iter().enumerate() {
            for (other_keys, others) in &taken[..i] {
                if ports.start < others.end && others.start < ports.end {
                    let clash = ports.start.max(others.start);
                    let both: Vec<&str> = other_keys.iter().chain(keys).map(String::as_str).collect();
                    let (one, other) = (other_keys.join(" to "), keys.join(" to "));
                    let problem = format!(
                        "port {clash} is taken twice, by {one} and by {other}; choose ports that do not overlap"
                    );
                    return Err(self.error_among(&both, problem));
                }
            }
        }
        Ok(())
    }

    /// An id names one component in logs and figures.
    fn check_ids(&self, pool: &NativePool, client: &Clients) -> Read<()> {
        let Some(NativeRun { run, .. }) = &pool.run else { return Ok(()) };
        let (servers, clients) =
            (run.start_id..run.start_id + run.scale.max, client.start_id..client.start_id + client.count);
        if servers.start.max(clients.start) < servers.end.min(clients.end) {
            let problem = format!(
                "ids of servers ({} to {}) and clients ({} to {}) overlap; move one start_id",
                servers.start,
                servers.end - 1,
                clients.start,
                clients.end - 1
            );
            let keys = ["server.start_id", "client.start_id", "server.max", "server.count", "client.count"];
            return Err(self.error_among(&keys, problem));
        }
        Ok(())
    }
}

/// The keys of a port range.
fn range_keys(section: &str) -> [String; 2] {
    ["start", "end"].map(|which| format!("{section}.port_range_{which}"))
}

#[cfg(test)]
mod tests;
