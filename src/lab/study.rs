//! Comparison of many runs: policies on the same traces, at several loads, repeated with other seeds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::contender::PolicyUnderTest;
use super::datagram::DatagramModel;
use super::figures::{Figures, Quantiles, SimLedger};
use super::ideal::{central_queue, exact_shortest_queue};
use super::native::NativeModel;
use super::setup::{PoolKind, Setup};
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
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Name of the policy.
    pub name: String,
    /// Results over the repeats: sums of counts, means of means, medians of latencies.
    pub figures: Figures,
    /// p50, p99 and p99.9 relative to the central queue on the same trace.
    pub ratios: [Spread; 3],
    /// CPU time of the simulation; not a result.
    #[serde(skip)]
    pub cpu: Duration,
}

/// All policies in a case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InCase {
    /// The load as a share of the total capacity.
    pub load: f64,
    /// Requests per second.
    pub rate: f64,
    /// Latencies of the central queue, [`central_queue`].
    pub ideal: Quantiles,
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
    Ok(play(setup, contender, trace, seed)?.figures())
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
    figures: Figures,
    cpu: Duration,
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
                Ok(PolicyRun { figures, cpu: thread_time().saturating_sub(before) })
            })?);
        }
        let names =
            std::iter::once(EXACT.to_owned()).chain(self.contenders.iter().map(PolicyUnderTest::to_string));
        let compared = names.enumerate().map(|(index, name)| {
            let runs: Vec<&PolicyRun> = repeats.iter().map(|runs| &runs[index]).collect();
            let ratio = |of: usize| {
                let quantile = |quantiles: &Quantiles| quantiles.all()[of] as f64;
                let pairs = runs.iter().zip(&ideals);
                let ratio = |(run, ideal): (&&PolicyRun, &Quantiles)| {
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
