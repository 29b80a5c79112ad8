//! `loadgen`: arguments -> jobs -> [`lbd::load`] -> outputs and exit code.

mod args;
mod compare;
mod ending;
mod fail_if;
mod metrics;
mod output;
mod plan;
mod progress;
mod search;
mod sink;
mod trials;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use lbd::io::IoChoice;
use lbd::load::{LoadReport, Measurement};
use lbd::os::signals::Stop;
use lbd::os::terminal::tell;

use args::Args;
use ending::RunEnd;
use metrics::Metrics;
use output::Outputs;
use progress::ProgressLine;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(ending) => {
            for reason in &ending.reasons {
                tell(format_args!("loadgen: {reason}"));
            }
            ending.code()
        }
        Err(error) => {
            tell(format_args!("loadgen: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<RunEnd> {
    let judgement = &args.judgement;
    if judgement.search {
        return search::run(args, &Stop::on_signals(vec![])?);
    }
    if let Some([a, b]) = judgement.compare.as_deref() {
        return compare::run(args, [a, b], &Stop::on_signals(vec![])?);
    }
    if let Some(condition) = judgement.fail_if.iter().find(|condition| !condition.are_of_one()) {
        bail!("--fail-if {condition} is about two targets; it needs --compare");
    }
    let (report, outputs) = match &args.merge {
        Some(files) => (merge(files)?, Outputs::open(args)?),
        None => {
            let jobs = plan::jobs(args)?;
            let outputs = Outputs::open(args)?;
            let metrics = args.metrics.map(Metrics::serve).transpose()?;
            (measure(&jobs, args.quiet, metrics.as_ref())?, outputs)
        }
    };
    let holding = fail_if::holding(&judgement.fail_if, &report)?;
    let unwritten = outputs.write(&report, &holding);
    Ok(RunEnd::of_run(&report, holding).with(unwritten))
}

/// Runs the jobs one after another: a single run, or the steps.
fn measure(jobs: &[Measurement], quiet: bool, metrics: Option<&Metrics>) -> Result<LoadReport> {
    let stop = Stop::on_signals(vec![])?;
    let mut reports: Vec<LoadReport> = vec![];
    for (job, number) in jobs.iter().zip(1..) {
        if let Some(at) = job.start_at.filter(|_| !quiet) {
            tell(format_args!("loadgen: starts at {}", humantime::format_rfc3339_millis(at)));
        }
        let mut line = (!quiet).then(|| ProgressLine::new(job.target, job.warmup, job.measured()));
        if let Some(line) = line.as_mut().filter(|_| jobs.len() > 1) {
            line.say(format_args!("step {number} of {}", jobs.len()));
        }
        let report = job.measure(&stop, |live| {
            if let Some(metrics) = metrics {
                metrics.set(live);
            }
            if let Some(line) = &mut line {
                line.show(live);
            }
        })?;
        drop(line);
        if number == 1 && job.io == IoChoice::IoUring && report.setup.io != job.io.name() && !quiet {
            tell(format_args!("loadgen: io_uring is not available; used {}", report.setup.io));
        }
        // A step that was interrupted in its warm-up has no row, unless it is the only one.
        if reports.is_empty() || !report.is_empty() {
            reports.push(report);
        }
        if stop.is_asked() || reports.iter().any(|report| report.aborted.is_some()) {
            break;
        }
    }
    let report = match jobs {
        [_] => reports.remove(0),
        _ => LoadReport::in_steps(reports).context("no steps")?,
    };
    let is_whole = jobs.len() <= report.steps.len().max(1);
    let interrupted = report.interrupted || (stop.is_asked() && !is_whole);
    Ok(LoadReport { interrupted, ..report })
}

/// Reads reports and merges them.
fn merge(files: &[PathBuf]) -> Result<LoadReport> {
    let read = |file: &PathBuf| -> Result<LoadReport> {
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("cannot read {}: not a report of loadgen --json", file.display()))
    };
    for (index, file) in files.iter().enumerate() {
        let name = |file: &PathBuf| file.canonicalize().unwrap_or_else(|_| file.clone());
        ensure!(
            !files[..index].iter().any(|earlier| name(earlier) == name(file)),
            "{}: the same file twice",
            file.display()
        );
    }
    let reports = files.iter().map(read).collect::<Result<Vec<LoadReport>>>()?;
    let merged = LoadReport::merge(&reports).context("nothing to merge")?;
    let merged = merged.map_err(|(index, why)| anyhow!("{}: {why}", files[index].display()))?;
    merged.remarks.iter().for_each(|remark| tell(format_args!("loadgen: {remark}")));
    Ok(merged)
}
