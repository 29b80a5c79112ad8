//! Many runs, compared: contenders on the same traces, over loads, repeated with other seeds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::contender::PolicyUnderTest;
use super::datagram::Datagram;
use super::figures::{Figures, Ledger, Quantiles};
use super::ideal::{central_queue, exact_shortest_queue};
use super::native::Native;
use super::setup::{PoolKind, Setup};
use super::trace::Trace;
use super::world::{NotReady, World};
use crate::base::time::thread_time;

/// A system under a load.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The system.
    pub setup: Setup,
    /// A share of what all servers can do.
    pub load: f64,
}

/// What is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Study {
    /// Where.
    pub cases: Vec<Case>,
    /// Who takes part.
    pub contenders: Vec<PolicyUnderTest>,
    /// Of the first repeat; the others have the next ones.
    pub seed: u64,
    /// How often, each time with another trace.
    pub repeats: u64,
}

/// A figure over the repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        match values[..] {
            [] => Spread::default(),
            [least, .., most] => Spread { median: values[values.len() / 2], least, most },
            [only] => Spread { median: only, least: only, most: only },
        }
    }
}

/// A contender in a case, against the ideal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Its name.
    pub name: String,
    /// Its figures: counts are sums over the repeats, means are means, latencies medians.
    pub figures: Figures,
    /// p50, p99 and p99.9 as multiples of those of the central queue on the same trace.
    pub ratios: [Spread; 3],
    /// What its simulation took, which is no part of the outcome.
    #[serde(skip)]
    pub cpu: Duration,
}

/// All contenders in a case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InCase {
    /// The share of what all servers can do.
    pub load: f64,
    /// Requests per second.
    pub rate: f64,
    /// The central queue, [`central_queue`].
    pub ideal: Quantiles,
    /// What no network and exact knowledge would do, [`exact_shortest_queue`], and then the contenders.
    pub compared: Vec<Compared>,
}

/// The name of [`exact_shortest_queue`] among contenders.
pub const EXACT: &str = "exact";

/// One run of one contender. A seed gives the same figures, always.
pub fn simulate(
    setup: &Setup,
    contender: PolicyUnderTest,
    trace: &Trace,
    seed: u64,
) -> Result<Figures, NotReady> {
    Ok(play(setup, contender, trace, seed)?.figures())
}

/// The same; gives all that is known of each request.
pub(super) fn play(
    setup: &Setup,
    contender: PolicyUnderTest,
    trace: &Trace,
    seed: u64,
) -> Result<Ledger, NotReady> {
    match setup.kind {
        PoolKind::Native => Ok(World::<Native>::new(setup, contender, trace, seed)?.run()),
        PoolKind::Datagram => Ok(World::<Datagram>::new(setup, contender, trace, seed)?.run()),
    }
}

/// A contender's run, or that of exact knowledge, and the time that it took.
struct Run {
    figures: Figures,
    cpu: Duration,
}

impl Study {
    /// Runs it on so many threads, at least one, and gives the outcome of each case. `done` is told after each run. The
    /// outcome does not depend on the threads.
    pub fn run(&self, threads: usize, done: &(dyn Fn() + Sync)) -> Result<Vec<InCase>, NotReady> {
        self.cases.iter().map(|case| self.run_case(case, threads, done)).collect()
    }

    /// How many runs there are.
    pub fn run_count(&self) -> usize {
        self.cases.len() * self.repeats as usize * (self.contenders.len() + 1)
    }

    fn run_case(&self, case: &Case, threads: usize, done: &(dyn Fn() + Sync)) -> Result<InCase, NotReady> {
        let Case { setup, load } = case;
        let speeds = setup.speeds();
        let (mut ideals, mut repeats) = (vec![], vec![]);
        for repeat in 0..self.repeats {
            let seed = self.seed.wrapping_add(repeat);
            let trace = setup.trace(*load, seed);
            let counted = |latencies: Vec<u64>| Quantiles::of(latencies[setup.warmup..].to_vec());
            ideals.push(counted(central_queue(&trace, &speeds)));
            repeats.push(in_parallel(self.contenders.len() + 1, threads, |index| {
                let before = thread_time();
                let figures = match index.checked_sub(1) {
                    Some(contender) => simulate(setup, self.contenders[contender], &trace, seed)?,
                    None => {
                        let (latencies, queue_max) = exact_shortest_queue(&trace, &speeds, seed);
                        let requests = (latencies.len() - setup.warmup) as u64;
                        let latency = counted(latencies);
                        Figures { latency, requests, answered: requests, queue_max, ..Figures::default() }
                    }
                };
                done();
                Ok(Run { figures, cpu: thread_time().saturating_sub(before) })
            })?);
        }
        let names =
            std::iter::once(EXACT.to_owned()).chain(self.contenders.iter().map(PolicyUnderTest::to_string));
        let compared = names.enumerate().map(|(index, name)| {
            let runs: Vec<&Run> = repeats.iter().map(|runs| &runs[index]).collect();
            let ratio = |of: usize| {
                let quantile = |quantiles: &Quantiles| quantiles.all()[of] as f64;
                let pairs = runs.iter().zip(&ideals);
                let ratio = |(run, ideal): (&&Run, &Quantiles)| {
                    quantile(&run.figures.latency) / quantile(ideal).max(1.0)
                };
                Spread::of(pairs.map(ratio).collect())
            };
            Compared {
                name,
                ratios: [ratio(0), ratio(1), ratio(2)],
                figures: Figures::together(runs.iter().map(|run| &run.figures)),
                cpu: runs.iter().map(|run| run.cpu).sum(),
            }
        });
        Ok(InCase {
            load: *load,
            rate: setup.rate(*load),
            ideal: Quantiles::median(ideals.iter().copied()),
            compared: compared.collect(),
        })
    }
}

/// What a function gives for each number below `count`, in their order.
pub(super) fn in_parallel<T: Send, E: Send>(
    count: usize,
    threads: usize,
    of: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<T, E>>>> = (0..count).map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, count) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(place) = results.get(index) else { return };
                    *place.lock().expect("written once") = Some(of(index));
                }
            });
        }
    });
    let result = |place: Mutex<Option<Result<T, E>>>| {
        place.into_inner().expect("written once").expect("all numbers were given out")
    };
    results.into_iter().map(result).collect()
}
