//! The scaling request that waits for its acknowledgement.

use std::time::Duration;

use crate::base::time::Instant;
use crate::wire::RequestOp;

/// The first repetition comes after this time, each later one after twice as long.
pub(super) const REPEAT_AFTER: Duration = Duration::from_millis(50);
/// The longest pause between repetitions.
pub(super) const REPEAT_MAX: Duration = Duration::from_secs(2);
/// After so many repetitions the silence is told, once.
pub(super) const TELL_AFTER: u8 = 6;

#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub op: RequestOp,
    pub target: u32,
    pub number: u64,
    pub load: f64,
    pub up: u32,
    pub attempt: u8,
    pub due: Instant,
}

/// The order that waits for its acknowledgement; a newer one replaces it.
#[derive(Debug)]
pub(super) struct Orders {
    pub instance: u64,
    pub next_number: u64,
    /// The controller's nonce, once it has given one.
    pub cookie: u64,
    pub open: Option<Order>,
    /// Servers to be stopped after the one of the open order, the next one last.
    pub victims: Vec<u32>,
    pub silent: bool,
}

impl Orders {
    pub(super) fn new(instance: u64, seed: u64) -> Self {
        // Numbers start anywhere, so that a restarted balancer does not repeat those of the last one.
        Orders { instance, next_number: seed >> 1, cookie: 0, open: None, victims: vec![], silent: false }
    }

    /// What a successor needs so that the controller takes its orders for new ones of the same balancer: the
    /// number of the last one, and the controller's nonce. An open order is not among it: the scaler decides
    /// again.
    pub(super) fn position(&self) -> (u64, u64) {
        (self.next_number, self.cookie)
    }

    /// Goes on after the orders of a predecessor.
    pub(super) fn go_on(&mut self, (next_number, cookie): (u64, u64)) {
        (self.next_number, self.cookie) = (next_number, cookie);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.open.map(|order| order.due)
    }

    /// Opens an order; false if the same one is open already, and goes on being repeated.
    pub(super) fn place(&mut self, now: Instant, op: RequestOp, target: u32, load: f64, up: u32) -> bool {
        if self.open.is_some_and(|open| (open.op, open.target) == (op, target)) {
            return false;
        }
        self.next_number += 1;
        let number = self.next_number;
        self.open = Some(Order { op, target, number, load, up, attempt: 0, due: now });
        true
    }

    /// A server that has left needs no order to stop it.
    pub(super) fn server_left(&mut self, id: u32) {
        self.victims.retain(|&victim| victim != id);
        if self.open.is_some_and(|order| order.op == RequestOp::Shrink && order.target == id) {
            self.open = None;
        }
    }
}
