//! How many requests one worker has outstanding at one server, from cumulative counters.
//!
//! ```text
//! outstanding = (sent - seq)          in transit
//!             + (received - done)     at the server
//! lost        = (seq - seq_base) - received      signed: duplicates make it negative
//! ```
//!
//! The counters are cumulative and the reports numbered, so lost, repeated or reordered reports do no
//! harm. A SYNC that raises `seq` to `sent` reveals a lost *last* request. A simple counter (+1 per
//! request, -1 per reply) would stay wrong after a single loss. Pure: no clock, no sockets.

use serde::{Deserialize, Serialize};

/// The counters that a server reports about the traffic of one worker, all modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Number of the report; newer reports have higher numbers.
    pub report: u32,
    /// Highest dispatch sequence number seen in a request or a SYNC.
    pub seq: u32,
    /// Valid requests read.
    pub received: u32,
    /// Requests finished, regardless of their status.
    pub done: u32,
}

/// One worker's estimate of its outstanding requests at one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    sent: u32,
    seq_base: u32,
    counters: Counters,
    /// This estimate's contribution to the length in the selection tree.
    published: u32,
}

/// Maximum of outstanding requests. Replies to older dispatches are refused anyway
/// ([`crate::wire::DispatchWindow`]), and a faulty server's claims stay within what the tree can hold.
pub const OUTSTANDING_MAX: u32 = 1 << 16;

/// The difference `a - b` of two counters; `None` if `a` is behind `b`.
fn ahead(a: u32, b: u32) -> Option<u32> {
    let difference = a.wrapping_sub(b);
    (difference < 1 << 31).then_some(difference)
}

impl Estimate {
    /// Starts a new registration: the server counts from here on, and has no request of this worker.
    pub fn rebase(&mut self, sent: u32) {
        self.sent = sent;
        self.seq_base = sent;
        self.counters = Counters { report: 0, seq: sent, received: 0, done: 0 };
    }

    /// Counts a request that was sent; `reserve` has already added it to the tree.
    pub fn on_dispatch(&mut self, sent: u32) {
        self.sent = sent;
        self.published += 1;
    }

    /// Takes a newer report and returns the number of requests finished since the last one. An older
    /// report returns `None` and has no effect. So does an impossible one (more seen than sent, more
    /// finished than read). A faulty server can still look idle by claims that are possible;
    /// [`crate::pool::outlier`] judges those by their replies.
    pub fn apply(&mut self, new: Counters) -> Option<u32> {
        let newer = ahead(new.report, self.counters.report).is_some_and(|by| by > 0);
        if !newer {
            return None;
        }
        ahead(self.sent, new.seq)?;
        ahead(new.seq, self.counters.seq)?;
        ahead(new.received, self.counters.received)?;
        ahead(new.received, new.done)?;
        let finished = ahead(new.done, self.counters.done)?;
        self.counters = new;
        Some(finished)
    }

    /// Requests in transit: sent and not yet seen by the server, or lost behind the last one seen.
    pub fn in_transit(&self) -> u32 {
        self.sent.wrapping_sub(self.counters.seq)
    }

    /// Requests of this worker that are in transit or at the server. At most [`OUTSTANDING_MAX`].
    pub fn outstanding(&self) -> u32 {
        let at_server = self.counters.received.wrapping_sub(self.counters.done);
        self.in_transit().saturating_add(at_server).min(OUTSTANDING_MAX)
    }

    /// Requests known to be lost in transit, minus duplicates.
    pub fn lost(&self) -> i32 {
        let seen = self.counters.seq.wrapping_sub(self.seq_base);
        seen.wrapping_sub(self.counters.received) as i32
    }

    /// Panics, with the numbers, unless the server's counters are possible: it has seen at most what was
    /// sent, and finished at most what it read.
    pub fn check_invariants(&self) {
        let Estimate { sent, counters: Counters { seq, received, done, .. }, published, .. } = *self;
        assert!(ahead(sent, seq).is_some(), "the server has seen dispatch {seq}, and {sent} were sent");
        assert!(ahead(received, done).is_some(), "the server has finished {done} of {received} requests");
        let most = OUTSTANDING_MAX.max(published);
        assert!(self.outstanding() <= most, "{} outstanding, {most} at most", self.outstanding());
    }

    /// This estimate's contribution to the length in the tree.
    pub fn published(&self) -> u32 {
        self.published
    }

