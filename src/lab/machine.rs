//! A server: one servant, and one queue for what all balancers send.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::time::Instant;
use crate::role::Role;

/// A server as one balancer knows it.
pub(super) trait End: Role {
    /// Names a request that was taken.
    type Job: Copy;

    /// Requests that it holds, the one in service included.
    fn held(&self) -> usize;

    /// Says how many requests the server holds for other balancers.
    fn set_elsewhere(&mut self, requests: u32);

    /// Takes the oldest waiting request into service, and tells which of the trace it is. `None` if it has given up on all
    /// that waited.
    fn take(&mut self, now: Instant) -> Option<(Self::Job, usize)>;

    /// Ends the service of a request.
    fn finish(&mut self, job: Self::Job, took: Duration);
}

/// A request in service.
#[derive(Clone, Copy, Debug)]
pub(super) struct InService<J> {
    pub end: u32,
    pub job: J,
    pub took: Duration,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Machine<J> {
    /// The ends of waiting requests, in the order of their arrival.
    pub waiting: VecDeque<u32>,
    pub in_service: Option<InService<J>>,
    /// Requests at all ends together.
    pub held: usize,
}

impl<J> Machine<J> {
    pub fn new() -> Self {
        Machine { waiting: VecDeque::new(), in_service: None, held: 0 }
    }

    /// The end whose request is next, if the servant is free.
    pub fn next_end(&mut self) -> Option<u32> {
        if self.in_service.is_some() {
            return None;
        }
        self.waiting.pop_front()
    }
}
