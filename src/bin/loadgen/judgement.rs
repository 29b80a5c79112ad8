//! The part of the command line that judges reports.

use std::path::PathBuf;

use clap::Args;
use lbd::config::Target;
use lbd::load::{BadCondition, Conditions};

use super::{rate, target};

/// Heading in the help.
const JUDGEMENT: &str = "Judgement";
/// Options that conflict with runs that are judged together.
const ONE_RUN: [&str; 7] = ["steps", "merge", "csv", "hdr", "hgrm", "metrics", "abort_if"];

/// How results are judged.
#[derive(Args)]
pub struct Judgement {
    /// End with exit code 3 if this holds, as in 'p99>5ms'; a comma means and, a repeated option means or
    ///
    /// Metrics: p50, p99, p99.9 or any other percentile below p100, max and mean are latencies from the
    /// scheduled moment of OK responses and lost requests; a lost request is slower than any limit. loss,
    /// busy, refused, errors (all three) and late are shares of the requests sent. rate is requests sent
    /// per second, goodput requests answered per second. pacing is the send lag that 99 % of the requests
    /// stay within. Operators: < <= > >=. With DNS: noerror, formerr, servfail, nxdomain, notimp, rcodeN,
    /// truncated and empty, as shares of the queries sent. Units: us, ms, s; %. With --steps, each step is
    /// judged.
    ///
    /// With --compare, a condition is about both targets: 'p50 B > 1.05 A', 'loss B > A + 0.1%', 'p99 B >
    /// 5ms'. The exit code is 3 if the pairs show that it holds, 0 if they show that it does not, and 1 if
    /// they cannot tell.
    #[arg(long, value_name = "CONDITION", help_heading = JUDGEMENT)]
    pub fail_if: Vec<Conditions>,
    /// End the run early, with exit code 3, when this holds for its last 5 seconds
    ///
    /// It is judged each second, for the seconds whose requests have all ended. Metrics as with --fail-if,
    /// except pacing and those of DNS.
    #[arg(long, value_name = "CONDITION", value_parser = known_by_second, help_heading = JUDGEMENT)]
    pub abort_if: Vec<Conditions>,
    /// Search for the highest rate that meets --slo
    ///
    /// From --rate (default: --from, or 1000), the search doubles or halves the rate until one rate
    /// meets the SLO and a higher one does not. Then it narrows that interval until it is below
    /// --precision. The majority of a rate's trials decides; each trial lasts --warmup and --duration.
    /// Further trials around the limit give its confidence interval.
    #[arg(long, requires = "slo", conflicts_with_all = ONE_RUN,
        conflicts_with_all = ["ramp", "window", "compare", "fail_if"], help_heading = JUDGEMENT)]
    pub search: bool,
    /// Conditions that a rate must meet, as in 'p99<2ms,loss<0.1%'; metrics as with --fail-if
    #[arg(long, value_name = "CONDITIONS", requires = "search", help_heading = JUDGEMENT)]
    pub slo: Option<Conditions>,
    /// Lowest rate to try [default: 1/1024 of the first rate]
    #[arg(long, value_name = "R", requires = "search", value_parser = rate, help_heading = JUDGEMENT)]
    pub from: Option<f64>,
    /// Highest rate to try [default: no limit]
    #[arg(long, value_name = "R", requires = "search", value_parser = rate, help_heading = JUDGEMENT)]
    pub to: Option<f64>,
    /// Relative precision of the limit
    #[arg(long, value_name = "SHARE", default_value = "2%", requires = "search",
        value_parser = share, help_heading = JUDGEMENT)]
    pub precision: f64,
    /// Maximum trials of a search
    #[arg(long, value_name = "N", default_value_t = 100, requires = "search",
        value_parser = clap::value_parser!(u16).range(1..), help_heading = JUDGEMENT)]
    pub max_trials: u16,
    /// Send the same load to two targets in turn, A B B A, and report how B differs
    ///
    /// Each pair of turns sends the same requests at the same moments and gives a ratio. The report
    /// shows the median ratio and its confidence interval. A difference needs at least six pairs.
    #[arg(long, value_names = ["A", "B"], num_args = 2, value_parser = target, conflicts_with_all = ONE_RUN,
        conflicts_with = "target", help_heading = JUDGEMENT)]
    pub compare: Option<Vec<Target>>,
    /// Trials per rate in a search (default: 3), or pairs of turns in a comparison (default: 9)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000),
        help_heading = JUDGEMENT)]
    pub repeats: Option<u16>,
    /// Write an HTML page with charts of the results; the file is self-contained
    #[arg(long, value_name = "FILE", help_heading = JUDGEMENT)]
    pub report: Option<PathBuf>,
}

/// Parses conditions on metrics that are known during a run.
fn known_by_second(text: &str) -> Result<Conditions, String> {
    let conditions: Conditions = text.parse().map_err(|error: BadCondition| error.to_string())?;
    match conditions.known_late() {
        None if conditions.are_of_one() => Ok(conditions),
        None => Err("a condition on A and B needs --compare and --fail-if".to_owned()),
        Some(metric) => Err(format!("`{metric}` is known only at the end of a run; use --fail-if")),
    }
}

/// Parses a percentage, above 0 and up to 100, as a share.
pub fn share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match percent {
        Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err(format!("`{text}` must be above 0 % and at most 100 %, such as 2%")),
    }
}
