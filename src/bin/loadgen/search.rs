//! `--search`: trials until the highest rate that meets the SLO is known.

use anyhow::{Result, anyhow, ensure};
use lbd::load::pages;
use lbd::load::search::{CapacitySearch, Found, SearchEnd, SearchPlan, TrialOutcome, per_second};
use lbd::os::signals::Stop;

use crate::args::Args;
use crate::ending::RunEnd;
use crate::output::Outputs;
use crate::plan;
use crate::trials::Trials;

/// Default of the first rate, in requests per second.
const START: f64 = 1_000.0;
/// Without --from, the lowest rate is this share of the first one, but never below the minimum of --rate.
const LOWEST_SHARE: f64 = 1.0 / 1024.0;
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1e8;
const REPEATS: u16 = 3;
/// Share of the requests that a target without load must answer, unless the SLO allows more loss.
const LEAST_ANSWERED: f64 = 0.9;

/// Searches and writes the result.
pub fn run(args: &Args, stop: &Stop) -> Result<RunEnd> {
    let plan = search_plan(args)?;
    let mut search = CapacitySearch::new(plan.clone()).map_err(|why| anyhow!("--slo: {why}"))?;
    let job = plan::job_at(args, plan.start)?;
    let outputs = Outputs::open(args)?;
    let least = LEAST_ANSWERED.min(1.0 - plan.slo.loss_allowed());
    let mut trials = Trials::new(job, stop, args.quiet, least);
    let mut broken_off = None;
    let mut number = 0;
    while let Some(rate) = search.next() {
        number += 1;
        let seed = trials.job().seed.wrapping_add(number);
        let report = match trials.run(|job| (job.load, job.seed) = (job.load.at(rate), seed)) {
            Ok(Some(report)) => report,
            Ok(None) => break,
            Err(error) if number > 1 => {
                broken_off = Some(error); // the results of earlier trials are kept
                break;
            }
            Err(error) => return Ok(RunEnd::invalid(error.to_string())),
        };
        let trial = search.record(rate, report).map_err(anyhow::Error::msg)?;
        let outcome = match trial.outcome {
            TrialOutcome::Met => "met",
            TrialOutcome::Missed => "missed",
            TrialOutcome::Unfit => "the generator could not keep up",
        };
        let text = format!("trial {number}: {}: {}: {outcome}", per_second(rate), trial.measured);
        trials.say(format_args!("{text}{}", limit(search.bracket())));
    }
    let found = Found { interrupted: stop.is_asked(), ..search.finish() };
    let text = format!("{found}\n");
    let unwritten = outputs.write_judged(&found, &text, |machine| pages::of_search(&found, machine));
    Ok(ending(&found, broken_off).with(unwritten))
}

fn ending(found: &Found, broken_off: Option<anyhow::Error>) -> RunEnd {
    match (found.end, broken_off) {
        _ if found.interrupted => RunEnd::interrupted(found.to_string()),
        (_, Some(error)) => RunEnd::invalid(error.to_string()),
        (SearchEnd::Lowest, None) => RunEnd::condition(vec![found.to_string()]),
        (SearchEnd::Generator, None) => RunEnd::invalid(found.to_string()),
        (SearchEnd::Found | SearchEnd::Highest, None) => RunEnd::good(),
        (SearchEnd::Stopped, None) if found.rate.is_some() => RunEnd::good(),
        (SearchEnd::Stopped, None) => RunEnd::invalid(found.to_string()),
    }
}

fn search_plan(args: &Args) -> Result<SearchPlan> {
    let judgement = &args.judgement;
    let start = args.rate.or(judgement.from).unwrap_or(START.min(judgement.to.unwrap_or(START)));
    let lowest = judgement.from.unwrap_or((start * LOWEST_SHARE).max(*RATES.start()));
    let highest = judgement.to.unwrap_or(*RATES.end());
    ensure!(lowest <= highest, "--from {lowest} is above --to {highest}");
    ensure!(
        (lowest..=highest).contains(&start),
        "--rate {start} must be from --from {lowest} to --to {highest}"
    );
    Ok(SearchPlan {
        slo: judgement.slo.clone().expect("--search needs it"),
        start,
        lowest,
        highest,
        repeats: usize::from(judgement.repeats.unwrap_or(REPEATS)),
        precision: judgement.precision,
        trials_max: usize::from(judgement.max_trials),
    })
}

/// The bounds of the limit so far.
fn limit(bracket: (Option<f64>, Option<f64>)) -> String {
    match bracket {
        (Some(low), Some(high)) => {
            format!("; the limit is between {} and {}", per_second(low), per_second(high))
        }
        (Some(low), None) => format!("; the limit is above {}", per_second(low)),
        (None, Some(high)) => format!("; the limit is below {}", per_second(high)),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn plan(words: &str) -> Result<(f64, f64, f64), String> {
        let words = format!("loadgen --search --slo p99<2ms {words}");
        let args = Args::try_parse_from(words.split_whitespace()).map_err(|error| error.to_string())?;
        let plan = search_plan(&args).map_err(|error| error.to_string())?;
        Ok((plan.start, plan.lowest, plan.highest))
    }

    #[test]
    fn it_begins_at_the_rate_that_was_given_and_stays_between_the_others() {
        assert_eq!(plan(""), Ok((1_000.0, 1_000.0 / 1024.0, 1e8)));
        assert_eq!(plan("--rate 5000"), Ok((5_000.0, 5_000.0 / 1024.0, 1e8)));
        assert_eq!(plan("--from 200 --to 800"), Ok((200.0, 200.0, 800.0)));
        assert_eq!(plan("--rate 400 --from 200 --to 800"), Ok((400.0, 200.0, 800.0)));
        assert_eq!(plan("--to 500"), Ok((500.0, 500.0 / 1024.0, 500.0)));
        assert_eq!(plan("--rate 0.01"), Ok((0.01, 0.001, 1e8)));
        assert_eq!(plan("--from 9 --to 8").unwrap_err(), "--from 9 is above --to 8");
        assert_eq!(
            plan("--rate 7 --from 8").unwrap_err(),
            "--rate 7 must be from --from 8 to --to 100000000"
        );
    }
}
