//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use lbd::base::service_time::ServiceTime;
use lbd::config::{Config, ConfigError, PoolArguments};

use crate::sim::SimArgs;

/// A UDP load balancer that sends each request to the server with the shortest queue.
///
/// Start with `lbd up`. It runs a balancer, servers and clients from config.json, shows them live, and
/// adds or removes servers as the load changes.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 success; 1 a request was lost or refused, a drain timed out, or doctor found problems; \
2 an error in the arguments, the configuration or the environment, such as an address in use.";

#[derive(Subcommand)]
pub enum Command {
    /// Run a complete system: controller, balancer, servers, clients and a live table
    Up(UpArgs),
    /// Run the balancer
    Balancer(BalancerArgs),
    /// Run the controller, which starts, stops and scales the servers
    Controller(ControllerArgs),
    /// Run one server
    Server(ServerArgs),
    /// Run one client
    Client(ClientArgs),
    /// Watch a running balancer in the terminal
    Top(TopArgs),
    /// Send requests through a balancer and print each round-trip time
    Ping(PingArgs),
    /// Show the status of a running balancer: pools, servers and recent events
    Status(StatusArgs),
    /// Drain a server: send it no new requests and let it finish those in flight
    Drain(DrainArgs),
    /// Enable a server that was drained or disabled
    Enable(OrderArgs),
    /// Disable a server: send it no requests until it is enabled, regardless of its health
    Disable(OrderArgs),
    /// Change a server's share of the requests relative to other servers
    Weight(WeightArgs),
    /// Reload a running balancer's configuration; an invalid file changes nothing
    Reload(ReachArgs),
    /// Check this machine's limits and settings, and print the commands that fix them
    Doctor(DoctorArgs),
    /// Compare policies in virtual time with the best possible result
    ///
    /// The simulation runs the real balancer and server code, and each policy gets the same requests.
    /// One of --load, --servers, --balancers, --staleness, --rtt and --loss may have several values,
    /// separated by commas.
    Sim(Box<SimArgs>),
    /// Check a configuration and print what it runs
    Check {
        /// Configuration file
        #[arg(default_value = "config.json")]
        file: PathBuf,
    },
    /// Print the JSON schema of the configuration
    Schema {
        /// Print docs/CONFIGURATION.md instead: every key with its default, unit and range
        #[arg(long)]
        markdown: bool,
    },
    /// Print the shell completions of lbd
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of lbd
    Man {
        /// Write the pages of all commands and of loadgen to this directory instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(clap::Args, Clone)]
pub struct CommonArgs {
    /// Configuration file [default: ./config.json, or the built-in defaults if that file does not exist]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print only errors
    #[arg(long)]
    pub quiet: bool,
}

impl CommonArgs {
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load_or_default(self.config.as_deref())
    }
}

#[derive(clap::Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Stop after this time [default: at Ctrl-C]
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// Servers at the start [default: server.count]
    #[arg(long, value_name = "N")]
    pub servers: Option<u32>,
    /// Number of clients [default: client.count]
    #[arg(long, value_name = "N")]
    pub clients: Option<u32>,
    /// Requests per second of all clients together [default: client.rate]
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// Service time of the servers [default: server.service, or exp:5ms]
    #[arg(long, value_name = "SHAPE:MEAN")]
    pub service: Option<ServiceTime>,
}

#[derive(clap::Args)]
pub struct ControllerArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Also run the balancer: keep its sockets and restart it at once if it crashes; a balancer that
    /// already runs is adopted
    #[arg(long)]
    pub with_balancer: bool,
}

#[derive(clap::Args)]
pub struct BalancerArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Print a JSON object with all counters to standard output at this interval
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    pub status_every: Option<Duration>,
    /// Take over from the balancer of this configuration (or the one that listens at PATH) without
    /// losing a request: it hands over its sockets, finishes the requests in flight, and ends
    #[arg(long, value_name = "PATH", num_args = 0..=1)]
    pub takeover: Option<Option<PathBuf>>,
    /// Receive the sockets through standard input from the supervisor that keeps them
    #[arg(long, hide = true, conflicts_with = "takeover")]
    pub sockets_by_stdin: bool,
    /// End when standard input ends, that is when the parent process has ended
    #[arg(long, hide = true)]
    pub until_stdin_ends: bool,
    #[command(flatten)]
    pub pool: Option<PoolArgs>,
}

impl BalancerArgs {
    pub fn load(&self) -> Result<Config, ConfigError> {
        match &self.pool {
            Some(pool) => Config::of_pool(pool.into()),
            None => self.common.load(),
        }
    }
}

/// One datagram pool, described by options instead of a file.
#[derive(clap::Args)]
#[command(next_help_heading = "One datagram pool, without a configuration file")]
#[group(conflicts_with = "config")]
pub struct PoolArgs {
    /// Client-side address, or *:PORT for every local address; may be given several times
    #[arg(long, value_name = "IP:PORT", required = false, requires_all = ["protocol", "server"])]
    pub listen: Vec<String>,
    /// Protocol: dns or datagram
    #[arg(long, value_name = "PROTOCOL", required = false, requires_all = ["listen", "server"])]
    pub protocol: String,
    /// Server address, or HOST:PORT; may be given several times
    #[arg(long, value_name = "IP:PORT", required = false, requires_all = ["listen", "protocol"])]
    pub server: Vec<String>,
    /// Which datagrams go to the same server: none, or client for all of one client [default: none]
    #[arg(long, value_name = "AFFINITY", requires = "listen")]
    pub affinity: Option<String>,
    /// Selection policy: shortest_queue, shortest_delay, two_choices, round_robin or random [default:
    /// shortest_queue]
    #[arg(long, value_name = "POLICY", requires = "listen")]
    pub policy: Option<String>,
    /// Maximum responses to one datagram [default: 1; unlimited with --affinity client]
    #[arg(long, value_name = "N", requires = "listen")]
    pub replies: Option<String>,
    /// Time a response may take [default: 2s]
    #[arg(long, value_name = "TIME", requires = "listen")]
    pub timeout: Option<String>,
}

