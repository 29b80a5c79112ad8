//! Numbers of requests and of their outcomes.

use std::ops::{AddAssign, Sub};

/// Counts of a run or a part of it. When all requests have ended, `sent = answered + busy + refused +
/// lost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that the schedule contained, plus those sent without a schedule.
    pub planned: u64,
    /// Requests sent.
    pub sent: u64,
    /// Requests answered in time.
    pub answered: u64,
    /// Requests without a response before the timeout.
    pub lost: u64,
    /// Requests answered with BUSY.
    pub busy: u64,
    /// Requests answered with an error.
    pub refused: u64,
    /// Requests sent more than [`LATE`](super::LATE) after their scheduled moment.
    pub late_sends: u64,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// A normal response.
    Answered,
    /// BUSY: the system had no capacity for the request.
    Busy,
    /// An error response.
    Refused,
    /// No response before the timeout.
    Lost,
}

impl Counts {
    /// Counts an outcome.
    pub fn end(&mut self, ending: RequestEnd) {
        *match ending {
            RequestEnd::Answered => &mut self.answered,
            RequestEnd::Busy => &mut self.busy,
            RequestEnd::Refused => &mut self.refused,
            RequestEnd::Lost => &mut self.lost,
        } += 1;
    }

    fn each(&mut self) -> [&mut u64; 7] {
        let Counts { planned, sent, answered, lost, busy, refused, late_sends } = self;
        [planned, sent, answered, lost, busy, refused, late_sends]
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, mut other: Counts) {
        self.each().into_iter().zip(other.each()).for_each(|(sum, part)| *sum += *part);
    }
}

impl Sub for Counts {
    type Output = Counts;
    fn sub(mut self, mut other: Counts) -> Counts {
        self.each().into_iter().zip(other.each()).for_each(|(whole, part)| *whole -= *part);
        self
    }
}
