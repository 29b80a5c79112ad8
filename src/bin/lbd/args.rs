//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use lbd::base::service_time::ServiceTime;
use lbd::config::{Config, ConfigError, PoolArguments};

use crate::sim::Sim;

/// A UDP load balancer that sends each request to the server with the shortest queue.
///
/// Start with `lbd up`: it runs a balancer, servers and clients from config.json, shows them live and adds
/// and removes servers with the load.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 not everything was answered; 2 a mistake in arguments, \
configuration or environment (an address in use, say).";

#[derive(Subcommand)]
pub enum Command {
    /// Run a whole system: controller, balancer, servers and clients, with a live table
    Up(Up),
    /// Run the load balancer
    Balancer(Balancer),
    /// Run the controller, which starts, stops and scales the servers
    Controller(Controller),
    /// Run one server
    Server(Server),
    /// Run one client
    Client(Client),
    /// Watch a running balancer in the terminal
    Top(Top),
    /// Send requests through a balancer and say how long each took
    Ping(Ping),
    /// Show what a running balancer does: its pools, servers and what has happened lately
    Status(Show),
    /// Take a server out of service: no new requests at once, what it has is finished
    Drain(Drain),
    /// Take a server into service again
    Enable(ServerArgs),
    /// Take a server out of service, whatever it says of itself
    Disable(ServerArgs),
    /// Change a server's share relative to others
    Weight(Weight),
    /// Let a running balancer read its configuration anew; an invalid one changes nothing
    Reload(Reach),
    /// Say what this machine grants, what is missing, and the command that mends it
    Doctor(Doctor),
    /// Compare policies in virtual time with the best that is possible
    ///
    /// The balancers and servers are the real ones, and each policy gets the same requests. One of --load, --servers, --balancers, --staleness, --rtt and --loss may have several values, with commas between
    Sim(Box<Sim>),
    /// Check a configuration and print what it will run
    Check {
        /// The file
        #[arg(default_value = "config.json")]
        file: PathBuf,
    },
    /// Print the JSON schema of the configuration
    Schema,
    /// Print the completions of lbd for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of lbd
    Man {
        /// Write the pages of all commands to this folder instead, and those of loadgen
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(clap::Args, Clone)]
pub struct Common {
    /// The configuration; without this option ./config.json, or the built-in defaults if there is none
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(long)]
    pub quiet: bool,
}

impl Common {
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load_or_default(self.config.as_deref())
    }
}

#[derive(clap::Args)]
pub struct Up {
    #[command(flatten)]
    pub common: Common,
    /// End after this time; default: at Ctrl-C
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// Servers to begin with, instead of server.count
    #[arg(long, value_name = "N")]
    pub servers: Option<u32>,
    /// Clients, instead of client.count
    #[arg(long, value_name = "N")]
    pub clients: Option<u32>,
    /// Requests per second of all clients together, instead of client.rate
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// Service time of the servers, instead of server.service; default exp:5ms
    #[arg(long, value_name = "SHAPE:MEAN")]
    pub service: Option<ServiceTime>,
}

#[derive(clap::Args)]
pub struct Controller {
    #[command(flatten)]
    pub common: Common,
    /// Run the balancer too, keep its sockets, and start it again at once when it crashes; one that runs already is looked
    /// after from now on
    #[arg(long)]
    pub with_balancer: bool,
}

#[derive(clap::Args)]
pub struct Balancer {
    #[command(flatten)]
    pub common: Common,
    /// Print one JSON object with all figures this often, to standard output
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    pub status_every: Option<Duration>,
    /// Take over from the balancer that runs with this configuration (or listens at PATH), without losing a request: it
    /// hands its sockets over, finishes what is under way, and ends
    #[arg(long, value_name = "PATH", num_args = 0..=1)]
    pub takeover: Option<Option<PathBuf>>,
    /// The sockets come by the standard input, from the supervisor that keeps them
    #[arg(long, hide = true, conflicts_with = "takeover")]
    pub sockets_by_stdin: bool,
    /// End when standard input does: whoever started it has ended
    #[arg(long, hide = true)]
    pub until_stdin_ends: bool,
    #[command(flatten)]
    pub pool: Option<Pool>,
}

impl Balancer {
    pub fn load(&self) -> Result<Config, ConfigError> {
        match &self.pool {
            Some(pool) => Config::of_pool(pool.into()),
            None => self.common.load(),
        }
    }
}

/// One datagram pool without a file.
#[derive(clap::Args)]
#[command(next_help_heading = "One datagram pool, without a file")]
#[group(conflicts_with = "config")]
pub struct Pool {
    /// Where clients ask, or *:PORT for every address; may be given several times
    #[arg(long, value_name = "IP:PORT", required = false, requires_all = ["protocol", "server"])]
    pub listen: Vec<String>,
    /// What it speaks: dns or datagram
    #[arg(long, value_name = "WHAT", required = false, requires_all = ["listen", "server"])]
    pub protocol: String,
    /// A server, also HOST:PORT; may be given several times
    #[arg(long, value_name = "IP:PORT", required = false, requires_all = ["listen", "protocol"])]
    pub server: Vec<String>,
    /// What stays together: none, or client for all datagrams of one client; default none
    #[arg(long, value_name = "WHAT", requires = "listen")]
    pub affinity: Option<String>,
    /// How a server is chosen: shortest_queue, shortest_delay, two_choices, round_robin or random; default shortest_queue
    #[arg(long, value_name = "POLICY", requires = "listen")]
    pub policy: Option<String>,
    /// Answers to one datagram at most; default 1, with --affinity client any number
    #[arg(long, value_name = "N", requires = "listen")]
    pub replies: Option<String>,
    /// How long an answer may take; default 2s
    #[arg(long, value_name = "TIME", requires = "listen")]
    pub timeout: Option<String>,
}

