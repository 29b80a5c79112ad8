//! The moments at which requests should leave.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::trace::Trace;
use crate::base::rng::Rng;
use crate::base::time::Instant;

/// Default size of a burst.
const BURST: u32 = 10;
/// Maximum size of a burst.
const BURST_MAX: u32 = 1_000_000;

/// Spacing of requests in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Arrivals {
    /// Exponential gaps, a Poisson process: like many independent users.
    #[default]
    Poisson,
    /// Equal gaps.
    Constant,
    /// Bursts of this many requests, at equal gaps.
    Burst(u32),
    /// As in this file; [`Trace`] has the format.
    Trace(PathBuf),
}

impl FromStr for Arrivals {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "poisson" => Ok(Arrivals::Poisson),
            None if text == "constant" => Ok(Arrivals::Constant),
            None if text == "burst" => Ok(Arrivals::Burst(BURST)),
            Some(("burst", count)) => match count.parse() {
                Ok(count @ 1..=BURST_MAX) => Ok(Arrivals::Burst(count)),
                _ => Err(format!("`{count}` is no burst size; use 1 to {BURST_MAX}")),
            },
            Some(("trace", file)) if !file.is_empty() => Ok(Arrivals::Trace(file.into())),
            _ => {
                Err(format!("unknown arrivals `{text}`; use poisson, constant, burst, burst:N or trace:FILE"))
            }
        }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arrivals::Poisson => f.write_str("poisson"),
            Arrivals::Constant => f.write_str("constant"),
            Arrivals::Burst(count) => write!(f, "burst:{count}"),
            Arrivals::Trace(file) => write!(f, "trace:{}", file.display()),
        }
    }
}

/// Requests per second: constant, or constant at first and then changing linearly to another rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadRate {
    from: f64,
    to: f64,
    /// Seconds at the first rate, and seconds of the change.
    hold: f64,
    over: f64,
}

impl LoadRate {
    /// A constant rate above 0, in requests per second.
    pub fn flat(rate: f64) -> Self {
        LoadRate::ramp(rate, rate, Duration::ZERO, Duration::ZERO)
    }

    /// The first rate for `hold`, then a linear change to the second rate that takes `over`. Both rates
    /// are above 0.
    pub fn ramp(from: f64, to: f64, hold: Duration, over: Duration) -> Self {
        for rate in [from, to] {
            assert!(rate.is_finite() && rate > 0.0, "rate {rate}");
        }
        LoadRate { from, to, hold: hold.as_secs_f64(), over: over.as_secs_f64() }
    }

    /// Mean rate of the change.
    pub fn mean(&self) -> f64 {
        (self.from + self.to) / 2.0
    }

    /// Highest rate.
    pub fn max(&self) -> f64 {
        self.from.max(self.to)
    }

    /// One of `of` equal shares.
    fn share(&self, of: u16) -> LoadRate {
        LoadRate { from: self.from / f64::from(of), to: self.to / f64::from(of), ..*self }
    }

    /// Seconds until this many requests are due: the inverse of the integral of the rate.
    fn time_of(&self, count: f64) -> f64 {
        if self.from == self.to {
            return count / self.from;
        }
        let Some(ramped) = Some(count - self.from * self.hold).filter(|ramped| *ramped > 0.0) else {
            return count / self.from;
        };
        let in_ramp = self.mean() * self.over;
        if ramped >= in_ramp {
            return self.hold + self.over + (ramped - in_ramp) / self.to;
        }
        // from * t + slope / 2 * t^2 = ramped, solved without subtracting nearly equal numbers.
        let slope = (self.to - self.from) / self.over;
        let root = (self.from * self.from + 2.0 * slope * ramped).max(0.0).sqrt();
        self.hold + 2.0 * ramped / (self.from + root)
    }
}

impl fmt::Display for LoadRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to {
            write!(f, "{}", self.from)
        } else {
            write!(f, "{}..{}", self.from, self.to)
        }
    }
}

/// A generator's share of a schedule. All shares together send exactly the schedule of one generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Index of the share, from 0.
    pub index: u16,
    /// Number of shares.
    pub of: u16,
}

impl Share {
    /// The whole schedule.
    pub const WHOLE: Share = Share { index: 0, of: 1 };

    /// This share of `whole` items that are dealt out in turn.
    pub fn part(self, whole: usize) -> usize {
        let of = usize::from(self.of);
        whole / of + usize::from(usize::from(self.index) < whole % of)
    }
}

/// A sequence of moments: endless at a rate, or a trace.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: Instant,
    moments: Moments,
}

#[derive(Clone, Debug)]
enum Moments {
    AtRate {
        rate: LoadRate,
        gaps: Gaps,
        /// Requests due up to and including the next one at the exact rate. Integers are exact up to 2^53.
        count: f64,
        /// Moment of the next request, in nanoseconds after the start. Precise enough for 100 days.
        offset: f64,
    },
    Traced {
        trace: Arc<Trace>,
        next: usize,
        step: usize,
    },
}

