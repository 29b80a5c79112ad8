//! Numbers of requests and of their outcomes.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Counts of a run or a part of it. When all requests have ended, `sent = answered + busy + refused + lost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Scheduled requests, plus those sent without a schedule; more than `sent` if the generator could not
    /// keep up.
    #[serde(default)]
    pub planned: u64,
    /// Requests sent, each once.
    pub sent: u64,
    /// Requests answered with OK in time.
    pub answered: u64,
    /// Requests without a response before the timeout.
    pub lost: u64,
    /// Requests answered with BUSY (DNS: SERVFAIL).
    pub busy: u64,
    /// Requests answered with an error, or after their deadline at the server.
    pub refused: u64,
    /// Requests that left more than [`Tolerance::late_max_s`](super::Tolerance::late_max_s) after their
    /// scheduled moment.
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
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.planned += other.planned;
        self.sent += other.sent;
        self.answered += other.answered;
        self.lost += other.lost;
        self.busy += other.busy;
        self.refused += other.refused;
        self.late_sends += other.late_sends;
    }
}
