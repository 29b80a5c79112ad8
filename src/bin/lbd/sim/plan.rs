//! Converts the arguments to a study: cases along one axis, and the policies under test.

use anyhow::{Result, bail};
use lbd::base::duration::exact;
use lbd::lab::{Case, PolicyUnderTest, PoolKind, Setup, Study};
use lbd::report::chart::{Axis, Numbers};
use lbd::wire::ReplyPath;

use super::args::SimArgs;

/// A study, and the property that differs between its cases.
pub struct StudyPlan {
    pub study: Study,
    pub along: Along,
}

/// The option with several values, or `--load`.
pub struct Along {
    /// Name of the option.
    pub name: &'static str,
    /// Value and label of each case.
    pub values: Vec<(f64, String)>,
    /// Axis of the charts.
    pub axis: Axis,
}

/// An option that may have several values.
struct Dimension<'a> {
    name: &'static str,
    values: Vec<(f64, String)>,
    axis: Axis,
    set: &'a dyn Fn(&mut Case, usize),
}

impl StudyPlan {
    pub fn new(args: &SimArgs) -> Result<StudyPlan> {
        let contenders = contenders(&args.policy)?;
        let time = |label: &str, values: &[std::time::Duration]| {
            let word = |time: &std::time::Duration| (time.as_secs_f64() * 1e6, exact(*time).to_string());
            let axis = if values.iter().any(std::time::Duration::is_zero) {
                Axis::linear(label)
            } else {
                Axis::log(label)
            };
            (values.iter().map(word).collect::<Vec<_>>(), axis.numbers(Numbers::Micros))
        };
        let number = |n: f64| (n, n.to_string());
        let (staleness, staleness_axis) = time("interval of a server's reports", &args.staleness);
        let (rtt, rtt_axis) = time("round-trip time between balancer and server", &args.rtt);
        let dimensions = [
            Dimension {
                name: "load",
                values: args.load.0.iter().map(|&load| number(load)).collect(),
                axis: Axis::linear("load, share of the total capacity"),
                set: &|case, n| case.load = args.load.0[n],
            },
            Dimension {
                name: "servers",
                values: args.servers.iter().map(|&n| number(n.into())).collect(),
                axis: Axis::log("servers"),
                set: &|case, n| case.setup.servers = args.servers[n] as usize,
            },
            Dimension {
                name: "balancers",
                values: args.balancers.iter().map(|&n| number(n.into())).collect(),
                axis: Axis::log("balancers that share the servers"),
                set: &|case, n| case.setup.balancers = usize::from(args.balancers[n]),
            },
            Dimension {
                name: "staleness",
                values: staleness,
                axis: staleness_axis,
                set: &|case, n| case.setup.staleness = args.staleness[n],
            },
            Dimension {
                name: "rtt",
                values: rtt,
                axis: rtt_axis,
                set: &|case, n| case.setup.rtt = args.rtt[n],
            },
            Dimension {
                name: "loss",
                values: args.loss.iter().map(|&share| (share, format!("{share}"))).collect(),
                axis: Axis::linear("probability that a datagram is lost").numbers(Numbers::Percent),
                set: &|case, n| case.setup.loss = args.loss[n],
            },
        ];
        let several: Vec<_> = dimensions.iter().filter(|dimension| dimension.values.len() > 1).collect();
        if let [one, other, ..] = several[..] {
            bail!("--{} and --{} both have several values; vary only one", one.name, other.name);
        }
        let first = |case: &mut Case| dimensions.iter().for_each(|dimension| (dimension.set)(case, 0));
        let along = several.first().copied().unwrap_or(&dimensions[0]);
        let mut cases = vec![];
        for n in 0..along.values.len() {
            let mut case = Case { setup: setup(args), load: 0.0 };
            first(&mut case);
            (along.set)(&mut case, n);
            if args.requests.is_none() {
                case.setup.requests = case.setup.planned_requests(case.load);
            }
            check(&case)?;
            cases.push(case);
        }
        if args.overload.is_some() && cases.len() > 1 {
            bail!("--overload needs one system and one --load; give --{} a single value", along.name);
        }
        let along = Along { name: along.name, values: along.values.clone(), axis: along.axis.clone() };
        Ok(StudyPlan { study: Study { cases, contenders, seed: args.seed, repeats: args.repeats }, along })
    }
}

/// The setup that all cases share.
fn setup(args: &SimArgs) -> Setup {
    Setup {
        kind: args.pool.into(),
        subset: args.subset.map(usize::from),
        groups: args.speeds.clone(),
        spells: args.slow.clone(),
        weighted: args.weighted,
        gaps: args.arrivals.clone(),
        service: args.service.clone(),
        reply_path: args.reply_path.into(),
        reports_turns: !args.reports_at_interval_only,
        jitter: args.jitter,
        clients: args.clients.map_or_else(|| if args.overload.is_some() { CLIENTS } else { 0 }, usize::from),
        requests: args.requests.unwrap_or_default() as usize,
        warmup: args.warmup.map(|requests| requests as usize),
        ..Setup::default()
    }
}

/// Default number of retrying clients with `--overload`.
const CLIENTS: usize = 64;

/// The policies under test.
fn contenders(names: &[String]) -> Result<Vec<PolicyUnderTest>> {
    if names.iter().any(|name| name == "all") {
        return Ok(PolicyUnderTest::all());
    }
    Ok(names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?)
}

/// Rejects options that conflict, as far as clap cannot.
fn check(Case { setup, .. }: &Case) -> Result<()> {
    if setup.kind == PoolKind::Datagram && setup.reply_path == ReplyPath::Direct {
        bail!(
            "--reply-path direct applies only to --pool native; unmodified servers reply to the sender of \
             a datagram"
        );
    }
    if setup.kind == PoolKind::Datagram && setup.clients > 0 {
        bail!("--clients and --overload apply only to --pool native; these clients send its frames");
    }
    if let Some(warmup) = setup.warmup.filter(|warmup| *warmup >= setup.requests) {
        bail!("--warmup {warmup} leaves no request of --requests {}; lower it", setup.requests);
    }
    let slow = setup.spells.iter().map(|spell| spell.count).max().unwrap_or(0);
    let named = setup.groups.iter().map(|group| group.count).sum::<usize>().max(slow);
    if named > setup.servers {
        bail!("--speeds and --slow name {named} servers, but --servers is {}", setup.servers);
    }
    if setup.balancers * setup.servers_of_one() < setup.servers {
        bail!(
            "{} balancers with {} servers each leave some of --servers {} without a balancer; raise \
             --balancers or --subset",
            setup.balancers,
            setup.servers_of_one(),
            setup.servers
        );
    }
    Ok(())
}
