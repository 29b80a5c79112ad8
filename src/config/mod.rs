//! Configuration: `config.json` as written (`raw.rs`) becomes one validated, immutable [`Config`].
//!
//! Everything is checked before anything runs; a mistake is one line with file, line, key and remedy.
//! Everything that runs is a pool: the four original sections are the short form of one native pool.

mod address;
mod admin;
mod arguments;
mod datagram_reader;
mod describe;
mod document;
mod error;
mod form;
mod key;
mod locate;
mod markdown;
mod native_reader;
mod overlap;
mod pool_reader;
mod pools;
pub mod probe;
mod raw;
mod reader;
mod rules;
mod run;
mod target;

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

pub use address::server as server_address;
pub use admin::{Admin, Token};
pub use arguments::PoolArguments;
pub use describe::describe;
use document::Document;
pub use error::ConfigError;
pub use key::Key;
pub use locate::error_in_file;
pub use markdown::markdown;
use native_reader::{FRAME_SIZE, NativeBase};
pub use pools::{
    Affinity, Check, DatagramPool, HealthCheck, NativePool, NativeRun, Pool, PoolRun, PoolServer, Protocol,
    ProxyProtocol, Serving,
};
pub use raw::schema;
use raw::{Raw, RawClient, RawLogs};
use reader::{Read, Reader, range_keys};
pub use run::Run;
pub use target::Target;

use crate::base::duration::exact;
use crate::os::logging::LogTarget;
use crate::os::{logging, regular_file, state_dir};
use crate::role::client::Source;
use crate::wire::FrameFormat;

/// Most bytes of a configuration file: far more than one needs, far less than a wrong path may lead to.
const FILE_SIZE_MAX: u64 = 1 << 20;

/// The clients that `lbd up` runs, and the defaults of `lbd client`.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Number of clients.
    pub count: u32,
    /// Ports of the clients.
    pub ports: Range<u16>,
    /// Id of the first client.
    pub start_id: u32,
    /// Requests per second of all clients together.
    pub rate: f64,
    /// Minimum time to wait for a reply before a retry.
    pub timeout: Duration,
    /// Time after which a client gives a request up.
    pub deadline: Duration,
    /// Maximum number of retries of one request.
    pub retries: u8,
    /// Sources of replies besides the balancer; empty = every source.
    pub servers: Vec<Source>,
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pools: the one of the native sections first, then those of `pools` in their order. At least one.
    pub pools: Vec<Pool>,
    /// The clients of the first native pool.
    pub client: Clients,
    /// Directory, level and format of the logs.
    pub logs: logging::LogSettings,
    /// The admin interface of the balancer.
    pub admin: Admin,
    /// Directory for what running processes leave to their successors.
    pub state_dir: PathBuf,
    /// Authenticates the frames between components; `None` = frames carry no tag.
    pub key: Option<Key>,
    /// The file of the configuration; `None` = defaults or arguments.
    pub source: Option<PathBuf>,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let fail = |problem| ConfigError { file: Some(path.to_owned()), problem, ..ConfigError::default() };
        let unreadable = |e| fail(format!("cannot read the file ({e}); give its path with --config"));
        let file = regular_file::open(path).map_err(unreadable)?;
        let mut text = String::new();
        file.take(FILE_SIZE_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > FILE_SIZE_MAX {
            return Err(fail(format!("the file is larger than {FILE_SIZE_MAX} bytes; is it the right one?")));
        }
        Config::parse(&text, Some(path))
    }

    /// Reads the named file, else ./config.json; without either, the defaults.
    pub fn load_or_default(named: Option<&Path>) -> Result<Config, ConfigError> {
        let local = Path::new("config.json");
        match named {
            Some(path) => Config::load(path),
            None if local.exists() => Config::load(local),
            None => Ok(Config::default()),
        }
    }

    /// Reads and checks a text; errors name `file`.
    pub fn parse(text: &str, file: Option<&Path>) -> Result<Config, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let bad = |error| ConfigError { file: file.map(Path::to_owned), ..error };
        let document = Document::parse(text).map_err(bad)?;
        let value = document.value(schema()).map_err(bad)?;
        let unfit = |e: serde_json::Error| bad(ConfigError::at(1, String::new(), e.to_string()));
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

    /// The address at which a process on this machine reaches the admin interface; `None` = it is off.
    pub fn admin_for_controller(&self) -> Option<SocketAddr> {
        self.admin.listen.map(reachable)
    }

    /// The first native pool; an error that names `component`, which takes part in one, if there is none.
    pub fn require_native(&self, component: &str) -> Result<&NativePool, ConfigError> {
        self.native().ok_or_else(|| ConfigError {
            file: self.source.clone(),
            problem: format!(
                "the configuration has datagram pools only; add a native section such as \"load_balancer\": \
                 {{}} to run {component}"
            ),
            ..ConfigError::default()
        })
    }
}

