//! The proof that nothing is lost: the real programs under load, while an operator drains, reloads, upgrades
//! and scales, and while parts of the system crash. Prints the outcome of all requests beside the required
//! outcome. Exit code 1: a requirement is not met. Exit code 2: a scenario could not run.
//!
//! ```sh
//! cargo build --release --bins --example service
//! cargo run --release --example service -- --scenario drain,reload
//! ```

mod scenarios;

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use lbd::os::terminal::{print, tell};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use scenarios::{Outcome, Scenario, Setup, processes};

/// Drains, reloads, takes over, scales and kills under load, and counts lost requests.
#[derive(Parser)]
struct Args {
    /// Scenarios to run: drain, reload, takeover, scale, controller, crash, flapping, scrape, or a variant
    /// such as drain:dns; default: all except scrape, which needs a quiet machine
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    scenario: Vec<String>,
    /// Repetitions of each scenario
    #[arg(long, value_name = "N", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Requests per second
    #[arg(long, value_name = "R", default_value_t = 20_000.0, value_parser = rate)]
    rate: f64,
    /// Directory of lbd; default: the parent of this program's directory
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Write the outcomes as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (10.0..=1e6).contains(&rate) => Ok(rate),
        _ => Err("not a number of requests per second from 10 to 1000000".to_owned()),
    }
}

const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(200);
/// 20 s, at one reload every 100 ms.
const RELOADS: u32 = 200;
const FLAP_FOR: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tell(format_args!("service: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let setup = Setup {
        bin_dir: bin_dir(args)?,
        rate: args.rate,
        repeat: args.repeat,
        patience: PATIENCE,
        pause: PAUSE,
        reloads: RELOADS,
        flap_for: FLAP_FOR,
    };
    let chosen = chosen(&args.scenario)?;
    end_all_at_the_end()?;
    let (mut outcomes, mut all_pass) = (vec![], true);
    for scenario in chosen {
        let (name, of) = scenario.name();
        tell(format_args!("{name} {of} ..."));
        match scenario.run(&setup) {
            Ok(outcome) => {
                all_pass &= outcome.passes();
                print(format_args!("{}", table(&outcome)))?;
                outcomes.push(outcome);
            }
            Err(error) => {
                all_pass = false;
                print(format_args!("FAIL  {name} {of}: could not run: {error:#}\n"))?;
            }
        }
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&outcomes)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(all_pass)
}

/// The directory of `lbd`. By default the parent of this program's directory, since cargo puts examples into
/// a subdirectory of the programs' directory.
fn bin_dir(args: &Args) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the path of this program")?;
    let beside = own.parent().and_then(|examples| examples.parent()).map(PathBuf::from);
    let dir = args.bin_dir.clone().or(beside).context("cannot find the directory of lbd; set --bin-dir")?;
    if !dir.join("lbd").is_file() {
        bail!("cannot find lbd in {}; run `cargo build --release --bins`, or set --bin-dir", dir.display());
    }
    Ok(dir.canonicalize()?)
}

fn chosen(names: &[String]) -> Result<Vec<Scenario>> {
    let all = Scenario::ALL;
    if names.is_empty() {
        return Ok(all.into_iter().filter(|scenario| *scenario != Scenario::Scrape).collect());
    }
    let mut chosen = vec![];
    for wanted in names {
        let fits = |scenario: &Scenario| {
            let (name, of) = scenario.name();
            wanted == name || *wanted == format!("{name}:{}", of.replace(' ', ":"))
        };
        let before = chosen.len();
        chosen.extend(all.into_iter().filter(fits));
        if chosen.len() == before {
            let known: Vec<String> =
                all.map(|s| s.name()).iter().map(|(n, of)| format!("{n}:{}", of.replace(' ', ":"))).collect();
            bail!("--scenario {wanted}: unknown scenario; use {}", known.join(", "));
        }
    }
    Ok(chosen)
}

/// Ends all started processes when a signal or a panic ends this program.
fn end_all_at_the_end() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.forever().next().is_some() {
            processes::end_everything();
            #[expect(
                clippy::disallowed_methods,
                reason = "main waits for a scenario; all processes have ended"
            )]
            std::process::exit(130);
        }
    })?;
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        processes::end_everything();
    }));
    Ok(())
}

fn table(outcome: &Outcome) -> String {
    let Outcome {
        scenario,
        of,
        repeats,
        requests,
        lost,
        refused,
        wrong,
        late,
        kernel_drops,
        own_drops,
        unsent,
        ..
    } = outcome;
    let verdict = if outcome.passes() { "PASS" } else { "FAIL" };
    let mut text = format!(
        "{verdict}  {scenario} {of}: {repeats} times, {requests} requests, \
         {lost} lost ({late} of them late), {refused} refused, {wrong} wrong, slowest {:.1} ms\n",
        outcome.slowest_ms
    );
    for check in &outcome.checks {
        let wanted = match (check.least, check.most) {
            (Some(least), _) => format!("at least {least}"),
            (_, Some(most)) => format!("at most {most}"),
            (None, None) => "-".to_owned(),
        };
        let mark = if check.holds() { " " } else { "!" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "   {mark}  {:<52} {:>12.4}  {wanted}", check.what, check.value);
    }
    if kernel_drops + own_drops + unsent > 0 {
        let _ = writeln!(
            text,
            "      (full receive buffers: {kernel_drops} at the balancer, {own_drops} at the clients; \
             {unsent} not sent in time)"
        );
    }
    text
}
