//! When requests should leave.

use std::str::FromStr;

use crate::rng::Rng;
use crate::time::Instant;

/// How the gaps between requests are distributed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrivals {
    /// Exponential gaps, a Poisson process: what many independent users look like.
    #[default]
    Poisson,
    /// Equal gaps.
    Constant,
}

impl FromStr for Arrivals {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "poisson" => Ok(Arrivals::Poisson),
            "constant" => Ok(Arrivals::Constant),
            other => Err(format!("`{other}` is neither `poisson` nor `constant`")),
        }
    }
}

/// An endless sequence of moments at a mean rate.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    start: Instant,
    /// Nanoseconds.
    mean_gap: f64,
    /// Of the next request, in nanoseconds after `start`. Exact enough for 100 days.
    offset: f64,
    rng: Rng,
}

impl Schedule {
    /// `rate` requests per second, more than 0. The first request is one gap after `start`, so that many schedules of
    /// one rate do not all begin with a request.
    pub fn new(rate: f64, arrivals: Arrivals, start: Instant, seed: u64) -> Self {
        assert!(rate.is_finite() && rate > 0.0, "rate {rate}");
        let mut schedule =
            Schedule { arrivals, start, mean_gap: 1e9 / rate, offset: 0.0, rng: Rng::new(seed) };
        schedule.advance();
        schedule
    }

    /// When the next request should leave.
    pub fn next(&self) -> Instant {
        Instant::from_nanos(self.start.as_nanos().saturating_add(self.offset as u64))
    }

    /// Goes on to the request after it.
    pub fn advance(&mut self) {
        self.offset += match self.arrivals {
            Arrivals::Poisson => -(1.0 - self.rng.unit_f64()).ln() * self.mean_gap,
            Arrivals::Constant => self.mean_gap,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(arrivals: Arrivals) -> Vec<f64> {
        let mut schedule = Schedule::new(1000.0, arrivals, Instant::from_nanos(7), 3);
        let mut last = Instant::from_nanos(7);
        (0..100_000)
            .map(|_| {
                let next = schedule.next();
                schedule.advance();
                let gap = next.since(last).as_nanos() as f64;
                last = next;
                gap
            })
            .collect()
    }

    #[test]
    fn constant_gaps_are_equal_and_do_not_drift() {
        let gaps = gaps(Arrivals::Constant);
        assert!(gaps.iter().all(|gap| (gap - 1e6).abs() <= 1.0));
        assert_eq!(gaps.iter().sum::<f64>(), 1e11);
    }

    #[test]
    fn poisson_gaps_have_mean_and_deviation_of_an_exponential() {
        let gaps = gaps(Arrivals::Poisson);
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 1e6).abs() < 2e4, "mean {mean}");
        assert!((variance.sqrt() - 1e6).abs() < 3e4, "deviation {}", variance.sqrt());
    }

    #[test]
    fn a_gap_longer_than_any_clock_is_only_a_long_gap() {
        let schedule = Schedule::new(1e-300, Arrivals::Poisson, Instant::ZERO, 3);
        assert!(schedule.next() > Instant::ZERO + std::time::Duration::from_secs(86_400));
    }

    #[test]
    fn a_seed_repeats_its_schedule() {
        assert_eq!(gaps(Arrivals::Poisson), gaps(Arrivals::Poisson));
    }
}
