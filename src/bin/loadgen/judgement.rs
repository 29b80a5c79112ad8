//! The part of the command line that judges reports.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use lbd::load::Conditions;

use super::rate;

/// The heading in the help.
const JUDGEMENT: &str = "Judgement";
/// What does not go with several runs that are judged together.
const ONE_RUN: [&str; 5] = ["steps", "merge", "csv", "hdr", "fail_if"];

/// What is made of the figures.
#[derive(Args)]
pub struct Judgement {
    /// End with exit code 3 if this holds, as in 'p99>5ms'; a comma is an *and*, and this option again an *or*
    ///
    /// Figures: p50, p99, p99.9 or any other below p100 (latency from the planned moment, of OK answers and of lost requests, which count
    /// as the time-out), max, mean; loss, busy, refused, errors (all three), late (shares of what was sent); rate (sent per second), pacing
    /// (99 % left within this after plan). Signs: < <= > >=. Units: us, ms, s; %. Of --steps, each step is judged.
    #[arg(long, value_name = "CONDITION", help_heading = JUDGEMENT)]
    pub fail_if: Vec<Conditions>,
    /// Search the largest rate that meets --slo
    ///
    /// From --rate (default: --from, or 1000) the rate doubles or halves until one meets the SLO and a higher one does not; then the ratio of
    /// the two is halved until it is below --precision. What most trials of a rate show decides; each lasts --warmup and --duration. Further
    /// trials around the limit give its confidence interval.
    #[arg(long, requires = "slo", conflicts_with_all = ONE_RUN, conflicts_with_all = ["ramp", "window", "compare"], help_heading = JUDGEMENT)]
    pub search: bool,
    /// What a rate has to meet, as in 'p99<2ms,loss<0.1%'; figures as with --fail-if
    #[arg(long, value_name = "CONDITIONS", requires = "search", help_heading = JUDGEMENT)]
    pub slo: Option<Conditions>,
    /// The lowest rate to try; default: 1/1024 of the first one
    #[arg(long, value_name = "R", requires = "search", value_parser = rate, help_heading = JUDGEMENT)]
    pub from: Option<f64>,
    /// The highest rate to try; default: no limit
    #[arg(long, value_name = "R", requires = "search", value_parser = rate, help_heading = JUDGEMENT)]
    pub to: Option<f64>,
    /// How near the limit is searched
    #[arg(long, value_name = "SHARE", default_value = "2%", requires = "search", value_parser = share, help_heading = JUDGEMENT)]
    pub precision: f64,
    /// Trials of a search, at most
    #[arg(long, value_name = "N", default_value_t = 100, requires = "search", value_parser = clap::value_parser!(u16).range(1..), help_heading = JUDGEMENT)]
    pub max_trials: u16,
    /// Put the same load on two targets in turn, A B B A, and say how B differs
    ///
    /// Each pair of turns has the same requests at the same moments and gives a ratio; shown is their median with its confidence interval. Six
    /// pairs are the least that show a difference.
    #[arg(long, value_names = ["A", "B"], num_args = 2, conflicts_with_all = ONE_RUN, conflicts_with = "target", help_heading = JUDGEMENT)]
    pub compare: Option<Vec<SocketAddr>>,
    /// Trials of a rate in a search (default: 3), or pairs of turns in a comparison (default: 9)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000), help_heading = JUDGEMENT)]
    pub repeats: Option<u16>,
    /// Write a page with charts of what was found: one HTML file that needs no other
    #[arg(long, value_name = "FILE", help_heading = JUDGEMENT)]
    pub report: Option<PathBuf>,
}

/// Per cent, from above 0 to 100, as a share.
fn share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match percent {
        Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err(format!("`{text}` is not a share above 0 % and up to 100 %, such as 2%")),
    }
}
