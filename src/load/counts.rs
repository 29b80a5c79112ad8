//! How many requests there were, and how they ended.

use std::ops::{AddAssign, Sub};

/// Of a run, or of a part of it: `sent = answered + busy + refused + lost` once all have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that the plan had, and that were sent.
    pub planned: u64,
    /// Requests sent.
    pub sent: u64,
    /// Answered in time.
    pub answered: u64,
    /// Not answered before the time-out.
    pub lost: u64,
    /// Answered with BUSY.
    pub busy: u64,
    /// Answered with an error.
    pub refused: u64,
    /// Sent more than [`LATE`](super::LATE) after the planned moment.
    pub late_sends: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As it should.
    Answered,
    /// The system had no room for it.
    Busy,
    /// With an error.
    Refused,
    /// Without a word before the time-out.
    Lost,
}

impl Counts {
    /// Counts an ending.
    pub fn end(&mut self, ending: Ending) {
        *match ending {
            Ending::Answered => &mut self.answered,
            Ending::Busy => &mut self.busy,
            Ending::Refused => &mut self.refused,
            Ending::Lost => &mut self.lost,
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
