//! Intervals of figures that come from one or more runs. Pure.
//!
//! Latencies of one run depend on each other: a long queue makes many requests slow. So the uncertainty comes
//! from *batch means* (Law, "Simulation Modeling and Analysis", chapter 9): each run is cut into batches, and
//! the batches' figures vary as the whole one would. Two corrections are those of Skart (Tafazzoli and
//! others, INFORMS Journal on Computing 23(4), 2011): neighbouring batches still depend on each other, and
//! figures of busy queues are skewed (Willink, "A Confidence Interval for the Mean of an Asymmetric
//! Distribution", 2005).
//!
//! The interval of a percentile is found in shares: the share of a batch's requests that are at most as slow
//! as the percentile. The interval of that share leads back to latencies. Where it ends beyond the last
//! requests, the tail is continued as an exponential one.

use super::outcome::Outcome;

/// Batches of all runs together, at least.
const BATCHES: usize = 20;
/// Minimum requests of a batch.
const BATCH_MIN: usize = 100;
/// A percentile needs this many requests above it.
const ABOVE_MIN: f64 = 10.0;
/// Upper limit of the assumed correlation of neighbouring batches.
const CORRELATION_MAX: f64 = 0.9;

/// Where a figure lies with a confidence of 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The batches of each run, in order; `None` if one would have fewer than `min` values.
fn batches<'a, T>(runs: &[&'a [T]], min: usize) -> Option<Vec<Vec<&'a [T]>>> {
    let of_one = BATCHES.div_ceil(runs.len().max(1)).max(2);
    let cut = |run: &&'a [T]| {
        let len = run.len() / of_one;
        (len >= min).then(|| run.chunks_exact(len).take(of_one).collect())
    };
    runs.iter().map(cut).collect()
}

/// How far the mean of batches may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Deviation {
    mean: f64,
    below: f64,
    above: f64,
}

impl Deviation {
    /// Of the figures of each run's batches, which have any order of magnitude. At least four batches.
    fn of(figures: &[Vec<f64>]) -> Option<Deviation> {
        let all = || figures.iter().flatten();
        let count = all().count() as f64;
        if count < 4.0 {
            return None;
        }
        let mean = all().sum::<f64>() / count;
        let moment = |power: i32| all().map(|figure| (figure - mean).powi(power)).sum::<f64>();
        let squares = moment(2);
        if squares <= f64::EPSILON * mean * mean {
            return Some(Deviation { mean, below: 0.0, above: 0.0 });
        }
        let next_to =
            |run: &Vec<f64>| -> f64 { run.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum() };
        let correlation = figures.iter().map(next_to).sum::<f64>() / squares;
        let correlation = correlation.clamp(0.0, CORRELATION_MAX);
        let deviation = (squares / (count - 1.0)).sqrt();
        let error = deviation / count.sqrt() * ((1.0 + correlation) / (1.0 - correlation)).sqrt();
        let skewness = count / ((count - 1.0) * (count - 2.0)) * moment(3) / deviation.powi(3);
        let even = student(count - 1.0);
        let tilt = skewness.abs() / (6.0 * count.sqrt());
        let tilted = (1.0 - (1.0 - 6.0 * tilt * (even + tilt)).cbrt()) / (2.0 * tilt);
        // Few batches reach into the long tail, so the true mean is rather on that side. The other side could
        // be nearer by the same correction, which is not used.
        let wide = if tilt < 1e-6 { even } else { tilted.max(even) };
        let [below, above] = if skewness < 0.0 { [wide, even] } else { [even, wide] };
        Some(Deviation { mean, below: below * error, above: above * error })
    }
}

/// The quantile of Student's distribution for 95 % with this many degrees of freedom, at least 3: Abramowitz
/// and Stegun, "Handbook of Mathematical Functions", 26.7.5.
fn student(freedom: f64) -> f64 {
    let z: f64 = 1.959_963_985;
    let g1 = (z.powi(3) + z) / 4.0;
    let g2 = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let g3 = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + g1 / freedom + g2 / freedom.powi(2) + g3 / freedom.powi(3)
}

