//! The open scaling request, which waits for the controller's acknowledgement.

use std::time::Duration;

use crate::base::time::Instant;
use crate::wire::RequestOp;

/// Time to the first repetition. Each later pause is twice as long.
pub(super) const REPEAT_AFTER: Duration = Duration::from_millis(50);
/// The longest pause between repetitions.
pub(super) const REPEAT_MAX: Duration = Duration::from_secs(2);
/// Repetitions after which the controller's silence is reported, once.
pub(super) const REPORT_AFTER: u8 = 6;

/// A scaling request.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScalingRequest {
    pub op: RequestOp,
    /// Grow: desired number of servers. Shrink: id of the server to stop.
    pub target: u32,
    pub number: u64,
    pub load: f64,
    pub up: u32,
    pub attempt: u8,
    pub due: Instant,
    /// Whether the controller has answered with a challenge.
    pub is_challenged: bool,
}

/// The primary's scaling requests. At most one is open; a newer one replaces it.
#[derive(Debug)]
pub(super) struct ScalingRequests {
    pub instance: u64,
    pub next_number: u64,
    /// The controller's nonce; 0 before the controller's first challenge.
    pub cookie: u64,
    pub open: Option<ScalingRequest>,
    /// Servers to stop after the open request's server; the next one is last.
    pub victims: Vec<u32>,
    /// Whether the controller's silence was reported.
    pub silent: bool,
}

impl ScalingRequests {
    pub(super) fn new(instance: u64, seed: u64) -> Self {
        // A random first number, so that a restarted balancer does not repeat earlier numbers.
        ScalingRequests {
            instance,
            next_number: seed >> 1,
            cookie: 0,
            open: None,
            victims: vec![],
            silent: false,
        }
    }

    /// The number of the last request, and the controller's nonce. With them the controller takes a
    /// successor's requests for new ones of the same balancer. The open request is not exported: the
    /// successor's autoscaler decides again.
    pub(super) fn position(&self) -> (u64, u64) {
        (self.next_number, self.cookie)
    }

    /// Continues after the requests of a predecessor.
    pub(super) fn restore(&mut self, (next_number, cookie): (u64, u64)) {
        (self.next_number, self.cookie) = (next_number, cookie);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.open.map(|order| order.due)
    }

    /// Opens a request. Returns false if the same request is open already; its repetition continues.
    pub(super) fn place(&mut self, now: Instant, op: RequestOp, target: u32, load: f64, up: u32) -> bool {
        if self.open.is_some_and(|open| (open.op, open.target) == (op, target)) {
            return false;
        }
        self.next_number += 1;
        let number = self.next_number;
        let (attempt, is_challenged) = (0, false);
        self.open = Some(ScalingRequest { op, target, number, load, up, attempt, due: now, is_challenged });
        true
    }

    /// Drops requests to stop a server that has left.
    pub(super) fn server_left(&mut self, id: u32) {
        self.victims.retain(|&victim| victim != id);
        if self.open.is_some_and(|order| order.op == RequestOp::Shrink && order.target == id) {
            self.open = None;
        }
    }
}
