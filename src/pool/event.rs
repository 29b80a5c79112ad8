//! What happens to a pool and belongs in a log: the events of its primary worker, and their bounded queue.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::pool::health::State;

/// Something that an operator wants to read about a pool.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A server joined the pool.
    Joined {
        /// The server's id.
        id: u32,
        /// The server's address.
        addr: SocketAddr,
    },
    /// A server's state changed.
    State {
        /// The server's id.
        id: u32,
        /// The server's address.
        addr: SocketAddr,
        /// The new state.
        state: State,
        /// Why the state changed.
        reason: Cow<'static, str>,
    },
    /// A server left its slot.
    Left {
        /// The server's id.
        id: u32,
        /// The server's address.
        addr: SocketAddr,
        /// Why the server left.
        reason: &'static str,
    },
    /// More servers than `down_max` are down or held: the pool uses all of them (true), or no longer (false).
    FailOpen(bool),
    /// Datagram pool: no server answers the health checks, though servers answer queries; so the checks are
    /// ignored (true), or count again (false).
    ChecksIgnored(bool),
    /// The primary's event loop stalled for this time. The pool draws no conclusion from the silence
    /// meanwhile.
    Stalled(Duration),
    /// Native pool: the controller gets a request for more or fewer servers.
    Scale {
        /// What the request is, and the reason, as text.
        what: String,
        /// The load that led to the request.
        load: f64,
        /// Servers that take traffic.
        up: u32,
    },
    /// Native pool: the controller refused a request, or does not answer.
    Controller(String),
    /// Datagram pool: all slots are taken (`servers_max`), so a desired server cannot join.
    NoRoom {
        /// The server's address.
        addr: SocketAddr,
    },
    /// Datagram pool: the pool has no port of a desired server's address family.
    NoPort {
        /// The server's address.
        addr: SocketAddr,
    },
}

/// Events that no loop has fetched yet: at most 256, the oldest go first.
#[derive(Debug)]
pub struct EventQueue(VecDeque<Event>);

impl EventQueue {
    /// The most events in the queue.
    pub const MAX: usize = 256;

    /// Appends an event. A full queue loses its oldest event.
    pub fn push(&mut self, event: Event) {
        if self.0.len() == Self::MAX {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    /// Removes the oldest event.
    pub fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }
}

impl Default for EventQueue {
    fn default() -> Self {
        EventQueue(VecDeque::with_capacity(Self::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_loses_its_oldest_event() {
        let mut queue = EventQueue::default();
        let stalled = |n| Event::Stalled(Duration::from_secs(n));
        (0..EventQueue::MAX as u64 + 1).for_each(|n| queue.push(stalled(n)));
        assert_eq!(queue.pop(), Some(stalled(1)));
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), EventQueue::MAX - 1);
    }
}