/// The index of a quantile among `count` values in order; `None` if too few values are above it.
pub(super) fn rank(count: usize, share: f64) -> Option<usize> {
    let is_known = count as f64 * (1.0 - share) >= ABOVE_MIN - 1e-6;
    is_known.then_some((count as f64 * share) as usize)
}

/// The interval of a quantile, in the unit of the latencies. `sorted` has the latencies of all runs, `runs`
/// those of each run in the order of arrival.
pub(super) fn of_quantile(sorted: &[u64], runs: &[&[Outcome]], share: f64) -> Option<Interval> {
    let value = sorted[rank(sorted.len(), share)?];
    let below = |batch: &&[Outcome]| {
        let answered = batch.iter().filter_map(|outcome| outcome.latency());
        answered.clone().filter(|&latency| latency <= value).count() as f64 / answered.count().max(1) as f64
    };
    let shares: Vec<Vec<f64>> =
        batches(runs, BATCH_MIN)?.iter().map(|run| run.iter().map(below).collect()).collect();
    let deviation = Deviation::of(&shares)?;
    let at =
        |share: f64| sorted[((sorted.len() as f64 * share.max(0.0)) as usize).min(sorted.len() - 1)] as f64;
    // If the batches' shares are higher than the true share, the percentile is too low: the ends change
    // places.
    let (low, high) = (share - deviation.above, share + deviation.below);
    let high = match rank(sorted.len(), high) {
        Some(_) => at(high),
        // In an exponential tail, a tenth of the requests is above each further step.
        None => {
            let step = value as f64 - at(1.0 - 10.0 * (1.0 - share));
            value as f64 + step * (1.0 + deviation.below / (1.0 - share)).log10()
        }
    };
    Some(Interval { low: at(low), high })
}

/// The interval of a mean, from the means of the parts of each run.
pub(super) fn of_mean(runs: &[&[f64]]) -> Option<Interval> {
    let of_batch = |batch: &&[f64]| batch.iter().sum::<f64>() / batch.len() as f64;
    let means: Vec<Vec<f64>> =
        batches(runs, 1)?.iter().map(|run| run.iter().map(of_batch).collect()).collect();
    let Deviation { mean, below, above } = Deviation::of(&means)?;
    Some(Interval { low: mean - below, high: mean + above })
}

