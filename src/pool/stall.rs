//! Event-loop stalls: after a pause of its own process or machine, the balancer cannot conclude anything from
//! the silence of servers. Pure: time is an argument.

use std::time::Duration;

use crate::base::time::Instant;

/// Detects turns that begin too late.
#[derive(Clone, Copy, Debug, Default)]
pub struct StallDetector {
    /// `None` before the first turn: the time until a loop starts is no stall.
    last_turn: Option<Instant>,
}

impl StallDetector {
    /// Continues after a turn of another process.
    pub fn after(last_turn: Instant) -> Self {
        StallDetector { last_turn: Some(last_turn) }
    }

    /// Called once a turn. The time since the last turn, if it is longer than `longest`.
    pub fn on_turn(&mut self, now: Instant, longest: Duration) -> Option<Duration> {
        let last = self.last_turn.replace(now)?;
        Some(now.since(last)).filter(|gap| *gap > longest)
    }

    /// The last turn, if there was one.
    pub fn last_turn(&self) -> Option<Instant> {
        self.last_turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_longer_than_usual_is_a_stall_and_the_start_is_none() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let longest = Duration::from_millis(100);
        let mut stalls = StallDetector::default();
        let gaps = [5_000, 5_100, 5_201, 5_201].map(|ms| stalls.on_turn(at(ms), longest));
        assert_eq!(gaps, [None, None, Some(Duration::from_millis(101)), None]);
        assert_eq!(StallDetector::after(at(1)).on_turn(at(301), longest), Some(Duration::from_millis(300)));
    }
}
