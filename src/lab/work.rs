//! What a trace is made of: gaps between requests, and their work.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::rng::Rng;
use crate::base::service_time::{BadServiceTime, ServiceTime};

/// Numbers from a file, with its name for outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Name of the file.
    pub name: String,
    /// The numbers in nanoseconds, at least one, with a mean above 0.
    pub nanos: Arc<[u64]>,
}

impl Listed {
    fn mean(&self) -> f64 {
        self.nanos.iter().map(|&nanos| nanos as f64).sum::<f64>() / self.nanos.len() as f64
    }

    /// Squared coefficient of variation.
    fn variability(&self) -> f64 {
        let mean = self.mean();
        let squares = self.nanos.iter().map(|&nanos| (nanos as f64 - mean).powi(2)).sum::<f64>();
        squares / self.nanos.len() as f64 / mean.powi(2)
    }
}

/// Spacing of requests in time. The load sets the mean gap.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Gaps {
    /// Exponential gaps, a Poisson process.
    #[default]
    Exponential,
    /// Equal gaps.
    Equal,
    /// Bursts of this many requests at once, at equal gaps; at least 1.
    Bursts(u32),
    /// The gaps of a list in order, again and again.
    Listed(Listed),
}

impl Gaps {
    /// Squared coefficient of variation of a gap.
    pub fn variability(&self) -> f64 {
        match self {
            Gaps::Exponential => 1.0,
            Gaps::Equal => 0.0,
            Gaps::Bursts(count) => f64::from(count - 1),
            Gaps::Listed(list) => list.variability(),
        }
    }

    /// The gap before the `n`-th request, with a mean of 1.
    pub(super) fn gap(&self, n: usize, rng: &mut Rng) -> f64 {
        match self {
            Gaps::Exponential => -(1.0 - rng.unit_f64()).ln(),
            Gaps::Equal => 1.0,
            Gaps::Bursts(count) if n.is_multiple_of(*count as usize) => f64::from(*count),
            Gaps::Bursts(_) => 0.0,
            Gaps::Listed(list) => list.nanos[n % list.nanos.len()] as f64 / list.mean(),
        }
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gaps::Exponential => f.write_str("poisson"),
            Gaps::Equal => f.write_str("constant"),
            Gaps::Bursts(count) => write!(f, "burst:{count}"),
            Gaps::Listed(list) => write!(f, "trace:{}", list.name),
        }
    }
}

/// Service times of requests at speed 1.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// A distribution.
    Drawn(ServiceTime),
    /// Each number of a list is equally likely.
    Listed(Listed),
}

impl Work {
    /// The mean.
    pub fn mean(&self) -> Duration {
        match self {
            Work::Drawn(service) => service.mean(),
            Work::Listed(list) => Duration::from_nanos(list.mean() as u64),
        }
    }

    /// Squared coefficient of variation.
    pub fn variability(&self) -> f64 {
        match self {
            Work::Drawn(service) => service.variability(),
            Work::Listed(list) => list.variability(),
        }
    }

    /// Draws a service time in nanoseconds.
    pub(super) fn sample(&self, rng: &mut Rng) -> u64 {
        match self {
            Work::Drawn(service) => service.sample(&mut || rng.unit_f64()).as_nanos() as u64,
            Work::Listed(list) => list.nanos[rng.below(list.nanos.len() as u64) as usize],
        }
    }
}

impl From<ServiceTime> for Work {
    fn from(service: ServiceTime) -> Work {
        Work::Drawn(service)
    }
}

impl FromStr for Work {
    type Err = BadServiceTime;
    fn from_str(text: &str) -> Result<Work, BadServiceTime> {
        text.parse().map(Work::Drawn)
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Drawn(service) => service.fmt(f),
            Work::Listed(list) => write!(f, "file:{}", list.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_a_mean_of_one_and_their_variability() {
        let list = Listed { name: "x".into(), nanos: [100, 300, 200, 1_400].into() };
        for gaps in [Gaps::Exponential, Gaps::Equal, Gaps::Bursts(5), Gaps::Listed(list)] {
            let mut rng = Rng::new(1);
            let drawn: Vec<f64> = (0..200_000).map(|n| gaps.gap(n, &mut rng)).collect();
            let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
            let squares = drawn.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / drawn.len() as f64;
            assert!((mean - 1.0).abs() < 0.01, "{gaps}: {mean}");
            assert!((squares - gaps.variability()).abs() < 0.02, "{gaps}: {squares}");
        }
    }

    #[test]
    fn work_from_a_list_has_its_mean_and_all_its_times() {
        let work = Work::Listed(Listed { name: "times".into(), nanos: [1_000, 3_000].into() });
        assert_eq!((work.mean(), work.variability()), (Duration::from_micros(2), 0.25));
        let mut rng = Rng::new(2);
        let ones = (0..10_000).filter(|_| work.sample(&mut rng) == 1_000).count();
        assert!((4_800..5_200).contains(&ones), "{ones}");
        assert_eq!(work.to_string(), "file:times");
    }
}
