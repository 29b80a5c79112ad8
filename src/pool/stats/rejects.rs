//! The newest frames that were rejected because of a mistake of an operator: peers with another frame size,
//! version or key, and servers that cannot register.
//!
//! A worker notes one frame a second at most, on the way of a dropped frame only. So a flood of wrong frames
//! costs no lock each.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use super::Counter;
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;

/// Minimum time between two notes.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// Time for which a peer must be rejected until that counts as a mistake: a restart may cause single frames.
const LASTS_AFTER: Duration = Duration::from_secs(1);
/// Time after the last rejected frame for which the mistake is shown.
const SHOWN_FOR: Duration = Duration::from_secs(60);

/// A peer whose frames are rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Why its frames are dropped.
    pub reason: DropReason,
    /// Its address.
    pub peer: SocketAddr,
    /// The frame size that its frames state, in bytes; 0 if they state none.
    pub their_size: u16,
    /// The frame size of the pool, in bytes.
    pub our_size: u16,
}

#[derive(Clone, Copy, Debug)]
struct Noted {
    reject: Reject,
    first: Instant,
    last: Instant,
}

/// The rejected peer that a worker noted last.
#[derive(Debug, Default)]
pub struct Rejects {
    /// When a frame was noted last, in nanoseconds of the balancer's clock; 0 before the first.
    noted_at: Counter,
    newest: Mutex<Option<Noted>>,
}

impl Rejects {
    /// Notes a dropped frame, if its reason can be a mistake of an operator. Only one thread may call it.
    pub fn note(&self, now: Instant, reject: Reject) {
        use DropReason::{FrameSize, IdTaken, SlotsFull, Tag, Version};
        let last = self.noted_at.get();
        let is_soon = last > 0 && now.since(Instant::from_nanos(last)) < NOTE_EVERY;
        if is_soon || !matches!(reject.reason, FrameSize | IdTaken | SlotsFull | Tag | Version) {
            return;
        }
        let Ok(mut newest) = self.newest.try_lock() else { return }; // a reader copies it now
        self.noted_at.set(now.as_nanos());
        let continued = newest.filter(|old| old.reject == reject && now.since(old.last) < SHOWN_FOR);
        *newest = Some(Noted { reject, first: continued.map_or(now, |old| old.first), last: now });
    }

    /// The peer that is rejected repeatedly; `None` if there was none in the last minute.
    pub fn lasting(&self, now: Instant) -> Option<Reject> {
        let noted = (*self.newest.lock().expect("no panic while it is held"))?;
        let lasts = noted.last.since(noted.first) >= LASTS_AFTER && now.since(noted.last) < SHOWN_FOR;
        lasts.then_some(noted.reject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mistake_that_lasts_is_shown_and_for_a_minute() {
        let rejects = Rejects::default();
        let at = |ms| Instant::from_nanos(1) + Duration::from_millis(ms);
        let reject = |reason, port| Reject {
            reason,
            peer: ([127, 0, 0, 1], port).into(),
            their_size: 512,
            our_size: 256,
        };
        let (size, nonce) = (reject(DropReason::FrameSize, 7), reject(DropReason::Nonce, 7));
        rejects.note(at(0), nonce);
        rejects.note(at(1_500), nonce);
        assert_eq!(rejects.lasting(at(1_600)), None, "a nonce may be old without any mistake");
        rejects.note(at(2_000), size);
        rejects.note(at(2_900), size);
        assert_eq!(rejects.lasting(at(2_950)), None, "one frame");
        rejects.note(at(3_000), size);
        assert_eq!(rejects.lasting(at(3_000)), Some(size));
        assert_eq!((rejects.lasting(at(62_999)), rejects.lasting(at(63_000))), (Some(size), None));
        rejects.note(at(4_000), reject(DropReason::FrameSize, 8));
        assert_eq!(rejects.lasting(at(4_000)), None, "another peer");
    }
}
