//! `loadgen`: arguments -> plan -> [`lbd::load`] -> table, JSON and exit code.

mod args;
mod progress;

use std::fs::File;
use std::io::Write;
use std::net::UdpSocket;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use lbd::config::Config;
use lbd::daemon::{back_end, signals::Stop};
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{IoChoice, IoOptions};
use lbd::load::{self, Generator, Plan, Progress, Report, Verdict};
use lbd::rng::entropy;
use lbd::terminal::{print, tell};
use lbd::time::Clock;
use lbd::wire::FrameFormat;

use args::Args;

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
    let config = Config::load_or_default(args.config.as_deref())?;
    if args.target.is_none() {
        config.require_native("loadgen, or give --target")?;
    }
    let format = args.frame.map_or(config.native().format, FrameFormat::plain);
    if args.payload > format.payload_max() {
        bail!(
            "--payload {}: a frame of {} bytes carries at most {}",
            args.payload,
            format.size,
            format.payload_max()
        );
    }
    let plan = Plan {
        format,
        target: args.target.unwrap_or(config.balancer_for_clients()),
        connections: args.connections,
        rate: args.rate,
        arrivals: args.arrivals,
        window: args.window.map(|window| window as usize),
        payload: args.payload,
        timeout: args.timeout,
        warmup: args.warmup,
        duration: args.duration,
        seed: args.seed.unwrap_or_else(entropy),
    };
    // Before the load, so that a path that cannot be written costs no run.
    let json = args.json.as_deref().filter(|path| *path != Path::new("-"));
    let json = json.map(|path| (path, File::create(path)));
    let json = match json {
        Some((path, file)) => Some((path, file.with_context(|| format!("cannot write {}", path.display()))?)),
        None => None,
    };
    let packed = match (args.frames_per_datagram, args.frame) {
        (Some(frames), _) => usize::from(frames),
        (None, Some(_)) => format.frames_per_datagram(),
        (None, None) => config.native().frames_per_datagram,
    };
    let options = IoOptions { prefault: true, ..IoOptions::for_frames(format.size, packed) };
    let report = generate(plan, args.io.unwrap_or(config.io), &options, args.quiet)?;
    let text = serde_json::to_string_pretty(&report)?;
    if let Some((path, mut file)) = json {
        writeln!(file, "{text}").with_context(|| format!("cannot write {}", path.display()))?;
    }
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    if to_stdout {
        print(format_args!("{text}\n"))?;
    }
    match (args.quiet, to_stdout) {
        (true, _) => {}
        (false, true) => tell(format_args!("{report}")),
        (false, false) => drop(print(format_args!("{report}"))?),
    }
    Ok(report.verdict())
}

/// Runs the plan on a thread of its own, so that a slow terminal delays no request.
fn generate(plan: Plan, choice: IoChoice, options: &IoOptions, quiet: bool) -> Result<Report> {
    let from = lbd::client::any_port_towards(plan.target);
    let plain = SocketOptions::default();
    let sockets = (0..plan.connections).map(|_| bind(from, &plain)).collect::<Result<Vec<UdpSocket>, _>>()?;
    let (warmup, duration) = (plan.warmup, plan.duration);
    let clock = Clock::start();
    let io = back_end(choice, sockets, options, clock)?;
    if choice == IoChoice::IoUring && io.name() != choice.name() && !quiet {
        tell(format_args!("loadgen: there is no io_uring here: running over {}", io.name()));
    }
    let stop = Stop::on_signals(vec![io.waker()])?;
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let load = std::thread::Builder::new().name("load".into());
        let load = load.spawn_scoped(scope, || {
            load::run(Generator::new(plan, clock.now()), io, clock, &stop, &progress)
        })?;
        if !quiet {
            progress::show(&progress, warmup, duration, || load.is_finished());
        }
        load.join().expect("a panic ends the process").context("the load could not run")
    })
}
