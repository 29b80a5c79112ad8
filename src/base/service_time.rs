//! Service times of simulated work. Pure: the randomness is an argument.

use std::str::FromStr;
use std::time::Duration;

use super::duration::exact;

/// A distribution of service times, written `exp:5ms`, `fixed:1ms`, `bimodal:5ms`, `lognormal:5ms` or
/// `pareto:5ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceTime {
    shape: Shape,
    mean: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Fixed,
    Exponential,
    /// 90 % take half the mean, 10 % take 5.5 times the mean.
    Bimodal,
    /// Sigma is 1.
    LogNormal,
    /// The tail falls with [`TAIL`].
    Pareto,
}

/// Exponent of the tail of a Pareto distribution: above 2, so that its variance is finite.
const TAIL: f64 = 2.2;

const SHAPES: [(&str, Shape); 5] = [
    ("fixed", Shape::Fixed),
    ("exp", Shape::Exponential),
    ("bimodal", Shape::Bimodal),
    ("lognormal", Shape::LogNormal),
    ("pareto", Shape::Pareto),
];

impl ServiceTime {
    /// A constant service time.
    pub fn fixed(mean: Duration) -> Self {
        ServiceTime { shape: Shape::Fixed, mean }
    }

    /// An exponential distribution.
    pub fn exponential(mean: Duration) -> Self {
        ServiceTime { shape: Shape::Exponential, mean }
    }

    /// The mean.
    pub fn mean(&self) -> Duration {
        self.mean
    }

    /// The squared coefficient of variation: 0 for a constant, 1 for an exponential distribution.
    pub fn variability(&self) -> f64 {
        match self.shape {
            Shape::Fixed => 0.0,
            Shape::Exponential => 1.0,
            Shape::Bimodal => 2.25,
            Shape::LogNormal => std::f64::consts::E - 1.0,
            Shape::Pareto => 1.0 / (TAIL * (TAIL - 2.0)),
        }
    }

    /// Draws a service time. `unit` gives independent numbers in [0, 1).
    pub fn sample(&self, unit: &mut impl FnMut() -> f64) -> Duration {
        // 1 - u is in (0, 1], so its logarithm is finite.
        let factor = match self.shape {
            Shape::Fixed => 1.0,
            Shape::Exponential => -(1.0 - unit()).ln(),
            Shape::Bimodal if unit() < 0.9 => 0.5,
            Shape::Bimodal => 5.5,
            Shape::LogNormal => {
                // Box-Muller; the mean of exp(N) is exp(1/2).
                let normal = (-2.0 * (1.0 - unit()).ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
                (normal - 0.5).exp()
            }
            Shape::Pareto => (TAIL - 1.0) / TAIL * (1.0 - unit()).powf(-1.0 / TAIL),
        };
        self.mean.mul_f64(factor)
    }
}

impl std::fmt::Display for ServiceTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = SHAPES.iter().find(|(_, shape)| *shape == self.shape).map_or("", |(name, _)| name);
        write!(f, "{name}:{}", exact(self.mean))
    }
}

/// The text is no service time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no service time; use SHAPE:MEAN with the shape fixed, exp, bimodal, lognormal or pareto, \
     such as exp:5ms"
)]
pub struct BadServiceTime(String);

impl FromStr for ServiceTime {
    type Err = BadServiceTime;
    fn from_str(text: &str) -> Result<Self, BadServiceTime> {
        let bad = || BadServiceTime(text.to_owned());
        let (name, mean) = text.split_once(':').ok_or_else(bad)?;
        let (_, shape) = SHAPES.iter().find(|(known, _)| *known == name).ok_or_else(bad)?;
        let mean = humantime::parse_duration(mean.trim()).map_err(|_| bad())?;
        if mean.is_zero() || mean > Duration::from_secs(60) {
            return Err(bad());
        }
        Ok(ServiceTime { shape: *shape, mean })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    #[test]
    fn every_shape_keeps_its_mean() {
        for (name, _) in SHAPES {
            let service: ServiceTime = format!("{name}:5ms").parse().unwrap();
            let mut rng = Rng::new(1);
            let n = 200_000;
            let sum: f64 = (0..n).map(|_| service.sample(&mut || rng.unit_f64()).as_secs_f64()).sum();
            let mean_ms = sum / f64::from(n) * 1e3;
            assert!((mean_ms - 5.0).abs() < 0.1, "{name}: {mean_ms} ms");
        }
    }

    #[test]
    fn what_is_printed_can_be_read() {
        for text in ["exp:5ms", "bimodal:1s 500ms"] {
            let service: ServiceTime = text.parse().unwrap();
            assert_eq!(service.to_string().parse(), Ok(service));
        }
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "exp", "exp:", "exp:5", "exp:0ms", "gauss:5ms", "exp:-1ms", "exp:2m"] {
            let error = text.parse::<ServiceTime>().unwrap_err().to_string();
            assert!(error.contains("exp:5ms"), "{error}");
        }
    }
}
