//! `lbd sim`: runs the policy simulator and prints its results.

mod args;
mod loads;
mod plan;
mod report;
mod table;
mod words;
mod work;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use lbd::lab::{InCase, Overload};
use lbd::os::terminal::{print, tell};
use lbd::report::chart;

pub use args::SimArgs;
use plan::StudyPlan;

/// Runs the simulation and prints the results.
pub fn run(args: &SimArgs) -> Result<()> {
    let plan = StudyPlan::new(args)?;
    match &args.overload {
        _ if args.check => Ok(print(format_args!("{}\n", about(&plan))).map(|_| ())?),
        Some(overload) => run_overload(args, &plan, overload),
        None => run_study(args, &plan),
    }
}

fn run_study(args: &SimArgs, plan: &StudyPlan) -> Result<()> {
    let cases = plan.study.run(threads(args), &progress(plan.study.run_count()))?;
    if args.json {
        print(format_args!("{}\n", table::json(plan, &cases)))?;
    } else {
        print(format_args!("{}\n\n{}", about(plan), table::render(plan, &cases)))?;
    }
    if let Some(file) = &args.report {
        write(file, &report::page(args, plan, &cases))?;
    }
    if let Some(file) = &args.svg {
        write(file, &chart::file(&report::chart(args.svg_of, &plan.along, &cases)))?;
    }
    if !args.quiet {
        tell(format_args!("{}", cost(&cases)));
    }
    Ok(())
}

fn run_overload(args: &SimArgs, plan: &StudyPlan, overload: &Overload) -> Result<()> {
    let case = &plan.study.cases[0];
    let contenders = &plan.study.contenders;
    let survivals = overload.run(&case.setup, contenders, case.load, plan.study.seed, threads(args))?;
    if args.json {
        print(format_args!("{}\n", table::survival_json(plan, &survivals)))?;
    } else {
        print(format_args!("{}\n\n{}", about(plan), table::survivals(&survivals)))?;
    }
    if let Some(file) = &args.report {
        write(file, &report::overload_page(args, plan, overload, &survivals))?;
    }
    if let Some(file) = &args.svg {
        write(file, &chart::file(&report::overload_chart(overload, &survivals)))?;
    }
    Ok(())
}

/// The simulated system as one line.
fn about(plan: &StudyPlan) -> String {
    let words = words::of_plan(plan).into_iter().map(|(word, value)| format!("{word} {value}"));
    words.collect::<Vec<_>>().join(", ")
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn threads(args: &SimArgs) -> usize {
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    args.threads.map_or_else(all, usize::from)
}

/// Shows the progress on a terminal.
fn progress(count: usize) -> impl Fn() + Sync {
    let done = AtomicUsize::new(0);
    let is_shown = std::io::stderr().is_terminal();
    move || {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if is_shown {
            let end = if done == count { "\r\x1b[K" } else { "" };
            eprint!("\r{done} of {count} runs{end}");
        }
    }
}

/// CPU time of the simulation, in total and by policy.
fn cost(cases: &[InCase]) -> String {
    let mut by_name: Vec<(&str, f64)> = vec![];
    for row in cases.iter().flat_map(|case| &case.compared) {
        let seconds = row.cpu.as_secs_f64();
        match by_name.iter_mut().find(|(name, _)| *name == row.name) {
            Some((_, sum)) => *sum += seconds,
            None => by_name.push((&row.name, seconds)),
        }
    }
    let total: f64 = by_name.iter().map(|(_, seconds)| seconds).sum();
    let each: Vec<String> = by_name.iter().map(|(name, seconds)| format!("{name} {seconds:.2} s")).collect();
    format!("{total:.2} s of CPU time: {}", each.join(", "))
}