impl Default for Config {
    /// What an empty file means: the values of the repository's `config.json`.
    fn default() -> Self {
        Config::parse("{}", None).expect("the defaults are valid")
    }
}

/// Default directory of state: the service manager's, else one in the user's runtime directory, else one of
/// this user in the directory for temporary files. If another user has made the last one, a directory in the
/// user's home takes its place: all commands of the user find the same.
fn default_state_dir() -> PathBuf {
    let dir = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let runtime = dir("RUNTIME_DIRECTORY").or_else(|| dir("XDG_RUNTIME_DIR").map(|dir| dir.join("lbd")));
    let home = dir("XDG_STATE_HOME").or_else(|| dir("HOME").map(|home| home.join(".local/state")));
    runtime.unwrap_or_else(|| {
        let shared = std::env::temp_dir().join(format!("lbd-{}", rustix::process::getuid().as_raw()));
        home.filter(|_| state_dir::is_of_another_user(&shared)).map_or(shared, |home| home.join("lbd"))
    })
}

/// The address at which a process on this machine reaches a socket: the loopback for a wildcard address.
pub fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

impl Reader<'_> {
    /// Reads and checks everything.
    fn config(&self, raw: Raw) -> Read<Config> {
        let key = raw.key_file.as_ref().map(|path| Key::read(Path::new(path))).transpose();
        let key = key.map_err(|problem| self.error("key_file", problem))?;
        let client = self.clients(&raw.client)?;
        let written = self.written_pools(&raw)?;
        let config = Config {
            pools: self.pools(&written, NativeBase { key, deadline: client.deadline })?,
            client,
            logs: self.logs(raw.logs)?,
            admin: self.admin(&raw.admin)?,
            state_dir: raw.state_dir.map_or_else(default_state_dir, PathBuf::from),
            key,
            source: self.file.map(Path::to_owned),
        };
        self.check_pools(&written, &config)?;
        Ok(config)
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
            let (timeout, deadline) = (exact(timeout), exact(deadline));
            let problem = format!(
                "client.timeout = {timeout} is longer than client.deadline = {deadline}; lower it, or raise \
                 that"
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
        let source =
            |text: &String| text.trim().parse().map_err(|problem: &str| self.refuse(key, text, problem));
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
            return Err(self.error("logs.dir", "names no directory; use \".\" for the working directory"));
        }
        let targets = ["files", "stderr", "journald", "off"];
        let target = match self.one_of("logs.target", &raw.target, &targets)? {
            "stderr" => LogTarget::Stderr,
            "journald" => LogTarget::Journald,
            "off" => LogTarget::Off,
            _ => LogTarget::Files,
        };
        Ok(logging::LogSettings {
            target,
            level,
            json: self.one_of("logs.format", &raw.format, &["text", "json"])? == "json",
            size_max: self.bytes("logs.size_max", &raw.size_max, 10_000_000)?,
            dir: raw.dir.unwrap_or_else(|| "logs".to_owned()).into(),
        })
    }
}

#[cfg(test)]
mod tests;