/// The interval of the ratio of two quantiles of the same requests, from the quantiles of each batch.
pub(super) fn of_ratio(ratio: f64, runs: &[[&[Outcome]; 2]], share: f64) -> Option<Interval> {
    let [ours, ideal] = [0, 1].map(|side| runs.iter().map(|run| run[side]).collect::<Vec<_>>());
    let quantile = |batch: &[Outcome]| {
        let mut answered: Vec<u64> = batch.iter().filter_map(|outcome| outcome.latency()).collect();
        answered.sort_unstable();
        let last = answered.len().checked_sub(1)?;
        Some(answered[((answered.len() as f64 * share) as usize).min(last)].max(1) as f64)
    };
    let of_batch =
        |(ours, ideal): (&&[Outcome], &&[Outcome])| Some((quantile(ours)? / quantile(ideal)?).ln());
    let of_run = |(ours, ideal): (&Vec<&[Outcome]>, &Vec<&[Outcome]>)| {
        ours.iter().zip(ideal).map(of_batch).collect::<Option<Vec<f64>>>()
    };
    let ratios: Option<Vec<_>> =
        batches(&ours, BATCH_MIN)?.iter().zip(&batches(&ideal, BATCH_MIN)?).map(of_run).collect();
    let Deviation { below, above, .. } = Deviation::of(&ratios?)?;
    Some(Interval { low: ratio * (-below).exp(), high: ratio * above.exp() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    #[test]
    fn students_quantiles_are_those_of_the_tables() {
        for (freedom, table) in [(3.0, 3.182), (5.0, 2.571), (10.0, 2.228), (19.0, 2.093), (120.0, 1.980)] {
            assert!((student(freedom) / table - 1.0).abs() < 0.01, "{freedom}: {}", student(freedom));
        }
    }

    #[test]
    fn a_percentile_of_few_requests_is_not_known() {
        assert_eq!((rank(999, 0.99), rank(1_000, 0.99), rank(9_999, 0.999)), (None, Some(990), None));
        assert_eq!((rank(0, 0.5), rank(10_000, 0.999)), (None, Some(9_990)));
        let latencies = vec![Outcome::answered(1); 1_000];
        let sorted = vec![1; 1_000];
        assert_eq!(of_quantile(&sorted, &[&latencies], 0.5), None, "batches of 50 requests are too short");
    }

    #[test]
    fn what_never_varies_has_an_interval_without_width() {
        let (latencies, sorted) = (vec![Outcome::answered(7); 20_000], vec![7; 20_000]);
        for share in [0.5, 0.99, 0.999] {
            assert_eq!(of_quantile(&sorted, &[&latencies], share), Some(Interval { low: 7.0, high: 7.0 }));
            let pair = [[&latencies[..], &latencies[..]]];
            assert_eq!(of_ratio(1.0, &pair, share), Some(Interval { low: 1.0, high: 1.0 }));
        }
        assert_eq!(of_mean(&[&[2.0; 20]]), Some(Interval { low: 2.0, high: 2.0 }));
        assert_eq!(of_mean(&[&[2.0; 19]]), None, "too few parts");
    }

    /// Of 100 runs with this many requests at one server, how many intervals hold the true quantile.
    fn held(load: f64, count: usize, share: f64, repeats: usize) -> usize {
        let right = -(1.0 - share).ln() / (1.0 - load) * 1_000.0;
        let holds = |seed: &u64| {
            let mut rng = Rng::new(*seed);
            let mut exponential = || -(1.0 - rng.unit_f64()).ln() * 1_000.0;
            let mut waits = 0.0;
            let mut next = |_| {
                let latency: f64 = waits + exponential();
                waits = (latency - exponential() / load).max(0.0);
                latency as u64
            };
            let mut sorted: Vec<u64> = (0..count).map(&mut next).collect();
            let outcomes: Vec<Outcome> = sorted.iter().copied().map(Outcome::answered).collect();
            let runs: Vec<&[Outcome]> = outcomes.chunks_exact(count / repeats).collect();
            sorted.sort_unstable();
            let found = of_quantile(&sorted, &runs, share).unwrap();
            (found.low..=found.high).contains(&right)
        };
        (0..100).filter(holds).count()
    }

    #[test]
    fn intervals_hold_the_truth_about_as_often_as_they_say() {
        for (load, count, share, repeats) in
            [(0.5, 20_000, 0.5, 1), (0.5, 20_000, 0.99, 1), (0.7, 30_000, 0.99, 1), (0.7, 30_000, 0.99, 3)]
        {
            let held = held(load, count, share, repeats);
            assert!(held >= 89, "{held} of 100 hold p{share} at load {load}");
        }
        assert!(held(0.5, 20_000, 0.99, 1) < 100, "an interval that always holds says too little");
    }

    #[test]
    fn a_ratio_of_the_same_requests_is_narrower_than_its_latencies() {
        let mut rng = Rng::new(3);
        let ideal: Vec<u64> = (0..50_000).map(|_| 1_000 + rng.below(9_000)).collect();
        let ours = ideal.iter().map(|one| Outcome::answered(one * 2 + rng.below(100))).collect::<Vec<_>>();
        let ideal: Vec<Outcome> = ideal.into_iter().map(Outcome::answered).collect();
        let found = of_ratio(2.0, &[[&ours, &ideal]], 0.99).unwrap();
        assert!((1.95..2.0).contains(&found.low) && (2.0..2.1).contains(&found.high), "{found:?}");
    }
}