impl From<&Pool> for PoolArguments {
    fn from(pool: &Pool) -> Self {
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
pub struct Server {
    #[command(flatten)]
    pub common: Common,
    /// Port to listen on; default: server.port_range_start plus its place among the ids
    #[arg(long)]
    pub port: Option<u16>,
    /// Its id, unique in the pool; default server.start_id
    #[arg(long)]
    pub id: Option<u32>,
    /// Address to listen on; default: the one that reaches the balancer on this machine
    #[arg(long, value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// The balancer's server side; default: from the configuration
    #[arg(long, value_name = "ADDR")]
    pub balancer: Option<SocketAddr>,
    /// Service time, such as exp:5ms, fixed:1ms, bimodal:5ms, lognormal:5ms; default server.service, or echo at once
    #[arg(long, value_name = "SHAPE:MEAN")]
    pub service: Option<ServiceTime>,
    /// Requests served at a time, with --service; default server.workers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args)]
pub struct Client {
    #[command(flatten)]
    pub common: Common,
    /// Requests to send; default: until Ctrl-C
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// Requests per second, with exponential gaps; default: as fast as answers come
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// The balancer's client side; default: from the configuration
    #[arg(long, value_name = "ADDR")]
    pub to: Option<SocketAddr>,
    /// Its id, for the log's name; default client.start_id
    #[arg(long)]
    pub id: Option<u32>,
    /// Port to send from; default: any
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub port: u16,
    /// Requests in flight at most, without --rate
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub window: u16,
    /// Text to send
    #[arg(long, default_value = "hello")]
    pub payload: String,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
    /// End when standard input does: whoever started it has ended
    #[arg(long, hide = true)]
    pub until_stdin_ends: bool,
}

#[derive(clap::Args)]
pub struct Top {
    #[command(flatten)]
    pub reach: Reach,
    /// How often to look
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME", default_value = "1s")]
    pub interval: Duration,
}

#[derive(clap::Args)]
pub struct Ping {
    #[command(flatten)]
    pub common: Common,
    /// Who is asked, as IP:PORT or NAME:PORT; default: the first pool of the configuration
    pub addr: Option<String>,
    /// Requests to send; default: until Ctrl-C
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// From one request to the next, at least
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME", default_value = "1s")]
    pub interval: Duration,
    /// How long an answer may take
    #[arg(long, value_parser = patience, value_name = "TIME", default_value = "1s")]
    pub timeout: Duration,
    /// What is spoken; default: what the configuration says of that address, or native
    #[arg(long, value_name = "WHAT")]
    pub protocol: Option<Protocol>,
    /// Native and raw: a text to send, or bytes as in hex:0a0b; default "ping"
    #[arg(long, value_name = "TEXT")]
    pub payload: Option<String>,
    /// DNS: a name and a type; default ". NS"
    #[arg(long, value_name = "QUERY")]
    pub query: Option<String>,
    /// Print each round trip, and the summary, as a line of JSON
    #[arg(long)]
    pub json: bool,
}

/// What `lbd ping` speaks.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// lbd's own frames
    Native,
    /// DNS queries
    Dns,
    /// Datagrams as they are; any datagram is an answer
    Raw,
}

impl Protocol {
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Native => "native",
            Protocol::Dns => "dns",
            Protocol::Raw => "raw",
        }
    }
}

/// A time to wait: more than none, and not for ever.
fn patience(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    match time.as_secs_f64() {
        0.001..=60.0 => Ok(time),
        _ => Err("write a time from 1ms to 1m".to_owned()),
    }
}

/// How a running balancer is reached.
#[derive(clap::Args, Clone)]
pub struct Reach {
    /// The balancer's configuration, which says where it is; default as for the other commands
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The balancer's admin interface, instead of admin.listen
    #[arg(long, value_name = "IP:PORT")]
    pub admin: Option<SocketAddr>,
    /// File with the token that changes need; default: admin.token_file, or the one that the balancer leaves in state_dir
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct Show {
    #[command(flatten)]
    pub reach: Reach,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Show it again each second, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// One server of a running balancer.
#[derive(clap::Args)]
pub struct ServerArgs {
    /// The server's id
    pub id: u32,
    /// Its pool, if several have this id; native is the one with lbd's own frames
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    #[command(flatten)]
    pub reach: Reach,
}

#[derive(clap::Args)]
pub struct Drain {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Wait until its queue is empty, for so long at most; default 1m
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME", num_args = 0..=1, default_missing_value = "1m")]
    pub wait: Option<Duration>,
}

#[derive(clap::Args)]
pub struct Weight {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Its share, 1 to 100
    pub weight: u16,
}

#[derive(clap::Args)]
pub struct Doctor {
    #[command(flatten)]
    pub common: Common,
    /// Print everything as one JSON object
    #[arg(long)]
    pub json: bool,
}
