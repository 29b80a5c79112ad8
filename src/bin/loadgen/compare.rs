//! `--compare`: the same load on two targets in turn.

use anyhow::{Result, bail};
use lbd::config::Target;
use lbd::load::compare::{Compare, Comparison, Side};
use lbd::load::pages::{self, MachineInfo};
use lbd::load::{Counts, LoadReport};
use lbd::os::signals::Stop;

use crate::args::Args;
use crate::ending::RunEnd;
use crate::output::Outputs;
use crate::plan;
use crate::trials::Trials;

const PAIRS: u16 = 9;

/// Compares the two targets and writes the result.
pub fn run(args: &Args, [a, b]: [&Target; 2], stop: &Stop) -> Result<RunEnd> {
    let conditions = &args.judgement.fail_if;
    if let Some(one) = conditions.iter().find(|conditions| !conditions.compare()) {
        bail!("--fail-if {one}: with --compare a condition names a target, as in 'p99 B > 1.05 A'");
    }
    let pairs = args.judgement.repeats.unwrap_or(PAIRS);
    let mut compare = Compare::new(usize::from(pairs));
    let job = plan::job_for(args, a)?;
    let a = job.target;
    let b = plan::job_for(args, b)?.target;
    let outputs = Outputs::open(args)?;
    let mut trials = Trials::new(job, stop, args.quiet, 0.0);
    let mut broken_off = None;
    let mut turns = 0;
    while let Some(side) = compare.next() {
        let pair = turns / 2;
        turns += 1;
        let target = if side == Side::A { a } else { b };
        // Both turns of a pair send the same requests at the same moments.
        let seed = trials.job().seed.wrapping_add(pair);
        let report = match trials.run(|job| (job.target, job.seed) = (target, seed)) {
            Ok(Some(report)) => report,
            Ok(None) => break,
            Err(error) => {
                broken_off = Some(error); // the results of earlier turns are kept
                break;
            }
        };
        let LoadReport { counts: Counts { sent, lost, .. }, latency_us, .. } = &report;
        let name = if side == Side::A { "A" } else { "B" };
        let which = match pair < u64::from(pairs) {
            true => format!("pair {} of {pairs}", pair + 1),
            false => format!("pair {} for one that was left out", pair + 1),
        };
        trials.say(format_args!(
            "{which}, {name}: {sent} sent, {lost} lost, p50 {} us, p99 {} us",
            latency_us.p50, latency_us.p99,
        ));
        compare.record(report);
    }
    let compared = compare.finish().map_err(anyhow::Error::msg)?;
    let judged = compared.judge(conditions).map_err(anyhow::Error::msg)?;
    let compared = Comparison { interrupted: stop.is_asked(), judged, ..compared };
    let ending = ending(&compared, broken_off);
    if compared.turns.len() < 2 && !compared.interrupted {
        return Ok(ending);
    }
    let page = |machine: &MachineInfo| pages::of_comparison(&compared, machine);
    Ok(ending.with(outputs.write_judged(&compared, &compared.to_string(), page)))
}

fn ending(compared: &Comparison, broken_off: Option<anyhow::Error>) -> RunEnd {
    let Comparison { pairs, pairs_unfit, .. } = *compared;
    match broken_off {
        _ if compared.interrupted => RunEnd::interrupted(format!("interrupted after {pairs} pairs")),
        Some(error) => RunEnd::invalid(error.to_string()),
        None if pairs == 0 || pairs_unfit > pairs => RunEnd::invalid(format!(
            "{pairs_unfit} of {} pairs are invalid: the generator could not keep up, or no response arrived; \
             lower the rate, or give the generator more CPU or --threads",
            pairs + pairs_unfit
        )),
        None => {
            let that = |holds: Option<bool>| {
                let judged = compared.judged.iter().filter(move |judged| judged.holds == holds);
                judged.map(|judged| format!("--fail-if {judged}")).collect::<Vec<_>>()
            };
            let (holding, unknown) = (that(Some(true)), that(None));
            match (holding.is_empty(), unknown.is_empty()) {
                (false, _) => RunEnd::condition(holding),
                (true, false) => RunEnd::invalid(format!(
                    "{}; use more --repeats or a longer --duration",
                    unknown.join("; ")
                )),
                (true, true) => RunEnd::good(),
            }
        }
    }
}
