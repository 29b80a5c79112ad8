//! `loadgen`: arguments -> jobs -> [`lbd::load`] -> outputs and exit code.

mod args;
mod output;
mod plan;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use lbd::daemon::signals::Stop;
use lbd::io::IoChoice;
use lbd::load::{Job, Report, Verdict};
use lbd::terminal::tell;

use args::Args;
use output::Outputs;
use progress::Line;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(Verdict::Valid) => ExitCode::SUCCESS,
        Ok(verdict) => {
            tell(format_args!("loadgen: {verdict}"));
            ExitCode::from(1)
        }
        Err(error) => {
            tell(format_args!("loadgen: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<Verdict> {
    let report = match &args.merge {
        Some(files) => {
            let merged = merge(files)?;
            Outputs::open(args)?.write(&merged)?;
            merged
        }
        None => {
            let jobs = plan::jobs(args)?;
            let outputs = Outputs::open(args)?;
            let report = measure(&jobs, args.quiet)?;
            outputs.write(&report)?;
            report
        }
    };
    Ok(report.verdict())
}

/// Runs the jobs one after the other: one, or the steps of a run.
fn measure(jobs: &[Job], quiet: bool) -> Result<Report> {
    let stop = Stop::on_signals(vec![])?;
    let mut reports: Vec<Report> = vec![];
    for (job, number) in jobs.iter().zip(1..) {
        let mut line = (!quiet).then(|| Line::new(job.warmup, job.measured()));
        if let Some(line) = line.as_mut().filter(|_| jobs.len() > 1) {
            line.say(format_args!("step {number} of {}", jobs.len()));
        }
        let report = job.measure(&stop, |live| {
            if let Some(line) = &mut line {
                line.show(live);
            }
        })?;
        drop(line);
        if number == 1 && job.io == IoChoice::IoUring && report.setup.io != job.io.name() && !quiet {
            tell(format_args!("loadgen: there is no io_uring here: it ran over {}", report.setup.io));
        }
        reports.push(report);
        if stop.is_asked() {
            break;
        }
    }
    match jobs {
        [_] => Ok(reports.remove(0)),
        _ => Report::in_steps(reports).context("no steps"),
    }
}

/// Reads reports and adds them up.
fn merge(files: &[PathBuf]) -> Result<Report> {
    let read = |file: &PathBuf| -> Result<Report> {
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is no report of loadgen --json", file.display()))
    };
    let reports = files.iter().map(read).collect::<Result<Vec<Report>>>()?;
    let merged = Report::merge(&reports).context("nothing to merge")?;
    merged.map_err(|(index, why)| anyhow!("{}: {why}", files[index].display()))
}