#[derive(Clone, Debug)]
enum Gaps {
    Exponential(Rng),
    Equal { burst: u32, left: u32 },
}

impl Schedule {
    /// A Poisson process. The first request is one gap after `start`, so that concurrent schedules do
    /// not all begin with a request.
    pub fn poisson(rate: LoadRate, share: Share, start: Instant, seed: u64) -> Self {
        Self::at(rate.share(share.of), Gaps::Exponential(Rng::new(seed)), 0.0, start)
    }

    /// Bursts of `burst` requests (1: single requests) at equal gaps; the first is half a gap after
    /// `start`, so that a whole number of gaps has that number of bursts. Shares take turns.
    pub fn bursts(rate: LoadRate, burst: u32, share: Share, start: Instant) -> Self {
        let before_first = ((f64::from(share.index) + 0.5) / f64::from(share.of) - 1.0) * f64::from(burst);
        Self::at(rate.share(share.of), Gaps::Equal { burst, left: 0 }, before_first, start)
    }

    /// The requests of a trace, once. Shares take turns.
    pub fn traced(trace: Arc<Trace>, share: Share, start: Instant) -> Self {
        let (next, step) = (share.index.into(), share.of.into());
        Schedule { start, moments: Moments::Traced { trace, next, step } }
    }

    fn at(rate: LoadRate, gaps: Gaps, count: f64, start: Instant) -> Self {
        let mut schedule = Schedule { start, moments: Moments::AtRate { rate, gaps, count, offset: 0.0 } };
        schedule.advance();
        schedule
    }

    /// When the next request should leave; never, after the last one of a trace.
    pub fn next(&self) -> Instant {
        let offset = match &self.moments {
            Moments::AtRate { offset, .. } => *offset as u64,
            Moments::Traced { trace, next, .. } => match trace.at(*next) {
                Some(offset) => offset,
                None => return Instant::from_nanos(u64::MAX),
            },
        };
        Instant::from_nanos(self.start.as_nanos().saturating_add(offset))
    }

    /// Payload size of the next request in bytes, if the trace sets it.
    pub fn next_payload(&self) -> Option<u32> {
        match &self.moments {
            Moments::AtRate { .. } => None,
            Moments::Traced { trace, next, .. } => trace.payload(*next),
        }
    }

    /// Advances to the next request.
    pub fn advance(&mut self) {
        match &mut self.moments {
            Moments::AtRate { rate, gaps, count, offset } => {
                let gap = gaps.next();
                if gap > 0.0 {
                    *count += gap;
                    *offset = rate.time_of(*count) * 1e9;
                }
            }
            Moments::Traced { next, step, .. } => *next += *step,
        }
    }
}

impl Gaps {
    /// The next gap, in mean gaps; 0 within a burst.
    fn next(&mut self) -> f64 {
        match self {
            Gaps::Exponential(rng) => -(1.0 - rng.unit_f64()).ln(),
            Gaps::Equal { left: left @ 1.., .. } => {
                *left -= 1;
                0.0
            }
            Gaps::Equal { burst, left } => {
                *left = *burst - 1;
                f64::from(*burst)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(7);

    fn flat(rate: f64) -> LoadRate {
        LoadRate::flat(rate)
    }

    /// The first moments, in seconds after the start.
    fn moments(mut schedule: Schedule, count: usize) -> Vec<f64> {
        let moment = |schedule: &mut Schedule| {
            let next = schedule.next();
            schedule.advance();
            next.since(START).as_secs_f64()
        };
        (0..count).map(|_| moment(&mut schedule)).collect()
    }

    fn gaps(moments: &[f64]) -> Vec<f64> {
        std::iter::once(&0.0).chain(moments).zip(moments).map(|(before, at)| at - before).collect()
    }

    fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt())
    }

    #[test]
    fn equal_gaps_are_equal_and_do_not_drift() {
        let moments = moments(Schedule::bursts(flat(1000.0), 1, Share::WHOLE, START), 100_000);
        assert!(gaps(&moments)[1..].iter().all(|gap| (gap - 1e-3).abs() <= 2e-9));
        assert_eq!((moments[0], moments.last()), (0.0005, Some(&99.9995)));
    }

    #[test]
    fn a_whole_number_of_gaps_has_as_many_bursts() {
        for (rate, burst, seconds) in [(500.0, 1, 2), (500.0, 10, 2), (1_000.0, 3, 3), (7.0, 1, 1)] {
            let count = (rate * f64::from(seconds)) as usize;
            for of in [1, 3] {
                let until = |index| {
                    let schedule = Schedule::bursts(flat(rate), burst, Share { index, of }, START);
                    let all = moments(schedule, count + 1);
                    all.iter().filter(|at| **at < f64::from(seconds)).count()
                };
                assert_eq!((0..of).map(until).sum::<usize>(), count, "{rate} {burst} {of}");
            }
        }
    }

    #[test]
    fn a_poisson_process_has_gaps_with_the_mean_and_the_deviation_of_an_exponential() {
        let moments = moments(Schedule::poisson(flat(1000.0), Share::WHOLE, START, 3), 100_000);
        let (mean, deviation) = mean_and_deviation(&gaps(&moments));
        assert!((mean - 1e-3).abs() < 2e-5 && (deviation - 1e-3).abs() < 3e-5, "{mean} {deviation}");
    }

    #[test]
    fn a_burst_is_at_once_and_the_mean_rate_stays() {
        let moments = moments(Schedule::bursts(flat(1000.0), 5, Share::WHOLE, START), 15);
        let expected: Vec<f64> = [0.0025, 0.0075, 0.0125].into_iter().flat_map(|at| [at; 5]).collect();
        assert_eq!(moments, expected);
    }

    #[test]
    fn shares_make_up_the_whole() {
        for burst in [1, 4] {
            let mut shared: Vec<f64> = (0..3)
                .flat_map(|index| {
                    moments(Schedule::bursts(flat(900.0), burst, Share { index, of: 3 }, START), 400)
                })
                .collect();
            shared.sort_by(f64::total_cmp);
            let whole = moments(Schedule::bursts(flat(900.0), burst, Share::WHOLE, START), 1200);
            assert!(shared.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 2e-9), "{burst}");
        }
        // The superposition of Poisson processes is a Poisson process at the sum of the rates.
        let mut shared: Vec<f64> = (0..4)
            .flat_map(|index| {
                moments(Schedule::poisson(flat(1000.0), Share { index, of: 4 }, START, index.into()), 25_000)
            })
            .collect();
        shared.sort_by(f64::total_cmp);
        let (mean, deviation) = mean_and_deviation(&gaps(&shared[..90_000]));
        assert!((mean - 1e-3).abs() < 2e-5 && (deviation - 1e-3).abs() < 3e-5, "{mean} {deviation}");
        let parts: Vec<usize> = (0..3).map(|index| Share { index, of: 3 }.part(8)).collect();
        assert_eq!(parts, [3, 3, 2]);
    }

