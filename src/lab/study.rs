//! Comparison of many runs: policies on the same traces, at several loads, repeated with other seeds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::contender::PolicyUnderTest;
use super::datagram::DatagramModel;
use super::figures::{Figures, Quantiles, SHARES, SimLedger};
use super::ideal::{central_queue, exact_shortest_queue};
use super::interval::{self, Interval};
use super::native::NativeModel;
use super::outcome::Outcome;
use super::setup::{PoolKind, Setup};
use super::steady::warm_up;
use super::trace::RequestTrace;
use super::world::{NotReady, World};
use crate::base::time::thread_time;

/// A system under a load.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The system.
    pub setup: Setup,
    /// The load as a share of the total capacity.
    pub load: f64,
}

/// A comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Study {
    /// The cases.
    pub cases: Vec<Case>,
    /// The policies under test.
    pub contenders: Vec<PolicyUnderTest>,
    /// Seed of the first repeat; each further repeat uses the next seed.
    pub seed: u64,
    /// Number of repeats; each has another trace.
    pub repeats: u64,
}

/// A metric over the repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Minimum.
    pub least: f64,
    /// Maximum.
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

/// Result of a policy in a case, relative to the ideal.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Name of the policy.
    pub name: String,
    /// Results over the repeats: sums of counts, means of means, percentiles of all latencies.
    pub figures: Figures,
    /// p50, p99 and p99.9 relative to the central queue on the same trace.
    pub ratios: [Spread; 3],
    /// How sure the figures are.
    pub intervals: Intervals,
    /// CPU time of the simulation; not a result.
    pub cpu: Duration,
}

/// Intervals of a policy's figures; `None` if the runs are too short, or never steady.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Intervals {
    /// Of the latency percentiles, in nanoseconds.
    pub latency: [Option<Interval>; 3],
    /// Of their ratios to the ideal.
    pub ratios: [Option<Interval>; 3],
    /// Of the mean regret, in requests.
    pub regret: Option<Interval>,
    /// Of the mean error, in requests.
    pub error: Option<Interval>,
}

/// All policies in a case.
#[derive(Clone, Debug, PartialEq)]
pub struct InCase {
    /// The load as a share of the total capacity.
    pub load: f64,
    /// Requests per second.
    pub rate: f64,
    /// Requests of each run.
    pub requests: usize,
    /// Of these, requests at the start that do not count.
    pub warmup: usize,
    /// Whether the runs are steady after the warm-up. Otherwise the figures depend on the length of the runs.
    pub is_steady: bool,
    /// Latencies of the central queue, [`central_queue`].
    pub ideal: Quantiles,
    /// The intervals of its percentiles.
    pub ideal_intervals: [Option<Interval>; 3],
    /// First the exact policy without a network, [`exact_shortest_queue`], then the policies under test.
    pub compared: Vec<Compared>,
}

/// Name of [`exact_shortest_queue`] among the policies.
pub const EXACT: &str = "exact";

/// Runs one policy once. The same seed always gives the same results.
pub fn simulate(
    setup: &Setup,
    contender: PolicyUnderTest,
    trace: &RequestTrace,
    seed: u64,
) -> Result<Figures, NotReady> {
    let ledger = play(setup, contender, trace, seed)?;
    let found = || warm_up(ledger.outcomes().iter().map(|outcome| outcome.latency())).requests;
    Ok(ledger.figures(setup.warmup.unwrap_or_else(found)))
}

/// Runs one policy once, and returns the ledger of all requests.
pub(super) fn play(
    setup: &Setup,
    contender: PolicyUnderTest,
    trace: &RequestTrace,
    seed: u64,
) -> Result<SimLedger, NotReady> {
    match setup.kind {
        PoolKind::Native => Ok(World::<NativeModel>::new(setup, contender, trace, seed)?.run()),
        PoolKind::Datagram => Ok(World::<DatagramModel>::new(setup, contender, trace, seed)?.run()),
    }
}

/// A run of a policy or of the exact policy, and its CPU time.
struct PolicyRun {
    ledger: SimLedger,
    cpu: Duration,
}

/// A repeat: the central queue, and the run of each policy on the same trace.
struct Repeat {
    ideal: SimLedger,
    runs: Vec<PolicyRun>,
}

impl Study {
    /// Runs the study on at least one thread, and returns the result of each case. It calls `done` after
    /// each run. The results do not depend on the number of threads.
    pub fn run(&self, threads: usize, done: &(dyn Fn() + Sync)) -> Result<Vec<InCase>, NotReady> {
        self.cases.iter().map(|case| self.run_case(case, threads, done)).collect()
    }

    /// Number of runs.
    pub fn run_count(&self) -> usize {
        self.cases.len() * self.repeats as usize * (self.contenders.len() + 1)
    }

