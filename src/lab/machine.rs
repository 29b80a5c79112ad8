//! A server machine: one request in service, and one queue for the requests of all balancers.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::time::Instant;
use crate::role::Role;

/// A server as one balancer knows it.
pub(super) trait ServerEnd: Role {
    /// Identifies a request in service.
    type Job: Copy;

    /// Number of requests that the server holds, the one in service included.
    fn held(&self) -> usize;

    /// Sets the number of requests that the server holds for other balancers.
    fn set_elsewhere(&mut self, requests: u32);

    /// Takes the oldest queued request into service, and returns its number in the trace. `None` if the
    /// server has dropped all queued requests.
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

/// A server machine with one end per balancer; the ends share its queue and its time.
#[derive(Debug)]
pub(super) struct ServerMachine<J> {
    /// Ends of the queued requests, in the order of arrival.
    pub waiting: VecDeque<u32>,
    pub in_service: Option<InService<J>>,
    /// Requests at all ends together.
    pub held: usize,
}

impl<J> ServerMachine<J> {
    pub fn new() -> Self {
        ServerMachine { waiting: VecDeque::new(), in_service: None, held: 0 }
    }

    /// The end of the next request, if no request is in service.
    pub fn next_end(&mut self) -> Option<u32> {
        if self.in_service.is_some() {
            return None;
        }
        self.waiting.pop_front()
    }
}
