//! The arguments of `lbd sim`.

use std::path::PathBuf;
use std::time::Duration;

use lbd::base::service_time::ServiceTime;
use lbd::lab::{Group, Overload, PoolKind, Spell};
use lbd::wire::ReplyPath;

use super::loads::Loads;

#[derive(clap::Args)]
pub struct Sim {
    /// Servers; each serves one request at a time
    #[arg(long, value_name = "N", default_value = "16", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub servers: Vec<u32>,
    /// Balancers that share them; each request comes to one of them, by chance
    #[arg(long, value_name = "N", default_value = "1", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=256))]
    pub balancers: Vec<u16>,
    /// Servers that each balancer has; default: all, or in a large system a part
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub subset: Option<u16>,
    /// Policies to compare, with commas between, or all
    #[arg(long, value_name = "POLICY", default_value = "all", value_delimiter = ',')]
    pub policy: Vec<String>,
    /// Share of what all servers can do: 0.85, or 0.5,0.8, or 0.5..0.95, or 0.5..0.95/10 for ten of them
    #[arg(long, value_name = "LOAD", default_value = "0.85")]
    pub load: Loads,
    /// How long a request takes, such as exp:5ms, fixed:1ms, bimodal:5ms, lognormal:5ms
    #[arg(long, value_name = "SHAPE:MEAN", default_value = "exp:5ms")]
    pub service: ServiceTime,
    /// Servers of other speeds, the first ones: 4x2 for four of twice the speed, with commas between
    #[arg(long, value_name = "COUNTxSPEED", value_delimiter = ',')]
    pub speeds: Vec<Group>,
    /// Slow servers, the first ones: 1x5 for one that takes five times as long; 1x5@2s..4s for a time
    #[arg(long, value_name = "COUNTxFACTOR", value_delimiter = ',')]
    pub slow: Vec<Spell>,
    /// Give servers the weights of their speeds, as far as whole numbers go
    #[arg(long)]
    pub weighted: bool,
    /// What the servers know of lbd: native (they report their queues) or datagram (nothing)
    #[arg(long, value_name = "WHAT", default_value = "native")]
    pub pool: SimPool,
    /// How often servers report their queues
    #[arg(long, value_parser = from_1ms_to_1m, value_name = "TIME", default_value = "10ms", value_delimiter = ',')]
    pub staleness: Vec<Duration>,
    /// The way of replies: balancer, or direct to the client
    #[arg(long, value_name = "WAY", default_value = "balancer")]
    pub reply_path: SimReplies,
    /// With direct replies: servers report at the interval only, and not whenever they have answered something
    #[arg(long)]
    pub reports_at_interval_only: bool,
    /// From a balancer to a server and back
    #[arg(long, value_parser = up_to_1s, value_name = "TIME", default_value = "100us", value_delimiter = ',')]
    pub rtt: Vec<Duration>,
    /// What each way may take longer, by chance
    #[arg(long, value_parser = up_to_1s, value_name = "TIME", default_value = "0s")]
    pub jitter: Duration,
    /// The chance that a datagram is lost between balancer and server, 0 to 0.5
    #[arg(long, value_parser = loss, value_name = "SHARE", default_value = "0", value_delimiter = ',')]
    pub loss: Vec<f64>,
    /// Clients that wait for answers and try again; default: everything is sent once, but with --overload by 64 clients
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub clients: Option<u16>,
    /// Too many requests for a time, 2 s after the start, with the usual --load before and after: 2x5s for twice of what
    /// all servers can do, for 5 s
    #[arg(long, value_name = "FACTORxTIME", value_parser = overload)]
    pub overload: Option<Overload>,
    /// Requests in each run
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub requests: u32,
    /// The first of them, which do not count; default: a tenth
    #[arg(long, value_name = "N")]
    pub warmup: Option<u32>,
    /// Of everything random: it replays a run
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Runs of each policy, each with another seed; ratios are medians
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub repeats: u64,
    /// Runs at a time; default: as many as there are processors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write a page with charts, for a browser, to this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Write one chart to this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// What that chart shows
    #[arg(long, value_name = "FIGURE", default_value = "p99", requires = "svg")]
    pub svg_of: Shown,
    /// Only say what would be simulated
    #[arg(long)]
    pub check: bool,
    /// Do not say what the simulation took
    #[arg(long)]
    pub quiet: bool,
    /// The command line, for the page
    #[arg(skip = command_line())]
    pub command: String,
}

fn command_line() -> String {
    std::iter::once("lbd".to_owned()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ")
}

/// What simulated servers know of lbd.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum SimPool {
    /// They report their queues
    Native,
    /// Nothing
    Datagram,
}

impl From<SimPool> for PoolKind {
    fn from(pool: SimPool) -> PoolKind {
        match pool {
            SimPool::Native => PoolKind::Native,
            SimPool::Datagram => PoolKind::Datagram,
        }
    }
}

/// The way of simulated replies.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum SimReplies {
    /// By way of the balancer
    Balancer,
    /// From the server to the client
    Direct,
}

impl From<SimReplies> for ReplyPath {
    fn from(replies: SimReplies) -> ReplyPath {
        match replies {
            SimReplies::Balancer => ReplyPath::Balancer,
            SimReplies::Direct => ReplyPath::Direct,
        }
    }
}

fn from_1ms_to_1m(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    let is_one = (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&time);
    is_one.then_some(time).ok_or_else(|| "write a time from 1ms to 1m".to_owned())
}

fn up_to_1s(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    (time <= Duration::from_secs(1))
        .then_some(time)
        .ok_or_else(|| "write a time up to 1s, such as 100us".to_owned())
}

fn loss(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=0.5).contains(share));
    share.ok_or_else(|| "write a share from 0 to 0.5, such as 0.01".to_owned())
}

/// A figure that a chart can show.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    /// The median response time, against one queue for all servers
    P50,
    /// The 99th percentile, against one queue for all servers
    #[default]
    P99,
    /// The 99.9th percentile, against one queue for all servers
    #[value(name = "p99.9")]
    P999,
    /// The longest queue
    Longest,
    /// The queue of the chosen server, less the least of all
    Regret,
    /// What was believed of the chosen server's queue, against what was true
    Error,
}

/// An overload, as `--overload` has it: `2x5s` for twice of what all servers can do, for five seconds.
fn overload(text: &str) -> Result<Overload, String> {
    let read = || {
        let (factor, lasts) = text.split_once('x')?;
        let (factor, lasts) = (factor.parse().ok()?, humantime::parse_duration(lasts).ok()?);
        let is_sane = (1.0..=100.0).contains(&factor) && (0.1..=600.0).contains(&lasts.as_secs_f64());
        is_sane.then_some(Overload { factor, lasts })
    };
    read().ok_or_else(|| {
        "write FACTORxTIME, such as 2x5s for twice of what all servers can do, for 5 s".to_owned()
    })
}