    fn run_case(&self, case: &Case, threads: usize, done: &(dyn Fn() + Sync)) -> Result<InCase, NotReady> {
        let Case { setup, load } = case;
        let speeds = setup.speeds();
        let mut repeats = vec![];
        for repeat in 0..self.repeats {
            let seed = self.seed.wrapping_add(repeat);
            let trace = setup.trace(*load, seed);
            let ideal = SimLedger::answered(central_queue(&trace, &speeds), 0);
            let runs = in_parallel(self.contenders.len() + 1, threads, |index| {
                let before = thread_time();
                let ledger = match index.checked_sub(1) {
                    Some(contender) => play(setup, self.contenders[contender], &trace, seed)?,
                    None => {
                        let (latencies, queue_max) = exact_shortest_queue(&trace, &speeds, seed);
                        SimLedger::answered(latencies, queue_max)
                    }
                };
                done();
                Ok(PolicyRun { ledger, cpu: thread_time().saturating_sub(before) })
            })?;
            repeats.push(Repeat { ideal, runs });
        }
        let names: Vec<String> = std::iter::once(EXACT.to_owned())
            .chain(self.contenders.iter().map(PolicyUnderTest::to_string))
            .collect();
        Ok(judge(case, &names, &repeats))
    }
}

/// The results of a case from all its runs, which count the same requests.
fn judge(case: &Case, names: &[String], repeats: &[Repeat]) -> InCase {
    let Case { setup, load } = case;
    let ledgers = repeats
        .iter()
        .flat_map(|repeat| std::iter::once(&repeat.ideal).chain(repeat.runs.iter().map(|run| &run.ledger)));
    let found = ledgers.map(|ledger| warm_up(ledger.outcomes().iter().map(|outcome| outcome.latency())));
    let (found, is_over) =
        found.fold((0, true), |(most, all), one| (most.max(one.requests), all && one.is_over));
    let warmup = setup.warmup.unwrap_or(found);
    let is_steady = *load < 1.0 && (is_over || setup.warmup.is_some());
    let ideals: Vec<&SimLedger> = repeats.iter().map(|repeat| &repeat.ideal).collect();
    let ideal = Latencies::of(&ideals, warmup, is_steady);
    let compared = names.iter().enumerate().map(|(index, name)| {
        let runs: Vec<&PolicyRun> = repeats.iter().map(|repeat| &repeat.runs[index]).collect();
        let ledgers: Vec<&SimLedger> = runs.iter().map(|run| &run.ledger).collect();
        let ours = Latencies::of(&ledgers, warmup, is_steady);
        let figures: Vec<Figures> = ledgers.iter().map(|ledger| ledger.figures(warmup)).collect();
        let ratio = |of: usize| {
            let ideal = |ledger: &SimLedger| ledger.figures(warmup).latency.all()[of].max(1) as f64;
            let ratio =
                |(ours, ledger): (&Figures, &&SimLedger)| ours.latency.all()[of] as f64 / ideal(ledger);
            Spread::of(figures.iter().zip(&ideals).map(ratio).collect())
        };
        let ratios = [ratio(0), ratio(1), ratio(2)];
        let intervals = Intervals {
            latency: ours.intervals,
            ratios: [0, 1, 2].map(|of| ours.ratio(&ideal, of, ratios[of].median)),
            regret: mean_of_parts(&ledgers, warmup, 0).filter(|_| is_steady),
            error: mean_of_parts(&ledgers, warmup, 1).filter(|_| is_steady),
        };
        Compared {
            name: name.clone(),
            figures: Figures::together(ours.quantiles, figures.iter()),
            ratios,
            intervals,
            cpu: runs.iter().map(|run| run.cpu).sum(),
        }
    });
    InCase {
        load: *load,
        rate: setup.rate(*load),
        requests: setup.requests,
        warmup,
        is_steady,
        compared: compared.collect(),
        ideal: ideal.quantiles,
        ideal_intervals: ideal.intervals,
    }
}

/// Latencies of all repeats that count.
struct Latencies<'a> {
    runs: Vec<&'a [Outcome]>,
    quantiles: Quantiles,
    intervals: [Option<Interval>; 3],
}

impl<'a> Latencies<'a> {
    fn of(ledgers: &[&'a SimLedger], warmup: usize, is_steady: bool) -> Self {
        let counted = |ledger: &&'a SimLedger| &ledger.outcomes()[warmup.min(ledger.outcomes().len())..];
        let runs: Vec<&[Outcome]> = ledgers.iter().map(counted).collect();
        let mut sorted: Vec<u64> =
            runs.iter().flat_map(|run| run.iter().filter_map(|one| one.latency())).collect();
        sorted.sort_unstable();
        let interval = |share| interval::of_quantile(&sorted, &runs, share).filter(|_| is_steady);
        Latencies { quantiles: Quantiles::of_sorted(&sorted), intervals: SHARES.map(interval), runs }
    }

    /// The interval of the ratio of a percentile to that of the ideal.
    fn ratio(&self, ideal: &Latencies, of: usize, ratio: f64) -> Option<Interval> {
        let pairs: Vec<_> = self.runs.iter().zip(&ideal.runs).map(|(ours, ideal)| [*ours, *ideal]).collect();
        self.intervals[of].and_then(|_| interval::of_ratio(ratio, &pairs, SHARES[of]))
    }
}

/// The interval of the mean regret (0) or error (1).
fn mean_of_parts(ledgers: &[&SimLedger], warmup: usize, of: usize) -> Option<Interval> {
    let parts: Vec<Vec<f64>> = ledgers.iter().map(|ledger| ledger.means(warmup)[of].clone()).collect();
    let runs: Vec<&[f64]> = parts.iter().map(Vec::as_slice).collect();
    interval::of_mean(&runs)
}

/// Results of a function for each number below `count`, in order.
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
        place.into_inner().expect("written once").expect("every number was processed")
    };
    results.into_iter().map(result).collect()
}
