//! A limit for repeated log lines.

use std::time::Duration;

use super::time::Instant;

/// The least time between two lines about the same problem.
const PAUSE: Duration = Duration::from_secs(60);

/// Allows one line a minute.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seldom {
    /// `None` before the first line.
    last: Option<Instant>,
}

impl Seldom {
    /// Whether a line may be written now. If so, none may for a minute.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.last.is_none_or(|last| now.since(last) >= PAUSE);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_is_due() {
        let (mut seldom, start) = (Seldom::default(), Instant::from_nanos(5));
        let due = (0..150).filter(|&s| seldom.is_due(start + Duration::from_secs(s))).collect::<Vec<_>>();
        assert_eq!(due, [0, 60, 120]);
    }
}