    #[test]
    fn a_ramp_sends_in_each_part_what_the_area_under_it_says() {
        let second = Duration::from_secs(1);
        for (from, to) in [(100.0, 1100.0), (1100.0, 100.0)] {
            let rate = LoadRate::ramp(from, to, 2 * second, 10 * second);
            let moments = moments(Schedule::bursts(rate, 1, Share::WHOLE, START), 20_000);
            let until = |end: f64| moments.iter().filter(|at| **at <= end + 1e-6).count() as f64;
            assert_eq!(until(2.0), 2.0 * from, "held");
            for tenth in 1..=10 {
                let t = f64::from(tenth);
                let area = 2.0 * from + from * t + (to - from) * t * t / 20.0;
                assert!((until(2.0 + t) - area).abs() <= 1.0, "{from}..{to}, {t} s: {}", until(2.0 + t));
            }
            assert!((until(13.0) - until(12.0) - to).abs() <= 1.0, "the rate stays constant after the ramp");
            assert_eq!(rate.mean(), 600.0);
        }
    }

    #[test]
    fn a_trace_is_sent_as_it_is_and_ends() {
        let trace = Arc::new(Trace::parse("0.5 10\n0.5\n2\n").unwrap());
        let mut schedule = Schedule::traced(trace.clone(), Share::WHOLE, START);
        assert_eq!(moments(schedule.clone(), 3), [0.5, 0.5, 2.0]);
        assert_eq!(schedule.next_payload(), Some(10));
        (0..3).for_each(|_| schedule.advance());
        assert_eq!(schedule.next(), Instant::from_nanos(u64::MAX));
        let second = Schedule::traced(trace, Share { index: 1, of: 2 }, START);
        assert_eq!((moments(second.clone(), 1), second.next_payload()), (vec![0.5], None));
    }

    #[test]
    fn a_gap_longer_than_any_clock_is_only_a_long_gap() {
        let schedule = Schedule::poisson(flat(1e-300), Share::WHOLE, Instant::ZERO, 3);
        assert!(schedule.next() > Instant::ZERO + Duration::from_secs(86_400));
    }

    #[test]
    fn a_seed_repeats_its_schedule() {
        let of = |seed| moments(Schedule::poisson(flat(1000.0), Share::WHOLE, START, seed), 100);
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
    }

    #[test]
    fn arrivals_are_read_as_they_are_written() {
        for text in ["poisson", "constant", "burst:7", "trace:some/file:with colon"] {
            assert_eq!(text.parse::<Arrivals>().unwrap().to_string(), text);
        }
        assert_eq!("burst".parse(), Ok(Arrivals::Burst(10)));
        for bad in ["", "uniform", "burst:0", "burst:x", "trace:", "trace", "poisson:1"] {
            assert!(bad.parse::<Arrivals>().is_err(), "{bad}");
        }
    }
}