    /// Publishes the present number: returns the change that the caller must apply to the tree.
    pub fn publish(&mut self) -> i32 {
        let outstanding = self.outstanding();
        let delta = outstanding as i32 - self.published as i32;
        self.published = outstanding;
        delta
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counters(report: u32, seq: u32, received: u32, done: u32) -> Counters {
        Counters { report, seq, received, done }
    }

    #[test]
    fn a_reply_lowers_the_count_to_the_true_number() {
        let mut e = Estimate::default();
        e.rebase(0);
        for sent in 1..=3 {
            e.on_dispatch(sent);
        }
        assert_eq!(e.outstanding(), 3);
        assert_eq!(e.apply(counters(1, 2, 2, 1)), Some(1));
        assert_eq!((e.in_transit(), e.outstanding()), (1, 2));
        assert_eq!(e.publish(), -1);
        assert_eq!(e.publish(), 0);
    }

    #[test]
    fn a_lost_request_is_known_as_soon_as_a_later_one_is_seen() {
        let mut e = Estimate::default();
        e.rebase(10);
        e.on_dispatch(11);
        e.on_dispatch(12);
        assert!(e.apply(counters(1, 12, 1, 1)).is_some());
        assert_eq!((e.outstanding(), e.lost()), (0, 1));
    }

    #[test]
    fn a_duplicated_request_makes_the_loss_negative_and_nothing_else() {
        let mut e = Estimate::default();
        e.rebase(0);
        e.on_dispatch(1);
        assert!(e.apply(counters(1, 1, 2, 2)).is_some());
        assert_eq!((e.outstanding(), e.lost()), (0, -1));
    }

    #[test]
    fn an_older_or_impossible_report_changes_nothing() {
        let mut e = Estimate::default();
        e.rebase(0);
        for sent in 1..=5 {
            e.on_dispatch(sent);
        }
        assert!(e.apply(counters(7, 4, 4, 2)).is_some());
        for bad in [
            counters(7, 5, 5, 5), // the same report number
            counters(6, 5, 5, 5), // an older one
            counters(8, 6, 5, 5), // has seen what was never sent
            counters(8, 5, 4, 5), // finished more than it read
            counters(8, 3, 4, 2), // counts backwards
        ] {
            assert_eq!(e.apply(bad), None, "{bad:?}");
            assert_eq!(e.outstanding(), 3);
        }
    }

    #[test]
    fn counters_run_through_the_wrap() {
        let mut e = Estimate::default();
        e.rebase(u32::MAX);
        e.on_dispatch(0);
        e.on_dispatch(1);
        assert!(e.apply(counters(1, 0, 1, 0)).is_some());
        assert_eq!((e.outstanding(), e.lost()), (2, 0));
        assert!(e.apply(counters(2, 1, 2, 2)).is_some());
        assert_eq!(e.outstanding(), 0);
    }

    /// A server behind a network that loses, duplicates and reorders; the oracle is the true state.
    #[derive(Default)]
    struct World {
        in_transit: Vec<u32>,
        seq: u32,
        received: u32,
        done: u32,
        reports: Vec<Counters>,
        report: u32,
    }

    proptest! {
        #[test]
        fn at_rest_it_is_exact_regardless_of_losses(
            ops in prop::collection::vec((0u8..7, any::<prop::sample::Index>()), 1..300),
        ) {
            let (mut e, mut w, mut sent) = (Estimate::default(), World::default(), 0u32);
            e.rebase(0);
            let mut tree = 0i64;
            for (op, index) in ops {
                match op {
                    0 => { sent += 1; e.on_dispatch(sent); tree += 1; w.in_transit.push(sent); }
                    1 if !w.in_transit.is_empty() => { // one arrives, in any order
                        let seq = w.in_transit.remove(index.index(w.in_transit.len()));
                        w.seq = w.seq.max(seq);
                        w.received += 1;
                    }
                    2 if !w.in_transit.is_empty() => { w.in_transit.remove(index.index(w.in_transit.len())); }
                    3 if !w.in_transit.is_empty() => { // duplicated
                        let seq = w.in_transit[index.index(w.in_transit.len())];
                        w.seq = w.seq.max(seq);
                        w.received += 1;
                    }
                    4 if w.done < w.received => w.done += 1,
                    5 => {
                        w.report += 1;
                        w.reports.push(counters(w.report, w.seq, w.received, w.done));
                    }
                    6 if !w.reports.is_empty() => { // any report arrives, perhaps again
                        e.apply(w.reports[index.index(w.reports.len())]);
                    }
                    _ => {}
                }
                e.check_invariants();
                tree += i64::from(e.publish());
                prop_assert_eq!(tree, i64::from(e.outstanding()));
            }
            // Rest: the network is empty, the server idle, one SYNC and its report come through.
            w.seq = w.seq.max(sent);
            w.done = w.received;
            prop_assert!(e.apply(counters(w.report + 1, w.seq, w.received, w.done)).is_some());
            tree += i64::from(e.publish());
            prop_assert_eq!((e.outstanding(), tree), (0, 0));
        }
    }
}
