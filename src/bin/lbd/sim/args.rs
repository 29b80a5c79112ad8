//! The arguments of `lbd sim`.

use std::path::PathBuf;
use std::time::Duration;

use lbd::lab::{Gaps, Group, Overload, PoolKind, Spell, Work};
use lbd::wire::ReplyPath;

use super::loads::Loads;
use super::work;

#[derive(clap::Args)]
pub struct SimArgs {
    /// Servers, 1 to 100000; each serves one request at a time
    #[arg(long, value_name = "N", default_value = "16", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub servers: Vec<u32>,
    /// Balancers that share the servers, 1 to 256; each request goes to one of them at random
    #[arg(long, value_name = "N", default_value = "1", value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..=256))]
    pub balancers: Vec<u16>,
    /// Servers of each balancer [default: all, or a part of a large system]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub subset: Option<u16>,
    /// Policies to compare, separated by commas, or all
    #[arg(long, value_name = "POLICY", default_value = "all", value_delimiter = ',')]
    pub policy: Vec<String>,
    /// Load as a share of the total capacity: 0.85, 0.5,0.8, 0.5..0.95, or 0.5..0.95/10 for ten loads
    #[arg(long, value_name = "LOAD", default_value = "0.85")]
    pub load: Loads,
    /// Service time of a request, such as exp:5ms, fixed:1ms, bimodal:5ms, lognormal:5ms or pareto:5ms;
    /// file:FILE for random ones of a file, which has one time in seconds per line
    #[arg(long, value_name = "SHAPE:MEAN", default_value = "exp:5ms", value_parser = work::service)]
    pub service: Work,
    /// Spacing of requests: poisson (exponential gaps), constant, burst:N, or trace:FILE for the gaps of a
    /// trace of loadgen, scaled to --load and repeated
    #[arg(long, value_name = "SHAPE", default_value = "poisson", value_parser = work::gaps)]
    pub arrivals: Gaps,
    /// Speeds of the first servers, separated by commas: 4x2 for four servers of twice the speed
    #[arg(long, value_name = "COUNTxSPEED", value_delimiter = ',')]
    pub speeds: Vec<Group>,
    /// Slow servers, the first ones: 1x5 for one that takes five times as long; 1x5@2s..4s to limit the
    /// time
    #[arg(long, value_name = "COUNTxFACTOR", value_delimiter = ',')]
    pub slow: Vec<Spell>,
    /// Set each server's weight to its speed, rounded
    #[arg(long)]
    pub weighted: bool,
    /// Kind of pool: native (servers report their queues) or datagram (unmodified servers)
    #[arg(long, value_name = "KIND", default_value = "native")]
    pub pool: SimPool,
    /// Interval of the servers' queue reports, 1ms to 1m
    #[arg(long, value_parser = from_1ms_to_1m, value_name = "TIME", default_value = "10ms",
        value_delimiter = ',')]
    pub staleness: Vec<Duration>,
    /// Path of replies: through the balancer, or direct to the client
    #[arg(long, value_name = "PATH", default_value = "balancer")]
    pub reply_path: SimReplies,
    /// With direct replies: servers report only at the interval, not after each turn with replies
    #[arg(long)]
    pub reports_at_interval_only: bool,
    /// Round-trip time between balancer and server, up to 1s
    #[arg(long, value_parser = up_to_1s, value_name = "TIME", default_value = "100us", value_delimiter = ',')]
    pub rtt: Vec<Duration>,
    /// Maximum random delay added to each direction, up to 1s
    #[arg(long, value_parser = up_to_1s, value_name = "TIME", default_value = "0s")]
    pub jitter: Duration,
    /// Probability that a datagram between balancer and server is lost, 0 to 0.5
    #[arg(long, value_parser = loss, value_name = "SHARE", default_value = "0", value_delimiter = ',')]
    pub loss: Vec<f64>,
    /// Clients that wait for replies and retry [default: none, so each request is sent once; 64 with
    /// --overload]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub clients: Option<u16>,
    /// Overload that starts after 2 s, with the usual --load before and after: 2x5s for twice the total
    /// capacity during 5 s
    #[arg(long, value_name = "FACTORxTIME", value_parser = overload)]
    pub overload: Option<Overload>,
    /// Requests per run [default: 200000 to 2000000, more at a high load]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub requests: Option<u32>,
    /// Requests at the start of a run that do not count [default: until the run is steady]
    #[arg(long, value_name = "N")]
    pub warmup: Option<u32>,
    /// Seed of all random numbers; the same seed repeats a run
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Runs per policy, each with another seed, 1 to 100; intervals come from all of them
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..=100))]
    pub repeats: u64,
    /// Concurrent runs [default: one per CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write an HTML page with charts to this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Write one chart to this file as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Metric that the chart shows
    #[arg(long, value_name = "METRIC", default_value = "p99", requires = "svg")]
    pub svg_of: Shown,
    /// Print what would be simulated, and stop
    #[arg(long)]
    pub check: bool,
    /// Do not print the CPU time of the simulation
    #[arg(long)]
    pub quiet: bool,
    /// The command line, shown on the page
    #[arg(skip = command_line())]
    pub command: String,
}

fn command_line() -> String {
    std::iter::once("lbd".to_owned()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ")
}

/// Kind of simulated pool.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum SimPool {
    /// Servers report their queues
    Native,
    /// Unmodified servers
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

/// Path of simulated replies.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum SimReplies {
    /// Through the balancer
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
    is_one.then_some(time).ok_or_else(|| "must be a time from 1ms to 1m".to_owned())
}

fn up_to_1s(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    (time <= Duration::from_secs(1))
        .then_some(time)
        .ok_or_else(|| "must be a time up to 1s, such as 100us".to_owned())
}

fn loss(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=0.5).contains(share));
    share.ok_or_else(|| "must be a share from 0 to 0.5, such as 0.01".to_owned())
}

/// Metric that a chart can show.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    /// Median response time, relative to one queue for all servers
    P50,
    /// 99th percentile of the response time, relative to one queue for all servers
    #[default]
    P99,
    /// 99.9th percentile of the response time, relative to one queue for all servers
    #[value(name = "p99.9")]
    P999,
    /// Longest queue
    Longest,
    /// Queue of the selected server minus the shortest queue
    Regret,
    /// Difference between estimated and true queue of the selected server
    Error,
}

/// Parses the overload of `--overload`: `2x5s` is twice the total capacity for 5 s.
fn overload(text: &str) -> Result<Overload, String> {
    let read = || {
        let (factor, lasts) = text.split_once('x')?;
        let (factor, lasts) = (factor.parse().ok()?, humantime::parse_duration(lasts).ok()?);
        let is_sane = (1.0..=100.0).contains(&factor) && (0.1..=600.0).contains(&lasts.as_secs_f64());
        is_sane.then_some(Overload { factor, lasts })
    };
    read()
        .ok_or_else(|| "must be FACTORxTIME, such as 2x5s for twice the total capacity during 5 s".to_owned())
}