impl From<&PoolArgs> for PoolArguments {
    fn from(pool: &PoolArgs) -> Self {
        PoolArguments {
            listen: pool.listen.clone(),
            protocol: pool.protocol.clone(),
            servers: pool.server.clone(),
            affinity: pool.affinity.clone(),
            policy: pool.policy.clone(),
            replies: pool.replies.clone(),
            timeout: pool.timeout.clone(),
        }
    }
}

#[derive(clap::Args)]
pub struct ServerArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Name of a native pool [default: the first of the configuration]
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Port to listen on [default: server.port_range_start plus the server's index]
    #[arg(long)]
    pub port: Option<u16>,
    /// Server id, unique in the pool [default: server.start_id]
    #[arg(long)]
    pub id: Option<u32>,
    /// Address to listen on [default: the local address that reaches the balancer]
    #[arg(long, value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// The balancer's server-side address [default: from the configuration]
    #[arg(long, value_name = "ADDR")]
    pub balancer: Option<SocketAddr>,
    /// Service time, such as exp:5ms, fixed:1ms, bimodal:5ms or lognormal:5ms [default: server.service,
    /// or echo at once]
    #[arg(long, value_name = "SHAPE:MEAN")]
    pub service: Option<ServiceTime>,
    /// Requests served concurrently with --service, 1 to 1024 [default: server.workers]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args)]
pub struct ClientArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Name of a native pool [default: the first of the configuration]
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Number of requests to send [default: until Ctrl-C]
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// Requests per second, with exponential gaps [default: as fast as replies arrive]
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// The balancer's client-side address [default: from the configuration]
    #[arg(long, value_name = "ADDR")]
    pub to: Option<SocketAddr>,
    /// Client id, used in the log file's name [default: client.start_id]
    #[arg(long)]
    pub id: Option<u32>,
    /// Port to send from [default: any]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub port: u16,
    /// Maximum requests in flight without --rate, 1 to 4096
    #[arg(long, value_name = "N", default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub window: u16,
    /// Text to send
    #[arg(long, default_value = "hello")]
    pub payload: String,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
    /// End when standard input ends, that is when the parent process has ended
    #[arg(long, hide = true)]
    pub until_stdin_ends: bool,
}

#[derive(clap::Args)]
pub struct TopArgs {
    #[command(flatten)]
    pub reach: ReachArgs,
    /// Interval between samples
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME", default_value = "1s")]
    pub interval: Duration,
}

#[derive(clap::Args)]
pub struct PingArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Target, as IP:PORT or NAME:PORT [default: the first pool of the configuration]
    pub addr: Option<String>,
    /// Number of requests to send, at least 1 [default: until Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Minimum time between two requests
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME", default_value = "1s")]
    pub interval: Duration,
    /// Time to wait for a response, 1ms to 1m
    #[arg(long, value_parser = patience, value_name = "TIME", default_value = "1s")]
    pub timeout: Duration,
    /// Protocol [default: the protocol of that address in the configuration, or native]
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<PingProtocol>,
    /// With native and raw: text to send, or bytes as in hex:0a0b [default: ping]
    #[arg(long, value_name = "TEXT")]
    pub payload: Option<String>,
    /// With dns: name and type to query [default: ". NS"]
    #[arg(long, value_name = "QUERY")]
    pub query: Option<String>,
    /// Print each round trip and the summary as a line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Protocol of `lbd ping`.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingProtocol {
    /// lbd's own frames
    Native,
    /// DNS queries
    Dns,
    /// Unmodified datagrams; any datagram from the target is a response
    Raw,
}

impl PingProtocol {
    pub const fn name(self) -> &'static str {
        match self {
            PingProtocol::Native => "native",
            PingProtocol::Dns => "dns",
            PingProtocol::Raw => "raw",
        }
    }
}

/// A wait from 1 ms to 60 s.
fn patience(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    match time.as_secs_f64() {
        0.001..=60.0 => Ok(time),
        _ => Err("must be a time from 1ms to 1m".to_owned()),
    }
}

/// How to reach a running balancer.
#[derive(clap::Args, Clone)]
pub struct ReachArgs {
    /// The balancer's configuration, which contains its admin address [default: as for the other
    /// commands]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of the balancer's admin interface [default: admin.listen]
    #[arg(long, value_name = "IP:PORT")]
    pub admin: Option<SocketAddr>,
    /// File with the token that changes need [default: admin.token_file, or the balancer's token in
    /// state_dir]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub reach: ReachArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Show the status again every second until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// One server of a running balancer.
#[derive(clap::Args)]
pub struct OrderArgs {
    /// The server's id
    pub id: u32,
    /// Pool of the server, if several pools have this id; the native pool is called native
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    #[command(flatten)]
    pub reach: ReachArgs,
}

#[derive(clap::Args)]
pub struct DrainArgs {
    #[command(flatten)]
    pub server: OrderArgs,
    /// Wait until the server's queue is empty, at most this long (1m if TIME is omitted)
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME", num_args = 0..=1,
        default_missing_value = "1m")]
    pub wait: Option<Duration>,
}

#[derive(clap::Args)]
pub struct WeightArgs {
    #[command(flatten)]
    pub server: OrderArgs,
    /// The server's share, 1 to 100
    pub weight: u16,
}

#[derive(clap::Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Print all findings as one JSON object
    #[arg(long)]
    pub json: bool,
}
