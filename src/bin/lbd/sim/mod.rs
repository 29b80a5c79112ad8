//! `lbd sim`: the policy lab.

mod loads;
mod table;
mod words;

use std::io::IsTerminal;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail};
use lbd::lab::{Contender, PoolKind, Results, Setup, Study};
use lbd::terminal::{print, tell};
use lbd::wire::ReplyPath;

use crate::args::Sim;
pub use loads::Loads;

/// Simulates, and says what came out.
pub fn run(args: &Sim) -> Result<()> {
    let study = study(args)?;
    let results = study.run(threads(args), &progress(study.run_count()))?;
    if args.json {
        print(format_args!("{}\n", table::json(&study, &results)))?;
    } else {
        let words: Vec<String> =
            words::of(&study.setup).into_iter().map(|(word, value)| format!("{word} {value}")).collect();
        print(format_args!("{}; seed {}\n\n{}", words.join(", "), study.seed, table::render(&results)))?;
    }
    if !args.quiet {
        tell(format_args!("{}", cost(&results)));
    }
    Ok(())
}

/// What the arguments ask for.
fn study(args: &Sim) -> Result<Study> {
    let kind = args.pool.into();
    let reply_path = args.reply_path.into();
    if kind == PoolKind::Datagram && reply_path == ReplyPath::Direct {
        bail!(
            "--reply-path direct is for --pool native: servers that know nothing of lbd answer whom they hear from"
        );
    }
    if kind == PoolKind::Datagram && args.clients > 0 {
        bail!("--clients are for --pool native: they speak its frames");
    }
    let setup = Setup {
        kind,
        servers: args.servers as usize,
        balancers: usize::from(args.balancers),
        subset: args.subset.map(usize::from),
        groups: args.speeds.clone(),
        spells: args.slow.clone(),
        weighted: args.weighted,
        service: args.service,
        staleness: args.staleness,
        reply_path,
        reports_turns: !args.reports_at_interval_only,
        rtt: args.rtt,
        jitter: args.jitter,
        loss: args.loss,
        clients: usize::from(args.clients),
        requests: args.requests as usize,
        warmup: args.warmup.unwrap_or(args.requests / 10) as usize,
    };
    if setup.warmup >= setup.requests {
        bail!("--warmup {} leaves none of --requests {}", setup.warmup, setup.requests);
    }
    let slow = setup.spells.iter().map(|spell| spell.count).max().unwrap_or(0);
    let named = setup.groups.iter().map(|group| group.count).sum::<usize>().max(slow);
    if named > setup.servers {
        bail!("--speeds and --slow speak of {named} servers, --servers of {}", setup.servers);
    }
    Ok(Study {
        setup,
        contenders: contenders(&args.policy)?,
        loads: args.load.0.clone(),
        seed: args.seed,
        repeats: args.repeats,
    })
}

/// Who takes part.
fn contenders(names: &[String]) -> Result<Vec<Contender>> {
    if names.iter().any(|name| name == "all") {
        return Ok(Contender::all());
    }
    Ok(names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?)
}

fn threads(args: &Sim) -> usize {
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    args.threads.map_or_else(all, usize::from)
}

/// Shows on a terminal how far it is.
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

/// What the simulation itself took.
fn cost(results: &Results) -> String {
    let mut by_name: Vec<(&str, f64)> = vec![];
    for row in results.loads.iter().flat_map(|at_load| &at_load.compared) {
        let seconds = row.cpu.as_secs_f64();
        match by_name.iter_mut().find(|(name, _)| *name == row.name) {
            Some((_, sum)) => *sum += seconds,
            None => by_name.push((&row.name, seconds)),
        }
    }
    let total: f64 = by_name.iter().map(|(_, seconds)| seconds).sum();
    let each: Vec<String> = by_name.iter().map(|(name, seconds)| format!("{name} {seconds:.2} s")).collect();
    format!("{total:.2} s of processor time: {}", each.join(", "))
}
